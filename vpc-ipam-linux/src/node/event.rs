//! What happens in the node's namespace, and what of it the node may have to be compared for.

use core::net::IpAddr;

use ipnet::IpNet;
use vpc_ipam_core::{EniLink, Mac};

use super::adopted::link::Role;
use super::extent::Extent;
use super::network::{NodeNetwork, SeenLink};
use crate::datapath::numbering::{PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_MARK, PRIORITY_TO_POD};
use crate::datapath::pod::PodInterface;
use crate::datapath::pod::variables::SourceFilter;
use crate::kernel::network::is_host;
use crate::{
    Address, Family, Leads, Link, LinkId, LinkIndex, Object, Protocol, Route, RouteEntry, Rule,
    Scope, Table, eni,
};

/// Something that happened in the node's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link was made, changed or removed.
    Link {
        /// As it is, or was.
        link: Link,
        /// Whether it was removed.
        gone: bool,
    },
    /// An address was given to a link, or taken from it.
    Address {
        /// The link that has or had the address.
        link: LinkIndex,
        /// The address with its network and scope.
        address: Address,
        /// Whether it was taken.
        gone: bool,
    },
    /// A route was made, replaced another, or was removed.
    Route {
        /// The route, and where it leads.
        entry: RouteEntry,
        /// Whether it was removed.
        gone: bool,
        /// The netlink port by which it was asked for; `None` where the kernel did it by itself.
        by: Option<u32>,
    },
    /// A rule was made or removed.
    Rule {
        /// The rule as it is, or was.
        rule: Rule,
        /// Whether it was removed.
        gone: bool,
        /// The netlink port by which it was asked for; `None` where the kernel did it by itself.
        by: Option<u32>,
    },
    /// A kernel variable was set.
    Setting {
        /// The family that the variable is for.
        family: Family,
        /// The links that the variable is for.
        links: OfLinks,
        /// Whether packets are passed on, if that was set.
        forwarding: Option<bool>,
        /// How strictly the way back to the source of a packet is checked, if that was set.
        rp_filter: Option<u8>,
    },
    /// Our address translation was changed by another program.
    Nat,
    /// Address translation of amazon-vpc-cni-k8s appeared.
    AwsCniNat,
    /// Events were lost: the kernel had more than its queue holds, or a socket failed.
    Lost,
}

/// The links that have a kernel variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfLinks {
    /// The variable of one link.
    One(LinkIndex),
    /// All together: `all`.
    All,
    /// Those that are still to be made: `default`.
    New,
}

impl NodeNetwork {
    /// Returns how much has to be compared after something happened, if the node may differ now from what it should be.
    ///
    /// What this crate does itself for ENIs and pods that the node is known to have is no such thing.
    #[must_use]
    pub fn concerns(&self, event: &KernelEvent) -> Option<Extent> {
        match event {
            KernelEvent::Lost => Some(Extent::All),
            KernelEvent::Nat | KernelEvent::AwsCniNat => Some(Extent::Translation),
            KernelEvent::Link { link, gone } => self.concerns_link(link, *gone),
            KernelEvent::Address { link, address, gone } => {
                self.concerns_address(*link, *address, *gone).then_some(Extent::Routing)
            }
            KernelEvent::Route { entry, gone, .. } => {
                self.concerns_route(entry, *gone).then_some(Extent::Routing)
            }
            KernelEvent::Rule { rule, gone, .. } => {
                self.concerns_rule(rule, *gone).then_some(Extent::Routing)
            }
            KernelEvent::Setting { family, links, forwarding, rp_filter } => {
                self.concerns_setting(*family, *links, *forwarding, *rp_filter)
            }
        }
    }

    /// Remembers which links there are, as an event tells of them; returns whether that changes what is known of pods that are in no
    /// state file.
    pub fn learn(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Lost => self.seen.links.clear(),
            KernelEvent::Link { link, gone: true } => drop(self.seen.links.remove(&link.id.index)),
            KernelEvent::Link { link, gone: false } => {
                self.seen.links.insert(link.id.index, SeenLink::from(link));
            }
            _ => {}
        }
        self.learn_adopted(event)
    }

    /// Returns the object of ours that an event took away or replaced, if that was a route or a rule.
    pub fn taken_by(&self, event: &KernelEvent) -> Option<Object> {
        match event {
            KernelEvent::Rule { rule, gone: true, .. } if rule.protocol == Protocol::OURS => {
                Some(Object::Rule(rule.clone()))
            }
            KernelEvent::Route { entry, gone, .. } if self.concerns_route(entry, *gone) => {
                let RouteEntry { route, .. } = entry;
                if let Some((index, link)) = self.adopted_at(route.destination, route.table) {
                    let to_same = |it: &&Route| {
                        (it.destination, it.table) == (route.destination, route.table)
                    };
                    let wanted = *link.routes.iter().find(to_same)?;
                    return Some(Object::Route {
                        link: LinkId::new(index, &link.name),
                        route: wanted,
                    });
                }
                let (mac, wanted) = match self.interface_of(route.destination, route.table) {
                    Some(interface) => {
                        let wanted = Route::on_link(route.table, route.destination);
                        (interface.host.mac, wanted)
                    }
                    None => {
                        let eni = self.eni_of(route.table)?;
                        let mut wanted = eni::routes_of(eni, route.table).into_iter();
                        (eni.mac, wanted.find(|it| it.destination == route.destination)?)
                    }
                };
                let mut links = self.seen.links.iter();
                let (index, link) = links.find(|(_, link)| link.mac == Some(mac))?;
                Some(Object::Route { link: LinkId::new(*index, &link.name), route: wanted })
            }
            _ => None,
        }
    }

    /// Returns the address of the pod to which an entry of a route table leads as it should, or led.
    pub fn pod_led_to(&self, entry: &RouteEntry) -> Option<IpAddr> {
        let RouteEntry { route, leads } = entry;
        if let Some((index, _)) = self.adopted_at(route.destination, route.table) {
            let is_own = *leads == Leads::Over(index) && is_host(route.destination);
            return (is_own && route.gateway.is_none()).then(|| route.destination.addr());
        }
        let interface = self.interface_of(route.destination, route.table)?;
        let is_own = match leads {
            Leads::Over(link) => self.mac_of(*link) == Some(interface.host.mac),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => false,
        };
        (is_own && route.gateway.is_none()).then(|| route.destination.addr())
    }

    fn eni_of(&self, table: Table) -> Option<&EniLink> {
        self.enis.values().find(|eni| self.known_table(eni) == table)
    }

    fn concerns_link(&self, link: &Link, gone: bool) -> Option<Extent> {
        let mac = link.mac?;
        let seen = self.seen.links.get(&link.id.index).filter(|seen| seen.mac == link.mac);
        // One that goes down takes its routes along, without an event for each; a new one is down as a rule.
        let is_damaged =
            |mtu: u16| gone || !link.up || link.mtu != u32::from(mtu) || seen.is_none();
        if self.primary_mac() == Some(mac) {
            let known = seen.map_or(&self.facts.primary.id.name, |seen| &seen.name);
            // Its name is part of the rules of address translation, and its variables go by it.
            if *known != link.id.name || (seen.is_none() && !self.seen.links.is_empty()) {
                return Some(Extent::All);
            }
            return is_damaged(self.facts.mtu).then_some(Extent::Routing);
        }
        if let Some(eni) = self.enis.values().find(|eni| eni.mac == mac) {
            return is_damaged(eni.mtu).then_some(Extent::Routing);
        }
        let is_adopted =
            self.adopted.links.get(&link.id.index).is_some_and(|it| it.mac == link.mac);
        let of_pod = || is_adopted || self.interfaces().any(|interface| interface.host.mac == mac);
        let renamed = seen.is_some_and(|seen| seen.name != link.id.name);
        if (gone || !link.up || renamed) && of_pod() {
            return Some(Extent::Kernel);
        }
        let carries_routed = || {
            let shared = seen.is_some_and(|seen| seen.role == Role::Shared);
            (gone || !link.up) && shared && !self.adopted.routed.is_empty()
        };
        (carries_routed() || (!gone && self.is_new_pod_link(link))).then_some(Extent::Routing)
    }

    fn concerns_address(&self, link: LinkIndex, address: Address, gone: bool) -> bool {
        let (host, scope) = (address.net.addr(), address.scope);
        if self.adopted.links.get(&link).is_some_and(|it| it.addresses.contains(&address)) {
            return gone;
        }
        if scope != Scope::Global {
            return false;
        }
        let own = self.enis.values().find(|eni| eni::own_addresses(eni).contains(&host));
        if gone || own.is_some() {
            let as_it_should = own.is_some_and(|eni| eni::own_nets(eni).contains(&address.net));
            return own.is_some() && (gone || !as_it_should);
        }
        // An address of a pod would make the node take the pod's packets for its own.
        if self.has_pod(IpNet::from(host)) {
            return true;
        }
        // Addresses of IPv6 come again and again with the router's advertisements.
        let of_eni = |mac: Mac| self.enis.values().any(|eni| eni.mac == mac);
        host.is_ipv4()
            && match self.seen.links.get(&link) {
                Some(seen) => seen.mac.is_some_and(of_eni),
                None => true,
            }
    }

    fn concerns_route(&self, entry: &RouteEntry, gone: bool) -> bool {
        let RouteEntry { route, leads } = entry;
        let leads_by = |mac: Mac| match leads {
            Leads::Over(link) => self.mac_of(*link).is_none_or(|of| of == mac),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => false,
        };
        if let Some(interface) = self.interface_of(route.destination, route.table) {
            return gone || route.gateway.is_some() || !leads_by(interface.host.mac);
        }
        if let Some((index, link)) = self.adopted_at(route.destination, route.table) {
            let as_known = |it: &Route| it.is_twin_of(route) && *leads == Leads::Over(index);
            return gone || !link.routes.iter().any(as_known);
        }
        if !gone && self.is_new_pod(entry) {
            return true;
        }
        if gone
            && is_host(route.destination)
            && self.adopted.routed.contains(&route.destination.addr())
        {
            return true;
        }
        if route.table == Table::MAIN {
            // A default route of another program may be a conflict, or the end of one.
            return route.destination.prefix_len() == 0;
        }
        let eni = self.eni_of(route.table);
        let of_branch = || {
            let mut branches = self.interfaces().filter(|it| it.branch.is_some());
            branches.any(|interface| interface.table == route.table)
        };
        match eni {
            // The kernel reports the route that replaces ours, and not that ours is gone.
            Some(eni) => gone || !leads_by(eni.mac) || !self.wants_in_table(eni, entry),
            None => gone && of_branch(),
        }
    }

    /// Returns whether a route is one of those that an ENI's table should have, or does not stand in the way of any.
    fn wants_in_table(&self, eni: &EniLink, entry: &RouteEntry) -> bool {
        let mut wanted = eni::routes_of(eni, entry.route.table).into_iter().peekable();
        let stands_for = |wanted: &Route| wanted.destination == entry.route.destination;
        let route = &entry.route;
        !wanted.clone().any(|it| stands_for(&it)) || wanted.any(|it| it.is_twin_of(route))
    }

    fn concerns_rule(&self, rule: &Rule, gone: bool) -> bool {
        if self.concerns_adopted_rule(rule, gone) {
            return true;
        }
        match (rule.priority, rule.source, rule.destination) {
            (PRIORITY_TO_POD, None, Some(net)) | (PRIORITY_FROM_POD, Some(net), _) => {
                self.has_pod(net) && gone == self.wants(rule)
            }
            (PRIORITY_TO_POD | PRIORITY_FROM_POD, ..) => false,
            (PRIORITY_MARK | PRIORITY_ENI, ..) if gone == (rule.protocol == Protocol::OURS) => true,
            // Another program's rule may be a conflict, or the end of one.
            _ if rule.protocol != Protocol::OURS => self.may_divert(rule),
            _ => gone,
        }
    }

    fn concerns_setting(
        &self,
        family: Family,
        links: OfLinks,
        forwarding: Option<bool>,
        rp_filter: Option<u8>,
    ) -> Option<Extent> {
        let mac = match links {
            OfLinks::All => {
                let routed = family == Family::Ipv4 || self.facts.routes_ipv6(&self.config);
                return (routed && forwarding == Some(false)).then_some(Extent::Routing);
            }
            // It takes effect with the next link, which is looked at when it is made.
            OfLinks::New => return None,
            OfLinks::One(link) => self.mac_of(link)?,
        };
        let is_strict = |is: Option<u8>| is.is_some_and(|value| value != 2);
        if self.primary_mac() == Some(mac) {
            let stopped = family == Family::Ipv4 && forwarding == Some(false);
            return (stopped || is_strict(rp_filter)).then_some(Extent::Routing);
        }
        if self.enis.values().any(|eni| eni.mac == mac) {
            let stopped = family == Family::Ipv4 && forwarding == Some(false);
            return stopped.then_some(Extent::Kernel);
        }
        if let OfLinks::One(link) = links
            && self.adopted.links.get(&link).is_some_and(|it| Some(mac) == it.mac)
        {
            let stopped = family == Family::Ipv4 && forwarding == Some(false);
            return stopped.then_some(Extent::Kernel);
        }
        let interface = self.interfaces().find(|interface| {
            let branch = interface.branch.as_ref().is_some_and(|branch| branch.mac == mac);
            interface.host.mac == mac || branch
        })?;
        let filter = match interface.host.mac == mac {
            true => interface.source_filter(),
            false => SourceFilter::Loose,
        };
        // Of IPv6 the node passes on by `all` alone; a link's own variable says whether it may be steered.
        let forwards = family == Family::Ipv4;
        // Of a new link the kernel reports all variables; the plugin is about to set them.
        let is_new = forwarding.is_some() && rp_filter.is_some();
        let wrong = forwarding.is_some_and(|is| is != forwards)
            || rp_filter.is_some_and(|is| is != filter.value() && !is_new);
        wrong.then_some(Extent::Kernel)
    }

    /// Returns the MAC address of a link that was seen.
    fn mac_of(&self, link: LinkIndex) -> Option<Mac> {
        self.seen.links.get(&link)?.mac
    }

    fn has_pod(&self, net: IpNet) -> bool {
        let mut addresses = self.interfaces().flat_map(|interface| &interface.addresses);
        is_host(net) && addresses.any(|it| it.address == net.addr())
    }

    /// Returns the interface of a pod to which a route in a table should lead.
    fn interface_of(&self, net: IpNet, table: Table) -> Option<&PodInterface> {
        let has = |interface: &&PodInterface, address: IpAddr| {
            let egress = self.seen.egress.get(&interface.host.mac);
            interface.table_to_pod() == table
                && (interface.addresses.iter().any(|it| it.address == address)
                    || egress == Some(&address))
        };
        self.interfaces().find(|interface| is_host(net) && has(interface, net.addr()))
    }

    /// Returns whether a rule is one that a pod should have.
    fn wants(&self, rule: &Rule) -> bool {
        self.interfaces().any(|interface| {
            let mut addresses = interface.addresses.iter();
            addresses.any(|it| {
                interface.rules(it.address).any(|wanted| {
                    let of_attachment =
                        |eni: &&EniLink| eni::table(eni.card, eni.device) == wanted.table;
                    let eni = self.enis.values().find(of_attachment);
                    let table = eni.map_or(wanted.table, |eni| self.known_table(eni));
                    Rule { table, ..wanted } == *rule
                })
            })
        })
    }
}
