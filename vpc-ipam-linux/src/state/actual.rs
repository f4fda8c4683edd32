//! What a namespace holds, as far as a state has to do with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Claim, State};
use crate::{
    Address, AwsCniNat, Family, Leads, Link, LinkIndex, NatActual, Neighbour, Netlink,
    NetlinkError, Object, Route, RouteEntry, Rule, SysctlKey,
};

/// What a namespace holds, as far as a state has to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The links that the state names; every link where all tables were read.
    pub links: Vec<Link>,
    /// Addresses, by the indexes of their links.
    pub addresses: Vec<(LinkIndex, Address)>,
    /// The unicast routes over one link alone.
    pub routes: Vec<(LinkIndex, Route)>,
    /// All that there is in route tables, if all of them were read, each table's in the order in which it has them.
    pub entries: Vec<RouteEntry>,
    /// Permanent neighbours, by the indexes of their links.
    pub neighbours: Vec<(LinkIndex, Neighbour)>,
    /// The rules, in the order in which they are tried.
    pub rules: Vec<Rule>,
    /// The kernel variables; `None` for those that the kernel does not have.
    pub sysctls: BTreeMap<SysctlKey, Option<String>>,
    /// The address translation; `None` if it was not listed.
    pub nat: Option<NatActual>,
    /// The check of the sources of what pods send.
    pub source_check: Option<NatActual>,
    /// The address translation that amazon-vpc-cni-k8s left.
    pub aws_cni_nat: AwsCniNat,
}

impl Actual {
    /// Reads what a state has to do with.
    pub fn read(netlink: &mut dyn Netlink, state: &State) -> Result<Self, NetlinkError> {
        let scope = ToRead::of(state);
        let mut actual = Self::default();
        for name in &scope.links {
            actual.links.extend(netlink.link(name)?);
        }
        for &link in &scope.addresses {
            actual.addresses.extend(netlink.addresses(link)?.into_iter().map(|it| (link, it)));
        }
        for &link in &scope.routes {
            actual.routes.extend(netlink.routes(link)?.into_iter().map(|it| (link, it)));
        }
        for &family in &scope.rival_routes {
            let entries = netlink.all_routes(family)?;
            let rivals = entries.into_iter().filter_map(|entry| match entry.leads {
                Leads::Over(link) if !scope.routes.contains(&link) => Some((link, entry.route)),
                _ => None,
            });
            actual.routes.extend(rivals);
        }
        for &link in &scope.neighbours {
            actual.neighbours.extend(netlink.neighbours(link)?.into_iter().map(|it| (link, it)));
        }
        for &family in &scope.rules {
            actual.rules.extend(netlink.rules(family)?);
        }
        if !scope.sysctls.is_empty() {
            let values = netlink.sysctls(&scope.sysctls)?;
            actual.sysctls = scope.sysctls.into_iter().zip(values).collect();
        }
        if scope.nat {
            actual.nat = Some(netlink.nat()?);
        }
        if scope.source_check {
            actual.source_check = Some(netlink.source_check()?);
        }
        if scope.aws_cni_nat {
            actual.aws_cni_nat = netlink.aws_cni_nat()?;
        }
        Ok(actual)
    }
}

impl Actual {
    /// Reads links, rules and every route table.
    pub(crate) fn read_tables(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let mut actual = Self { links: netlink.links()?, ..Self::default() };
        for family in [Family::Ipv4, Family::Ipv6] {
            actual.rules.extend(netlink.rules(family)?);
            actual.add_routes(netlink.all_routes(family)?);
        }
        Ok(actual)
    }

    /// Adds entries of route tables.
    pub(crate) fn add_routes(&mut self, entries: Vec<RouteEntry>) {
        let over_one = |entry: &RouteEntry| match entry.leads {
            Leads::Over(link) => Some((link, entry.route)),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => None,
        };
        self.routes.extend(entries.iter().filter_map(over_one));
        self.entries.extend(entries);
    }
}

/// Which lists have to be read to know about a state.
#[derive(Default)]
struct ToRead {
    links: BTreeSet<String>,
    addresses: BTreeSet<LinkIndex>,
    routes: BTreeSet<LinkIndex>,
    /// Of all links, since they may come before those of one.
    rival_routes: BTreeSet<Family>,
    neighbours: BTreeSet<LinkIndex>,
    rules: BTreeSet<Family>,
    sysctls: Vec<SysctlKey>,
    nat: bool,
    source_check: bool,
    aws_cni_nat: bool,
}

impl ToRead {
    fn of(state: &State) -> Self {
        let mut scope = Self::default();
        for object in &state.wanted {
            match object {
                Object::Link { link, .. } | Object::Alias { link, .. } => {
                    scope.links.insert(link.name.to_string());
                }
                Object::Address { link, .. } => {
                    scope.addresses.insert(link.index);
                }
                Object::Route { link, .. } => {
                    scope.routes.insert(link.index);
                }
                Object::Neighbour { link, .. } => {
                    scope.neighbours.insert(link.index);
                }
                Object::Rule(rule) => {
                    scope.rules.insert(rule.family);
                }
                Object::Sysctl(sysctl) => scope.sysctls.push(sysctl.key.clone()),
                Object::Nat(_) => scope.nat = true,
                Object::SourceCheck(_) => scope.source_check = true,
                Object::AwsCniNat(_) => scope.aws_cni_nat = true,
            }
        }
        for claim in &state.claims {
            match claim {
                Claim::Addresses { link, .. } => {
                    scope.addresses.insert(link.index);
                }
                Claim::OurRoutes { link } => {
                    scope.routes.insert(link.index);
                }
                Claim::Routes { link, like } => {
                    scope.routes.insert(link.index);
                    scope.rival_routes.insert(Family::of(like.destination.addr()));
                }
                Claim::OurRules(rule) | Claim::Rules(rule) | Claim::KernelRule(rule) => {
                    scope.rules.insert(rule.family);
                }
                Claim::AwsCniNat => scope.aws_cni_nat = true,
            }
        }
        scope
    }
}
