//! Pods that are on the node and of which the state file tells nothing: it was lost, or another program made them.

use core::net::IpAddr;
use std::collections::BTreeSet;

use tracing::warn;
use vpc_ipam_linux::{Event, KernelNetlink, NetlinkError, pod};

use crate::cni::chain;

/// Addresses that pods use whom nobody here knows. They are kept for them until their routes are gone.
pub(super) struct Unknown {
    netlink: KernelNetlink,
    addresses: BTreeSet<IpAddr>,
    /// Whether the routes could not be read when they should have been.
    unread: bool,
}

impl Unknown {
    /// Finds the addresses that are in use, `known` ones aside.
    pub(super) fn find(
        mut netlink: KernelNetlink,
        known: &BTreeSet<IpAddr>,
    ) -> Result<Self, NetlinkError> {
        let addresses = pod::routed(&mut netlink)?.difference(known).copied().collect();
        Ok(Self { netlink, addresses, unread: false })
    }

    /// Returns the addresses.
    pub(super) fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Returns the addresses that are no longer in use, after something happened.
    ///
    /// The kernel does not tell of every route that goes along with its link, so that all are read again. What cannot be read
    /// now is read after the next event.
    pub(super) fn heard(&mut self, event: &Event) -> BTreeSet<IpAddr> {
        let matters = self.unread
            || match event {
                Event::Link { gone, .. } => *gone,
                Event::Route { entry, gone, .. } => {
                    *gone && self.addresses.contains(&entry.route.destination.addr())
                }
                Event::Lost => true,
                Event::Address { .. }
                | Event::Rule { .. }
                | Event::Setting { .. }
                | Event::Nat
                | Event::PeerNat => false,
            };
        if !matters || self.addresses.is_empty() {
            return BTreeSet::new();
        }
        let routed = pod::routed(&mut self.netlink);
        self.unread = routed.is_err();
        match routed {
            Ok(routed) => {
                self.addresses.extract_if(.., |address| !routed.contains(address)).collect()
            }
            Err(error) => {
                warn!(error = chain(&error), "cannot read which pods the node has; trying again");
                BTreeSet::new()
            }
        }
    }
}
