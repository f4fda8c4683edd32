//! The program `vpc-ipam`: [`commands`], the VPC in a box that some of them run, [`lab`], and how a node moves over from amazon-vpc-cni-k8s,
//! [`migrate`].
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

pub mod commands;
pub mod lab;
pub mod migrate;
mod node_files;
