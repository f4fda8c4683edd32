//! Whether other programs have traffic control on the links of pods.

use super::{Check, Finding, Node, Severity};
use crate::migrate::{Fate, survey::kernel::prefix_of_link};

pub(super) const CHECK: Check =
    Check { name: "traffic-control", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    let mut findings = Vec::new();
    if let Some(why) = &survey.traffic_control_unread {
        findings.push(Finding::warning(
            format!("traffic control is not listed: {why}"),
            "whether programs of a network policy agent or limits of bandwidth are on links of pods is not known",
            "install iproute2 where this command finds tc by PATH",
        ));
    }
    let of_pods = |link: &str| {
        let is_pods = |fate: &Fate| match fate {
            Fate::Imported { links, .. } => links.iter().any(|it| it == link),
            Fate::Untracked { link: of, .. } => of == link,
            Fate::Skipped { .. } | Fate::Refused { .. } => false,
        };
        prefix_of_link(link).is_some() || node.pods.iter().any(|pod| is_pods(&pod.fate))
    };
    let found = survey.traffic_control.iter().filter(|it| of_pods(&it.link));
    let found: Vec<String> = found.map(|it| format!("{} on {}", it.what, it.link)).collect();
    if !found.is_empty() {
        findings.push(Finding::warning(
            format!("other programs have traffic control on links of pods: {}", super::some_of(&found)),
            "it stays on the links of running pods; new pods get it only if the program that puts it there goes on working without \
             amazon-vpc-cni-k8s: its network policy agent waits for its plugin's call",
            "for limits of bandwidth keep the plugin bandwidth in the configuration; for the network policy agent see docs/grpc.md",
        ));
    }
    findings
}
