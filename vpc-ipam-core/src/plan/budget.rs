//! How many EC2 calls this node may make.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{Ec2Operation, Timestamp};

/// A rate of calls: `burst` at once, then one every `interval`. Every value is usable: an interval of zero sets no limit, the
/// longest one allows `burst` calls in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rate {
    /// Calls that may be made at once after a pause; at least 1 counts.
    pub burst: u32,
    /// After which one further call may be made.
    pub interval: Duration,
}

/// The rates at which this node may call EC2, for each operation apart.
///
/// EC2 gives an account and region a bucket for each operation and refuses what exceeds it, to every node alike. Give each
/// node its share: the account's refill rate divided by the nodes that may grow at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Budget {
    /// Of operations that are not named in `rates`.
    pub default: Rate,
    /// The rates of single operations, instead of the default.
    pub rates: BTreeMap<Ec2Operation, Rate>,
}

setters!(Budget {
    with_default default: Rate,
    with_rates rates: BTreeMap<Ec2Operation, Rate>,
});

impl Default for Budget {
    /// A fifth of what EC2 gives an account by default for changes (50 at once, then 5 a second): enough to bring the
    /// largest node up without waiting, too little to starve other nodes.
    fn default() -> Self {
        let default = Rate { burst: 20, interval: Duration::from_secs(1) };
        Self { default, rates: BTreeMap::new() }
    }
}

impl Budget {
    fn rate(&self, operation: Ec2Operation) -> Rate {
        self.rates.get(&operation).copied().unwrap_or(self.default)
    }
}

/// How much of a [`Budget`] is spent, as token buckets.
///
/// A bucket is kept as the time at which it will be full again, so that an idle one needs no upkeep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Spent {
    /// In nanoseconds since the epoch, which a long interval takes beyond what a [`Timestamp`] holds.
    full_at: BTreeMap<Ec2Operation, u128>,
}

impl Spent {
    /// Returns when `calls` more calls of an operation may be made at the earliest; `now` if at once.
    pub(crate) fn ready_at(
        &self,
        budget: &Budget,
        operation: Ec2Operation,
        calls: u32,
        now: Timestamp,
    ) -> Timestamp {
        let Rate { burst, interval } = budget.rate(operation);
        let now_nanos = u128::from(now.as_nanos());
        let full_at = self.full_at.get(&operation).map_or(now_nanos, |at| (*at).max(now_nanos));
        // The calls push the time of fullness out; it may lie at most a whole bucket ahead. A duration has 94 bits of
        // nanoseconds, and a count 32.
        let after = full_at.saturating_add(interval.as_nanos().saturating_mul(calls.into()));
        let ahead_max = interval.as_nanos().saturating_mul(burst.max(1).into());
        let wait = after.saturating_sub(now_nanos.saturating_add(ahead_max));
        now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Returns how many calls of an operation may be made at once; the whole burst where the rate sets no limit.
    pub(crate) fn left(&self, budget: &Budget, operation: Ec2Operation, now: Timestamp) -> u32 {
        let Rate { burst, interval } = budget.rate(operation);
        let now = u128::from(now.as_nanos());
        let ahead = self.full_at.get(&operation).map_or(0, |at| at.saturating_sub(now));
        let spent = ahead.checked_div(interval.as_nanos()).unwrap_or(0);
        // A call that is partly paid back is still a call.
        let partly = u128::from(!interval.is_zero() && ahead % interval.as_nanos() != 0);
        let spent = u32::try_from(spent + partly).unwrap_or(u32::MAX);
        burst.max(1).saturating_sub(spent)
    }

    /// Records one call.
    pub(crate) fn on_call(&mut self, budget: &Budget, operation: Ec2Operation, now: Timestamp) {
        let Rate { interval, .. } = budget.rate(operation);
        let now = u128::from(now.as_nanos());
        let full_at = self.full_at.entry(operation).or_insert(now);
        *full_at = (*full_at).max(now).saturating_add(interval.as_nanos());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_any_window_stay_under_the_budget() {
        let budget = Budget {
            default: Rate { burst: 5, interval: Duration::from_secs(2) },
            rates: BTreeMap::new(),
        };
        let operation = Ec2Operation::CreateNetworkInterface;
        let mut spent = Spent::default();
        let mut calls = alloc::vec::Vec::new();
        let start = Timestamp::from_secs(1000);
        for tick in 0..400u64 {
            let now = start + Duration::from_millis(tick * 100);
            while spent.ready_at(&budget, operation, 1, now) <= now {
                spent.on_call(&budget, operation, now);
                calls.push(now);
            }
        }
        // Forty seconds: five at once, then one every two seconds.
        assert_eq!(calls.len(), 5 + 19);
        for (index, first) in calls.iter().enumerate() {
            for (count, last) in calls[index..].iter().enumerate() {
                let window = last.since(*first);
                let allowed = 5 + window.as_secs() / 2;
                assert!((count as u64) < allowed, "{count} calls within {window:?}");
            }
        }
    }

    #[test]
    fn calls_that_are_left_can_be_made_and_no_more() {
        let operation = Ec2Operation::CreateNetworkInterface;
        let now = Timestamp::from_secs(1000);
        let cases = [
            // burst, interval in seconds, calls made, milliseconds later, calls left
            (3, 2, 0, 0, 3),
            (3, 2, 2, 0, 1),
            (3, 2, 3, 0, 0),
            (3, 2, 3, 1999, 0),
            (3, 2, 3, 2000, 1),
            (3, 2, 3, 60_000, 3),
            (0, 2, 0, 0, 1),
            (3, 0, 100, 0, 3),
        ];
        for (burst, interval, calls, later, expected) in cases {
            let default = Rate { burst, interval: Duration::from_secs(interval) };
            let budget = Budget { default, rates: BTreeMap::new() };
            let mut spent = Spent::default();
            for _ in 0..calls {
                spent.on_call(&budget, operation, now);
            }
            let then = now + Duration::from_millis(later);
            let left = spent.left(&budget, operation, then);
            let case = (burst, interval, calls, later);
            assert_eq!(left, expected, "{case:?}");
            assert!(spent.ready_at(&budget, operation, left, then) <= then, "{case:?}");
            if interval > 0 {
                assert!(spent.ready_at(&budget, operation, left + 1, then) > then, "{case:?}");
            }
        }
    }

    #[test]
    fn operations_do_not_share_a_bucket() {
        let budget = Budget {
            default: Rate { burst: 1, interval: Duration::from_secs(60) },
            rates: BTreeMap::from([(
                Ec2Operation::DescribeSubnets,
                Rate { burst: 2, interval: Duration::from_secs(1) },
            )]),
        };
        let now = Timestamp::from_secs(1000);
        let mut spent = Spent::default();
        spent.on_call(&budget, Ec2Operation::CreateNetworkInterface, now);
        let ready = |operation, calls| spent.ready_at(&budget, operation, calls, now);
        assert_eq!(ready(Ec2Operation::AttachNetworkInterface, 1), now);
        assert_eq!(ready(Ec2Operation::CreateNetworkInterface, 1), now + Duration::from_secs(60));
        assert_eq!(ready(Ec2Operation::DescribeSubnets, 2), now);
        assert_eq!(ready(Ec2Operation::DescribeSubnets, 3), now + Duration::from_secs(1));
    }
}
