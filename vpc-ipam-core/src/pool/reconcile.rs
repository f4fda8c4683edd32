//! Holding what a source showed against what is known.
//!
//! EC2 is the authority, IMDS a hint. What a source shows may be added once EC2 shows it. What a source does not show is
//! taken away only if the answer can be whole, is younger than what we know, EC2 itself says so, and, where a pod would
//! lose an address, says so twice or agrees with IMDS.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;

use super::{BlockState, Eni, Management, Pool, Removing, Stage};
use crate::model::tags;
use crate::pool::surroundings::Subnets;
use crate::{
    AttachmentStatus, Card, Config, DeviceIndex, EniId, Event, InterfaceType, Lease, Node,
    Observation, ObservedEni, PodKey, Scope, Source, SubnetRanges, Timestamp, UnconfirmedCause,
};

/// What an observation leads to, besides the changes of the pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) events: Vec<Event>,
    /// ENIs that IMDS shows and that are not known: only EC2 can explain them.
    pub(crate) unknown: Vec<EniId>,
    /// ENIs of which EC2 says what is known already, although IMDS shows them otherwise.
    pub(crate) contradicted: Vec<EniId>,
    /// ENIs of which EC2 says something new, as IMDS had it.
    pub(crate) borne_out: Vec<EniId>,
}

/// What an observation is held against besides the pool.
#[derive(Clone, Copy)]
pub(crate) struct Background<'a> {
    pub(crate) node: &'a Node,
    pub(crate) subnets: &'a Subnets,
    /// ENIs of which IMDS shows what EC2 contradicted lately.
    pub(crate) imds_ignored: &'a [EniId],
    pub(crate) config: &'a Config,
    pub(crate) now: Timestamp,
}

impl Background<'_> {
    fn settle(&self) -> Duration {
        self.config.timing.settle
    }

    /// Returns whether what IMDS shows of an ENI is left alone, because EC2 contradicted it lately.
    fn ignores_imds(&self, eni: EniId) -> bool {
        self.imds_ignored.contains(&eni)
    }
}

impl Pool {
    /// Holds an observation against what is known.
    pub(crate) fn on_observation(
        &mut self,
        observation: &Observation,
        background: Background<'_>,
    ) -> Finding {
        let mut finding = Finding::default();
        let whole = is_whole(observation, background.node);
        if !whole {
            finding.events.push(Event::ObservationPutAside {
                source: observation.source,
                as_of: observation.as_of,
                enis: observation.enis.len(),
            });
        }
        // Where EC2 may not be asked, IMDS is all there is.
        let authority = observation.source == Source::Ec2 || !background.config.ec2_reads;
        for observed in &observation.enis {
            let observed = self.without_unusable(observed, background.subnets, &mut finding);
            if authority {
                self.on_shown(&observed, observation, background, &mut finding);
            } else {
                self.on_hinted(&observed, observation, background, &mut finding);
            }
        }
        if whole {
            self.on_not_shown(observation, authority, background, &mut finding);
        }
        self.adopt_leases();
        finding
    }

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

    /// Returns an ENI as it was shown, without the blocks that no pod can have.
    pub(crate) fn without_unusable<'o>(
        &mut self,
        observed: &'o ObservedEni,
        subnets: &Subnets,
        finding: &mut Finding,
    ) -> Cow<'o, ObservedEni> {
        let own = [observed.primary_ipv4.map(IpAddr::V4), observed.primary_ipv6.map(IpAddr::V6)];
        let ranges = subnets.ranges_of(observed.subnet);
        let (_, refused) = usable_of(&observed.blocks, |net| self.is_usable(net, &own, ranges));
        self.on_refused(observed.id, &refused, finding);
        if refused.is_empty() {
            return Cow::Borrowed(observed);
        }
        let mut observed = observed.clone();
        observed.blocks.retain(|net| !refused.contains(&net.trunc()));
        Cow::Owned(observed)
    }

    /// Returns whether pods can have addresses of a block: it has a length that EC2 assigns, lies within the subnet as far as
    /// that is known, and holds no ENI's own address.
    fn is_usable(&self, net: IpNet, own: &[Option<IpAddr>], ranges: Option<SubnetRanges>) -> bool {
        let length = match net {
            IpNet::V4(net) => matches!(net.prefix_len(), 28 | 32),
            IpNet::V6(net) => net.prefix_len() == 80,
        };
        let within = |ranges: SubnetRanges| match net {
            IpNet::V4(net) => ranges.ipv4.is_none_or(|range| range.contains(&net)),
            IpNet::V6(net) => ranges.ipv6.is_none_or(|range| range.contains(&net)),
        };
        let holds = |address: IpAddr| net.contains(&address);
        let of_others =
            self.enis.iter().filter(|eni| eni.occupies_slot()).flat_map(|eni| {
                [eni.primary_ipv4.map(IpAddr::V4), eni.primary_ipv6.map(IpAddr::V6)]
            });
        length
            && ranges.is_none_or(within)
            && !own.iter().copied().chain(of_others).flatten().any(holds)
    }

    /// Says once which blocks of an ENI were refused.
    fn on_refused(&mut self, id: EniId, refused: &[IpNet], finding: &mut Finding) {
        let known = self.eni(id).map_or(&[][..], |eni| &eni.refused);
        if refused.iter().any(|net| !known.contains(net)) {
            finding.events.push(Event::BlocksRefused { eni: id, blocks: refused.to_vec() });
        }
        if let Some(eni) = self.eni_mut(id) {
            eni.refused = refused.to_vec();
        }
    }

    /// Records that EC2 just assigned blocks to an ENI. Returns those that pods can have; the others are refused.
    pub(crate) fn on_blocks_assigned(
        &mut self,
        id: EniId,
        nets: &[IpNet],
        ipv6: bool,
        subnets: &Subnets,
        now: Timestamp,
        finding: &mut Finding,
    ) -> Vec<IpNet> {
        let subnet = self.eni(id).map(|eni| eni.subnet);
        let ranges = subnet.and_then(|subnet| subnets.ranges_of(subnet));
        let usable = |net| matches!(net, IpNet::V6(_)) == ipv6 && self.is_usable(net, &[], ranges);
        let (good, refused) = usable_of(nets, usable);
        if !refused.is_empty() {
            finding.events.push(Event::BlocksRefused { eni: id, blocks: refused });
        }
        for net in &good {
            self.take_over(id, *net, None);
            if let Some(eni) = self.eni_mut(id) {
                eni.on_block_confirmed(*net, now);
            }
        }
        self.adopt_leases();
        good
    }

    /// Forgets blocks that turn out to lie outside their subnet, whose range became known only now.
    pub(crate) fn refuse_outside(&mut self, subnets: &Subnets) -> Vec<Event> {
        let mut finding = Finding::default();
        let ids: Vec<EniId> = self.enis.iter().map(|eni| eni.id).collect();
        for id in ids {
            let Some(eni) = self.eni(id) else { continue };
            let ranges = subnets.ranges_of(eni.subnet);
            let nets = eni.blocks().iter().map(super::Block::net);
            let outside = |net: &IpNet| match (net, ranges) {
                (IpNet::V4(net), Some(SubnetRanges { ipv4: Some(range), .. })) => {
                    !range.contains(net)
                }
                (IpNet::V6(net), Some(SubnetRanges { ipv6: Some(range), .. })) => {
                    !range.contains(net)
                }
                _ => false,
            };
            let refused: Vec<IpNet> = nets.filter(outside).collect();
            if refused.is_empty() {
                continue;
            }
            for net in &refused {
                self.forget_block(id, *net);
            }
            self.on_refused(id, &refused, &mut finding);
        }
        finding.events
    }

    /// Decides anew which ENIs are managed, as another configuration has it.
    pub(crate) fn manage(&mut self, config: &Config, node: &Node) {
        for eni in &mut self.enis {
            eni.management = management(eni, config, node);
        }
    }

    /// EC2 shows an ENI.
    fn on_shown(
        &mut self,
        observed: &ObservedEni,
        observation: &Observation,
        background: Background<'_>,
        finding: &mut Finding,
    ) {
        let Observation { as_of, .. } = *observation;
        let Background { now, .. } = background;
        let (node, settle) = (background.node, background.settle());
        match &observed.attachment {
            Some(attachment) if attachment.instance != node.instance => {
                // Another program attached it there.
                let knows =
                    |eni: &Eni| as_of >= eni.confirmed_at && eni.knows_attachment(as_of, settle);
                if self.eni(observed.id).is_some_and(knows) {
                    self.on_eni_gone(observed.id, now, finding);
                }
                return;
            }
            Some(_) => {}
            // Ours, left by a crash between two calls; or another program's, in which case it is not ours to attach.
            None => {
                let known = self.eni(observed.id).is_some();
                let tag = observed.tags.as_ref().and_then(|tags| tags.get(tags::INSTANCE));
                if !known && tag != Some(&node.instance.as_str().into()) {
                    return;
                }
            }
        }
        if self.eni(observed.id).is_none() {
            self.on_first_shown(observed, as_of, background, finding);
        } else {
            self.on_shown_again(observed, as_of, background, finding);
        }
    }

    /// EC2 shows an ENI that we do not know.
    fn on_first_shown(
        &mut self,
        observed: &ObservedEni,
        as_of: Timestamp,
        background: Background<'_>,
        finding: &mut Finding,
    ) {
        let Background { config, now, .. } = background;
        let (node, settle) = (background.node, background.settle());
        let gone = self.enis_gone.get(&observed.id);
        let just_gone = gone.is_some_and(|gone| is_recent(as_of, *gone, settle));
        if just_gone || is_going(observed) {
            return;
        }
        let (card, device) = match &observed.attachment {
            Some(attachment) => (attachment.card, attachment.device),
            None => (Card(0), Eni::UNPLACED),
        };
        let mut eni = Eni::new(observed, card, device, as_of, now);
        eni.primary = eni.id == node.primary;
        eni.management = management(&eni, config, node);
        if eni.is_primary() && eni.stage == Stage::Attached {
            // The operating system set it up.
            eni.on_set_up();
        }
        finding.events.push(Event::EniAppeared { eni: eni.id, card, device });
        self.insert(eni, Some(settle));
        self.ask_again_where_leases_differ(observed.id, now, finding);
    }

    /// EC2 shows an ENI that we know.
    fn on_shown_again(
        &mut self,
        observed: &ObservedEni,
        as_of: Timestamp,
        background: Background<'_>,
        finding: &mut Finding,
    ) {
        let (now, settle) = (background.now, background.settle());
        let Some(eni) = self.eni_mut(observed.id) else {
            return;
        };
        let knows = eni.knows_attachment(as_of, settle);
        let unconfirmed_by_imds = eni.unconfirmed.is_some_and(|unconfirmed| {
            unconfirmed.since <= as_of
                && matches!(
                    unconfirmed.cause,
                    UnconfirmedCause::Differs(Source::Imds)
                        | UnconfirmedCause::Missing(Source::Imds)
                )
        });
        let before = unconfirmed_by_imds.then(|| eni.shape());
        if is_going(observed) && knows && !eni.is_removing() {
            self.on_eni_gone(observed.id, now, finding);
            return;
        }
        if as_of < eni.confirmed_at
            || !knows && matches!(eni.stage, Stage::Removing(Removing::Delete { .. }))
        {
            return;
        }
        take_in(eni, observed, as_of, background);
        let position = (eni.card, eni.device);
        if let Some(attachment) = observed.attachment.as_ref().filter(|_| knows) {
            eni.delete_on_termination |= attachment.delete_on_termination.unwrap_or(false);
            eni.card = attachment.card;
            eni.device = attachment.device;
            eni.on_attachment_seen(attachment.id, attachment.status, as_of);
        } else if knows
            && matches!(eni.stage, Stage::Attached | Stage::Ready)
            && eni.ec2_call.is_none()
        {
            // It is there, but no longer attached: another program detached it.
            self.on_eni_gone(observed.id, now, finding);
            return;
        }
        if eni.unconfirmed.is_some_and(|unconfirmed| unconfirmed.since <= as_of) {
            eni.unconfirmed = None;
        }
        let moved = position != (eni.card, eni.device);
        self.on_blocks_shown(observed, as_of, settle, now, finding);
        if let (Some(before), Some(eni)) = (before, self.eni(observed.id)) {
            let same = eni.shape() == before;
            let heard = if same { &mut finding.contradicted } else { &mut finding.borne_out };
            heard.push(observed.id);
        }
        if moved {
            self.enis.sort_by_key(|eni| (eni.card, eni.device, eni.id));
        }
    }

    /// An answer is asked for once more where it shows an ENI for the first time and lacks an address that a lease of before
    /// the restart has on it: the ENI would count as unused and go.
    fn ask_again_where_leases_differ(&mut self, id: EniId, now: Timestamp, finding: &mut Finding) {
        let lacks = |address: IpAddr| !self.enis.iter().any(|eni| eni.block(address).is_some());
        let lost = self
            .leases()
            .flat_map(Lease::interfaces)
            .any(|interface| interface.eni == id && interface.addresses().any(lacks));
        let Some(eni) = self.eni_mut(id).filter(|_| lost) else { return };
        let cause = UnconfirmedCause::Differs(Source::Ec2);
        eni.on_unconfirmed(cause, now);
        finding.events.push(Event::SourcesDisagree { eni: id, cause });
    }

    /// EC2 shows the blocks of an ENI that we know.
    fn on_blocks_shown(
        &mut self,
        observed: &ObservedEni,
        as_of: Timestamp,
        settle: Duration,
        now: Timestamp,
        finding: &mut Finding,
    ) {
        // What moved here from another ENI is taken from that one first.
        let claimed: Vec<IpNet> = observed
            .blocks
            .iter()
            .map(IpNet::trunc)
            .filter(|net| self.take_over(observed.id, *net, Some((as_of, settle))))
            .collect();
        let Self { enis, blocks_gone, .. } = self;
        let Some(eni) = enis.iter_mut().find(|eni| eni.id == observed.id) else {
            return;
        };

        let mut added = Vec::new();
        let idle = eni.ec2_call.is_none();
        for net in claimed {
            if eni.block_of_net(net).is_some() {
                eni.on_block_confirmed(net, as_of);
                eni.edit_block_of(net.network(), |block| {
                    if idle && block.has_outlived_release(as_of, settle) {
                        block.on_release_refused();
                    }
                });
            } else if !blocks_gone.get(&net).is_some_and(|gone| is_recent(as_of, *gone, settle)) {
                blocks_gone.remove(&net);
                eni.on_block_confirmed(net, as_of);
                eni.on_block_came(net);
                added.push(net);
            }
        }
        if !added.is_empty() {
            finding.events.push(Event::BlocksAdded { eni: eni.id, blocks: added });
        }

        self.on_blocks_missing(observed, as_of, settle, now, finding);
    }

    /// EC2 does not show blocks of an ENI that we know. One that is in use goes only if EC2 says so twice, or agrees with IMDS.
    fn on_blocks_missing(
        &mut self,
        observed: &ObservedEni,
        as_of: Timestamp,
        settle: Duration,
        now: Timestamp,
        finding: &mut Finding,
    ) {
        let Self { enis, leases, blocks_gone, .. } = self;
        let Some(eni) = enis.iter_mut().find(|eni| eni.id == observed.id) else {
            return;
        };
        let mut removed = Vec::new();
        let mut in_use_denied = false;
        let missing: Vec<IpNet> = eni
            .blocks()
            .iter()
            .filter(|block| !observed.blocks.iter().any(|net| net.trunc() == block.net()))
            .filter(|block| !is_recent(as_of, block.confirmed_at(), settle))
            .map(super::Block::net)
            .collect();
        for net in missing {
            let Some(block) = eni.block_of_net(net) else {
                continue;
            };
            let in_use = block.assigned() > 0 || block.quarantined() > 0;
            let denied_before = match block.state() {
                BlockState::Suspect { since, by } => by == Source::Imds || since < as_of,
                BlockState::Releasing { .. } => true,
                BlockState::Confirmed => false,
            };
            if in_use && !denied_before {
                in_use_denied = true;
                eni.edit_block_of(net.network(), |block| block.on_denied(Source::Ec2, now));
                continue;
            }
            for held in leases.values() {
                for address in held.lease.addresses().filter(|address| net.contains(address)) {
                    finding
                        .events
                        .push(Event::AddressLost { key: held.lease.key.clone(), address });
                }
            }
            if block.is_releasing() {
                blocks_gone.insert(net, now);
            }
            removed.push(net);
        }
        if in_use_denied {
            // The ENI itself was shown, so this is no word against it.
            let cause = UnconfirmedCause::Differs(Source::Ec2);
            eni.on_unconfirmed(cause, now);
            finding.events.push(Event::SourcesDisagree { eni: eni.id, cause });
        }
        for net in &removed {
            self.forget_block(observed.id, *net);
        }
        if !removed.is_empty() {
            finding.events.push(Event::BlocksRemoved { eni: observed.id, blocks: removed });
        }
    }

    /// IMDS shows an ENI: what differs makes us ask EC2, and nothing else.
    fn on_hinted(
        &mut self,
        observed: &ObservedEni,
        observation: &Observation,
        background: Background<'_>,
        finding: &mut Finding,
    ) {
        let Observation { as_of, source, .. } = *observation;
        let (now, settle) = (background.now, background.settle());
        let ignored = background.ignores_imds(observed.id);
        let Self { enis, enis_gone, blocks_gone, .. } = self;
        let Some(eni) = enis.iter_mut().find(|eni| eni.id == observed.id) else {
            let just_gone =
                enis_gone.get(&observed.id).is_some_and(|gone| is_recent(as_of, *gone, settle));
            if !just_gone && !ignored {
                finding.unknown.push(observed.id);
            }
            return;
        };
        if !eni.is_managed() || eni.is_removing() || ignored {
            return;
        }
        let shown = |net: IpNet| observed.blocks.iter().any(|other| other.trunc() == net);
        let missing = eni.blocks().iter().any(|block| {
            !block.is_releasing()
                && !shown(block.net())
                && !is_recent(as_of, block.confirmed_at(), settle)
        });
        let extra =
            observed.blocks.iter().map(IpNet::trunc).any(|net| match eni.block_of_net(net) {
                Some(block) => eni.ec2_call.is_none() && block.has_outlived_release(as_of, settle),
                None => !blocks_gone.get(&net).is_some_and(|gone| is_recent(as_of, *gone, settle)),
            });
        if missing {
            eni.edit_blocks(|block| {
                if !shown(block.net()) && !is_recent(as_of, block.confirmed_at(), settle) {
                    block.on_denied(source, now);
                }
            });
        }
        if (missing || extra) && eni.unconfirmed.is_none() {
            let cause = UnconfirmedCause::Differs(source);
            eni.on_unconfirmed(cause, now);
            finding.events.push(Event::SourcesDisagree { eni: eni.id, cause });
        }
    }

    /// An answer that can be whole does not show some of the ENIs that it was about.
    fn on_not_shown(
        &mut self,
        observation: &Observation,
        authority: bool,
        background: Background<'_>,
        finding: &mut Finding,
    ) {
        let Observation { as_of, source, ref scope, ref enis, ref incomplete } = *observation;
        let Background { config, now, .. } = background;
        let settle = background.settle();
        let asked = |eni: &Eni| match scope {
            Scope::Attached => !matches!(
                eni.stage,
                Stage::Available | Stage::Removing(Removing::Delete { .. } | Removing::Vanished)
            ),
            // One that is to be deleted waits for its last user; another instance may have it meanwhile.
            Scope::Unattached => match eni.stage {
                Stage::Available => eni.ec2_call.is_none(),
                Stage::Removing(Removing::Delete { not_before }) => {
                    eni.ec2_call.is_none() && !is_recent(as_of, not_before, settle)
                }
                _ => false,
            },
            Scope::Only(ids) => ids.contains(&eni.id),
        };
        let missing: Vec<EniId> = self
            .enis
            .iter()
            .filter(|eni| asked(eni) && !enis.iter().any(|shown| shown.id == eni.id))
            .filter(|eni| !incomplete.iter().any(|listed| listed.mac == eni.mac))
            .filter(|eni| !eni.is_primary() && !is_recent(as_of, eni.confirmed_at, settle))
            .filter(|eni| authority || !background.ignores_imds(eni.id))
            .map(|eni| eni.id)
            .collect();
        for id in missing {
            let Some(eni) = self.eni_mut(id) else {
                continue;
            };
            let cause = UnconfirmedCause::Missing(source);
            let in_use = !eni.is_idle(now, config.cooldown);
            let denied_before = eni.unconfirmed.is_some_and(|unconfirmed| {
                matches!(unconfirmed.cause, UnconfirmedCause::Missing(by) if by == Source::Imds || unconfirmed.since < as_of)
            });
            // It may be attached meanwhile, here or elsewhere.
            let settled = authority && *scope != Scope::Unattached;
            if settled && (!in_use || denied_before) {
                self.on_eni_gone(id, now, finding);
            } else if eni.unconfirmed.is_none_or(|unconfirmed| unconfirmed.cause != cause) {
                eni.unconfirmed = None;
                eni.on_unconfirmed(cause, now);
                finding.events.push(Event::SourcesDisagree { eni: id, cause });
            }
        }
    }

    /// EC2 no longer has an ENI on this instance. Pods on it keep their leases; the node removes what it set up.
    pub(crate) fn on_eni_gone(&mut self, id: EniId, now: Timestamp, finding: &mut Finding) {
        let pods: Vec<PodKey> = self
            .leases()
            .filter(|lease| lease.interfaces().any(|interface| interface.eni == id))
            .map(|lease| lease.key.clone())
            .collect();
        let Some(eni) = self.eni_mut(id) else {
            return;
        };
        let by_us = eni.is_removing();
        eni.on_vanished();
        if !eni.is_managed() && eni.ec2_call.is_none() {
            // Nothing was set up for it.
            self.remove(id, now);
        }
        if !by_us {
            finding.events.push(Event::EniVanished { eni: id, pods });
        }
    }

    /// What was found out later than now, by a clock that was set back since, counts as found out now.
    pub(crate) fn on_clock_set_back(&mut self, now: Timestamp) {
        for eni in &mut self.enis {
            eni.on_clock_set_back(now);
        }
        let gone = self.blocks_gone.values_mut().chain(self.enis_gone.values_mut());
        for at in gone.chain(&mut self.forgotten) {
            *at = (*at).min(now);
        }
    }

    /// Forgets what was remembered only to recognise late answers and late packets. `asked_at` is when the oldest question
    /// was asked that has no answer yet: what it needs is kept.
    pub(crate) fn prune(&mut self, config: &Config, asked_at: Option<Timestamp>, now: Timestamp) {
        // Twice the time, since an answer may be asked for just before the limit and take a while.
        let late = config.timing.settle.saturating_mul(2);
        let needed_at = asked_at.map_or(now, |at| at.min(now));
        let mut forgotten = self.forgotten;
        let mut keep = |gone: Timestamp| {
            let keep = is_recent(needed_at, gone, late);
            if !keep {
                forgotten = forgotten.max(Some(gone));
            }
            keep
        };
        self.blocks_gone.retain(|_, gone| keep(*gone));
        self.enis_gone.retain(|_, gone| keep(*gone));
        self.forgotten = forgotten;
        self.released_before.retain(|_, at| is_recent(now, *at, config.cooldown));
    }

    /// Returns whether everything is still remembered that an answer of this age could wrongly show.
    pub(crate) fn remembers(&self, as_of: Timestamp, settle: Duration) -> bool {
        self.forgotten.is_none_or(|gone| !is_recent(as_of, gone, settle))
    }

    /// Remembers that EC2 took a block back, so that a late answer does not bring it back.
    pub(crate) fn remember_block_gone(&mut self, net: IpNet, now: Timestamp) {
        self.blocks_gone.insert(net, now);
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

/// Splits the blocks of an answer into those that pods can have and the others: one that lies in another is in it already.
fn usable_of(nets: &[IpNet], is_usable: impl Fn(IpNet) -> bool) -> (Vec<IpNet>, Vec<IpNet>) {
    let (mut usable, mut refused): (Vec<IpNet>, Vec<IpNet>) =
        nets.iter().map(IpNet::trunc).partition(|net| is_usable(*net));
    usable.sort_unstable();
    usable.dedup();
    let all = usable.clone();
    let covered = |net: &mut IpNet| all.iter().any(|other| other != net && other.contains(&*net));
    refused.extend(usable.extract_if(.., covered));
    (usable, refused)
}

/// Returns whether EC2 shows an ENI that is being detached.
fn is_going(observed: &ObservedEni) -> bool {
    let status = observed.attachment.as_ref().map(|attachment| attachment.status);
    matches!(status, Some(AttachmentStatus::Detaching | AttachmentStatus::Detached))
}

/// Takes in what EC2 shows of an ENI besides its attachment and its blocks.
fn take_in(eni: &mut Eni, observed: &ObservedEni, as_of: Timestamp, background: Background<'_>) {
    eni.confirmed_at = as_of;
    eni.security_groups.clone_from(&observed.security_groups);
    eni.primary_ipv4 = observed.primary_ipv4;
    eni.primary_ipv6 = observed.primary_ipv6.or(eni.primary_ipv6);
    eni.interface_type = observed.interface_type;
    eni.vpc = observed.vpc.or(eni.vpc);
    if let Some(tags) = &observed.tags {
        eni.tags.clone_from(tags);
    }
    eni.management = management(eni, background.config, background.node);
}

/// Returns whether an answer asked for at `as_of` may still show what was before a change.
fn is_recent(as_of: Timestamp, changed: Timestamp, settle: Duration) -> bool {
    as_of <= changed + settle
}

/// Returns whether an answer can be whole: one about the ENIs of the instance shows the primary ENI.
pub(crate) fn is_whole(observation: &Observation, node: &Node) -> bool {
    match &observation.scope {
        Scope::Attached => observation.enis.iter().any(|eni| eni.id == node.primary),
        Scope::Unattached | Scope::Only(_) => true,
    }
}

/// Returns whether we manage an ENI, by its place, its kind and its tags.
fn management(eni: &Eni, config: &Config, node: &Node) -> Management {
    if eni.id == node.primary {
        return Management::Managed;
    }
    if eni.vpc.is_some_and(|vpc| vpc != node.vpc) {
        return Management::OtherVpc;
    }
    match eni.interface_type {
        InterfaceType::EfaOnly | InterfaceType::Branch | InterfaceType::Other => {
            return Management::InterfaceType;
        }
        InterfaceType::Interface | InterfaceType::Efa | InterfaceType::Trunk => {}
    }
    if eni.card != Card(0) && !config.multi_nic {
        return Management::Card;
    }
    match eni.tag(tags::NO_MANAGE) {
        Some("true") => Management::NoManageTag,
        Some(_) => Management::Managed,
        None if config.manage_untagged => Management::Managed,
        None if eni.is_made_for(node.instance) => Management::Managed,
        None => Management::Untagged,
    }
}
