//! How many pods an instance type takes, and how many addresses its node will hold.
//!
//! Pure functions of [`Limits`] and settings: no allocation but where limits list network cards, no clock, no EC2.
//! [`compat`] computes what other tools say of the same node.

pub mod compat;

use core::fmt;

use crate::model::action::PREFIX_SIZE;
use crate::{Card, Config, Demand, Families, Ipv4Kind, Limits, Stock, demand};

/// What decides how many pods fit on a node, besides its type.
///
/// ```
/// use vpc_ipam_core::Config;
/// use vpc_ipam_core::capacity::{Cap, Shape};
///
/// // The usual node, with some differences ...
/// let shape = Shape::default().with_custom_networking(true).with_cap(Cap::ByVcpus);
/// assert_eq!(shape.host_network_pods, 2);
/// // ... or the node that variables configure.
/// let (config, _) = Config::from_vars([("MAX_ENI", "4")]);
/// assert_eq!(Shape::from(&config).enis_max, Some(4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Shape {
    /// Which addresses pods get.
    pub families: Families,
    /// `MAX_ENI`: the most ENIs, the primary included. 0 is as `None`, which leaves the type's limit.
    pub enis_max: Option<u8>,
    /// Whether the primary ENI gives pods no address.
    pub custom_networking: bool,
    /// Whether one ENI is kept for a trunk, on types that take one or of which that is not known.
    pub trunk: bool,
    /// Further ENIs of the default card that are not for pods: reserved, or fabric adapters without addresses.
    pub enis_reserved: u8,
    /// Pods on the host's network, which need no address of their own. The usual 2 are the CNI's and kube-proxy's.
    pub host_network_pods: u32,
    /// A bound that has nothing to do with addresses.
    pub cap: Cap,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            families: Families::Ipv4(Ipv4Kind::Addresses),
            enis_max: None,
            custom_networking: false,
            trunk: false,
            enis_reserved: 0,
            host_network_pods: 2,
            cap: Cap::None,
        }
    }
}

setters!(Shape {
    with_families families: Families,
    with_enis_max enis_max: Option<u8>,
    with_custom_networking custom_networking: bool,
    with_trunk trunk: bool,
    with_enis_reserved enis_reserved: u8,
    with_host_network_pods host_network_pods: u32,
    with_cap cap: Cap,
});

/// What variables configure, with 2 pods on the host's network and without a cap.
impl From<&Config> for Shape {
    fn from(config: &Config) -> Self {
        Self {
            families: config.families,
            enis_max: config.enis_max,
            custom_networking: config.custom_networking,
            trunk: config.trunk,
            ..Self::default()
        }
    }
}

/// A bound on pods that has nothing to do with addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Cap {
    /// Addresses alone bound the pods.
    #[default]
    None,
    /// What AWS advises: 110 pods up to 30 vCPUs, or where they are not known, and 250 above.
    ByVcpus,
    /// This many pods, those on the host's network included.
    Fixed(u32),
}

/// How many pods a node takes, and what keeps it from taking more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Capacity {
    /// Pods for which there are addresses, those on the host's network included.
    pub by_addresses: u32,
    /// Pods, the cap included: what kubelet should be told.
    pub max_pods: u32,
    /// What keeps it from taking more.
    pub bound_by: Bound,
    /// Pods that can have a branch ENI each, among the others; `None` if no trunk was asked for, the type takes none, or its
    /// number is not known: [`Limits::branch_enis`] tells the last two apart.
    pub branch_enis: Option<u16>,
}

/// What keeps a node from taking more pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Bound {
    /// The addresses that the type's ENIs take.
    InstanceType,
    /// `MAX_ENI`.
    MaxEni,
    /// The ENIs that are kept for something else: of several reasons, or because the caller said so.
    ReservedEnis,
    /// The primary ENI, which custom networking keeps from pods.
    CustomNetworking,
    /// The ENI that is kept for a trunk.
    Trunk,
    /// The addresses of an IPv6 prefix that are kept track of; one prefix serves the node.
    Ipv6Prefix,
    /// The cap.
    Cap,
    /// The type has no ENI left for pods.
    NoEniForPods,
    /// The type takes no prefixes, which IPv6 needs: the node will not start.
    NoPrefixesForIpv6,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InstanceType => "addresses of the instance type",
            Self::MaxEni => "MAX_ENI",
            Self::ReservedEnis => "ENIs kept for other uses",
            Self::CustomNetworking => "custom networking, which keeps the primary ENI from pods",
            Self::Trunk => "the ENI kept for a trunk",
            Self::Ipv6Prefix => "addresses of an IPv6 prefix that are kept track of",
            Self::Cap => "cap",
            Self::NoEniForPods => "no ENI left for pods",
            Self::NoPrefixesForIpv6 => "a type without prefixes, which IPv6 needs",
        })
    }
}

/// Returns how many pods a node takes.
///
/// Only ENIs of the default network card count, as for every tool in the field.
///
/// ```
/// use vpc_ipam_core::capacity::{Bound, Cap, Shape, max_pods};
/// use vpc_ipam_core::{Families, Ipv4Kind, Limits};
///
/// let m5_large = Limits::lookup("m5.large".parse()?)?;
/// assert_eq!(max_pods(&m5_large, &Shape::default()).max_pods, 29);
///
/// let prefixes = Shape::default()
///     .with_families(Families::Ipv4(Ipv4Kind::Prefixes))
///     .with_cap(Cap::ByVcpus);
/// let capacity = max_pods(&m5_large, &prefixes);
/// assert_eq!((capacity.by_addresses, capacity.max_pods, capacity.bound_by), (434, 110, Bound::Cap));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn max_pods(limits: &Limits, shape: &Shape) -> Capacity {
    let of_type = u32::from(limits.enis(limits.default_card));
    let enis_max = shape.enis_max.filter(|most| *most > 0);
    let allowed = enis_max.map_or(of_type, |most| of_type.min(most.into()));
    let takes_trunk = limits.branch_enis != Some(0);
    let kept_for = [
        (Bound::ReservedEnis, u32::from(shape.enis_reserved)),
        (Bound::CustomNetworking, u32::from(shape.custom_networking)),
        (Bound::Trunk, u32::from(shape.trunk && takes_trunk)),
    ];
    let kept = kept_for.iter().map(|(_, enis)| enis).sum::<u32>();
    let enis = allowed.saturating_sub(kept);
    let slots = u32::from(limits.ipv4_slots());
    let lacks_prefixes = shape.families.ipv6() && !limits.prefixes();
    let addresses = match shape.families {
        _ if lacks_prefixes => 0,
        // One prefix of the primary ENI serves the node; of its 2^48 addresses as many are used as the pool keeps track of.
        Families::Ipv6 => 65_536,
        _ if enis == 0 => 0,
        Families::Ipv4(Ipv4Kind::Prefixes) | Families::Dual(Ipv4Kind::Prefixes)
            if limits.prefixes() =>
        {
            enis * slots * PREFIX_SIZE
        }
        Families::Ipv4(_) | Families::Dual(_) => enis * slots,
    };
    let by_addresses = addresses.saturating_add(shape.host_network_pods);
    let cap = match shape.cap {
        Cap::None => u32::MAX,
        Cap::ByVcpus => advised(limits),
        Cap::Fixed(pods) => pods,
    };
    let bound_by = if lacks_prefixes {
        Bound::NoPrefixesForIpv6
    } else if cap < by_addresses {
        Bound::Cap
    } else if shape.families == Families::Ipv6 {
        Bound::Ipv6Prefix
    } else if enis == 0 {
        Bound::NoEniForPods
    } else {
        // What would bring most if it were not there; what is kept, where that is as much.
        let mut keepers = kept_for.iter().filter(|(_, enis)| *enis > 0);
        match (keepers.next(), keepers.next()) {
            (None, _) if allowed < of_type => Bound::MaxEni,
            (None, _) => Bound::InstanceType,
            _ if of_type - allowed > kept => Bound::MaxEni,
            (Some((bound, _)), None) => *bound,
            (Some(_), Some(_)) => Bound::ReservedEnis,
        }
    };
    Capacity {
        by_addresses,
        max_pods: by_addresses.min(cap),
        bound_by,
        branch_enis: limits.branch_enis.filter(|_| shape.trunk && takes_trunk),
    }
}

/// What AWS advises in its guide to pods per node, and its max-pods-calculator.sh applies.
fn advised(limits: &Limits) -> u32 {
    if limits.vcpus > 30 { 250 } else { 110 }
}

/// What a node takes out of its subnets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Footprint {
    /// ENIs, the primary included.
    pub enis: u32,
    /// IPv4 addresses for pods, used and held ready.
    pub for_pods: u32,
    /// IPv4 addresses out of subnets: those for pods, and each ENI's own.
    pub in_all: u32,
    /// IPv6 prefixes (/80).
    pub ipv6_prefixes: u32,
}

/// How many addresses a node takes in the course of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Footprints {
    /// Before the first pod.
    pub at_boot: Footprint,
    /// With as many pods as asked for, or as the node runs at most.
    pub at_pods: Footprint,
    /// At most, whatever comes and goes. Addresses that cool are held besides those in use, and pods that end at once
    /// after they began make any number cool, so nothing but [`Config::pods_max`] and the type's limits bounds it.
    pub worst: Footprint,
}

/// Returns how many addresses a node will hold: at boot, with `pods` pods that need an address, and at worst.
///
/// `pods_most` is how many pods with an address of their own the node runs at most: [`Capacity::max_pods`] less the pods on the
/// host's network.
///
/// All zero where pods get IPv6 and the type takes no prefixes: such a node does not start.
///
/// ```
/// use vpc_ipam_core::capacity::address_footprint;
/// use vpc_ipam_core::{Config, Limits};
///
/// let m4 = Limits::lookup("m4.4xlarge".parse()?)?;
/// let footprints = address_footprint(&m4, &Config::default(), 30, 232);
/// assert_eq!((footprints.at_boot.enis, footprints.at_boot.for_pods), (1, 29));
/// assert_eq!((footprints.at_pods.enis, footprints.at_pods.for_pods), (3, 87));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn address_footprint(
    limits: &Limits,
    config: &Config,
    pods: u32,
    pods_most: u32,
) -> Footprints {
    if config.families.ipv6() && !limits.prefixes() {
        let none = Footprint::default();
        return Footprints { at_boot: none, at_pods: none, worst: none };
    }
    let footprint = |config: &Config, pods| footprint(limits, config, pods);
    let mut worst = footprint(config, u32::MAX / 2);
    if limits.prefixes() && config.families.ipv4() == Some(Ipv4Kind::Prefixes) {
        // Where single addresses stand in for prefixes they take sixteen times the slots.
        let families = match config.families {
            Families::Dual(_) => Families::Dual(Ipv4Kind::Addresses),
            _ => Families::Ipv4(Ipv4Kind::Addresses),
        };
        let singles = Config { families, ..config.clone() };
        let singles = footprint(&singles, u32::MAX / 2);
        worst.enis = worst.enis.max(singles.enis);
        worst.ipv6_prefixes = worst.ipv6_prefixes.max(singles.ipv6_prefixes);
        worst.in_all = worst.for_pods.saturating_add(worst.enis);
    }
    let at_pods = footprint(config, pods.min(pods_most));
    Footprints { at_boot: footprint(config, 0), at_pods, worst }
}

/// Returns what a node takes with so many pods that go on card 0 while it has room, and on the others from there.
fn footprint(limits: &Limits, config: &Config, pods: u32) -> Footprint {
    let mut footprint = footprint_of_card(limits, config, Card(0), pods);
    let mut left = pods.saturating_sub(footprint.for_pods);
    for card in limits.cards().into_iter().filter(|card| config.multi_nic && *card != Card(0)) {
        let more = footprint_of_card(limits, config, card, left);
        left = left.saturating_sub(more.for_pods);
        footprint.enis = footprint.enis.saturating_add(more.enis);
        footprint.for_pods = footprint.for_pods.saturating_add(more.for_pods);
        footprint.in_all = footprint.in_all.saturating_add(more.in_all);
        footprint.ipv6_prefixes = footprint.ipv6_prefixes.saturating_add(more.ipv6_prefixes);
    }
    footprint
}

fn footprint_of_card(limits: &Limits, config: &Config, card: Card, pods: u32) -> Footprint {
    let of_type = u32::from(limits.enis(card));
    let enis_max = config.enis_max.filter(|most| *most > 0);
    let enis_max = enis_max.map_or(of_type, |most| of_type.min(most.into()));
    let is_default = card == Card(0);
    let for_trunk = u32::from(is_default && config.trunk && limits.branch_enis != Some(0));
    let for_primary = u32::from(is_default && config.custom_networking);
    let slots = u32::from(limits.ipv4_slots()).max(1);

    let Some(configured) = config.families.ipv4() else {
        return Footprint { enis: 1, for_pods: 0, in_all: 1, ipv6_prefixes: 1 };
    };
    let kind = if limits.prefixes() { configured } else { Ipv4Kind::Addresses };
    let size = match kind {
        Ipv4Kind::Addresses => 1,
        Ipv4Kind::Prefixes => PREFIX_SIZE,
    };
    let stock = Stock { waiting: pods, ..Stock::default() };
    let wanted = match demand(config.target_of(card, limits), kind, stock, limits.ipv4_slots()) {
        Demand::Short(blocks) => blocks,
        Demand::Met | Demand::Over(_) => 0,
    };
    // The other cards are not told how many pods the node runs.
    let pods_max = config.pods_max.filter(|_| is_default);
    let blocks_max = enis_max.saturating_sub(for_trunk + for_primary) * slots;
    let blocks = wanted.min(pods_max.map_or(u32::MAX, |most| most.div_ceil(size))).min(blocks_max);
    let enis = (blocks.div_ceil(slots) + for_primary).clamp(1, enis_max.max(1));
    let for_pods = blocks * size;
    // Where pods get one of each family, every ENI that serves pods has a prefix.
    let serving = if config.families.ipv6() { enis - for_primary.min(enis) } else { 0 };
    Footprint { enis, for_pods, in_all: for_pods + enis, ipv6_prefixes: serving }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WarmTarget;

    fn limits(name: &str) -> Limits {
        Limits::lookup(name.parse().unwrap()).unwrap()
    }

    /// Vectors V024 to V031.
    #[test]
    fn pods_follow_enis_and_addresses() {
        let cases = [
            ("m4.4xlarge", 234),
            ("t3.small", 11),
            ("m5.large", 29),
            ("p3dn.24xlarge", 737),
            ("t3.nano", 4),
            ("c5.4xlarge", 234),
            ("trn1.32xlarge", 247),
            ("p5.48xlarge", 100),
        ];
        for (name, expected) in cases {
            let actual = max_pods(&limits(name), &Shape::default());
            assert_eq!(
                (actual.max_pods, actual.bound_by),
                (expected, Bound::InstanceType),
                "{name}"
            );
        }
    }

    #[test]
    fn the_binding_constraint_is_named() {
        let plain = Shape::default();
        let prefixes = Shape { families: Families::Ipv4(Ipv4Kind::Prefixes), ..plain };
        let cases = [
            ("m5.large", Shape { custom_networking: true, ..plain }, 20, Bound::CustomNetworking),
            (
                "m5.large",
                Shape { custom_networking: true, ..prefixes },
                290,
                Bound::CustomNetworking,
            ),
            ("m5.large", Shape { trunk: true, ..plain }, 20, Bound::Trunk),
            // The t family takes no trunk, so no ENI is kept for one.
            ("t3.large", Shape { trunk: true, ..plain }, 35, Bound::InstanceType),
            (
                "m5.large",
                Shape { trunk: true, custom_networking: true, ..plain },
                11,
                Bound::ReservedEnis,
            ),
            ("m5.4xlarge", Shape { enis_reserved: 2, ..plain }, 176, Bound::ReservedEnis),
            (
                "m5.4xlarge",
                Shape { enis_max: Some(4), custom_networking: true, ..plain },
                89,
                Bound::MaxEni,
            ),
            (
                "m5.4xlarge",
                Shape { enis_max: Some(20), custom_networking: true, ..plain },
                205,
                Bound::CustomNetworking,
            ),
            ("p5.48xlarge", Shape { enis_reserved: 1, ..plain }, 51, Bound::ReservedEnis),
            ("m5.large", Shape { host_network_pods: 0, ..plain }, 27, Bound::InstanceType),
            ("m5.large", Shape { cap: Cap::Fixed(29), ..plain }, 29, Bound::InstanceType),
            (
                "c5.large",
                Shape { families: Families::Dual(Ipv4Kind::Addresses), ..plain },
                29,
                Bound::InstanceType,
            ),
            ("m5.large", Shape { families: Families::Ipv6, ..plain }, 65_538, Bound::Ipv6Prefix),
            (
                "hpc6id.32xlarge",
                Shape { families: Families::Ipv6, trunk: true, cap: Cap::ByVcpus, ..plain },
                250,
                Bound::Cap,
            ),
            ("m5.large", Shape { enis_max: Some(2), ..plain }, 20, Bound::MaxEni),
            ("m5.large", Shape { enis_max: Some(0), ..plain }, 29, Bound::InstanceType),
            (
                "m4.large",
                Shape { families: Families::Ipv6, cap: Cap::ByVcpus, ..plain },
                2,
                Bound::NoPrefixesForIpv6,
            ),
            (
                "m4.large",
                Shape { families: Families::Dual(Ipv4Kind::Addresses), ..plain },
                2,
                Bound::NoPrefixesForIpv6,
            ),
            // vCPUs are not known.
            ("c5a.metal", Shape { cap: Cap::ByVcpus, ..plain }, 110, Bound::Cap),
            ("m5.large", Shape { cap: Cap::Fixed(10), ..plain }, 10, Bound::Cap),
            ("m5.large", Shape { cap: Cap::ByVcpus, ..prefixes }, 110, Bound::Cap),
            ("m5.large", prefixes, 434, Bound::InstanceType),
            ("m5.24xlarge", Shape { cap: Cap::ByVcpus, ..plain }, 250, Bound::Cap),
            // A type of the older hypervisor takes no prefixes.
            ("m4.4xlarge", prefixes, 234, Bound::InstanceType),
            // Bare metal does.
            ("m5.metal", prefixes, 15 * 49 * 16 + 2, Bound::InstanceType),
            ("hpc6id.32xlarge", Shape { custom_networking: true, ..plain }, 2, Bound::NoEniForPods),
            (
                "m5.large",
                Shape { families: Families::Ipv6, cap: Cap::ByVcpus, ..plain },
                110,
                Bound::Cap,
            ),
        ];
        for (name, shape, pods, bound) in cases {
            let actual = max_pods(&limits(name), &shape);
            assert_eq!((actual.max_pods, actual.bound_by), (pods, bound), "{name} {shape:?}");
        }
    }

    #[test]
    fn pods_with_branch_enis_are_among_the_others() {
        let shape = Shape { trunk: true, ..Shape::default() };
        for (name, expected) in [
            ("m5.large", Some(9)),
            ("c5.4xlarge", Some(54)),
            ("m5.4xlarge", Some(54)),
            ("t3.large", None),
            // The type takes a trunk; of how many branch ENIs is not published.
            ("r9g.large", None),
        ] {
            assert_eq!(max_pods(&limits(name), &shape).branch_enis, expected, "{name}");
            assert_eq!(max_pods(&limits(name), &Shape::default()).branch_enis, None, "{name}");
        }
    }

    #[test]
    fn claims_grow_with_pods_and_stay_within_limits() {
        let with = |target| Config { target, ..Config::default() };
        let cases = [
            (with(WarmTarget::Enis(1)), "p3dn.24xlarge", 3, (1, 49), (2, 98)),
            (with(WarmTarget::Ips { warm: 5, minimum: 10 }), "p3dn.24xlarge", 45, (1, 10), (2, 50)),
            (with(WarmTarget::Ips { warm: 5, minimum: 10 }), "m5.large", 27, (2, 10), (3, 27)),
            (
                Config { pods_max: Some(110), ..with(WarmTarget::Enis(1)) },
                "m5.24xlarge",
                110,
                (1, 49),
                (3, 110),
            ),
        ];
        for (config, name, pods, boot, at_pods) in cases {
            let footprints = address_footprint(&limits(name), &config, pods, 737);
            let pair = |footprint: Footprint| (footprint.enis, footprint.for_pods);
            assert_eq!(
                (pair(footprints.at_boot), pair(footprints.at_pods)),
                (boot, at_pods),
                "{name}"
            );
            assert!(footprints.worst.in_all >= footprints.at_pods.in_all, "{name}");
        }
    }
}
