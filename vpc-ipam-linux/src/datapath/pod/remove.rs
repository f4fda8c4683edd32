//! DEL: removes what the host holds for a pod, and spares what another pod has by now.

use core::net::IpAddr;

use super::branch::VlanOwner;
use super::name::parts_of_host_name;
use super::network::{PodAddress, PodInterface, PodNetwork, our_rules};
use super::veth::{with_mac, with_mac_by_any_name};
use crate::state::apply::{ApplyError, carry_out, in_words, refused};
use crate::{
    Family, KernelChange, LinkIndex, Netlink, NetlinkError, Object, Protocol, Route, Rule, Table,
};

/// A failure to remove all of a pod's network; what could be removed is.
#[derive(Debug, thiserror::Error)]
#[error("remove the network of the pod: {}", errors_in_words(failures))]
pub struct RemoveError {
    /// Why something stays, one failure for each interface at most.
    pub failures: Vec<ApplyError>,
}

fn errors_in_words(failures: &[ApplyError]) -> String {
    let words = failures.iter().map(|failure| match failure {
        ApplyError::Refused { refused } => in_words(refused),
        other => other.to_string(),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// Removes the routes over the pod's link and our rules from the host, and returns the addresses that it spared because another
/// pod has them by now.
///
/// What is not there any more is no failure: it can be repeated, and it needs no namespace. The links are left, which
/// [`remove_links`] removes: they take the kernel longer than all else.
pub fn remove(host: &mut dyn Netlink, network: &PodNetwork) -> Result<Vec<IpAddr>, RemoveError> {
    let mut spared = Vec::new();
    let mut failures = Vec::new();
    for interface in &network.interfaces {
        if let Err(failure) = remove_interface(host, interface, &mut spared) {
            failures.push(failure);
        }
    }
    if failures.is_empty() { Ok(spared) } else { Err(RemoveError { failures }) }
}

/// Removes the links of a pod that are still there, and with them their other ends in the pod.
///
/// The kernel takes some 15 ms for each (measured on two cores), in which nothing else may change the network: where the pod's
/// namespace is about to go, it does the same in the background.
pub fn remove_links(host: &mut dyn Netlink, network: &PodNetwork) -> Result<(), RemoveError> {
    let mut remove = |interface: &PodInterface| -> Result<(), ApplyError> {
        let link = match with_mac(host, &interface.host)? {
            Some(link) => Some(link),
            None => with_mac_by_any_name(host, &interface.host)?,
        };
        let removal = link.map(|link| KernelChange::RemoveLinkByIndex(link.id));
        carry_out(host, removal.as_slice())
    };
    let results = network.interfaces.iter().map(&mut remove);
    let failures: Vec<_> = results.filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(RemoveError { failures }) }
}

fn remove_interface(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    spared: &mut Vec<IpAddr>,
) -> Result<(), ApplyError> {
    let mut ours = with_mac(host, &interface.host)?;
    let mut changes = Vec::new();
    if let Some(branch) = &interface.branch {
        match branch.link(host)? {
            VlanOwner::LaterEni => {
                spared.extend(interface.addresses.iter().map(|it| it.address));
                return Ok(());
            }
            VlanOwner::ThisEni(link) => {
                changes.push(KernelChange::RemoveLinkByIndex(link.id));
            }
            VlanOwner::NoLink => {}
        }
        changes.extend(
            branch.our_rules().into_iter().map(|it| KernelChange::Remove(Object::Rule(it))),
        );
        if let Some(ours) = &ours {
            // Where strict mode has it. The mode may be another than when the pod was added.
            changes.extend(interface.addresses.iter().map(|it| {
                let route = Route::on_link(interface.table, it.address);
                KernelChange::Remove(Object::Route { link: ours.id.clone(), route })
            }));
        }
    }
    for PodAddress { address, .. } in &interface.addresses {
        let own = Route::on_link(Table::MAIN, *address);
        let there = host
            .route_to(*address)?
            .filter(|(_, route)| (route.table, route.destination) == (own.table, own.destination));
        if there.is_some() && ours.is_none() {
            ours = with_mac_by_any_name(host, &interface.host)?;
        }
        match (there, &ours) {
            (Some((link, route)), Some(ours)) if ours.id.index == link => {
                changes.push(KernelChange::Remove(Object::Route { link: ours.id.clone(), route }));
            }
            (Some((link, route)), _) if is_to_pod(host, link, &route)? => {
                spared.push(*address);
                continue;
            }
            (Some(_) | None, _) => {}
        }
        changes.extend(our_rules(*address).map(|rule| KernelChange::Remove(Object::Rule(rule))));
        if interface.found.is_some() {
            remove_rules_without_protocol(host, *address)?;
        }
    }
    remove_all_alike(host, changes)
}

/// Removes the rules that amazon-vpc-cni-k8s made for an address; a twin of ours may go first, which is to go too.
fn remove_rules_without_protocol(
    host: &mut dyn Netlink,
    address: IpAddr,
) -> Result<(), ApplyError> {
    let patterns = our_rules(address).map(|rule| Rule { protocol: Protocol::UNSPECIFIED, ..rule });
    let is_for = |rule: &Rule| {
        [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol)
            && rule.is_plain()
            && patterns.iter().any(|pattern| pattern.removes(rule))
    };
    let mut rules = host.rules(Family::of(address))?;
    rules.retain(is_for);
    rules.sort_by_key(|rule| rule.protocol == Protocol::UNSPECIFIED);
    let removals = rules.into_iter().map(|rule| KernelChange::Remove(Object::Rule(rule)));
    carry_out(host, &removals.collect::<Vec<_>>())
}

/// Returns whether a route leads to a pod, and not only somewhere else.
fn is_to_pod(host: &mut dyn Netlink, link: LinkIndex, route: &Route) -> Result<bool, NetlinkError> {
    if route.protocol == Protocol::OURS {
        return Ok(true);
    }
    let links = host.links()?;
    let over = links.iter().find(|it| it.id.index == link);
    Ok(over.is_some_and(|it| {
        it.kind.as_deref() == Some("veth") && parts_of_host_name(&it.id.name).is_some()
    }))
}

/// Removes until there is nothing left to remove: earlier versions of amazon-vpc-cni-k8s left several rules for one address.
pub(super) fn remove_all_alike(
    host: &mut dyn Netlink,
    mut changes: Vec<KernelChange>,
) -> Result<(), ApplyError> {
    /// More rules of one address than any VPC has ranges.
    const ROUNDS_MAX: usize = 32;
    let mut failed = Vec::new();
    for _ in 0..ROUNDS_MAX {
        if changes.is_empty() {
            break;
        }
        // Twice at once: the second finds nothing as a rule, which ends it without another round.
        let twice: Vec<_> =
            changes.iter().flat_map(|change| [change.clone(), change.clone()]).collect();
        let results = host.change(&twice)?;
        let again =
            results.chunks(2).map(|pair| pair.iter().all(Result::is_ok)).collect::<Vec<_>>();
        failed.extend(refused(&twice, results));
        let mut again = again.into_iter();
        changes.retain(|_| again.next().unwrap_or(false));
    }
    if failed.is_empty() { Ok(()) } else { Err(ApplyError::Refused { refused: failed }) }
}
