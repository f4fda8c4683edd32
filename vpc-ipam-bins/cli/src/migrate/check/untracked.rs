//! Whether there are pods that the checkpoint does not have.

use super::{Check, Finding, Node, Severity};
use crate::migrate::{Fate, PodMove};

pub(super) const CHECK: Check = Check { name: "untracked", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    // Without a checkpoint that is one finding, of another check.
    if node.survey.checkpoint.files.is_empty() {
        return Vec::new();
    }
    let untracked = |pod: &PodMove| match &pod.fate {
        Fate::Untracked { link, why } => {
            Some(format!("{} on {link}: {why}", super::some_of(&pod.addresses)))
        }
        Fate::Imported { .. } | Fate::Skipped { .. } | Fate::Refused { .. } => None,
    };
    let untracked: Vec<String> = node.pods.iter().filter_map(untracked).collect();
    if untracked.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        format!("pods do not become leases: {}", untracked.join(", ")),
        "they keep their addresses while their links and routes are there; DEL, CHECK and GC do not know them",
        "nothing, if they may live out their time so; otherwise delete them first, so that they are made anew afterwards",
    )]
}
