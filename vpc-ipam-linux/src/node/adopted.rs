//! Pods that are in no state file: amazon-vpc-cni-k8s made them, before this program or beside it, or this program itself before
//! its state was lost.
//!
//! Only the kernel knows about them, and what it holds may be lost: a link that goes down takes its routes along. So it is
//! remembered as it was found, for as long as the pod's link is there, and restored.

pub(super) mod link;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vpc_ipam_core::{EniLink, Mac};

use self::link::{Adopted, AdoptedLink, Role, is_version_of, to_host};
use super::event::KernelEvent;
use super::network::NodeNetwork;
use crate::datapath::eni::{self};
use crate::datapath::host::{self};
use crate::datapath::numbering::{PRIORITY_BRANCH, PRIORITY_ENI, PRIORITY_MARK};
use crate::datapath::pod::branch::VlanId;
use crate::datapath::pod::egress;
use crate::kernel::network::is_host;
use crate::state::State;
use crate::state::actual::Actual;
use crate::{
    Leads, Link, LinkIndex, Mark, Netlink, NetlinkError, Object, Protocol, Route, RouteEntry, Rule,
    Table,
};

/// What an address of a pod can not be, and links that are known for something else.
struct Surroundings<'a> {
    node: &'a NodeNetwork,
    actual: &'a Actual,
    /// The MAC addresses of ENIs, and of links of pods that are in the state file.
    known: BTreeSet<Mac>,
    /// The node's own addresses, and next hops.
    no_pods: BTreeSet<IpAddr>,
    /// The addresses of pods that are in the state file and whose links are there.
    living: BTreeSet<IpAddr>,
    routes: BTreeMap<LinkIndex, Vec<Route>>,
}

impl<'a> Surroundings<'a> {
    fn of(node: &'a NodeNetwork, actual: &'a Actual) -> Self {
        let mut no_pods: BTreeSet<IpAddr> =
            actual.addresses.iter().map(|(_, address)| address.net.addr()).collect();
        no_pods.extend(actual.entries.iter().filter_map(|entry| entry.route.gateway));
        let mut routes: BTreeMap<LinkIndex, Vec<Route>> = BTreeMap::new();
        let of_pods =
            |route: &Route| route.protocol != Protocol::KERNEL && route.table != Table::LOCAL;
        for (link, route) in actual.routes.iter().filter(|(_, route)| of_pods(route)) {
            routes.entry(*link).or_default().push(*route);
        }
        let living = node.living(&actual.links);
        Self { node, actual, known: node.known_macs(), no_pods, living, routes }
    }

    fn is_pod(&self, address: IpAddr) -> bool {
        self.node.is_in_vpc(address)
            && !self.no_pods.contains(&address)
            && !self.living.contains(&address)
            && !self.node.busy.contains(&address)
    }

    fn over(&self, link: &Link) -> &[Route] {
        self.routes.get(&link.id.index).map_or(&[], Vec::as_slice)
    }

    /// Returns what is to be kept of a link, given the routes over it, with what was known of it before.
    fn record(&self, link: &Link, routes: impl IntoIterator<Item = Route>) -> AdoptedLink {
        let index = link.id.index;
        let known = self.node.adopted.links.get(&index).filter(|it| it.mac == link.mac);
        let mut record =
            known.cloned().unwrap_or_else(|| AdoptedLink::new(&link.id.name, link.mac));
        record.name = link.id.name.to_string();
        routes.into_iter().for_each(|route| record.take_route(&route));
        for (of, address) in &self.actual.addresses {
            let whole = is_host(address.net);
            if *of == index && whole && !record.addresses.contains(address) {
                record.addresses.push(*address);
            }
        }
        let claimed = |rule: &&Rule| record.claims(rule);
        let rules: Vec<&Rule> = self.actual.rules.iter().filter(claimed).collect();
        rules.into_iter().for_each(|rule| record.take_rule(rule));
        record
    }

    /// Returns what is to be kept of a pod's own link.
    fn pod(
        &self,
        link: &Link,
        netlink: &mut dyn Netlink,
    ) -> Result<Option<AdoptedLink>, NetlinkError> {
        let to_hosts: Vec<Route> =
            self.over(link).iter().filter(|route| to_host(route).is_some()).copied().collect();
        let is_pods = |address: IpAddr| self.is_pod(address) || egress::is_of_pod(address);
        if to_hosts.iter().filter_map(to_host).any(is_pods) {
            return Ok(Some(self.record(link, to_hosts)));
        }
        if self.node.adopted.links.get(&link.id.index).is_some_and(|it| it.mac == link.mac) {
            return Ok(Some(self.record(link, [])));
        }
        let strict = link.id.name.starts_with("vlan");
        if !to_hosts.is_empty() || strict {
            return Ok(None);
        }
        // Its routes were lost before they were seen, or are still to be made: the addresses of its other end say which they should be.
        let addresses = netlink.addresses_of_other_end(link.id.index)?.into_iter();
        let of_pod =
            addresses.map(|it| it.net).filter(|net| is_host(*net) && self.is_pod(net.addr()));
        let routes: Vec<Route> = of_pod
            .map(|net| Route { protocol: Protocol::BOOT, ..Route::on_link(Table::MAIN, net) })
            .collect();
        Ok((!routes.is_empty()).then(|| self.record(link, routes)))
    }

    /// Returns what is to be kept of the link of a pod's VLAN.
    fn vlan(&self, link: &Link, vlan: VlanId) -> Option<AdoptedLink> {
        let own = self.over(link).iter().filter(|route| route.table == vlan.table());
        let record = self.record(link, own.copied());
        let led_to = self.actual.rules.iter().any(|rule| rule.table == vlan.table());
        (led_to && !record.routes.is_empty()).then_some(record)
    }

    /// Returns the addresses of pods to which routes lead over a link that is not one pod's own.
    fn shared(&self, link: &Link) -> impl Iterator<Item = IpAddr> {
        let index = link.id.index;
        let own = self.actual.addresses.iter().filter(move |(of, _)| *of == index);
        let networks: Vec<IpNet> =
            own.map(|(_, address)| address.net).filter(|net| !is_host(*net)).collect();
        let to_hosts = self.over(link).iter().filter(|route| route.table == Table::MAIN);
        to_hosts.filter_map(to_host).filter(move |address| {
            self.is_pod(*address) && !networks.iter().any(|net| net.contains(address))
        })
    }
}

impl NodeNetwork {
    /// Finds the pods that are in no state file.
    pub(super) fn find_adopted(
        &self,
        actual: &Actual,
        netlink: &mut dyn Netlink,
    ) -> Result<Adopted, NetlinkError> {
        let around = Surroundings::of(self, actual);
        let mut adopted = Adopted::default();
        for link in &actual.links {
            if link.mac.is_some_and(|mac| around.known.contains(&mac)) {
                continue;
            }
            let record = match Role::of(link) {
                Role::None => continue,
                Role::Pod => around.pod(link, netlink)?,
                Role::Vlan(vlan) => around.vlan(link, vlan),
                Role::Veth => {
                    let of_pod = |route: &&Route| to_host(route).is_some_and(egress::is_of_pod);
                    let own: Vec<Route> =
                        around.over(link).iter().filter(of_pod).copied().collect();
                    let known = self.adopted.links.get(&link.id.index);
                    let known = known.is_some_and(|it| it.mac == link.mac);
                    (known || !own.is_empty()).then(|| around.record(link, own))
                }
                Role::Shared => None,
            };
            match record {
                Some(record) => drop(adopted.links.insert(link.id.index, record)),
                None => adopted.routed.extend(around.shared(link)),
            }
        }
        Ok(adopted)
    }

    /// Takes in what a comparison found of pods that are in no state file; returns whether that changes what is known.
    pub(super) fn remember_adopted(&mut self, found: &Adopted) -> bool {
        let known = self.known_macs();
        let living: BTreeSet<IpAddr> =
            self.interfaces().flat_map(|it| &it.addresses).map(|it| it.address).collect();
        let before = self.adopted.clone();
        for (index, later) in &found.links {
            // It may have gone since, or have become one that is known.
            let is_there = self.seen.links.get(index).is_some_and(|seen| seen.mac == later.mac);
            if !is_there || later.mac.is_some_and(|mac| known.contains(&mac)) {
                continue;
            }
            match self.adopted.links.get_mut(index).filter(|it| it.mac == later.mac) {
                Some(record) => record.merge(later),
                None => drop(self.adopted.links.insert(*index, later.clone())),
            }
        }
        let seen = &self.seen.links;
        self.adopted.links.retain(|index, it| {
            seen.get(index).is_some_and(|seen| seen.mac == it.mac)
                && it.mac.is_none_or(|mac| !known.contains(&mac))
        });
        let free = |address: &&IpAddr| !living.contains(address) && !self.busy.contains(address);
        self.adopted.routed.extend(found.routed.iter().filter(free));
        self.adopted != before
    }

    /// Takes in what an event tells of pods that are in no state file; returns whether that changes what is known.
    pub(super) fn learn_adopted(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link { link, gone: true } => {
                self.adopted.links.remove(&link.id.index).is_some()
            }
            KernelEvent::Route { entry, gone: false, .. } => self.learn_route(entry),
            KernelEvent::Rule { rule, gone: false, .. } => {
                let mut links = self.adopted.links.values_mut();
                let Some(of) = links.find(|it| it.claims(rule)) else { return false };
                let known = of.rules.iter().any(|it| is_version_of(it, rule));
                of.take_rule(rule);
                !known
            }
            _ => false,
        }
    }

    /// A route to a pod appears: its address is the pod's from now on.
    fn learn_route(&mut self, entry: &RouteEntry) -> bool {
        let RouteEntry { route, leads: Leads::Over(index) } = entry else { return false };
        let (Some(address), true) = (to_host(route), self.is_new_pod(entry)) else { return false };
        let Some(seen) = self.seen.links.get(index) else { return false };
        if seen.role != Role::Pod || !self.is_in_vpc(address) {
            return false;
        }
        let record = self
            .adopted
            .links
            .entry(*index)
            .or_insert_with(|| AdoptedLink::new(&seen.name, seen.mac));
        let before = record.routes.len();
        record.take_route(route);
        record.routes.len() > before
    }

    /// Returns whether an entry of a route table leads to an address that may be that of a pod which is in no state file.
    pub(super) fn is_new_pod(&self, entry: &RouteEntry) -> bool {
        let RouteEntry { route, leads: Leads::Over(index) } = entry else { return false };
        let Some(address) = to_host(route) else { return false };
        let seen = self.seen.links.get(index);
        let may_be = seen.is_none_or(|seen| {
            seen.role != Role::None && seen.mac.is_none_or(|mac| !self.is_known(mac))
        });
        may_be
            && ![Protocol::KERNEL, Protocol::OURS].contains(&route.protocol)
            && route.table != Table::LOCAL
            && self.is_in_vpc(address)
            && !self.busy.contains(&address)
            && !self.interfaces().any(|it| it.addresses.iter().any(|it| it.address == address))
    }

    /// Returns whether a link that appeared may be that of a pod which is in no state file.
    pub(super) fn is_new_pod_link(&self, link: &Link) -> bool {
        link.up
            && matches!(Role::of(link), Role::Pod | Role::Vlan(_))
            && !self.adopted.links.contains_key(&link.id.index)
            && link.mac.is_none_or(|mac| !self.is_known(mac))
    }

    /// Returns what an event shows that amazon-vpc-cni-k8s made, if it does: its rules for the node and for ENIs, which it makes when
    /// it starts, and its address translation. [`learn`](Self::learn) tells of the pods of its plugin.
    pub fn made_by_aws_cni(&self, event: &KernelEvent) -> Option<String> {
        match event {
            KernelEvent::AwsCniNat => Some("rules of address translation".to_owned()),
            KernelEvent::Rule { rule, gone: false, .. } if self.is_of_aws_cni(rule) => {
                Some(format!("rule {rule}"))
            }
            _ => None,
        }
    }

    fn is_of_aws_cni(&self, rule: &Rule) -> bool {
        if rule.protocol != Protocol::UNSPECIFIED || !rule.is_plain() || rule.destination.is_some()
        {
            return false;
        }
        let mark = self.config.mark.get();
        match rule.priority {
            PRIORITY_MARK => {
                let marked = rule.mark == Some(Mark { value: mark, mask: mark });
                marked && rule.source.is_none() && rule.table == Table::MAIN
            }
            PRIORITY_ENI => {
                let of = |eni: &EniLink| {
                    let own = eni::own_addresses(eni);
                    rule.source.is_some_and(|net| is_host(net) && own.contains(&net.addr()))
                        && [eni::table(eni.card, eni.device), self.known_table(eni)]
                            .contains(&rule.table)
                };
                self.enis.values().any(of)
            }
            _ => false,
        }
    }

    /// Returns the addresses of the VPC that pods have which are in no state file.
    pub fn untracked(&self) -> BTreeSet<IpAddr> {
        let over_links = self.adopted.links.values().flat_map(AdoptedLink::destinations);
        let over_links = over_links.filter(|address| self.is_in_vpc(*address));
        over_links.chain(self.adopted.routed.iter().copied()).collect()
    }

    /// Returns the link by which a pod is reached that is in no state file, and the route, if it has a link of its own.
    pub fn adopted_route(&self, address: IpAddr) -> Option<(&AdoptedLink, &Route)> {
        let mut links = self.adopted.links.values().filter(|link| link.has(address));
        links.find_map(|link| {
            let mut routes = link.routes.iter();
            routes.find(|route| to_host(route) == Some(address)).map(|route| (link, route))
        })
    }

    /// Returns what is kept of pods that are in no state file.
    pub(super) fn desired_of_adopted(&self, actual: &Actual) -> State {
        let mut state = State::default();
        let known = self.known_macs();
        let living = self.living(&actual.links);
        for (index, adopted) in &self.adopted.links {
            let is_it = |link: &&Link| link.id.index == *index && link.mac == adopted.mac;
            let Some(there) = actual.links.iter().find(is_it) else { continue };
            if adopted.mac.is_some_and(|mac| known.contains(&mac)) {
                continue;
            }
            let link = there.id.clone();
            if adopted.destinations().any(|address| address.is_ipv4()) {
                state.wanted.push(Object::Sysctl(host::forwarding(&link.name)));
            }
            state.wanted.push(Object::Link { link: link.clone(), mtu: there.mtu, up: true });
            let addresses = adopted.addresses.iter();
            state
                .wanted
                .extend(addresses.map(|&address| Object::Address { link: link.clone(), address }));
            // An address of two pods is that of the one that is in the state file.
            let is_taken =
                |address: IpAddr| living.contains(&address) || self.busy.contains(&address);
            let mut routes: Vec<Route> = adopted.routes.clone();
            routes.retain(|it| !to_host(it).is_some_and(is_taken));
            // Those to next hops before those by them.
            routes.sort_by_key(|it| it.gateway.is_some());
            let routes =
                routes.into_iter().map(|route| Object::Route { link: link.clone(), route });
            state.wanted.extend(routes);
            let of = |net: Option<IpNet>| net.is_some_and(|net| is_taken(net.addr()));
            let rules = adopted.rules.iter().filter(|it| !of(it.source) && !of(it.destination));
            state.wanted.extend(rules.cloned().map(Object::Rule));
        }
        state
    }

    /// Returns the rules that lead what is for a pod that is in no state file elsewhere than the one that it was found with.
    pub(super) fn strays<'a>(
        &'a self,
        wanted: &'a State,
        actual: &'a Actual,
    ) -> impl Iterator<Item = &'a Rule> {
        let is_stray = |rule: &&Rule| {
            let object = Object::Rule((*rule).clone());
            let mut links = self.adopted.links.values();
            rule.is_plain()
                && links.any(|link| {
                    link.claims(rule)
                        && !link.rules.contains(rule)
                        && link.rules.iter().any(|known| is_version_of(known, rule))
                })
                && !wanted.wanted.contains(&object)
        };
        actual.rules.iter().filter(is_stray)
    }

    /// Returns whether there are pods on branch ENIs in strict mode that are in no state file: their rules come before that of the
    /// host's own addresses.
    pub(super) fn has_adopted_strict(&self) -> bool {
        let mut rules = self.adopted.links.values().flat_map(|link| &link.rules);
        rules.any(|rule| rule.priority == PRIORITY_BRANCH)
    }

    /// Returns the adopted link that has a route to this destination in this table.
    pub(super) fn adopted_at(&self, net: IpNet, table: Table) -> Option<(LinkIndex, &AdoptedLink)> {
        let mut links = self.adopted.links.iter();
        let found = links.find(|(_, link)| {
            link.routes.iter().any(|it| (it.destination, it.table) == (net, table))
        });
        found.map(|(index, link)| (*index, link))
    }

    /// Returns whether a rule that came or went concerns a pod that is in no state file.
    pub(super) fn concerns_adopted_rule(&self, rule: &Rule, gone: bool) -> bool {
        let mut links = self.adopted.links.values();
        links.any(|link| {
            let is_kept = link.rules.contains(rule);
            let of_kept = || link.rules.iter().any(|known| is_version_of(known, rule));
            if gone { is_kept } else { !is_kept && link.claims(rule) && of_kept() }
        })
    }

    /// Returns the MAC addresses of ENIs and of the links of pods that are in the state file, or come or go.
    fn known_macs(&self) -> BTreeSet<Mac> {
        let pods = self.interfaces().flat_map(|it| {
            core::iter::once(it.host.mac).chain(it.branch.as_ref().map(|branch| branch.mac))
        });
        let enis = self.enis.values().map(|eni| eni.mac).chain(self.primary_mac());
        pods.chain(enis).chain(self.busy_links.iter().copied()).collect()
    }

    fn is_known(&self, mac: Mac) -> bool {
        self.primary_mac() == Some(mac)
            || self.busy_links.contains(&mac)
            || self.enis.values().any(|eni| eni.mac == mac)
            || self.interfaces().any(|it| {
                it.host.mac == mac || it.branch.as_ref().is_some_and(|branch| branch.mac == mac)
            })
    }
}
