//! CHECK: compares a pod's network with what ADD made.

use vpc_ipam_linux::pod;
use vpc_ipam_protocol::{Answer, Request};

use super::daemon::{ask, unexpected};
use super::{Sockets, kernel, key, sandbox, settings, socket};
use crate::{Call, Code, Error};

/// Compares the pod's network with what ADD made, on the host and in the pod.
pub(super) fn check(call: &Call) -> Result<(), Error> {
    let (netns, _) = sandbox(call)?;
    let key = key(call)?;
    let (lease, settings) = match ask(socket(call), &Request::Find(key.clone()))? {
        Answer::Lease { lease, links, .. } => (lease, settings(call, links)?),
        Answer::Unknown => {
            let what = format!("check the network of {key}");
            let mut error = Error::new(Code::UnknownContainer, what);
            error.details = "vpc-ipamd knows no such pod".to_string();
            return Err(error);
        }
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    let network = pod::desired(&lease, &settings)
        .map_err(|error| kernel("lay out the pod's network", &error))?;
    let mut sockets = Sockets::open(&netns)?;
    let differences = pod::check(&mut sockets.host, &mut sockets.pod, &network)
        .map_err(|error| kernel("read the pod's network", &error))?;
    let mut wrong: Vec<_> = differences.iter().map(ToString::to_string).collect();
    if let Some(told) = &call.config.prev_result {
        let told = crate::addresses(told);
        let lost = lease.addresses().filter(|address| !told.contains(address));
        wrong.extend(lost.map(|address| format!("prevResult does not have {address}")));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(Code::Kernel, "the pod's network is not as it should be");
    error.details = wrong.join("; ");
    Err(error)
}
