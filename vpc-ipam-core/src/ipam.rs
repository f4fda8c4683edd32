//! The state machine that puts pool, plan and inputs together.

mod answer;
mod assign;
pub(crate) mod check;
pub(crate) mod explain;
mod import;
mod issue;
pub mod journal;
mod observe;
mod outcome;
mod readiness;
mod recorder;
mod replay;
mod snapshot;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::ipam::answer::Granted;
use crate::ipam::recorder::{Input, Recorder};
use crate::plan::backoff::Pace;
use crate::plan::calls::CallLimiter;
use crate::plan::client_tokens::ClientTokens;
use crate::plan::learned::Learned;
use crate::plan::questions::Reads;
use crate::plan::{Inputs, plan};
use crate::pool::Eligibility;
use crate::pool::surroundings::Surroundings;
use crate::{
    Action, ActionId, AddressRequest, BackoffScope, Budget, Card, CardChoice, Conditions, Config,
    Ec2Action, Ec2Operation, EniConfig, Event, Failure, Families, LearnedLimit, Limits, Node, Plan,
    Planned, PodKey, Pool, RecentFailure, Timestamp, Uncommitted,
};

pub use self::answer::{AssignError, Assigned, Grant, Issued, Released, UnusableConfigError, Wake};
pub use self::readiness::Readiness;

/// The address management of one node, as a value that is fed events.
///
/// It asks for nothing and knows no clock. The world tells it what happened, with the time; it tells the world what to do:
///
/// * told by the world: [`observe`](Self::observe), [`assign`](Self::assign), [`import`](Self::import),
///   [`release`](Self::release), [`handle_outcome`](Self::handle_outcome), [`handle_timeout`](Self::handle_timeout) and the other `handle_*`;
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
    /// When something that was blocked at the last planning may go.
    due: Option<(Timestamp, Wake)>,
    /// The journal recorder, if enabled.
    pub(crate) recorder: Option<Box<Recorder>>,
}

/// An action whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct InFlight {
    planned: Planned,
    issued_at: Timestamp,
    /// Whether the clock was set back since: what it shows has no age that could be compared.
    before_clock_set_back: bool,
}

/// A pod that waits for an address.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Waiting {
    request: AddressRequest,
    deadline: Timestamp,
}

/// The most events kept for a reader who is late.
const EVENTS_MAX: usize = 1024;
/// The most given-up actions whose late outcomes are still told from those of actions that never were.
const GIVEN_UP_MAX: usize = 256;

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
        [changed, self.due.clone(), deadline].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Returns what would be done now, and why, and what is blocked, and by what. Changes nothing.
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

    /// Returns how many calls of each operation the budget leaves at this moment.
    pub fn calls_left(&self, now: Timestamp) -> impl Iterator<Item = (Ec2Operation, u32)> {
        let CallLimiter { budget, spent, .. } = &self.calls;
        let left = move |operation| (operation, spent.left(budget, operation, now));
        Ec2Operation::ASKED.into_iter().map(left)
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
        (inputs, state, self.latest, self.next_id, self.changed_at, self.due.clone())
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
        self.pool.yield_slots();
        self.calls.backoff.prune(now);
        self.learned.prune(now);
        self.serve_waiting(now);
        let Plan { actions, blocked, .. } = self.plan(now);
        for planned in actions {
            self.issue(planned, now);
        }
        let due = blocked.iter().filter_map(|held| {
            Some((held.waiting_on.until()?, Wake::Due(held.waiting_on.clone())))
        });
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

    fn eligibility(&self) -> Eligibility {
        Eligibility::new(&self.config, &self.limits)
    }

    /// Returns the network cards on which a pod needs an interface, if it needs several.
    fn cards_of(&self, request: &AddressRequest) -> Vec<Card> {
        match request.cards {
            CardChoice::Any | CardChoice::On(_) => Vec::new(),
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
