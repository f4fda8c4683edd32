//! Whether an address leads to two pods.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Finding, Node, Severity};
use crate::migrate::pods;

pub(super) const CHECK: Check = Check { name: "owners", severities: &[Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let mut links: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for route in node.survey.kernel.pod_routes(&pods::ranges(node.survey)) {
        links.entry(route.address).or_default().insert(route.link);
    }
    let twice = links.into_iter().filter(|(_, links)| links.len() > 1);
    let refusal = |(address, links): (IpAddr, BTreeSet<String>)| {
        let links: Vec<String> = links.into_iter().collect();
        Finding::refusal(
            format!("{address} leads to two pods, by the links {}", links.join(" and ")),
            "only one of them is reached, and it is not known which of them has the address",
            "delete one of the pods, or the route that leads to the wrong one",
        )
    };
    twice.map(refusal).collect()
}
