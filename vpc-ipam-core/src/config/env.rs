//! The configuration that environment variables make.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use crate::{
    Config, ConfigProblem, ConfigWarning, Cooling, EniConfigKeys, Families, Ipv4Kind, Timing, Vars,
    WarmTarget,
};

const COOLDOWN_SECS: i64 = 30;
/// A day: longer than any connection tracker remembers.
const COOLDOWN_SECS_MAX: i64 = 86_400;
/// What a new address takes at most when EC2 answers as it usually does.
const NEW_ADDRESS_SECS: u64 = 10;

impl Config {
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
    note_custom_networking(config, vars);
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

/// Notes what has no effect with, or without, custom networking.
fn note_custom_networking(config: &Config, vars: &mut Vars) {
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
}

fn overridden(vars: &mut Vars, name: &'static str, by: &'static str) {
    if vars.text(name).is_some() {
        vars.warn(name, ConfigProblem::Overridden { by });
    }
}

fn families(vars: &mut Vars) -> Families {
    let ipv6 = vars.boolean("ENABLE_IPv6", false);
    // amazon-vpc-cni-k8s' code says false; its manifest, and every installation by it, says true.
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

/// Decides which of the overlapping variables counts: `WARM_IP_TARGET` and `MINIMUM_IP_TARGET` before all, then
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
        note_minimum(warm, minimum, vars);
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

/// Notes a minimum that has no effect, or that leaves nothing ready.
fn note_minimum(warm: u32, minimum: u32, vars: &mut Vars) {
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
    fn variables_are_read_as_aws_cni_reads_them() {
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

    #[test]
    fn both_families_make_dual_stack() {
        let (config, _) = Config::from_vars([("ENABLE_IPv4", "true"), ("ENABLE_IPv6", "true")]);
        assert_eq!(config.families, Families::Dual(Ipv4Kind::Addresses));
        let (config, _) = Config::from_vars([("ENABLE_IPv6", "true")]);
        assert_eq!(config.families, Families::Ipv6);
    }
}
