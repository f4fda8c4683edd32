//! The whole node: what it should hold for itself, its ENIs and its pods, together, so that what no
//! ENI or pod needs any more is found too.

mod adopted;
mod conflict;
mod event;
#[cfg(feature = "watch")]
pub(crate) mod watch;

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use vpc_ipam_core::{EniId, EniLink, Mac, PodKey};

use crate::datapath::conflict::Conflict;
use crate::datapath::eni::{EniTable, TableReason};
use crate::datapath::facts::HostFacts;
use crate::datapath::host::DesiredError;
use crate::datapath::numbering::{
    PRIORITY_BRANCH, PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_TO_POD,
};
use crate::datapath::pod::{PodInterface, PodNetwork, branch, egress};
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, carry_out};
use crate::state::diff::{Difference, changes, diff};
use crate::state::{Claim, State};
use crate::{
    BranchMode, Family, HostConfig, KernelChange, Link, LinkIndex, Netlink, NetlinkError, Object,
    Protocol, Refused, Rule, SysctlKey, Table, eni, host, link_by_mac, pod,
};

use adopted::Role;
pub use adopted::{Adopted, AdoptedLink, is_of_aws_cni};
pub use event::{KernelEvent, OfLinks};

/// All that a node should hold, as its daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// What is configured.
    pub config: HostConfig,
    /// What the node is; its primary link is looked up by its MAC address each time.
    pub facts: HostFacts,
    /// The secondary ENIs that are set up.
    pub enis: BTreeMap<EniId, EniLink>,
    /// The route tables that ENIs were set up with: [`eni::table_here`].
    pub tables: BTreeMap<EniId, Table>,
    /// The networks of the pods, with tables that follow from the places of their ENIs.
    pub pods: BTreeMap<PodKey, PodNetwork>,
    /// Addresses of pods that a plugin is wiring or removing: their rules and routes are its own business.
    pub busy: BTreeSet<IpAddr>,
    /// The MAC addresses of the links of those pods, and of pods that are gone whose links are still to be removed.
    pub busy_links: BTreeSet<Mac>,
    /// What is known of pods that are in no state file.
    pub adopted: Adopted,
    /// Whether what amazon-vpc-cni-k8s made is another program's, and not restored: [`BesideAwsCni`](crate::BesideAwsCni).
    pub beside_aws_cni: bool,
    /// The protocols under which routes to pods are made, where another program removes those that carry ours.
    pub yielded: BTreeMap<IpAddr, Protocol>,
    /// What is left as it is for now, in the words of [`Object`]: another program changed it back a moment ago.
    pub spared: BTreeSet<String>,
    /// What the last comparison saw: [`Repaired::seen`] is to be remembered here.
    pub seen: Seen,
}

/// What a comparison saw, by which it is judged later what happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every link, since the kernel names links by index alone where it tells of addresses, routes and variables.
    pub links: BTreeMap<LinkIndex, SeenLink>,
    /// The addresses by which pods reach the family that they have none of in the VPC, by the MAC addresses of the host's
    /// ends of their links. Nothing but routes tells of them, and a route may be lost.
    pub egress: BTreeMap<Mac, IpAddr>,
    /// Pods that are in no state file.
    pub adopted: Adopted,
}

/// A link that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLink {
    /// Its name.
    pub name: Arc<str>,
    /// Its MAC address, if it is of a kind that has one.
    pub mac: Option<Mac>,
    /// What it is to pods that are in no state file.
    role: Role,
}

impl From<&Link> for SeenLink {
    fn from(link: &Link) -> Self {
        Self { name: Arc::clone(&link.id.name), mac: link.mac, role: Role::of(link) }
    }
}

/// How much of a node is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Links, addresses, routes and rules, which netlink tells in one go, and the kernel variables of the node itself.
    Routing,
    /// All that the kernel tells by itself: besides, the kernel variables of ENIs and pods.
    Kernel,
    /// Address translation, which other programs have to list.
    Translation,
    /// Everything.
    All,
}

impl Extent {
    /// Returns what takes in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (same, other) if same == other => same,
            (Self::Routing | Self::Kernel, Self::Routing | Self::Kernel) => Self::Kernel,
            _ => Self::All,
        }
    }

    /// Returns what of it the kernel tells by itself.
    pub fn of_kernel(self) -> Option<Self> {
        match self {
            Self::Routing | Self::Kernel => Some(self),
            Self::All => Some(Self::Kernel),
            Self::Translation => None,
        }
    }

    /// Returns whether it takes in address translation.
    pub fn has_translation(self) -> bool {
        matches!(self, Self::Translation | Self::All)
    }

    /// Returns whether it takes in what netlink tells.
    fn has_routing(self) -> bool {
        self != Self::Translation
    }

    /// Returns whether it takes in the variables of every link.
    fn has_all_variables(self) -> bool {
        matches!(self, Self::Kernel | Self::All)
    }
}

/// How a node differs from what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDifferences {
    /// In the order in which they are to be put right.
    pub differences: Vec<Difference>,
    /// Links that are not there, which is not for this crate to put right.
    pub absent: Vec<AbsentLink>,
    /// Objects of other programs that stand in the way, which is not for this crate to put right either.
    pub conflicts: Vec<Conflict>,
    /// What cannot be told, and why.
    pub not_told: Vec<String>,
    /// The changes that put the differences right.
    pub changes: Vec<KernelChange>,
}

/// A link that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AbsentLink {
    /// Of the primary ENI.
    Primary(String),
    /// Of the primary ENI: it is there, and address translation stays as it is because rules cannot name it.
    PrimaryUnnamable(String),
    /// Of a secondary ENI.
    Eni(EniId, Mac),
    /// Of a pod.
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

impl NodeDifferences {
    /// Returns whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        let Self { differences, absent, conflicts, not_told, changes: _ } = self;
        differences.is_empty() && absent.is_empty() && conflicts.is_empty() && not_told.is_empty()
    }
}

/// What [`NodeNetwork::repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was not as it should be and was put right.
    pub differences: Vec<Difference>,
    /// What was left for now: [`NodeNetwork::spared`].
    pub spared: Vec<Difference>,
    /// Links that are not there.
    pub absent: Vec<AbsentLink>,
    /// Objects of other programs that stand in the way.
    pub conflicts: Vec<Conflict>,
    /// What cannot be told, and why.
    pub not_told: Vec<String>,
    /// Kernel variables that cannot be written, and a check of sources that the kernel cannot do; the node goes on without.
    pub unwritable: Vec<Refused>,
    /// What there was to be seen: [`NodeNetwork::seen`]. `None` if netlink was not asked.
    pub seen: Option<Seen>,
}

/// How often a repair looks again because pods came or went meanwhile.
const ROUNDS_MAX: usize = 4;

impl NodeNetwork {
    /// Describes a node without secondary ENIs and pods.
    pub fn new(config: HostConfig, facts: HostFacts) -> Self {
        Self {
            config,
            facts,
            enis: BTreeMap::new(),
            tables: BTreeMap::new(),
            pods: BTreeMap::new(),
            busy: BTreeSet::new(),
            busy_links: BTreeSet::new(),
            adopted: Adopted::default(),
            beside_aws_cni: false,
            yielded: BTreeMap::new(),
            spared: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    /// Looks at the kernel, without comparing.
    pub fn look(&self, netlink: &mut dyn Netlink) -> Result<Seen, NetlinkError> {
        let actual = self.read(netlink, Extent::Routing)?;
        self.seen_in(&actual, netlink)
    }

    /// Remembers what a comparison saw, but of pods that left meanwhile; returns whether that changes what is known of pods that are
    /// in no state file.
    pub fn remember(&mut self, repaired: &Repaired) -> bool {
        repaired.seen.as_ref().is_some_and(|seen| self.remember_seen(seen))
    }

    /// Remembers what a [look](Self::look) saw, in the same way.
    pub fn remember_seen(&mut self, seen: &Seen) -> bool {
        let Seen { links, egress, adopted } = seen;
        let macs: BTreeSet<Mac> = self.interfaces().map(|interface| interface.host.mac).collect();
        // The kernel counts links upwards: those beyond were made since then.
        let newest = links.last_key_value().map_or(LinkIndex(0), |(index, _)| *index);
        self.seen.links.retain(|index, _| *index > newest);
        self.seen.links.extend(links.iter().map(|(index, link)| (*index, link.clone())));
        self.seen.egress.extend(egress.iter().map(|(mac, address)| (*mac, *address)));
        self.seen.egress.retain(|mac, _| macs.contains(mac));
        self.remember_adopted(adopted)
    }

    /// Returns how the kernel differs from what the node should hold, without changing anything.
    pub fn diff(
        &self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<NodeDifferences, NetlinkError> {
        let actual = self.read(netlink, extent)?;
        Ok(self.differences(&actual, extent))
    }

    /// Makes the node as it should be.
    ///
    /// `latest` returns what should be at the moment of the call: pods come and go while this reads and writes. What is
    /// read counts only for pods that were there before and after, and when one went meanwhile, all is looked at again.
    ///
    /// What the kernel tells by itself is put right first: it does not wait for programs that cannot list the address
    /// translation.
    pub fn repair(
        latest: &dyn Fn() -> Self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        if extent != Extent::All {
            return Self::repair_to(latest, netlink, extent);
        }
        let kernel = Self::repair_to(latest, netlink, Extent::Kernel);
        let translation = Self::repair_to(latest, netlink, Extent::Translation)?;
        let mut repaired = kernel?;
        repaired.differences.extend(translation.differences);
        repaired.conflicts.extend(translation.conflicts);
        repaired.not_told.extend(translation.not_told);
        repaired.unwritable.extend(translation.unwritable);
        Ok(repaired)
    }

    fn repair_to(
        latest: &dyn Fn() -> Self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        let mut repaired = Repaired::default();
        let mut before = latest();
        for _ in 0..ROUNDS_MAX {
            let actual = before.read(netlink, extent)?;
            let node = latest().common_with(&before);
            let (differences, absent) = node.compare(&actual, extent);
            let (spared, differences): (Vec<_>, Vec<_>) =
                differences.into_iter().partition(|it| node.spares(it));
            repaired.spared = spared;
            repaired.absent = absent;
            repaired.conflicts = node.all_conflicts(&actual, &differences, extent);
            repaired.not_told = not_told(&actual);
            if extent.has_routing() {
                repaired.seen = Some(node.seen_in(&actual, netlink)?);
            }
            if differences.is_empty() {
                break;
            }
            repaired.unwritable = match carry_out(netlink, &changes(&differences, &actual)) {
                Ok(()) => Vec::new(),
                Err(error) => match error.dispensable() {
                    Some(refused) => refused.to_vec(),
                    None => return Err(error),
                },
            };
            node.make_known(netlink, &differences, &actual)?;
            repaired
                .differences
                .extend(differences.into_iter().filter(|it| !is_refused(it, &repaired.unwritable)));
            let after = latest();
            if node.pods.keys().all(|key| after.pods.contains_key(key)) {
                break;
            }
            before = after;
        }
        Ok(repaired)
    }

    fn spares(&self, difference: &Difference) -> bool {
        !self.spared.is_empty() && self.spared.contains(&difference.object().to_string())
    }

    /// Lets the kernel take note of the pods whose links or routes were put right, as an ADD does.
    fn make_known(
        &self,
        netlink: &mut dyn Netlink,
        differences: &[Difference],
        actual: &Actual,
    ) -> Result<(), NetlinkError> {
        let touched: BTreeSet<LinkIndex> = differences
            .iter()
            .filter_map(|difference| match difference.object() {
                Object::Link { link, .. } | Object::Route { link, .. } => Some(link.index),
                _ => None,
            })
            .collect();
        let of_mac = |interface: &PodInterface| {
            let mac = Some(interface.host.mac);
            actual.links.iter().find(|link| link.mac == mac && touched.contains(&link.id.index))
        };
        if touched.is_empty() {
            return Ok(());
        }
        let egress = self.egress_of_pods(actual);
        let pods = self.interfaces().filter_map(|interface| {
            let link = of_mac(interface)?.id.clone();
            let interface = match egress.get(&interface.host.mac) {
                Some(address) => egress::with(interface, *address),
                None => interface.clone(),
            };
            Some((link, interface))
        });
        // What is refused was gone again before it could be made known.
        pod::make_known(netlink, &pods.collect::<Vec<_>>()).map(drop)
    }

    /// Returns what there is to be remembered of what was read.
    fn seen_in(&self, actual: &Actual, netlink: &mut dyn Netlink) -> Result<Seen, NetlinkError> {
        let links = actual.links.iter().map(|link| (link.id.index, SeenLink::from(link)));
        let adopted = self.find_adopted(actual, netlink)?;
        Ok(Seen { links: links.collect(), egress: self.egress_of_pods(actual), adopted })
    }

    /// Leaves out pods that another description does not have, or not the same: they are busy.
    fn common_with(mut self, other: &Self) -> Self {
        self.busy.extend(&other.busy);
        self.busy_links.extend(&other.busy_links);
        let addresses = |network: &PodNetwork| -> Vec<IpAddr> {
            network.interfaces.iter().flat_map(|it| &it.addresses).map(|it| it.address).collect()
        };
        for (key, network) in &other.pods {
            if self.pods.get(key) != Some(network) {
                self.busy.extend(addresses(network));
            }
        }
        let busy = &mut self.busy;
        self.pods.retain(|key, network| {
            let same = other.pods.get(key) == Some(network);
            if !same {
                busy.extend(addresses(network));
            }
            same
        });
        self
    }

    /// Reads what a comparison needs. Rules come first: a rule of a pod is made after its link.
    fn read(&self, netlink: &mut dyn Netlink, extent: Extent) -> Result<Actual, NetlinkError> {
        let mut actual = Actual::default();
        if extent.has_routing() {
            for family in [Family::Ipv4, Family::Ipv6] {
                actual.rules.extend(netlink.rules(family)?);
            }
            actual.links = netlink.links()?;
            actual.addresses = netlink.all_addresses()?;
            for family in [Family::Ipv4, Family::Ipv6] {
                actual.add_routes(netlink.all_routes(family)?);
            }
            let (desired, _) = self.desired(&actual, extent);
            let keys = desired.sysctls().cloned().chain(conflict::variables());
            let keys: Vec<SysctlKey> = keys.collect();
            let values = netlink.sysctls(&keys)?;
            actual.sysctls = keys.into_iter().zip(values).collect();
        } else {
            actual.links = netlink.links()?;
        }
        if extent.has_translation() {
            actual.nat = Some(netlink.nat()?);
            actual.source_check = Some(netlink.source_check()?);
            actual.aws_cni_nat = netlink.aws_cni_nat()?;
        }
        Ok(actual)
    }

    fn differences(&self, actual: &Actual, extent: Extent) -> NodeDifferences {
        let (differences, absent) = self.compare(actual, extent);
        let conflicts = self.all_conflicts(actual, &differences, extent);
        let changes = changes(&differences, actual);
        NodeDifferences { differences, absent, conflicts, not_told: not_told(actual), changes }
    }

    /// Returns what other programs have that stands in the way of routing, and of address translation.
    fn all_conflicts(
        &self,
        actual: &Actual,
        differences: &[Difference],
        extent: Extent,
    ) -> Vec<Conflict> {
        let routing = extent.has_routing().then(|| self.conflicts(actual, differences));
        let mut conflicts = routing.unwrap_or_default();
        conflicts.extend(actual.aws_cni_nat.conflicts());
        conflicts
    }

    fn compare(&self, actual: &Actual, extent: Extent) -> (Vec<Difference>, Vec<AbsentLink>) {
        let (mut desired, absent) = self.desired(actual, extent);
        // Of a pod that came while they were read.
        desired.wanted.retain(|object| match object {
            Object::Sysctl(sysctl) => actual.sysctls.contains_key(&sysctl.key),
            _ => true,
        });
        let mut differences = diff(&desired, actual);
        let strays =
            self.strays(&desired, actual).filter(|_| extent.has_routing() && !self.beside_aws_cni);
        for rule in self.orphans(actual).into_iter().chain(strays) {
            let unwanted = Difference::Unwanted(Object::Rule(rule.clone()));
            if !differences.contains(&unwanted) {
                differences.push(unwanted);
            }
        }
        (differences, absent)
    }

    /// Returns what the node should hold, given its links, routes and rules, and which links are missing.
    fn desired(&self, actual: &Actual, extent: Extent) -> (State, Vec<AbsentLink>) {
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
                        state.append(host::routing(&config, &facts));
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
                    state.wanted.push(Object::Sysctl(host::forwarding(&there.id.name)));
                }
                Err(_) => {
                    absent.push(AbsentLink::Eni(link.eni, link.mac));
                    state.append(eni::absent(link));
                }
            }
        }
    }

    fn desired_of_pods(&self, actual: &Actual, state: &mut State, absent: &mut Vec<AbsentLink>) {
        let tables = self.tables_by_place(actual);
        let egress = self.egress_of_pods(actual);
        let by_mac: BTreeMap<Mac, &Link> =
            actual.links.iter().rev().filter_map(|link| Some((link.mac?, link))).collect();
        for (key, network) in &self.pods {
            for interface in &network.interfaces {
                let mac = interface.host.mac;
                match by_mac.get(&mac) {
                    Some(there) => {
                        // Of an ENI that is not set up yet nothing tells which table it has but what pods were added with.
                        let table = tables.get(&interface.table).copied();
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
    fn egress_of_pods(&self, actual: &Actual) -> BTreeMap<Mac, IpAddr> {
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
    fn table_of(&self, eni: &EniLink, link: Option<LinkIndex>, actual: &Actual) -> EniTable {
        if let Some(&table) = self.tables.get(&eni.eni)
            && eni::table_of_system(eni, &actual.rules).is_none()
        {
            return EniTable { table, because: TableReason::Place };
        }
        EniTable::among(eni, link, actual)
    }

    /// Returns the tables of the ENIs by the numbers that follow from their places.
    fn tables_by_place(&self, actual: &Actual) -> BTreeMap<Table, Table> {
        let table = |eni: &EniLink| {
            let link = link_by_mac(&actual.links, eni.mac).ok().map(|link| link.id.index);
            (eni::table(eni.card, eni.device), self.table_of(eni, link, actual).table)
        };
        self.enis.values().map(table).collect()
    }

    /// Returns the route table of an ENI, as far as is known.
    fn known_table(&self, eni: &EniLink) -> Table {
        let table = self.tables.get(&eni.eni).copied();
        table.unwrap_or_else(|| eni::table(eni.card, eni.device))
    }

    fn primary_mac(&self) -> Option<Mac> {
        self.facts.primary.mac
    }

    /// Returns the rules of pods and ENIs that are there no more.
    ///
    /// That a pod is not known does not make it gone: after the loss of the state file none is known. One that is gone
    /// has no route, which the kernel removes along with the link; and the address of an ENI that is gone is on no link.
    ///
    /// In one piece: each priority has a case, and all of them ask what was read at the beginning.
    fn orphans<'a>(&self, actual: &'a Actual) -> Vec<&'a Rule> {
        let routed: BTreeSet<IpNet> = actual
            .routes
            .iter()
            .filter(|(_, route)| route.table == Table::MAIN && is_host(route.destination))
            .map(|(_, route)| route.destination)
            .collect();
        let on_links: BTreeSet<IpAddr> =
            actual.addresses.iter().map(|(_, address)| address.net.addr()).collect();
        let known: BTreeSet<IpAddr> = self.enis.values().flat_map(eni::own_addresses).collect();
        let mut living = self.living(&actual.links);
        living.extend(self.untracked());
        let names: BTreeSet<&str> = actual.links.iter().map(|link| &*link.id.name).collect();
        let used: BTreeSet<Table> = actual.entries.iter().map(|entry| entry.route.table).collect();
        let is_from_aws_cni = |rule: &Rule| {
            // The kernel removes the routes of a table along with the ENI's link.
            let leads_nowhere = !used.contains(&rule.table);
            let (address, leads_there) = match rule.priority {
                PRIORITY_TO_POD => (rule.destination, rule.table == Table::MAIN),
                PRIORITY_FROM_POD => (rule.source, true),
                PRIORITY_BRANCH => {
                    let input = rule.input.as_deref().unwrap_or_default();
                    // The table of a VLAN whose link is still there leads somewhere, and not for anyone else.
                    let of_branch = branch::is_of_strict_pod(input) && branch::is_table(rule.table);
                    return of_branch || leads_nowhere && branch::is_of_pods(input);
                }
                _ => (rule.source, leads_nowhere),
            };
            leads_there && address.is_some_and(|net| self.is_in_vpc(net.addr()))
        };

        let pod_is_gone = |net: Option<IpNet>| {
            net.filter(|net| is_host(*net)).is_some_and(|net| {
                !routed.contains(&net)
                    && !living.contains(&net.addr())
                    && !self.busy.contains(&net.addr())
            })
        };
        let eni_is_gone = |net: Option<IpNet>| {
            net.filter(|net| is_host(*net))
                .is_some_and(|net| !on_links.contains(&net.addr()) && !known.contains(&net.addr()))
        };
        let is_orphan = |rule: &&Rule| {
            let is_claimed = match rule.protocol {
                Protocol::OURS => true,
                Protocol::UNSPECIFIED => is_from_aws_cni(rule),
                _ => false,
            };
            if !is_claimed || !rule.is_plain() || rule.mark.is_some() {
                return false;
            }
            match rule.priority {
                PRIORITY_TO_POD => rule.source.is_none() && pod_is_gone(rule.destination),
                PRIORITY_FROM_POD => pod_is_gone(rule.source),
                PRIORITY_BRANCH => rule.input.as_ref().is_some_and(|name| !names.contains(&**name)),
                PRIORITY_ENI => rule.destination.is_none() && eni_is_gone(rule.source),
                _ => false,
            }
        };
        actual.rules.iter().filter(is_orphan).collect()
    }

    /// Returns whether an address may be one of an ENI: a rule made without a priority gets the one that amazon-vpc-cni-k8s
    /// has for ENIs, for any address.
    fn is_in_vpc(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.facts.vpc_ipv4_cidrs.iter().any(|cidr| cidr.contains(&address))
            }
            IpAddr::V6(address) => {
                // Every subnet has this length.
                let own = self.facts.primary_ipv6.and_then(|own| Ipv6Net::new(own, 64).ok());
                let more = self.enis.values().filter_map(|eni| eni.subnet_ipv6);
                let subnets = own.into_iter().chain(more);
                let mut ranges = subnets.chain(self.facts.vpc_ipv6_cidrs.iter().copied());
                ranges.any(|range| range.contains(&address))
            }
        }
    }

    /// Returns the addresses of the pods whose links are there.
    fn living(&self, links: &[Link]) -> BTreeSet<IpAddr> {
        let macs: BTreeSet<Mac> = links.iter().filter_map(|link| link.mac).collect();
        let interfaces = self.pods.values().flat_map(|network| &network.interfaces);
        let there = interfaces.filter(|interface| macs.contains(&interface.host.mac));
        there.flat_map(|interface| &interface.addresses).map(|it| it.address).collect()
    }

    fn interfaces(&self) -> impl Iterator<Item = &PodInterface> {
        self.pods.values().flat_map(|network| &network.interfaces)
    }
}

impl State {
    fn sysctls(&self) -> impl Iterator<Item = &SysctlKey> {
        self.wanted.iter().filter_map(|object| match object {
            Object::Sysctl(sysctl) => Some(&sysctl.key),
            _ => None,
        })
    }
}

/// Returns what of amazon-vpc-cni-k8s cannot be listed.
fn not_told(actual: &Actual) -> Vec<String> {
    let why = actual.aws_cni_nat.not_told().iter();
    why.map(|why| format!("cannot tell what amazon-vpc-cni-k8s left: {why}")).collect()
}

/// Returns whether what would put a difference right was refused.
fn is_refused(difference: &Difference, refused: &[Refused]) -> bool {
    let (Difference::Missing(wanted) | Difference::Different { wanted, .. }) = difference else {
        return false;
    };
    refused.iter().any(|refused| matches!(&*refused.change, KernelChange::Set(it) if it == wanted))
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

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
