//! What a network namespace is configured with, as plain values.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vpc_ipam_core::Mac;

/// The index of a link within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LinkIndex(pub u32);

/// A link as messages to the kernel name it, by index, and as messages to people do, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// The number by which the kernel knows the link; a new link gets a new one.
    pub index: LinkIndex,
    /// The name that the link had when it was listed; it may be renamed.
    pub name: Arc<str>,
}

impl LinkId {
    /// Names a link.
    pub fn new(index: LinkIndex, name: &str) -> Self {
        Self { index, name: name.into() }
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index and name.
    pub id: LinkId,
    /// Its MAC address, if it is of a kind that has one.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its kind, such as `veth` or `vlan`; hardware has none.
    pub kind: Option<String>,
    /// The link beneath it, or the other end of a veth, which may be in another namespace.
    pub lower: Option<LinkIndex>,
    /// What is said of it to people, `alias` of `ip link`.
    pub alias: Option<String>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Family {
    /// IPv4, AF_INET of the kernel.
    Ipv4,
    /// IPv6, AF_INET6 of the kernel.
    Ipv6,
}

impl Family {
    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// A route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Table(pub u32);

impl Table {
    /// No table; in a rule to be removed, any table.
    pub const UNSPECIFIED: Self = Self(0);
    /// The table that is consulted where no rule says otherwise.
    pub const MAIN: Self = Self(254);
    /// The kernel's own: the addresses of this host.
    pub const LOCAL: Self = Self(255);
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            253 => f.write_str("default"),
            254 => f.write_str("main"),
            255 => f.write_str("local"),
            number => write!(f, "{number}"),
        }
    }
}

/// Who made a route or a rule, in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Protocol(pub u8);

impl Protocol {
    /// No protocol; in a rule to be removed, any protocol.
    pub const UNSPECIFIED: Self = Self(0);
    /// Routes and rules that the kernel made by itself.
    pub const KERNEL: Self = Self(2);
    /// A command or script: what iproute2 gives routes, and Calico's default.
    pub const BOOT: Self = Self(3);
    /// This crate, on every route and rule that it makes. No number of `/etc/iproute2/rt_protos` is near.
    pub const OURS: Self = Self(86);
}

impl fmt::Display for Protocol {
    /// Writes it as iproute2 does, by the names of its `rt_protos`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "unspec",
            1 => "redirect",
            2 => "kernel",
            3 => "boot",
            4 => "static",
            8 => "gated",
            9 => "ra",
            11 => "zebra",
            12 => "bird",
            16 => "dhcp",
            18 => "keepalived",
            42 => "babel",
            186 => "bgp",
            187 => "isis",
            188 => "ospf",
            189 => "rip",
            192 => "eigrp",
            number => return write!(f, "proto {number}"),
        };
        write!(f, "proto {name}")
    }
}

/// How far away the destination of a route, or the validity of an address, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// The address or destination is valid anywhere.
    Global,
    /// It is valid on its link alone.
    Link,
    /// It is valid inside this host alone.
    Host,
    /// Another of the kernel's numbers.
    Other(u8),
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Address {
    /// The address and the length of its network's prefix.
    pub net: IpNet,
    /// Where it is valid.
    pub scope: Scope,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net)
    }
}

/// A unicast route over one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Route {
    /// The route table that holds it.
    pub table: Table,
    /// The packets that it matches, by their destinations.
    pub destination: IpNet,
    /// The next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that it prefers.
    pub source: Option<IpAddr>,
    /// How far the destination is.
    pub scope: Scope,
    /// Its metric, of which the lowest wins.
    pub metric: u32,
    /// The program that made it, by its number.
    pub protocol: Protocol,
}

impl Route {
    /// Returns whether both routes lead the same way, whichever program made them.
    pub fn is_twin_of(&self, other: &Self) -> bool {
        Self { protocol: other.protocol, ..*self } == *other
    }

    /// Describes a route of ours to a destination on the link.
    ///
    /// The metric is what the kernel takes where none is given, and shows: 0 for IPv4, 1024 for IPv6, whose routes have no
    /// scope either.
    pub fn on_link(table: Table, destination: impl Into<IpNet>) -> Self {
        let destination = destination.into();
        let (scope, metric) = match destination {
            IpNet::V4(_) => (Scope::Link, 0),
            IpNet::V6(_) => (Scope::Global, 1024),
        };
        let protocol = Protocol::OURS;
        Self { table, destination, gateway: None, source: None, scope, metric, protocol }
    }

    /// Describes a default route of ours.
    pub fn default_by(table: Table, gateway: IpAddr) -> Self {
        let everywhere = match Family::of(gateway) {
            Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::default()),
            Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        Self { gateway: Some(gateway), scope: Scope::Global, ..Self::on_link(table, everywhere) }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination.prefix_len() {
            0 => f.write_str("default")?,
            _ => write_net(f, self.destination)?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " table {}", self.table)
    }
}

/// An entry of a route table as the kernel shows it, wherever it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// The route without the link that it leads over.
    pub route: Route,
    /// Where packets go that it matches.
    pub leads: Leads,
}

/// Where the packets go that an entry of a route table matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// Out by one link.
    Over(LinkIndex),
    /// To this host itself: `local`, `broadcast` and their kin.
    Here,
    /// Nowhere: `blackhole`, `unreachable`, `prohibit`.
    Nowhere,
    /// Back to the rules, as if the table had no such entry: `throw`.
    Back,
    /// Out by several links or through a tunnel of the route's own, or only packets of a certain source or type of service.
    Otherwise,
}

impl fmt::Display for RouteEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.leads {
            Leads::Over(_) => {}
            Leads::Here => f.write_str("local ")?,
            Leads::Nowhere => f.write_str("blackhole ")?,
            Leads::Back => f.write_str("throw ")?,
            Leads::Otherwise => f.write_str("by several ways ")?,
        }
        write!(f, "{}", self.route)
    }
}

/// The part of a packet's mark that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Mark {
    /// What the bits must be.
    pub value: u32,
    /// The bits of the mark that count.
    pub mask: u32,
}

/// A rule of the routing policy that leads to a table.
///
/// As an object to be removed it is a pattern: what it leaves out may be anything in the rule that goes, and the first
/// such rule is the one that goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule {
    /// The family of the packets that it matches.
    pub family: Family,
    /// Rules are tried in the order of their priorities, the lowest first.
    pub priority: u32,
    /// The range that a packet's source has to be in.
    pub source: Option<IpNet>,
    /// The range that a packet's destination has to be in.
    pub destination: Option<IpNet>,
    /// The mark that a packet has to have.
    pub mark: Option<Mark>,
    /// By which link it came in.
    pub input: Option<String>,
    /// What it carries, in IANA's numbers of protocols.
    pub carries: Option<u8>,
    /// The table that it leads to.
    pub table: Table,
    /// The program that made it, by its number.
    pub protocol: Protocol,
    /// What happens to a packet that it matches.
    pub action: RuleAction,
    /// Whether the kernel showed conditions that this type has no field for. Rules of ours have none.
    pub more: bool,
    /// Whether it matches what the conditions do not (`not`). Rules of ours match what they do.
    pub inverted: bool,
}

impl Rule {
    /// Describes a rule of ours that matches every packet; the caller narrows it.
    pub fn new(family: Family, priority: u32, table: Table) -> Self {
        Self {
            family,
            priority,
            source: None,
            destination: None,
            mark: None,
            input: None,
            carries: None,
            table,
            protocol: Protocol::OURS,
            action: RuleAction::Lookup,
            more: false,
            inverted: false,
        }
    }

    /// Returns the rule with a source.
    #[must_use]
    pub fn from(self, source: impl Into<IpNet>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Returns the rule with a destination.
    #[must_use]
    pub fn to(self, destination: impl Into<IpNet>) -> Self {
        Self { destination: Some(destination.into()), ..self }
    }

    /// Returns whether it leads to its table under no conditions but those that are shown.
    pub fn is_plain(&self) -> bool {
        self.action == RuleAction::Lookup && !self.more && !self.inverted
    }

    /// Returns whether both rules do the same, whichever program made them.
    pub fn is_twin_of(&self, other: &Self) -> bool {
        Self { protocol: other.protocol, ..self.clone() } == *other
    }

    /// Returns whether the kernel takes `candidate` for the rule to be removed when asked to remove this one.
    pub fn removes(&self, candidate: &Self) -> bool {
        fn agree<T: PartialEq>(asked: Option<T>, candidate: Option<T>) -> bool {
            asked.is_none() || asked == candidate
        }
        self.family == candidate.family
            && self.action == candidate.action
            && self.priority == candidate.priority
            && agree(self.source, candidate.source)
            && agree(self.destination, candidate.destination)
            && agree(self.mark, candidate.mark)
            && agree(self.input.as_ref(), candidate.input.as_ref())
            && agree(self.carries, candidate.carries)
            && (self.table == Table::UNSPECIFIED || self.table == candidate.table)
            && (self.protocol == Protocol::UNSPECIFIED || self.protocol == candidate.protocol)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if self.inverted {
            f.write_str(" not")?;
        }
        if let Some(source) = self.source {
            f.write_str(" from ")?;
            write_net(f, source)?;
        }
        if let Some(destination) = self.destination {
            f.write_str(" to ")?;
            write_net(f, destination)?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {:#x}/{:#x}", mark.value, mark.mask)?;
        }
        if let Some(input) = &self.input {
            write!(f, " iif {input}")?;
        }
        if let Some(protocol) = self.carries {
            write!(f, " ipproto {protocol}")?;
        }
        if self.more {
            f.write_str(" and other conditions")?;
        }
        match (self.action, self.table) {
            (RuleAction::Lookup, Table::UNSPECIFIED) => f.write_str(" lookup any table"),
            (RuleAction::Lookup, table) => write!(f, " lookup {table}"),
            (RuleAction::Refuse, _) => f.write_str(" refuse"),
            (RuleAction::Other, _) => f.write_str(" go to another rule"),
        }
    }
}

/// What happens to a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RuleAction {
    /// The rule's table is looked up.
    Lookup,
    /// It is refused: `blackhole`, `unreachable`, `prohibit`.
    Refuse,
    /// The rules go on elsewhere: `goto`, `nop`.
    Other,
}

/// A neighbour that is known for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The address of IPv4 or IPv6.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
}

fn write_net(f: &mut fmt::Formatter<'_>, net: IpNet) -> fmt::Result {
    if net.prefix_len() == net.max_prefix_len() {
        write!(f, "{}", net.addr())
    } else {
        write!(f, "{net}")
    }
}

/// Returns whether a range is one address alone.
pub(crate) fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
