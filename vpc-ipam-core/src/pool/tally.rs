//! What the blocks of an ENI amount to, kept up to date so that nobody has to count them.

use ipnet::IpNet;

use crate::Timestamp;
use crate::pool::Block;

/// What the blocks of an ENI amount to, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallies {
    /// Of single IPv4 addresses.
    pub(crate) addresses: Tally,
    /// Of IPv4 prefixes.
    pub(crate) prefixes: Tally,
    /// Of IPv6.
    pub(crate) ipv6: Tally,
    /// No address was released later than this.
    pub(crate) released_latest: Option<Timestamp>,
}

/// What the blocks of one kind amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// All blocks, those included that EC2 was asked to take back.
    pub(crate) held: u32,
    /// Blocks that EC2 was not asked to take back. The rest counts these alone.
    pub(crate) blocks: u32,
    /// Of these, blocks of which no address is used.
    pub(crate) blocks_free: u32,
    /// Their addresses.
    pub(crate) addresses: u32,
    /// Of these, addresses that pods hold, or somebody we do not know.
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
        let one = Tally::of(block);
        let Tally { held, blocks, blocks_free, addresses, used } = self.kind_mut(block);
        *held += one.held;
        *blocks += one.blocks;
        *blocks_free += one.blocks_free;
        *addresses += one.addresses;
        *used += one.used;
        self.released_latest = self.released_latest.max(block.released_latest());
    }

    /// Counts a block out that was counted in, and has not changed since.
    pub(crate) fn subtract(&mut self, block: &Block) {
        let one = Tally::of(block);
        let Tally { held, blocks, blocks_free, addresses, used } = self.kind_mut(block);
        *held -= one.held;
        *blocks -= one.blocks;
        *blocks_free -= one.blocks_free;
        *addresses -= one.addresses;
        *used -= one.used;
    }

    /// Returns whether every address is used.
    pub(crate) fn is_full(&self) -> bool {
        [self.addresses, self.prefixes, self.ipv6].iter().all(|it| it.used >= it.addresses)
    }

    fn kind_mut(&mut self, block: &Block) -> &mut Tally {
        match block.net() {
            IpNet::V4(_) if block.is_prefix() => &mut self.prefixes,
            IpNet::V4(_) => &mut self.addresses,
            IpNet::V6(_) => &mut self.ipv6,
        }
    }
}

impl Tally {
    fn of(block: &Block) -> Self {
        if block.is_releasing() {
            return Self { held: 1, ..Self::default() };
        }
        let used = block.assigned() + block.quarantined();
        let blocks_free = u32::from(used == 0);
        Self { held: 1, blocks: 1, blocks_free, addresses: block.capacity(), used }
    }
}
