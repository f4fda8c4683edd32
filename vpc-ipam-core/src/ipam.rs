//! The state machine that puts pool, plan and inputs together.

pub(crate) mod check;
pub(crate) mod explain;
pub mod journal;
mod outcome;
mod readiness;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

pub use self::readiness::{AssignError, Readiness};
use crate::ipam::journal::{Input, Recorder};
use crate::plan::backoff::Pace;
use crate::plan::calls::CallLimiter;
use crate::plan::client_tokens::ClientTokens;
use crate::plan::learned::Learned;
use crate::plan::questions::{Read, Reads};
use crate::plan::{Inputs, is_excluded, plan};
use crate::pool::surroundings::Surroundings;
use crate::pool::{
    Creation, Ec2Call, Ec2CallKind, Eligibility, Finding, NotAssigned, Reconciler, is_whole,
};
use crate::{
    Action, ActionId, AddressRequest, BackoffScope, Because, Budget, Card, CardChoice, Conditions,
    Config, DeviceIndex, Ec2Action, EniAttribute, EniConfig, EniId, Event, Failure, FailureKind,
    Families, HostAction, Ipv4Amount, LearnedLimit, Lease, Limits, Node, Observation, Plan,
    Planned, PodKey, Pool, Question, RecentFailure, Record, Scope, Source, Stage, Timestamp,
    Uncommitted, WaitingOn,
};

/// The address management of one node, as a value that is fed events.
///
/// It asks for nothing and knows no clock. The world tells it what happened, with the time; it tells the world what to do:
///
/// * told by the world: [`observe`](Self::observe), [`assign`](Self::assign), [`release`](Self::release),
///   [`handle_outcome`](Self::handle_outcome), [`handle_timeout`](Self::handle_timeout) and the other `handle_*`;
/// * told to the world: [`poll_action`](Self::poll_action), [`poll_grant`](Self::poll_grant),
///   [`poll_event`](Self::poll_event), [`poll_timeout`](Self::poll_timeout).
///
/// After every input, drain the polls. Polling changes nothing else, so its order does not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Ipam {
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
    /// Actions that were given up because no outcome came in time; an outcome that comes later is no more than a hint.
    given_up: VecDeque<(ActionId, Action)>,
    /// The latest time ever told: an earlier one means that the clock was set back.
    latest: Timestamp,
    next_id: u64,
    pub(crate) actions: VecDeque<Issued>,
    grants: VecDeque<Granted>,
    events: VecDeque<Event>,
    events_dropped: u64,
    /// Since when something changed that was not planned for yet.
    changed_at: Option<Timestamp>,
    /// When something that was held back at the last planning may go.
    due: Option<(Timestamp, Wake)>,
    /// The journal recorder, if enabled.
    pub(crate) recorder: Option<Box<Recorder>>,
}

/// An action whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq)]
struct InFlight {
    planned: Planned,
    issued_at: Timestamp,
    /// Whether the clock was set back since: what it shows has no age that could be compared.
    before_clock_set_back: bool,
}

/// A pod that waits for an address.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    request: AddressRequest,
    deadline: Timestamp,
}

/// The most events kept for a reader who is late.
const EVENTS_MAX: usize = 1024;
/// The most pods that may wait at once: more than any node runs.
const WAITING_MAX: usize = 1024;
/// The most given-up actions whose late outcomes are still told from those of actions that never were.
const GIVEN_UP_MAX: usize = 256;

/// An action to carry out, and why.
///
/// Hand each back once, with [`Ipam::handle_outcome`], also if it failed or that is not known. One that is not answered within
/// [`Timing::answer_max`](crate::Timing::answer_max) counts as unanswered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "an action has to be carried out and its outcome handed back"]
pub struct Issued {
    /// Names it; hand it back with the outcome.
    pub id: ActionId,
    /// What to do.
    pub action: Action,
    /// Why.
    pub because: Because,
}

/// What an ADD gets.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Assigned {
    /// An address, to be made durable first.
    Now(Uncommitted),
    /// An address is on its way; [`Ipam::poll_grant`] answers by `deadline`.
    Later {
        /// The answer comes before.
        deadline: Timestamp,
    },
}

/// The answer to an ADD that had to wait.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pod waits for it"]
pub struct Grant {
    /// Whose.
    pub key: PodKey,
    /// The address, to be made durable first, or why there is none.
    pub result: Result<Uncommitted, AssignError>,
}

/// A [`Grant`] before it is polled; clonable, since it cannot be committed.
#[derive(Clone, Debug, PartialEq)]
struct Granted {
    key: PodKey,
    result: Result<Lease, AssignError>,
}

/// What became of a DEL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// The pod held a lease. Write [`Record::released`] to stable storage before DEL is answered.
    Lease {
        /// What it held.
        lease: Lease,
        /// Since when its addresses cool.
        at: Timestamp,
    },
    /// The pod was waiting for an address and no longer is.
    WasWaiting,
    /// The pod is not known: it never was, or was released before. DEL succeeds all the same.
    Unknown,
}

/// Why [`Ipam::poll_timeout`] names a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Wake {
    /// Something changed: planning is due at once.
    Changed,
    /// Something that was held back may go.
    Due(WaitingOn),
    /// A pod has waited long enough, and gets an answer either way.
    Deadline,
    /// An address that waiting pods could use has cooled down.
    Cooled,
    /// An action was not answered in time.
    Unanswered,
}

/// A configuration that an instance type cannot follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableConfigError {
    /// IPv6 needs prefixes.
    #[error(
        "{instance_type} takes no prefixes, which IPv6 needs: use a Nitro instance type or ENABLE_IPv6=false"
    )]
    Ipv6WithoutPrefixes {
        /// The type.
        instance_type: crate::InstanceType,
    },
    /// Custom networking chooses subnets for IPv4 alone.
    #[error(
        "custom networking does not go together with IPv6: set AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG or ENABLE_IPv6 to false"
    )]
    Ipv6WithCustomNetworking,
}

impl Ipam {
    /// Makes the address management of a node of which nothing is known yet.
    ///
    /// `seed` decides the jitter of waits and, with the instance, the client tokens of ENIs: give every start another one,
    /// the time for example. The caller has just read its metadata, so they are read again only later.
    pub fn new(
        node: Node,
        limits: Limits,
        config: Config,
        budget: Budget,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, UnusableConfigError> {
        usable(&config, &limits)?;
        let config = config.usable();
        let mut reads = Reads::default();
        // Where EC2 may not be asked, they are all there is.
        reads.metadata.answered = config.ec2_reads.then_some(now);
        Ok(Self {
            conditions: Conditions::default(),
            surroundings: Surroundings::default(),
            reads,
            learned: Learned::default(),
            calls: CallLimiter::new(budget, seed),
            tokens: ClientTokens::new(node.instance, seed),
            node,
            config,
            limits,
            pool: Pool::default(),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            given_up: VecDeque::new(),
            latest: now,
            next_id: 1,
            actions: VecDeque::new(),
            grants: VecDeque::new(),
            events: VecDeque::new(),
            events_dropped: 0,
            changed_at: Some(now),
            due: None,
            recorder: None,
        })
    }

    /// Takes in what was durable before a restart; call it before anything is observed.
    ///
    /// A lease whose ENI does not show up keeps its address from every other pod until it is released. An address that was
    /// released later than `now`, since the clock was set back, is cooling from now on.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>, now: Timestamp) {
        let records: Vec<Record> = records.into_iter().collect();
        let tape = self.tape(|| Input::Restore(records.clone()));
        let mut leases = Vec::new();
        for record in records {
            match record {
                Record::Leased(lease) => leases.push(lease),
                Record::Released { addresses, at, .. } => {
                    if now.since(at) <= self.config.cooldown {
                        for address in addresses {
                            self.pool.restore_released(address, at.min(now));
                        }
                    }
                }
            }
        }
        leases.sort_by(|a, b| (a.since, &a.key).cmp(&(b.since, &b.key)));
        for lease in leases {
            let key = lease.key.clone();
            if !self.pool.restore_lease(lease) {
                self.event(Event::LeaseConflict { key });
            }
        }
        self.changed_at.get_or_insert(now);
        self.record(tape, Some(now));
    }

    /// Takes in what a source showed without being asked by an action.
    ///
    /// One that was made before the clock was set back is void: do not show it. What is from the future is put aside.
    pub fn observe(&mut self, observation: &Observation, now: Timestamp) {
        let tape = self.tape(|| Input::Observe(observation.clone()));
        self.on_observation(observation, now);
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Takes in another configuration. What is under way is finished; the next plan follows the new one.
    pub fn handle_config(
        &mut self,
        config: Config,
        now: Timestamp,
    ) -> Result<(), UnusableConfigError> {
        usable(&config, &self.limits)?;
        let tape = self.tape(|| Input::Config(Box::new(config.clone())));
        self.config = config.usable();
        self.pool.manage(&self.config, &self.node);
        self.mark_excluded();
        self.replan(now);
        self.record(tape, Some(now));
        Ok(())
    }

    /// Takes in where new ENIs go under custom networking.
    pub fn handle_eni_config(&mut self, eni_config: Option<EniConfig>, now: Timestamp) {
        let tape = self.tape(|| Input::EniConfig(eni_config.clone()));
        self.conditions.eni_config = eni_config;
        self.mark_excluded();
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Takes in whether pods may be scheduled on the node.
    pub fn handle_schedulable(&mut self, schedulable: bool, now: Timestamp) {
        let tape = self.tape(|| Input::Schedulable(schedulable));
        self.conditions.schedulable = schedulable;
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Takes in that the node is going away: nothing is acquired any more.
    pub fn handle_terminating(&mut self, now: Timestamp) {
        let tape = self.tape(|| Input::Terminating);
        self.conditions.terminating = true;
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Takes in that an untracked owner uses an address of ours, or no longer does. Such an address is neither
    /// handed out nor released, also if its ENI is seen only later.
    pub fn handle_untracked(&mut self, address: IpAddr, in_use: bool, now: Timestamp) {
        let tape = self.tape(|| Input::Untracked { address, in_use });
        self.pool.on_untracked(address, in_use, now);
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Asks for an address for a pod.
    ///
    /// The same key asking again gets the same address. If none is free but one can be had in time, the answer comes
    /// through [`poll_grant`](Self::poll_grant), and the pod counts as demand until then.
    pub fn assign(
        &mut self,
        request: &AddressRequest,
        now: Timestamp,
    ) -> Result<Assigned, AssignError> {
        let tape = self.tape(|| Input::Assign(request.clone()));
        let answer = self.on_asked(request, now);
        self.record(tape, Some(now));
        answer
    }

    fn on_asked(
        &mut self,
        request: &AddressRequest,
        now: Timestamp,
    ) -> Result<Assigned, AssignError> {
        if let Some(waiting) = self.waiting.iter().find(|w| w.request.key == request.key) {
            return Ok(Assigned::Later { deadline: waiting.deadline });
        }
        if request.cards == CardChoice::Every && !self.config.multi_nic {
            return Err(AssignError::OneCard);
        }
        // Addresses that came free, or cooled down, since the last plan are for those who came first.
        if !self.waiting.is_empty() {
            self.serve_waiting(now);
        }
        let cards = self.cards_of(request);
        let why = match self.pool.assign(request, &self.eligibility(), &cards, now) {
            Ok(lease) => {
                self.changed_at.get_or_insert(now);
                return Ok(Assigned::Now(Uncommitted { lease }));
            }
            Err(why) => why,
        };
        if self.waiting.len() >= WAITING_MAX {
            return Err(AssignError::TooManyWaiting);
        }
        let deadline = now + self.config.timing.add_wait;
        self.waiting.push_back(Waiting { request: request.clone(), deadline });
        if why == NotAssigned::NoneFree {
            self.count_waiting();
            if let Err(error) = self.wait_is_worthwhile(request, deadline, now) {
                self.waiting.pop_back();
                self.count_waiting();
                return Err(error);
            }
        }
        self.changed_at.get_or_insert(now);
        Ok(Assigned::Later { deadline })
    }

    /// Takes in that a lease is durable; call it after [`Uncommitted::record`] is on stable storage. Returns the lease,
    /// or `None` if the pod was deleted meanwhile.
    #[must_use = "only a lease that is returned may be told to the pod"]
    pub fn commit(&mut self, uncommitted: Uncommitted) -> Option<Lease> {
        let tape = self.tape(|| Input::Commit(uncommitted.lease.clone()));
        let lease = self.pool.on_committed(uncommitted.lease);
        self.record(tape, None);
        lease
    }

    /// Takes in that a lease could not be made durable, or perhaps was. Its address is free again, unless it was durable before.
    ///
    /// The lease's record may be on stable storage all the same. So there is another one to write, before all later ones and
    /// again until that succeeds; `None` if there is nothing to undo: the lease was durable before, is being written once
    /// more, or ended meanwhile.
    #[must_use = "without this record a restart may find a lease that no pod has"]
    pub fn abandon(&mut self, uncommitted: Uncommitted, now: Timestamp) -> Option<Record> {
        let tape = self.tape(|| Input::Abandon(uncommitted.lease.clone()));
        let undone = self.pool.on_abandoned(&uncommitted.lease);
        self.changed_at.get_or_insert(now);
        self.record(tape, Some(now));
        undone.then(|| Record::undone(&uncommitted.lease, now))
    }

    /// Takes in that a pod is gone. Its addresses cool for the cool-down.
    pub fn release(&mut self, key: &PodKey, now: Timestamp) -> Released {
        let tape = self.tape(|| Input::Release(key.clone()));
        let released = self.on_given_up(key, now);
        self.record(tape, Some(now));
        released
    }

    fn on_given_up(&mut self, key: &PodKey, now: Timestamp) -> Released {
        self.grants.retain(|grant| grant.key != *key);
        let waiting = self.waiting.len();
        self.waiting.retain(|waiting| waiting.request.key != *key);
        let was_waiting = self.waiting.len() < waiting;
        if was_waiting {
            self.count_waiting();
        }
        match self.pool.release(key, now) {
            Some(lease) => {
                self.changed_at.get_or_insert(now);
                Released::Lease { lease, at: now }
            }
            None if was_waiting => {
                self.changed_at.get_or_insert(now);
                Released::WasWaiting
            }
            None => Released::Unknown,
        }
    }

    /// Takes in that time has passed. Call it when the time that [`poll_timeout`](Self::poll_timeout) named has come;
    /// earlier and later do no harm.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let tape = self.tape(|| Input::Timeout);
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Returns the next action to carry out.
    pub fn poll_action(&mut self) -> Option<Issued> {
        self.actions.pop_front()
    }

    /// Returns the next answer to an ADD that had to wait.
    pub fn poll_grant(&mut self) -> Option<Grant> {
        let Granted { key, result } = self.grants.pop_front()?;
        Some(Grant { key, result: result.map(|lease| Uncommitted { lease }) })
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        match self.events_dropped {
            0 => self.events.pop_front(),
            count => {
                self.events_dropped = 0;
                Some(Event::Dropped { count })
            }
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) should be called next, and why; a time that has passed means
    /// at once.
    pub fn poll_timeout(&self) -> Option<(Timestamp, Wake)> {
        let changed = self.changed_at.map(|at| (at, Wake::Changed));
        let deadline = self
            .waiting
            .iter()
            .map(|waiting| (waiting.deadline, Wake::Deadline))
            .min_by_key(|(at, _)| *at);
        [changed, self.due, deadline].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Returns what would be done now, and why, and what is held back, and by what. Changes nothing.
    pub fn plan(&self, now: Timestamp) -> Plan {
        plan(Inputs {
            pool: &self.pool,
            config: &self.config,
            limits: &self.limits,
            node: &self.node,
            conditions: &self.conditions,
            surroundings: &self.surroundings,
            reads: &self.reads,
            learned: &self.learned,
            calls: &self.calls,
            tokens: self.tokens,
            now,
        })
    }

    /// Returns what the node holds.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the limits of the instance type.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns what the node's scheduler and its pods ask for.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Returns what failed lately and is left alone for a while.
    pub fn recent_failures(&self, now: Timestamp) -> impl Iterator<Item = RecentFailure> {
        self.calls.backoff.recent(now)
    }

    /// Returns the limits that EC2 holds lower than those of the instance type.
    pub fn learned_limits(&self) -> impl Iterator<Item = LearnedLimit> {
        self.learned.limits()
    }

    /// Returns the actions whose outcome is not known yet.
    pub fn in_flight(&self) -> impl Iterator<Item = (ActionId, &Planned)> {
        self.in_flight.iter().map(|(id, in_flight)| (*id, &in_flight.planned))
    }

    /// Returns the pods that wait for an address, and until when, first come first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = (&PodKey, Timestamp)> {
        self.waiting.iter().map(|waiting| (&waiting.request.key, waiting.deadline))
    }

    /// Returns everything that decides what comes next: all but what waits to be polled.
    pub(crate) fn essence(&self) -> impl fmt::Debug + '_ {
        let Self { node, config, limits, pool, conditions, surroundings, .. } = self;
        let Self { reads, learned, calls, tokens, waiting, in_flight, given_up, .. } = self;
        let inputs = (node, config, limits, pool, conditions, surroundings);
        let state = (reads, learned, calls, tokens, waiting, in_flight, given_up);
        (inputs, state, self.latest, self.next_id, self.changed_at, self.due)
    }

    /// Serves those who wait, plans, and issues what is planned.
    fn replan(&mut self, now: Timestamp) {
        self.changed_at = None;
        self.on_time(now);
        self.give_up_unanswered(now);
        if self.conditions.terminating {
            self.give_up_creations();
        }
        self.pool.prune(&self.config, self.asked_at(), now);
        self.pool.yield_places();
        self.calls.backoff.prune(now);
        self.learned.prune(now);
        self.serve_waiting(now);
        let Plan { actions, blocked, .. } = self.plan(now);
        for planned in actions {
            self.issue(planned, now);
        }
        let due = blocked
            .iter()
            .filter_map(|held| Some((held.waiting_on.until()?, Wake::Due(held.waiting_on))));
        let cooled = if self.waiting.is_empty() { None } else { self.cooled_at(now) };
        let cooled = cooled.map(|at| (at, Wake::Cooled));
        let unanswered = self.in_flight.values().map(|in_flight| in_flight.issued_at).min();
        let unanswered =
            unanswered.map(|at| (at + self.config.timing.answer_max, Wake::Unanswered));
        self.due = due.chain(cooled).chain(unanswered).min_by_key(|(at, _)| *at);
    }

    /// Takes note of the time. Where the clock was set back, what is being asked has no age that could be compared.
    fn on_time(&mut self, now: Timestamp) {
        if now < self.latest {
            for in_flight in self.in_flight.values_mut() {
                in_flight.before_clock_set_back = true;
            }
            self.pool.on_clock_set_back(now);
        }
        self.latest = now;
    }

    /// Returns when the oldest question was asked that has no answer yet.
    fn asked_at(&self) -> Option<Timestamp> {
        let reads = self.in_flight.values().filter(|in_flight| {
            matches!(
                in_flight.planned.action,
                Action::Ec2(Ec2Action::DescribeNetworkInterfaces(_) | Ec2Action::ReadMetadata)
            )
        });
        reads.map(|in_flight| in_flight.issued_at).min()
    }

    /// Gives addresses to those who wait, first come first, and an answer to those who waited long enough.
    fn serve_waiting(&mut self, now: Timestamp) {
        let eligibility = self.eligibility();
        let mut waiting = core::mem::take(&mut self.waiting);
        waiting.retain(|Waiting { request, .. }| {
            let cards = self.cards_of(request);
            match self.pool.assign(request, &eligibility, &cards, now) {
                Ok(lease) => {
                    self.grants.push_back(Granted { key: request.key.clone(), result: Ok(lease) });
                    false
                }
                Err(_) => true,
            }
        });
        self.waiting = waiting;
        self.count_waiting();
        if self.waiting.iter().any(|waiting| waiting.deadline <= now) {
            let plan = self.plan(now);
            for waiting in core::mem::take(&mut self.waiting) {
                if waiting.deadline <= now {
                    let result = Err(self.refusal(&waiting.request, &plan, now));
                    self.grants.push_back(Granted { key: waiting.request.key, result });
                } else {
                    self.waiting.push_back(waiting);
                }
            }
            self.count_waiting();
        }
    }

    /// Counts the pods that wait for a free address; those that wait for their own are no demand.
    fn count_waiting(&mut self) {
        let (mut any, mut every) = (0, 0);
        for Waiting { request, .. } in &self.waiting {
            if self.pool.lease(&request.key).is_none() {
                any += 1;
                every += u32::from(request.cards == CardChoice::Every);
            }
        }
        self.conditions.waiting = any;
        self.conditions.waiting_every_card = every;
    }

    /// Returns when the first address that cools is ready, if one cools.
    fn cooled_at(&self, now: Timestamp) -> Option<Timestamp> {
        let blocks = self.pool.enis().iter().flat_map(|eni| eni.blocks());
        blocks.filter_map(|block| block.cooled_at(now, self.config.cooldown)).min()
    }

    fn eligibility(&self) -> Eligibility {
        Eligibility::new(&self.config, &self.limits)
    }

    /// Returns the network cards on which a pod needs an interface, if it needs several.
    fn cards_of(&self, request: &AddressRequest) -> Vec<Card> {
        match request.cards {
            CardChoice::Any => Vec::new(),
            CardChoice::Every => self.pool.cards_in_use(self.config.multi_nic, &self.limits),
        }
    }

    /// Remembers a failure, and says so if it is news.
    fn fail(&mut self, scope: BackoffScope, pace: Pace, failure: &Failure, now: Timestamp) {
        let backoff = &mut self.calls.backoff;
        if backoff.on_failed(scope, pace, failure, now) {
            let until = backoff.until(scope, now).unwrap_or(now);
            self.event(Event::Failing { scope, failure: failure.clone(), until });
        }
    }

    /// Forgets failures, and says so if there were any.
    fn succeed(&mut self, scope: BackoffScope) {
        let failures = self.calls.backoff.on_success(scope);
        if failures > 0 {
            self.event(Event::Recovered { scope, failures });
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Takes in an observation. Returns whether it counts: not if it is older than what is remembered, or from the future.
    fn on_observation(&mut self, observation: &Observation, now: Timestamp) -> bool {
        let Observation { as_of, source, ref enis, .. } = *observation;
        let settle = self.config.timing.settle;
        if as_of > now || !self.pool.remembers(as_of, settle) {
            self.event(Event::ObservationPutAside { source, as_of, enis: enis.len() });
            return false;
        }
        self.know_primary(observation, now);
        let reconciler = Reconciler {
            pool: &mut self.pool,
            observation,
            node: &self.node,
            subnets: &self.surroundings.subnets,
            imds_ignored: &self.calls.backoff.hints_ignored(now),
            config: &self.config,
            now,
            finding: Finding::default(),
        };
        let finding = reconciler.reconcile();
        self.on_finding(finding, now);
        self.on_answered(observation, now);
        let primary = enis.iter().find(|eni| eni.id == self.node.primary);
        if let Some(primary) = primary {
            let mut groups = primary.security_groups.clone();
            groups.sort_unstable();
            self.surroundings.security_groups = groups;
        }
        self.mark_excluded();
        true
    }

    /// Takes in what an observation led to.
    fn on_finding(&mut self, finding: Finding, now: Timestamp) {
        for event in finding.events {
            self.event(event);
        }
        let reads = &mut self.reads;
        reads.ask_ec2 |= !finding.unknown.is_empty();
        reads.hints.extend(finding.unknown);
        for eni in finding.borne_out {
            self.succeed(BackoffScope::Hint(eni));
        }
        for eni in finding.contradicted {
            self.on_hint_contradicted(eni, now);
        }
    }

    /// EC2 says otherwise than IMDS: what IMDS shows of this ENI is believed ever more rarely.
    fn on_hint_contradicted(&mut self, eni: EniId, now: Timestamp) {
        const PACE: Pace = Pace::secs(60, 3600);
        let failure = Failure {
            kind: FailureKind::Rejected,
            retry_after: None,
            message: "EC2 does not confirm what IMDS shows".into(),
        };
        self.fail(BackoffScope::Hint(eni), PACE, &failure, now);
    }

    /// Notes which question an observation answers.
    fn on_answered(&mut self, observation: &Observation, now: Timestamp) {
        let as_of = observation.as_of;
        let reads = &mut self.reads;
        let answered = |read: &mut Read| {
            read.answered = Some(read.answered.map_or(as_of, |at| at.max(as_of)));
        };
        match (observation.source, &observation.scope) {
            (Source::Imds, _) => {
                answered(&mut reads.metadata);
                if !self.config.ec2_reads {
                    answered(&mut reads.attached);
                }
            }
            (Source::Ec2, Scope::Attached) if is_whole(observation, &self.node) => {
                answered(&mut reads.attached);
                reads.ask_ec2 = false;
                for eni in core::mem::take(&mut reads.hints) {
                    if self.pool.eni(eni).is_some() {
                        self.succeed(BackoffScope::Hint(eni));
                    } else {
                        self.on_hint_contradicted(eni, now);
                    }
                }
            }
            // An answer without the primary ENI settles nothing.
            (Source::Ec2, Scope::Attached) => {}
            (Source::Ec2, Scope::Unattached) => answered(&mut reads.unattached),
            (Source::Ec2, Scope::Only(_)) => answered(&mut reads.unconfirmed),
        }
    }

    /// Learns of the primary ENI by IMDS while EC2 cannot be asked what there is. Its blocks are suspect until EC2 shows
    /// them; it can get further ones.
    fn know_primary(&mut self, observation: &Observation, now: Timestamp) {
        let primary = self.node.primary;
        let unknown = self.reads.attached.answered.is_none()
            && self.pool.eni(primary).is_none()
            && observation.source == Source::Imds;
        if unknown
            && self.config.ec2_reads
            && self.calls.is_question_stuck(Question::Attached)
            && let Some(observed) = observation.enis.iter().find(|eni| eni.id == primary)
        {
            let event = self.pool.insert_unconfirmed_primary(observed, now);
            self.event(event);
        }
    }

    /// Marks the ENIs whose subnets were taken out of use, and those whose subnets are back in use. A subnet that an
    /// ENIConfig names is in use, whatever its tags say: under custom networking no subnet is discovered by tags.
    fn mark_excluded(&mut self) {
        let cluster = self.config.cluster.as_deref();
        let named = self.conditions.eni_config.as_ref().filter(|_| self.config.custom_networking);
        let named = named.map(|eni_config| eni_config.subnet);
        for eni in self.pool.enis_mut() {
            if let Some(subnet) = self.surroundings.subnets.list.iter().find(|s| s.id == eni.subnet)
            {
                eni.excluded = named != Some(eni.subnet) && is_excluded(subnet, cluster);
            }
        }
    }

    /// Marks in the pool what an action is about to change, and hands the action out.
    fn issue(&mut self, planned: Planned, now: Timestamp) {
        let id = ActionId(self.next_id);
        self.next_id += 1;
        if let Because::NeverServed { eni } = planned.because {
            self.on_never_served(eni, now);
        }
        match &planned.action {
            Action::Ec2(action) => self.on_ec2_issued(id, action, planned.because, now),
            Action::Host(action) => self.on_host_issued(id, action),
        }
        let Planned { action, because } = planned.clone();
        let in_flight = InFlight { planned, issued_at: now, before_clock_set_back: false };
        self.in_flight.insert(id, in_flight);
        self.actions.push_back(Issued { id, action, because });
    }

    fn on_ec2_issued(
        &mut self,
        id: ActionId,
        action: &Ec2Action,
        because: Because,
        now: Timestamp,
    ) {
        if let Some(operation) = action.operation() {
            self.calls.spent.on_call(&self.calls.budget, operation, now);
        }
        let reads = &mut self.reads;
        let (eni, kind) = match action {
            Ec2Action::CreateNetworkInterface(request) => {
                self.on_creation_issued(id, request, because);
                return;
            }
            Ec2Action::AttachNetworkInterface(attach) => {
                self.pool.on_place_chosen(attach.eni, attach.card, attach.device);
                (attach.eni, Ec2CallKind::Attach)
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(modify) => {
                let kind = match &modify.attribute {
                    EniAttribute::DeleteOnTermination(_) => Ec2CallKind::MarkDeleteOnTermination,
                    EniAttribute::Groups(groups) => Ec2CallKind::SetGroups(groups.clone()),
                };
                (modify.eni, kind)
            }
            Ec2Action::AssignPrivateIpAddresses(assign) => {
                let kind = match assign.amount {
                    Ipv4Amount::Addresses(n) => {
                        Ec2CallKind::AssignIpv4 { blocks: n.into(), prefixes: false }
                    }
                    Ipv4Amount::Prefixes(n) => {
                        Ec2CallKind::AssignIpv4 { blocks: n.into(), prefixes: true }
                    }
                };
                (assign.eni, kind)
            }
            Ec2Action::AssignIpv6Addresses(assign) => (assign.eni, Ec2CallKind::AssignIpv6),
            Ec2Action::UnassignPrivateIpAddresses(unassign) => {
                let nets: Vec<_> = unassign.blocks.iter().copied().map(ipnet::IpNet::V4).collect();
                self.on_release_issued(unassign.eni, &nets, now);
                (unassign.eni, Ec2CallKind::Unassign(nets))
            }
            Ec2Action::UnassignIpv6Addresses(unassign) => {
                let nets: Vec<_> =
                    unassign.prefixes.iter().copied().map(ipnet::IpNet::V6).collect();
                self.on_release_issued(unassign.eni, &nets, now);
                (unassign.eni, Ec2CallKind::Unassign(nets))
            }
            Ec2Action::DetachNetworkInterface(detach) => (detach.eni, Ec2CallKind::Detach),
            Ec2Action::DeleteNetworkInterface(delete) => {
                if let Some(eni) = self.pool.eni_mut(delete.eni) {
                    eni.on_leave();
                }
                (delete.eni, Ec2CallKind::Delete)
            }
            Ec2Action::CreateTags(create) => (create.eni, Ec2CallKind::Tag(create.tags.clone())),
            Ec2Action::DescribeNetworkInterfaces(scope) => {
                match scope {
                    Scope::Attached => reads.attached.call = Some(id),
                    Scope::Unattached => reads.unattached.call = Some(id),
                    Scope::Only(_) => reads.unconfirmed.call = Some(id),
                }
                return;
            }
            Ec2Action::DescribeSubnets => {
                reads.subnets.call = Some(id);
                return;
            }
            Ec2Action::ReadMetadata => {
                reads.metadata.call = Some(id);
                return;
            }
        };
        if let Some(eni) = self.pool.eni_mut(eni) {
            eni.ec2_call = Some(Ec2Call { id, kind });
        }
    }

    fn on_creation_issued(
        &mut self,
        id: ActionId,
        request: &crate::CreateNetworkInterface,
        because: Because,
    ) {
        let creations = self.pool.creations_mut();
        let before = creations.iter().find(|(_, c)| c.request.client_token == request.client_token);
        if let Some(before) = before.map(|(id, _)| *id)
            && let Some(creation) = creations.remove(&before)
        {
            creations.insert(id, Creation { called: true, repeat_at: None, ..creation });
            return;
        }
        let card = match because {
            Because::OffTarget { card, .. } | Because::NoEniOnCard { card } => card,
            _ => Card(0),
        };
        self.tokens.on_used();
        // The planner made sure that there is one.
        let mut devices = (0..self.limits.enis(card)).map(DeviceIndex);
        let Some(device) = devices.find(|device| self.pool.is_device_free(card, *device)) else {
            return;
        };
        let request = request.clone();
        let creation =
            Creation { request, card, device, repeat_at: None, attempts: 0, called: true };
        self.pool.creations_mut().insert(id, creation);
    }

    fn on_release_issued(&mut self, eni: EniId, nets: &[ipnet::IpNet], now: Timestamp) {
        self.pool.shrunk_at = Some(now);
        if let Some(eni) = self.pool.eni_mut(eni) {
            eni.edit_blocks(|block| {
                if nets.contains(&block.net()) {
                    block.on_release_asked(now);
                }
            });
        }
    }

    fn on_host_issued(&mut self, id: ActionId, action: &HostAction) {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        if let Some(eni) = self.pool.eni_mut(link.eni) {
            if matches!(action, HostAction::RemoveEni(_))
                && matches!(eni.stage, Stage::Attached | Stage::Ready)
            {
                eni.on_leave();
            }
            eni.host_call = Some(id);
        }
    }
}

fn usable(config: &Config, limits: &Limits) -> Result<(), UnusableConfigError> {
    let ipv6 = config.families.ipv6();
    if ipv6 && !limits.prefixes() {
        let instance_type = limits.instance_type;
        return Err(UnusableConfigError::Ipv6WithoutPrefixes { instance_type });
    }
    if config.families == Families::Ipv6 && config.custom_networking {
        return Err(UnusableConfigError::Ipv6WithCustomNetworking);
    }
    Ok(())
}
