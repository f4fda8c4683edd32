//! Whether vpc-ipamd runs already.

use super::old_daemon::OURS;
use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check = Check { name: "daemon", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let running = node.survey.processes.iter().filter(|it| it.program == OURS[0]);
    let running: Vec<String> = running.map(|it| it.pid.to_string()).collect();
    if running.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        format!("vpc-ipamd runs already (process {})", running.join(", ")),
        "what it was started with counts until it is started anew; pods that it has granted addresses to are not among those below",
        "systemctl stop vpc-ipamd before `migrate to`, which starts it with the variables below",
    )]
}
