//! What a node knows at one moment: the head of a journal that begins in the middle of its life.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};

use crate::ipam::recorder::{Hashes, Recorder, StateHash};
use crate::ipam::{InFlight, Ipam, Waiting};
use crate::plan::calls::CallLimiter;
use crate::plan::client_tokens::ClientTokens;
use crate::plan::learned::Learned;
use crate::plan::questions::Reads;
use crate::pool::surroundings::Surroundings;
use crate::{Action, ActionId, Conditions, Config, Limits, Node, Pool, Timestamp, Wake};

/// Everything that decides what an [`Ipam`] does next, at one moment: all but what waits to be polled.
///
/// [`Ipam::begin_journal`] makes it, [`Snapshot::resume`] goes on from it. With feature `serde` it can be stored. Its form is that of one
/// release: another one may refuse to read it, and the state of the node is in it as it was, unchecked. So it is for replay
/// and never for a restart, for which there are [`Record`](crate::Record)s.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Snapshot {
    config: Config,
    limits: Limits,
    pool: Pool,
    node: Node,
    conditions: Conditions,
    surroundings: Surroundings,
    reads: Reads,
    learned: Learned,
    calls: CallLimiter,
    tokens: ClientTokens,
    waiting: VecDeque<Waiting>,
    in_flight: BTreeMap<ActionId, InFlight>,
    given_up: VecDeque<(ActionId, Action)>,
    latest: Timestamp,
    next_id: u64,
    changed_at: Option<Timestamp>,
    due: Option<(Timestamp, Wake)>,
}

impl Snapshot {
    /// Returns the address management as it was, with nothing left to poll. It does not record.
    pub fn resume(&self) -> Ipam {
        let snapshot = self.clone();
        Ipam {
            config: snapshot.config,
            limits: snapshot.limits,
            pool: snapshot.pool,
            node: snapshot.node,
            conditions: snapshot.conditions,
            surroundings: snapshot.surroundings,
            reads: snapshot.reads,
            learned: snapshot.learned,
            calls: snapshot.calls,
            tokens: snapshot.tokens,
            waiting: snapshot.waiting,
            in_flight: snapshot.in_flight,
            given_up: snapshot.given_up,
            latest: snapshot.latest,
            next_id: snapshot.next_id,
            actions: VecDeque::new(),
            grants: VecDeque::new(),
            events: VecDeque::new(),
            events_dropped: 0,
            changed_at: snapshot.changed_at,
            due: snapshot.due,
            recorder: None,
        }
    }

    /// Returns the node whose state this is.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the hash of the state, as [`Ipam::state`].
    pub fn state(&self) -> StateHash {
        self.resume().state()
    }
}

impl Ipam {
    /// Begins a journal, or another one: steps are recorded from now on and numbered from 1, and what was recorded before and not
    /// polled is dropped. Returns the state that the journal begins with.
    ///
    /// Drain the polls first. What waits in them is not in the snapshot, and a replay does not show it.
    pub fn begin_journal(&mut self, hashes: Hashes) -> Snapshot {
        self.recorder = Some(Box::new(Recorder::new(self.latest, hashes)));
        self.snapshot()
    }

    /// Ends the journal: nothing is recorded any more.
    pub fn end_journal(&mut self) {
        self.recorder = None;
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config.clone(),
            limits: self.limits.clone(),
            pool: self.pool.clone(),
            node: self.node.clone(),
            conditions: self.conditions.clone(),
            surroundings: self.surroundings.clone(),
            reads: self.reads.clone(),
            learned: self.learned.clone(),
            calls: self.calls.clone(),
            tokens: self.tokens,
            waiting: self.waiting.clone(),
            in_flight: self.in_flight.clone(),
            given_up: self.given_up.clone(),
            latest: self.latest,
            next_id: self.next_id,
            changed_at: self.changed_at,
            due: self.due.clone(),
        }
    }
}
