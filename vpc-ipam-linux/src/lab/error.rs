//! Why a lab cannot be built, or cannot follow its cloud.

use vpc_ipam_core::{EniId, SubnetId};

use super::node::LabNodeError;
use super::source_check::SourceCheckError;
use crate::ApplyError;

/// Why a lab could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildFailure {
    /// A namespace could not be made. If it exists already, so does a lab of that name.
    #[error(transparent)]
    LabNode(#[from] LabNodeError),
    /// A subnet of the layout has an IPv6 range.
    #[error("the kernel has no IPv6 (is it booted with ipv6.disable=1?)")]
    NoIpv6,
    /// The router could not be set up.
    #[error("set up the router")]
    Router(#[source] ApplyError),
    /// The source/destination checks could not be set up.
    #[error(transparent)]
    SourceCheck(#[from] SourceCheckError),
}

/// A failure to follow a change of the cloud. The same change may be applied again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The ENI is in a subnet that the lab does not have.
    #[error("plug in {eni}: the lab has no subnet {subnet}")]
    NoSubnet {
        /// The ENI.
        eni: EniId,
        /// The subnet that the ENI is in.
        subnet: SubnetId,
    },
    /// The cable of the ENI, or what is delivered to it, could not be changed.
    #[error("change the network of {eni}")]
    Network {
        /// The ENI.
        eni: EniId,
        /// What could not be read or changed.
        source: ApplyError,
    },
    /// The source/destination check of the ENI could not be changed.
    #[error("change the source/destination check of {eni}")]
    SourceCheck {
        /// The ENI.
        eni: EniId,
        /// The rule set that could not be changed.
        source: SourceCheckError,
    },
}
