//! What a daemon did and learned lately, one after the other.

use core::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vpc_ipam_core::{ActionId, Event, Failure, Issued, Lease, Pod, PodKey, Timestamp};

/// What happened after a certain point, as far as the daemon still knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvents {
    /// What happened, oldest first.
    pub events: Vec<NodeEvent>,
    /// How many of those that were asked for the daemon no longer knows.
    pub missed: u64,
    /// The number of the last that happened: ask for what is after it next.
    pub last: u64,
    /// When this daemon began to count. If it differs from before, another daemon counts, from 1: ask for what is after 0.
    pub counted_since: Timestamp,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Its number since the daemon's start; the first has 1.
    pub number: u64,
    /// When, by the daemon's clock.
    pub at: Timestamp,
    /// What.
    pub what: NodeEventKind,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeEventKind {
    /// A pod got its addresses, durably.
    Assigned {
        /// Its addresses.
        lease: Lease,
        /// How long its ADD took in the daemon, in milliseconds.
        ms: u64,
    },
    /// A pod that another program set up got a lease of the addresses that it has, durably.
    Imported {
        /// Its addresses and links.
        lease: Lease,
    },
    /// A pod got no address.
    Refused {
        /// The interface of the pod.
        key: PodKey,
        /// The pod, for people; `None` where the daemon no longer knows it.
        pod: Option<Arc<Pod>>,
        /// Why.
        why: String,
    },
    /// The addresses of a pod were released, durably.
    Released {
        /// What it had.
        lease: Lease,
    },
    /// An action on EC2 or on the node's network was decided, and why.
    Issued(Issued),
    /// An action succeeded.
    Done {
        /// The action, as it was issued.
        id: ActionId,
    },
    /// An action failed.
    Failed {
        /// The action, as it was issued.
        id: ActionId,
        /// How.
        failure: Failure,
    },
    /// Something happened inside core.
    Event(Event),
    /// The node's network was found damaged, and put right.
    Repaired {
        /// What was put right.
        changed: Vec<String>,
    },
    /// The operator's settings changed while the daemon ran.
    Reconfigured {
        /// What changed, from what to what.
        changed: Vec<String>,
    },
}

impl fmt::Display for NodeEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assigned { lease, ms } => {
                write!(f, "assigned ")?;
                addresses(f, lease)?;
                write!(
                    f,
                    " to {}/{} ({}) in {ms} ms",
                    lease.pod.namespace, lease.pod.name, lease.key
                )
            }
            Self::Imported { lease } => {
                write!(f, "imported ")?;
                addresses(f, lease)?;
                write!(f, " of {}/{} ({})", lease.pod.namespace, lease.pod.name, lease.key)?;
                lease.found.iter().try_for_each(|link| write!(f, ", link {}", link.name))
            }
            Self::Refused { key, pod: Some(pod), why } => {
                write!(f, "no address for {}/{} ({key}): {why}", pod.namespace, pod.name)
            }
            Self::Refused { key, pod: None, why } => write!(f, "no address for {key}: {why}"),
            Self::Released { lease } => {
                write!(f, "released ")?;
                addresses(f, lease)?;
                write!(f, " of {}/{} ({})", lease.pod.namespace, lease.pod.name, lease.key)
            }
            Self::Issued(Issued { id, action, because, .. }) => {
                write!(f, "action {id}: {action}, because {because}")
            }
            Self::Done { id } => write!(f, "action {id} succeeded"),
            Self::Failed { id, failure } => write!(f, "action {id} failed: {failure}"),
            Self::Event(event) => write!(f, "{event}"),
            Self::Repaired { changed } => write!(f, "put right: {}", changed.join("; ")),
            Self::Reconfigured { changed } => write!(f, "settings changed: {}", changed.join("; ")),
        }
    }
}

fn addresses(f: &mut fmt::Formatter<'_>, lease: &Lease) -> fmt::Result {
    for (index, address) in lease.addresses().enumerate() {
        write!(f, "{}{address}", if index == 0 { "" } else { ", " })?;
    }
    write!(f, " on {}", lease.first.eni)
}
