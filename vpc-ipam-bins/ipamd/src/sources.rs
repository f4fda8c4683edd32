//! What EC2 and the instance metadata service said since the daemon started.

pub(crate) mod take_over;

use tracing::{info, warn};
use vpc_ipam_core::{Effect, IncompleteEni, Metadata, Node, Outcome, Scope, Source};

/// What the sources said since the start.
#[derive(Debug)]
pub(super) struct Sources {
    /// Whether any of them has shown the node's ENIs.
    answered: bool,
    /// Why the metadata were not read; those of an earlier start serve meanwhile.
    metadata_unread: Option<String>,
    /// Whether EC2's list of the instance's ENIs lacks the primary one.
    primary_unlisted: bool,
    /// The ENIs that the metadata service lists without telling all of them.
    incomplete: Vec<IncompleteEni>,
}

impl Sources {
    /// Says nothing yet of a node whose metadata were read a moment ago, or are those of an earlier start.
    pub(super) fn new(metadata_are_fresh: bool) -> Self {
        let unread = "they are being read".to_string();
        Self {
            answered: metadata_are_fresh,
            metadata_unread: (!metadata_are_fresh).then_some(unread),
            primary_unlisted: false,
            incomplete: Vec::new(),
        }
    }

    /// Returns whether any source has shown the node's ENIs since the start.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    /// Takes note of the answer to an action.
    pub(super) fn on_outcome(&mut self, outcome: &Outcome, node: &Node) {
        match outcome {
            Outcome::Done(Effect::Metadata(metadata)) => self.metadata_read(metadata),
            Outcome::Done(Effect::Observed(seen))
                if seen.source == Source::Ec2 && seen.scope == Scope::Attached =>
            {
                let unlisted = !seen.enis.iter().any(|eni| eni.id == node.primary);
                if unlisted && !self.primary_unlisted {
                    warn!(
                        primary = %node.primary,
                        instance = %node.instance,
                        "EC2 does not list the primary ENI: wrong account, region or endpoint?"
                    );
                }
                if !unlisted && self.primary_unlisted {
                    info!(primary = %node.primary, "EC2 lists the primary ENI again");
                }
                self.primary_unlisted = unlisted;
                self.answered |= !unlisted;
            }
            Outcome::Done(_) | Outcome::Failed(_) => {}
        }
    }

    /// The metadata were not read, and will be tried again.
    pub(super) fn metadata_unread(&mut self, why: String) {
        if self.metadata_unread.as_ref() != Some(&why) {
            warn!(error = why, "cannot read the instance's metadata; going by those of before");
        }
        self.metadata_unread = Some(why);
    }

    /// The metadata were read.
    pub(super) fn metadata_read(&mut self, metadata: &Metadata) {
        self.answered = true;
        self.metadata_unread = None;
        self.report_incomplete(&metadata.observation.incomplete);
    }

    /// Takes note of the ENIs of which the metadata service does not tell all.
    fn report_incomplete(&mut self, incomplete: &[IncompleteEni]) {
        for eni in incomplete.iter().filter(|eni| !self.incomplete.contains(eni)) {
            warn!("{eni}; it stays as EC2 or an earlier reading showed it");
        }
        for eni in &self.incomplete {
            if !incomplete.iter().any(|still| still.mac == eni.mac) {
                info!(mac = %eni.mac, "the metadata service no longer lists the ENI incompletely");
            }
        }
        self.incomplete = incomplete.to_vec();
    }

    /// Returns what an operator should look at.
    pub(super) fn problems(&self, node: &Node) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(why) = &self.metadata_unread {
            problems.push(format!("the instance's metadata cannot be read: {why}"));
        }
        if !self.answered {
            problems.push(
                "neither EC2 nor the metadata service has shown this node's ENIs since the daemon started: pods that have \
                 addresses keep and get them, new ones wait"
                    .to_string(),
            );
        }
        if self.primary_unlisted {
            problems.push(format!(
                "EC2 does not list the primary ENI {} among those of {}: are the credentials of another account, or is the \
                 region or endpoint another's?",
                node.primary, node.instance
            ));
        }
        let stays =
            |eni: &IncompleteEni| format!("{eni}: it stays as EC2 or an earlier reading showed it");
        problems.extend(self.incomplete.iter().map(stays));
        problems
    }
}
