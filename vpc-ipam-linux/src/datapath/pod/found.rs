//! Pods of which nothing is known but their key, or not even that.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::PodKey;

use super::network::our_rules;
use super::remove::{RemoveError, remove_all_alike};
use super::veth::derived_mac;
use crate::state::apply::{ApplyError, carry_out};
use crate::{Family, KernelChange, Leads, Netlink, NetlinkError, Object, RouteEntry, Table};

/// More interfaces than any instance has network cards.
const INTERFACES_MAX: u8 = 16;

/// Removes the links of a pod from the host, the routes over them and our rules of the addresses to which those led, and returns
/// the addresses.
///
/// This is for when nothing else is known of the addresses that the pod had. The MAC addresses of its links follow from its key, and the
/// routes over them lead to its addresses. A pod whose links went along with its namespace has no
/// routes any more; its rules are those of a pod that is gone, which [`NodeNetwork::repair`](crate::NodeNetwork::repair) finds.
pub fn remove_found(host: &mut dyn Netlink, key: &PodKey) -> Result<Vec<IpAddr>, RemoveError> {
    let mut try_remove = || {
        let mut addresses = Vec::new();
        let (mut changes, mut removals) = (Vec::new(), Vec::new());
        let links = host.links()?;
        for number in 0..INTERFACES_MAX {
            let mac = derived_mac(key, number, "host");
            let Some(link) = links.iter().find(|link| link.mac == Some(mac)) else {
                continue;
            };
            for route in host.routes(link.id.index)? {
                let net = route.destination;
                let to_pod = route.table == Table::MAIN
                    && route.gateway.is_none()
                    && net.prefix_len() == net.max_prefix_len();
                if !to_pod {
                    continue;
                }
                let link = link.id.clone();
                changes.push(KernelChange::Remove(Object::Route { link, route }));
                let rules = our_rules(net.addr()).map(Object::Rule);
                changes.extend(rules.map(KernelChange::Remove));
                addresses.push(net.addr());
            }
            removals.push(KernelChange::RemoveLinkByIndex(link.id.clone()));
        }
        remove_all_alike(host, changes)?;
        carry_out(host, &removals)?;
        Ok(addresses)
    };
    try_remove().map_err(|failure: ApplyError| RemoveError { failures: vec![failure] })
}

/// Returns the addresses to which routes of the main table lead over a link alone, as they do to pods, whichever program made them.
pub fn routed(host: &mut dyn Netlink) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut addresses = BTreeSet::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let to_host = |RouteEntry { route, leads }: &RouteEntry| {
            let net = route.destination;
            route.table == Table::MAIN
                && route.gateway.is_none()
                && net.prefix_len() == net.max_prefix_len()
                && matches!(leads, Leads::Over(_))
        };
        let entries = host.all_routes(family)?.into_iter().filter(to_host);
        addresses.extend(entries.map(|entry| entry.route.destination.addr()));
    }
    Ok(addresses)
}
