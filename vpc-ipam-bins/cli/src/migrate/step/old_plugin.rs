//! The old plugins may still be at work on a pod, though their daemon is gone.

use super::{Context, Options, Step, StepError};
use crate::migrate::old_daemon::{EGRESS_PLUGIN, PLUGIN};
use crate::migrate::processes::{self, PATIENCE};

pub(super) const STEP: Step = Step { name: "no aws-cni runs", commands, run };

/// In the order in which a runtime calls them.
const PROGRAMS: [&str; 2] = [PLUGIN, EGRESS_PLUGIN];

fn commands(_: &Options) -> Vec<String> {
    let wait = |program| format!("while pgrep -x {program}; do sleep 0.1; done");
    PROGRAMS.map(wait).into()
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    for program in PROGRAMS {
        processes::wait_for_none(&context.proc(), &context.cni_bin(), program, PATIENCE)?;
    }
    Ok("none".to_owned())
}
