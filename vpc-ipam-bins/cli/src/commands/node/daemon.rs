//! The daemon of this node, as a command asks it.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::{self as protocol, Answer, AskError, Refusal, Request, SOCKET};

/// How to reach the daemon, and how to print what it says.
#[derive(Clone, Debug, Args)]
pub(in crate::commands) struct Daemon {
    /// Where the daemon listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(in crate::commands) socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(in crate::commands) json: bool,
}

/// Why a question has no answer that could be printed.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum AskFailed {
    /// The daemon could not be asked.
    #[error("{}; is vpc-ipamd running?", error_chain(.0))]
    Ask(AskError),
    /// It refused.
    #[error("{}: {}", .0.message, .0.details)]
    Refused(Refusal),
    /// It answered something else.
    #[error(
        "the daemon's answer does not fit the question: is vpc-ipamd of the same version as vpc-ipam?"
    )]
    Unfitting,
    /// What it said could not be printed.
    #[error("write to standard output: {0}")]
    Print(io::Error),
}

impl Daemon {
    /// Asks; `fit` takes the answer that fits the question.
    pub(in crate::commands) fn ask<T>(
        &self,
        request: &Request,
        fit: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, AskFailed> {
        match protocol::ask(&self.socket, request).map_err(AskFailed::Ask)? {
            Answer::Refused(refusal) => Err(AskFailed::Refused(refusal)),
            answer => fit(answer).ok_or(AskFailed::Unfitting),
        }
    }

    /// Prints a value as JSON if that is asked for, otherwise by `words`.
    pub(in crate::commands) fn print<T: Serialize>(
        &self,
        value: &T,
        words: impl FnOnce(&T) -> String,
    ) -> Result<(), AskFailed> {
        if self.json {
            let json = serde_json::to_string_pretty(value);
            write(&json.map_err(|error| AskFailed::Print(error.into()))?, true)
        } else {
            write(&words(value), false)
        }
    }
}

/// Prints text. A reader that closes early, as `head` does, has what it wants.
pub(super) fn write(text: &str, ended: bool) -> Result<(), AskFailed> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| if ended { out.write_all(b"\n") } else { Ok(()) })
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(AskFailed::Print),
    }
}
