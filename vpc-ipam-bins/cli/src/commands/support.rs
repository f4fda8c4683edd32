//! `vpc-ipam support`: one file with what is needed to find out what happened on a node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::Namespace;
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{SOCKET, listener};
use vpc_ipamd::support::{self, SupportOptions};

/// Write an archive with what is needed to find out what happened on this node.
///
/// In it are: what the daemon says of itself (status, explanation, plan, leases, events, differences of the network), the state file as
/// JSON, the journal, rules, routes, links, addresses, nftables and iptables, kernel variables, network configurations of the
/// runtime, the daemon's variables, the end of its log, and versions. Names of pods and ids of AWS are in it. Credentials, tokens
/// and passwords are taken out: of variables that set nothing up on the node only the names are there.
///
/// Run it as root on the node. Without root or without a daemon it holds what there is. What is missing is named on standard error,
/// and in missing.txt in the archive. `vpc-ipam replay ARCHIVE` works on any machine.
///
/// Exits with 0 if the archive is there, 1 if it could not be written.
#[derive(Debug, Args)]
pub(super) struct SupportArgs {
    /// Where to write it; there must be no such file [default: vpc-ipam-support-TIME.tar.gz, here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where the daemon listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// The state file [default: state.redb beside the socket]
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
    /// The folder of the journal [default: journal/ beside the state file]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// The folder of the runtime's network configurations
    #[arg(long, value_name = "PATH", default_value = SupportOptions::CNI)]
    cni: PathBuf,
    /// The daemon's log file [default: as AWS_VPC_K8S_CNI_LOG_FILE of the daemon says]
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// The node's network namespace, if it is not this program's own
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

pub(super) fn main(args: SupportArgs) -> ExitCode {
    match write(args) {
        Ok((path, missing)) => {
            for what in missing {
                eprintln!("vpc-ipam: missing: {}", OneLine(what));
            }
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vpc-ipam: {}", OneLine(error_chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn write(args: SupportArgs) -> Result<(PathBuf, Vec<String>), super::Failure> {
    let state = args.state.unwrap_or_else(|| args.socket.with_file_name("state.redb"));
    let mut options = SupportOptions::new(args.socket, state);
    options.cni = args.cni;
    options.log = args.log;
    if let Some(journal) = args.journal {
        options.journal = journal;
    }
    options.netns = args.netns.map(Namespace::open).transpose()?;
    // Without a daemon there are none.
    let options = match listener(&options.socket) {
        Ok(pid) => options.of_process(pid),
        Err(error) => {
            options.vars = Err(error_chain(&error));
            options
        }
    };
    let path = args.output.unwrap_or_else(|| support::file_name().into());
    let missing = support::write(&options, &path)?;
    Ok((path, missing))
}
