//! Namespaces with a name under `/run/netns`, where `ip netns` and container runtimes find them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::{Namespace, NamespaceError, OF_THREAD, without_capability};

/// A failure to make a network namespace with a name. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateNamespaceError {
    /// No file can have the name.
    #[error("{name:?} cannot be the name of a network namespace")]
    Name {
        /// The name that was asked for.
        name: String,
    },
    /// The name is taken.
    #[error("network namespace {path} exists already")]
    Exists {
        /// The path below `/run/netns`.
        path: PathBuf,
    },
    /// The directory of the names is not there, or what is mounted in it stays unseen in other mount namespaces, and that could not be
    /// changed.
    #[error("make {path} a shared mount point{}", without_capability(source))]
    Directory {
        /// The path below `/run/netns`.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// There could be no file to mount the namespace over.
    #[error("create {path}")]
    File {
        /// The path below `/run/netns`.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The namespace could not be made, or not be mounted.
    #[error("make network namespace {path}{}", without_capability(source))]
    Make {
        /// Where it was to be.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The namespace was made and could not be opened.
    #[error(transparent)]
    Open(#[from] NamespaceError),
}

/// A failure to take a network namespace its name.
#[derive(Debug, thiserror::Error)]
#[error("remove network namespace {path}{}", without_capability(source))]
pub struct RemoveNamespaceError {
    /// The path below `/run/netns`.
    pub path: PathBuf,
    /// Why it stays there.
    pub source: io::Error,
}

const DIRECTORY: &str = "/run/netns";

impl Namespace {
    /// Makes a namespace that lives under its name until [`Namespace::remove`], as `ip netns add` does.
    ///
    /// It is as the kernel makes it: its loopback is down, and its IPv4 variables may be those of the first namespace of
    /// the machine. Needs CAP_SYS_ADMIN.
    pub fn create(name: &str) -> Result<Self, CreateNamespaceError> {
        let Some(path) = path_of(name) else {
            return Err(CreateNamespaceError::Name { name: name.to_owned() });
        };
        share_directory()
            .map_err(|source| CreateNamespaceError::Directory { path: DIRECTORY.into(), source })?;

        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(_) => {}
            Err(Errno::EXIST) => return Err(CreateNamespaceError::Exists { path }),
            Err(errno) => return Err(CreateNamespaceError::File { path, source: errno.into() }),
        }
        let made = mount_new(&path)
            .map_err(|source| CreateNamespaceError::Make { path: path.clone(), source })
            .and_then(|()| Ok(Self::open(&path)?));
        if made.is_err() {
            // The first failure is the one to report.
            let _ = remove(&path);
        }
        made
    }

    /// Takes a namespace its name, as `ip netns delete` does; what is not there is removed already.
    ///
    /// The namespace itself goes when nothing holds it any more: no process and no thread, no open [`Namespace`], no
    /// socket.
    pub fn remove(name: &str) -> Result<(), RemoveNamespaceError> {
        let Some(path) = path_of(name) else {
            return Ok(());
        };
        remove(&path).map_err(|errno| RemoveNamespaceError { path, source: errno.into() })
    }

    /// Returns the names of all namespaces that have one, in order.
    pub fn names() -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    /// Returns its name, if it was opened by one.
    pub fn name(&self) -> Option<&str> {
        self.path.strip_prefix(DIRECTORY).ok()?.to_str()
    }
}

/// Returns where a namespace is found by its name, if it can be the name of a file in that directory.
fn path_of(name: &str) -> Option<PathBuf> {
    let is_name = !["", ".", ".."].contains(&name) && !name.contains(['/', '\0']);
    is_name.then(|| Path::new(DIRECTORY).join(name))
}

/// Lets what is mounted in the directory be seen by other mount namespaces, which otherwise would hold on to what is
/// unmounted here.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    // The lock that `ip netns add` takes too: of two who mount the directory over itself, one would bury the other's work.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock: OwnedFd = rustix::fs::open(DIRECTORY, flags, Mode::empty())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;

    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(DIRECTORY, shared) {
        // Not a mount point.
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(DIRECTORY, DIRECTORY)?;
            Ok(rustix::mount::mount_change(DIRECTORY, shared)?)
        }
        other => Ok(other?),
    }
}

/// Makes a namespace on a thread that lives no longer than that, and mounts it.
fn mount_new(path: &Path) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "unsound for descriptor tables alone, which stay shared; safe code has no replacement"
    )]
    let inside = || {
        rustix::thread::unshare(UnshareFlags::NEWNET)?;
        rustix::mount::mount_bind(OF_THREAD, path)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, inside)?;
        match thread.join() {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn remove(path: &Path) -> rustix::io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        // The file remains where a mount namespace went that had the mount.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_a_file_name() {
        for name in ["", ".", "..", "a/b", "/nonexistent", "a\0"] {
            let made = Namespace::create(name);
            assert!(matches!(made, Err(CreateNamespaceError::Name { .. })), "{name:?}: {made:?}");
            Namespace::remove(name).unwrap();
        }
    }
}
