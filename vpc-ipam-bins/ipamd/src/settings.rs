//! All settings of the daemon, from the variables of amazon-vpc-cni-k8s.

mod in_force;

use core::time::Duration;
use std::collections::BTreeMap;

use vpc_ipam_core::{Config, ConfigProblem, ConfigWarning, Vars};
use vpc_ipam_linux::HostConfig;
use vpc_ipam_protocol::UnknownNetworkPolicyModeError;

use crate::grpc_address::GrpcAddress;
use crate::log::LogTo;
use crate::network_policy::{AGENT_SOCKET, NetworkPolicy};
use crate::options::BindAddress;

pub(crate) use self::in_force::in_force;

/// What the variables of a node say.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the operator wants of addresses.
    pub config: Config,
    /// What the operator wants of the node's network.
    pub host: HostConfig,
    /// How long a call of EC2 may take: `HTTP_TIMEOUT`, by default and at least 10 s, as in amazon-vpc-cni-k8s.
    pub http_timeout: Duration,
    /// From which level on there are log lines: `AWS_VPC_K8S_CNI_LOGLEVEL`, by default `debug`, as in amazon-vpc-cni-k8s.
    pub log_level: LogLevel,
    /// Where they go: `AWS_VPC_K8S_CNI_LOG_FILE`, by default standard error.
    pub log_to: LogTo,
    /// Where metrics are served, unless `DISABLE_METRICS`: `METRICS_BIND_ADDRESS`, by default port 61678 of every address, as in
    /// amazon-vpc-cni-k8s.
    pub metrics: Option<BindAddress>,
    /// Where introspection is served, unless `DISABLE_INTROSPECTION`: `INTROSPECTION_BIND_ADDRESS`, by default 127.0.0.1:61679, as in
    /// amazon-vpc-cni-k8s.
    pub introspection: Option<BindAddress>,
    /// Where gRPC is served: `GRPC_BIND_ADDRESS`, a list; by default nowhere.
    pub grpc: Vec<GrpcAddress>,
    /// The network policy agent, if `NETWORK_POLICY_ENFORCING_MODE` is set, and where it listens: `NETWORK_POLICY_AGENT_SOCKET`. A mode
    /// that is none, the empty one too, ends the start, as in amazon-vpc-cni-k8s: policies would silently not be enforced.
    pub network_policy: Result<Option<NetworkPolicy>, UnknownNetworkPolicyModeError>,
}

/// From which level on there are log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// None at all.
    Off,
    /// What an operator has to repair.
    Error,
    /// What an operator should look at.
    Warn,
    /// What changed.
    Info,
    /// What was decided, and why.
    Debug,
    /// What every step did.
    Trace,
}

impl LogLevel {
    /// Returns the level as log filters name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Settings {
    /// Reads the variables of amazon-vpc-cni-k8s. Any other is left alone; what cannot be used, or has no effect, is noted.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> (Self, Vec<ConfigWarning>) {
        let vars: Vec<(String, String)> = vars.into_iter().collect();
        let mode = vars.iter().rev().find(|(name, _)| name == "NETWORK_POLICY_ENFORCING_MODE");
        let mode = mode.map(|(_, mode)| mode.parse()).transpose();
        let (mut config, mut notes) = Config::from_vars(vars.iter().cloned());
        let (host, more) = HostConfig::from_vars(vars.iter().cloned());
        notes.extend(more);
        let mut vars = Vars::new(vars);
        config.eni_tags = eni_tags(&mut vars);
        let http_timeout = vars.clamped("HTTP_TIMEOUT", 10..=3600, 10);
        let http_timeout = Duration::from_secs(http_timeout.unsigned_abs());
        // An outcome that core does not wait for any more would be lost.
        let answer_max = &mut config.timing.answer_max;
        *answer_max = (http_timeout + Duration::from_secs(60)).max(*answer_max);
        let log_to = vars.text("AWS_VPC_K8S_CNI_LOG_FILE").map(LogTo::parse).unwrap_or_default();
        let agent = vars.text("NETWORK_POLICY_AGENT_SOCKET").unwrap_or(AGENT_SOCKET).into();
        let network_policy = mode.map(|mode| mode.map(|mode| NetworkPolicy { mode, agent }));
        let grpc = grpc(&mut vars);
        let metrics = ("METRICS_BIND_ADDRESS", ":61678");
        let introspection = ("INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61679");
        let settings = Self {
            config,
            host,
            http_timeout,
            log_level: log_level(&mut vars),
            log_to,
            metrics: bind_address(&mut vars, metrics, "DISABLE_METRICS"),
            introspection: bind_address(&mut vars, introspection, "DISABLE_INTROSPECTION"),
            grpc,
            network_policy,
        };
        notes.extend(vars.into_warnings());
        (settings, notes)
    }
}

/// Reads `NAME=VALUE`.
pub fn parse_var(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("expected NAME=VALUE".to_string()),
    }
}

fn eni_tags(vars: &mut Vars) -> BTreeMap<String, String> {
    const NAME: &str = "ADDITIONAL_ENI_TAGS";
    let Some(text) = vars.text(NAME) else { return BTreeMap::new() };
    serde_json::from_str(text).unwrap_or_else(|_| {
        let expected = "a JSON object whose values are text";
        vars.warn(
            NAME,
            ConfigProblem::Unusable { expected, used: "no tags besides our own".to_string() },
        );
        BTreeMap::new()
    })
}

fn bind_address(
    vars: &mut Vars,
    (name, default): (&'static str, &'static str),
    disabled: &'static str,
) -> Option<BindAddress> {
    let address = vars.text(name).unwrap_or(default).parse();
    let address = address.unwrap_or_else(|expected| {
        vars.warn(name, ConfigProblem::Unusable { expected, used: default.to_string() });
        default.parse().expect("a default is well-formed")
    });
    (!vars.boolean(disabled, false)).then_some(address)
}

fn grpc(vars: &mut Vars) -> Vec<GrpcAddress> {
    const NAME: &str = "GRPC_BIND_ADDRESS";
    let addresses: Result<_, _> = vars.list(NAME).iter().map(|text| text.parse()).collect();
    addresses.unwrap_or_else(|_| {
        let expected = "unix:/PATH, or a port of the loopback address such as 127.0.0.1:50051";
        vars.warn(NAME, ConfigProblem::Unusable { expected, used: "no gRPC".to_string() });
        Vec::new()
    })
}

fn log_level(vars: &mut Vars) -> LogLevel {
    const NAME: &str = "AWS_VPC_K8S_CNI_LOGLEVEL";
    match vars.text(NAME).unwrap_or("debug").to_lowercase().as_str() {
        "off" => LogLevel::Off,
        "error" | "critical" | "fatal" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => {
            let expected = "off, critical, error, warn, info, debug or trace";
            vars.warn(NAME, ConfigProblem::Unusable { expected, used: "debug".to_string() });
            LogLevel::Debug
        }
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_protocol::NetworkPolicyMode;

    use super::*;

    #[test]
    fn what_cannot_be_used_is_noted() {
        let cases = [
            ("ADDITIONAL_ENI_TAGS", r#"{"team": "net"}"#, None),
            ("ADDITIONAL_ENI_TAGS", r#"{"team": 1}"#, Some("using no tags besides our own")),
            ("ADDITIONAL_ENI_TAGS", "team=net", Some("using no tags besides our own")),
            ("METRICS_BIND_ADDRESS", "node-7:61678", Some("using :61678")),
            ("INTROSPECTION_BIND_ADDRESS", "unix:/run/vpc-ipam/introspection.sock", None),
            ("INTROSPECTION_BIND_ADDRESS", "", None),
            ("INTROSPECTION_BIND_ADDRESS", "unix:relative", Some("using 127.0.0.1:61679")),
            ("DISABLE_METRICS", "yes", Some("false")),
            ("HTTP_TIMEOUT", "30", None),
            ("HTTP_TIMEOUT", "5", Some("10")),
            ("HTTP_TIMEOUT", "soon", Some("10")),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "WARN", None),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "Trace", None),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "CRITICAL", None),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "off", None),
            ("AWS_VPC_K8S_CNI_LOG_FILE", "stdout", None),
            ("AWS_VPC_K8S_CNI_LOG_FILE", "/var/log/aws-routed-eni/ipamd.log", None),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "loud", Some("using debug")),
            ("GRPC_BIND_ADDRESS", "unix:/run/a.sock, 127.0.0.1:50051", None),
            ("GRPC_BIND_ADDRESS", "0.0.0.0:50051", Some("no gRPC")),
            ("WARM_IP_TARGET", "many", Some("WARM_IP_TARGET")),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "dice", Some("hashrandom")),
        ];
        for (name, value, expected) in cases {
            let (_, notes) = Settings::from_vars([(name.to_string(), value.to_string())]);
            let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
            match expected {
                None => assert_eq!(notes, [""; 0], "{name}={value}"),
                Some(words) => {
                    assert!(notes.iter().any(|n| n.contains(words)), "{name}={value}: {notes:?}");
                }
            }
        }
    }

    #[test]
    fn values_take_effect() {
        let vars = [
            ("ADDITIONAL_ENI_TAGS", r#"{"team": "net"}"#),
            ("HTTP_TIMEOUT", "30"),
            ("AWS_VPC_K8S_CNI_LOGLEVEL", "Fatal"),
            ("WARM_IP_TARGET", "5"),
            ("DISABLE_METRICS", "true"),
            ("INTROSPECTION_BIND_ADDRESS", "unix:/run/pages.sock"),
        ];
        let vars = vars.map(|(name, value)| (name.to_string(), value.to_string()));
        let (settings, notes) = Settings::from_vars(vars);
        assert_eq!(notes, []);
        assert_eq!(settings.config.eni_tags["team"], "net");
        assert_eq!(settings.http_timeout, Duration::from_secs(30));
        assert_eq!(settings.log_level, LogLevel::Error);
        assert_eq!(settings.metrics, None);
        assert_eq!(settings.introspection, Some(BindAddress::Unix("/run/pages.sock".into())));
        assert_eq!(settings.network_policy, Ok(None));
        assert_eq!(settings.config.target, vpc_ipam_core::WarmTarget::Ips { warm: 5, minimum: 0 });
    }

    #[test]
    fn network_policies_are_enforced_where_a_mode_is_set_and_a_wrong_one_is_an_error() {
        let read = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            Settings::from_vars(vars).0.network_policy
        };
        const MODE: &str = "NETWORK_POLICY_ENFORCING_MODE";
        let agent = |mode, agent: &str| Ok(Some(NetworkPolicy { mode, agent: agent.into() }));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(MODE, "Strict")]), agent(NetworkPolicyMode::Strict, AGENT_SOCKET));
        let vars = [(MODE, "none"), ("NETWORK_POLICY_AGENT_SOCKET", "/run/npa.sock")];
        assert_eq!(read(&vars), agent(NetworkPolicyMode::None, "/run/npa.sock"));
        for wrong in ["", "on"] {
            read(&[(MODE, wrong)]).unwrap_err();
        }
    }
}
