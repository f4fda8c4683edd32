//! A socket in the file system that is made again when it is removed or replaced.

use core::time::Duration;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use super::claim::{Claim, ClaimError};

/// How soon the socket is made again after that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked at where the kernel sends no events of its folder.
const LOOK: Duration = Duration::from_secs(5);

/// Why the socket could not be made again.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error("make its folder")]
    Folder(#[from] UntrustedError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("listen at {path}")]
    Listen { path: String, source: io::Error },
}

/// A socket at which we listen.
#[derive(Debug)]
pub(in crate::fronts) struct Place {
    claim: Claim,
    listener: UnixListener,
    /// The device and the inode of the socket that we made.
    made: Option<(u64, u64)>,
    /// The kernel's events of the folder, which are read as from a pipe.
    watch: Option<Receiver>,
    /// When to look without an event.
    look_at: Option<Instant>,
}

impl Place {
    /// Listens at the claimed path, at which only root and our own user can ask.
    pub(in crate::fronts) fn make(claim: Claim) -> io::Result<Self> {
        let path = claim.socket();
        match fs::symlink_metadata(path) {
            // Of a daemon that was killed.
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => {
                let what = "there is something else than a socket, which is left alone";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let watch = watch.map_err(io::Error::from).and_then(Receiver::from_owned_fd_unchecked);
        if let Err(error) = &watch {
            info!(%error, "the kernel sends no events of the socket's folder: looking every {LOOK:?}");
        }
        let listener = bind(path)?;
        let made = id(path);
        let mut place = Self { claim, listener, made, watch: watch.ok(), look_at: None };
        place.watch_folder();
        Ok(place)
    }

    /// Begins a conversation with every caller whom we serve, until stopped; the socket is made again meanwhile if it is removed.
    pub(in crate::fronts) async fn accept_until(
        mut self,
        mut stopped: oneshot::Receiver<()>,
        mut begin: impl AsyncFnMut(UnixStream),
    ) -> Self {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stopped => return self,
                () = self.disturbed() => Ok(None),
                accepted = self.accept() => accepted.map(Some),
            };
            let streams = match accepted {
                Ok(Some(stream)) => vec![stream],
                Ok(None) => self.restore(),
                Err(error) => {
                    // Out of file descriptors, as a rule: it passes.
                    warn!(%error, "cannot accept a caller");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            for stream in streams {
                match stream.peer_cred() {
                    Ok(caller) if trusted_file::is_trusted(caller.uid()) => begin(stream).await,
                    caller => {
                        warn!(
                            ?caller,
                            "a caller who is neither root nor our own user was turned away"
                        );
                    }
                }
            }
        }
    }

    /// Returns the next caller.
    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Waits until the socket has to be looked at.
    async fn disturbed(&self) {
        let event = async {
            let Some(watch) = &self.watch else { return core::future::pending().await };
            if watch.readable().await.is_err() {
                return core::future::pending().await;
            }
            // That something happened says enough.
            let mut events = [0; 4096];
            while watch.try_read(&mut events).is_ok_and(|read| read > 0) {}
        };
        let look = async {
            match self.look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            () = event => {}
            () = look => {}
        }
    }

    /// Makes the socket again if it is not there any more, and returns the callers that asked at the one before.
    fn restore(&mut self) -> Vec<UnixStream> {
        self.look_at = None;
        self.watch_folder();
        if id(self.claim.socket()) == self.made {
            return Vec::new();
        }
        let restored = self.make_again();
        // The folder may be a new one, and what happened to it before it was watched is seen now.
        self.watch_folder();
        let path = self.claim.socket().display();
        match restored {
            Ok(callers) => {
                warn!(%path, "the socket was removed or replaced, and is made again");
                callers
            }
            Err(error) => {
                warn!(error = error_chain(&error), %path, "the socket was removed or replaced; trying to make it again");
                self.look_at = Some(Instant::now() + AGAIN);
                Vec::new()
            }
        }
    }

    /// Removes the socket, if it is still ours, and returns the right to it.
    pub(in crate::fronts) fn remove(self) -> Claim {
        let path = self.claim.socket();
        if self.made.is_some() && id(path) == self.made {
            // What cannot be removed is removed by the next daemon.
            let _ = fs::remove_file(path);
        }
        self.claim
    }

    fn make_again(&mut self) -> Result<Vec<UnixStream>, RestoreError> {
        let path = self.claim.socket().to_path_buf();
        if let Some(folder) = path.parent() {
            trusted_file::folder(folder)?;
        }
        self.claim.renew()?;
        let failed = |source| RestoreError::Listen { path: path.display().to_string(), source };
        clear(&path).map_err(failed)?;
        let listener = bind(&path).map_err(failed)?;
        self.made = id(&path);
        let before = core::mem::replace(&mut self.listener, listener).into_std().map_err(failed)?;
        // It does not block.
        let callers = core::iter::from_fn(|| before.accept().ok());
        Ok(callers
            .filter_map(|(stream, _)| {
                stream.set_nonblocking(true).ok()?;
                UnixStream::from_std(stream).ok()
            })
            .collect())
    }

    fn watch_folder(&mut self) {
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let folder = match self.claim.socket().parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let watched = self
            .watch
            .as_ref()
            .is_some_and(|watch| inotify::add_watch(watch, folder, changes).is_ok());
        if !watched {
            self.look_at = Some(Instant::now() + LOOK);
        }
    }
}

/// Makes room for a socket: one that is there is removed, anything else is put aside.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".aside-{now}"));
            let aside = PathBuf::from(aside);
            warn!(moved_to = %aside.display(), "what is in the socket's place is none, and put aside");
            fs::rename(path, aside)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn id(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_of_another_program_is_not_removed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        for replaced in [true, false] {
            let place = Place::make(Claim::take(&socket).unwrap()).unwrap();
            if replaced {
                let other = folder.path().join("other.sock");
                drop(std::os::unix::net::UnixListener::bind(&other).unwrap());
                fs::rename(other, &socket).unwrap();
            }
            let claim = place.remove();
            assert_eq!(socket.exists(), replaced);
            drop(claim);
        }
    }
}
