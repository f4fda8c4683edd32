//! The network of an AWS node in the Linux kernel: ENIs, pods and address translation.
#![forbid(unsafe_code)]

mod change;
mod config;
pub mod eni;
mod execute;
pub mod host;
mod nat;
mod netlink;
mod netns;
mod object;
mod state;
mod sysctl;
pub use change::{Change, Effect, Refusal, Refused, Veth, VethPeer};
pub use config::{HostConfig, SnatPorts, VethPrefix, VethPrefixError};
pub use eni::{EniError, LinkMissingError, link_by_mac};
pub use execute::execute;
pub use nat::{Nat, NatActual, NatDigest};
pub use netlink::{KernelNetlink, Netlink, NetlinkError};
pub use netns::{Namespace, NamespaceError};
pub use object::{
    Address, Family, Link, LinkId, LinkIndex, Mark, Neighbour, Object, Protocol, Route, Rule,
    Scope, Table,
};
pub use state::{Actual, Applied, ApplyError, Claim, Difference, State, apply, diff, remove};
pub use sysctl::{Sysctl, SysctlKey};
