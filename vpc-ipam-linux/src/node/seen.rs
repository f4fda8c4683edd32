//! What a comparison saw, and what of it is remembered.

use std::collections::BTreeSet;

use vpc_ipam_core::Mac;

use super::extent::Extent;
use super::network::{NodeNetwork, Seen, SeenLink};
use super::repair::Repaired;
use crate::state::actual::Actual;
use crate::{LinkIndex, Netlink, NetlinkError};

impl NodeNetwork {
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

    /// Returns what there is to be remembered of what was read.
    pub(super) fn seen_in(
        &self,
        actual: &Actual,
        netlink: &mut dyn Netlink,
    ) -> Result<Seen, NetlinkError> {
        let links = actual.links.iter().map(|link| (link.id.index, SeenLink::from(link)));
        let adopted = self.find_adopted(actual, netlink)?;
        Ok(Seen { links: links.collect(), egress: self.egress_of_pods(actual), adopted })
    }
}
