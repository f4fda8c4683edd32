//! What is known of one side of the node's network: when it is repaired, and what the log said of it.

use std::collections::BTreeSet;

use tracing::{error, info, warn};
use vpc_ipam_core::{Timestamp, error_chain};
use vpc_ipam_linux::{ApplyError, Conflict, Difference, Extent, Pace, Repaired};

/// One of the two sides of the node's network, each of which has a thread of its own.
#[derive(Default)]
pub(super) struct Side {
    pub(super) pace: Pace,
    /// What its thread is at.
    pub(super) repairing: Option<Extent>,
    /// The objects of other programs that stand in the way, as the log named them.
    pub(super) conflicts: BTreeSet<String>,
    /// What cannot be found out, as the log said it.
    pub(super) unlisted: Vec<String>,
}

impl Side {
    /// Says once of each object of another program that it stands in the way, and that it does no longer.
    fn report_conflicts(&mut self, found: &[Conflict]) {
        for Conflict { object, effect, likely_author } in found {
            if !self.conflicts.contains(object) {
                warn!(object, effect, likely_author, "another program stands in the way");
            }
        }
        let found: BTreeSet<String> = found.iter().map(|it| it.object.clone()).collect();
        for object in self.conflicts.difference(&found) {
            info!(object, "stands in the way no more");
        }
        self.conflicts = found;
    }

    /// Says once of each thing that it cannot be told.
    fn report_unlisted(&mut self, unlisted: Vec<String>) {
        for what in unlisted.iter().filter(|what| !self.unlisted.contains(what)) {
            warn!("{what}");
        }
        self.unlisted = unlisted;
    }

    /// Returns what is to be repaired now, if anything is.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Extent> {
        if self.repairing.is_none() {
            self.repairing = self.pace.take(now);
            return self.repairing;
        }
        None
    }

    /// Takes note of what came of a repair.
    pub(super) fn repaired(&mut self, result: Result<Repaired, ApplyError>, now: Timestamp) {
        let Some(extent) = self.repairing.take() else { return };
        match result {
            // The thread that could not write a kernel variable told of that.
            Ok(Repaired { differences, spared, conflicts, unlisted, .. }) => {
                self.report_conflicts(&conflicts);
                self.report_unlisted(unlisted);
                for difference in &differences {
                    info!(%difference, "the node's network was put right");
                }
                let words = |all: &[Difference]| -> Vec<String> {
                    all.iter().map(|it| it.object().to_string()).collect()
                };
                self.pace.repaired(&words(&differences), &words(&spared), extent, now);
            }
            Err(error) => {
                error!(
                    error = error_chain(&error),
                    "cannot put the node's network right; trying again"
                );
                self.pace.failed(extent, now);
            }
        }
    }
}
