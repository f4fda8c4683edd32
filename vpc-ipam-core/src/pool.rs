//! What the node holds: ENIs, their blocks, and which pod has which address.

mod block;
mod eni;
mod finding;
mod gone;
mod import;
#[cfg(test)]
mod lifecycle;
mod management;
mod queue;
mod reconcile;
pub(crate) mod surroundings;
mod tally;
mod usable;

use alloc::collections::BTreeSet;
use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;

use self::block::{BlockKind, cooled_before};
use crate::{
    ActionId, AddressRequest, Card, CardChoice, Config, CreateNetworkInterface, DeviceIndex, EniId,
    InterfaceType, Ipv4Kind, Lease, LeasedInterface, Limits, PodKey, Timestamp,
};

pub use self::block::{AddressUse, Block, BlockState};
pub(crate) use self::eni::{Ec2Call, Ec2CallKind};
pub use self::eni::{Eni, Management, Removing, Stage};
pub(crate) use self::finding::Finding;
pub use self::import::ImportError;
pub(crate) use self::reconcile::{Reconciler, is_whole};

/// What the node holds: ENIs in the order of network card and device index, and which pod has which address.
///
/// Leases are the truth; the counts of blocks and ENIs follow from them. A lease may name an address that no block
/// covers: after a restart, before its ENI is seen, or when the address was taken from the instance behind our back. It
/// stays until the pod gives it up, and no other pod gets the address meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pool {
    /// Sorted by card, device index, id.
    enis: Vec<Eni>,
    #[cfg_attr(feature = "serde", serde(with = "crate::model::pairs"))]
    leases: BTreeMap<PodKey, HeldLease>,
    /// The serial number of the next lease.
    next_serial: u64,
    /// Addresses that two leases name, as records of before a restart have it: they go to no other pod, and not back to EC2,
    /// until both are released.
    shared: BTreeSet<IpAddr>,
    /// When addresses were last released that no block covers: from before a restart, or of blocks that went.
    released_before: BTreeMap<IpAddr, Timestamp>,
    /// Addresses that an untracked owner uses, covered by a block or not.
    unknown: BTreeSet<IpAddr>,
    /// ENIs that are being made, by the action that makes them.
    creations: BTreeMap<ActionId, Creation>,
    /// Blocks that EC2 took back, and when: a late observation does not bring them back.
    blocks_gone: BTreeMap<IpNet, Timestamp>,
    /// ENIs that EC2 no longer has, and when.
    enis_gone: BTreeMap<EniId, Timestamp>,
    /// When the last of those went that are no longer remembered.
    forgotten: Option<Timestamp>,
    /// When addresses were last released to EC2.
    pub(crate) shrunk_at: Option<Timestamp>,
}

/// A lease and whether it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct HeldLease {
    pub(crate) lease: Lease,
    pub(crate) durable: bool,
    /// How many [`crate::Uncommitted`] of it are out.
    pub(crate) uncommitted: u32,
}

/// An ENI that is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Creation {
    pub(crate) request: CreateNetworkInterface,
    pub(crate) card: Card,
    pub(crate) device: DeviceIndex,
    /// Whether a call got no answer: it is repeated with the same token, not before a point in time.
    pub(crate) repeat_at: Option<Timestamp>,
    pub(crate) attempts: u32,
    /// Whether a call is under way.
    pub(crate) called: bool,
}

/// Which ENIs and blocks serve pods, as the configuration and the instance type have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eligibility {
    pub(crate) ipv4: Option<Ipv4Kind>,
    pub(crate) ipv6: bool,
    pub(crate) skip_primary: bool,
    pub(crate) multi_nic: bool,
    pub(crate) cooldown: Duration,
}

impl Eligibility {
    pub(crate) fn new(config: &Config, limits: &Limits) -> Self {
        let ipv4 = match config.families.ipv4() {
            Some(Ipv4Kind::Prefixes) if !limits.prefixes() => Some(Ipv4Kind::Addresses),
            kind => kind,
        };
        Self {
            ipv4,
            ipv6: config.families.ipv6(),
            skip_primary: config.custom_networking,
            multi_nic: config.multi_nic,
            cooldown: config.cooldown,
        }
    }

    /// Returns whether an ENI may carry addresses of further pods, now or when it is ready.
    pub(crate) fn takes_pods(&self, eni: &Eni) -> bool {
        eni.is_managed()
            && !eni.excluded
            && !eni.is_removing()
            && eni.interface_type != InterfaceType::Trunk
            && !(self.skip_primary && eni.is_primary())
    }

    /// Returns the kinds of blocks that pods get IPv4 addresses of. The other kind than the one asked for comes last, so
    /// that it drains.
    fn kinds_of_ipv4(&self) -> &'static [BlockKind] {
        match self.ipv4 {
            Some(Ipv4Kind::Addresses) => &[BlockKind::Address, BlockKind::Prefix],
            Some(Ipv4Kind::Prefixes) => &[BlockKind::Prefix, BlockKind::Address],
            None => &[],
        }
    }

    /// Returns whether a block is of another kind than the one that pods get addresses of first.
    pub(crate) fn is_other_kind(&self, block: &Block) -> bool {
        match block.kind() {
            BlockKind::Ipv6 => !self.ipv6,
            kind => self.kinds_of_ipv4().first() != Some(&kind),
        }
    }
}

impl Pool {
    /// Returns all ENIs, ours or not, by network card and device index.
    pub fn enis(&self) -> &[Eni] {
        &self.enis
    }

    /// Returns an ENI.
    pub fn eni(&self, id: EniId) -> Option<&Eni> {
        self.enis.iter().find(|eni| eni.id == id)
    }

    /// Returns the leases, durable or not, by key.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &Lease> {
        self.leases.values().map(|held| &held.lease)
    }

    /// Returns the lease of a key.
    pub fn lease(&self, key: &PodKey) -> Option<&Lease> {
        self.leases.get(key).map(|held| &held.lease)
    }

    /// Returns whether records of before a restart name an address in two leases.
    pub(crate) fn is_shared(&self, address: IpAddr) -> bool {
        self.shared.contains(&address)
    }

    /// Returns the network cards that serve pods: card 0, and the others where they are in use and do not carry a fabric
    /// adapter without addresses alone.
    pub(crate) fn cards_in_use(&self, multi_nic: bool, limits: &Limits) -> Vec<Card> {
        let mut cards = alloc::vec![Card(0)];
        if multi_nic {
            cards.extend(limits.cards().into_iter().filter(|card| {
                let on_card = || self.enis.iter().filter(|eni| eni.card == *card);
                let for_efa = on_card().any(|eni| eni.interface_type == InterfaceType::EfaOnly);
                *card != Card(0) && (!for_efa || on_card().any(Eni::is_managed))
            }));
        }
        cards
    }

    /// Returns whether nothing is at an index of a card, nor about to be.
    pub(crate) fn is_device_free(&self, card: Card, device: DeviceIndex) -> bool {
        let there = |eni: &Eni| eni.occupies_slot() && (eni.card, eni.device) == (card, device);
        let coming = |creation: &Creation| (creation.card, creation.device) == (card, device);
        !self.enis.iter().any(there) && !self.creations.values().any(coming)
    }

    /// Records at which slot, an index of a card, an ENI will be attached.
    pub(crate) fn on_slot_chosen(&mut self, id: EniId, card: Card, device: DeviceIndex) {
        if let Some(eni) = self.eni_mut(id) {
            (eni.card, eni.device) = (card, device);
        }
        self.sort_enis();
    }

    /// Takes the slots of ENIs that wait to be attached, where another program's is there meanwhile: they get others.
    pub(crate) fn yield_slots(&mut self) {
        let attached: Vec<(Card, DeviceIndex)> = self
            .enis
            .iter()
            .filter(|eni| eni.occupies_slot() && eni.stage != Stage::Available)
            .map(|eni| (eni.card, eni.device))
            .collect();
        for eni in self.enis.iter_mut().filter(|eni| eni.stage == Stage::Available) {
            // A call under way may have its slot yet.
            if eni.ec2_call.is_none() && attached.contains(&(eni.card, eni.device)) {
                eni.device = Eni::NO_SLOT;
            }
        }
        self.sort_enis();
    }

    fn sort_enis(&mut self) {
        self.enis.sort_by_key(|eni| (eni.card, eni.device, eni.id));
    }

    pub(crate) fn creations(&self) -> &BTreeMap<ActionId, Creation> {
        &self.creations
    }

    pub(crate) fn creations_mut(&mut self) -> &mut BTreeMap<ActionId, Creation> {
        &mut self.creations
    }

    pub(crate) fn eni_mut(&mut self, id: EniId) -> Option<&mut Eni> {
        self.enis.iter_mut().find(|eni| eni.id == id)
    }

    pub(crate) fn enis_mut(&mut self) -> impl Iterator<Item = &mut Eni> {
        self.enis.iter_mut()
    }

    /// Adds an ENI and lets it take up the leases that were waiting for it. It has the blocks that no other ENI was shown to
    /// have within the time of eventual consistency; `None` if EC2 just made it, so that no other ENI can have them.
    pub(crate) fn insert(&mut self, mut eni: Eni, eventual_consistency: Option<Duration>) {
        let nets: Vec<IpNet> = eni.blocks().iter().map(Block::net).collect();
        let settled = eventual_consistency
            .map(|eventual_consistency| (eni.confirmed_at, eventual_consistency));
        for net in nets {
            if !self.take_over(eni.id, net, settled) {
                eni.on_block_gone(net);
            }
        }
        let key = |eni: &Eni| (eni.card, eni.device, eni.id);
        let index = self.enis.partition_point(|other| key(other) < key(&eni));
        self.enis_gone.remove(&eni.id);
        self.enis.insert(index, eni);
        self.adopt_leases();
    }

    /// Forgets an ENI that EC2 no longer has. Leases on it stay until their pods give them up.
    pub(crate) fn remove(&mut self, id: EniId, now: Timestamp) {
        if let Some(index) = self.enis.iter().position(|eni| eni.id == id) {
            let eni = self.enis.remove(index);
            self.released_before.extend(eni.blocks().iter().flat_map(Block::released));
            self.enis_gone.insert(id, now);
        }
    }

    /// Forgets a block that an ENI no longer has. Its addresses go on cooling, should they come back.
    pub(crate) fn forget_block(&mut self, id: EniId, net: IpNet) {
        if let Some(block) = self.eni_mut(id).and_then(|eni| eni.on_block_gone(net)) {
            self.released_before.extend(block.released());
        }
    }

    /// Decides that a block is on one ENI alone, as EC2 just said, or as an answer of some age shows. Returns false if
    /// another ENI was shown to have it too short a while ago for the answer to know; otherwise the other ENIs lose it.
    fn take_over(&mut self, by: EniId, net: IpNet, shown: Option<(Timestamp, Duration)>) -> bool {
        let overlap = |block: &&Block| block.net().contains(&net) || net.contains(&block.net());
        let enis = self.enis.iter();
        let rivals: Vec<(EniId, IpNet, Timestamp)> = enis
            .flat_map(|eni| eni.blocks().iter().filter(overlap).map(move |block| (eni.id, block)))
            .filter(|(eni, block)| (*eni, block.net()) != (by, net))
            .map(|(eni, block)| (eni, block.net(), block.confirmed_at()))
            .collect();
        let is_newer = |(as_of, eventual_consistency): (Timestamp, Duration)| {
            rivals.iter().any(|(_, _, confirmed_at)| as_of < *confirmed_at + eventual_consistency)
        };
        if shown.is_some_and(is_newer) {
            return false;
        }
        for (eni, net, _) in rivals {
            self.forget_block(eni, net);
        }
        true
    }

    /// Adds a lease from before a restart. Returns false if one of its addresses is another lease's too.
    ///
    /// Such a pair is what a crash leaves when a record that could not be written was written all the same. Which of both
    /// pods runs, the records do not tell: both keep their lease until they are deleted.
    pub(crate) fn restore_lease(&mut self, lease: Lease) -> bool {
        let named_by_another = |address: &IpAddr| {
            self.leases()
                .any(|other| other.key != lease.key && other.addresses().any(|a| a == *address))
        };
        let shared: Vec<IpAddr> = lease.addresses().filter(named_by_another).collect();
        let alone = shared.is_empty();
        self.shared.extend(shared);
        self.next_serial = self.next_serial.max(lease.serial.saturating_add(1));
        let held = HeldLease { lease, durable: true, uncommitted: 0 };
        self.leases.insert(held.lease.key.clone(), held);
        self.adopt_leases();
        alone
    }

    /// Remembers when an address was released before a restart.
    pub(crate) fn restore_released(&mut self, address: IpAddr, at: Timestamp) {
        self.released_before.insert(address, at);
        self.adopt_leases();
    }

    /// Records that an untracked owner uses an address, or no longer does.
    pub(crate) fn on_untracked(&mut self, address: IpAddr, in_use: bool, now: Timestamp) {
        if in_use {
            self.unknown.insert(address);
            self.adopt_leases();
            for eni in self.enis.iter_mut().filter(|eni| eni.block(address).is_some()) {
                eni.on_stay();
            }
        } else if self.unknown.remove(&address) {
            let cooling = |block: &mut Block| block.on_unquarantined(address, now);
            if self.enis.iter_mut().find_map(|eni| eni.edit_block_of(address, cooling)).is_none() {
                self.released_before.insert(address, now);
            }
        }
    }

    /// Marks the addresses of blocks that leases name but that were not covered until now, those of unknown owners, and
    /// those that cool.
    pub(crate) fn adopt_leases(&mut self) {
        let Self { enis, leases, released_before, unknown, .. } = self;
        for held in leases.values_mut() {
            let HeldLease { lease: Lease { first, more, .. }, .. } = held;
            for interface in core::iter::once(first).chain(more) {
                for address in interface.addresses() {
                    let Some(eni) = enis.iter_mut().find(|eni| eni.block(address).is_some()) else {
                        continue;
                    };
                    eni.on_assigned(address);
                    if !eni.has_slot() {
                        // Another program detached it with its pods: it goes back to the card that they are on.
                        eni.card = interface.card;
                        continue;
                    }
                    // One that EC2 gave to another card is lost to its pod, which has its interface on this one.
                    if eni.card == interface.card {
                        let (ipv4, ipv6) = (interface.ipv4, interface.ipv6);
                        *interface = LeasedInterface { ipv4, ipv6, ..eni.interface() };
                    }
                }
            }
        }
        for address in &*unknown {
            for eni in &mut *enis {
                eni.edit_block_of(*address, |block| block.on_quarantined(*address));
            }
        }
        released_before.retain(|address, at| {
            let cooling = |block: &mut Block| block.on_cooling_restored(*address, *at);
            enis.iter_mut().find_map(|eni| eni.edit_block_of(*address, cooling)).is_none()
        });
    }

    /// Takes addresses for a pod. Returns its lease, the same one if it has one already whose addresses are usable.
    pub(crate) fn assign(
        &mut self,
        request: &AddressRequest,
        eligibility: &Eligibility,
        every_card: &[Card],
        now: Timestamp,
    ) -> Result<Lease, NotAssigned> {
        let Self { enis, leases, released_before, shared, next_serial, .. } = self;
        let vacant = match leases.entry(request.key.clone()) {
            Entry::Vacant(vacant) => vacant,
            Entry::Occupied(mut occupied) => {
                let held = occupied.get_mut();
                let is_usable = |address| serves(enis, address) && !shared.contains(&address);
                if !held.lease.addresses().all(is_usable) {
                    return Err(NotAssigned::LeaseNotUsable);
                }
                held.uncommitted += 1;
                return Ok(held.lease.clone());
            }
        };
        let taken = match request.cards {
            CardChoice::Any => take_on_any(enis, eligibility, now).map(|first| (first, Vec::new())),
            CardChoice::Every => take_on_every(enis, released_before, every_card, eligibility, now),
            CardChoice::On(id) => {
                take(enis, |eni| eni.id == id, eligibility, now).map(|first| (first, Vec::new()))
            }
        };
        let (first, more) = taken.ok_or(NotAssigned::NoneFree)?;
        let serial = take_serial(next_serial);
        let lease = Lease {
            key: request.key.clone(),
            pod: Arc::clone(&request.pod),
            since: now,
            serial,
            first,
            more,
            addresses_only: request.addresses_only,
            found: Vec::new(),
        };
        vacant.insert(HeldLease { lease: lease.clone(), durable: false, uncommitted: 1 });
        Ok(lease)
    }

    /// Records that a lease is durable. Returns it, unless the pod gave it up meanwhile.
    pub(crate) fn on_committed(&mut self, lease: Lease) -> Option<Lease> {
        let held = self.held_mut(&lease)?;
        let is_first = !core::mem::replace(&mut held.durable, true);
        held.uncommitted = held.uncommitted.saturating_sub(1);
        if is_first && lease.is_imported() {
            for address in lease.addresses() {
                self.unknown.remove(&address);
            }
        }
        let held = self.held_mut(&lease)?;
        // Its ENI may have got another slot meanwhile.
        let Lease { first, more, .. } = &held.lease;
        Some(Lease { first: *first, more: more.clone(), ..lease })
    }

    /// Returns a lease that was handed out, unless it ended meanwhile; another lease of the same pod is not it.
    fn held_mut(&mut self, lease: &Lease) -> Option<&mut HeldLease> {
        self.leases.get_mut(&lease.key).filter(|held| held.lease.serial == lease.serial)
    }

    /// Records that a lease could not be made durable: unless it was before, or is being written once more, its addresses are
    /// free again at once, since no pod had them, and those of an import an untracked owner's. Returns whether they are.
    pub(crate) fn on_abandoned(&mut self, lease: &Lease, now: Timestamp) -> bool {
        let Some(held) = self.held_mut(lease) else {
            return false;
        };
        held.uncommitted = held.uncommitted.saturating_sub(1);
        let undone = !held.durable && held.uncommitted == 0;
        if undone {
            self.end_lease(&lease.key, lease.is_imported().then_some(now));
        }
        undone
    }

    /// Ends a pod's lease; its addresses are cooling from now on.
    pub(crate) fn release(&mut self, key: &PodKey, now: Timestamp) -> Option<Lease> {
        self.end_lease(key, Some(now))
    }

    fn end_lease(&mut self, key: &PodKey, released_at: Option<Timestamp>) -> Option<Lease> {
        let HeldLease { lease, .. } = self.leases.remove(key)?;
        for interface in lease.interfaces() {
            put_back(&mut self.enis, &mut self.released_before, interface, released_at);
        }
        if !self.shared.is_empty() || !self.unknown.is_empty() {
            self.keep_taken(&lease);
        }
        Some(lease)
    }

    /// Takes the addresses of a lease that ended again that another lease names, or a pod uses that no record names.
    fn keep_taken(&mut self, ended: &Lease) {
        for address in ended.addresses() {
            if self.shared.contains(&address) {
                let named = self.leases().filter(|lease| lease.addresses().any(|a| a == address));
                if named.count() < 2 {
                    self.shared.remove(&address);
                }
            }
        }
        self.adopt_leases();
    }
}

/// Returns the serial number of the next lease; 0 stands for a record without one.
fn take_serial(next: &mut u64) -> u64 {
    let serial = (*next).max(1);
    *next = serial.saturating_add(1);
    serial
}

/// Returns the network cards on which we manage an ENI.
fn cards(enis: &[Eni]) -> Vec<Card> {
    let held = enis.iter().filter(|eni| eni.is_managed()).map(|eni| eni.card);
    let mut cards: Vec<Card> = held.collect();
    cards.sort_unstable();
    cards.dedup();
    cards
}

/// Returns whether an ENI that is ready has an address that EC2 confirmed.
fn serves(enis: &[Eni], address: IpAddr) -> bool {
    let confirmed = |block: &Block| block.state() == BlockState::Confirmed;
    enis.iter().any(|eni| eni.stage == Stage::Ready && eni.block(address).is_some_and(confirmed))
}

/// Takes an interface on card 0, or else on the first other card that has one to give.
fn take_on_any(
    enis: &mut [Eni],
    eligibility: &Eligibility,
    now: Timestamp,
) -> Option<LeasedInterface> {
    let cards = if eligibility.multi_nic { cards(enis) } else { Vec::new() };
    let others = cards.into_iter().filter(|card| *card != Card(0));
    let mut cards = core::iter::once(Card(0)).chain(others);
    cards.find_map(|card| take(enis, |eni| eni.card == card, eligibility, now))
}

/// Takes an interface on each of several cards, or none at all.
fn take_on_every(
    enis: &mut [Eni],
    released_before: &mut BTreeMap<IpAddr, Timestamp>,
    cards: &[Card],
    eligibility: &Eligibility,
    now: Timestamp,
) -> Option<(LeasedInterface, Vec<LeasedInterface>)> {
    let (first, others) = cards.split_first()?;
    let first = take(enis, |eni| eni.card == *first, eligibility, now)?;
    let mut more = Vec::new();
    for card in others {
        let Some(interface) = take(enis, |eni| eni.card == *card, eligibility, now) else {
            for interface in core::iter::once(&first).chain(&more) {
                put_back(enis, released_before, interface, None);
            }
            return None;
        };
        more.push(interface);
    }
    Some((first, more))
}

/// Takes one address of each family from the fullest of the ENIs that are asked for; of equals, the lowest device index.
fn take(
    enis: &mut [Eni],
    is_asked_for: impl Fn(&Eni) -> bool,
    eligibility: &Eligibility,
    now: Timestamp,
) -> Option<LeasedInterface> {
    let cooled_before = cooled_before(now, eligibility.cooldown);
    // What was tried last: all that come before it in this order were tried, too.
    let mut tried: Option<(Reverse<u32>, usize)> = None;
    loop {
        let mut best: Option<(Reverse<u32>, usize)> = None;
        for (index, eni) in enis.iter().enumerate() {
            let turn = (Reverse(eni.assigned()), index);
            let candidate = eni.has_free()
                && best.is_none_or(|best| turn < best)
                && is_asked_for(eni)
                && tried.is_none_or(|tried| turn > tried)
                && eni.stage == Stage::Ready
                && eligibility.takes_pods(eni);
            if candidate {
                best = Some(turn);
            }
        }
        let (_, index) = best?;
        tried = best;
        let eni = &mut enis[index];
        let mut interface = eni.interface();
        let (mut ipv4, mut ipv6) = (None, None);
        if eligibility.ipv4.is_some() {
            let next = eni.next_address(eligibility.kinds_of_ipv4(), cooled_before);
            let Some((block, IpAddr::V4(address))) = next else {
                continue;
            };
            ipv4 = Some(block);
            interface.ipv4 = Some(address);
        }
        if eligibility.ipv6 {
            let next = eni.next_address(&[BlockKind::Ipv6], cooled_before);
            let Some((block, IpAddr::V6(address))) = next else {
                continue;
            };
            ipv6 = Some(block);
            interface.ipv6 = Some(address);
        }
        if let (Some(block), Some(address)) = (ipv4, interface.ipv4) {
            eni.on_assigned_in(block, address.into());
        }
        if let (Some(block), Some(address)) = (ipv6, interface.ipv6) {
            eni.on_assigned_in(block, address.into());
        }
        return Some(interface);
    }
}

/// Frees the addresses of an interface. When they were released is remembered, also of those that no block covers.
fn put_back(
    enis: &mut [Eni],
    released_before: &mut BTreeMap<IpAddr, Timestamp>,
    interface: &LeasedInterface,
    released_at: Option<Timestamp>,
) {
    let LeasedInterface { eni: id, card, device, .. } = *interface;
    let in_place = |eni: &Eni| eni.device == device && eni.card == card && eni.id == id;
    // One that was detached behind our back has lost its slot.
    let found = enis.iter().position(in_place).or_else(|| enis.iter().position(|eni| eni.id == id));
    for address in interface.addresses() {
        let mut is_covered =
            found.is_some_and(|index| enis[index].on_released(address, released_at));
        if !is_covered {
            // EC2 may have moved it to an ENI of another card, which the pod's lease does not follow.
            is_covered = enis.iter_mut().any(|eni| eni.on_released(address, released_at));
        }
        if let (false, Some(at)) = (is_covered, released_at) {
            released_before.insert(address, at);
        }
    }
}

/// Why a pod got no address from the pool as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAssigned {
    /// No ENI that is ready has an address that is free and cooled.
    NoneFree,
    /// The pod has a lease, but EC2 has not confirmed its address, its ENI is not ready, or another lease names the address
    /// too.
    LeaseNotUsable,
}

impl Eni {
    /// Returns the value of a tag.
    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }
}
