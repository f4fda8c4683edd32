//! Whether amazon-vpc-cni-k8s runs: two daemons would grant the same addresses.

use super::{Check, Finding, Node, Severity};
use crate::migrate::NodeProcess;
use crate::migrate::old_daemon::PROGRAMS;

pub(super) const CHECK: Check =
    Check { name: "old-daemon", severities: &[Severity::Warning, Severity::Refusal], run };

/// Programs of this project, which serve the same ports: the daemon, and the command line as a VPC in a box.
pub(super) const OURS: [&str; 2] = ["vpc-ipamd", "vpc-ipam"];

const EFFECT: &str = "two daemons would grant the same addresses to different pods";
const REMEDY: &str = "keep its DaemonSet aws-node off this node (docs/migration.md has the commands), and wait until it is gone";

fn run(node: &Node<'_>) -> Vec<Finding> {
    let is_old = |it: &NodeProcess| PROGRAMS.contains(&it.program.as_str());
    let mut findings = Vec::new();
    for process in node.survey.processes.iter().filter(|it| is_old(it)) {
        let what =
            format!("amazon-vpc-cni-k8s runs: {} (process {})", process.program, process.pid);
        findings.push(Finding::refusal(what, EFFECT, REMEDY));
    }
    for listener in &node.survey.listeners {
        let socket = &listener.socket;
        let of_plugin = socket.ends_with("ipamd.sock");
        match &listener.owner {
            Some(owner) if OURS.contains(&owner.program.as_str()) || is_old(owner) => {}
            Some(owner) if of_plugin => findings.push(Finding::refusal(
                format!(
                    "{} (process {}) listens at {socket}, where amazon-vpc-cni-k8s does",
                    owner.program, owner.pid
                ),
                EFFECT,
                REMEDY,
            )),
            Some(owner) => findings.push(Finding::warning(
                format!("{} (process {}) listens at {socket}", owner.program, owner.pid),
                "vpc-ipamd does not serve there, and programs that ask for its metrics or introspection get other answers",
                "move that program, or the port of vpc-ipamd: INTROSPECTION_BIND_ADDRESS, DISABLE_METRICS",
            )),
            // No program that could be seen: in a container without the host's processes.
            None => findings.push(Finding::refusal(
                format!("a program that cannot be seen listens at {socket}, where amazon-vpc-cni-k8s does"),
                EFFECT,
                "run this as root where all processes of the node can be seen (hostPID in a container), so that it can tell which program \
                 that is",
            )),
        }
    }
    findings
}
