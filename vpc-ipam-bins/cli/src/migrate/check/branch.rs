//! Whether there are pods on branch ENIs, which are not moved yet.

use super::{Check, Finding, Node, Severity};
use crate::migrate::survey::kernel::{OF_BRANCH, is_vlan};

pub(super) const CHECK: Check =
    Check { name: "branch-enis", severities: &[Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let kernel = &node.survey.kernel;
    let links = kernel.links.iter().filter(|link| is_vlan(&link.id.name));
    let mut seen: Vec<String> = links.map(|link| format!("link {}", link.id)).collect();
    let rules =
        kernel.rules.iter().filter(|rule| rule.priority == OF_BRANCH && rule.input.is_some());
    seen.extend(rules.map(|rule| format!("rule {rule}")));
    if seen.is_empty() {
        return Vec::new();
    }
    vec![Finding::refusal(
        format!(
            "there are pods on branch ENIs (security groups for pods): {}",
            super::some_of(&seen)
        ),
        "their ENIs are those of the VPC resource controller, which this version does not take over with pods running",
        "drain these pods from the node (kubectl get pods -A --field-selector spec.nodeName=NODE; those with the annotation \
         vpc.amazonaws.com/pod-eni), then try again",
    )]
}
