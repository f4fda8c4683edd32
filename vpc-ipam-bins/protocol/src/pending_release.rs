//! Pods that the plugin deleted while no daemon ran: one file each, in a folder next to the socket.
//!
//! A container runtime deletes no pod before DEL succeeds, however long the daemon takes to come back. So the plugin takes
//! the pod's network apart without it, and the daemon releases the pod's addresses when it starts.
//!
//! A pending release holds until the pod is added again, which withdraws it. No clock says which came first, DEL or ADD: the wall clock
//! may have been set in between, and a runtime calls one after the other.

use core::fmt::Write as _;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use vpc_ipam_core::PodKey;

use crate::SOCKET;
use crate::trusted_file::{self, UntrustedError};

/// What the file says of a pod that was deleted while no daemon ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRelease {
    /// The pod whose addresses the next daemon releases.
    pub key: PodKey,
}

/// What was found in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// Pending releases, each with the path of its file.
    pub releases: Vec<(PathBuf, PendingRelease)>,
    /// Entries that hold no pending release and were left alone.
    pub ignored: Vec<IgnoredError>,
}

/// Why an entry of the folder, or the whole folder, is passed over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoredError {
    /// It is of the wrong kind, another user's, or too long, or cannot be read.
    #[error(transparent)]
    Untrusted(#[from] UntrustedError),
    /// It does not hold what a plugin writes here.
    #[error("{} holds no pending release", path.display())]
    NotPendingRelease {
        /// The file.
        path: PathBuf,
        /// Where its JSON is wrong.
        source: serde_json::Error,
    },
    /// The folder cannot be listed.
    #[error("list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is more in the folder than is read at once.
    #[error("{} holds more than {ENTRIES_MAX} entries; the rest is read at the next start", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

/// Why a pending release could not be left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// The folder in which the socket should be is not there.
    #[error("there is no folder {}", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of pending releases is something else, or another user's, or cannot be made.
    #[error(transparent)]
    Untrusted(#[from] UntrustedError),
    /// The file could not be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Why a pending release could not be withdrawn.
#[derive(Debug, thiserror::Error)]
#[error("remove {}", path.display())]
pub struct WithdrawError {
    path: PathBuf,
    source: io::Error,
}

const FOLDER: &str = "deleted";
/// The longest name of a file, in bytes: NAME_MAX of limits.h is 255, and a file that is being written has a dot and a process id in
/// its name too.
const NAME_MAX: usize = 240;
/// The longest file that is read, in bytes: some fifty times what a key with the longest names takes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The most entries of the folder that are looked at: far more than the pods of any node.
const ENTRIES_MAX: usize = 100_000;

/// Writes a pending release that survives a crash.
///
/// It replaces an earlier one of the same pod. The folder of the socket must be there, unless it is the default one, which is
/// made: elsewhere the socket may be misspelt.
pub fn leave(socket: &Path, release: &PendingRelease) -> Result<(), LeaveError> {
    let beside = socket.parent().unwrap_or(socket);
    if socket != Path::new(SOCKET) && !beside.is_dir() {
        return Err(LeaveError::NoFolder { path: beside.to_owned() });
    }
    let folder = socket.with_file_name(FOLDER);
    trusted_file::folder(&folder).and_then(|()| trusted_file::is_folder(&folder))?;
    let name = name(&release.key);
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let path = folder.join(name);
    let write = || -> io::Result<()> {
        // Of a plugin that died, whose number came round again.
        remove(&unfinished)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(release)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(&folder)?.sync_all()
    };
    write().map_err(|source| LeaveError::Write { path: path.clone(), source })
}

/// Removes the pending release of a pod, if there is one, so that it does not return after a crash.
pub fn withdraw(socket: &Path, key: &PodKey) -> Result<(), WithdrawError> {
    let folder = socket.with_file_name(FOLDER);
    let path = folder.join(name(key));
    // What the daemon would not read need not be withdrawn.
    let is_file = matches!(trusted_file::is_folder(&folder), Ok(true))
        && fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    if is_file {
        let removed = remove(&path).and_then(|()| File::open(&folder)?.sync_all());
        removed.map_err(|source| WithdrawError { path, source })?;
    }
    Ok(())
}

/// Names a pod's file. None of the three parts contains an @, so no two pods share a file. Where the parts are too long together for
/// the name of a file, their digest is the name.
fn name(key: &PodKey) -> String {
    let name = format!("{}@{}@{}", key.network(), key.container(), key.ifname());
    if name.len() <= NAME_MAX {
        return name;
    }
    let digest = Sha1::digest(name.as_bytes());
    digest.iter().fold("@sha1@".to_string(), |mut hex, byte| {
        // To write to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Reads the pending releases.
///
/// Any other entry of the folder neither stops nor delays the reader: it is reported and left in place.
pub fn read(socket: &Path) -> Found {
    let mut found = Found::default();
    let folder = socket.with_file_name(FOLDER);
    let entries = match trusted_file::is_folder(&folder) {
        Ok(true) => fs::read_dir(&folder),
        Ok(false) => return found,
        Err(error) => {
            found.ignored.push(error.into());
            return found;
        }
    };
    let unlisted = |source| IgnoredError::List { path: folder.clone(), source };
    match entries {
        Ok(entries) => {
            for (count, entry) in entries.enumerate() {
                if count == ENTRIES_MAX {
                    found.ignored.push(IgnoredError::TooMany { path: folder.clone() });
                    break;
                }
                match entry.map_err(unlisted).and_then(|entry| pending(&entry)) {
                    Ok(pending) => found.releases.extend(pending),
                    Err(error) => found.ignored.push(error),
                }
            }
        }
        Err(source) => found.ignored.push(unlisted(source)),
    }
    found.releases.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn pending(entry: &DirEntry) -> Result<Option<(PathBuf, PendingRelease)>, IgnoredError> {
    // Of a plugin at work, or of one that died: its runtime calls it again.
    if entry.file_name().as_encoded_bytes().starts_with(b".") {
        return Ok(None);
    }
    let path = entry.path();
    let Some(bytes) = trusted_file::read(&path, FILE_BYTES_MAX)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(release) => Ok(Some((path, release))),
        Err(source) => Err(IgnoredError::NotPendingRelease { path, source }),
    }
}

/// Removes the file of a pending release; it is no error if there is none.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn key(container: &str) -> PodKey {
        PodKey::new("aws-cni", container, "eth0").unwrap()
    }

    fn release(container: &str) -> PendingRelease {
        PendingRelease { key: key(container) }
    }

    #[test]
    fn pending_releases_are_read_back_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        assert_eq!(read(&socket).releases, []);

        for container in ["a", "a", "b", "c"] {
            leave(&socket, &release(container)).unwrap();
        }
        fs::write(socket.with_file_name(FOLDER).join(".unfinished"), b"{").unwrap();

        let found = read(&socket);
        let about: Vec<_> = found.releases.iter().map(|(_, release)| release.clone()).collect();
        assert_eq!(about, ["a", "b", "c"].map(release));
        assert!(found.ignored.is_empty(), "{:?}", found.ignored);
        for _ in 0..2 {
            remove(&found.releases[0].0).unwrap();
            withdraw(&socket, &key("c")).unwrap();
        }
        assert_eq!(read(&socket).releases, found.releases[1..2]);
    }

    #[test]
    fn pending_releases_of_the_longest_names_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        let ifname = "i".repeat(15);
        // Around the length from which on digests are names.
        let keys: Vec<_> = (215..=253)
            .flat_map(|len| {
                [("n".to_string(), "c".repeat(len)), ("n".repeat(len), "c".to_string())]
            })
            .chain([("n".repeat(253), "c".repeat(253))])
            .map(|(network, container)| PodKey::new(&network, &container, &ifname).unwrap())
            .collect();
        let mut left = keys.len();
        for key in &keys {
            leave(&socket, &PendingRelease { key: key.clone() }).unwrap();
        }
        let read_back = || read(&socket).releases.into_iter().map(|(_, release)| release.key);
        assert_eq!(read_back().count(), left);
        for key in &keys {
            assert!(read_back().any(|it| it == *key), "{key}");
            withdraw(&socket, key).unwrap();
            left -= 1;
            assert_eq!(read_back().count(), left, "{key}");
        }
    }

    #[test]
    fn no_folder_is_made_where_no_daemon_could_listen() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("misspelt/ipamd.sock");

        let error = leave(&socket, &release("a")).unwrap_err();

        let misspelt = socket.parent().unwrap();
        assert_eq!(error.to_string(), format!("there is no folder {}", misspelt.display()));
        assert!(!misspelt.exists());
    }

    #[test]
    fn any_other_entry_is_named_and_neither_read_nor_removed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        leave(&socket, &release("real")).unwrap();
        let path = |name: &str| socket.with_file_name(FOLDER).join(name);
        fs::write(path("empty"), "").unwrap();
        fs::write(path("not-json"), "{").unwrap();
        fs::write(path("long"), vec![b' '; 1 << 20]).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let target = folder.path().join("target");
        fs::write(&target, serde_json::to_vec(&release("linked")).unwrap()).unwrap();
        symlink(&target, path("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();

        let found = read(&socket);

        let about: Vec<_> = found.releases.iter().map(|(_, release)| release.clone()).collect();
        assert_eq!(about, [release("real")]);
        let said: Vec<String> = found.ignored.iter().map(ToString::to_string).collect();
        for name in ["empty", "not-json", "long", "folder", "link", "fifo"] {
            let named = path(name).display().to_string();
            assert_eq!(said.iter().filter(|said| said.contains(&named)).count(), 1, "{said:#?}");
            assert!(fs::symlink_metadata(path(name)).is_ok(), "{name} is gone");
        }
    }

    #[test]
    fn without_a_folder_of_ours_nothing_is_left_or_read() {
        for kind in ["file", "link", "fifo", "for all to write"] {
            let parent = tempfile::tempdir().unwrap();
            let socket = parent.path().join("ipamd.sock");
            let folder = socket.with_file_name(FOLDER);
            let elsewhere = parent.path().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            match kind {
                "file" => fs::write(&folder, "").unwrap(),
                "link" => symlink(&elsewhere, &folder).unwrap(),
                "fifo" => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o600);
                    rustix::fs::mkfifoat(rustix::fs::CWD, &folder, mode).unwrap();
                }
                _ => {
                    use std::os::unix::fs::PermissionsExt as _;
                    fs::create_dir(&folder).unwrap();
                    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
                }
            }

            let found = read(&socket);
            assert_eq!((found.releases.len(), found.ignored.len()), (0, 1), "{kind}: {found:?}");
            assert!(found.ignored[0].to_string().contains(FOLDER), "{kind}: {found:?}");
            withdraw(&socket, &key("a")).unwrap();
            let error = leave(&socket, &release("a")).unwrap_err();
            assert!(error.to_string().contains(FOLDER), "{kind}: {error}");
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{kind}");
        }
    }
}
