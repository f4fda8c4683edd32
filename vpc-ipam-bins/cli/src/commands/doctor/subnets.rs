//! Whether the subnets have addresses, and whole /28 where prefixes are asked for.

use vpc_ipam_core::{BackoffScope, SubnetId};
use vpc_ipam_protocol::{Inventory, Told};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "subnets",
    about: "free addresses of the node's subnets, and whether EC2 lately found no whole /28 or /80 in one",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// As many as a /28: what the next prefix takes, and about what an ENI of a small type does.
const FEW: u32 = 16;

fn run(facts: &Facts) -> Vec<Finding> {
    let (probe, inventory) = match (facts.probe(), facts.inventory()) {
        (Ok(probe), Ok(inventory)) => (probe, inventory),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::not_checked(&error.why)],
    };
    let subnets = match &probe.subnets {
        Told::Told(subnets) => subnets,
        Told::NotAsked(why) => return vec![Finding::not_checked(why)],
        Told::Failed(why) => return vec![Finding::not_checked(format!("no list of them: {why}"))],
    };
    let mut used: Vec<SubnetId> = inventory.enis.iter().map(|eni| eni.subnet).collect();
    if let Told::Told(metadata) = &probe.metadata {
        used.push(metadata.subnet);
    }
    let mut findings = Vec::new();
    for subnet in subnets.iter().filter(|subnet| used.contains(&subnet.id)) {
        let (id, cidr, free) = (subnet.id, subnet.ipv4_cidr, subnet.ipv4_addresses_free);
        let remedy = "lower WARM_ENI_TARGET or WARM_IP_TARGET on its nodes, add a subnet with the tag kubernetes.io/role/cni, or use custom \
                      networking (docs/per-node.md)";
        findings.push(match free {
            0 => Finding::failure(format!("{id} ({cidr}) has no free address"), remedy),
            1..FEW => {
                Finding::warning(format!("{id} ({cidr}) has {free} free addresses left"), remedy)
            }
            _ => Finding::ok(format!("{id} ({cidr}) has {free} free addresses")),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::not_checked("EC2 lists none of the subnets of this node's ENIs"));
    }
    findings.extend(fragmented(inventory));
    findings
}

/// Returns the subnets in which EC2 found no whole prefix: the number of free addresses does not tell.
fn fragmented(inventory: &Inventory) -> impl Iterator<Item = Finding> {
    inventory.explanation.failed.iter().filter_map(|failure| {
        let (subnet, prefix) = match failure.scope {
            BackoffScope::SubnetPrefixes(subnet) => (subnet, "/28"),
            BackoffScope::SubnetIpv6(subnet) => (subnet, "/80"),
            _ => return None,
        };
        let evidence = format!(
            "EC2 finds no free {prefix} in {subnet}, though single addresses may be free: {} (until {})",
            failure.last.message, failure.until
        );
        let remedy = "reserve a range for prefixes (aws ec2 create-subnet-cidr-reservation --reservation-type prefix), or use another subnet; \
                      meanwhile single addresses are asked for";
        Some(Finding::warning(evidence, remedy))
    })
}
