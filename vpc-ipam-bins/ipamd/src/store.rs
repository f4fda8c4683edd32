//! What survives a restart of the daemon: a redb file in the runtime directory.
//!
//! The file belongs to one boot of the kernel, whose id it carries: after a reboot no pod of before exists. What cannot be
//! used in its place, a damaged file, a symbolic link or the file of another user, is put aside, never followed or deleted.

mod error;
mod file;
mod known;

use core::fmt;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::Database;
use vpc_ipam_core::{Lease, PodKey, Record, Timestamp};
use vpc_ipam_protocol::trusted_file;

use self::file::{Unusable, to_redb, to_redb_error};
use crate::file_lock;

pub use self::error::{KnownError, OpenError, WriteError};
pub use self::known::{Known, TakenOver};

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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
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
            Err(Unusable::InUse) => return Err(in_use(path)),
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
            Err(Unusable::InUse) => Err(in_use(path)),
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
        let result = self.database().and_then(|database| file::write(database, entries));
        if result.is_err() {
            self.database = None;
        }
        result.map_err(|error| WriteError(Box::new(error)))
    }

    /// Returns what is known of the node in this boot; an error if that cannot be read, without which a start can do.
    pub fn known(&mut self) -> Result<Option<Known>, KnownError> {
        let found = self.database().and_then(|database| file::read_known(database));
        Ok(found.map_err(Box::new)?.transpose()?)
    }

    /// Makes durable what is known of the node.
    pub fn remember(&mut self, known: &Known) -> Result<(), WriteError> {
        let result = self.database().and_then(|database| file::write_known(database, known));
        if result.is_err() {
            self.database = None;
        }
        result.map_err(|error| WriteError(Box::new(error)))
    }

    fn database(&mut self) -> Result<&mut Database, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => file::open(&self.path).map_err(to_redb_error)?,
        };
        Ok(self.database.insert(database))
    }

    /// Opens a file, new or not, and returns what of this boot is in it; `None` if there was nothing.
    fn open_file(
        path: &Path,
        boot: &str,
        now: Timestamp,
    ) -> Result<(Self, Option<Vec<Record>>), Unusable> {
        let database = file::open(path)?;
        let found = file::read(&database, boot, now)?;
        match found {
            Some(_) => file::forget(&database, now)?,
            None => file::clear(&database, boot)?,
        }
        let (records, sandboxes) = found.map_or((None, BTreeMap::new()), |(r, s)| (Some(r), s));
        Ok((Self { path: path.to_path_buf(), database: Some(database), sandboxes }, records))
    }
}

/// Returns the leases in the state file of a node whose daemon does not run, and leaves the file as it is; `None` if there is no file, or
/// one of another boot.
pub fn leases(path: &Path, boot: &str, now: Timestamp) -> Result<Option<Vec<Lease>>, OpenError> {
    // To open it would make it.
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let read = file::open(path).and_then(|database| file::read(&database, boot, now));
    let records = read.map_err(|why| match why {
        Unusable::InUse => in_use(path),
        Unusable::Failed(source) => unusable(path, source),
        Unusable::UnknownVersion(found) => {
            OpenError::UnknownVersion { path: path.display().to_string(), found }
        }
        Unusable::Damaged(why) => OpenError::Damaged { path: path.display().to_string(), why },
    })?;
    let lease = |record| match record {
        Record::Leased(lease) => Some(lease),
        Record::Released { .. } => None,
    };
    Ok(records.map(|(records, _)| records.into_iter().filter_map(lease).collect()))
}

/// Returns the id of this boot of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

fn in_use(path: &Path) -> OpenError {
    let owner = file_lock::in_words(file_lock::holder(path));
    OpenError::InUse { path: path.display().to_string(), owner }
}

fn unusable(path: &Path, source: redb::Error) -> OpenError {
    OpenError::Use { path: path.display().to_string(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use core::time::Duration;
    use std::collections::BTreeSet;

    use vpc_ipam_core::{Limits, Mac, Metadata, Node, Observation, Scope, Source, testkit};
    use vpc_ipam_linux::{AdoptedLink, Family, LinkIndex, Route, Rule, Table};

    use super::file::{KNOWN, KNOWN_FORM};
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn lease(container: &str, address: &str) -> Lease {
        (testkit::lease(container, [testkit::leased(0, 1, [address])])).with_since(NOW)
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
        let node = Node::new(
            "i-1".parse().unwrap(),
            "m5.large".parse().unwrap(),
            "eu-west-1a".parse().unwrap(),
            "vpc-1".parse().unwrap(),
            "eni-0".parse().unwrap(),
            "subnet-1".parse().unwrap(),
        );
        let observation =
            Observation::new(NOW, Source::Imds, Scope::Attached).with_enis(Vec::new());
        let metadata = Metadata::new(node, observation)
            .with_primary_ipv4(Some([10, 0, 0, 4].into()))
            .with_vpc_ipv4_cidrs(vec!["10.0.0.0/16".parse().unwrap()])
            .with_vpc_ipv6_cidrs(Vec::new())
            .with_subnets(BTreeMap::new());
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
    fn leases_are_read_without_a_change_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let read = |boot: &str| super::leases(&path, boot, NOW);
        assert_eq!(read("boot-1").unwrap(), None);
        assert!(!path.exists());
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        let first = lease("a", "10.0.0.5");
        store.write(&[Record::Leased(first.clone())]).unwrap();
        assert!(matches!(read("boot-1"), Err(OpenError::InUse { .. })));
        drop(store);
        assert_eq!(read("boot-2").unwrap(), None);
        assert_eq!(read("boot-1").unwrap(), Some(vec![first]));

        fs::write(&path, b"not a database").unwrap();
        assert!(matches!(read("boot-1"), Err(OpenError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"not a database");
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
    fn release_that_lies_ahead_is_of_the_start_that_first_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut store, _) = Store::open(&path, "boot-1", NOW).unwrap();
        let lease = lease("a", "10.0.0.5");
        let addresses = lease.addresses().collect();
        let ahead = NOW + Duration::from_secs(3600);
        store.write(&[Record::Released { key: lease.key, addresses, at: ahead }]).unwrap();
        drop(store);
        for seconds in [0, 10] {
            let now = NOW + Duration::from_secs(seconds);
            let (_, found) = Store::open(&path, "boot-1", now).unwrap();
            let Found::Records(records) = found else { panic!("{found:?}") };
            let [Record::Released { at, .. }] = records[..] else { panic!("{records:?}") };
            assert_eq!(at, NOW, "after {seconds} s");
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
