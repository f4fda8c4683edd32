//! The checkpoint with which amazon-vpc-cni-k8s goes on: what pods have by the records of vpc-ipamd.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::{Card, Lease, PodKey, error_chain};
use vpc_ipam_linux::{HandBack, Namespace};
use vpc_ipam_protocol::pending_release;

use super::leases::leases;
use super::progress::warn;
use super::running::RunningPods;
use super::step::StepError;
use super::{Checkpoint, CheckpointEntry, Paths};

/// What becomes of the leases of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Export {
    /// The entries, one for each lease, and those of before of which vpc-ipamd has no lease and whose pods run.
    pub(crate) checkpoint: Checkpoint,
    /// Pods of which amazon-vpc-cni-k8s would hand out addresses again, each in words.
    pub(crate) refused: Vec<String>,
}

/// Finds out what is to be written on this node, and what its checkpoint has.
pub(crate) fn find(paths: &Paths) -> Result<(Export, Checkpoint), StepError> {
    let leases = leases(paths)?;
    let before = Checkpoint::read(&paths.at(&paths.checkpoint))?;
    let pending_release::Found { releases, ignored } = pending_release::read(&paths.socket);
    ignored.into_iter().for_each(|ignored| warn(error_chain(&ignored)));
    let deleted = releases.into_iter().map(|(_, release)| release.key).collect();
    let mut netlink = Namespace::current()?.netlink()?;
    let routed = HandBack::find(&mut netlink)?.pods;
    let running = RunningPods::addresses(&mut netlink)?;
    Ok((export(&leases, &deleted, &before, &routed, &running), before))
}

/// Writes leases as entries.
///
/// `deleted` are pods that were deleted while no daemon ran; `before` is the checkpoint on the node, of which entries stay that no lease knows while
/// their pods run: `routed` are the addresses to which routes lead. `running` are those of them that are addresses of pods: each that is in no entry
/// is refused, since it would be handed out again.
fn export(
    leases: &[Lease],
    deleted: &BTreeSet<PodKey>,
    before: &Checkpoint,
    routed: &BTreeSet<IpAddr>,
    running: &BTreeSet<IpAddr>,
) -> Export {
    let mut export = Export::default();
    let gone = leases.iter().filter(|lease| deleted.contains(&lease.key));
    let mut known: BTreeSet<IpAddr> = gone.flat_map(Lease::addresses).collect();
    let of_further_cards = before.entries.iter().filter(|entry| entry.card != 0);
    known.extend(of_further_cards.flat_map(CheckpointEntry::addresses));
    let live = leases.iter().filter(|lease| !deleted.contains(&lease.key));
    let mut taken = BTreeSet::new();
    for lease in live {
        taken.extend(lease.addresses());
        export.refused.extend(refusal(lease, before));
        export.checkpoint.entries.push(entry(lease));
    }
    let keys: BTreeSet<&PodKey> = deleted.iter().collect();
    for entry in &before.entries {
        let key = PodKey::new(&entry.network, &entry.container, &entry.ifname);
        let is_deleted = key.is_ok_and(|key| keys.contains(&key));
        let runs = entry.addresses().all(|it| routed.contains(&it) && !taken.contains(&it));
        if entry.card == 0 && runs && !is_deleted {
            taken.extend(entry.addresses());
            export.checkpoint.entries.push(entry.clone());
        }
    }
    known.extend(taken);
    export.refused.extend(running.difference(&known).map(|address| {
        format!(
            "{address} is the address of a pod that runs (ip route show {address} names its link), of which there is neither a lease nor an entry: \
             amazon-vpc-cni-k8s would hand it out again. Delete the pod first"
        )
    }));
    export
}

fn entry(lease: &Lease) -> CheckpointEntry {
    let Lease { key, pod, first, .. } = lease;
    let text = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
    // Without a name of the runtime's it is the container's id.
    let is_named = pod.name != key.container();
    CheckpointEntry {
        network: key.network().to_owned(),
        container: key.container().to_owned(),
        ifname: key.ifname().to_owned(),
        ipv4: first.ipv4,
        ipv6: first.ipv6,
        since: lease.since,
        namespace: text(&pod.namespace).filter(|_| is_named),
        pod: text(&pod.name).filter(|_| is_named),
        interfaces: u32::try_from(lease.interfaces().count()).ok(),
        card: 0,
    }
}

/// Returns why a pod cannot be one of amazon-vpc-cni-k8s.
fn refusal(lease: &Lease, before: &Checkpoint) -> Option<String> {
    let Lease { key, pod, .. } = lease;
    let named = format!("pod {}/{} ({key})", pod.namespace, pod.name);
    if lease.addresses_only {
        return Some(format!(
            "{named} has its links from another plugin: amazon-vpc-cni-k8s releases an address without a link of its own. Delete the pod first"
        ));
    }
    let is_known = |address: IpAddr, card: Card| {
        let mut entries = before.entries.iter();
        entries.any(|it| it.card == card.0 && it.addresses().any(|known| known == address))
    };
    let mut further =
        lease.more.iter().flat_map(|it| it.addresses().map(|address| (address, it.card)));
    let unknown = further.find(|(address, card)| !is_known(*address, *card));
    let unknown = unknown.or_else(|| {
        let first = (lease.first.addresses().next()?, lease.first.card);
        (first.1 != Card(0) && !is_known(first.0, first.1)).then_some(first)
    });
    unknown.map(|(address, Card(card))| {
        format!(
            "{named} has {address} on network card {card}, of which amazon-vpc-cni-k8s has a file of its own that is never written: delete the pod first"
        )
    })
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{DeviceIndex, LeasedInterface, Mac, Pod, Timestamp};

    use super::*;

    fn lease(container: &str, address: [u8; 4]) -> Lease {
        let key = PodKey::new("aws-cni", container, "eth0").unwrap();
        let first = LeasedInterface::new(
            "eni-1".parse().unwrap(),
            Mac([2, 0, 0, 0, 0, 1]),
            Card(0),
            DeviceIndex(1),
        );
        let first = first.with_ipv4(Some(address.into()));
        Lease::new(key, Pod::new("default", "web"), Timestamp::from_secs(7), first)
    }

    fn old_entry(container: &str, address: [u8; 4], card: u8) -> CheckpointEntry {
        CheckpointEntry { card, ..entry(&lease(container, address)) }
    }

    fn containers(export: &Export) -> Vec<&str> {
        export.checkpoint.entries.iter().map(|entry| entry.container.as_str()).collect()
    }

    #[test]
    fn each_lease_is_an_entry_and_deleted_pods_are_none() {
        let leases = [lease("a", [10, 0, 0, 5]), lease("b", [10, 0, 0, 6])];
        let deleted = BTreeSet::from([leases[1].key.clone()]);
        let (before, none) = (Checkpoint::default(), BTreeSet::new());
        let exported = export(&leases, &deleted, &before, &none, &none);
        assert_eq!(containers(&exported), ["a"]);
        let entry = &exported.checkpoint.entries[0];
        assert_eq!(
            (entry.namespace.as_deref(), entry.pod.as_deref()),
            (Some("default"), Some("web"))
        );
        assert_eq!((entry.since, entry.interfaces), (Timestamp::from_secs(7), Some(1)));
    }

    /// As where a way to vpc-ipam was turned round before its pods were imported.
    #[test]
    fn pods_that_run_and_have_no_lease_keep_their_entries() {
        let entries = vec![
            old_entry("runs", [10, 0, 0, 5], 0),
            old_entry("gone", [10, 0, 0, 6], 0),
            old_entry("imported", [10, 0, 0, 7], 0),
            old_entry("deleted", [10, 0, 0, 8], 0),
            old_entry("another card", [10, 0, 0, 9], 1),
        ];
        let before = Checkpoint { entries, ..Checkpoint::default() };
        let routed = [5, 7, 8, 9].map(|last| IpAddr::from([10, 0, 0, last])).into();
        let leases = [lease("new", [10, 0, 0, 7])];
        let deleted = BTreeSet::from([lease("deleted", [10, 0, 0, 8]).key]);
        let running = &routed;
        let exported = export(&leases, &deleted, &before, &routed, running);
        assert_eq!(containers(&exported), ["new", "runs"]);
        // The route of a pod that was deleted may be there still; nothing else knows of it.
        assert!(exported.refused.iter().all(|it| it.contains("10.0.0.8 ")), "{exported:?}");
        // Once more, from what was written.
        let again = export(&leases, &deleted, &exported.checkpoint, &routed, &BTreeSet::new());
        assert_eq!(again.checkpoint, exported.checkpoint);
    }

    #[test]
    fn pod_that_runs_without_a_lease_and_an_entry_is_refused() {
        let running = [5, 6, 7].map(|last| IpAddr::from([10, 0, 0, last])).into();
        let before = Checkpoint {
            entries: vec![old_entry("another card", [10, 0, 0, 6], 1)],
            ..Checkpoint::default()
        };
        let leases = [lease("a", [10, 0, 0, 5])];
        let exported = export(&leases, &BTreeSet::new(), &before, &running, &running);
        assert_eq!(exported.refused.len(), 1, "{exported:?}");
        assert!(exported.refused[0].contains("10.0.0.7 is the address of a pod"), "{exported:?}");
        // Of one that was deleted while no daemon ran the link may be there still.
        let deleted = [leases[0].key.clone()].into();
        let exported = export(
            &leases,
            &deleted,
            &before,
            &running,
            &[leases[0].addresses().next().unwrap()].into(),
        );
        assert_eq!(exported, Export::default());
    }

    #[test]
    fn pod_whose_address_the_other_daemon_would_hand_out_again_is_refused() {
        let further = |card| {
            let lease = lease("a", [10, 0, 0, 5]);
            let more = lease.first.with_card(Card(card)).with_ipv4(Some([10, 0, 1, 5].into()));
            lease.with_more(vec![more])
        };
        let known =
            Checkpoint { entries: vec![old_entry("a", [10, 0, 1, 5], 1)], ..Checkpoint::default() };
        let nothing = Checkpoint::default();
        let cases = [
            (lease("a", [10, 0, 0, 5]), &nothing, None),
            (lease("a", [10, 0, 0, 5]).with_addresses_only(true), &nothing, Some("another plugin")),
            (further(1), &nothing, Some("10.0.1.5 on network card 1")),
            (further(1), &known, None),
            (further(2), &known, Some("network card 2")),
        ];
        for (lease, before, expected) in cases {
            let none = BTreeSet::new();
            let exported = export(&[lease], &BTreeSet::new(), before, &none, &none);
            match expected {
                None => assert!(exported.refused.is_empty(), "{exported:?}"),
                Some(words) => assert!(exported.refused[0].contains(words), "{exported:?}"),
            }
        }
    }
}
