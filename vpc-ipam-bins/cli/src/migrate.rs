//! How a node moves over from amazon-vpc-cni-k8s and back, with its pods running.
//!
//! amazon-vpc-cni-k8s, called *the old daemon* and *the old plugin* here, keeps what pods have in a [`Checkpoint`], and the rest of what it does in
//! the kernel: links, routes, rules and address translation. To take its place takes both, and the settings that it ran with, which follow from
//! what it left.

mod back;
mod check;
mod checkpoint;
mod conflist;
mod durable;
mod export;
mod import;
mod journal;
mod leases;
mod moved;
mod old_daemon;
mod paths;
mod pods;
mod processes;
mod progress;
mod running;
mod settings;
mod step;
mod survey;
mod swept;
mod to;

use vpc_ipam_core::Timestamp;

pub(crate) use self::back::back;
pub use self::check::{Finding, Report, Severity, Verdict};
pub use self::checkpoint::{Checkpoint, CheckpointEntry, CheckpointError, CheckpointProblem};
pub use self::durable::FileError;
pub(crate) use self::export::find as find_export;
pub use self::import::{ImportFailed, import, pods_to_import};
pub(crate) use self::moved::Moved;
pub use self::paths::Paths;
pub use self::pods::{Fate, PodMove, pods};
pub(crate) use self::progress::{say, warn};
pub use self::settings::{Derived, Disagreement, Setting, Variable, WITHOUT_TRACE};
pub(crate) use self::step::{BACK, Options, Step, StepError, TO};
pub(crate) use self::survey::listeners;
pub use self::survey::{
    CachedResult, Given, KernelView, Listener, NodeProcess, PodRoute, Survey, TrafficControl,
};
pub(crate) use self::to::to;

/// Returns the time.
fn now() -> Timestamp {
    vpc_ipamd::Clock::start().now()
}
