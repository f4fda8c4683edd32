//! A block of addresses on an ENI: one address, a /28 or a /80.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use ipnet::IpNet;

use crate::{Source, Timestamp};

/// What EC2 assigns and takes back as a whole: a secondary IPv4 address (/32), an IPv4 prefix (/28) or an IPv6 prefix
/// (/80).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Block {
    net: IpNet,
    state: BlockState,
    confirmed_at: Timestamp,
    /// The addresses that were ever used or reserved, by their distance from the base; those beyond were not.
    slots: Vec<Slot>,
    /// Addresses beyond those that are handed out, if another program uses them, or a pod of before a restart.
    far: BTreeMap<u128, Slot>,
    capacity: u32,
    assigned: u32,
    quarantined: u32,
    /// No address was released later than this, so that none cools once this one would not.
    released_latest: Option<Timestamp>,
    /// The free address that cooled longest.
    next: Option<Next>,
}

/// What kind a block is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// A secondary IPv4 address.
    Address,
    /// An IPv4 prefix (/28).
    Prefix,
    /// Of IPv6, address or prefix.
    Ipv6,
}

/// A free address: in the order in which addresses are handed out, never-used ones first, the lowest of equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Next {
    released_at: Option<Timestamp>,
    offset: usize,
}

/// When a block hands out its next address: the fullest does first; of equals, the one whose address cooled longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Turn {
    /// How many of its addresses pods hold.
    pub(crate) assigned: Reverse<u32>,
    /// When its next address was last released, if it was ever used.
    pub(crate) released_at: Option<Timestamp>,
}

/// How far a block can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum BlockState {
    /// EC2 confirmed it: its addresses may be handed out.
    Confirmed,
    /// A source did not show it. Pods keep their addresses; no further one is handed out, nothing is released.
    Suspect {
        /// When it was first not shown.
        since: Timestamp,
        /// Who did not show it.
        by: Source,
    },
    /// EC2 was asked to take it back; only EC2's word ends this.
    Releasing {
        /// When EC2 was asked last.
        since: Timestamp,
    },
}

/// One address of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Slot {
    /// Free; cooling if it was released a short while ago.
    Free { released_at: Option<Timestamp> },
    /// A pod's.
    Assigned,
    /// In use by an untracked owner.
    Quarantined,
}

/// What an address that no pod can get is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum AddressUse {
    /// A pod has it.
    Assigned,
    /// A pod had it a short while ago.
    Cooling {
        /// When it was released.
        since: Timestamp,
        /// From when on another pod may get it.
        until: Timestamp,
    },
    /// An untracked owner uses it.
    Untracked,
}

/// How many addresses of one block are handed out: more than pods fit on any node, less than a /80 holds.
const SLOTS_MAX: u128 = 65_536;

impl Block {
    /// Makes a block that EC2 confirmed at a point in time.
    pub(crate) fn new(net: IpNet, confirmed_at: Timestamp) -> Self {
        Self {
            net: net.trunc(),
            state: BlockState::Confirmed,
            confirmed_at,
            slots: Vec::new(),
            far: BTreeMap::new(),
            capacity: capacity(net),
            assigned: 0,
            quarantined: 0,
            released_latest: None,
            next: Some(Next { released_at: None, offset: 0 }),
        }
    }

    /// Returns the range.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// Returns its lowest address.
    pub(crate) fn base(&self) -> IpAddr {
        // The range was truncated.
        self.net.addr()
    }

    /// Returns its lowest address if it is of IPv4; a search for one among many need not see the others.
    pub(crate) fn base_ipv4(&self) -> Option<Ipv4Addr> {
        match &self.net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        }
    }

    /// Returns how far the block can be relied on.
    pub fn state(&self) -> BlockState {
        self.state
    }

    /// Returns whether EC2 was asked to take it back.
    pub fn is_releasing(&self) -> bool {
        matches!(self.state, BlockState::Releasing { .. })
    }

    /// Returns whether a source did not show it.
    pub(crate) fn is_suspect(&self) -> bool {
        matches!(self.state, BlockState::Suspect { .. })
    }

    /// Returns whether a release whose outcome is not known has failed, since an answer of this age shows the block:
    /// one that took effect would show by then.
    pub(crate) fn has_outlived_release(
        &self,
        as_of: Timestamp,
        eventual_consistency: Duration,
    ) -> bool {
        matches!(self.state, BlockState::Releasing { since } if as_of > since + eventual_consistency)
    }

    /// Returns when EC2 last confirmed it.
    pub fn confirmed_at(&self) -> Timestamp {
        self.confirmed_at
    }

    /// Returns how many addresses it has: 1, 16, or 65,536 of a /80.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Returns how many of its addresses pods hold.
    pub fn assigned(&self) -> u32 {
        self.assigned
    }

    /// Returns how many of its addresses are in use by an untracked owner.
    pub fn quarantined(&self) -> u32 {
        self.quarantined
    }

    /// Returns whether it is a prefix rather than a single address.
    pub fn is_prefix(&self) -> bool {
        self.net.prefix_len() < self.net.max_prefix_len()
    }

    pub(crate) fn kind(&self) -> BlockKind {
        match self.net {
            IpNet::V4(net) if net.prefix_len() < net.max_prefix_len() => BlockKind::Prefix,
            IpNet::V4(_) => BlockKind::Address,
            IpNet::V6(_) => BlockKind::Ipv6,
        }
    }

    /// Returns how many of its addresses cool at `now` and go on cooling for longer than `horizon`.
    pub fn cooling(&self, now: Timestamp, cooldown: Duration, horizon: Duration) -> u32 {
        let cooling = |at: Timestamp| (now + horizon).since(at) <= cooldown;
        if !self.released_latest.is_some_and(cooling) {
            return 0;
        }
        let cooling =
            |slot: &&Slot| matches!(slot, Slot::Free { released_at: Some(at) } if cooling(*at));
        // Not many more than SLOTS_MAX.
        self.all_slots().filter(cooling).count() as u32
    }

    /// Returns the addresses that are not free, in the order of the addresses, and what each is used for.
    pub fn in_use(
        &self,
        now: Timestamp,
        cooldown: Duration,
    ) -> impl Iterator<Item = (IpAddr, AddressUse)> {
        self.slots_by_distance().filter_map(move |(distance, slot)| {
            let used = match *slot {
                Slot::Assigned => AddressUse::Assigned,
                Slot::Quarantined => AddressUse::Untracked,
                Slot::Free { released_at: Some(at) } if now.since(at) <= cooldown => {
                    AddressUse::Cooling {
                        since: at,
                        until: at + cooldown + Duration::from_nanos(1),
                    }
                }
                Slot::Free { .. } => return None,
            };
            Some((self.address(distance), used))
        })
    }

    fn slots_by_distance(&self) -> impl Iterator<Item = (u128, &Slot)> {
        let near = self.slots.iter().enumerate().map(|(offset, slot)| (offset as u128, slot));
        near.chain(self.far.iter().map(|(distance, slot)| (*distance, slot)))
    }

    /// Returns the free addresses that pods had, and when they were last released.
    pub(crate) fn released(&self) -> impl Iterator<Item = (IpAddr, Timestamp)> {
        self.slots_by_distance().filter_map(|(distance, slot)| match slot {
            Slot::Free { released_at: Some(at) } => Some((self.address(distance), *at)),
            Slot::Free { .. } | Slot::Assigned | Slot::Quarantined => None,
        })
    }

    /// Returns the addresses that pods hold.
    pub(crate) fn assigned_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.slots_by_distance()
            .filter(|(_, slot)| **slot == Slot::Assigned)
            .map(|(distance, _)| self.address(distance))
    }

    fn all_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().chain(self.far.values())
    }

    /// Returns when the first of its addresses in cooldown is ready, if any cools.
    pub(crate) fn cooled_at(&self, now: Timestamp, cooldown: Duration) -> Option<Timestamp> {
        let ends = self.all_slots().filter_map(|slot| match slot {
            Slot::Free { released_at: Some(at) } if now.since(*at) <= cooldown => {
                Some(*at + cooldown + Duration::from_nanos(1))
            }
            _ => None,
        });
        ends.min()
    }

    /// Returns whether it may be released: no pod, no untracked owner, no cooling address.
    pub fn is_idle(&self, now: Timestamp, cooldown: Duration) -> bool {
        self.assigned == 0
            && self.quarantined == 0
            && self.state == BlockState::Confirmed
            && self.cooling(now, cooldown, Duration::ZERO) == 0
    }

    /// Returns the address to hand out next: the one that cooled longest, never-used ones first, the lowest of equals. One
    /// that was not released before `cooled_before` still cools; with `None` all do that were ever released.
    pub(crate) fn next_address(&self, cooled_before: Option<Timestamp>) -> Option<IpAddr> {
        let Next { released_at, offset } = self.next?;
        let cooling = released_at.is_some() && released_at >= cooled_before;
        let is_to_be_had = self.state == BlockState::Confirmed && !cooling;
        is_to_be_had.then(|| self.address(offset as u128))
    }

    /// Returns its turn among the blocks of its kind; `None` while it has no free address.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let Next { released_at, .. } = self.next?;
        Some(Turn { assigned: Reverse(self.assigned), released_at })
    }

    /// Takes in that an address is free that was not before.
    fn on_freed(&mut self, address: IpAddr, released_at: Option<Timestamp>) {
        self.released_latest = self.released_latest.max(released_at);
        let freed = self.offset(address).map(|offset| Next { released_at, offset });
        self.next = [self.next, freed].into_iter().flatten().min();
    }

    /// Takes in that an address is no longer free.
    fn on_taken(&mut self, address: IpAddr) {
        if self.next.is_some_and(|next| Some(next.offset) == self.offset(address)) {
            self.next = self.find_next();
        }
    }

    /// Looks for the free address that cooled longest.
    fn find_next(&self) -> Option<Next> {
        let free = self.slots.iter().enumerate().filter_map(|(offset, slot)| match *slot {
            Slot::Free { released_at } => Some(Next { released_at, offset }),
            Slot::Assigned | Slot::Quarantined => None,
        });
        let untouched = (self.slots.len() < self.capacity as usize)
            .then_some(Next { released_at: None, offset: self.slots.len() });
        free.chain(untouched).min()
    }

    /// Records that a pod holds an address. Returns whether it was free.
    pub(crate) fn on_assigned(&mut self, address: IpAddr) -> bool {
        match self.slot_mut(address) {
            Some(slot @ Slot::Free { .. }) => {
                *slot = Slot::Assigned;
                self.assigned += 1;
                self.on_taken(address);
                true
            }
            _ => false,
        }
    }

    /// Records that a pod holds an address that an untracked owner had, or that is free.
    pub(crate) fn on_imported(&mut self, address: IpAddr) {
        if let Some(slot @ Slot::Quarantined) = self.slot_mut(address) {
            *slot = Slot::Assigned;
            self.quarantined -= 1;
            self.assigned += 1;
        } else {
            self.on_assigned(address);
        }
    }

    /// Records that a pod gave an address up; `None` if it never was handed out, so that it needs no cooldown.
    pub(crate) fn on_released(&mut self, address: IpAddr, at: Option<Timestamp>) {
        if let Some(slot @ Slot::Assigned) = self.slot_mut(address) {
            *slot = Slot::Free { released_at: at };
            self.assigned -= 1;
            self.on_freed(address, at);
        }
    }

    /// Records when a free address was last released, as remembered from before a restart.
    pub(crate) fn on_cooling_restored(&mut self, address: IpAddr, at: Timestamp) {
        if let Some(slot @ Slot::Free { .. }) = self.slot_mut(address) {
            *slot = Slot::Free { released_at: Some(at) };
            self.released_latest = self.released_latest.max(Some(at));
            self.next = self.find_next();
        }
    }

    /// Records that an untracked owner uses an address.
    pub(crate) fn on_quarantined(&mut self, address: IpAddr) {
        if let Some(slot @ Slot::Free { .. }) = self.slot_mut(address) {
            *slot = Slot::Quarantined;
            self.quarantined += 1;
            self.on_taken(address);
        }
    }

    /// Records that the untracked owner of an address no longer uses it; it cools.
    pub(crate) fn on_unquarantined(&mut self, address: IpAddr, now: Timestamp) {
        if let Some(slot @ Slot::Quarantined) = self.slot_mut(address) {
            *slot = Slot::Free { released_at: Some(now) };
            self.quarantined -= 1;
            self.on_freed(address, Some(now));
        }
    }

    /// Records that EC2 showed the block in an answer of this age.
    pub(crate) fn on_confirmed(&mut self, as_of: Timestamp) {
        if matches!(self.state, BlockState::Suspect { .. }) {
            self.state = BlockState::Confirmed;
        }
        self.confirmed_at = self.confirmed_at.max(as_of);
    }

    /// Records that a source did not show the block.
    pub(crate) fn on_denied(&mut self, by: Source, now: Timestamp) {
        match self.state {
            BlockState::Confirmed => self.state = BlockState::Suspect { since: now, by },
            // EC2's word weighs more than that of IMDS.
            BlockState::Suspect { since, by: Source::Imds } => {
                self.state = BlockState::Suspect { since, by };
            }
            BlockState::Suspect { .. } | BlockState::Releasing { .. } => {}
        }
    }

    /// What was found out later than now, by a clock that was set back since, counts as found out now.
    pub(crate) fn on_clock_set_back(&mut self, now: Timestamp) {
        self.confirmed_at = self.confirmed_at.min(now);
        if let BlockState::Suspect { since, .. } | BlockState::Releasing { since } = &mut self.state
        {
            *since = (*since).min(now);
        }
    }

    /// Records that EC2 is being asked to take the block back.
    pub(crate) fn on_release_asked(&mut self, now: Timestamp) {
        self.state = BlockState::Releasing { since: now };
    }

    /// Records that EC2 refused to take the block back, or did not.
    pub(crate) fn on_release_refused(&mut self) {
        if self.is_releasing() {
            self.state = BlockState::Confirmed;
        }
    }

    /// Returns whether a pod holds the address.
    pub(crate) fn is_assigned(&self, address: IpAddr) -> bool {
        self.slot(address) == Some(Slot::Assigned)
    }

    /// Returns a time after which none of its addresses was released.
    pub(crate) fn released_latest(&self) -> Option<Timestamp> {
        self.released_latest
    }

    /// Returns whether what it keeps count of is so, by counting anew, for [`crate::Ipam::check`].
    pub(crate) fn counts_are_right(&self) -> bool {
        let count = |wanted: Slot| self.all_slots().filter(|slot| **slot == wanted).count() as u32;
        let released_at = |slot: &Slot| match slot {
            Slot::Free { released_at } => *released_at,
            Slot::Assigned | Slot::Quarantined => None,
        };
        self.capacity == capacity(self.net)
            && self.assigned == count(Slot::Assigned)
            && self.quarantined == count(Slot::Quarantined)
            && self.all_slots().filter_map(released_at).max() <= self.released_latest
            && self.next == self.find_next()
    }

    /// Returns how far an address is from the base, if it is within the block.
    fn distance(&self, address: IpAddr) -> Option<u128> {
        let distance = match (self.base(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u128::from(u32::from(address).checked_sub(u32::from(base))?)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                u128::from(address).checked_sub(u128::from(base))?
            }
            _ => return None,
        };
        self.net.contains(&address).then_some(distance)
    }

    /// Returns the index of an address among those that are handed out, if it is one of them.
    fn offset(&self, address: IpAddr) -> Option<usize> {
        let distance = self.distance(address)?;
        // Below the capacity, at most SLOTS_MAX.
        (distance < u128::from(self.capacity())).then_some(distance as usize)
    }

    fn slot(&self, address: IpAddr) -> Option<Slot> {
        match self.offset(address) {
            Some(offset) => self.slots.get(offset).copied(),
            None => self.far.get(&self.distance(address)?).copied(),
        }
    }

    /// Returns the slot of an address, making it and those before it if they were never used.
    fn slot_mut(&mut self, address: IpAddr) -> Option<&mut Slot> {
        let unused = Slot::Free { released_at: None };
        let Some(offset) = self.offset(address) else {
            let distance = self.distance(address)?;
            return Some(self.far.entry(distance).or_insert(unused));
        };
        if self.slots.len() <= offset {
            self.slots.resize(offset + 1, unused);
        }
        self.slots.get_mut(offset)
    }

    fn address(&self, distance: u128) -> IpAddr {
        // The distance is within the block, so the sum is too.
        match self.base() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base) + distance as u32)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) + distance)),
        }
    }
}

/// Returns before which an address must have been released to have cooled for longer than the cool-down; `None` if no
/// time is early enough.
pub(crate) fn cooled_before(now: Timestamp, cooldown: Duration) -> Option<Timestamp> {
    let cooldown = u64::try_from(cooldown.as_nanos()).ok()?;
    now.as_nanos().checked_sub(cooldown).map(Timestamp::from_nanos)
}

fn capacity(net: IpNet) -> u32 {
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    // SLOTS_MAX fits an u32.
    1u128.checked_shl(host_bits).map_or(SLOTS_MAX, |size| size.min(SLOTS_MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    const COOLDOWN: Duration = Duration::from_secs(30);

    fn block(net: &str) -> Block {
        Block::new(net.parse().unwrap(), Timestamp::from_secs(1))
    }

    fn take(block: &mut Block, now: u64) -> Option<IpAddr> {
        let address = block.next_address(cooled_before(Timestamp::from_secs(now), COOLDOWN))?;
        assert!(block.on_assigned(address));
        Some(address)
    }

    /// Vector V270.
    #[test]
    fn addresses_of_a_prefix_are_all_usable_lowest_first() {
        let mut block = block("10.0.0.0/28");
        for expected in 0..16u8 {
            assert_eq!(take(&mut block, 100), Some(IpAddr::from([10, 0, 0, expected])));
        }
        assert_eq!(take(&mut block, 100), None);
        assert_eq!((block.capacity(), block.assigned()), (16, 16));
    }

    #[test]
    fn each_address_that_is_not_free_is_told_with_its_use() {
        let mut block = block("10.0.0.0/28");
        let [held, released, cooled] = [0; 3].map(|_| take(&mut block, 100).unwrap());
        block.on_released(released, Some(Timestamp::from_secs(100)));
        block.on_released(cooled, Some(Timestamp::from_secs(90)));
        let far = IpAddr::from([10, 0, 0, 9]);
        block.on_quarantined(far);

        let now = Timestamp::from_secs(125);
        let in_use: Vec<_> = block.in_use(now, COOLDOWN).collect();

        let since = Timestamp::from_secs(100);
        let until = Timestamp::from_secs(130) + Duration::from_nanos(1);
        assert_eq!(
            in_use,
            [
                (held, AddressUse::Assigned),
                (released, AddressUse::Cooling { since, until }),
                (far, AddressUse::Untracked),
            ]
        );
        assert_eq!(block.cooling(now, COOLDOWN, Duration::ZERO), 1);
        assert_eq!(block.cooling(until, COOLDOWN, Duration::ZERO), 0);
    }

    #[test]
    fn released_address_rests_then_comes_back_least_recent_first() {
        let mut block = block("10.0.0.0/28");
        let all: Vec<_> = (0..16).map(|_| take(&mut block, 100).unwrap()).collect();
        block.on_released(all[5], Some(Timestamp::from_secs(200)));
        block.on_released(all[2], Some(Timestamp::from_secs(201)));
        // Exactly the period still cools.
        assert_eq!(take(&mut block, 230), None);
        assert_eq!(block.cooling(Timestamp::from_secs(230), COOLDOWN, Duration::ZERO), 2);
        assert_eq!(take(&mut block, 240), Some(all[5]));
        assert_eq!(take(&mut block, 240), Some(all[2]));
    }

    #[test]
    fn clock_set_back_does_not_end_a_cooldown() {
        let mut block = block("10.0.0.7/32");
        let address = take(&mut block, 100).unwrap();
        block.on_released(address, Some(Timestamp::from_secs(200)));
        assert_eq!(take(&mut block, 10), None);
    }

    #[test]
    fn address_that_was_never_handed_out_need_not_rest() {
        let mut block = block("10.0.0.7/32");
        let address = take(&mut block, 100).unwrap();
        block.on_released(address, None);
        assert_eq!(take(&mut block, 100), Some(address));
    }

    #[test]
    fn address_beyond_those_that_are_handed_out_can_be_in_use_all_the_same() {
        let mut block = block("2001:db8:a:0:1::/80");
        let far: IpAddr = "2001:db8:a:0:1:7::9".parse().unwrap();
        let now = Timestamp::from_secs(100);
        block.on_quarantined(far);
        assert_eq!((block.quarantined(), block.is_idle(now, COOLDOWN)), (1, false));
        block.on_unquarantined(far, now);
        assert_eq!(block.cooling(now, COOLDOWN, Duration::ZERO), 1);
        assert!(block.on_assigned(far) && block.is_assigned(far) && block.counts_are_right());
        assert_eq!(block.assigned_addresses().collect::<Vec<_>>(), [far]);
        block.on_released(far, Some(now));
        assert!(block.is_idle(Timestamp::from_secs(131), COOLDOWN) && block.counts_are_right());
        assert_eq!(take(&mut block, 200).unwrap().to_string(), "2001:db8:a:0:1::");
    }

    #[test]
    fn unused_ipv6_prefix_costs_no_memory() {
        let mut block = block("2001:db8:a:0:1::/80");
        assert_eq!(block.capacity(), 65_536);
        assert_eq!(take(&mut block, 100).unwrap().to_string(), "2001:db8:a:0:1::");
        assert_eq!(take(&mut block, 100).unwrap().to_string(), "2001:db8:a:0:1::1");
        assert_eq!(block.slots.len(), 2);
    }

    #[test]
    fn suspect_block_hands_nothing_out() {
        let mut block = block("10.0.0.0/28");
        block.on_denied(Source::Imds, Timestamp::from_secs(5));
        assert_eq!(take(&mut block, 100), None);
        block.on_confirmed(Timestamp::from_secs(6));
        block.on_release_asked(Timestamp::from_secs(6));
        block.on_confirmed(Timestamp::from_secs(7));
        assert_eq!(take(&mut block, 100), None);
        block.on_release_refused();
        assert!(take(&mut block, 100).is_some());
    }

    #[test]
    fn foreign_address_is_not_counted_and_not_touched() {
        let mut block = block("10.0.0.0/32");
        assert!(!block.on_assigned(IpAddr::from([10, 0, 0, 1])));
        assert!(!block.on_assigned(IpAddr::from([9, 0, 0, 1])));
        assert_eq!(block.assigned(), 0);
        assert!(block.counts_are_right());
    }
}
