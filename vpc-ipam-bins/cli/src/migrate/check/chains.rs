//! Whether another program uses the chains of amazon-vpc-cni-k8s, or has rules in them.

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check =
    Check { name: "chains", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let used = |what: &String| {
        Finding::refusal(
            format!(
                "another program has a rule that leads to a chain of amazon-vpc-cni-k8s: {what}"
            ),
            "the chains cannot be removed while it is there, and connections of that program's pods are translated by a chain that is no longer \
             kept",
            "set that program up without amazon-vpc-cni-k8s, or remove the rule; Antrea has it in its policy-only mode",
        )
    };
    let odd = |rule: &String| {
        Finding::warning(
            format!("a chain of amazon-vpc-cni-k8s has a rule that it does not make: {rule}"),
            "the rule goes with the chain, and what it did is no longer done",
            "if it leaves a range untranslated, add the range to AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS; otherwise put it into a chain of \
             its own",
        )
    };
    let used = node.survey.users_of_chains.iter().map(used);
    used.chain(node.survey.settings.odd.iter().map(odd)).collect()
}
