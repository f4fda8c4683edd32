//! The Linux kernel: its sockets, namespaces, variables and connection tracking, and the programs that change its rules.

pub(crate) mod conntrack;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod quote;
pub(crate) mod sysctl;
