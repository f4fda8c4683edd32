use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpc_ipam_core::{EniId, Limits, Metadata, Timestamp};
use vpc_ipam_linux::{AdoptedLink, LinkIndex};

/// What a daemon knows of its node in this boot, for a start at which the instance metadata service or EC2 does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The metadata, with the primary ENI alone: what the secondary ENIs hold may have changed since.
    pub metadata: Metadata,
    /// What EC2 said of the limits of instance types.
    #[serde(default)]
    pub limits: Vec<Limits>,
    /// The route tables of ENIs for which they do not follow from the place.
    #[serde(default)]
    pub tables: BTreeMap<EniId, u32>,
    /// What is kept of pods that are in no state file, by the index of their links.
    #[serde(default)]
    pub adopted: BTreeMap<LinkIndex, AdoptedLink>,
    /// Whether all that amazon-vpc-cni-k8s left on the node was found and removed.
    #[serde(default)]
    pub took_over: bool,
    /// The last time that the node was taken over from a daemon of which it is not known which addresses it released before.
    #[serde(default)]
    pub taken_over: Option<TakenOver>,
}

/// A take-over of the node from another daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// When it was.
    pub at: Timestamp,
    /// What the ENIs had then, as far as it was seen: of these the addresses without a pod cool down since.
    pub blocks: BTreeSet<IpNet>,
}

impl Known {
    /// Keeps what metadata say that holds for the rest of the boot.
    pub fn new(mut metadata: Metadata) -> Self {
        let primary = metadata.node.primary;
        metadata.observation.enis.retain(|eni| eni.id == primary);
        Self {
            metadata,
            limits: Vec::new(),
            tables: BTreeMap::new(),
            adopted: BTreeMap::new(),
            took_over: false,
            taken_over: None,
        }
    }

    /// Returns whether another says the same, apart from the times of reading.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.metadata.observation.as_of = self.metadata.observation.as_of;
        *self == other
    }
}
