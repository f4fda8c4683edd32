//! The tables of the state file, and how they are read and written.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use vpc_ipam_core::{Lease, PodKey, Record, Timestamp};
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use super::{Entry, Known};

/// Leases as JSON, by key as JSON.
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");
/// When addresses were released, in nanoseconds since the epoch.
const RELEASED: TableDefinition<'_, &str, u64> = TableDefinition::new("released");
/// What is known of the node, by the name of its form: a file of an earlier version has none, and what a later version adds
/// under another name is not read.
pub(super) const KNOWN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("known");
/// The name of [`Known`] as it is below, as JSON.
pub(super) const KNOWN_FORM: &str = "node/1";
/// What the file is.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

pub(super) const FORMAT: &str = "vpc-ipam/1";
/// How the formats of all versions begin.
const FORMAT_NAME: &str = "vpc-ipam/";
/// Of a database of a few hundred rows; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 256 << 10;
/// The longest file that is opened: a hundred times what a node with a thousand pods needs.
const BYTES_MAX: u64 = 256 << 20;
/// Longer than any rest of an address; what was released before is forgotten when the file is opened.
const RELEASED_KEPT: Duration = Duration::from_secs(86_400);

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

/// Why a file cannot be used.
pub(super) enum Unusable {
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

pub(super) fn open(path: &Path) -> Result<Database, Unusable> {
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
pub(super) type Read = (Vec<Record>, BTreeMap<PodKey, PathBuf>);

/// Returns the records of this boot; `None` if the file is new or of another one.
pub(super) fn read(
    database: &Database,
    boot: &str,
    now: Timestamp,
) -> Result<Option<Read>, Unusable> {
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
        // One that lies ahead was written before the clock was set back.
        let at = Timestamp::from_nanos(at.value()).min(now);
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

/// Removes the releases that are too old to matter, and has those that lie ahead be of now: the clock was set back since, and the next
/// start is not to begin their cooldown anew.
pub(super) fn forget(database: &Database, now: Timestamp) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut released = transaction.open_table(RELEASED)?;
        let mut ahead = Vec::new();
        released.retain(|address, at| {
            let at = Timestamp::from_nanos(at);
            if at > now {
                ahead.push(address.to_string());
            }
            is_remembered(at, now)
        })?;
        for address in ahead {
            released.insert(address.as_str(), now.as_nanos())?;
        }
    }
    Ok(transaction.commit()?)
}

/// Makes the file that of this boot, without any record.
pub(super) fn clear(database: &Database, boot: &str) -> Result<(), redb::Error> {
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

/// Writes entries, all or none.
pub(super) fn write(database: &Database, entries: &[Entry]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut leases = transaction.open_table(LEASES)?;
        let mut released = transaction.open_table(RELEASED)?;
        for Entry { record, sandbox } in entries {
            match record {
                Record::Leased(lease) => {
                    let stored = StoredLease { lease, sandbox: sandbox.as_deref() };
                    leases.insert(key_text(&lease.key)?.as_str(), to_json(&stored)?.as_slice())?;
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

/// Returns what is known of the node, as far as it is in its form.
pub(super) fn read_known(
    database: &Database,
) -> Result<Option<serde_json::Result<Known>>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(KNOWN) {
        Ok(table) => Ok(table.get(KNOWN_FORM)?.map(|value| serde_json::from_slice(value.value()))),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes what is known of the node.
pub(super) fn write_known(database: &Database, known: &Known) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(KNOWN)?.insert(KNOWN_FORM, to_json(known)?.as_slice())?;
    transaction.commit()?;
    Ok(())
}

fn key_text(key: &PodKey) -> Result<String, redb::Error> {
    serde_json::to_string(key).map_err(|error| to_redb(error.to_string()))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| to_redb(error.to_string()))
}

pub(super) fn to_redb_error(unusable: Unusable) -> redb::Error {
    match unusable {
        Unusable::InUse => redb::Error::DatabaseAlreadyOpen,
        Unusable::Failed(error) => error,
        Unusable::Damaged(why) | Unusable::UnknownVersion(why) => to_redb(why),
    }
}

pub(super) fn to_redb(message: String) -> redb::Error {
    redb::Error::Io(io::Error::other(message))
}
