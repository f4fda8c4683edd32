//! The way of packets while amazon-vpc-cni-k8s starts, which removes what they need and makes it anew.
//!
//! At each start it removes the rule for marked packets and the rules *from* each pod, and adds them again; and it takes the address of
//! each secondary ENI's link away, with which the kernel drops every route over the link, and puts address and routes there again. In
//! between, packets leave by the wrong ENI and are lost. The guard is what leads them the same way meanwhile, of a form that it does not
//! touch:
//!
//! | what it removes | what stands in for it |
//! |---|---|
//! | rule 1024, of marked packets | the same at 1025 |
//! | rule 1536, *from* a pod | rule 1537, of what comes in by the pod's link |
//! | the last address of an ENI's link | 169.254.255.86/32, of scope link: it leaves link-local addresses |
//! | the routes in an ENI's table | the same with a metric that loses to theirs |

use core::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::datapath::numbering::{PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_MARK};
use crate::kernel::network::is_host;
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, carry_out};
use crate::{
    Address, Family, KernelChange, Leads, Link, LinkId, LinkIndex, Netlink, NetlinkError, Object,
    Protocol, Route, Rule, Scope, Table,
};

/// After the rule for which it stands in.
const PRIORITY_GUARD_MARK: u32 = PRIORITY_MARK + 1;
/// After the rules for which they stand in.
const PRIORITY_GUARD_POD: u32 = PRIORITY_FROM_POD + 1;
/// Higher than that of any route that is there for good.
const METRIC: u32 = 86_000;
/// Of a range that no host has (RFC 3927, 2.1: the last 256 link-local addresses are reserved).
const ADDRESS: Address = Address {
    net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 255, 86), 32)),
    scope: Scope::Link,
};

/// What leads packets of pods while amazon-vpc-cni-k8s starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    objects: Vec<Object>,
}

impl Guard {
    /// Finds what stands in for what there is, whichever daemon made it. Nothing is changed.
    pub fn find(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        Ok(Self { objects: objects(&Actual::read_tables(netlink)?) })
    }

    /// Puts it there. It may be repeated.
    pub fn raise(&self, netlink: &mut dyn Netlink) -> Result<(), ApplyError> {
        let changes: Vec<_> = self.objects.iter().cloned().map(KernelChange::Set).collect();
        carry_out(netlink, &changes)
    }

    /// Removes what was put there by any run, once what it stands in for is there again. It may be repeated.
    pub fn lower(netlink: &mut dyn Netlink) -> Result<(), ApplyError> {
        let actual = Actual::read_tables(netlink)?;
        let mut changes: Vec<_> = raised(&actual).into_iter().map(KernelChange::Remove).collect();
        // The rules and routes that showed whose link is an ENI's may be gone.
        for Link { id: link, .. } in actual.links {
            if netlink.addresses(link.index)?.contains(&ADDRESS) {
                changes.push(KernelChange::Remove(Object::Address { link, address: ADDRESS }));
            }
        }
        carry_out(netlink, &changes)
    }
}

/// Returns what stands in for the rules and routes that there are.
fn objects(actual: &Actual) -> Vec<Object> {
    let mut objects = Vec::new();
    for rule in actual.rules.iter().filter(|rule| rule.is_plain()) {
        let ours = Rule { protocol: Protocol::OURS, ..rule.clone() };
        let other = match rule.priority {
            PRIORITY_MARK if rule.mark.is_some() => {
                Some(Rule { priority: PRIORITY_GUARD_MARK, ..ours })
            }
            PRIORITY_FROM_POD => link_of_source(actual, rule).map(|link| Rule {
                priority: PRIORITY_GUARD_POD,
                source: None,
                input: Some(link.name.to_string()),
                ..ours
            }),
            _ => None,
        };
        let other = other.map(Object::Rule).filter(|other| !objects.contains(other));
        objects.extend(other);
    }
    for (link, table) in eni_tables(actual) {
        if table.family == Family::Ipv4 {
            objects.push(Object::Address { link: link.clone(), address: ADDRESS });
        }
        // The gateway before the route by it.
        for route in table.routes {
            let route = Route { metric: METRIC, protocol: Protocol::OURS, ..route };
            objects.push(Object::Route { link: link.clone(), route });
        }
    }
    objects
}

/// Returns the link by which a pod's packets come in that a rule is for.
fn link_of_source<'a>(actual: &'a Actual, rule: &Rule) -> Option<&'a LinkId> {
    let pod = rule.source.filter(|net| is_host(*net))?;
    let leads_to = |(_, route): &&(LinkIndex, Route)| {
        route.table == Table::MAIN && route.destination == pod && route.gateway.is_none()
    };
    let (index, _) = actual.routes.iter().find(leads_to)?;
    actual.links.iter().map(|link| &link.id).find(|link| link.index == *index)
}

/// The routes of a secondary ENI.
struct EniTable {
    family: Family,
    routes: Vec<Route>,
}

/// Returns the tables to which the addresses of secondary ENIs are led, each with the ENI's link.
fn eni_tables(actual: &Actual) -> Vec<(LinkId, EniTable)> {
    let of_enis = actual.rules.iter().filter(|rule| {
        rule.priority == PRIORITY_ENI && rule.is_plain() && rule.source.is_some_and(is_host)
    });
    let mut tables: Vec<(LinkId, EniTable)> = Vec::new();
    for rule in of_enis {
        let in_table = |route: &Route| {
            route.table == rule.table
                && route.metric != METRIC
                && Family::of(route.destination.addr()) == rule.family
        };
        let default = actual.entries.iter().find_map(|entry| match entry.leads {
            Leads::Over(link) if in_table(&entry.route) => {
                let by: IpAddr = entry.route.gateway?;
                (entry.route.destination.prefix_len() == 0).then_some((link, by))
            }
            _ => None,
        });
        let Some((index, gateway)) = default else { continue };
        let Some(link) = actual.links.iter().find(|link| link.id.index == index) else { continue };
        let table = EniTable {
            family: rule.family,
            routes: vec![
                Route::on_link(rule.table, gateway),
                Route::default_by(rule.table, gateway),
            ],
        };
        if tables.iter().all(|(other, it)| (&link.id, rule.family) != (other, it.family)) {
            tables.push((link.id.clone(), table));
        }
    }
    tables
}

/// Returns the rules and routes that are of the guard, the routes in the order in which they may go.
fn raised(actual: &Actual) -> Vec<Object> {
    let is_of_guard = |rule: &&Rule| {
        rule.protocol == Protocol::OURS
            && [PRIORITY_GUARD_MARK, PRIORITY_GUARD_POD].contains(&rule.priority)
    };
    let rules = actual.rules.iter().filter(is_of_guard).cloned().map(Object::Rule);
    let mut routes: Vec<_> = actual
        .routes
        .iter()
        .filter(|(_, route)| route.protocol == Protocol::OURS && route.metric == METRIC)
        .collect();
    routes.sort_by_key(|(_, route)| route.gateway.is_none());
    let links = routes.into_iter().filter_map(|(index, route)| {
        let link = actual.links.iter().find(|link| link.id.index == *index)?;
        Some(Object::Route { link: link.id.clone(), route: *route })
    });
    rules.chain(links).collect()
}
