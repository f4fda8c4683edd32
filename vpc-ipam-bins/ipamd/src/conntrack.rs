//! Addresses that were used before, whose connections the kernel is to forget before another pod gets them.
//!
//! While an address cools down, senders that know it and a pod that is still being torn down go on to use it, and the kernel
//! remembers new connections. So it is flushed at the end of its cooldown, not when it is released; a pod that gets it earlier
//! waits for the flush.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::{Record, Timestamp};

/// How often a flush is tried before addresses are given out without.
const TRIES_MAX: u32 = 5;

/// Addresses that no pod gets before the kernel has forgotten their connections. For many it walks its table once.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// How long an address cools down.
    cooldown: Duration,
    /// Released, not granted since and not flushed, each with the end of its cooldown.
    used: BTreeMap<IpAddr, Timestamp>,
    /// Granted, and to be flushed first.
    waiting: BTreeSet<IpAddr>,
    under_way: BTreeSet<IpAddr>,
    /// How many flushes failed since the last that did not.
    failed: u32,
}

impl Flush {
    /// Describes that nothing is to be flushed, for addresses with this cooldown.
    pub(super) fn new(cooldown: Duration) -> Self {
        Self { cooldown, ..Self::default() }
    }

    /// Addresses that are released from now on cool down for another time.
    pub(super) fn set_cooldown(&mut self, cooldown: Duration) {
        self.cooldown = cooldown;
    }

    /// Addresses were released.
    pub(super) fn released(&mut self, addresses: impl IntoIterator<Item = IpAddr>, at: Timestamp) {
        let cooled = at + self.cooldown;
        self.used.extend(addresses.into_iter().map(|address| (address, cooled)));
    }

    /// Returns when the next cooldown ends.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.used.values().min().copied().filter(|_| self.under_way.is_empty())
    }

    /// Addresses are granted; those that were used before are to be flushed, even if they are being flushed right now.
    pub(super) fn granted(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if self.used.remove(&address).is_some() || self.under_way.contains(&address) {
                self.waiting.insert(address);
            }
        }
    }

    /// Pods have these addresses already, and keep their connections.
    pub(super) fn imported(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.used.remove(&address);
            self.waiting.remove(&address);
        }
    }

    /// Returns the addresses to be flushed, unless a flush is under way.
    pub(super) fn begin(&mut self, now: Timestamp) -> Option<BTreeSet<IpAddr>> {
        if !self.under_way.is_empty() {
            return None;
        }
        self.under_way = core::mem::take(&mut self.waiting);
        let cooled = self.used.extract_if(.., |_, cooled| *cooled <= now);
        self.under_way.extend(cooled.map(|(address, _)| address));
        (!self.under_way.is_empty()).then(|| self.under_way.clone())
    }

    /// Those under way are flushed.
    pub(super) fn done(&mut self) {
        self.under_way.clear();
        self.failed = 0;
    }

    /// Those under way could not be flushed; returns whether that is tried again.
    pub(super) fn failed(&mut self) -> bool {
        self.failed += 1;
        if self.failed >= TRIES_MAX {
            self.done();
            return false;
        }
        self.waiting.append(&mut self.under_way);
        true
    }

    /// Returns whether what is to be made durable is the grant of an address that is to be flushed first.
    pub(super) fn holds_back(&self, record: &Record) -> bool {
        let Record::Leased(lease) = record else {
            return false;
        };
        let mut addresses = lease.addresses();
        addresses.any(|it| self.waiting.contains(&it) || self.under_way.contains(&it))
    }

    /// Returns whether nothing is to be flushed.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::testkit::{lease, leased};

    use super::*;

    #[test]
    fn address_that_was_used_is_held_back_until_it_is_flushed() {
        const LATER: Timestamp = Timestamp::from_secs(60);
        let mut flush = Flush::new(Duration::from_secs(30));
        flush.granted([address(9)]);
        assert!(flush.is_idle(), "no pod had it before");
        flush.released([1, 2, 3].map(address), LATER);
        assert_eq!(flush.begin(LATER), None, "no pod wants it yet");

        flush.granted([address(1)]);
        assert!(flush.holds_back(&granted(1)));
        assert_eq!(flush.begin(LATER), Some([address(1)].into()));
        flush.granted([address(2), address(3)]);
        assert_eq!(flush.begin(LATER), None, "one at a time");
        assert!(flush.holds_back(&granted(1)) && flush.holds_back(&granted(2)));

        flush.done();
        assert!(!flush.holds_back(&granted(1)) && flush.holds_back(&granted(2)));
        assert_eq!(flush.begin(LATER), Some([address(2), address(3)].into()));
        // Given back and granted anew meanwhile: what was done so far does not count.
        flush.granted([address(2)]);
        flush.done();
        assert!(flush.holds_back(&granted(2)) && !flush.holds_back(&granted(3)));
        assert_eq!(flush.begin(LATER), Some([address(2)].into()));
        flush.done();
        assert!(flush.is_idle());
    }

    #[test]
    fn flush_that_fails_is_tried_again_a_few_times() {
        const LATER: Timestamp = Timestamp::from_secs(60);
        let mut flush = Flush::new(Duration::from_secs(30));
        for _ in 0..2 {
            flush.released([address(1)], LATER);
            flush.granted([address(1)]);
            for _ in 1..TRIES_MAX {
                assert_eq!(flush.begin(LATER), Some([address(1)].into()));
                assert!(flush.failed());
                assert!(flush.holds_back(&granted(1)));
            }
            assert!(flush.begin(LATER).is_some());
            assert!(!flush.failed());
            assert!(flush.is_idle() && !flush.holds_back(&granted(1)));
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn granted(last: u8) -> Record {
        Record::Leased(lease("p", [leased(0, 1, [&*address(last).to_string()])]))
    }
}
