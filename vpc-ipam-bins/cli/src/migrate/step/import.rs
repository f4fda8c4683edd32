//! Entries of the checkpoint become leases of vpc-ipamd.

use core::time::Duration;
use std::path::Path;
use std::thread;
use std::time::Instant;

use vpc_ipam_protocol::{ImportOutcome, PodImport};

use super::{Context, Options, Step, StepError};
use crate::migrate::conflist::Conflists;
use crate::migrate::progress::warn;
use crate::migrate::running::RunningPods;
use crate::migrate::{Checkpoint, ImportFailed, import, pods_to_import};

pub(super) const STEP: Step = Step { name: "import", commands, run };

/// How long the daemon may take until it knows what the node's ENIs hold.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

fn commands(options: &Options) -> Vec<String> {
    vec![format!("vpc-ipam migrate import {}", options.paths.checkpoint.display())]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let paths = &context.options.paths;
    let checkpoint = Checkpoint::read(&paths.at(&paths.checkpoint))?;
    // Under the name by which the runtime will delete pods whose entries do not tell it.
    let conflists = Conflists::read(&context.cni_conf())?;
    let network = conflists.all_ours().next().map(|it| it.name.clone());
    let network = network.ok_or_else(|| {
        StepError::Failed(format!("no configuration in {} is ours", paths.cni_conf.display()))
    })?;
    let pods = pods_to_import(&checkpoint, &network);
    let outcomes = outcomes(&paths.socket, &pods)?;
    let running = RunningPods::list(&mut context.netlink()?)?;
    let runs = |pod: &PodImport| pod.addresses.iter().any(|it| running.0.contains_key(it));
    let (mut imported, mut gone, mut untracked) = (0, 0, 0);
    for (pod, outcome) in pods.iter().zip(outcomes) {
        let ImportOutcome::Skipped { why, .. } = outcome else {
            imported += 1;
            continue;
        };
        *if runs(pod) { &mut untracked } else { &mut gone } += 1;
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        warn(format!("not imported: {} of {}: {why}", addresses.join(","), pod.key));
    }
    let mut said =
        format!("{imported} pods have their leases, {gone} entries are of no pod that runs");
    if untracked > 0 {
        said += &format!(", {untracked} are of addresses that pods keep without a lease");
    }
    Ok(said)
}

/// Asks until the daemon, which may be started once more meanwhile, knows what the node's ENIs hold, and returns what became of each pod.
fn outcomes(socket: &Path, pods: &[PodImport]) -> Result<Vec<ImportOutcome>, ImportFailed> {
    let until = Instant::now() + PATIENCE;
    let is_late = || Instant::now() >= until;
    let temporary =
        |it: &ImportOutcome| matches!(it, ImportOutcome::Skipped { temporary: true, .. });
    loop {
        match import(socket, pods, PATIENCE) {
            Ok(outcomes) if is_late() || !outcomes.iter().any(temporary) => return Ok(outcomes),
            Err(ImportFailed::Ask(_)) if !is_late() => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        thread::sleep(PAUSE);
    }
}

impl From<ImportFailed> for StepError {
    fn from(error: ImportFailed) -> Self {
        Self::Failed(vpc_ipam_core::error_chain(&error))
    }
}
