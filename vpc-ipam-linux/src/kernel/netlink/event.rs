//! What the kernel reports without being asked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use netlink_packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use vpc_ipam_core::Mac;

use super::{attribute, decode, exchange};
use crate::datapath::aws_cni;
use crate::node::{KernelEvent, OfLinks};
use crate::{
    Address, Family, Link, LinkId, LinkIndex, Mark, Protocol, Route, RouteEntry, Rule, Table,
};

/// Reads a message of rtnetlink. What is about no kind of object that we have is left out.
pub(crate) fn routing_event(message: &NetlinkMessage<Message>) -> Option<KernelEvent> {
    let by = Some(message.header.port_number).filter(|&port| port > 0);
    let message = match &message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(KernelEvent::Lost),
        _ => return None,
    };
    Some(match message {
        Message::NewLink(it) => KernelEvent::Link { link: link(it)?, gone: false },
        Message::DelLink(it) => KernelEvent::Link { link: link(it)?, gone: true },
        Message::NewAddress(it) => address(it, false)?,
        Message::DelAddress(it) => address(it, true)?,
        Message::NewRoute(it) => KernelEvent::Route { entry: route(it)?, gone: false, by },
        Message::DelRoute(it) => KernelEvent::Route { entry: route(it)?, gone: true, by },
        Message::NewRule(it) => KernelEvent::Rule { rule: rule(it)?, gone: false, by },
        Message::DelRule(it) => KernelEvent::Rule { rule: rule(it)?, gone: true, by },
        _ => return None,
    })
}

fn link(message: &LinkMessage) -> Option<Link> {
    // Of a bridge's ports the kernel reports in the same group, with other attributes.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut mtu, mut kind, mut lower) = (String::new(), None, 0, None, None);
    let mut alias = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = attribute::text(it.as_bytes()),
            LinkAttribute::IfAlias(it) => alias = Some(attribute::text(it.as_bytes())),
            LinkAttribute::Address(it) => mac = it.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(it) => mtu = *it,
            LinkAttribute::Link(it) => lower = Some(LinkIndex(*it)).filter(|it| it.0 > 0),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(attribute::text(kind.to_string().as_bytes())),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let id = LinkId::new(LinkIndex(message.header.index), &name);
    let up = message.header.flags.contains(LinkFlags::Up);
    Some(Link { id, mac, mtu, up, kind, lower, alias })
}

fn address(message: &AddressMessage, gone: bool) -> Option<KernelEvent> {
    let family = family(message.header.family)?;
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(it) => local = of(family, *it),
            AddressAttribute::Address(it) => address = of(family, *it),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let address = Address { net, scope: decode::scope_of(message.header.scope.into()) };
    Some(KernelEvent::Address { link: LinkIndex(message.header.index), address, gone })
}

fn route(message: &RouteMessage) -> Option<RouteEntry> {
    let header = &message.header;
    let unspecified = match family(header.address_family)? {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut table = Table(header.table.into());
    let (mut destination, mut gateway, mut source, mut link) = (unspecified, None, None, None);
    let mut metric = 0;
    let mut plain = header.source_prefix_length == 0 && header.tos == 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(it) => destination = ip(it)?,
            RouteAttribute::Oif(it) => link = Some(LinkIndex(*it)),
            RouteAttribute::Gateway(it) => gateway = ip(it),
            RouteAttribute::Via(RouteVia::Inet(it)) => gateway = Some(IpAddr::V4(*it)),
            RouteAttribute::Via(RouteVia::Inet6(it)) => gateway = Some(IpAddr::V6(*it)),
            RouteAttribute::Priority(it) => metric = *it,
            RouteAttribute::PrefSource(it) => source = ip(it),
            RouteAttribute::Table(it) => table = Table(*it),
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) => plain = false,
            _ => {}
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let (scope, protocol) =
        (decode::scope_of(header.scope.into()), Protocol(header.protocol.into()));
    let route = Route { table, destination, gateway, source, scope, metric, protocol };
    Some(RouteEntry { route, leads: decode::leads(header.kind.into(), link.filter(|_| plain)) })
}

fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let family = family(header.family)?;
    let net = |address, len| of(family, address).and_then(|it| IpNet::new(it, len).ok());
    let mut rule = Rule::new(family, 0, Table(header.table.into()));
    rule.protocol = Protocol::UNSPECIFIED;
    rule.action = decode::rule_action(header.action.into());
    rule.inverted = header.flags.contains(RuleFlags::Invert);
    rule.more = header.tos != 0;
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(it) => rule.destination = net(*it, header.dst_len),
            RuleAttribute::Source(it) => rule.source = net(*it, header.src_len),
            RuleAttribute::Iifname(it) => rule.input = Some(attribute::text(it.as_bytes())),
            RuleAttribute::Priority(it) => rule.priority = *it,
            RuleAttribute::FwMark(it) => mark = Some(*it),
            RuleAttribute::FwMask(it) => mask = Some(*it),
            RuleAttribute::Table(it) => rule.table = Table(*it),
            RuleAttribute::Protocol(it) => rule.protocol = Protocol((*it).into()),
            RuleAttribute::IpProtocol(it) => {
                rule.carries = u8::try_from(i32::from(*it)).ok();
            }
            // All ones: the route of any prefix length will do.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::Other(it) if it.kind() == decode::FRA_PAD => {}
            _ => rule.more = true,
        }
    }
    rule.mark = match (mark, mask) {
        (None, None) => None,
        (value, mask) => Some(Mark { value: value.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) }),
    };
    Some(rule)
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::Ipv4),
        AddressFamily::Inet6 => Some(Family::Ipv6),
        _ => None,
    }
}

/// Returns an address if it is of the family that its message is about.
fn of(family: Family, address: IpAddr) -> Option<IpAddr> {
    (Family::of(address) == family).then_some(address)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Reads a datagram of the NETCONF groups of rtnetlink: kernel variables of forwarding and of the check of sources.
pub(crate) fn setting_events(datagram: &[u8]) -> Vec<KernelEvent> {
    // From linux/rtnetlink.h and linux/netconf.h; a `netconfmsg` is the family and three bytes that align.
    const RTM_NEWNETCONF: u16 = 80;
    const NETCONFMSG_LEN: usize = 4;
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_FORWARDING: u16 = 2;
    const NETCONFA_RP_FILTER: u16 = 3;
    const IFINDEX_ALL: i32 = -1;
    const IFINDEX_DEFAULT: i32 = -2;

    let event = |message: exchange::Message<'_>| {
        if message.kind != RTM_NEWNETCONF {
            return None;
        }
        let family = family(AddressFamily::from(*message.payload.first()?))?;
        let (mut links, mut forwarding, mut rp_filter) = (None, None, None);
        for (attribute, value) in attribute::attributes(message.payload.get(NETCONFMSG_LEN..)?) {
            let value = i32::from_ne_bytes(value.try_into().ok()?);
            match attribute {
                NETCONFA_IFINDEX => {
                    links = Some(match value {
                        IFINDEX_ALL => OfLinks::All,
                        IFINDEX_DEFAULT => OfLinks::New,
                        index => OfLinks::One(LinkIndex(index.cast_unsigned())),
                    });
                }
                NETCONFA_FORWARDING => forwarding = Some(value != 0),
                NETCONFA_RP_FILTER => rp_filter = u8::try_from(value).ok(),
                _ => {}
            }
        }
        Some(KernelEvent::Setting { family, links: links?, forwarding, rp_filter })
    };
    exchange::messages(datagram).map_while(Result::ok).filter_map(event).collect()
}

/// Reads a datagram of nftables: whether it is about our table, or of something new of amazon-vpc-cni-k8s.
pub(crate) fn nft_events(datagram: &[u8]) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    for message in exchange::messages(datagram).map_while(Result::ok) {
        events.extend(nft_event(&message).filter(|event| !events.contains(event)));
    }
    events
}

fn nft_event(message: &exchange::Message<'_>) -> Option<KernelEvent> {
    // From linux/netfilter/nf_tables.h. Messages about tables, chains, rules, sets and their elements all begin with the name of
    // the table.
    const NFT_MSG_NEWTABLE: u16 = 0;
    const NFT_MSG_NEWCHAIN: u16 = 3;
    const NFT_MSG_NEWRULE: u16 = 6;
    const NFT_MSG_NEWGEN: u16 = 15;
    const NFTA_TABLE: u16 = 1;
    const NFTA_RULE_CHAIN: u16 = 2;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFGENMSG_LEN: usize = 4;

    let kind = message.kind & 0xff;
    if kind == NFT_MSG_NEWGEN {
        return None;
    }
    let attributes = || attribute::attributes(message.payload.get(NFGENMSG_LEN..).unwrap_or(&[]));
    let named =
        |kind| attributes().find(|(it, _)| *it == kind).map(|(_, name)| attribute::text(name));
    let table = named(NFTA_TABLE)?;
    if ["vpc-ipam", "vpc-ipam-sources"].contains(&table.as_str()) {
        return Some(KernelEvent::Nat);
    }
    if message.payload.first() != Some(&attribute::AF_INET) {
        return None;
    }
    let is_from_aws_cni = |name: Option<String>| name.is_some_and(|name| aws_cni::is_chain(&name));
    let is_new_of_aws_cni = match kind {
        NFT_MSG_NEWTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_NEWRULE if table == aws_cni::TABLE => true,
        NFT_MSG_NEWCHAIN => is_from_aws_cni(named(NFTA_CHAIN_NAME)),
        NFT_MSG_NEWRULE if aws_cni::TABLES.contains(&table.as_str()) => {
            is_from_aws_cni(named(NFTA_RULE_CHAIN)) || aws_cni::has_comment(message.payload)
        }
        _ => false,
    };
    is_new_of_aws_cni.then_some(KernelEvent::AwsCniNat)
}
