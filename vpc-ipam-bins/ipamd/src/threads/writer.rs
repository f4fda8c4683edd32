//! The thread that makes grants and releases durable: while one batch is written, the next gathers.

use core::time::Duration;
use std::sync::mpsc::{SendError, Sender, channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::input::Input;
use crate::store::{Entry, Known, Store};

/// The thread that owns the state file.
pub(crate) struct Writer {
    jobs: Sender<Job>,
    /// Closes when the thread has closed the file.
    ended: oneshot::Receiver<()>,
}

/// How long the file may take to be closed when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) enum Job {
    Write(Vec<Entry>),
    Remember(Box<Known>),
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(mut store: Store, inputs: mpsc::Sender<Input>) -> Self {
        let (jobs, queue) = channel();
        let (end, ended) = oneshot::channel();
        let work = move || {
            while let Ok(job) = queue.recv() {
                let input = match job {
                    Job::Write(entries) => Input::Written(store.write_entries(&entries)),
                    Job::Remember(known) => Input::Remembered(store.remember(&known)),
                };
                if inputs.blocking_send(input).is_err() {
                    break;
                }
            }
            drop(store);
            drop(end);
        };
        // A thread that cannot be started shows as a closed queue, at the first write.
        let _ = thread::Builder::new().name("store".to_string()).spawn(work);
        Self { jobs, ended }
    }

    /// Ends the thread, and waits until another daemon could open the file.
    pub(crate) async fn stop(self) {
        drop(self.jobs);
        if tokio::time::timeout(STOP_PATIENCE, self.ended).await.is_err() {
            warn!("the state file is still being written");
        }
    }

    /// Makes records durable, all or none; the result comes to the loop as an input.
    pub(crate) fn write(&self, entries: Vec<Entry>) -> Result<(), SendError<Job>> {
        self.jobs.send(Job::Write(entries))
    }

    /// Makes durable what is known of the node; the result comes to the loop as an input.
    pub(crate) fn remember(&self, known: Known) -> Result<(), SendError<Job>> {
        self.jobs.send(Job::Remember(Box::new(known)))
    }
}
