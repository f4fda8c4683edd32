//! What the plugin leaves for a daemon that is not there: notes of pods that are gone, in a folder next to the socket.
//!
//! A container runtime deletes no pod before DEL succeeds, however long the daemon takes to come back. So the plugin takes
//! the pod's network apart without it, and the daemon gives up the pod's addresses when it starts.
//!
//! A note holds until the pod is added again, which removes it. No clock says which came first, DEL or ADD: the wall clock
//! may have been set in between, and a runtime calls one after the other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpc_ipam_core::PodKey;

/// The note that a pod is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub key: PodKey,
}

/// Notes that were read, and where.
pub type Notes = Vec<(PathBuf, Note)>;

const FOLDER: &str = "deleted";

/// Leaves a note that survives a crash.
///
/// A note about the same pod replaces the earlier one.
pub fn leave(socket: &Path, note: &Note) -> io::Result<()> {
    let folder = socket.with_file_name(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let name = name(&note.key);
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let path = folder.join(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(&folder)?.sync_all()
}

/// Takes back the note about a pod, if there is one, so that it does not come again after a crash.
pub fn take_back(socket: &Path, key: &PodKey) -> io::Result<()> {
    let folder = socket.with_file_name(FOLDER);
    match fs::remove_file(folder.join(name(key))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(&folder)?.sync_all(),
    }
}

/// Names the note about a pod. An @ is part of none of the three, so that no pod's note has the name of another's.
fn name(key: &PodKey) -> String {
    format!("{}@{}@{}", key.network(), key.container(), key.ifname())
}

/// Reads the notes that were left; one that cannot be read is removed, since nobody ever could.
pub fn read(socket: &Path) -> io::Result<Notes> {
    let entries = match fs::read_dir(socket.with_file_name(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Notes::new()),
        other => other?,
    };
    let mut notes = Notes::new();
    for entry in entries {
        let entry = entry?;
        // Of a plugin at work, or of one that died: its runtime calls it again.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match serde_json::from_slice(&fs::read(entry.path())?) {
            Ok(note) => notes.push((entry.path(), note)),
            Err(_) => fs::remove_file(entry.path())?,
        }
    }
    notes.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(notes)
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
    use super::*;

    #[test]
    fn notes_are_read_back_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        assert_eq!(read(&socket).unwrap(), []);
        let key = |container: &str| PodKey::new("aws-cni", container, "eth0").unwrap();
        let note = |container: &str| Note { key: key(container) };

        for container in ["a", "a", "b", "c"] {
            leave(&socket, &note(container)).unwrap();
        }
        fs::write(socket.with_file_name(FOLDER).join("damaged"), b"{").unwrap();
        fs::write(socket.with_file_name(FOLDER).join(".unfinished"), b"{").unwrap();

        let found = read(&socket).unwrap();
        let about: Vec<_> = found.iter().map(|(_, note)| note.clone()).collect();
        assert_eq!(about, ["a", "b", "c"].map(note));
        for _ in 0..2 {
            remove(&found[0].0).unwrap();
            take_back(&socket, &key("c")).unwrap();
        }
        assert_eq!(read(&socket).unwrap(), found[1..2]);
    }
}
