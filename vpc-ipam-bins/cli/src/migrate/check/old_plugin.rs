//! Whether the runtime is about to add or delete a pod by the plugin of amazon-vpc-cni-k8s.

use super::{Check, Finding, Node, Severity};
use crate::migrate::old_daemon::{EGRESS_PLUGIN, PLUGIN};

pub(super) const CHECK: Check = Check { name: "old-plugin", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let is_old = |program: &str| [PLUGIN, EGRESS_PLUGIN].contains(&program);
    let running = node.survey.processes.iter().filter(|it| is_old(&it.program));
    let running: Vec<String> =
        running.map(|it| format!("{} (process {})", it.program, it.pid)).collect();
    if running.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        format!(
            "the runtime calls the plugin of amazon-vpc-cni-k8s at present: {}",
            running.join(", ")
        ),
        "the pod that it is at is not whole yet; `migrate to` waits until none runs",
        "wait, or look why it does not end: without its daemon it ends within seconds",
    )]
}
