//! What a node should hold, as its daemon knows it, and what was seen there last.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv6Net;
use vpc_ipam_core::{EniId, EniLink, Mac, PodKey};

use super::adopted::link::{Adopted, Role};
use crate::datapath::facts::HostFacts;
use crate::datapath::pod::{PodInterface, PodNetwork};
use crate::{HostConfig, Link, LinkIndex, Protocol, Table, eni};

/// All that a node should hold, as its daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// What the operator configured for the host.
    pub config: HostConfig,
    /// What the node is; its primary link is looked up by its MAC address each time.
    pub facts: HostFacts,
    /// The secondary ENIs that are set up.
    pub enis: BTreeMap<EniId, EniLink>,
    /// The route tables that ENIs were set up with: [`eni::table_here`].
    pub tables: BTreeMap<EniId, Table>,
    /// The networks of the pods, with tables that follow from where their ENIs are attached.
    pub pods: BTreeMap<PodKey, PodNetwork>,
    /// Addresses of pods that a plugin is adding or removing: their rules and routes are its own business.
    pub busy: BTreeSet<IpAddr>,
    /// The MAC addresses of the links of those pods, and of pods that are gone whose links are still to be removed.
    pub busy_links: BTreeSet<Mac>,
    /// What is known of pods that are in no state file.
    pub adopted: Adopted,
    /// Whether what amazon-vpc-cni-k8s made is another program's, and not restored: [`BesideAwsCni`](crate::BesideAwsCni).
    pub beside_aws_cni: bool,
    /// The protocols under which routes to pods are made, where another program removes those that carry ours.
    pub yielded: BTreeMap<IpAddr, Protocol>,
    /// What is left as it is for now, in the words of [`Object`](crate::Object): another program changed it back a moment ago.
    pub spared: BTreeSet<String>,
    /// What the last comparison saw: [`Repaired::seen`](crate::Repaired::seen) is to be remembered here.
    pub seen: Seen,
}

/// What a comparison saw, by which it is judged later what happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every link, since the kernel names links by index alone in events of addresses, routes and variables.
    pub links: BTreeMap<LinkIndex, SeenLink>,
    /// The addresses by which pods reach the family that they have none of in the VPC, by the MAC addresses of the host's
    /// ends of their links. Only routes lead there, and a route may be lost.
    pub egress: BTreeMap<Mac, IpAddr>,
    /// Pods that are in no state file.
    pub adopted: Adopted,
}

/// A link that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLink {
    /// The name that the link had when it was seen.
    pub name: Arc<str>,
    /// Its MAC address, if it is of a kind that has one.
    pub mac: Option<Mac>,
    /// What it is to pods that are in no state file.
    pub(super) role: Role,
}

impl From<&Link> for SeenLink {
    fn from(link: &Link) -> Self {
        Self { name: Arc::clone(&link.id.name), mac: link.mac, role: Role::of(link) }
    }
}

impl NodeNetwork {
    /// Describes a node without secondary ENIs and pods.
    pub fn new(config: HostConfig, facts: HostFacts) -> Self {
        Self {
            config,
            facts,
            enis: BTreeMap::new(),
            tables: BTreeMap::new(),
            pods: BTreeMap::new(),
            busy: BTreeSet::new(),
            busy_links: BTreeSet::new(),
            adopted: Adopted::default(),
            beside_aws_cni: false,
            yielded: BTreeMap::new(),
            spared: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    /// Returns the route table of an ENI, as far as is known.
    pub(super) fn known_table(&self, eni: &EniLink) -> Table {
        let table = self.tables.get(&eni.eni).copied();
        table.unwrap_or_else(|| eni::table(eni.card, eni.device))
    }

    pub(super) fn primary_mac(&self) -> Option<Mac> {
        self.facts.primary.mac
    }

    /// Returns whether an address may be one of an ENI: a rule made without a priority gets the one that amazon-vpc-cni-k8s
    /// has for ENIs, for any address.
    pub(super) fn is_in_vpc(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.facts.vpc_ipv4_cidrs.iter().any(|cidr| cidr.contains(&address))
            }
            IpAddr::V6(address) => {
                // Every subnet has this length.
                let own = self.facts.primary_ipv6.and_then(|own| Ipv6Net::new(own, 64).ok());
                let more = self.enis.values().filter_map(|eni| eni.subnet_ipv6);
                let subnets = own.into_iter().chain(more);
                let mut ranges = subnets.chain(self.facts.vpc_ipv6_cidrs.iter().copied());
                ranges.any(|range| range.contains(&address))
            }
        }
    }

    /// Returns the addresses of the pods whose links are there.
    pub(super) fn living(&self, links: &[Link]) -> BTreeSet<IpAddr> {
        let macs: BTreeSet<Mac> = links.iter().filter_map(|link| link.mac).collect();
        let interfaces = self.pods.values().flat_map(|network| &network.interfaces);
        let there = interfaces.filter(|interface| macs.contains(&interface.host.mac));
        there.flat_map(|interface| &interface.addresses).map(|it| it.address).collect()
    }

    pub(super) fn interfaces(&self) -> impl Iterator<Item = &PodInterface> {
        self.pods.values().flat_map(|network| &network.interfaces)
    }
}
