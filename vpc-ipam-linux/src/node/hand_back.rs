//! The way back to amazon-vpc-cni-k8s: what pods and ENIs need takes the form in which it makes it, and the rest of ours goes.
//!
//! First [`HandBack::routing`], then [`HandBack::translation`]: each rule is there in one of the two forms at any time, and ours of
//! address translation go last, when those of amazon-vpc-cni-k8s are there.

use core::net::IpAddr;
use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::datapath::numbering::{PRIORITY_FROM_POD, PRIORITY_TO_POD};
use crate::datapath::pod::egress;
use crate::kernel::network::is_host;
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, carry_out};
use crate::state::diff::{Difference, changes};
use crate::{
    KernelChange, Leads, Nat, NatActual, Netlink, NetlinkError, Object, Protocol, Route, Rule,
    SourceCheck, Table,
};

/// How the aliases begin that this crate gives the links of pods.
const ALIAS: &str = "vpc-ipam ";

/// What is to be changed so that a node's network is as amazon-vpc-cni-k8s would have it, and nothing is ours.
///
/// Kernel variables stay: those of both are the same, and pods need them. Addresses, links and what is inside of pods stay, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandBack {
    /// Rules and routes in their other form, aliases of links, and rules of pods that are gone.
    pub routing: Vec<KernelChange>,
    /// The check of sources, and last the address translation.
    pub translation: Vec<KernelChange>,
    /// The addresses to which routes over a link alone lead, as they do to pods.
    pub pods: BTreeSet<IpAddr>,
    /// The addresses known to this node alone by which pods reach the family that they have none of in the VPC, as far as the routes to
    /// them are ours: without our address translation they lead nowhere.
    pub egress: BTreeSet<IpAddr>,
}

impl HandBack {
    /// Finds out what is to be changed. Done by now, it finds nothing any more.
    pub fn find(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let actual = Actual::read_tables(netlink)?;
        let mut translation = Vec::new();
        if netlink.source_check()? != NatActual::Absent {
            translation.push(KernelChange::Set(Object::SourceCheck(SourceCheck::none())));
        }
        if netlink.nat()? != NatActual::Absent {
            translation.push(KernelChange::Set(Object::Nat(Nat::none())));
        }
        let pods = pods(&actual);
        let ours = actual.routes.iter().filter(|(_, route)| route.protocol == Protocol::OURS);
        let to = ours.map(|(_, route)| route.destination.addr());
        let egress = to.filter(|address| egress::is_of_pod(*address)).collect();
        Ok(Self { routing: routing(&actual, &pods), translation, pods, egress })
    }

    /// Returns whether nothing on the node is ours any more.
    pub fn is_done(&self) -> bool {
        self.routing.is_empty() && self.translation.is_empty()
    }

    /// Makes the changes to rules, routes and links. It may be repeated.
    pub fn change_routing(&self, netlink: &mut dyn Netlink) -> Result<(), ApplyError> {
        carry_out(netlink, &self.routing)
    }

    /// Removes the check of sources, and last the address translation. It may be repeated.
    ///
    /// Packets of pods to elsewhere than the VPC need another translation by then: [`AwsCniNat::translates`](crate::AwsCniNat::translates).
    pub fn remove_translation(&self, netlink: &mut dyn Netlink) -> Result<(), ApplyError> {
        carry_out(netlink, &self.translation)
    }
}

/// Removes the rules of pods that are gone, ours and those of amazon-vpc-cni-k8s, and returns how many that were. An address to which a
/// route leads is a pod's, and keeps them.
pub fn sweep_rules(
    netlink: &mut dyn Netlink,
    addresses: &BTreeSet<IpAddr>,
) -> Result<usize, ApplyError> {
    let actual = Actual::read_tables(netlink)?;
    let there = pods(&actual);
    let is_swept = |rule: &&Rule| {
        [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol)
            && rule.is_plain()
            && is_of_pod(rule).is_some_and(|it| addresses.contains(&it) && !there.contains(&it))
    };
    let rules = actual.rules.iter().filter(is_swept);
    let removals: Vec<KernelChange> =
        rules.map(|rule| KernelChange::Remove(Object::Rule(rule.clone()))).collect();
    carry_out(netlink, &removals)?;
    Ok(removals.len())
}

/// Returns the addresses to which routes lead over a link alone.
fn pods(actual: &Actual) -> BTreeSet<IpAddr> {
    let to_pod = |route: &Route| {
        is_host(route.destination)
            && route.gateway.is_none()
            && ![Table::LOCAL, Table::UNSPECIFIED].contains(&route.table)
            && route.protocol != Protocol::KERNEL
    };
    let entries = actual.entries.iter().filter(|entry| matches!(entry.leads, Leads::Over(_)));
    let routes = entries.map(|entry| &entry.route).filter(|route| to_pod(route));
    routes.map(|route| route.destination.addr()).collect()
}

fn routing(actual: &Actual, pods: &BTreeSet<IpAddr>) -> Vec<KernelChange> {
    let mut differences = Vec::new();
    for rule in actual.rules.iter().filter(|rule| rule.protocol == Protocol::OURS) {
        let other = Rule { protocol: Protocol::UNSPECIFIED, ..rule.clone() };
        let is_of_pod = is_of_pod(rule);
        if is_of_pod.is_none_or(|pod| pods.contains(&pod)) && !actual.rules.contains(&other) {
            differences.push(Difference::Missing(Object::Rule(other)));
        }
        differences.push(Difference::Unwanted(Object::Rule(rule.clone())));
    }
    let mut changes = changes(&differences, actual);
    for (index, route) in &actual.routes {
        let link = actual.links.iter().find(|link| link.id.index == *index);
        if let Some(link) = link.filter(|_| route.protocol == Protocol::OURS) {
            // The kernel replaces a route in place.
            let route = Route { protocol: Protocol::BOOT, ..*route };
            changes.push(KernelChange::Set(Object::Route { link: link.id.clone(), route }));
        }
    }
    let named = |link: &&crate::Link| link.alias.as_ref().is_some_and(|it| it.starts_with(ALIAS));
    for link in actual.links.iter().filter(named) {
        let alias = Object::Alias { link: link.id.clone(), alias: String::new() };
        changes.push(KernelChange::Set(alias));
    }
    changes
}

/// Returns the pod that a rule is for, if it is for one.
fn is_of_pod(rule: &Rule) -> Option<IpAddr> {
    let host = |net: Option<IpNet>| net.filter(|net| is_host(*net)).map(|net| net.addr());
    match rule.priority {
        PRIORITY_TO_POD => host(rule.destination),
        PRIORITY_FROM_POD => host(rule.source),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Link, LinkId, LinkIndex, RouteEntry};

    fn actual(rules: Vec<Rule>, routes: Vec<Route>) -> Actual {
        let link = Link {
            id: LinkId::new(LinkIndex(7), "eni7"),
            mac: None,
            mtu: 9001,
            up: true,
            kind: Some("veth".to_owned()),
            lower: None,
            alias: Some("vpc-ipam default/web".to_owned()),
        };
        let leads = Leads::Over(LinkIndex(7));
        Actual {
            links: vec![link],
            entries: routes.iter().map(|route| RouteEntry { route: *route, leads }).collect(),
            routes: routes.into_iter().map(|route| (LinkIndex(7), route)).collect(),
            rules,
            ..Actual::default()
        }
    }

    #[test]
    fn rules_of_pods_that_are_gone_are_not_handed_back() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let rule = |last| Rule::new(Family::Ipv4, PRIORITY_TO_POD, Table::MAIN).to(address(last));
        let foreign = Rule { protocol: Protocol::BOOT, ..rule(9) };
        let there =
            actual(vec![rule(5), rule(6), foreign], vec![Route::on_link(Table::MAIN, address(5))]);

        let words: Vec<String> =
            routing(&there, &pods(&there)).iter().map(ToString::to_string).collect();

        assert_eq!(
            words,
            [
                "set rule 512: to 10.0.0.5 lookup main",
                "remove rule 512: to 10.0.0.5 lookup main",
                "remove rule 512: to 10.0.0.6 lookup main",
                "set route 10.0.0.5 table main dev eni7",
                "set alias \"\" of link eni7",
            ]
        );
    }

    #[test]
    fn what_is_handed_back_already_is_left() {
        let address = IpAddr::from([10, 0, 0, 5]);
        let ours = Rule::new(Family::Ipv4, PRIORITY_TO_POD, Table::MAIN).to(address);
        let theirs = Rule { protocol: Protocol::UNSPECIFIED, ..ours.clone() };
        let route = Route { protocol: Protocol::BOOT, ..Route::on_link(Table::MAIN, address) };
        let mut there = actual(vec![theirs.clone()], vec![route]);
        there.links[0].alias = None;
        assert_eq!(routing(&there, &pods(&there)), []);

        // A run that was killed between the two left both.
        for rules in [vec![ours.clone(), theirs.clone()], vec![theirs, ours.clone()]] {
            there.rules = rules;
            let remove = KernelChange::Remove(Object::Rule(ours.clone()));
            assert_eq!(routing(&there, &pods(&there)), [remove]);
        }
    }
}
