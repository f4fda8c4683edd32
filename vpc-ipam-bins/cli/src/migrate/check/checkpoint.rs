//! Whether the checkpoint can be gone by.

use super::{Check, Finding, Node, Severity};
use crate::migrate::{CheckpointProblem, Fate};

pub(super) const CHECK: Check =
    Check { name: "checkpoint", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    let mut findings = Vec::new();
    if let Some(why) = &survey.checkpoint_unread {
        findings.push(Finding::refusal(
            why,
            "without it no pod is known by its name: a pod's address would be released only when its link is gone, and DEL, CHECK and GC \
             would not know the pod",
            "correct the file, or move it away: then pods keep their addresses, and are untracked",
        ));
    } else if survey.checkpoint.files.is_empty() && !node.pods.is_empty() {
        findings.push(Finding::warning(
            "there is no checkpoint, and there are pods",
            "pods keep their addresses, and are untracked: an address is released when the pod's link is gone, not upon DEL",
            "look whether --checkpoint and --root name the node's; amazon-vpc-cni-k8s before 1.7 has none",
        ));
    }
    findings.extend(survey.checkpoint.problems.iter().map(problem));
    let missing: Vec<&String> = node
        .pods
        .iter()
        .filter_map(|pod| match &pod.fate {
            Fate::Imported { missing, .. } => Some(missing),
            Fate::Untracked { .. } | Fate::Skipped { .. } | Fate::Refused { .. } => None,
        })
        .flatten()
        .collect();
    if !missing.is_empty() {
        findings.push(Finding::warning(
            format!("pods of the checkpoint lack routes or rules: {}", super::some_of(&missing)),
            "these pods have no network, or only by way of other rules, until vpc-ipamd puts back what is missing",
            "look which program removes them: systemd-networkd when it is started anew, nm-cloud-setup, firewalld",
        ));
    }
    findings
}

fn problem(problem: &CheckpointProblem) -> Finding {
    match problem {
        CheckpointProblem::TwoOwners { .. } | CheckpointProblem::TwoAddresses { .. } => {
            Finding::refusal(
                format!("in the checkpoint, {problem}"),
                "one of the pods would lose its address when the other is deleted",
                "find out which of them runs (crictl pods), and remove the entry of the other from the file",
            )
        }
        CheckpointProblem::Repeated { .. } => Finding::warning(
            format!("in the checkpoint, {problem}"),
            "it counts once; amazon-vpc-cni-k8s itself does not start with such a file",
            "nothing for moving over; to go back to amazon-vpc-cni-k8s a file without it is written",
        ),
        _ => Finding::warning(
            problem.to_string(),
            "the entry does not count: if its pod runs, it is untracked",
            "nothing, if no such pod runs",
        ),
    }
}
