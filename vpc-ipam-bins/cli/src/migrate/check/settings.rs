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
                "remove what is left of the one that does not count any more, or say which of them does: {}=VALUE in a file for --env",
                setting.name
            ),
        ));
    }
    let place = given.file.as_ref().map_or(String::new(), |it| it.display().to_string());
    for it in node.derived.disagreements(given) {
        let derived = if it.derived.is_empty() { "empty" } else { &*it.derived };
        findings.push(Finding::refusal(
            format!(
                "{} is {} in {place}, and {derived} on the node: {}",
                it.name, it.given, it.evidence
            ),
            it.effect,
            format!(
                "take {}={}, or leave the variable out: `migrate to` takes the node's value",
                it.name, it.derived
            ),
        ));
    }
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
