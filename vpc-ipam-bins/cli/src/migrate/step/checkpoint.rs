//! The checkpoint with which amazon-vpc-cni-k8s goes on, out of vpc-ipamd's state file.

use std::collections::BTreeSet;

use vpc_ipam_core::error_chain;
use vpc_ipam_linux::HandBack;
use vpc_ipam_protocol::pending_release;

use super::{Context, Options, Step, StepError, drain};
use crate::migrate::export::export;
use crate::migrate::leases::stored;
use crate::migrate::progress::warn;
use crate::migrate::running::RunningPods;
use crate::migrate::{Checkpoint, old_daemon, processes};

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
    let plugin = drain::PROGRAM;
    processes::wait_for_none(&context.proc(), &context.cni_bin(), plugin, processes::PATIENCE)?;
    // Without a state file of this boot what runs is in the checkpoint, or is refused.
    let leases = stored(paths)?;
    let before = Checkpoint::read(&path)?;
    let pending_release::Found { releases, ignored } = pending_release::read(&paths.socket);
    for ignored in ignored {
        warn(error_chain(&ignored));
    }
    let deleted: BTreeSet<_> = releases.into_iter().map(|(_, release)| release.key).collect();
    let mut netlink = context.netlink()?;
    let routed = HandBack::find(&mut netlink)?.pods;
    let running = RunningPods::addresses(&mut netlink)?;
    let exported = export(&leases.unwrap_or_default(), &deleted, &before, &routed, &running);
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
