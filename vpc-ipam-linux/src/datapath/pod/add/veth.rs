//! The veths of a pod that is added: made, found from an earlier ADD, or made instead of an earlier pod's.

use super::error::AddFailure;
use crate::datapath::pod::name;
use crate::datapath::pod::network::{PodInterface, PodNetwork};
use crate::datapath::pod::veth::{other_end, with_mac, with_mac_by_any_name};
use crate::{
    KernelChange, KernelEffect, Link, LinkIndex, Namespace, Netlink, NetlinkError, Protocol, Route,
};

/// Which ADD made the veth of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VethOrigin {
    /// It was not made, or it is not known which ADD made it.
    Unknown,
    /// This call made it; the host's end is this link. By its name it might be another's by the time that it is removed.
    New(LinkIndex),
    /// An earlier ADD made it.
    Earlier,
}

/// A veth of which both ends are there.
pub(super) struct MadeVeth {
    pub(super) link: LinkIndex,
    pub(super) peer: LinkIndex,
    /// Whether it was there before.
    pub(super) kept: bool,
}

pub(super) fn make_veths(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &mut PodNetwork,
    origins: &mut [VethOrigin],
) -> Result<Vec<MadeVeth>, AddFailure> {
    let veths: Option<Vec<_>> = network
        .interfaces
        .iter()
        .map(|it| Some(KernelChange::AddVeth(it.veth(namespace)?)))
        .collect();
    let Some(changes) = veths else { return find_veths(host, pod, network, origins) };
    let results = host.change(&changes)?;
    for (origin, result) in origins.iter_mut().zip(&results) {
        if let Ok(KernelEffect::Veth { link, .. }) = result {
            *origin = VethOrigin::New(*link);
        }
    }
    let mut made = Vec::with_capacity(changes.len());
    let each = network.interfaces.iter().zip(&changes).zip(results).zip(origins);
    for (((interface, change), result), origin) in each {
        made.push(match result {
            Ok(effect) => made_veth(effect)?,
            Err(refusal) if refusal.is(&[rustix::io::Errno::EXIST]) => {
                let veth = keep_or_replace(host, pod, interface, change)?;
                *origin = if veth.kept { VethOrigin::Earlier } else { VethOrigin::New(veth.link) };
                veth
            }
            Err(refusal) => return Err(AddFailure::refused(change, refusal)),
        });
    }
    Ok(made)
}

/// Finds the veths of a pod that another program set up: no other could take their place.
fn find_veths(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    network: &mut PodNetwork,
    origins: &mut [VethOrigin],
) -> Result<Vec<MadeVeth>, AddFailure> {
    let mut found = Vec::with_capacity(network.interfaces.len());
    for (interface, origin) in network.interfaces.iter_mut().zip(origins) {
        let gone = |end: &str| AddFailure::FoundLinkGone { link: end.to_owned() };
        let mut outside = with_mac(host, &interface.host)?;
        if outside.is_none() {
            outside = with_mac_by_any_name(host, &interface.host)?;
        }
        let outside = outside.ok_or_else(|| gone(&interface.host.name))?;
        let inside = other_end(pod, &interface.container, &outside)?;
        let inside = inside.ok_or_else(|| gone(&interface.container.name))?;
        *origin = VethOrigin::Earlier;
        interface.host.name = outside.id.name.to_string();
        interface.container.mac = inside.mac;
        interface.keep_mtu(&outside);
        found.push(MadeVeth { link: outside.id.index, peer: inside.id.index, kept: true });
    }
    Ok(found)
}

/// Keeps the veth that has the name of the new one if an earlier ADD made it for this pod, and replaces it if it is an earlier pod's.
fn keep_or_replace(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    interface: &PodInterface,
    change: &KernelChange,
) -> Result<MadeVeth, AddFailure> {
    let PodInterface { host: host_end, container, .. } = interface;
    let outside = host.link(&host_end.name)?;
    if let Some(outside) = outside.as_ref().filter(|it| it.mac == Some(host_end.mac))
        && let Some(inside) = other_end(pod, container, outside)?
    {
        return Ok(MadeVeth { link: outside.id.index, peer: inside.id.index, kept: true });
    }
    let mut changes = vec![change.clone()];
    if let Some(outside) = &outside {
        let ends_here = |link: &Link| {
            (link.lower, outside.lower) == (Some(outside.id.index), Some(link.id.index))
                && *link.id.name != *container.name
        };
        if pod.links()?.iter().any(ends_here) {
            return Err(AddFailure::HostEndInUse { host: host_end.name.clone() });
        }
        spare_other_pods(host, interface, outside)?;
        // Of an earlier pod of that name whose namespace lives on; its other end goes with it.
        changes.insert(0, KernelChange::RemoveLinkByIndex(outside.id.clone()));
    }
    match host.change(&changes)?.pop() {
        Some(Ok(effect)) => Ok(made_veth(effect)?),
        Some(Err(refusal)) if pod.link(&container.name)?.is_some() => {
            drop(refusal);
            Err(AddFailure::InterfaceExists { ifname: container.name.clone() })
        }
        Some(Err(refusal)) => Err(AddFailure::refused(change, refusal)),
        None => Err(NetlinkError::Decode { what: "no answer" }.into()),
    }
}

/// Refuses to take a link that another pod uses, or another program.
fn spare_other_pods(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    there: &Link,
) -> Result<(), AddFailure> {
    let link = there.id.name.to_string();
    if there.kind.as_deref() != Some("veth") {
        return Err(AddFailure::LinkOfHost { link });
    }
    if there.alias.as_deref() == Some(&interface.alias) {
        return Ok(());
    }
    // Where no route leads to it any more the pod is gone, and its link about to go.
    let leads_to_pod = |route: &&Route| {
        let net = route.destination;
        net.prefix_len() == net.max_prefix_len()
            && route.gateway.is_none()
            && route.protocol != Protocol::KERNEL
    };
    let routes = host.routes(there.id.index)?;
    let Some(route) = routes.iter().find(leads_to_pod) else { return Ok(()) };
    let pod = name::of_alias(&interface.alias).unwrap_or_default().to_owned();
    Err(match there.alias.as_deref().and_then(name::of_alias) {
        Some(other) => AddFailure::LinkOfAnotherPod { link, pod, other: other.to_owned() },
        None => AddFailure::LinkOfUnknownPod { link, pod, address: route.destination.addr() },
    })
}

fn made_veth(effect: KernelEffect) -> Result<MadeVeth, NetlinkError> {
    match effect {
        KernelEffect::Veth { link, peer } => Ok(MadeVeth { link, peer, kept: false }),
        KernelEffect::Done => Err(NetlinkError::Decode { what: "veth without an index" }),
    }
}
