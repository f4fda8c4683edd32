//! Why a pod could not be added.

use core::net::IpAddr;

use crate::state::apply::ApplyError;
use crate::{KernelChange, LinkMissingError, NetlinkError, Refusal, Refused, Table};

/// A failure to give a pod its network. Nothing of it is left but what `left_behind` says, and what was there before.
#[derive(Debug, thiserror::Error)]
#[error("set up the network of the pod{}", left_in_words(left_behind))]
pub struct AddError {
    /// The step that failed.
    #[source]
    pub cause: AddFailure,
    /// What could not be undone.
    pub left_behind: Vec<ApplyError>,
    /// Whether the pod has its network from an earlier ADD. It keeps it, and its address must not become another's.
    pub running: bool,
}

/// Why a pod could not be given its network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddFailure {
    /// The pod's namespace has a link of that name, and it is not this pod's.
    #[error(
        "the pod's namespace already has a link {ifname}: did another plugin make it, or an ADD without a DEL?"
    )]
    InterfaceExists {
        /// The name that the runtime asked for.
        ifname: String,
    },
    /// The host's link of that name is another pod's.
    #[error(
        "the host's link {link} would be that of pod {pod}, and is that of pod {other}: the name has room for 44 bits of the SHA-1 \
         of a pod's names, which are the same; one of the two has to go or to be named otherwise"
    )]
    LinkOfAnotherPod {
        /// The name of the link.
        link: String,
        /// The pod that was to be added.
        pod: String,
        /// The pod that has it.
        other: String,
    },
    /// The host's link of that name is that of a pod which is not known by name.
    #[error(
        "the host's link {link} would be that of pod {pod}, and leads to {address} of a pod that was there before and is not known \
         by name: an earlier one of the same name, which the runtime will remove, or one whose names have the same 44 bits of SHA-1"
    )]
    LinkOfUnknownPod {
        /// The name of the link.
        link: String,
        /// The pod that was to be added.
        pod: String,
        /// The address of the pod that has it.
        address: IpAddr,
    },
    /// The host has a link of that name that joins no pod.
    #[error("the host has a link {link} that is no veth: another program made it")]
    LinkOfHost {
        /// The name of the link.
        link: String,
    },
    /// The host's end of that name leads into this very namespace, to another link than the one asked for.
    #[error("the host's link {host} is that of another interface of the same pod")]
    HostEndInUse {
        /// The name of the host's end.
        host: String,
    },
    /// An end of the link that another program made for the pod is gone, and only the runtime can have a pod made anew.
    #[error(
        "the pod was imported with the link {link}, which is gone: delete the pod, so that its controller makes another"
    )]
    FoundLinkGone {
        /// The name of the end.
        link: String,
    },
    /// The trunk ENI of the pod's branch ENI has no link.
    #[error("find the trunk ENI of the pod's branch ENI")]
    Trunk(#[source] LinkMissingError),
    /// Another program uses the route table of the pod's branch ENI.
    #[error("route table {table} of the pod's branch ENI is in use by another program: {by}")]
    TableInUse {
        /// The route table that was to be used.
        table: Table,
        /// A route in it, or a rule that leads there.
        by: String,
    },
    /// The pod has a default route of another network, and one beside it could not be made.
    #[error(
        "the pod has the default route of another network, {other}, and the kernel lets none be made beside it by source: {refused}"
    )]
    OtherDefault {
        /// The default route of the other network.
        other: String,
        /// What the kernel refused.
        refused: ApplyError,
    },
    /// The kernel refused, or could not be talked to.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl From<NetlinkError> for AddFailure {
    fn from(error: NetlinkError) -> Self {
        Self::Apply(error.into())
    }
}

impl AddFailure {
    pub(super) fn refused(change: &KernelChange, refusal: Refusal) -> Self {
        Self::Apply(ApplyError::Refused { refused: vec![Refused::new(change, refusal)] })
    }
}

fn left_in_words(left_behind: &[ApplyError]) -> String {
    if left_behind.is_empty() {
        return String::new();
    }
    let words: Vec<_> = left_behind.iter().map(ApplyError::to_string).collect();
    format!(" (and to undo it: {})", words.join("; "))
}
