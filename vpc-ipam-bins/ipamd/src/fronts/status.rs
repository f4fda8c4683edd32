use core::time::Duration;

use vpc_ipam_core::{Ipam, Readiness, Timestamp};
use vpc_ipam_protocol::{EniStatus, PROTOCOL, Status};

use crate::sources::Sources;

/// Returns whether a node is ready, and why. Until a source has answered nothing is known of what could be granted, whatever core
/// makes of what it was given at the start.
pub(crate) fn readiness(of_core: &Readiness, sources: &Sources) -> (bool, String) {
    if sources.answered() {
        return (of_core.is_ready(), of_core.to_string());
    }
    let why = "not ready: neither EC2 nor the metadata service has shown this node's ENIs yet";
    (false, why.to_string())
}

/// Returns whether a node is ready, and how it stands in a line.
pub(crate) fn in_words(ipam: &Ipam, sources: &Sources, now: Timestamp) -> (bool, String) {
    let (is_ready, why) = readiness(&ipam.readiness(now), sources);
    if !is_ready {
        return (false, why);
    }
    let enis = ipam.pool().enis();
    let blocks = enis.iter().flat_map(|eni| eni.blocks());
    let addresses: u32 = blocks.map(|block| block.capacity()).sum();
    (true, format!("ready: {} ENIs, {addresses} addresses", enis.len()))
}

/// Returns how a node stands.
///
/// `repairs` is how often its network was put right, and of how many objects; `problems` is what is wrong with it besides.
pub(crate) fn of(
    ipam: &Ipam,
    sources: &Sources,
    repairs: (u64, u64),
    problems: Vec<String>,
    now: Timestamp,
) -> Status {
    let node = ipam.node();
    let cooldown = ipam.config().cooldown;
    let enis: Vec<EniStatus> = ipam
        .pool()
        .enis()
        .iter()
        .map(|eni| EniStatus {
            id: eni.id.to_string(),
            card: eni.card.0,
            device: eni.device.0,
            stage: eni.stage,
            addresses: eni.blocks().iter().map(|block| block.capacity()).sum(),
            assigned: eni.assigned(),
            cooling: eni.blocks().iter().map(|b| b.cooling(now, cooldown, Duration::ZERO)).sum(),
        })
        .collect();
    Status {
        version: env!("CARGO_PKG_VERSION").to_string(),
        protocol: PROTOCOL,
        ready: readiness(&ipam.readiness(now), sources).0,
        instance: node.instance.to_string(),
        instance_type: node.instance_type.to_string(),
        enis,
        waiting: ipam.waiting().len(),
        blocked: ipam.plan(now).blocked.iter().map(ToString::to_string).collect(),
        repairs: repairs.0,
        repaired: repairs.1,
        problems: sources.problems(node).into_iter().chain(problems).collect(),
    }
}
