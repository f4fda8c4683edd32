//! A node in a box whose network is damaged, and whose daemon is not always there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "programs take time, and are found by variables")]

mod adopted;
mod as_root;
mod asked;
mod call;
mod chain;
mod check;
mod cni_status;
mod conntrack;
mod crash;
mod daemon;
mod del;
mod doctor;
mod faulty;
mod gc;
#[cfg(feature = "grpc")]
mod grpc;
mod http;
mod imported;
mod ipam_only;
mod journal;
mod many;
mod migrate;
mod migration_proof;
mod names;
#[cfg(feature = "grpc")]
mod network_policy;
mod old_node;
mod others;
#[cfg(feature = "grpc")]
mod python;
mod repair;
mod repeated;
mod result;
mod runtime;
mod socket;
mod start;
mod support;
