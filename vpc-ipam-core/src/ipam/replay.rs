//! Taking in again what a journal has, step by step.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::ipam::Ipam;
use crate::ipam::journal::{Divergence, ReplayError, Start};
use crate::ipam::recorder::{Hashes, Input, Step};
use crate::ipam::snapshot::Snapshot;
use crate::{
    AssignError, Assigned, Event, Grant, ImportError, Issued, Lease, PodKey, Released, Timestamp,
    Uncommitted, UnusableConfigError,
};

/// A node that lives again through what its journal has.
///
/// Each [`step`](Self::step) takes one recorded input in and compares what follows from it with what followed then: the actions,
/// their reasons, and the state where the journal has its hash.
#[derive(Debug)]
pub struct Replay {
    ipam: Ipam,
    last: u64,
}

/// What one step led to.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Replayed {
    /// The step as it was recorded, its actions and their reasons included.
    pub step: Step,
    /// What pods and callers were answered because of it.
    pub replies: Vec<Reply>,
    /// What else happened.
    pub events: Vec<Event>,
}

/// What a pod or a caller was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Reply {
    /// Addresses, to be made durable before the pod gets them.
    Granted(Lease),
    /// To wait for an address until a point in time at most.
    Wait {
        /// The interface of the pod that waits.
        key: PodKey,
        /// When it gets an answer at the latest.
        deadline: Timestamp,
    },
    /// That there is no address.
    Refused {
        /// The interface of the pod that asked.
        key: PodKey,
        /// The reason, with what may help.
        error: AssignError,
    },
    /// That a pod of another program gets no lease of the addresses that it has.
    NotImported {
        /// The interface of the pod.
        key: PodKey,
        /// The reason.
        error: ImportError,
    },
    /// That a lease is durable, and the pod may have its addresses.
    Committed(Lease),
    /// That the pod was deleted while its lease was made durable.
    Gone(PodKey),
    /// What a pod held that was deleted.
    Released(Lease),
    /// That a configuration cannot be used, and why.
    Unusable(String),
}

impl Replay {
    /// Returns the node as it was when it was made.
    pub fn from_start(start: &Start) -> Result<Self, ReplayError> {
        Ok(Self { ipam: start.begin().map_err(ReplayError::Start)?, last: 0 })
    }

    /// Returns the node as it was when its journal began.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut ipam = snapshot.resume();
        let _ = ipam.begin_journal(Hashes::EveryStep);
        Self { ipam, last: 0 }
    }

    /// Returns the node as it is after the last step.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// Returns the node as it is after the last step, which does not record any more.
    pub fn into_ipam(self) -> Ipam {
        self.ipam
    }

    /// Takes in the next step of the journal.
    ///
    /// After [`ReplayError::Diverged`] the node is as this version makes it, and further steps may be tried.
    pub fn step(&mut self, recorded: Step) -> Result<Replayed, ReplayError> {
        if recorded.number != self.last + 1 {
            return Err(ReplayError::Gap { last: self.last, found: recorded.number });
        }
        self.last = recorded.number;
        if recorded.state.is_none() {
            self.ipam.skip_next_hash();
        }
        let mut replies: Vec<Reply> =
            self.ipam.take_in(recorded.input.clone(), recorded.at).into_iter().collect();
        let replayed = self.ipam.poll_step();
        let (issued, state) = replayed.map_or((Vec::new(), None), |step| (step.issued, step.state));
        while self.ipam.poll_action().is_some() {}
        while let Some(Grant { key, result, .. }) = self.ipam.poll_grant() {
            replies.push(match result {
                Ok(Uncommitted { lease }) => Reply::Granted(lease),
                Err(error) => Reply::Refused { key, error },
            });
        }
        let events = core::iter::from_fn(|| self.ipam.poll_event()).collect();
        if issued != recorded.issued || recorded.state.is_some() && state != recorded.state {
            let action = first_difference(&recorded.issued, &issued);
            let state = state.unwrap_or_else(|| self.ipam.state());
            let divergence = Divergence { recorded, state, action };
            return Err(ReplayError::Diverged(Box::new(divergence)));
        }
        Ok(Replayed { step: recorded, replies, events })
    }
}

fn first_difference(
    recorded: &[Issued],
    replayed: &[Issued],
) -> Option<(Option<Issued>, Option<Issued>)> {
    let longest = recorded.len().max(replayed.len());
    let pairs = (0..longest).map(|index| (recorded.get(index), replayed.get(index)));
    let mut different = pairs.filter(|(recorded, replayed)| recorded != replayed);
    different.next().map(|(recorded, replayed)| (recorded.cloned(), replayed.cloned()))
}

impl Ipam {
    /// Takes in an input of a journal, and returns what its caller was answered.
    fn take_in(&mut self, input: Input, now: Timestamp) -> Option<Reply> {
        match input {
            Input::Restore(records) => self.restore(records, now),
            Input::Observe(observation) => self.observe(&observation, now),
            Input::Config(config) => {
                let unusable =
                    |error: UnusableConfigError| Reply::Unusable(crate::error_chain(&error));
                return self.handle_config(*config, now).err().map(unusable);
            }
            Input::EniConfig(eni_config) => self.handle_eni_config(eni_config, now),
            Input::Schedulable(schedulable) => self.handle_schedulable(schedulable, now),
            Input::Terminating => self.handle_terminating(now),
            Input::Untracked { address, in_use } => {
                self.handle_untracked(address, in_use, now);
            }
            Input::Assign(request) => {
                return Some(match self.assign(&request, now) {
                    Ok(Assigned::Now(Uncommitted { lease })) => Reply::Granted(lease),
                    Ok(Assigned::Later { deadline }) => Reply::Wait { key: request.key, deadline },
                    Err(error) => Reply::Refused { key: request.key, error },
                });
            }
            Input::Import(import) => {
                return Some(match self.import(&import, now) {
                    Ok(Uncommitted { lease }) => Reply::Granted(lease),
                    Err(error) => Reply::NotImported { key: import.key, error },
                });
            }
            Input::Commit(lease) => {
                let key = lease.key.clone();
                let committed = self.commit(Uncommitted { lease });
                return Some(committed.map_or(Reply::Gone(key), Reply::Committed));
            }
            Input::Abandon(lease) => {
                let _ = self.abandon(Uncommitted { lease }, now);
            }
            Input::Release(key) => match self.release(&key, now) {
                Released::Lease { lease, .. } => return Some(Reply::Released(lease)),
                Released::WasWaiting | Released::Unknown => {}
            },
            Input::Outcome { id, outcome } => self.handle_outcome(id, outcome, now),
            Input::Timeout => self.handle_timeout(now),
        }
        None
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |f: &mut fmt::Formatter<'_>, lease: &Lease| {
            let mut separator = " ";
            lease.interfaces().try_for_each(|interface| {
                interface.addresses().try_for_each(|address| {
                    write!(f, "{separator}{address} on {}", interface.eni)?;
                    separator = ", ";
                    Ok(())
                })
            })
        };
        match self {
            Self::Granted(lease) => {
                write!(f, "grants {}", lease.key)?;
                addresses(f, lease)
            }
            Self::Wait { key, deadline } => write!(f, "lets {key} wait until {deadline}"),
            Self::Refused { key, error } => write!(f, "refuses {key}: {error}"),
            Self::NotImported { key, error } => write!(f, "does not import {key}: {error}"),
            Self::Committed(lease) => {
                write!(f, "serves {}", lease.key)?;
                addresses(f, lease)
            }
            Self::Gone(key) => write!(f, "does not serve {key}, which was deleted meanwhile"),
            Self::Released(lease) => {
                write!(f, "releases {}", lease.key)?;
                addresses(f, lease)
            }
            Self::Unusable(why) => write!(f, "refuses the configuration: {why}"),
        }
    }
}
