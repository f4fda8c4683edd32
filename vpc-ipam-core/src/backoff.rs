//! Waiting after failures: for each operation, subnet and ENI apart.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{Ec2Operation, EniId, Failure, SubnetId, Timestamp, WaitingOn};

/// What failed, and so is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Culprit {
    /// An EC2 operation, whatever it is about: throttled or not allowed.
    Operation(Ec2Operation),
    /// A subnet without free addresses.
    Subnet(SubnetId),
    /// A subnet without a free prefix; single addresses may still be had.
    SubnetPrefixes(SubnetId),
    /// EC2 calls about one ENI.
    Eni(EniId),
    /// The node's set-up of one ENI.
    Host(EniId),
    /// Reading the metadata.
    Metadata,
}

/// What failed lately, and until when it is left alone.
///
/// Waits double with each failure in a row, up to a bound, and are lengthened by up to a quarter at random (from the
/// seed), so that nodes that failed together do not come back together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    delays: BTreeMap<Culprit, Delay>,
    random: u64,
}

/// What failed lately, how, and until when it is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RecentFailure {
    /// What failed.
    pub culprit: Culprit,
    /// How it failed last.
    pub last: Failure,
    /// How often in a row.
    pub in_a_row: u32,
    /// Until when it is left alone.
    pub until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Delay {
    until: Timestamp,
    failures: u32,
    last: Failure,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { delays: BTreeMap::new(), random: seed }
    }

    /// Returns until when something is left alone, if it is.
    pub(crate) fn until(&self, culprit: Culprit, now: Timestamp) -> Option<Timestamp> {
        self.delays.get(&culprit).map(|delay| delay.until).filter(|until| *until > now)
    }

    /// Returns whether something failed last, whether it is left alone or not.
    pub(crate) fn has_failed(&self, culprit: Culprit) -> bool {
        self.delays.contains_key(&culprit)
    }

    /// Returns what has to be waited for because of something that failed, if it is left alone.
    pub(crate) fn wait(&self, culprit: Culprit, now: Timestamp) -> Option<WaitingOn> {
        let Delay { until, last, .. } = self.delays.get(&culprit)?;
        (*until > now).then_some(WaitingOn::Backoff { culprit, kind: last.kind, until: *until })
    }

    /// Returns what is left alone.
    pub(crate) fn recent(&self, now: Timestamp) -> impl Iterator<Item = RecentFailure> {
        self.delays.iter().filter(move |(_, delay)| delay.until > now).map(|(culprit, delay)| {
            RecentFailure {
                culprit: *culprit,
                last: delay.last.clone(),
                in_a_row: delay.failures,
                until: delay.until,
            }
        })
    }

    /// Records a failure. The wait is `first` after the first in a row, at most `most`, and at least what the other side
    /// asks for.
    pub(crate) fn on_failed(
        &mut self,
        culprit: Culprit,
        first: Duration,
        most: Duration,
        failure: &Failure,
        now: Timestamp,
    ) {
        let jitter = self.next_random();
        let delay = self.delays.entry(culprit).or_insert_with(|| Delay {
            until: Timestamp::EPOCH,
            failures: 0,
            last: failure.clone(),
        });
        let doubled = first.saturating_mul(1 << delay.failures.min(20)).min(most);
        let base = doubled.max(failure.retry_after.unwrap_or_default());
        // A quarter of the wait, in 256 steps.
        let extra = base / 1024 * u32::from(jitter as u8);
        delay.until = now + base + extra;
        delay.failures += 1;
        delay.last.clone_from(failure);
    }

    /// Records a success: the next failure counts as the first.
    pub(crate) fn on_success(&mut self, culprit: Culprit) {
        self.delays.remove(&culprit);
    }

    /// Forgets what needs no more waiting and did not fail for a while.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        const REMEMBERED: Duration = Duration::from_secs(15 * 60);
        self.delays.retain(|_, delay| now <= delay.until + REMEMBERED);
    }

    /// Returns the next of a sequence that the seed decides (splitmix64).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_after_a_success() {
        let culprit = Culprit::Operation(Ec2Operation::CreateNetworkInterface);
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(8));
        let mut backoff = Backoff::new(7);
        let now = Timestamp::from_secs(1000);
        for expected in [1, 2, 4, 8, 8] {
            backoff.on_failed(culprit, first, most, &throttled(None), now);
            let wait = backoff.until(culprit, now).unwrap().since(now);
            let expected = Duration::from_secs(expected);
            assert!(wait >= expected && wait <= expected * 5 / 4, "{wait:?} for {expected:?}");
        }
        backoff.on_success(culprit);
        assert_eq!(backoff.until(culprit, now), None);
        let asked = Duration::from_secs(20);
        backoff.on_failed(culprit, first, most, &throttled(Some(asked)), now);
        assert!(backoff.until(culprit, now).unwrap() >= now + asked);
    }

    #[test]
    fn jitter_follows_the_seed() {
        let wait = |seed| {
            let mut backoff = Backoff::new(seed);
            let second = Duration::from_secs(1);
            let failure = throttled(None);
            backoff.on_failed(Culprit::Metadata, second, second, &failure, Timestamp::EPOCH);
            backoff.until(Culprit::Metadata, Timestamp::EPOCH)
        };
        assert_eq!(wait(1), wait(1));
        assert_ne!(wait(1), wait(2));
    }

    fn throttled(retry_after: Option<Duration>) -> Failure {
        let kind = crate::FailureKind::Throttled;
        Failure { kind, retry_after, message: "RequestLimitExceeded".into() }
    }
}
