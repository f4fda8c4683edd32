//! In which order the blocks of an ENI hand out their addresses, kept up to date so that the next is found without a search.

use alloc::collections::VecDeque;

use crate::pool::block::{Block, BlockKind, Turn};

/// The blocks of an ENI that have a free address, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Queues {
    of_kinds: [Queue; 3],
    /// How many blocks are in the queues of all kinds.
    len: usize,
}

/// Blocks by their index, in the order in which they hand out addresses: by turn; of equals, the lowest index.
type Queue = VecDeque<(Turn, usize)>;

impl Queues {
    /// Puts blocks in order.
    pub(crate) fn of(blocks: &[Block]) -> Self {
        let mut queues = Self::default();
        for (index, block) in blocks.iter().enumerate() {
            queues.on_turn(block.kind(), index, None, block.turn());
        }
        queues
    }

    /// Returns whether no block has a free address.
    pub(crate) fn are_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the indices of the blocks of one kind, the one whose turn it is first.
    pub(crate) fn of_kind(&self, kind: BlockKind) -> impl Iterator<Item = usize> {
        self.of_kinds[kind as usize].iter().map(|(_, index)| *index)
    }

    /// Records that a block got another turn than it had; without one it has no free address.
    pub(crate) fn on_turn(
        &mut self,
        kind: BlockKind,
        index: usize,
        before: Option<Turn>,
        after: Option<Turn>,
    ) {
        if before == after {
            return;
        }
        let queue = &mut self.of_kinds[kind as usize];
        if let Some(turn) = before {
            self.len -= 1;
            // Most often it is the first whose address was handed out.
            if queue.front() == Some(&(turn, index)) {
                queue.pop_front();
            } else if let Ok(at) = queue.binary_search(&(turn, index)) {
                queue.remove(at);
            }
        }
        if let Some(turn) = after {
            self.len += 1;
            // An address that was just released most often has to cool longest.
            if queue.back().is_none_or(|last| *last < (turn, index)) {
                queue.push_back((turn, index));
            } else if let Err(at) = queue.binary_search(&(turn, index)) {
                queue.insert(at, (turn, index));
            }
        }
    }

    /// Records that a block was put in at an index: those behind it moved up.
    pub(crate) fn on_inserted(&mut self, index: usize, block: &Block) {
        for (_, at) in self.of_kinds.iter_mut().flatten().filter(|(_, at)| *at >= index) {
            *at += 1;
        }
        self.on_turn(block.kind(), index, None, block.turn());
    }

    /// Records that a block was taken out from an index: those behind it moved down.
    pub(crate) fn on_removed(&mut self, index: usize, block: &Block) {
        self.on_turn(block.kind(), index, block.turn(), None);
        for (_, at) in self.of_kinds.iter_mut().flatten().filter(|(_, at)| *at > index) {
            *at -= 1;
        }
    }
}
