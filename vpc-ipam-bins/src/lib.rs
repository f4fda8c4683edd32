//! What the programs `vpc-ipamd`, `vpc-cni` and `vpc-ipam` consist of; each `main` only calls in here.
//!
//! * [`cni`] is `vpc-cni`, the CNI plugin, and its language.
//! * [`protocol`] is how the plugin and the command line ask the daemon.
//! * `ipamd` is `vpc-ipamd`, the daemon, as a library and as a program.
//! * `cli` is `vpc-ipam`, the command line, and `lab` the VPC in a box that it runs.
//! * [`operator_file`] reads what an operator says beyond variables.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod cni;
pub mod error_chain;
#[cfg(feature = "daemon")]
pub mod ipamd;
#[cfg(feature = "lab")]
pub mod lab;
pub mod one_line;
pub mod operator_file;
pub mod protocol;
