//! What comes of an EC2 call about an ENI.

use alloc::format;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::ipam::Ipam;
use crate::ipam::outcome::creation::NEVER_SERVED;
use crate::ipam::outcome::shortage::blocks_of;
use crate::plan::backoff::Pace;
use crate::plan::learned::AskedOf;
use crate::pool::{Ec2CallKind, Finding};
use crate::{
    ActionId, AttachmentStatus, BackoffScope, Effect, Eni, EniId, Event, Failure, FailureKind,
    Ipv4Amount, Source, Stage, Timestamp, UnconfirmedCause,
};

/// After an ENI could not leave, until it is chosen again.
const FREEING: Pace = Pace::secs(60, 3600);

impl Ipam {
    pub(super) fn on_eni_call_done(
        &mut self,
        id: EniId,
        call: ActionId,
        effect: Effect,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let detach_wait = self.config.timing.detach_wait;
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
            (Ec2CallKind::Detach, _) => eni.on_detached(now + detach_wait),
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

    pub(super) fn on_unassigned_late(
        &mut self,
        id: EniId,
        nets: impl Iterator<Item = IpNet>,
        now: Timestamp,
    ) {
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
    pub(super) fn on_blocks_gone(&mut self, id: EniId, nets: Vec<IpNet>, now: Timestamp) {
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

    /// Takes in blocks that EC2 assigned. Returns how many pods can have, or an error if there is none.
    pub(super) fn on_assigned(
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

    /// `asked` tells that EC2 was asked what the ENI is like after the same failure before, and that it did not help.
    pub(super) fn on_eni_call_failed(
        &mut self,
        id: EniId,
        call: ActionId,
        failure: &Failure,
        asked: bool,
        now: Timestamp,
    ) {
        let failed = failure.kind;
        let Some(eni) = self.pool.eni_mut(id) else {
            return;
        };
        let Some(kind) = eni.ec2_call.take_if(|under_way| under_way.id == call).map(|c| c.kind)
        else {
            return;
        };
        match kind {
            Ec2CallKind::Attach => self.on_attach_failed(id, failure, asked, now),
            Ec2CallKind::AssignIpv4 { .. } | Ec2CallKind::AssignIpv6 => {
                let contradicts = is_contradiction(failed) || failed == FailureKind::AddressLimit;
                self.unconfirm(id, failed, contradicts && !asked, now);
            }
            Ec2CallKind::Unassign(nets) => self.on_unassign_failed(id, &nets, failed, now),
            Ec2CallKind::Detach => self.on_detach_failed(id, failure, asked, now),
            Ec2CallKind::Delete => self.on_delete_failed(id, failed, now),
            // Asked for again, they come to the same.
            Ec2CallKind::MarkDeleteOnTermination
            | Ec2CallKind::SetGroups(_)
            | Ec2CallKind::Tag(_) => {}
        }
    }

    /// EC2 is asked what an ENI is like after a call about it failed: if whether the call took effect is not known, so that
    /// what it was to change stays unusable until then, or if the refusal contradicts what is known.
    fn unconfirm(&mut self, id: EniId, failed: FailureKind, contradicts: bool, now: Timestamp) {
        let cause = match failed {
            FailureKind::Unanswered => UnconfirmedCause::Unanswered,
            _ if contradicts => UnconfirmedCause::Contradicted,
            _ => return,
        };
        if let Some(eni) = self.pool.eni_mut(id) {
            eni.on_unconfirmed(cause, now);
        }
    }

    fn on_attach_failed(&mut self, id: EniId, failure: &Failure, asked: bool, now: Timestamp) {
        let failed = failure.kind;
        if !asked && matches!(failed, FailureKind::Rejected | FailureKind::InUse) {
            // Another program's ENI may be there: only a look at all ENIs tells.
            self.reads.ask_ec2 = true;
        }
        match failed {
            FailureKind::AttachmentLimit | FailureKind::EniLimit | FailureKind::AddressLimit => {
                self.on_attach_refused(id, failure, now);
            }
            _ => self.unconfirm(id, failed, is_contradiction(failed) && !asked, now),
        }
    }

    fn on_unassign_failed(
        &mut self,
        id: EniId,
        nets: &[IpNet],
        failed: FailureKind,
        now: Timestamp,
    ) {
        let never_tried = matches!(failed, FailureKind::Throttled | FailureKind::Denied);
        let Some(eni) = self.pool.eni_mut(id) else { return };
        eni.edit_blocks(|block| match nets.contains(&block.net()) {
            true if never_tried => block.on_release_refused(),
            true => block.on_release_asked(now),
            false => {}
        });
        self.unconfirm(id, failed, !never_tried, now);
    }

    fn on_detach_failed(&mut self, id: EniId, failure: &Failure, asked: bool, now: Timestamp) {
        let failed = failure.kind;
        if failed == FailureKind::NotFound {
            if let Some(eni) = self.pool.eni_mut(id) {
                eni.on_detached(now);
            }
            return;
        }
        let contradicts = matches!(failed, FailureKind::InUse | FailureKind::Rejected);
        self.unconfirm(id, failed, contradicts && !asked, now);
        self.return_if_stuck(id, failure, now);
    }

    fn on_delete_failed(&mut self, id: EniId, failed: FailureKind, now: Timestamp) {
        if failed == FailureKind::NotFound {
            // What EC2 no longer has is deleted.
            self.pool.remove(id, now);
            self.event(Event::EniRemoved { eni: id });
            return;
        }
        // Detaching may still go on, or was undone by another program: after a wait the call is repeated, until the first is
        // past believing.
        let eventual_consistency = self.config.timing.eventual_consistency;
        let is_attached = |eni: &Eni| eni.knows_attachment(now, eventual_consistency);
        let contradicts =
            failed == FailureKind::InUse && self.pool.eni(id).is_some_and(is_attached);
        self.unconfirm(id, failed, contradicts, now);
    }

    /// The instance takes no further ENI, or none with as many addresses, so this one is of no use. One with pods on it,
    /// which another program detached, waits for a slot or for the pods to go.
    pub(super) fn on_attach_refused(&mut self, id: EniId, failure: &Failure, now: Timestamp) {
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
    pub(super) fn return_if_stuck(&mut self, id: EniId, failure: &Failure, now: Timestamp) {
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
}

/// Returns whether a refusal of a call that adds something to an ENI contradicts what is known of it.
fn is_contradiction(failed: FailureKind) -> bool {
    matches!(failed, FailureKind::NotFound | FailureKind::InUse | FailureKind::Rejected)
}
