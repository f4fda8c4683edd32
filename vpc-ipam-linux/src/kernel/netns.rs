//! Network namespaces.

mod named;

use core::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

pub use named::{CreateNamespaceError, RemoveNamespaceError};

/// A network namespace, kept alive for as long as this value lives.
#[derive(Clone)]
pub struct Namespace {
    file: Arc<OwnedFd>,
    inode: Inode,
    path: Arc<Path>,
}

/// What tells one namespace from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

/// A failure to open or to enter a network namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// There is nothing at the path: the namespace is gone, or never was.
    #[error("network namespace {path} does not exist")]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// What is at the path is no namespace.
    #[error("{path} is not a network namespace")]
    NotANamespace {
        /// Where it was expected.
        path: PathBuf,
    },
    /// It could not be opened.
    #[error("open network namespace {path}")]
    Open {
        /// The path of the namespace's file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// It could not be entered.
    #[error("enter network namespace {path}{}", without_capability(source))]
    Enter {
        /// The path of the namespace's file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No thread could be started to enter it.
    #[error("start a thread for network namespace {path}")]
    Thread {
        /// The path of the namespace's file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

const OF_THREAD: &str = "/proc/thread-self/ns/net";

/// The magic number of nsfs, from linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

impl Namespace {
    /// Opens the namespace at a path, such as the `CNI_NETNS` of a container runtime.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NamespaceError> {
        let path = path.as_ref();
        let owned = || path.to_path_buf();
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
                NamespaceError::Missing { path: owned() }
            }
            other => NamespaceError::Open { path: owned(), source: other.into() },
        };
        // What is there may be a pipe to which no process writes.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        // A runtime keeps a namespace by mounting it over a plain file, which is what remains when the mount goes.
        let filesystem = rustix::fs::fstatfs(&file).map_err(failed)?;
        if filesystem.f_type as u64 != NSFS_MAGIC {
            return Err(NamespaceError::NotANamespace { path: owned() });
        }
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        Ok(Self { file: Arc::new(file), inode: Inode::of(&stat), path: path.into() })
    }

    /// Opens a namespace by its name under `/run/netns`, as `ip netns` knows it.
    pub fn named(name: &str) -> Result<Self, NamespaceError> {
        Self::open(Path::new("/run/netns").join(name))
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(OF_THREAD)
    }

    /// Returns the path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a function inside the namespace and returns what it returns.
    ///
    /// The caller's namespace never changes: unless the calling thread is inside already, the function runs on a thread of
    /// its own. Needs CAP_SYS_ADMIN for that. A panic of the function continues in the caller.
    pub fn run<R: Send>(&self, function: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        if rustix::fs::stat(OF_THREAD).is_ok_and(|stat| Inode::of(&stat) == self.inode) {
            return Ok(function());
        }
        let path = || self.path.to_path_buf();
        let inside = || self.enter().map(|()| function());
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .spawn_scoped(scope, inside)
                .map_err(|source| NamespaceError::Thread { path: path(), source })?;
            match thread.join() {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(rustix::io::Errno::INVAL)) => {
                    Err(NamespaceError::NotANamespace { path: path() })
                }
                Ok(Err(errno)) => Err(NamespaceError::Enter { path: path(), source: errno.into() }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a function inside the namespace on the calling thread itself, which is back where it was afterwards.
    ///
    /// For programs that have one thread and end soon, to which another is the dearest part: elsewhere, a program that looks for
    /// the namespace of the process meanwhile may find this one, so [`Namespace::run`] is the one to take. Who may not
    /// return to where they are does get a thread.
    ///
    /// Ends the process if the way back is barred all the same: what the thread does next would hit the wrong network.
    pub fn visit<R: Send>(&self, function: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        /// Brings the thread back also where the function panics.
        struct Back(Namespace);

        impl Drop for Back {
            fn drop(&mut self) {
                if self.0.enter().is_err() {
                    std::process::abort();
                }
            }
        }

        let own = Self::current()?;
        if own == *self || own.enter().is_err() {
            return self.run(function);
        }
        let enter = |errno: rustix::io::Errno| NamespaceError::Enter {
            path: self.path.to_path_buf(),
            source: errno.into(),
        };
        self.enter().map_err(enter)?;
        let _back = Back(own);
        Ok(function())
    }

    /// Moves the calling thread, which stays there.
    #[cfg(feature = "lab")]
    pub(crate) fn enter_for_good(&self) -> Result<(), NamespaceError> {
        let path = self.path.to_path_buf();
        self.enter().map_err(|errno| NamespaceError::Enter { path, source: errno.into() })
    }

    /// Moves the calling thread.
    fn enter(&self) -> rustix::io::Result<()> {
        let network = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(self.file.as_fd(), network)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Namespace {}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path, f)
    }
}

impl Inode {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

fn without_capability(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": CAP_SYS_ADMIN is missing",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_told_from_what_is_not_there() {
        let missing = Namespace::open("/nonexistent/ns");
        assert!(matches!(missing, Err(NamespaceError::Missing { .. })), "{missing:?}");
        for path in ["/dev/null", "/proc/self/status"] {
            let file = Namespace::open(path);
            assert!(matches!(file, Err(NamespaceError::NotANamespace { .. })), "{path}: {file:?}");
        }
    }

    #[test]
    fn thread_that_is_inside_needs_no_other() {
        let here = thread::current().id();
        let current = Namespace::current().unwrap();
        assert_eq!(current.run(|| thread::current().id()).unwrap(), here);
    }
}
