//! Whether another program has the pods' network.

use super::{Check, Finding, Node, Severity};
use crate::migrate::conflist::OURS;
use crate::migrate::old_daemon::PLUGIN;
use crate::node_files::networks::{BrokenNetwork, Network};

pub(super) const CHECK: Check =
    Check { name: "second-cni", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(survey.broken_networks.iter().map(broken));
    let Some(first) = survey.network() else { return findings };
    let main = first.plugins.first().and_then(|plugin| plugin["type"].as_str());
    if main == Some(PLUGIN) || first.is_ours() {
        findings.extend(before_ours(&survey.networks));
        return findings;
    }
    let main = main.unwrap_or("without a type");
    let delegates = first.plugins.iter().any(|plugin| plugin.to_string().contains("\"aws-cni\""));
    let (effect, remedy) = if delegates {
        (
            "that plugin calls amazon-vpc-cni-k8s by a configuration of its own, and would go on doing so",
            "let it take the network by the name of the file that is replaced (Multus: clusterNetwork, or multusConfigFile auto), or move its \
             file away until the node is moved",
        )
    } else {
        (
            "the runtime calls that plugin and not amazon-vpc-cni-k8s: pods have their network from it, and moving the node would change \
             nothing for them",
            "if that plugin is not used, move its file away; if it is, this node is not one of amazon-vpc-cni-k8s",
        )
    };
    findings.push(Finding::refusal(
        format!("the runtime takes {}, whose plugin is {main}", first.file),
        effect,
        remedy,
    ));
    findings
}

/// Finds what the runtime would take once the file of amazon-vpc-cni-k8s is away: it sorts between that and ours.
fn before_ours(networks: &[Network]) -> Vec<Finding> {
    let is_old = |it: &Network| it.plugins.iter().any(|plugin| plugin["type"] == PLUGIN);
    let between = networks.iter().filter(|it| !is_old(it) && !it.is_ours() && *it.file < *OURS);
    let refusal = |network: &Network| {
        Finding::refusal(
            format!("{} sorts before {OURS}", network.file),
            "the runtime would take it instead of ours once the file of amazon-vpc-cni-k8s is away",
            "move it away, or give it a name that sorts behind",
        )
    };
    between.map(refusal).collect()
}

/// A runtime stops at a file that is no configuration, or passes over it; behind ours it does not come to it.
fn broken(file: &BrokenNetwork) -> Finding {
    let BrokenNetwork { file, why } = file;
    let what = format!("{file} in the runtime's folder is no JSON: {why}");
    let remedy = "correct the file, or move it away";
    if **file < *OURS {
        let effect = "some runtimes stop there and find no network at all, and ours would not be the first that they find";
        return Finding::refusal(what, effect, remedy);
    }
    Finding::warning(what, "runtimes do not come to it, as long as another sorts before", remedy)
}
