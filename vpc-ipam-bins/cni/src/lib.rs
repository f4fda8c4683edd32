//! The CNI plugin `vpc-cni`, and the Container Network Interface, versions 0.3.1 to 1.1.0.
//!
//! * [`Call`] is what a runtime says to a plugin, [`AddResult`] and [`Error`] are what it hears.
//! * [`plugin`] carries a call out.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

mod call;
mod error;
mod log;
pub mod plugin;
mod result;
mod salvage;
mod version;

pub use self::call::{Attachment, Call, Command, NetConfig};
pub use self::error::{Code, Error};
pub use self::result::{AddResult, Interface, Ip, Route, addresses};
pub use self::version::CniVersion;
