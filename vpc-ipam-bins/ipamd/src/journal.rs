//! The flight recorder: what the address management was asked and shown, on disk, so that each decision can be looked at again.
//!
//! A folder holds segments, `segment-000001.jsonl` and so on. The first line of a segment is a [`Head`]: the whole state of the
//! address management at that moment. Every further line is a [`Step`](vpc_ipam_core::journal::Step). Each segment can be replayed alone, so old ones are
//! deleted whole. A daemon that starts begins another segment, and never writes to one of before.
//!
//! Nothing is synced to disk: a daemon that is killed loses what is in its queue, a machine that loses power loses more.

mod read;
pub(crate) mod segments;

use core::time::Duration;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpc_ipam_core::Timestamp;
use vpc_ipam_core::journal::{Snapshot, StateHash};

pub use self::read::{Cut, ReadError, Segment, SegmentError, parse, read};

/// The form of segments that this release writes and reads.
pub const FORM: u32 = 1;
/// The release that this is, which the head of a segment names.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Where the journal is, and how much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalOptions {
    /// The folder of its segments, made if it is not there.
    pub folder: PathBuf,
    /// How many bytes all segments may have together.
    pub size_max: u64,
    /// How long a segment is kept after its last step.
    pub age_max: Duration,
}

impl JournalOptions {
    /// Bytes that all segments may have together, by default: about 10,000 ADDs and DELs. They are in memory where the folder is in a
    /// tmpfs, as /run is.
    pub const SIZE_MAX: u64 = 16 << 20;
    /// How long a segment is kept by default: as long as a report of what went wrong over a weekend takes.
    pub const AGE_MAX: Duration = Duration::from_secs(7 * 86_400);

    /// Returns a journal in a folder, within the default bounds.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, size_max: Self::SIZE_MAX, age_max: Self::AGE_MAX }
    }

    /// Returns it with another bound of its size, in bytes.
    #[must_use]
    pub fn with_size_max(self, size_max: u64) -> Self {
        Self { size_max, ..self }
    }

    /// Returns it with another bound of its age.
    #[must_use]
    pub fn with_age_max(self, age_max: Duration) -> Self {
        Self { age_max, ..self }
    }
}

/// The first line of a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Head {
    /// The form of the segment: [`FORM`].
    pub form: u32,
    /// The release that wrote it.
    pub release: String,
    /// When it began.
    pub at: Timestamp,
    /// What it begins with.
    pub begins: Begins,
    /// The state that the first step changes.
    pub snapshot: Snapshot,
    /// The hash of that state, by which a reader of another release sees that it understands it otherwise.
    pub state: StateHash,
}

/// Why a segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Begins {
    /// The daemon started.
    Started,
    /// The segment before it was full, or old. It goes on where that one ends.
    GoesOn,
    /// Steps are missing between it and the segment before it: there were more than could be written, or the disk was full.
    Gap,
}

impl Head {
    /// Returns the head of a segment that this release writes.
    pub fn new(at: Timestamp, begins: Begins, snapshot: Snapshot) -> Self {
        let state = snapshot.state();
        Self { form: FORM, release: RELEASE.to_string(), at, begins, snapshot, state }
    }
}
