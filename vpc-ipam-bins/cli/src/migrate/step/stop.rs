//! vpc-ipamd does not run, and its state file is whole.

use core::time::Duration;

use vpc_ipam_protocol::{Request, ask_within, listener};

use super::{Context, Options, Step, StepError, shell, wait_until};
use crate::migrate::progress::warn;

pub(super) const STEP: Step = Step { name: "stop", commands, run };

/// How long a daemon may take to end: TimeoutStopSec of its unit, and some more.
const PATIENCE: Duration = Duration::from_secs(30);

fn commands(options: &Options) -> Vec<String> {
    vec![options.stop.clone()]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let socket = &context.options.paths.socket;
    // A service manager may not know it, where the way to vpc-ipam failed for that very reason.
    if let Err(error) = shell(&context.options.stop) {
        if listener(socket).is_ok() {
            return Err(error);
        }
        warn(format!(
            "{error}; vpc-ipamd does not run: see to it that it is not started at the next boot"
        ));
    }
    let gone = || match ask_within(socket, &Request::Status, Duration::from_secs(5)) {
        Err(vpc_ipam_protocol::AskError::NoDaemon { .. }) => Ok(()),
        Ok(_) => Err("it still answers".to_owned()),
        Err(error) => Err(vpc_ipam_core::error_chain(&error)),
    };
    wait_until(PATIENCE, gone)
        .map_err(|why| StepError::Failed(format!("vpc-ipamd did not end: {why}")))?;
    Ok("vpc-ipamd does not run".to_owned())
}
