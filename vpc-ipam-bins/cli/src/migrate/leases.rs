//! What pods have by the records of vpc-ipamd.

use core::time::Duration;

use vpc_ipam_core::{Lease, error_chain};
use vpc_ipam_protocol::{Answer, AskError, Request, ask};
use vpc_ipamd::store::{self, OpenError};

use super::step::{StepError, wait_until};
use super::{Paths, now};

/// How long a daemon may take to end, and its state file may stay locked afterwards: a program that it was starting had it open, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns what pods have: of the daemon, or of its state file where none runs.
pub(crate) fn leases(paths: &Paths) -> Result<Vec<Lease>, StepError> {
    // One that ends while it is asked closes the connection, and its state file tells then.
    let asked = || match ask(&paths.socket, &Request::Leases { network: None }) {
        Err(error @ (AskError::Closed { .. } | AskError::Exchange { .. })) => {
            Err(error_chain(&error))
        }
        other => Ok(other),
    };
    match wait_until(PATIENCE, asked).map_err(StepError::Failed)? {
        Ok(Answer::Leases(leases)) => Ok(leases),
        Ok(_) => Err(StepError::Failed(
            "the answer of vpc-ipamd does not fit the question: is it of the same version as vpc-ipam?".to_owned(),
        )),
        Err(AskError::NoDaemon { .. }) => Ok(stored(paths)?.unwrap_or_default()),
        Err(error) => Err(StepError::Failed(error_chain(&error))),
    }
}

/// Returns what pods have by the state file; `None` if there is none of this boot.
fn stored(paths: &Paths) -> Result<Option<Vec<Lease>>, StepError> {
    let boot = store::boot_id()?;
    let read = || match store::leases(&paths.state, &boot, now()) {
        Err(error @ OpenError::InUse { .. }) => Err(error_chain(&error)),
        other => Ok(other),
    };
    let read = wait_until(PATIENCE, read).map_err(StepError::Failed)?;
    read.map_err(|error| StepError::failed("read what pods have", &error))
}
