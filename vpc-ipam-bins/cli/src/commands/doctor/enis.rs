//! ENIs that EC2 attached and that have no link on the node, or whose link is not set up.

use vpc_ipam_core::{BackoffScope, Management, Stage};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "enis",
    about: "ENIs that are attached and whose link is missing or not set up",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let inventory = match facts.inventory() {
        Ok(inventory) => inventory,
        Err(error) => return vec![Finding::not_checked(&error.why)],
    };
    let mut findings = Vec::new();
    for eni in inventory.enis.iter().filter(|eni| eni.stage == Stage::Attached) {
        let id = eni.id;
        let failed =
            inventory.explanation.failed.iter().find(|it| it.scope == BackoffScope::SetUp(id));
        let place = format!("{id} (card {}, device {})", eni.card.0, eni.device.0);
        findings.push(match failed {
            Some(failed) => Finding::failure(
                format!("{place} is attached, and its link is not set up: {}", failed.last.message),
                "ip -d link shows whether its link appeared; dmesg whether the driver refused it; reboot, or detach it by hand",
            ),
            None => Finding::warning(
                format!("{place} is attached, and its link is not set up yet"),
                "that takes seconds: run this again, then vpc-ipam explain",
            ),
        });
    }
    if inventory.enis.is_empty() {
        findings.push(Finding::failure(
            "the daemon knows no ENI of the instance, not even the primary one",
            "vpc-ipam doctor metadata permissions: neither the metadata service nor EC2 has shown it",
        ));
    }
    if findings.is_empty() {
        let managed =
            inventory.enis.iter().filter(|eni| eni.management == Management::Managed).count();
        let all = inventory.enis.len();
        findings
            .push(Finding::ok(format!("{all} ENIs with their links, {managed} of them managed")));
    }
    findings
}
