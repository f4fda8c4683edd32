//! The connections of callers, and how many there may be.

use core::future::Future;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;

/// How many connections may be idle: those whose request has not been read.
const IDLE_MAX: usize = 512;
/// How long a connection may be idle before it makes room for another. A caller that runs at all says what it wants at once.
const IDLE_MIN: Duration = Duration::from_millis(250);

/// The connections whose request has not been read, by the order in which they came.
#[derive(Clone, Debug, Default)]
pub(in crate::fronts) struct Callers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    idle: Mutex<Idle>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Idle {
    by_number: BTreeMap<u64, Since>,
    next: u64,
}

/// Since when a connection is idle, and its task once that was started.
#[derive(Debug)]
struct Since(Instant, Option<AbortHandle>);

/// A connection's place among the idle ones, left when its request has been read.
#[derive(Debug)]
pub(in crate::fronts) struct IdlePlace {
    callers: Callers,
    number: u64,
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.callers.idle().by_number.remove(&self.number);
        self.callers.0.left.notify_one();
    }
}

impl Callers {
    /// Waits until one more connection may be idle. The one that is idle for longest makes room.
    pub(in crate::fronts) async fn room(&self) {
        loop {
            let wait = {
                let mut idle = self.idle();
                if idle.by_number.len() < IDLE_MAX {
                    return;
                }
                match idle.by_number.first_entry() {
                    Some(oldest) if oldest.get().0.elapsed() >= IDLE_MIN => {
                        let Since(since, task) = oldest.remove();
                        debug!(idle = ?since.elapsed(), "a caller that asked nothing makes room for another");
                        task.inspect(AbortHandle::abort);
                        return;
                    }
                    Some(oldest) => oldest.get().0 + IDLE_MIN,
                    None => return,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(wait) => {}
                () = self.0.left.notified() => {}
            }
        }
    }

    /// Starts a task that serves a connection, which is idle at first.
    pub(in crate::fronts) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        serve: impl FnOnce(IdlePlace) -> F,
    ) {
        let number = {
            let mut idle = self.idle();
            idle.next += 1;
            let number = idle.next;
            idle.by_number.insert(number, Since(Instant::now(), None));
            number
        };
        // Not while the list is locked: a runtime that stops drops what it is given, which leaves its place.
        let task = tokio::spawn(serve(IdlePlace { callers: self.clone(), number }));
        if let Some(Since(_, known)) = self.idle().by_number.get_mut(&number) {
            *known = Some(task.abort_handle());
        }
    }

    /// Closes the connections that are idle.
    pub(in crate::fronts) fn close_idle(&self) {
        let idle = core::mem::take(&mut self.idle().by_number);
        for Since(_, task) in idle.into_values() {
            task.inspect(AbortHandle::abort);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
