//! Addresses that are used and that the daemon did not grant.

use vpc_ipam_core::{AddressUse, BlockState};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "untracked",
    about: "addresses without a pod that is known, and blocks whose addresses no pod gets",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::NotChecked],
    run,
};

/// How many are named.
const NAMED_MAX: usize = 8;

fn run(facts: &Facts) -> Vec<Finding> {
    let inventory = match facts.inventory() {
        Ok(inventory) => inventory,
        Err(error) => return vec![Finding::not_checked(&error.why)],
    };
    let blocks = || inventory.enis.iter().flat_map(|eni| &eni.blocks);
    let used = blocks().flat_map(|block| &block.in_use);
    let untracked: Vec<String> = used
        .filter(|it| it.used == AddressUse::Untracked)
        .map(|it| it.address.to_string())
        .collect();
    let unconfirmed: Vec<String> = blocks()
        .filter(|block| matches!(block.state, BlockState::Suspect { .. }))
        .map(|block| block.net.to_string())
        .collect();
    let mut findings = Vec::new();
    if !untracked.is_empty() {
        findings.push(Finding::warning(
            format!("untracked owners use {}", some_of(&untracked)),
            "ip route show names their links: another plugin's container, or a pod of a state file that was lost; they come free with \
             their routes, once those containers are deleted",
        ));
    }
    if !unconfirmed.is_empty() {
        findings.push(Finding::warning(
            format!("no pod gets addresses of {}", some_of(&unconfirmed)),
            "EC2 or the metadata service did not show them: vpc-ipam explain says until when, and an ENI that was changed by hand has to be put right there",
        ));
    }
    if findings.is_empty() {
        let total: u32 = blocks().map(|block| block.capacity).sum();
        findings.push(Finding::ok(format!("all {total} addresses are tracked")));
    }
    findings
}

/// Names the first of them, and says how many more there are.
pub(super) fn some_of(all: &[String]) -> String {
    let named = all[..all.len().min(NAMED_MAX)].join(", ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
