//! What the service manager hears of the daemon, by sd_notify(3), and the file that is there while the node is ready.

use core::time::Duration;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sd_notify::NotifyState;
use tracing::{info, warn};
use vpc_ipam_core::Timestamp;

/// How far apart it is looked whether the node is ready, at least: to find out costs as much as an ADD.
const LOOKS: Duration = Duration::from_secs(1);

/// To whom a daemon tells how it stands, besides those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Whether a service manager listens.
    pub manager: bool,
    /// After which time without a word the service manager takes the daemon for hung, if ever.
    pub watchdog: Option<Duration>,
    /// A file that is there while the node is ready, and not otherwise.
    pub ready_file: Option<PathBuf>,
}

impl ServiceOptions {
    /// Returns what the service manager said by the variables `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn of_process(ready_file: Option<PathBuf>) -> Self {
        Self {
            manager: std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty()),
            watchdog: sd_notify::watchdog_enabled(),
            ready_file,
        }
    }
}

/// Tells the service manager that the settings are being read again.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now().ok();
    tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
}

/// Tells it that they were.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot tell the service manager how the daemon stands");
    }
}

/// The service manager and the file, as the event loop sees them.
#[derive(Debug)]
pub(super) struct Service {
    options: ServiceOptions,
    /// When the watchdog is to hear again that the loop turns.
    watchdog_at: Option<Timestamp>,
    /// When to look whether the node is ready.
    look_at: Option<Timestamp>,
    looked_at: Timestamp,
    /// Whether the file is there.
    is_ready: bool,
    status: String,
}

impl Service {
    /// Begins with a node that is not ready: a file that an earlier daemon left is removed.
    pub(super) fn new(options: ServiceOptions, now: Timestamp) -> Self {
        let service = Self {
            watchdog_at: options.watchdog.map(|_| now),
            look_at: Some(now),
            looked_at: Timestamp::EPOCH,
            is_ready: false,
            status: String::new(),
            options,
        };
        service.remove_file();
        service
    }

    /// The daemon serves.
    pub(super) fn serving(&self) {
        if self.options.manager {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Something happened by which the node may have become ready, or no longer is.
    pub(super) fn changed(&mut self, now: Timestamp) {
        if self.options.manager || self.options.ready_file.is_some() {
            self.look_at.get_or_insert(now.max(self.looked_at + LOOKS));
        }
    }

    /// Returns when it has something to do next.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.watchdog_at.into_iter().chain(self.look_at).min()
    }

    /// Does what it is time for. `readiness` says whether the node is ready, and how it stands in words.
    pub(super) fn run_due(&mut self, now: Timestamp, readiness: impl FnOnce() -> (bool, String)) {
        if let (Some(within), Some(at)) = (self.options.watchdog, self.watchdog_at)
            && at <= now
        {
            tell(&[NotifyState::Watchdog]);
            // As sd_watchdog_enabled(3) advises.
            self.watchdog_at = Some(now + within / 2);
        }
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        (self.look_at, self.looked_at) = (None, now);
        if !self.options.manager && self.options.ready_file.is_none() {
            return;
        }
        let (is_ready, status) = readiness();
        if is_ready != self.is_ready {
            info!(is_ready, status, "the node is ready, or no longer");
            self.is_ready = is_ready;
            match is_ready {
                true => self.make_file(),
                false => self.remove_file(),
            }
        }
        if self.options.manager && status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The daemon stops.
    pub(super) fn stopping(&mut self) {
        self.is_ready = false;
        self.remove_file();
        if self.options.manager {
            tell(&[NotifyState::Stopping]);
        }
    }

    fn make_file(&self) {
        let Some(path) = &self.options.ready_file else { return };
        if let Err(error) = make(path) {
            warn!(%error, path = %path.display(), "cannot make the file that says that the node is ready");
        }
    }

    fn remove_file(&self) {
        let Some(path) = &self.options.ready_file else { return };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, path = %path.display(), "cannot remove the file that says that the node is ready");
            }
            _ => {}
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, "ready\n")?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_there_exactly_while_the_node_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready");
        // A daemon that was killed left it.
        fs::write(&path, "ready\n").unwrap();
        let mut now = Timestamp::from_secs(1_700_000_000);
        let options =
            ServiceOptions { ready_file: Some(path.clone()), ..ServiceOptions::default() };
        let mut service = Service::new(options, now);
        assert!(!path.exists());
        for is_ready in [false, true, true, false, true] {
            service.changed(now);
            let due = service.due().unwrap();
            assert!(due <= now + LOOKS, "{due}");
            now = due;
            service.run_due(now, || (is_ready, String::new()));
            assert_eq!(path.exists(), is_ready);
            assert_eq!(service.due(), None, "no wake-up without a cause");
        }
        service.stopping();
        assert!(!path.exists());
    }

    #[test]
    fn loop_that_turns_is_told_to_the_watchdog_twice_in_its_time() {
        let now = Timestamp::from_secs(1_700_000_000);
        let within = Duration::from_secs(30);
        let options = ServiceOptions { watchdog: Some(within), ..ServiceOptions::default() };
        let mut service = Service::new(options, now);
        service.run_due(now, || (true, String::new()));
        assert_eq!(service.due(), Some(now + within / 2));
    }
}
