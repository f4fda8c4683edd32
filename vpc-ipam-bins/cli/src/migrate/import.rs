//! Entries of a checkpoint become leases of the daemon.

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Instant;

use vpc_ipam_core::{Pod, PodKey};
use vpc_ipam_protocol::{
    self as protocol, Answer, AskError, ImportOutcome, PodImport, Refusal, RefusalKind, Request,
};

use super::checkpoint::{Checkpoint, CheckpointEntry};

/// The most pods in one request: those with the longest names are well below what the daemon reads.
const PODS_MAX: usize = 250;

/// Between two questions to a daemon that cannot tell yet.
const PAUSE: Duration = Duration::from_millis(250);

/// The interface of pods whose entry does not name it: the runtimes of Kubernetes have no other.
const IFNAME: &str = "eth0";

/// Why the daemon took no pod in, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportFailed {
    /// It could not be asked.
    #[error("ask vpc-ipamd to import pods")]
    Ask(#[from] AskError),
    /// It refused.
    #[error("{}: {}", .0.message, .0.details)]
    Refused(Refusal),
    /// It answered something else.
    #[error(
        "the daemon's answer does not fit the question: is vpc-ipamd of the same version as vpc-ipam?"
    )]
    Unfitting,
}

/// Returns the pods of a checkpoint, each with its addresses on all network cards.
///
/// An entry that names no network or no interface gets this network, which is the name of the configuration list by which the runtime
/// will delete the pod, and `eth0`.
pub fn pods_to_import(checkpoint: &Checkpoint, network: &str) -> Vec<PodImport> {
    let mut entries: Vec<&CheckpointEntry> = checkpoint.entries.iter().collect();
    entries.sort_by_key(|entry| entry.card);
    let mut places: BTreeMap<PodKey, usize> = BTreeMap::new();
    let mut pods: Vec<PodImport> = Vec::new();
    for entry in entries {
        // What is empty in any part is no entry.
        let Some(key) = key(entry, network) else { continue };
        let place = *places.entry(key.clone()).or_insert(pods.len());
        if place == pods.len() {
            pods.push(PodImport { key, pod: None, since: entry.since, addresses: Vec::new() });
        }
        let pod = &mut pods[place];
        pod.since = pod.since.min(entry.since);
        if let (None, Some(name)) = (&pod.pod, &entry.pod) {
            let namespace = entry.namespace.clone().unwrap_or_else(|| "default".to_owned());
            pod.pod = Some(Pod::new(namespace, name));
        }
        for address in entry.addresses() {
            if !pod.addresses.contains(&address) {
                pod.addresses.push(address);
            }
        }
    }
    pods
}

fn key(entry: &CheckpointEntry, network: &str) -> Option<PodKey> {
    if entry.is_of_container_alone() {
        return PodKey::new(network, &entry.container, IFNAME).ok();
    }
    PodKey::new(&entry.network, &entry.container, &entry.ifname).ok()
}

/// Has the daemon give pods leases of the addresses that they have, and returns what became of each, in their order. It can be
/// repeated.
///
/// A daemon that has just started may not know yet what the node's ENIs hold: it is asked again for as long as `patience`.
pub fn import(
    socket: &Path,
    pods: &[PodImport],
    patience: Duration,
) -> Result<Vec<ImportOutcome>, ImportFailed> {
    let until = Instant::now() + patience;
    let mut outcomes = Vec::with_capacity(pods.len());
    for some in pods.chunks(PODS_MAX) {
        outcomes.extend(loop {
            match protocol::ask(socket, &Request::Import(some.to_vec()))? {
                Answer::Imported(outcomes) if outcomes.len() == some.len() => break outcomes,
                Answer::Refused(refusal)
                    if refusal.kind == RefusalKind::TryAgainLater && Instant::now() < until =>
                {
                    thread::sleep(PAUSE);
                }
                Answer::Refused(refusal) => return Err(ImportFailed::Refused(refusal)),
                _ => return Err(ImportFailed::Unfitting),
            }
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::Timestamp;

    use super::*;

    fn entry(network: &str, container: &str, ifname: &str, address: &str) -> CheckpointEntry {
        CheckpointEntry {
            network: network.into(),
            container: container.into(),
            ifname: ifname.into(),
            ipv4: address.parse().ok(),
            ipv6: address.parse().ok(),
            since: Timestamp::from_secs(20),
            namespace: None,
            pod: None,
            interfaces: None,
            card: 0,
        }
    }

    #[test]
    fn entries_of_one_pod_on_several_cards_are_one_import_in_card_order() {
        let named = |entry| CheckpointEntry {
            namespace: Some("apps".into()),
            pod: Some("zk-1".into()),
            ..entry
        };
        let entries = vec![
            CheckpointEntry { card: 2, ..entry("net", "c1", "eth0", "10.2.0.1") },
            named(entry("net", "c1", "eth0", "10.0.0.1")),
            CheckpointEntry {
                card: 1,
                since: Timestamp::from_secs(10),
                ..entry("net", "c1", "eth0", "10.1.0.1")
            },
            // As of a file that was read once more.
            CheckpointEntry { card: 1, ..entry("net", "c1", "eth0", "10.1.0.1") },
            entry("_migrated-from-cri", "c2", "unknown", "10.0.0.2"),
            entry("net", "c3", "net1", "2001:db8::3"),
        ];
        let checkpoint = Checkpoint { entries, ..Checkpoint::default() };

        let pods = pods_to_import(&checkpoint, "aws-cni");

        let in_words: Vec<String> = pods
            .iter()
            .map(|it| {
                let addresses: Vec<String> = it.addresses.iter().map(ToString::to_string).collect();
                let name = it.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
                let name = name.unwrap_or_else(|| "-".to_owned());
                format!("{} {name} {} {}", it.key, addresses.join(","), it.since)
            })
            .collect();
        let (early, late) = (Timestamp::from_secs(10), Timestamp::from_secs(20));
        let expected = [
            format!("net/c1/eth0 apps/zk-1 10.0.0.1,10.1.0.1,10.2.0.1 {early}"),
            format!("aws-cni/c2/eth0 - 10.0.0.2 {late}"),
            format!("net/c3/net1 - 2001:db8::3 {late}"),
        ];
        assert_eq!(in_words, expected);
    }
}
