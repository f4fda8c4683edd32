//! Secondary ENIs: each has a route table of its own.

use core::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpc_ipam_core::{Card, EniLink};

use crate::datapath::link::{LinkMissingError, link_by_mac, link_local};
use crate::datapath::numbering::subnet_gateway;
pub use crate::datapath::numbering::table;
use crate::datapath::numbering::{GATEWAY_IPV6, PRIORITY_BRANCH, PRIORITY_ENI, PRIORITY_FROM_POD};
use crate::state::actual::Actual;
use crate::state::apply::{Applied, ApplyError, apply};
use crate::state::{Claim, State};
use crate::{
    Address, Family, Leads, LinkId, LinkIndex, Netlink, NetlinkError, Object, Protocol, Route,
    RouteEntry, Rule, Scope, Sysctl, SysctlKey, Table,
};

/// The route table that an ENI has on a node, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EniTable {
    /// The route table of what pods on the ENI send.
    pub table: Table,
    /// Why it is that table.
    pub because: TableReason,
}

/// Why an ENI has the route table that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableReason {
    /// It follows from where the ENI is attached: [`table`].
    Attachment,
    /// The operating system made it, and rules that lead there.
    System,
    /// The one that follows from where the ENI is attached was taken when the ENI was set up, or is at present, by what is shown.
    Taken {
        /// A route in that table, or a rule that leads there.
        by: Option<String>,
    },
}

/// How far apart the tables are among which an ENI gets one whose own is taken. They end in its own number.
const TABLES_APART: u32 = 86_000;

impl EniTable {
    /// Returns the table of an ENI, given what there is and the link that it has, if it has one.
    ///
    /// Amazon's systems set up the ENIs of other network cards by themselves (ec2-net-utils): what has the ENI's own address as
    /// its source is led to a table that is there already. That one is used, and the rule left to who made it. Of several the
    /// first counts, as it does for the kernel.
    ///
    /// A table that another program uses is none for an ENI, whose default route would replace that program's, or lead its
    /// packets elsewhere. Which of the further ones it got, the kernel keeps: our rule leads there, or our routes are in it.
    pub(crate) fn among(eni: &EniLink, link: Option<LinkIndex>, actual: &Actual) -> Self {
        if let Some(table) = table_of_system(eni, &actual.rules) {
            return Self { table, because: TableReason::System };
        }
        let usual = table(eni.card, eni.device);
        if usual == Table::MAIN {
            return Self { table: usual, because: TableReason::Attachment };
        }
        let own_addresses = own_addresses(eni);
        let own = own_tables(eni, link, actual);
        let own = own.filter(|table| {
            table.0.checked_sub(usual.0).is_some_and(|beyond| beyond % TABLES_APART == 0)
        });
        let free = || {
            let mut tables = (usual.0..).step_by(TABLES_APART as usize).map(Table);
            tables.find(|table| taken_by(*table, &own_addresses, link.as_slice(), actual).is_none())
        };
        let chosen = own.min().or_else(free).unwrap_or(usual);
        let because = if chosen == usual {
            TableReason::Attachment
        } else {
            TableReason::Taken { by: taken_by(usual, &own_addresses, link.as_slice(), actual) }
        };
        Self { table: chosen, because }
    }
}

/// Returns the table to which a rule of another program leads what the ENI itself sends, if the ENI is on a further card.
pub(crate) fn table_of_system(eni: &EniLink, rules: &[Rule]) -> Option<Table> {
    if eni.card == Card(0) {
        return None;
    }
    let addresses = own_addresses(eni);
    let leads = |rule: &&Rule| {
        let from = rule.source.filter(|net| net.prefix_len() == net.max_prefix_len());
        from.is_some_and(|net| addresses.contains(&net.addr()))
            && rule.protocol != Protocol::OURS
            && rule.priority != PRIORITY_FROM_POD
            && rule.is_plain()
            && ![Table::MAIN, Table::LOCAL, Table::UNSPECIFIED].contains(&rule.table)
    };
    rules.iter().find(leads).map(|rule| rule.table)
}

/// Returns the tables that are an ENI's by what is there of ours.
fn own_tables(
    eni: &EniLink,
    link: Option<LinkIndex>,
    actual: &Actual,
) -> impl Iterator<Item = Table> {
    let own = own_addresses(eni);
    let led_to = actual.rules.iter().filter(move |rule| {
        rule.protocol == Protocol::OURS
            && rule.priority == PRIORITY_ENI
            && rule.source.is_some_and(|net| own.contains(&net.addr()))
    });
    let with_routes = actual.routes.iter().filter(move |(over, route)| {
        route.protocol == Protocol::OURS && route.table != Table::MAIN && Some(*over) == link
    });
    led_to.map(|rule| rule.table).chain(with_routes.map(|(_, route)| route.table))
}

/// Returns what another program has in a table, or leads there. Routes over some links and rules from some addresses, which the
/// table is to serve anyway, do not count.
pub(crate) fn taken_by(
    table: Table,
    addresses: &[IpAddr],
    links: &[LinkIndex],
    actual: &Actual,
) -> Option<String> {
    let by_another_link = |(over, route): &&(LinkIndex, Route)| {
        route.table == table && route.protocol != Protocol::OURS && !links.contains(over)
    };
    if let Some((over, route)) = actual.routes.iter().find(by_another_link) {
        let name = actual.links.iter().find(|it| it.id.index == *over);
        let name = name.map_or("?", |link| &link.id.name);
        return Some(format!("route {route} dev {name} {}", route.protocol));
    }
    let by_no_link =
        |entry: &&RouteEntry| entry.route.table == table && !matches!(entry.leads, Leads::Over(_));
    if let Some(entry) = actual.entries.iter().find(by_no_link) {
        return Some(format!("route {entry} {}", entry.route.protocol));
    }
    let another = |rule: &&Rule| {
        let is_from_aws_cni = rule.protocol == Protocol::UNSPECIFIED
            && [PRIORITY_BRANCH, PRIORITY_FROM_POD, PRIORITY_ENI].contains(&rule.priority);
        rule.table == table
            && rule.protocol != Protocol::OURS
            && !is_from_aws_cni
            && !rule.source.is_some_and(|net| addresses.contains(&net.addr()))
    };
    actual.rules.iter().find(another).map(|rule| format!("rule {rule} {}", rule.protocol))
}

pub(crate) fn own_addresses(eni: &EniLink) -> Vec<IpAddr> {
    let ipv4 = eni.primary_ipv4.map(IpAddr::V4);
    ipv4.into_iter().chain(eni.primary_ipv6.map(IpAddr::V6)).collect()
}

/// Returns what a node should hold for an ENI whose link is there, and which has this table.
///
/// Of the primary ENI only the link is ours: its address and its routes are the operating system's.
pub fn desired(eni: &EniLink, link: &LinkId, table: &EniTable) -> State {
    let mut state = State::default();
    let EniTable { table, because } = table;
    let (table, made_by_system) = (*table, *because == TableReason::System);
    if table != Table::MAIN && eni.subnet_ipv6.is_some() {
        // Before the link is up: the kernel asks for the router from a link-local address, and what pods send is lost until
        // it has one that it trusts. No other host could have it, since EC2 gives each ENI a MAC address of its own.
        let (key, value) = (SysctlKey::ipv6_of_link(&link.name, "accept_dad"), "0".to_owned());
        state.wanted.push(Object::Sysctl(Sysctl { key, value, optional: false }));
        state.wanted.push(Object::Address { link: link.clone(), address: link_local(eni.mac) });
    }
    state.wanted.push(Object::Link { link: link.clone(), mtu: eni.mtu.into(), up: true });
    if table == Table::MAIN {
        return state;
    }
    for net in own_nets(eni) {
        state.append(address_of(link, net));
    }
    let routes = routes_of(eni, table).into_iter();
    state.wanted.extend(routes.map(|route| Object::Route { link: link.clone(), route }));
    if eni.subnet_ipv4.is_some() || eni.subnet_ipv6.is_some() {
        state.claims.push(Claim::OurRoutes { link: link.clone() });
    }
    for address in own_addresses(eni) {
        let rule = rule(address, table);
        // Whatever table the ENI had where it was attached before.
        let any_table = Rule { table: Table::UNSPECIFIED, ..rule.clone() };
        if made_by_system {
            state.claims.push(Claim::OurRules(any_table));
            continue;
        }
        state.claims.push(Claim::Rules(any_table));
        if !eni.trunk {
            state.wanted.push(Object::Rule(rule));
        }
    }
    state
}

/// Returns what concerns the ENI's own address of one family.
fn address_of(link: &LinkId, net: IpNet) -> State {
    // In main the subnet is the primary ENI's. The kernel leads it here when another program adds the address to the link; with
    // that as the source, if it is IPv4.
    let in_main = Route::on_link(Table::MAIN, net.trunc());
    let source = Some(net.addr()).filter(IpAddr::is_ipv4);
    let address = Address { net, scope: Scope::Global };
    State {
        wanted: vec![Object::Address { link: link.clone(), address }],
        claims: vec![
            Claim::Addresses { link: link.clone(), family: Family::of(net.addr()) },
            Claim::Routes { link: link.clone(), like: Route { source, ..in_main } },
        ],
    }
}

/// Returns the ENI's own addresses with their subnets. One that carries prefixes of IPv6 for pods may have none of that family.
pub(crate) fn own_nets(eni: &EniLink) -> Vec<IpNet> {
    let ipv4 = eni.primary_ipv4.zip(eni.subnet_ipv4);
    let ipv4 = ipv4.map(|(own, subnet)| Ipv4Net::new_assert(own, subnet.prefix_len()).into());
    let ipv6 = eni.primary_ipv6.zip(eni.subnet_ipv6);
    let ipv6 = ipv6.map(|(own, subnet)| Ipv6Net::new_assert(own, subnet.prefix_len()).into());
    ipv4.into_iter().chain(ipv6).collect()
}

/// Returns the routes that an ENI has in a table of its own: they lead everything to the subnet's router.
pub(crate) fn routes_of(eni: &EniLink, table: Table) -> Vec<Route> {
    let ipv4 = eni.subnet_ipv4.filter(|_| eni.primary_ipv4.is_some());
    let ipv4 = ipv4.map(|subnet| IpAddr::V4(subnet_gateway(subnet)));
    let gateways = ipv4.into_iter().chain(eni.subnet_ipv6.map(|_| GATEWAY_IPV6.into()));
    gateways
        .flat_map(|gateway| [Route::on_link(table, gateway), Route::default_by(table, gateway)])
        .collect()
}

/// Returns what the node should hold of an ENI that is gone: nothing. The kernel removes the rest along with the link.
pub fn absent(eni: &EniLink) -> State {
    let rules = own_addresses(eni).into_iter().map(|address| rule(address, Table::UNSPECIFIED));
    State { wanted: Vec::new(), claims: rules.map(Claim::Rules).collect() }
}

fn rule(address: IpAddr, table: Table) -> Rule {
    Rule::new(Family::of(address), PRIORITY_ENI, table).from(address)
}

/// A failure to set up an ENI, or to remove what is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EniError {
    /// The links could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The ENI has no link.
    #[error(transparent)]
    Link(#[from] LinkMissingError),
    /// The node could not be changed.
    #[error("set up or remove {eni}")]
    Apply {
        /// The ENI.
        eni: vpc_ipam_core::EniId,
        /// What could not be read or changed.
        source: ApplyError,
    },
}

/// Sets up the link of an ENI, and returns what it found that was not as it should be.
pub fn set_up(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Applied, EniError> {
    let actual = read_for_table(netlink, eni)?;
    let link = &link_by_mac(&actual.links, eni.mac)?.id;
    let table = EniTable::among(eni, Some(link.index), &actual);
    let applied = apply(netlink, &desired(eni, link, &table));
    applied.map_err(|source| EniError::Apply { eni: eni.eni, source })
}

/// Returns the route table that an ENI has on this node.
pub fn table_here(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<EniTable, NetlinkError> {
    let actual = read_for_table(netlink, eni)?;
    let link = link_by_mac(&actual.links, eni.mac).ok().map(|link| link.id.index);
    Ok(EniTable::among(eni, link, &actual))
}

/// Reads what may tell which table an ENI has.
fn read_for_table(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Actual, NetlinkError> {
    match table(eni.card, eni.device) {
        Table::MAIN => Ok(Actual { links: netlink.links()?, ..Actual::default() }),
        _ => Actual::read_tables(netlink),
    }
}

/// Removes what the kernel does not remove along with the link of an ENI, and returns what that was.
pub fn remove(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Applied, EniError> {
    let applied = apply(netlink, &absent(eni));
    applied.map_err(|source| EniError::Apply { eni: eni.eni, source })
}
