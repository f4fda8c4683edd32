//! The user namespace in which the lab of an ordinary user runs.

use core::fmt;
use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{getegid, geteuid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::keeper::Keeper;

/// A user namespace could not be made or entered, and what may help.
#[derive(Debug, thiserror::Error)]
#[error("{doing} ({Hint})")]
pub(super) struct UserNamespaceError {
    doing: &'static str,
    source: io::Error,
}

/// Settings by which systems keep users from making namespaces: the file, what it says then, and what would help.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Tells the process that was started in a user namespace of its own that it is.
const INSIDE: &str = "VPC_IPAM_LAB_USER_NAMESPACE";

/// Returns whether this process was started in a user namespace by another one of this program.
pub(super) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// What helps a user to a user namespace on this system.
struct Hint;

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a lab without root is in one: run this as root, or ")?;
        let set = |(file, forbids, _): &&(&str, &str, &str)| {
            fs::read_to_string(file).is_ok_and(|says| says.trim() == *forbids)
        };
        match SETTINGS.iter().find(set) {
            Some((_, _, allows)) => write!(f, "allow it by `sudo sysctl -w {allows}`"),
            None => f.write_str("where the system or the container lets users make them"),
        }
    }
}

/// Starts this program again, with the same arguments, within a user namespace of its own in which it is root. Its mounts
/// are its own too, with nothing in `/run`, where the lab names its namespaces. Returns only if that failed.
///
/// The process must have one thread.
pub(super) fn restart_in_own() -> UserNamespaceError {
    match make() {
        Ok(()) => restart(),
        Err(error) => error,
    }
}

/// Starts this program again, with the same arguments, in the user namespace of the lab that a process keeps. Returns only
/// if that failed.
///
/// The process must have one thread.
pub(super) fn restart_in_that_of(keeper: &Keeper) -> UserNamespaceError {
    let folder = env::current_dir();
    let types = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    let moved = rustix::thread::move_into_thread_name_spaces(keeper.process.as_fd(), types);
    if let Err(errno) = moved {
        return UserNamespaceError {
            doing: "enter the lab's user namespace",
            source: errno.into(),
        };
    }
    if let Ok(folder) = folder {
        // The other mounts put us at their root. A folder below /run is not there any more, which is as good as any.
        let _ = env::set_current_dir(folder);
    }
    restart()
}

fn restart() -> UserNamespaceError {
    let failed = |source| UserNamespaceError { doing: "start this program again", source };
    match env::current_exe() {
        Ok(program) => {
            let mut command = Command::new(program);
            failed(
                command
                    .args(env::args_os().skip(1))
                    .env("PATH", super::path())
                    .env(INSIDE, "1")
                    .exec(),
            )
        }
        Err(error) => failed(error),
    }
}

fn make() -> Result<(), UserNamespaceError> {
    let failed = |doing| move |source| UserNamespaceError { doing, source };
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    #[expect(
        deprecated,
        reason = "unsound for descriptor tables alone, which stay shared; safe code has no replacement"
    )]
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(|errno| failed("make a user namespace")(errno.into()))?;
    // A group may be mapped only once the process has given up to change its groups.
    fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")))
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .map_err(failed("be root in a user namespace"))?;
    mount_run().map_err(failed("mount a /run for the lab"))
}

fn mount_run() -> io::Result<()> {
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", alone)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", Path::new("/run"), "tmpfs", flags, Some(c"mode=0755"))?)
}
