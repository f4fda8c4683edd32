//! What a runtime says to a plugin: environment and standard input, and what of them is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::{CniVersion, Code, Error, salvage};

/// What a runtime asks for: `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container to the network.
    Add,
    /// Compare its network with what ADD made.
    Check,
    /// Detach it.
    Del,
    /// Tell whether ADD would get an address.
    Status,
    /// Detach the containers that the runtime does not list.
    Gc,
    /// Tell which versions are understood.
    Version,
}

impl Command {
    fn parse(text: Option<&str>) -> Result<Self, Error> {
        match text {
            Some("ADD") => Ok(Self::Add),
            Some("CHECK") => Ok(Self::Check),
            Some("DEL") => Ok(Self::Del),
            Some("STATUS") => Ok(Self::Status),
            Some("GC") => Ok(Self::Gc),
            Some("VERSION") => Ok(Self::Version),
            Some(other) => Err(Error::new(
                Code::InvalidEnvironment,
                format!(
                    "CNI_COMMAND={other:?} is not supported; ADD, CHECK, DEL, STATUS, GC and VERSION are"
                ),
            )),
            None => Err(Error::missing("CNI_COMMAND")),
        }
    }

    /// Returns the version of the specification that brought it.
    fn since(self) -> CniVersion {
        match self {
            Self::Add | Self::Del | Self::Version => CniVersion::V0_3_1,
            Self::Check => CniVersion::V0_4_0,
            Self::Status | Self::Gc => CniVersion::V1_1_0,
        }
    }

    /// Returns whether it is about one container.
    fn has_container(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }
}

/// A call of the plugin: the environment and the configuration, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty in calls that are about no container.
    pub container: String,
    /// `CNI_NETNS`; DEL may come without.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty in calls that are about no container.
    pub ifname: String,
    /// `CNI_ARGS`; of ADD and CHECK.
    pub args: BTreeMap<String, String>,
    /// The configuration on standard input.
    pub config: NetConfig,
}

/// The plugin's part of a network configuration: as much as the command needs, so that nothing else can keep it from its work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetConfig {
    /// The version in which it is written and the answer is wanted.
    pub version: CniVersion,
    /// The network's name.
    pub name: String,
    /// The daemon's socket.
    pub socket: Option<PathBuf>,
    /// The prefix of host veth names, if it is to differ from the daemon's; of ADD and CHECK.
    pub veth_prefix: Option<String>,
    /// The MTU of pods, if it is to differ from the daemon's; of ADD and CHECK.
    pub mtu: Option<u16>,
    /// What an earlier ADD printed, if the runtime tells; of CHECK and DEL.
    pub prev_result: Option<serde_json::Value>,
    /// The pod's annotation `k8s.amazonaws.com/nicConfig`, if the runtime tells; of ADD.
    pub nic_config: Option<String>,
    /// The plugin that makes the pod's links, where this one provides addresses alone: `type`.
    pub main: Option<String>,
    /// The link whose ENI the addresses are to come from: `master`, of the plugin or of its `ipam`.
    pub master: Option<String>,
    /// Whether `ipam` names this plugin, which then touches no link.
    pub addresses_only: bool,
    /// What `bridge` would make of the gateway: `isGateway` or `isDefaultGateway`.
    pub bridge_is_gateway: bool,
    /// The bridge to which the pod's link will be plugged in.
    pub bridge: Option<String>,
    /// The attachments that the runtime knows; of GC.
    pub valid_attachments: BTreeSet<Attachment>,
}

/// An interface of a container, as GC names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface's name inside the container.
    pub ifname: String,
}

/// The longest configuration that is read, in bytes. Of a pod's annotations Kubernetes takes 256 KiB, and a runtime passes them on
/// escaped, along with what other plugins of the chain said.
const CONFIG_MAX: usize = 8 << 20;

/// How much more than that is read, in bytes: a second's worth. DEL looks there for what it needs, and a runtime may take a plugin
/// that does not read on for broken.
const REST_MAX: u64 = 1 << 30;

/// The configuration as it is written; unknown keys are left alone, and null stands for a key that is not there, since Go writes
/// it for what is empty. `P` says what is kept of `prevResult`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig<P> {
    cni_version: Option<String>,
    name: Option<String>,
    socket: Option<PathBuf>,
    veth_prefix: Option<String>,
    /// amazon-vpc-cni-k8s writes it as text.
    mtu: Option<serde_json::Value>,
    prev_result: Option<P>,
    runtime_config: Option<RuntimeConfig>,
    #[serde(rename = "type")]
    main: Option<String>,
    master: Option<String>,
    bridge: Option<String>,
    is_gateway: Option<bool>,
    is_default_gateway: Option<bool>,
    ipam: Option<RawIpam>,
}

/// The part for the plugin that provides addresses.
#[derive(Default, Deserialize)]
struct RawIpam {
    #[serde(rename = "type")]
    kind: Option<String>,
    socket: Option<PathBuf>,
    master: Option<String>,
}

impl RawIpam {
    fn is_for_us(&self) -> bool {
        matches!(self.kind.as_deref(), Some(IPAM_NAME | "vpc-cni"))
    }
}

/// The name under which this program provides addresses to other plugins.
pub(crate) const IPAM_NAME: &str = "vpc-cni-ipam";

/// What DEL needs of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDelConfig {
    cni_version: Option<String>,
    name: Option<String>,
    socket: Option<PathBuf>,
    #[serde(default, deserialize_with = "ipam_if_readable")]
    ipam: RawIpam,
    bridge: Option<serde_json::Value>,
    prev_result: Option<serde_json::Value>,
}

/// Nothing in it keeps DEL from its work.
fn ipam_if_readable<'de, D: Deserializer<'de>>(from: D) -> Result<RawIpam, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value::<Option<RawIpam>>(value).ok().flatten().unwrap_or_default())
}

/// What GC needs of it.
#[derive(Deserialize)]
struct RawGcConfig {
    #[serde(flatten)]
    network: RawDelConfig,
    /// `Some(None)` is Go's way to write an empty list, and a key that is not there is no list at all.
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid_attachments: Option<Option<BTreeSet<Attachment>>>,
    /// The name that drafts of the specification had, which libcni writes too.
    #[serde(rename = "cni.dev/attachments", default, deserialize_with = "present")]
    attachments: Option<Option<BTreeSet<Attachment>>>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// What VERSION needs of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVersionConfig {
    cni_version: Option<String>,
}

/// What the runtime adds for the capabilities that a configuration declares.
#[derive(Deserialize)]
struct RuntimeConfig {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    pod_annotations: Option<Annotations>,
}

/// The pod's annotations; only this one is kept.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "k8s.amazonaws.com/nicConfig")]
    nic_config: Option<String>,
}

impl Call {
    /// Reads a call from the environment and from what stands on standard input.
    ///
    /// The error carries the version in which it is to be reported.
    pub fn parse(
        env: impl Fn(&str) -> Option<String>,
        mut stdin: impl Read,
    ) -> Result<Self, (CniVersion, Error)> {
        Self::try_parse(env, &mut stdin).inspect_err(|_| {
            // What cannot be read any more changes nothing.
            let _ = std::io::copy(&mut stdin.take(REST_MAX), &mut std::io::sink());
        })
    }

    fn try_parse(
        env: impl Fn(&str) -> Option<String>,
        stdin: &mut impl Read,
    ) -> Result<Self, (CniVersion, Error)> {
        let text = |name: &str| env(name).filter(|value| !value.is_empty());
        let command = Command::parse(text("CNI_COMMAND").as_deref())
            .map_err(|error| (CniVersion::default(), error))?;
        let config = match command {
            Command::Version => NetConfig::parse_version(stdin)?,
            Command::Add | Command::Status => NetConfig::parse::<IgnoredAny>(stdin)?.0,
            Command::Gc => NetConfig::parse_for_gc(stdin)?,
            Command::Check => {
                let (config, prev_result) = NetConfig::parse(stdin)?;
                NetConfig { prev_result, ..config }
            }
            Command::Del => NetConfig::parse_for_del(stdin)?,
        };
        let version = config.version;
        let refuse = |error| (version, error);
        if version < command.since() {
            let name = text("CNI_COMMAND").unwrap_or_default();
            return Err(refuse(Error::new(
                Code::IncompatibleVersion,
                format!("there is no {name} in CNI {version}: it came with {}", command.since()),
            )));
        }
        if !command.has_container() {
            return Ok(Self {
                command,
                container: String::new(),
                netns: None,
                ifname: String::new(),
                args: BTreeMap::new(),
                config,
            });
        }

        let required = |name: &'static str| text(name).ok_or_else(|| refuse(Error::missing(name)));
        let container = required("CNI_CONTAINERID")?;
        let ifname = required("CNI_IFNAME")?;
        let netns = text("CNI_NETNS").map(PathBuf::from);
        if command != Command::Del && netns.is_none() {
            return Err(refuse(Error::missing("CNI_NETNS")));
        }
        check_names(&container, &ifname).map_err(refuse)?;
        let args = match command {
            Command::Del => BTreeMap::new(),
            _ => parse_args(&text("CNI_ARGS").unwrap_or_default()).map_err(refuse)?,
        };
        Ok(Self { command, container, netns, ifname, args, config })
    }
}

fn check_names(container: &str, ifname: &str) -> Result<(), Error> {
    let wrong = |what: String| Err(Error::new(Code::InvalidEnvironment, what));
    if !is_name(container) {
        return wrong(format!("CNI_CONTAINERID={container:?}: {NAME_RULE}"));
    }
    if !is_ifname(ifname) {
        return wrong(format!(
            "CNI_IFNAME={ifname:?}: expected 1 to 15 bytes without white space, '/', ':' and '%', other than {}",
            IFNAMES_REFUSED.join(", ")
        ));
    }
    Ok(())
}

impl NetConfig {
    /// Reads what ADD and CHECK need; an earlier result is kept as the caller wants it.
    fn parse<P: DeserializeOwned>(
        stdin: impl Read,
    ) -> Result<(Self, Option<P>), (CniVersion, Error)> {
        let text = read(stdin)?;
        if text.len() > CONFIG_MAX {
            return Err(too_long(&text));
        }
        let raw: RawConfig<P> = serde_json::from_slice(&text).map_err(undecodable)?;
        let version = understood(raw.cni_version.as_deref().unwrap_or_default())?;
        let refuse = |message: String| (version, Error::new(Code::InvalidConfig, message));
        let name = network_name(raw.name).map_err(|error| (version, error))?;
        let ipam = raw.ipam.unwrap_or_default();
        let addresses_only = ipam.is_for_us();
        let socket = socket_path(raw.socket.or(ipam.socket)).map_err(|error| (version, error))?;
        // Four bytes leave room for the 11 digits that make the name unique.
        if let Some(prefix) = raw.veth_prefix.as_ref().filter(|prefix| prefix.len() > 4) {
            return Err(refuse(format!("vethPrefix {prefix:?} is longer than 4 bytes")));
        }
        let mtu = match &raw.mtu {
            None => None,
            Some(value) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                let mtu = text.parse().ok().filter(|mtu| (576..=9001).contains(mtu));
                Some(mtu.ok_or_else(|| {
                    refuse(format!("mtu {value}: expected a number from 576 to 9001"))
                })?)
            }
        };
        let annotations = raw.runtime_config.and_then(|it| it.pod_annotations);
        let config = Self {
            version,
            name,
            socket,
            veth_prefix: raw.veth_prefix.filter(|prefix| !prefix.is_empty()),
            mtu,
            prev_result: None,
            nic_config: annotations.and_then(|it| it.nic_config),
            main: raw.main,
            master: raw.master.or(ipam.master).filter(|name| !name.is_empty()),
            addresses_only,
            bridge_is_gateway: raw.is_gateway == Some(true) || raw.is_default_gateway == Some(true),
            bridge: raw.bridge,
            valid_attachments: BTreeSet::new(),
        };
        Ok((config, raw.prev_result))
    }

    /// A pod has to be deleted whatever became of its earlier result or of its annotations: which pod, and where to ask, may stand
    /// in a text that is too long, or no JSON.
    fn parse_for_del(mut stdin: impl Read) -> Result<Self, (CniVersion, Error)> {
        let text = read(&mut stdin)?;
        let decoded = match text.len() {
            0..=CONFIG_MAX => serde_json::from_slice(&text).map_err(undecodable),
            _ => Err(too_long(&text)),
        };
        let raw = match decoded {
            Ok(raw) => raw,
            Err(error) => RawDelConfig::salvage(text.chain(stdin.take(REST_MAX))).ok_or(error)?,
        };
        Self::of_network(raw)
    }

    /// What is wrong in the list would look like a container that is gone: a text that is not whole is refused.
    fn parse_for_gc(stdin: impl Read) -> Result<Self, (CniVersion, Error)> {
        let text = read(stdin)?;
        if text.len() > CONFIG_MAX {
            return Err(too_long(&text));
        }
        let raw: RawGcConfig = serde_json::from_slice(&text).map_err(undecodable)?;
        let config = Self::of_network(raw.network)?;
        let Some(valid) = raw.valid_attachments.or(raw.attachments) else {
            let what = "GC without cni.dev/valid-attachments: nothing is deleted, as every container might be gone";
            return Err((config.version, Error::new(Code::InvalidConfig, what)));
        };
        Ok(Self { valid_attachments: valid.unwrap_or_default(), ..config })
    }

    fn of_network(raw: RawDelConfig) -> Result<Self, (CniVersion, Error)> {
        let version = raw.cni_version.as_deref().filter(|text| !text.is_empty());
        let version = version.map_or(Ok(CniVersion::default()), understood)?;
        let name = network_name(raw.name).map_err(|error| (version, error))?;
        let addresses_only = raw.ipam.is_for_us();
        let socket =
            socket_path(raw.socket.or(raw.ipam.socket)).map_err(|error| (version, error))?;
        let bridge = raw.bridge.and_then(|name| name.as_str().map(str::to_string));
        let prev_result = raw.prev_result;
        Ok(Self { version, name, socket, addresses_only, bridge, prev_result, ..Self::default() })
    }

    /// VERSION gets a configuration with nothing but the version, and old runtimes send none.
    fn parse_version(stdin: impl Read) -> Result<Self, (CniVersion, Error)> {
        let text = read(stdin)?;
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let raw: RawVersionConfig = serde_json::from_slice(&text).map_err(undecodable)?;
        let version = raw.cni_version.and_then(|text| CniVersion::parse(&text));
        Ok(Self { version: version.unwrap_or_default(), ..Self::default() })
    }
}

impl RawDelConfig {
    fn salvage(text: impl Read) -> Option<Self> {
        let keys = ["cniVersion", "name", "socket"];
        let [cni_version, name, socket] = salvage::texts_of(text, keys).ok()?;
        let (name, socket) = (Some(name?), socket.map(PathBuf::from));
        Some(Self {
            cni_version,
            name,
            socket,
            ipam: RawIpam::default(),
            bridge: None,
            prev_result: None,
        })
    }
}

/// Reads a configuration, or as much of it as shows that it is too long.
fn read(stdin: impl Read) -> Result<Vec<u8>, (CniVersion, Error)> {
    let mut text = Vec::new();
    stdin.take(CONFIG_MAX as u64 + 1).read_to_end(&mut text).map_err(|error| {
        let what = "read the network configuration from standard input";
        (CniVersion::default(), Error::new(Code::Io, what).because(error))
    })?;
    Ok(text)
}

fn too_long(text: &[u8]) -> (CniVersion, Error) {
    let mib = CONFIG_MAX >> 20;
    let what = format!("the network configuration on standard input is longer than {mib} MiB");
    let mut error = Error::new(Code::InvalidConfig, what);
    error.details =
        "the runtime adds the pod's annotations and earlier results to it: are those so long?"
            .to_string();
    let version = salvage::texts_of(text, ["cniVersion"]).ok();
    let version = version.and_then(|[text]| CniVersion::parse(&text?));
    (version.unwrap_or_default(), error)
}

fn undecodable(error: serde_json::Error) -> (CniVersion, Error) {
    let what = "the network configuration on standard input is not what CNI defines";
    (CniVersion::default(), Error::new(Code::Decoding, what).because(error))
}

/// Returns the version that a configuration names, if it is one that is understood. The specification has a default, which is not.
fn understood(text: &str) -> Result<CniVersion, (CniVersion, Error)> {
    CniVersion::parse(text).ok_or_else(|| {
        let known = CniVersion::ALL.map(CniVersion::as_str).join(", ");
        let message = format!("cniVersion {text:?} is not supported; {known} are");
        (CniVersion::default(), Error::new(Code::IncompatibleVersion, message))
    })
}

fn network_name(name: Option<String>) -> Result<String, Error> {
    let wrong = |what| Err(Error::new(Code::InvalidConfig, what));
    match name {
        Some(name) if is_name(&name) => Ok(name),
        Some(name) => wrong(format!("name {name:?}: {NAME_RULE}")),
        None => wrong("the network configuration has no name".to_string()),
    }
}

/// Returns where the daemon listens, if the configuration says it.
fn socket_path(socket: Option<PathBuf>) -> Result<Option<PathBuf>, Error> {
    match socket {
        Some(path) if path.as_os_str().is_empty() => Ok(None),
        // The folder in which a runtime calls a plugin is any.
        Some(path) if path.is_relative() => {
            let what =
                format!("socket {:?}: expected an absolute path", path.display().to_string());
            Err(Error::new(Code::InvalidConfig, what))
        }
        other => Ok(other),
    }
}

const NAME_RULE: &str = "expected letters, digits, '_', '.' and '-', the first a letter or digit";

/// Returns whether a text has the form of container ids and network names.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// No interface can have these names: the first two are folders, and the kernel keeps settings under the others.
const IFNAMES_REFUSED: [&str; 4] = [".", "..", "all", "default"];

/// Returns whether the kernel takes a text as the name of an interface and as no pattern of names: `dev_valid_name` and
/// `__dev_alloc_name`, net/core/dev.c. Byte A0 it takes
/// for Latin-1's white space.
fn is_ifname(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !IFNAMES_REFUSED.contains(&text)
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%'))
        && !text.bytes().any(|byte| byte == 0xa0)
}

fn parse_args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_string(), value.to_string())),
            None => Err(Error::new(
                Code::InvalidEnvironment,
                format!("CNI_ARGS: {pair:?} is not KEY=VALUE"),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"aws-cni","type":"vpc-cni","mtu":"9001"}"#;

    fn parse(env: &[(&str, &str)], stdin: &str) -> Result<Call, (CniVersion, Error)> {
        let env: BTreeMap<_, _> = env.iter().copied().collect();
        Call::parse(|name| env.get(name).map(ToString::to_string), stdin.as_bytes())
    }

    #[test]
    fn call_is_read_from_environment_and_standard_input() {
        let env = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", "/run/netns/pod"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-0"),
        ];
        let call = parse(&env, CONFIG).unwrap();
        assert_eq!(call.config.version, CniVersion::V1_0_0);
        assert_eq!(call.config.mtu, Some(9001));
        assert_eq!(call.args["K8S_POD_NAME"], "web-0");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_the_code_of_the_specification() {
        let add = ("CNI_COMMAND", "ADD");
        let id = ("CNI_CONTAINERID", "c0ffee");
        let netns = ("CNI_NETNS", "/run/netns/pod");
        let ifname = ("CNI_IFNAME", "eth0");
        let with_version = |v: &str| CONFIG.replace("1.0.0", v);
        let cases: [(&[(&str, &str)], String, Code); 13] = [
            (&[], CONFIG.into(), Code::InvalidEnvironment),
            (&[("CNI_COMMAND", "FROB")], CONFIG.into(), Code::InvalidEnvironment),
            (&[add, netns, ifname], CONFIG.into(), Code::InvalidEnvironment),
            (&[add, id, ifname], CONFIG.into(), Code::InvalidEnvironment),
            (&[add, id, netns], CONFIG.into(), Code::InvalidEnvironment),
            (
                &[add, ("CNI_CONTAINERID", "../x"), netns, ifname],
                CONFIG.into(),
                Code::InvalidEnvironment,
            ),
            (
                &[add, id, netns, ifname, ("CNI_ARGS", "K8S")],
                CONFIG.into(),
                Code::InvalidEnvironment,
            ),
            (&[add, id, netns, ifname], "{".into(), Code::Decoding),
            (&[add, id, netns, ifname], with_version("9.9.9"), Code::IncompatibleVersion),
            (&[add, id, netns, ifname], CONFIG.replace("9001", "12"), Code::InvalidConfig),
            (&[add, id, netns, ifname], CONFIG.replace("aws-cni", ""), Code::InvalidConfig),
            (
                &[add, id, netns, ifname],
                CONFIG.replace("\"mtu\"", "\"socket\":\"run/s\",\"mtu\""),
                Code::InvalidConfig,
            ),
            (&[("CNI_COMMAND", "STATUS")], CONFIG.into(), Code::IncompatibleVersion),
        ];
        for (env, stdin, expected) in cases {
            let (_, error) = parse(env, &stdin).unwrap_err();
            assert_eq!(error.code, expected, "{env:?} {stdin}");
        }
    }

    #[test]
    fn del_needs_the_network_and_the_socket_and_passes_over_all_else() {
        let long = "x".repeat(CONFIG_MAX);
        let whole = r#"{"cniVersion":"1.0.0","name":"aws-cni""#;
        let socket = r#""socket":"/run/s""#;
        let cases = [
            format!("{whole},{socket}}}"),
            // What ADD would refuse.
            format!(r#"{whole},"mtu":"none","vethPrefix":"toolong",{socket}}}"#),
            format!(r#"{whole},"prevResult":"none",{socket}}}"#),
            format!(r#"{whole},"prevResult":{{"ips":7}},"runtimeConfig":[1],{socket}}}"#),
            format!(r#"{{"name":"aws-cni","prevResult":null,"runtimeConfig":null,{socket}}}"#),
            format!(
                r#"{{"cniVersion":null,"name":"aws-cni","mtu":null,"vethPrefix":null,{socket}}}"#
            ),
            format!(r#"{{"cniVersion":"","name":"aws-cni",{socket}}}"#),
            // Too long, in a value or by white space.
            format!(r#"{whole},"prevResult":{{"dns":"{long}"}},{socket}}}"#),
            format!(r#"{whole},"runtimeConfig":{{"a":["{long}"]}},{socket}}}"#),
            format!("{whole}{}", " ".repeat(CONFIG_MAX)) + &format!(",{socket}}}"),
            // No JSON.
            format!(r#"{whole},"prevResult":{{"ips":[}},{socket}}}"#),
            format!(r#"{whole},"prevResult":,{socket}}}"#),
            format!(r#"{{"cniVersion":7,"name":"aws-cni",{socket},"prevResult":{{"#),
        ];
        let env = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "no-equals-sign"),
        ];
        for stdin in cases {
            let case = &stdin[..stdin.len().min(200)];
            let call = parse(&env, &stdin).unwrap_or_else(|error| panic!("{case}: {error:?}"));
            assert_eq!(call.config.name, "aws-cni", "{case}");
            assert_eq!(call.config.socket, Some("/run/s".into()), "{case}");
        }
        for (stdin, expected) in [
            ("", Code::Decoding),
            ("{", Code::Decoding),
            (r#"{"cniVersion":"1.0.0","prevResult":"#, Code::Decoding),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"9.9.9","name":"aws-cni"}"#, Code::IncompatibleVersion),
        ] {
            let (_, error) = parse(&env, stdin).unwrap_err();
            assert_eq!(error.code, expected, "{stdin}");
        }
    }

    #[test]
    fn what_is_too_long_is_named_in_the_version_that_it_asks_for() {
        let ids = [("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
        for command in ["ADD", "CHECK"] {
            let mut env = vec![("CNI_COMMAND", command)];
            env.extend(ids);
            let of_len = |len: usize| {
                let start = r#"{"cniVersion":"0.4.0","name":"n","runtimeConfig":{"x":""#;
                let x = "x".repeat(len - start.len() - 3);
                format!(r#"{start}{x}"}}}}"#)
            };
            assert_eq!(parse(&env, &of_len(CONFIG_MAX)).unwrap().config.name, "n");

            let (version, error) = parse(&env, &of_len(CONFIG_MAX + 1)).unwrap_err();

            assert_eq!((version, error.code), (CniVersion::V0_4_0, Code::InvalidConfig));
            assert!(error.message.contains("longer than 8 MiB"), "{error}");
            assert!(error.details.contains("annotations"), "{error}");
        }
    }

    #[test]
    fn version_needs_no_configuration() {
        for config in ["", "{}", r#"{"cniVersion":null,"name":null,"socket":7}"#] {
            let call = parse(&[("CNI_COMMAND", "VERSION")], config).unwrap();
            assert_eq!(call.command, Command::Version, "{config}");
        }
    }

    #[test]
    fn null_stands_for_a_key_that_is_not_there() {
        let env = |command| {
            let ids = [("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
            [vec![("CNI_COMMAND", command)], ids.to_vec()].concat()
        };
        let start = r#"{"cniVersion":"1.1.0","name":"n","type":"vpc-cni""#;
        let keys = [
            ["socket", "vethPrefix", "mtu", "prevResult"],
            ["runtimeConfig", "ipam", "dns", "capabilities"],
        ]
        .concat();
        let nulls: String = keys.iter().map(|key| format!(r#","{key}":null"#)).collect();
        let annotations = r#","runtimeConfig":{"io.kubernetes.cri.pod-annotations":null}"#;
        let annotation = r#","runtimeConfig":{"io.kubernetes.cri.pod-annotations":
            {"k8s.amazonaws.com/nicConfig":null}}"#;
        for command in ["ADD", "CHECK", "DEL", "STATUS"] {
            let without = parse(&env(command), &format!("{start}}}")).unwrap();
            for with in [&nulls, annotations, annotation, r#","socket":"""#] {
                let with = format!("{start}{with}}}");
                assert_eq!(parse(&env(command), &with).unwrap(), without, "{command} {with}");
            }
        }
        for (config, code) in [
            (r#"{"cniVersion":null,"name":"n"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"1.1.0","name":null}"#, Code::InvalidConfig),
        ] {
            for command in ["ADD", "CHECK", "STATUS"] {
                assert_eq!(parse(&env(command), config).unwrap_err().1.code, code, "{config}");
            }
        }
    }

    #[test]
    fn gc_needs_a_list_which_may_be_empty() {
        let gc = |keys: &str| {
            let config = format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#);
            parse(&[("CNI_COMMAND", "GC")], &config).map(|call| {
                let valid = call.config.valid_attachments.into_iter();
                valid.map(|it| format!("{}/{}", it.container, it.ifname)).collect::<Vec<_>>()
            })
        };
        let list = r#"[{"containerID":"b","ifname":"eth0"},{"containerID":"a","ifname":"eth0"}]"#;
        let cases = [
            (format!(r#","cni.dev/valid-attachments":{list}"#), vec!["a/eth0", "b/eth0"]),
            (format!(r#","cni.dev/attachments":{list}"#), vec!["a/eth0", "b/eth0"]),
            (
                format!(r#","cni.dev/attachments":[],"cni.dev/valid-attachments":{list}"#),
                vec!["a/eth0", "b/eth0"],
            ),
            (r#","cni.dev/valid-attachments":[]"#.to_string(), vec![]),
            // As Go writes an empty list, with what ADD would refuse.
            (r#","cni.dev/valid-attachments":null,"mtu":"none""#.to_string(), vec![]),
        ];
        for (keys, expected) in cases {
            assert_eq!(gc(&keys).unwrap(), expected, "{keys}");
        }
        for (keys, code) in [
            ("", Code::InvalidConfig),
            (r#","cni.dev/valid-attachments":{}"#, Code::Decoding),
            (r#","cni.dev/valid-attachments":[{"containerID":"a"}]"#, Code::Decoding),
            (r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":null}]"#, Code::Decoding),
            (
                r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}"#,
                Code::Decoding,
            ),
        ] {
            assert_eq!(gc(keys).unwrap_err().1.code, code, "{keys}");
        }
    }

    #[test]
    fn names_are_those_that_the_kernel_takes_and_ids_are_of_any_length() {
        let with = |container: &str, ifname: &str| {
            let env = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", container),
                ("CNI_NETNS", "/n"),
                ("CNI_IFNAME", ifname),
            ];
            parse(&env, CONFIG).map_err(|(_, error)| error)
        };
        for ifname in ["e", "eth0", "net1.100", "a-b_c@d", "fifteen-letters", "\u{e9}t\u{e9}0"] {
            with("c", ifname).unwrap_or_else(|error| panic!("{ifname:?}: {error}"));
        }
        let refused = [
            ["a/b", "a:b", "a b", "a\tb", "a\nb", "a\u{b}b", "a\u{a0}b", "a\u{e0}b", " "]
                .as_slice(),
            &["%", "eth%d", "a%", ".", "..", "all", "default", "sixteen-letters-", "\u{2003}"],
        ]
        .concat();
        for ifname in refused {
            let error = with("c", ifname).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{ifname:?}");
            assert!(error.message.starts_with(&format!("CNI_IFNAME={ifname:?}: ")), "{error}");
        }
        for len in 1..=253 {
            with(&"c".repeat(len), "eth0").unwrap();
        }
        for container in ["a b", "-a", "a/b", "a@b", "\u{e9}", ".a"] {
            let error = with(container, "eth0").unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{container:?}");
        }
    }
}
