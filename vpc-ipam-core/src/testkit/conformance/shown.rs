//! How EC2 should show the ENIs of a run by now, and how the executor shows them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::Debug;
use core::time::Duration;

use super::guard::longer;
use super::suite::{PATIENCE, Suite};
use crate::{EniId, ObservedEni, Scope};

/// One thing that is shown otherwise than it should be.
struct Difference {
    list: &'static str,
    eni: EniId,
    field: &'static str,
    text: String,
}

impl Suite<'_> {
    /// Checks that something was done, and that EC2 shows every ENI of the run, and the primary one, as it should be
    /// after that, in each list that may name it. What is shown late is asked for again.
    pub(super) fn check_shown(&mut self, name: &'static str, done: Result<(), String>) {
        if done.is_err() {
            self.check(name, done);
            return;
        }
        let mut wait = Duration::from_secs(1);
        let mut differences = self.differences();
        for _ in 1..PATIENCE {
            if differences.is_empty() {
                break;
            }
            self.wait(wait);
            wait = longer(wait);
            differences = self.differences();
        }
        // Most differences are the same in two lists.
        let mut texts: Vec<&str> = Vec::new();
        for text in differences.iter().map(|it| it.text.as_str()) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let seen = texts.join("; ");
        self.check(name, if texts.is_empty() { Ok(()) } else { Err(seen) });
        self.reported.extend(differences.iter().map(|it| (it.list, it.eni, it.field)));
    }

    /// Returns what differs in the three lists, but for what was reported.
    fn differences(&mut self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let ids: Vec<EniId> = self.expected.keys().copied().collect();
        let own = self.node.instance;
        let attached = |eni: &ObservedEni| eni.attachment.is_some();
        let left = |eni: &ObservedEni| {
            let owner = eni.tags.as_ref().and_then(|tags| tags.get(Scope::INSTANCE_TAG));
            eni.attachment.is_none() && owner.map(String::as_str) == Some(own.as_str())
        };
        let by_id: BTreeSet<EniId> = self.expected.keys().copied().collect();
        let attached = self.ids(attached, &self.attached_before);
        let unattached = self.ids(left, &self.unattached_before);
        for (list, scope, should) in [
            ("by id", Scope::Only(ids), by_id),
            ("attached", Scope::Attached, attached),
            ("unattached", Scope::Unattached, unattached),
        ] {
            match self.list(&scope) {
                Ok(shown) => differences.extend(self.compare(list, &shown, &should)),
                Err(text) => {
                    let eni = self.node.primary;
                    differences.push(Difference { list, eni, field: "answer", text });
                }
            }
        }
        differences.retain(|it| !self.reported.contains(&(it.list, it.eni, it.field)));
        differences
    }

    /// Returns the ENIs that a list should name: those of the run for which a condition holds, and those of before.
    fn ids(
        &self,
        belongs: impl Fn(&ObservedEni) -> bool,
        before: &BTreeSet<EniId>,
    ) -> BTreeSet<EniId> {
        let ours = self.expected.values().filter(|eni| belongs(eni)).map(|eni| eni.id);
        ours.chain(before.iter().copied()).collect()
    }

    fn compare(
        &self,
        list: &'static str,
        shown: &[ObservedEni],
        should: &BTreeSet<EniId>,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        let ids: BTreeSet<EniId> = shown.iter().map(|eni| eni.id).collect();
        for eni in should.difference(&ids).copied() {
            let text = format!("{eni}: expected in the list of ENIs {list}, saw it missing");
            differences.push(Difference { list, eni, field: "listed", text });
        }
        for eni in ids.difference(should).copied() {
            let text = format!("{eni}: expected not in the list of ENIs {list}, saw it there");
            differences.push(Difference { list, eni, field: "listed", text });
        }
        for eni in shown {
            let Some(expected) = self.expected.get(&eni.id) else { continue };
            for (field, text) in fields(expected, eni) {
                let text = format!("{}: {field}: {text}", eni.id);
                differences.push(Difference { list, eni: eni.id, field, text });
            }
        }
        differences
    }
}

/// Returns each field in which an ENI differs, with what was expected beside what was seen.
pub(super) fn fields(expected: &ObservedEni, seen: &ObservedEni) -> Vec<(&'static str, String)> {
    let mut different = Vec::new();
    let mut field = |name, expected: &dyn Debug, seen: &dyn Debug| {
        let (expected, seen) = (format!("{expected:?}"), format!("{seen:?}"));
        if expected != seen {
            different.push((name, format!("expected {expected}, saw {seen}")));
        }
    };
    field("id", &expected.id, &seen.id);
    field("MAC address", &expected.mac, &seen.mac);
    field("subnet", &expected.subnet, &seen.subnet);
    field("VPC", &expected.vpc, &seen.vpc);
    field("kind", &expected.interface_type, &seen.interface_type);
    field("own IPv4 address", &expected.primary_ipv4, &seen.primary_ipv4);
    field("own IPv6 address", &expected.primary_ipv6, &seen.primary_ipv6);
    field("blocks", &sorted(&expected.blocks), &sorted(&seen.blocks));
    let groups = (sorted(&expected.security_groups), sorted(&seen.security_groups));
    field("security groups", &groups.0, &groups.1);
    field("tags", &own_tags(expected), &own_tags(seen));
    let attachments = (&expected.attachment, &seen.attachment);
    if let (Some(expected), Some(seen)) = attachments {
        field("attachment", &expected.id, &seen.id);
        field("instance", &expected.instance, &seen.instance);
        field("network card", &expected.card, &seen.card);
        field("device index", &expected.device, &seen.device);
        field("status", &expected.status, &seen.status);
        let going = (expected.delete_on_termination, seen.delete_on_termination);
        field("delete on termination", &going.0, &going.1);
    } else {
        field("attachment", attachments.0, attachments.1);
    }
    different
}

/// Returns the tags that a user can set: AWS adds some of its own, whose keys begin with `aws:`.
fn own_tags(eni: &ObservedEni) -> Option<BTreeMap<String, String>> {
    let own = |(key, _): &(&String, &String)| !key.starts_with("aws:");
    let tags = eni.tags.as_ref()?.iter().filter(own);
    Some(tags.map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

fn sorted<T: Ord + Clone>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort();
    items
}
