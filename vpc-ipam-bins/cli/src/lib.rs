//! The program `vpc-ipam`: [`commands`], and the VPC in a box that some of them run, [`lab`].
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

pub mod commands;
pub mod lab;
