//! Rules of pods and ENIs that are there no more.

use core::net::IpAddr;
use std::collections::BTreeSet;

use ipnet::IpNet;

use super::network::NodeNetwork;
use crate::datapath::numbering::{
    PRIORITY_BRANCH, PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_TO_POD,
};
use crate::datapath::pod::branch;
use crate::kernel::network::is_host;
use crate::state::actual::Actual;
use crate::{Protocol, Rule, Table, eni};

impl NodeNetwork {
    /// Returns the rules of pods and ENIs that are there no more.
    ///
    /// That a pod is not known does not make it gone: after the loss of the state file none is known. One that is gone
    /// has no route, which the kernel removes along with the link; and the address of an ENI that is gone is on no link.
    ///
    /// In one piece: each priority has a case, and all of them ask what was read at the beginning.
    pub(super) fn orphans<'a>(&self, actual: &'a Actual) -> Vec<&'a Rule> {
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
                    // The table of a VLAN whose link is still there leads somewhere, but for that VLAN's pod alone.
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
}
