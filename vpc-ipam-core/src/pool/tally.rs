//! What the blocks of an ENI amount to, kept up to date so that they need not be counted.

use crate::Timestamp;
use crate::pool::block::{Block, BlockKind};

/// What the blocks of an ENI amount to, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Tallies {
    /// Of single IPv4 addresses.
    pub(crate) addresses: Tally,
    /// Of IPv4 prefixes (/28).
    pub(crate) prefixes: Tally,
    /// Of IPv6 prefixes and addresses.
    pub(crate) ipv6: Tally,
    /// No address was released later than this.
    pub(crate) released_latest: Option<Timestamp>,
}

/// What the blocks of one kind amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Tally {
    /// All blocks, those included that EC2 was asked to take back.
    pub(crate) held: u32,
    /// Blocks of which addresses may be granted: neither suspect nor being taken back. The rest counts these alone, but for used
    /// addresses of suspect blocks.
    pub(crate) blocks: u32,
    /// Of these, blocks of which no address is used.
    pub(crate) blocks_free: u32,
    /// Their addresses, and those of suspect blocks that are in use.
    pub(crate) addresses: u32,
    /// Of these, addresses that pods hold or an untracked owner uses.
    pub(crate) used: u32,
}

impl Tallies {
    /// Counts blocks.
    pub(crate) fn of(blocks: &[Block]) -> Self {
        let mut tallies = Self::default();
        blocks.iter().for_each(|block| tallies.add(block));
        tallies
    }

    /// Counts a block in.
    pub(crate) fn add(&mut self, block: &Block) {
        self.on_changed(block, Tally::default());
    }

    /// Counts a block out.
    pub(crate) fn subtract(&mut self, block: &Block) {
        self.kind_mut(block).change(Tally::of(block), Tally::default());
    }

    /// Counts a block anew that counted for something else before.
    pub(crate) fn on_changed(&mut self, block: &Block, before: Tally) {
        self.kind_mut(block).change(before, Tally::of(block));
        self.released_latest = self.released_latest.max(block.released_latest());
    }

    fn kind_mut(&mut self, block: &Block) -> &mut Tally {
        match block.kind() {
            BlockKind::Address => &mut self.addresses,
            BlockKind::Prefix => &mut self.prefixes,
            BlockKind::Ipv6 => &mut self.ipv6,
        }
    }
}

impl Tally {
    /// Counts one block.
    pub(crate) fn of(block: &Block) -> Self {
        if block.is_releasing() {
            return Self { held: 1, ..Self::default() };
        }
        let used = block.assigned() + block.quarantined();
        if block.is_suspect() {
            // What may not be granted is no stock.
            return Self { held: 1, blocks: 0, blocks_free: 0, addresses: used, used };
        }
        let blocks_free = u32::from(used == 0);
        Self { held: 1, blocks: 1, blocks_free, addresses: block.capacity(), used }
    }

    fn change(&mut self, before: Self, after: Self) {
        self.held = self.held - before.held + after.held;
        self.blocks = self.blocks - before.blocks + after.blocks;
        self.blocks_free = self.blocks_free - before.blocks_free + after.blocks_free;
        self.addresses = self.addresses - before.addresses + after.addresses;
        self.used = self.used - before.used + after.used;
    }
}
