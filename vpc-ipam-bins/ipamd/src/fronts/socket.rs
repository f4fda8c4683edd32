//! The unix socket at which the plugin and the command line ask.

use core::time::Duration;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};
use vpc_ipam_protocol::trusted_file;
use vpc_ipam_protocol::{Answer, REQUEST_MAX, Refusal, RefusalKind, Request};

use crate::input::Input;

/// How many callers are served at once, those who wait for an address aside, whom core bounds; further ones wait in the
/// kernel's queue.
const CALLERS_MAX: usize = 256;
/// How long a caller may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long callers may take to read their answers when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// A socket that is served until it is stopped.
pub(crate) struct Server {
    task: JoinHandle<()>,
    /// Closes when the last conversation has ended.
    conversations: mpsc::Receiver<()>,
    path: PathBuf,
}

impl Server {
    /// Stops listening, removes the socket, and lets the callers that it serves read their answers.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // A newer daemon may have replaced it already.
        let _ = fs::remove_file(&self.path);
        let ended = tokio::time::timeout(STOP_PATIENCE, self.conversations.recv());
        if ended.await.is_err() {
            warn!("callers did not read their answers");
        }
    }
}

/// Listens at a path that only root and our own user can reach.
pub(crate) fn listen(path: &Path, inputs: mpsc::Sender<Input>) -> io::Result<Server> {
    if let Some(directory) = path.parent() {
        trusted_file::folder(directory).map_err(io::Error::other)?;
    }
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
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let (conversation, conversations) = mpsc::channel(1);
    let task = tokio::spawn(serve(listener, inputs, conversation));
    Ok(Server { task, conversations, path: path.to_path_buf() })
}

async fn serve(
    listener: UnixListener,
    inputs: mpsc::Sender<Input>,
    conversation: mpsc::Sender<()>,
) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: it passes.
                warn!(%error, "cannot accept a caller");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(caller) if trusted_file::is_trusted(caller.uid()) => {}
            caller => {
                warn!(?caller, "a caller who is neither root nor our own user was turned away");
                continue;
            }
        }
        let (inputs, conversation) = (inputs.clone(), conversation.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &inputs, place).await {
                debug!(%error, "a caller hung up");
            }
            drop(conversation);
        });
    }
}

async fn converse(
    mut stream: UnixStream,
    inputs: &mpsc::Sender<Input>,
    place: OwnedSemaphorePermit,
) -> io::Result<()> {
    let mut document = Vec::new();
    let mut limited = (&mut stream).take(REQUEST_MAX);
    tokio::time::timeout(REQUEST_TIMEOUT, limited.read_to_end(&mut document)).await??;
    let answer = match serde_json::from_slice::<Request>(&document) {
        Ok(request @ Request::Assign(_)) => {
            // It may wait for an address, and callers that release one must not wait for it.
            drop(place);
            ask(request, inputs).await
        }
        Ok(request) => ask(request, inputs).await,
        Err(error) => Answer::Refused(Refusal {
            kind: RefusalKind::UnknownRequest,
            message: "read the request".to_string(),
            details: format!("{error}: are the caller and the daemon of the same version?"),
        }),
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

async fn ask(request: Request, inputs: &mpsc::Sender<Input>) -> Answer {
    let stopping = || {
        Answer::Refused(Refusal {
            kind: RefusalKind::TryAgainLater,
            message: "ask the daemon".to_string(),
            details: "it is stopping".to_string(),
        })
    };
    let (caller, answer) = oneshot::channel();
    if inputs.send(Input::Request(request, caller)).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}
