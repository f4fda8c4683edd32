//! The pods are as they were before, and answer.

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::Path;

use vpc_ipam_linux::Netlink as _;
use vpc_ipam_protocol::{Answer, Request, ask};

use super::back_up::PODS;
use super::checkpoint::EXPORTED;
use super::{Context, Options, Step, StepError, wait_until};
use crate::migrate::conflist::Conflists;
use crate::migrate::running::{Compared, RunningPods};
use crate::migrate::{Checkpoint, CheckpointEntry, durable, old_daemon, swept};

pub(super) const TO: Step = Step { name: "verify", commands, run: to };
pub(super) const BACK: Step = Step { name: "verify", commands, run: back };

/// How long a pod may take to answer again: a neighbour is asked anew.
const PATIENCE: Duration = Duration::from_secs(10);

fn commands(_: &Options) -> Vec<String> {
    vec![
        "# each pod of before: its link, its route, and an ICMP echo if it answered one before"
            .to_owned(),
    ]
}

fn to(context: &mut Context<'_>) -> Result<String, StepError> {
    let Some(backup) = context.backup().map(Path::to_owned) else {
        return Err(StepError::Failed("there is no backup to compare with".to_owned()));
    };
    let said = verify(context, &backup.join(PODS))?;
    let paths = &context.options.paths;
    let failed = |why: String| Err(StepError::Failed(why));
    if let Err(which) = old_daemon::expect_none(paths) {
        return failed(format!(
            "amazon-vpc-cni-k8s runs again ({which}): keep its DaemonSet off the node"
        ));
    }
    let conflists = Conflists::read(&context.cni_conf())?;
    match (conflists.old(), conflists.all_ours().next()) {
        (None, Some(ours)) => conflists.expect_first(&ours.file())?,
        (Some(old), _) => return failed(format!("{} is there again", old.path.display())),
        (None, None) => return failed("our network configuration is gone".to_owned()),
    }
    if let Ok(Answer::Status(status)) = ask(&paths.socket, &Request::Status)
        && let Some(problem) = status.problems.iter().find(|it| it.contains("amazon-vpc-cni-k8s"))
    {
        return failed(problem.clone());
    }
    Ok(said)
}

fn back(context: &mut Context<'_>) -> Result<String, StepError> {
    let folder = context.run_folder();
    // Those of before the way that is turned round.
    let backup = context.backup().filter(|_| context.run().turned).map(|it| it.join(PODS));
    let of_before = backup.filter(|path| path.exists()).unwrap_or_else(|| folder.join(PODS));
    let said = verify(context, &of_before)?;
    // What amazon-vpc-cni-k8s does not take from the checkpoint it hands out again.
    let exported = Checkpoint::read(&folder.join(EXPORTED))?;
    let paths = &context.options.paths;
    if old_daemon::serves(paths).map_err(StepError::Failed)?.is_none() {
        return Ok(said);
    }
    let there = Checkpoint::read(&paths.at(&paths.checkpoint))?;
    let running = RunningPods::list(&mut context.netlink()?)?;
    let dropped: Vec<String> = exported
        .entries
        .iter()
        .filter(|entry| entry.addresses().any(|address| running.0.contains_key(&address)))
        .filter(|entry| {
            let is_it = |it: &CheckpointEntry| {
                it.container == entry.container && it.addresses().eq(entry.addresses())
            };
            !there.entries.iter().any(is_it)
        })
        .map(ToString::to_string)
        .collect();
    if dropped.is_empty() {
        return Ok(said);
    }
    Err(StepError::Failed(format!(
        "amazon-vpc-cni-k8s dropped entries of its checkpoint whose pods run, and hands out their addresses again: {}. Delete these pods",
        dropped.join(", ")
    )))
}

fn verify(context: &Context<'_>, of_before: &Path) -> Result<String, StepError> {
    let Some(text) = durable::read(of_before)? else {
        return Err(StepError::Failed(format!("{} is not there", of_before.display())));
    };
    let before: RunningPods = serde_json::from_slice(&text)?;
    let mut netlink = context.netlink()?;
    let mut look = || -> Result<Compared, StepError> {
        let now = RunningPods::look(&mut netlink)?;
        let links: BTreeSet<u32> = netlink.links()?.iter().map(|it| it.id.index.0).collect();
        Ok(before.compare(&now, &links))
    };
    let compared = wait_until(PATIENCE, || {
        let compared = look().map_err(|error| error.to_string())?;
        if compared.damaged.is_empty() { Ok(compared) } else { Err(compared.damaged.join("; ")) }
    });
    let Compared { gone, .. } = compared.map_err(StepError::Failed)?;
    swept::add(context.journal.folder(), &gone)?;
    let answered = before.0.values().filter(|pod| pod.answers).count();
    Ok(format!(
        "{} pods are as before, {answered} of them answer as before, {} were deleted meanwhile",
        before.0.len() - gone.len(),
        gone.len()
    ))
}
