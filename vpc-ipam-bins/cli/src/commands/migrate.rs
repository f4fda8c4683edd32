//! `vpc-ipam migrate`: over from amazon-vpc-cni-k8s and back.

mod check;
mod import;
mod moves;

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
    Check(check::CheckArgs),
    To(moves::ToArgs),
    Back(moves::BackArgs),
    Export(moves::ExportArgs),
    Import(import::ImportArgs),
}

pub(super) fn main(args: &MigrateArgs) -> ExitCode {
    match &args.command {
        MigrateCommand::Check(args) => check::main(args),
        MigrateCommand::To(args) => moves::to(args),
        MigrateCommand::Back(args) => moves::back(args),
        MigrateCommand::Export(args) => moves::export(args),
        MigrateCommand::Import(args) => import::main(args),
    }
}
