//! What the operator wants.

mod env;
pub(crate) mod overrides;
pub(crate) mod parser;
pub(crate) mod warnings;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::model::action::PREFIX_SIZE;
use crate::{Card, Limits, SecurityGroupId, SubnetId};

/// What the operator wants of a node's addresses. Every combination of fields is usable.
///
/// [`Config::default`] is what a node gets on which no variable is set; [`Config::from_vars`] reads the variables of
/// amazon-vpc-cni-k8s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Config {
    /// Which addresses pods get: `ENABLE_IPv4`, `ENABLE_IPv6`, `ENABLE_PREFIX_DELEGATION`.
    pub families: Families,
    /// How much to hold ready.
    pub target: WarmTarget,
    /// The most ENIs of one network card, the primary and those we do not manage included: `MAX_ENI`. `None` or 0 leaves
    /// the instance type's limit.
    pub enis_max: Option<u8>,
    /// The most pods the node runs: what kubelet reports as its capacity. No more addresses than that are held, rounded
    /// up to whole prefixes. `None` leaves it open.
    pub pods_max: Option<u32>,
    /// How long an address cools between two pods: `IP_COOLDOWN_PERIOD`, by default 30 s.
    ///
    /// Connection tracking remembers a half-open connection for 120 s; a period shorter than that can lead a late packet
    /// to the next owner.
    pub cooldown: Duration,
    /// Which addresses in cooldown count when the pool is compared with its target.
    pub cooling: Cooling,
    /// The MTU of the ENIs' links in bytes, 576 to 9001: `AWS_VPC_ENI_MTU`.
    pub eni_mtu: u16,
    /// Whether ENIs and addresses may be asked for and released at all: not
    /// `DISABLE_NETWORK_RESOURCE_PROVISIONING`, not `ENABLE_IMDS_ONLY_MODE`.
    pub provisioning: bool,
    /// Whether EC2 may be asked what there is: not `ENABLE_IMDS_ONLY_MODE`.
    pub ec2_reads: bool,
    /// Whether a cordoned node goes on growing and freeing ENIs: `AWS_MANAGE_ENIS_NON_SCHEDULABLE`.
    pub manage_unschedulable: bool,
    /// Whether pods get addresses of a subnet other than the primary ENI's: `AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG`. The
    /// subnet comes as an [`EniConfig`].
    pub custom_networking: bool,
    /// Where a Kubernetes node names its [`EniConfig`].
    pub eni_config_keys: EniConfigKeys,
    /// Whether one ENI slot is kept for a trunk until there is one: `ENABLE_POD_ENI`.
    pub trunk: bool,
    /// Whether network cards other than 0 are used: `ENABLE_MULTI_NIC`.
    pub multi_nic: bool,
    /// Whether an ENI that carries neither our tag nor `no_manage` is ours: `MANAGE_UNTAGGED_ENI`.
    pub manage_untagged: bool,
    /// Whether new ENIs go to any tagged subnet of the zone instead of the primary ENI's: `ENABLE_SUBNET_DISCOVERY`.
    pub subnet_discovery: bool,
    /// The cluster's name, for tags and for the choice of subnets: `CLUSTER_NAME`.
    pub cluster: Option<String>,
    /// Tags of every ENI we manage, besides our own: `ADDITIONAL_ENI_TAGS`, which [`Config::from_vars`] leaves to the
    /// caller because its value is JSON.
    pub eni_tags: BTreeMap<String, String>,
    /// Times that rarely need changing.
    pub timing: Timing,
}

setters!(Config {
    with_families families: Families,
    with_target target: WarmTarget,
    with_enis_max enis_max: Option<u8>,
    with_pods_max pods_max: Option<u32>,
    with_cooldown cooldown: Duration,
    with_cooling cooling: Cooling,
    with_eni_mtu eni_mtu: u16,
    with_provisioning provisioning: bool,
    with_ec2_reads ec2_reads: bool,
    with_manage_unschedulable manage_unschedulable: bool,
    with_custom_networking custom_networking: bool,
    with_eni_config_keys eni_config_keys: EniConfigKeys,
    with_trunk trunk: bool,
    with_multi_nic multi_nic: bool,
    with_manage_untagged manage_untagged: bool,
    with_subnet_discovery subnet_discovery: bool,
    with_cluster cluster: Option<String>,
    with_eni_tags eni_tags: BTreeMap<String, String>,
    with_timing timing: Timing,
});

/// Which addresses a pod gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Families {
    /// An IPv4 address, of a pool of single addresses or of prefixes.
    Ipv4(Ipv4Kind),
    /// An IPv6 address of the ENI's /80 prefix.
    Ipv6,
    /// One of each, or none.
    Dual(Ipv4Kind),
}

/// In which pieces IPv4 addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Ipv4Kind {
    /// One at a time (/32).
    Addresses,
    /// 16 at a time (/28), and one at a time where a subnet has no free /28.
    Prefixes,
}

impl Families {
    /// Returns the pieces in which IPv4 addresses are asked for, if pods get any.
    pub fn ipv4(self) -> Option<Ipv4Kind> {
        match self {
            Self::Ipv4(kind) | Self::Dual(kind) => Some(kind),
            Self::Ipv6 => None,
        }
    }

    /// Returns whether pods get an IPv6 address.
    pub fn ipv6(self) -> bool {
        matches!(self, Self::Ipv6 | Self::Dual(_))
    }
}

/// How much to hold ready for pods to come. Without effect where pods get IPv6 alone: one /80 prefix serves them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum WarmTarget {
    /// So many ENIs' worth of free addresses, asked for a whole ENI at a time: `WARM_ENI_TARGET`. With 0, one free
    /// address is kept, so that the next pod starts at once.
    Enis(u32),
    /// Free addresses, and addresses in all: `WARM_IP_TARGET`, `MINIMUM_IP_TARGET`.
    Ips {
        /// Free addresses to keep.
        warm: u32,
        /// Addresses to hold in all, used or not.
        minimum: u32,
    },
    /// Wholly free prefixes: `WARM_PREFIX_TARGET`. With 0, one free address is kept.
    Prefixes(u32),
    /// `batch * ceil(buffer + demand / batch)` addresses, as Azure's CNS sizes its pools: free addresses stay between
    /// the buffer and the buffer and one batch.
    Batch {
        /// Addresses asked for and released at a time, at least 1.
        batch: u32,
        /// Free addresses to keep, in percent of a batch.
        buffer_percent: u32,
    },
}

impl WarmTarget {
    /// Returns the variable of the largest number of a target, and that number.
    fn largest(self) -> (&'static str, u32) {
        match self {
            Self::Enis(count) => ("WARM_ENI_TARGET", count),
            Self::Ips { warm, minimum } if warm < minimum => ("MINIMUM_IP_TARGET", minimum),
            Self::Ips { warm, .. } => ("WARM_IP_TARGET", warm),
            Self::Prefixes(count) => ("WARM_PREFIX_TARGET", count),
            // It is set by no variable.
            Self::Batch { batch, .. } => ("batch", batch),
        }
    }

    /// Returns the target with every number that is beyond all that the type can hold reduced to that.
    fn bounded(self, limits: &Limits) -> Self {
        let enis = u32::from(limits.enis(Card(0)));
        let prefixes = enis * u32::from(limits.ipv4_slots());
        let addresses = prefixes * PREFIX_SIZE;
        match self {
            Self::Enis(count) => Self::Enis(count.min(enis)),
            Self::Ips { warm, minimum } => {
                Self::Ips { warm: warm.min(addresses), minimum: minimum.min(addresses) }
            }
            Self::Prefixes(count) => Self::Prefixes(count.min(prefixes)),
            Self::Batch { batch, buffer_percent } => {
                // A buffer of this many percent is all that the type holds, whatever the batch.
                let percent = addresses.saturating_add(1).saturating_mul(100);
                let buffer_percent = buffer_percent.min(percent);
                Self::Batch { batch: batch.min(addresses.max(1)), buffer_percent }
            }
        }
    }
}

/// Which addresses in cooldown count as free when the pool is compared with its target. None of them is ever assigned or
/// released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Cooling {
    /// Those that are ready before a new address could be: within this time.
    ReadyWithin(Duration),
    /// All, as amazon-vpc-cni-k8s counts.
    All,
}

/// Where new ENIs go under custom networking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct EniConfig {
    /// The subnet, in the node's zone.
    pub subnet: SubnetId,
    /// The security groups; empty takes those of the primary ENI.
    #[cfg_attr(feature = "serde", serde(default))]
    pub security_groups: Vec<SecurityGroupId>,
}

impl EniConfig {
    /// Returns a configuration with the security groups of the primary ENI.
    pub fn new(subnet: SubnetId) -> Self {
        Self { subnet, security_groups: Vec::new() }
    }
}

setters!(EniConfig {
    with_subnet subnet: SubnetId,
    with_security_groups security_groups: Vec<SecurityGroupId>,
});

/// Where a Kubernetes node names its ENIConfig: `ENI_CONFIG_ANNOTATION_DEF`, `ENI_CONFIG_LABEL_DEF`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct EniConfigKeys {
    /// The key of the annotation, by default `k8s.amazonaws.com/eniConfig`.
    pub annotation: String,
    /// The key of the label, by default the same.
    pub label: String,
}

impl EniConfigKeys {
    const DEFAULT: &'static str = "k8s.amazonaws.com/eniConfig";
    /// Set by EKS; it comes before what an operator configures.
    const EXTERNAL_LABEL: &'static str = "vpc.amazonaws.com/externalEniConfig";

    /// Returns the name of a node's ENIConfig: what the label `vpc.amazonaws.com/externalEniConfig` says, else the
    /// annotation, else the label, else `default`. One that is there and empty counts, as for amazon-vpc-cni-k8s.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use vpc_ipam_core::Config;
    ///
    /// let vars = [("ENI_CONFIG_LABEL_DEF", "topology.kubernetes.io/zone")];
    /// let keys = Config::from_vars(vars).0.eni_config_keys;
    /// let labels = BTreeMap::from([("topology.kubernetes.io/zone".into(), "eu-west-1a".into())]);
    /// assert_eq!(keys.name(&labels, &BTreeMap::new()), "eu-west-1a");
    /// ```
    pub fn name<'a>(
        &self,
        labels: &'a BTreeMap<String, String>,
        annotations: &'a BTreeMap<String, String>,
    ) -> &'a str {
        let named = labels
            .get(Self::EXTERNAL_LABEL)
            .or_else(|| annotations.get(&self.annotation))
            .or_else(|| labels.get(&self.label));
        named.map_or("default", String::as_str)
    }
}

/// Times that rarely need changing. Every value is usable: what is shorter than can be followed counts as the least, what is
/// longer than ten years as ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Timing {
    /// How long an ADD may wait for an address. Default 30 s: EC2 takes about 10 s to create and attach an ENI.
    pub add_wait: Duration,
    /// Between two decreases, so that a rolling update does not release what it needs a moment later. Default 30 s, as
    /// amazon-vpc-cni-k8s.
    pub shrink_spacing: Duration,
    /// How long an ENI is kept at least. Default 60 s, as amazon-vpc-cni-k8s.
    pub eni_life_min: Duration,
    /// How long attaching or setting up an ENI may fail before the ENI is replaced. Default 3 min: links were seen to appear
    /// 150 s after the attachment.
    pub eni_ready_max: Duration,
    /// How long an action may take before it counts as unanswered, at least 10 s. Default 5 min. Keep it above the longest
    /// that an executor waits for EC2.
    pub answer_max: Duration,
    /// How long EC2 may go on showing what was before a change. Default 60 s, as amazon-vpc-cni-k8s.
    #[cfg_attr(feature = "serde", serde(rename = "settle"))]
    pub eventual_consistency: Duration,
    /// After a subnet ran out of addresses, at least 1 s. Default 120 s, as amazon-vpc-cni-k8s.
    pub subnet_backoff: Duration,
    /// Between detaching an ENI and deleting it. Default 2 s, as amazon-vpc-cni-k8s.
    #[cfg_attr(feature = "serde", serde(rename = "detach_settle"))]
    pub detach_wait: Duration,
    /// Between two questions to EC2 about an ENI on which sources disagree, at least 1 s. Default 5 s.
    pub describe_spacing: Duration,
    /// Between two readings of the metadata, at least 1 s. Default 60 s, as amazon-vpc-cni-k8s.
    pub imds_every: Duration,
    /// Between two unprompted readings of EC2, at least 1 s. Default 30 min.
    pub ec2_every: Duration,
    /// How old the list of subnets may be when addresses are asked for, at least 1 s. Default 5 min.
    pub subnets_age_max: Duration,
}

setters!(Timing {
    with_add_wait add_wait: Duration,
    with_shrink_spacing shrink_spacing: Duration,
    with_eni_life_min eni_life_min: Duration,
    with_eni_ready_max eni_ready_max: Duration,
    with_answer_max answer_max: Duration,
    with_eventual_consistency eventual_consistency: Duration,
    with_subnet_backoff subnet_backoff: Duration,
    with_detach_wait detach_wait: Duration,
    with_describe_spacing describe_spacing: Duration,
    with_imds_every imds_every: Duration,
    with_ec2_every ec2_every: Duration,
    with_subnets_age_max subnets_age_max: Duration,
});

impl Default for Timing {
    fn default() -> Self {
        Self {
            add_wait: Duration::from_secs(30),
            shrink_spacing: Duration::from_secs(30),
            eni_life_min: Duration::from_secs(60),
            eni_ready_max: Duration::from_secs(180),
            answer_max: Duration::from_secs(5 * 60),
            eventual_consistency: Duration::from_secs(60),
            subnet_backoff: Duration::from_secs(120),
            detach_wait: Duration::from_secs(2),
            describe_spacing: Duration::from_secs(5),
            imds_every: Duration::from_secs(60),
            ec2_every: Duration::from_secs(30 * 60),
            subnets_age_max: Duration::from_secs(5 * 60),
        }
    }
}

impl Timing {
    /// Returns times that can be followed and added up.
    pub(crate) fn usable(self) -> Self {
        const LEAST: Duration = Duration::from_secs(1);
        let most = |time: Duration| time.min(TIME_MAX);
        let within = |time: Duration| most(time).max(LEAST);
        Self {
            add_wait: most(self.add_wait),
            shrink_spacing: most(self.shrink_spacing),
            eni_life_min: most(self.eni_life_min),
            eni_ready_max: most(self.eni_ready_max),
            answer_max: most(self.answer_max).max(Duration::from_secs(10)),
            eventual_consistency: most(self.eventual_consistency),
            subnet_backoff: within(self.subnet_backoff),
            detach_wait: most(self.detach_wait),
            describe_spacing: within(self.describe_spacing),
            imds_every: within(self.imds_every),
            ec2_every: within(self.ec2_every),
            subnets_age_max: within(self.subnets_age_max),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::from_vars(core::iter::empty::<(String, String)>()).0
    }
}

/// Ten years: times up to this can be added to any point in time that a node lives to see.
const TIME_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Config {
    /// Returns a configuration whose times can be added up, and in which a bound of 0 ENIs is none.
    pub(crate) fn usable(self) -> Self {
        let cooling = match self.cooling {
            Cooling::ReadyWithin(horizon) => Cooling::ReadyWithin(horizon.min(TIME_MAX)),
            Cooling::All => Cooling::All,
        };
        let cooldown = self.cooldown.min(TIME_MAX);
        let enis_max = self.enis_max.filter(|most| *most > 0);
        Self { timing: self.timing.usable(), cooldown, cooling, enis_max, ..self }
    }

    /// Returns what counts on a card: the configured target on card 0, one warm address on the others, as amazon-vpc-cni-k8s. What is
    /// beyond all that ENIs of the type can hold counts as that.
    pub(crate) fn target_of(&self, card: Card, limits: &Limits) -> WarmTarget {
        match card {
            Card(0) => self.target.bounded(limits),
            Card(_) => WarmTarget::Ips { warm: 1, minimum: 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eni_config_is_named_by_label_annotation_or_default() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        const EXTERNAL: &str = "vpc.amazonaws.com/externalEniConfig";
        const KEY: &str = "k8s.amazonaws.com/eniConfig";
        let cases: [(&[(&str, &str)], &[(&str, &str)], &str); 5] = [
            (&[], &[], "default"),
            (&[(KEY, "l")], &[], "l"),
            (&[(KEY, "l")], &[(KEY, "a")], "a"),
            (&[(KEY, "l")], &[(KEY, "")], ""),
            (&[(EXTERNAL, "x"), (KEY, "l")], &[(KEY, "a")], "x"),
        ];
        for (labels, annotations, expected) in cases {
            let keys = Config::default().eni_config_keys;
            let (labels, annotations) = (map(labels), map(annotations));
            assert_eq!(keys.name(&labels, &annotations), expected, "{labels:?} {annotations:?}");
        }
    }
}
