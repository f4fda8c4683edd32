//! The thread that serves metrics and introspection over HTTP, apart from the event loop: whatever callers do there, pods are served.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::Namespace;

use super::ask::Asker;
use super::{introspection, metrics};
use crate::metrics::Metrics;
use crate::options::{BindAddress, Options};

/// How many callers are served at once at each address. The one that came first makes place for a further one, so that callers who
/// never go do not keep the others out; each costs a file descriptor, of which a process has 1,024, most of them for callers of the
/// plugin's socket.
const CALLERS_MAX: usize = 64;
/// How long a caller may take to say what it wants, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take to be made: longer than a caller may wait for something to happen.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The longest head of a request, in bytes: twice what a browser with cookies of other ports of this host sends.
const HEAD_MAX: usize = 16 << 10;
/// How long until an address that is taken is tried again: twice as long each time, up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The thread that serves HTTP; it ends when this is dropped.
pub(crate) struct Http {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Http {
    /// Serves what the options ask for. An address that is taken is no reason not to start: it is tried again.
    pub(crate) fn start(options: &Options, asker: &Asker, metrics: &Metrics) -> io::Result<Self> {
        let mut fronts = Vec::new();
        if let Some(address) = &options.metrics {
            let router = metrics::router(asker, metrics);
            fronts.push(Front { what: "metrics", address: address.clone(), router });
        }
        if let Some(address) = &options.introspection {
            let journal = options.journal.as_ref().map(|journal| journal.folder.clone());
            let router = introspection::router(asker, address, journal);
            fronts.push(Front { what: "introspection", address: address.clone(), router });
        }
        if fronts.is_empty() {
            return Ok(Self { stop: None, thread: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let netns = options.netns.clone();
        let serve = move || {
            runtime.block_on(async move {
                for front in fronts {
                    tokio::spawn(front.serve(netns.clone()));
                }
                // The sender dropped is as good as the word sent.
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("http".to_string()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked, which was reported then.
            let _ = thread.join();
        }
    }
}

/// Something that is served at one address.
struct Front {
    what: &'static str,
    address: BindAddress,
    router: Router,
}

impl Front {
    async fn serve(self, netns: Namespace) {
        let Self { what, address, router } = self;
        let listener = listen(what, &address, &netns).await;
        info!(%address, "serving {what}");
        let mut callers: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let task = match listener.accept().await {
                Ok(Stream::Tcp(stream)) => tokio::spawn(converse(stream, router.clone())),
                Ok(Stream::Unix(stream)) => tokio::spawn(converse(stream, router.clone())),
                Err(error) => {
                    // Out of file descriptors, as a rule: it passes.
                    warn!(%error, "cannot accept a caller of {what}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            callers.retain(|caller| !caller.is_finished());
            callers.push_back(task.abort_handle());
            if callers.len() > CALLERS_MAX
                && let Some(first) = callers.pop_front()
            {
                first.abort();
            }
            // A caller that has asked is answered before the next is let in.
            tokio::task::yield_now().await;
        }
    }
}

/// Listens at an address, as soon as that can be done.
async fn listen(what: &str, address: &BindAddress, netns: &Namespace) -> Listener {
    let mut pause = RETRY_MIN;
    loop {
        let error = match try_listen(address, netns).await {
            Ok(listener) => return listener,
            Err(error) => error_chain(&error),
        };
        if pause == RETRY_MIN {
            warn!(%address, error, "cannot serve {what} yet; trying again");
        } else {
            debug!(%address, error, "cannot serve {what} yet");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn try_listen(address: &BindAddress, netns: &Namespace) -> io::Result<Listener> {
    match address {
        BindAddress::Tcp(address) => {
            // The node's namespace need not be the daemon's own.
            let listener = netns.run(|| bind(*address)).map_err(io::Error::other)??;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(TcpListener::from_std(listener)?))
        }
        BindAddress::Unix(path) => {
            remove_stale(path).await?;
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(Listener::Unix { listener, _file: SocketFile::of(path) })
        }
    }
}

/// Binds a port; one of every address is one of every IPv4 address where the kernel has no IPv6.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(address);
    if address.ip() == Ipv6Addr::UNSPECIFIED && bound.is_err() {
        return std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).or(bound);
    }
    bound
}

/// Removes the socket of a daemon that was killed; anything else at its place is left alone.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let what = "there is something else than a socket, which is left alone";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there")),
        Err(error) => Err(error),
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// A socket's file, which goes with its listener, unless another program put its own there.
struct SocketFile {
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self { path: path.to_path_buf(), id: Self::id(path) }
    }

    /// Returns the device and the inode.
    fn id(path: &Path) -> Option<(u64, u64)> {
        fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && Self::id(&self.path) == self.id {
            // What cannot be removed is removed by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Self::Unix { listener, .. } => Stream::Unix(listener.accept().await?.0),
        })
    }
}

/// Serves one caller, as long as it keeps to its time.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, router: Router) {
    let deadline = Deadline::within(PATIENCE);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        deadline.extend(ANSWER_MAX);
        let answered = router.call(request);
        async {
            let answer = answered.await;
            deadline.extend(PATIENCE);
            answer
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(error = error_chain(&error), "a caller was not served to the end");
        },
        () = deadline.passed() => debug!("a caller took too long"),
    }
}

/// When a caller is given up: later with each of its steps.
struct Deadline(Mutex<Instant>);

impl Deadline {
    fn within(time: Duration) -> Self {
        Self(Mutex::new(Instant::now() + time))
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }

    async fn passed(&self) {
        while self.at() > Instant::now() {
            tokio::time::sleep_until(self.at()).await;
        }
    }
}
