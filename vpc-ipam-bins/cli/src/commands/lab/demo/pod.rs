//! A pod of the demonstration: what it got, and what answers in it.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use vpc_ipam_core::sim::NetworkInterface;
use vpc_ipam_core::{Card, DeviceIndex, EniId};
use vpc_ipam_linux::lab::{self, LabName, Responder};
use vpc_ipam_linux::{Family, Namespace, Netlink as _, NetlinkError, Scope};

use super::PORT;
use crate::commands::lab::Failure;
use crate::lab::{LabNode, PluginCall};

/// A pod that has addresses.
pub(super) struct DemoPod {
    pub(super) name: String,
    pub(super) netns: Namespace,
    /// The first is the one with its default routes.
    pub(super) interfaces: Vec<Interface>,
    /// The address of the family of which it has none in the VPC, if it has one.
    pub(super) egress: Option<IpAddr>,
    /// The MTU of its first link, in bytes.
    pub(super) mtu: u32,
    _responder: Responder,
}

/// An interface of a pod.
pub(super) struct Interface {
    /// One of each family that pods get.
    pub(super) addresses: Vec<IpAddr>,
    /// Who carries them.
    pub(super) eni: EniId,
    pub(super) card: Card,
    device: DeviceIndex,
}

impl Interface {
    /// Returns its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Returns the name of the ENI's link on the node.
    pub(super) fn link(&self) -> String {
        lab::link_name(self.card, self.device)
    }
}

impl DemoPod {
    /// Makes a pod and lets the plugin set its network up, on every network card or on any.
    pub(super) fn add(
        node: &LabNode,
        lab: &LabName,
        name: &str,
        every_card: bool,
    ) -> Result<(Self, core::time::Duration), Failure> {
        let netns = lab::add_pod(lab, name)?;
        let call = PluginCall::add(name, netns.path());
        let call = if every_card { call.on_every_card() } else { call };
        let before = Instant::now();
        let result = node.address.call_plugin(&call)?;
        let took = before.elapsed();
        let interfaces = interfaces(node, &result).map_err(|why| format!("{name} {why}"))?;
        let responder = Responder::start(&netns, answer_at())?;
        let (mtu, egress) = look_inside(&netns, &interfaces)?;
        let name = name.to_string();
        Ok((Self { name, netns, interfaces, egress, mtu, _responder: responder }, took))
    }

    /// Says what it got, and where.
    pub(super) fn in_words(&self) -> String {
        let of_interface = |interface: &Interface| {
            let addresses: Vec<_> = interface.addresses.iter().map(IpAddr::to_string).collect();
            format!("{} on {}", addresses.join(" and "), interface.link())
        };
        self.interfaces.iter().map(of_interface).collect::<Vec<_>>().join(", ")
    }
}

/// Returns where responders listen: at every address of either family. Where the kernel has no IPv6 there is only one.
pub(super) fn answer_at() -> SocketAddr {
    let has_ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let any = if has_ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        core::net::Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(any, PORT)
}

/// Reads the plugin's result, and asks EC2 who carries the addresses.
fn interfaces(node: &LabNode, result: &serde_json::Value) -> Result<Vec<Interface>, String> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for ip in result["ips"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let text = ip["address"].as_str().unwrap_or_default();
        let net: IpNet = text.parse().map_err(|error| format!("got {text:?}: {error}"))?;
        let address = net.addr();
        let carrier = carrier(node, address);
        let (eni, card, device) = carrier.ok_or_else(|| {
            format!("got {address}, which EC2 has assigned to no ENI of this node")
        })?;
        match interfaces.iter_mut().find(|interface| interface.eni == eni) {
            Some(interface) => interface.addresses.push(address),
            None => interfaces.push(Interface { addresses: vec![address], eni, card, device }),
        }
    }
    if interfaces.is_empty() { Err("got no address".to_string()) } else { Ok(interfaces) }
}

/// Returns which ENI of the node EC2 has assigned an address to, and where that is attached.
fn carrier(node: &LabNode, address: IpAddr) -> Option<(EniId, Card, DeviceIndex)> {
    let instance = node.address.instance_id;
    let carries = |eni: &NetworkInterface| match address {
        IpAddr::V4(address) => eni.ipv4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => eni.ipv6.iter().any(|net| net.contains(&address)),
    };
    node.cloud().with(|cloud, _| {
        cloud.interfaces().find_map(|eni| {
            let attachment = eni.attachment.as_ref().filter(|a| a.instance == instance)?;
            carries(eni).then_some((eni.id, attachment.card, attachment.device))
        })
    })
}

/// Returns the MTU of the pod's first link, and the address on it that is none of the VPC's.
fn look_inside(
    netns: &Namespace,
    interfaces: &[Interface],
) -> Result<(u32, Option<IpAddr>), NetlinkError> {
    let mut netlink = netns.netlink()?;
    // Of a pod with several interfaces they have other names.
    let links = netlink.links()?;
    let first = links.iter().filter(|link| &*link.id.name != "lo").min_by_key(|link| link.id.index);
    let Some(first) = first else { return Ok((0, None)) };
    let addresses = netlink.addresses(first.id.index)?;
    let leased: Vec<_> = interfaces.iter().flat_map(|it| &it.addresses).collect();
    let global = addresses.iter().filter(|address| address.scope == Scope::Global);
    let mut global = global.map(|address| address.net.addr());
    Ok((first.mtu, global.find(|address| !leased.contains(&address))))
}
