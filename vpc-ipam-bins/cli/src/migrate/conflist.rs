//! The runtime's network configurations: which one is amazon-vpc-cni-k8s's, and ours in its place.
//!
//! What is not about the one plugin stays byte for byte, in its order.

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use vpc_ipam_core::error_chain;

use super::old_daemon;
use crate::node_files::networks::is_configuration;

/// The name of our file, which sorts behind that of amazon-vpc-cni-k8s.
pub(crate) const OURS: &str = "10-vpc-ipam.conflist";
const PLUGIN: &str = "vpc-cni";
const PLUGIN_OF_ADDRESSES: &str = "vpc-cni-ipam";
/// The versions of the specification that the plugin knows.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why a configuration cannot be used, or made of another.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConflistError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no network configuration.
    #[error("{} is no network configuration: correct it, or move it away", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where its JSON is wrong.
        source: serde_json::Error,
    },
    /// It lacks what each has.
    #[error("{} has no {what}: correct it, or move it away", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// The plugin does not know the version.
    #[error(
        "{} has the cniVersion {found:?}, which vpc-cni does not know; it knows {}",
        path.display(),
        VERSIONS.join(", ")
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
    },
    /// Pods reach the other family through a plugin that goes, and the daemon would not see to it.
    #[error(
        "{} has egress-cni, by which pods reach {family} through the node, and the settings of vpc-ipamd do not have {variable}=true: set it \
         in the file of variables",
        path.display()
    )]
    Egress {
        /// The file.
        path: PathBuf,
        /// The family.
        family: &'static str,
        /// The variable that is to be set.
        variable: &'static str,
    },
    /// A file that is no configuration comes first, or would.
    #[error("{} sorts before {before}, and a runtime stops there: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The file of amazon-vpc-cni-k8s, or ours.
        before: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another plugin's configuration comes first, or would.
    #[error(
        "{} is another program's and sorts before {before}, so that the runtime takes it: move it away, or leave this node as it is",
        path.display()
    )]
    Foreign {
        /// Its file.
        path: PathBuf,
        /// The file of amazon-vpc-cni-k8s, or ours.
        before: String,
    },
}

/// A network configuration of the runtime.
#[derive(Debug)]
pub(crate) struct Conflist {
    /// Its file.
    pub(crate) path: PathBuf,
    /// The network's name.
    pub(crate) name: String,
    keys: Vec<(String, Box<RawValue>)>,
    plugins: Vec<(String, Box<RawValue>)>,
}

/// The keys of an object in the order in which they are written.
struct Keys(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    // Of two the later counts, as it does for runtimes.
                    keys.retain(|(before, _)| *before != key);
                    keys.push((key, value));
                }
                Ok(Keys(keys))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Conflist {
    /// Reads a configuration, of a list of plugins or of one.
    pub(crate) fn read(path: &Path) -> Result<Self, ConflistError> {
        let read = |source| ConflistError::Read { path: path.to_owned(), source };
        Self::parse(path, &fs::read(path).map_err(read)?)
    }

    /// Reads the text of a file.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, ConflistError> {
        let parse = |source| ConflistError::Parse { path: path.to_owned(), source };
        let Keys(keys) = serde_json::from_slice(text).map_err(parse)?;
        let find = |key: &str| keys.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let text = |key: &'static str| -> Result<String, ConflistError> {
            let Some(value) = find(key) else {
                return Err(ConflistError::Lacks { path: path.to_owned(), what: key });
            };
            serde_json::from_str(value.get()).map_err(parse)
        };
        let name = text("name")?;
        let plugins: Vec<Box<RawValue>> = match find("plugins") {
            Some(plugins) => serde_json::from_str(plugins.get()).map_err(parse)?,
            None => vec![serde_json::from_slice(text_of(&keys).as_bytes()).map_err(parse)?],
        };
        let typed = |plugin: Box<RawValue>| {
            let value: Value = serde_json::from_str(plugin.get()).map_err(parse)?;
            let kind = value["type"].as_str().unwrap_or_default();
            let of_addresses = value["ipam"]["type"] == PLUGIN_OF_ADDRESSES;
            let kind = if of_addresses { PLUGIN_OF_ADDRESSES } else { kind };
            Ok((kind.to_owned(), plugin))
        };
        let plugins = plugins.into_iter().map(typed).collect::<Result<_, ConflistError>>()?;
        Ok(Self { path: path.to_owned(), name, keys, plugins })
    }

    fn has(&self, kind: &str) -> bool {
        self.plugins.iter().any(|(of, _)| of == kind)
    }

    /// Returns whether it calls the plugin of amazon-vpc-cni-k8s.
    pub(crate) fn is_old(&self) -> bool {
        self.has(old_daemon::PLUGIN)
    }

    /// Returns whether it calls our plugin.
    pub(crate) fn is_ours(&self) -> bool {
        self.has(PLUGIN) || self.has(PLUGIN_OF_ADDRESSES)
    }

    /// Returns the name of its file.
    pub(crate) fn file(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes ours in its place, given the daemon's variables and the socket where that is not the usual one.
    ///
    /// The network has the same name, so that the runtime's DEL of a pod finds what was added before. The version stays: the plugins of
    /// the chain know it.
    pub(crate) fn in_our_words(
        &self,
        vars: &BTreeMap<String, String>,
        socket: Option<&Path>,
    ) -> Result<String, ConflistError> {
        let version = self.keys.iter().find(|(key, _)| key == "cniVersion");
        let version: String = version
            .and_then(|(_, value)| serde_json::from_str(value.get()).ok())
            .unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(ConflistError::Version { path: self.path.clone(), found: version });
        }
        let mut plugins = Vec::new();
        for (kind, plugin) in &self.plugins {
            match kind.as_str() {
                old_daemon::PLUGIN => plugins.push(self.our_plugin(plugin, socket)?),
                old_daemon::EGRESS_PLUGIN => self.expect_egress(plugin, vars)?,
                _ => plugins.push(plugin.get().to_owned()),
            }
        }
        // The keys of one plugin are not those of a list.
        let of_list = self.keys.iter().any(|(key, _)| key == "plugins");
        let is_kept = |key: &str| {
            key != "plugins" && (of_list || ["cniVersion", "name", "disableCheck"].contains(&key))
        };
        let mut text = "{\n".to_owned();
        for (key, value) in self.keys.iter().filter(|(key, _)| is_kept(key)) {
            let _ = writeln!(text, "  {}: {},", Value::from(key.as_str()), value.get());
        }
        let _ = write!(text, "  \"plugins\": [\n    {}\n  ]\n}}\n", plugins.join(",\n    "));
        Ok(text)
    }

    fn value(&self, plugin: &RawValue) -> Result<Value, ConflistError> {
        let parse = |source| ConflistError::Parse { path: self.path.clone(), source };
        serde_json::from_str(plugin.get()).map_err(parse)
    }

    fn our_plugin(&self, old: &RawValue, socket: Option<&Path>) -> Result<String, ConflistError> {
        let old = self.value(old)?;
        let mut capabilities = match &old["capabilities"] {
            Value::Object(capabilities) => capabilities.clone(),
            _ => serde_json::Map::new(),
        };
        capabilities.insert("io.kubernetes.cri.pod-annotations".to_owned(), true.into());
        let mut ours = serde_json::json!({ "type": PLUGIN, "capabilities": capabilities });
        for key in ["vethPrefix", "mtu"] {
            if let Some(value) = old.get(key) {
                ours[key] = value.clone();
            }
        }
        if let Some(socket) = socket {
            ours["socket"] = socket.display().to_string().into();
        }
        Ok(ours.to_string())
    }

    /// The daemon does what this plugin does where its settings say so.
    fn expect_egress(
        &self,
        plugin: &RawValue,
        vars: &BTreeMap<String, String>,
    ) -> Result<(), ConflistError> {
        let value = self.value(plugin)?;
        let is_true = |value: &Value| value == &Value::Bool(true) || value == "true";
        if !is_true(&value["enabled"]) {
            return Ok(());
        }
        // It gives addresses of the family that the cluster does not have.
        let ranges = value["ipam"]["ranges"].to_string();
        let (family, variable) = if ranges.contains(':') && ranges.contains("fd00:") {
            ("IPv6", "ENABLE_V6_EGRESS")
        } else {
            ("IPv4", "ENABLE_V4_EGRESS")
        };
        match vars.get(variable) {
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(()),
            _ => Err(ConflistError::Egress { path: self.path.clone(), family, variable }),
        }
    }
}

/// The configurations of a folder, in the order in which a runtime takes them.
#[derive(Debug, Default)]
pub(crate) struct Conflists {
    all: Vec<Conflist>,
    /// Files that are no configurations, where a runtime stops if it comes to them.
    broken: Vec<(PathBuf, String)>,
}

impl Conflists {
    /// Reads a folder; one that is not there has none.
    pub(crate) fn read(folder: &Path) -> Result<Self, ConflistError> {
        let failed = |source| ConflistError::Read { path: folder.to_owned(), source };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_configuration(&name) && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        let mut read = Self::default();
        for path in paths {
            match Conflist::read(&path) {
                Ok(conflist) => read.all.push(conflist),
                Err(error) => read.broken.push((path, error_chain(&error))),
            }
        }
        Ok(read)
    }

    /// Returns that of amazon-vpc-cni-k8s, the first if there are several.
    pub(crate) fn old(&self) -> Option<&Conflist> {
        self.all.iter().find(|it| it.is_old())
    }

    /// Returns that of amazon-vpc-cni-k8s alone.
    pub(crate) fn into_old(self) -> Option<Conflist> {
        self.all.into_iter().find(Conflist::is_old)
    }

    /// Returns all of amazon-vpc-cni-k8s.
    pub(crate) fn all_old(&self) -> impl Iterator<Item = &Conflist> {
        self.all.iter().filter(|it| it.is_old())
    }

    /// Returns all that call our plugin.
    pub(crate) fn all_ours(&self) -> impl Iterator<Item = &Conflist> {
        self.all.iter().filter(|it| it.is_ours())
    }

    /// Makes sure that no other program's configuration comes before a file, nor one that is none.
    pub(crate) fn expect_first(&self, file: &str) -> Result<(), ConflistError> {
        let is_before = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().as_ref() < file)
        };
        let before = file.to_owned();
        let foreign = self.all.iter().filter(|it| !it.is_old() && !it.is_ours());
        if let Some(path) = foreign.map(|it| &it.path).find(|path| is_before(path)) {
            return Err(ConflistError::Foreign { path: path.clone(), before });
        }
        match self.broken.iter().find(|(path, _)| is_before(path)) {
            Some((path, why)) => {
                Err(ConflistError::Broken { path: path.clone(), before, why: why.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Writes keys and values as an object.
fn text_of(keys: &[(String, Box<RawValue>)]) -> String {
    let pairs: Vec<String> = keys
        .iter()
        .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), value.get()))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "x-note": {"b": 1,   "a": 2},
  "plugins": [
    {"name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001", "podSGEnforcingMode": "strict",
     "capabilities": {"io.kubernetes.cri.pod-annotations": true}},
    {"name": "egress-cni", "type": "egress-cni", "mtu": "9001", "enabled": "false", "ipam": {"type": "host-local"}},
    {"type": "portmap",  "snat": true, "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
  ]
}"#;

    fn parse(text: &str) -> Conflist {
        Conflist::parse(Path::new("/etc/cni/net.d/10-aws.conflist"), text.as_bytes()).unwrap()
    }

    #[test]
    fn ours_has_the_name_the_version_and_the_chain_of_the_other() {
        let text = parse(OLD).in_our_words(&BTreeMap::new(), None).unwrap();
        assert_eq!(
            text,
            r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "x-note": {"b": 1,   "a": 2},
  "plugins": [
    {"capabilities":{"io.kubernetes.cri.pod-annotations":true},"mtu":"9001","type":"vpc-cni","vethPrefix":"eni"},
    {"type": "portmap",  "snat": true, "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
  ]
}
"#
        );
        let ours = parse(&text);
        assert!(ours.is_ours() && !ours.is_old());
        let text = parse(OLD).in_our_words(&BTreeMap::new(), Some(Path::new("/x.sock"))).unwrap();
        assert!(text.contains(r#""socket":"/x.sock""#), "{text}");
    }

    #[test]
    fn configuration_of_one_plugin_becomes_a_list() {
        let old = r#"{"cniVersion":"0.3.1","name":"aws-cni","type":"aws-cni","vethPrefix":"eni"}"#;
        let text = parse(old).in_our_words(&BTreeMap::new(), None).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["plugins"].as_array().unwrap().len(), 1, "{text}");
        assert_eq!((&value["name"], &value["type"]), (&"aws-cni".into(), &Value::Null), "{text}");
        assert_eq!(value["plugins"][0]["vethPrefix"], "eni", "{text}");
    }

    #[test]
    fn egress_that_the_daemon_would_not_see_to_is_refused() {
        let enabled = OLD.replace(r#""enabled": "false""#, r#""enabled": "true""#);
        let ipv6 = enabled.replace(
            r#""ipam": {"type": "host-local"}"#,
            r#""ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00::ac:00/118"}]]}"#,
        );
        // The conflist, the variables, and which one is asked for.
        let cases = [
            (OLD, "", None),
            (&enabled, "ENABLE_V4_EGRESS", None),
            (&enabled, "ENABLE_V6_EGRESS", Some("ENABLE_V4_EGRESS=true")),
            (&ipv6, "ENABLE_V6_EGRESS", None),
            (&ipv6, "ENABLE_V4_EGRESS", Some("ENABLE_V6_EGRESS=true")),
        ];
        for (conflist, variable, expected) in cases {
            let vars = BTreeMap::from([(variable.to_owned(), "true".to_owned())]);
            let result = parse(conflist).in_our_words(&vars, None);
            match (result, expected) {
                (Ok(text), None) => assert!(!text.contains("egress"), "{text}"),
                (Err(error), Some(words)) => {
                    assert!(error.to_string().contains(words), "{variable}: {error}");
                }
                (result, expected) => panic!("{variable}: {result:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_configuration_or_of_an_unknown_version_is_refused() {
        let path = Path::new("/etc/cni/net.d/10-aws.conflist");
        for (text, words) in [
            ("", "no network configuration"),
            ("[]", "no network configuration"),
            (r#"{"plugins":[]}"#, "has no name"),
            (r#"{"name":"x","plugins":{}}"#, "no network configuration"),
        ] {
            let error = Conflist::parse(path, text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("10-aws.conflist"), "{text}: {error}");
        }
        for version in ["", "0.2.0", "2.0.0"] {
            let text = OLD.replace("0.4.0", version);
            let error = parse(&text).in_our_words(&BTreeMap::new(), None).unwrap_err().to_string();
            assert!(error.contains(&format!("{version:?}")), "{error}");
        }
    }

    #[test]
    fn configuration_of_another_program_that_comes_first_is_told() {
        let foreign = r#"{"cniVersion":"0.4.0","name":"other","plugins":[{"type":"cilium-cni"}]}"#;
        // The file of the other program, and whether it is in the way of the old one, and of ours.
        let cases = [
            ("05-cilium.conflist", true, true),
            ("10-b.conflist", false, true),
            ("99-other.conf", false, false),
            ("05-readme.txt", false, false),
        ];
        for (name, old, ours) in cases {
            for text in [foreign, "{"] {
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("10-aws.conflist"), OLD).unwrap();
                fs::write(folder.path().join(name), text).unwrap();
                let all = Conflists::read(folder.path()).unwrap();
                assert_eq!(all.old().unwrap().file(), "10-aws.conflist");
                let found = ["10-aws.conflist", OURS].map(|file| all.expect_first(file).is_err());
                assert_eq!(found, [old, ours], "{name}: {text}");
            }
        }
        let missing = Conflists::read(Path::new("/nonexistent")).unwrap();
        assert!(missing.old().is_none());
    }
}
