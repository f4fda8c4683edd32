//! What bears on a plan besides the pool, the configuration and the limits.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::backoff::Backoff;
use crate::budget::Spent;
use crate::{
    ActionId, Budget, EniConfig, Node, ObservedSubnet, RecentFailure, SecurityGroupId, SubnetId,
    SubnetRanges, Timestamp,
};

/// What bears on a plan besides the pool, the configuration and the limits: the node's state, what failed lately, what
/// was asked when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraints {
    /// The node.
    pub node: Node,
    /// Whether pods may be scheduled on the node; a cordoned node neither grows nor frees ENIs, unless configured to.
    pub schedulable: bool,
    /// Whether the node is going away: nothing is acquired any more.
    pub terminating: bool,
    /// How many pods wait for an address, on any network card, besides those that wait for the one they have.
    pub waiting: u32,
    /// How many of them want an address on every network card.
    pub waiting_every_card: u32,
    /// Where new ENIs go under custom networking; `None` until it is known.
    pub eni_config: Option<EniConfig>,
    /// The rates at which EC2 may be called.
    pub budget: Budget,
    /// The subnets of the VPC and zone, as last seen.
    pub(crate) subnets: Subnets,
    /// The primary ENI's security groups, as last seen.
    pub(crate) security_groups: Vec<SecurityGroupId>,
    pub(crate) spent: Spent,
    pub(crate) backoff: Backoff,
    /// When addresses were last given back.
    pub(crate) shrunk_at: Option<Timestamp>,
    pub(crate) reads: Reads,
    /// Counts the ENIs asked for, so that each has a client token of its own.
    pub(crate) tokens: u64,
    pub(crate) seed: u64,
}

/// The subnets of the VPC and zone, as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subnets {
    pub(crate) list: Vec<ObservedSubnet>,
    /// Of those of the node's ENIs, as IMDS tells them.
    pub(crate) ranges: BTreeMap<SubnetId, SubnetRanges>,
}

/// What was asked when, and what is being asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) metadata: Read,
    pub(crate) attached: Read,
    pub(crate) unattached: Read,
    pub(crate) doubtful: Read,
    pub(crate) subnets: Read,
    /// Whether IMDS showed an ENI that only EC2 can explain.
    pub(crate) ask_ec2: bool,
}

/// When one question was last answered, and whether it is being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) answered: Option<Timestamp>,
    pub(crate) call: Option<ActionId>,
}

impl Constraints {
    /// Returns the constraints of a node that starts.
    pub(crate) fn new(node: Node, budget: Budget, seed: u64) -> Self {
        Self {
            node,
            schedulable: true,
            terminating: false,
            waiting: 0,
            waiting_every_card: 0,
            eni_config: None,
            budget,
            subnets: Subnets::default(),
            security_groups: Vec::new(),
            spent: Spent::default(),
            backoff: Backoff::new(seed),
            shrunk_at: None,
            reads: Reads::default(),
            tokens: 0,
            seed,
        }
    }

    /// Returns what failed lately and is left alone for a while.
    pub fn recent_failures(&self, now: Timestamp) -> impl Iterator<Item = RecentFailure> {
        self.backoff.recent(now)
    }

    /// Returns the ranges of a subnet as last seen.
    pub(crate) fn ranges(&self, id: SubnetId) -> Option<SubnetRanges> {
        match self.subnet(id) {
            Some(subnet) => {
                Some(SubnetRanges { ipv4: Some(subnet.ipv4_cidr), ipv6: subnet.ipv6_cidr })
            }
            None => self.subnets.ranges.get(&id).copied(),
        }
    }

    /// Returns a subnet as EC2 listed it.
    fn subnet(&self, id: SubnetId) -> Option<&ObservedSubnet> {
        self.subnets.list.iter().find(|subnet| subnet.id == id)
    }
}
