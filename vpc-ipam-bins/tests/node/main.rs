//! A node in a box, used as a container runtime, an operator and a newcomer use it: through programs and the kernel.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "programs take time, and are found by variables")]

mod agreement;
#[cfg(feature = "aws")]
mod alone;
mod as_root;
mod command;
#[cfg(feature = "aws")]
mod conduct;
mod daemon;
#[cfg(feature = "aws")]
mod environment;
mod hostile;
#[cfg(feature = "aws")]
mod metadata;
mod modes;
mod plugin;
#[cfg(feature = "aws")]
mod rights;
#[cfg(feature = "aws")]
mod stopping;
mod support;
mod user;
