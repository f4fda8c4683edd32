//! Where a new ENI goes.

use alloc::vec::Vec;
use core::cmp::Reverse;

use super::Planner;
use crate::backoff::Culprit;
use crate::tags::{SUBNET_CLUSTER_PREFIX, SUBNET_ROLE};
use crate::{ObservedSubnet, SubnetId, WaitingOn};

impl Planner<'_> {
    /// Returns the subnets in which an ENI may be made, the one with most free addresses first; of equals, the primary
    /// ENI's, then the lowest id. Subnets that ran out of addresses lately are among them.
    pub(super) fn subnets_for_enis(&self) -> Vec<SubnetId> {
        let primary = self.constraints.node.subnet;
        if self.config.custom_networking {
            return self.constraints.eni_config.iter().map(|config| config.subnet).collect();
        }
        let cluster = self.config.cluster.as_deref();
        let subnets = &self.constraints.subnets.list;
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

    /// Returns the subnet for the next ENI, or what it has to wait for.
    pub(super) fn subnet_for_eni(&self, prefixes: bool) -> Result<SubnetId, WaitingOn> {
        if self.config.custom_networking && self.constraints.eni_config.is_none() {
            return Err(WaitingOn::NoEniConfig);
        }
        let mut first_wait = None;
        for subnet in self.subnets_for_enis() {
            match self.subnet_backoff(subnet, prefixes) {
                None => return Ok(subnet),
                Some(wait) => {
                    first_wait = match (first_wait, wait) {
                        (
                            Some(WaitingOn::Backoff { until: first, .. }),
                            WaitingOn::Backoff { until, .. },
                        ) if first <= until => first_wait,
                        _ => Some(wait),
                    };
                }
            }
        }
        Err(first_wait.unwrap_or(WaitingOn::NoSubnet))
    }

    /// Returns until when a subnet is left alone, if it is.
    pub(super) fn subnet_backoff(&self, subnet: SubnetId, prefixes: bool) -> Option<WaitingOn> {
        let culprits =
            [Some(Culprit::Subnet(subnet)), prefixes.then_some(Culprit::SubnetPrefixes(subnet))];
        let backoff = &self.constraints.backoff;
        let waits = culprits.into_iter().flatten().filter_map(|c| backoff.wait(c, self.now));
        waits.max_by_key(WaitingOn::until)
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
