//! A stand-in for amazon-vpc-cni-k8s 1.23: its daemon, its plugin and its egress plugin, which do to a node's kernel and files what those do.
//!
//! It is written from the facts about that program alone and shares no code with this project's datapath: all that it changes in the
//! kernel, it changes through iproute2, iptables and nft. Which of the three it is, its file's name says:
//!
//! - `aws-k8s-agent ROOT EC2_SOCKET`, in the node's network namespace, with the node's variables, until it is killed;
//! - `ROOT/opt/cni/bin/aws-cni` and `egress-cni`, called by a container runtime.
//!
//! It differs from the original in this: daemon and plugin exchange lines of JSON instead of gRPC, the pool of addresses does not grow,
//! and of two addresses that are free it takes the one on the ENI with fewer pods.
#![allow(clippy::disallowed_methods, reason = "programs take time, and are found by variables")]

mod checkpoint;
mod conflist;
mod daemon;
mod egress;
mod eni;
mod host;
mod plugin;
mod pool;
mod programs;
mod settings;
mod wire;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    match (name.and_then(|name| name.to_str()), &arguments[1..]) {
        (Some("aws-k8s-agent"), [root, ec2]) => {
            let Err(error) = daemon::run(Path::new(root), Path::new(ec2));
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        (Some("aws-cni"), []) => plugin::main(),
        (Some("egress-cni"), []) => egress::main(),
        other => {
            eprintln!(
                "call it aws-k8s-agent ROOT EC2_SOCKET, aws-cni or egress-cni, not {other:?}"
            );
            ExitCode::FAILURE
        }
    }
}
