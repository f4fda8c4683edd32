//! Files and folders that count only if they are what they should be.
//!
//! The daemon runs as root, and what it opens may be a link to something else, a pipe that never ends, a device, or the work of
//! another user. What is not as expected is named and left alone.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Why a file or a folder is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UntrustedError {
    /// It is something else.
    #[error("{} is {found}, where {expected} is expected", path.display())]
    Kind {
        /// Its path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// It is another user's.
    #[error("{} belongs to user {uid}, who is neither root nor the user of this program", path.display())]
    Owner {
        /// Its path.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Any user may put something else in its place.
    #[error("every user may write to the folder {}: take that right away with chmod o-w", path.display())]
    Writable {
        /// Its path.
        path: PathBuf,
    },
    /// It is too long.
    #[error("{} is longer than the {bytes_max} bytes that are read", path.display())]
    Size {
        /// Its path.
        path: PathBuf,
        /// The most that is read.
        bytes_max: u64,
    },
    /// It could not be opened, read or made.
    #[error("open {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Opens a file of ours for reading and writing; `None` if there is none.
///
/// It is a regular file of at most `bytes_max` bytes that belongs to root or to the user of this program. A symbolic link is
/// not followed, and a pipe not waited for.
pub fn open(path: &Path, bytes_max: u64) -> Result<Option<File>, UntrustedError> {
    open_own(path, bytes_max, OpenOptions::new().read(true).write(true))
}

/// Makes a file that only we can read; there must be none.
pub fn create(path: &Path) -> Result<File, UntrustedError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|source| unopened(path, source))
}

/// Reads a file of ours, under the conditions of [`open`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, UntrustedError> {
    let file = open_own(path, bytes_max, OpenOptions::new().read(true))?;
    file.map(|file| read_open(path, file, bytes_max)).transpose()
}

/// Reads a file that an operator named: whosever it is and wherever links lead, but a regular file of at most `bytes_max`
/// bytes.
pub fn read_named(path: &Path, bytes_max: u64) -> Result<Vec<u8>, UntrustedError> {
    let found = fs::metadata(path).map_err(|source| unopened(path, source))?;
    expect_regular(path, &found)?;
    let file = open_with(path, OpenOptions::new().read(true), OFlags::empty())?;
    let found = file.metadata().map_err(|source| unopened(path, source))?;
    expect_regular(path, &found)?;
    read_open(path, file, bytes_max)
}

/// Makes a folder that is ours alone, or makes sure that the one that is there is root's or ours and not for every user to
/// write to.
pub fn folder(path: &Path) -> Result<(), UntrustedError> {
    // Of a file that is named without a folder.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    let found = match (fs::metadata(path), made) {
        (Ok(found), _) => found,
        // Why it could not be made says more than that it is not there.
        (Err(_), Err(source)) | (Err(source), Ok(())) => return Err(unopened(path, source)),
    };
    expect_folder(path, &found)
}

/// Returns whether there is a folder that is root's or ours; one that is not is an error, and so is a link to one.
pub fn is_folder(path: &Path) -> Result<bool, UntrustedError> {
    match fs::symlink_metadata(path) {
        Ok(found) => expect_folder(path, &found).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(unopened(path, source)),
    }
}

fn open_own(
    path: &Path,
    bytes_max: u64,
    options: &mut OpenOptions,
) -> Result<Option<File>, UntrustedError> {
    // Looked at before it is opened, since to open a device may do something already.
    match fs::symlink_metadata(path) {
        Ok(found) => expect_own(path, &found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unopened(path, source)),
    }
    let file = open_with(path, options, OFlags::NOFOLLOW)?;
    let found = file.metadata().map_err(|source| unopened(path, source))?;
    expect_own(path, &found)?;
    if found.len() > bytes_max {
        return Err(UntrustedError::Size { path: path.to_owned(), bytes_max });
    }
    Ok(Some(file))
}

fn expect_folder(path: &Path, found: &Metadata) -> Result<(), UntrustedError> {
    const STICKY: u32 = 0o1000;
    const ALL_WRITE: u32 = 0o002;
    if !found.is_dir() {
        return Err(unlike(path, found, "a folder"));
    }
    expect_owner(path, found)?;
    // With the sticky bit, as on /tmp, no user replaces the files of another.
    if found.mode() & (STICKY | ALL_WRITE) == ALL_WRITE {
        return Err(UntrustedError::Writable { path: path.to_owned() });
    }
    Ok(())
}

fn expect_own(path: &Path, found: &Metadata) -> Result<(), UntrustedError> {
    expect_regular(path, found)?;
    expect_owner(path, found)
}

fn expect_regular(path: &Path, found: &Metadata) -> Result<(), UntrustedError> {
    if found.is_file() { Ok(()) } else { Err(unlike(path, found, "a regular file")) }
}

fn expect_owner(path: &Path, found: &Metadata) -> Result<(), UntrustedError> {
    let uid = found.uid();
    if is_trusted(uid) { Ok(()) } else { Err(UntrustedError::Owner { path: path.to_owned(), uid }) }
}

/// Returns whether a user is root or the one as whom this program runs.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn unlike(path: &Path, found: &Metadata, expected: &'static str) -> UntrustedError {
    let kind = found.file_type();
    let found = match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    UntrustedError::Kind { path: path.to_owned(), found, expected }
}

fn open_with(
    path: &Path,
    options: &mut OpenOptions,
    flags: OFlags,
) -> Result<File, UntrustedError> {
    // Not blocking: it may have become a FIFO without a writer.
    let flags = (flags | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = flags.try_into().expect("the flags of open fit into what open takes");
    options.custom_flags(flags).open(path).map_err(|source| unopened(path, source))
}

fn read_open(path: &Path, file: File, bytes_max: u64) -> Result<Vec<u8>, UntrustedError> {
    let mut bytes = Vec::new();
    let limit = bytes_max.saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|source| unopened(path, source))?;
    if bytes.len() as u64 > bytes_max {
        return Err(UntrustedError::Size { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

fn unopened(path: &Path, source: io::Error) -> UntrustedError {
    UntrustedError::Open { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_a_regular_file_of_bounded_length_is_read_and_no_link_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").unwrap();
        fs::write(path("long"), "texts").unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink(path("missing"), path("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();

        let own = |path: &Path| read(path, 4).map(Option::unwrap_or_default);
        let named = |path: &Path| read_named(path, 4);
        // What our own files are held to, and those that an operator names.
        let cases = [
            ("file", Ok("text"), Ok("text")),
            ("missing", Ok(""), Err("open")),
            ("long", Err("longer than the 4 bytes"), Err("longer than the 4 bytes")),
            ("folder", Err("is a folder"), Err("is a folder")),
            ("link", Err("is a symbolic link"), Ok("text")),
            ("dangling", Err("is a symbolic link"), Err("open")),
            ("socket", Err("is a socket"), Err("is a socket")),
            ("fifo", Err("is a FIFO"), Err("is a FIFO")),
            ("/dev/zero", Err("is a device"), Err("is a device")),
        ];
        for (name, expected_own, expected_named) in cases {
            let path = path(name);
            for (read, expected) in [(own(&path), expected_own), (named(&path), expected_named)] {
                match (read, expected) {
                    (Ok(bytes), Ok(text)) => assert_eq!(bytes, text.as_bytes(), "{name}"),
                    (Err(error), Err(words)) => {
                        let said = error.to_string();
                        let named = said.contains(&path.display().to_string());
                        assert!(named && said.contains(words), "{name}: {said}");
                    }
                    (read, expected) => panic!("{name}: {read:?} instead of {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn folder_that_every_user_may_write_to_is_not_ours() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/folder");
        folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for (mode, expected) in [(0o755, true), (0o775, true), (0o777, false), (0o1777, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let taken = (folder(&path).is_ok(), is_folder(&path).is_ok());
            assert_eq!(taken, (expected, expected), "mode {mode:o}");
        }

        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(folder(&link).is_ok(), "an operator may put the state elsewhere");
        assert!(matches!(is_folder(&link), Err(UntrustedError::Kind { .. })));
        assert!(!is_folder(&parent.path().join("missing")).unwrap());
    }
}
