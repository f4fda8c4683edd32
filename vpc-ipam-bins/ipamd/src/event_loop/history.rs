//! What happened lately, for who asks and for who waits for the next.

use core::time::Duration;
use std::collections::VecDeque;

use vpc_ipam_core::Timestamp;
use vpc_ipam_protocol::{Answer, EVENTS_WAIT_MAX, Happening, Happenings, What};

use super::answers::Caller;

/// How many happenings are kept: those of a node that fills up, several times over.
const KEPT: usize = 1024;
/// How many may wait for the next happening at the same time; a further one is answered at once.
const WATCHERS_MAX: usize = 64;

/// What happened lately.
pub(crate) struct History {
    counted_since: Timestamp,
    happenings: VecDeque<Happening>,
    /// The number of the last that happened.
    last: u64,
    watchers: Vec<Watcher>,
}

/// Who waits for the next happening.
struct Watcher {
    caller: Caller,
    after: u64,
    until: Timestamp,
}

impl History {
    /// Begins to count.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { counted_since: now, happenings: VecDeque::new(), last: 0, watchers: Vec::new() }
    }

    /// Takes note of what happened.
    pub(super) fn push(&mut self, at: Timestamp, what: What) {
        self.last += 1;
        if self.happenings.len() == KEPT {
            self.happenings.pop_front();
        }
        self.happenings.push_back(Happening { number: self.last, at, what });
    }

    /// Answers what happened after a certain one: at once if there is any, otherwise when there is or time is up.
    pub(super) fn ask(&mut self, caller: Caller, after: u64, wait: u64, now: Timestamp) {
        self.watchers.retain(|watcher| !watcher.caller.is_gone());
        let is_news = self.last != after;
        if is_news || wait == 0 || self.watchers.len() >= WATCHERS_MAX {
            return caller.answer(Answer::Happenings(self.after(after)));
        }
        let until = now + Duration::from_secs(wait.min(EVENTS_WAIT_MAX));
        self.watchers.push(Watcher { caller, after, until });
    }

    /// Answers who waits, if something happened or time is up.
    pub(super) fn run_due(&mut self, now: Timestamp) {
        let last = self.last;
        let due: Vec<Watcher> = self
            .watchers
            .extract_if(.., |watcher| last != watcher.after || now >= watcher.until)
            .collect();
        for Watcher { caller, after, .. } in due {
            caller.answer(Answer::Happenings(self.after(after)));
        }
    }

    /// Returns when the next of who wait has waited long enough.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.watchers.iter().map(|watcher| watcher.until).min()
    }

    fn after(&self, after: u64) -> Happenings {
        // Numbers of an earlier daemon mean nothing to this one.
        let after = if after > self.last { 0 } else { after };
        let happenings: Vec<Happening> =
            self.happenings.iter().filter(|it| it.number > after).cloned().collect();
        let missed = self.last - after - happenings.len() as u64;
        Happenings { happenings, missed, last: self.last, counted_since: self.counted_since }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn happened(count: u64) -> History {
        let mut history = History::new(Timestamp::EPOCH);
        for number in 1..=count {
            history.push(Timestamp::from_secs(number), What::Repaired { changed: Vec::new() });
        }
        history
    }

    fn numbers(happenings: &Happenings) -> Vec<u64> {
        happenings.happenings.iter().map(|it| it.number).collect()
    }

    #[test]
    fn asker_gets_what_is_new_and_hears_what_it_missed() {
        let history = happened(KEPT as u64 + 10);
        let all = history.after(0);
        assert_eq!((all.missed, all.happenings.len(), all.last), (10, KEPT, KEPT as u64 + 10));
        let some = history.after(KEPT as u64 + 8);
        assert_eq!((some.missed, numbers(&some)), (0, vec![KEPT as u64 + 9, KEPT as u64 + 10]));
        assert_eq!(history.after(KEPT as u64 + 10).happenings, []);
        // A number of a daemon that ran before this one.
        assert_eq!(happened(2).after(500), happened(2).after(0));
    }

    #[test]
    fn watcher_is_answered_when_something_happens_or_time_is_up() {
        let now = Timestamp::from_secs(100);
        let mut history = happened(1);
        let (hears, mut heard) = oneshot::channel();
        history.ask(Caller::new(hears, now), 1, 1000, now);
        history.run_due(now);
        assert_eq!(heard.try_recv(), Err(TryRecvError::Empty));
        let up = now + Duration::from_secs(EVENTS_WAIT_MAX);
        assert_eq!(history.due(), Some(up));
        history.push(now, What::Repaired { changed: Vec::new() });
        history.run_due(now);
        let Ok(Answer::Happenings(told)) = heard.try_recv() else { panic!("no answer") };
        assert_eq!((numbers(&told), history.due()), (vec![2], None));

        let (hears, mut heard) = oneshot::channel();
        history.ask(Caller::new(hears, now), 2, 1000, now);
        history.run_due(up);
        assert_eq!(heard.try_recv(), Ok(Answer::Happenings(history.after(2))));
    }

    #[test]
    fn watchers_are_bounded() {
        let now = Timestamp::from_secs(100);
        let mut history = happened(1);
        let waiting: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| {
                let (hears, heard) = oneshot::channel();
                history.ask(Caller::new(hears, now), 1, 30, now);
                heard
            })
            .collect();
        let (hears, mut heard) = oneshot::channel();
        history.ask(Caller::new(hears, now), 1, 30, now);
        assert!(matches!(heard.try_recv(), Ok(Answer::Happenings(_))));
        drop(waiting);
    }
}
