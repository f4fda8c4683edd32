use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

use ipnet::IpNet;

use super::answer::holds;
use super::guard::longer;
use super::suite::{PATIENCE, STEP_TAG, Suite};
use crate::{
    CreateNetworkInterface, Ec2Action, Effect, EniId, FailureKind, InterfaceType, Ipv4Amount,
    ObservedEni, Outcome, Scope,
};

/// How many ENIs lists have to name: more than two of EC2's smallest pages, which hold five.
const ENIS: usize = 12;

/// ENIs that are made: all that is asked for is there, and a list names each of them.
impl Suite<'_> {
    /// Makes the ENIs of the run, and returns the one that lives on: with addresses, and attached to nothing.
    pub(super) fn creations(&mut self) -> Option<EniId> {
        const MADE: &str = "an ENI is made with all that was asked for, and attached to nothing";
        let free = self.own_subnet().map(|subnet| subnet.ipv4_addresses_free);
        let mut request = self.creation();
        request.ipv4 = Ipv4Amount::Addresses(2.min(self.limits.ipv4_slots()));
        request.ipv6_prefixes = u16::from(self.has_ipv6());
        let eni = self.make(MADE, &request)?;
        self.check_shown(
            "an ENI that was made is shown as it was made, wherever it belongs",
            Ok(()),
        );
        self.token(&request, eni);
        self.prefix_at_creation();
        self.of_another_instance();
        self.many();
        self.free_addresses(free);
        Some(eni)
    }

    /// Makes an ENI, checks that it is as it was asked for, and expects it from then on.
    fn make(&mut self, name: &'static str, request: &CreateNetworkInterface) -> Option<EniId> {
        match self.create(request) {
            Ok(eni) => {
                let right = self.is_as_asked(request, &eni);
                self.check(name, right);
                let new = self.made.contains(&eni.id) && !self.expected.contains_key(&eni.id);
                let id = eni.id;
                new.then(|| self.expected.insert(id, eni))?;
                Some(id)
            }
            Err(seen) => {
                self.not_done(name, seen);
                None
            }
        }
    }

    fn create(&mut self, request: &CreateNetworkInterface) -> Result<ObservedEni, String> {
        let action = Ec2Action::CreateNetworkInterface(request.clone());
        match self.call(&action) {
            Outcome::Done(Effect::Created(eni)) => Ok(eni),
            Outcome::Done(effect) => Err(format!("expected the ENI that was made, saw {effect:?}")),
            Outcome::Failed(failure) => {
                if failure.kind == FailureKind::Unanswered {
                    // It may have been made: the same token says which ENI it is, so that it is deleted in the end.
                    let _ = self.call(&action);
                    self.failed = Some(failure.kind);
                }
                Err(format!("{action}: expected that it is done, saw \"{failure}\""))
            }
        }
    }

    /// Checks that an ENI is new, and has what was asked for.
    fn is_as_asked(
        &mut self,
        request: &CreateNetworkInterface,
        eni: &ObservedEni,
    ) -> Result<(), String> {
        let id = eni.id;
        holds(self.made.contains(&id) && !self.expected.contains_key(&id), || {
            format!("expected a new ENI, saw {id}, which was there before")
        })?;
        let lengths = |length| {
            eni.blocks.iter().filter(|net| length == (net.prefix_len(), net_is_ipv4(net))).count()
        };
        let seen = (lengths((32, true)), lengths((28, true)), lengths((80, false)));
        let (addresses, prefixes) = match request.ipv4 {
            Ipv4Amount::Addresses(count) => (usize::from(count), 0),
            Ipv4Amount::Prefixes(count) => (0, usize::from(count)),
        };
        let expected = (addresses, prefixes, usize::from(request.ipv6_prefixes));
        holds(seen == expected && eni.blocks.len() == addresses + prefixes + expected.2, || {
            let expected = format!("expected (/32, /28, /80) {expected:?}");
            format!("{id}: {expected}, saw {seen:?}: {:?}", eni.blocks)
        })?;
        let place = (eni.subnet, eni.vpc, eni.interface_type);
        let expected = (request.subnet, Some(self.node.vpc), InterfaceType::Interface);
        holds(place == expected, || format!("{id}: expected {expected:?}, saw {place:?}"))?;
        holds(eni.attachment.is_none(), || {
            format!("{id}: expected no attachment, saw {:?}", eni.attachment)
        })?;
        let (mut groups, mut asked) =
            (eni.security_groups.clone(), request.security_groups.clone());
        groups.sort();
        asked.sort();
        holds(asked.is_empty() || groups == asked, || {
            format!("{id}: expected the security groups {asked:?}, saw {groups:?}")
        })?;
        let tags = eni.tags.clone().unwrap_or_default();
        let set = |(key, value): (&String, &String)| tags.get(key) == Some(value);
        let more = tags.keys().filter(|key| !key.starts_with("aws:")).count() > request.tags.len();
        holds(request.tags.iter().all(set) && !more, || {
            format!("{id}: expected the tags {:?}, saw {tags:?}", request.tags)
        })?;
        let range = self.own_subnet()?;
        let inside = |net: &IpNet| match (net, range.ipv6_cidr) {
            (IpNet::V4(net), _) => range.ipv4_cidr.contains(net),
            (IpNet::V6(net), Some(range)) => range.contains(net),
            (IpNet::V6(_), None) => false,
        };
        let own = eni.primary_ipv4.is_some_and(|own| range.ipv4_cidr.contains(&own));
        holds(own && eni.blocks.iter().all(inside), || {
            let seen = (eni.primary_ipv4, &eni.blocks);
            format!(
                "{id}: expected addresses of {} and {:?}, saw {seen:?}",
                range.ipv4_cidr, range.ipv6_cidr
            )
        })
    }

    /// What a client token promises, and with it whether each part of the request arrives: EC2 refuses a token that was
    /// used before for anything else.
    fn token(&mut self, request: &CreateNetworkInterface, first: EniId) {
        const AGAIN: &str = "the same creation again returns the same ENI";
        let again = self.create(request);
        let same = again.and_then(|again| {
            holds(again.id == first, || format!("expected {first}, saw {}", again.id))
        });
        let heeded = same.is_ok();
        self.check_shown(AGAIN, same);
        for (name, other) in variants(request) {
            if !heeded {
                self.not_applicable(name, "the client token is not heeded");
                continue;
            }
            let action = Ec2Action::CreateNetworkInterface(other);
            let refused = self.refused(&action, &[FailureKind::Rejected]);
            self.check(
                name,
                refused.map_err(|seen| format!("{seen}; that part of the call is not sent")),
            );
        }
    }

    fn prefix_at_creation(&mut self) {
        const PREFIX: &str = "an ENI is made with a prefix";
        if !self.limits.prefixes() || self.limits.ipv4_slots() == 0 {
            self.not_applicable(PREFIX, "the type takes no prefix");
            return;
        }
        let mut request = self.creation();
        request.ipv4 = Ipv4Amount::Prefixes(1);
        self.make(PREFIX, &request);
    }

    fn of_another_instance(&mut self) {
        let mut request = self.creation();
        request.tags.insert(Scope::INSTANCE_TAG.to_string(), "i-00000000000000000".to_string());
        const OTHERS: &str =
            "an ENI that was made for another instance is not listed as left by this one";
        match self.create(&request) {
            Ok(eni) => {
                self.expected.insert(eni.id, eni);
                self.check_shown(OTHERS, Ok(()));
            }
            Err(seen) => self.not_done(OTHERS, seen),
        }
    }

    fn many(&mut self) {
        const WHOLE: &str = "a list of more ENIs than one page holds is read to its end";
        while self.made.len() < ENIS {
            let (before, request) = (self.made.len(), self.creation());
            let made = self.create(&request);
            match made {
                Ok(eni) if self.made.len() > before => {
                    self.expected.insert(eni.id, eni);
                }
                Ok(eni) => {
                    self.check(WHOLE, Err(format!("expected a new ENI, saw {} again", eni.id)));
                    return;
                }
                Err(seen) => {
                    self.not_done(WHOLE, format!("it takes {ENIS} ENIs: {seen}"));
                    return;
                }
            }
        }
        self.check_shown(WHOLE, Ok(()));
    }

    /// Checks that the subnet has as many free addresses less as were taken since it had `before`.
    fn free_addresses(&mut self, before: Result<u32, String>) {
        const FREE: &str = "the free addresses of a subnet become fewer by those that were taken";
        let node = self.node.primary;
        let ours = self.expected.values().filter(|eni| eni.id != node);
        let taken: u32 = ours.map(addresses_of).sum();
        let mut wait = Duration::from_secs(1);
        let mut verdict = Ok(());
        for _ in 0..PATIENCE {
            verdict = before.clone().and_then(|before| {
                let free = self.own_subnet()?.ipv4_addresses_free;
                let expected = before.saturating_sub(taken);
                let text = || format!("expected {before} - {taken} = {expected}, saw {free}");
                holds(free == expected && taken <= before, text)
            });
            if verdict.is_ok() {
                break;
            }
            self.wait(wait);
            wait = longer(wait);
        }
        self.check(FREE, verdict);
    }
}

/// Returns how many addresses of its subnet an ENI takes.
fn addresses_of(eni: &ObservedEni) -> u32 {
    let blocks = eni.blocks.iter().map(|net| match net {
        IpNet::V4(net) => 1_u32 << (32 - net.prefix_len()).min(4),
        IpNet::V6(_) => 0,
    });
    u32::from(eni.primary_ipv4.is_some()) + blocks.sum::<u32>()
}

/// Returns requests with the same client token, each of which differs in one part, and what each shows.
fn variants(request: &CreateNetworkInterface) -> Vec<(&'static str, CreateNetworkInterface)> {
    let groups = if request.security_groups.is_empty() {
        ["sg-00000000000000000".parse().expect("the text is an id")].into()
    } else {
        Vec::new()
    };
    let mut tags = request.tags.clone();
    tags.insert(STEP_TAG.to_string(), "another".to_string());
    let mut ipv4 = request.clone();
    ipv4.ipv4 = match request.ipv4 {
        Ipv4Amount::Addresses(count) => Ipv4Amount::Addresses(count + 1),
        Ipv4Amount::Prefixes(count) => Ipv4Amount::Prefixes(count + 1),
    };
    let description = "another description".to_string();
    [
        (
            "a used client token is refused with another description",
            CreateNetworkInterface { description, ..request.clone() },
        ),
        (
            "a used client token is refused with other security groups",
            CreateNetworkInterface { security_groups: groups, ..request.clone() },
        ),
        (
            "a used client token is refused with other tags",
            CreateNetworkInterface { tags, ..request.clone() },
        ),
        ("a used client token is refused with another number of addresses", ipv4),
    ]
    .into()
}

fn net_is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
