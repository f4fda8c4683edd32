//! Links, addresses, routes and rules of the node, and which of them are pods'.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vpc_ipam_linux::{
    Address, Family, Leads, Link, LinkIndex, Netlink, NetlinkError, Protocol, RouteEntry, Rule,
    Scope, Table,
};

/// Links, addresses, routes and rules of the node.
#[derive(Clone, Debug, Default)]
pub struct KernelView {
    /// Its links.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<(LinkIndex, Address)>,
    /// The entries of all route tables of both families.
    pub entries: Vec<RouteEntry>,
    /// The rules of the routing policy of both families.
    pub rules: Vec<Rule>,
}

/// How a pod's address is reached on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// The address.
    pub address: IpAddr,
    /// The link that leads there.
    pub link: String,
    /// Whether other pods may be behind the link too, as behind Antrea's gateway.
    pub shared: bool,
    /// The table that has the route.
    pub table: Table,
    /// Whether vpc-ipamd or vpc-cni made the route.
    pub ours: bool,
}

/// The priority of the rule by which the node reaches a pod.
pub(crate) const TO_POD: u32 = 512;
/// The priority of the rule that leads what a pod sends to the table of its ENI.
pub(crate) const FROM_POD: u32 = 1536;
/// The priority of the rules of pods on branch ENIs in strict mode.
pub(crate) const OF_BRANCH: u32 = 10;
/// The priority of the rule that leads what an ENI's own address sends to its table.
const OF_ENI: u32 = 32765;

impl KernelView {
    /// Reads all of it.
    pub(super) fn read(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let mut view = Self { links: netlink.links()?, ..Self::default() };
        for link in &view.links {
            let addresses = netlink.addresses(link.id.index)?;
            view.addresses.extend(addresses.into_iter().map(|it| (link.id.index, it)));
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            view.entries.extend(netlink.all_routes(family)?);
            view.rules.extend(netlink.rules(family)?);
        }
        Ok(view)
    }

    /// Returns a link by its name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| &*link.id.name == name)
    }

    fn link_at(&self, index: LinkIndex) -> Option<&Link> {
        self.links.iter().find(|link| link.id.index == index)
    }

    /// Returns the routes to single addresses that may be those of pods: in `ranges`, or over links with names of pods' links.
    pub fn pod_routes(&self, ranges: &[IpNet]) -> Vec<PodRoute> {
        let mut not_pods: BTreeSet<IpAddr> =
            self.addresses.iter().map(|(_, address)| address.net.addr()).collect();
        not_pods.extend(self.entries.iter().filter_map(|entry| entry.route.gateway));
        let enis: BTreeSet<String> = self.eni_links().into_values().collect();
        let route = |entry: &RouteEntry| {
            let RouteEntry { route, leads: Leads::Over(index) } = entry else { return None };
            let link = self.link_at(*index)?;
            let net = route.destination;
            let of_pods = is_pod_link(&link.id.name);
            let is_pods = net.prefix_len() == net.max_prefix_len()
                && route.gateway.is_none()
                && route.protocol != Protocol::KERNEL
                && route.table != Table::LOCAL
                && link.kind.is_some()
                && !is_vlan(&link.id.name)
                && !enis.contains(&*link.id.name)
                && !not_pods.contains(&net.addr())
                && (of_pods || ranges.iter().any(|range| range.contains(&net.addr())));
            is_pods.then(|| PodRoute {
                address: net.addr(),
                link: link.id.name.to_string(),
                shared: link.kind.as_deref() != Some("veth"),
                table: route.table,
                ours: route.protocol == Protocol::OURS,
            })
        };
        self.entries.iter().filter_map(route).collect()
    }

    /// Returns the tables to which rules lead what an address sends, each once.
    pub fn tables_from(&self, address: IpAddr) -> BTreeSet<Table> {
        let from = |rule: &&Rule| rule.priority == FROM_POD && rule.source == Some(host(address));
        self.rules.iter().filter(from).map(|rule| rule.table).collect()
    }

    /// Returns whether there is the rule by which the node reaches an address.
    pub fn has_rule_to(&self, address: IpAddr) -> bool {
        let is_it =
            |rule: &Rule| rule.priority == TO_POD && rule.destination == Some(host(address));
        self.rules.iter().any(is_it)
    }

    /// Returns the link of the primary ENI: that of the default route of the main table with the lowest metric.
    pub fn primary_link(&self) -> Option<&Link> {
        let routes = self.entries.iter().filter(|entry| {
            entry.route.table == Table::MAIN && entry.route.destination.prefix_len() == 0
        });
        let over = |entry: &RouteEntry| match entry.leads {
            Leads::Over(index) => Some((entry.route.metric, index)),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => None,
        };
        let (_, index) = routes.filter_map(over).min()?;
        self.link_at(index)
    }

    /// Returns the links of ENIs by their tables: the primary one, and those whose tables rules for addresses lead to.
    pub fn eni_links(&self) -> BTreeMap<Table, String> {
        let of_rules = self
            .rules
            .iter()
            .filter(|rule| [FROM_POD, OF_ENI].contains(&rule.priority) && rule.source.is_some());
        let tables: BTreeSet<Table> = of_rules.map(|rule| rule.table).collect();
        let mut links: BTreeMap<Table, String> = BTreeMap::new();
        for entry in &self.entries {
            if let Leads::Over(index) = entry.leads
                && entry.route.destination.prefix_len() == 0
                && entry.route.table != Table::MAIN
                && tables.contains(&entry.route.table)
                && let Some(link) = self.link_at(index)
                && !is_vlan(&link.id.name)
            {
                links.entry(entry.route.table).or_insert_with(|| link.id.name.to_string());
            }
        }
        if let Some(primary) = self.primary_link() {
            links.insert(Table::MAIN, primary.id.name.to_string());
        }
        links
    }

    /// Returns the subnets of a link: the networks of its addresses that are valid anywhere.
    pub fn subnets(&self, link: &str) -> BTreeSet<IpNet> {
        let of = self.link(link).map(|link| link.id.index);
        let of_link = self
            .addresses
            .iter()
            .filter(|(index, address)| Some(*index) == of && address.scope == Scope::Global);
        let nets = of_link.map(|(_, address)| address.net.trunc());
        nets.filter(|net| net.prefix_len() < net.max_prefix_len()).collect()
    }
}

/// The eleven digits with which the names of pods' links end.
const DIGITS: usize = 11;

/// Returns the prefix of the name of a pod's link, if it is one by its form.
pub(crate) fn prefix_of_link(name: &str) -> Option<&str> {
    let (prefix, digits) = name.split_at_checked(name.len().checked_sub(DIGITS)?)?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (!prefix.is_empty() && digits.bytes().all(digit)).then_some(prefix)
}

fn is_pod_link(name: &str) -> bool {
    prefix_of_link(name).is_some()
}

/// Returns whether a link is that of the VLAN of a branch ENI.
pub(crate) fn is_vlan(name: &str) -> bool {
    name.strip_prefix("vlan.eth.").is_some_and(|id| id.parse::<u16>().is_ok())
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
