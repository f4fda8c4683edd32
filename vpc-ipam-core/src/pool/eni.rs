//! An ENI of the node and the blocks it carries.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use ipnet::IpNet;

use crate::model::tags;
use crate::pool::block::{Block, BlockKind};
use crate::pool::queue::Queues;
use crate::pool::tally::{Tallies, Tally};
use crate::{
    ActionId, AttachmentId, AttachmentStatus, Card, DeviceIndex, EniId, InstanceId, InterfaceType,
    LeasedInterface, Mac, ObservedEni, SecurityGroupId, SubnetId, Timestamp, Unconfirmed,
    UnconfirmedCause, VpcId,
};

/// An ENI of the node, whether we manage it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Eni {
    /// The id that EC2 gave it.
    pub id: EniId,
    /// The MAC address, by which the node finds its link.
    pub mac: Mac,
    /// The network card that it is on, or will be attached to.
    pub card: Card,
    /// Its index on that card. An ENI that waits to be attached has the index it will get.
    pub device: DeviceIndex,
    /// The subnet of its addresses.
    pub subnet: SubnetId,
    /// Its VPC, if a source said.
    pub vpc: Option<VpcId>,
    /// What it is for.
    pub interface_type: InterfaceType,
    /// Whether it is the primary ENI: there from launch, never detached. It need not be at device index 0.
    pub primary: bool,
    /// Whether we manage it, and if not, why.
    pub management: Management,
    /// Whether its subnet was taken out of use: pods stay, none is added.
    pub excluded: bool,
    /// Its own IPv4 address, never given to a pod.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// Its own IPv6 address.
    pub primary_ipv6: Option<Ipv6Addr>,
    /// Its security groups, as last seen.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its tags, as last seen.
    pub tags: BTreeMap<String, String>,
    /// Since when we know of it.
    pub since: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// Its attachment, once EC2 named it.
    pub attachment: Option<AttachmentId>,
    /// Whether it goes when the instance goes.
    pub delete_on_termination: bool,
    /// Whether what we believe of it needs EC2's word before anything else is done with it.
    pub unconfirmed: Option<Unconfirmed>,
    /// The EC2 call that is under way for it; at most one.
    pub(crate) ec2_call: Option<Ec2Call>,
    /// The change of the node's network that is under way for it; at most one.
    pub(crate) host_call: Option<ActionId>,
    /// When EC2 last showed it.
    pub(crate) confirmed_at: Timestamp,
    /// Blocks that a source showed on it last and that no pod can have.
    pub(crate) refused: Vec<IpNet>,
    /// Whether it was ever ready: pods could use its addresses.
    pub(crate) was_ready: bool,
    /// Since when it is known to be attached: an answer that does not know yet says nothing of its attachment.
    pub(crate) attached_at: Timestamp,
    /// Sorted by address. They change in [`Eni::edit_block`] alone, which keeps the counts and the order.
    blocks: Vec<Block>,
    queues: Queues,
    tallies: Tallies,
    assigned: u32,
}

/// How far an ENI is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Stage {
    /// It exists in EC2, attached to nothing.
    Available,
    /// EC2 attached it; the node has not set its link up.
    Attached,
    /// The node set its link up: pods can use its addresses.
    Ready,
    /// It is on its way out: no pod gets its addresses.
    #[cfg_attr(feature = "serde", serde(rename = "Leaving"))]
    Removing(Removing),
}

/// The steps by which an ENI goes, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Removing {
    /// The node removes what it set up for it.
    Host,
    /// The node no longer uses it: EC2 has to detach it.
    Detach,
    /// EC2 deletes it, not before a point in time: detaching takes a moment to show.
    Delete {
        /// When it may be deleted, as EC2 takes a while to detach it.
        not_before: Timestamp,
    },
    /// EC2 no longer has it; the node removes what it set up for it, then it is forgotten.
    Vanished,
}

/// Whether we manage an ENI, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Management {
    /// It is ours: it gets addresses, and is deleted when it is not needed.
    Managed,
    /// Its tag `node.k8s.amazonaws.com/no_manage` says `true`.
    NoManageTag,
    /// It carries no tag of ours, and `MANAGE_UNTAGGED_ENI` is off.
    Untagged,
    /// It is in another VPC than the instance.
    OtherVpc,
    /// It is a fabric adapter without addresses, or a branch, or another service's.
    InterfaceType,
    /// It is on a network card that is not in use: `ENABLE_MULTI_NIC` is off, or the card is kept for EFA.
    Card,
}

/// What both EC2 and IMDS say of an ENI: its card and index, whether it is being removed, its blocks.
pub(crate) type Shape = (Card, DeviceIndex, bool, Vec<IpNet>);

/// An EC2 call under way for one ENI, and what it will change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Ec2Call {
    pub(crate) id: ActionId,
    pub(crate) kind: Ec2CallKind,
}

/// What an EC2 call under way will change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Ec2CallKind {
    Attach,
    MarkDeleteOnTermination,
    SetGroups(Vec<SecurityGroupId>),
    Tag(BTreeMap<String, String>),
    /// So many IPv4 blocks of one prefix length are coming.
    AssignIpv4 {
        blocks: u32,
        prefixes: bool,
    },
    AssignIpv6,
    Unassign(Vec<IpNet>),
    Detach,
    Delete,
}

impl Eni {
    /// Makes an ENI as EC2 or IMDS showed it, attached or not.
    pub(crate) fn new(
        observed: &ObservedEni,
        card: Card,
        device: DeviceIndex,
        as_of: Timestamp,
        now: Timestamp,
    ) -> Self {
        let mut eni = Self {
            id: observed.id,
            mac: observed.mac,
            card,
            device,
            subnet: observed.subnet,
            vpc: observed.vpc,
            interface_type: observed.interface_type,
            primary: false,
            management: Management::Managed,
            excluded: false,
            primary_ipv4: observed.primary_ipv4,
            primary_ipv6: observed.primary_ipv6,
            security_groups: observed.security_groups.clone(),
            tags: observed.tags.clone().unwrap_or_default(),
            since: now,
            stage: Stage::Available,
            attachment: None,
            delete_on_termination: false,
            unconfirmed: None,
            ec2_call: None,
            host_call: None,
            confirmed_at: as_of,
            refused: Vec::new(),
            was_ready: false,
            attached_at: Timestamp::EPOCH,
            blocks: Vec::new(),
            queues: Queues::default(),
            tallies: Tallies::default(),
            assigned: 0,
        };
        for net in &observed.blocks {
            eni.on_block_confirmed(*net, as_of);
        }
        if let Some(attachment) = &observed.attachment {
            eni.delete_on_termination = attachment.delete_on_termination.unwrap_or(false);
            eni.on_attachment_seen(attachment.id, attachment.status, as_of);
        }
        eni
    }

    /// Returns whether it is the primary ENI.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Returns whether it was made for an instance, as its tag says: only then it is tagged, detached or deleted.
    pub(crate) fn is_made_for(&self, instance: InstanceId) -> bool {
        self.tag(tags::INSTANCE) == Some(instance.as_str())
    }

    /// Returns whether we manage it.
    pub fn is_managed(&self) -> bool {
        self.management == Management::Managed
    }

    /// The device index of an ENI that is attached to nothing and has no slot chosen for it; no card takes as many.
    pub(crate) const NO_SLOT: DeviceIndex = DeviceIndex(u8::MAX);

    /// Returns whether it has a slot on a card, or one is chosen for it.
    pub(crate) fn has_slot(&self) -> bool {
        self.device != Self::NO_SLOT
    }

    /// Returns whether it occupies a device index of the instance, or is about to.
    pub fn occupies_slot(&self) -> bool {
        !matches!(self.stage, Stage::Removing(Removing::Delete { .. } | Removing::Vanished))
    }

    /// Returns whether it is being removed.
    pub fn is_removing(&self) -> bool {
        matches!(self.stage, Stage::Removing(_))
    }

    /// Returns its blocks, sorted by address.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Returns how many of its addresses pods hold.
    pub fn assigned(&self) -> u32 {
        self.assigned
    }

    /// Returns whether anybody may be using an address of it: a pod, an untracked owner, or late packets.
    pub fn is_idle(&self, now: Timestamp, cooldown: Duration) -> bool {
        self.assigned == 0
            && self.blocks.iter().all(|block| block.quarantined() == 0)
            && self.cooling(now, cooldown, Duration::ZERO) == 0
    }

    /// Returns how many of its addresses cool at `now` and go on cooling for longer than `horizon`.
    pub fn cooling(&self, now: Timestamp, cooldown: Duration, horizon: Duration) -> u32 {
        self.cooling_of(|_| true, now, cooldown, horizon)
    }

    /// Returns how many addresses of some blocks cool for longer than `horizon`.
    pub(crate) fn cooling_of(
        &self,
        counts: impl Fn(&Block) -> bool,
        now: Timestamp,
        cooldown: Duration,
        horizon: Duration,
    ) -> u32 {
        let cooling = |at| (now + horizon).since(at) <= cooldown;
        if !self.tallies.released_latest.is_some_and(cooling) {
            return 0;
        }
        let blocks = self.blocks.iter().filter(|block| counts(block));
        blocks.map(|block| block.cooling(now, cooldown, horizon)).sum()
    }

    /// Returns how many slots for IPv4 blocks are taken, those included that were asked for.
    pub fn ipv4_slots_used(&self) -> u32 {
        let held = self.tallies.addresses.held + self.tallies.prefixes.held;
        let coming = match &self.ec2_call {
            Some(Ec2Call { kind: Ec2CallKind::AssignIpv4 { blocks, .. }, .. }) => *blocks,
            _ => 0,
        };
        held + coming
    }

    /// Returns what EC2 can say of it that IMDS says too.
    pub(crate) fn shape(&self) -> Shape {
        let nets = self.blocks.iter().map(Block::net).collect();
        (self.card, self.device, self.is_removing(), nets)
    }

    /// Returns the lease's view of it, without addresses.
    pub(crate) fn interface(&self) -> LeasedInterface {
        LeasedInterface {
            eni: self.id,
            mac: self.mac,
            card: self.card,
            device: self.device,
            primary: self.primary,
            ipv4: None,
            ipv6: None,
        }
    }

    pub(crate) fn block(&self, address: IpAddr) -> Option<&Block> {
        self.position(address).map(|index| &self.blocks[index])
    }

    pub(crate) fn block_of_net(&self, net: IpNet) -> Option<&Block> {
        self.blocks.iter().find(|block| block.net() == net)
    }

    /// Returns what its blocks amount to.
    pub(crate) fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// Changes the blocks that need it.
    pub(crate) fn edit_blocks(&mut self, mut edit: impl FnMut(&mut Block)) {
        for index in 0..self.blocks.len() {
            self.edit_block(index, &mut edit);
        }
    }

    /// Changes the block that holds an address, if there is one.
    pub(crate) fn edit_block_of<R>(
        &mut self,
        address: IpAddr,
        edit: impl FnOnce(&mut Block) -> R,
    ) -> Option<R> {
        let index = self.position(address)?;
        Some(self.edit_block(index, edit))
    }

    /// What was found out later than now, by a clock that was set back since, counts as found out now: EC2's next answer
    /// would count as older otherwise.
    pub(crate) fn on_clock_set_back(&mut self, now: Timestamp) {
        for at in [&mut self.since, &mut self.confirmed_at, &mut self.attached_at] {
            *at = (*at).min(now);
        }
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.since = unconfirmed.since.min(now);
        }
        self.edit_blocks(|block| block.on_clock_set_back(now));
    }

    fn edit_block<R>(&mut self, index: usize, edit: impl FnOnce(&mut Block) -> R) -> R {
        let block = &mut self.blocks[index];
        let (tally, turn, assigned) = (Tally::of(block), block.turn(), block.assigned());
        let result = edit(block);
        self.tallies.on_changed(block, tally);
        self.queues.on_turn(block.kind(), index, turn, block.turn());
        self.assigned = self.assigned - assigned + block.assigned();
        result
    }

    /// Returns whether what it keeps count of is so, by counting anew, for [`crate::Ipam::check`].
    pub(crate) fn counts_are_right(&self) -> bool {
        let Tallies { released_latest, .. } = self.tallies;
        let recounted = Tallies::of(&self.blocks);
        self.blocks.iter().all(Block::counts_are_right)
            && self.assigned == self.blocks.iter().map(Block::assigned).sum::<u32>()
            && self.tallies == Tallies { released_latest, ..recounted }
            && recounted.released_latest <= released_latest
            && self.queues == Queues::of(&self.blocks)
    }

    /// Returns whether an address is free, cooled or not.
    pub(crate) fn has_free(&self) -> bool {
        !self.queues.are_empty()
    }

    /// Returns the address to hand out next, and the index of its block: of the first kind that has one to be had; of the
    /// fullest block; of equals, the one that cooled longest; of equals, the lowest.
    pub(crate) fn next_address(
        &self,
        kinds: &[BlockKind],
        cooled_before: Option<Timestamp>,
    ) -> Option<(usize, IpAddr)> {
        let mut blocks = kinds.iter().flat_map(|kind| self.queues.of_kind(*kind));
        blocks.find_map(|index| Some((index, self.blocks[index].next_address(cooled_before)?)))
    }

    /// Records that EC2 showed, or just made, the attachment.
    pub(crate) fn on_attachment_seen(
        &mut self,
        id: Option<AttachmentId>,
        status: AttachmentStatus,
        at: Timestamp,
    ) {
        if id.is_some() {
            self.attachment = id;
        }
        self.stage = match (self.stage, status) {
            // EC2 may have missed it in an answer before.
            (
                Stage::Available | Stage::Removing(Removing::Vanished),
                AttachmentStatus::Attaching | AttachmentStatus::Attached,
            ) => {
                self.attached_at = at;
                Stage::Attached
            }
            // What was detached was another attachment.
            (
                Stage::Removing(Removing::Delete { .. }),
                AttachmentStatus::Attaching | AttachmentStatus::Attached,
            ) => Stage::Removing(Removing::Detach),
            // Another program detaches it, or we did before a restart.
            (
                Stage::Available | Stage::Attached | Stage::Ready,
                AttachmentStatus::Detaching | AttachmentStatus::Detached,
            ) => Stage::Removing(Removing::Detach),
            (stage, _) => stage,
        };
    }

    /// Records that the node set the link up.
    pub(crate) fn on_set_up(&mut self) {
        if self.stage == Stage::Attached {
            self.stage = Stage::Ready;
            self.was_ready = true;
        }
    }

    /// Records the decision to remove it.
    pub(crate) fn on_leave(&mut self) {
        self.stage = match self.stage {
            Stage::Available => Stage::Removing(Removing::Delete { not_before: Timestamp::EPOCH }),
            Stage::Attached | Stage::Ready => Stage::Removing(Removing::Host),
            leaving @ Stage::Removing(_) => leaving,
        };
    }

    /// Records that it is used after all, so that it stays if nothing was done in EC2 yet.
    pub(crate) fn on_stay(&mut self) {
        let untouched = matches!(self.stage, Stage::Removing(Removing::Host | Removing::Detach));
        if untouched && !self.is_being_detached() {
            self.stage = Stage::Attached;
        }
    }

    fn is_being_detached(&self) -> bool {
        matches!(self.ec2_call, Some(Ec2Call { kind: Ec2CallKind::Detach, .. }))
    }

    /// Records that it could not leave: it serves pods again, once its link is set up again.
    pub(crate) fn on_return(&mut self) {
        if matches!(self.stage, Stage::Removing(Removing::Host | Removing::Detach)) {
            self.stage = Stage::Attached;
        }
    }

    /// Records that the node removed what it had set up. Returns whether nothing is left to do for it.
    pub(crate) fn on_host_removed(&mut self) -> bool {
        match self.stage {
            Stage::Removing(Removing::Host) => {
                self.stage = Stage::Removing(Removing::Detach);
                false
            }
            Stage::Removing(Removing::Vanished) => true,
            _ => false,
        }
    }

    /// Records that the node set the link up after that was given up: it is removed once more if it was removed since.
    pub(crate) fn on_set_up_late(&mut self) {
        if matches!(self.stage, Stage::Removing(Removing::Host | Removing::Detach))
            && !self.is_being_detached()
        {
            self.stage = Stage::Removing(Removing::Host);
            // One under way may have come before.
            self.host_call = None;
        }
    }

    /// Records that the node removed what it had set up, after that was given up: it is set up once more if it serves pods.
    pub(crate) fn on_host_removed_late(&mut self) {
        if matches!(self.stage, Stage::Attached | Stage::Ready) && !self.is_primary() {
            self.stage = Stage::Attached;
            self.host_call = None;
        }
    }

    /// Returns whether an answer of this age knows of its last attachment or detachment.
    pub(crate) fn knows_attachment(
        &self,
        as_of: Timestamp,
        eventual_consistency: Duration,
    ) -> bool {
        match self.stage {
            Stage::Removing(Removing::Delete { not_before }) => {
                as_of > not_before + eventual_consistency
            }
            // It had none that could be mistaken for the last.
            Stage::Available => true,
            _ => as_of > self.attached_at + eventual_consistency,
        }
    }

    /// Records that EC2 detached it.
    pub(crate) fn on_detached(&mut self, delete_not_before: Timestamp) {
        self.attachment = None;
        self.stage = Stage::Removing(Removing::Delete { not_before: delete_not_before });
    }

    /// Records that EC2 has it no longer. A call under way may prove otherwise.
    pub(crate) fn on_vanished(&mut self) {
        self.stage = Stage::Removing(Removing::Vanished);
        self.unconfirmed = None;
    }

    /// Records that EC2 confirmed a block, one we know or a new one.
    pub(crate) fn on_block_confirmed(&mut self, net: IpNet, as_of: Timestamp) {
        let net = net.trunc();
        match self.blocks.binary_search_by_key(&net, Block::net) {
            Ok(index) => self.edit_block(index, |block| block.on_confirmed(as_of)),
            Err(index) => {
                let block = Block::new(net, as_of);
                self.tallies.add(&block);
                self.queues.on_inserted(index, &block);
                self.blocks.insert(index, block);
            }
        }
    }

    /// Records that a block was shown before the answer to the call that asked for it: fewer are still to come.
    pub(crate) fn on_block_came(&mut self, net: IpNet) {
        let is_prefix = net.prefix_len() < net.max_prefix_len();
        match &mut self.ec2_call {
            Some(Ec2Call { kind: Ec2CallKind::AssignIpv4 { blocks, prefixes }, .. })
                if matches!(net, IpNet::V4(_)) && *prefixes == is_prefix =>
            {
                *blocks = blocks.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// Forgets a block that EC2 took back. Returns it.
    pub(crate) fn on_block_gone(&mut self, net: IpNet) -> Option<Block> {
        let index = self.blocks.binary_search_by_key(&net, Block::net).ok()?;
        let block = self.blocks.remove(index);
        self.assigned -= block.assigned();
        self.tallies.subtract(&block);
        self.queues.on_removed(index, &block);
        Some(block)
    }

    /// Records that a pod holds an address. Returns whether it was free.
    pub(crate) fn on_assigned(&mut self, address: IpAddr) -> bool {
        self.edit_block_of(address, |block| block.on_assigned(address)).unwrap_or(false)
    }

    /// Records that a pod holds an address of the block at an index.
    pub(crate) fn on_assigned_in(&mut self, index: usize, address: IpAddr) {
        self.edit_block(index, |block| block.on_assigned(address));
    }

    /// Records that a pod gave an address up; `None` if it never was handed out. Returns whether a block covers it.
    pub(crate) fn on_released(&mut self, address: IpAddr, at: Option<Timestamp>) -> bool {
        self.edit_block_of(address, |block| block.on_released(address, at)).is_some()
    }

    pub(crate) fn on_unconfirmed(&mut self, cause: UnconfirmedCause, now: Timestamp) {
        if self.unconfirmed.is_none_or(|unconfirmed| unconfirmed.cause < cause) {
            self.unconfirmed = Some(Unconfirmed { since: now, cause });
        }
    }

    /// Returns the index of the block that holds an address: the last that starts at or below it.
    fn position(&self, address: IpAddr) -> Option<usize> {
        let after = match address {
            IpAddr::V4(address) => self
                .blocks
                .partition_point(|block| block.base_ipv4().is_some_and(|it| it <= address)),
            IpAddr::V6(_) => self.blocks.partition_point(|block| block.base() <= address),
        };
        let index = after.checked_sub(1)?;
        self.blocks[index].net().contains(&address).then_some(index)
    }
}
