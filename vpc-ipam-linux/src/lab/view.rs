//! How a process on a host or in a pod of a lab sees the machine.

use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::{Namespace, NamespaceError};

/// A failure to see the machine as a process on a host or in a pod of a lab sees it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// The network namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// There is no `/sys` of the namespace. The network namespace was entered all the same.
    #[error("mount a /sys that shows the links of {namespace}")]
    Sys {
        /// The path of the namespace.
        namespace: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A failure to run a command in a lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The host or pod could not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// There is no thread for it.
    #[error("start a thread to run {program}")]
    Thread {
        /// The program as it was called.
        program: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("run {program}")]
    Run {
        /// The program as it was called.
        program: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Lets the calling thread see the machine as a process on a host or in a pod sees it, for good: its network, and a `/sys`
/// with its links. What the thread starts sees the same; mounts of the thread are its own from then on.
///
/// [`EnterError::Sys`] leaves the thread in the namespace with the `/sys` that it had.
pub fn enter(namespace: &Namespace) -> Result<(), EnterError> {
    namespace.enter_for_good()?;
    mount_sys().map_err(|source| EnterError::Sys {
        namespace: namespace.path().display().to_string(),
        source,
    })
}

/// Runs a command to its end on a host or in a pod, as [`enter`] lets it see the machine, and returns what it printed.
///
/// The calling thread stays where it is.
pub fn output(namespace: &Namespace, command: &mut Command) -> Result<Output, RunError> {
    let program = command.get_program().display().to_string();
    let inside = || -> Result<Output, RunError> {
        enter(namespace)?;
        let failed = |source| RunError::Run { program: program.clone(), source };
        command.output().map_err(failed)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .spawn_scoped(scope, inside)
            .map_err(|source| RunError::Thread { program: program.clone(), source })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Mounts, for the calling thread alone, a `/sys` of the network namespace in which it is.
fn mount_sys() -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "unsound for descriptor tables alone, which stay shared; safe code has no replacement"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    // Nothing that is mounted here is seen elsewhere; what is mounted elsewhere goes on to be seen here.
    let alone = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", alone)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("sysfs", Path::new("/sys"), "sysfs", flags, None)?)
}
