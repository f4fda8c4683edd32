//! Released addresses whose connections the kernel is still to forget.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::Record;

/// Addresses that nobody gets before their connections are forgotten. For many the kernel walks its table once.
#[derive(Debug, Default)]
pub(super) struct Flush {
    waiting: BTreeSet<IpAddr>,
    under_way: BTreeSet<IpAddr>,
}

impl Flush {
    /// Addresses were released.
    pub(super) fn released(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.waiting.extend(addresses);
    }

    /// Returns the addresses to be flushed, unless others are under way.
    pub(super) fn begin(&mut self) -> Option<BTreeSet<IpAddr>> {
        if !self.under_way.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.under_way = core::mem::take(&mut self.waiting);
        Some(self.under_way.clone())
    }

    /// Those under way are flushed.
    pub(super) fn done(&mut self) {
        self.under_way.clear();
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
    use vpc_ipam_core::{Card, DeviceIndex, Lease, LeasedInterface, Mac, Pod, PodKey, Timestamp};

    use super::*;

    #[test]
    fn address_is_held_back_until_it_is_flushed() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut flush = Flush::default();
        flush.released([address(1)]);
        assert!(flush.holds_back(&granted(1)));
        assert_eq!(flush.begin(), Some([address(1)].into()));

        flush.released([address(2), address(3)]);
        assert_eq!(flush.begin(), None, "one at a time");
        assert!(flush.holds_back(&granted(1)) && flush.holds_back(&granted(2)));

        flush.done();
        assert!(!flush.holds_back(&granted(1)) && flush.holds_back(&granted(2)));
        assert_eq!(flush.begin(), Some([address(2), address(3)].into()));
        flush.done();
        assert!(flush.is_idle());
    }

    fn granted(last: u8) -> Record {
        Record::Leased(Lease {
            key: PodKey::new("net", "c", "eth0").unwrap(),
            pod: Pod { namespace: "default".into(), name: "p".into() }.into(),
            since: Timestamp::EPOCH,
            first: LeasedInterface {
                eni: "eni-1".parse().unwrap(),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                card: Card(0),
                device: DeviceIndex(1),
                ipv4: Some([10, 0, 0, last].into()),
                ipv6: None,
            },
            more: Vec::new(),
        })
    }
}
