//! What the outcomes of actions change.

mod creation;
mod eni_call;
mod host_action;
mod question;
mod shortage;

use alloc::format;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::ipam::recorder::Input;
use crate::ipam::{GIVEN_UP_MAX, InFlight, Ipam};
use crate::plan::backoff::{about, gates, rule};
use crate::pool::Finding;
use crate::{
    Action, ActionId, BackoffScope, Ec2Action, Effect, Event, Failure, FailureKind, HostAction,
    Outcome, SubnetId, Timestamp, UnconfirmedCause,
};

/// After how many failures in a row of a call about an ENI EC2 is no longer asked each time what the ENI is like.
const ASKED_MAX: u32 = 3;

impl Ipam {
    /// Takes in what became of an action, once for each that was issued.
    ///
    /// An outcome of an action that was given up because none came in time
    /// ([`Timing::answer_max`](crate::Timing::answer_max)) is no more than a hint: EC2 is asked. One of an action that never
    /// was, or was answered before, changes nothing.
    pub fn handle_outcome(&mut self, id: ActionId, outcome: Outcome, now: Timestamp) {
        let tape = self.tape(|| Input::Outcome { id, outcome: outcome.clone() });
        self.on_time(now);
        match self.in_flight.remove(&id) {
            Some(in_flight) => self.on_outcome(id, in_flight, outcome, now),
            None => self.on_late_outcome(id, &outcome, now),
        }
        self.record(tape, Some(now));
    }

    fn on_outcome(&mut self, id: ActionId, in_flight: InFlight, outcome: Outcome, now: Timestamp) {
        match (&in_flight.planned.action, outcome) {
            (Action::Ec2(action), Outcome::Done(effect)) => {
                self.on_ec2_done(id, action, effect, &in_flight, now);
            }
            (Action::Ec2(action), Outcome::Failed(failure)) => {
                self.on_ec2_failed(id, action, &failure, now);
                self.event(Event::ActionFailed { id, failure });
            }
            (Action::Host(action), Outcome::Done(_)) => self.on_host_done(id, action, now),
            (Action::Host(action), Outcome::Failed(failure)) => {
                self.on_host_failed(id, action, &failure, now);
                self.event(Event::ActionFailed { id, failure });
            }
        }
        self.replan(now);
    }

    /// Gives up the actions that were not answered in time. Whether they took effect is not known.
    pub(super) fn give_up_unanswered(&mut self, now: Timestamp) {
        let answer_max = self.config.timing.answer_max;
        let overdue = |in_flight: &InFlight| in_flight.issued_at + answer_max <= now;
        let over: Vec<ActionId> =
            self.in_flight.iter().filter(|(_, it)| overdue(it)).map(|(id, _)| *id).collect();
        for id in over {
            let Some(InFlight { planned, .. }) = self.in_flight.remove(&id) else { continue };
            let action = planned.action;
            let failure = unanswered(format!("{action}: no outcome within {answer_max:?}"));
            match &action {
                Action::Ec2(action) => self.on_ec2_failed(id, action, &failure, now),
                Action::Host(action) => {
                    self.on_host_failed(id, action, &failure, now);
                }
            }
            self.event(Event::ActionFailed { id, failure });
            if self.given_up.len() >= GIVEN_UP_MAX {
                self.given_up.pop_front();
            }
            self.given_up.push_back((id, action));
        }
    }

    /// An action that was given up was answered after all: it may have taken effect any time, so EC2 is asked.
    fn on_late_outcome(&mut self, id: ActionId, outcome: &Outcome, now: Timestamp) {
        let Some(index) = self.given_up.iter().position(|(of, _)| *of == id) else {
            return;
        };
        let Some((_, action)) = self.given_up.remove(index) else {
            return;
        };
        // What the node does to a link may be done although it failed in the end.
        if matches!(outcome, Outcome::Done(_)) || matches!(action, Action::Host(_)) {
            self.on_done_late(&action, now);
        }
        let Action::Ec2(action) = action else {
            self.replan(now);
            return;
        };
        let reads = &mut self.reads;
        match (&action, about(&action)) {
            (Ec2Action::CreateNetworkInterface(_), _) => reads.unattached.answered = None,
            (_, Some(eni)) => {
                if let Some(eni) = self.pool.eni_mut(eni) {
                    eni.on_unconfirmed(UnconfirmedCause::Unanswered, now);
                }
            }
            (_, None) => reads.ask_ec2 = true,
        }
        self.replan(now);
    }

    /// An action took effect after it was given up: what it took away is gone, and what it did to a link is done again as it
    /// should be.
    fn on_done_late(&mut self, action: &Action, now: Timestamp) {
        match action {
            Action::Ec2(Ec2Action::UnassignPrivateIpAddresses(call)) => {
                self.on_unassigned_late(call.eni, call.blocks.iter().copied().map(IpNet::V4), now);
            }
            Action::Ec2(Ec2Action::UnassignIpv6Addresses(call)) => {
                self.on_unassigned_late(
                    call.eni,
                    call.prefixes.iter().copied().map(IpNet::V6),
                    now,
                );
            }
            Action::Ec2(Ec2Action::DetachNetworkInterface(call)) => {
                let mut finding = Finding::default();
                self.pool.on_eni_gone(call.eni, now, &mut finding);
                self.on_finding(finding, now);
            }
            Action::Ec2(_) => {}
            Action::Host(HostAction::SetUpEni(link)) => {
                if let Some(eni) = self.pool.eni_mut(link.eni) {
                    eni.on_set_up_late();
                }
            }
            Action::Host(HostAction::RemoveEni(link)) => {
                if let Some(eni) = self.pool.eni_mut(link.eni) {
                    eni.on_host_removed_late();
                }
            }
        }
    }

    fn on_ec2_done(
        &mut self,
        id: ActionId,
        action: &Ec2Action,
        effect: Effect,
        in_flight: &InFlight,
        now: Timestamp,
    ) {
        if !fits(action, &effect) {
            let answer = format!("{action}: the answer is of another action: {effect:?}");
            let failure = unanswered(answer);
            self.on_ec2_failed(id, action, &failure, now);
            self.event(Event::ActionFailed { id, failure });
            return;
        }
        self.end_read(id);
        let subnet = self.subnet_of(action);
        match self.take_effect(id, action, effect, in_flight, now) {
            Ok(()) => gates(action, subnet).for_each(|scope| self.succeed(scope)),
            Err(failure) => {
                let (scope, pace) =
                    rule(action, subnet, failure.kind, self.config.timing.subnet_backoff);
                self.fail(scope, pace, &failure, now);
                self.event(Event::ActionFailed { id, failure });
            }
        }
    }

    /// Takes in what an EC2 action brought about. Returns an error if it brought nothing that can be used.
    fn take_effect(
        &mut self,
        id: ActionId,
        action: &Ec2Action,
        effect: Effect,
        in_flight: &InFlight,
        now: Timestamp,
    ) -> Result<(), Failure> {
        match (action, effect) {
            (Ec2Action::CreateNetworkInterface(_), Effect::Created(observed)) => {
                self.on_created(id, &observed, now);
                Ok(())
            }
            (Ec2Action::DescribeNetworkInterfaces(_), Effect::Observed(observation)) => {
                self.on_shown(observation, in_flight, now)
            }
            (Ec2Action::DescribeSubnets, Effect::Subnets(subnets)) => {
                self.on_subnets(subnets, now);
                Ok(())
            }
            (Ec2Action::ReadMetadata, Effect::Metadata(metadata)) => {
                // Those of an ENI that is not told whole are what they were.
                self.surroundings.subnets.ranges.extend(metadata.subnets);
                self.refuse_outside();
                self.on_shown(metadata.observation, in_flight, now)
            }
            (action, effect) => match about(action) {
                Some(eni) => self.on_eni_call_done(eni, id, effect, now),
                None => Ok(()),
            },
        }
    }

    /// Returns the subnet of the ENI that an action is about, or is to make.
    fn subnet_of(&self, action: &Ec2Action) -> Option<SubnetId> {
        match action {
            Ec2Action::CreateNetworkInterface(request) => Some(request.subnet),
            action => about(action).and_then(|eni| Some(self.pool.eni(eni)?.subnet)),
        }
    }

    fn on_ec2_failed(
        &mut self,
        id: ActionId,
        action: &Ec2Action,
        failure: &Failure,
        now: Timestamp,
    ) {
        self.end_read(id);
        let subnet = self.subnet_of(action);
        if !self.can_ask_for_less(action, subnet, failure.kind, now) {
            let subnet_backoff = self.config.timing.subnet_backoff;
            let (scope, pace) = rule(action, subnet, failure.kind, subnet_backoff);
            self.fail(scope, pace, failure, now);
        }
        match (action, about(action)) {
            (Ec2Action::CreateNetworkInterface(_), _) => {
                self.on_creation_failed(id, failure.kind, now);
            }
            (_, Some(eni)) => {
                let again = action.operation().map_or(0, |operation| {
                    self.calls.backoff.in_a_row(BackoffScope::EniOperation(eni, operation))
                });
                self.on_eni_call_failed(eni, id, failure, again > ASKED_MAX, now);
            }
            (_, None) => {}
        }
    }
}

pub(super) fn unanswered(message: alloc::string::String) -> Failure {
    Failure { kind: FailureKind::Unanswered, retry_after: None, message }
}

/// Returns whether an effect can be that of an action. An executor that mixes them up is treated as one that gave no
/// answer: nothing is believed, and EC2 is asked.
fn fits(action: &Ec2Action, effect: &Effect) -> bool {
    match action {
        Ec2Action::CreateNetworkInterface(_) => matches!(effect, Effect::Created(_)),
        Ec2Action::AttachNetworkInterface(_) => matches!(effect, Effect::Attached(_)),
        Ec2Action::AssignPrivateIpAddresses(_) | Ec2Action::AssignIpv6Addresses(_) => {
            matches!(effect, Effect::Assigned(_))
        }
        Ec2Action::DescribeNetworkInterfaces(_) => matches!(effect, Effect::Observed(_)),
        Ec2Action::DescribeSubnets => matches!(effect, Effect::Subnets(_)),
        Ec2Action::ReadMetadata => matches!(effect, Effect::Metadata(_)),
        Ec2Action::ModifyNetworkInterfaceAttribute(_)
        | Ec2Action::UnassignPrivateIpAddresses(_)
        | Ec2Action::UnassignIpv6Addresses(_)
        | Ec2Action::DetachNetworkInterface(_)
        | Ec2Action::DeleteNetworkInterface(_)
        | Ec2Action::CreateTags(_) => matches!(effect, Effect::Done),
    }
}
