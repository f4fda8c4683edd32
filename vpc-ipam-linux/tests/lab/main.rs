//! A VPC made of network namespaces, and packets that cross it.
//!
//! Each test builds a lab of its own and removes it also when it fails.

#![expect(unreachable_pub, reason = "the modules of a test are no library")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod changes;
mod ipv6;
mod probe;
mod removal;
mod support;
mod traffic;
mod unprivileged;
