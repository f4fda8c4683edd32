//! The client tokens of creations, by which EC2 tells a repeated call from a further one.

use alloc::format;
use alloc::string::String;

use crate::InstanceId;

/// Makes a client token for each ENI that the node asks for: no other creation of the node has it, before or after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct ClientTokens {
    instance: InstanceId,
    /// Tells the runs of a node apart.
    seed: u64,
    /// How many ENIs were asked for.
    used: u64,
}

impl ClientTokens {
    pub(crate) fn new(instance: InstanceId, seed: u64) -> Self {
        Self { instance, seed, used: 0 }
    }

    /// Returns the token of the creation after `skipped` further ones.
    pub(crate) fn next_after(&self, skipped: u64) -> String {
        let count = self.used + skipped;
        format!("{}-{:016x}-{count}", self.instance, self.seed)
    }

    /// Records that an ENI was asked for.
    pub(crate) fn on_used(&mut self) {
        self.used += 1;
    }
}
