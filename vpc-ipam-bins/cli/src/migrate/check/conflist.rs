//! Whether the configuration of the runtime can be replaced by one that does the same.

use serde_json::Value;

use super::{Check, Finding, Node, Severity};
use crate::migrate::conflist::VERSIONS;
use crate::migrate::old_daemon::{EGRESS_PLUGIN, PLUGIN};
use crate::node_files::networks::Network;

pub(super) const CHECK: Check =
    Check { name: "conflist", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    let mut findings = Vec::new();
    if survey.untold.is_empty() && !survey.plugins.iter().any(|name| name == "vpc-cni") {
        findings.push(Finding::refusal(
            "vpc-cni is not in the runtime's folder of plugins",
            "no pod could be made or deleted after the configuration is replaced",
            "make install-node DIR=/ places it there; --cni-bin names another folder",
        ));
    }
    let Some((old, _)) = survey.old_network() else {
        findings.push(Finding::warning(
            "no configuration in the runtime's folder names amazon-vpc-cni-k8s",
            "the name of the pods' network and the chained plugins are not known: the name aws-cni is taken, and portmap",
            "look whether --cni-conf names the runtime's folder; put 10-aws.conflist back if it was moved away",
        ));
        return findings;
    };
    if !VERSIONS.contains(&old.version.as_str()) {
        findings.push(Finding::refusal(
            format!("{} has the cniVersion {:?}", old.file, old.version),
            "vpc-cni does not know it, and the runtime could make no pod",
            format!(
                "write one of these into it, which its plugins know too: {}",
                VERSIONS.join(", ")
            ),
        ));
    }
    let kinds: Vec<&str> = old.plugins.iter().filter_map(kind).collect();
    // What vpc-cni does itself.
    let carried: Vec<&str> =
        kinds.iter().filter(|it| ![PLUGIN, EGRESS_PLUGIN].contains(it)).copied().collect();
    let missing = carried.iter().filter(|it| !survey.plugins.iter().any(|name| name == *it));
    for kind in missing.filter(|_| survey.untold.is_empty()) {
        findings.push(Finding::warning(
            format!(
                "{} names the plugin {kind}, which is not in the runtime's folder of plugins",
                old.file
            ),
            "the runtime makes no pod with a configuration whose plugin it does not find",
            "install the package containernetworking-plugins, or what the plugin is part of",
        ));
    }
    if let Some(ours) = survey.networks.iter().find(|network| network.is_ours()) {
        findings.extend(ours_lacks(old, ours, &carried));
    }
    findings
}

/// Compares the configuration that was placed by hand with the old one. `migrate to` writes it anew with what it lacks.
fn ours_lacks(old: &Network, ours: &Network, carried: &[&str]) -> Vec<Finding> {
    let has: Vec<&str> = ours.plugins.iter().filter_map(kind).collect();
    let lacks: Vec<&str> = carried.iter().filter(|it| !has.contains(it)).copied().collect();
    let mut findings = Vec::new();
    if !lacks.is_empty() {
        let effect: Vec<String> = lacks.iter().map(|kind| effect_of(kind)).collect();
        findings.push(Finding::warning(
            format!("{} lacks plugins that {} has: {}", ours.file, old.file, lacks.join(", ")),
            effect.join("; "),
            format!(
                "`migrate to` writes {} anew, with them; add them if you place it yourself",
                ours.file
            ),
        ));
    }
    if ours.name != old.name {
        findings.push(Finding::warning(
            format!("{} has the name {:?}, and {} the name {:?}", ours.file, ours.name, old.file, old.name),
            "the runtime deletes pods under the name with which they were made, and vpc-cni would not know them",
            format!("`migrate to` writes {} anew, with the old name; take it if you place the file yourself", ours.file),
        ));
    }
    findings
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin["type"].as_str()
}

/// Returns what pods lack without a chained plugin.
fn effect_of(kind: &str) -> String {
    match kind {
        "portmap" => {
            "hostPorts of new pods lead nowhere, and those of deleted pods to other pods".to_owned()
        }
        "bandwidth" => "new pods have no limit of bandwidth".to_owned(),
        "tuning" => "new pods do not get the kernel variables that it sets".to_owned(),
        other => format!("new pods lack what {other} does"),
    }
}
