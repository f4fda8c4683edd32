//! What the outcomes of actions change.

use core::time::Duration;

use super::{Ipam, culprits_of};
use crate::backoff::Culprit;
use crate::journal::Input;
use crate::pool::{Ec2CallKind, Eni};
use crate::{
    Action, ActionId, AttachmentStatus, DoubtCause, Ec2Action, Effect, EniId, Event, Failure,
    FailureKind, HostAction, Ipv4Amount, ObservedEni, Outcome, Planned, Stage, SubnetId, Timestamp,
};

/// After a throttled or failed call: doubled with each failure in a row, up to a minute.
const CALL_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After a call that IAM forbids, or that can never succeed as it is: an operator has to act, which takes minutes.
const DENIED_BACKOFF: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));
/// While the kernel does not show the link of an ENI: it comes within seconds of the attachment.
const LINK_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often a creation is asked for again with its token before the tag by which it can be found has to do.
const CREATION_ATTEMPTS_MAX: u32 = 8;

impl Ipam {
    /// Takes in what became of an action. An outcome of an action that is not under way changes nothing.
    pub fn handle_outcome(&mut self, id: ActionId, outcome: Outcome, now: Timestamp) {
        let tape = self.tape(|| Input::Outcome { id, outcome: outcome.clone() });
        self.on_outcome(id, outcome, now);
        self.record(tape, Some(now));
    }

    fn on_outcome(&mut self, id: ActionId, outcome: Outcome, now: Timestamp) {
        let Some(Planned { action, .. }) = self.in_flight.remove(&id) else {
            return;
        };
        match (&action, outcome) {
            (Action::Ec2(action), Outcome::Done(effect)) => {
                self.on_ec2_done(id, action, effect, now);
            }
            (Action::Ec2(action), Outcome::Failed(failure)) => {
                self.on_ec2_failed(id, action, &failure, now);
                self.event(Event::ActionFailed { id, failure });
            }
            (Action::Host(action), outcome) => self.on_host_outcome(id, action, outcome, now),
        }
        self.replan(now);
    }

    fn on_ec2_done(&mut self, id: ActionId, action: &Ec2Action, effect: Effect, now: Timestamp) {
        let (operation, about) = culprits_of(action);
        if !fits(action, &effect) {
            let failure = Failure {
                kind: FailureKind::Unanswered,
                retry_after: None,
                message: alloc::format!("{action}: the answer is of another action: {effect:?}"),
            };
            self.on_ec2_failed(id, action, &failure, now);
            self.event(Event::ActionFailed { id, failure });
            return;
        }
        for culprit in [operation, about.map(Culprit::Eni)].into_iter().flatten() {
            self.constraints.backoff.on_success(culprit);
        }
        self.end_read(id);
        match (action, effect) {
            (Ec2Action::CreateNetworkInterface(_), Effect::Created(observed)) => {
                self.on_created(id, &observed, now);
            }
            (Ec2Action::DescribeNetworkInterfaces(_), Effect::Observed(observation)) => {
                self.on_observation(&observation, now);
            }
            (Ec2Action::DescribeSubnets, Effect::Subnets(subnets)) => {
                self.constraints.reads.subnets.answered = Some(now);
                // An empty answer cannot be whole: the node itself is in a subnet.
                if !subnets.is_empty() {
                    self.constraints.subnets.list = subnets;
                }
                self.mark_excluded();
            }
            (Ec2Action::ReadMetadata, Effect::Metadata(metadata)) => {
                self.constraints.backoff.on_success(Culprit::Metadata);
                self.constraints.subnets.ranges = metadata.subnets;
                self.on_observation(&metadata.observation, now);
            }
            (_, effect) => {
                if let Some(eni) = about {
                    self.on_eni_call_done(eni, id, effect, now);
                }
            }
        }
    }

    fn on_created(&mut self, id: ActionId, observed: &ObservedEni, now: Timestamp) {
        let Some(creation) = self.pool.creations_mut().remove(&id) else {
            return;
        };
        self.constraints.backoff.on_success(Culprit::Subnet(creation.request.subnet));
        if matches!(creation.request.ipv4, Ipv4Amount::Prefixes(_)) {
            self.constraints.backoff.on_success(Culprit::SubnetPrefixes(creation.request.subnet));
        }
        // After a repeated call an observation may have shown it already.
        if self.pool.eni(observed.id).is_none() {
            let mut eni = Eni::new(observed, creation.card, creation.device, now, now);
            // The answer to the call may leave them out; they were part of it.
            eni.tags.extend(creation.request.tags);
            self.event(Event::EniAppeared {
                eni: eni.id,
                card: creation.card,
                device: creation.device,
            });
            self.pool.insert(eni, None);
            self.mark_excluded();
        }
    }

    fn on_eni_call_done(&mut self, id: EniId, call: ActionId, effect: Effect, now: Timestamp) {
        let detach_settle = self.config.timing.detach_settle;
        let Some(eni) = self.pool.eni_mut(id) else {
            return;
        };
        let Some(kind) = eni.ec2_call.take_if(|under_way| under_way.id == call).map(|c| c.kind)
        else {
            return;
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
                self.pool.on_blocks_assigned(id, &blocks, now);
                self.on_addresses_had(subnet, prefixes);
                self.event(Event::BlocksAdded { eni: id, blocks });
            }
            (Ec2CallKind::AssignIpv6, Effect::Assigned(blocks)) => {
                self.pool.on_blocks_assigned(id, &blocks, now);
                self.event(Event::BlocksAdded { eni: id, blocks });
            }
            (Ec2CallKind::Unassign(nets), _) => {
                for net in &nets {
                    self.pool.forget_block(id, *net);
                    self.pool.remember_block_gone(*net, now);
                }
                self.event(Event::BlocksRemoved { eni: id, blocks: nets });
            }
            (Ec2CallKind::Detach, _) => eni.on_detached(now + detach_settle),
            (Ec2CallKind::Delete, _) => {
                self.pool.remove(id, now);
                self.event(Event::EniRemoved { eni: id });
            }
            // Another effect does not fit the action, which was checked before.
            (Ec2CallKind::Attach | Ec2CallKind::AssignIpv4 { .. } | Ec2CallKind::AssignIpv6, _) => {
            }
        }
    }

    fn on_addresses_had(&mut self, subnet: SubnetId, prefixes: bool) {
        self.constraints.backoff.on_success(Culprit::Subnet(subnet));
        if prefixes {
            self.constraints.backoff.on_success(Culprit::SubnetPrefixes(subnet));
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
        let (operation, about) = culprits_of(action);
        let subnet = match action {
            Ec2Action::CreateNetworkInterface(request) => Some(request.subnet),
            _ => about.and_then(|eni| Some(self.pool.eni(eni)?.subnet)),
        };
        let subnet_backoff = self.config.timing.subnet_backoff;
        let backoff = &mut self.constraints.backoff;
        let mut wait = |culprit: Option<Culprit>, (first, most): (Duration, Duration)| {
            if let Some(culprit) = culprit {
                backoff.on_failed(culprit, first, most, failure, now);
            }
        };
        match failure.kind {
            FailureKind::Throttled => wait(operation, CALL_BACKOFF),
            FailureKind::Denied => wait(operation, DENIED_BACKOFF),
            FailureKind::NoFreePrefix if asks_for_prefixes(action) => {
                wait(subnet.map(Culprit::SubnetPrefixes), (subnet_backoff, subnet_backoff * 4));
            }
            FailureKind::SubnetFull | FailureKind::NoFreePrefix => {
                wait(subnet.map(Culprit::Subnet), (subnet_backoff, subnet_backoff * 4));
            }
            FailureKind::EniLimit => wait(operation, DENIED_BACKOFF),
            FailureKind::AddressLimit if matches!(action, Ec2Action::AttachNetworkInterface(_)) => {
                wait(about.map(Culprit::Eni), DENIED_BACKOFF);
            }
            FailureKind::Rejected => match about {
                Some(eni) => wait(Some(Culprit::Eni(eni)), CALL_BACKOFF),
                None => wait(operation, DENIED_BACKOFF),
            },
            _ => match (action, about) {
                (Ec2Action::ReadMetadata, _) => wait(Some(Culprit::Metadata), CALL_BACKOFF),
                (_, Some(eni)) => wait(Some(Culprit::Eni(eni)), CALL_BACKOFF),
                (_, None) => wait(operation, CALL_BACKOFF),
            },
        }
        match (action, about) {
            (Ec2Action::CreateNetworkInterface(_), _) => {
                self.on_creation_failed(id, failure.kind, now);
            }
            (_, Some(eni)) => self.on_eni_call_failed(eni, id, failure.kind, now),
            (_, None) => {}
        }
    }

    fn on_creation_failed(&mut self, id: ActionId, kind: FailureKind, now: Timestamp) {
        let unanswered = kind == FailureKind::Unanswered;
        let creations = self.pool.creations_mut();
        let Some(creation) = creations.get_mut(&id) else {
            return;
        };
        creation.attempts += 1;
        creation.called = false;
        // It may have been made. The same call again returns the same ENI; should that fail for good, its tag tells.
        if unanswered && creation.attempts < CREATION_ATTEMPTS_MAX {
            creation.repeat_at = Some(now + CALL_BACKOFF.0 * (1 << creation.attempts.min(6)));
            return;
        }
        let was_doubtful = creation.attempts > 1 || unanswered;
        creations.remove(&id);
        if was_doubtful {
            self.constraints.reads.unattached.answered = None;
        }
    }

    fn on_eni_call_failed(
        &mut self,
        id: EniId,
        call: ActionId,
        failed: FailureKind,
        now: Timestamp,
    ) {
        let settle = self.config.timing.settle;
        let Some(eni) = self.pool.eni_mut(id) else {
            return;
        };
        let Some(kind) = eni.ec2_call.take_if(|under_way| under_way.id == call).map(|c| c.kind)
        else {
            return;
        };
        if kind == Ec2CallKind::Attach
            && matches!(failed, FailureKind::Rejected | FailureKind::InUse)
        {
            // Somebody else's may be there: only a look at all ENIs tells.
            self.constraints.reads.ask_ec2 = true;
        }
        match (kind, failed) {
            // What EC2 no longer has needs no giving back.
            (Ec2CallKind::Delete, FailureKind::NotFound) => {
                self.pool.remove(id, now);
                self.event(Event::EniRemoved { eni: id });
            }
            (Ec2CallKind::Detach, FailureKind::NotFound) => eni.on_detached(now),
            // Detaching still goes on, or was undone by somebody: after a wait the call is repeated, until the first is
            // past believing.
            (Ec2CallKind::Delete, FailureKind::InUse) if !eni.knows_attachment(now, settle) => {}
            (Ec2CallKind::Delete, FailureKind::InUse) => {
                eni.on_doubt(DoubtCause::Contradicted, now);
            }
            // The instance takes no further ENI, or none with as many addresses, so this one is of no use.
            // One with pods on it, which somebody detached, waits for a place or for the pods to go.
            (Ec2CallKind::Attach, FailureKind::EniLimit | FailureKind::AddressLimit)
                if eni.assigned() > 0 => {}
            (Ec2CallKind::Attach, FailureKind::EniLimit | FailureKind::AddressLimit) => {
                eni.on_leave();
            }
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
                eni.on_doubt(
                    match failed {
                        FailureKind::Unanswered => DoubtCause::Unanswered,
                        _ => DoubtCause::Contradicted,
                    },
                    now,
                );
            }
            // Nobody knows whether it took effect; the blocks stay unusable until EC2 tells.
            (_, FailureKind::Unanswered) => eni.on_doubt(DoubtCause::Unanswered, now),
            (
                Ec2CallKind::Attach
                | Ec2CallKind::AssignIpv4 { .. }
                | Ec2CallKind::AssignIpv6
                | Ec2CallKind::Detach,
                FailureKind::NotFound
                | FailureKind::AddressLimit
                | FailureKind::InUse
                | FailureKind::Rejected,
            ) => eni.on_doubt(DoubtCause::Contradicted, now),
            _ => {}
        }
    }

    fn on_host_outcome(
        &mut self,
        id: ActionId,
        action: &HostAction,
        outcome: Outcome,
        now: Timestamp,
    ) {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        let Some(eni) = self.pool.eni_mut(link.eni) else {
            return;
        };
        if eni.host_call != Some(id) {
            return;
        }
        eni.host_call = None;
        let culprit = Culprit::Host(link.eni);
        match (action, outcome) {
            (HostAction::SetUpEni(_), Outcome::Done(_)) => {
                eni.on_set_up();
                let ready = eni.stage == Stage::Ready;
                self.constraints.backoff.on_success(culprit);
                if ready {
                    self.event(Event::EniReady { eni: link.eni });
                }
            }
            (HostAction::RemoveEni(_), Outcome::Done(_)) => {
                let over = eni.on_host_removed();
                self.constraints.backoff.on_success(culprit);
                if over {
                    self.pool.remove(link.eni, now);
                }
            }
            (_, Outcome::Failed(failure)) => {
                let (first, most) = match failure.kind {
                    FailureKind::LinkMissing => LINK_BACKOFF,
                    _ => CALL_BACKOFF,
                };
                self.constraints.backoff.on_failed(culprit, first, most, &failure, now);
                self.event(Event::ActionFailed { id, failure });
            }
        }
    }

    /// Records that a question is no longer being asked.
    fn end_read(&mut self, id: ActionId) {
        let reads = &mut self.constraints.reads;
        for read in [
            &mut reads.metadata,
            &mut reads.attached,
            &mut reads.unattached,
            &mut reads.doubtful,
            &mut reads.subnets,
        ] {
            read.call.take_if(|call| *call == id);
        }
    }
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

fn asks_for_prefixes(action: &Ec2Action) -> bool {
    let amount = match action {
        Ec2Action::CreateNetworkInterface(request) => request.ipv4,
        Ec2Action::AssignPrivateIpAddresses(request) => request.amount,
        Ec2Action::AssignIpv6Addresses(_) => return true,
        _ => return false,
    };
    matches!(amount, Ipv4Amount::Prefixes(_))
}
