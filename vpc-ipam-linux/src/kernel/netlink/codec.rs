//! Our values as netlink messages, and back.
//!
//! Messages are written with the types of netlink-packet-route, and read attribute by attribute: a list holds other
//! people's objects too, and one that a full decoder stumbles over must not keep the node from its own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage as Message};
use vpc_ipam_core::Mac;

use super::attribute::{attributes, text};
use super::exchange::Request;
use super::settings::LinkSettings;
use crate::{
    Address, Bridge, Family, Leads, Link, LinkId, LinkIndex, Mark, Neighbour, NetlinkError,
    Protocol, Route, RouteEntry, Rule, RuleAction, Scope, Table, Veth, Vlan,
};

pub(super) fn add_veth(veth: &Veth) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.peer.name.clone()),
        LinkAttribute::Address(veth.peer.mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.peer.namespace.as_fd().as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    // Up from birth; the other end cannot be, the kernel answers ENOTCONN. Until it is there is no carrier, so nothing is sent
    // or received before the sysctls of this end are set.
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(veth.name.clone()),
        LinkAttribute::Address(veth.mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Request { message: Message::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn add_vlan(vlan: &Vlan) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(vlan.name.clone()),
        LinkAttribute::Address(vlan.mac.0.to_vec()),
        LinkAttribute::Mtu(vlan.mtu),
        LinkAttribute::Link(vlan.trunk.index.0),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(vlan.id)])),
        ]),
    ];
    Request { message: Message::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn add_bridge(bridge: &Bridge) -> Request {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(bridge.name.clone()),
        LinkAttribute::Address(bridge.mac.0.to_vec()),
        LinkAttribute::Mtu(bridge.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    Request { message: Message::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn join(port: LinkIndex, bridge: LinkIndex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = port.0;
    message.attributes = vec![LinkAttribute::Controller(bridge.0)];
    Request { message: Message::SetLink(message), flags: 0 }
}

/// Isolates a port of a bridge. The kernel takes its settings from none that is not a port yet.
pub(super) fn isolate(port: LinkIndex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = port.0;
    message.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
    ])];
    Request { message: Message::NewLink(message), flags: 0 }
}

pub(super) fn remove_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Request { message: Message::DelLink(message), flags: 0 }
}

pub(super) fn remove_link_by_index(link: LinkIndex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link.0;
    Request { message: Message::DelLink(message), flags: 0 }
}

pub(super) fn get_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    Request { message: Message::GetLink(message), flags: 0 }
}

pub(super) fn get_link_by_index(link: LinkIndex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link.0;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request { message: Message::GetLink(message), flags: 0 }
}

pub(super) fn list_links() -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Message::GetLink(message)
}

pub(super) fn set_link(settings: &LinkSettings<'_>) -> Request {
    let mut message = LinkMessage::default();
    match settings.index {
        Some(index) => message.header.index = index.0,
        None => message.attributes.push(LinkAttribute::IfName(settings.name.to_owned())),
    }
    if let Some((mtu, up)) = settings.mtu_and_up {
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    let alias = settings.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned()));
    message.attributes.extend(alias);
    message.attributes.extend(ipv4_variables(&settings.ipv4));
    Request { message: Message::SetLink(message), flags: 0 }
}

/// Writes IPv4 variables of a link as the kernel takes them: one within another, for the link, the family and the kind.
fn ipv4_variables(variables: &[(u16, u32)]) -> Option<LinkAttribute> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET_CONF: u16 = 1;
    const NLA_F_NESTED: u16 = 1 << 15;

    let variable = |(number, value): &(u16, u32)| attribute(*number, &value.to_ne_bytes());
    let variables: Vec<u8> = variables.iter().flat_map(variable).collect();
    if variables.is_empty() {
        return None;
    }
    let of_kind = attribute(IFLA_INET_CONF | NLA_F_NESTED, &variables);
    let of_family = attribute(u16::from(AF_INET) | NLA_F_NESTED, &of_kind);
    Some(LinkAttribute::Other(DefaultNla::new(IFLA_AF_SPEC | NLA_F_NESTED, of_family)))
}

/// Writes an attribute whose value needs no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // All in all these have a hundred bytes.
    let len = (4 + value.len()) as u16;
    [&len.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

pub(super) fn set_address(link: LinkIndex, address: Address) -> Request {
    let message = Message::NewAddress(address_message(link, address));
    Request { message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn remove_address(link: LinkIndex, address: Address) -> Request {
    Request { message: Message::DelAddress(address_message(link, address)), flags: 0 }
}

/// Lists the addresses of one link or of all.
pub(super) fn list_addresses(link: Option<LinkIndex>) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = link.map_or(0, |link| link.0);
    Message::GetAddress(message)
}

/// Lists the addresses of a link in another namespace, which this one knows by a number.
pub(super) fn list_addresses_in(namespace: i32, link: LinkIndex) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = link.0;
    message.attributes = vec![AddressAttribute::TargetNetNsId(namespace)];
    Message::GetAddress(message)
}

fn address_message(link: LinkIndex, Address { net, scope }: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = af(Family::of(net.addr()));
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::from(scope_number(scope));
    message.header.index = link.0;
    message.attributes =
        vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    let mut flags = AddressFlags::empty();
    if scope == Scope::Global && net.prefix_len() < net.max_prefix_len() {
        // The subnet's route in main belongs to the primary ENI; another one would only have to be removed again, each
        // time that the link comes up.
        flags |= AddressFlags::Noprefixroute;
    }
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V4(_) => {}
        // EC2 assigned the address to no other host, and until the kernel had asked around nothing could use it.
        IpNet::V6(_) => flags |= AddressFlags::Nodad,
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

pub(super) fn set_route(link: LinkIndex, route: &Route) -> Request {
    let message = Message::NewRoute(route_message(link, route));
    Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Asks for a route that must not be there yet.
pub(super) fn add_route(link: LinkIndex, route: &Route) -> Request {
    let message = Message::NewRoute(route_message(link, route));
    Request { message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn remove_route(link: LinkIndex, route: &Route) -> Request {
    Request { message: Message::DelRoute(route_message(link, route)), flags: 0 }
}

/// Lists the routes over one link or over any.
pub(super) fn list_routes(family: Family, link: Option<LinkIndex>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = af(family);
    message.attributes = link.map(|link| RouteAttribute::Oif(link.0)).into_iter().collect();
    Message::GetRoute(message)
}

/// Asks for the entry of the table instead of the address's own route, which the kernel would make of it.
pub(super) fn get_route(address: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = af(Family::of(address));
    message.header.destination_prefix_length = IpNet::from(address).max_prefix_len();
    message.header.flags = match address {
        IpAddr::V4(_) => RouteFlags::FibMatch | RouteFlags::LookupTable,
        // The answer tells the table anyway, and to ask for it is refused.
        IpAddr::V6(_) => RouteFlags::FibMatch,
    };
    message.attributes = vec![RouteAttribute::Destination(route_address(address))];
    Request { message: Message::GetRoute(message), flags: 0 }
}

fn route_message(link: LinkIndex, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = af(Family::of(route.destination.addr()));
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::from(route.protocol.0);
    message.header.scope = RouteScope::from(scope_number(route.scope));
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Table(route.table.0), RouteAttribute::Oif(link.0)];
    if route.destination.prefix_len() > 0 {
        let network = route_address(route.destination.network());
        message.attributes.push(RouteAttribute::Destination(network));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(match (route.destination, gateway) {
            (IpNet::V4(_), IpAddr::V6(it)) => RouteAttribute::Via(RouteVia::Inet6(it)),
            (IpNet::V6(_), IpAddr::V4(it)) => RouteAttribute::Via(RouteVia::Inet(it)),
            _ => RouteAttribute::Gateway(route_address(gateway)),
        });
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
    }
    if route.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

/// Returns the number of the address family that a list is asked for.
pub(super) fn family_of(list: &Message) -> u8 {
    match list {
        Message::GetRoute(message) => message.header.address_family.into(),
        Message::GetRule(message) => message.header.family.into(),
        Message::GetNeighbour(message) => message.header.family.into(),
        _ => 0,
    }
}

pub(super) fn set_rule(rule: &Rule) -> Request {
    Request { message: Message::NewRule(rule_message(rule)), flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(super) fn remove_rule(rule: &Rule) -> Request {
    Request { message: Message::DelRule(rule_message(rule)), flags: 0 }
}

pub(super) fn list_rules(family: Family) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = af(family);
    Message::GetRule(message)
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = af(rule.family);
    message.header.action = Action::ToTable;
    message.attributes = vec![RuleAttribute::Priority(rule.priority)];
    if rule.table != Table::UNSPECIFIED {
        message.attributes.push(RuleAttribute::Table(rule.table.0));
    }
    if rule.protocol != Protocol::UNSPECIFIED {
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol.0)));
    }
    if let Some(source) = rule.source {
        message.header.src_len = source.prefix_len();
        message.attributes.push(RuleAttribute::Source(source.addr()));
    }
    if let Some(destination) = rule.destination {
        message.header.dst_len = destination.prefix_len();
        message.attributes.push(RuleAttribute::Destination(destination.addr()));
    }
    if let Some(Mark { value, mask }) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(value));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    if let Some(input) = &rule.input {
        message.attributes.push(RuleAttribute::Iifname(input.clone()));
    }
    if let Some(protocol) = rule.carries {
        message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::from(protocol)));
    }
    message
}

pub(super) fn set_neighbour(link: LinkIndex, neighbour: Neighbour) -> Request {
    let message = Message::NewNeighbour(neighbour_message(link, neighbour));
    Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Sets a neighbour that may turn out to be another.
pub(super) fn add_neighbour(link: LinkIndex, neighbour: Neighbour) -> Request {
    let mut message = neighbour_message(link, neighbour);
    message.header.state = NeighbourState::Reachable;
    Request { message: Message::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

pub(super) fn remove_neighbour(link: LinkIndex, neighbour: Neighbour) -> Request {
    Request { message: Message::DelNeighbour(neighbour_message(link, neighbour)), flags: 0 }
}

pub(super) fn list_neighbours(link: LinkIndex) -> Message {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![NeighbourAttribute::IfIndex(link.0)];
    Message::GetNeighbour(message)
}

fn neighbour_message(link: LinkIndex, Neighbour { address, mac }: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = af(Family::of(address));
    message.header.ifindex = link.0;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    message
}

fn af(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn scope_number(scope: Scope) -> u8 {
    match scope {
        Scope::Global => 0,
        Scope::Link => 253,
        Scope::Host => 254,
        Scope::Other(number) => number,
    }
}

/// Reads an `ifinfomsg`.
pub(super) fn link(payload: &[u8]) -> Result<Option<Link>, NetlinkError> {
    const IFF_UP: u32 = 1;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_IFALIAS: u16 = 20;
    const IFLA_INFO_KIND: u16 = 1;

    let header: &[u8; 16] = header(payload, "link")?;
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let index = LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3]));
    let (mut name, mut mac, mut mtu, mut kind, mut lower) = (String::new(), None, 0, None, None);
    let mut alias = None;
    for (attribute, value) in attributes(&payload[16..]) {
        match attribute {
            IFLA_IFNAME => name = text(value),
            IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
            IFLA_MTU => mtu = number(value).unwrap_or_default(),
            IFLA_IFALIAS => alias = Some(text(value)),
            IFLA_LINK => lower = number(value).filter(|&index| index > 0).map(LinkIndex),
            IFLA_LINKINFO => {
                let mut infos = attributes(value);
                kind = infos.find(|(info, _)| *info == IFLA_INFO_KIND).map(|(_, v)| text(v));
            }
            _ => {}
        }
    }
    let up = u32::from_ne_bytes([f0, f1, f2, f3]) & IFF_UP != 0;
    Ok(Some(Link { id: LinkId::new(index, &name), mac, mtu, up, kind, lower, alias }))
}

/// Reads from an `ifinfomsg` by which number this namespace knows that in which the other end of a veth is; `None` if it is in
/// this one.
pub(super) fn namespace_of_other_end(payload: &[u8]) -> Option<i32> {
    const IFLA_LINK_NETNSID: u16 = 37;
    let mut attributes = attributes(payload.get(16..)?);
    let (_, id) = attributes.find(|(kind, _)| *kind == IFLA_LINK_NETNSID)?;
    number(id).map(u32::cast_signed).filter(|id| *id >= 0)
}

/// Reads an `ifaddrmsg`.
pub(super) fn address(payload: &[u8]) -> Result<Option<(LinkIndex, Address)>, NetlinkError> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;

    let header: &[u8; 8] = header(payload, "address")?;
    let [family, prefix_len, _, scope, i0, i1, i2, i3] = *header;
    let (mut local, mut address) = (None, None);
    for (attribute, value) in attributes(&payload[8..]) {
        match attribute {
            IFA_LOCAL => local = ip(family, value),
            IFA_ADDRESS => address = ip(family, value),
            _ => {}
        }
    }
    let net = local.or(address).and_then(|address| IpNet::new(address, prefix_len).ok());
    let index = LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3]));
    Ok(net.map(|net| (index, Address { net, scope: scope_of(scope) })))
}

/// Reads an `rtmsg`; leaves out what is of neither family.
pub(super) fn route(payload: &[u8]) -> Result<Option<RouteEntry>, NetlinkError> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTA_VIA: u16 = 18;
    const RTA_ENCAP: u16 = 22;

    let header: &[u8; 12] = header(payload, "route")?;
    let [family, prefix_len, source_len, tos, table, protocol, scope, kind, ..] = *header;
    let mut table = Table(table.into());
    let (mut destination, mut gateway, mut source, mut link) = (None, None, None, None);
    let mut metric = 0;
    let mut plain = source_len == 0 && tos == 0;
    for (attribute, value) in attributes(&payload[12..]) {
        match attribute {
            RTA_DST => destination = ip(family, value),
            RTA_OIF => link = number(value).map(LinkIndex),
            RTA_GATEWAY => gateway = ip(family, value),
            RTA_VIA => gateway = via(value),
            RTA_PRIORITY => metric = number(value).unwrap_or_default(),
            RTA_PREFSRC => source = ip(family, value),
            RTA_TABLE => table = number(value).map_or(table, Table),
            RTA_MULTIPATH | RTA_ENCAP => plain = false,
            _ => {}
        }
    }
    let destination = destination.or_else(|| unspecified(family));
    let destination = destination.and_then(|address| IpNet::new(address, prefix_len).ok());
    Ok(destination.map(|destination| {
        let (scope, protocol) = (scope_of(scope), Protocol(protocol));
        let route = Route { table, destination, gateway, source, scope, metric, protocol };
        RouteEntry { route, leads: leads(kind, link.filter(|_| plain)) }
    }))
}

/// Returns where packets go by a route of a type and over a link, if it is over one.
pub(super) fn leads(kind: u8, link: Option<LinkIndex>) -> Leads {
    const RTN_UNICAST: u8 = 1;
    const RTN_LOCAL: u8 = 2;
    const RTN_MULTICAST: u8 = 5;
    const RTN_BLACKHOLE: u8 = 6;
    const RTN_PROHIBIT: u8 = 8;
    const RTN_THROW: u8 = 9;
    match (kind, link) {
        (RTN_UNICAST, Some(link)) => Leads::Over(link),
        // `broadcast` and `anycast` are in between.
        (RTN_LOCAL..=RTN_MULTICAST, _) => Leads::Here,
        // And `unreachable`.
        (RTN_BLACKHOLE..=RTN_PROHIBIT, _) => Leads::Nowhere,
        (RTN_THROW, _) => Leads::Back,
        _ => Leads::Otherwise,
    }
}

/// Reads an `rtvia`, a next hop of the other family.
fn via(value: &[u8]) -> Option<IpAddr> {
    let (family, address) = value.split_first_chunk()?;
    ip(u16::from_ne_bytes(*family) as u8, address)
}

/// What aligns the attributes of a rule, of linux/fib_rules.h.
pub(super) const FRA_PAD: u16 = 18;

/// Reads a `fib_rule_hdr`.
pub(super) fn rule(payload: &[u8]) -> Result<Option<Rule>, NetlinkError> {
    const FIB_RULE_INVERT: u32 = 2;
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_IIFNAME: u16 = 3;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    const FRA_PROTOCOL: u16 = 21;
    const FRA_IP_PROTO: u16 = 22;

    let header: &[u8; 12] = header(payload, "rule")?;
    let [family, dst_len, src_len, tos, table, _, _, action, f0, f1, f2, f3] = *header;
    let kind = match family {
        AF_INET => Family::Ipv4,
        AF_INET6 => Family::Ipv6,
        _ => return Ok(None),
    };
    let mut rule = Rule::new(kind, 0, Table(table.into()));
    rule.protocol = Protocol::UNSPECIFIED;
    rule.inverted = u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0;
    rule.action = rule_action(action);
    rule.more = tos != 0;
    let (mut mark, mut mask) = (None, None);
    let net = |value, len| ip(family, value).and_then(|address| IpNet::new(address, len).ok());
    for (attribute, value) in attributes(&payload[12..]) {
        match attribute {
            FRA_DST => rule.destination = net(value, dst_len),
            FRA_SRC => rule.source = net(value, src_len),
            FRA_IIFNAME => rule.input = Some(text(value)),
            FRA_PRIORITY => rule.priority = number(value).unwrap_or_default(),
            FRA_FWMARK => mark = number(value),
            FRA_FWMASK => mask = number(value),
            FRA_TABLE => rule.table = number(value).map_or(rule.table, Table),
            FRA_PROTOCOL => {
                rule.protocol = Protocol(value.first().copied().unwrap_or_default());
            }
            FRA_IP_PROTO => rule.carries = value.first().copied(),
            // All ones: the route of any prefix length will do.
            FRA_SUPPRESS_PREFIXLEN if number(value) == Some(u32::MAX) => {}
            FRA_PAD => {}
            _ => rule.more = true,
        }
    }
    rule.mark = match (mark, mask) {
        (None, None) => None,
        (value, mask) => Some(Mark { value: value.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) }),
    };
    Ok(Some(rule))
}

/// Returns what a number of linux/fib_rules.h means.
pub(super) fn rule_action(number: u8) -> RuleAction {
    const FR_ACT_TO_TBL: u8 = 1;
    const FR_ACT_BLACKHOLE: u8 = 6;
    const FR_ACT_PROHIBIT: u8 = 8;
    match number {
        FR_ACT_TO_TBL => RuleAction::Lookup,
        // `unreachable` is in between.
        FR_ACT_BLACKHOLE..=FR_ACT_PROHIBIT => RuleAction::Refuse,
        _ => RuleAction::Other,
    }
}

/// Reads an `ndmsg`; leaves out what is not permanent.
pub(super) fn neighbour(payload: &[u8]) -> Result<Option<(LinkIndex, Neighbour)>, NetlinkError> {
    const NUD_PERMANENT: u16 = 0x80;
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;

    let header: &[u8; 12] = header(payload, "neighbour")?;
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, ..] = *header;
    let (mut address, mut mac) = (None, None);
    for (attribute, value) in attributes(&payload[12..]) {
        match attribute {
            NDA_DST => address = ip(family, value),
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    let permanent = u16::from_ne_bytes([s0, s1]) & NUD_PERMANENT != 0;
    let (Some(address), Some(mac), true) = (address, mac, permanent) else {
        return Ok(None);
    };
    let index = LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3]));
    Ok(Some((index, Neighbour { address, mac })))
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

fn header<'a, const N: usize>(
    payload: &'a [u8],
    what: &'static str,
) -> Result<&'a [u8; N], NetlinkError> {
    payload.first_chunk().ok_or(NetlinkError::Decode { what })
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => value.try_into().ok().map(|bytes: [u8; 4]| IpAddr::from(bytes)),
        AF_INET6 => value.try_into().ok().map(|bytes: [u8; 16]| IpAddr::from(bytes)),
        _ => None,
    }
}

fn unspecified(family: u8) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

pub(super) fn scope_of(number: u8) -> Scope {
    match number {
        0 => Scope::Global,
        253 => Scope::Link,
        254 => Scope::Host,
        other => Scope::Other(other),
    }
}
