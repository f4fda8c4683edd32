//! How a node moves over from amazon-vpc-cni-k8s and back, with its pods running.
//!
//! amazon-vpc-cni-k8s, called *the old daemon* and *the old plugin* here, keeps what pods have in a [`Checkpoint`], and the rest of what it does in
//! the kernel: links, routes, rules and address translation. To take its place takes both, and the settings that it ran with, which follow from
//! what it left.

mod checkpoint;
mod paths;

pub use self::checkpoint::{Checkpoint, CheckpointEntry, CheckpointError, CheckpointProblem};
pub use self::paths::Paths;
