//! Whether vpc-ipamd runs already, and whether it can be started.

use super::old_daemon::OURS;
use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check =
    Check { name: "daemon", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    running(node).into_iter().chain(no_unit(node)).collect()
}

fn no_unit(node: &Node<'_>) -> Option<Finding> {
    node.survey.lacks_unit.then(|| {
        Finding::refusal(
            "systemd has no unit vpc-ipamd.service",
            "vpc-ipamd could not be started, and the node would go back",
            "make install-node DIR=/, or name the command that starts it: --start, and --stop for the way back",
        )
    })
}

fn running(node: &Node<'_>) -> Option<Finding> {
    let running = node.survey.processes.iter().filter(|it| it.program == OURS[0]);
    let running: Vec<String> = running.map(|it| it.pid.to_string()).collect();
    if running.is_empty() {
        return None;
    }
    Some(Finding::warning(
        format!("vpc-ipamd runs already (process {})", running.join(", ")),
        "what it was started with counts until it is started anew; pods that it has granted addresses to are not among those below",
        "systemctl stop vpc-ipamd before `migrate to`, which starts it with the variables below",
    ))
}
