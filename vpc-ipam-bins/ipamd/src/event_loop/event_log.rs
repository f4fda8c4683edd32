//! What happened lately, for who asks and for who waits for the next.

use core::time::Duration;
use std::collections::VecDeque;

use vpc_ipam_core::Timestamp;
use vpc_ipam_protocol::{Answer, EVENTS_WAIT_MAX, NodeEvent, NodeEventKind, NodeEvents};

use super::answers::Caller;

/// How many events are kept: those of a node that fills up, several times over.
const KEPT: usize = 1024;
/// How many may wait for the next event at the same time; a further one is answered at once.
const WATCHERS_MAX: usize = 64;

/// What happened lately.
pub(crate) struct EventLog {
    counted_since: Timestamp,
    events: VecDeque<NodeEvent>,
    /// The number of the last that happened.
    last: u64,
    watchers: Vec<Watcher>,
}

/// Who waits for the next event.
struct Watcher {
    caller: Caller,
    after: u64,
    until: Timestamp,
}

impl EventLog {
    /// Begins to count.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { counted_since: now, events: VecDeque::new(), last: 0, watchers: Vec::new() }
    }

    /// Takes note of what happened.
    pub(super) fn push(&mut self, at: Timestamp, what: NodeEventKind) {
        self.last += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(NodeEvent { number: self.last, at, what });
    }

    /// Answers what happened after the event of a number: at once if there is any, otherwise when there is or time is up.
    pub(super) fn ask(&mut self, caller: Caller, after: u64, wait: u64, now: Timestamp) {
        self.watchers.retain(|watcher| !watcher.caller.is_gone());
        let is_news = self.last != after;
        if is_news || wait == 0 || self.watchers.len() >= WATCHERS_MAX {
            return caller.answer(Answer::Events(self.after(after)));
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
            caller.answer(Answer::Events(self.after(after)));
        }
    }

    /// Returns when the next of who wait has waited long enough.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.watchers.iter().map(|watcher| watcher.until).min()
    }

    fn after(&self, after: u64) -> NodeEvents {
        // Numbers of an earlier daemon mean nothing to this one.
        let after = if after > self.last { 0 } else { after };
        let events: Vec<NodeEvent> =
            self.events.iter().filter(|it| it.number > after).cloned().collect();
        let missed = self.last - after - events.len() as u64;
        NodeEvents { events, missed, last: self.last, counted_since: self.counted_since }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn happened(count: u64) -> EventLog {
        let mut event_log = EventLog::new(Timestamp::EPOCH);
        for number in 1..=count {
            event_log.push(
                Timestamp::from_secs(number),
                NodeEventKind::Repaired { changed: Vec::new() },
            );
        }
        event_log
    }

    fn numbers(events: &NodeEvents) -> Vec<u64> {
        events.events.iter().map(|it| it.number).collect()
    }

    #[test]
    fn asker_gets_what_is_new_and_hears_what_it_missed() {
        let event_log = happened(KEPT as u64 + 10);
        let all = event_log.after(0);
        assert_eq!((all.missed, all.events.len(), all.last), (10, KEPT, KEPT as u64 + 10));
        let some = event_log.after(KEPT as u64 + 8);
        assert_eq!((some.missed, numbers(&some)), (0, vec![KEPT as u64 + 9, KEPT as u64 + 10]));
        assert_eq!(event_log.after(KEPT as u64 + 10).events, []);
        // A number of a daemon that ran before this one.
        assert_eq!(happened(2).after(500), happened(2).after(0));
    }

    #[test]
    fn watcher_is_answered_when_something_happens_or_time_is_up() {
        let now = Timestamp::from_secs(100);
        let mut event_log = happened(1);
        let (hears, mut heard) = oneshot::channel();
        event_log.ask(Caller::new(hears, now), 1, 1000, now);
        event_log.run_due(now);
        assert_eq!(heard.try_recv(), Err(TryRecvError::Empty));
        let up = now + Duration::from_secs(EVENTS_WAIT_MAX);
        assert_eq!(event_log.due(), Some(up));
        event_log.push(now, NodeEventKind::Repaired { changed: Vec::new() });
        event_log.run_due(now);
        let Ok(Answer::Events(told)) = heard.try_recv() else { panic!("no answer") };
        assert_eq!((numbers(&told), event_log.due()), (vec![2], None));

        let (hears, mut heard) = oneshot::channel();
        event_log.ask(Caller::new(hears, now), 2, 1000, now);
        event_log.run_due(up);
        assert_eq!(heard.try_recv(), Ok(Answer::Events(event_log.after(2))));
    }

    #[test]
    fn watchers_are_bounded() {
        let now = Timestamp::from_secs(100);
        let mut event_log = happened(1);
        let waiting: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| {
                let (hears, heard) = oneshot::channel();
                event_log.ask(Caller::new(hears, now), 1, 30, now);
                heard
            })
            .collect();
        let (hears, mut heard) = oneshot::channel();
        event_log.ask(Caller::new(hears, now), 1, 30, now);
        assert!(matches!(heard.try_recv(), Ok(Answer::Events(_))));
        drop(waiting);
    }
}
