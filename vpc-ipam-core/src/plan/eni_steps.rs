//! The next step of each ENI's life, whatever the pool wants.

use super::{Because, EniLimit, Planner, WaitingOn, Wanted, has_ipv6, is_ready};
use crate::plan::backoff::of_eni;
use crate::pool::{Eni, Removing, Stage};
use crate::{
    AssignIpv6Addresses, AttachNetworkInterface, BackoffScope, Card, DeleteNetworkInterface,
    DetachNetworkInterface, DeviceIndex, Ec2Action, Ec2Operation, Families, HostAction,
    InterfaceType, Timestamp,
};

impl Planner<'_> {
    /// Plans the steps that make ENIs serve pods, or let them leave.
    pub(super) fn eni_steps(&mut self) {
        self.repeat_creations();
        for eni in self.pool.enis() {
            if eni.is_managed() {
                self.host_step(eni);
                self.ec2_step(eni);
            }
        }
    }

    /// A creation whose call got no answer is asked for again with its token, which yields the same ENI.
    fn repeat_creations(&mut self) {
        for creation in self.pool.creations().values().filter(|creation| !creation.called) {
            let wanted = Wanted::Eni { card: creation.card };
            match creation.repeat_at {
                Some(until) if until > self.now => self.block(wanted, WaitingOn::Time { until }),
                _ => {
                    let action = Ec2Action::CreateNetworkInterface(creation.request.clone());
                    self.call(action, None, wanted, Because::Unanswered);
                }
            }
        }
    }

    fn host_step(&mut self, eni: &Eni) {
        let wanted = Wanted::NextStep(eni.id);
        let because = match eni.stage {
            Stage::Attached if self.never_serves(eni) => Because::NeverServed { eni: eni.id },
            Stage::Attached => Because::NotSetUp,
            Stage::Removing(Removing::Host) => Because::Removing,
            Stage::Removing(Removing::Vanished) => Because::Vanished,
            Stage::Available
            | Stage::Ready
            | Stage::Removing(Removing::Detach | Removing::Delete { .. }) => return,
        };
        // What is under way for an ENI that seems to be gone may show that it is not.
        let under_way = eni.ec2_call.as_ref().filter(|_| because == Because::Vanished);
        if let Some(id) = eni.host_call.or(under_way.map(|call| call.id)) {
            self.block(wanted, WaitingOn::Outcome(id));
            return;
        }
        let Some(link) = self.link(eni) else {
            self.block(wanted, WaitingOn::Subnets);
            return;
        };
        let action = match because {
            Because::NotSetUp => HostAction::SetUpEni(link),
            _ => HostAction::RemoveEni(link),
        };
        self.plan_host_action(eni.id, action, wanted, because);
    }

    /// Returns whether an ENI that we made could not be attached or set up for so long that another should replace it.
    /// The one that replaces it waits for the back-off of the network card.
    fn never_serves(&self, eni: &Eni) -> bool {
        let backoff = &self.calls.backoff;
        let scope = match eni.stage {
            Stage::Attached => BackoffScope::SetUp(eni.id),
            _ => BackoffScope::EniOperation(eni.id, Ec2Operation::AttachNetworkInterface),
        };
        let failing = |since: Timestamp| since + self.timing.eni_ready_max <= self.now;
        !eni.was_ready
            && self.is_ours_to_remove(eni)
            && self.config.provisioning
            && !self.conditions.terminating
            && eni.is_idle(self.now, self.eligibility.cooldown)
            && backoff.failing_since(scope).is_some_and(failing)
            && backoff.until(BackoffScope::Free(eni.id), self.now).is_none()
    }

    /// Returns whether an ENI may be detached and deleted: it was made for this instance, and neither another program nor EC2
    /// needs it.
    pub(super) fn is_ours_to_remove(&self, eni: &Eni) -> bool {
        eni.is_made_for(self.node.instance)
            && !eni.is_primary()
            && !matches!(eni.interface_type, InterfaceType::Trunk | InterfaceType::Efa)
    }

    fn ec2_step(&mut self, eni: &Eni) {
        if !self.config.provisioning {
            return;
        }
        let Some((action, because)) = self.next_ec2_step(eni) else {
            return;
        };
        let wanted = Wanted::NextStep(eni.id);
        match self.waits_for(eni) {
            Some(waiting_on) => self.block(wanted, waiting_on),
            None => {
                self.call(action, Some(eni.id), wanted, because);
            }
        }
    }

    fn next_ec2_step(&mut self, eni: &Eni) -> Option<(Ec2Action, Because)> {
        let id = eni.id;
        let leaving =
            matches!(eni.stage, Stage::Removing(Removing::Detach | Removing::Delete { .. }));
        if let Some(waiting_on) = leaving.then(|| self.user_of(eni)).flatten() {
            self.block(Wanted::NextStep(id), waiting_on);
            return None;
        }
        match eni.stage {
            Stage::Available => self.attach_or_wait(eni),
            Stage::Attached | Stage::Ready if self.needs_ipv6_prefix(eni) => {
                if self.conditions.terminating {
                    self.block(Wanted::NextStep(id), WaitingOn::Terminating);
                    return None;
                }
                let call = AssignIpv6Addresses { eni: id, prefixes: 1 };
                Some((Ec2Action::AssignIpv6Addresses(call), Because::NoIpv6Prefix))
            }
            Stage::Attached
            | Stage::Ready
            | Stage::Removing(Removing::Host | Removing::Vanished) => None,
            Stage::Removing(Removing::Detach) => {
                // Without the attachment's id EC2 cannot be asked; the next answer about the ENI brings the id.
                let attachment = eni.attachment?;
                let call = DetachNetworkInterface { eni: id, attachment };
                Some((Ec2Action::DetachNetworkInterface(call), Because::Removing))
            }
            Stage::Removing(Removing::Delete { not_before }) if not_before > self.now => {
                self.block(Wanted::NextStep(id), WaitingOn::Time { until: not_before });
                None
            }
            Stage::Removing(Removing::Delete { .. }) => Some((delete(eni), Because::Removing)),
        }
    }

    /// Returns what has to be over before an ENI can go, if it came up after the decision to free it.
    fn user_of(&self, eni: &Eni) -> Option<WaitingOn> {
        match self.cooled_at(eni) {
            Some(until) => Some(WaitingOn::Cooling { until }),
            None if eni.is_idle(self.now, self.eligibility.cooldown) => None,
            None => Some(WaitingOn::Untracked(eni.id)),
        }
    }

    /// An ENI that was made is attached. One that was left from before a restart has no slot yet: it gets one if there
    /// is room, and goes if not.
    fn attach_or_wait(&mut self, eni: &Eni) -> Option<(Ec2Action, Because)> {
        let idle = eni.is_idle(self.now, self.eligibility.cooldown);
        if let Some(gate) = self.growth_gate() {
            if gate == WaitingOn::Terminating && idle && self.is_ours_to_remove(eni) {
                return Some((delete(eni), Because::Terminating));
            }
            self.block(Wanted::NextStep(eni.id), gate);
            return None;
        }
        if self.never_serves(eni) {
            return Some((delete(eni), Because::NeverServed { eni: eni.id }));
        }
        if self.reads.attached.answered.is_none() {
            // What is attached already may be in its slot.
            self.block(Wanted::NextStep(eni.id), WaitingOn::FirstObservation);
            return None;
        }
        let device = if eni.has_slot() && self.has_place(eni) {
            eni.device
        } else if let Some((id, _)) = self.pool.creations().iter().find(|(_, c)| c.called) {
            // It may be what that call makes.
            self.block(Wanted::NextStep(eni.id), WaitingOn::Outcome(*id));
            return None;
        } else if let Some(device) = self.first_slot(eni) {
            device
        } else if !idle {
            // It was detached with its pods: it waits for a slot, or for the pods to go.
            let limit = EniLimit::InstanceType(self.limits.enis(eni.card));
            let limit = self.eni_room(eni.card).err().unwrap_or(limit);
            self.block(Wanted::NextStep(eni.id), WaitingOn::EniLimit(limit));
            return None;
        } else {
            return Some((delete(eni), Because::NoSlot));
        };
        let attach = AttachNetworkInterface {
            eni: eni.id,
            instance: self.node.instance,
            card: eni.card,
            device,
        };
        Some((Ec2Action::AttachNetworkInterface(attach), Because::NotAttached))
    }

    /// Returns whether an ENI that waits to be attached is within what its card takes: `MAX_ENI` may have been lowered since
    /// it was made.
    fn has_place(&self, eni: &Eni) -> bool {
        let before = |other: &&Eni| {
            other.card == eni.card
                && other.id != eni.id
                && other.occupies_slot()
                && other.has_slot()
                && (other.stage != Stage::Available || other.device < eni.device)
        };
        self.pool.enis().iter().filter(before).count() < usize::from(self.enis_most(eni.card))
    }

    fn needs_ipv6_prefix(&self, eni: &Eni) -> bool {
        let wanted = match self.config.families {
            Families::Ipv4(_) => false,
            // One prefix serves every pod of a card: the primary ENI has it, or the first that can get one.
            Families::Ipv6 => {
                let can = |other: &Eni| {
                    other.card == eni.card
                        && self.eligibility.takes_pods(other)
                        && self.serves_in_time(other)
                };
                let before = |other: &Eni| {
                    let key = |eni: &Eni| (!eni.is_primary(), eni.device, eni.id);
                    has_ipv6(other) || key(other) < key(eni)
                };
                !self
                    .pool
                    .enis()
                    .iter()
                    .any(|other| other.id != eni.id && can(other) && before(other))
                    || eni.is_primary()
            }
            Families::Dual(_) => true,
        };
        wanted && is_ready(eni) && self.eligibility.takes_pods(eni) && !has_ipv6(eni)
    }

    /// Returns a slot for an ENI that has none, if there is room for it.
    fn first_slot(&mut self, eni: &Eni) -> Option<DeviceIndex> {
        if eni.has_slot() || self.eni_room(eni.card).is_err() {
            return None;
        }
        self.slot_for_eni(eni.card)
    }

    /// Returns the lowest free device index of a card that this plan does not fill already, and remembers it as filled.
    pub(super) fn slot_for_eni(&mut self, card: Card) -> Option<DeviceIndex> {
        // The instance may have unmanaged ENIs at any index below EC2's own limit.
        let limit = self.limits.enis(card);
        let taken = |device| {
            self.created.contains(&(card, device)) || !self.pool.is_device_free(card, device)
        };
        let device = (0..limit).map(DeviceIndex).find(|device| !taken(*device))?;
        self.created.push((card, device));
        Some(device)
    }

    /// Returns until when an ENI that could not leave is not chosen again, or whether another one that was detached cannot be
    /// deleted: none is freed as long as EC2 keeps those.
    pub(super) fn freeing_backoff(&self, eni: &Eni) -> Option<WaitingOn> {
        let backoff = &self.calls.backoff;
        let kept = self
            .pool
            .enis()
            .iter()
            .filter(|eni| matches!(eni.stage, Stage::Removing(Removing::Delete { .. })));
        let deletions = kept.flat_map(|eni| of_eni(eni.id, Ec2Operation::DeleteNetworkInterface));
        let stuck = deletions.filter(|scope| backoff.is_stuck(*scope));
        let mut scopes = stuck.chain([BackoffScope::Free(eni.id)]);
        scopes.find_map(|scope| backoff.wait(scope, self.now))
    }
}

fn delete(eni: &Eni) -> Ec2Action {
    Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: eni.id })
}
