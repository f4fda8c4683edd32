//! Answers about the node's network, of which two threads know a part each.

use core::time::Duration;
use std::collections::BTreeSet;

use tokio::sync::oneshot;
use tracing::warn;
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::{ApplyError, NetlinkError, NodeDifferences, Refused, Repaired, commands};
use vpc_ipam_protocol::{Answer, NetReport, Refusal, RefusalKind};

/// What one thread tells.
pub(crate) type Part = Result<NetReport, PartError>;

/// Why a part of the answer is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// It cannot be read or put right.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Its thread ended.
    #[error("the thread that should tell ended")]
    Ended,
    /// Its thread runs a program that has not ended.
    #[error("nft or iptables is still at it")]
    Busy,
}

impl From<NetlinkError> for PartError {
    fn from(error: NetlinkError) -> Self {
        Self::Apply(error.into())
    }
}

/// How long address translation is waited for: half of what a caller waits for the whole answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts an answer together, as far as it can be told.
pub(crate) async fn answer(
    attempted: &str,
    kernel: oneshot::Receiver<Part>,
    translation: oneshot::Receiver<Part>,
) -> Answer {
    let mut report = match kernel.await.unwrap_or(Err(PartError::Ended)) {
        Ok(report) => report,
        Err(error) => {
            let details = error_chain(&error);
            let (kind, message) = (RefusalKind::Kernel, attempted.to_owned());
            return Answer::Refused(Refusal { kind, message, details });
        }
    };
    let translation = match tokio::time::timeout(PATIENCE, translation).await {
        Ok(part) => part.unwrap_or(Err(PartError::Ended)),
        Err(_) => Err(PartError::Busy),
    };
    match translation {
        Ok(part) => {
            report.differences.extend(part.differences);
            report.beyond.extend(part.beyond);
            report.conflicts.extend(part.conflicts);
            report.not_told.extend(part.not_told);
            report.commands.extend(part.commands);
            report.spoofed = part.spoofed;
        }
        Err(error) => report.not_told.push(format!("address translation: {}", error_chain(&error))),
    }
    Answer::Net(report)
}

/// Tells what a repair would do.
pub(crate) fn different_part(found: NodeDifferences) -> NetReport {
    NetReport {
        differences: in_words(&found.differences),
        beyond: in_words(&found.absent),
        conflicts: in_words(&found.conflicts),
        not_told: found.unlisted,
        commands: commands(&found.changes),
        spoofed: None,
    }
}

/// Tells what a repair did.
pub(crate) fn repaired_part(repaired: Repaired) -> NetReport {
    let mut beyond = in_words(&repaired.absent);
    beyond.extend(repaired.unwritable.iter().map(|refused| error_chain(refused)));
    NetReport {
        differences: in_words(&repaired.differences),
        beyond,
        conflicts: in_words(&repaired.conflicts),
        not_told: repaired.unlisted,
        commands: Vec::new(),
        spoofed: None,
    }
}

/// Warns of what the kernel refused, once of each.
pub(crate) fn warn_once(refused: &[Refused], reported: &mut BTreeSet<String>) {
    for refused in refused {
        let what = error_chain(refused);
        if reported.insert(what.clone()) {
            warn!(what, "the kernel refused; the node goes on without");
        }
    }
}

pub(crate) fn in_words(things: &[impl ToString]) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}
