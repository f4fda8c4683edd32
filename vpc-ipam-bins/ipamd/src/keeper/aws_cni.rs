//! Signs that amazon-vpc-cni-k8s works on this node beside this daemon: two that hand out the same addresses.

use core::time::Duration;
use std::collections::VecDeque;

use tracing::error;
use vpc_ipam_core::Timestamp;

/// What was seen of it since this daemon started.
#[derive(Debug, Default)]
pub(crate) struct AwsCni {
    last: Option<Sign>,
    /// When it was said last.
    said_at: Option<Timestamp>,
    /// When address translation is to be compared, besides at once.
    looks: VecDeque<Timestamp>,
}

/// The last thing that was seen.
#[derive(Debug)]
struct Sign {
    what: String,
    at: Timestamp,
    times: u64,
}

/// How long the status names it. Between two starts of its own it changes little but for its pods.
const MEMORY: Duration = Duration::from_secs(3600);

/// How often the same is said again.
const PAUSE: Duration = Duration::from_secs(60);

/// When address translation is looked at after an event showed something else of it. When it starts it makes its rules first, and its
/// chains in the seconds that follow; of those of iptables-legacy the kernel sends no event.
const LOOKS: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// What an operator should do about it.
const ADVICE: &str = "two daemons hand out the addresses of this node: stop one of them";

impl AwsCni {
    /// Takes note of something that it made, and of who that was, as far as is known.
    pub(crate) fn made(&mut self, what: &str, by: &str, now: Timestamp) {
        let last = self.last.take().filter(|last| now.since(last.at) < MEMORY);
        let is_new = last.as_ref().is_none_or(|last| last.what != what);
        let times = last.map_or(0, |last| last.times) + 1;
        self.last = Some(Sign { what: what.to_owned(), at: now, times });
        if is_new || self.said_at.is_none_or(|at| now.since(at) >= PAUSE) {
            self.said_at = Some(now);
            error!(what, by, times, "amazon-vpc-cni-k8s works on this node too; {ADVICE}");
        }
        self.looks = LOOKS.iter().map(|after| now + *after).collect();
    }

    /// Returns when address translation is to be looked at.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.looks.front().copied()
    }

    /// Returns whether it is time to.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let before = self.looks.len();
        self.looks.retain(|at| *at > now);
        self.looks.len() < before
    }

    /// Returns what an operator should look at, if anything was seen of it lately.
    pub(crate) fn problem(&self, now: Timestamp) -> Option<String> {
        let Sign { what, at, times } = self.last.as_ref()?;
        let ago = now.since(*at);
        (ago < MEMORY).then(|| {
            let seconds = ago.as_secs();
            format!(
                "amazon-vpc-cni-k8s works on this node beside vpc-ipamd: {seconds} s ago it made {what} ({times} signs of it so \
                 far); {ADVICE}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_told_and_followed_by_looks_for_a_minute() {
        let mut aws_cni = AwsCni::default();
        let now = Timestamp::from_secs(1_000);
        assert_eq!((aws_cni.problem(now), aws_cni.due()), (None, None));

        aws_cni.made("rule 1024", "not known", now);

        let mut looks = 0;
        let mut last = now;
        while let Some(at) = aws_cni.due() {
            assert!(!aws_cni.take(Timestamp::from_nanos(at.as_nanos() - 1)));
            assert!(aws_cni.take(at));
            (looks, last) = (looks + 1, at);
        }
        assert_eq!((looks, last.since(now)), (LOOKS.len(), Duration::from_secs(60)));
        aws_cni.made("rule 1024", "not known", last);
        let problem = aws_cni.problem(last + Duration::from_secs(5)).unwrap();
        for expected in ["5 s ago it made rule 1024 (2 signs", "two daemons", "stop one"] {
            assert!(problem.contains(expected), "{expected:?} is not in {problem}");
        }
        assert_eq!(aws_cni.problem(last + MEMORY), None);
        assert!(aws_cni.take(last + MEMORY), "what was not taken in time is taken together");
        assert!(!aws_cni.take(last + MEMORY));
    }
}
