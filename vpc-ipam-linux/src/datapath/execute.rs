//! The executor of the core's host actions.

use vpc_ipam_core::{Effect, Failure, FailureKind, HostAction, Outcome, error_chain};

use crate::{EniError, Netlink, eni};

/// Carries out what the core asks of the node.
pub fn execute(netlink: &mut dyn Netlink, action: &HostAction) -> Outcome {
    let result = match action {
        HostAction::SetUpEni(link) => eni::set_up(netlink, link),
        HostAction::RemoveEni(link) => eni::remove(netlink, link),
    };
    match result {
        Ok(_) => Outcome::Done(Effect::Done),
        Err(error) => Outcome::Failed(Failure::from(&error)),
    }
}

impl From<&EniError> for Failure {
    fn from(error: &EniError) -> Self {
        let kind = match error {
            EniError::Link(_) => FailureKind::LinkMissing,
            EniError::Netlink(_) | EniError::Apply { .. } => FailureKind::Kernel,
        };
        Self::new(kind, error_chain(error))
    }
}
