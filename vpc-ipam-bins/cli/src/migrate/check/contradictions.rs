//! Whether checkpoint, links, routes and rules say the same of each pod.

use super::{Check, Finding, Node, Severity};
use crate::migrate::{CachedResult, Fate, pods};

pub(super) const CHECK: Check =
    Check { name: "contradictions", severities: &[Severity::Warning, Severity::Refusal], run };

const REMEDY: &str = "find out which of both is right (crictl pods, ip route, ip rule), and delete the pod if that is not clear: it is made anew";

fn run(node: &Node<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let prefix = node.derived.settings.iter().find(|it| it.name == "AWS_VPC_K8S_CNI_VETHPREFIX");
    let prefix = prefix.and_then(|it| it.value()?.parse().ok()).unwrap_or_default();
    let kernel = &node.survey.kernel;
    let tables = kernel.eni_links();
    for (pod, entries) in node.pods.iter().zip(pods::by_pod(&node.survey.checkpoint.entries)) {
        let Fate::Imported { links, .. } = &pod.fate else { continue };
        let by_name = pods::links_by_name(&entries, &prefix);
        for (link, expected) in links.iter().zip(&by_name) {
            // The prefix may have been another when the pod was made.
            let digits = |name: &str| name.get(name.len().saturating_sub(11)..).map(str::to_owned);
            if digits(link) != digits(expected) {
                findings.push(Finding::refusal(
                    format!(
                        "{} has {} in the checkpoint, and that address leads to {link}, which is not the link of a pod of this name ({expected})",
                        entries[0],
                        super::some_of(&pod.addresses)
                    ),
                    "the address may be that of another pod, and be granted again when this one is deleted",
                    REMEDY,
                ));
            }
        }
    }
    findings.extend(runtime(node));
    for address in node.pods.iter().flat_map(|pod| &pod.addresses) {
        let from: Vec<_> = kernel.tables_from(*address).into_iter().collect();
        if from.len() > 1 {
            findings.push(Finding::refusal(
                format!("what {address} sends is led to the tables {}", super::some_of(&from)),
                "by which ENI the pod's packets leave depends on the order of rules, and EC2 drops those that leave by the wrong one",
                "remove the rule that leads to the table of an ENI that does not have the address: ip rule del from ADDRESS table TABLE",
            ));
        }
        for table in from.iter().filter(|table| !tables.contains_key(*table)) {
            if node
                .survey
                .kernel
                .link(&format!("vlan.eth.{}", table.0.saturating_sub(100)))
                .is_some()
            {
                continue;
            }
            findings.push(Finding::warning(
                format!("what {address} sends is led to table {table}, which has no default route"),
                "the pod reaches nothing outside of the node until vpc-ipamd has set up the ENI again",
                "nothing, if a link was down for a moment: vpc-ipamd fills the table; otherwise look which program empties it",
            ));
        }
    }
    findings
}

/// Compares the checkpoint with what the runtime remembers of the same pods.
fn runtime(node: &Node<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in &node.survey.checkpoint.entries {
        let of_entry = |it: &&CachedResult| {
            it.container == entry.container
                && it.network == entry.network
                && it.ifname == entry.ifname
        };
        let Some(result) = node.survey.results.iter().find(of_entry) else { continue };
        let other = entry.addresses().find(|it| !result.addresses.contains(it));
        if let (Some(address), false) = (other, result.addresses.is_empty()) {
            findings.push(Finding::refusal(
                format!("{entry} has {address} in the checkpoint, and the runtime was given {} for it", super::some_of(&result.addresses)),
                "which of them the pod has is not known: the other would be granted again while the pod sends from it",
                REMEDY,
            ));
        }
    }
    findings
}
