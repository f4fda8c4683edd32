//! What the plugin leaves for a daemon that is not there: notes of pods that are gone, in a folder next to the socket.
//!
//! A container runtime deletes no pod before DEL succeeds, however long the daemon takes to come back. So the plugin takes
//! the pod's network apart without it, and the daemon gives up the pod's addresses when it starts.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpc_ipam_core::{PodKey, Timestamp};

/// The note that a pod is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub key: PodKey,
    /// Since when. A lease that is younger is of a later pod with the same key.
    pub at: Timestamp,
}

/// Notes that were read, and where.
pub type Notes = Vec<(PathBuf, Note)>;

const FOLDER: &str = "deleted";

/// Leaves a note that survives a crash, and returns where.
///
/// A note about the same pod replaces the earlier one.
pub fn leave(socket: &Path, note: &Note) -> io::Result<PathBuf> {
    let folder = socket.with_file_name(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // An @ is part of none of the three, so that no pod's note has the name of another's.
    let name = format!("{}@{}@{}", note.key.network(), note.key.container(), note.key.ifname());
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let path = folder.join(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(&folder)?.sync_all()?;
    Ok(path)
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
        let note = |container: &str, secs| Note {
            key: PodKey::new("aws-cni", container, "eth0").unwrap(),
            at: Timestamp::from_secs(secs),
        };

        let first = leave(&socket, &note("a", 1)).unwrap();
        let again = leave(&socket, &note("a", 2)).unwrap();
        let other = leave(&socket, &note("b", 3)).unwrap();
        fs::write(socket.with_file_name(FOLDER).join("damaged"), b"{").unwrap();
        fs::write(socket.with_file_name(FOLDER).join(".unfinished"), b"{").unwrap();

        assert_eq!(first, again);
        let expected = [(again.clone(), note("a", 2)), (other, note("b", 3))];
        assert_eq!(read(&socket).unwrap(), expected);
        remove(&again).unwrap();
        remove(&again).unwrap();
        assert_eq!(read(&socket).unwrap(), expected[1..]);
    }
}
