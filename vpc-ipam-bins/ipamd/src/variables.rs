//! Every variable that the daemon knows: its own, those of amazon-vpc-cni-k8s, and those of the AWS SDKs.

use core::fmt;
use std::collections::BTreeMap;

/// A variable that an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What counts where it is not set, in words.
    pub default: &'static str,
    /// Whether it does anything here, and when.
    pub effect: Effect,
}

/// What the value of a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, and what Go takes for them.
    Bool,
    /// A whole number.
    Number,
    /// One of several words.
    Word,
    /// Ranges of addresses, with commas between.
    Cidrs,
    /// A JSON object of texts.
    Json,
    /// Any text.
    Text,
    /// A URL.
    Url,
    /// A file, or a word that stands for one.
    File,
}

/// Whether a variable does anything, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// From the next reading of the settings on, at the start and on SIGHUP.
    Reload,
    /// From the next start on.
    Start,
    /// As [`Start`](Self::Start); the AWS SDK reads it, and its value may be a secret.
    Sdk,
    /// None, and why.
    None(&'static str),
}

const fn variable(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
) -> Variable {
    Variable { name, kind, default, effect }
}

const OF_THE_INSTALLATION: &str =
    "scripts/install-node.sh and the runtime's configuration say where files are";
const OF_THE_PLUGIN: &str =
    "the plugin gets it by pluginLogFile and pluginLogLevel of the runtime's configuration";
const OF_EGRESS_PLUGIN: &str = "there is no such plugin: egress is part of vpc-cni";
const NO_KUBERNETES: &str = "vpc-ipamd does not ask Kubernetes";

/// All of them, ordered by name.
pub const KNOWN: &[Variable] = {
    use Effect::{None, Reload, Sdk, Start};
    use Kind::{Bool, Cidrs, File, Json, Number, Text, Url, Word};
    &[
        variable("ADDITIONAL_ENI_TAGS", Json, "none", Reload),
        variable("ALL_PROXY", Url, "none", Sdk),
        variable("ANNOTATE_POD_IP", Bool, "false", None(NO_KUBERNETES)),
        variable("AWS_ACCESS_KEY_ID", Text, "the role of the instance", Sdk),
        variable("AWS_CA_BUNDLE", File, "the system's certificates", Sdk),
        variable(
            "AWS_CLUSTER_ID",
            Text,
            "none",
            None("it is of cni-metrics-helper, which is not part of this"),
        ),
        variable("AWS_CONFIG_FILE", File, "~/.aws/config", Sdk),
        variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", Text, "none", Sdk),
        variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", File, "none", Sdk),
        variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", Url, "none", Sdk),
        variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Text, "none", Sdk),
        variable("AWS_DEFAULT_REGION", Text, "of the instance", Sdk),
        variable("AWS_EC2_ENDPOINT", Url, "of the region", Sdk),
        variable("AWS_EC2_METADATA_DISABLED", Bool, "false", Sdk),
        variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", Url, "169.254.169.254", Sdk),
        variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", Word, "IPv4", Sdk),
        variable("AWS_ENDPOINT_URL", Url, "of the region", Sdk),
        variable("AWS_ENDPOINT_URL_EC2", Url, "of the region", Sdk),
        variable("AWS_EXTERNAL_SERVICE_CIDRS", Cidrs, "none", Start),
        variable("AWS_MANAGE_ENIS_NON_SCHEDULABLE", Bool, "false", Reload),
        variable("AWS_PROFILE", Text, "default", Sdk),
        variable("AWS_REGION", Text, "of the instance", Sdk),
        variable("AWS_ROLE_ARN", Text, "none", Sdk),
        variable("AWS_ROLE_SESSION_NAME", Text, "none", Sdk),
        variable("AWS_SECRET_ACCESS_KEY", Text, "the role of the instance", Sdk),
        variable("AWS_SESSION_TOKEN", Text, "none", Sdk),
        variable("AWS_SHARED_CREDENTIALS_FILE", File, "~/.aws/credentials", Sdk),
        variable("AWS_STS_REGIONAL_ENDPOINTS", Word, "regional", Sdk),
        variable("AWS_USE_DUALSTACK_ENDPOINT", Bool, "false", Sdk),
        variable("AWS_USE_FIPS_ENDPOINT", Bool, "false", Sdk),
        variable("AWS_VPC_CNI_NODE_PORT_SUPPORT", Bool, "true", Start),
        variable("AWS_VPC_ENI_MTU", Number, "9001", Start),
        variable(
            "AWS_VPC_K8S_CNI_BACKING_STORE",
            File,
            "none",
            None("--state names the state file"),
        ),
        variable(
            "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER",
            Bool,
            "none",
            None("rp_filter of the primary ENI is always loose"),
        ),
        variable("AWS_VPC_K8S_CNI_CONNMARK", Number, "0x80", Start),
        variable("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", Bool, "false", Start),
        variable("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", Cidrs, "none", Start),
        variable("AWS_VPC_K8S_CNI_EXTERNALSNAT", Bool, "false", Start),
        variable("AWS_VPC_K8S_CNI_LOGLEVEL", Word, "debug", Start),
        variable("AWS_VPC_K8S_CNI_LOG_FILE", File, "stderr", Start),
        variable("AWS_VPC_K8S_CNI_RANDOMIZESNAT", Word, "hashrandom", Start),
        variable("AWS_VPC_K8S_CNI_VETHPREFIX", Text, "eni", Start),
        variable("AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE", File, "none", None(OF_EGRESS_PLUGIN)),
        variable("AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_LEVEL", Word, "none", None(OF_EGRESS_PLUGIN)),
        variable("AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE", File, "none", None(OF_EGRESS_PLUGIN)),
        variable("AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_LEVEL", Word, "none", None(OF_EGRESS_PLUGIN)),
        variable("AWS_VPC_K8S_PLUGIN_LOG_FILE", File, "none", None(OF_THE_PLUGIN)),
        variable("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", Word, "none", None(OF_THE_PLUGIN)),
        variable("AWS_WEB_IDENTITY_TOKEN_FILE", File, "none", Sdk),
        variable("CLUSTER_ENDPOINT", Url, "none", None(NO_KUBERNETES)),
        variable("CLUSTER_NAME", Text, "none", Reload),
        variable("DISABLE_INTROSPECTION", Bool, "false", Start),
        variable(
            "DISABLE_LEAKED_ENI_CLEANUP",
            Bool,
            "none",
            None("only ENIs with a tag that names this instance are ever deleted"),
        ),
        variable("DISABLE_METRICS", Bool, "false", Start),
        variable("DISABLE_NETWORK_RESOURCE_PROVISIONING", Bool, "false", Reload),
        variable("DISABLE_POD_V6", Bool, "false", Start),
        variable("DISABLE_TCP_EARLY_DEMUX", Bool, "false", Start),
        variable(
            "ENABLE_BANDWIDTH_PLUGIN",
            Bool,
            "none",
            None("add {\"type\": \"bandwidth\"} to the runtime's configuration"),
        ),
        variable("ENABLE_IMDS_ONLY_MODE", Bool, "false", Start),
        variable("ENABLE_IPv4", Bool, "true, unless ENABLE_IPv6", Start),
        variable("ENABLE_IPv6", Bool, "false", Start),
        variable("ENABLE_MULTI_NIC", Bool, "false", Start),
        variable(
            "ENABLE_NFTABLES",
            Bool,
            "none",
            None("nftables is used where nft works, else the kind of iptables that the node uses"),
        ),
        variable("ENABLE_POD_ENI", Bool, "false", Reload),
        variable("ENABLE_POD_SOURCE_CHECK", Bool, "true", Start),
        variable("ENABLE_PREFIX_DELEGATION", Bool, "false", Start),
        variable("ENABLE_SUBNET_DISCOVERY", Bool, "true", Reload),
        variable("ENABLE_V4_EGRESS", Bool, "true", Start),
        variable("ENABLE_V6_EGRESS", Bool, "false", Start),
        variable("ENI_CONFIG_ANNOTATION_DEF", Text, "k8s.amazonaws.com/eniConfig", Start),
        variable("ENI_CONFIG_LABEL_DEF", Text, "k8s.amazonaws.com/eniConfig", Start),
        variable("GRPC_BIND_ADDRESS", Text, "none", Start),
        variable("HOST_CNI_BIN_PATH", File, "none", None(OF_THE_INSTALLATION)),
        variable("HOST_CNI_CONFDIR_PATH", File, "none", None(OF_THE_INSTALLATION)),
        variable("AGENT_LOG_PATH", File, "none", None(OF_THE_INSTALLATION)),
        variable("HTTPS_PROXY", Url, "none", Sdk),
        variable("HTTP_PROXY", Url, "none", Sdk),
        variable("HTTP_TIMEOUT", Number, "10", Start),
        variable("INTROSPECTION_BIND_ADDRESS", Text, "127.0.0.1:61679", Start),
        variable("IP_COOLDOWN_PERIOD", Number, "30", Reload),
        variable("MANAGE_UNTAGGED_ENI", Bool, "true", Reload),
        variable("MAX_ENI", Number, "as the instance type", Reload),
        variable("METRICS_BIND_ADDRESS", Text, ":61678", Start),
        variable(
            "METRIC_UPDATE_INTERVAL",
            Number,
            "none",
            None("it is of cni-metrics-helper, which is not part of this"),
        ),
        variable("MINIMUM_IP_TARGET", Number, "none", Reload),
        variable("MY_NODE_NAME", Text, "none", None(NO_KUBERNETES)),
        variable("MY_POD_NAME", Text, "none", None(NO_KUBERNETES)),
        variable("NETWORK_POLICY_AGENT_SOCKET", File, "/var/run/aws-node/npa.sock", Start),
        variable("NETWORK_POLICY_ENFORCING_MODE", Word, "no agent is called", Start),
        variable("NO_PROXY", Text, "none", Sdk),
        variable("POD_MTU", Number, "as the ENIs", Start),
        variable("POD_SECURITY_GROUP_ENFORCING_MODE", Word, "strict", Start),
        variable(
            "USE_CLOUDWATCH",
            Word,
            "none",
            None("it is of cni-metrics-helper, which is not part of this"),
        ),
        variable(
            "USE_PROMETHEUS",
            Word,
            "none",
            None("it is of cni-metrics-helper, which is not part of this"),
        ),
        variable("VPC_CNI_VERSION", Text, "none", None("vpc-ipamd tells EC2 its own version")),
        variable("WARM_ENI_TARGET", Number, "1", Reload),
        variable("WARM_IP_TARGET", Number, "none", Reload),
        variable("WARM_PREFIX_TARGET", Number, "0", Reload),
        variable("all_proxy", Url, "none", Sdk),
        variable("http_proxy", Url, "none", Sdk),
        variable("https_proxy", Url, "none", Sdk),
        variable("no_proxy", Text, "none", Sdk),
    ]
};

/// Returns what is known of a variable.
pub fn find(name: &str) -> Option<&'static Variable> {
    KNOWN.iter().find(|known| known.name == name)
}

/// What an operator should know of the names that are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameNote {
    /// Variables that have no effect here, and why.
    WithoutEffect(Vec<&'static Variable>),
    /// A variable that is not known and is called almost like one that is.
    Misspelt {
        /// Its name.
        name: String,
        /// The known one.
        meant: &'static str,
    },
}

impl fmt::Display for NameNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithoutEffect(variables) => {
                f.write_str("variables of amazon-vpc-cni-k8s without effect here: ")?;
                for (index, Variable { name, effect, .. }) in variables.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    match effect {
                        Effect::None(why) => write!(f, "{separator}{name} ({why})")?,
                        _ => write!(f, "{separator}{name}")?,
                    }
                }
                Ok(())
            }
            Self::Misspelt { name, meant } => {
                write!(f, "{} is no variable of ours: did you mean {meant}?", name.escape_debug())
            }
        }
    }
}

/// Returns what should be known of the variables that are set: in one note those without effect, and those that look misspelt.
///
/// `already_noted` names those of whose value there is a note already.
pub fn notes<'a>(
    set: impl IntoIterator<Item = (&'a str, &'a str)>,
    already_noted: &[&str],
) -> Vec<NameNote> {
    let (mut without, mut notes) = (Vec::new(), Vec::new());
    // An empty value means the default, as if it was not set.
    for (name, _) in set.into_iter().filter(|(_, value)| !value.is_empty()) {
        match find(name) {
            Some(known) if matches!(known.effect, Effect::None(_)) => without.push(known),
            Some(_) => {}
            None => notes.extend(
                meant(name).map(|meant| NameNote::Misspelt { name: name.to_string(), meant }),
            ),
        }
    }
    without.retain(|known| !already_noted.contains(&known.name));
    if !without.is_empty() {
        notes.insert(0, NameNote::WithoutEffect(without));
    }
    notes
}

/// Returns the known variable that a name probably stands for.
fn meant(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    let words = |name: &str| {
        let mut words: Vec<String> = name.split('_').map(str::to_ascii_uppercase).collect();
        words.sort();
        words
    };
    let distance = |known: &str| match known.to_ascii_uppercase() {
        // In another order, or in other letters.
        same if same == upper || words(&same) == words(&upper) => 0,
        same => strsim::damerau_levenshtein(&same, &upper),
    };
    // A letter in six, and two at most: what is further away is another name.
    let close_enough = |known: &str, distance: usize| distance <= (known.len() / 6).min(2);
    let known = KNOWN.iter().map(|known| (distance(known.name), known.name));
    known.filter(|(distance, known)| close_enough(known, *distance)).min().map(|(_, known)| known)
}

/// Returns the known variables of which two settings say different things, each with its value before and after; the values of
/// those that the AWS SDK reads are left out.
pub fn changed<'a>(
    before: &'a BTreeMap<String, String>,
    after: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Changed> + 'a {
    KNOWN.iter().filter_map(|variable| {
        let value = |vars: &BTreeMap<String, String>| {
            vars.get(variable.name).filter(|value| !value.is_empty()).cloned()
        };
        let (before, after) = (value(before), value(after));
        (before != after).then_some(Changed { variable, before, after })
    })
}

/// A variable that another value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub variable: &'static Variable,
    /// Its value before, if it was set.
    pub before: Option<String>,
    /// Its value now, if it is set.
    pub after: Option<String>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, before, after } = self;
        f.write_str(variable.name)?;
        if variable.effect == Effect::Sdk {
            return Ok(());
        }
        let text = |value: &Option<String>| match value {
            Some(value) => value.escape_debug().to_string(),
            None => format!("{} (unset)", variable.default),
        };
        write!(f, ": {} -> {}", text(before), text(after))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names of variables that stand between two marks.
    fn names_between(text: &str, mark: char) -> BTreeSet<String> {
        let is_name = |piece: &&str| {
            let allowed =
                |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_v".contains(c);
            piece.starts_with(|c: char| c.is_ascii_uppercase())
                && piece.trim_end_matches('_').contains('_')
                && piece.chars().all(allowed)
        };
        text.split(mark).filter(is_name).map(str::to_string).collect()
    }

    #[test]
    fn every_variable_that_is_read_is_known_as_such_and_the_others_as_without_effect() {
        let sources = [
            include_str!("../../../vpc-ipam-core/src/config/env.rs"),
            include_str!("../../../vpc-ipam-linux/src/config.rs"),
            include_str!("settings.rs"),
            include_str!("program.rs"),
        ];
        // What follows are tests, which set other variables too.
        let code =
            |source: &str| source.split("#[cfg(test)]").next().unwrap_or_default().to_string();
        let read: BTreeSet<String> =
            sources.iter().flat_map(|source| names_between(&code(source), '"')).collect();
        for name in &read {
            assert!(find(name).is_some(), "{name} is read, and not in the list of known variables");
        }
        for known in KNOWN {
            match known.effect {
                Effect::Reload | Effect::Start => {
                    assert!(read.contains(known.name), "{} is read nowhere", known.name);
                }
                Effect::Sdk | Effect::None(_) => {}
            }
        }
    }

    #[test]
    fn table_of_the_documentation_names_every_variable() {
        let guide = include_str!("../../../docs/operator.md");
        let rows = guide.lines().filter(|line| line.starts_with("| `"));
        let first_column = |row: &str| row.split('|').nth(1).unwrap_or_default().to_string();
        let told: BTreeSet<String> =
            rows.flat_map(|row| names_between(&first_column(row), '`')).collect();
        let without = guide.lines().find(|line| line.starts_with("Without effect: ")).unwrap();
        let told_without = names_between(without, '`');
        for Variable { name, effect, .. } in KNOWN {
            let is_told = told.contains(*name) || told_without.contains(*name);
            match effect {
                Effect::None(_) => assert!(is_told, "{name} is not said to have no effect"),
                Effect::Reload | Effect::Start => {
                    assert!(told.contains(*name), "{name} is not in the table");
                    assert!(!told_without.contains(*name), "{name} has an effect");
                }
                // The table names some of the SDK's in groups.
                Effect::Sdk => {}
            }
        }
        for name in told.union(&told_without) {
            assert!(find(name).is_some(), "{name} is documented and not known");
        }
    }

    #[test]
    fn names_that_are_almost_ours_are_noted_and_others_are_not() {
        for (name, expected) in [
            ("WARM_IP_TARGETS", Some("WARM_IP_TARGET")),
            ("warm_ip_target", Some("WARM_IP_TARGET")),
            ("WARM_TARGET_IP", Some("WARM_IP_TARGET")),
            ("ENABLE_IPV6", Some("ENABLE_IPv6")),
            ("MAX_ENIS", Some("MAX_ENI")),
            ("MINIMUM_IP_TARGT", Some("MINIMUM_IP_TARGET")),
            ("AWS_VPC_K8S_CNI_RANDOMISESNAT", Some("AWS_VPC_K8S_CNI_RANDOMIZESNAT")),
            ("AWS_VPC_K8S_CNI_LOG_LEVEL", Some("AWS_VPC_K8S_CNI_LOGLEVEL")),
            ("ENABLE_PREFIX_DELEGATIONS", Some("ENABLE_PREFIX_DELEGATION")),
            ("IP_COOLDOWN_PERIODS", Some("IP_COOLDOWN_PERIOD")),
        ] {
            let notes = notes([(name, "1")], &[]);
            let expected: Vec<NameNote> = expected
                .map(|meant| NameNote::Misspelt { name: name.to_string(), meant })
                .into_iter()
                .collect();
            assert_eq!(notes, expected, "{name}");
        }
        // What services of systemd, shells and pods of Kubernetes have.
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "USER",
            "LOGNAME",
            "SHELL",
            "TERM",
            "PWD",
            "HOSTNAME",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "RUNTIME_DIRECTORY",
            "SYSTEMD_EXEC_PID",
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
            "WATCHDOG_USEC",
            "MEMORY_PRESSURE_WATCH",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_SERVICE_PORT",
            "KUBERNETES_PORT_443_TCP_ADDR",
            "NODE_NAME",
            "POD_NAME",
            "POD_IP",
            "HOST_IP",
            "POD_NAMESPACE",
            "CLUSTER_DOMAIN",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "SSL_CERT_FILE",
            "GODEBUG",
            "NO_COLOR",
            "TMPDIR",
            "AWS_MAX_ATTEMPTS",
            "AWS_RETRY_MODE",
            "AWS_SDK_UA_APP_ID",
            "FTP_PROXY",
        ] {
            assert_eq!(notes([(name, "1")], &[]), [], "{name}");
        }
    }

    #[test]
    fn variables_without_effect_are_one_note() {
        let set = [("VPC_CNI_VERSION", "v1"), ("MY_NODE_NAME", "n"), ("CLUSTER_ENDPOINT", "")];
        let notes = notes(set, &["MY_NODE_NAME"]);
        let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
        let expected = "variables of amazon-vpc-cni-k8s without effect here: VPC_CNI_VERSION (vpc-ipamd tells EC2 its own version)";
        assert_eq!(notes, [expected]);
    }

    #[test]
    fn change_tells_old_and_new_and_no_secret() {
        let vars = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
        };
        let before =
            vars(&[("WARM_IP_TARGET", "1"), ("AWS_SECRET_ACCESS_KEY", "a"), ("PATH", "/a")]);
        let after = vars(&[
            ("WARM_IP_TARGET", "5"),
            ("MAX_ENI", "2"),
            ("AWS_SECRET_ACCESS_KEY", "geheim"),
            ("PATH", "/b"),
            ("MINIMUM_IP_TARGET", ""),
        ]);
        let told: Vec<String> = changed(&before, &after).map(|it| it.to_string()).collect();
        let expected = [
            "AWS_SECRET_ACCESS_KEY",
            "MAX_ENI: as the instance type (unset) -> 2",
            "WARM_IP_TARGET: 1 -> 5",
        ];
        assert_eq!(told, expected);
    }
}
