//! When EC2 and IMDS were asked, and what they answered last.

use alloc::collections::BTreeSet;

use crate::{ActionId, EniId, Timestamp};

/// What was asked when, and what is being asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Reads {
    pub(crate) metadata: Read,
    pub(crate) attached: Read,
    pub(crate) unattached: Read,
    pub(crate) unconfirmed: Read,
    pub(crate) subnets: Read,
    /// Whether something happened that only EC2 can explain.
    pub(crate) ask_ec2: bool,
    /// ENIs that IMDS showed since EC2 was asked last, and that are not known.
    pub(crate) hints: BTreeSet<EniId>,
}

/// When one question was last answered, and whether it is being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Read {
    pub(crate) answered: Option<Timestamp>,
    pub(crate) call: Option<ActionId>,
}
