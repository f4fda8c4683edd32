//! The VPC's side of every cable: bridges, the router, and what it delivers to which ENI.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::{Ipv4AddrRange, Ipv4Net};
use vpc_ipam_core::sim::Port;
use vpc_ipam_core::{EniId, Mac, SubnetId};

use super::place::{set, variable};
use super::{BuildFailure, ChangeError, SourceCheckError, Subnet, source_check};
use crate::{
    Address, ApplyError, Bridge, Change, Effect, KernelNetlink, LinkId, LinkIndex, Namespace,
    Neighbour, Netlink as _, NetlinkError, Object, Protocol, Route, Scope, Sysctl, SysctlKey,
    Table, Veth, VethPeer, state,
};

/// The address of the host that stands for the internet, from a range that is reserved for documentation (RFC 5737).
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

const INTERNET_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

const INTERNET_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);

/// Locally administered, and none that the cloud gives to an ENI, whose first byte is 2.
const INTERNET_MAC: Mac = Mac([0xfe, 0, 0, 2, 0, 0]);

/// The largest packet in a VPC, from the user guide of EC2.
const MTU: u32 = 9001;

pub(super) struct Fabric {
    router: KernelNetlink,
    bridges: BTreeMap<SubnetId, LinkId>,
    /// The numbers of the ports, of ENIs that were ever plugged in: a counter outlives its cable.
    ports: BTreeMap<EniId, u16>,
    /// To which ENI each address is delivered.
    mapping: BTreeMap<Ipv4Addr, EniId>,
}

impl Fabric {
    /// Makes a bridge for each subnet, and a cable to the internet.
    pub(super) fn build(
        mut router: KernelNetlink,
        subnets: &[Subnet],
        internet: &Namespace,
    ) -> Result<Self, BuildFailure> {
        source_check::build(router.namespace())?;
        let bridges = build_links(&mut router, subnets, internet).map_err(BuildFailure::Router)?;
        Ok(Self { router, bridges, ports: BTreeMap::new(), mapping: BTreeMap::new() })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        self.router.namespace()
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
        let join = Change::Join { port: LinkId::new(index, &name), bridge };
        state::carry_out(&mut self.router, &[join]).map_err(failed)?;
        self.map(port, &ipv4_blocks(port))?;
        Ok(LinkId::new(peer, link))
    }

    /// Delivers to an ENI what is assigned to it and nothing else, and takes in what comes from there and nothing else.
    pub(super) fn deliver(&mut self, port: &Port) -> Result<(), ChangeError> {
        self.check(port)?;
        self.map(port, &ipv4_blocks(port))
    }

    /// Pulls the cable of an ENI, to which nothing is delivered any more.
    pub(super) fn unplug(&mut self, port: &Port) -> Result<(), ChangeError> {
        let eni = port.eni;
        let Some(&number) = self.ports.get(&eni) else {
            return Ok(());
        };
        let name = port_name(number);
        self.map(port, &[])?;
        state::carry_out(&mut self.router, &[Change::RemoveLink { name: name.clone() }])
            .map_err(|source| ChangeError::Network { eni, source })?;
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
        let (name, blocks) = (port_name(number), ipv4_blocks(port));
        source_check::set(self.router.namespace(), &name, port.mac, &blocks)
            .map_err(|source| ChangeError::SourceCheck { eni: port.eni, source })
    }

    /// Makes the router know these addresses of an ENI, and forget others of the same ENI.
    fn map(&mut self, port: &Port, blocks: &[Ipv4Net]) -> Result<(), ChangeError> {
        let (eni, bridge) = (port.eni, self.bridge_of(port)?);
        let wanted: BTreeSet<_> = blocks
            .iter()
            .flat_map(|block| Ipv4AddrRange::new(block.network(), block.broadcast()))
            .collect();
        let of_eni = self.mapping.iter().filter(|(_, to)| **to == eni);
        let lost = of_eni.map(|(&address, _)| address).filter(|address| !wanted.contains(address));
        let lost: Vec<_> = lost.collect();
        let gained = wanted.iter().filter(|address| self.mapping.get(address) != Some(&eni));
        let gained: Vec<_> = gained.copied().collect();

        let neighbour = |address: &Ipv4Addr| Object::Neighbour {
            link: bridge.clone(),
            neighbour: Neighbour { address: (*address).into(), mac: port.mac },
        };
        let removals = lost.iter().map(neighbour).map(Change::Remove);
        let changes: Vec<_> =
            removals.chain(gained.iter().map(neighbour).map(Change::Set)).collect();
        state::carry_out(&mut self.router, &changes)
            .map_err(|source| ChangeError::Network { eni, source })?;

        for address in &lost {
            self.mapping.remove(address);
        }
        self.mapping.extend(gained.into_iter().map(|address| (address, eni)));
        Ok(())
    }

    fn bridge_of(&self, port: &Port) -> Result<LinkId, ChangeError> {
        let bridge = self.bridges.get(&port.subnet).cloned();
        bridge.ok_or(ChangeError::NoSubnet { eni: port.eni, subnet: port.subnet })
    }
}

fn build_links(
    router: &mut KernelNetlink,
    subnets: &[Subnet],
    internet: &Namespace,
) -> Result<BTreeMap<SubnetId, LinkId>, ApplyError> {
    let mut bridges = BTreeMap::new();
    for (number, subnet) in (1..).zip(subnets) {
        let name = format!("subnet{number}");
        let bridge = Bridge { name: name.clone(), mac: bridge_mac(number), mtu: MTU };
        state::carry_out(router, &[Change::AddBridge(bridge)])?;
        let link = router.link(&name)?.ok_or(NetlinkError::Decode { what: "no bridge" })?.id;
        set(
            router,
            answer_for_all(&name).chain(address(&link, subnet.router(), subnet.ipv4_cidr)),
        )?;
        bridges.insert(subnet.id, link);
    }

    let veth = Veth {
        name: "internet".to_owned(),
        mac: port_mac(0),
        mtu: MTU,
        peer: VethPeer { name: "eth0".to_owned(), mac: INTERNET_MAC, namespace: internet.clone() },
    };
    let (index, peer) = make_veth(router, veth)?;
    set(router, address(&LinkId::new(index, "internet"), INTERNET_ROUTER, INTERNET_NET))?;
    let peer = LinkId::new(peer, "eth0");
    set(&mut internet.netlink()?, up(&peer, INTERNET, INTERNET_NET, INTERNET_ROUTER))?;

    // A port that is on no bridge yet would answer for the router's addresses with its own MAC address.
    set(router, [variable(SysctlKey::ipv4_of_link("default", "arp_ignore"), "8")])?;
    Ok(bridges)
}

/// Lets the router answer whoever asks on a bridge for the MAC address of whichever address, and at once: no ENI sees
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

/// Returns a link as DHCP leaves it: up, with an address and the default route.
pub(super) fn up(
    link: &LinkId,
    own: Ipv4Addr,
    subnet: Ipv4Net,
    router: Ipv4Addr,
) -> impl Iterator<Item = Object> {
    const DHCP: Protocol = Protocol(16);
    let route = Route { protocol: DHCP, ..Route::default_by(Table::MAIN, router.into()) };
    core::iter::once(Object::Link { link: link.clone(), mtu: MTU, up: true })
        .chain(address(link, own, subnet))
        .chain([Object::Route { link: link.clone(), route }])
}

/// Makes a veth in place of one that has its name, and returns the indexes of both ends.
fn make_veth(
    netlink: &mut KernelNetlink,
    veth: Veth,
) -> Result<(LinkIndex, LinkIndex), ApplyError> {
    let changes = [Change::RemoveLink { name: veth.name.clone() }, Change::AddVeth(veth)];
    let results = netlink.change(&changes)?;
    let made = results.iter().rev().find_map(|result| match result {
        Ok(Effect::Veth { link, peer }) => Some((*link, *peer)),
        Ok(Effect::Done) | Err(_) => None,
    });
    let refused = state::refused(&changes, results);
    if !refused.is_empty() {
        return Err(ApplyError::Refused { refused });
    }
    Ok(made.ok_or(NetlinkError::Decode { what: "veth without an index" })?)
}

fn ipv4_blocks(port: &Port) -> Vec<Ipv4Net> {
    let ipv4 = |block: &ipnet::IpNet| match block {
        ipnet::IpNet::V4(block) => Some(*block),
        ipnet::IpNet::V6(_) => None,
    };
    port.blocks.iter().filter_map(ipv4).collect()
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
