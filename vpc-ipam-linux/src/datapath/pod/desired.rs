//! The network that a pod should have, by its lease or its branch ENI.

use core::net::IpAddr;
use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use vpc_ipam_core::{EniId, FoundLink, Lease, LeasedInterface, Pod, PodKey};

use super::branch::{Branch, BranchEni};
use super::name;
use super::network::{Found, PodAddress, PodInterface, PodNetwork};
use super::veth::{VethEnd, found_ends, veth_ends};
use crate::datapath::numbering::{GATEWAY_IPV6, pod_gateway, subnet_gateway};
use crate::{BranchMode, Family, Table, VethPrefix, eni};

/// What all pods of a node have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// How the names of their links begin on the host.
    pub veth_prefix: VethPrefix,
    /// The MTU of their links in bytes.
    pub mtu: u16,
    /// The family that they have no address of in the VPC and reach through the node: [`HostFacts::egress`].
    ///
    /// [`HostFacts::egress`]: crate::datapath::host::HostFacts::egress
    pub egress: Option<Family>,
    /// Whether those without an IPv6 address may not have link-local ones either.
    pub ipv6_disabled: bool,
    /// The route tables of ENIs for which they do not follow from where the ENI is attached: [`eni::table_here`].
    pub tables: BTreeMap<EniId, Table>,
    /// Whether they may send from their own addresses alone: [`HostConfig::source_check`](crate::HostConfig::source_check).
    pub source_check: bool,
}

impl PodSettings {
    /// Describes pods of which nothing else is to be known.
    pub fn new(veth_prefix: VethPrefix, mtu: u16) -> Self {
        Self {
            veth_prefix,
            mtu,
            egress: None,
            ipv6_disabled: false,
            tables: BTreeMap::new(),
            source_check: true,
        }
    }
}

/// A lease that no network can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// An interface has no address.
    #[error("the lease has no address on {eni}")]
    NoAddress {
        /// The ENI that should carry it.
        eni: EniId,
    },
    /// There are more interfaces than any instance has network cards.
    #[error("the lease has {interfaces} interfaces, and a pod can have 250 at most")]
    TooMany {
        /// How many there are.
        interfaces: usize,
    },
}

/// Returns the network of a pod.
pub fn desired(lease: &Lease, settings: &PodSettings) -> Result<PodNetwork, PodError> {
    let count = lease.interfaces().count();
    if count > 250 {
        return Err(PodError::TooMany { interfaces: count });
    }
    let interfaces = (0..).zip(lease.interfaces());
    let interfaces =
        interfaces.map(|(number, leased)| PodInterface::desired(lease, number, leased, settings));
    Ok(PodNetwork { interfaces: interfaces.collect::<Result<_, _>>()? })
}

impl PodInterface {
    fn desired(
        lease: &Lease,
        number: u8,
        leased: &LeasedInterface,
        settings: &PodSettings,
    ) -> Result<Self, PodError> {
        let address = |address| PodAddress {
            address,
            gateway: pod_gateway(Family::of(address), number),
            only_on_node: false,
            table: match number {
                0 => Table::MAIN,
                number => Table(number.into()),
            },
        };
        let addresses: Vec<_> = leased.addresses().map(address).collect();
        if addresses.is_empty() {
            return Err(PodError::NoAddress { eni: leased.eni });
        }
        let (host, container) = veth_ends(&lease.key, &lease.pod, number, &settings.veth_prefix);
        if let Some(link) = lease.found.get(usize::from(number)) {
            return Ok(Self::found(lease, number, leased, link, &host, addresses, settings));
        }
        let has = |family| addresses.iter().any(|it| Family::of(it.address) == family);
        Ok(Self {
            host,
            container,
            mtu: settings.mtu,
            table: table_of(leased, settings),
            number,
            egress: settings.egress.filter(|family| number == 0 && !has(*family)),
            ipv6_disabled: settings.ipv6_disabled && !has(Family::Ipv6),
            branch: None,
            source_check: settings.source_check,
            alias: name::alias(&lease.pod),
            addresses,
            found: None,
        })
    }

    /// Returns an interface whose link another program made.
    fn found(
        lease: &Lease,
        number: u8,
        leased: &LeasedInterface,
        link: &FoundLink,
        named: &VethEnd,
        addresses: Vec<PodAddress>,
        settings: &PodSettings,
    ) -> Self {
        let (host, container) = found_ends(&lease.key, number, link);
        // One that this program made itself is as the others.
        let found = container.mac.is_none().then(|| Found {
            eni: leased.eni,
            table: link.table.map(Table),
            is_named: digits(&host.name).is_some_and(|it| Some(it) == digits(&named.name)),
        });
        let table = found.and_then(|found| found.table);
        Self {
            host,
            container,
            mtu: settings.mtu,
            table: table.unwrap_or_else(|| table_of(leased, settings)),
            number,
            // amazon-vpc-cni-k8s makes another link for that.
            egress: None,
            ipv6_disabled: false,
            branch: None,
            source_check: settings.source_check,
            alias: name::alias(&lease.pod),
            addresses,
            found,
        }
    }
}

/// Returns the route table of what an interface sends, by its ENI.
fn table_of(leased: &LeasedInterface, settings: &PodSettings) -> Table {
    match settings.tables.get(&leased.eni).copied() {
        Some(table) => table,
        None if leased.on_primary() => Table::MAIN,
        None => eni::table(leased.card, leased.device),
    }
}

fn digits(name: &str) -> Option<&str> {
    name::parts_of_host_name(name).map(|(_, digits)| digits)
}

/// Returns the network of a pod on a branch ENI.
pub fn desired_on_branch(
    key: &PodKey,
    pod: &Pod,
    branch: &BranchEni,
    mode: BranchMode,
    settings: &PodSettings,
) -> Result<PodNetwork, PodError> {
    let ipv4 = branch.ipv4.map(|(address, _)| IpAddr::V4(address));
    let ipv6 = branch.ipv6.map(|(address, _)| IpAddr::V6(address));
    let addresses: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
    if addresses.is_empty() {
        return Err(PodError::NoAddress { eni: branch.eni });
    }
    // What the node sends to outside of the VPC it translates, unless it leaves by a link whose name begins so.
    let prefix = match mode {
        BranchMode::Strict => VethPrefix::for_strict_branches(),
        BranchMode::Standard => settings.veth_prefix.clone(),
    };
    let (host, container) = veth_ends(key, pod, 0, &prefix);
    let router = |net: Ipv4Net| IpAddr::V4(subnet_gateway(net));
    let gateways = branch.ipv4.map(|(_, subnet)| router(subnet)).into_iter();
    let gateways = gateways.chain(branch.ipv6.map(|_| GATEWAY_IPV6.into())).collect();
    let address = |address| PodAddress {
        address,
        gateway: pod_gateway(Family::of(address), 0),
        only_on_node: false,
        table: Table::MAIN,
    };
    Ok(PodNetwork {
        interfaces: vec![PodInterface {
            host,
            container,
            mtu: settings.mtu,
            addresses: addresses.into_iter().map(address).collect(),
            table: branch.vlan.table(),
            number: 0,
            egress: None,
            ipv6_disabled: settings.ipv6_disabled && branch.ipv6.is_none(),
            branch: Some(Branch {
                vlan: branch.vlan,
                mac: branch.mac,
                trunk: branch.trunk,
                gateways,
                mode,
            }),
            source_check: settings.source_check,
            alias: name::alias(pod),
            found: None,
        }],
    })
}
