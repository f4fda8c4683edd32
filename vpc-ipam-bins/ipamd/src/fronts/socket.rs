//! The unix socket at which the plugin and the command line ask.

pub(in crate::fronts) mod callers;
pub(crate) mod claim;
pub(in crate::fronts) mod place;

use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};
use vpc_ipam_protocol::{Answer, REQUEST_MAX, Refusal, RefusalKind, Request};

use self::callers::{Callers, IdlePlace};
use self::claim::Claim;
use self::place::Place;
use crate::fronts::{ask, stopping};
use crate::input::Input;

/// How many requests are answered at once, those that wait for an address aside, whom core bounds.
const SERVED_MAX: usize = 256;
/// How long a caller may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller may take to read its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long callers may take to read their answers when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// A socket that is served until it is stopped.
pub(crate) struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Place>,
    callers: Callers,
    /// Closes when the last conversation has ended.
    conversations: mpsc::Receiver<()>,
}

impl Server {
    /// Stops listening, removes the socket if it is still ours, and lets the callers that are served read their answers.
    ///
    /// The right to the socket is the caller's then, who drops it when nothing of the daemon is left.
    pub(crate) async fn stop(mut self) -> Option<Claim> {
        let _ = self.stop.send(());
        let claim = self.task.await.ok().map(Place::remove);
        self.callers.close_idle();
        let ended = tokio::time::timeout(STOP_PATIENCE, self.conversations.recv());
        if ended.await.is_err() {
            warn!("callers did not read their answers");
        }
        claim
    }
}

/// Listens at a socket that only root and our own user can reach.
pub(crate) fn listen(claim: Claim, inputs: mpsc::Sender<Input>) -> io::Result<Server> {
    let place = Place::make(claim)?;
    let (conversation, conversations) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel();
    let callers = Callers::default();
    let service = Service {
        callers: callers.clone(),
        served: Arc::new(Semaphore::new(SERVED_MAX)),
        inputs,
        conversation,
    };
    let task = tokio::spawn(place.accept_until(stopped, async move |stream| {
        service.callers.room().await;
        service.begin(stream);
    }));
    Ok(Server { stop, task, callers, conversations })
}

/// What each conversation takes.
#[derive(Clone)]
struct Service {
    callers: Callers,
    served: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
    /// Held as long as a conversation lasts.
    conversation: mpsc::Sender<()>,
}

impl Service {
    /// Begins a conversation with a caller whom we serve.
    fn begin(&self, stream: UnixStream) {
        let service = self.clone();
        self.callers.spawn(|idle| async move {
            if let Err(error) = service.converse(stream, idle).await {
                debug!(%error, "a caller hung up");
            }
            drop(service.conversation);
        });
    }

    async fn converse(&self, mut stream: UnixStream, idle: IdlePlace) -> io::Result<()> {
        let mut document = Vec::new();
        let mut limited = (&mut stream).take(REQUEST_MAX);
        tokio::time::timeout(REQUEST_TIMEOUT, limited.read_to_end(&mut document)).await??;
        drop(idle);
        let answer = match serde_json::from_slice::<Request>(&document) {
            // They may wait, for an address or for something to happen, and callers that release an address must not wait for them.
            Ok(request @ Request::Assign(_)) => match ask(request, &self.inputs).await {
                Some(answer) => answer,
                // The connection ends without an answer, by which the plugin knows that it may ask the next daemon.
                None => return Ok(()),
            },
            Ok(request @ Request::Events { .. }) => {
                ask(request, &self.inputs).await.unwrap_or_else(stopping)
            }
            Ok(request) => {
                let _served = self.served.acquire().await;
                ask(request, &self.inputs).await.unwrap_or_else(stopping)
            }
            Err(error) => Answer::Refused(Refusal {
                kind: RefusalKind::UnknownRequest,
                message: "read the request".to_string(),
                details: format!("{error}: are the caller and the daemon of the same version?"),
            }),
        };
        let document = serde_json::to_vec(&answer)?;
        tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(&document)).await??;
        stream.shutdown().await
    }
}
