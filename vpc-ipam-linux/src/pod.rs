//! Pods: each is joined to the node by a veth, and reaches everything through it.

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sha1::{Digest as _, Sha1};
use vpc_ipam_core::{EniId, Lease, LeasedInterface, Mac, Pod, PodKey};

use crate::state::{
    Actual, ApplyError, Claim, Difference, State, apply, carry_out, changes, diff, in_words,
    refused,
};
use crate::{
    Address, Change, Effect, Family, Link, LinkId, LinkIndex, Namespace, Neighbour, Netlink,
    NetlinkError, Object, Protocol, Refusal, Refused, Route, Rule, Scope, Sysctl, SysctlKey, Table,
    Veth, VethPeer, VethPrefix, eni,
};

/// What all pods of a node have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// How the names of their links begin on the host.
    pub veth_prefix: VethPrefix,
    /// The MTU of their links in bytes.
    pub mtu: u16,
}

/// The network of one pod, as it should be. It is all that a CNI result tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Its interfaces, the one that the runtime named first.
    pub interfaces: Vec<PodInterface>,
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
    /// The route table in the pod: main for the first interface, a table of its own for each other.
    pub pod_table: Table,
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
}

impl PodAddress {
    /// Returns the routes of the address, as pairs of destination and next hop.
    pub fn routes(&self) -> [(IpNet, Option<IpAddr>); 2] {
        let by_gateway = Route::default_by(Table::MAIN, self.gateway);
        [(self.gateway.into(), None), (by_gateway.destination, by_gateway.gateway)]
    }
}

/// A lease that no network can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// An interface has no address.
    #[error("the lease has no IPv4 address on {eni}")]
    NoAddress {
        /// The ENI that should carry it.
        eni: EniId,
    },
    /// An interface has an IPv6 address.
    #[error("the lease has an IPv6 address on {eni}, and pods get IPv4 addresses only")]
    Ipv6 {
        /// The ENI that carries it.
        eni: EniId,
    },
    /// There are more interfaces than any instance has network cards.
    #[error("the lease has {interfaces} interfaces, and a pod can have 250 at most")]
    TooMany {
        /// How many there are.
        interfaces: usize,
    },
}

/// The place of the rule by which the node reaches the pod.
pub(crate) const PRIORITY_TO_POD: u32 = 512;

/// The place of the rule that leads what the pod sends to the table of its ENI.
pub(crate) const PRIORITY_FROM_POD: u32 = 1536;

/// The place, inside the pod, of the rule that leads what an address sends to the table of its interface.
const PRIORITY_IN_POD: u32 = 1;

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
        if leased.ipv6.is_some() {
            return Err(PodError::Ipv6 { eni: leased.eni });
        }
        let address = leased.ipv4.ok_or(PodError::NoAddress { eni: leased.eni })?;
        let container_name = match number {
            0 => lease.key.ifname().to_owned(),
            number => format!("mNicIf{number}"),
        };
        Ok(Self {
            host: VethEnd {
                name: host_name(&settings.veth_prefix, &lease.pod, number),
                mac: derived_mac(&lease.key, number, "host"),
            },
            container: VethEnd {
                name: container_name,
                mac: derived_mac(&lease.key, number, "pod"),
            },
            mtu: settings.mtu,
            addresses: vec![PodAddress {
                address: address.into(),
                gateway: Ipv4Addr::new(169, 254, 1, number + 1).into(),
            }],
            table: eni::table(leased.card, leased.device),
            pod_table: match number {
                0 => Table::MAIN,
                number => Table(number.into()),
            },
        })
    }

    /// Returns what the host should hold for the interface, once its end of the veth has an index.
    pub fn on_host(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.host.name);
        // A pod that advertises itself as a router must not steer the node.
        let ipv6 = [("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")];
        let sysctls = ipv6.map(|(name, value)| {
            Object::Sysctl(Sysctl {
                key: SysctlKey::ipv6_of_link(&self.host.name, name),
                value: value.to_owned(),
                optional: true,
            })
        });
        let mut wanted = Vec::from(sysctls);
        wanted.push(Object::Link { link: link.clone(), mtu: self.mtu.into(), up: true });
        let mut claims = vec![Claim::OurRoutes { link: link.clone() }];
        for PodAddress { address, .. } in &self.addresses {
            let route = Route::on_link(Table::MAIN, *address);
            wanted.push(Object::Route { link: link.clone(), route });
            wanted.extend(self.rules(*address).map(Object::Rule));
            claims.extend(any_rules(*address).map(Claim::Rules));
        }
        State { wanted, claims }
    }

    /// Returns what the pod should hold for the interface, once its end of the veth has an index.
    pub fn in_pod(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.container.name);
        let mut wanted = vec![Object::Link { link: link.clone(), mtu: self.mtu.into(), up: true }];
        let mut claims = vec![Claim::OurRoutes { link: link.clone() }];
        for PodAddress { address, gateway } in &self.addresses {
            let family = Family::of(*address);
            let route = |route| Object::Route { link: link.clone(), route };
            wanted.push(route(Route::on_link(self.pod_table, *gateway)));
            wanted.push(route(Route::default_by(self.pod_table, *gateway)));
            wanted.push(Object::Address {
                link: link.clone(),
                address: Address { net: (*address).into(), scope: Scope::Global },
            });
            // Known for good, so that no packet waits for an answer that only the host could give.
            let neighbour = Neighbour { address: *gateway, mac: self.host.mac };
            wanted.push(Object::Neighbour { link: link.clone(), neighbour });
            wanted.extend(self.rule_in_pod(*address).map(Object::Rule));
            claims.push(Claim::Addresses { link: link.clone(), family });
        }
        State { wanted, claims }
    }

    pub(crate) fn rules(&self, address: IpAddr) -> impl Iterator<Item = Rule> {
        let family = Family::of(address);
        let to = Rule::new(family, PRIORITY_TO_POD, Table::MAIN).to(address);
        let from = Rule::new(family, PRIORITY_FROM_POD, self.table).from(address);
        let from = (self.table != Table::MAIN).then_some(from);
        core::iter::once(to).chain(from)
    }

    fn rule_in_pod(&self, address: IpAddr) -> Option<Rule> {
        let rule = Rule::new(Family::of(address), PRIORITY_IN_POD, self.pod_table).from(address);
        (self.pod_table != Table::MAIN).then_some(rule)
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

/// Returns patterns of the rules of an address, whatever their tables and whoever made them.
fn any_rules(address: IpAddr) -> [Rule; 2] {
    let family = Family::of(address);
    let any = |priority| Rule {
        protocol: Protocol::UNSPECIFIED,
        ..Rule::new(family, priority, Table::UNSPECIFIED)
    };
    [any(PRIORITY_TO_POD).to(address), any(PRIORITY_FROM_POD).from(address)]
}

/// Names the host's end as the peer does and Calico expects: from the pod's names, not its key.
fn host_name(prefix: &VethPrefix, pod: &Pod, number: u8) -> String {
    let mut text = format!("{}.{}", pod.namespace, pod.name);
    if number > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ".{number}");
    }
    let mut name = prefix.to_string();
    for byte in &Sha1::digest(text.as_bytes())[..6] {
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(prefix.as_str().len() + HOST_NAME_DIGITS);
    name
}

/// With four characters of prefix the longest name that a link can have.
const HOST_NAME_DIGITS: usize = 11;

/// Returns the prefix and the digits of the name of a host's end, if it has the form of one.
pub(crate) fn parts_of_host_name(name: &str) -> Option<(&str, &str)> {
    let (prefix, digits) = name.split_at_checked(name.len().checked_sub(HOST_NAME_DIGITS)?)?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.bytes().all(digit).then_some((prefix, digits))
}

/// Derives a locally administered MAC address, so that an end of the veth can be told from that of another pod with the
/// same name.
fn derived_mac(key: &PodKey, number: u8, end: &str) -> Mac {
    let text = format!("{key}/{number}/{end}");
    let digest = Sha1::digest(text.as_bytes());
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| digest[i]);
    Mac([(a | 0x02) & 0xfe, b, c, d, e, f])
}

/// A failure to give a pod its network. Nothing of it is left but what `left_behind` says.
#[derive(Debug, thiserror::Error)]
#[error("set up the network of the pod{}", left_in_words(left_behind))]
pub struct AddError {
    /// Why it failed.
    #[source]
    pub cause: AddFailure,
    /// What could not be undone.
    pub left_behind: Vec<ApplyError>,
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
    fn refused(change: &Change, refusal: Refusal) -> Self {
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

/// Gives a pod its network.
///
/// In three sends, none of which waits for what the host holds already: the veth; route and rules on the host; everything
/// in the pod. Where a link of that name is found, it is kept if it is this pod's own from an earlier ADD, which is then
/// put right where it differs, and replaced if it is of an earlier pod of the same name. A failure leaves nothing behind.
///
/// `pod` is opened in `namespace`.
pub fn add(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &PodNetwork,
) -> Result<(), AddError> {
    try_add(host, pod, namespace, network)
        .map_err(|cause| AddError { cause, left_behind: undo(host, pod, network) })
}

fn try_add(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    namespace: &Namespace,
    network: &PodNetwork,
) -> Result<(), AddFailure> {
    let veths = make_veths(host, pod, namespace, network)?;
    let (mut on_host, mut in_pod) = (State::default(), State::default());
    for (interface, veth) in network.interfaces.iter().zip(&veths) {
        on_host.append(interface.on_host(veth.link));
        in_pod.append(interface.in_pod(veth.peer));
    }
    if veths.iter().any(|veth| veth.kept) {
        apply(host, &on_host)?;
        apply(pod, &in_pod)?;
        return Ok(());
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
        });
        Actual { links: links.collect(), ..Actual::default() }
    };
    let host_actual = actual(true, |(i, veth)| LinkId::new(veth.link, &i.host.name));
    let pod_actual = actual(false, |(i, veth)| LinkId::new(veth.peer, &i.container.name));
    send_on_host(host, network, &on_host, &host_actual)?;
    let changes = changes(&diff(&in_pod, &pod_actual), &pod_actual);
    carry_out(pod, &changes)?;
    Ok(())
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
) -> Result<Vec<MadeVeth>, AddFailure> {
    let veths = network.interfaces.iter().map(|it| Change::AddVeth(it.veth(namespace)));
    let changes: Vec<_> = veths.collect();
    let results = host.change(&changes)?;
    let mut made = Vec::with_capacity(changes.len());
    for ((interface, change), result) in network.interfaces.iter().zip(&changes).zip(results) {
        made.push(match result {
            Ok(effect) => made_veth(effect)?,
            Err(refusal) if refusal.is(&[rustix::io::Errno::EXIST]) => {
                settle(host, pod, interface, change)?
            }
            Err(refusal) => return Err(AddFailure::refused(change, refusal)),
        });
    }
    Ok(made)
}

/// Decides whose link it is that has the name of the new one.
fn settle(
    host: &mut dyn Netlink,
    pod: &mut dyn Netlink,
    interface: &PodInterface,
    change: &Change,
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
    // Of an earlier pod of that name whose namespace lives on; its other end goes with it.
    let removal = Change::RemoveLink { name: host_end.name.clone() };
    let changes = match outside {
        Some(_) => vec![removal, change.clone()],
        None => vec![change.clone()],
    };
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

fn made_veth(effect: Effect) -> Result<MadeVeth, NetlinkError> {
    match effect {
        Effect::Veth { link, peer } => Ok(MadeVeth { link, peer, kept: false }),
        Effect::Done => Err(NetlinkError::Decode { what: "veth without an index" }),
    }
}

/// Makes route and rules on the host as if there were none.
///
/// A rule that leads the address to another table is left from a pod that was never removed. It is removed along the way
/// for the price of one message; only where there was one are the rules read.
fn send_on_host(
    host: &mut dyn Netlink,
    network: &PodNetwork,
    desired: &State,
    actual: &Actual,
) -> Result<(), ApplyError> {
    let addresses = network.interfaces.iter().flat_map(|interface| &interface.addresses);
    let stale = addresses.map(|it| any_rules(it.address)[1].clone());
    let stale: Vec<_> = stale.map(|rule| Change::Remove(Object::Rule(rule))).collect();
    let mut all = changes(&diff(desired, actual), actual);
    let sysctls = all.iter().take_while(|it| matches!(it, Change::Set(Object::Sysctl(_)))).count();
    let stale_places = sysctls..sysctls + stale.len();
    all.splice(sysctls..sysctls, stale);

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
fn undo(host: &mut dyn Netlink, pod: &mut dyn Netlink, network: &PodNetwork) -> Vec<ApplyError> {
    let (mut on_host, mut in_pod) = (Vec::new(), Vec::new());
    for interface in &network.interfaces {
        for PodAddress { address, .. } in &interface.addresses {
            let rules = interface.rules(*address).map(Object::Rule);
            on_host.extend(rules.map(Change::Remove));
            let rules = interface.rule_in_pod(*address).map(Object::Rule);
            in_pod.extend(rules.map(Change::Remove));
        }
        // Its routes go with the link, and the other end with its own too.
        on_host.push(Change::RemoveLink { name: interface.host.name.clone() });
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

/// Removes the route and the rules of a pod from the host, and returns the addresses that it spared because another pod
/// has them by now.
///
/// What is not there any more is no failure: it can be repeated, and it needs no namespace. The veth is left to go with
/// the pod's namespace, which the kernel tears down in the background.
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

fn remove_interface(
    host: &mut dyn Netlink,
    interface: &PodInterface,
    spared: &mut Vec<IpAddr>,
) -> Result<(), ApplyError> {
    // The name alone does not tell: a new pod of the same name has it too.
    let ours = host.link(&interface.host.name)?.filter(|it| it.mac == Some(interface.host.mac));
    let mut changes = Vec::new();
    for PodAddress { address, .. } in &interface.addresses {
        let own = Route::on_link(Table::MAIN, *address);
        let there = host
            .route_to(*address)?
            .filter(|(_, route)| (route.table, route.destination) == (own.table, own.destination));
        match there {
            Some((link, _)) if ours.as_ref().is_some_and(|ours| ours.id.index == link) => {
                let link = LinkId::new(link, &interface.host.name);
                changes.push(Change::Remove(Object::Route { link, route: own }));
            }
            Some(_) => {
                spared.push(*address);
                continue;
            }
            None => {}
        }
        changes.extend(any_rules(*address).map(|rule| Change::Remove(Object::Rule(rule))));
    }
    remove_all_alike(host, changes)
}

/// Removes until there is nothing left to remove: earlier versions of the peer left several rules for one address.
fn remove_all_alike(host: &mut dyn Netlink, mut changes: Vec<Change>) -> Result<(), ApplyError> {
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
    let mut differences = Vec::new();
    for interface in &network.interfaces {
        let outside = link_with_mac(host, &interface.host)?;
        let inside = link_with_mac(pod, &interface.container)?;
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

/// Returns the index of an end of a veth, if there is one with that MAC address.
fn link_with_mac(netlink: &mut dyn Netlink, end: &VethEnd) -> Result<LinkIndex, NetlinkError> {
    let link = netlink.link(&end.name)?.filter(|link| link.mac == Some(end.mac));
    Ok(link.map_or(NO_LINK, |link| link.id.index))
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Card, DeviceIndex, Timestamp};

    use super::*;
    use crate::netlink::MockNetlink;

    #[test]
    fn pod_is_added_in_three_sends_that_ask_nothing() {
        let network = desired(&lease(), &settings()).unwrap();
        let mut host = MockNetlink::new();
        let mut sequence = mockall::Sequence::new();
        host.expect_change()
            .withf(|changes| matches!(changes, [Change::AddVeth(_)]))
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|_| Ok(vec![Ok(Effect::Veth { link: LinkIndex(7), peer: LinkIndex(2) })]));
        host.expect_change().times(1).in_sequence(&mut sequence).returning(|changes| {
            let refused = Refusal { errno: Some(2), says: None };
            let result = |change: &Change| match change {
                Change::Remove(_) => Err(refused.clone()),
                _ => Ok(Effect::Done),
            };
            Ok(changes.iter().map(result).collect())
        });
        let mut inside = MockNetlink::new();
        inside
            .expect_change()
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|changes| Ok(vec![Ok(Effect::Done); changes.len()]));

        // What is not expected panics: lists, above all.
        add(&mut host, &mut inside, &Namespace::current().unwrap(), &network).unwrap();
    }

    #[test]
    fn lease_without_a_usable_address_is_refused() {
        let ipv6 = Some("2001:db8::1".parse().unwrap());
        let eni = lease().first.eni;
        let cases = [
            (LeasedInterface { ipv4: None, ..lease().first }, PodError::NoAddress { eni }),
            (LeasedInterface { ipv6, ..lease().first }, PodError::Ipv6 { eni }),
        ];
        for (first, expected) in cases {
            let lease = Lease { first, ..lease() };
            assert_eq!(desired(&lease, &settings()), Err(expected));
        }
    }

    #[test]
    fn names_are_those_that_calico_expects() {
        let cases = [
            ("default", "p1", 0, "eni182c452fe96"),
            ("kube-system", "coredns-5d78c9869d-abcde", 0, "eni4d5f75c480c"),
            ("default", "p1", 1, "eni09a57617d5a"),
        ];
        for (namespace, name, number, expected) in cases {
            let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned() };
            assert_eq!(host_name(&VethPrefix::default(), &pod, number), expected, "{pod:?}");
        }
    }

    fn lease() -> Lease {
        Lease {
            key: PodKey::new("aws-cni", "4fb1", "eth0").unwrap(),
            pod: Pod { namespace: "default".to_owned(), name: "p1".to_owned() }.into(),
            since: Timestamp::EPOCH,
            first: LeasedInterface {
                eni: "eni-1".parse().unwrap(),
                mac: Mac([2, 0, 10, 0, 0, 20]),
                card: Card(0),
                device: DeviceIndex(1),
                ipv4: Some(Ipv4Addr::new(10, 0, 0, 101)),
                ipv6: None,
            },
            more: Vec::new(),
        }
    }

    fn settings() -> PodSettings {
        PodSettings { veth_prefix: VethPrefix::default(), mtu: 9001 }
    }
}
