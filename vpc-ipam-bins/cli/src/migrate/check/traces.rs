//! Whether amazon-vpc-cni-k8s was on the node at all since it booted.

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check = Check { name: "traces", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    // What is not known to be there is not known to be missing.
    let is_told = survey.untold.is_empty() && survey.nat.unlisted.is_empty();
    if !is_told || !survey.settings.is_empty() || !survey.checkpoint.entries.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        "this node has nothing of amazon-vpc-cni-k8s in its rules, and no checkpoint",
        "there is nothing to take over, and no setting can be read off the node",
        "install vpc-ipam as on a new node (docs/install.md), with the variables of the DaemonSet aws-node; or look whether --root, \
         --checkpoint and the network namespace are the node's",
    )]
}
