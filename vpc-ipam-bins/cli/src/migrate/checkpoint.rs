//! The checkpoint of amazon-vpc-cni-k8s: the file in which it keeps which pod has which address.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use vpc_ipam_core::Timestamp;
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use super::durable::{self, FileError};

/// The only version that there is, of amazon-vpc-cni-k8s 1.7 to 1.23.
const VERSION: &str = "vpc-cni-ipam/1";

/// The version of a checkpoint that amazon-vpc-cni-k8s is not to start with, since vpc-ipam has the node. It names it in its log.
const FENCED: &str = "vpc-ipam/1: this node is one of vpc-ipam, see vpc-ipam migrate back";

/// The longest checkpoint that is read, in bytes: an entry takes 400 at most, and a node has 1,000 pods at most.
const BYTES_MAX: u64 = 16 << 20;

/// What versions up to 1.7 knew of the container runtime alone; kept under this network and [`UNKNOWN_IFNAME`].
const MIGRATED_NETWORK: &str = "_migrated-from-cri";
const UNKNOWN_IFNAME: &str = "unknown";

/// What amazon-vpc-cni-k8s knows of the pods of a node: `ipam.json`, and `ipam-nic-<n>.json` of further network cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// An entry a pod and network card, in the order of the files, cards ascending.
    pub entries: Vec<CheckpointEntry>,
    /// The files that were read; none where there are none.
    pub files: Vec<PathBuf>,
    /// Whether the file of card 0 is one that amazon-vpc-cni-k8s does not start with: [`write_fenced`](Self::write_fenced) wrote it.
    pub fenced: bool,
    /// What is wrong with single entries. Entries without a usable address or key are not among [`entries`](Self::entries).
    pub problems: Vec<CheckpointProblem>,
}

/// What one pod has on one network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// The name of the network's configuration; `_migrated-from-cri` where the pod is older than the checkpoint.
    pub network: String,
    /// The id of the pod's sandbox at the container runtime.
    pub container: String,
    /// The name of the interface inside the pod; `unknown` where the pod is older than the checkpoint.
    pub ifname: String,
    /// The pod's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Since when it has it; the epoch where the file does not tell.
    pub since: Timestamp,
    /// The pod's namespace in Kubernetes.
    pub namespace: Option<String>,
    /// The pod's name in Kubernetes.
    pub pod: Option<String>,
    /// How many interfaces the pod has in all, one a network card.
    pub interfaces: Option<u32>,
    /// The network card, by the name of the file.
    pub card: u8,
}

impl CheckpointEntry {
    /// Returns the addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Returns whether the entry names neither the network nor the interface, only the container: it is older than the checkpoint.
    pub fn is_of_container_alone(&self) -> bool {
        self.network == MIGRATED_NETWORK || self.ifname == UNKNOWN_IFNAME
    }

    fn is_same_pod(&self, other: &Self) -> bool {
        let alone = self.is_of_container_alone() || other.is_of_container_alone();
        self.key() == other.key() || alone && self.container == other.container
    }

    fn key(&self) -> (&str, &str, &str) {
        (&self.network, &self.container, &self.ifname)
    }
}

impl fmt::Display for CheckpointEntry {
    /// Names the pod as people do, or its container where the entry has no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) => write!(f, "pod {namespace}/{pod}"),
            _ => write!(f, "container {:.12}", self.container),
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointProblem {
    /// It is not the form of an entry at all, or names no container, network or interface.
    NoEntry {
        /// Its file.
        file: PathBuf,
        /// Its place in the file, from 0.
        index: usize,
        /// What it lacks.
        why: String,
    },
    /// What should be the address of a pod cannot be one.
    NoAddress {
        /// Its file.
        file: PathBuf,
        /// Its place in the file, from 0.
        index: usize,
        /// What is there instead.
        found: String,
    },
    /// A pod is there twice with the same address. One entry counts, that which names the network if only one does; amazon-vpc-cni-k8s
    /// itself does not start with both.
    Repeated {
        /// The one that does not count.
        entry: CheckpointEntry,
    },
    /// Two entries have one address. Both are among the entries.
    TwoOwners {
        /// The address.
        address: IpAddr,
        /// Its owners.
        owners: [CheckpointEntry; 2],
    },
    /// One pod has two addresses on one network card. Both are among the entries.
    TwoAddresses {
        /// The pod, with each of its addresses.
        entries: [CheckpointEntry; 2],
    },
}

impl fmt::Display for CheckpointProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntry { file, index, why } => {
                write!(f, "entry {index} of {} is none: {why}", file.display())
            }
            Self::NoAddress { file, index, found } => {
                write!(f, "entry {index} of {} has no address of a pod: {found}", file.display())
            }
            Self::Repeated { entry } => write!(f, "the entry of {entry} is there twice"),
            Self::TwoOwners { address, owners: [one, other] } => {
                write!(f, "{address} is that of {one} and of {other}")
            }
            Self::TwoAddresses { entries: [one, other] } => {
                let address =
                    |entry: &CheckpointEntry| entry.addresses().next().map(|it| it.to_string());
                let (first, second) = (address(one), address(other));
                let (first, second) = (first.unwrap_or_default(), second.unwrap_or_default());
                write!(f, "{one} has two addresses on one network card, {first} and {second}")
            }
        }
    }
}

/// Why there is no checkpoint to go by.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It cannot be read, or is not a file of root's.
    #[error("read the checkpoint of amazon-vpc-cni-k8s")]
    Read(#[from] UntrustedError),
    /// Its folder cannot be listed, where those of further network cards are.
    #[error("list {}, where checkpoints of further network cards are", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no JSON, or other JSON. An empty file is left by a machine that lost its power while the file was written.
    #[error("parse the checkpoint {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is of a version that is not known.
    #[error("the checkpoint {} is of version {found:?}, and this program knows {VERSION:?}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// It cannot be written.
    #[error("write the checkpoint of amazon-vpc-cni-k8s")]
    Write(#[from] FileError),
}

impl Checkpoint {
    /// Reads a checkpoint, and those of further network cards beside it. Without any file it is empty.
    pub fn read(base: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        for (card, path) in files(base)? {
            if let Some(bytes) = trusted_file::read(&path, BYTES_MAX)? {
                checkpoint.take(card, &path, &bytes)?;
                checkpoint.files.push(path);
            }
        }
        checkpoint.settle();
        Ok(checkpoint)
    }

    /// Takes in a file.
    fn take(&mut self, card: u8, path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
        // What an editor may leave in front.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        // As amazon-vpc-cni-k8s does, which goes by the first document, and of two keys of one name by the last.
        let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
        let document = documents.next().unwrap_or_else(|| serde_json::from_slice(bytes));
        let parse = |source| CheckpointError::Parse { path: path.to_owned(), source };
        let form: FileForm = document.and_then(serde_json::from_value).map_err(parse)?;
        let version = form.version.unwrap_or_default();
        if version == FENCED {
            self.fenced = true;
        } else if version != VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), found: version });
        }
        for (index, allocation) in form.allocations.unwrap_or_default().into_iter().enumerate() {
            let file = path.to_owned();
            let problem = match serde_json::from_value::<EntryForm>(allocation) {
                Ok(form) => match form.into_entry(card) {
                    Ok(entry) => {
                        self.entries.push(entry);
                        continue;
                    }
                    Err(NoEntry::Key(why)) => CheckpointProblem::NoEntry { file, index, why },
                    Err(NoEntry::Address(found)) => {
                        CheckpointProblem::NoAddress { file, index, found }
                    }
                },
                Err(error) => CheckpointProblem::NoEntry { file, index, why: error.to_string() },
            };
            self.problems.push(problem);
        }
        Ok(())
    }

    /// Finds what entries say of one another.
    fn settle(&mut self) {
        let mut problems = Vec::new();
        let mut kept: Vec<CheckpointEntry> = Vec::new();
        let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut of_pods: BTreeMap<(String, String, String, u8), usize> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            let mut before = entry.addresses().filter_map(|address| owners.get(&address).copied());
            if let Some(at) = before.find(|&at| kept[at].is_same_pod(&entry)) {
                let known = kept[at].is_of_container_alone() && !entry.is_of_container_alone();
                let entry = if known { core::mem::replace(&mut kept[at], entry) } else { entry };
                problems.push(CheckpointProblem::Repeated { entry });
                continue;
            }
            for address in entry.addresses() {
                match owners.get(&address) {
                    Some(&at) => problems.push(CheckpointProblem::TwoOwners {
                        address,
                        owners: [kept[at].clone(), entry.clone()],
                    }),
                    None => drop(owners.insert(address, kept.len())),
                }
            }
            let (network, container, ifname) = entry.key();
            let key = (network.to_owned(), container.to_owned(), ifname.to_owned(), entry.card);
            match of_pods.get(&key) {
                Some(&at) => problems.push(CheckpointProblem::TwoAddresses {
                    entries: [kept[at].clone(), entry.clone()],
                }),
                None => drop(of_pods.insert(key, kept.len())),
            }
            kept.push(entry);
        }
        self.entries = kept;
        self.problems.extend(problems);
    }

    /// Writes what there is on network card 0 as amazon-vpc-cni-k8s does, so that the file is there whole or as it was before, whatever happens.
    ///
    /// It does not read the files of further cards back itself, so they are not written.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        self.write_as(VERSION, path)
    }

    /// Writes the same with a version that amazon-vpc-cni-k8s does not know, so that it does not start on a node of vpc-ipam.
    pub fn write_fenced(&self, path: &Path) -> Result<(), CheckpointError> {
        self.write_as(FENCED, path)
    }

    fn write_as(&self, version: &'static str, path: &Path) -> Result<(), CheckpointError> {
        let text = self.text_of(version).map_err(FileError::new("make the text of", path))?;
        // As Go's `os.CreateTemp` makes them.
        Ok(durable::write(path, &text, 0o600)?)
    }

    /// Returns the text of the file that [`write`](Self::write) writes.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        self.text_of(VERSION)
    }

    fn text_of(&self, version: &'static str) -> io::Result<Vec<u8>> {
        let entries = self.entries.iter().filter(|entry| entry.card == 0);
        let form = WrittenFile { version, allocations: entries.map(WrittenEntry::of).collect() };
        let mut text = serde_json::to_vec(&form)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Returns the files that a checkpoint may be in, by network card.
fn files(base: &Path) -> Result<BTreeMap<u8, PathBuf>, CheckpointError> {
    let mut files = BTreeMap::from([(0, base.to_owned())]);
    let folder = base.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = base.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        other => other.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let listed =
        listed.map_err(|source| CheckpointError::List { path: folder.to_owned(), source })?;
    for entry in listed {
        let name = entry.file_name();
        let card = name.to_str().and_then(|name| {
            name.strip_prefix(&stem)?.strip_prefix("-nic-")?.strip_suffix(".json")?.parse().ok()
        });
        if let Some(card @ 1..) = card {
            files.insert(card, entry.path());
        }
    }
    Ok(files)
}

/// The file as it is read. Go takes `null` for what is not there.
#[derive(Deserialize)]
struct FileForm {
    version: Option<String>,
    allocations: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryForm {
    network_name: Option<String>,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    if_name: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    allocation_timestamp: Option<Number>,
    metadata: Option<MetadataForm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataForm {
    k8s_pod_namespace: Option<String>,
    k8s_pod_name: Option<String>,
    interfaces_count: Option<Number>,
}

/// Why there is no entry.
enum NoEntry {
    Key(String),
    Address(String),
}

impl EntryForm {
    fn into_entry(self, card: u8) -> Result<CheckpointEntry, NoEntry> {
        let key = |name: &str, value: Option<String>| {
            let value = value.filter(|value| !value.is_empty());
            value.ok_or_else(|| NoEntry::Key(format!("it has no {name}")))
        };
        let metadata = self.metadata.unwrap_or_default();
        let entry = CheckpointEntry {
            network: key("networkName", self.network_name)?,
            container: key("containerID", self.container_id)?,
            ifname: key("ifName", self.if_name)?,
            ipv4: address(self.ipv4)?,
            ipv6: address(self.ipv6)?,
            since: self.allocation_timestamp.map_or(Timestamp::EPOCH, |it| timestamp(&it)),
            namespace: metadata.k8s_pod_namespace.filter(|it| !it.is_empty()),
            pod: metadata.k8s_pod_name.filter(|it| !it.is_empty()),
            interfaces: metadata
                .interfaces_count
                .and_then(|it| it.as_u64()?.try_into().ok())
                .filter(|it| *it > 0),
            card,
        };
        match entry.addresses().next() {
            Some(_) => Ok(entry),
            None => Err(NoEntry::Address("neither ipv4 nor ipv6".to_owned())),
        }
    }
}

/// Reads an address that a pod may have; an empty text is none.
fn address<A>(text: Option<String>) -> Result<Option<A>, NoEntry>
where
    A: core::str::FromStr + Copy + Into<IpAddr>,
{
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let of_pod = |address: &A| {
        let address: IpAddr = (*address).into();
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
    };
    match text.parse::<A>().ok().filter(of_pod) {
        Some(address) => Ok(Some(address)),
        None => Err(NoEntry::Address(format!("{text:?}"))),
    }
}

/// Reads nanoseconds since the epoch. Programs that know one kind of number alone, such as jq, round them.
fn timestamp(number: &Number) -> Timestamp {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and no pod is older than the epoch"
    )]
    let rounded = || number.as_f64().map(|it| it as u64);
    let negative = number.as_i64().is_some_and(|it| it < 0);
    let nanos = number.as_u64().or_else(|| if negative { None } else { rounded() });
    Timestamp::from_nanos(nanos.unwrap_or(0))
}

#[derive(Serialize)]
struct WrittenFile<'a> {
    version: &'static str,
    allocations: Vec<WrittenEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenEntry<'a> {
    network_name: &'a str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    if_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Addr>,
    allocation_timestamp: u64,
    metadata: WrittenMetadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s_pod_namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s_pod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interfaces_count: Option<u32>,
}

impl<'a> WrittenEntry<'a> {
    fn of(entry: &'a CheckpointEntry) -> Self {
        // What Go reads is a signed number.
        let nanos = entry.since.as_nanos().min(i64::MAX.unsigned_abs());
        Self {
            network_name: &entry.network,
            container_id: &entry.container,
            if_name: &entry.ifname,
            ipv4: entry.ipv4,
            ipv6: entry.ipv6,
            allocation_timestamp: nanos,
            metadata: WrittenMetadata {
                k8s_pod_namespace: entry.namespace.as_deref(),
                k8s_pod_name: entry.pod.as_deref(),
                interfaces_count: entry.interfaces,
            },
        }
    }
}

#[cfg(test)]
mod tests;
