//! What surrounds the node in its VPC, as sources last showed it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{ObservedSubnet, SecurityGroupId, SubnetId, SubnetRanges};

/// What surrounds the node in its VPC, as sources last showed it. ENIs are in the [`Pool`](crate::Pool).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Surroundings {
    pub(crate) subnets: Subnets,
    /// The primary ENI's security groups, sorted.
    pub(crate) security_groups: Vec<SecurityGroupId>,
}

/// The subnets of the VPC and zone, as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Subnets {
    pub(crate) list: Vec<ObservedSubnet>,
    /// Of those of the node's ENIs, as IMDS tells them.
    pub(crate) ranges: BTreeMap<SubnetId, SubnetRanges>,
    /// How many free addresses a subnet showed when it refused a single prefix, or fewer since: that many hold none.
    pub(crate) fragmented: BTreeMap<SubnetId, u32>,
}

impl Subnets {
    /// Takes in a list that EC2 answered with.
    pub(crate) fn on_listed(&mut self, list: Vec<ObservedSubnet>) {
        // An empty answer cannot be whole: the node itself is in a subnet.
        if !list.is_empty() {
            self.list = list;
        }
        let list = &self.list;
        self.fragmented.retain(|id, free| {
            let listed = list.iter().find(|it| it.id == *id).map(|it| it.ipv4_addresses_free);
            let more = listed.is_none_or(|listed| listed > *free);
            *free = listed.unwrap_or(0).min(*free);
            !more
        });
    }

    /// Takes in that a subnet has no prefix free.
    pub(crate) fn on_no_prefix(&mut self, id: SubnetId) {
        if let Some(subnet) = self.list.iter().find(|it| it.id == id) {
            self.fragmented.insert(id, subnet.ipv4_addresses_free);
        }
    }

    /// Returns the ranges of a subnet as last seen.
    pub(crate) fn ranges_of(&self, id: SubnetId) -> Option<SubnetRanges> {
        match self.get(id) {
            Some(subnet) => {
                Some(SubnetRanges { ipv4: Some(subnet.ipv4_cidr), ipv6: subnet.ipv6_cidr })
            }
            None => self.ranges.get(&id).copied(),
        }
    }

    /// Returns a subnet as EC2 listed it.
    pub(crate) fn get(&self, id: SubnetId) -> Option<&ObservedSubnet> {
        self.list.iter().find(|subnet| subnet.id == id)
    }
}
