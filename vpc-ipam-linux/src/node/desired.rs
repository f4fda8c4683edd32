//! What a node should hold for itself, its ENIs and its pods together, given what it holds.

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vpc_ipam_core::{EniId, EniLink, Mac, PodKey};

use super::extent::Extent;
use super::network::NodeNetwork;
use crate::datapath::eni::{EniTable, TableReason};
use crate::datapath::facts::HostFacts;
use crate::datapath::host::DesiredError;
use crate::datapath::numbering::PRIORITY_FROM_POD;
use crate::datapath::pod::{PodInterface, egress};
use crate::kernel::network::is_host;
use crate::state::actual::Actual;
use crate::state::{Claim, State};
use crate::{BranchMode, Link, LinkIndex, Object, Protocol, Rule, Table, eni, host, link_by_mac};

/// A link that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AbsentLink {
    /// Of the primary ENI.
    Primary(String),
    /// Of the primary ENI: it is there, and address translation stays as it is because rules cannot name it.
    PrimaryUnnamable(String),
    /// Of a secondary ENI.
    Eni(EniId, Mac),
    /// Of a pod, by its key and the name that its link should have.
    Pod(PodKey, String),
}

impl fmt::Display for AbsentLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary(name) => write!(f, "no link: {name} of the primary ENI"),
            Self::PrimaryUnnamable(why) => write!(f, "cannot {why}"),
            Self::Eni(eni, mac) => write!(f, "no link: of {eni}, {mac}: detached?"),
            Self::Pod(pod, name) => write!(f, "no link: {name} of pod {pod}: namespace gone?"),
        }
    }
}

impl NodeNetwork {
    /// Returns what the node should hold, given its links, routes and rules, and which links are missing.
    pub(super) fn desired(&self, actual: &Actual, extent: Extent) -> (State, Vec<AbsentLink>) {
        let (mut state, mut absent) = (State::default(), Vec::new());
        match self.primary_mac().and_then(|mac| link_by_mac(&actual.links, mac).ok()) {
            Some(primary) => {
                let mut facts = HostFacts { primary: primary.clone(), ..self.facts.clone() };
                let mut config = self.config.clone();
                if self.has_adopted_strict() && !self.beside_aws_cni {
                    (facts.branch_enis, config.branch_mode) = (true, BranchMode::Strict);
                }
                match host::desired(&config, &facts) {
                    Ok(of_host) => state.append(of_host),
                    // Without any range of the VPC nothing is known to be right, nor wrong.
                    Err(DesiredError::NoVpcCidr) => {}
                    Err(error @ DesiredError::LinkName { .. }) => {
                        state.append(host::all_but_translation(&config, &facts));
                        absent.push(AbsentLink::PrimaryUnnamable(error.to_string()));
                    }
                }
            }
            None => absent.push(AbsentLink::Primary(self.facts.primary.id.name.to_string())),
        }
        if extent.has_routing() {
            let mut of_links = State::default();
            self.desired_of_enis(actual, &mut of_links, &mut absent);
            self.desired_of_pods(actual, &mut of_links, &mut absent);
            if !self.beside_aws_cni {
                let mut of_adopted = self.desired_of_adopted(actual);
                self.yield_in(&mut of_adopted);
                of_links.append(of_adopted);
            }
            if !extent.has_all_variables() {
                of_links.wanted.retain(|object| !matches!(object, Object::Sysctl(_)));
            }
            state.append(of_links);
        } else {
            state.wanted.retain(Object::is_by_programs);
            state.claims.clear();
        }
        if extent.has_translation() {
            state.claims.push(Claim::AwsCniNat);
        } else {
            state.wanted.retain(|object| !object.is_by_programs());
        }
        (state, absent)
    }

    fn desired_of_enis(&self, actual: &Actual, state: &mut State, absent: &mut Vec<AbsentLink>) {
        for link in self.enis.values() {
            match link_by_mac(&actual.links, link.mac) {
                Ok(there) => {
                    let table = self.table_of(link, Some(there.id.index), actual);
                    state.append(eni::desired(link, &there.id, &table));
                    state.wanted.extend(self.routes_of_found(link, there, table.table, actual));
                    state.wanted.push(Object::Sysctl(host::forwarding(&there.id.name)));
                }
                Err(_) => {
                    absent.push(AbsentLink::Eni(link.eni, link.mac));
                    state.append(eni::absent(link));
                }
            }
        }
    }

    /// Returns the routes of an ENI in tables to which pods on it were found to be led, and which are not its own: earlier versions
    /// of amazon-vpc-cni-k8s numbered them otherwise. The kernel removes them when the link goes down.
    fn routes_of_found(
        &self,
        eni: &EniLink,
        there: &Link,
        own: Table,
        actual: &Actual,
    ) -> Vec<Object> {
        let found = self.interfaces().filter_map(|it| it.found).filter(|it| it.eni == eni.eni);
        let tables: BTreeSet<Table> = found.filter_map(|it| it.table).collect();
        let (addresses, link) = (eni::own_addresses(eni), there.id.index);
        let kept = tables.into_iter().filter(|table| {
            ![own, Table::MAIN, Table::LOCAL].contains(table)
                && eni::taken_by(*table, &addresses, &[link], actual).is_none()
        });
        kept.flat_map(|table| eni::routes_of(eni, table))
            .map(|route| Object::Route { link: there.id.clone(), route })
            .collect()
    }

    fn desired_of_pods(&self, actual: &Actual, state: &mut State, absent: &mut Vec<AbsentLink>) {
        let tables = self.tables_by_attachment(actual);
        let egress = self.egress_of_pods(actual);
        let by_mac: BTreeMap<Mac, &Link> =
            actual.links.iter().rev().filter_map(|link| Some((link.mac?, link))).collect();
        for (key, network) in &self.pods {
            for interface in &network.interfaces {
                let mac = interface.host.mac;
                match by_mac.get(&mac) {
                    Some(there) => {
                        // Of an ENI that is not set up yet nothing tells which table it has but what pods were added with.
                        let found = interface.found.and_then(|found| found.table);
                        let table = found.or_else(|| tables.get(&interface.table).copied());
                        let table = table.or_else(|| table_of_rule(interface, &actual.rules));
                        let table = table.unwrap_or(interface.table);
                        let mut of_pod = of_pod(interface, there, table, egress.get(&mac));
                        self.yield_in(&mut of_pod);
                        state.append(of_pod);
                    }
                    None => absent.push(AbsentLink::Pod(key.clone(), interface.host.name.clone())),
                }
            }
        }
    }

    /// Lets routes be made under the protocol of another program that would not leave ours.
    fn yield_in(&self, state: &mut State) {
        if self.yielded.is_empty() {
            return;
        }
        for object in &mut state.wanted {
            if let Object::Route { route, .. } = object
                && let Some(protocol) = self.yielded.get(&route.destination.addr())
            {
                route.protocol = *protocol;
            }
        }
    }

    /// Returns the addresses beyond those of the VPC that pods have, or had until their routes were lost, unless another
    /// has them by now.
    pub(super) fn egress_of_pods(&self, actual: &Actual) -> BTreeMap<Mac, IpAddr> {
        let mut egress = BTreeMap::new();
        for interface in self.interfaces() {
            let Some(family) = interface.egress else { continue };
            let mac = interface.host.mac;
            let Some(there) = actual.links.iter().find(|link| link.mac == Some(mac)) else {
                continue;
            };
            let over = actual.routes.iter().filter(|(link, _)| *link == there.id.index);
            let present = egress::among(family, over.map(|(_, route)| route));
            let free = |address: &IpAddr| {
                let net = IpNet::from(*address);
                let mut routes = actual.routes.iter();
                !routes.any(|(_, it)| (it.table, it.destination) == (Table::MAIN, net))
            };
            let had = || self.seen.egress.get(&mac).copied().filter(free);
            egress.extend(present.or_else(had).map(|address| (mac, address)));
        }
        egress
    }

    /// Returns the route table of an ENI: the one that it was set up with, unless the system made one since then.
    pub(super) fn table_of(
        &self,
        eni: &EniLink,
        link: Option<LinkIndex>,
        actual: &Actual,
    ) -> EniTable {
        if let Some(&table) = self.tables.get(&eni.eni)
            && eni::table_of_system(eni, &actual.rules).is_none()
        {
            return EniTable { table, because: TableReason::Attachment };
        }
        EniTable::among(eni, link, actual)
    }

    /// Returns the tables of the ENIs by the numbers that follow from where they are attached.
    fn tables_by_attachment(&self, actual: &Actual) -> BTreeMap<Table, Table> {
        let table = |eni: &EniLink| {
            let link = link_by_mac(&actual.links, eni.mac).ok().map(|link| link.id.index);
            (eni::table(eni.card, eni.device), self.table_of(eni, link, actual).table)
        };
        self.enis.values().map(table).collect()
    }
}

/// Returns what the node should hold for an interface of a pod whose link is there.
///
/// The pod's network configuration may name the link otherwise and give it another MTU than the daemon would, and the
/// caller of the plugin had a say in that: both are as they are.
fn of_pod(interface: &PodInterface, there: &Link, table: Table, egress: Option<&IpAddr>) -> State {
    let mut interface = match egress {
        Some(address) => egress::with(interface, *address),
        None => interface.clone(),
    };
    interface.host.name = there.id.name.to_string();
    interface.mtu = u16::try_from(there.mtu).unwrap_or(interface.mtu);
    interface.table = table;
    let mut state = interface.on_host(there.id.index);
    if interface.addresses.iter().any(|it| it.address.is_ipv4()) {
        state.wanted.push(Object::Sysctl(host::forwarding(&there.id.name)));
    }
    state
}

/// Returns the table to which a rule of ours, or of amazon-vpc-cni-k8s, leads what an interface of a pod sends; on the primary ENI it
/// needs no rule.
fn table_of_rule(interface: &PodInterface, rules: &[Rule]) -> Option<Table> {
    if interface.table == Table::MAIN {
        return None;
    }
    let has =
        |net: IpNet| is_host(net) && interface.addresses.iter().any(|it| it.address == net.addr());
    let rule = rules.iter().find(|rule| {
        rule.priority == PRIORITY_FROM_POD
            && [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol)
            && rule.is_plain()
            && rule.source.is_some_and(has)
    });
    rule.map(|rule| rule.table)
}
