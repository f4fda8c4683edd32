//! What the programs `vpc-ipamd`, `vpc-cni` and `vpc-ipam` consist of; each `main` only calls in here.
//!
//! * [`plugin`] is the CNI plugin: [`cni`] is its language, [`protocol`] is how it asks the daemon.
//! * [`operator_file`] reads what an operator says beyond variables.
//! * [`daemon`] manages the addresses of a node as [`settings`] say, and keeps what must survive in [`store`].
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod cni;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod error_chain;
#[cfg(feature = "aws")]
pub mod ipamd;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "aws")]
mod log;
pub mod one_line;
pub mod operator_file;
pub mod pending_release;
pub mod plugin;
pub mod protocol;
#[cfg(feature = "daemon")]
pub mod settings;
#[cfg(feature = "daemon")]
pub mod store;
pub mod trusted_file;
