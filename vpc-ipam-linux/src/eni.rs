//! Secondary ENIs: each has a route table of its own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpc_ipam_core::{Card, DeviceIndex, EniLink, Mac};

use crate::pod::{PRIORITY_FROM_POD, link_local};
use crate::state::{Applied, ApplyError, Claim, State, apply};
use crate::{
    Address, Family, Link, LinkId, Netlink, NetlinkError, Object, Protocol, Route, Rule, Scope,
    Sysctl, SysctlKey, Table,
};

/// The place of the rule that leads what an ENI's own address sends to the ENI's table.
pub(crate) const PRIORITY_ENI: u32 = 32765;

/// Returns the route table of an ENI: main for the primary, the device's number and one on the first network card, and the
/// numbers that Amazon Linux gives (ec2-net-utils) on others.
pub fn table(card: Card, device: DeviceIndex) -> Table {
    match (card.0, device.0) {
        (0, 0) => Table::MAIN,
        (0, device) => Table(u32::from(device) + 1),
        (card, device) => Table(10_000 + 100 * u32::from(card) + u32::from(device)),
    }
}

/// No link has the MAC address of the ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link has the MAC address {mac}: not attached yet, or in another namespace?")]
pub struct LinkMissingError {
    /// The MAC address.
    pub mac: Mac,
}

/// Finds the link of an ENI among all.
///
/// A link that lies on top of the ENI's may bear its MAC address: hardware comes first, then what lies on nothing, and
/// of several the oldest.
pub fn link_by_mac(links: &[Link], mac: Mac) -> Result<&Link, LinkMissingError> {
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    let order = |link: &&Link| {
        let lies_on_another = link.lower.is_some() && !is_veth(link);
        (link.kind.is_some(), lies_on_another, link.id.index)
    };
    let bearers = links.iter().filter(|link| link.mac == Some(mac));
    bearers.min_by_key(order).ok_or(LinkMissingError { mac })
}

/// Returns the route table that an ENI has on a node with these rules, and whether the operating system made it.
///
/// Amazon's systems set up the ENIs of other network cards by themselves (ec2-net-utils): what has the ENI's own address as
/// its source is led to a table that is there already. That one is used, and the rule left to who made it. Of several the
/// first counts, as it does for the kernel.
pub fn table_among(eni: &EniLink, rules: &[Rule]) -> (Table, bool) {
    let own = table(eni.card, eni.device);
    if eni.card == Card(0) {
        return (own, false);
    }
    let addresses = own_addresses(eni);
    let leads = |rule: &&Rule| {
        let from = rule.source.filter(|net| net.prefix_len() == net.max_prefix_len());
        from.is_some_and(|net| addresses.contains(&net.addr()))
            && rule.protocol != Protocol::OURS
            && rule.priority != PRIORITY_FROM_POD
            && !rule.more
            && ![Table::MAIN, Table::LOCAL, Table::UNSPECIFIED].contains(&rule.table)
    };
    rules.iter().find(leads).map_or((own, false), |rule| (rule.table, true))
}

pub(crate) fn own_addresses(eni: &EniLink) -> Vec<IpAddr> {
    let ipv4 = eni.primary_ipv4.map(IpAddr::V4);
    ipv4.into_iter().chain(eni.primary_ipv6.map(IpAddr::V6)).collect()
}

/// Returns what a node with these rules should hold for an ENI whose link is there.
///
/// Of the primary ENI only the link is ours: its address and its routes are the operating system's.
pub fn desired(eni: &EniLink, link: &LinkId, rules: &[Rule]) -> State {
    let mut state = State::default();
    let (table, made_by_system) = table_among(eni, rules);
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
    if let (Some(address), Some(subnet)) = (eni.primary_ipv4, eni.subnet_ipv4) {
        let net = Ipv4Net::new_assert(address, subnet.prefix_len());
        state.append(address_of(link, net.into()));
        state.append(routes(link, table, gateway(subnet).into()));
    }
    if let Some(subnet) = eni.subnet_ipv6 {
        // An ENI may carry prefixes of IPv6 for pods and have no such address of its own.
        if let Some(address) = eni.primary_ipv6 {
            let net = Ipv6Net::new_assert(address, subnet.prefix_len());
            state.append(address_of(link, net.into()));
        }
        state.append(routes(link, table, GATEWAY_IPV6.into()));
    }
    if eni.subnet_ipv4.is_some() || eni.subnet_ipv6.is_some() {
        state.claims.push(Claim::OurRoutes { link: link.clone() });
    }
    for address in own_addresses(eni) {
        let rule = rule(address, table);
        // Whatever table an earlier place of the ENI had.
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
    // In main the subnet is the primary ENI's. The kernel leads it here when somebody else gives the link its address; with
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

/// Returns what leads everything to the subnet's router.
fn routes(link: &LinkId, table: Table, gateway: IpAddr) -> State {
    let route = |route| Object::Route { link: link.clone(), route };
    let direct = route(Route::on_link(table, gateway));
    let wanted = vec![direct, route(Route::default_by(table, gateway))];
    State { wanted, claims: Vec::new() }
}

/// Returns what the node should hold of an ENI that is gone: nothing. The kernel removes the rest along with the link.
pub fn absent(eni: &EniLink) -> State {
    let rules = own_addresses(eni).into_iter().map(|address| rule(address, Table::UNSPECIFIED));
    State { wanted: Vec::new(), claims: rules.map(Claim::Rules).collect() }
}

fn rule(address: IpAddr, table: Table) -> Rule {
    Rule::new(Family::of(address), PRIORITY_ENI, table).from(address)
}

/// The router of every subnet, to IPv6.
pub(crate) const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1);

/// The router of a subnet is the first address after its base, whatever octet that carries into.
pub(crate) fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits().wrapping_add(1))
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
        /// Why not.
        source: ApplyError,
    },
}

/// Sets up the link of an ENI, and returns what it found that was not as it should be.
pub fn set_up(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Applied, EniError> {
    let links = netlink.links()?;
    let link = &link_by_mac(&links, eni.mac)?.id;
    let rules = rules_of_system(netlink, eni)?;
    let applied = apply(netlink, &desired(eni, link, &rules));
    applied.map_err(|source| EniError::Apply { eni: eni.eni, source })
}

/// Returns the route table that an ENI has on this node.
pub fn table_here(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Table, NetlinkError> {
    Ok(table_among(eni, &rules_of_system(netlink, eni)?).0)
}

/// Lists the rules that may say which table an ENI has.
fn rules_of_system(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Vec<Rule>, NetlinkError> {
    let mut rules = Vec::new();
    if eni.card != Card(0) {
        for address in own_addresses(eni) {
            rules.extend(netlink.rules(Family::of(address))?);
        }
    }
    Ok(rules)
}

/// Removes what the kernel does not remove along with the link of an ENI, and returns what that was.
pub fn remove(netlink: &mut dyn Netlink, eni: &EniLink) -> Result<Applied, EniError> {
    let applied = apply(netlink, &absent(eni));
    applied.map_err(|source| EniError::Apply { eni: eni.eni, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkIndex;

    #[test]
    fn tables_are_numbered_as_the_peer_numbers_them() {
        let cases = [
            ((0, 0), "main"),
            ((0, 1), "2"),
            ((0, 2), "3"),
            ((1, 0), "10100"),
            ((1, 1), "10101"),
            ((2, 3), "10203"),
        ];
        for ((card, device), expected) in cases {
            let actual = table(Card(card), DeviceIndex(device)).to_string();
            assert_eq!(actual, expected, "card {card} device {device}");
        }
    }

    #[test]
    fn gateway_carries_into_the_next_octet() {
        let cases = [
            ("10.0.0.0/19", "10.0.0.1"),
            ("10.0.255.255/32", "10.1.0.0"),
            ("172.31.16.7/20", "172.31.16.1"),
        ];
        for (subnet, expected) in cases {
            assert_eq!(gateway(subnet.parse().unwrap()).to_string(), expected, "{subnet}");
        }
    }

    #[test]
    fn link_of_an_eni_is_told_from_links_on_top_of_it() {
        let mac = Mac([2, 0, 10, 0, 0, 20]);
        let link = |index, kind: Option<&str>, lower| Link {
            id: LinkId::new(LinkIndex(index), &format!("l{index}")),
            mac: Some(mac),
            mtu: 9001,
            up: true,
            kind: kind.map(str::to_owned),
            lower: Some(LinkIndex(lower)).filter(|lower| lower.0 > 0),
        };
        let cases = [
            ("hardware", vec![link(3, Some("vlan"), 9), link(9, None, 0)], Some(9)),
            ("stand-in", vec![link(3, Some("macvlan"), 4), link(4, Some("veth"), 7)], Some(4)),
            ("oldest", vec![link(5, None, 0), link(4, None, 0)], Some(4)),
            ("none", vec![], None),
        ];
        for (case, links, expected) in cases {
            let actual = link_by_mac(&links, mac).map(|link| link.id.index.0);
            assert_eq!(actual.ok(), expected, "{case}");
        }
    }
}
