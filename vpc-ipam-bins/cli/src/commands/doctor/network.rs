//! How the node's network differs from what it should be.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "network",
    about: "links, addresses, routes, rules and address translation against what they should be, and what other programs put in the way",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let report = match facts.net() {
        Ok(report) => report,
        Err(error) => return vec![Finding::not_checked(&error.why)],
    };
    let mut findings = Vec::new();
    findings.extend(report.differences.iter().map(|what| {
        let remedy = "vpc-ipam net repair, or wait: the daemon repairs within seconds; vpc-ipam events names what changed it";
        Finding::warning(format!("differs: {what}"), remedy)
    }));
    findings.extend(report.beyond.iter().map(|what| {
        Finding::failure(
            format!("cannot be put right from here: {what}"),
            "delete the pod whose link is gone; a kernel variable that cannot be written wants the right to /proc/sys",
        )
    }));
    findings.extend(report.conflicts.iter().map(|what| {
        Finding::failure(what, "remove it in the program that made it: vpc-ipam leaves it alone")
    }));
    findings.extend(report.not_told.iter().map(Finding::not_checked));
    if let Some(spoofed @ 1..) = report.spoofed {
        findings.push(Finding::warning(
            format!("{spoofed} packets of pods were dropped for their source addresses"),
            "find the pod that sends from an address that is not its own; docs/datapath.md, the check of sources",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("the node's network is as it should be"));
    }
    findings
}
