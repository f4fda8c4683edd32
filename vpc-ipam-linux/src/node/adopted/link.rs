//! What is kept of pods that are in no state file, and of their links.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vpc_ipam_core::Mac;

use crate::datapath::numbering::{
    PRIORITY_BRANCH, PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_MARK, PRIORITY_TO_POD,
};
use crate::datapath::pod::branch::{VlanId, is_of_pod, vlan_of};
use crate::kernel::network::is_host;
use crate::{Address, Link, LinkIndex, Protocol, Route, Rule, Table};

/// What there is of pods that are in no state file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Links that are one pod's own, or the VLAN of such a pod, by their indexes.
    pub links: BTreeMap<LinkIndex, AdoptedLink>,
    /// Addresses of the VPC to which routes lead over links that other programs have for several pods, such as Antrea's gateway:
    /// whether the pod is there, only the route tells.
    pub routed: BTreeSet<IpAddr>,
}

/// A link of a pod that is in no state file, or of the VLAN of such a pod, and what leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AdoptedLink {
    /// The name that the link had last.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// The routes over it that the kernel did not make by itself.
    pub routes: Vec<Route>,
    /// Those of its addresses that have no network.
    pub addresses: Vec<Address>,
    /// The rules for the addresses of the pod, and for what comes in by the link.
    pub rules: Vec<Rule>,
}

impl AdoptedLink {
    pub(in crate::node) fn new(name: &str, mac: Option<Mac>) -> Self {
        Self {
            name: name.to_owned(),
            mac,
            routes: Vec::new(),
            addresses: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// Returns the addresses of the pod; the link of a VLAN leads to a router instead.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let leads_to_pod = vlan_of(&self.name).is_none();
        self.routes.iter().filter(move |_| leads_to_pod).filter_map(to_host)
    }

    /// Returns the table to which a rule leads what an address of the pod sends, if there is one.
    pub fn table_from(&self, address: IpAddr) -> Option<Table> {
        let from = Some(IpNet::from(address));
        let leads = |rule: &&Rule| rule.priority == PRIORITY_FROM_POD && rule.source == from;
        self.rules.iter().find(leads).map(|rule| rule.table)
    }

    pub(in crate::node) fn has(&self, address: IpAddr) -> bool {
        self.destinations().any(|it| it == address)
    }

    /// Takes in a route. Of two to the same destination the one that was known first stays, under the protocol that it has at present.
    pub(in crate::node) fn take_route(&mut self, route: &Route) {
        let key = |route: &Route| (route.table, route.destination, route.metric);
        match self.routes.iter_mut().find(|it| key(it) == key(route)) {
            Some(known) if known.is_twin_of(route) => *known = *route,
            Some(_) => {}
            None => self.routes.push(*route),
        }
    }

    /// Takes in a rule. Of two for the same packets the one that was known first stays.
    pub(in crate::node) fn take_rule(&mut self, rule: &Rule) {
        if !self.rules.iter().any(|it| is_version_of(it, rule)) {
            self.rules.push(rule.clone());
        }
    }

    /// Takes in what was found later.
    pub(in crate::node) fn merge(&mut self, later: &Self) {
        self.name.clone_from(&later.name);
        later.routes.iter().for_each(|route| self.take_route(route));
        later.rules.iter().for_each(|rule| self.take_rule(rule));
        for address in &later.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
    }

    /// Returns whether a rule is for a pod on the link: by its form one of ours, or of amazon-vpc-cni-k8s.
    pub(in crate::node) fn claims(&self, rule: &Rule) -> bool {
        let of = |net: Option<IpNet>| net.filter(|net| is_host(*net)).map(|net| net.addr());
        let is_for = match rule.priority {
            PRIORITY_TO_POD => {
                rule.source.is_none() && of(rule.destination).is_some_and(|it| self.has(it))
            }
            PRIORITY_FROM_POD => of(rule.source).is_some_and(|it| self.has(it)),
            PRIORITY_BRANCH => rule.input.as_deref() == Some(&*self.name),
            _ => false,
        };
        // A rule of another program is shown with more than this crate makes, and no claim takes it. It is for the pod all the same.
        is_for
            && [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol)
            && Rule { more: false, ..rule.clone() }.is_plain()
    }
}

/// Returns whether two rules are for the same packets, wherever they lead and whichever program made them.
pub(in crate::node) fn is_version_of(one: &Rule, other: &Rule) -> bool {
    Rule { table: other.table, protocol: other.protocol, ..one.clone() } == *other
}

/// Returns the address to which a route leads alone, without a next hop.
pub(in crate::node) fn to_host(route: &Route) -> Option<IpAddr> {
    let to_host = is_host(route.destination) && route.gateway.is_none();
    to_host.then(|| route.destination.addr())
}

/// Returns whether a rule is one of those that amazon-vpc-cni-k8s has for the node, for pods and for ENIs, by its priority and form.
pub fn is_of_aws_cni(rule: &Rule) -> bool {
    let is_host = |net: Option<IpNet>| net.is_some_and(is_host);
    let form = match rule.priority {
        PRIORITY_TO_POD => is_host(rule.destination) && rule.table == Table::MAIN,
        PRIORITY_FROM_POD | PRIORITY_ENI => is_host(rule.source),
        PRIORITY_MARK => rule.mark.is_some() && rule.table == Table::MAIN,
        _ => false,
    };
    form && rule.protocol == Protocol::UNSPECIFIED && rule.is_plain()
}

/// What a link is to pods that are in no state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Role {
    /// One pod's own, by its name.
    Pod,
    /// That of a pod's VLAN.
    Vlan(VlanId),
    /// One that may be a pod's for the family that it reaches through the node; its name says nothing.
    Veth,
    /// One of another kind, which other programs may have for several pods.
    Shared,
    /// Hardware: an ENI, or the loopback.
    None,
}

impl Role {
    pub(in crate::node) fn of(link: &Link) -> Self {
        let name = &*link.id.name;
        match link.kind.as_deref() {
            None => Self::None,
            Some("veth" | "vlan") if vlan_of(name).is_some() => {
                vlan_of(name).map_or(Self::None, Self::Vlan)
            }
            Some("veth") if is_of_pod(name) => Self::Pod,
            Some("veth") => Self::Veth,
            Some(_) => Self::Shared,
        }
    }
}
