//! Other programs that manage the same addresses or the pods' network.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "rivals",
    about: "daemons of other plugins, and a second vpc-ipamd, that run on this node",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// The names of processes, as the kernel cuts them, and of the programs behind them; those hand out addresses of ENIs as well.
const OF_ENIS: [(&str, &str); 3] = [
    ("aws-k8s-agent", "amazon-vpc-cni-k8s"),
    ("aws-vpc-cni", "amazon-vpc-cni-k8s"),
    ("ipamd", "amazon-vpc-cni-k8s"),
];
/// Those make networks of pods, or rules about them.
const OF_PODS: [(&str, &str); 8] = [
    ("cilium-agent", "Cilium"),
    ("calico-node", "Calico"),
    ("flanneld", "Flannel"),
    ("kube-router", "kube-router"),
    ("weaver", "Weave Net"),
    ("antrea-agent", "Antrea"),
    ("kindnetd", "kindnet"),
    ("terwayd", "Terway"),
];

fn run(facts: &Facts) -> Vec<Finding> {
    let processes = match facts.files.processes() {
        Ok(processes) => processes,
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let mut findings = Vec::new();
    let named = |list: &'static [(&str, &str)], name: &str| {
        list.iter().find(|(process, _)| *process == name).map(|(_, program)| *program)
    };
    for process in &processes {
        let pid = process.pid;
        if let Some(program) = named(&OF_ENIS, &process.name) {
            findings.push(Finding::failure(
                format!("{program} runs (process {pid}): two daemons hand out the addresses of this node"),
                "stop one of them: kubectl -n kube-system delete daemonset aws-node, or a node selector that leaves this node out",
            ));
        } else if let Some(program) = named(&OF_PODS, &process.name) {
            findings.push(Finding::warning(
                format!("{program} runs (process {pid})"),
                "let it see to network policy alone, without addresses, routes or masquerading of its own; docs/keeping.md",
            ));
        }
    }
    let ours: Vec<String> = processes
        .iter()
        .filter(|process| process.name == "vpc-ipamd")
        .map(|process| process.pid.to_string())
        .collect();
    if ours.len() > 1 {
        findings.push(Finding::failure(
            format!("{} vpc-ipamd run: processes {}", ours.len(), ours.join(", ")),
            "stop all but one: with sockets and state files of their own they hand out the same addresses",
        ));
    }
    if findings.is_empty() {
        let evidence = format!("none of {} processes is another plugin's daemon", processes.len());
        findings.push(Finding::ok(evidence));
    }
    findings
}
