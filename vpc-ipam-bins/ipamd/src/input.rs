//! What the event loop gets from the threads and tasks of the daemon.

use tokio::sync::oneshot;
use vpc_ipam_aws::Ec2Error;
use vpc_ipam_core::{ActionId, EniLink, Metadata, Outcome, PodKey};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{ApplyError, ConntrackError, EniTable, Repaired};
use vpc_ipam_protocol::{Answer, Request};

use super::error::HostThreadError;
use super::reload::Reload;
use super::store::WriteError;

/// An input of the event loop.
pub(super) enum Input {
    Request(Request, oneshot::Sender<Answer>),
    /// Other settings.
    Reload(Box<Reload>),
    Outcome(ActionId, Outcome),
    Written(Result<(), WriteError>),
    HostSetUp(Result<(HostFacts, Vec<String>), HostThreadError>),
    /// The route table of an ENI that was set up.
    Table(EniLink, EniTable),
    Repaired(Result<Repaired, ApplyError>),
    Translated(Result<Repaired, ApplyError>),
    /// Nothing is left of a pod that is gone.
    Departed(PodKey),
    Flushed(Result<(), ConntrackError>),
    /// The metadata of this start, or why they were not read yet.
    Metadata(Result<Box<Metadata>, Ec2Error>),
    /// What is known of the node is in the state file, or why it is not.
    Remembered(Result<(), WriteError>),
}
