//! CHECK: compares what a pod and the host hold with what they should.

use super::branch::VlanOwner;
use super::egress;
use super::network::PodNetwork;
use super::tables::Inside;
use super::veth::{other_end, with_mac, with_mac_by_any_name};
use crate::state::State;
use crate::state::actual::Actual;
use crate::state::diff::{Difference, diff};
use crate::{Link, LinkIndex, Netlink, NetlinkError, Object};

/// Lists how the network of a pod differs from what it should be.
pub fn check(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    network: &PodNetwork,
) -> Result<Vec<Difference>, NetlinkError> {
    let mut interfaces = Vec::with_capacity(network.interfaces.len());
    let (mut outer, mut inner) = (Vec::new(), Vec::new());
    for interface in &network.interfaces {
        let outside = match with_mac(host, &interface.host)? {
            Some(link) => Some(link),
            None => with_mac_by_any_name(host, &interface.host)?,
        };
        let mut interface = interface.clone();
        let mut inside = None;
        if let Some(link) = &outside {
            interface.host.name = link.id.name.to_string();
            interface = egress::with_present_address(host, &interface, &link.id)?;
            inside = other_end(pod, &interface.container, link)?;
            interface.keep_mtu(link);
        }
        let index = |link: Option<Link>| link.map_or(NO_LINK, |link| link.id.index);
        let (outside, inside) = (index(outside), index(inside));
        if inside != NO_LINK {
            interface = egress::with_address_in_pod(pod, &interface, inside)?;
        }
        interfaces.push(interface);
        outer.push(outside);
        inner.push(inside);
    }
    Inside::read(pod, &interfaces, inner.clone())?.assign_tables(pod, &mut interfaces)?;
    let mut differences = Vec::new();
    for ((interface, outside), inside) in interfaces.iter().zip(outer).zip(inner) {
        if let Some(branch) = &interface.branch {
            let link = match branch.link(host)? {
                VlanOwner::ThisEni(link) => link.id.index,
                VlanOwner::LaterEni | VlanOwner::NoLink => NO_LINK,
            };
            differences.extend(differences_of(host, link, &branch.on_host(link, interface.mtu))?);
        }
        differences.extend(differences_of(host, outside, &interface.on_host(outside))?);
        differences.extend(differences_of(pod, inside, &interface.in_pod(inside))?);
    }
    Ok(differences)
}

fn differences_of(
    netlink: &mut dyn Netlink,
    link: LinkIndex,
    state: &State,
) -> Result<Vec<Difference>, NetlinkError> {
    if link == NO_LINK {
        // The rest is missing along with it.
        let links = state.wanted.iter().filter(|it| matches!(it, Object::Link { .. }));
        return Ok(links.cloned().map(Difference::Missing).collect());
    }
    Ok(diff(state, &Actual::read(netlink, state)?))
}

/// The kernel counts links from 1.
const NO_LINK: LinkIndex = LinkIndex(0);
