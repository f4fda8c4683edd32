//! The thread that makes grants and releases durable: while one batch is written, the next gathers.

use std::sync::mpsc::{SendError, Sender, channel};
use std::thread;

use tokio::sync::mpsc;
use vpc_ipam_core::Record;

use super::Input;
use crate::cni::chain;
use crate::store::Store;

/// The thread that owns the state file.
pub(super) struct Writer(Sender<Vec<Record>>);

impl Writer {
    /// Starts the thread.
    pub(super) fn start(mut store: Store, inputs: mpsc::Sender<Input>) -> Self {
        let (batches, queue) = channel::<Vec<Record>>();
        let work = move || {
            while let Ok(records) = queue.recv() {
                let result = store.write(&records).map_err(|error| chain(&error));
                if inputs.blocking_send(Input::Written(result)).is_err() {
                    break;
                }
            }
        };
        // A thread that cannot be started shows as a queue nobody reads, at the first write.
        let _ = thread::Builder::new().name("store".to_string()).spawn(work);
        Self(batches)
    }

    /// Makes records durable, all or none; the loop hears of it.
    pub(super) fn write(&self, records: Vec<Record>) -> Result<(), SendError<Vec<Record>>> {
        self.0.send(records)
    }
}
