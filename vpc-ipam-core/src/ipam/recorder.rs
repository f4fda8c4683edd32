//! The steps of a journal: every input, and what it led to.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::net::IpAddr;
use core::time::Duration;

use crate::{
    ActionId, AddressRequest, Config, Effect, EniConfig, Import, Issued, Lease, Observation,
    Outcome, PodKey, Record, Scope, Timestamp,
};

/// Every input of an [`Ipam`](crate::Ipam), as data; the method of the same name takes it in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Input {
    /// [`Ipam::restore`](crate::Ipam::restore).
    Restore(Vec<Record>),
    /// [`Ipam::observe`](crate::Ipam::observe).
    Observe(Observation),
    /// [`Ipam::handle_config`](crate::Ipam::handle_config).
    Config(Box<Config>),
    /// [`Ipam::handle_eni_config`](crate::Ipam::handle_eni_config).
    EniConfig(Option<EniConfig>),
    /// [`Ipam::handle_schedulable`](crate::Ipam::handle_schedulable).
    Schedulable(bool),
    /// [`Ipam::handle_terminating`](crate::Ipam::handle_terminating).
    Terminating,
    /// [`Ipam::handle_untracked`](crate::Ipam::handle_untracked).
    #[cfg_attr(feature = "serde", serde(rename = "UnknownOwner"))]
    Untracked {
        /// The address of ours that it uses, or used.
        address: IpAddr,
        /// Whether it is in use.
        in_use: bool,
    },
    /// [`Ipam::assign`](crate::Ipam::assign).
    Assign(AddressRequest),
    /// [`Ipam::import`](crate::Ipam::import).
    Import(Import),
    /// [`Ipam::commit`](crate::Ipam::commit).
    Commit(Lease),
    /// [`Ipam::abandon`](crate::Ipam::abandon).
    Abandon(Lease),
    /// [`Ipam::release`](crate::Ipam::release).
    Release(PodKey),
    /// [`Ipam::handle_outcome`](crate::Ipam::handle_outcome).
    Outcome {
        /// The action, as it was issued.
        id: ActionId,
        /// What became of it.
        outcome: Outcome,
    },
    /// [`Ipam::handle_timeout`](crate::Ipam::handle_timeout).
    Timeout,
}

/// One input, and what it led to: a line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Step {
    /// Its position in the journal, from 1 without gaps.
    pub number: u64,
    /// When. A step that takes no time has that of the step before.
    pub at: Timestamp,
    /// The input that was taken in.
    pub input: Input,
    /// The actions that were handed out because of it.
    pub issued: Vec<Issued>,
    /// The hash of the state afterwards, where [`Hashes`] has one.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub state: Option<StateHash>,
}

/// After which steps the state is hashed. A hash reads the whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hashes {
    /// After every step: a replay names the very step that leads elsewhere.
    EveryStep,
    /// After a step that comes at least so long after the last one that has a hash, and after the first. A replay still compares the
    /// actions of every step.
    Every(Duration),
}

/// What an [`Ipam`](crate::Ipam) knows and is about to do, as one number: equal states have equal hashes, on every machine.
///
/// It is FNV-1a over the state's debug text, so it is the same for every build of one version of this crate, and another
/// one for the next. Actions, grants and events that were not polled yet are no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct StateHash(pub u64);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Input {
    /// Writes the input in one line, what it shows in counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restore(records) => write!(f, "restore {} records", records.len()),
            Self::Observe(observation) => write_observation(f, observation),
            Self::Config(_) => f.write_str("another configuration"),
            Self::EniConfig(Some(EniConfig { subnet, .. })) => {
                write!(f, "new ENIs go to {subnet}")
            }
            Self::EniConfig(None) => f.write_str("the node's ENIConfig is not known"),
            Self::Schedulable(true) => f.write_str("pods may be scheduled"),
            Self::Schedulable(false) => f.write_str("the node is cordoned"),
            Self::Terminating => f.write_str("the node is terminating"),
            Self::Untracked { address, in_use: true } => {
                write!(f, "an untracked owner uses {address}")
            }
            Self::Untracked { address, in_use: false } => {
                write!(f, "no untracked owner uses {address}")
            }
            Self::Assign(AddressRequest { key, pod, .. }) => {
                write!(f, "ADD of {}/{} ({key})", pod.namespace, pod.name)
            }
            Self::Import(Import { key, pod, .. }) => {
                write!(f, "import of {}/{} ({key})", pod.namespace, pod.name)
            }
            Self::Commit(lease) => write!(f, "the lease of {} is durable", lease.key),
            Self::Abandon(lease) => {
                write!(f, "the lease of {} could not be made durable", lease.key)
            }
            Self::Release(key) => write!(f, "DEL of {key}"),
            Self::Outcome { id, outcome: Outcome::Failed(failure) } => {
                write!(f, "{id} failed: {failure}")
            }
            Self::Outcome { id, outcome: Outcome::Done(effect) } => {
                write!(f, "{id} is done")?;
                write_effect(f, effect)
            }
            Self::Timeout => f.write_str("time has passed"),
        }
    }
}

fn write_observation(f: &mut fmt::Formatter<'_>, observation: &Observation) -> fmt::Result {
    let Observation { as_of, source, scope, enis, incomplete, .. } = observation;
    let blocks: usize = enis.iter().map(|eni| eni.blocks.len()).sum();
    let which = match scope {
        Scope::Attached => "attached",
        Scope::Unattached => "unattached",
        Scope::Only(_) => "unconfirmed",
    };
    write!(f, "{source} shows {} {which} ENIs with {blocks} blocks, as of {as_of}", enis.len())?;
    match incomplete.len() {
        0 => Ok(()),
        count => write!(f, ", and {count} ENIs in part"),
    }
}

fn write_effect(f: &mut fmt::Formatter<'_>, effect: &Effect) -> fmt::Result {
    match effect {
        Effect::Created(eni) => write!(f, ": {} with {} blocks", eni.id, eni.blocks.len()),
        Effect::Attached(attachment) => write!(f, ": {attachment}"),
        Effect::Assigned(blocks) => {
            f.write_str(":")?;
            blocks.iter().try_for_each(|block| write!(f, " {block}"))
        }
        Effect::Observed(observation) => {
            f.write_str(": ")?;
            write_observation(f, observation)
        }
        Effect::Subnets(subnets) => write!(f, ": {} subnets", subnets.len()),
        Effect::Metadata(metadata) => {
            f.write_str(": ")?;
            write_observation(f, &metadata.observation)
        }
        Effect::Done => Ok(()),
    }
}

/// The most steps kept for a reader who is late; a longer wait leaves a gap.
const STEPS_MAX: usize = 4096;

/// What an [`Ipam`](crate::Ipam) that records keeps for that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorder {
    at: Timestamp,
    next: u64,
    hashes: Hashes,
    /// The time of the last step that has a hash.
    hashed_at: Option<Timestamp>,
    /// Whether the next step has none whatever `hashes` says.
    skips_hash: bool,
    steps: VecDeque<Step>,
}

impl Recorder {
    /// Returns a recorder of a journal that begins at a point in time.
    pub(crate) fn new(at: Timestamp, hashes: Hashes) -> Self {
        Self { at, next: 1, hashes, hashed_at: None, skips_hash: false, steps: VecDeque::new() }
    }

    /// Leaves the hash of the next step out.
    pub(crate) fn skip_next_hash(&mut self) {
        self.skips_hash = true;
    }

    /// Returns whether a step at a point in time is one that has a hash.
    pub(crate) fn is_hash_due(&mut self, now: Option<Timestamp>) -> bool {
        let now = now.unwrap_or(self.at);
        let due = match (self.hashes, self.hashed_at) {
            _ if core::mem::take(&mut self.skips_hash) => false,
            (Hashes::EveryStep, _) | (Hashes::Every(_), None) => true,
            // After the clock was set back, at once.
            (Hashes::Every(spacing), Some(at)) => now < at || now.since(at) >= spacing,
        };
        if due {
            self.hashed_at = Some(now);
        }
        due
    }

    /// Returns the next step that was not read yet.
    pub(crate) fn pop(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Records a step. One that takes no time has that of the step before.
    pub(crate) fn push(
        &mut self,
        input: Input,
        issued: Vec<Issued>,
        state: Option<StateHash>,
        now: Option<Timestamp>,
    ) {
        self.at = now.unwrap_or(self.at);
        let number = self.next;
        self.next += 1;
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { number, at: self.at, input, issued, state });
    }
}

impl StateHash {
    /// Returns the hash of a value's debug text.
    pub(crate) fn of(value: impl fmt::Debug) -> Self {
        let mut hash = Fnv::default();
        // Writing to it never fails.
        let _ = write!(hash, "{value:?}");
        Self(hash.0)
    }
}

/// A step whose input is being taken in.
#[derive(Debug)]
pub(crate) struct Tape {
    pub(super) input: Input,
    /// How many actions were not polled before.
    pub(super) issued: usize,
}

/// The hash FNV-1a of 64 bits, fed with text.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference values of the algorithm's authors.
    #[test]
    fn hash_is_fnv_1a() {
        for (text, expected) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            let mut hash = Fnv::default();
            hash.write_str(text).unwrap();
            assert_eq!(hash.0, expected, "{text}");
        }
    }
}
