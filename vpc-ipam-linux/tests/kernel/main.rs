//! What the kernel holds after each operation, read back by this crate and by iproute2 and nft.
//!
//! Each test makes network namespaces of its own, named `vit-`, and removes them also when it fails.

#![expect(unreachable_pub, reason = "the modules of a test are no library")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod adopt;
mod adopted;
mod branch;
mod bridge;
mod cards;
mod conflicts;
mod conntrack;
mod egress;
mod eni;
mod errors;
mod faults;
mod guard;
mod hand_back;
mod host;
mod imported;
mod iptables;
mod ipv6;
mod migrate;
mod mtu;
mod names;
mod netns;
mod node;
mod old;
mod pod;
mod programs;
mod property;
mod races;
mod regressions;
mod second_network;
mod services;
mod source_check;
mod support;
mod traffic;
mod variables;
#[cfg(feature = "watch")]
mod watch;
#[cfg(feature = "watch")]
mod watch_adopted;
