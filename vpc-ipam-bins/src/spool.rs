//! What the plugin leaves for a daemon that is not there: notes of pods that are gone, in a folder next to the socket.
//!
//! A container runtime deletes no pod before DEL succeeds, however long the daemon takes to come back. So the plugin takes
//! the pod's network apart without it, and the daemon gives up the pod's addresses when it starts.
//!
//! A note holds until the pod is added again, which removes it. No clock says which came first, DEL or ADD: the wall clock
//! may have been set in between, and a runtime calls one after the other.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpc_ipam_core::PodKey;

use crate::trusted_file::{self, UntrustedError};

/// The note that a pod is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub key: PodKey,
}

/// What was found in the folder of notes.
#[derive(Debug, Default)]
pub struct Found {
    /// Notes, and where they are.
    pub notes: Vec<(PathBuf, Note)>,
    /// What is no note of ours, and was left alone.
    pub ignored: Vec<IgnoredError>,
}

/// Why something in the folder of notes, or the folder, counts for nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoredError {
    /// It is of the wrong kind, another user's, or too long, or cannot be read.
    #[error(transparent)]
    Untrusted(#[from] UntrustedError),
    /// It says nothing that was ever written here.
    #[error("{} holds no note", path.display())]
    NoNote {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The folder cannot be listed.
    #[error("list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is more in the folder than is read at once.
    #[error("{} holds more than {NOTES_MAX} notes; the rest is read at the next start", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

const FOLDER: &str = "deleted";
/// The longest note that is read, in bytes: some fifty times what a key with the longest names takes.
const NOTE_BYTES_MAX: u64 = 64 << 10;
/// The most entries of the folder that are looked at: far more than the pods of any node.
const NOTES_MAX: usize = 100_000;

/// Leaves a note that survives a crash.
///
/// A note about the same pod replaces the earlier one.
pub fn leave(socket: &Path, note: &Note) -> io::Result<()> {
    let folder = socket.with_file_name(FOLDER);
    trusted_file::folder(&folder)
        .and_then(|()| trusted_file::is_folder(&folder))
        .map_err(io::Error::other)?;
    let name = name(&note.key);
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let path = folder.join(name);
    // Of a plugin that died, whose number came round again.
    remove(&unfinished)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(&folder)?.sync_all()
}

/// Takes back the note about a pod, if there is one, so that it does not come again after a crash.
pub fn take_back(socket: &Path, key: &PodKey) -> io::Result<()> {
    let folder = socket.with_file_name(FOLDER);
    let path = folder.join(name(key));
    // What the daemon would not read need not be taken back.
    let is_note = matches!(trusted_file::is_folder(&folder), Ok(true))
        && fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    if is_note {
        remove(&path)?;
        File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

/// Names the note about a pod. An @ is part of none of the three, so that no pod's note has the name of another's.
fn name(key: &PodKey) -> String {
    format!("{}@{}@{}", key.network(), key.container(), key.ifname())
}

/// Reads the notes that were left.
///
/// Whatever else is in the folder neither stops nor delays whoever reads: it is told of and left where it is.
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
                if count == NOTES_MAX {
                    found.ignored.push(IgnoredError::TooMany { path: folder.clone() });
                    break;
                }
                match entry.map_err(unlisted).and_then(|entry| note(&entry)) {
                    Ok(note) => found.notes.extend(note),
                    Err(error) => found.ignored.push(error),
                }
            }
        }
        Err(source) => found.ignored.push(unlisted(source)),
    }
    found.notes.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn note(entry: &DirEntry) -> Result<Option<(PathBuf, Note)>, IgnoredError> {
    // Of a plugin at work, or of one that died: its runtime calls it again.
    if entry.file_name().as_encoded_bytes().starts_with(b".") {
        return Ok(None);
    }
    let path = entry.path();
    let Some(bytes) = trusted_file::read(&path, NOTE_BYTES_MAX)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(note) => Ok(Some((path, note))),
        Err(source) => Err(IgnoredError::NoNote { path, source }),
    }
}

/// Removes a note; one that is not there is removed already.
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

    fn note(container: &str) -> Note {
        Note { key: key(container) }
    }

    #[test]
    fn notes_are_read_back_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        assert_eq!(read(&socket).notes, []);

        for container in ["a", "a", "b", "c"] {
            leave(&socket, &note(container)).unwrap();
        }
        fs::write(socket.with_file_name(FOLDER).join(".unfinished"), b"{").unwrap();

        let found = read(&socket);
        let about: Vec<_> = found.notes.iter().map(|(_, note)| note.clone()).collect();
        assert_eq!(about, ["a", "b", "c"].map(note));
        assert!(found.ignored.is_empty(), "{:?}", found.ignored);
        for _ in 0..2 {
            remove(&found.notes[0].0).unwrap();
            take_back(&socket, &key("c")).unwrap();
        }
        assert_eq!(read(&socket).notes, found.notes[1..2]);
    }

    #[test]
    fn what_is_no_note_is_named_and_neither_read_nor_removed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        leave(&socket, &note("real")).unwrap();
        let path = |name: &str| socket.with_file_name(FOLDER).join(name);
        fs::write(path("empty"), "").unwrap();
        fs::write(path("not-json"), "{").unwrap();
        fs::write(path("long"), vec![b' '; 1 << 20]).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let target = folder.path().join("target");
        fs::write(&target, serde_json::to_vec(&note("linked")).unwrap()).unwrap();
        symlink(&target, path("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();

        let found = read(&socket);

        let about: Vec<_> = found.notes.iter().map(|(_, note)| note.clone()).collect();
        assert_eq!(about, [note("real")]);
        let said: Vec<String> = found.ignored.iter().map(ToString::to_string).collect();
        for name in ["empty", "not-json", "long", "folder", "link", "fifo"] {
            let named = path(name).display().to_string();
            assert_eq!(said.iter().filter(|said| said.contains(&named)).count(), 1, "{said:#?}");
            assert!(fs::symlink_metadata(path(name)).is_ok(), "{name} is gone");
        }
    }

    #[test]
    fn without_a_folder_of_ours_no_note_is_left_or_read() {
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
            assert_eq!((found.notes.len(), found.ignored.len()), (0, 1), "{kind}: {found:?}");
            assert!(found.ignored[0].to_string().contains(FOLDER), "{kind}: {found:?}");
            take_back(&socket, &key("a")).unwrap();
            let error = leave(&socket, &note("a")).unwrap_err();
            assert!(error.to_string().contains(FOLDER), "{kind}: {error}");
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{kind}");
        }
    }
}
