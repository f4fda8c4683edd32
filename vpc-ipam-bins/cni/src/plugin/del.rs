//! DEL: removes a pod's network and releases its addresses, with or without a daemon.

use std::path::Path;

use vpc_ipam_core::{PodKey, error_chain};
use vpc_ipam_linux::pod;
use vpc_ipam_protocol::pending_release::{self, PendingRelease};
use vpc_ipam_protocol::{self as protocol, Answer, AskError, Request};

use super::daemon::{not_asked, unexpected};
use super::{kernel, key, open_host, settings, socket};
use crate::{Call, Code, Error};

pub(super) fn del(call: &Call) -> Result<(), Error> {
    let (key, socket) = (key(call)?, socket(call));
    match del_with_daemon(call, socket, key.clone()) {
        Err(DelError::NoDaemon(error)) => del_without_daemon(call, socket, key, error),
        other => other.map_err(Error::from),
    }
}

/// How often a daemon is asked again that ended before it answered.
const TRIES: usize = 3;

/// Why a pod could not be deleted.
pub(super) enum DelError {
    /// No daemon listens at the socket, or it ended before it answered.
    NoDaemon(AskError),
    Other(Error),
}

impl From<Error> for DelError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<DelError> for Error {
    fn from(error: DelError) -> Self {
        match error {
            DelError::NoDaemon(error) => not_asked(error),
            DelError::Other(error) => error,
        }
    }
}

/// Removes the pod's network first, and releases its addresses then: interrupted in between, a repeated DEL finds everything it
/// needs.
pub(super) fn del_with_daemon(call: &Call, socket: &Path, key: PodKey) -> Result<(), DelError> {
    let (lease, settings) = match ask(socket, &Request::Leave(key.clone()))? {
        Answer::Lease { lease, links, .. } => (lease, settings(call, links)?),
        // It may be waiting for an address, which it no longer should; or the daemon lost its state.
        Answer::Unknown => {
            remove_found(&key)?;
            return release(socket, key);
        }
        Answer::Refused(refusal) => return Err(Error::from(refusal).into()),
        other => return Err(unexpected(&other).into()),
    };
    if lease.addresses_only {
        return release(socket, key);
    }
    let network = pod::desired(&lease, &settings)
        .map_err(|error| kernel("lay out the pod's network", &error))?;
    let mut host = open_host()?;
    pod::remove(&mut host, &network)
        .map_err(|error| kernel("remove the pod's routes and rules", &error))?;
    pod::remove_links(&mut host, &network)
        .map_err(|error| kernel("remove the pod's links", &error))?;
    release(socket, key)
}

pub(super) fn release(socket: &Path, key: PodKey) -> Result<(), DelError> {
    match ask(socket, &Request::Release(key))? {
        Answer::Lease { .. } | Answer::Unknown => Ok(()),
        Answer::Refused(refusal) => Err(Error::from(refusal).into()),
        other => Err(unexpected(&other).into()),
    }
}

fn ask(socket: &Path, request: &Request) -> Result<Answer, DelError> {
    protocol::ask(socket, request).map_err(|error| match error {
        AskError::NoDaemon { .. } | AskError::Closed { .. } => DelError::NoDaemon(error),
        error => DelError::Other(not_asked(error)),
    })
}

/// Takes away of the pod what its links tell, and leaves the daemon a pending release of its addresses: a pod that could not
/// be deleted before the daemon is back would stand in the way of the node's repair.
fn del_without_daemon(
    call: &Call,
    socket: &Path,
    key: PodKey,
    no_daemon: AskError,
) -> Result<(), Error> {
    remove_found(&key)?;
    pending_release::leave(socket, &PendingRelease { key: key.clone() }).map_err(|error| {
        let mut refused = not_asked(no_daemon);
        refused.details.push_str(&format!(
            "; and leaving it a pending release failed: {}",
            error_chain(&error)
        ));
        refused
    })?;
    // It may have read the pending releases just before this one was left. It listens before it reads.
    let mut tries = 1;
    loop {
        match del_with_daemon(call, socket, key.clone()) {
            Err(DelError::NoDaemon(AskError::NoDaemon { .. })) => return Ok(()),
            // There was one, which may have read them before.
            Err(DelError::NoDaemon(_)) if tries < TRIES => tries += 1,
            other => {
                other?;
                let withdrawn = pending_release::withdraw(socket, &key);
                return withdrawn.map_err(|error| {
                    Error::new(Code::Io, "withdraw the pending release").because(error)
                });
            }
        }
    }
}

/// Removes what the pod's links tell to be its own, and the links.
fn remove_found(key: &PodKey) -> Result<(), Error> {
    let removed = pod::remove_found(&mut open_host()?, key);
    removed.map(drop).map_err(|error| kernel("remove the pod's links, routes and rules", &error))
}
