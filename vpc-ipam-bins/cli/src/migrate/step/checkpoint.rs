//! The checkpoint with which amazon-vpc-cni-k8s goes on, out of vpc-ipamd's state file.

use super::{Context, Options, Step, StepError, drain};
use crate::migrate::{export, old_daemon, processes};

pub(super) const STEP: Step = Step { name: "checkpoint", commands, run };

/// What was written, in the folder of the run.
pub(super) const EXPORTED: &str = "ipam.json";

fn commands(options: &Options) -> Vec<String> {
    vec![format!("vpc-ipam migrate export {}", options.paths.checkpoint.display())]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let paths = &context.options.paths;
    let path = paths.at(&paths.checkpoint);
    // A runtime may have called it with the configuration that is gone: its pod has its lease, and no link yet.
    let (proc, bin) = (context.proc(), context.cni_bin());
    processes::wait_for_none(&proc, &bin, drain::PROGRAM, drain::PATIENCE)?;
    let (exported, before) = export::find(paths)?;
    if !exported.refused.is_empty() {
        return Err(StepError::Refused(exported.refused.join("; ")));
    }
    let entries = &exported.checkpoint.entries;
    exported.checkpoint.write(&context.run_folder().join(EXPORTED))?;
    let said = format!("{} entries in {}", entries.len(), path.display());
    if !before.fenced
        && entries.iter().all(|entry| before.entries.contains(entry))
        && entries.len() == before.entries.iter().filter(|entry| entry.card == 0).count()
    {
        return Ok(said);
    }
    let too_early = |which: String| {
        StepError::Failed(format!(
            "amazon-vpc-cni-k8s runs already ({which}), with a checkpoint that lacks pods: keep its DaemonSet off the node until the checkpoint is \
             written, and run this again"
        ))
    };
    old_daemon::expect_none(paths).map_err(too_early)?;
    if let Some(folder) = path.parent() {
        // Since the last boot there is none.
        std::fs::create_dir_all(folder)?;
    }
    exported.checkpoint.write(&path)?;
    // It may have read the one of before.
    old_daemon::expect_none(paths).map_err(too_early)?;
    Ok(said)
}
