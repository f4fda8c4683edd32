use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use vpc_ipam_core::Timestamp;

/// The daemon's clock: the wall clock, read once, and advanced by the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Timestamp,
    since: Instant,
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Timestamp::EPOCH + since_epoch, since: Instant::now() }
    }

    /// Returns the time.
    pub fn now(&self) -> Timestamp {
        self.start + self.since.elapsed()
    }

    /// Returns the moment at which it will be `at`, or a moment far ahead.
    pub(super) fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        const FAR: Duration = Duration::from_secs(365 * 86_400);
        (self.since + at.since(self.start).min(FAR)).into()
    }
}
