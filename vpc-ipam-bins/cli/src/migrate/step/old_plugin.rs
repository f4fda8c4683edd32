//! The old plugin may still be at work on a pod, though its daemon is gone.

use super::{Context, Options, Step, StepError};
use crate::migrate::processes::{self, PATIENCE};

pub(super) const STEP: Step = Step { name: "no aws-cni runs", commands, run };

const PROGRAM: &str = "aws-cni";

fn commands(_: &Options) -> Vec<String> {
    vec![format!("while pgrep -x {PROGRAM}; do sleep 0.1; done")]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    processes::wait_for_none(&context.proc(), &context.cni_bin(), PROGRAM, PATIENCE)?;
    Ok("none".to_owned())
}
