//! `vpc-ipam migrate check`: changes nothing.

use std::process::ExitCode;

use clap::Args;
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::one_line::OneLine;

use crate::migrate::{Checkpoint, Paths};

/// Show whether this node can be moved over, with which settings, and what becomes of each pod.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    paths: Paths,
}

const REFUSED: u8 = 4;

pub(super) fn main(args: &CheckArgs) -> ExitCode {
    match Checkpoint::read(&args.paths.at(&args.paths.checkpoint)) {
        Ok(checkpoint) => {
            checkpoint.entries.iter().for_each(|entry| println!("{}", OneLine(entry)));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vpc-ipam: {}", OneLine(error_chain(&error)));
            ExitCode::from(REFUSED)
        }
    }
}
