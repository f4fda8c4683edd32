//! What happened, for logs, metrics and flight recorders.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::{
    ActionId, BackoffScope, Card, DeviceIndex, EniId, Failure, PodKey, Source, Timestamp,
    UnconfirmedCause,
};

/// Something that happened inside the core. Nothing depends on their being read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// An ENI became known: made by us, attached by another program, or there from before a restart.
    EniAppeared {
        /// Which.
        eni: EniId,
        /// On which network card.
        card: Card,
        /// At which index.
        device: DeviceIndex,
    },
    /// The node set an ENI's link up: pods can use its addresses.
    EniReady {
        /// Which.
        eni: EniId,
    },
    /// An ENI was removed and deleted.
    EniRemoved {
        /// Which.
        eni: EniId,
    },
    /// EC2 no longer shows an ENI that we did not remove.
    EniVanished {
        /// Which.
        eni: EniId,
        /// The pods whose addresses went with it.
        pods: Vec<PodKey>,
    },
    /// EC2 confirmed further blocks of addresses.
    BlocksAdded {
        /// On which ENI.
        eni: EniId,
        /// Which.
        blocks: Vec<IpNet>,
    },
    /// An answer listed blocks that no pod can have: of a length that EC2 does not assign, outside the subnet, within another
    /// of its blocks, or with an ENI's own address in them. They are left out.
    BlocksRefused {
        /// On which ENI.
        eni: EniId,
        /// Which.
        blocks: Vec<IpNet>,
    },
    /// EC2 took blocks back.
    BlocksRemoved {
        /// From which ENI.
        eni: EniId,
        /// Which.
        blocks: Vec<IpNet>,
    },
    /// EC2 no longer shows an address that a pod holds.
    AddressLost {
        /// Whose.
        key: PodKey,
        /// Which.
        address: IpAddr,
    },
    /// A source contradicts what is known of an ENI; until EC2 decides, nothing is released.
    SourcesDisagree {
        /// Which.
        eni: EniId,
        /// How.
        cause: UnconfirmedCause,
    },
    /// An answer was put aside: it cannot be whole, as it lacks the primary ENI, or took longer than
    /// [`Timing::eventual_consistency`](crate::Timing::eventual_consistency) to arrive.
    ObservationPutAside {
        /// Whose.
        source: Source,
        /// When it was asked for.
        as_of: Timestamp,
        /// How many ENIs it showed.
        enis: usize,
    },
    /// An action failed.
    ActionFailed {
        /// Which.
        id: ActionId,
        /// Why.
        failure: Failure,
    },
    /// Something began to fail, or fails otherwise than before.
    Failing {
        /// What.
        scope: BackoffScope,
        /// How.
        failure: Failure,
        /// Until when it is left alone.
        until: Timestamp,
    },
    /// Something that failed works again.
    Recovered {
        /// What.
        scope: BackoffScope,
        /// How often in a row it had failed.
        failures: u32,
    },
    /// Two stored leases name one address, as a crash can leave them. Both are kept until their pods are deleted, and the
    /// address goes to no other pod.
    LeaseConflict {
        /// Whose.
        key: PodKey,
    },
    /// Events were dropped because they were not polled.
    Dropped {
        /// How many.
        count: u64,
    },
}
