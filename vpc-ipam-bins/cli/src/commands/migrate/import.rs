//! `vpc-ipam migrate import`: pods of the checkpoint become leases of the daemon that runs.

use core::net::IpAddr;
use core::time::Duration;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{AskError, ImportOutcome, PodImport};

use crate::commands::node::Daemon;
use crate::migrate::{Checkpoint, CheckpointProblem, ImportFailed, import, pods_to_import};

/// Give the pods of a checkpoint of amazon-vpc-cni-k8s leases of the addresses that they have.
///
/// The daemon has to run already. A pod is imported with its link as the daemon finds it, and is as any other from then on. One without
/// a link, or whose address no ENI holds or another pod has, is skipped, and the reason told. It can be repeated.
///
/// Exits with 0 if every pod has its lease, with 1 if one was skipped or a file cannot be read, with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The checkpoint, NAME.json; those of further network cards, NAME-nic-N.json, are read from beside it
    #[arg(value_name = "FILE", default_value = "/var/run/aws-node/ipam.json")]
    files: Vec<PathBuf>,
    /// The name of the network configuration, for pods older than the checkpoint, whose entries do not tell
    #[arg(long, value_name = "NAME", default_value = "aws-cni")]
    network: String,
    /// How long to wait until the daemon knows what the node's ENIs hold, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    #[command(flatten)]
    daemon: Daemon,
}

/// What became of a pod.
#[derive(Debug, Serialize)]
struct PodRow<'a> {
    network: &'a str,
    container: &'a str,
    ifname: &'a str,
    /// Its names; none where the checkpoint does not tell.
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    addresses: &'a [IpAddr],
    outcome: &'static str,
    /// Why it was skipped.
    why: Option<&'a str>,
}

impl<'a> PodRow<'a> {
    fn new(pod: &'a PodImport, outcome: &'a ImportOutcome) -> Self {
        let (outcome, why) = match outcome {
            ImportOutcome::Imported => ("imported", None),
            ImportOutcome::AlreadyThere => ("already_there", None),
            ImportOutcome::Skipped { why, .. } => ("skipped", Some(&**why)),
        };
        Self {
            network: pod.key.network(),
            container: pod.key.container(),
            ifname: pod.key.ifname(),
            namespace: pod.pod.as_ref().map(|it| &*it.namespace),
            name: pod.pod.as_ref().map(|it| &*it.name),
            addresses: &pod.addresses,
            outcome,
            why,
        }
    }

    fn in_words(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let pod = match (self.namespace, self.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => format!("container {}", self.container),
        };
        let outcome = self.outcome.replace('_', " ");
        let why = self.why.map(|why| format!(": {why}")).unwrap_or_default();
        OneLine(format!("{outcome} {pod} {}{why}", addresses.join(","))).to_string()
    }
}

pub(super) fn main(args: &ImportArgs) -> ExitCode {
    let mut checkpoint = Checkpoint::default();
    for file in &args.files {
        let read = match Checkpoint::read(file) {
            Ok(read) => read,
            Err(error) => return failed(&error_chain(&error), 1),
        };
        if read.files.is_empty() {
            return failed(&format!("there is no checkpoint {}", file.display()), 1);
        }
        checkpoint.entries.extend(read.entries);
        checkpoint.problems.extend(read.problems);
    }
    let pods = pods_to_import(&checkpoint, &args.network);
    let (socket, wait) = (&args.daemon.socket, Duration::from_secs(args.wait));
    let outcomes = match import(socket, &pods, wait) {
        Ok(outcomes) => outcomes,
        Err(ImportFailed::Ask(error @ AskError::NoDaemon { .. })) => {
            return failed(&format!("{}; is vpc-ipamd running?", error_chain(&error)), 2);
        }
        Err(error) => return failed(&error_chain(&error), 2),
    };
    // What is no entry at all is no pod that could be shown.
    for problem in &checkpoint.problems {
        eprintln!("vpc-ipam: {}", OneLine(problem));
    }
    let is_lost = |problem: &CheckpointProblem| {
        matches!(problem, CheckpointProblem::NoEntry { .. } | CheckpointProblem::NoAddress { .. })
    };
    let is_skipped = |outcome: &ImportOutcome| matches!(outcome, ImportOutcome::Skipped { .. });
    let skipped = outcomes.iter().any(is_skipped) || checkpoint.problems.iter().any(is_lost);
    let rows: Vec<PodRow<'_>> =
        pods.iter().zip(&outcomes).map(|(pod, outcome)| PodRow::new(pod, outcome)).collect();
    let printed = args.daemon.print(&rows, |rows| match rows.len() {
        0 => "the checkpoint has no pod\n".to_owned(),
        _ => rows.iter().map(|row| row.in_words() + "\n").collect(),
    });
    if let Err(error) = printed {
        return failed(&error.to_string(), 1);
    }
    if skipped { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn failed(why: &str, code: u8) -> ExitCode {
    eprintln!("vpc-ipam: {}", OneLine(why));
    ExitCode::from(code)
}
