//! The commands that ask the daemon of this node: each is a question to its socket and what is printed of the answer.

mod daemon;
mod events;
mod explain;
mod plan;
mod pods;
mod release;
mod status;
mod table;
mod which_pod;

use std::process::ExitCode;

use vpc_ipam_protocol::one_line::OneLine;

pub(super) use self::daemon::{AskFailed, Daemon};
pub(super) use self::events::{EventsArgs, WatchArgs, events, watch};
pub(super) use self::explain::{ExplainArgs, explain};
pub(super) use self::plan::{PlanArgs, plan};
pub(super) use self::pods::{PodsArgs, pods};
pub(super) use self::release::{ReleaseArgs, release};
pub(super) use self::status::{StatusArgs, status};

/// What a command that asks the daemon found.
pub(super) enum Verdict {
    /// All is well, or it was done.
    Yes,
    /// It is not as it should be, or not there.
    No,
}

/// A command's exit code: 0 or 1 as it found, 2 where the daemon could not be asked.
pub(super) fn exit_code(result: Result<Verdict, AskFailed>) -> ExitCode {
    match result {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::FAILURE,
        Err(failed) => {
            eprintln!("vpc-ipam: {}", OneLine(failed));
            ExitCode::from(2)
        }
    }
}
