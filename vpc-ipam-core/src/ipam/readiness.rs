//! Whether the next pod gets an address: at once, in time, or not, and then why not.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use ipnet::IpNet;

use super::{AssignError, Assigned, Ipam};
use crate::model::action::PREFIX_SIZE;
use crate::plan::backoff::{about, gates, is_step_of_new_eni, of_eni};
use crate::plan::learned::AskedOf;
use crate::pool::{Block, Ec2Call, Ec2CallKind, Eni, Stage};
use crate::{
    Action, ActionId, AddressRequest, BackoffScope, Because, BlockState, Blocked, Card, CardChoice,
    Ec2Action, Ec2Operation, EniId, Ipv4Amount, Plan, Planned, Pod, PodKey, Source, Stock,
    SubnetId, Timestamp, WaitingOn, Wanted,
};

/// Whether the next ADD succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Readiness {
    /// It gets an address at once.
    Ready,
    /// It gets one before a point in time.
    Soon {
        /// The point in time.
        by: Timestamp,
    },
    /// No address can be had in time; the next ADD fails with this error.
    NotReady(AssignError),
}

impl Readiness {
    /// Returns whether pods may be sent to the node: STATUS says yes.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::Soon { .. })
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Soon { by } => write!(f, "ready: the next pod gets an address by {by}"),
            Self::NotReady(error) => {
                write!(f, "not ready: {error}")?;
                match error.retry_at() {
                    Some(at) => write!(f, "; may change at {at}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Ipam {
    /// Returns what the next ADD of a pod that is not known yet would be answered. Changes nothing.
    pub fn readiness(&self, now: Timestamp) -> Readiness {
        // The next pod is treated as every other: it asks, on a copy.
        let key = PodKey::new("\0", "\0", "\0").expect("no part is empty");
        let pod = Arc::new(Pod { namespace: "\0".into(), name: "\0".into() });
        let request = AddressRequest::new(key, pod);
        let mut copy = self.clone();
        // What is asked on a copy is no part of the journal.
        copy.recorder = None;
        match copy.assign(&request, now) {
            Ok(Assigned::Now(_)) => Readiness::Ready,
            // It may as well wait; but nothing is promised on the strength of what failed last.
            Ok(Assigned::Later { deadline }) => {
                let plan = copy.plan(now);
                let outlook =
                    Outlook { ipam: &copy, plan: &plan, deadline, now, trust: Trust::Unfailed };
                if outlook.serves(&request) {
                    Readiness::Soon { by: deadline }
                } else {
                    Readiness::NotReady(copy.refusal(&request, &plan, now))
                }
            }
            Err(error) => Readiness::NotReady(error),
        }
    }

    /// Returns an error unless every waiting pod, a newcomer with this request included, can be served before
    /// `deadline`.
    pub(super) fn wait_is_worthwhile(
        &self,
        request: &AddressRequest,
        deadline: Timestamp,
        now: Timestamp,
    ) -> Result<(), AssignError> {
        let plan = self.plan(now);
        let outlook = Outlook { ipam: self, plan: &plan, deadline, now, trust: Trust::Any };
        if outlook.serves(request) { Ok(()) } else { Err(self.refusal(request, &plan, now)) }
    }

    /// Returns the answer to a pod that gets no address.
    pub(super) fn refusal(
        &self,
        request: &AddressRequest,
        plan: &Plan,
        now: Timestamp,
    ) -> AssignError {
        let mut causes = causes(plan);
        if let Some(address) =
            self.pool().lease(&request.key).and_then(|lease| lease.addresses().next())
        {
            return AssignError::NotUsable { address, causes };
        }
        let coming = self.in_flight().filter_map(|(id, planned)| {
            Some(Blocked { wanted: brings(planned)?, waiting_on: WaitingOn::Outcome(id) })
        });
        for blocked in coming {
            if !causes.contains(&blocked) {
                causes.push(blocked);
            }
        }
        let cooled_at = self.cooled_at(now);
        if let Some(until) = cooled_at {
            let wanted = Wanted::Addresses { card: Card(0) };
            causes.push(Blocked { wanted, waiting_on: WaitingOn::Cooling { until } });
        }
        // What waits for no point in time may be over the next moment.
        let soon = |blocked: &Blocked| {
            blocked.waiting_on.until().is_none() && blocked.waiting_on.is_temporary()
        };
        let at_once = causes.iter().any(soon) || plan.actions.iter().any(|p| brings(p).is_some());
        let retry_at = if at_once {
            Some(now)
        } else {
            causes.iter().filter_map(|blocked| blocked.waiting_on.until()).min()
        };
        let cards = plan.demand.iter().filter(|on| self.is_choice(request, on.card));
        let stock = cards.map(|on| on.stock).reduce(|a, b| Stock {
            total: a.total + b.total,
            assigned: a.assigned + b.assigned,
            cooling: a.cooling + b.cooling,
            waiting: a.waiting.max(b.waiting),
            prefixes: a.prefixes + b.prefixes,
            prefixes_free: a.prefixes_free + b.prefixes_free,
        });
        // The pod knows that it waits.
        let stock = stock.map(|stock| Stock { waiting: stock.waiting.saturating_sub(1), ..stock });
        AssignError::NoAddress { stock, causes, retry_at }
    }

    fn is_choice(&self, request: &AddressRequest, card: Card) -> bool {
        match request.cards {
            CardChoice::Any => card == Card(0) || self.config().multi_nic,
            CardChoice::Every => true,
            CardChoice::On(eni) => self.pool().eni(eni).is_some_and(|eni| eni.card == card),
        }
    }
}

/// Returns what stands in the way of more addresses.
fn causes(plan: &Plan) -> Vec<Blocked> {
    let reads_fail = |blocked: &Blocked| {
        matches!(blocked.wanted, Wanted::Answer(Source::Ec2) | Wanted::Subnets)
            && matches!(blocked.waiting_on, WaitingOn::Backoff { .. })
    };
    let about_addresses = |blocked: &&Blocked| {
        matches!(
            blocked.wanted,
            Wanted::Addresses { .. } | Wanted::Eni { .. } | Wanted::NextStep(_)
        ) || reads_fail(blocked)
    };
    plan.blocked.iter().filter(about_addresses).cloned().collect()
}

/// Returns what is wanted with an action, if it brings addresses.
fn brings(Planned { action, because }: &Planned) -> Option<Wanted> {
    match (action, because) {
        (
            Action::Ec2(Ec2Action::CreateNetworkInterface(_)),
            Because::OffTarget { card, .. } | Because::NoEniOnCard { card },
        ) => Some(Wanted::Eni { card: *card }),
        (Action::Ec2(Ec2Action::AssignPrivateIpAddresses(_)), Because::OffTarget { card, .. }) => {
            Some(Wanted::Addresses { card: *card })
        }
        (Action::Ec2(Ec2Action::AssignIpv6Addresses(call)), _) => Some(Wanted::NextStep(call.eni)),
        _ => None,
    }
}

/// What can be had before a deadline.
struct Outlook<'a> {
    ipam: &'a Ipam,
    plan: &'a Plan,
    deadline: Timestamp,
    now: Timestamp,
    trust: Trust,
}

/// Which calls are expected to succeed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// All: a pod may as well wait for them.
    Any,
    /// Those that did not fail last: what is promised has to come true.
    Unfailed,
}

impl Outlook<'_> {
    /// Returns whether every waiting pod can be served, a newcomer with this request, who is counted already,
    /// included.
    fn serves(&self, request: &AddressRequest) -> bool {
        let eligibility = self.ipam.eligibility();
        let waiting = i64::from(self.ipam.conditions().waiting);
        let ipv4 = eligibility.ipv4.is_none() || {
            let enough = match request.cards {
                CardChoice::Any => {
                    let cards = self.cards().filter(|card| self.ipam.is_choice(request, *card));
                    cards.map(|card| self.addresses(card)).sum::<i64>() >= waiting
                }
                CardChoice::Every => {
                    let every = i64::from(self.ipam.conditions().waiting_every_card);
                    self.cards().all(|card| {
                        let before = if card == Card(0) { waiting } else { every };
                        self.addresses(card) >= before
                    })
                }
                CardChoice::On(eni) => {
                    let waiting = self.ipam.conditions().waiting_on_eni.get(&eni).copied();
                    self.addresses_on(eni) >= i64::from(waiting.unwrap_or(0))
                }
            };
            enough || self.more_for(request)
        };
        let ipv6 = !eligibility.ipv6 || self.prefix_in_time() || self.more_in_time();
        ipv4 && ipv6
    }

    /// Returns whether more may be asked for in time that a pod with this request could use.
    fn more_for(&self, request: &AddressRequest) -> bool {
        let CardChoice::On(id) = request.cards else { return self.more_in_time() };
        // What may come is on another ENI, once this one is full. One that is not known yet may be shown.
        let full = |eni: &Eni| {
            let learned = self.ipam.learned.eni_slots(id, self.now).unwrap_or(u16::MAX);
            eni.ipv4_slots_used() >= u32::from(self.ipam.limits.ipv4_slots().min(learned))
        };
        let attached = self.ipam.reads.attached.answered.is_some();
        let usable = |eni: &Eni| self.ipam.eligibility().takes_pods(eni) && !full(eni);
        self.ipam.pool().eni(id).map_or(!attached, usable) && self.more_in_time()
    }

    fn cards(&self) -> impl Iterator<Item = Card> {
        // Before the first plan that compares cards nothing is known but that there is card 0.
        let demanded = self.plan.demand.iter().map(|on| on.card);
        let card = if self.plan.demand.is_empty() { Some(Card(0)) } else { None };
        card.into_iter().chain(demanded)
    }

    /// Returns whether something is expected to succeed.
    fn is_trusted(&self, mut scopes: impl Iterator<Item = BackoffScope>) -> bool {
        let backoff = &self.ipam.calls.backoff;
        self.trust == Trust::Any || !scopes.any(|scope| backoff.has_failed(scope))
    }

    fn is_action_trusted(&self, action: &Ec2Action) -> bool {
        let eni = about(action).and_then(|eni| self.ipam.pool().eni(eni));
        let steps_fail = matches!(action, Ec2Action::CreateNetworkInterface(_))
            && self.trust == Trust::Unfailed
            && self.ipam.calls.backoff.failing().any(is_step_of_new_eni);
        let subnet = match action {
            Ec2Action::CreateNetworkInterface(call) => Some(call.subnet),
            _ => eni.map(|eni| eni.subnet),
        };
        let fewer = self.trust == Trust::Unfailed
            && subnet.is_some_and(|subnet| self.is_asked_for_one(subnet, eni.map(|eni| eni.id)));
        !steps_fail && !fewer && self.is_trusted(gates(action, eni.map(|eni| eni.subnet)))
    }

    /// Returns whether a subnet or an ENI refused several blocks, and has not given one since.
    fn is_asked_for_one(&self, subnet: SubnetId, eni: Option<EniId>) -> bool {
        let of = [AskedOf::Addresses(subnet), AskedOf::Prefixes(subnet)];
        let mut of = of.into_iter().chain(eni.map(AskedOf::Eni));
        of.any(|of| self.ipam.learned.ask_most(of, self.now) == Some(1))
    }

    /// Counts the addresses of a card that no pod has and that can be granted before the deadline: there, asked for, or
    /// planned.
    fn addresses(&self, card: Card) -> i64 {
        let ipam = self.ipam;
        let enis = self.enis_in_time(card);
        let mut count = enis.map(|eni| self.held_or_asked_for(eni)).sum::<i64>();
        let coming = ipam.pool().creations().values().filter(|creation| {
            let action = Ec2Action::CreateNetworkInterface(creation.request.clone());
            creation.card == card && self.is_creation_trusted(card, &action)
        });
        count += coming.map(|creation| size(creation.request.ipv4)).sum::<i64>();
        count + self.plan.actions.iter().map(|planned| self.planned(planned, card)).sum::<i64>()
    }

    /// Counts the addresses of one ENI as [`addresses`](Self::addresses) does those of a card.
    fn addresses_on(&self, id: EniId) -> i64 {
        let Some(card) = self.ipam.pool().eni(id).map(|eni| eni.card) else { return 0 };
        let enis = self.enis_in_time(card).filter(|eni| eni.id == id);
        let there = enis.map(|eni| self.held_or_asked_for(eni)).sum::<i64>();
        let planned = self.plan.actions.iter().filter(|planned| {
            matches!(&planned.action,
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) if call.eni == id)
        });
        there + planned.map(|planned| self.planned(planned, card)).sum::<i64>()
    }

    /// Counts the addresses of an ENI that no pod has and that can be granted before the deadline: there, or asked for.
    fn held_or_asked_for(&self, eni: &Eni) -> i64 {
        let horizon = self.deadline.since(self.now);
        let mut count = 0;
        for block in eni.blocks() {
            let granted = block.state() == BlockState::Confirmed;
            if matches!(block.net(), IpNet::V4(_)) && granted {
                let taken = block.assigned()
                    + block.quarantined()
                    + block.cooling(self.now, self.ipam.config().cooldown, horizon);
                count += i64::from(block.capacity()) - i64::from(taken);
            }
        }
        let trusted = eni.ec2_call.as_ref().filter(|call| self.is_call_trusted(call.id));
        if let Some(&Ec2Call { kind: Ec2CallKind::AssignIpv4 { blocks, prefixes }, .. }) = trusted {
            count += i64::from(blocks) * if prefixes { i64::from(PREFIX_SIZE) } else { 1 };
        }
        count
    }

    /// Returns whether an action under way is expected to succeed.
    fn is_call_trusted(&self, id: ActionId) -> bool {
        let mut in_flight = self.ipam.in_flight();
        in_flight.find(|(of, _)| *of == id).is_none_or(|(_, planned)| match &planned.action {
            Action::Ec2(action) => self.is_action_trusted(action),
            Action::Host(_) => true,
        })
    }

    /// Returns whether the node may grow, so that an ENI that is made will be attached, and again if that is refused once.
    fn attaches(&self) -> bool {
        let Ipam { config, conditions, reads, .. } = self.ipam;
        // What is attached already may leave no slot.
        let known = self.trust == Trust::Any || reads.attached.answered.is_some();
        known
            && config.provisioning
            && !conditions.terminating
            && (conditions.schedulable || config.manage_unschedulable)
    }

    /// Returns whether an ENI that is being made is expected to serve pods.
    fn is_creation_trusted(&self, card: Card, action: &Ec2Action) -> bool {
        self.attaches()
            && self.is_action_trusted(action)
            && self.is_trusted(core::iter::once(BackoffScope::Card(card)))
    }

    fn planned(&self, Planned { action, because }: &Planned, card: Card) -> i64 {
        match action {
            Action::Ec2(action @ Ec2Action::AssignPrivateIpAddresses(call)) => {
                let on_card = self.enis_in_time(card).any(|eni| eni.id == call.eni);
                if on_card && self.is_action_trusted(action) { size(call.amount) } else { 0 }
            }
            Action::Ec2(action @ Ec2Action::CreateNetworkInterface(call)) => match because {
                Because::OffTarget { card: of, .. }
                    if *of == card && self.is_creation_trusted(card, action) =>
                {
                    size(call.ipv4)
                }
                _ => 0,
            },
            Action::Ec2(_) | Action::Host(_) => 0,
        }
    }

    /// Returns the ENIs of a card that serve pods, or will before the deadline.
    fn enis_in_time(&self, card: Card) -> impl Iterator<Item = &Eni> {
        let eligibility = self.ipam.eligibility();
        let late = |eni: &Eni| {
            eni.stage != Stage::Ready
                && self.plan.blocked.iter().any(|blocked| {
                    blocked.wanted == Wanted::NextStep(eni.id)
                        && !self.ends_in_time(blocked.waiting_on.clone())
                })
        };
        let way = |eni: &Eni| {
            let operation = Ec2Operation::AttachNetworkInterface;
            let attach = of_eni(eni.id, operation)
                .into_iter()
                .chain([BackoffScope::Operation(operation)])
                .filter(|_| eni.stage == Stage::Available);
            let scopes = attach.chain([BackoffScope::SetUp(eni.id)]);
            let attached = eni.stage != Stage::Available || self.attaches();
            // Its subnet may be out of use.
            let listed = self.trust == Trust::Any || self.ipam.reads.subnets.answered.is_some();
            eni.stage == Stage::Ready || attached && listed && self.is_trusted(scopes)
        };
        let enis = self.ipam.pool().enis().iter();
        enis.filter(move |eni| {
            eni.card == card
                && eligibility.takes_pods(eni)
                && !late(eni)
                && way(eni)
                && (!eligibility.ipv6 || self.has_prefix_in_time(eni))
        })
    }

    /// Returns whether an ENI has a /80 prefix, or one is asked for or planned.
    fn has_prefix_in_time(&self, eni: &Eni) -> bool {
        let confirmed = |block: &Block| {
            matches!(block.net(), IpNet::V6(_)) && block.state() == BlockState::Confirmed
        };
        let planned = |planned: &Planned| match &planned.action {
            Action::Ec2(action @ Ec2Action::AssignIpv6Addresses(call)) => {
                call.eni == eni.id && self.is_action_trusted(action)
            }
            _ => false,
        };
        eni.blocks().iter().any(confirmed)
            || self.plan.actions.iter().any(planned)
            || matches!(
                eni.ec2_call,
                Some(Ec2Call { kind: Ec2CallKind::AssignIpv6, id }) if self.is_call_trusted(id)
            )
    }

    /// Returns whether a /80 prefix is there, asked for or planned.
    fn prefix_in_time(&self) -> bool {
        let coming = |planned: &Planned| match &planned.action {
            Action::Ec2(action @ Ec2Action::CreateNetworkInterface(call)) => {
                call.ipv6_prefixes > 0 && self.is_creation_trusted(Card(0), action)
            }
            Action::Ec2(_) | Action::Host(_) => false,
        };
        let mut creations = self.ipam.pool().creations().values();
        self.cards().any(|card| self.enis_in_time(card).next().is_some())
            || creations.any(|creation| {
                let action = Ec2Action::CreateNetworkInterface(creation.request.clone());
                creation.request.ipv6_prefixes > 0
                    && self.is_creation_trusted(creation.card, &action)
            })
            || self.plan.actions.iter().any(coming)
    }

    /// Returns whether what holds growth back ends before the deadline, so that more will be asked for then.
    fn more_in_time(&self) -> bool {
        let for_growth = |blocked: &Blocked| match blocked.wanted {
            Wanted::Addresses { .. } | Wanted::Eni { .. } => true,
            // Its IPv6 prefix is a later step.
            Wanted::NextStep(id) => {
                self.ipam.pool().eni(id).is_some_and(|eni| !eni.is_removing())
                    && self.ipam.eligibility().ipv6
                    && self.ipam.config().provisioning
            }
            _ => false,
        };
        let blocked = || self.plan.blocked.iter().filter(|blocked| for_growth(blocked));
        let Ipam { calls, reads, .. } = self.ipam;
        let unconfirmed = self.trust == Trust::Unfailed
            && (calls.does_growth_fail()
                // Nothing is known yet of what the subnets have.
                || reads.subnets.answered.is_none()
                || blocked().any(|blocked| {
                    // What EC2 has not shown yet may leave no room.
                    !blocked.waiting_on.is_temporary()
                        || blocked.waiting_on == WaitingOn::FirstObservation
                }));
        !unconfirmed && blocked().any(|blocked| self.ends_in_time(blocked.waiting_on.clone()))
    }

    fn ends_in_time(&self, waiting_on: WaitingOn) -> bool {
        let read = |wanted: Wanted| {
            !self.plan.blocked.iter().any(|blocked| {
                blocked.wanted == wanted
                    && matches!(blocked.waiting_on, WaitingOn::Backoff { until, .. } if until >= self.deadline)
            })
        };
        match waiting_on {
            WaitingOn::FirstObservation | WaitingOn::Observation { .. } => {
                read(Wanted::Answer(Source::Ec2))
            }
            WaitingOn::Subnets => read(Wanted::Subnets),
            other => {
                other.is_temporary() && other.until().is_none_or(|until| until < self.deadline)
            }
        }
    }
}

fn size(amount: Ipv4Amount) -> i64 {
    match amount {
        Ipv4Amount::Addresses(count) => count.into(),
        Ipv4Amount::Prefixes(count) => i64::from(count) * i64::from(PREFIX_SIZE),
    }
}
