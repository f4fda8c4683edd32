//! No plugin of ours is at work, and no pod waits for an address.

use core::time::Duration;

use super::{Context, Options, Step, StepError, wait_until};
use crate::migrate::processes;
use vpc_ipam_protocol::{Answer, Request, ask};

pub(super) const STEP: Step = Step { name: "drain", commands, run };

/// How long it may take. Without a configuration the node is not ready, and after 300 s its pods are evicted (Kubernetes'
/// tolerations of not-ready nodes).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Our plugin.
pub(super) const PROGRAM: &str = "vpc-cni";

fn commands(_: &Options) -> Vec<String> {
    vec![
        format!("while pgrep -x {PROGRAM}; do sleep 0.1; done"),
        "vpc-ipam status    # until no pod waits for an address".to_owned(),
    ]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    processes::wait_for_none(&context.proc(), &context.cni_bin(), PROGRAM, PATIENCE)?;
    let socket = &context.options.paths.socket;
    let waiting = || match ask(socket, &Request::Status) {
        // An ADD that waits has a plugin that waits.
        Ok(Answer::Status(status)) if status.waiting > 0 => {
            Err(format!("{} pods wait for an address", status.waiting))
        }
        // Without a daemon none waits.
        _ => Ok(()),
    };
    wait_until(PATIENCE, waiting).map_err(StepError::Failed)?;
    Ok("no vpc-cni runs, and no pod waits for an address".to_owned())
}
