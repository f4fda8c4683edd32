//! Each pod of a node, and what becomes of it.

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;
use vpc_ipam_core::Pod;
use vpc_ipam_linux::{VethPrefix, pod::host_links};

use super::{CachedResult, CheckpointEntry, Derived, PodRoute, Survey};

/// A pod, or what may be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodMove {
    /// Its namespace and name, if the checkpoint has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The id of its sandbox, if the checkpoint has the pod or the runtime remembers its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its addresses, in the order of network cards.
    pub addresses: Vec<IpAddr>,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// It becomes a lease with the links that it has.
    Imported {
        /// Its links on the node, in the order of its addresses.
        links: Vec<String>,
        /// The table of its ENI, an address each; `main` for the primary one.
        tables: Vec<String>,
        /// What is missing of it in the kernel, and is put back.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
    /// It keeps its address, which goes to no other pod while its link or route is there.
    Untracked {
        /// The link that leads to it.
        link: String,
        /// Why it does not become a lease.
        why: String,
    },
    /// Nothing becomes of it.
    Skipped {
        /// Why.
        why: String,
    },
    /// Moving the node is refused because of it.
    Refused {
        /// Why.
        why: String,
    },
}

/// Returns each pod of the checkpoint, in its order, and then those that only the kernel knows.
pub fn pods(survey: &Survey, derived: &Derived) -> Vec<PodMove> {
    let routes = survey.kernel.pod_routes(&ranges(survey));
    let prefix = derived.settings.iter().find(|it| it.name == "AWS_VPC_K8S_CNI_VETHPREFIX");
    let prefix = prefix.and_then(|it| it.value()?.parse().ok()).unwrap_or_default();
    let mut pods = Vec::new();
    let mut known: BTreeSet<IpAddr> = BTreeSet::new();
    for entries in by_pod(&survey.checkpoint.entries) {
        let addresses: Vec<IpAddr> = entries.iter().flat_map(|entry| entry.addresses()).collect();
        known.extend(&addresses);
        let first = entries[0];
        pods.push(PodMove {
            pod: first
                .namespace
                .as_ref()
                .zip(first.pod.as_ref())
                .map(|(namespace, pod)| format!("{namespace}/{pod}")),
            container: Some(first.container.clone()),
            fate: fate(survey, &routes, &prefix, &entries),
            addresses,
        });
    }
    let mut seen = BTreeSet::new();
    // A pod of vpc-ipamd is no pod to be moved.
    let unknown = routes.iter().filter(|route| !route.ours && !known.contains(&route.address));
    for route in unknown {
        if !seen.insert(route.address) {
            continue;
        }
        let why = if is_of_branch(survey, route) {
            "it is on a branch ENI"
        } else if survey.checkpoint.files.is_empty() {
            "there is no checkpoint"
        } else {
            "the checkpoint does not have it"
        };
        let fate = match is_of_branch(survey, route) {
            true => Fate::Refused { why: why.to_owned() },
            false => Fate::Untracked { link: route.link.clone(), why: why.to_owned() },
        };
        // What the runtime remembers tells whose the address is.
        let has = |result: &&CachedResult| result.addresses.contains(&route.address);
        let container = survey.results.iter().find(has).map(|result| result.container.clone());
        pods.push(PodMove { pod: None, container, addresses: vec![route.address], fate });
    }
    pods
}

/// Returns the entries of each pod, of several network cards in their order.
pub(super) fn by_pod(entries: &[CheckpointEntry]) -> Vec<Vec<&CheckpointEntry>> {
    let mut pods: Vec<Vec<&CheckpointEntry>> = Vec::new();
    for entry in entries {
        let key =
            |it: &CheckpointEntry| (it.network.clone(), it.container.clone(), it.ifname.clone());
        let same = pods
            .iter_mut()
            .find(|pod| key(pod[0]) == key(entry) && pod.iter().all(|it| it.card != entry.card));
        match same {
            Some(pod) => pod.push(entry),
            None => pods.push(vec![entry]),
        }
    }
    pods
}

/// Returns the ranges that pods have addresses of: those of the VPC as the rules have them, and the subnets of ENIs.
pub(super) fn ranges(survey: &Survey) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> =
        survey.settings.vpc_cidrs.iter().map(|it| IpNet::V4(*it)).collect();
    for link in survey.kernel.eni_links().values() {
        ranges.extend(survey.kernel.subnets(link));
    }
    ranges
}

/// Returns the names that the links of a pod have by its own name; none where the checkpoint does not have that.
pub(super) fn links_by_name(entries: &[&CheckpointEntry], prefix: &VethPrefix) -> Vec<String> {
    let first = entries[0];
    let (Some(namespace), Some(name)) = (&first.namespace, &first.pod) else { return Vec::new() };
    host_links(&Pod::new(namespace, name), entries.len(), prefix).collect()
}

/// Returns whether a pod is on a branch ENI: by the name of its link or the table that its route is in.
pub(super) fn is_of_branch(survey: &Survey, route: &PodRoute) -> bool {
    let table_of_vlan = |table: vpc_ipam_linux::Table| {
        let name = table.0.checked_sub(100).map(|vlan| format!("vlan.eth.{vlan}"));
        name.is_some_and(|name| survey.kernel.link(&name).is_some())
    };
    route.link.starts_with("vlan")
        || table_of_vlan(route.table)
        || survey.kernel.tables_from(route.address).into_iter().any(table_of_vlan)
}

fn fate(
    survey: &Survey,
    routes: &[PodRoute],
    prefix: &VethPrefix,
    entries: &[&CheckpointEntry],
) -> Fate {
    let by_name = links_by_name(entries, prefix);
    let (mut links, mut tables, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        for address in entry.addresses() {
            let mut leading = routes.iter().filter(|route| route.address == address);
            let link = match (leading.next(), by_name.get(number)) {
                (Some(route), _) if is_of_branch(survey, route) => {
                    return Fate::Refused { why: "it is on a branch ENI".to_owned() };
                }
                (Some(route), _) if route.shared => {
                    let why = format!("{} leads to other pods too", route.link);
                    return Fate::Untracked { link: route.link.clone(), why };
                }
                (Some(route), _) => route.link.clone(),
                (None, Some(name)) if survey.kernel.link(name).is_some() => {
                    missing.push(format!("the route to {address}"));
                    name.clone()
                }
                (None, _) => {
                    let why = format!("no link leads to {address}: the pod is gone");
                    return Fate::Skipped { why };
                }
            };
            if !survey.kernel.has_rule_to(address) {
                missing.push(format!("the rule to {address}"));
            }
            links.push(link);
            let table = survey.kernel.tables_from(address).first().map(ToString::to_string);
            tables.push(table.unwrap_or_else(|| "main".to_owned()));
        }
    }
    Fate::Imported { links, tables, missing }
}
