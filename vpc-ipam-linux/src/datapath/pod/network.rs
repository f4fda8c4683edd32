//! The network of a pod: its interfaces with their addresses, and what the host and the pod should hold for each.

use core::net::IpAddr;

use ipnet::IpNet;
use vpc_ipam_core::EniId;

use super::branch::Branch;
use super::variables::{self, SourceFilter};
use super::veth::{PodEnd, VethEnd};
use crate::datapath::link::link_local;
use crate::datapath::numbering::{
    PRIORITY_FROM_POD, PRIORITY_IN_POD, PRIORITY_TO_POD, pod_gateway,
};
use crate::state::{Claim, State};
use crate::{
    Address, BranchMode, Family, Link, LinkId, LinkIndex, Namespace, Neighbour, Object, Protocol,
    Route, Rule, Scope, Sysctl, SysctlKey, Table, Veth, VethPeer,
};

/// The network of one pod, as it should be. A CNI result has nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Its interfaces, the one that the runtime named first.
    pub interfaces: Vec<PodInterface>,
}

impl PodNetwork {
    /// Returns whether a rule is the last thing that [`add`](super::add()) makes on the host, whatever its table.
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
    pub container: PodEnd,
    /// The MTU of both in bytes.
    pub mtu: u16,
    /// The addresses of the lease, and that of [`egress`](Self::egress) once it is known.
    pub addresses: Vec<PodAddress>,
    /// The route table of the ENI that carries them, on the host.
    pub table: Table,
    /// Its number among the interfaces of the pod, from 0.
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
    /// What was found of it, if another program made its link: [`Lease::found`](vpc_ipam_core::Lease::found).
    pub found: Option<Found>,
}

/// What was found of an interface whose link another program made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The ENI that carries its address.
    pub eni: EniId,
    /// The table to which a rule led what it sends. It stays, also where the ENI has another one.
    pub table: Option<Table>,
    /// Whether the name of the link is that of the pod, as far as its names are known.
    pub is_named: bool,
}

/// An address of a pod, and where its default route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The address: a /32 or a /128 in the pod.
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

impl PodInterface {
    /// Keeps the MTU of a link that another program made.
    pub(super) fn keep_mtu(&mut self, there: &Link) {
        if self.found.is_some() {
            self.mtu = u16::try_from(there.mtu).unwrap_or(self.mtu);
        }
    }

    /// Returns what the host should hold for the interface, once its end of the veth has an index.
    pub fn on_host(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.host.name);
        let own_address = self.has(Family::Ipv6).then(|| no_own_address(&self.host.name));
        let variables = variables::of_host_end(&link.name, self.source_filter());
        let mut wanted: Vec<_> =
            own_address.into_iter().chain(variables).map(Object::Sysctl).collect();
        // Under a name that another pod may want, the link does not say that it is that pod's.
        if self.found.is_none_or(|found| found.is_named) {
            wanted.push(Object::Alias { link: link.clone(), alias: self.alias.clone() });
        }
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
    pub(super) fn in_new_pod(&self, link: LinkIndex) -> State {
        let State { mut wanted, claims } = self.in_pod(link);
        let (ipv4, ipv6) = variables::of_new_pod_end(&self.container.name);
        let up = wanted.iter().position(|it| matches!(it, Object::Link { .. })).unwrap_or(0);
        wanted.splice(up..up, ipv6.into_iter().chain(ipv4).map(Object::Sysctl));
        State { wanted, claims }
    }

    /// Returns what the pod should hold for the interface, once its end of the veth has an index.
    ///
    /// Of one that was found the variables and the link-local address are as another program and the kernel chose them.
    pub fn in_pod(&self, link: LinkIndex) -> State {
        let link = LinkId::new(link, &self.container.name);
        let sysctls = self.sysctls_in_pod().filter(|_| self.found.is_none());
        let mut wanted: Vec<_> = sysctls.map(Object::Sysctl).collect();
        wanted.push(Object::Link { link: link.clone(), mtu: self.mtu.into(), up: true });
        if let Some(mac) = self.container.mac.filter(|_| self.has(Family::Ipv6))
            && self.found.is_none()
        {
            let address = link_local(mac);
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
            if let Some(mut rule) = rule_in_pod(it) {
                if self.found.is_some() {
                    rule.protocol = Protocol::UNSPECIFIED;
                }
                wanted.push(Object::Rule(rule));
                claims.push(Claim::OurRules(rules_in_pod(*address)));
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

    /// Returns the veth that is to be made, unless another program made it.
    pub(super) fn veth(&self, namespace: &Namespace) -> Option<Veth> {
        let mac = self.container.mac.filter(|_| self.found.is_none())?;
        Some(Veth {
            name: self.host.name.clone(),
            mac: self.host.mac,
            mtu: self.mtu.into(),
            peer: VethPeer { name: self.container.name.clone(), mac, namespace: namespace.clone() },
        })
    }
}

/// Returns the rule inside the pod that leads what an address sends to its table.
pub(super) fn rule_in_pod(PodAddress { address, table, .. }: &PodAddress) -> Option<Rule> {
    let rule = Rule::new(Family::of(*address), PRIORITY_IN_POD, *table).from(*address);
    (*table != Table::MAIN).then_some(rule)
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
pub(super) fn our_rules(address: IpAddr) -> [Rule; 2] {
    let any = |priority| Rule::new(Family::of(address), priority, Table::UNSPECIFIED);
    [any(PRIORITY_TO_POD).to(address), any(PRIORITY_FROM_POD).from(address)]
}

/// Returns a pattern of our rules inside a pod that lead what an address sends, whatever their tables.
fn rules_in_pod(address: IpAddr) -> Rule {
    Rule::new(Family::of(address), PRIORITY_IN_POD, Table::UNSPECIFIED).from(address)
}
