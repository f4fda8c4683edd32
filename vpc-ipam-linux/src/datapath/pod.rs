//! Pods: each is joined to the node by a veth, and reaches everything through it.

pub(crate) mod branch;
pub(crate) mod egress;
mod found;
mod names;
mod tables;
pub(crate) mod variables;

use core::borrow::Borrow;
use core::net::IpAddr;
use std::collections::BTreeMap;

use ipnet::IpNet;
use sha1::{Digest as _, Sha1};
use vpc_ipam_core::{EniId, Lease, LeasedInterface, Mac, Pod, PodKey};

use self::branch::{MakeError, VlanOwner};
use self::tables::Inside;
use self::variables::SourceFilter;
use crate::datapath::link::link_local;
use crate::datapath::numbering::pod_gateway;
use crate::datapath::numbering::{PRIORITY_FROM_POD, PRIORITY_IN_POD, PRIORITY_TO_POD};
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, apply, carry_out, in_words, refused};
use crate::state::diff::{Difference, changes, diff};
use crate::state::{Claim, State};
use crate::{
    Address, BranchMode, Family, KernelChange, KernelEffect, Link, LinkId, LinkIndex,
    LinkMissingError, Namespace, Neighbour, Netlink, NetlinkError, Object, Protocol, Refusal,
    Refused, Route, Rule, Scope, Sysctl, SysctlKey, Table, Veth, VethPeer, VethPrefix, eni,
};

pub use branch::{Branch, BranchEni, VlanId, VlanIdError, desired_on_branch};
pub use found::{remove_found, routed};
pub use names::host_links;
pub(crate) use names::parts_of_host_name;

/// What all pods of a node have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// How the names of their links begin on the host.
    pub veth_prefix: VethPrefix,
    /// The MTU of their links in bytes.
    pub mtu: u16,
    /// The family that they have no address of in the VPC and reach through the node: [`HostFacts::egress`].
    ///
    /// [`HostFacts::egress`]: crate::datapath::host::HostFacts::egress
    pub egress: Option<Family>,
    /// Whether those without an IPv6 address may not have link-local ones either.
    pub ipv6_disabled: bool,
    /// The route tables of ENIs for which they do not follow from the place: [`eni::table_here`].
    pub tables: BTreeMap<EniId, Table>,
    /// Whether they may send from their own addresses alone: [`HostConfig::source_check`](crate::HostConfig::source_check).
    pub source_check: bool,
}

impl PodSettings {
    /// Describes pods of which nothing else is to be known.
    pub fn new(veth_prefix: VethPrefix, mtu: u16) -> Self {
        Self {
            veth_prefix,
            mtu,
            egress: None,
            ipv6_disabled: false,
            tables: BTreeMap::new(),
            source_check: true,
        }
    }
}

/// The network of one pod, as it should be. It is all that a CNI result tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Its interfaces, the one that the runtime named first.
    pub interfaces: Vec<PodInterface>,
}

impl PodNetwork {
    /// Returns whether a rule is the last thing that [`add`] makes on the host, whatever its table.
    pub fn is_complete_with(&self, rule: &Rule) -> bool {
        let last = self.interfaces.last().and_then(|interface| {
            interface.addresses.last().and_then(|it| interface.rules(it.address).last())
        });
        last.is_some_and(|last| Rule { table: rule.table, ..last } == *rule)
    }
}

/// One interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// The end on the host.
    pub host: VethEnd,
    /// The end in the pod.
    pub container: VethEnd,
    /// The MTU of both in bytes.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<PodAddress>,
    /// The route table of the ENI that carries them, on the host.
    pub table: Table,
    /// Its place among the interfaces of the pod, from 0.
    pub number: u8,
    /// The family of which it gets an address that only the node knows, once it is there.
    pub egress: Option<Family>,
    /// Whether IPv6 is switched off in the pod.
    pub ipv6_disabled: bool,
    /// The branch ENI that it is on, if it is on one.
    pub branch: Option<Branch>,
    /// Whether the pod may send from its own addresses alone.
    pub source_check: bool,
    /// How the host's end says whose it is.
    pub alias: String,
}

/// One end of the veth of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: String,
    /// Its MAC address, which follows from the pod's key.
    pub mac: Mac,
}

/// An address of a pod, and where its default route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The address.
    pub address: IpAddr,
    /// The next hop: on no network, known to the pod as the host's end of the veth.
    pub gateway: IpAddr,
    /// Whether only the node knows the address; it translates what is sent from it.
    pub only_on_node: bool,
    /// The route table in the pod that has the default route: main, or one to which a rule leads what the address sends. For the
    /// first interface that is main unless the pod has the default route of another network there when it is added.
    pub table: Table,
}

impl PodAddress {
    /// Returns the routes of the address, as pairs of destination and next hop.
    pub fn routes(&self) -> [(IpNet, Option<IpAddr>); 2] {
        let by_gateway = Route::default_by(self.table, self.gateway);
        [(self.gateway.into(), None), (by_gateway.destination, by_gateway.gateway)]
    }
}

/// A lease that no network can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// An interface has no address.
    #[error("the lease has no address on {eni}")]
    NoAddress {
        /// The ENI that should carry it.
        eni: EniId,
    },
    /// There are more interfaces than any instance has network cards.
    #[error("the lease has {interfaces} interfaces, and a pod can have 250 at most")]
    TooMany {
        /// How many there are.
        interfaces: usize,
    },
}

/// Returns the network of a pod.
pub fn desired(lease: &Lease, settings: &PodSettings) -> Result<PodNetwork, PodError> {
    let count = lease.interfaces().count();
    if count > 250 {
        return Err(PodError::TooMany { interfaces: count });
    }
    let interfaces = (0..).zip(lease.interfaces());
    let interfaces =
        interfaces.map(|(number, leased)| PodInterface::desired(lease, number, leased, settings));
    Ok(PodNetwork { interfaces: interfaces.collect::<Result<_, _>>()? })
}

impl PodInterface {
    fn desired(
        lease: &Lease,
        number: u8,
        leased: &LeasedInterface,
        settings: &PodSettings,
    ) -> Result<Self, PodError> {
        let address = |address| PodAddress {
            address,
            gateway: pod_gateway(Family::of(address), number),
            only_on_node: false,
            table: match number {
                0 => Table::MAIN,
                number => Table(number.into()),
            },
        };
        let addresses: Vec<_> = leased.addresses().map(address).collect();
        if addresses.is_empty() {
            return Err(PodError::NoAddress { eni: leased.eni });
        }
        let (host, container) = veth_ends(&lease.key, &lease.pod, number, &settings.veth_prefix);
        let has = |family| addresses.iter().any(|it| Family::of(it.address) == family);
        let table = settings.tables.get(&leased.eni).copied();
        Ok(Self {
            host,
            container,
            mtu: settings.mtu,
            table: match table {
                Some(table) => table,
                None if leased.on_primary() => Table::MAIN,
                None => eni::table(leased.card, leased.device),
            },
            number,
            egress: settings.egress.filter(|family| number == 0 && !has(*family)),
            ipv6_disabled: settings.ipv6_disabled && !has(Family::Ipv6),
            branch: None,
            source_check: settings.source_check,
            alias: names::alias(&lease.pod),
            addresses,
        })
    }

    /// Returns what the host should hold for the interface, once its end of the veth has an index.
    pub fn on_host(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.host.name);
        let own_address = self.has(Family::Ipv6).then(|| no_own_address(&self.host.name));
        let variables = variables::of_host_end(&link.name, self.source_filter());
        let mut wanted: Vec<_> =
            own_address.into_iter().chain(variables).map(Object::Sysctl).collect();
        wanted.push(Object::Alias { link: link.clone(), alias: self.alias.clone() });
        wanted.push(Object::Link { link: link.clone(), mtu: self.mtu.into(), up: true });
        if self.has(Family::Ipv6) {
            // From an address of the link the host asks for the pod's MAC address.
            let net = pod_gateway(Family::Ipv6, self.number).into();
            let address = Address { net, scope: Scope::Link };
            wanted.push(Object::Address { link: link.clone(), address });
        }
        let mut claims = Vec::new();
        if self.egress.is_none() {
            claims.push(Claim::OurRoutes { link: link.clone() });
        }
        for &PodAddress { address, only_on_node, .. } in &self.addresses {
            let route = Route::on_link(self.table_to_pod(), address);
            wanted.push(Object::Route { link: link.clone(), route });
            if only_on_node {
                continue;
            }
            wanted.extend(self.rules(address).map(Object::Rule));
            claims.extend(our_rules(address).map(Claim::Rules));
            if let Some(branch) = &self.branch {
                let (rule, claimed) = branch.rules_by(Family::of(address), &self.host.name);
                wanted.extend(rule.map(Object::Rule));
                claims.extend(claimed);
            }
        }
        State { wanted, claims }
    }

    /// Returns what the pod should hold for the interface when its end of the veth is made.
    fn in_new_pod(&self, link: LinkIndex) -> State {
        let State { mut wanted, claims } = self.in_pod(link);
        let (ipv4, ipv6) = variables::of_new_pod_end(&self.container.name);
        let up = wanted.iter().position(|it| matches!(it, Object::Link { .. })).unwrap_or(0);
        wanted.splice(up..up, ipv6.into_iter().chain(ipv4).map(Object::Sysctl));
        State { wanted, claims }
    }

    /// Returns what the pod should hold for the interface, once its end of the veth has an index.
    pub fn in_pod(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.container.name);
        let mut wanted: Vec<_> = self.sysctls_in_pod().map(Object::Sysctl).collect();
        wanted.push(Object::Link { link: link.clone(), mtu: self.mtu.into(), up: true });
        if self.has(Family::Ipv6) {
            let address = link_local(self.container.mac);
            wanted.push(Object::Address { link: link.clone(), address });
        }
        let mut claims = Vec::new();
        if self.egress.is_none() {
            claims.push(Claim::OurRoutes { link: link.clone() });
        }
        for it @ PodAddress { address, gateway, table, .. } in &self.addresses {
            let family = Family::of(*address);
            let route = |route| Object::Route { link: link.clone(), route };
            wanted.push(route(Route::on_link(*table, *gateway)));
            wanted.push(route(Route::default_by(*table, *gateway)));
            wanted.push(Object::Address {
                link: link.clone(),
                address: Address { net: (*address).into(), scope: Scope::Global },
            });
            // Known for good, so that no packet waits for an answer that only the host could give.
            let neighbour = Neighbour { address: *gateway, mac: self.host.mac };
            wanted.push(Object::Neighbour { link: link.clone(), neighbour });
            if let Some(rule) = rule_in_pod(it) {
                wanted.push(Object::Rule(rule));
                claims.push(Claim::OurRules(tables::rules_of(*address)));
            }
            claims.push(Claim::Addresses { link: link.clone(), family });
        }
        State { wanted, claims }
    }

    /// Returns the variables of the pod's namespace, to be set before the link is up.
    fn sysctls_in_pod(&self) -> impl Iterator<Item = Sysctl> {
        let set = |link: &str, value: &str, optional| Sysctl {
            key: SysctlKey::ipv6_of_link(link, "disable_ipv6"),
            value: value.to_owned(),
            optional,
        };
        let name = &self.container.name;
        let on = self.has(Family::Ipv6).then(|| {
            // A runtime may have switched IPv6 off.
            [set(name, "0", false), set("lo", "0", false), no_own_address(name)]
        });
        let off = self.ipv6_disabled.then(|| ["all", "default", "lo"].map(|it| set(it, "1", true)));
        on.into_iter().chain(off).flatten()
    }

    /// Returns whether it has, or gets, an address of a family.
    fn has(&self, family: Family) -> bool {
        let has = |it: &PodAddress| Family::of(it.address) == family;
        self.egress == Some(family) || self.addresses.iter().any(has)
    }

    /// Returns how the kernel is to check the sources of what comes in by the host's end.
    pub(crate) fn source_filter(&self) -> SourceFilter {
        match (self.source_check, self.strict_branch()) {
            (false, _) => SourceFilter::Off,
            (true, Some(_)) => SourceFilter::Loose,
            (true, None) => SourceFilter::Strict,
        }
    }

    fn strict_branch(&self) -> Option<&Branch> {
        self.branch.as_ref().filter(|branch| branch.mode == BranchMode::Strict)
    }

    /// Returns the table by which the host reaches the pod. In strict mode it does by the VPC alone.
    pub(crate) fn table_to_pod(&self) -> Table {
        if self.strict_branch().is_some() { self.table } else { Table::MAIN }
    }

    pub(crate) fn rules(&self, address: IpAddr) -> impl Iterator<Item = Rule> {
        let family = Family::of(address);
        let to = Rule::new(family, PRIORITY_TO_POD, Table::MAIN).to(address);
        let from = Rule::new(family, PRIORITY_FROM_POD, self.table).from(address);
        let from = (self.table != Table::MAIN).then_some(from);
        let both = self.strict_branch().is_none().then_some((to, from));
        both.into_iter().flat_map(|(to, from)| core::iter::once(to).chain(from))
    }

    fn veth(&self, namespace: &Namespace) -> Veth {
        Veth {
            name: self.host.name.clone(),
            mac: self.host.mac,
            mtu: self.mtu.into(),
            peer: VethPeer {
                name: self.container.name.clone(),
                mac: self.container.mac,
                namespace: namespace.clone(),
            },
        }
    }
}

/// Returns the rule inside the pod that leads what an address sends to its table.
fn rule_in_pod(PodAddress { address, table, .. }: &PodAddress) -> Option<Rule> {
    let rule = Rule::new(Family::of(*address), PRIORITY_IN_POD, *table).from(*address);
    (*table != Table::MAIN).then_some(rule)
}

/// Returns the names and MAC addresses of the veth of an interface.
fn veth_ends(key: &PodKey, pod: &Pod, number: u8, prefix: &VethPrefix) -> (VethEnd, VethEnd) {
    let name = match number {
        0 => key.ifname().to_owned(),
        number => format!("mNicIf{number}"),
    };
    let host = names::host_name(prefix, pod, number);
    (
        VethEnd { name: host, mac: derived_mac(key, number, "host") },
        VethEnd { name, mac: derived_mac(key, number, "pod") },
    )
}

/// Keeps the kernel from giving a link a link-local address, which it would some time after the link is up, and let be used
/// some time after that. (Linux before 4.11 cannot be kept from it.)
fn no_own_address(link: &str) -> Sysctl {
    Sysctl {
        key: SysctlKey::ipv6_of_link(link, "addr_gen_mode"),
        value: "1".to_owned(),
        optional: true,
    }
}

/// Returns patterns of our rules of an address, whatever their tables.
fn our_rules(address: IpAddr) -> [Rule; 2] {
    let any = |priority| Rule::new(Family::of(address), priority, Table::UNSPECIFIED);
    [any(PRIORITY_TO_POD).to(address), any(PRIORITY_FROM_POD).from(address)]
}

/// Derives a locally administered MAC address, so that an end of the veth can be told from that of another pod with the
/// same name.
fn derived_mac(key: &PodKey, number: u8, end: &str) -> Mac {
    let text = format!("{key}/{number}/{end}");
    let digest = Sha1::digest(text.as_bytes());
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| digest[i]);
    Mac([(a | 0x02) & 0xfe, b, c, d, e, f])
}

/// A failure to give a pod its network. Nothing of it is left but what `left_behind` says, and what was there before.
#[derive(Debug, thiserror::Error)]
#[error("set up the network of the pod{}", left_in_words(left_behind))]
pub struct AddError {
    /// Why it failed.
    #[source]
    pub cause: AddFailure,
    /// What could not be undone.
    pub left_behind: Vec<ApplyError>,
    /// Whether the pod has its network from an earlier ADD. It keeps it, and its address must not become another's.
    pub running: bool,
}

/// Why a pod could not be given its network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddFailure {
    /// The pod's namespace has a link of that name, and it is not this pod's.
    #[error(
        "the pod's namespace already has a link {ifname}: did another plugin make it, or an ADD without a DEL?"
    )]
    InterfaceExists {
        /// Its name.
        ifname: String,
    },
    /// The host's link of that name is another pod's.
    #[error(
        "the host's link {link} would be that of pod {pod}, and is that of pod {other}: the name has room for 44 bits of the SHA-1 \
         of a pod's names, which are the same; one of the two has to go or to be named otherwise"
    )]
    LinkOfAnotherPod {
        /// The name of the link.
        link: String,
        /// The pod that was to be added.
        pod: String,
        /// The pod that has it.
        other: String,
    },
    /// The host's link of that name is that of a pod which is not known by name.
    #[error(
        "the host's link {link} would be that of pod {pod}, and leads to {address} of a pod that was there before and is not known \
         by name: an earlier one of the same name, which the runtime will remove, or one whose names have the same 44 bits of SHA-1"
    )]
    LinkOfUnknownPod {
        /// The name of the link.
        link: String,
        /// The pod that was to be added.
        pod: String,
        /// The address of the pod that has it.
        address: IpAddr,
    },
    /// The host has a link of that name that joins no pod.
    #[error("the host has a link {link} that is no veth: another program made it")]
    LinkOfHost {
        /// Its name.
        link: String,
    },
    /// The host's end of that name leads into this very namespace, to another link than the one asked for.
    #[error("the host's link {host} is that of another interface of the same pod")]
    HostEndInUse {
        /// Its name.
        host: String,
    },
    /// The trunk ENI of the pod's branch ENI has no link.
    #[error("find the trunk ENI of the pod's branch ENI")]
    Trunk(#[source] LinkMissingError),
    /// Another program uses the route table of the pod's branch ENI.
    #[error("route table {table} of the pod's branch ENI is in use by another program: {by}")]
    TableInUse {
        /// The table.
        table: Table,
        /// A route in it, or a rule that leads there.
        by: String,
    },
    /// The pod has a default route of another network, and one beside it could not be made.
    #[error(
        "the pod has the default route of another network, {other}, and the kernel lets none be made beside it by source: {refused}"
    )]
    OtherDefault {
        /// The route.
        other: String,
        /// What the kernel refused.
        refused: ApplyError,
    },
    /// The kernel refused, or could not be talked to.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl From<NetlinkError> for AddFailure {
    fn from(error: NetlinkError) -> Self {
        Self::Apply(error.into())
    }
}

impl AddFailure {
    fn refused(change: &KernelChange, refusal: Refusal) -> Self {
        Self::Apply(ApplyError::Refused { refused: vec![Refused::new(change, refusal)] })
    }
}

fn left_in_words(left_behind: &[ApplyError]) -> String {
    if left_behind.is_empty() {
        return String::new();
    }
    let words: Vec<_> = left_behind.iter().map(ApplyError::to_string).collect();
    format!(" (and to undo it: {})", words.join("; "))
}

/// Gives a pod its network, and returns it as it is: with the address that only the node knows, and the tables inside the pod.
///
/// In four sends, none of which waits for what the host holds already: the veth; route and rules on the host; everything
/// in the pod; and a question that makes the host see that the pod's end is up. Besides, the pod's routes are read: the default
/// route of another network that it has is left, and ours goes to a table of its own. Where a link of that name is found, it is
/// kept if it is this pod's own from an earlier ADD, which is then put right where it differs, and replaced if it is of an
/// earlier pod of the same name. A failure leaves nothing behind of what this call made, and what was there before stays.
///
/// `pod` is opened in `namespace`.
pub fn add(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &PodNetwork,
) -> Result<PodNetwork, AddError> {
    let mut network = network.clone();
    let mut origins = vec![VethOrigin::Unknown; network.interfaces.len()];
    match try_add(host, pod, namespace, &mut network, &mut origins) {
        Ok(()) => Ok(network),
        Err(cause) => {
            let left_behind = undo(host, pod, &network, &origins);
            Err(AddError { cause, left_behind, running: origins.contains(&VethOrigin::Earlier) })
        }
    }
}

/// VlanOwner the veth of an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VethOrigin {
    /// It was not made, or it is not known which ADD made it.
    Unknown,
    /// This call made it; the host's end is this link. By its name it might be another's by the time that it is removed.
    New(LinkIndex),
    /// An earlier ADD made it.
    Earlier,
}

/// Does what [`add`] promises, but for undoing it.
///
/// In one piece: the order of its steps is what makes an ADD take four sends.
fn try_add(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &mut PodNetwork,
    origins: &mut [VethOrigin],
) -> Result<(), AddFailure> {
    let veths = make_veths(host, pod, namespace, network, origins)?;
    for (interface, veth) in network.interfaces.iter_mut().zip(&veths) {
        let link = LinkId::new(veth.link, &interface.host.name);
        *interface = egress::with_address(host, interface, &link)?;
    }
    let links = veths.iter().map(|veth| veth.peer).collect();
    let inside = Inside::read(pod, &network.interfaces, links)?;
    let left = inside.settle(pod, &mut network.interfaces)?;
    let (mut on_host, mut in_pod) = (State::default(), State::default());
    for (interface, veth) in network.interfaces.iter().zip(&veths) {
        if let Some(branch) = &interface.branch {
            spare_table(host, interface, branch, veth.link)?;
            let link = make_vlan(host, branch, interface.mtu)?;
            on_host.append(branch.on_host(link, interface.mtu));
        }
        on_host.append(interface.on_host(veth.link));
        in_pod.append(match veth.kept {
            true => interface.in_pod(veth.peer),
            false => interface.in_new_pod(veth.peer),
        });
    }
    let on_branch = network.interfaces.iter().any(|interface| interface.branch.is_some());
    let other_default = inside.other_default();
    let is_new = left.is_empty() && other_default.is_none() && !veths.iter().any(|veth| veth.kept);
    if on_branch || !is_new {
        apply(host, &on_host)?;
        carry_out(pod, &left)?;
        apply(pod, &in_pod).map_err(|error| match (error, other_default) {
            (refused @ ApplyError::Refused { .. }, Some(other)) => {
                AddFailure::OtherDefault { other: other.to_string(), refused }
            }
            (error, _) => error.into(),
        })?;
        return settle_in(host, network, &veths);
    }

    let actual = |up: bool, link: fn(&(&PodInterface, &MadeVeth)) -> LinkId| {
        let made = network.interfaces.iter().zip(&veths);
        let links = made.map(|made| Link {
            id: link(&made),
            mac: None,
            mtu: made.0.mtu.into(),
            up,
            kind: None,
            lower: None,
            alias: None,
        });
        Actual { links: links.collect(), ..Actual::default() }
    };
    let host_actual = actual(true, |(i, veth)| LinkId::new(veth.link, &i.host.name));
    let pod_actual = actual(false, |(i, veth)| LinkId::new(veth.peer, &i.container.name));
    send_on_host(host, network, &on_host, &host_actual)?;
    let changes = changes(&diff(&in_pod, &pod_actual), &pod_actual);
    carry_out(pod, &changes)?;
    settle_in(host, network, &veths)
}

/// Makes a new pod known to the host.
fn settle_in(
    host: &mut dyn Netlink,
    network: &PodNetwork,
    veths: &[MadeVeth],
) -> Result<(), AddFailure> {
    let made = network.interfaces.iter().zip(veths);
    let links =
        made.map(|(interface, veth)| (LinkId::new(veth.link, &interface.host.name), interface));
    let refused = make_known(host, &links.collect::<Vec<_>>())?;
    if refused.is_empty() { Ok(()) } else { Err(ApplyError::Refused { refused }.into()) }
}

/// Lets the host's ends take note that the pods' are up, and of what is there, and returns what the kernel refused.
///
/// The kernel does both in its own time, up to a second later on a busy node, and loses what is sent until then. To be asked
/// about a link it takes note of it first (since Linux 6.13); and a pod answers for an IPv6 address only some time after it
/// has it.
pub(crate) fn make_known(
    host: &mut dyn Netlink,
    pods: &[(LinkId, impl Borrow<PodInterface>)],
) -> Result<Vec<Refused>, NetlinkError> {
    let mut neighbours = Vec::new();
    for (link, interface) in pods {
        let interface = interface.borrow();
        let ipv6 = interface.addresses.iter().filter(|it| it.address.is_ipv6());
        neighbours.extend(ipv6.map(|it| KernelChange::AddNeighbour {
            link: link.clone(),
            neighbour: Neighbour { address: it.address, mac: interface.container.mac },
        }));
        if let Some(branch) = &interface.branch {
            host.link(&branch.vlan.link_name())?;
        }
        host.link(&link.name)?;
    }
    if neighbours.is_empty() {
        return Ok(Vec::new());
    }
    let results = host.change(&neighbours)?;
    Ok(refused(&neighbours, results))
}

/// A veth of which both ends are there.
struct MadeVeth {
    link: LinkIndex,
    peer: LinkIndex,
    /// Whether it was there before.
    kept: bool,
}

fn make_veths(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &PodNetwork,
    origins: &mut [VethOrigin],
) -> Result<Vec<MadeVeth>, AddFailure> {
    let veths = network.interfaces.iter().map(|it| KernelChange::AddVeth(it.veth(namespace)));
    let changes: Vec<_> = veths.collect();
    let results = host.change(&changes)?;
    for (origin, result) in origins.iter_mut().zip(&results) {
        if let Ok(KernelEffect::Veth { link, .. }) = result {
            *origin = VethOrigin::New(*link);
        }
    }
    let mut made = Vec::with_capacity(changes.len());
    let each = network.interfaces.iter().zip(&changes).zip(results).zip(origins);
    for (((interface, change), result), origin) in each {
        made.push(match result {
            Ok(effect) => made_veth(effect)?,
            Err(refusal) if refusal.is(&[rustix::io::Errno::EXIST]) => {
                let veth = settle(host, pod, interface, change)?;
                *origin = if veth.kept { VethOrigin::Earlier } else { VethOrigin::New(veth.link) };
                veth
            }
            Err(refusal) => return Err(AddFailure::refused(change, refusal)),
        });
    }
    Ok(made)
}

/// Refuses to put routes into a table that another program uses.
fn spare_table(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    branch: &Branch,
    veth: LinkIndex,
) -> Result<(), AddFailure> {
    let actual = Actual::read_tables(host)?;
    let name = branch.vlan.link_name();
    let vlan = actual.links.iter().find(|link| *link.id.name == *name);
    let links: Vec<_> = vlan.map(|link| link.id.index).into_iter().chain([veth]).collect();
    let addresses: Vec<_> = interface.addresses.iter().map(|it| it.address).collect();
    let table = interface.table;
    match eni::taken_by(table, &addresses, &links, &actual) {
        Some(by) => Err(AddFailure::TableInUse { table, by }),
        None => Ok(()),
    }
}

/// Makes the link of the VLAN of a branch ENI, unless it is there.
fn make_vlan(host: &mut dyn Netlink, branch: &Branch, mtu: u16) -> Result<LinkIndex, AddFailure> {
    let changes = branch.make(host, mtu).map_err(|error| match error {
        MakeError::Netlink(error) => error.into(),
        MakeError::Trunk(error) => AddFailure::Trunk(error),
    })?;
    carry_out(host, &changes)?;
    match host.link(&branch.vlan.link_name())? {
        Some(link) => Ok(link.id.index),
        None => Err(NetlinkError::Decode { what: "VLAN without a link" }.into()),
    }
}

/// Decides whose link it is that has the name of the new one.
fn settle(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    interface: &PodInterface,
    change: &KernelChange,
) -> Result<MadeVeth, AddFailure> {
    let PodInterface { host: host_end, container, .. } = interface;
    let outside = host.link(&host_end.name)?;
    let inside = pod.link(&container.name)?;
    if let (Some(outside), Some(inside)) = (&outside, &inside)
        && (outside.mac, inside.mac) == (Some(host_end.mac), Some(container.mac))
        && (outside.lower, inside.lower) == (Some(inside.id.index), Some(outside.id.index))
    {
        return Ok(MadeVeth { link: outside.id.index, peer: inside.id.index, kept: true });
    }
    let mut changes = vec![change.clone()];
    if let Some(outside) = &outside {
        let ends_here = |link: &Link| {
            (link.lower, outside.lower) == (Some(outside.id.index), Some(link.id.index))
                && *link.id.name != *container.name
        };
        if pod.links()?.iter().any(ends_here) {
            return Err(AddFailure::HostEndInUse { host: host_end.name.clone() });
        }
        spare_other_pods(host, interface, outside)?;
        // Of an earlier pod of that name whose namespace lives on; its other end goes with it.
        changes.insert(0, KernelChange::RemoveLinkByIndex(outside.id.clone()));
    }
    match host.change(&changes)?.pop() {
        Some(Ok(effect)) => Ok(made_veth(effect)?),
        Some(Err(refusal)) if pod.link(&container.name)?.is_some() => {
            drop(refusal);
            Err(AddFailure::InterfaceExists { ifname: container.name.clone() })
        }
        Some(Err(refusal)) => Err(AddFailure::refused(change, refusal)),
        None => Err(NetlinkError::Decode { what: "no answer" }.into()),
    }
}

/// Refuses to take a link that another pod uses, or another program.
fn spare_other_pods(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    there: &Link,
) -> Result<(), AddFailure> {
    let link = there.id.name.to_string();
    if there.kind.as_deref() != Some("veth") {
        return Err(AddFailure::LinkOfHost { link });
    }
    if there.alias.as_deref() == Some(&interface.alias) {
        return Ok(());
    }
    // Where no route leads to it any more the pod is gone, and its link about to go.
    let leads_to_pod = |route: &&Route| {
        let net = route.destination;
        net.prefix_len() == net.max_prefix_len()
            && route.gateway.is_none()
            && route.protocol != Protocol::KERNEL
    };
    let routes = host.routes(there.id.index)?;
    let Some(route) = routes.iter().find(leads_to_pod) else { return Ok(()) };
    let pod = names::of_alias(&interface.alias).unwrap_or_default().to_owned();
    Err(match there.alias.as_deref().and_then(names::of_alias) {
        Some(other) => AddFailure::LinkOfAnotherPod { link, pod, other: other.to_owned() },
        None => AddFailure::LinkOfUnknownPod { link, pod, address: route.destination.addr() },
    })
}

fn made_veth(effect: KernelEffect) -> Result<MadeVeth, NetlinkError> {
    match effect {
        KernelEffect::Veth { link, peer } => Ok(MadeVeth { link, peer, kept: false }),
        KernelEffect::Done => Err(NetlinkError::Decode { what: "veth without an index" }),
    }
}

/// Makes route and rules on the host as if there were none.
///
/// A rule of ours that leads the address to another table is left from a pod that was never removed. It is removed along the
/// way for the price of one message; only where there was one are the rules read.
fn send_on_host(
    host: &mut dyn Netlink,
    network: &PodNetwork,
    desired: &State,
    actual: &Actual,
) -> Result<(), ApplyError> {
    let addresses = network.interfaces.iter().flat_map(|interface| &interface.addresses);
    let addresses = addresses.filter(|it| !it.only_on_node);
    let stale = addresses.map(|it| our_rules(it.address)[1].clone());
    let stale: Vec<_> = stale.map(|rule| KernelChange::Remove(Object::Rule(rule))).collect();
    let mut all = changes(&diff(desired, actual), actual);
    let of_link = |it: &&KernelChange| {
        matches!(
            it,
            KernelChange::Set(Object::Sysctl(_) | Object::Alias { .. } | Object::Link { .. })
        )
    };
    let settings = all.iter().take_while(of_link).count();
    let stale_places = settings..settings + stale.len();
    all.splice(settings..settings, stale);

    let results = host.change(&all)?;
    let was_stale = results[stale_places].iter().any(Result::is_ok);
    let refused = refused(&all, results);
    if !refused.is_empty() {
        return Err(ApplyError::Refused { refused });
    }
    if was_stale {
        apply(host, desired)?;
    }
    Ok(())
}

/// Removes what a failed ADD made; what it did not come to make is no failure.
fn undo(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    network: &PodNetwork,
    origins: &[VethOrigin],
) -> Vec<ApplyError> {
    let (mut on_host, mut in_pod) = (Vec::new(), Vec::new());
    for (interface, origin) in network.interfaces.iter().zip(origins) {
        let VethOrigin::New(veth) = *origin else { continue };
        for it in &interface.addresses {
            let rules = interface.rules(it.address).map(Object::Rule);
            on_host.extend(rules.map(KernelChange::Remove));
            in_pod.extend(rule_in_pod(it).map(Object::Rule).map(KernelChange::Remove));
        }
        if let Some(branch) = &interface.branch
            && let Ok(VlanOwner::ThisEni(link)) = branch.link(host)
        {
            on_host.push(KernelChange::RemoveLinkByIndex(link.id));
            let rules = branch.our_rules().into_iter().flat_map(|rule| [rule.clone(), rule]);
            on_host.extend(rules.map(|rule| KernelChange::Remove(Object::Rule(rule))));
        }
        // Its routes go with the link, and the other end with its own too.
        on_host.push(KernelChange::RemoveLinkByIndex(LinkId::new(veth, &interface.host.name)));
    }
    let (on_host, in_pod) = (carry_out(host, &on_host), carry_out(pod, &in_pod));
    [on_host, in_pod].into_iter().filter_map(Result::err).collect()
}

/// A failure to remove all of a pod's network; what could be removed is.
#[derive(Debug, thiserror::Error)]
#[error("remove the network of the pod: {}", errors_in_words(failures))]
pub struct RemoveError {
    /// What went wrong.
    pub failures: Vec<ApplyError>,
}

fn errors_in_words(failures: &[ApplyError]) -> String {
    let words = failures.iter().map(|failure| match failure {
        ApplyError::Refused { refused } => in_words(refused),
        other => other.to_string(),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// Removes the routes over the pod's link and our rules from the host, and returns the addresses that it spared because another
/// pod has them by now.
///
/// What is not there any more is no failure: it can be repeated, and it needs no namespace. The links are left, which
/// [`remove_links`] removes: they take the kernel longer than all else.
pub fn remove(host: &mut dyn Netlink, network: &PodNetwork) -> Result<Vec<IpAddr>, RemoveError> {
    let mut spared = Vec::new();
    let mut failures = Vec::new();
    for interface in &network.interfaces {
        if let Err(failure) = remove_interface(host, interface, &mut spared) {
            failures.push(failure);
        }
    }
    if failures.is_empty() { Ok(spared) } else { Err(RemoveError { failures }) }
}

/// Removes the links of a pod that are still there, and with them their other ends in the pod.
///
/// The kernel takes some 15 ms for each (measured on two cores), in which nothing else may change the network: where the pod's
/// namespace is about to go, it does the same in the background.
pub fn remove_links(host: &mut dyn Netlink, network: &PodNetwork) -> Result<(), RemoveError> {
    let mut remove = |interface: &PodInterface| -> Result<(), ApplyError> {
        let link = match with_mac(host, &interface.host)? {
            Some(link) => Some(link),
            None => with_mac_by_any_name(host, &interface.host)?,
        };
        let removal = link.map(|link| KernelChange::RemoveLinkByIndex(link.id));
        carry_out(host, removal.as_slice())
    };
    let results = network.interfaces.iter().map(&mut remove);
    let failures: Vec<_> = results.filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(RemoveError { failures }) }
}

fn remove_interface(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    spared: &mut Vec<IpAddr>,
) -> Result<(), ApplyError> {
    let mut ours = with_mac(host, &interface.host)?;
    let mut changes = Vec::new();
    if let Some(branch) = &interface.branch {
        match branch.link(host)? {
            VlanOwner::LaterEni => {
                spared.extend(interface.addresses.iter().map(|it| it.address));
                return Ok(());
            }
            VlanOwner::ThisEni(link) => {
                changes.push(KernelChange::RemoveLinkByIndex(link.id));
            }
            VlanOwner::NoLink => {}
        }
        changes.extend(
            branch.our_rules().into_iter().map(|it| KernelChange::Remove(Object::Rule(it))),
        );
        if let Some(ours) = &ours {
            // Where strict mode has it. The mode may be another than when the pod was added.
            changes.extend(interface.addresses.iter().map(|it| {
                let route = Route::on_link(interface.table, it.address);
                KernelChange::Remove(Object::Route { link: ours.id.clone(), route })
            }));
        }
    }
    for PodAddress { address, .. } in &interface.addresses {
        let own = Route::on_link(Table::MAIN, *address);
        let there = host
            .route_to(*address)?
            .filter(|(_, route)| (route.table, route.destination) == (own.table, own.destination));
        if there.is_some() && ours.is_none() {
            ours = with_mac_by_any_name(host, &interface.host)?;
        }
        match (there, &ours) {
            (Some((link, route)), Some(ours)) if ours.id.index == link => {
                changes.push(KernelChange::Remove(Object::Route { link: ours.id.clone(), route }));
            }
            (Some((link, route)), _) if is_to_pod(host, link, &route)? => {
                spared.push(*address);
                continue;
            }
            (Some(_) | None, _) => {}
        }
        changes.extend(our_rules(*address).map(|rule| KernelChange::Remove(Object::Rule(rule))));
    }
    remove_all_alike(host, changes)
}

/// Returns whether a route leads to a pod, and not only somewhere else.
fn is_to_pod(host: &mut dyn Netlink, link: LinkIndex, route: &Route) -> Result<bool, NetlinkError> {
    if route.protocol == Protocol::OURS {
        return Ok(true);
    }
    let links = host.links()?;
    let over = links.iter().find(|it| it.id.index == link);
    Ok(over.is_some_and(|it| {
        it.kind.as_deref() == Some("veth") && parts_of_host_name(&it.id.name).is_some()
    }))
}

/// Removes until there is nothing left to remove: earlier versions of amazon-vpc-cni-k8s left several rules for one address.
fn remove_all_alike(
    host: &mut dyn Netlink,
    mut changes: Vec<KernelChange>,
) -> Result<(), ApplyError> {
    /// More rules of one address than any VPC has ranges.
    const ROUNDS_MAX: usize = 32;
    let mut failed = Vec::new();
    for _ in 0..ROUNDS_MAX {
        if changes.is_empty() {
            break;
        }
        // Twice at once: the second finds nothing as a rule, which ends it without another round.
        let twice: Vec<_> =
            changes.iter().flat_map(|change| [change.clone(), change.clone()]).collect();
        let results = host.change(&twice)?;
        let again =
            results.chunks(2).map(|pair| pair.iter().all(Result::is_ok)).collect::<Vec<_>>();
        failed.extend(refused(&twice, results));
        let mut again = again.into_iter();
        changes.retain(|_| again.next().unwrap_or(false));
    }
    if failed.is_empty() { Ok(()) } else { Err(ApplyError::Refused { refused: failed }) }
}

/// Lists how the network of a pod differs from what it should be.
pub fn check(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    network: &PodNetwork,
) -> Result<Vec<Difference>, NetlinkError> {
    let mut interfaces = Vec::with_capacity(network.interfaces.len());
    let (mut outer, mut inner) = (Vec::new(), Vec::new());
    for interface in &network.interfaces {
        let outside = match with_mac(host, &interface.host)? {
            Some(link) => Some(link),
            None => with_mac_by_any_name(host, &interface.host)?,
        };
        let mut interface = interface.clone();
        if let Some(link) = &outside {
            interface.host.name = link.id.name.to_string();
            interface = egress::with_present_address(host, &interface, &link.id)?;
        }
        let index = |link: Option<Link>| link.map_or(NO_LINK, |link| link.id.index);
        let (outside, inside) = (index(outside), index(with_mac(pod, &interface.container)?));
        if inside != NO_LINK {
            interface = egress::with_address_in_pod(pod, &interface, inside)?;
        }
        interfaces.push(interface);
        outer.push(outside);
        inner.push(inside);
    }
    Inside::read(pod, &interfaces, inner.clone())?.settle(pod, &mut interfaces)?;
    let mut differences = Vec::new();
    for ((interface, outside), inside) in interfaces.iter().zip(outer).zip(inner) {
        if let Some(branch) = &interface.branch {
            let link = match branch.link(host)? {
                VlanOwner::ThisEni(link) => link.id.index,
                VlanOwner::LaterEni | VlanOwner::NoLink => NO_LINK,
            };
            differences.extend(differences_of(host, link, &branch.on_host(link, interface.mtu))?);
        }
        differences.extend(differences_of(host, outside, &interface.on_host(outside))?);
        differences.extend(differences_of(pod, inside, &interface.in_pod(inside))?);
    }
    Ok(differences)
}

fn differences_of(
    netlink: &mut dyn Netlink,
    link: LinkIndex,
    state: &State,
) -> Result<Vec<Difference>, NetlinkError> {
    if link == NO_LINK {
        // The rest is missing along with it.
        let links = state.wanted.iter().filter(|it| matches!(it, Object::Link { .. }));
        return Ok(links.cloned().map(Difference::Missing).collect());
    }
    Ok(diff(state, &Actual::read(netlink, state)?))
}

/// The kernel counts links from 1.
const NO_LINK: LinkIndex = LinkIndex(0);

/// Returns an end of a veth, if it is there. The name alone does not tell: a new pod of the same name has it too.
fn with_mac(netlink: &mut dyn Netlink, end: &VethEnd) -> Result<Option<Link>, NetlinkError> {
    Ok(netlink.link(&end.name)?.filter(|link| link.mac == Some(end.mac)))
}

/// Returns the host's end of a veth that was made when names began otherwise.
fn with_mac_by_any_name(
    host: &mut dyn Netlink,
    end: &VethEnd,
) -> Result<Option<Link>, NetlinkError> {
    let expected = parts_of_host_name(&end.name).map(|(_, digits)| digits);
    let is_it = |link: &Link| {
        let digits = parts_of_host_name(&link.id.name).map(|(_, digits)| digits);
        link.mac == Some(end.mac) && digits == expected
    };
    Ok(host.links()?.into_iter().find(is_it))
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use vpc_ipam_core::{Card, DeviceIndex, Timestamp};

    use super::*;
    use crate::kernel::netlink::MockNetlink;

    #[test]
    fn pod_is_added_in_four_sends_and_one_look_at_its_routes() {
        let network = desired(&lease(), &settings()).unwrap();
        let mut host = MockNetlink::new();
        let mut sequence = mockall::Sequence::new();
        host.expect_change()
            .withf(|changes| matches!(changes, [KernelChange::AddVeth(_)]))
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|_| {
                Ok(vec![Ok(KernelEffect::Veth { link: LinkIndex(7), peer: LinkIndex(2) })])
            });
        host.expect_change().times(1).in_sequence(&mut sequence).returning(|changes| {
            let refused = Refusal { errno: Some(2), says: None };
            let result = |change: &KernelChange| match change {
                KernelChange::Remove(_) => Err(refused.clone()),
                _ => Ok(KernelEffect::Done),
            };
            Ok(changes.iter().map(result).collect())
        });
        let mut inside = MockNetlink::new();
        inside.expect_all_routes().times(1).returning(|_| Ok(Vec::new()));
        inside
            .expect_change()
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|changes| Ok(vec![Ok(KernelEffect::Done); changes.len()]));
        host.expect_link().times(1).in_sequence(&mut sequence).returning(|_| Ok(None));

        // What is not expected panics: lists, above all.
        add(&mut host, &mut inside, &Namespace::current().unwrap(), &network).unwrap();
    }

    #[test]
    fn lease_without_an_address_is_refused() {
        let lease = Lease { first: LeasedInterface { ipv4: None, ..lease().first }, ..lease() };
        let expected = Err(PodError::NoAddress { eni: lease.first.eni });
        assert_eq!(desired(&lease, &settings()), expected);
    }

    fn lease() -> Lease {
        Lease {
            key: PodKey::new("aws-cni", "4fb1", "eth0").unwrap(),
            pod: Pod { namespace: "default".to_owned(), name: "p1".to_owned() }.into(),
            since: Timestamp::EPOCH,
            serial: 0,
            first: LeasedInterface {
                eni: "eni-1".parse().unwrap(),
                mac: Mac([2, 0, 10, 0, 0, 20]),
                card: Card(0),
                device: DeviceIndex(1),
                primary: false,
                ipv4: Some(Ipv4Addr::new(10, 0, 0, 101)),
                ipv6: None,
            },
            more: Vec::new(),
        }
    }

    fn settings() -> PodSettings {
        PodSettings::new(VethPrefix::default(), 9001)
    }
}
