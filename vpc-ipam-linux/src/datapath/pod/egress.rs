//! Addresses that only the node knows, by which pods reach the family of which they have none in the VPC.
//!
//! The node translates them to its own. No daemon hands them out: a pod takes the first for which the kernel lets it add a route,
//! and loses it along with its link. So none can leak, and no two pods can have one.

use core::net::IpAddr;

use ipnet::IpNet;
use sha1::{Digest as _, Sha1};

use crate::datapath::numbering::pod_gateway;
use crate::datapath::numbering::{EGRESS_IPV4, EGRESS_IPV6};
use crate::state::apply::ApplyError;
use crate::{
    Family, KernelChange, LinkId, LinkIndex, Netlink, NetlinkError, Protocol, Refused, Route, Table,
};

use super::network::{PodAddress, PodInterface};

/// Returns the range of a family, in which the first and the last few addresses go to no pod.
fn range(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => EGRESS_IPV4.into(),
        Family::Ipv6 => EGRESS_IPV6.into(),
    }
}

/// Returns whether an address is one that only the node knows.
pub(crate) fn is_of_pod(address: IpAddr) -> bool {
    range(Family::of(address)).contains(&address)
}

/// Returns the interface with the address that it has, or takes one for it.
pub(super) fn with_address(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    link: &LinkId,
) -> Result<PodInterface, ApplyError> {
    let Some(family) = interface.egress else {
        return Ok(interface.clone());
    };
    let resolved = with_present_address(host, interface, link)?;
    if resolved.egress.is_none() {
        return Ok(resolved);
    }
    let mut last = None;
    for address in candidates(family, &interface.host.mac.0) {
        let change = KernelChange::AddRoute { link: link.clone(), route: route_to(address) };
        match host.change(core::slice::from_ref(&change))?.pop() {
            Some(Ok(_)) => return Ok(with(interface, address)),
            Some(Err(refusal)) if refusal.is(&[rustix::io::Errno::EXIST]) => {
                last = Some(Refused::new(&change, refusal));
            }
            Some(Err(refusal)) => {
                return Err(ApplyError::Refused { refused: vec![Refused::new(&change, refusal)] });
            }
            None => return Err(NetlinkError::Decode { what: "no answer" }.into()),
        }
    }
    // Every address of the range is taken.
    Err(ApplyError::Refused { refused: last.into_iter().collect() })
}

/// Returns the interface with the address that it has on its link, if it has one.
pub(super) fn with_present_address(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    link: &LinkId,
) -> Result<PodInterface, NetlinkError> {
    let Some(family) = interface.egress else {
        return Ok(interface.clone());
    };
    let found = among(family, &host.routes(link.index)?);
    Ok(found.map_or_else(|| interface.clone(), |found| with(interface, found)))
}

/// Returns the interface with the address that the pod's end has, if it has one: the host may have lost its route to it.
pub(super) fn with_address_in_pod(
    pod: &mut dyn Netlink,
    interface: &PodInterface,
    link: LinkIndex,
) -> Result<PodInterface, NetlinkError> {
    let Some(family) = interface.egress else {
        return Ok(interface.clone());
    };
    let range = range(family);
    let found = pod.addresses(link)?.into_iter().map(|address| address.net.addr());
    let found = found.filter(|address| range.contains(address)).min();
    Ok(found.map_or_else(|| interface.clone(), |found| with(interface, found)))
}

/// Returns the address to which one of the routes over the link of a pod leads.
pub(crate) fn among<'a>(
    family: Family,
    routes: impl IntoIterator<Item = &'a Route>,
) -> Option<IpAddr> {
    let range = range(family);
    let found = routes.into_iter().find(|route| {
        route.protocol == Protocol::OURS && range.contains(&route.destination.addr())
    });
    found.map(|route| route.destination.addr())
}

/// Returns the interface with an address that is known to be its own.
pub(crate) fn with(interface: &PodInterface, address: IpAddr) -> PodInterface {
    let mut interface = interface.clone();
    interface.egress = None;
    let gateway = pod_gateway(Family::of(address), 0);
    let table = Table::MAIN;
    interface.addresses.push(PodAddress { address, gateway, only_on_node: true, table });
    interface
}

fn route_to(address: IpAddr) -> Route {
    Route::on_link(Table::MAIN, address)
}

/// Returns every address of the range that a pod may have, beginning at one that differs from pod to pod.
fn candidates(family: Family, seed: &[u8]) -> impl Iterator<Item = IpAddr> {
    /// Both ranges have 1024; the network's own, the gateway of amazon-vpc-cni-k8s and the broadcast address are left out.
    const USABLE: u16 = 1024 - 3;
    let digest = Sha1::digest(seed);
    let start = u16::from_be_bytes([digest[0], digest[1]]) % USABLE;
    (0..USABLE).map(move |i| {
        let offset = 2 + (start + i) % USABLE;
        match range(family).network() {
            IpAddr::V4(base) => (base.to_bits() + u32::from(offset)).to_be_bytes().into(),
            IpAddr::V6(base) => (base.to_bits() + u128::from(offset)).to_be_bytes().into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_usable_address_is_a_candidate_once() {
        for (family, first, last) in [
            (Family::Ipv4, "169.254.172.2", "169.254.175.254"),
            (Family::Ipv6, "fd00::ac:2", "fd00::ac:3fe"),
        ] {
            for seed in [[0; 6], [7; 6]] {
                let all: Vec<_> = candidates(family, &seed).collect();
                let unique: BTreeSet<_> = all.iter().copied().collect();
                assert_eq!((all.len(), unique.len()), (1021, 1021));
                assert_eq!(unique.first(), Some(&first.parse().unwrap()));
                assert_eq!(unique.last(), Some(&last.parse().unwrap()));
            }
        }
    }
}
