//! Addresses for pods whose links another plugin makes: ADD, CHECK and DEL touch no link.

use core::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use vpc_ipam_core::{AddressRequest, LeasedInterface, Mac};
use vpc_ipam_linux::{
    KernelChange, KernelNetlink, Link, LinkId, Netlink, Object, Protocol, Route as KernelRoute,
    State, Table,
};
use vpc_ipam_protocol::pending_release;
use vpc_ipam_protocol::{Answer, Assign, EniOf, Request};

use super::add::pod_of;
use super::daemon::{Daemon, ask, unexpected};
use super::{del, kernel, key, open_host, socket};
use crate::{AddResult, Call, Code, Error, Ip, Route};

/// Number of routes that an administrator sets: RTPROT_STATIC of linux/rtnetlink.h. Those of our own number are the daemon's to keep.
const STATIC: Protocol = Protocol(4);

pub(super) fn add(call: &Call) -> Result<AddResult, Error> {
    refuse_what_cannot_work(call)?;
    let (key, socket) = (key(call)?, socket(call));
    let mut host = open_host()?;
    let of = match &call.config.master {
        Some(name) => EniOf::Link(mac_of(&mut host, name)?),
        None => EniOf::Primary,
    };
    let request =
        AddressRequest::new(key.clone(), Arc::new(pod_of(call))).with_addresses_only(true);
    let sandbox = call.netns.as_ref().and_then(|path| path.to_str()).map(PathBuf::from);
    let asked = Request::Assign(Assign { request, sandbox, of: Some(of) });
    let mut daemon = Daemon::at(socket);
    let asked_first = daemon.ask(&asked)?;
    let (lease, again) = match daemon.answer(asked_first, &asked)? {
        Answer::Lease { lease, again, .. } => (lease, again),
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    let done = pending_release::withdraw(socket, &key)
        .map_err(|error| Error::new(Code::Io, "withdraw the pending release").because(error))
        .and_then(|()| result(call, &mut host, &lease.first));
    done.map_err(|mut error| {
        // A container that was added before may run: it keeps its address.
        if !again && let Err(also) = del::release(socket, key).map_err(Error::from) {
            error.details.push_str(&format!("; and releasing the address failed: {also}"));
        }
        error
    })
}

/// Compares the addresses that the pod has with what the runtime says that ADD answered.
pub(super) fn check(call: &Call) -> Result<(), Error> {
    let key = key(call)?;
    let lease = match ask(socket(call), &Request::Find(key.clone()))? {
        Answer::Lease { lease, .. } => lease,
        Answer::Unknown => {
            let what = format!("check the addresses of {key}");
            let mut error = Error::new(Code::UnknownContainer, what);
            error.details = "vpc-ipamd knows no such pod".to_string();
            return Err(error);
        }
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    let Some(told) = &call.config.prev_result else { return Ok(()) };
    let told = crate::addresses(told);
    let lost: Vec<_> = lease
        .addresses()
        .filter(|address| !told.contains(address))
        .map(|address| format!("prevResult does not have {address}"))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(Code::Kernel, "the pod's addresses are not as they should be");
    error.details = lost.join("; ");
    Err(error)
}

/// Releases the addresses; what this plugin made for a bridge goes first.
pub(super) fn del(call: &Call) -> Result<(), Error> {
    if call.config.bridge.is_some() {
        remove_routes(call, &addresses_of(call)?)?;
    }
    del::del(call)
}

/// Removes the routes to a pod's addresses over the bridge, if the configuration names one.
///
/// What is not there any more is no failure: a bridge that is down for a moment loses them, and a call that was interrupted is repeated.
pub(super) fn remove_routes(call: &Call, addresses: &[IpAddr]) -> Result<(), Error> {
    if call.config.bridge.is_none() {
        return Ok(());
    }
    let mut host = open_host()?;
    let Some(bridge) = bridge_of(call, &mut host)? else { return Ok(()) };
    let routes = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => {
            Some(Object::Route { link: bridge.clone(), route: to_pod(*address) })
        }
        IpAddr::V6(_) => None,
    });
    let state = State { wanted: routes.collect(), claims: Vec::new() };
    let removed = vpc_ipam_linux::remove(&mut host, &state);
    removed.map(drop).map_err(|error| kernel("remove the route to the pod", &error))
}

/// Returns the addresses that a pod has, or had as the runtime says where no daemon runs.
fn addresses_of(call: &Call) -> Result<Vec<IpAddr>, Error> {
    Ok(match ask(socket(call), &Request::Find(key(call)?)) {
        Ok(Answer::Lease { lease, .. }) => lease.addresses().collect(),
        Ok(_) => Vec::new(),
        Err(_) => call.config.prev_result.as_ref().map(crate::addresses).unwrap_or_default(),
    })
}

fn refuse_what_cannot_work(call: &Call) -> Result<(), Error> {
    let refuse = |what: &str, details: &str| {
        let mut error = Error::new(Code::InvalidConfig, what);
        error.details = details.to_string();
        Err(error)
    };
    match call.config.main.as_deref() {
        Some("macvlan") => refuse(
            "macvlan does not work on EC2",
            "its pods send with MAC addresses of their own, and EC2 drops what does not come from the ENI's; use ipvlan or ptp",
        ),
        Some("bridge") if call.config.bridge_is_gateway => refuse(
            "bridge with isGateway or isDefaultGateway would take the subnet's route away from the ENI",
            "leave them out: the node answers as the gateway on the bridge without them",
        ),
        _ => Ok(()),
    }
}

fn mac_of(host: &mut KernelNetlink, name: &str) -> Result<Mac, Error> {
    let missing = |details: &str| {
        let mut error = Error::new(Code::InvalidConfig, format!("use master {name:?}"));
        error.details = details.to_string();
        error
    };
    let link = host.link(name).map_err(|error| kernel("read the master link", &error))?;
    let link = link.ok_or_else(|| missing("the node has no such link"))?;
    link.mac.ok_or_else(|| missing("the link has no MAC address"))
}

/// Returns what the other plugin is to set up: an address in its subnet, and routes by which all else goes to the gateway. With ipvlan
/// that is the router of the subnet, and the node itself otherwise.
fn result(
    call: &Call,
    host: &mut KernelNetlink,
    leased: &LeasedInterface,
) -> Result<AddResult, Error> {
    let (Some(address), None) = (leased.ipv4, leased.ipv6) else {
        let mut error =
            Error::new(Code::InvalidConfig, "provide the pod's addresses to another plugin");
        error.details = "only IPv4 is provided so".to_string();
        return Err(error);
    };
    let own = own_address(host, leased.mac)?;
    let prefix = own.prefix_len();
    let subnet = own.trunc();
    let through_node = call.config.main.as_deref() != Some("ipvlan");
    let gateway =
        if through_node { own.addr() } else { subnet.hosts().next().unwrap_or(own.addr()) };
    let mut destinations = Vec::new();
    if through_node {
        // Halves: they win over the subnet's own route, by which no neighbour would answer.
        destinations.extend(subnet.subnets(prefix + 1).into_iter().flatten());
    }
    destinations.push(Ipv4Net::default());
    if let Some(bridge) = bridge_of(call, host)? {
        let route = to_pod(address);
        change(host, KernelChange::Set(Object::Route { link: bridge, route }))?;
    }
    let net = Ipv4Net::new(address, prefix).unwrap_or(Ipv4Net::from(address));
    let gateway = IpAddr::V4(gateway);
    let route = |destination: Ipv4Net| Route {
        destination: IpNet::V4(destination),
        gateway: Some(gateway),
        table: None,
    };
    Ok(AddResult {
        interfaces: Vec::new(),
        ips: vec![Ip { address: IpNet::V4(net), gateway, interface: None }],
        routes: destinations.into_iter().map(route).collect(),
    })
}

/// Returns the address of an ENI's own on its link, with the length of its subnet's prefix.
fn own_address(host: &mut KernelNetlink, mac: Mac) -> Result<Ipv4Net, Error> {
    let failed = |error: vpc_ipam_linux::NetlinkError| kernel("read the ENI's link", &error);
    let links = host.links().map_err(failed)?;
    let link = links.iter().find(|link: &&Link| link.mac == Some(mac) && link.kind.is_none());
    let link = link.or_else(|| links.iter().find(|link| link.mac == Some(mac)));
    if let Some(link) = link {
        for address in host.addresses(link.id.index).map_err(failed)? {
            if let IpNet::V4(net) = address.net
                && net.prefix_len() < 31
            {
                return Ok(net);
            }
        }
    }
    let mut error = Error::new(Code::TryAgainLater, "read the subnet of the ENI");
    error.details = format!("no link with MAC address {mac} has an address of it yet");
    Err(error)
}

/// Returns the bridge that the other plugin uses, which it has made by the time that it asks for addresses.
fn bridge_of(call: &Call, host: &mut KernelNetlink) -> Result<Option<LinkId>, Error> {
    let Some(name) = &call.config.bridge else { return Ok(None) };
    let link = host.link(name).map_err(|error| kernel("read the bridge", &error))?;
    Ok(link.map(|link| link.id))
}

/// The way from the node to a pod behind a bridge: no other plugin makes it.
fn to_pod(address: Ipv4Addr) -> KernelRoute {
    KernelRoute { protocol: STATIC, ..KernelRoute::on_link(Table::MAIN, Ipv4Net::from(address)) }
}

fn change(host: &mut KernelNetlink, change: KernelChange) -> Result<(), Error> {
    let what = "change the route to the pod";
    let done = host.change(&[change]).map_err(|error| kernel(what, &error))?;
    done.into_iter().try_for_each(|result| match result {
        Ok(_) => Ok(()),
        Err(refusal) => Err(kernel(what, &refusal)),
    })
}
