//! Whether the checkpoint has pods that are gone.

use super::{Check, Finding, Node, Severity};
use crate::migrate::{Fate, PodMove};

pub(super) const CHECK: Check = Check { name: "stale", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let gone = |pod: &&PodMove| matches!(pod.fate, Fate::Skipped { .. });
    let gone: Vec<String> = node
        .pods
        .iter()
        .filter(gone)
        .map(|pod| {
            let name = pod.pod.as_deref().or(pod.container.as_deref()).unwrap_or("a pod");
            format!("{name:.60} ({})", super::some_of(&pod.addresses))
        })
        .collect();
    if gone.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        format!("the checkpoint has pods without a link: {}", gone.join(", ")),
        "they are not imported, and their addresses are free",
        "nothing, if these pods are gone; if one of them runs, it has no network already",
    )]
}
