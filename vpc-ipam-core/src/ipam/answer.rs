//! What [`Ipam`](crate::Ipam) answers and hands out.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::{
    Action, ActionId, Because, Blocked, Lease, PodKey, Stock, Timestamp, Uncommitted, WaitingOn,
};

/// The most pods that may wait at once: more than any node runs.
pub(super) const WAITING_MAX: usize = 1024;

/// An action to carry out, and why.
///
/// Hand each back once, with [`Ipam::handle_outcome`](crate::Ipam::handle_outcome), also if it failed or that is not known. One that is not answered within
/// [`Timing::answer_max`](crate::Timing::answer_max) counts as unanswered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "an action has to be carried out and its outcome handed back"]
#[non_exhaustive]
pub struct Issued {
    /// Names it; hand it back with the outcome.
    pub id: ActionId,
    /// The action, with no choice left.
    pub action: Action,
    /// The rule that it follows from.
    pub because: Because,
}

/// What an ADD gets.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Assigned {
    /// An address, to be made durable first.
    Now(Uncommitted),
    /// An address is on its way; [`Ipam::poll_grant`](crate::Ipam::poll_grant) answers by `deadline`.
    Later {
        /// The answer comes before.
        deadline: Timestamp,
    },
}

/// The answer to an ADD that had to wait.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pod waits for it"]
#[non_exhaustive]
pub struct Grant {
    /// The pod that asked.
    pub key: PodKey,
    /// The address, to be made durable first, or why there is none.
    pub result: Result<Uncommitted, AssignError>,
}

/// A [`Grant`] before it is polled; clonable, since it cannot be committed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Granted {
    pub(super) key: PodKey,
    pub(super) result: Result<Lease, AssignError>,
}

/// What became of a DEL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// The pod held a lease. Write [`Record::released`](crate::Record::released) to stable storage before DEL is answered.
    Lease {
        /// The lease that ended.
        lease: Lease,
        /// Since when its addresses cool.
        at: Timestamp,
    },
    /// The pod was waiting for an address and no longer is.
    WasWaiting,
    /// The pod is not known: it never was, or was released before. DEL succeeds all the same.
    Unknown,
}

/// Why [`Ipam::poll_timeout`](crate::Ipam::poll_timeout) names a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Wake {
    /// Something changed: planning is due at once.
    Changed,
    /// Something that was blocked may go.
    Due(WaitingOn),
    /// A pod has waited long enough, and gets an answer either way.
    Deadline,
    /// An address that waiting pods could use has cooled down.
    Cooled,
    /// An action was not answered in time.
    Unanswered,
}

/// A configuration that an instance type cannot follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableConfigError {
    /// The instance type takes no prefixes, of which pods get their IPv6 addresses.
    #[error(
        "{instance_type} takes no prefixes, which IPv6 needs: use a Nitro instance type or ENABLE_IPv6=false"
    )]
    Ipv6WithoutPrefixes {
        /// The type of the instance.
        instance_type: crate::InstanceType,
    },
    /// Custom networking chooses subnets for IPv4 alone.
    #[error(
        "custom networking does not go together with IPv6: set AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG or ENABLE_IPv6 to false"
    )]
    Ipv6WithCustomNetworking,
}

/// Why an ADD gets no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum AssignError {
    /// No address can be had in the time that an ADD may wait.
    #[error("no address to be had: {}", Causes { stock, causes })]
    NoAddress {
        /// What the node holds of IPv4 for pods, on the cards that the pod could use; `None` where nothing is known yet, or
        /// where pods get IPv6 alone.
        stock: Option<Stock>,
        /// What stands in the way of more.
        causes: Vec<Blocked>,
        /// When trying again may help; `None` if only the operator, or a pod that ends, can help.
        retry_at: Option<Timestamp>,
    },
    /// The pod has an address already, from before a restart, and EC2 has not confirmed it, or its ENI is not set up.
    #[error("{address}, which is the pod's already, cannot be used: {}", Causes { stock: &None, causes })]
    NotUsable {
        /// The first of its addresses.
        address: IpAddr,
        /// What stands in the way.
        causes: Vec<Blocked>,
    },
    /// The pod wants an interface on each network card, and only one card is in use.
    #[error(
        "the pod wants an interface on each network card: set ENABLE_MULTI_NIC to true, or take its annotation off"
    )]
    OneCard,
    /// Too many pods wait already.
    #[error("{WAITING_MAX} pods wait for an address already")]
    TooManyWaiting,
}

impl AssignError {
    /// Returns when trying again may help; `None` if only the operator, or a pod that ends, can help.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Self::NoAddress { retry_at, .. } => *retry_at,
            Self::NotUsable { causes, .. } => {
                causes.iter().filter_map(|blocked| blocked.waiting_on.until()).min()
            }
            Self::OneCard | Self::TooManyWaiting => None,
        }
    }
}

struct Causes<'a> {
    stock: &'a Option<Stock>,
    causes: &'a [Blocked],
}

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(stock) = self.stock {
            write!(f, "{stock}")?;
            separator = "; ";
        }
        for blocked in self.causes {
            write!(f, "{separator}{blocked}")?;
            separator = "; ";
        }
        if separator.is_empty() { f.write_str("its ENI was not seen") } else { Ok(()) }
    }
}
