//! What survives a restart of the daemon: a redb file in the runtime directory.
//!
//! The file belongs to one boot of the kernel, whose id it carries: after a reboot no pod of before exists. What cannot be
//! used in its place, a damaged file, a symbolic link or the file of another user, is put aside, never followed or deleted.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use vpc_ipam_core::{EniId, Lease, Limits, Metadata, PodKey, Record, Timestamp};
use vpc_ipam_linux::{AdoptedLink, LinkIndex};
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

/// Leases as JSON, by key as JSON.
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");
/// When addresses were released, in nanoseconds since the epoch.
const RELEASED: TableDefinition<'_, &str, u64> = TableDefinition::new("released");
/// What is known of the node, by the name of its form: a file of an earlier version has none, and what a later version adds
/// under another name is not read.
const KNOWN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("known");
/// The name of [`Known`] as it is below, as JSON.
const KNOWN_FORM: &str = "node/1";
/// What the file is.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

const FORMAT: &str = "vpc-ipam/1";
/// How the formats of all versions begin.
const FORMAT_NAME: &str = "vpc-ipam/";
/// Of a database of a few hundred rows; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 256 << 10;
/// The longest file that is opened: a hundred times what a node with a thousand pods needs.
const BYTES_MAX: u64 = 256 << 20;
/// Longer than any rest of an address; what was released before is forgotten when the file is opened.
const RELEASED_KEPT: Duration = Duration::from_secs(86_400);

/// Something to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The lease or the release.
    pub record: Record,
    /// Of a lease, the file of the pod's network namespace, as far as it is known.
    pub sandbox: Option<PathBuf>,
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        Self { record, sandbox: None }
    }
}

/// A lease as it is stored.
#[derive(Serialize)]
struct StoredLease<'a> {
    #[serde(flatten)]
    lease: &'a Lease,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a Path>,
}

/// What is stored with a lease.
#[derive(Deserialize)]
struct StoredSandbox {
    #[serde(default)]
    sandbox: Option<PathBuf>,
}

/// The durable state of one node.
pub struct Store {
    path: PathBuf,
    /// None after a failure, until the next write: redb answers nothing any more then.
    database: Option<Database>,
    /// Where the namespaces of pods were, as far as the file told when it was opened.
    sandboxes: BTreeMap<PodKey, PathBuf>,
}

/// What was found when a store was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There was none.
    Nothing,
    /// State of this boot.
    Records(Vec<Record>),
    /// State of another boot, which was discarded.
    OtherBoot,
    /// Something that cannot be used: a damaged file, or none of ours. It was put aside.
    Damaged {
        /// Where it is now.
        moved_to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a daemon knows of its node in this boot, for a start at which the instance metadata service or EC2 does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The metadata, with the primary ENI alone: what the secondary ENIs hold may have changed since.
    pub metadata: Metadata,
    /// What EC2 said of the limits of instance types.
    #[serde(default)]
    pub limits: Vec<Limits>,
    /// The route tables of ENIs for which they do not follow from the place.
    #[serde(default)]
    pub tables: BTreeMap<EniId, u32>,
    /// What is kept of pods that are in no state file, by the index of their links.
    #[serde(default)]
    pub adopted: BTreeMap<LinkIndex, AdoptedLink>,
    /// Whether all that amazon-vpc-cni-k8s left on the node was found and removed.
    #[serde(default)]
    pub took_over: bool,
    /// The last time that the node was taken over from a daemon of which it is not known which addresses it released before.
    #[serde(default)]
    pub taken_over: Option<TakenOver>,
}

/// A take-over of the node from another daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// When it was.
    pub at: Timestamp,
    /// What the ENIs had then, as far as it was seen: of these the addresses without a pod cool down since.
    pub blocks: BTreeSet<IpNet>,
}

impl Known {
    /// Keeps what metadata say that holds for the rest of the boot.
    pub fn new(mut metadata: Metadata) -> Self {
        let primary = metadata.node.primary;
        metadata.observation.enis.retain(|eni| eni.id == primary);
        Self {
            metadata,
            limits: Vec::new(),
            tables: BTreeMap::new(),
            adopted: BTreeMap::new(),
            took_over: false,
            taken_over: None,
        }
    }

    /// Returns whether another says the same, apart from the times of reading.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.metadata.observation.as_of = self.metadata.observation.as_of;
        *self == other
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use: is another vpc-ipamd running?")]
    InUse {
        /// The file.
        path: String,
    },
    /// The directory could not be made, or is another user's or every user's.
    #[error("keep the state file in a folder of ours")]
    Folder(#[source] UntrustedError),
    /// What cannot be used could not be put aside.
    #[error("move {path} away")]
    Move {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Another version of vpc-ipamd wrote it, in a form that this one does not know. It is left as it is.
    #[error(
        "{path} has format {found:?}, and this vpc-ipamd reads {FORMAT:?}: start the version that wrote it, or move the file away"
    )]
    UnknownVersion {
        /// The file.
        path: String,
        /// Its format.
        found: String,
    },
    /// The file could not be read or written, which is no damage of its contents: it is as it was.
    #[error("use {path}")]
    Use {
        /// The file.
        path: String,
        /// The cause.
        source: Box<redb::Error>,
    },
}

/// Why records could not be made durable. None of them is.
#[derive(Debug, thiserror::Error)]
#[error("write the state file")]
pub struct WriteError(#[source] Box<redb::Error>);

/// Why what is known of the node cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// The file cannot be read.
    #[error("read the state file")]
    Read(#[from] Box<redb::Error>),
    /// It is not in the form that its name says.
    #[error("read what the state file says of the node, form {KNOWN_FORM:?}")]
    Decode(#[from] serde_json::Error),
}

impl Store {
    /// Opens the state file of a node, or makes it.
    pub fn open(path: &Path, boot: &str, now: Timestamp) -> Result<(Self, Found), OpenError> {
        if let Some(directory) = path.parent() {
            // Other users must not read the names of pods.
            trusted_file::folder(directory).map_err(OpenError::Folder)?;
        }
        let existed = fs::symlink_metadata(path).is_ok();
        let why = match Self::open_file(path, boot, now) {
            Ok((store, Some(records))) => return Ok((store, Found::Records(records))),
            Ok((store, None)) => {
                let found = if existed { Found::OtherBoot } else { Found::Nothing };
                return Ok((store, found));
            }
            Err(Unusable::InUse) => {
                return Err(OpenError::InUse { path: path.display().to_string() });
            }
            Err(Unusable::Failed(source)) => return Err(unusable(path, source)),
            Err(Unusable::UnknownVersion(found)) => {
                return Err(OpenError::UnknownVersion { path: path.display().to_string(), found });
            }
            Err(Unusable::Damaged(why)) => why,
        };
        let aside = format!("{}.damaged-{}", path.display(), now.as_nanos());
        let moved_to = PathBuf::from(aside);
        fs::rename(path, &moved_to)
            .map_err(|source| OpenError::Move { path: path.display().to_string(), source })?;
        match Self::open_file(path, boot, now) {
            Ok((store, _)) => Ok((store, Found::Damaged { moved_to, why })),
            Err(Unusable::InUse) => Err(OpenError::InUse { path: path.display().to_string() }),
            Err(Unusable::Failed(source)) => Err(unusable(path, source)),
            Err(Unusable::Damaged(why) | Unusable::UnknownVersion(why)) => {
                Err(unusable(path, to_redb(why)))
            }
        }
    }

    /// Returns where the namespaces of pods were, as far as the file told when it was opened.
    pub fn sandboxes(&mut self) -> BTreeMap<PodKey, PathBuf> {
        core::mem::take(&mut self.sandboxes)
    }

    /// Makes records durable, all or none. After a failure the file is opened anew with the next call.
    pub fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let entries: Vec<Entry> = records.iter().cloned().map(Entry::from).collect();
        self.write_entries(&entries)
    }

    /// Makes records durable, with what is known besides.
    pub fn write_entries(&mut self, entries: &[Entry]) -> Result<(), WriteError> {
        let result = self.try_write(entries);
        if result.is_err() {
            self.database = None;
        }
        result.map_err(|error| WriteError(Box::new(error)))
    }

    /// Returns what is known of the node in this boot; an error if that cannot be read, without which a start can do.
    pub fn known(&mut self) -> Result<Option<Known>, KnownError> {
        let found = self.database().and_then(|database| {
            let transaction = database.begin_read()?;
            match transaction.open_table(KNOWN) {
                Ok(table) => {
                    Ok(table.get(KNOWN_FORM)?.map(|value| serde_json::from_slice(value.value())))
                }
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        Ok(found.map_err(Box::new)?.transpose()?)
    }

    /// Makes durable what is known of the node.
    pub fn remember(&mut self, known: &Known) -> Result<(), WriteError> {
        let result = self.try_remember(known);
        if result.is_err() {
            self.database = None;
        }
        result.map_err(|error| WriteError(Box::new(error)))
    }

    fn try_remember(&mut self, known: &Known) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        transaction.open_table(KNOWN)?.insert(KNOWN_FORM, to_json(known)?.as_slice())?;
        transaction.commit()?;
        Ok(())
    }

    fn database(&mut self) -> Result<&mut Database, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(to_redb_error)?,
        };
        Ok(self.database.insert(database))
    }

    fn try_write(&mut self, entries: &[Entry]) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut leases = transaction.open_table(LEASES)?;
            let mut released = transaction.open_table(RELEASED)?;
            for Entry { record, sandbox } in entries {
                match record {
                    Record::Leased(lease) => {
                        let stored = StoredLease { lease, sandbox: sandbox.as_deref() };
                        leases
                            .insert(key_text(&lease.key)?.as_str(), to_json(&stored)?.as_slice())?;
                        for address in lease.addresses() {
                            released.remove(address.to_string().as_str())?;
                        }
                    }
                    Record::Released { key, addresses, at } => {
                        leases.remove(key_text(key)?.as_str())?;
                        for address in addresses {
                            released.insert(address.to_string().as_str(), at.as_nanos())?;
                        }
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Opens a file, new or not, and returns what of this boot is in it; `None` if there was nothing.
    fn open_file(
        path: &Path,
        boot: &str,
        now: Timestamp,
    ) -> Result<(Self, Option<Vec<Record>>), Unusable> {
        let database = open_database(path)?;
        let found = read(&database, boot, now)?;
        match found {
            Some(_) => forget(&database, now)?,
            None => clear(&database, boot)?,
        }
        let (records, sandboxes) = found.map_or((None, BTreeMap::new()), |(r, s)| (Some(r), s));
        Ok((Self { path: path.to_path_buf(), database: Some(database), sandboxes }, records))
    }
}

/// Why a file cannot be used.
enum Unusable {
    /// Another process has it open.
    InUse,
    /// Reading or writing failed.
    Failed(redb::Error),
    /// It has a format of this name, which we do not know.
    UnknownVersion(String),
    /// What is in it cannot be.
    Damaged(String),
}

impl Unusable {
    fn untrusted(error: UntrustedError) -> Self {
        match error {
            UntrustedError::Open { source, .. } => Self::Failed(redb::Error::Io(source)),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Unusable {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            // So redb says that a file is none of its own, or was cut short.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged(error.to_string())
            }
            error @ (redb::Error::Io(_) | redb::Error::PreviousIo) => Self::Failed(error),
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn open_database(path: &Path) -> Result<Database, Unusable> {
    let file = match trusted_file::open(path, BYTES_MAX).map_err(Unusable::untrusted)? {
        Some(file) => file,
        // redb takes an empty file for a new one.
        None => trusted_file::create(path).map_err(Unusable::untrusted)?,
    };
    let mut builder = Database::builder();
    // Reading what a damaged file says could end the process otherwise.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(FileBackend::new(file)?)?)
}

/// Records, and where the namespaces of pods are, as far as that is known.
type Read = (Vec<Record>, BTreeMap<PodKey, PathBuf>);

/// Returns the records of this boot; `None` if the file is new or of another one.
fn read(database: &Database, boot: &str, now: Timestamp) -> Result<Option<Read>, Unusable> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match meta.get("format")?.map(|value| value.value().to_string()) {
        Some(format) if format == FORMAT => {}
        // The name tells that it is whole and ours; anything else may be damage.
        Some(format) if format.starts_with(FORMAT_NAME) => {
            return Err(Unusable::UnknownVersion(format));
        }
        format => {
            return Err(Unusable::Damaged(format!("its format is {format:?}, not {FORMAT:?}")));
        }
    }
    if meta.get("boot")?.is_none_or(|value| value.value() != boot) {
        return Ok(None);
    }
    let (mut records, mut sandboxes) = (Vec::new(), BTreeMap::new());
    for row in transaction.open_table(LEASES)?.iter()? {
        let (_, value) = row?;
        let unreadable = |error| Unusable::Damaged(format!("a lease cannot be read: {error}"));
        let lease = serde_json::from_slice::<Lease>(value.value()).map_err(unreadable)?;
        let stored: StoredSandbox = serde_json::from_slice(value.value()).map_err(unreadable)?;
        sandboxes.extend(stored.sandbox.map(|path| (lease.key.clone(), path)));
        records.push(Record::Leased(lease));
    }
    for row in transaction.open_table(RELEASED)?.iter()? {
        let (address, at) = row?;
        let address = address
            .value()
            .parse::<IpAddr>()
            .map_err(|_| Unusable::Damaged(format!("{:?} is no address", address.value())))?;
        let at = Timestamp::from_nanos(at.value());
        if is_remembered(at, now) {
            // Who held it no longer matters.
            let key = PodKey::new("-", "-", "-").expect("no part is empty");
            records.push(Record::Released { key, addresses: vec![address], at });
        }
    }
    Ok(Some((records, sandboxes)))
}

fn is_remembered(released: Timestamp, now: Timestamp) -> bool {
    now.since(released) <= RELEASED_KEPT
}

/// Removes the releases that are too old to matter.
fn forget(database: &Database, now: Timestamp) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(RELEASED)?
        .retain(|_, at| is_remembered(Timestamp::from_nanos(at), now))?;
    Ok(transaction.commit()?)
}

/// Makes the file that of this boot, without any record.
fn clear(database: &Database, boot: &str) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.delete_table(LEASES)?;
    transaction.delete_table(RELEASED)?;
    transaction.delete_table(KNOWN)?;
    {
        transaction.open_table(LEASES)?;
        transaction.open_table(RELEASED)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("boot", boot)?;
    }
    Ok(transaction.commit()?)
}

/// Returns the id of this boot of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

fn unusable(path: &Path, source: redb::Error) -> OpenError {
    OpenError::Use { path: path.display().to_string(), source: Box::new(source) }
}

fn key_text(key: &PodKey) -> Result<String, redb::Error> {
    serde_json::to_string(key).map_err(|error| to_redb(error.to_string()))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| to_redb(error.to_string()))
}

fn to_redb_error(unusable: Unusable) -> redb::Error {
    match unusable {
        Unusable::InUse => redb::Error::DatabaseAlreadyOpen,
        Unusable::Failed(error) => error,
        Unusable::Damaged(why) | Unusable::UnknownVersion(why) => to_redb(why),
    }
}

fn to_redb(message: String) -> redb::Error {
    redb::Error::Io(io::Error::other(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpc_ipam_core::testkit;
    use vpc_ipam_core::{Mac, Node, Observation, Scope, Source};
    use vpc_ipam_linux::{Family, Route, Rule, Table};

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn lease(container: &str, address: &str) -> Lease {
        Lease { since: NOW, ..testkit::lease(container, [testkit::leased(0, 1, [address])]) }
    }

    fn leased(found: Found) -> Vec<Lease> {
        let Found::Records(records) = found else { panic!("{found:?}") };
        let lease = |record| match record {
            Record::Leased(lease) => Some(lease),
            Record::Released { .. } => None,
        };
        records.into_iter().filter_map(lease).collect()
    }

    #[test]
    fn records_survive_a_restart_and_not_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.redb");
        let (first, second) = (lease("a", "10.0.0.5"), lease("b", "10.0.0.6"));

        let (mut store, found) = Store::open(&path, "boot-1", NOW).unwrap();
        assert_eq!(found, Found::Nothing);
        store.write(&[Record::Leased(first.clone()), Record::Leased(second.clone())]).unwrap();
        let addresses: Vec<IpAddr> = first.addresses().collect();
        let gone = Record::Released { key: first.key, addresses, at: NOW };
        store.write(&[gone]).unwrap();
        drop(store);

        let (store, found) = Store::open(&path, "boot-1", NOW).unwrap();
        let Found::Records(records) = &found else { panic!("{found:?}") };
        assert_eq!(records.len(), 2, "{records:?}");
        assert_eq!(leased(found), [second]);
        drop(store);

        let (_, found) = Store::open(&path, "boot-2", NOW).unwrap();
        assert_eq!(found, Found::OtherBoot);
    }

    fn known() -> Known {
        let node = Node {
            instance: "i-1".parse().unwrap(),
            instance_type: "m5.large".parse().unwrap(),
            zone: "eu-west-1a".parse().unwrap(),
            vpc: "vpc-1".parse().unwrap(),
            primary: "eni-0".parse().unwrap(),
            subnet: "subnet-1".parse().unwrap(),
        };
        let observation = Observation {
            as_of: NOW,
            source: Source::Imds,
            scope: Scope::Attached,
            enis: Vec::new(),
            incomplete: Vec::new(),
        };
        let metadata = Metadata {
            node,
            observation,
            primary_ipv4: Some([10, 0, 0, 4].into()),
            vpc_ipv4_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            vpc_ipv6_cidrs: Vec::new(),
            subnets: BTreeMap::new(),
        };
        let limits = vec![Limits::lookup("m5.large".parse().unwrap()).unwrap()];
        let tables = BTreeMap::from([("eni-5".parse().unwrap(), 10_101)]);
        let link = Route::on_link(Table::MAIN, IpAddr::from([10, 0, 0, 5]));
        let adopted = AdoptedLink {
            name: "eni182c452fe96".to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            routes: vec![link],
            addresses: Vec::new(),
            rules: vec![Rule::new(Family::Ipv4, 512, Table::MAIN).to(IpAddr::from([10, 0, 0, 5]))],
        };
        Known {
            limits,
            tables,
            adopted: BTreeMap::from([(LinkIndex(7), adopted)]),
            took_over: true,
            taken_over: Some(TakenOver {
                at: NOW,
                blocks: BTreeSet::from(["10.0.0.16/28".parse().unwrap()]),
            }),
            ..Known::new(metadata)
        }
    }

    #[test]
    fn what_was_told_of_the_node_survives_a_restart_and_not_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        assert_eq!(store.known().unwrap(), None);
        store.remember(&known()).unwrap();
        drop(store);

        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        assert_eq!(store.known().unwrap(), Some(known()));
        drop(store);
        let (mut store, _) = Store::open(&path, "boot-2", NOW).unwrap();
        assert_eq!(store.known().unwrap(), None);
    }

    /// What it said is only a help; leases are what counts.
    #[test]
    fn what_cannot_be_read_of_the_node_costs_no_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        store.write(&[Record::Leased(lease("a", "10.0.0.5"))]).unwrap();
        let transaction = store.database().unwrap().begin_write().unwrap();
        transaction.open_table(KNOWN).unwrap().insert(KNOWN_FORM, b"{".as_slice()).unwrap();
        transaction.open_table(KNOWN).unwrap().insert("node/2", b"later".as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(store);

        let (mut store, found) = Store::open(&path, "boot-1", NOW).unwrap();

        assert_eq!(leased(found).len(), 1);
        assert!(matches!(store.known(), Err(KnownError::Decode(_))));
        store.remember(&known()).unwrap();
        assert_eq!(store.known().unwrap(), Some(known()));
    }

    #[test]
    fn damaged_file_is_put_aside_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        fs::write(&path, b"not a database").unwrap();
        let (mut store, found) = Store::open(&path, "boot-1", NOW).unwrap();
        let Found::Damaged { moved_to, .. } = found else { panic!("{found:?}") };
        assert_eq!(fs::read(moved_to).unwrap(), b"not a database");
        store.write(&[Record::Leased(lease("a", "10.0.0.5"))]).unwrap();
        drop(store);
        let (_, found) = Store::open(&path, "boot-1", NOW).unwrap();
        assert_eq!(leased(found).len(), 1);
    }

    #[test]
    fn what_is_no_file_of_ours_is_put_aside_and_not_followed() {
        for kind in ["link", "dangling link", "folder", "fifo"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state/state.redb");
            let elsewhere = folder.path().join("elsewhere");
            fs::create_dir(folder.path().join("state")).unwrap();
            match kind {
                "link" => fs::write(&elsewhere, b"precious").unwrap(),
                "folder" => fs::create_dir(&path).unwrap(),
                "fifo" => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o600);
                    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
                }
                _ => {}
            }
            if kind.ends_with("link") {
                std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            }

            let (mut store, found) = Store::open(&path, "boot-1", NOW).unwrap();

            let Found::Damaged { moved_to, why } = found else { panic!("{kind}: {found:?}") };
            assert!(why.contains(path.to_str().unwrap()), "{kind}: {why}");
            assert!(fs::symlink_metadata(moved_to).is_ok(), "{kind}: it is gone");
            assert_eq!(elsewhere.exists(), kind == "link", "{kind}");
            if kind == "link" {
                assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
            }
            store.write(&[Record::Leased(lease("a", "10.0.0.5"))]).unwrap();
            drop(store);
            let (_, found) = Store::open(&path, "boot-1", NOW).unwrap();
            assert_eq!(leased(found).len(), 1, "{kind}");
        }
    }

    #[test]
    fn file_of_a_length_that_no_node_needs_is_put_aside_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        // Without blocks: a terabyte on no disk.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let (_, found) = Store::open(&path, "boot-1", NOW).unwrap();
        assert!(
            matches!(&found, Found::Damaged { why, .. } if why.contains("longer")),
            "{found:?}"
        );
    }

    #[test]
    fn folder_that_every_user_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Store::open(&folder.path().join("state.redb"), "boot-1", NOW);
        assert!(matches!(refused, Err(OpenError::Folder(_))), "{refused:?}");
    }

    #[test]
    fn whatever_is_wrong_with_a_file_it_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        let leases: Vec<Lease> = (1..=50).map(|n| lease(&n.to_string(), "10.0.0.5")).collect();
        store.write(&leases.iter().cloned().map(Record::Leased).collect::<Vec<_>>()).unwrap();
        drop(store);
        let whole = fs::read(&path).unwrap();
        let written: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();

        let mut damaged = 0;
        let spoilt = written.iter().step_by(written.len() / 100).map(|at| {
            let mut bytes = whole.clone();
            bytes[*at] ^= 0xff;
            bytes
        });
        let cut =
            [0, 1, 100, 4096, whole.len() / 2, whole.len() - 1].map(|end| whole[..end].to_vec());
        for bytes in spoilt.chain(cut) {
            fs::write(&path, &bytes).unwrap();
            let (_, found) = Store::open(&path, "boot-1", NOW).unwrap();
            match found {
                Found::Damaged { .. } => damaged += 1,
                // What was spoilt did not matter, or was a copy of what is there twice.
                Found::Records(_) => assert_eq!(leased(found).len(), 50),
                // Of a file of no length, and of one spoilt where it names the boot.
                Found::Nothing | Found::OtherBoot => {}
            }
        }
        assert!(damaged > 30, "{damaged}");
    }

    #[test]
    fn no_other_user_can_read_the_names_of_pods() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vpc-ipam/state.redb");
        let _open = Store::open(&path, "boot-1", NOW).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn releases_are_forgotten_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        let lease = lease("a", "10.0.0.5");
        let addresses = lease.addresses().collect();
        store.write(&[Record::Released { key: lease.key, addresses, at: NOW }]).unwrap();
        drop(store);
        for (days, expected) in [(1, 1), (2, 0), (1, 0)] {
            let now = NOW + Duration::from_secs(days * 86_400);
            let (_, found) = Store::open(&path, "boot-1", now).unwrap();
            let Found::Records(records) = found else { panic!("{found:?}") };
            assert_eq!(records.len(), expected, "after {days} days");
        }
    }

    #[test]
    fn second_daemon_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let _open = Store::open(&path, "boot-1", NOW).unwrap();
        assert!(matches!(Store::open(&path, "boot-1", NOW), Err(OpenError::InUse { .. })));
    }
}
