//! GC: deletes the pods of a network that its runtime does not list.

use std::path::Path;

use vpc_ipam_core::Lease;
use vpc_ipam_protocol::{Answer, Request};

use super::daemon::{ask, not_asked, unexpected};
use super::del::{DelError, del_with_daemon};
use super::{ipam, socket};
use crate::{Attachment, Call, Code, Error};

/// Deletes each pod of this network that has addresses and is not listed. One that cannot be deleted does not keep the others.
pub(super) fn gc(call: &Call) -> Result<(), Error> {
    let socket = socket(call);
    let network = Some(call.config.name.clone());
    let leases = match ask(socket, &Request::Leases { network })? {
        Answer::Leases(leases) => leases,
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    let mut failures = Vec::new();
    for lease in leases {
        let key = &lease.key;
        let attachment =
            Attachment { container: key.container().to_string(), ifname: key.ifname().to_string() };
        if call.config.valid_attachments.contains(&attachment) {
            continue;
        }
        match delete(call, socket, &lease) {
            Ok(()) => {}
            // Without a daemon nothing more can be released.
            Err(DelError::NoDaemon(error)) => return Err(not_asked(error)),
            Err(DelError::Other(error)) => failures.push((lease.key, error)),
        }
    }
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let code = if failures.iter().all(|(_, it)| it.code == first.code) {
        first.code
    } else {
        Code::TryAgainLater
    };
    let what = format!("delete {} of the pods that the runtime does not list", failures.len());
    let mut error = Error::new(code, what);
    error.details = failures
        .iter()
        .map(|(key, error)| format!("{key}: {error}"))
        .collect::<Vec<_>>()
        .join("; ");
    Err(error)
}

/// As a DEL of the pod does.
fn delete(call: &Call, socket: &Path, lease: &Lease) -> Result<(), DelError> {
    if lease.addresses_only {
        let addresses: Vec<_> = lease.addresses().collect();
        ipam::remove_routes(call, &addresses)?;
    }
    del_with_daemon(call, socket, lease.key.clone())
}
