//! Our values as netlink messages, with the types of netlink-packet-route.

use core::net::IpAddr;
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

use super::attribute::AF_INET;
use super::exchange::Request;
use super::settings::LinkSettings;
use crate::{
    Address, Bridge, Family, LinkIndex, Mark, Neighbour, Protocol, Route, Rule, Scope, Table, Veth,
    Vlan,
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
