//! What happened, for logs, metrics and flight recorders.

use alloc::vec::Vec;
use core::fmt;
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
        /// The ENI that appeared.
        eni: EniId,
        /// On which network card.
        card: Card,
        /// Its index on the card; 255 until it has a slot.
        device: DeviceIndex,
    },
    /// The node set an ENI's link up: pods can use its addresses.
    EniReady {
        /// The ENI that pods can use from now on.
        eni: EniId,
    },
    /// An ENI was removed and deleted.
    EniRemoved {
        /// The ENI that EC2 deleted.
        eni: EniId,
    },
    /// EC2 no longer shows an ENI that we did not remove.
    EniVanished {
        /// The ENI that EC2 no longer shows on the instance.
        eni: EniId,
        /// The pods whose addresses went with it.
        pods: Vec<PodKey>,
    },
    /// EC2 confirmed further blocks of addresses.
    BlocksAdded {
        /// The ENI that has them.
        eni: EniId,
        /// The blocks, of which pods can have addresses.
        blocks: Vec<IpNet>,
    },
    /// An answer listed blocks that no pod can have: of a length that EC2 does not assign, outside the subnet, within another
    /// of its blocks, or with an ENI's own address in them. They are left out.
    BlocksRefused {
        /// The ENI that EC2 shows them on.
        eni: EniId,
        /// The blocks that no pod can use.
        blocks: Vec<IpNet>,
    },
    /// EC2 took blocks back.
    BlocksRemoved {
        /// The ENI that had them.
        eni: EniId,
        /// The blocks that it no longer has.
        blocks: Vec<IpNet>,
    },
    /// EC2 no longer shows an address that a pod holds.
    AddressLost {
        /// The pod that had it.
        key: PodKey,
        /// The address, which the pod goes on using in vain.
        address: IpAddr,
    },
    /// A source contradicts what is known of an ENI; until EC2 decides, nothing is released.
    SourcesDisagree {
        /// The ENI on which they differ.
        eni: EniId,
        /// What differs, and which source shows it so.
        cause: UnconfirmedCause,
    },
    /// An answer was put aside: it cannot be whole, as it lacks the primary ENI, or took longer than
    /// [`Timing::eventual_consistency`](crate::Timing::eventual_consistency) to arrive.
    ObservationPutAside {
        /// The source that made the observation.
        source: Source,
        /// When it was asked for.
        as_of: Timestamp,
        /// How many ENIs it showed.
        enis: usize,
    },
    /// An action failed.
    ActionFailed {
        /// The action, as it was issued.
        id: ActionId,
        /// How it failed.
        failure: Failure,
    },
    /// Something began to fail, or fails otherwise than before.
    Failing {
        /// What the failure says something about.
        scope: BackoffScope,
        /// The last failure.
        failure: Failure,
        /// Until when it is left alone.
        until: Timestamp,
    },
    /// Something that failed works again.
    Recovered {
        /// What works again.
        scope: BackoffScope,
        /// How often in a row it had failed.
        failures: u32,
    },
    /// Two stored leases name one address, as a crash can leave them. Both are kept until their pods are deleted, and the
    /// address goes to no other pod.
    LeaseConflict {
        /// The pod whose record names an address of another record.
        key: PodKey,
    },
    /// Events were dropped because they were not polled.
    Dropped {
        /// How many events the reader did not see.
        count: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EniAppeared { eni, card, device: DeviceIndex(u8::MAX) } => {
                write!(f, "{eni} appeared, for {card}")
            }
            Self::EniAppeared { eni, card, device } => {
                write!(f, "{eni} appeared at {card} {device}")
            }
            Self::EniReady { eni } => write!(f, "{eni} is ready"),
            Self::EniRemoved { eni } => write!(f, "{eni} is deleted"),
            Self::EniVanished { eni, pods } => {
                write!(f, "{eni} vanished from EC2")?;
                list(f, ", and with it the addresses of ", pods)
            }
            Self::BlocksAdded { eni, blocks } => {
                write!(f, "{eni} has ")?;
                list(f, "", blocks)
            }
            Self::BlocksRefused { eni, blocks } => {
                write!(f, "{eni} shows what no pod can use: ")?;
                list(f, "", blocks)
            }
            Self::BlocksRemoved { eni, blocks } => {
                write!(f, "{eni} no longer has ")?;
                list(f, "", blocks)
            }
            Self::AddressLost { key, address } => {
                write!(f, "EC2 no longer shows {address}, which {key} holds")
            }
            Self::SourcesDisagree { eni, cause } => write!(f, "{eni} is unconfirmed: {cause}"),
            Self::ObservationPutAside { source, as_of, enis } => {
                write!(f, "an answer of {source} of {as_of} with {enis} ENIs was put aside")
            }
            Self::ActionFailed { id, failure } => write!(f, "action {id} failed: {failure}"),
            Self::Failing { scope, failure, until } => {
                write!(f, "{scope}: {failure}; tried again at {until}")
            }
            Self::Recovered { scope, failures } => {
                write!(f, "over after {failures} in a row: {scope}")
            }
            Self::LeaseConflict { key } => {
                write!(f, "the record of {key} names an address of another record")
            }
            Self::Dropped { count } => write!(f, "{count} events were dropped"),
        }
    }
}

/// Writes a list of things, if there are any: at most eight, and how many more.
fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, before: &str, things: &[T]) -> fmt::Result {
    const SHOWN: usize = 8;
    for (index, thing) in things.iter().take(SHOWN).enumerate() {
        write!(f, "{}{thing}", if index == 0 { before } else { ", " })?;
    }
    match things.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}
