//! What the operator wants.

pub(crate) mod overrides;
pub(crate) mod vars;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use crate::model::action::PREFIX_SIZE;
use crate::{Card, ConfigProblem, ConfigWarning, Limits, SecurityGroupId, SubnetId, Vars};

/// What the operator wants of a node's addresses. Every combination of fields is usable.
///
/// [`Config::default`] is what a node gets on which no variable is set; [`Config::from_vars`] reads the variables of
/// amazon-vpc-cni-k8s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Config {
    /// Which addresses pods get: `ENABLE_IPv4`, `ENABLE_IPv6`, `ENABLE_PREFIX_DELEGATION`.
    pub families: Families,
    /// How much to hold ready.
    pub target: WarmTarget,
    /// The most ENIs of one network card, the primary and those we do not manage included: `MAX_ENI`. `None` leaves the
    /// instance type's limit.
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

/// Which addresses a pod gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Families {
    /// An IPv4 address.
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
pub struct EniConfig {
    /// The subnet, in the node's zone.
    pub subnet: SubnetId,
    /// The security groups; empty takes those of the primary ENI.
    #[cfg_attr(feature = "serde", serde(default))]
    pub security_groups: Vec<SecurityGroupId>,
}

/// Where a Kubernetes node names its ENIConfig: `ENI_CONFIG_ANNOTATION_DEF`, `ENI_CONFIG_LABEL_DEF`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    pub settle: Duration,
    /// After a subnet ran out of addresses, at least 1 s. Default 120 s, as amazon-vpc-cni-k8s.
    pub subnet_backoff: Duration,
    /// Between detaching an ENI and deleting it. Default 2 s, as amazon-vpc-cni-k8s.
    pub detach_settle: Duration,
    /// Between two questions to EC2 about an ENI on which sources disagree, at least 1 s. Default 5 s.
    pub describe_spacing: Duration,
    /// Between two readings of the metadata, at least 1 s. Default 60 s, as amazon-vpc-cni-k8s.
    pub imds_every: Duration,
    /// Between two unprompted readings of EC2, at least 1 s. Default 30 min.
    pub ec2_every: Duration,
    /// How old the list of subnets may be when addresses are asked for, at least 1 s. Default 5 min.
    pub subnets_age_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            add_wait: Duration::from_secs(30),
            shrink_spacing: Duration::from_secs(30),
            eni_life_min: Duration::from_secs(60),
            eni_ready_max: Duration::from_secs(180),
            answer_max: Duration::from_secs(5 * 60),
            settle: Duration::from_secs(60),
            subnet_backoff: Duration::from_secs(120),
            detach_settle: Duration::from_secs(2),
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
            settle: most(self.settle),
            subnet_backoff: within(self.subnet_backoff),
            detach_settle: most(self.detach_settle),
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
const COOLDOWN_SECS: i64 = 30;
/// A day: longer than any connection tracker remembers.
const COOLDOWN_SECS_MAX: i64 = 86_400;
/// What a new address takes at most when EC2 answers as it usually does.
const NEW_ADDRESS_SECS: u64 = 10;

impl Config {
    /// Returns a configuration whose times can be added up.
    pub(crate) fn usable(self) -> Self {
        let cooling = match self.cooling {
            Cooling::ReadyWithin(horizon) => Cooling::ReadyWithin(horizon.min(TIME_MAX)),
            Cooling::All => Cooling::All,
        };
        let cooldown = self.cooldown.min(TIME_MAX);
        Self { timing: self.timing.usable(), cooldown, cooling, ..self }
    }

    /// Returns what counts on a card: the configured target on card 0, one warm address on the others, as amazon-vpc-cni-k8s. What is
    /// beyond all that ENIs of the type can hold counts as that.
    pub(crate) fn target_of(&self, card: Card, limits: &Limits) -> WarmTarget {
        match card {
            Card(0) => self.target.bounded(limits),
            Card(_) => WarmTarget::Ips { warm: 1, minimum: 1 },
        }
    }

    /// Reads amazon-vpc-cni-k8s' variables. Others are left alone; what cannot be used, or has no effect, is noted.
    ///
    /// ```
    /// use vpc_ipam_core::{Config, WarmTarget};
    ///
    /// let (config, warnings) = Config::from_vars([("WARM_ENI_TARGET", "2"), ("WARM_IP_TARGET", "5")]);
    /// assert_eq!(config.target, WarmTarget::Ips { warm: 5, minimum: 0 });
    /// assert_eq!(
    ///     warnings[0].to_string(),
    ///     "WARM_ENI_TARGET=\"2\": has no effect while WARM_IP_TARGET is set"
    /// );
    /// ```
    pub fn from_vars<N: Into<String>, V: Into<String>>(
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> (Self, Vec<ConfigWarning>) {
        let mut vars = Vars::new(vars);
        let families = families(&mut vars);
        let imds_only = vars.boolean("ENABLE_IMDS_ONLY_MODE", false);
        let no_provisioning = vars.boolean("DISABLE_NETWORK_RESOURCE_PROVISIONING", imds_only);
        let mtu_min = if families.ipv6() { 1280 } else { 576 };

        let config = Self {
            families,
            target: target(&mut vars, families),
            enis_max: enis_max(&mut vars),
            pods_max: None,
            cooldown: cooldown(&mut vars),
            cooling: Cooling::ReadyWithin(Duration::from_secs(NEW_ADDRESS_SECS)),
            // The range fits an u16.
            eni_mtu: vars.clamped("AWS_VPC_ENI_MTU", mtu_min..=9001, 9001) as u16,
            provisioning: !no_provisioning && !imds_only,
            ec2_reads: !imds_only,
            manage_unschedulable: vars.boolean("AWS_MANAGE_ENIS_NON_SCHEDULABLE", false),
            custom_networking: vars.boolean("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false),
            eni_config_keys: EniConfigKeys {
                annotation: vars
                    .text("ENI_CONFIG_ANNOTATION_DEF")
                    .unwrap_or(EniConfigKeys::DEFAULT)
                    .into(),
                label: vars.text("ENI_CONFIG_LABEL_DEF").unwrap_or(EniConfigKeys::DEFAULT).into(),
            },
            trunk: vars.boolean("ENABLE_POD_ENI", false),
            multi_nic: vars.boolean("ENABLE_MULTI_NIC", false),
            manage_untagged: vars.boolean("MANAGE_UNTAGGED_ENI", true),
            subnet_discovery: vars.boolean("ENABLE_SUBNET_DISCOVERY", true),
            cluster: vars.text("CLUSTER_NAME").map(ToString::to_string),
            eni_tags: BTreeMap::new(),
            timing: Timing::default(),
        };
        note_contradictions(&config, imds_only, no_provisioning, &mut vars);
        (config, vars.into_warnings())
    }

    /// Returns what an instance type cannot follow and what is done instead; an unusable configuration is
    /// [`Ipam::new`](crate::Ipam::new)'s to refuse.
    ///
    /// ```
    /// use vpc_ipam_core::{Config, Limits};
    ///
    /// let (config, _) = Config::from_vars([("ENABLE_PREFIX_DELEGATION", "true")]);
    /// let warnings = config.warnings_on(&Limits::lookup("m4.4xlarge".parse()?)?);
    /// assert_eq!(
    ///     warnings[0].to_string(),
    ///     "ENABLE_PREFIX_DELEGATION=\"true\": the instance type takes no prefixes; single addresses are used"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn warnings_on(&self, limits: &Limits) -> Vec<ConfigWarning> {
        let mut warnings = Vec::new();
        let mut advise = |variable, value: String, advice| {
            warnings.push(ConfigWarning {
                variable,
                value: Some(value),
                problem: ConfigProblem::Advice(advice),
            });
        };
        if self.families.ipv4() == Some(Ipv4Kind::Prefixes) && !limits.prefixes() {
            let advice = "the instance type takes no prefixes; single addresses are used";
            advise("ENABLE_PREFIX_DELEGATION", "true".into(), advice);
        }
        if let Some(most) = self.enis_max.filter(|most| *most > limits.enis(limits.default_card)) {
            let advice = "the instance type takes fewer ENIs; its own limit counts";
            advise("MAX_ENI", most.to_string(), advice);
        }
        if self.target.bounded(limits) != self.target {
            let (variable, value) = self.target.largest();
            let advice = "more than the ENIs of the instance type can hold: the node takes all that it can get";
            advise(variable, value.to_string(), advice);
        }
        if self.trunk && limits.branch_enis == Some(0) {
            let advice = "the instance type takes no trunk; no ENI is kept for one";
            advise("ENABLE_POD_ENI", "true".into(), advice);
        }
        if self.multi_nic && limits.enis_per_card.len() < 2 {
            let advice = "the instance type has one network card";
            advise("ENABLE_MULTI_NIC", "true".into(), advice);
        }
        warnings
    }
}

/// Notes settings that are each usable and together probably not what is meant.
fn note_contradictions(config: &Config, imds_only: bool, no_provisioning: bool, vars: &mut Vars) {
    if imds_only && !no_provisioning {
        let by = "ENABLE_IMDS_ONLY_MODE";
        overridden(vars, "DISABLE_NETWORK_RESOURCE_PROVISIONING", by);
    }
    if !config.provisioning {
        let by = if imds_only {
            "ENABLE_IMDS_ONLY_MODE"
        } else {
            "DISABLE_NETWORK_RESOURCE_PROVISIONING"
        };
        let acquiring = [
            "WARM_ENI_TARGET",
            "WARM_IP_TARGET",
            "MINIMUM_IP_TARGET",
            "WARM_PREFIX_TARGET",
            "MAX_ENI",
            "AWS_MANAGE_ENIS_NON_SCHEDULABLE",
        ];
        acquiring.into_iter().for_each(|name| overridden(vars, name, by));
    }
    if imds_only && !config.manage_untagged {
        vars.warn(
            "MANAGE_UNTAGGED_ENI",
            ConfigProblem::Advice(
                "IMDS shows no tags, so with ENABLE_IMDS_ONLY_MODE no ENI but the primary one is managed; set it to true",
            ),
        );
    }
    if config.custom_networking {
        overridden(vars, "ENABLE_SUBNET_DISCOVERY", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG");
        if config.families == Families::Ipv6 {
            vars.warn(
                "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
                ConfigProblem::Advice(
                    "does not go together with ENABLE_IPv6: the node will not start",
                ),
            );
        }
    } else {
        for name in ["ENI_CONFIG_ANNOTATION_DEF", "ENI_CONFIG_LABEL_DEF"] {
            if vars.text(name).is_some() {
                vars.warn(
                    name,
                    ConfigProblem::Advice(
                        "has no effect without AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
                    ),
                );
            }
        }
    }
    let not_for_pods = u8::from(config.custom_networking) + u8::from(config.trunk);
    if config.provisioning && config.enis_max.is_some_and(|most| most <= not_for_pods) {
        vars.warn(
            "MAX_ENI",
            ConfigProblem::Advice(
                "leaves no ENI for pods: AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG keeps the primary one from them, and \
                 ENABLE_POD_ENI keeps one for a trunk",
            ),
        );
    }
}

fn overridden(vars: &mut Vars, name: &'static str, by: &'static str) {
    if vars.text(name).is_some() {
        vars.warn(name, ConfigProblem::Overridden { by });
    }
}

fn families(vars: &mut Vars) -> Families {
    let ipv6 = vars.boolean("ENABLE_IPv6", false);
    // amazon-vpc-cni-k8s' code says false; its manifest, and everybody, says true.
    let ipv4 = vars.boolean("ENABLE_IPv4", !ipv6);
    let prefixes = vars.boolean("ENABLE_PREFIX_DELEGATION", false);
    let kind = if prefixes { Ipv4Kind::Prefixes } else { Ipv4Kind::Addresses };
    match (ipv4, ipv6) {
        (true, false) => Families::Ipv4(kind),
        (false, true) => {
            if !prefixes && vars.text("ENABLE_PREFIX_DELEGATION").is_some() {
                let by = "ENABLE_IPv6";
                vars.warn("ENABLE_PREFIX_DELEGATION", ConfigProblem::Overridden { by });
            }
            Families::Ipv6
        }
        (true, true) => Families::Dual(kind),
        (false, false) => {
            let problem = ConfigProblem::Unusable {
                expected: "true, or ENABLE_IPv6=true",
                used: "true: pods need an address".into(),
            };
            vars.warn("ENABLE_IPv4", problem);
            Families::Ipv4(kind)
        }
    }
}

/// Settles which of the overlapping variables counts: `WARM_IP_TARGET` and `MINIMUM_IP_TARGET` before all, then
/// `WARM_PREFIX_TARGET` where prefixes are on, `WARM_ENI_TARGET` where they are off.
fn target(vars: &mut Vars, families: Families) -> WarmTarget {
    let counts = 0..=i64::from(u32::MAX);
    let mut count = |name, default: u32, used| {
        let value = vars.integer(name, counts.clone(), used);
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    let enis = count("WARM_ENI_TARGET", 1, "1");
    let warm = count("WARM_IP_TARGET", 0, "no target");
    let minimum = count("MINIMUM_IP_TARGET", 0, "no target");
    let prefixes = count("WARM_PREFIX_TARGET", 0, "0");

    if families == Families::Ipv6 {
        let all = ["WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET"];
        for name in all {
            overridden(vars, name, "ENABLE_IPv6");
        }
        return WarmTarget::Prefixes(0);
    }
    let with_prefixes = families.ipv4() == Some(Ipv4Kind::Prefixes);
    if warm == 0 && vars.text("WARM_IP_TARGET") == Some("0") {
        vars.warn(
            "WARM_IP_TARGET",
            ConfigProblem::Advice("0 means not set: it keeps no other target from counting"),
        );
    }
    if warm != 0 || minimum != 0 {
        let by = if warm != 0 { "WARM_IP_TARGET" } else { "MINIMUM_IP_TARGET" };
        overridden(vars, "WARM_ENI_TARGET", by);
        overridden(vars, "WARM_PREFIX_TARGET", by);
        if warm == 0 {
            vars.warn(
                "MINIMUM_IP_TARGET",
                ConfigProblem::Advice(
                    "without WARM_IP_TARGET no address is held ready once that many pods run, so each further pod waits \
                     for EC2; set WARM_IP_TARGET to 1 or more",
                ),
            );
        } else if (1..=warm).contains(&minimum) {
            vars.warn(
                "MINIMUM_IP_TARGET",
                ConfigProblem::Advice(
                    "has no effect: WARM_IP_TARGET free addresses are never fewer in all; it counts when it is larger",
                ),
            );
        }
        WarmTarget::Ips { warm, minimum }
    } else if with_prefixes {
        overridden(vars, "WARM_ENI_TARGET", "ENABLE_PREFIX_DELEGATION");
        if vars.text("WARM_PREFIX_TARGET").is_none() {
            vars.warn(
                "WARM_PREFIX_TARGET",
                ConfigProblem::Advice(
                    "only one free address is held ready; amazon-vpc-cni-k8s' manifest sets 1, which holds a whole prefix ready",
                ),
            );
        }
        WarmTarget::Prefixes(prefixes)
    } else {
        if vars.text("WARM_PREFIX_TARGET").is_some() && prefixes != 0 {
            vars.warn(
                "WARM_PREFIX_TARGET",
                ConfigProblem::Advice("has no effect without ENABLE_PREFIX_DELEGATION"),
            );
        }
        WarmTarget::Enis(enis)
    }
}

fn enis_max(vars: &mut Vars) -> Option<u8> {
    let value = vars.integer("MAX_ENI", 1..=i64::MAX, "the instance type's limit")?;
    // No network card takes as many as 255, so a larger number limits nothing.
    u8::try_from(value).ok()
}

fn cooldown(vars: &mut Vars) -> Duration {
    let secs =
        vars.integer("IP_COOLDOWN_PERIOD", 0..=COOLDOWN_SECS_MAX, "30").unwrap_or(COOLDOWN_SECS);
    if secs < COOLDOWN_SECS {
        vars.warn(
            "IP_COOLDOWN_PERIOD",
            ConfigProblem::Advice(
                "shorter than 30 s: late packets of a gone pod may reach the next owner of its address",
            ),
        );
    }
    Duration::from_secs(secs.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors V017 to V023 and V146 to V173.
    #[test]
    fn variables_are_read_as_the_peer_reads_them() {
        let ips = |warm, minimum| WarmTarget::Ips { warm, minimum };
        let cases: [(&[(&str, &str)], WarmTarget); 14] = [
            (&[], WarmTarget::Enis(1)),
            (&[("WARM_ENI_TARGET", "-2")], WarmTarget::Enis(1)),
            (&[("WARM_ENI_TARGET", "0")], WarmTarget::Enis(0)),
            (&[("WARM_ENI_TARGET", "abc")], WarmTarget::Enis(1)),
            (&[("WARM_ENI_TARGET", "3"), ("WARM_IP_TARGET", "10")], ips(10, 0)),
            (&[("WARM_IP_TARGET", "5")], ips(5, 0)),
            (&[("WARM_IP_TARGET", "non-integer")], WarmTarget::Enis(1)),
            (&[("WARM_IP_TARGET", "-3")], WarmTarget::Enis(1)),
            (&[("WARM_IP_TARGET", " 5")], WarmTarget::Enis(1)),
            (&[("WARM_IP_TARGET", "5.0")], WarmTarget::Enis(1)),
            (&[("WARM_IP_TARGET", "0"), ("MINIMUM_IP_TARGET", "10")], ips(0, 10)),
            (&[("MINIMUM_IP_TARGET", "-1")], WarmTarget::Enis(1)),
            (
                &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "-1")],
                WarmTarget::Prefixes(0),
            ),
            (&[("WARM_PREFIX_TARGET", "1")], WarmTarget::Enis(1)),
        ];
        for (vars, expected) in cases {
            let (config, _) = Config::from_vars(vars.iter().copied());
            assert_eq!(config.target, expected, "{vars:?}");
        }

        for (value, expected) in [
            ("", None),
            ("0", None),
            ("-1", None),
            ("3", Some(3)),
            ("8", Some(8)),
            ("20", Some(20)),
            ("abc", None),
        ] {
            let (config, _) = Config::from_vars([("MAX_ENI", value)]);
            assert_eq!(config.enis_max, expected, "MAX_ENI={value}");
        }

        for (value, expected) in [("", 30), ("abc", 30), ("0", 0), ("-5", 30), ("45", 45)] {
            let (config, _) = Config::from_vars([("IP_COOLDOWN_PERIOD", value)]);
            assert_eq!(config.cooldown.as_secs(), expected, "IP_COOLDOWN_PERIOD={value}");
        }
    }

    #[test]
    fn mtu_is_clamped_and_the_clamping_noted() {
        for (value, expected, warnings) in
            [("", 9001, 0), ("1500", 1500, 0), ("100", 576, 1), ("65536", 9001, 1), ("x", 9001, 1)]
        {
            let (config, actual) = Config::from_vars([("AWS_VPC_ENI_MTU", value)]);
            assert_eq!(config.eni_mtu, expected, "AWS_VPC_ENI_MTU={value}");
            assert_eq!(actual.len(), warnings, "AWS_VPC_ENI_MTU={value}: {actual:?}");
        }
        let (config, _) = Config::from_vars([("AWS_VPC_ENI_MTU", "576"), ("ENABLE_IPv6", "true")]);
        assert_eq!(config.eni_mtu, 1280);
    }

    /// Vectors V146 to V165: each variable alone, its value, what it makes of the default, and whether that is noted.
    #[test]
    fn each_variable_changes_what_it_names() {
        let default = Config::default;
        let cases: [(&str, &str, Config, usize); 36] = [
            ("NOT_OURS", "x", default(), 0),
            ("ENABLE_PREFIX_DELEGATION", "true", prefixes(0), 1),
            ("ENABLE_PREFIX_DELEGATION", "yes", default(), 1),
            (
                "ENABLE_IPv6",
                "true",
                Config { families: Families::Ipv6, target: WarmTarget::Prefixes(0), ..default() },
                0,
            ),
            ("ENABLE_IPv4", "true", default(), 0),
            ("MAX_ENI", "3", Config { enis_max: Some(3), ..default() }, 0),
            // As large as EC2 allows nowhere: no limit.
            ("MAX_ENI", "300", default(), 0),
            ("MAX_ENI", "0", default(), 1),
            ("MAX_ENI", "-1", default(), 1),
            ("MAX_ENI", "abc", default(), 1),
            ("IP_COOLDOWN_PERIOD", "45", Config { cooldown: secs(45), ..default() }, 0),
            ("IP_COOLDOWN_PERIOD", "0", Config { cooldown: secs(0), ..default() }, 1),
            ("IP_COOLDOWN_PERIOD", "-5", default(), 1),
            ("IP_COOLDOWN_PERIOD", "86401", default(), 1),
            ("AWS_VPC_ENI_MTU", "1500", Config { eni_mtu: 1500, ..default() }, 0),
            ("AWS_VPC_ENI_MTU", "575", Config { eni_mtu: 576, ..default() }, 1),
            ("AWS_VPC_ENI_MTU", "9002", default(), 1),
            ("AWS_VPC_ENI_MTU", "", default(), 0),
            (
                "DISABLE_NETWORK_RESOURCE_PROVISIONING",
                "true",
                Config { provisioning: false, ..default() },
                0,
            ),
            (
                "ENABLE_IMDS_ONLY_MODE",
                "true",
                Config { provisioning: false, ec2_reads: false, ..default() },
                0,
            ),
            (
                "AWS_MANAGE_ENIS_NON_SCHEDULABLE",
                "true",
                Config { manage_unschedulable: true, ..default() },
                0,
            ),
            (
                "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
                "true",
                Config { custom_networking: true, ..default() },
                0,
            ),
            ("ENABLE_POD_ENI", "true", Config { trunk: true, ..default() }, 0),
            ("ENABLE_MULTI_NIC", "true", Config { multi_nic: true, ..default() }, 0),
            ("MANAGE_UNTAGGED_ENI", "false", Config { manage_untagged: false, ..default() }, 0),
            ("MANAGE_UNTAGGED_ENI", "TrUe", default(), 1),
            (
                "ENABLE_SUBNET_DISCOVERY",
                "false",
                Config { subnet_discovery: false, ..default() },
                0,
            ),
            ("CLUSTER_NAME", "blue", Config { cluster: Some("blue".into()), ..default() }, 0),
            ("CLUSTER_NAME", "", default(), 0),
            (
                "WARM_IP_TARGET",
                "5",
                Config { target: WarmTarget::Ips { warm: 5, minimum: 0 }, ..default() },
                0,
            ),
            ("WARM_IP_TARGET", "0", default(), 1),
            ("WARM_IP_TARGET", "4294967296", default(), 1),
            ("WARM_IP_TARGET", "99999999999999999999", default(), 1),
            ("WARM_PREFIX_TARGET", "non-integer", default(), 1),
            (
                "ENI_CONFIG_LABEL_DEF",
                "zone",
                Config {
                    eni_config_keys: EniConfigKeys {
                        label: "zone".into(),
                        ..default().eni_config_keys
                    },
                    ..default()
                },
                1,
            ),
            (
                "ENI_CONFIG_ANNOTATION_DEF",
                "mine",
                Config {
                    eni_config_keys: EniConfigKeys {
                        annotation: "mine".into(),
                        ..default().eni_config_keys
                    },
                    ..default()
                },
                1,
            ),
        ];
        for (name, value, expected, noted) in cases {
            let (actual, warnings) = Config::from_vars([(name, value)]);
            assert_eq!(actual, expected, "{name}={value}");
            // Advice may be about a variable that is not set.
            let about = warnings.iter().filter(|warning| {
                warning.variable == name || matches!(warning.problem, ConfigProblem::Advice(_))
            });
            assert_eq!(about.count(), noted, "{name}={value}: {warnings:?}");
            for warning in warnings.iter().filter(|warning| warning.variable == name) {
                assert_eq!(warning.value.as_deref(), Some(value), "{name}={value}");
            }
        }
    }

    fn prefixes(target: u32) -> Config {
        Config {
            families: Families::Ipv4(Ipv4Kind::Prefixes),
            target: WarmTarget::Prefixes(target),
            ..Config::default()
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Settings that are each usable, and what an operator reads of them together, word for word.
    #[test]
    fn contradictory_settings_are_noted_with_advice() {
        let cases: [(&[(&str, &str)], &[&str]); 16] = [
            (
                &[("WARM_ENI_TARGET", "1"), ("WARM_IP_TARGET", "5")],
                &["WARM_ENI_TARGET=\"1\": has no effect while WARM_IP_TARGET is set"],
            ),
            (
                &[("WARM_IP_TARGET", "0"), ("WARM_ENI_TARGET", "2")],
                &["WARM_IP_TARGET=\"0\": 0 means not set: it keeps no other target from counting"],
            ),
            (
                &[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "5")],
                &[
                    "MINIMUM_IP_TARGET=\"5\": has no effect: WARM_IP_TARGET free addresses are never fewer in all; it \
                     counts when it is larger",
                ],
            ),
            (&[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "6")], &[]),
            (
                &[("MINIMUM_IP_TARGET", "10")],
                &[
                    "MINIMUM_IP_TARGET=\"10\": without WARM_IP_TARGET no address is held ready once that many pods run, \
                     so each further pod waits for EC2; set WARM_IP_TARGET to 1 or more",
                ],
            ),
            (
                &[("WARM_PREFIX_TARGET", "1")],
                &["WARM_PREFIX_TARGET=\"1\": has no effect without ENABLE_PREFIX_DELEGATION"],
            ),
            (
                &[("ENABLE_PREFIX_DELEGATION", "true")],
                &[
                    "WARM_PREFIX_TARGET unset: only one free address is held ready; amazon-vpc-cni-k8s' manifest sets 1, which \
                     holds a whole prefix ready",
                ],
            ),
            (
                &[("ENABLE_IPv4", "false")],
                &[
                    "ENABLE_IPv4=\"false\": expected true, or ENABLE_IPv6=true; using true: pods need an address",
                ],
            ),
            (
                &[("ENABLE_IPv6", "true"), ("WARM_IP_TARGET", "5")],
                &["WARM_IP_TARGET=\"5\": has no effect while ENABLE_IPv6 is set"],
            ),
            (
                &[("ENABLE_IPv6", "true"), ("ENABLE_PREFIX_DELEGATION", "false")],
                &["ENABLE_PREFIX_DELEGATION=\"false\": has no effect while ENABLE_IPv6 is set"],
            ),
            (
                &[
                    ("ENABLE_IMDS_ONLY_MODE", "true"),
                    ("DISABLE_NETWORK_RESOURCE_PROVISIONING", "false"),
                ],
                &[
                    "DISABLE_NETWORK_RESOURCE_PROVISIONING=\"false\": has no effect while ENABLE_IMDS_ONLY_MODE is set",
                ],
            ),
            (
                &[("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true"), ("WARM_IP_TARGET", "5")],
                &[
                    "WARM_IP_TARGET=\"5\": has no effect while DISABLE_NETWORK_RESOURCE_PROVISIONING is set",
                ],
            ),
            (
                &[("ENABLE_IMDS_ONLY_MODE", "true"), ("MANAGE_UNTAGGED_ENI", "false")],
                &[
                    "MANAGE_UNTAGGED_ENI=\"false\": IMDS shows no tags, so with ENABLE_IMDS_ONLY_MODE no ENI but the \
                     primary one is managed; set it to true",
                ],
            ),
            (
                &[
                    ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
                    ("ENABLE_SUBNET_DISCOVERY", "true"),
                ],
                &[
                    "ENABLE_SUBNET_DISCOVERY=\"true\": has no effect while AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG is set",
                ],
            ),
            (
                &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("ENABLE_IPv6", "true")],
                &[
                    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=\"true\": does not go together with ENABLE_IPv6: the node will \
                     not start",
                ],
            ),
            (
                &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("MAX_ENI", "1")],
                &[
                    "MAX_ENI=\"1\": leaves no ENI for pods: AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG keeps the primary one \
                     from them, and ENABLE_POD_ENI keeps one for a trunk",
                ],
            ),
        ];
        for (vars, expected) in cases {
            let (_, warnings) = Config::from_vars(vars.iter().copied());
            let actual: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            assert_eq!(actual, expected, "{vars:?}");
        }
    }

    /// Vectors V017 to V023 and V185.
    #[test]
    fn what_a_type_cannot_follow_is_noted() {
        let cases: [(&str, &[(&str, &str)], &[&str]); 7] = [
            ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true")], &[]),
            ("m5.metal", &[("ENABLE_PREFIX_DELEGATION", "true")], &[]),
            ("m4.4xlarge", &[("ENABLE_PREFIX_DELEGATION", "true")], &["ENABLE_PREFIX_DELEGATION"]),
            ("m4.4xlarge", &[("MAX_ENI", "8")], &[]),
            ("m4.4xlarge", &[("MAX_ENI", "20")], &["MAX_ENI"]),
            ("t3.large", &[("ENABLE_POD_ENI", "true")], &["ENABLE_POD_ENI"]),
            ("m5.large", &[("ENABLE_MULTI_NIC", "true")], &["ENABLE_MULTI_NIC"]),
        ];
        for (name, vars, expected) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            let warnings = Config::from_vars(vars.iter().copied()).0.warnings_on(&limits);
            let actual: Vec<_> = warnings.iter().map(|warning| warning.variable).collect();
            assert_eq!(actual, expected, "{name} {vars:?}");
        }
    }

    #[test]
    fn eni_config_is_named_by_label_annotation_or_default() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
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

    #[test]
    fn both_families_make_dual_stack() {
        let (config, _) = Config::from_vars([("ENABLE_IPv4", "true"), ("ENABLE_IPv6", "true")]);
        assert_eq!(config.families, Families::Dual(Ipv4Kind::Addresses));
        let (config, _) = Config::from_vars([("ENABLE_IPv6", "true")]);
        assert_eq!(config.families, Families::Ipv6);
    }
}
