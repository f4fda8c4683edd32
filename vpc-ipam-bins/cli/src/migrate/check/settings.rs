//! Whether the settings of the node are known, and the operator's are the same.

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check =
    Check { name: "settings", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let given = &node.survey.given;
    let mut findings = Vec::new();
    for setting in node.derived.contradictions(given) {
        let values: Vec<String> = setting
            .values
            .iter()
            .map(|(value, evidence)| format!("{value} by {evidence}"))
            .collect();
        findings.push(Finding::refusal(
            format!("the node shows several values of {}: {}", setting.name, values.join("; and ")),
            "which of them counts is not known, and traffic of running pods goes by both",
            format!(
                "remove what is left of the one that no longer counts, or say which of them does: {}=VALUE in a file for --env",
                setting.name
            ),
        ));
    }
    for it in node.derived.disagreements(given) {
        let derived = if it.derived.is_empty() { "empty" } else { &*it.derived };
        let place = given.place(it.name);
        let besides = match it.name {
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG" => {
                "; if these ENIs come of subnet discovery, set ENABLE_SUBNET_DISCOVERY=true besides"
            }
            _ => "",
        };
        findings.push(Finding::refusal(
            format!(
                "{} is {} in {place}, and {derived} on the node: {}",
                it.name, it.given, it.evidence
            ),
            it.effect,
            format!(
                "take {}={}, or leave the variable out: `migrate to` takes the node's value{besides}",
                it.name, it.derived
            ),
        ));
    }
    findings.extend(snat_address(node));
    for what in &node.survey.settings.contradictions {
        findings.push(Finding::refusal(
            what,
            "the rules of the node do not do what any setting says",
            "let amazon-vpc-cni-k8s run once more, which makes its rules whole, and then try again",
        ));
    }
    for bad in &given.bad {
        findings.push(Finding::warning(bad, "the line does not count", "correct the line"));
    }
    findings
}

/// Looks whether connections to outside get the address that vpc-ipamd would give them: the first of the primary ENI's link.
fn snat_address(node: &Node<'_>) -> Vec<Finding> {
    let survey = node.survey;
    let seen = &survey.settings.snat_address;
    if seen.is_contradictory() {
        let values: Vec<String> =
            seen.values.iter().map(|(value, evidence)| format!("{value} by {evidence}")).collect();
        return vec![Finding::refusal(
            format!(
                "connections of pods to outside are translated to several addresses: {}",
                values.join("; and ")
            ),
            "which of them counts depends on the order of rules, and vpc-ipamd gives all of them the first address of the primary ENI",
            "remove the rule that is left from another setting or another address of the node",
        )];
    }
    let (Some(address), Some(link)) = (seen.value(), survey.kernel.primary_link()) else {
        return Vec::new();
    };
    let of_link = survey.kernel.addresses.iter().filter(|(index, _)| *index == link.id.index);
    let addresses: Vec<core::net::IpAddr> = of_link.map(|(_, it)| it.net.addr()).collect();
    if addresses.is_empty() || addresses.contains(&core::net::IpAddr::V4(*address)) {
        return Vec::new();
    }
    vec![Finding::refusal(
        format!(
            "connections of pods to outside are translated to {address}, which is no address of {}: {}",
            link.id,
            super::some_of(&addresses)
        ),
        "vpc-ipamd translates to the primary address of the primary ENI: servers that know the node by the other address would refuse its \
         pods, and running connections would break",
        "look whether the default route leads over the primary ENI; correct it, and let amazon-vpc-cni-k8s run once more",
    )]
}
