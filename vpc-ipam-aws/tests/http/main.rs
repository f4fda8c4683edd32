//! EC2 over HTTP, with clients and servers of which we did not write both ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a server that is slow takes time")]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod boto3;
#[cfg(feature = "sdk")]
mod conformance;
mod emulator;
mod lab;
#[cfg(feature = "sdk")]
mod liar;
#[cfg(feature = "sdk")]
mod lies;
#[cfg(feature = "sdk")]
mod moto;
mod python;
#[cfg(feature = "sdk")]
mod sdk;
mod sequence;
