//! What has to be known about a node to set it up.

use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{Config, Families, Ipv4Kind, Metadata};

use crate::kernel::network::{Family, Link};
use crate::{HostConfig, VethPrefix};

/// What has to be known about a node to set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The link of the primary ENI.
    pub primary: Link,
    /// Its own IPv4 address, to which the pods' addresses are translated.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// Its own IPv6 address, to which those of pods without one in the VPC are.
    pub primary_ipv6: Option<Ipv6Addr>,
    /// The IPv4 ranges of the VPC.
    pub vpc_ipv4_cidrs: Vec<Ipv4Net>,
    /// Its IPv6 ranges.
    pub vpc_ipv6_cidrs: Vec<Ipv6Net>,
    /// The MTU of the ENIs in bytes, as the configuration of the pool has it.
    pub mtu: u16,
    /// Which addresses pods get, as the configuration of the pool has it.
    pub families: Families,
    /// Whether there are pods on branch ENIs, as the configuration of the pool has it.
    pub branch_enis: bool,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
    /// How the links of pods begin that were made when another prefix was configured.
    pub other_prefixes: Vec<VethPrefix>,
    /// For which families the rule of the host's own addresses still stands where [`BranchMode::Strict`](crate::BranchMode::Strict) wants it, although
    /// no pod is left that needs it there.
    pub local_rule_left: Vec<Family>,
}

impl HostFacts {
    /// Describes a node whose pods get IPv4 addresses, and where nothing else is to be known.
    pub fn ipv4(primary: Link, address: Ipv4Addr, vpc_cidrs: Vec<Ipv4Net>, mtu: u16) -> Self {
        Self {
            primary,
            primary_ipv4: Some(address),
            primary_ipv6: None,
            vpc_ipv4_cidrs: vpc_cidrs,
            vpc_ipv6_cidrs: Vec::new(),
            mtu,
            families: Families::Ipv4(Ipv4Kind::Addresses),
            branch_enis: false,
            ipv6: true,
            other_prefixes: Vec::new(),
            local_rule_left: Vec::new(),
        }
    }

    /// Returns the family that pods have no address of in the VPC and reach through the node.
    pub fn egress(&self, config: &HostConfig) -> Option<Family> {
        egress_by(config, self.families, self.primary_ipv4, self.primary_ipv6)
    }

    /// Returns whether the node passes packets of IPv6 on.
    pub(crate) fn routes_ipv6(&self, config: &HostConfig) -> bool {
        self.families.ipv6() || self.egress(config) == Some(Family::Ipv6)
    }

    /// Returns the families of which pods have addresses in the VPC.
    pub(super) fn of_pods(&self) -> impl Iterator<Item = Family> {
        let ipv4 = self.families.ipv4().map(|_| Family::Ipv4);
        let ipv6 = self.families.ipv6().then_some(Family::Ipv6);
        ipv4.into_iter().chain(ipv6)
    }
}

/// Returns the family that pods of a node have no address of in the VPC and reach through the node.
pub fn egress(config: &HostConfig, pool: &Config, metadata: &Metadata) -> Option<Family> {
    let (ipv4, ipv6) = own_addresses(metadata);
    egress_by(config, pool.families, ipv4, ipv6)
}

fn egress_by(
    config: &HostConfig,
    families: Families,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
) -> Option<Family> {
    match families {
        Families::Ipv4(_) if config.ipv6_egress => ipv6.and(Some(Family::Ipv6)),
        Families::Ipv6 if config.ipv4_egress => ipv4.and(Some(Family::Ipv4)),
        Families::Ipv4(_) | Families::Ipv6 | Families::Dual(_) => None,
    }
}

/// Returns the primary ENI's own addresses.
pub(super) fn own_addresses(metadata: &Metadata) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let mut enis = metadata.observation.enis.iter();
    let primary = enis.find(|eni| eni.id == metadata.node.primary);
    let ipv4 = metadata.primary_ipv4.or_else(|| primary?.primary_ipv4);
    (ipv4, primary.and_then(|primary| primary.primary_ipv6))
}
