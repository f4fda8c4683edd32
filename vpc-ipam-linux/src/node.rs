//! The whole node: what it should hold for itself, its ENIs and its pods, together, so that also what nobody asked for
//! any more is found.

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vpc_ipam_core::{EniId, EniLink, Mac, PodKey};

use crate::eni::PRIORITY_ENI;
use crate::host::{HostFacts, PRIORITY_BRANCH, PRIORITY_MARK};
use crate::pod::{PRIORITY_FROM_POD, PRIORITY_TO_POD, PodInterface, PodNetwork, egress};
use crate::state::{Actual, ApplyError, Claim, Difference, State, carry_out, changes, diff};
use crate::{
    Change, Family, HostConfig, Link, Netlink, NetlinkError, Object, Protocol, Refused, Rule,
    SysctlKey, Table, eni, host, link_by_mac,
};

/// All that a node should hold, as its daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What is configured.
    pub config: HostConfig,
    /// What the node is; its primary link is looked up by its MAC address each time.
    pub facts: HostFacts,
    /// The secondary ENIs that are set up.
    pub enis: BTreeMap<EniId, EniLink>,
    /// The route tables of ENIs for which they do not follow from the place, as far as is known: [`eni::table_here`]. By them
    /// events are judged; a comparison reads the rules that tell of them.
    pub tables: BTreeMap<EniId, Table>,
    /// The networks of the pods, with tables that follow from the places of their ENIs.
    pub pods: BTreeMap<PodKey, PodNetwork>,
    /// Addresses of pods that are coming or going: somebody else is at work on their rules.
    pub busy: BTreeSet<IpAddr>,
    /// The addresses by which pods reach the family that they have none of in the VPC, by the MAC addresses of the host's
    /// ends of their links. Nothing but routes tells of them: [`Repaired::egress`] is to be remembered here, for when a
    /// route is lost.
    pub egress: BTreeMap<Mac, IpAddr>,
}

/// How much of a node is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Links, addresses, routes and rules: what netlink tells in one go.
    Routing,
    /// Address translation and kernel variables too.
    All,
}

/// How a node differs from what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDifferences {
    /// In the order in which they are to be put right.
    pub differences: Vec<Difference>,
    /// Links that are not there, which is not for this crate to put right.
    pub absent: Vec<AbsentLink>,
    /// The changes that put the differences right.
    pub changes: Vec<Change>,
}

/// A link that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AbsentLink {
    /// Of the primary ENI.
    Primary(String),
    /// Of a secondary ENI.
    Eni(EniId, Mac),
    /// Of a pod.
    Pod(PodKey, String),
}

impl fmt::Display for AbsentLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary(name) => write!(f, "no link: {name} of the primary ENI"),
            Self::Eni(eni, mac) => write!(f, "no link: of {eni}, {mac}: detached?"),
            Self::Pod(pod, name) => write!(f, "no link: {name} of pod {pod}: namespace gone?"),
        }
    }
}

impl NodeDifferences {
    /// Returns whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.absent.is_empty()
    }
}

/// What [`Node::repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was not as it should be and was put right.
    pub differences: Vec<Difference>,
    /// Links that are not there.
    pub absent: Vec<AbsentLink>,
    /// Kernel variables that cannot be written; the node goes on without.
    pub unwritable: Vec<Refused>,
    /// The addresses that pods were seen to have beyond those of the VPC: [`Node::egress`].
    pub egress: BTreeMap<Mac, IpAddr>,
}

/// How often a repair looks again because pods came or went meanwhile.
const ROUNDS_MAX: usize = 4;

impl Node {
    /// Describes a node without secondary ENIs and pods.
    pub fn new(config: HostConfig, facts: HostFacts) -> Self {
        Self {
            config,
            facts,
            enis: BTreeMap::new(),
            tables: BTreeMap::new(),
            pods: BTreeMap::new(),
            busy: BTreeSet::new(),
            egress: BTreeMap::new(),
        }
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
    /// Routing is put right first, by itself: it does not wait for programs that cannot list the address translation.
    pub fn repair(
        latest: &dyn Fn() -> Self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        let first = match extent {
            Extent::Routing => Vec::new(),
            // What is refused now is tried again along with the rest, which tells of it.
            Extent::All => Self::repair_to(latest, netlink, Extent::Routing)
                .map_or_else(|_| Vec::new(), |repaired| repaired.differences),
        };
        let mut repaired = Self::repair_to(latest, netlink, extent)?;
        repaired.differences.splice(..0, first);
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
            let NodeDifferences { differences, absent, changes } =
                node.differences(&actual, extent);
            repaired.absent = absent;
            repaired.egress = node.egress_of_pods(&actual);
            if differences.is_empty() {
                break;
            }
            repaired.unwritable = match carry_out(netlink, &changes) {
                Ok(()) => Vec::new(),
                Err(error) => match error.kernel_variables() {
                    Some(refused) => refused.to_vec(),
                    None => return Err(error),
                },
            };
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

    /// Leaves out pods that another description does not have, or not the same: they are busy.
    fn common_with(mut self, other: &Self) -> Self {
        self.busy.extend(&other.busy);
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
        let mut rules = netlink.rules(Family::Ipv4)?;
        rules.extend(netlink.rules(Family::Ipv6)?);
        let mut actual = Actual {
            rules,
            links: netlink.links()?,
            addresses: netlink.all_addresses()?,
            routes: netlink.all_routes()?,
            ..Actual::default()
        };
        if extent == Extent::All {
            let (desired, _) = self.desired(&actual, extent);
            let keys: Vec<SysctlKey> = desired.sysctls().cloned().collect();
            let values = netlink.sysctls(&keys)?;
            actual.sysctls = keys.into_iter().zip(values).collect();
            actual.nat = Some(netlink.nat()?);
            actual.peer_nat = netlink.peer_nat()?;
        }
        Ok(actual)
    }

    fn differences(&self, actual: &Actual, extent: Extent) -> NodeDifferences {
        let (mut desired, absent) = self.desired(actual, extent);
        // Of a pod that came while they were read.
        desired.wanted.retain(|object| match object {
            Object::Sysctl(sysctl) => actual.sysctls.contains_key(&sysctl.key),
            _ => true,
        });
        let mut differences = diff(&desired, actual);
        for rule in self.orphans(actual) {
            let unwanted = Difference::Unwanted(Object::Rule(rule.clone()));
            if !differences.contains(&unwanted) {
                differences.push(unwanted);
            }
        }
        let changes = changes(&differences, actual);
        NodeDifferences { differences, absent, changes }
    }

    /// Returns what the node should hold, given its links, routes and rules, and which links are missing.
    fn desired(&self, actual: &Actual, extent: Extent) -> (State, Vec<AbsentLink>) {
        let Actual { links, rules, .. } = actual;
        let (mut state, mut absent) = (State::default(), Vec::new());
        match self.primary_mac().and_then(|mac| link_by_mac(links, mac).ok()) {
            Some(primary) => {
                let facts = HostFacts { primary: primary.clone(), ..self.facts.clone() };
                // Without any range of the VPC nothing is known to be right, nor wrong.
                state.append(host::desired(&self.config, &facts).unwrap_or_default());
            }
            None => absent.push(AbsentLink::Primary(self.facts.primary.id.name.to_string())),
        }
        for link in self.enis.values() {
            match link_by_mac(links, link.mac) {
                Ok(there) => state.append(eni::desired(link, &there.id, rules)),
                Err(_) => {
                    absent.push(AbsentLink::Eni(link.eni, link.mac));
                    state.append(eni::absent(link));
                }
            }
        }
        let tables = self.tables(rules);
        let egress = self.egress_of_pods(actual);
        for (key, network) in &self.pods {
            for interface in &network.interfaces {
                let mac = interface.host.mac;
                match links.iter().find(|link| link.mac == Some(mac)) {
                    Some(there) => {
                        // Of an ENI that is not set up yet nothing tells which table it has but what pods were added with.
                        let table = tables.get(&interface.table).copied();
                        let table = table.or_else(|| table_of_rule(interface, rules));
                        let table = table.unwrap_or(interface.table);
                        state.append(of_pod(interface, there, table, egress.get(&mac)));
                    }
                    None => absent.push(AbsentLink::Pod(key.clone(), interface.host.name.clone())),
                }
            }
        }
        state.claims.push(Claim::PeerNat);
        if extent == Extent::Routing {
            let beyond = |object: &Object| matches!(object, Object::Sysctl(_) | Object::Nat(_));
            state.wanted.retain(|object| !beyond(object));
            state.claims.retain(|claim| *claim != Claim::PeerNat);
        }
        (state, absent)
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
            let had = || self.egress.get(&mac).copied().filter(free);
            egress.extend(present.or_else(had).map(|address| (mac, address)));
        }
        egress
    }

    /// Returns the tables of the ENIs by the numbers that they would have if the system had not made others.
    fn tables(&self, rules: &[Rule]) -> BTreeMap<Table, Table> {
        let tables = self
            .enis
            .values()
            .map(|link| (eni::table(link.card, link.device), eni::table_among(link, rules).0));
        tables.collect()
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
        let living = self.living(&actual.links);
        let names: BTreeSet<&str> = actual.links.iter().map(|link| &*link.id.name).collect();
        let makers = [Protocol::OURS, Protocol::UNSPECIFIED];

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
            if rule.more || !makers.contains(&rule.protocol) || rule.mark.is_some() {
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

    /// Returns the addresses of the pods whose links are there.
    fn living(&self, links: &[Link]) -> BTreeSet<IpAddr> {
        let macs: BTreeSet<Mac> = links.iter().filter_map(|link| link.mac).collect();
        let interfaces = self.pods.values().flat_map(|network| &network.interfaces);
        let there = interfaces.filter(|interface| macs.contains(&interface.host.mac));
        there.flat_map(|interface| &interface.addresses).map(|it| it.address).collect()
    }

    /// Returns whether something that happened may have made the node differ from what it should be.
    ///
    /// What this crate does itself for ENIs and pods that the node is known to have is no such thing.
    #[must_use]
    pub fn concerns(&self, event: &Event) -> bool {
        match event {
            Event::Lost | Event::Nat => true,
            // One that goes down takes its routes along, of which the kernel does not tell; a new one is down.
            Event::Link { link, gone } => {
                let is_damaged = |mtu: u16| *gone || !link.up || link.mtu != u32::from(mtu);
                let enis = self.enis.values().map(|eni| (eni.mac, eni.mtu));
                let mut enis = enis.chain(self.primary_mac().map(|mac| (mac, self.facts.mtu)));
                let of_pod = |mac| self.interfaces().any(|interface| interface.host.mac == mac);
                link.mac.is_some_and(|mac| {
                    enis.any(|(of_eni, mtu)| of_eni == mac && is_damaged(mtu))
                        || ((*gone || !link.up) && of_pod(mac))
                })
            }
            // Whose link it is, is not said. Addresses of IPv6 come again and again with the router's advertisements.
            Event::Address { address, gone } => {
                address.scope == crate::Scope::Global && (*gone || address.net.addr().is_ipv4())
            }
            Event::Route { route, gone } => {
                let damage = *gone == (route.protocol == Protocol::OURS);
                let of_eni = || self.enis.values().any(|it| self.known_table(it) == route.table);
                damage
                    && match route.table {
                        Table::MAIN => {
                            self.has_pod(route.destination) || self.has_egress(route.destination)
                        }
                        _ => of_eni(),
                    }
            }
            Event::Rule { rule, gone } => {
                let is_wanted = || self.wants(rule);
                match (rule.priority, rule.source, rule.destination) {
                    (PRIORITY_TO_POD, None, Some(net)) | (PRIORITY_FROM_POD, Some(net), _) => {
                        self.has_pod(net) && *gone == is_wanted()
                    }
                    (PRIORITY_TO_POD | PRIORITY_FROM_POD, ..) => false,
                    (PRIORITY_MARK | PRIORITY_ENI, ..) => {
                        *gone == (rule.protocol == Protocol::OURS)
                    }
                    _ => *gone && rule.protocol == Protocol::OURS,
                }
            }
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &PodInterface> {
        self.pods.values().flat_map(|network| &network.interfaces)
    }

    fn has_pod(&self, net: IpNet) -> bool {
        let mut addresses = self.interfaces().flat_map(|interface| &interface.addresses);
        is_host(net) && addresses.any(|it| it.address == net.addr())
    }

    fn has_egress(&self, net: IpNet) -> bool {
        let mut known = self.interfaces().filter_map(|it| self.egress.get(&it.host.mac));
        is_host(net) && known.any(|address| *address == net.addr())
    }

    /// Returns whether a rule is one that a pod should have.
    fn wants(&self, rule: &Rule) -> bool {
        self.interfaces().any(|interface| {
            let mut addresses = interface.addresses.iter();
            addresses.any(|it| {
                interface.rules(it.address).any(|wanted| {
                    let of_place =
                        |eni: &&EniLink| eni::table(eni.card, eni.device) == wanted.table;
                    let eni = self.enis.values().find(of_place);
                    let table = eni.map_or(wanted.table, |eni| self.known_table(eni));
                    Rule { table, ..wanted } == *rule
                })
            })
        })
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

/// Returns whether what would put a difference right was refused.
fn is_refused(difference: &Difference, refused: &[Refused]) -> bool {
    let (Difference::Missing(wanted) | Difference::Different { wanted, .. }) = difference else {
        return false;
    };
    refused.iter().any(|refused| matches!(&*refused.change, Change::Set(it) if it == wanted))
}

/// Returns what the node should hold for an interface of a pod whose link is there.
///
/// The pod's network configuration may name the link otherwise and give it another MTU than the daemon would, and whoever
/// called the plugin had a say in that: both are as they are.
fn of_pod(interface: &PodInterface, there: &Link, table: Table, egress: Option<&IpAddr>) -> State {
    let mut interface = match egress {
        Some(address) => egress::with(interface, *address),
        None => interface.clone(),
    };
    interface.host.name = there.id.name.to_string();
    interface.mtu = u16::try_from(there.mtu).unwrap_or(interface.mtu);
    interface.table = table;
    interface.on_host(there.id.index)
}

/// Returns the table to which a rule of ours, or of the peer, leads what an interface of a pod sends; on the primary ENI it
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
            && !rule.more
            && rule.source.is_some_and(has)
    });
    rule.map(|rule| rule.table)
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Something that happened in the node's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link was made, changed or removed.
    Link {
        /// As it is, or was.
        link: Link,
        /// Whether it was removed.
        gone: bool,
    },
    /// An address was given to a link, or taken from it.
    Address {
        /// The address.
        address: crate::Address,
        /// Whether it was taken.
        gone: bool,
    },
    /// A route was made or removed.
    Route {
        /// The route.
        route: crate::Route,
        /// Whether it was removed.
        gone: bool,
    },
    /// A rule was made or removed.
    Rule {
        /// The rule.
        rule: Rule,
        /// Whether it was removed.
        gone: bool,
    },
    /// Our address translation was changed by somebody, or the peer's appeared.
    Nat,
    /// More happened than could be told.
    Lost,
}
