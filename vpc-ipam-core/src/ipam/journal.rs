//! Recording what a node was told, and replaying it: to the same state and the same actions, or to the first step that
//! differs.
//!
//! [`Start::begin`] makes an [`Ipam`] that records, and [`Ipam::begin_journal`] lets one record that is there already, from a
//! [`Snapshot`] of its state. After every input there is one [`Step`]; write each to a file, and hand the file to the one who has to
//! find out what happened. [`Replay`] shows what each step led to.
//!
//! ```
//! use vpc_ipam_core::journal::{Start, replay};
//! # use vpc_ipam_core::{Budget, Config, Limits, Node, Timestamp};
//! # let node = Node::new(
//! #     "i-1".parse()?, "m5.large".parse()?, "eu-west-1a".parse()?, "vpc-1".parse()?,
//! #     "eni-1".parse()?, "subnet-1".parse()?,
//! # );
//! # let limits = Limits::lookup(node.instance_type)?;
//! let now = Timestamp::from_secs(1_700_000_000);
//! let (config, budget, seed) = (Config::default(), Budget::default(), 1);
//! let start = Start::new(node, limits, config, now).with_budget(budget).with_seed(seed);
//!
//! let mut ipam = start.begin()?;
//! ipam.handle_timeout(now);
//! ipam.handle_schedulable(false, now);
//! let steps: Vec<_> = core::iter::from_fn(|| ipam.poll_step()).collect();
//! assert_eq!(steps.len(), 2);
//!
//! let replayed = replay(&start, steps)?;
//! assert_eq!(replayed.state(), ipam.state());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use alloc::boxed::Box;
use core::fmt;

use crate::ipam::Ipam;
use crate::ipam::recorder::{Recorder, Tape};
use crate::{Budget, Config, Issued, Limits, Node, Timestamp, UnusableConfigError};

pub use crate::ipam::recorder::{Hashes, Input, StateHash, Step};
pub use crate::ipam::replay::{Replay, Replayed, Reply};
pub use crate::ipam::snapshot::Snapshot;

/// What an [`Ipam`] was made of: the head of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "stored::StoredStart", into = "stored::StoredStart")
)]
#[non_exhaustive]
pub struct Start {
    /// The node that it manages.
    pub node: Node,
    /// What its type can hold.
    pub limits: Limits,
    /// What the operator wants.
    pub config: Config,
    /// The rates at which EC2 may be called.
    pub budget: Budget,
    /// What decides jitter and client tokens.
    pub seed: u64,
    /// When it was made.
    pub at: Timestamp,
}

impl Start {
    /// Returns a start with the default budget and a seed of 0.
    pub fn new(node: Node, limits: Limits, config: Config, at: Timestamp) -> Self {
        Self { node, limits, config, budget: Budget::default(), seed: 0, at }
    }
}

setters!(Start {
    with_node node: Node,
    with_limits limits: Limits,
    with_config config: Config,
    with_budget budget: Budget,
    with_seed seed: u64,
    with_at at: Timestamp,
});

/// The form of the journals that this crate writes and reads. New fields of what is recorded have defaults, so that it seldom
/// changes; a journal of another form is refused by its number.
#[cfg(feature = "serde")]
mod stored {
    use super::{Budget, Config, Limits, Node, Start, Timestamp};

    const VERSION: u32 = 1;

    /// [`Start`] as it is stored.
    #[derive(serde::Serialize, serde::Deserialize)]
    pub(super) struct StoredStart {
        #[serde(default = "first_version")]
        version: u32,
        node: Node,
        limits: Limits,
        config: Config,
        budget: Budget,
        seed: u64,
        at: Timestamp,
    }

    /// A journal of a form that this version of the crate does not know.
    #[derive(Debug, thiserror::Error)]
    #[error(
        "the journal is of version {0}, and this release reads version {VERSION}: use the release that wrote it"
    )]
    pub(super) struct UnknownVersionError(u32);

    /// Journals of version 1 did not say so at first.
    fn first_version() -> u32 {
        1
    }

    impl From<Start> for StoredStart {
        fn from(Start { node, limits, config, budget, seed, at }: Start) -> Self {
            Self { version: VERSION, node, limits, config, budget, seed, at }
        }
    }

    impl TryFrom<StoredStart> for Start {
        type Error = UnknownVersionError;

        fn try_from(stored: StoredStart) -> Result<Self, UnknownVersionError> {
            let StoredStart { version, node, limits, config, budget, seed, at } = stored;
            match version {
                VERSION => Ok(Self { node, limits, config, budget, seed, at }),
                version => Err(UnknownVersionError(version)),
            }
        }
    }
}

impl Start {
    /// Makes the address management of the node, as [`Ipam::new`], and lets it record.
    pub fn begin(&self) -> Result<Ipam, UnusableConfigError> {
        let Self { node, limits, config, budget, seed, at } = self.clone();
        let mut ipam = Ipam::new(node, limits, config, budget, seed, at)?;
        ipam.recorder = Some(Box::new(Recorder::new(at, Hashes::EveryStep)));
        Ok(ipam)
    }
}

/// Why a journal does not lead where it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The configuration that it starts with cannot be used.
    #[error("start")]
    Start(#[source] UnusableConfigError),
    /// The numbers of two steps do not follow each other.
    #[error("step {found} follows step {last}: steps between them are missing")]
    Gap {
        /// The last step before the gap, 0 for none.
        last: u64,
        /// The step after it.
        found: u64,
    },
    /// A step leads elsewhere than it did when it was recorded.
    #[error("{0}")]
    Diverged(Box<Divergence>),
}

/// The first step that leads elsewhere than it did when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// The step as recorded.
    pub recorded: Step,
    /// The state after it in the replay.
    pub state: StateHash,
    /// The first action that differs: as recorded, and in the replay; `None` where there is none.
    pub action: Option<(Option<Issued>, Option<Issued>)>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { number, at, input, state, .. } = &self.recorded;
        write!(f, "step {number} at {at} leads to ")?;
        match state {
            Some(state) => write!(f, "state {} instead of {state}", self.state)?,
            None => f.write_str("other actions")?,
        }
        if let Some((recorded, replayed)) = &self.action {
            let write_action = |f: &mut fmt::Formatter<'_>, issued: &Option<Issued>| match issued {
                Some(Issued { id, action, because }) => write!(f, "{id} {action}: {because}"),
                None => f.write_str("nothing"),
            };
            f.write_str("; the first action that differs is ")?;
            write_action(f, replayed)?;
            f.write_str(", recorded was ")?;
            write_action(f, recorded)?;
        }
        write!(f, "; the input was {input:?}")
    }
}

/// Takes in again the steps of a journal, and returns the node as it was after the last; or the first step that leads elsewhere
/// than it did. [`Replay`] shows each step.
pub fn replay(start: &Start, steps: impl IntoIterator<Item = Step>) -> Result<Ipam, ReplayError> {
    let mut replay = Replay::from_start(start)?;
    for step in steps {
        let _ = replay.step(step)?;
    }
    Ok(replay.into_ipam())
}

impl Ipam {
    /// Returns the next step of the journal; none unless [`Start::begin`] made this.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.recorder.as_mut()?.pop()
    }

    /// Returns what is known and about to be done, as one number.
    pub fn state(&self) -> StateHash {
        StateHash::of(self.essence())
    }

    /// Leaves the hash of the next step out.
    pub(super) fn skip_next_hash(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.skip_next_hash();
        }
    }

    /// Begins a step, if this records.
    pub(crate) fn tape(&self, input: impl FnOnce() -> Input) -> Option<Box<Tape>> {
        self.recorder.as_ref()?;
        Some(Box::new(Tape { input: input(), issued: self.actions.len() }))
    }

    /// Ends the step that began before its input was taken in.
    #[inline]
    pub(crate) fn record(&mut self, tape: Option<Box<Tape>>, now: Option<Timestamp>) {
        if let Some(tape) = tape {
            self.push_step(tape, now);
        }
    }

    fn push_step(&mut self, tape: Box<Tape>, now: Option<Timestamp>) {
        let Tape { input, issued } = *tape;
        let hashed = self.recorder.as_mut().is_some_and(|recorder| recorder.is_hash_due(now));
        let state = hashed.then(|| self.state());
        let issued = self.actions.iter().skip(issued).cloned().collect();
        if let Some(recorder) = &mut self.recorder {
            recorder.push(input, issued, state, now);
        }
    }
}
