//! Addresses of pods that are in no state file: they are kept for them until the pods are gone.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::Timestamp;
use vpc_ipam_linux::NodeNetwork;

/// The addresses of such pods, as core knows them.
#[derive(Debug)]
pub(crate) struct Untracked {
    addresses: BTreeSet<IpAddr>,
    /// Of addresses to which only a route leads, since when there is none.
    without_route: BTreeMap<IpAddr, Timestamp>,
    grace: Duration,
}

/// What is new of such pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) came: Vec<IpAddr>,
    pub(crate) gone: Vec<IpAddr>,
}

impl Untracked {
    /// Describes that there are none. The route to an address that leads over a link of several pods may be missing for the grace time:
    /// a link that flaps loses it, and who made it makes it anew.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { addresses: BTreeSet::new(), without_route: BTreeMap::new(), grace }
    }

    /// Returns what changed since the last time.
    pub(crate) fn update(&mut self, node: &NodeNetwork) -> Changes {
        let present = node.untracked();
        let came = present.difference(&self.addresses).copied().collect();
        let gone = self.addresses.difference(&present).copied().collect();
        self.addresses = present;
        Changes { came, gone }
    }

    /// The pod with an address is in the state file from now on.
    pub(crate) fn forget(&mut self, address: &IpAddr) {
        self.addresses.remove(address);
    }

    /// Returns the addresses of all such pods.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    /// Returns whether an address is that of a pod that is in no state file.
    pub(crate) fn has(&self, address: &IpAddr) -> bool {
        self.addresses.contains(address)
    }

    /// Takes note of the addresses to which routes lead at present over links of several pods, of those to which they are known to;
    /// returns whether any was given up.
    pub(crate) fn routed(
        &mut self,
        present: &BTreeSet<IpAddr>,
        known: &mut BTreeSet<IpAddr>,
        now: Timestamp,
    ) -> bool {
        self.without_route
            .retain(|address, _| known.contains(address) && !present.contains(address));
        for address in known.difference(present) {
            self.without_route.entry(*address).or_insert(now);
        }
        let over = |_: &IpAddr, since: &mut Timestamp| now.since(*since) >= self.grace;
        let over: Vec<_> = self.without_route.extract_if(.., over).collect();
        over.iter().filter(|(address, _)| known.remove(address)).count() > 0
    }

    /// Returns when the first of those without a route is to be looked for once more.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.without_route.values().min().map(|since| *since + self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_given_up_whose_route_stays_away() {
        let now = Timestamp::from_secs(1_000);
        const GRACE: Duration = Duration::from_secs(60);
        let mut untracked = Untracked::new(GRACE);
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut known = BTreeSet::from([one, other]);
        let all = known.clone();
        assert!(!untracked.routed(&all, &mut known, now));
        assert_eq!(untracked.due(), None);

        assert!(!untracked.routed(&[one].into(), &mut known, now));
        assert_eq!(untracked.due(), Some(now + GRACE));
        assert!(!untracked.routed(&all, &mut known, now + GRACE), "it is back");
        assert_eq!(untracked.due(), None);

        let later = now + 2 * GRACE;
        assert!(!untracked.routed(&[one].into(), &mut known, later));
        assert!(untracked.routed(&[one].into(), &mut known, later + GRACE));
        assert_eq!((known, untracked.due()), ([one].into(), None));
    }
}
