//! Addresses without a pod when the node is taken over from another daemon: which of them it released a moment ago is not known.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use ipnet::IpNet;
use vpc_ipam_core::{Observation, Pool, Timestamp};

use crate::store::TakenOver;

/// A take-over of the node, while it matters.
#[derive(Clone, Debug)]
pub(crate) struct TakeOver {
    cooldown: Duration,
    taken_over: TakenOver,
    /// Whether an earlier start saw what the ENIs had: what is shown besides was assigned to the node since.
    is_complete: bool,
}

/// How many addresses of one block cool down. A /80 has more than any daemon has handed out: amazon-vpc-cni-k8s takes the lowest that
/// is free, and no node runs 2,048 pods in half a minute.
const ADDRESSES_MAX: usize = 2048;

impl TakeOver {
    /// Describes that a node was taken over, if that is so.
    pub(crate) fn new(taken_over: Option<TakenOver>, cooldown: Duration) -> Option<Self> {
        taken_over.map(|taken_over| {
            let is_complete = !taken_over.blocks.is_empty();
            Self { cooldown, taken_over, is_complete }
        })
    }

    /// Returns when it was, and what is known of it.
    pub(crate) fn taken_over(&self) -> &TakenOver {
        &self.taken_over
    }

    /// Returns whether all addresses that cooled down since then have.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.taken_over.at) > self.cooldown
    }

    /// Returns the addresses that an observation is the first to show and that cool down since the node was taken over, those in use
    /// aside.
    pub(crate) fn cooling(
        &mut self,
        shown: &Observation,
        pool: &Pool,
        in_use: &BTreeSet<IpAddr>,
    ) -> Vec<IpAddr> {
        let in_pool: BTreeSet<IpNet> =
            pool.enis().iter().flat_map(|eni| eni.blocks()).map(|block| block.net()).collect();
        let blocks = shown.enis.iter().flat_map(|eni| &eni.blocks).map(IpNet::trunc);
        let mut cooling = Vec::new();
        // What is in the pool was seen before, or assigned to the node since.
        for net in blocks.filter(|net| !in_pool.contains(net)) {
            if self.is_complete && !self.taken_over.blocks.contains(&net) {
                continue;
            }
            self.taken_over.blocks.insert(net);
            let addresses = addresses(net).take(ADDRESSES_MAX);
            cooling.extend(addresses.filter(|address| !in_use.contains(address)));
        }
        cooling
    }
}

/// Returns the addresses of a range, the first and the last included.
fn addresses(net: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            Box::new((first..=last).map(|bits| IpAddr::V4(bits.into())))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            Box::new((first..=last).map(|bits| IpAddr::V6(bits.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Mac, ObservedEni, Scope, Source};

    use super::*;

    #[test]
    fn addresses_that_were_there_when_the_node_was_taken_over_cool_down_but_for_those_in_use() {
        let at = Timestamp::from_secs(1_000);
        let cooldown = Duration::from_secs(30);
        let start = |blocks: &[&str]| {
            let blocks = blocks.iter().map(|net| net.parse().unwrap()).collect();
            TakeOver::new(Some(TakenOver { at, blocks }), cooldown).unwrap()
        };
        let cooling = |take_over: &mut TakeOver, blocks: &[&str]| {
            let in_use = BTreeSet::from([IpAddr::from([10, 0, 0, 5])]);
            take_over.cooling(&shown(blocks), &Pool::default(), &in_use).len()
        };

        let mut first = start(&[]);
        assert_eq!(cooling(&mut first, &["10.0.0.5/32", "10.0.0.6/32", "10.0.0.16/28"]), 17);
        assert_eq!(cooling(&mut first, &["2001:db8:0:0:1::/80"]), ADDRESSES_MAX);
        assert!(!first.is_over(at + cooldown));
        assert!(first.is_over(at + cooldown + Duration::from_nanos(1)));

        // A start a moment later knows what it was; the rest was assigned since.
        let mut again = start(&["10.0.0.6/32"]);
        assert_eq!(cooling(&mut again, &["10.0.0.6/32", "10.0.0.7/32"]), 1);
        assert!(TakeOver::new(None, cooldown).is_none());
    }

    fn shown(blocks: &[&str]) -> Observation {
        let eni = ObservedEni::new(
            "eni-1".parse().unwrap(),
            Mac([2, 0, 0, 0, 0, 1]),
            "subnet-1".parse().unwrap(),
        )
        .with_blocks(blocks.iter().map(|net| net.parse().unwrap()).collect());
        let (source, scope) = (Source::Ec2, Scope::Attached);
        let (enis, incomplete) = (vec![eni], Vec::new());
        Observation::new(Timestamp::EPOCH, source, scope)
            .with_enis(enis)
            .with_incomplete(incomplete)
    }
}
