//! What the benchmarks of vpc-ipam have in common: a reference that does the least, and statistics.
//!
//! * [`bare`] joins a pod to a node with the fewest messages that the kernel takes, and nothing else.
//! * [`isolate`] gives a benchmark namespaces of its own, which end with it.
//! * [`Samples`] are what a benchmark measured; [`Table`] prints them.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock, and prints what it found"
)]

pub mod bare;
mod isolate;
mod node;
mod samples;
mod table;

pub use isolate::{IsolateError, isolate};
pub use node::{BusyNode, node};
pub use samples::Samples;
pub use table::Table;
