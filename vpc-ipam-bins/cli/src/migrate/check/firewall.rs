//! Whether all rules of address translation can be listed, of both kinds of iptables and nftables.

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check = Check { name: "firewall", severities: &[Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let refusal = |what: &String| {
        Finding::refusal(
            format!("rules cannot be listed: {what}"),
            "whether rules of amazon-vpc-cni-k8s are among them is not known: they would go on translating and marking beside those of \
             vpc-ipamd, and nothing would remove them",
            "install the program that lists them (nft, iptables-nft or iptables-legacy) where this command finds it by PATH",
        )
    };
    node.survey.nat.unlisted.iter().map(refusal).collect()
}
