//! Comparing what a source showed with what is known.
//!
//! EC2 is the authority, IMDS a hint. What a source shows may be added once EC2 shows it. What a source does not show is
//! taken away only if the answer can be whole, is younger than what we know, EC2 itself says so, and, where a pod would
//! lose an address, says so twice or agrees with IMDS.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;

use crate::model::tags;
use crate::pool::block::{Block, BlockState};
use crate::pool::eni::Shape;
use crate::pool::finding::Finding;
use crate::pool::gone::is_recent;
use crate::pool::management::management;
use crate::pool::surroundings::Subnets;
use crate::pool::{Eni, Pool, Removing, Stage};
use crate::{
    AttachmentStatus, Card, Config, DeviceIndex, EniId, Event, Lease, Node, Observation,
    ObservedEni, Scope, Source, Timestamp, UnconfirmedCause,
};

/// One observation, while it is compared with the pool.
pub(crate) struct Reconciler<'a> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) observation: &'a Observation,
    pub(crate) node: &'a Node,
    pub(crate) subnets: &'a Subnets,
    /// ENIs of which IMDS shows what EC2 contradicted lately.
    pub(crate) imds_ignored: &'a [EniId],
    pub(crate) config: &'a Config,
    pub(crate) now: Timestamp,
    pub(crate) finding: Finding,
}

impl Reconciler<'_> {
    /// Changes the pool by what the observation shows. Returns what else follows.
    pub(crate) fn reconcile(mut self) -> Finding {
        let observation = self.observation;
        let whole = is_whole(observation, self.node);
        if !whole {
            self.finding.events.push(Event::ObservationPutAside {
                source: observation.source,
                as_of: observation.as_of,
                enis: observation.enis.len(),
            });
        }
        let authority = self.is_authority();
        for observed in &observation.enis {
            let Self { pool, subnets, finding, .. } = &mut self;
            let observed = pool.without_unusable(observed, subnets, finding);
            if authority {
                self.shown(&observed);
            } else {
                self.hinted(&observed);
            }
        }
        if whole {
            self.not_shown();
        }
        self.pool.adopt_leases();
        self.finding
    }

    /// Returns whether the observation decides. Where EC2 may not be asked, IMDS is all there is.
    fn is_authority(&self) -> bool {
        self.observation.source == Source::Ec2 || !self.config.ec2_reads
    }

    /// Returns when the source was asked.
    fn as_of(&self) -> Timestamp {
        self.observation.as_of
    }

    /// Returns how long a source may go on showing what was before a change.
    fn eventual_consistency(&self) -> Duration {
        self.config.timing.eventual_consistency
    }

    /// Returns whether the observation may still show what was before a change.
    fn may_precede(&self, changed: Timestamp) -> bool {
        is_recent(self.as_of(), changed, self.eventual_consistency())
    }

    /// Returns whether EC2 took a block back so short a while ago that the observation may still show it.
    fn may_precede_release_of(&self, net: IpNet) -> bool {
        self.pool.blocks_gone.get(&net).is_some_and(|gone| self.may_precede(*gone))
    }

    /// Returns whether an ENI went so short a while ago that the observation may still show it.
    fn may_precede_end_of(&self, eni: EniId) -> bool {
        self.pool.enis_gone.get(&eni).is_some_and(|gone| self.may_precede(*gone))
    }

    /// An ENI has to be asked about because the source and what is known differ.
    fn disagree(&mut self, id: EniId, cause: UnconfirmedCause) {
        if let Some(eni) = self.pool.eni_mut(id) {
            eni.on_unconfirmed(cause, self.now);
            self.finding.events.push(Event::SourcesDisagree { eni: id, cause });
        }
    }

    /// EC2 shows an ENI.
    fn shown(&mut self, observed: &ObservedEni) {
        match &observed.attachment {
            Some(attachment) if attachment.instance != self.node.instance => {
                self.shown_elsewhere(observed);
            }
            None if !self.is_ours_unattached(observed) => {}
            Some(_) | None if self.pool.eni(observed.id).is_none() => self.first_shown(observed),
            Some(_) | None => self.shown_again(observed),
        }
    }

    /// Another program attached an ENI to another instance.
    fn shown_elsewhere(&mut self, observed: &ObservedEni) {
        let (as_of, eventual_consistency) = (self.as_of(), self.eventual_consistency());
        let knows = |eni: &Eni| {
            as_of >= eni.confirmed_at && eni.knows_attachment(as_of, eventual_consistency)
        };
        if self.pool.eni(observed.id).is_some_and(knows) {
            self.pool.on_eni_gone(observed.id, self.now, &mut self.finding);
        }
    }

    /// Returns whether an ENI that is attached to nothing is ours, left by a crash between two calls. Another program's is not
    /// ours to attach.
    fn is_ours_unattached(&self, observed: &ObservedEni) -> bool {
        let tag = observed.tags.as_ref().and_then(|tags| tags.get(tags::INSTANCE));
        let is_made_for_node = tag.is_some_and(|tag| tag == self.node.instance.as_str());
        self.pool.eni(observed.id).is_some() || is_made_for_node
    }

    /// EC2 shows an ENI that we do not know.
    fn first_shown(&mut self, observed: &ObservedEni) {
        if self.may_precede_end_of(observed.id) || is_going(observed) {
            return;
        }
        let (card, device) = match &observed.attachment {
            Some(attachment) => (attachment.card, attachment.device),
            None => (Card(0), Eni::NO_SLOT),
        };
        let mut eni = Eni::new(observed, card, device, self.as_of(), self.now);
        eni.primary = eni.id == self.node.primary;
        eni.management = management(&eni, self.config, self.node);
        if eni.is_primary() && eni.stage == Stage::Attached {
            // The operating system set it up.
            eni.on_set_up();
        }
        self.finding.events.push(Event::EniAppeared { eni: eni.id, card, device });
        self.pool.insert(eni, Some(self.eventual_consistency()));
        if self.lacks_leased_address(observed.id) {
            // Asked for once more, or the ENI would count as unused and go.
            self.disagree(observed.id, UnconfirmedCause::Differs(Source::Ec2));
        }
    }

    /// Returns whether an ENI lacks an address that a lease of before the restart has on it.
    fn lacks_leased_address(&self, id: EniId) -> bool {
        let enis = self.pool.enis();
        let lacks = |address: IpAddr| !enis.iter().any(|eni| eni.block(address).is_some());
        let mut interfaces = self.pool.leases().flat_map(Lease::interfaces);
        interfaces.any(|interface| interface.eni == id && interface.addresses().any(lacks))
    }

    /// EC2 shows an ENI that we know.
    fn shown_again(&mut self, observed: &ObservedEni) {
        let (as_of, eventual_consistency) = (self.as_of(), self.eventual_consistency());
        let Some(eni) = self.pool.eni(observed.id) else { return };
        let knows = eni.knows_attachment(as_of, eventual_consistency);
        if is_going(observed) && knows && !eni.is_removing() {
            self.pool.on_eni_gone(observed.id, self.now, &mut self.finding);
            return;
        }
        let is_outdated = as_of < eni.confirmed_at;
        if is_outdated || !knows && matches!(eni.stage, Stage::Removing(Removing::Delete { .. })) {
            return;
        }
        let position = (eni.card, eni.device);
        let before = self.shape_before_hint(eni);
        if !self.take_in(observed, knows) {
            self.pool.on_eni_gone(observed.id, self.now, &mut self.finding);
            return;
        }
        self.blocks_shown(observed);
        self.blocks_missing(observed);
        let Some(eni) = self.pool.eni(observed.id) else { return };
        if let Some(before) = before {
            let same = eni.shape() == before;
            let Finding { contradicted, borne_out, .. } = &mut self.finding;
            (if same { contradicted } else { borne_out }).push(observed.id);
        }
        if position != (eni.card, eni.device) {
            self.pool.sort_enis();
        }
    }

    /// Returns what is known of an ENI that IMDS shows otherwise, to tell afterwards whether EC2 bears IMDS out.
    fn shape_before_hint(&self, eni: &Eni) -> Option<Shape> {
        let unconfirmed = eni.unconfirmed.filter(|it| it.since <= self.as_of())?;
        let by_imds = matches!(
            unconfirmed.cause,
            UnconfirmedCause::Differs(Source::Imds) | UnconfirmedCause::Missing(Source::Imds)
        );
        by_imds.then(|| eni.shape())
    }

    /// Takes in what EC2 shows of an ENI besides its blocks. Returns false if another program detached it.
    fn take_in(&mut self, observed: &ObservedEni, knows_attachment: bool) -> bool {
        let as_of = self.as_of();
        let Some(eni) = self.pool.eni_mut(observed.id) else { return true };
        eni.confirmed_at = as_of;
        eni.security_groups.clone_from(&observed.security_groups);
        eni.primary_ipv4 = observed.primary_ipv4;
        eni.primary_ipv6 = observed.primary_ipv6.or(eni.primary_ipv6);
        eni.interface_type = observed.interface_type;
        eni.vpc = observed.vpc.or(eni.vpc);
        if let Some(tags) = &observed.tags {
            eni.tags.clone_from(tags);
        }
        eni.management = management(eni, self.config, self.node);
        match &observed.attachment {
            Some(attachment) if knows_attachment => {
                eni.delete_on_termination |= attachment.delete_on_termination.unwrap_or(false);
                eni.card = attachment.card;
                eni.device = attachment.device;
                eni.on_attachment_seen(attachment.id, attachment.status, as_of);
            }
            None if knows_attachment
                && matches!(eni.stage, Stage::Attached | Stage::Ready)
                && eni.ec2_call.is_none() =>
            {
                return false;
            }
            Some(_) | None => {}
        }
        eni.unconfirmed.take_if(|unconfirmed| unconfirmed.since <= as_of);
        true
    }

    /// EC2 shows the blocks of an ENI that we know.
    fn blocks_shown(&mut self, observed: &ObservedEni) {
        let (as_of, eventual_consistency) = (self.as_of(), self.eventual_consistency());
        // What moved here from another ENI is taken from that one first.
        let nets = observed.blocks.iter().map(IpNet::trunc);
        let claimed: Vec<IpNet> = nets
            .filter(|net| {
                self.pool.take_over(observed.id, *net, Some((as_of, eventual_consistency)))
            })
            .collect();
        let mut added = Vec::new();
        for net in claimed {
            let gone_lately = self.may_precede_release_of(net);
            let Some(eni) = self.pool.eni_mut(observed.id) else { return };
            if eni.block_of_net(net).is_some() {
                let idle = eni.ec2_call.is_none();
                eni.on_block_confirmed(net, as_of);
                eni.edit_block_of(net.network(), |block| {
                    if idle && block.has_outlived_release(as_of, eventual_consistency) {
                        block.on_release_refused();
                    }
                });
            } else if !gone_lately {
                eni.on_block_confirmed(net, as_of);
                eni.on_block_came(net);
                self.pool.blocks_gone.remove(&net);
                added.push(net);
            }
        }
        if !added.is_empty() {
            self.finding.events.push(Event::BlocksAdded { eni: observed.id, blocks: added });
        }
    }

    /// EC2 does not show blocks of an ENI that we know. One that is in use goes only if EC2 says so twice, or agrees with IMDS.
    fn blocks_missing(&mut self, observed: &ObservedEni) {
        let Some(eni) = self.pool.eni(observed.id) else { return };
        let shown = |block: &Block| observed.blocks.iter().any(|net| net.trunc() == block.net());
        let missing = eni.blocks().iter().filter(|block| !shown(block));
        let missing = missing.filter(|block| !self.may_precede(block.confirmed_at()));
        let (removed, denied): (Vec<&Block>, Vec<&Block>) =
            missing.partition(|block| !is_in_use(block) || self.is_denied_again(block));
        let releasing =
            removed.iter().filter(|block| block.is_releasing()).map(|block| block.net());
        let releasing: Vec<IpNet> = releasing.collect();
        let removed: Vec<IpNet> = removed.into_iter().map(Block::net).collect();
        let denied: Vec<IpNet> = denied.into_iter().map(Block::net).collect();

        for net in &removed {
            self.addresses_lost(*net);
        }
        for net in releasing {
            self.pool.remember_block_gone(net, self.now);
        }
        if !denied.is_empty() {
            if let Some(eni) = self.pool.eni_mut(observed.id) {
                for net in denied {
                    eni.edit_block_of(net.network(), |block| {
                        block.on_denied(Source::Ec2, self.now)
                    });
                }
            }
            // The ENI itself was shown, so this is no word against it.
            self.disagree(observed.id, UnconfirmedCause::Differs(Source::Ec2));
        }
        for net in &removed {
            self.pool.forget_block(observed.id, *net);
        }
        if !removed.is_empty() {
            self.finding.events.push(Event::BlocksRemoved { eni: observed.id, blocks: removed });
        }
    }

    /// Returns whether a block that EC2 does not show was denied before, by IMDS or by an earlier answer of EC2.
    fn is_denied_again(&self, block: &Block) -> bool {
        match block.state() {
            BlockState::Suspect { since, by } => by == Source::Imds || since < self.as_of(),
            BlockState::Releasing { .. } => true,
            BlockState::Confirmed => false,
        }
    }

    /// Pods lose the addresses of a block.
    fn addresses_lost(&mut self, net: IpNet) {
        for lease in self.pool.leases() {
            for address in lease.addresses().filter(|address| net.contains(address)) {
                let key = lease.key.clone();
                self.finding.events.push(Event::AddressLost { key, address });
            }
        }
    }

    /// IMDS shows an ENI: what differs makes us ask EC2, and nothing else.
    fn hinted(&mut self, observed: &ObservedEni) {
        let ignored = self.imds_ignored.contains(&observed.id);
        let Some(eni) = self.pool.eni(observed.id) else {
            if !self.may_precede_end_of(observed.id) && !ignored {
                self.finding.unknown.push(observed.id);
            }
            return;
        };
        if !eni.is_managed() || eni.is_removing() || ignored {
            return;
        }
        let shown = |block: &Block| observed.blocks.iter().any(|net| net.trunc() == block.net());
        let missing = eni.blocks().iter().filter(|block| !block.is_releasing() && !shown(block));
        let missing = missing.filter(|block| !self.may_precede(block.confirmed_at()));
        let missing: Vec<IpNet> = missing.map(Block::net).collect();
        let differs = !missing.is_empty() || self.is_more_shown(eni, observed);
        let is_news = differs && eni.unconfirmed.is_none();

        let (source, now) = (self.observation.source, self.now);
        if let Some(eni) = self.pool.eni_mut(observed.id) {
            for net in missing {
                eni.edit_block_of(net.network(), |block| block.on_denied(source, now));
            }
        }
        if is_news {
            self.disagree(observed.id, UnconfirmedCause::Differs(source));
        }
    }

    /// Returns whether an ENI is shown with a block that it should not have.
    fn is_more_shown(&self, eni: &Eni, observed: &ObservedEni) -> bool {
        let (as_of, eventual_consistency) = (self.as_of(), self.eventual_consistency());
        observed.blocks.iter().map(IpNet::trunc).any(|net| match eni.block_of_net(net) {
            Some(block) => {
                eni.ec2_call.is_none() && block.has_outlived_release(as_of, eventual_consistency)
            }
            None => !self.may_precede_release_of(net),
        })
    }

    /// An answer that can be whole does not show some of the ENIs that it was about.
    fn not_shown(&mut self) {
        let Observation { source, scope, enis, incomplete, .. } = self.observation;
        let authority = self.is_authority();
        // One that is attached to nothing may be attached meanwhile, here or elsewhere.
        let decides = authority && *scope != Scope::Unattached;
        let missing = self.pool.enis().iter().filter(|eni| self.is_asked_about(eni));
        let missing: Vec<EniId> = missing
            .filter(|eni| !enis.iter().any(|shown| shown.id == eni.id))
            .filter(|eni| !incomplete.iter().any(|listed| listed.mac == eni.mac))
            .filter(|eni| !eni.is_primary() && !self.may_precede(eni.confirmed_at))
            .filter(|eni| authority || !self.imds_ignored.contains(&eni.id))
            .map(|eni| eni.id)
            .collect();
        for id in missing {
            let cause = UnconfirmedCause::Missing(*source);
            let Some(eni) = self.pool.eni(id) else { continue };
            let in_use = !eni.is_idle(self.now, self.config.cooldown);
            if decides && (!in_use || self.is_missing_again(eni)) {
                self.pool.on_eni_gone(id, self.now, &mut self.finding);
            } else if eni.unconfirmed.is_none_or(|unconfirmed| unconfirmed.cause != cause) {
                if let Some(eni) = self.pool.eni_mut(id) {
                    eni.unconfirmed = None;
                }
                self.disagree(id, cause);
            }
        }
    }

    /// Returns whether the question was about an ENI.
    fn is_asked_about(&self, eni: &Eni) -> bool {
        match &self.observation.scope {
            Scope::Attached => !matches!(
                eni.stage,
                Stage::Available | Stage::Removing(Removing::Delete { .. } | Removing::Vanished)
            ),
            // One that is to be deleted waits for its last user; another instance may have it meanwhile.
            Scope::Unattached => match eni.stage {
                Stage::Available => eni.ec2_call.is_none(),
                Stage::Removing(Removing::Delete { not_before }) => {
                    eni.ec2_call.is_none() && !self.may_precede(not_before)
                }
                _ => false,
            },
            Scope::Only(ids) => ids.contains(&eni.id),
        }
    }

    /// Returns whether an ENI was missing before, to IMDS or in an earlier answer of EC2.
    fn is_missing_again(&self, eni: &Eni) -> bool {
        eni.unconfirmed.is_some_and(|unconfirmed| match unconfirmed.cause {
            UnconfirmedCause::Missing(by) => by == Source::Imds || unconfirmed.since < self.as_of(),
            _ => false,
        })
    }
}

impl Pool {
    /// Adds the primary ENI as IMDS shows it, while EC2 cannot be asked. Its blocks are suspect until EC2 shows them.
    pub(crate) fn insert_unconfirmed_primary(
        &mut self,
        observed: &ObservedEni,
        now: Timestamp,
    ) -> Event {
        let (card, device) = observed
            .attachment
            .as_ref()
            .map_or((Card(0), DeviceIndex(0)), |attachment| (attachment.card, attachment.device));
        let mut eni = Eni::new(observed, card, device, Timestamp::EPOCH, now);
        eni.primary = true;
        // The operating system set it up.
        eni.on_set_up();
        eni.edit_blocks(|block| block.on_denied(Source::Ec2, now));
        let event = Event::EniAppeared { eni: eni.id, card, device };
        self.insert(eni, None);
        event
    }

    /// Returns whether what is known contradicts what a source showed, so that nothing may be released.
    pub(crate) fn unconfirmed(&self) -> Option<EniId> {
        let unconfirmed = |eni: &&Eni| {
            eni.is_managed()
                && eni.unconfirmed.is_some_and(|unconfirmed| {
                    matches!(
                        unconfirmed.cause,
                        UnconfirmedCause::Missing(_) | UnconfirmedCause::Differs(_)
                    )
                })
        };
        self.enis.iter().find(unconfirmed).map(|eni| eni.id)
    }
}

/// Returns whether EC2 shows an ENI that is being detached.
fn is_going(observed: &ObservedEni) -> bool {
    let status = observed.attachment.as_ref().map(|attachment| attachment.status);
    matches!(status, Some(AttachmentStatus::Detaching | AttachmentStatus::Detached))
}

/// Returns whether an answer can be whole: one about the ENIs of the instance shows the primary ENI.
pub(crate) fn is_whole(observation: &Observation, node: &Node) -> bool {
    match &observation.scope {
        Scope::Attached => observation.enis.iter().any(|eni| eni.id == node.primary),
        Scope::Unattached | Scope::Only(_) => true,
    }
}

/// Returns whether a pod, or an untracked owner, uses an address of a block.
fn is_in_use(block: &Block) -> bool {
    block.assigned() > 0 || block.quarantined() > 0
}
