//! Which route tables a pod's default routes are in, inside the pod.
//!
//! Main has that of the first interface, as long as the pod has no other: what runs pods with several networks (Multus) asks each
//! plugin in turn, and the default route is of the first of them. All other default routes have a table of their own, and a rule
//! that leads there what is sent from their addresses.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::network::{PodAddress, PodInterface};
use crate::datapath::numbering::PRIORITY_IN_POD;
use crate::{
    Family, KernelChange, Leads, LinkIndex, Netlink, NetlinkError, Object, Protocol, RouteEntry,
    Rule, Table,
};

/// The first that is tried where a pod has a default route of another network. CNI's plugin `sbr` takes tables from 100 on.
const FIRST: u32 = 86;

/// What there is in a pod that decides about tables.
pub(super) struct Inside {
    /// The entries of its tables of the families that the pod gets.
    entries: Vec<RouteEntry>,
    /// The pod's own links.
    links: Vec<LinkIndex>,
}

impl Inside {
    pub(super) fn read(
        pod: &mut dyn Netlink,
        interfaces: &[PodInterface],
        links: Vec<LinkIndex>,
    ) -> Result<Self, NetlinkError> {
        let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
        let families: BTreeSet<Family> = addresses.map(|it| Family::of(it.address)).collect();
        let mut entries = Vec::new();
        for family in families {
            entries.extend(pod.all_routes(family)?);
        }
        Ok(Self { entries, links })
    }

    /// Returns the default route of another network, if the pod has one.
    pub(super) fn other_default(&self) -> Option<&RouteEntry> {
        self.entries.iter().find(|entry| self.is_other_default(entry))
    }

    fn is_other_default(&self, entry: &RouteEntry) -> bool {
        let RouteEntry { route, leads } = entry;
        // Old kernels show in main that there is no default route of IPv6.
        let is_none = *leads == Leads::Nowhere && route.protocol == Protocol::KERNEL;
        let is_default = route.table == Table::MAIN && route.destination.prefix_len() == 0;
        is_default && !is_none && !self.is_own(entry)
    }

    fn is_own(&self, entry: &RouteEntry) -> bool {
        matches!(entry.leads, Leads::Over(link) if self.links.contains(&link))
    }

    fn has_other_default(&self, family: Family) -> bool {
        let of_family = |it: &&RouteEntry| Family::of(it.route.destination.addr()) == family;
        self.entries.iter().filter(of_family).any(|entry| self.is_other_default(entry))
    }

    /// Returns whether something other than the pod's own links has routes in a table.
    fn is_used(&self, table: Table, family: Family) -> bool {
        self.entries.iter().any(|entry| {
            let route = &entry.route;
            (route.table, Family::of(route.destination.addr())) == (table, family)
                && !self.is_own(entry)
        })
    }

    /// Returns the table that already has the default route of an address over its link.
    fn present(&self, link: LinkIndex, family: Family) -> Option<Table> {
        let is_it = |entry: &&RouteEntry| {
            let to = entry.route.destination;
            entry.leads == Leads::Over(link)
                && to.prefix_len() == 0
                && Family::of(to.addr()) == family
        };
        self.entries.iter().find(is_it).map(|entry| entry.route.table)
    }

    /// Gives the addresses of a pod the tables that they have, or can have, and returns the changes that remove rules of ours from
    /// the pod which have outlived their addresses.
    pub(super) fn assign_tables(
        &self,
        pod: &mut dyn Netlink,
        interfaces: &mut [PodInterface],
    ) -> Result<Vec<KernelChange>, NetlinkError> {
        let is_plain = |address: &PodAddress| {
            let family = Family::of(address.address);
            match address.table {
                Table::MAIN => !self.has_other_default(family),
                table => !self.is_used(table, family),
            }
        };
        let mut addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
        if addresses.all(is_plain) {
            return Ok(Vec::new());
        }
        let mut rules = pod.rules(Family::Ipv4)?;
        rules.extend(pod.rules(Family::Ipv6)?);
        let on_links = pod.all_addresses()?;
        let mut there: BTreeSet<IpNet> =
            on_links.iter().map(|(_, address)| address.net.addr().into()).collect();
        let own = interfaces.iter().flat_map(|interface| &interface.addresses);
        there.extend(own.map(|it| IpNet::from(it.address)));
        let is_left =
            |rule: &Rule| is_ours(rule) && rule.source.is_some_and(|it| !there.contains(&it));
        let (left, rules): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(is_left);

        let mut given = BTreeSet::new();
        for (interface, link) in interfaces.iter_mut().zip(&self.links) {
            for address in &mut interface.addresses {
                address.table = self.table_of(address, *link, &rules, &given);
                given.insert((address.table, Family::of(address.address)));
            }
        }
        Ok(left.into_iter().map(|rule| KernelChange::Remove(Object::Rule(rule))).collect())
    }

    /// Returns the table that has, or is to have, the default route of an address, given the tables of other addresses of the pod.
    fn table_of(
        &self,
        address: &PodAddress,
        link: LinkIndex,
        rules: &[Rule],
        given: &BTreeSet<(Table, Family)>,
    ) -> Table {
        let family = Family::of(address.address);
        let host = Some(IpNet::from(address.address));
        let is_free = |table: Table| {
            let leads_there =
                |rule: &Rule| (rule.table, rule.family) == (table, family) && rule.source != host;
            !self.is_used(table, family)
                && !rules.iter().any(leads_there)
                && !given.contains(&(table, family))
        };
        let fits = match address.table {
            Table::MAIN => !self.has_other_default(family),
            table => is_free(table),
        };
        let own_rule = || rules.iter().find(|rule| is_ours(rule) && rule.source == host);
        match self.present(link, family) {
            Some(table) => table,
            None if fits => address.table,
            None => match own_rule() {
                Some(rule) => rule.table,
                None => (FIRST..).map(Table).find(|table| is_free(*table)).unwrap_or(address.table),
            },
        }
    }
}

/// Returns whether a rule inside a pod leads what an address sends to a table that we chose.
fn is_ours(rule: &Rule) -> bool {
    rule.protocol == Protocol::OURS && rule.priority == PRIORITY_IN_POD && rule.is_plain()
}
