//! Waiting after failures, no wider than their cause.

mod rules;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{BackoffScope, EniId, Failure, FailureKind, Timestamp, WaitingOn};

pub(crate) use self::rules::{
    PASSING, about, asks_for_prefixes, gates, is_step_of_new_eni, of_eni, rule,
};

/// What failed lately, and until when it is left alone.
///
/// Waits double with each failure in a row, up to a bound, and are lengthened by up to a quarter at random (from the
/// seed), so that nodes that failed together do not come back together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Backoff {
    #[cfg_attr(feature = "serde", serde(with = "crate::model::pairs"))]
    delays: BTreeMap<BackoffScope, Delay>,
    random: u64,
}

/// How long something that failed is left alone: `first`, doubled with each further failure in a row, at most `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

impl Pace {
    pub(crate) const fn secs(first: u64, most: u64) -> Self {
        Self { first: Duration::from_secs(first), most: Duration::from_secs(most) }
    }
}

/// What failed lately, how, and until when it is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RecentFailure {
    /// What the failure says something about.
    #[cfg_attr(feature = "serde", serde(rename = "culprit"))]
    pub scope: BackoffScope,
    /// How it failed last.
    pub last: Failure,
    /// How often in a row.
    pub in_a_row: u32,
    /// When it first failed of these times.
    pub since: Timestamp,
    /// Until when it is left alone.
    pub until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Delay {
    since: Timestamp,
    until: Timestamp,
    /// Until when it is left alone although a pod waits for it.
    until_hurried: Timestamp,
    failures: u32,
    last: Failure,
}

/// The longest wait that the other side is granted, however long it asks for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a failure that passes by itself is waited out where a pod waits for an address: as long as an ADD waits by default. What the
/// other side asks for counts all the same.
pub(crate) const HURRIED: Duration = Duration::from_secs(30);
/// How often something may fail for a moment before the plan stops counting on it.
const FAILURES_TOLERATED: u32 = 4;

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { delays: BTreeMap::new(), random: seed }
    }

    /// Returns until when something is left alone, if it is.
    pub(crate) fn until(&self, scope: BackoffScope, now: Timestamp) -> Option<Timestamp> {
        self.delays.get(&scope).map(|delay| delay.until).filter(|until| *until > now)
    }

    /// Returns the ENIs of which what IMDS shows is left alone.
    pub(crate) fn hints_ignored(&self, now: Timestamp) -> Vec<EniId> {
        let ignored = self.delays.iter().filter(|(_, delay)| delay.until > now);
        let hints = ignored.filter_map(|(scope, _)| match scope {
            BackoffScope::Hint(eni) => Some(*eni),
            _ => None,
        });
        hints.collect()
    }

    /// Returns until when something that failed last is, or was, left alone.
    pub(crate) fn last_until(&self, scope: BackoffScope) -> Option<Timestamp> {
        self.delays.get(&scope).map(|delay| delay.until)
    }

    /// Returns whether something failed last, whether it is left alone or not.
    pub(crate) fn has_failed(&self, scope: BackoffScope) -> bool {
        self.delays.contains_key(&scope)
    }

    /// Returns how often something failed in a row, up to now.
    pub(crate) fn in_a_row(&self, scope: BackoffScope) -> u32 {
        self.delays.get(&scope).map_or(0, |delay| delay.failures)
    }

    /// Returns since when something fails, if it failed last.
    pub(crate) fn failing_since(&self, scope: BackoffScope) -> Option<Timestamp> {
        self.delays.get(&scope).map(|delay| delay.since)
    }

    /// Returns whether something failed in a way that time alone does not mend, or for so often that nothing may be built
    /// on its success.
    pub(crate) fn is_stuck(&self, scope: BackoffScope) -> bool {
        self.delays.get(&scope).is_some_and(|delay| {
            let lasting = match delay.last.kind {
                FailureKind::Denied
                | FailureKind::Rejected
                | FailureKind::AttachmentLimit
                | FailureKind::EniLimit
                | FailureKind::SubnetFull
                | FailureKind::NoFreePrefix => true,
                // EC2 is asked first what there is.
                FailureKind::AddressLimit
                | FailureKind::Throttled
                | FailureKind::NotFound
                | FailureKind::InUse
                | FailureKind::WrongState
                | FailureKind::Unanswered
                | FailureKind::Incomplete
                | FailureKind::LinkMissing
                | FailureKind::Kernel => false,
            };
            lasting || delay.failures > FAILURES_TOLERATED
        })
    }

    /// Returns what has to be waited for because of something that failed, if it is left alone.
    pub(crate) fn wait(&self, scope: BackoffScope, now: Timestamp) -> Option<WaitingOn> {
        let Delay { until, last, .. } = self.delays.get(&scope)?;
        (*until > now).then_some(WaitingOn::Backoff { scope, kind: last.kind, until: *until })
    }

    /// Returns what is left alone.
    pub(crate) fn recent(&self, now: Timestamp) -> impl Iterator<Item = RecentFailure> {
        self.delays.iter().filter(move |(_, delay)| delay.until > now).map(|(scope, delay)| {
            RecentFailure {
                scope: *scope,
                last: delay.last.clone(),
                in_a_row: delay.failures,
                since: delay.since,
                until: delay.until,
            }
        })
    }

    /// Returns all that failed last, whether it is left alone or not.
    pub(crate) fn failing(&self) -> impl Iterator<Item = BackoffScope> {
        self.delays.keys().copied()
    }

    /// Records a failure. The wait is at least what the other side asks for, up to [`RETRY_AFTER_MAX`]. Returns whether
    /// this is news: the first failure in a row, or one of another kind than the last.
    pub(crate) fn on_failed(
        &mut self,
        scope: BackoffScope,
        pace: Pace,
        failure: &Failure,
        now: Timestamp,
    ) -> bool {
        let jitter = self.next_random();
        let delay = self.delays.entry(scope).or_insert_with(|| Delay {
            since: now,
            until: Timestamp::EPOCH,
            until_hurried: Timestamp::EPOCH,
            failures: 0,
            last: failure.clone(),
        });
        let doubled = pace.first.saturating_mul(1 << delay.failures.min(20)).min(pace.most);
        let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let base = doubled.max(asked);
        // A quarter of the wait, in 256 steps.
        let extra = |base: Duration| base / 1024 * u32::from(jitter as u8);
        // What lasts until an operator or another program changes something is no sooner over for it.
        let hurried = if pace == PASSING { base.min(asked.max(HURRIED)) } else { base };
        let news = delay.failures == 0 || delay.last.kind != failure.kind;
        delay.until = now + base.saturating_add(extra(base));
        delay.until_hurried = now + hurried.saturating_add(extra(hurried));
        delay.failures = delay.failures.saturating_add(1);
        delay.last.clone_from(failure);
        news
    }

    /// Has what may help a pod that waits be tried again soon: after a failure that passes by itself no wait is longer than
    /// [`HURRIED`], or than what the other side asked for.
    pub(crate) fn hurry(&mut self, helps: impl Fn(BackoffScope) -> bool) {
        for (_, delay) in self.delays.iter_mut().filter(|(scope, _)| helps(**scope)) {
            delay.until = delay.until.min(delay.until_hurried);
        }
    }

    /// Records a success: the next failure counts as the first. Returns how often it had failed in a row.
    pub(crate) fn on_success(&mut self, scope: BackoffScope) -> u32 {
        self.delays.remove(&scope).map_or(0, |delay| delay.failures)
    }

    /// Forgets what needs no more waiting and was not tried for a while.
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
    use crate::{Ec2Operation, Question};

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_after_a_success() {
        let scope = BackoffScope::Operation(Ec2Operation::CreateNetworkInterface);
        let pace = Pace::secs(1, 8);
        let mut backoff = Backoff::new(7);
        let now = Timestamp::from_secs(1000);
        for expected in [1, 2, 4, 8, 8] {
            backoff.on_failed(scope, pace, &throttled(None), now);
            let wait = backoff.until(scope, now).unwrap().since(now);
            let expected = Duration::from_secs(expected);
            assert!(wait >= expected && wait <= expected * 5 / 4, "{wait:?} for {expected:?}");
        }
        backoff.on_success(scope);
        assert_eq!(backoff.until(scope, now), None);
        let asked = Duration::from_secs(20);
        backoff.on_failed(scope, pace, &throttled(Some(asked)), now);
        assert!(backoff.until(scope, now).unwrap() >= now + asked);
    }

    #[test]
    fn jitter_follows_the_seed() {
        let wait = |seed| {
            let mut backoff = Backoff::new(seed);
            let failure = throttled(None);
            let scope = BackoffScope::Question(Question::Metadata);
            backoff.on_failed(scope, Pace::secs(1, 1), &failure, Timestamp::EPOCH);
            backoff.until(scope, Timestamp::EPOCH)
        };
        assert_eq!(wait(1), wait(1));
        assert_ne!(wait(1), wait(2));
    }

    #[test]
    fn the_other_side_is_granted_five_minutes_at_most() {
        let scope = BackoffScope::Question(Question::Metadata);
        let now = Timestamp::from_secs(1000);
        for asked in [Duration::from_secs(301), Duration::from_secs(u64::MAX), Duration::MAX] {
            let mut backoff = Backoff::new(7);
            backoff.on_failed(scope, Pace::secs(1, 60), &throttled(Some(asked)), now);
            let wait = backoff.until(scope, now).unwrap().since(now);
            let expected = RETRY_AFTER_MAX..=RETRY_AFTER_MAX * 5 / 4;
            assert!(expected.contains(&wait), "{wait:?} for {asked:?}");
        }
    }

    #[test]
    fn the_plan_stops_counting_on_what_is_refused_at_once_and_on_what_is_throttled_after_a_while() {
        let scope = BackoffScope::Operation(Ec2Operation::AssignPrivateIpAddresses);
        let now = Timestamp::from_secs(1000);
        for (kind, expected) in [(FailureKind::Denied, 1), (FailureKind::Throttled, 5)] {
            let mut backoff = Backoff::new(7);
            let failure = Failure { kind, ..throttled(None) };
            let mut failures = 0;
            while !backoff.is_stuck(scope) {
                backoff.on_failed(scope, Pace::secs(1, 60), &failure, now);
                failures += 1;
            }
            assert_eq!(failures, expected, "{kind}");
        }
    }

    fn throttled(retry_after: Option<Duration>) -> Failure {
        let kind = crate::FailureKind::Throttled;
        Failure { kind, retry_after, message: "RequestLimitExceeded".into() }
    }
}
