//! ADD: gives a pod its network, or leaves nothing behind.

pub(super) mod error;
mod veth;

use core::borrow::Borrow;

use self::error::{AddError, AddFailure};
use self::veth::{MadeVeth, VethOrigin, make_veths};
use super::branch::{Branch, MakeError, VlanOwner};
use super::egress;
use super::network::{PodInterface, PodNetwork, our_rules, rule_in_pod};
use super::tables::Inside;
use crate::state::State;
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, apply, carry_out, refused};
use crate::state::diff::{changes, diff};
use crate::{
    KernelChange, Link, LinkId, LinkIndex, Namespace, Neighbour, Netlink, NetlinkError, Object,
    Refused, eni,
};

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
    let left = inside.assign_tables(pod, &mut network.interfaces)?;
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
        return announce(host, network, &veths);
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
    announce(host, network, &veths)
}

/// Makes a new pod known to the host.
fn announce(
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
        // Of one that was found, and not looked at, the kernel finds that out by itself.
        neighbours.extend(ipv6.zip(core::iter::repeat(interface.container.mac)).filter_map(
            |(it, mac)| {
                let neighbour = Neighbour { address: it.address, mac: mac? };
                Some(KernelChange::AddNeighbour { link: link.clone(), neighbour })
            },
        ));
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
    let stale_range = settings..settings + stale.len();
    all.splice(settings..settings, stale);

    let results = host.change(&all)?;
    let was_stale = results[stale_range].iter().any(Result::is_ok);
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
