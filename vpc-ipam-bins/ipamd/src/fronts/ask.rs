//! How the fronts that serve HTTP ask the event loop.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use vpc_ipam_protocol::{Answer, EVENTS_WAIT_MAX, Inventory, Refusal, Request};

use crate::input::Input;

/// How long the event loop may take to answer, besides what a question says itself of waiting. It takes microseconds unless the
/// machine stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the event loop, once there is one. Cloning gives another handle on the same loop.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    inputs: mpsc::Sender<Input>,
    serves: Arc<AtomicBool>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The daemon has not found out yet what node it is on.
    #[error(
        "the daemon is starting: it reads the instance's metadata or sets the node's network up; its log says more"
    )]
    Starting,
    /// The event loop did not answer in time.
    #[error("the daemon does not answer within {} s", PATIENCE.as_secs())]
    Stuck,
    /// The event loop has ended.
    #[error("the daemon is stopping")]
    Stopping,
    /// The daemon does not do what it is asked.
    #[error("{}: {}", .0.message, .0.details)]
    Refused(Refusal),
}

impl Asker {
    /// Returns a handle on a loop that does not run yet.
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, serves: Arc::default() }
    }

    /// The loop runs.
    pub(crate) fn serving(&self) {
        self.serves.store(true, Ordering::Release);
    }

    /// Asks the event loop and waits for its answer.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, NoAnswer> {
        let waits = match &request {
            Request::Events { wait, .. } => Duration::from_secs((*wait).min(EVENTS_WAIT_MAX)),
            _ => Duration::ZERO,
        };
        // What is asked before would wait in the queue, and many such questions would fill it.
        if !self.serves.load(Ordering::Acquire) {
            return Err(NoAnswer::Starting);
        }
        let asked = async {
            let (caller, answer) = oneshot::channel();
            let input = Input::Request(request, caller);
            self.inputs.send(input).await.map_err(|_| NoAnswer::Stopping)?;
            answer.await.map_err(|_| NoAnswer::Stopping)
        };
        match tokio::time::timeout(PATIENCE + waits, asked).await {
            Ok(Ok(Answer::Refused(refusal))) => Err(NoAnswer::Refused(refusal)),
            Ok(answered) => answered,
            Err(_) => Err(NoAnswer::Stuck),
        }
    }

    /// Asks what the node holds.
    pub(crate) async fn inventory(&self) -> Result<Box<Inventory>, NoAnswer> {
        match self.ask(Request::Inventory).await? {
            Answer::Inventory(inventory) => Ok(inventory),
            other => unreachable!("the loop answers a question about what it holds with {other:?}"),
        }
    }
}
