//! What the outcomes of actions change.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use ipnet::IpNet;

use super::{GIVEN_UP_MAX, InFlight, Ipam};
use crate::ipam::journal::Input;
use crate::model::action::PREFIX_SIZE;
use crate::plan::backoff::{PASSING, Pace, about, asks_for_prefixes, gates, rule};
use crate::plan::learned::AskedOf;
use crate::pool::{Ec2CallKind, Eni, Finding, is_whole};
use crate::{
    Action, ActionId, AttachmentStatus, BackoffScope, Ec2Action, Effect, EniId, Event, Failure,
    FailureKind, HostAction, Ipv4Amount, Observation, ObservedEni, ObservedSubnet, Outcome, Source,
    Stage, SubnetId, Timestamp, UnconfirmedCause,
};

/// While the kernel does not show the link of an ENI: it comes within seconds of the attachment.
const LINK: Pace = Pace { first: Duration::from_millis(50), most: Duration::from_secs(300) };
/// After an ENI could not leave, until it is chosen again.
const FREEING: Pace = Pace::secs(60, 3600);
/// After an ENI that was made never served a pod, until another is made for its network card.
const NEVER_SERVED: Pace = Pace::secs(60, 3600);
/// Between two calls with the token of a creation that got no answer: doubled with each, up to a minute.
const CREATION_REPEAT: Duration = Duration::from_secs(1);
/// After how many failures in a row of a call about an ENI EC2 is no longer asked each time what the ENI is like.
const ASKED_MAX: u32 = 3;
/// How often a creation is asked for again with its token before the tag by which it can be found has to do.
const CREATION_ATTEMPTS_MAX: u32 = 8;

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

    fn on_unassigned_late(&mut self, id: EniId, nets: impl Iterator<Item = IpNet>, now: Timestamp) {
        let Some(eni) = self.pool.eni_mut(id) else { return };
        let mut gone = Vec::new();
        for net in nets {
            let used = eni.block_of_net(net).map_or(0, |it| it.assigned() + it.quarantined());
            if used == 0 {
                gone.push(net);
            } else {
                eni.edit_block_of(net.network(), |block| block.on_denied(Source::Ec2, now));
            }
        }
        self.on_blocks_gone(id, gone, now);
    }

    /// EC2 took blocks back, as it was asked to.
    fn on_blocks_gone(&mut self, id: EniId, nets: Vec<IpNet>, now: Timestamp) {
        for net in &nets {
            self.pool.forget_block(id, *net);
            self.pool.remember_block_gone(*net, now);
        }
        if let Some(subnet) = self.pool.eni(id).map(|eni| eni.subnet) {
            self.on_ipv4_freed(subnet, &nets);
        }
        if !nets.is_empty() {
            self.event(Event::BlocksRemoved { eni: id, blocks: nets });
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

    /// Takes in the answer to a question about ENIs.
    fn on_shown(
        &mut self,
        mut observation: Observation,
        in_flight: &InFlight,
        now: Timestamp,
    ) -> Result<(), Failure> {
        if in_flight.before_clock_set_back {
            return Err(unanswered("the clock was set back meanwhile".into()));
        }
        if observation.as_of > now {
            // It knows what was when it was asked for, whatever clock its executor has.
            observation.as_of = in_flight.issued_at;
        }
        if !self.on_observation(&observation, now) {
            return Err(unanswered("the answer took too long to be compared".into()));
        }
        if is_whole(&observation, &self.node) {
            return Ok(());
        }
        let node = &self.node;
        if let Some(listed) = observation.incomplete.first() {
            let message = format!("{listed}, and not the primary {}", node.primary);
            return Err(Failure { kind: FailureKind::Incomplete, retry_after: None, message });
        }
        let message = format!(
            "{} lists {} ENIs of {} without its primary {}: is this the right account, Region and endpoint?",
            observation.source,
            observation.enis.len(),
            node.instance,
            node.primary
        );
        Err(Failure { kind: FailureKind::Incomplete, retry_after: None, message })
    }

    fn on_subnets(&mut self, subnets: Vec<ObservedSubnet>, now: Timestamp) {
        self.reads.subnets.answered = Some(now);
        self.surroundings.subnets.on_listed(subnets);
        let subnet_backoff = self.config.timing.subnet_backoff;
        let full: Vec<SubnetId> = self
            .surroundings
            .subnets
            .list
            .iter()
            .filter(|subnet| subnet.ipv4_addresses_free == 0)
            .map(|subnet| subnet.id)
            .collect();
        for subnet in full {
            let scope = BackoffScope::Subnet(subnet);
            if self.calls.backoff.until(scope, now).is_none() {
                let pace = Pace { first: subnet_backoff, most: subnet_backoff.saturating_mul(4) };
                let failure = Failure {
                    kind: FailureKind::SubnetFull,
                    retry_after: None,
                    message: "DescribeSubnets shows 0 free addresses".into(),
                };
                self.fail(scope, pace, &failure, now);
            }
        }
        self.refuse_outside();
        self.mark_excluded();
    }

    fn refuse_outside(&mut self) {
        for event in self.pool.refuse_outside(&self.surroundings.subnets) {
            self.event(event);
        }
    }

    fn on_created(&mut self, id: ActionId, observed: &ObservedEni, now: Timestamp) {
        let Some(creation) = self.pool.creations_mut().remove(&id) else {
            return;
        };
        let (subnet, ipv4) = (creation.request.subnet, creation.request.ipv4);
        self.on_ipv4_had(subnet, ipv4, 1);
        // After a repeated call an observation may have shown it already.
        if self.pool.eni(observed.id).is_none() {
            let mut finding = Finding::default();
            let subnets = &self.surroundings.subnets;
            let observed = self.pool.without_unusable(observed, subnets, &mut finding);
            let mut eni = Eni::new(&observed, creation.card, creation.device, now, now);
            // The answer to the call may leave them out; they were part of it.
            eni.tags.extend(creation.request.tags);
            self.event(Event::EniAppeared {
                eni: eni.id,
                card: creation.card,
                device: creation.device,
            });
            self.pool.insert(eni, None);
            self.on_finding(finding, now);
            self.mark_excluded();
        }
    }

    fn on_eni_call_done(
        &mut self,
        id: EniId,
        call: ActionId,
        effect: Effect,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let detach_settle = self.config.timing.detach_settle;
        let Some(eni) = self.pool.eni_mut(id) else {
            return Ok(());
        };
        let Some(kind) = eni.ec2_call.take_if(|under_way| under_way.id == call).map(|c| c.kind)
        else {
            return Ok(());
        };
        let subnet = eni.subnet;
        match (kind, effect) {
            (Ec2CallKind::Attach, Effect::Attached(attachment)) => {
                eni.on_attachment_seen(Some(attachment), AttachmentStatus::Attaching, now);
                eni.confirmed_at = now;
            }
            (Ec2CallKind::MarkDeleteOnTermination, _) => eni.delete_on_termination = true,
            (Ec2CallKind::SetGroups(groups), _) => eni.security_groups = groups,
            (Ec2CallKind::Tag(tags), _) => eni.tags.extend(tags),
            (Ec2CallKind::AssignIpv4 { prefixes, .. }, Effect::Assigned(blocks)) => {
                let had = self.on_assigned(id, &blocks, false, now)?;
                let had =
                    if prefixes { Ipv4Amount::Prefixes(had) } else { Ipv4Amount::Addresses(had) };
                self.on_ipv4_had(subnet, had, 0);
                let (Ipv4Amount::Addresses(blocks) | Ipv4Amount::Prefixes(blocks)) = had;
                self.learned.on_had(AskedOf::Eni(id), blocks);
            }
            (Ec2CallKind::AssignIpv6, Effect::Assigned(blocks)) => {
                self.on_assigned(id, &blocks, true, now)?;
            }
            (Ec2CallKind::Unassign(nets), _) => self.on_blocks_gone(id, nets, now),
            (Ec2CallKind::Detach, _) => eni.on_detached(now + detach_settle),
            (Ec2CallKind::Delete, _) => {
                self.pool.remove(id, now);
                self.event(Event::EniRemoved { eni: id });
            }
            // Another effect does not fit the action, which was checked before.
            (Ec2CallKind::Attach | Ec2CallKind::AssignIpv4 { .. } | Ec2CallKind::AssignIpv6, _) => {
            }
        }
        Ok(())
    }

    /// Takes in blocks that EC2 assigned. Returns how many pods can have, or an error if there is none.
    fn on_assigned(
        &mut self,
        id: EniId,
        blocks: &[IpNet],
        ipv6: bool,
        now: Timestamp,
    ) -> Result<u16, Failure> {
        let mut finding = Finding::default();
        let subnets = &self.surroundings.subnets;
        let had = self.pool.on_blocks_assigned(id, blocks, ipv6, subnets, now, &mut finding);
        self.on_finding(finding, now);
        if had.is_empty() {
            if let Some(eni) = self.pool.eni_mut(id) {
                eni.on_unconfirmed(UnconfirmedCause::Contradicted, now);
            }
            let message = format!("EC2 answered with no block that pods can have: {blocks:?}");
            return Err(Failure { kind: FailureKind::Rejected, retry_after: None, message });
        }
        // An ENI takes at most 64 blocks.
        let count = u16::try_from(had.len()).unwrap_or(u16::MAX);
        self.event(Event::BlocksAdded { eni: id, blocks: had });
        Ok(count)
    }

    /// Counts what a subnet gave off what it has free, and lets more be asked for at a time.
    fn on_ipv4_had(&mut self, subnet: SubnetId, amount: Ipv4Amount, own: u32) {
        let (addresses, of, blocks) = match amount {
            Ipv4Amount::Addresses(n) => (u32::from(n), AskedOf::Addresses(subnet), n),
            Ipv4Amount::Prefixes(n) => (u32::from(n) * PREFIX_SIZE, AskedOf::Prefixes(subnet), n),
        };
        self.learned.on_had(of, blocks);
        if matches!(amount, Ipv4Amount::Prefixes(_)) {
            self.surroundings.subnets.fragmented.remove(&subnet);
        }
        if let Some(subnet) = self.surroundings.subnets.list.iter_mut().find(|it| it.id == subnet) {
            let taken = addresses.saturating_add(own);
            subnet.ipv4_addresses_free = subnet.ipv4_addresses_free.saturating_sub(taken);
        }
    }

    fn on_ipv4_freed(&mut self, subnet: SubnetId, nets: &[IpNet]) {
        let sizes = nets.iter().map(|net| match net {
            IpNet::V4(net) if net.prefix_len() < 32 => PREFIX_SIZE,
            IpNet::V4(_) => 1,
            IpNet::V6(_) => 0,
        });
        let freed: u32 = sizes.sum();
        if let Some(subnet) = self.surroundings.subnets.list.iter_mut().find(|it| it.id == subnet) {
            subnet.ipv4_addresses_free = subnet.ipv4_addresses_free.saturating_add(freed);
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

    /// Where there is too little for all that was asked for, there may be enough for less. Returns whether that can be asked for
    /// at once: not for another ENI, which takes an address of its own besides.
    fn can_ask_for_less(
        &mut self,
        action: &Ec2Action,
        subnet: Option<SubnetId>,
        kind: FailureKind,
        now: Timestamp,
    ) -> bool {
        let until = now + self.config.timing.subnet_backoff.saturating_mul(4);
        let amount = match action {
            Ec2Action::CreateNetworkInterface(request) => request.ipv4,
            Ec2Action::AssignPrivateIpAddresses(request) => request.amount,
            _ => return false,
        };
        let (Ipv4Amount::Addresses(blocks) | Ipv4Amount::Prefixes(blocks)) = amount;
        match (kind, subnet, about(action)) {
            (FailureKind::SubnetFull | FailureKind::NoFreePrefix, Some(subnet), _) => {
                let of = if asks_for_prefixes(action) {
                    AskedOf::Prefixes(subnet)
                } else {
                    AskedOf::Addresses(subnet)
                };
                let fewer = self.learned.on_too_many(of, blocks, until);
                if asks_for_prefixes(action) && !fewer {
                    self.surroundings.subnets.on_no_prefix(subnet);
                }
                fewer && about(action).is_some()
            }
            (FailureKind::AddressLimit, _, Some(eni)) if self.learn_slots(eni, blocks, now) => {
                self.learned.on_too_many(AskedOf::Eni(eni), blocks, until);
                true
            }
            _ => false,
        }
    }

    /// An ENI refused so many further blocks. If EC2 showed lately what it has, its limit is lower than its type's. Returns
    /// whether that was learned.
    fn learn_slots(&mut self, id: EniId, refused: u16, now: Timestamp) -> bool {
        let settle = self.config.timing.settle;
        let Some(eni) = self.pool.eni(id) else { return false };
        if now.since(eni.confirmed_at) > settle {
            // It may have blocks that are not known.
            return false;
        }
        let most = blocks_of(eni).saturating_add(u32::from(refused)).saturating_sub(1);
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let learned = &mut self.learned;
        let lower = learned.eni_slots(id, now).unwrap_or(self.limits.ipv4_slots()) > most;
        if lower {
            learned.on_eni_slots(id, most, now);
        }
        lower
    }

    fn on_creation_failed(&mut self, id: ActionId, kind: FailureKind, now: Timestamp) {
        let unanswered = kind == FailureKind::Unanswered;
        let terminating = self.conditions.terminating;
        let creations = self.pool.creations_mut();
        let Some(creation) = creations.get_mut(&id) else {
            return;
        };
        creation.attempts += 1;
        creation.called = false;
        // It may have been made. The same call again returns the same ENI; should that fail for good, its tag tells.
        if unanswered && creation.attempts < CREATION_ATTEMPTS_MAX && !terminating {
            creation.repeat_at = Some(now + CREATION_REPEAT * (1 << creation.attempts.min(6)));
            return;
        }
        let was_unanswered = creation.attempts > 1 || unanswered;
        creations.remove(&id);
        if was_unanswered {
            self.reads.unattached.answered = None;
        }
    }

    /// Where the node is going away, creations that got no answer are not repeated: if they took effect, their tag tells.
    pub(super) fn give_up_creations(&mut self) {
        let creations = self.pool.creations_mut();
        let before = creations.len();
        creations.retain(|_, creation| creation.called);
        if creations.len() < before {
            self.reads.unattached.answered = None;
        }
    }

    /// `asked` tells that EC2 was asked what the ENI is like after the same failure before, and that it did not help.
    fn on_eni_call_failed(
        &mut self,
        id: EniId,
        call: ActionId,
        failure: &Failure,
        asked: bool,
        now: Timestamp,
    ) {
        let settle = self.config.timing.settle;
        let failed = failure.kind;
        let Some(eni) = self.pool.eni_mut(id) else {
            return;
        };
        let Some(kind) = eni.ec2_call.take_if(|under_way| under_way.id == call).map(|c| c.kind)
        else {
            return;
        };
        if kind == Ec2CallKind::Attach
            && !asked
            && matches!(failed, FailureKind::Rejected | FailureKind::InUse)
        {
            // Another program's ENI may be there: only a look at all ENIs tells.
            self.reads.ask_ec2 = true;
        }
        match (kind, failed) {
            // What EC2 no longer has is deleted.
            (Ec2CallKind::Delete, FailureKind::NotFound) => {
                self.pool.remove(id, now);
                self.event(Event::EniRemoved { eni: id });
            }
            (Ec2CallKind::Detach, FailureKind::NotFound) => eni.on_detached(now),
            (Ec2CallKind::Detach, _) => {
                let cause = match failed {
                    FailureKind::Unanswered => Some(UnconfirmedCause::Unanswered),
                    FailureKind::InUse | FailureKind::Rejected if !asked => {
                        Some(UnconfirmedCause::Contradicted)
                    }
                    _ => None,
                };
                if let Some(cause) = cause {
                    eni.on_unconfirmed(cause, now);
                }
                self.return_if_stuck(id, failure, now);
            }
            // Detaching still goes on, or was undone by another program: after a wait the call is repeated, until the first
            // is past believing.
            (Ec2CallKind::Delete, FailureKind::InUse) if !eni.knows_attachment(now, settle) => {}
            (Ec2CallKind::Delete, FailureKind::InUse) => {
                eni.on_unconfirmed(UnconfirmedCause::Contradicted, now);
            }
            (
                Ec2CallKind::Attach,
                FailureKind::AttachmentLimit | FailureKind::EniLimit | FailureKind::AddressLimit,
            ) => self.on_attach_refused(id, failure, now),
            (Ec2CallKind::Unassign(nets), FailureKind::Throttled | FailureKind::Denied) => {
                eni.edit_blocks(|block| {
                    if nets.contains(&block.net()) {
                        block.on_release_refused();
                    }
                });
            }
            (Ec2CallKind::Unassign(nets), failed) => {
                eni.edit_blocks(|block| {
                    if nets.contains(&block.net()) {
                        block.on_release_asked(now);
                    }
                });
                eni.on_unconfirmed(
                    match failed {
                        FailureKind::Unanswered => UnconfirmedCause::Unanswered,
                        _ => UnconfirmedCause::Contradicted,
                    },
                    now,
                );
            }
            // Asked for again, they come to the same.
            (
                Ec2CallKind::MarkDeleteOnTermination
                | Ec2CallKind::SetGroups(_)
                | Ec2CallKind::Tag(_),
                _,
            ) => {}
            // Whether it took effect is not known; the blocks stay unusable until EC2 tells.
            (_, FailureKind::Unanswered) => eni.on_unconfirmed(UnconfirmedCause::Unanswered, now),
            (
                Ec2CallKind::Attach | Ec2CallKind::AssignIpv4 { .. } | Ec2CallKind::AssignIpv6,
                FailureKind::NotFound
                | FailureKind::AddressLimit
                | FailureKind::InUse
                | FailureKind::Rejected,
            ) if !asked => eni.on_unconfirmed(UnconfirmedCause::Contradicted, now),
            _ => {}
        }
    }

    /// The instance takes no further ENI, or none with as many addresses, so this one is of no use. One with pods on it,
    /// which another program detached, waits for a place or for the pods to go.
    fn on_attach_refused(&mut self, id: EniId, failure: &Failure, now: Timestamp) {
        let Some(eni) = self.pool.eni(id) else { return };
        let (card, in_use) = (eni.card, eni.assigned() > 0);
        let blocks = blocks_of(eni);
        let learned = match failure.kind {
            FailureKind::AttachmentLimit => {
                let attached = self.pool.enis().iter().filter(|eni| {
                    eni.card == card && eni.stage != Stage::Available && eni.occupies_slot()
                });
                let attached = u8::try_from(attached.count()).unwrap_or(u8::MAX);
                let lower = attached < self.limits.enis(card);
                if lower {
                    self.learned.on_enis(card, attached, now);
                }
                lower
            }
            FailureKind::AddressLimit => {
                let most = u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX);
                let lower = most > 0 && most < self.limits.ipv4_slots();
                if lower {
                    self.learned.on_new_eni_slots(most, now);
                }
                lower
            }
            _ => false,
        };
        if in_use {
            return;
        }
        if let Some(eni) = self.pool.eni_mut(id) {
            eni.on_leave();
        }
        if !learned {
            self.fail(BackoffScope::Card(card), NEVER_SERVED, failure, now);
        }
    }

    /// An ENI that cannot leave serves pods again, and is not chosen again for a while. While the node is going away it
    /// stays on its way out.
    fn return_if_stuck(&mut self, id: EniId, failure: &Failure, now: Timestamp) {
        use crate::Ec2Operation::DetachNetworkInterface as Detach;
        let backoff = &self.calls.backoff;
        let scopes = [
            BackoffScope::EniOperation(id, Detach),
            BackoffScope::Operation(Detach),
            BackoffScope::TearDown(id),
        ];
        let stuck = scopes.iter().any(|scope| backoff.is_stuck(*scope));
        if !stuck || self.conditions.terminating {
            return;
        }
        let Some(eni) = self.pool.eni_mut(id) else { return };
        eni.on_return();
        if !eni.is_removing() {
            self.fail(BackoffScope::Free(id), FREEING, failure, now);
        }
    }

    /// An ENI that was made is given up, since it never could serve a pod.
    pub(super) fn on_never_served(&mut self, id: EniId, now: Timestamp) {
        let Some(card) = self.pool.eni(id).map(|eni| eni.card) else { return };
        let failure = Failure {
            kind: FailureKind::Rejected,
            retry_after: None,
            message: format!("{id} could not be attached or set up"),
        };
        self.fail(BackoffScope::Card(card), NEVER_SERVED, &failure, now);
    }

    /// The node did what it was asked to do for an ENI.
    fn on_host_done(&mut self, id: ActionId, action: &HostAction, now: Timestamp) {
        let Some((eni, scope)) = self.end_host_call(id, action) else {
            return;
        };
        match action {
            HostAction::SetUpEni(_) => {
                let first = !eni.was_ready;
                eni.on_set_up();
                let (id, ready, card) = (eni.id, eni.stage == Stage::Ready, eni.card);
                self.succeed(scope);
                if ready {
                    self.event(Event::EniReady { eni: id });
                }
                if ready && first {
                    self.succeed(BackoffScope::Card(card));
                }
            }
            HostAction::RemoveEni(link) => {
                let over = eni.on_host_removed();
                self.succeed(scope);
                if over {
                    self.pool.remove(link.eni, now);
                }
            }
        }
    }

    /// The node could not do what it was asked to do for an ENI.
    fn on_host_failed(
        &mut self,
        id: ActionId,
        action: &HostAction,
        failure: &Failure,
        now: Timestamp,
    ) {
        let Some((eni, scope)) = self.end_host_call(id, action) else {
            return;
        };
        let eni = eni.id;
        match action {
            // A link that is missing is about to appear.
            HostAction::SetUpEni(_) if failure.kind == FailureKind::LinkMissing => {
                self.fail(scope, LINK, failure, now);
            }
            HostAction::SetUpEni(_) => self.fail(scope, PASSING, failure, now),
            HostAction::RemoveEni(_) => {
                self.fail(scope, PASSING, failure, now);
                self.return_if_stuck(eni, failure, now);
            }
        }
    }

    /// Records that a host action is over, if it is the one under way. Returns its ENI, and what its failure says something about.
    fn end_host_call(
        &mut self,
        id: ActionId,
        action: &HostAction,
    ) -> Option<(&mut Eni, BackoffScope)> {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        let scope = match action {
            HostAction::SetUpEni(_) => BackoffScope::SetUp(link.eni),
            HostAction::RemoveEni(_) => BackoffScope::TearDown(link.eni),
        };
        let eni = self.pool.eni_mut(link.eni)?;
        eni.host_call.take_if(|call| *call == id)?;
        Some((eni, scope))
    }

    /// Records that a question is no longer being asked.
    fn end_read(&mut self, id: ActionId) {
        let reads = &mut self.reads;
        for read in [
            &mut reads.metadata,
            &mut reads.attached,
            &mut reads.unattached,
            &mut reads.unconfirmed,
            &mut reads.subnets,
        ] {
            read.call.take_if(|call| *call == id);
        }
    }
}

/// Returns how many IPv4 blocks an ENI has.
fn blocks_of(eni: &Eni) -> u32 {
    eni.tallies().addresses.held + eni.tallies().prefixes.held
}

fn unanswered(message: alloc::string::String) -> Failure {
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
