//! Threads that work in the node's namespace.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;
use tracing::error;
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::Namespace;

/// The daemon's end of the queue of a thread that carries out jobs. The thread ends once this is dropped.
pub(crate) struct Worker<J>(Sender<J>);

/// The thread could not be started, or ended.
#[derive(Debug)]
pub(crate) struct Gone;

impl<J: Send + 'static> Worker<J> {
    /// Starts a thread inside a namespace.
    pub(crate) fn start(
        name: &str,
        netns: &Namespace,
        work: impl FnOnce(&Receiver<J>) + Send + 'static,
    ) -> Result<Self, Gone> {
        let (jobs, queue) = channel();
        let netns = netns.clone();
        let inside = move || {
            // The sender finds the queue closed.
            if let Err(error) = netns.run(move || work(&queue)) {
                error!(error = error_chain(&error), "a thread of the daemon ended");
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(inside).map_err(|_| Gone)?;
        Ok(Self(jobs))
    }

    /// Queues a job.
    pub(crate) fn send(&self, job: J) -> Result<(), Gone> {
        self.0.send(job).map_err(|_| Gone)
    }

    /// Queues a job that has an answer. If the thread is gone the answer's other end is, too.
    pub(crate) fn ask<A>(&self, job: impl FnOnce(oneshot::Sender<A>) -> J) -> oneshot::Receiver<A> {
        let (caller, answer) = oneshot::channel();
        let _ = self.send(job(caller));
        answer
    }
}
