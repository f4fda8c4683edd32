//! The VPC's side of every cable: bridges, the router, and what it delivers to which ENI.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::{IpNet, Ipv4AddrRange, Ipv4Net, Ipv6Net};
use vpc_ipam_core::sim::Port;
use vpc_ipam_core::{EniId, Mac, SubnetId};

use super::error::{BuildFailure, ChangeError};
use super::layout::{Host, Layout, Subnet};
use super::node::{set, variable};
use super::source_check::{self, SourceCheckError};
use crate::datapath::link::link_local;
use crate::datapath::numbering::GATEWAY_IPV6;
use crate::kernel::process;
use crate::state::apply;
use crate::{
    Address, ApplyError, Bridge, KernelChange, KernelEffect, KernelNetlink, LinkId, LinkIndex,
    Namespace, Neighbour, Netlink as _, NetlinkError, Object, Protocol, Route, Scope, Sysctl,
    SysctlKey, Table, Veth, VethPeer,
};

/// The address of the host that stands for the internet, from a range that is reserved for documentation (RFC 5737).
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The IPv6 address of the same host, from a range that is reserved for documentation (RFC 3849). It has one where the VPC
/// has IPv6.
pub const INTERNET_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10);

const INTERNET_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

const INTERNET_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);

const INTERNET_ROUTER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

const INTERNET_NET_IPV6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0), 64);

/// Locally administered, and none that the cloud gives to an ENI, whose first byte is 2.
const INTERNET_MAC: Mac = Mac([0xfe, 0, 0, 2, 0, 0]);

/// The largest packet in a VPC, from the user guide of EC2.
const MTU: u32 = 9001;

/// Who makes routes on hosts, from include/uapi/linux/rtnetlink.h.
const ROUTER_ADVERTISEMENT: Protocol = Protocol(9);
const DHCP: Protocol = Protocol(16);

pub(super) struct Fabric {
    router: KernelNetlink,
    bridges: BTreeMap<SubnetId, LinkId>,
    /// The subnets that have IPv6.
    ipv6_subnets: BTreeSet<SubnetId>,
    /// The numbers of the ports, of ENIs that were ever plugged in: a counter outlives its cable.
    ports: BTreeMap<EniId, u16>,
    /// To which ENI what is delivered.
    deliveries: BTreeMap<Delivery, EniId>,
}

/// What the router delivers to one ENI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Delivery {
    /// An address, whose neighbour the router knows.
    Address(Ipv4Addr),
    /// A block, by a route to the ENI: a prefix of IPv6 has more addresses than the kernel keeps neighbours.
    Block(Ipv6Net),
}

impl Fabric {
    /// Makes a bridge for each subnet, and a cable to the internet.
    pub(super) fn build(
        mut router: KernelNetlink,
        layout: &Layout,
        internet: &Namespace,
    ) -> Result<Self, BuildFailure> {
        source_check::build(router.namespace())?;
        if layout.has_ipv6() {
            prepare_ipv6(&mut router)?;
        }
        let bridges = build_links(&mut router, layout, internet).map_err(BuildFailure::Router)?;
        let with_ipv6 = layout.subnets.iter().filter(|subnet| subnet.ipv6_cidr.is_some());
        Ok(Self {
            router,
            bridges,
            ipv6_subnets: with_ipv6.map(|subnet| subnet.id).collect(),
            ports: BTreeMap::new(),
            deliveries: BTreeMap::new(),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        self.router.namespace()
    }

    pub(super) fn router(&mut self) -> &mut KernelNetlink {
        &mut self.router
    }

    /// Plugs an ENI into a host, where a link of that name appears with the ENI's MAC address, down and bare. A cable
    /// that is there already is replaced.
    pub(super) fn plug(
        &mut self,
        port: &Port,
        host: &Namespace,
        link: &str,
    ) -> Result<LinkId, ChangeError> {
        let eni = port.eni;
        let bridge = self.bridge_of(port)?;
        let number = self.ports.len() as u16 + 1;
        let number = *self.ports.entry(eni).or_insert(number);

        let name = port_name(number);
        let veth = Veth {
            name: name.clone(),
            mac: port_mac(number),
            mtu: MTU,
            peer: VethPeer { name: link.to_owned(), mac: port.mac, namespace: host.clone() },
        };
        let failed = |source| ChangeError::Network { eni, source };
        let (index, peer) = make_veth(&mut self.router, veth).map_err(failed)?;

        // Before the bridge takes in anything.
        self.check(port)?;
        let join = KernelChange::Join { port: LinkId::new(index, &name), bridge: bridge.clone() };
        apply::carry_out(&mut self.router, &[join]).map_err(failed)?;
        if self.has_ipv6(port) {
            set(&mut self.router, [next_hop(bridge, port.mac)]).map_err(failed)?;
        }
        self.map(port, &port.blocks)?;
        Ok(LinkId::new(peer, link))
    }

    /// Delivers to an ENI what is assigned to it and nothing else, and takes in what comes from there and nothing else.
    pub(super) fn deliver(&mut self, port: &Port) -> Result<(), ChangeError> {
        self.check(port)?;
        self.map(port, &port.blocks)
    }

    /// Pulls the cable of an ENI, to which nothing is delivered any more.
    pub(super) fn unplug(&mut self, port: &Port) -> Result<(), ChangeError> {
        let eni = port.eni;
        let Some(&number) = self.ports.get(&eni) else {
            return Ok(());
        };
        let name = port_name(number);
        self.map(port, &BTreeSet::new())?;
        let failed = |source| ChangeError::Network { eni, source };
        let mut changes = vec![KernelChange::RemoveLink { name: name.clone() }];
        if self.has_ipv6(port) {
            changes.push(KernelChange::Remove(next_hop(self.bridge_of(port)?, port.mac)));
        }
        apply::carry_out(&mut self.router, &changes).map_err(failed)?;
        source_check::remove(self.router.namespace(), &name)
            .map_err(|source| ChangeError::SourceCheck { eni, source })
    }

    /// Returns how many packets the check of each ENI dropped.
    pub(super) fn drops(&self) -> Result<BTreeMap<EniId, u64>, SourceCheckError> {
        let drops = source_check::drops(self.router.namespace())?;
        let of_port =
            |(eni, number): (&EniId, &u16)| Some((*eni, *drops.get(&port_name(*number))?));
        Ok(self.ports.iter().filter_map(of_port).collect())
    }

    fn check(&self, port: &Port) -> Result<(), ChangeError> {
        let Some(&number) = self.ports.get(&port.eni) else {
            return Ok(());
        };
        source_check::set(self.router.namespace(), &port_name(number), port.mac, &port.blocks)
            .map_err(|source| ChangeError::SourceCheck { eni: port.eni, source })
    }

    /// Makes the router know these blocks of an ENI, and forget other blocks of the same ENI.
    fn map(&mut self, port: &Port, blocks: &BTreeSet<IpNet>) -> Result<(), ChangeError> {
        let (eni, bridge) = (port.eni, self.bridge_of(port)?);
        let wanted: BTreeSet<_> = blocks.iter().flat_map(deliveries).collect();
        let of_eni = self.deliveries.iter().filter(|(_, to)| **to == eni);
        let lost = of_eni.map(|(&delivery, _)| delivery).filter(|it| !wanted.contains(it));
        let lost: Vec<_> = lost.collect();
        let gained = wanted.iter().filter(|delivery| self.deliveries.get(delivery) != Some(&eni));
        let gained: Vec<_> = gained.copied().collect();

        let object = |delivery: &Delivery| delivery.object(bridge.clone(), port.mac);
        let removals = lost.iter().map(object).map(KernelChange::Remove);
        let changes: Vec<_> =
            removals.chain(gained.iter().map(object).map(KernelChange::Set)).collect();
        apply::carry_out(&mut self.router, &changes)
            .map_err(|source| ChangeError::Network { eni, source })?;

        for delivery in &lost {
            self.deliveries.remove(delivery);
        }
        self.deliveries.extend(gained.into_iter().map(|delivery| (delivery, eni)));
        Ok(())
    }

    fn has_ipv6(&self, port: &Port) -> bool {
        self.ipv6_subnets.contains(&port.subnet)
    }

    fn bridge_of(&self, port: &Port) -> Result<LinkId, ChangeError> {
        let bridge = self.bridges.get(&port.subnet).cloned();
        bridge.ok_or(ChangeError::NoSubnet { eni: port.eni, subnet: port.subnet })
    }
}

impl Delivery {
    /// Returns what the router holds of it, for an ENI with that MAC address on a bridge.
    fn object(self, bridge: LinkId, mac: Mac) -> Object {
        match self {
            Self::Address(address) => Object::Neighbour {
                link: bridge,
                neighbour: Neighbour { address: address.into(), mac },
            },
            Self::Block(block) => {
                let by = Route::default_by(Table::MAIN, link_local(mac).net.addr());
                Object::Route { link: bridge, route: Route { destination: block.into(), ..by } }
            }
        }
    }
}

/// Returns what the router delivers for a block.
fn deliveries(block: &IpNet) -> Vec<Delivery> {
    match block {
        IpNet::V4(block) => {
            let addresses = Ipv4AddrRange::new(block.network(), block.broadcast());
            addresses.map(Delivery::Address).collect()
        }
        IpNet::V6(block) => vec![Delivery::Block(*block)],
    }
}

/// Returns the neighbour to which the router delivers blocks of IPv6.
fn next_hop(bridge: LinkId, mac: Mac) -> Object {
    let neighbour = Neighbour { address: link_local(mac).net.addr(), mac };
    Object::Neighbour { link: bridge, neighbour }
}

/// Makes a router of IPv6 of a namespace that has no links yet.
fn prepare_ipv6(router: &mut KernelNetlink) -> Result<(), BuildFailure> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Err(BuildFailure::NoIpv6);
    }
    let objects = [
        variable(SysctlKey::ipv6_of_link("all", "forwarding"), "1"),
        // Ports need no address, and what has none says nothing by itself.
        variable(SysctlKey::ipv6_of_link("default", "addr_gen_mode"), "1"),
    ];
    set(router, objects).map_err(BuildFailure::Router)?;
    // Between ENIs of one subnet there is a shorter way, which EC2's router does not announce. Linux has no variable for that.
    let silence = "add table ip6 router\n\
                   add chain ip6 router redirects { type filter hook output priority 0; }\n\
                   add rule ip6 router redirects icmpv6 type nd-redirect drop\n";
    let run = || process::run(source_check::nft_of_system(), &["--file", "-"], silence);
    let silenced = router.namespace().run(run).map_err(SourceCheckError::Namespace)?;
    silenced.map(drop).map_err(|source| SourceCheckError::Nft { source }.into())
}

fn build_links(
    router: &mut KernelNetlink,
    layout: &Layout,
    internet: &Namespace,
) -> Result<BTreeMap<SubnetId, LinkId>, ApplyError> {
    let mut bridges = BTreeMap::new();
    for (number, subnet) in (1..).zip(&layout.subnets) {
        let name = format!("subnet{number}");
        let bridge = Bridge { name: name.clone(), mac: bridge_mac(number), mtu: MTU };
        apply::carry_out(router, &[KernelChange::AddBridge(bridge)])?;
        let link = router.link(&name)?.ok_or(NetlinkError::Decode { what: "no bridge" })?.id;
        set(
            router,
            answer_for_all(&name).chain(address(&link, subnet.router(), subnet.ipv4_cidr)),
        )?;
        set(router, subnet.ipv6_cidr.map(|_| ipv6_address(&link, GATEWAY_IPV6, 64)))?;
        bridges.insert(subnet.id, link);
    }
    build_internet(router, layout, internet)?;

    // A port that is on no bridge yet would answer for the router's addresses with its own MAC address.
    set(router, [variable(SysctlKey::ipv4_of_link("default", "arp_ignore"), "8")])?;
    Ok(bridges)
}

fn build_internet(
    router: &mut KernelNetlink,
    layout: &Layout,
    internet: &Namespace,
) -> Result<(), ApplyError> {
    let veth = Veth {
        name: "internet".to_owned(),
        mac: port_mac(0),
        mtu: MTU,
        peer: VethPeer { name: "eth0".to_owned(), mac: INTERNET_MAC, namespace: internet.clone() },
    };
    let (index, peer) = make_veth(router, veth)?;
    let (near, far) = (LinkId::new(index, "internet"), LinkId::new(peer, "eth0"));
    set(router, address(&near, INTERNET_ROUTER, INTERNET_NET))?;
    let internet = &mut internet.netlink()?;
    set(internet, up(&far, INTERNET, INTERNET_NET, INTERNET_ROUTER))?;
    if layout.has_ipv6() {
        let (length, far) = (INTERNET_NET_IPV6.prefix_len(), &far);
        let net =
            Route { protocol: Protocol::KERNEL, ..Route::on_link(Table::MAIN, INTERNET_NET_IPV6) };
        let net = |link: &LinkId| Object::Route { link: link.clone(), route: net };
        // With a link-local one the kernel asks for the neighbours of what it forwards.
        let asking = Object::Address { link: near.clone(), address: link_local(port_mac(0)) };
        let own = ipv6_address(&near, INTERNET_ROUTER_IPV6, length);
        set(router, [asking, own, net(&near)])?;
        let by_router = default_route(far, INTERNET_ROUTER_IPV6.into(), DHCP);
        set(internet, [ipv6_address(far, INTERNET_IPV6, length), net(far), by_router])?;
    }
    Ok(())
}

/// Lets the router answer each host that asks on a bridge for the MAC address of whichever address, and at once: no ENI sees
/// another one's question.
fn answer_for_all(bridge: &str) -> impl Iterator<Item = Object> {
    let of_bridge = |name| variable(SysctlKey::ipv4_of_link(bridge, name), "1");
    [
        of_bridge("proxy_arp"),
        of_bridge("proxy_arp_pvlan"),
        variable(SysctlKey::new(format!("net/ipv4/neigh/{bridge}/proxy_delay")), "0"),
        Object::Sysctl(Sysctl {
            key: SysctlKey::new("net/bridge/bridge-nf-call-iptables"),
            value: "0".to_owned(),
            optional: true,
        }),
    ]
    .into_iter()
}

/// Returns an address of a link, and the route to its subnet as the kernel would have it.
fn address(link: &LinkId, address: Ipv4Addr, subnet: Ipv4Net) -> impl Iterator<Item = Object> {
    let net = ipnet::Ipv4Net::new(address, subnet.prefix_len()).unwrap_or(address.into());
    let route = Route {
        source: Some(address.into()),
        protocol: Protocol::KERNEL,
        ..Route::on_link(Table::MAIN, subnet)
    };
    let address = Address { net: net.into(), scope: Scope::Global };
    [Object::Address { link: link.clone(), address }, Object::Route { link: link.clone(), route }]
        .into_iter()
}

fn ipv6_address(link: &LinkId, own: Ipv6Addr, length: u8) -> Object {
    let net = Ipv6Net::new_assert(own, length);
    let address = Address { net: net.into(), scope: Scope::Global };
    Object::Address { link: link.clone(), address }
}

fn default_route(link: &LinkId, router: IpAddr, protocol: Protocol) -> Object {
    let route = Route { protocol, ..Route::default_by(Table::MAIN, router) };
    Object::Route { link: link.clone(), route }
}

/// Returns the link of a primary ENI as the operating system leaves it: up, with the addresses of DHCP and DHCPv6 and the
/// default routes of DHCP and of the router's advertisements.
pub(super) fn primary(link: &LinkId, mac: Mac, host: &Host, subnet: &Subnet) -> Vec<Object> {
    let ipv4 = up(link, host.primary_ipv4, subnet.ipv4_cidr, subnet.router());
    let Some(own) = host.primary_ipv6 else { return ipv4.collect() };
    // The link of a real host is older than all that it sends: its link-local address is trusted already.
    let trusted = Object::Address { link: link.clone(), address: link_local(mac) };
    let by_router = default_route(link, GATEWAY_IPV6.into(), ROUTER_ADVERTISEMENT);
    let more = [ipv6_address(link, own, 128), by_router];
    core::iter::once(trusted).chain(ipv4).chain(more).collect()
}

/// Returns a link as DHCP leaves it: up, with an address and the default route.
fn up(
    link: &LinkId,
    own: Ipv4Addr,
    subnet: Ipv4Net,
    router: Ipv4Addr,
) -> impl Iterator<Item = Object> {
    core::iter::once(Object::Link { link: link.clone(), mtu: MTU, up: true })
        .chain(address(link, own, subnet))
        .chain([default_route(link, router.into(), DHCP)])
}

/// Makes a veth in place of one that has its name, and returns the indexes of both ends.
fn make_veth(
    netlink: &mut KernelNetlink,
    veth: Veth,
) -> Result<(LinkIndex, LinkIndex), ApplyError> {
    let changes =
        [KernelChange::RemoveLink { name: veth.name.clone() }, KernelChange::AddVeth(veth)];
    let results = netlink.change(&changes)?;
    let made = results.iter().rev().find_map(|result| match result {
        Ok(KernelEffect::Veth { link, peer }) => Some((*link, *peer)),
        Ok(KernelEffect::Done) | Err(_) => None,
    });
    let refused = apply::refused(&changes, results);
    if !refused.is_empty() {
        return Err(ApplyError::Refused { refused });
    }
    Ok(made.ok_or(NetlinkError::Decode { what: "veth without an index" })?)
}

fn port_name(number: u16) -> String {
    format!("port{number}")
}

fn port_mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([0xfe, 0, 0, 0, high, low])
}

fn bridge_mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([0xfe, 0, 0, 1, high, low])
}
