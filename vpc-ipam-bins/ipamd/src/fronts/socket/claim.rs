//! The right to listen at a socket, of which there is one.

use core::time::Duration;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use crate::file_lock;

/// Why a daemon may not listen at a socket. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another daemon listens there, or is about to.
    #[error(
        "{path} is the socket of another daemon, {owner}: stop that one first, or give this one its own --socket and --state"
    )]
    InUse {
        /// The socket.
        path: String,
        /// The other daemon's process, as far as the kernel shows it.
        owner: String,
    },
    /// The lock beside the socket cannot be used.
    #[error("lock the socket of the daemon")]
    Lock(#[from] UntrustedError),
}

/// The right to listen at a socket until it is dropped: a lock on a file beside it, which stays there.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: PathBuf,
    lock: File,
}

impl Claim {
    /// Takes the right, or says which process has it.
    ///
    /// A program that a daemon was starting when it was killed has lock and socket open until it runs, so it is looked for a second.
    pub(crate) fn take(socket: &Path) -> Result<Self, ClaimError> {
        const LOOKS: u32 = 20;
        for _ in 1..LOOKS {
            match Self::try_take(socket) {
                Err(ClaimError::InUse { .. }) => std::thread::sleep(Duration::from_secs(1) / LOOKS),
                other => return other,
            }
        }
        Self::try_take(socket)
    }

    fn try_take(socket: &Path) -> Result<Self, ClaimError> {
        if let Some(folder) = socket.parent() {
            trusted_file::folder(folder)?;
        }
        let lock = locked(socket)?;
        // A daemon of 0.1 takes no lock.
        if let Some(owner) = listener(socket) {
            let owner = file_lock::in_words(owner);
            return Err(ClaimError::InUse { path: socket.display().to_string(), owner });
        }
        Ok(Self { socket: socket.to_path_buf(), lock })
    }

    /// Takes the right anew if the lock's file was removed.
    pub(super) fn renew(&mut self) -> Result<(), ClaimError> {
        let id = |found: std::fs::Metadata| (found.dev(), found.ino());
        let there = std::fs::symlink_metadata(lock_path(&self.socket)).ok().map(id);
        if there.is_none() || there != self.lock.metadata().ok().map(id) {
            self.lock = locked(&self.socket)?;
        }
        Ok(())
    }

    /// Returns the socket.
    pub(in crate::fronts) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // And not by closing it: a program that is being started has the file open, too, until it runs.
        let _ = self.lock.unlock();
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

fn locked(socket: &Path) -> Result<File, ClaimError> {
    let path = lock_path(socket);
    let lock = loop {
        match trusted_file::open(&path, 0)? {
            Some(lock) => break lock,
            None => match trusted_file::create(&path) {
                Ok(lock) => break lock,
                // Another daemon was faster.
                Err(UntrustedError::Open { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            },
        }
    };
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ClaimError::InUse {
            path: socket.display().to_string(),
            owner: file_lock::in_words(file_lock::holder(&path)),
        }),
        Err(TryLockError::Error(source)) => Err(UntrustedError::Open { path, source }.into()),
    }
}

/// Returns who listens at a socket, if a process does: its id, where the kernel tells.
#[expect(clippy::option_option, reason = "whether one listens, and which")]
fn listener(path: &Path) -> Option<Option<u32>> {
    let address = SocketAddrUnix::new(path).ok()?;
    // A listener whose queue is full is one, too, and not waited for.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    match connect(&stream, &address) {
        Ok(()) => {
            let peer = sockopt::socket_peercred(&stream).ok();
            Some(peer.and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok()))
        }
        Err(Errno::AGAIN) => Some(None),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn second_claim_names_the_process_that_has_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        let first = Claim::take(&socket).unwrap();
        let refused = Claim::take(&socket).unwrap_err().to_string();
        let owner = format!("process {} (", std::process::id());
        assert!(refused.contains(&owner), "{refused}");
        assert!(refused.contains(socket.to_str().unwrap()), "{refused}");
        drop(first);
        Claim::take(&socket).unwrap();
    }

    #[test]
    fn daemon_that_takes_no_lock_is_seen_by_its_listening() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        let listening = UnixListener::bind(&socket).unwrap();
        let refused = Claim::take(&socket).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} (", std::process::id())), "{refused}");
        assert!(socket.exists());
        // One that was killed left its socket.
        drop(listening);
        Claim::take(&socket).unwrap();
    }

    #[test]
    fn claim_whose_file_was_removed_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        let mut first = Claim::take(&socket).unwrap();
        std::fs::remove_file(lock_path(&socket)).unwrap();
        first.renew().unwrap();
        assert!(matches!(Claim::take(&socket), Err(ClaimError::InUse { .. })));
    }
}
