//! Settings that hold for some nodes only.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Config, EniConfig, Families, InstanceType, Node, SubnetId, WarmTarget, Zone};

/// Settings for the nodes that a selector names.
///
/// With feature `serde` a list of them can be kept in a file, the same for every node of a cluster; each node takes from it
/// what is for itself with [`Config::for_node`].
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use vpc_ipam_core::Override;
///
/// let overrides: Vec<Override> = serde_json::from_str(r#"[
///     {"when": {"families": ["c5", "m5"]}, "set": {"target": {"Ips": {"warm": 5, "minimum": 0}}}},
///     {"when": {"zones": ["eu-west-1a"], "labels": {"team": "batch"}}, "set": {"enis_max": 4}}
/// ]"#)?;
/// # assert_eq!(overrides.len(), 2);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Override {
    /// The nodes that the settings are for.
    pub when: NodeSelector,
    /// What holds for them.
    pub set: ConfigChange,
}

setters!(Override {
    with_when when: NodeSelector,
    with_set set: ConfigChange,
});

/// Which nodes: those that fit everything that is given. One that gives nothing fits every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct NodeSelector {
    /// Instance families, one of which is the node's: `m5` is that of `m5.large`.
    pub families: Vec<String>,
    /// Instance types, one of which is the node's.
    pub types: Vec<InstanceType>,
    /// Availability zones, one of which is the node's.
    pub zones: Vec<Zone>,
    /// Subnets, one of which is that of the node's primary ENI.
    pub subnets: Vec<SubnetId>,
    /// Labels, all of which the node has with these values.
    pub labels: BTreeMap<String, String>,
}

setters!(NodeSelector {
    with_families families: Vec<String>,
    with_types types: Vec<InstanceType>,
    with_zones zones: Vec<Zone>,
    with_subnets subnets: Vec<SubnetId>,
    with_labels labels: BTreeMap<String, String>,
});

/// What holds instead of a [`Config`]'s own fields; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ConfigChange {
    /// [`Config::families`].
    pub families: Option<Families>,
    /// [`Config::target`].
    pub target: Option<WarmTarget>,
    /// [`Config::enis_max`].
    pub enis_max: Option<u8>,
    /// [`Config::pods_max`].
    pub pods_max: Option<u32>,
    /// [`Config::cooldown`], in seconds.
    pub cooldown_secs: Option<u64>,
    /// Where new ENIs go under custom networking; [`EniConfig::for_node`] finds it.
    pub eni_config: Option<EniConfig>,
}

setters!(ConfigChange {
    with_families families: Option<Families>,
    with_target target: Option<WarmTarget>,
    with_enis_max enis_max: Option<u8>,
    with_pods_max pods_max: Option<u32>,
    with_cooldown_secs cooldown_secs: Option<u64>,
    with_eni_config eni_config: Option<EniConfig>,
});

impl NodeSelector {
    /// Returns whether a node with these labels fits.
    pub fn fits(&self, node: &Node, labels: &BTreeMap<String, String>) -> bool {
        fn none_or<T: PartialEq>(listed: &[T], own: &T) -> bool {
            listed.is_empty() || listed.contains(own)
        }
        let family = node.instance_type.family();
        (self.families.is_empty() || self.families.iter().any(|name| name == family))
            && none_or(&self.types, &node.instance_type)
            && none_or(&self.zones, &node.zone)
            && none_or(&self.subnets, &node.subnet)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Config {
    /// Returns what holds for a node.
    ///
    /// Every override that fits the node applies, in the order of the list: of two that set the same field, the later
    /// wins. So write the general ones first.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use vpc_ipam_core::{Config, ConfigChange, NodeSelector, Override, WarmTarget};
    /// # let node = vpc_ipam_core::Node::new(
    /// #     "i-1".parse()?, "m5.large".parse()?, "eu-west-1a".parse()?, "vpc-1".parse()?,
    /// #     "eni-1".parse()?, "subnet-1".parse()?,
    /// # );
    ///
    /// let few = Override::default()
    ///     .with_when(NodeSelector::default().with_families(vec!["m5".into()]))
    ///     .with_set(ConfigChange::default().with_target(Some(WarmTarget::Ips { warm: 2, minimum: 0 })));
    /// let config = Config::default().for_node(&[few], &node, &BTreeMap::new());
    /// assert_eq!(config.target, WarmTarget::Ips { warm: 2, minimum: 0 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn for_node(
        &self,
        overrides: &[Override],
        node: &Node,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let mut config = self.clone();
        for Override { set, .. } in overrides.iter().filter(|o| o.when.fits(node, labels)) {
            let ConfigChange { families, target, enis_max, pods_max, cooldown_secs, eni_config: _ } =
                *set;
            config.families = families.unwrap_or(config.families);
            config.target = target.unwrap_or(config.target);
            config.enis_max = enis_max.or(config.enis_max);
            config.pods_max = pods_max.or(config.pods_max);
            config.cooldown = cooldown_secs.map_or(config.cooldown, Duration::from_secs);
        }
        config
    }
}

impl EniConfig {
    /// Returns where new ENIs of a node go under custom networking, by the last override that fits the node and says so.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use vpc_ipam_core::{ConfigChange, EniConfig, NodeSelector, Override};
    /// # let node = vpc_ipam_core::Node::new(
    /// #     "i-1".parse()?, "m5.large".parse()?, "eu-west-1a".parse()?, "vpc-1".parse()?,
    /// #     "eni-1".parse()?, "subnet-1".parse()?,
    /// # );
    ///
    /// let pods = EniConfig::new("subnet-2".parse()?);
    /// let of_zone = Override::default()
    ///     .with_when(NodeSelector::default().with_zones(vec!["eu-west-1a".parse()?]))
    ///     .with_set(ConfigChange::default().with_eni_config(Some(pods.clone())));
    /// assert_eq!(EniConfig::for_node(&[of_zone], &node, &BTreeMap::new()), Some(pods));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_node(
        overrides: &[Override],
        node: &Node,
        labels: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let fitting = overrides.iter().filter(|it| it.when.fits(node, labels));
        fitting.filter_map(|it| it.set.eni_config.clone()).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn node() -> Node {
        Node {
            instance: "i-1".parse().unwrap(),
            instance_type: "m5.large".parse().unwrap(),
            zone: "eu-west-1a".parse().unwrap(),
            vpc: "vpc-1".parse().unwrap(),
            primary: "eni-1".parse().unwrap(),
            subnet: "subnet-1".parse().unwrap(),
        }
    }

    fn eni_config(subnet: &str) -> EniConfig {
        EniConfig { subnet: subnet.parse().unwrap(), security_groups: Vec::new() }
    }

    fn labels() -> BTreeMap<String, String> {
        [("team".into(), "batch".into()), ("tier".into(), "spot".into())].into()
    }

    #[test]
    fn a_selector_fits_what_fits_all_that_it_gives() {
        let any = NodeSelector::default();
        let families = |names: &[&str]| NodeSelector {
            families: names.iter().map(|name| (*name).into()).collect(),
            ..any.clone()
        };
        let labelled = |pairs: &[(&str, &str)]| NodeSelector {
            labels: pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..any.clone()
        };
        let zone = |zone: &str| NodeSelector { zones: vec![zone.parse().unwrap()], ..any.clone() };
        let subnet = |id: &str| NodeSelector { subnets: vec![id.parse().unwrap()], ..any.clone() };
        let of_type =
            |name: &str| NodeSelector { types: vec![name.parse().unwrap()], ..any.clone() };
        let cases = [
            (any.clone(), true),
            (families(&["m5"]), true),
            (families(&["c5", "m5"]), true),
            (families(&["m5d"]), false),
            (families(&["m"]), false),
            (of_type("m5.large"), true),
            (of_type("m5.xlarge"), false),
            (zone("eu-west-1a"), true),
            (zone("eu-west-1b"), false),
            (subnet("subnet-1"), true),
            (subnet("subnet-2"), false),
            (labelled(&[("team", "batch")]), true),
            (labelled(&[("team", "web")]), false),
            (labelled(&[("team", "batch"), ("tier", "spot")]), true),
            (labelled(&[("team", "batch"), ("rack", "7")]), false),
            (NodeSelector { zones: zone("eu-west-1b").zones, ..families(&["m5"]) }, false),
            (NodeSelector { zones: zone("eu-west-1a").zones, ..families(&["m5"]) }, true),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector.fits(&node(), &labels()), expected, "{selector:?}");
        }
    }

    #[test]
    fn overrides_apply_in_order_and_field_by_field() {
        let ips = |warm| Some(WarmTarget::Ips { warm, minimum: 0 });
        let fits = NodeSelector::default();
        let other = NodeSelector { families: vec!["c5".into()], ..fits.clone() };
        let set = |target, enis_max| ConfigChange { target, enis_max, ..ConfigChange::default() };
        let over = |when: &NodeSelector, set| Override { when: when.clone(), set };
        let base = Config { enis_max: Some(9), ..Config::default() };
        let set_eni_config = |subnet: &str| ConfigChange {
            eni_config: Some(eni_config(subnet)),
            ..ConfigChange::default()
        };
        let cases: [(&[Override], Option<&str>); 4] = [
            (&[], None),
            (&[over(&other, set_eni_config("subnet-2"))], None),
            (
                &[over(&fits, set_eni_config("subnet-2")), over(&fits, set(ips(1), None))],
                Some("subnet-2"),
            ),
            (
                &[over(&fits, set_eni_config("subnet-2")), over(&fits, set_eni_config("subnet-3"))],
                Some("subnet-3"),
            ),
        ];
        for (overrides, subnet) in cases {
            let found = EniConfig::for_node(overrides, &node(), &labels());
            assert_eq!(found, subnet.map(eni_config), "{overrides:?}");
        }
        let cases: [(&[Override], Option<WarmTarget>, Option<u8>); 6] = [
            (&[], Some(base.target), Some(9)),
            (&[over(&other, set(ips(1), Some(1)))], Some(base.target), Some(9)),
            (&[over(&fits, set(ips(1), None))], ips(1), Some(9)),
            (&[over(&fits, set(ips(1), None)), over(&fits, set(ips(2), None))], ips(2), Some(9)),
            (&[over(&fits, set(ips(1), None)), over(&fits, set(None, Some(2)))], ips(1), Some(2)),
            (&[over(&fits, set(ips(1), None)), over(&other, set(ips(2), None))], ips(1), Some(9)),
        ];
        for (overrides, target, enis_max) in cases {
            let config = base.for_node(overrides, &node(), &labels());
            assert_eq!((Some(config.target), config.enis_max), (target, enis_max), "{overrides:?}");
        }
        let all = ConfigChange {
            families: Some(Families::Ipv6),
            pods_max: Some(20),
            cooldown_secs: Some(120),
            ..ConfigChange::default()
        };
        let config = base.for_node(&[over(&fits, all)], &node(), &labels());
        assert_eq!(
            (config.families, config.pods_max, config.cooldown.as_secs()),
            (Families::Ipv6, Some(20), 120)
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_word_that_is_not_known_is_an_error_and_not_ignored() {
        let good =
            r#"{"when": {}, "set": {"target": {"Batch": {"batch": 16, "buffer_percent": 50}}}}"#;
        assert!(serde_json::from_str::<Override>(good).is_ok());
        let good = r#"{"when": {}, "set": {"eni_config": {"subnet": "subnet-2"}}}"#;
        let read: Override = serde_json::from_str(good).unwrap();
        assert_eq!(read.set.eni_config, Some(eni_config("subnet-2")));
        for bad in [
            r#"{"when": {}, "set": {"eni_config": {"subnet": "subnet-2", "groups": []}}}"#,
            r#"{"when": {}, "set": {"eni_config": {}}}"#,
            r#"{"when": {"family": ["m5"]}, "set": {}}"#,
            r#"{"when": {}, "set": {"warm_ip_target": 5}}"#,
            r#"{"when": {}, "set": {}, "then": {}}"#,
        ] {
            assert!(serde_json::from_str::<Override>(bad).is_err(), "{bad}");
        }
    }
}
