//! What survives a restart of the daemon: a redb file in the runtime directory.
//!
//! The file belongs to one boot of the kernel, whose id it carries: after a reboot no pod of before exists. A file that
//! cannot be read is put aside, never deleted, and the daemon starts from what EC2 and the kernel show.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use vpc_ipam_core::{Lease, PodKey, Record, Timestamp};

/// Leases as JSON, by key as JSON.
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");
/// When addresses were released, in nanoseconds since the epoch.
const RELEASED: TableDefinition<'_, &str, u64> = TableDefinition::new("released");
/// What the file is.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

const FORMAT: &str = "vpc-ipam/1";
/// Of a database of a few hundred rows; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 256 << 10;
/// Longer than any cool-down; older releases are forgotten when the file is opened.
const RELEASED_KEPT: Duration = Duration::from_secs(86_400);

/// The durable state of one node.
pub struct Store {
    database: Database,
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
    /// A file that cannot be read; it was put aside.
    Damaged {
        /// Where it is now.
        moved_to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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
    /// The directory could not be made, or the file not be moved or made.
    #[error("make {path}")]
    Make {
        /// The file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A new file could not be set up.
    #[error("set up {path}")]
    SetUp {
        /// The file.
        path: String,
        /// Why.
        source: Box<redb::Error>,
    },
}

/// Why records could not be made durable. None of them is.
#[derive(Debug, thiserror::Error)]
#[error("write the state file")]
pub struct WriteError(#[source] Box<redb::Error>);

impl Store {
    /// Opens the state file of a node, or makes it.
    pub fn open(path: &Path, boot: &str, now: Timestamp) -> Result<(Self, Found), OpenError> {
        let make = |path: &Path| {
            let path = path.display().to_string();
            move |source| OpenError::Make { path, source }
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(make(directory))?;
        }
        let existed = path.exists();
        let why = match Self::open_file(path) {
            Ok(store) => match store.read(boot, now) {
                Ok(Some(records)) => return Ok((store, Found::Records(records))),
                Ok(None) => {
                    store.clear(boot).map_err(|source| set_up(path, source))?;
                    let found = if existed { Found::OtherBoot } else { Found::Nothing };
                    return Ok((store, found));
                }
                Err(why) => why,
            },
            Err(redb::Error::DatabaseAlreadyOpen) => {
                return Err(OpenError::InUse { path: path.display().to_string() });
            }
            Err(error) if existed => error.to_string(),
            Err(error) => return Err(set_up(path, error)),
        };
        let aside = format!("{}.damaged-{}", path.display(), now.as_nanos());
        let moved_to = PathBuf::from(aside);
        fs::rename(path, &moved_to).map_err(make(path))?;
        let store = Self::open_file(path).map_err(|source| set_up(path, source))?;
        store.clear(boot).map_err(|source| set_up(path, source))?;
        Ok((store, Found::Damaged { moved_to, why }))
    }

    /// Makes records durable, all or none.
    pub fn write(&self, records: &[Record]) -> Result<(), WriteError> {
        self.try_write(records).map_err(|error| WriteError(Box::new(error)))
    }

    fn try_write(&self, records: &[Record]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut leases = transaction.open_table(LEASES)?;
            let mut released = transaction.open_table(RELEASED)?;
            for record in records {
                match record {
                    Record::Leased(lease) => {
                        leases
                            .insert(key_text(&lease.key)?.as_str(), to_json(lease)?.as_slice())?;
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

    fn open_file(path: &Path) -> Result<Self, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        Ok(Self { database })
    }

    /// Returns the records of this boot, `None` if the file is of another one or new, or what is wrong with it.
    fn read(&self, boot: &str, now: Timestamp) -> Result<Option<Vec<Record>>, String> {
        let read = || -> Result<Result<Option<Vec<Record>>, String>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let meta = match transaction.open_table(META) {
                Ok(meta) => meta,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Ok(None)),
                Err(error) => return Err(error.into()),
            };
            let format = meta.get("format")?.map(|value| value.value().to_string());
            if format.as_deref() != Some(FORMAT) {
                return Ok(Err(format!("its format is {format:?}, not {FORMAT:?}")));
            }
            if meta.get("boot")?.is_none_or(|value| value.value() != boot) {
                return Ok(Ok(None));
            }
            let mut records = Vec::new();
            for row in transaction.open_table(LEASES)?.iter()? {
                let (_, value) = row?;
                match serde_json::from_slice::<Lease>(value.value()) {
                    Ok(lease) => records.push(Record::Leased(lease)),
                    Err(error) => return Ok(Err(format!("a lease cannot be read: {error}"))),
                }
            }
            for row in transaction.open_table(RELEASED)?.iter()? {
                let (address, at) = row?;
                let Ok(address) = address.value().parse::<IpAddr>() else {
                    return Ok(Err(format!("{:?} is no address", address.value())));
                };
                let at = Timestamp::from_nanos(at.value());
                if now.since(at) <= RELEASED_KEPT {
                    // Who held it no longer matters.
                    let key = PodKey::new("-", "-", "-").map_err(|e| to_redb(e.to_string()))?;
                    records.push(Record::Released { key, addresses: vec![address], at });
                }
            }
            Ok(Ok(Some(records)))
        };
        read().unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Makes the file that of this boot, without any record.
    fn clear(&self, boot: &str) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.delete_table(LEASES)?;
        transaction.delete_table(RELEASED)?;
        {
            transaction.open_table(LEASES)?;
            transaction.open_table(RELEASED)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("boot", boot)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Returns the id of this boot of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

fn set_up(path: &Path, source: redb::Error) -> OpenError {
    OpenError::SetUp { path: path.display().to_string(), source: Box::new(source) }
}

fn key_text(key: &PodKey) -> Result<String, redb::Error> {
    serde_json::to_string(key).map_err(|error| to_redb(error.to_string()))
}

fn to_json(lease: &Lease) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(lease).map_err(|error| to_redb(error.to_string()))
}

fn to_redb(message: String) -> redb::Error {
    redb::Error::Io(io::Error::other(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpc_ipam_core::{Card, DeviceIndex, LeasedInterface, Mac, Pod};

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn lease(container: &str, address: &str) -> Lease {
        Lease {
            key: PodKey::new("aws-cni", container, "eth0").unwrap(),
            pod: Pod { namespace: "default".into(), name: container.into() }.into(),
            since: NOW,
            first: LeasedInterface {
                eni: "eni-1".parse().unwrap(),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                card: Card(0),
                device: DeviceIndex(1),
                ipv4: Some(address.parse().unwrap()),
                ipv6: None,
            },
            more: Vec::new(),
        }
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

        let (store, found) = Store::open(&path, "boot-1", NOW).unwrap();
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

    #[test]
    fn damaged_file_is_put_aside_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        fs::write(&path, b"not a database").unwrap();
        let (store, found) = Store::open(&path, "boot-1", NOW).unwrap();
        let Found::Damaged { moved_to, .. } = found else { panic!("{found:?}") };
        assert_eq!(fs::read(moved_to).unwrap(), b"not a database");
        store.write(&[Record::Leased(lease("a", "10.0.0.5"))]).unwrap();
        drop(store);
        let (_, found) = Store::open(&path, "boot-1", NOW).unwrap();
        assert_eq!(leased(found).len(), 1);
    }

    #[test]
    fn second_daemon_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let _open = Store::open(&path, "boot-1", NOW).unwrap();
        assert!(matches!(Store::open(&path, "boot-1", NOW), Err(OpenError::InUse { .. })));
    }
}
