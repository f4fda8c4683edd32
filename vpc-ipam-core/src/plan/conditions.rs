//! What the node's scheduler and its pods ask for.

use alloc::collections::BTreeMap;

use crate::{EniConfig, EniId};

/// What the node's scheduler and its pods ask for, as [`Ipam`](crate::Ipam) was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Conditions {
    /// Whether pods may be scheduled on the node; a cordoned node neither grows nor frees ENIs, unless configured to.
    pub schedulable: bool,
    /// Whether the node is going away: nothing is acquired any more.
    pub terminating: bool,
    /// Where new ENIs go under custom networking; `None` until it is known.
    pub eni_config: Option<EniConfig>,
    /// How many pods wait for an address, on any network card, besides those that wait for the one they have.
    pub waiting: u32,
    /// How many of them want an address on every network card.
    pub waiting_every_card: u32,
    /// How many of them want an address of one ENI, by that ENI.
    pub waiting_on_eni: BTreeMap<EniId, u32>,
}

impl Default for Conditions {
    /// Those of a node that starts: pods may be scheduled, and none waits.
    fn default() -> Self {
        Self {
            schedulable: true,
            terminating: false,
            eni_config: None,
            waiting: 0,
            waiting_every_card: 0,
            waiting_on_eni: BTreeMap::new(),
        }
    }
}
