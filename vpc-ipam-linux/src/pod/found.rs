//! Pods of which nothing is known but their key, or not even that.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::PodKey;

use super::{RemoveError, any_rules, derived_mac, remove_all_alike};
use crate::state::ApplyError;
use crate::{Change, Netlink, NetlinkError, Object, Protocol, Table};

/// More interfaces than any instance has network cards.
const INTERFACES_MAX: u8 = 16;

/// Removes the routes and the rules of a pod from the host by what its links there tell, and returns the addresses that
/// they led to.
///
/// This is for when nobody can be asked which addresses the pod had: its links are told from others by their MAC addresses,
/// which follow from its key, and the addresses by the routes over them. A pod whose links went along with its namespace
/// has no routes any more; its rules are those of a pod that is gone, which [`Node::repair`](crate::Node::repair) finds.
pub fn remove_found(host: &mut dyn Netlink, key: &PodKey) -> Result<Vec<IpAddr>, RemoveError> {
    let mut try_remove = || {
        let mut addresses = Vec::new();
        let mut changes = Vec::new();
        let links = host.links()?;
        for number in 0..INTERFACES_MAX {
            let mac = derived_mac(key, number, "host");
            let Some(link) = links.iter().find(|link| link.mac == Some(mac)) else {
                continue;
            };
            for route in host.routes(link.id.index)? {
                let net = route.destination;
                let to_pod = route.protocol == Protocol::OURS
                    && route.table == Table::MAIN
                    && net.prefix_len() == net.max_prefix_len();
                if !to_pod {
                    continue;
                }
                let link = link.id.clone();
                changes.push(Change::Remove(Object::Route { link, route }));
                let rules = any_rules(net.addr()).map(Object::Rule);
                changes.extend(rules.map(Change::Remove));
                addresses.push(net.addr());
            }
        }
        remove_all_alike(host, changes)?;
        Ok(addresses)
    };
    try_remove().map_err(|failure: ApplyError| RemoveError { failures: vec![failure] })
}

/// Returns the addresses to which routes of the main table lead over a link alone, as they do to pods, whoever made them.
pub fn routed(host: &mut dyn Netlink) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let to_host = |route: &crate::Route| {
        let net = route.destination;
        route.table == Table::MAIN
            && route.gateway.is_none()
            && net.prefix_len() == net.max_prefix_len()
    };
    let routes = host.all_routes()?.into_iter().map(|(_, route)| route).filter(to_host);
    Ok(routes.map(|route| route.destination.addr()).collect())
}
