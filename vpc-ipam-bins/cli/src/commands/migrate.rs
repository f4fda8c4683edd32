//! `vpc-ipam migrate`: over from amazon-vpc-cni-k8s and back.

mod check;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Move this node over from amazon-vpc-cni-k8s, and back, with its pods running.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Show whether this node can be moved over, with which settings, and what becomes of each pod
    Check(check::CheckArgs),
}

pub(super) fn main(args: &MigrateArgs) -> ExitCode {
    match &args.command {
        MigrateCommand::Check(args) => check::main(args),
    }
}
