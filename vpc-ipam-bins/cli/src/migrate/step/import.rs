//! Entries of the checkpoint become leases of vpc-ipamd.

use core::time::Duration;

use vpc_ipam_protocol::ImportOutcome;

use super::{Context, Options, Step, StepError};
use crate::migrate::conflist::Conflists;
use crate::migrate::progress::warn;
use crate::migrate::{Checkpoint, ImportFailed, import, pods_to_import};

pub(super) const STEP: Step = Step { name: "import", commands, run };

/// How long the daemon may take until it knows what the node's ENIs hold.
const PATIENCE: Duration = Duration::from_secs(120);

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
    let outcomes = import(&paths.socket, &pods, PATIENCE)?;
    let (mut imported, mut skipped) = (0, 0);
    for (pod, outcome) in pods.iter().zip(outcomes) {
        match outcome {
            ImportOutcome::Imported | ImportOutcome::AlreadyThere => imported += 1,
            ImportOutcome::Skipped { why } => {
                skipped += 1;
                let addresses: Vec<String> =
                    pod.addresses.iter().map(ToString::to_string).collect();
                warn(format!("not imported: {} of {}: {why}", addresses.join(","), pod.key));
            }
        }
    }
    Ok(format!("{imported} pods have their leases, {skipped} entries are of no pod that runs"))
}

impl From<ImportFailed> for StepError {
    fn from(error: ImportFailed) -> Self {
        Self::Failed(vpc_ipam_core::error_chain(&error))
    }
}
