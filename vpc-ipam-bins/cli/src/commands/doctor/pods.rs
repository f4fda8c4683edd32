//! Pods without an address: those that wait, and those that only the runtime knows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::{Check, Finding, Verdict};
use super::conflist::networks;
use super::facts::Facts;
use super::untracked::some_of;
use crate::node_files::networks::Network;

pub(super) const CHECK: Check = Check {
    name: "pods",
    about: "pods that wait for an address, and containers with a result of our network that the daemon does not know",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// Where libcni, and with it containerd, CRI-O and podman, keeps the results of ADD.
const RESULTS: &str = "/var/lib/cni/results";

fn run(facts: &Facts) -> Vec<Finding> {
    let (inventory, leases) = match (facts.inventory(), facts.leases()) {
        (Ok(inventory), Ok(leases)) => (inventory, leases),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::not_checked(&error.why)],
    };
    let mut findings = Vec::new();
    let waiting: Vec<String> =
        inventory.explanation.waiting.iter().map(|pod| pod.key.to_string()).collect();
    if !waiting.is_empty() {
        findings.push(Finding::failure(
            format!("{} pods wait for an address: {}", waiting.len(), some_of(&waiting)),
            "vpc-ipam explain: what is blocked, by what, and until when",
        ));
    }
    let has = |key: &(String, String, String)| {
        leases.iter().any(|lease| {
            let it = &lease.key;
            it.network() == key.0 && it.container() == key.1 && it.ifname() == key.2
        })
    };
    match of_runtime(facts) {
        Ok(kept) => {
            let unknown: Vec<String> = kept
                .iter()
                .filter(|key| !has(key))
                .map(|(network, container, ifname)| format!("{network}/{container}/{ifname}"))
                .collect();
            if !unknown.is_empty() {
                findings.push(Finding::warning(
                    format!("the runtime keeps results of containers that have no lease: {}", some_of(&unknown)),
                    "crictl pods: delete those that run, so that they are made again; of those that are gone, remove the file in \
                     /var/lib/cni/results",
                ));
            }
        }
        Err(why) => findings.push(Finding::not_checked(why)),
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok(format!("{} pods have their addresses, none waits", leases.len())));
    }
    findings
}

/// Returns network, container and interface of the results of our networks.
fn of_runtime(facts: &Facts) -> Result<BTreeSet<(String, String, String)>, String> {
    let (networks, _) = networks(facts)?;
    let ours: Vec<&str> =
        networks.iter().filter(|it| it.is_ours()).map(|it: &Network| it.name.as_str()).collect();
    let mut kept = BTreeSet::new();
    for name in facts.files.names(RESULTS)? {
        let Some(text) = facts.files.read(&format!("{RESULTS}/{name}"))? else { continue };
        // One that is being written is read at the next run.
        let Ok(result) = serde_json::from_str::<Value>(&text) else { continue };
        let text = |key: &str| result[key].as_str().map(str::to_owned);
        if let (Some(network), Some(container), Some(ifname)) =
            (text("networkName"), text("containerId"), text("ifName"))
            && ours.contains(&network.as_str())
        {
            kept.insert((network, container, ifname));
        }
    }
    Ok(kept)
}
