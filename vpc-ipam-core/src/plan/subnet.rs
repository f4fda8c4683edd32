//! Where a new ENI goes.

use alloc::vec::Vec;
use core::cmp::Reverse;

use super::Planner;
use crate::model::action::PREFIX_SIZE;
use crate::model::tags::{SUBNET_CLUSTER_PREFIX, SUBNET_ROLE};
use crate::plan::learned::AskedOf;
use crate::pool::{Ec2Call, Ec2CallKind};
use crate::{BackoffScope, Ipv4Amount, Ipv4Kind, ObservedSubnet, SubnetId, WaitingOn};

impl Planner<'_> {
    /// Returns the subnets in which an ENI may be made, the one with most free addresses first; of equals, the primary
    /// ENI's, then the lowest id. Subnets that ran out of addresses lately are among them.
    pub(super) fn subnets_for_enis(&self) -> Vec<SubnetId> {
        let primary = self.node.subnet;
        if self.config.custom_networking {
            return self.conditions.eni_config.iter().map(|config| config.subnet).collect();
        }
        let cluster = self.config.cluster.as_deref();
        let subnets = &self.surroundings.subnets.list;
        let primary_excluded =
            subnets.iter().any(|subnet| subnet.id == primary && is_excluded(subnet, cluster));
        if !self.config.subnet_discovery || subnets.is_empty() {
            return if primary_excluded { Vec::new() } else { alloc::vec![primary] };
        }
        let mut usable: Vec<&ObservedSubnet> = subnets
            .iter()
            .filter(|subnet| is_usable(subnet, subnet.id == primary, cluster))
            .collect();
        usable.sort_by_key(|subnet| {
            (Reverse(subnet.ipv4_addresses_free), subnet.id != primary, subnet.id)
        });
        usable.into_iter().map(|subnet| subnet.id).collect()
    }

    /// Returns the subnet for the next ENI, and how many blocks it may be asked for at most; or what that has to wait for.
    pub(super) fn subnet_for_eni(&self, kind: Ipv4Kind) -> Result<(SubnetId, u16), WaitingOn> {
        if self.config.custom_networking && self.conditions.eni_config.is_none() {
            return Err(WaitingOn::NoEniConfig);
        }
        let mut first_wait: Option<WaitingOn> = None;
        let mut subnets = self.subnets_for_enis();
        // One that refused as much comes after those that did not.
        subnets.sort_by_key(|subnet| {
            self.learned.ask_most(asked_of(*subnet, kind), self.now).is_some()
        });
        for subnet in subnets {
            let wait = match self.creation_backoff(subnet, kind) {
                Some(wait) => wait,
                None => match self.space_for(subnet, kind, 1) {
                    Ok(most) => return Ok((subnet, most)),
                    Err(wait) => wait,
                },
            };
            let sooner = first_wait.as_ref().is_none_or(|first| wait.until() < first.until());
            if sooner {
                first_wait = Some(wait);
            }
        }
        Err(first_wait.unwrap_or(WaitingOn::NoSubnet))
    }

    /// Returns the subnet for an ENI that takes an IPv6 prefix and no IPv4 address but its own, or what that has to wait for.
    pub(super) fn subnet_for_ipv6(&self) -> Result<SubnetId, WaitingOn> {
        let candidates = self.subnets_for_enis();
        let open =
            candidates.iter().find(|it| self.creation_backoff(**it, Ipv4Kind::Addresses).is_none());
        open.copied().ok_or_else(|| {
            let waits = candidates.iter();
            let waits = waits.filter_map(|it| self.creation_backoff(*it, Ipv4Kind::Addresses));
            waits.min_by_key(WaitingOn::until).unwrap_or(WaitingOn::NoSubnet)
        })
    }

    /// Returns until when no ENI is made in a subnet because something failed, if so.
    fn creation_backoff(&self, subnet: SubnetId, kind: Ipv4Kind) -> Option<WaitingOn> {
        let scopes = [
            Some(BackoffScope::Creation(subnet)),
            Some(BackoffScope::Subnet(subnet)),
            (kind == Ipv4Kind::Prefixes).then_some(BackoffScope::SubnetPrefixes(subnet)),
            self.eligibility.ipv6.then_some(BackoffScope::SubnetIpv6(subnet)),
        ];
        let backoff = &self.calls.backoff;
        let waits = scopes.into_iter().flatten().filter_map(|scope| backoff.wait(scope, self.now));
        waits.max_by_key(WaitingOn::until)
    }

    /// Returns until when a subnet is not asked for a prefix besides `own` single addresses, if so: single addresses stand in
    /// for it.
    pub(super) fn prefixes_wait(&self, subnet: SubnetId, own: u32) -> Option<WaitingOn> {
        let scope = BackoffScope::SubnetPrefixes(subnet);
        let wait = self.calls.backoff.wait(scope, self.now);
        wait.or_else(|| self.space_for(subnet, Ipv4Kind::Prefixes, own).err())
    }

    /// Returns how many blocks a subnet may be asked for at once besides `own` single addresses, at least 1: no more than it
    /// has free as far as that is known, and fewer than it refused lately.
    pub(super) fn space_for(
        &self,
        subnet: SubnetId,
        kind: Ipv4Kind,
        own: u32,
    ) -> Result<u16, WaitingOn> {
        let size = match kind {
            Ipv4Kind::Addresses => 1,
            Ipv4Kind::Prefixes => PREFIX_SIZE,
        };
        let most = self.learned.ask_most(asked_of(subnet, kind), self.now);
        let most = most.unwrap_or(u16::MAX);
        let Some(free) = self.free_in(subnet) else {
            return Ok(most);
        };
        let blocks = u16::try_from(free.saturating_sub(own) / size).unwrap_or(u16::MAX);
        if blocks == 0 {
            let listed_at = self.reads.subnets.answered.unwrap_or(self.now);
            let until = listed_at + self.timing.subnets_age_max;
            return Err(WaitingOn::SubnetSpace { subnet, free, until });
        }
        Ok(most.min(blocks))
    }

    /// Returns how many addresses a subnet has free, less what was asked of it since it was listed and in this plan; `None`
    /// where subnets are not listed, or were too long ago.
    fn free_in(&self, id: SubnetId) -> Option<u32> {
        let listed_at = self.reads.subnets.answered?;
        if self.now.since(listed_at) >= self.timing.subnets_age_max {
            return None;
        }
        let listed = self.surroundings.subnets.get(id)?.ipv4_addresses_free;
        let created = self.pool.creations().values().filter(|it| it.request.subnet == id);
        let coming: u32 = created.map(|it| addresses_of(it.request.ipv4).saturating_add(1)).sum();
        let enis = self.pool.enis().iter().filter(|eni| eni.subnet == id);
        let assigned: u32 = enis
            .filter_map(|eni| match &eni.ec2_call {
                Some(Ec2Call { kind: Ec2CallKind::AssignIpv4 { blocks, prefixes }, .. }) => {
                    Some(if *prefixes { blocks * PREFIX_SIZE } else { *blocks })
                }
                _ => None,
            })
            .sum();
        let asked = self.asked.get(&id).copied().unwrap_or(0);
        let taken = coming.saturating_add(assigned).saturating_add(asked);
        Some(listed.saturating_sub(taken))
    }

    /// Notes that this plan asks a subnet for addresses.
    pub(super) fn on_asked(&mut self, subnet: SubnetId, addresses: u32) {
        let asked = self.asked.entry(subnet).or_default();
        *asked = asked.saturating_add(addresses);
    }
}

fn asked_of(subnet: SubnetId, kind: Ipv4Kind) -> AskedOf {
    match kind {
        Ipv4Kind::Addresses => AskedOf::Addresses(subnet),
        Ipv4Kind::Prefixes => AskedOf::Prefixes(subnet),
    }
}

/// Returns how many addresses an amount of blocks has.
pub(super) fn addresses_of(amount: Ipv4Amount) -> u32 {
    match amount {
        Ipv4Amount::Addresses(count) => count.into(),
        Ipv4Amount::Prefixes(count) => u32::from(count) * PREFIX_SIZE,
    }
}

/// Returns whether subnet discovery may make an ENI in a subnet.
fn is_usable(subnet: &ObservedSubnet, primary: bool, cluster: Option<&str>) -> bool {
    match subnet.tags.get(SUBNET_ROLE).map(alloc::string::String::as_str) {
        Some("0") => false,
        None | Some("") => primary,
        Some(_) => admits(subnet, cluster),
    }
}

/// Returns whether a subnet was taken out of use: pods on its ENIs stay, none is added.
pub(crate) fn is_excluded(subnet: &ObservedSubnet, cluster: Option<&str>) -> bool {
    match subnet.tags.get(SUBNET_ROLE).map(alloc::string::String::as_str) {
        Some("0") => true,
        None | Some("") => false,
        Some(_) => !admits(subnet, cluster),
    }
}

/// Returns whether a subnet is for any cluster, or for this one.
fn admits(subnet: &ObservedSubnet, cluster: Option<&str>) -> bool {
    let mut named = subnet.tags.keys().filter_map(|key| key.strip_prefix(SUBNET_CLUSTER_PREFIX));
    let Some(cluster) = cluster else { return true };
    let mut any = false;
    named.any(|name| {
        any = true;
        name == cluster
    }) || !any
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::string::ToString as _;

    fn subnet(tags: &[(&str, &str)]) -> ObservedSubnet {
        ObservedSubnet {
            id: "subnet-1".parse().unwrap(),
            vpc: "vpc-1".parse().unwrap(),
            zone: "a".parse().unwrap(),
            ipv4_cidr: "10.0.0.0/19".parse().unwrap(),
            ipv6_cidr: None,
            ipv4_addresses_free: 100,
            tags: tags
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    const ROLE: &str = SUBNET_ROLE;

    /// Vectors V199 to V213.
    #[test]
    fn tags_decide_where_an_eni_may_be_made() {
        let own = format!("{SUBNET_CLUSTER_PREFIX}mine");
        let other = format!("{SUBNET_CLUSTER_PREFIX}theirs");
        let (own, other) = (own.as_str(), other.as_str());
        let cases: [(bool, &[(&str, &str)], bool); 13] = [
            (true, &[(ROLE, "0")], false),
            (true, &[(ROLE, "1")], true),
            (true, &[(ROLE, "")], true),
            (true, &[], true),
            (false, &[], false),
            (false, &[(ROLE, "0")], false),
            (false, &[(ROLE, "1")], true),
            (false, &[(ROLE, "true")], true),
            (false, &[(ROLE, "1"), (other, "shared")], false),
            (false, &[(ROLE, "1"), (own, "shared"), (other, "shared")], true),
            (false, &[(own, "shared")], false),
            (true, &[(ROLE, "1"), (own, "x")], true),
            (true, &[(other, "shared")], true),
        ];
        for (primary, tags, expected) in cases {
            let actual = is_usable(&subnet(tags), primary, Some("mine"));
            assert_eq!(actual, expected, "primary {primary} {tags:?}");
        }
        assert!(is_usable(&subnet(&[(ROLE, "1"), (other, "shared")]), false, None));
    }

    /// Vectors V214 to V221.
    #[test]
    fn tags_decide_which_subnet_is_out_of_use() {
        let own = format!("{SUBNET_CLUSTER_PREFIX}mine");
        let other = format!("{SUBNET_CLUSTER_PREFIX}theirs");
        let (own, other) = (own.as_str(), other.as_str());
        let cases: [(&[(&str, &str)], bool); 7] = [
            (&[(ROLE, "0")], true),
            (&[(ROLE, "1")], false),
            (&[], false),
            (&[(ROLE, "1"), (other, "shared")], true),
            (&[(ROLE, "1"), (own, "shared")], false),
            (&[(other, "shared")], false),
            (&[(ROLE, "0"), (own, "shared")], true),
        ];
        for (tags, expected) in cases {
            assert_eq!(is_excluded(&subnet(tags), Some("mine")), expected, "{tags:?}");
        }
    }
}
