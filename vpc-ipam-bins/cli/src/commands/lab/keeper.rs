//! Which process keeps a lab: a file says so, which that process, or the one that watches it, holds locked.
//!
//! The kernel lets go of the lock when the process ends, however it does: so a file that a killed process left is known
//! from one in use, and the process is still the one that the file names for as long as the lock is held.

use core::time::Duration;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid};

use crate::commands::Failure;

/// How long the keeper of a lab may take to end once it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A folder to which no other user can write.
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder in which this user's labs are written down, and makes it first where need be.
    ///
    /// That is below `XDG_RUNTIME_DIR`, which goes with the user's session, or among the temporary files.
    pub(super) fn of_user() -> Result<Self, Failure> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let path = match runtime.filter(|runtime| runtime.is_absolute()) {
            Some(runtime) => runtime.join("vpc-ipam-lab"),
            None => env::temp_dir().join(format!("vpc-ipam-lab-{}", geteuid().as_raw())),
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(format!("make {}: {error}", path.display()).into())
            }
            _ => Self::open(&path),
        }
    }

    /// Opens a folder, unless another user could write to it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |errno: Errno| format!("open {}: {}", path.display(), io::Error::from(errno));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        if !is_ours(&fd, FileType::Directory).map_err(failed)? {
            return Err(format!(
                "{} is not this user's alone, so what it says of labs is not to be trusted: remove it, or set \
                 XDG_RUNTIME_DIR to a folder to which no other user can write",
                path.display()
            )
            .into());
        }
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// Writes down that this process, or one that it watches, keeps a lab; `None` if another one does.
    pub(super) fn hold(&self, name: &str) -> Result<Option<Blocked<'_>>, Failure> {
        // The one before may take the file away between our opening and locking it.
        for _ in 0..10 {
            let Some(file) = self.open_file(name, OFlags::RDWR | OFlags::CREATE)? else { continue };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // It may be held for no longer than it takes to look whether it is.
                Err(Errno::WOULDBLOCK) => {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                other => other.map_err(|errno| self.failed("lock", name, errno))?,
            }
            let stat =
                rustix::fs::fstat(&file).map_err(|errno| self.failed("open", name, errno))?;
            if stat.st_nlink > 0 {
                file.set_len(0)?;
                return Ok(Some(Blocked { folder: self, file, name: name.to_string() }));
            }
        }
        Ok(None)
    }

    /// Removes the files that killed processes left.
    pub(super) fn sweep(&self) -> Result<(), Failure> {
        for entry in fs::read_dir(&self.path)? {
            // What is not ours to open, or is of a lab that is just starting, stays; to tell is up to who asks for that lab.
            if let Some(name) = entry?.file_name().to_str() {
                let _ = self.keeper(name);
            }
        }
        Ok(())
    }

    /// Returns the process that keeps a lab; `None` if there is none, and then no file either.
    pub(super) fn keeper(&self, name: &str) -> Result<Option<Keeper>, Failure> {
        let Some(mut file) = self.open_file(name, OFlags::RDONLY)? else { return Ok(None) };
        if !is_held(&file)? {
            self.remove(name)?;
            return Ok(None);
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let Ok(Kept { pid }) = serde_json::from_str(&text) else {
            return Err("the lab is just starting or ending; try again".into());
        };
        let pid = Pid::from_raw(pid).ok_or("0 is no process")?;
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            other => other
                .map_err(|errno| format!("open process {pid:?}: {}", io::Error::from(errno)))?,
        };
        // Only if it is held still was it this lab's process that was opened.
        Ok(is_held(&file)?.then_some(Keeper { process, pid, file }))
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<Option<File>, Failure> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", name, errno)),
            Ok(fd) if is_ours(&fd, FileType::RegularFile)? => Ok(Some(fd.into())),
            Ok(_) => Err(format!("{}/{name} is not this user's alone", self.path.display()).into()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    fn failed(&self, verb: &str, name: &str, errno: Errno) -> Failure {
        format!("{verb} {}/{name}: {}", self.path.display(), io::Error::from(errno)).into()
    }
}

/// Returns whether it is such a file, this user's, and writable by no other user.
fn is_ours(fd: &OwnedFd, kind: FileType) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let others = Mode::WGRP | Mode::WOTH;
    Ok(FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == geteuid().as_raw()
        && !Mode::from_raw_mode(stat.st_mode).intersects(others))
}

fn is_held(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
        Ok(()) => {
            rustix::fs::flock(file, FlockOperation::Unlock)?;
            Ok(false)
        }
    }
}

/// What the file has to say, whatever else is in it.
#[derive(serde::Deserialize, serde::Serialize)]
struct Kept {
    pid: i32,
}

/// A file that says who keeps a lab. It goes with this value.
pub(super) struct Blocked<'a> {
    folder: &'a Folder,
    file: File,
    name: String,
}

impl Blocked<'_> {
    /// Names the process that keeps the lab.
    pub(super) fn name_keeper(&mut self, pid: u32) -> Result<(), Failure> {
        let kept = Kept { pid: i32::try_from(pid)? };
        self.write(&serde_json::to_vec(&kept)?)
    }

    /// Writes a JSON object whose `pid` is the process that keeps the lab.
    pub(super) fn write(&mut self, object: &[u8]) -> Result<(), Failure> {
        let path = || format!("write {}/{}", self.folder.path.display(), self.name);
        let written = (&self.file).write_all(object);
        Ok(written.map_err(|error| format!("{}: {error}", path()))?)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.folder.remove(&self.name) {
            eprintln!("vpc-ipam: {error}");
        }
    }
}

/// A process that keeps a lab.
pub(super) struct Keeper {
    /// The process.
    pub(super) process: OwnedFd,
    pid: Pid,
    file: File,
}

impl Keeper {
    /// Asks the process to end, and waits until no process keeps the lab.
    pub(super) fn end(self) -> Result<(), Failure> {
        let pid = self.pid.as_raw_nonzero();
        match rustix::process::pidfd_send_signal(self.process.as_fd(), Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                return Err(format!("end process {pid}, which keeps the lab: {error}").into());
            }
        }
        let begun = Instant::now();
        while is_held(&self.file)? {
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "process {pid}, which keeps the lab, was asked to end and has not within {} s: look what \
                     keeps it, or end it by `kill -9 {pid}` and try again",
                    PATIENCE.as_secs()
                )
                .into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
