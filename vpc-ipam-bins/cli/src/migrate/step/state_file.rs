//! vpc-ipamd's state file is out of the way of the next start, and kept.

use std::ffi::OsString;

use super::{Context, Options, Step, StepError};
use crate::migrate::durable;

pub(super) const STEP: Step = Step { name: "state file", commands, run };

fn commands(options: &Options) -> Vec<String> {
    let path = options.paths.state.display();
    vec![format!("mv {path} {path}.back-TIME")]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    super::hand_back::expect_no_daemon(context)?;
    let path = &context.options.paths.state;
    if std::fs::symlink_metadata(path).is_err() {
        return Ok("there is none".to_owned());
    }
    let mut aside = OsString::from(path);
    aside.push(format!(".back-{}", context.run().begun.as_nanos() / 1_000_000_000));
    durable::rename(path, aside.as_ref())?;
    Ok(format!("is {} now", aside.display()))
}
