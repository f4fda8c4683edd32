//! Pods that are on the node and of which the state file tells nothing: it was lost, or another program made them.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_linux::{Event, KernelNetlink, NetlinkError, pod};

/// Addresses that pods use whom nobody here knows. They are kept for them until their routes are gone.
pub(super) struct Unknown {
    netlink: KernelNetlink,
    addresses: BTreeSet<IpAddr>,
}

impl Unknown {
    /// Finds the addresses that are in use, `known` ones aside.
    pub(super) fn find(
        mut netlink: KernelNetlink,
        known: &BTreeSet<IpAddr>,
    ) -> Result<Self, NetlinkError> {
        let addresses = pod::routed(&mut netlink)?.difference(known).copied().collect();
        Ok(Self { netlink, addresses })
    }

    /// Returns the addresses.
    pub(super) fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Returns the addresses that are no longer in use, after something happened.
    ///
    /// The kernel does not tell of every route that goes along with its link, so that all are read again.
    pub(super) fn heard(&mut self, event: &Event) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let matters = match event {
            Event::Link { gone, .. } | Event::Route { gone, .. } => *gone,
            Event::Lost => true,
            Event::Address { .. } | Event::Rule { .. } | Event::Nat => false,
        };
        if !matters || self.addresses.is_empty() {
            return Ok(BTreeSet::new());
        }
        let routed = pod::routed(&mut self.netlink)?;
        Ok(self.addresses.extract_if(.., |address| !routed.contains(address)).collect())
    }
}
