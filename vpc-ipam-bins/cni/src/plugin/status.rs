//! STATUS: tells whether the next ADD would get an address.

use core::time::Duration;

use vpc_ipam_core::Stage;
use vpc_ipam_protocol::{Answer, EniStatus, Request, Status, ask_within};

use super::daemon::{not_asked, unexpected};
use super::socket;
use crate::{Call, Code, Error};

/// How long the daemon may take to say how it stands. A runtime waits for STATUS at every look at the node, and is answered within
/// 100 ms with the start of this program.
const PATIENCE: Duration = Duration::from_millis(75);

pub(super) fn status(call: &Call) -> Result<(), Error> {
    match ask_within(socket(call), &Request::Status, PATIENCE) {
        Ok(Answer::Status(status)) if status.ready => Ok(()),
        Ok(Answer::Status(status)) => Err(not_ready(&status)),
        Ok(Answer::Refused(refusal)) => {
            let refused = Error::from(refusal);
            Err(Error { code: Code::NotAvailable, ..refused })
        }
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(Error { code: Code::NotAvailable, ..not_asked(error) }),
    }
}

fn not_ready(status: &Status) -> Error {
    let broken = |eni: &&EniStatus| eni.assigned > 0 && eni.stage != Stage::Ready;
    let enis: Vec<_> = status.enis.iter().filter(broken).map(|eni| eni.id.as_str()).collect();
    let code = if enis.is_empty() { Code::NotAvailable } else { Code::LimitedConnectivity };
    let mut error = Error::new(code, "vpc-ipamd has no address for the next pod");
    let mut causes = Vec::new();
    if !enis.is_empty() {
        causes.push(format!(
            "pods have addresses of {}, which this node has not set up",
            enis.join(", ")
        ));
    }
    causes.extend(status.blocked.iter().chain(&status.problems).cloned());
    if causes.is_empty() {
        causes.push("see vpc-ipam status".to_string());
    }
    error.details = causes.join("; ");
    error
}
