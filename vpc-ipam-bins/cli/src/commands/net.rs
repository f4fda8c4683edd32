//! `vpc-ipam net`: the node's network, as it is and as it should be.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{Answer, Request};

use super::node::Daemon;

/// Compare this node's network with what it should be, and put it right.
///
/// The daemon compares: links, addresses, routes and rules of the node, its ENIs and its pods, kernel variables and address
/// translation. It does so by itself whenever the kernel reports a change; this command shows it. It also shows what other
/// programs have in the kernel that diverts packets of pods or ENIs, which is theirs to remove, and how many packets of pods were
/// dropped because they came from addresses that are not the pod's.
///
/// Exits with 0 if nothing differs, 1 if something does, 2 if that cannot be told, wholly or in part. After a repair that is what differs still.
#[derive(Debug, Args)]
pub(super) struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// Show what differs from what it should be
    Diff {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Put right what differs
    Repair {
        /// Print the commands that would do it (ip, sysctl, nft, iptables-restore) and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
}

const DIFFERS: u8 = 1;
const FAILED: u8 = 2;

pub(super) fn main(args: &NetArgs) -> ExitCode {
    let (daemon, request, dry_run) = match &args.command {
        NetCommand::Diff { daemon } => (daemon, Request::NetDiff, false),
        NetCommand::Repair { daemon, dry_run: true } => (daemon, Request::NetDiff, true),
        NetCommand::Repair { daemon, dry_run: false } => (daemon, Request::NetRepair, false),
    };
    let told = daemon.ask(&request, |answer| match answer {
        Answer::Net(report) => Some(report),
        _ => None,
    });
    let report = match told {
        Ok(report) => report,
        Err(failed) => {
            eprintln!("vpc-ipam: {}", OneLine(failed));
            return ExitCode::from(FAILED);
        }
    };
    let not_told: Vec<String> =
        report.not_told.iter().map(|it| format!("not told: {it}")).collect();
    let beyond: Vec<&String> =
        report.beyond.iter().chain(&report.conflicts).chain(&not_told).collect();
    if daemon.json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("vpc-ipam: {error}");
                return ExitCode::from(FAILED);
            }
        }
    } else if dry_run {
        report.commands.iter().for_each(|command| println!("{command}"));
        // Not for a shell.
        beyond.iter().for_each(|what| eprintln!("{}", OneLine(what)));
    } else {
        let done = if request == Request::NetRepair { "put right: " } else { "" };
        report.differences.iter().for_each(|what| println!("{done}{}", OneLine(what)));
        beyond.iter().for_each(|what| println!("{}", OneLine(what)));
        if let Some(spoofed @ 1..) = report.spoofed {
            // No difference: the node is as it should be.
            eprintln!("packets of pods that were dropped for their sources: {spoofed}");
        }
    }
    if !not_told.is_empty() {
        return ExitCode::from(FAILED);
    }
    let repaired = request == Request::NetRepair || report.differences.is_empty();
    if repaired && beyond.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) }
}
