//! Whether the instance metadata service says the same as the kernel. It is asked only where an operator names it.

use core::net::IpAddr;

use vpc_ipam_core::Metadata;
use vpc_ipam_linux::Table;

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check =
    Check { name: "metadata", severities: &[Severity::Warning, Severity::Refusal], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    if let Some(why) = &node.survey.metadata_unread {
        return vec![Finding::warning(
            format!("the metadata service does not answer: {why}"),
            "whether pods are on the ENIs that have their addresses, and whether prefixes are in use, is not known",
            "look whether --imds-endpoint is right, and whether this program may ask it: from a container by the host's network alone",
        )];
    }
    let Some(metadata) = &node.survey.metadata else { return Vec::new() };
    let mut findings = pods(node, metadata);
    let settings = &node.survey.settings;
    if let (Some(address), Some(primary)) = (settings.snat_address.value(), metadata.primary_ipv4)
        && *address != primary
    {
        findings.push(Finding::refusal(
            format!("connections of pods to outside are translated to {address}, and the primary ENI has {primary}"),
            "vpc-ipamd translates to the primary address: running connections would break, and servers see another address",
            "let amazon-vpc-cni-k8s run once more, which translates to the primary address",
        ));
    }
    let is_of_vpc =
        |cidr: &&ipnet::Ipv4Net| metadata.vpc_ipv4_cidrs.iter().any(|it| it.contains(*cidr));
    let odd: Vec<_> = settings.vpc_cidrs.iter().filter(|it| !is_of_vpc(it)).collect();
    if !metadata.vpc_ipv4_cidrs.is_empty() && !odd.is_empty() {
        findings.push(Finding::warning(
            format!("rules of amazon-vpc-cni-k8s leave ranges untranslated that are not the VPC's: {}", super::some_of(&odd)),
            "connections of pods to these ranges have the pods' own addresses now, and the node's once it is moved",
            "add them to AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS, if they are to stay so",
        ));
    }
    let is_known = |cidr: &&ipnet::Ipv4Net| settings.vpc_cidrs.iter().any(|it| it.contains(*cidr));
    let new: Vec<_> = metadata.vpc_ipv4_cidrs.iter().filter(|it| !is_known(it)).collect();
    if settings.external_snat.value() == Some(&false) && !new.is_empty() {
        findings.push(Finding::warning(
            format!("the VPC has ranges that the rules of amazon-vpc-cni-k8s do not know: {}", super::some_of(&new)),
            "connections of pods to these ranges have the node's address now, and the pods' own once the node is moved",
            "nothing, if that is as it should be; otherwise add the ranges to AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS on the other nodes",
        ));
    }
    findings
}

/// Compares by which ENI each pod is led with the one that has its address.
fn pods(node: &Node<'_>, metadata: &Metadata) -> Vec<Finding> {
    let kernel = &node.survey.kernel;
    let links = kernel.eni_links();
    let mut findings = Vec::new();
    for address in node.pods.iter().flat_map(|pod| &pod.addresses) {
        let has = |blocks: &[ipnet::IpNet]| blocks.iter().any(|block| block.contains(address));
        let Some(eni) = metadata.observation.enis.iter().find(|eni| has(&eni.blocks)) else {
            findings.push(not_held(*address));
            continue;
        };
        let table = kernel.tables_from(*address).first().copied().unwrap_or(Table::MAIN);
        let link = links.get(&table).and_then(|name| kernel.link(name));
        if let Some(link) = link
            && link.mac.is_some_and(|mac| mac != eni.mac)
        {
            findings.push(Finding::refusal(
                format!("{address} is of {} ({}), and what the pod sends leaves by {} (table {table})", eni.id, eni.mac, link.id),
                "EC2 drops what leaves by an ENI that does not have the address",
                "remove the rule that leads to the wrong table (ip rule del from ADDRESS), or delete the pod: it is made anew",
            ));
        }
    }
    findings
}

fn not_held(address: IpAddr) -> Finding {
    Finding::warning(
        format!("no ENI of this instance has {address}"),
        "EC2 leads nothing to the pod already, and its lease would be of an address that the node does not have: it is not imported",
        "delete the pod: it is made anew; if there are many, look whether --imds-endpoint is this node's",
    )
}
