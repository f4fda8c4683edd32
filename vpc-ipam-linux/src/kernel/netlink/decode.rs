//! Netlink messages as our values, read attribute by attribute: a list holds objects of other programs too, and one that a full
//! decoder stumbles over must not keep the node from its own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use vpc_ipam_core::Mac;

use super::attribute::{AF_INET, AF_INET6, attributes, text};
use crate::{
    Address, Family, Leads, Link, LinkId, LinkIndex, Mark, Neighbour, NetlinkError, Protocol,
    Route, RouteEntry, Rule, RuleAction, Scope, Table,
};

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
