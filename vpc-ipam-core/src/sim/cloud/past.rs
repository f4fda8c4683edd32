use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use super::Cloud;
use super::interface::NetworkInterface;
use crate::{EniId, Timestamp};

/// What the ENIs were before each change, as far back as is looked.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Past {
    reach: Duration,
    /// Each state with the time at which it ended, the oldest first.
    ended: VecDeque<(Timestamp, BTreeMap<EniId, NetworkInterface>)>,
}

impl Past {
    /// Keeps a state that is about to end.
    pub(in crate::sim) fn record(
        &mut self,
        enis: &BTreeMap<EniId, NetworkInterface>,
        now: Timestamp,
    ) {
        if self.reach == Duration::ZERO {
            return;
        }
        while self.ended.front().is_some_and(|(ended, _)| now.since(*ended) > self.reach) {
            self.ended.pop_front();
        }
        self.ended.push_back((now, enis.clone()));
    }

    /// Returns what was at a point in time; `None` if it is what is.
    pub(in crate::sim) fn at(&self, time: Timestamp) -> Option<&BTreeMap<EniId, NetworkInterface>> {
        self.ended.iter().find(|(ended, _)| *ended > time).map(|(_, enis)| enis)
    }
}

impl Cloud {
    /// Keeps what was from now on, so that [`Fault::Stale`](crate::sim::Fault::Stale) can show it, for this long; by default nothing is kept.
    pub fn remember(&mut self, reach: Duration) {
        self.past = Past { reach, ended: VecDeque::new() };
    }
}
