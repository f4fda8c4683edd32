//! What the benchmarks of vpc-ipam have in common: a reference that does the least, and statistics.
//!
//! * [`BusyNode`] is a node on which one pod after another comes and goes; [`ScannedNode`] is the same without a core, as
//!   simple as can be.
//! * [`Samples`] are what a benchmark measured; [`Table`] prints them.
//!
//! With the feature `lab`, for what needs a kernel:
//! * `bare` joins a pod to a node with the fewest messages that the kernel takes, and nothing else.
//! * `isolate` gives a benchmark namespaces of its own, which end with it.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock, and prints what it found"
)]

#[cfg(feature = "lab")]
pub mod bare;
#[cfg(feature = "lab")]
mod isolate;
mod node;
mod samples;
mod scan;
mod table;

#[cfg(feature = "lab")]
pub use isolate::{IsolateError, isolate};
pub use node::{BusyNode, node};
pub use samples::Samples;
pub use scan::ScannedNode;
pub use table::Table;
