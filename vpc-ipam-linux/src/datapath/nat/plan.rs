//! What is to be translated and marked for a node, whichever program writes the rules.

use core::net::IpAddr;
use core::num::NonZeroU32;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::datapath::facts::HostFacts;
use crate::datapath::numbering::{EGRESS_IPV4, EGRESS_IPV6};
use crate::{Family, HostConfig, SnatPorts, VethPrefix};

/// What is to be done with the packets of one family.
pub(super) struct NatPlan<'a> {
    pub(super) family: Family,
    /// The link of the primary ENI.
    pub(super) primary: &'a str,
    /// How the links of pods begin.
    pub(super) pods: Vec<&'a VethPrefix>,
    pub(super) mark: NonZeroU32,
    pub(super) ports: SnatPorts,
    /// Packets of pods that take the primary ENI's address.
    pub(super) translated: Option<Translated>,
    /// A range for pods that only the node knows; it is translated whatever the destination, and no other host gets there.
    pub(super) hidden: Option<Hidden>,
    /// Whether connections that come in by the primary ENI for the node are marked.
    pub(super) node_port: bool,
}

/// Packets for anywhere but these ranges take this address. Not those that the node itself sends by another link from an address of
/// that link, by rules or routes for that address: with the primary ENI's address the VPC would drop them.
pub(super) struct Translated {
    pub(super) to: IpAddr,
    pub(super) not_for: Vec<IpNet>,
}

/// Packets from this range take this address.
pub(super) struct Hidden {
    pub(super) range: IpNet,
    pub(super) to: IpAddr,
    pub(super) multicast: IpNet,
}

impl<'a> NatPlan<'a> {
    pub(super) fn new(family: Family, config: &'a HostConfig, facts: &'a HostFacts) -> Self {
        let pods_use = match family {
            Family::Ipv4 => facts.families.ipv4().is_some(),
            Family::Ipv6 => facts.families.ipv6(),
        };
        let translated = facts
            .primary_ipv4
            .filter(|_| family == Family::Ipv4 && pods_use && !config.external_snat);
        let translated = translated.and_then(|to| {
            let ranges = facts.vpc_ipv4_cidrs.iter().chain(&config.excluded_cidrs);
            let not_for = Ipv4Net::aggregate(&ranges.copied().collect());
            let everything = not_for.iter().any(|net| net.prefix_len() == 0);
            let not_for = not_for.into_iter().map(IpNet::V4).collect();
            (!everything).then_some(Translated { to: to.into(), not_for })
        });
        let hidden = (facts.egress(config) == Some(family)).then(|| match family {
            Family::Ipv4 => facts.primary_ipv4.map(|to| Hidden {
                range: EGRESS_IPV4.into(),
                to: to.into(),
                multicast: Ipv4Net::new_assert([224, 0, 0, 0].into(), 4).into(),
            }),
            Family::Ipv6 => facts.primary_ipv6.map(|to| Hidden {
                range: EGRESS_IPV6.into(),
                to: to.into(),
                multicast: Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).into(),
            }),
        });
        Self {
            family,
            primary: &facts.primary.id.name,
            pods: core::iter::once(&config.veth_prefix).chain(&facts.other_prefixes).collect(),
            mark: config.mark,
            ports: config.snat_ports,
            translated,
            hidden: hidden.flatten(),
            node_port: config.node_port && pods_use,
        }
    }

    pub(super) fn does_anything(&self) -> bool {
        self.translated.is_some() || self.hidden.is_some() || self.node_port
    }

    /// Whether packets of connections that are marked get the mark.
    pub(super) fn restores_marks(&self) -> bool {
        self.node_port || self.translated.is_some()
    }
}
