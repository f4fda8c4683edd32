//! A caller's connection, from its first bytes on.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::transport::server::Connected;
use tracing::debug;

use crate::fronts::socket::callers::{Callers, IdlePlace};

/// What every client of HTTP/2 says first: RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say it.
const PREFACE_MAX: Duration = Duration::from_secs(5);
/// How many connections of such clients are served at once.
const CONNECTIONS_MAX: usize = 512;

/// Hears what callers say first, and hands on those that speak HTTP/2.
#[derive(Clone)]
pub(super) struct Greeter {
    callers: Callers,
    served: Arc<Semaphore>,
    connections: mpsc::Sender<io::Result<Connection>>,
}

impl Greeter {
    pub(super) fn new(connections: mpsc::Sender<io::Result<Connection>>) -> Self {
        let served = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { callers: Callers::default(), served, connections }
    }

    /// Begins a conversation with a caller, once there is room for one more.
    pub(super) async fn greet(&self, stream: impl Stream) {
        self.callers.room().await;
        let greeter = self.clone();
        self.callers.spawn(|idle| greeter.hear(stream, idle));
    }

    /// Closes the connections of callers that have said nothing yet.
    pub(super) fn stop(&self) {
        self.callers.close_idle();
    }

    async fn hear(self, mut stream: impl Stream, idle: IdlePlace) {
        let mut said = [0; PREFACE.len()];
        let heard = tokio::time::timeout(PREFACE_MAX, stream.read_exact(&mut said)).await;
        if !matches!(heard, Ok(Ok(_))) || said != *PREFACE {
            debug!("a caller does not speak HTTP/2");
            return;
        }
        let Ok(served) = self.served.acquire_owned().await else { return };
        drop(idle);
        let connection = Connection { unread: PREFACE, stream: Box::new(stream), _served: served };
        // The server is gone only when the daemon stops.
        let _ = self.connections.send(Ok(connection)).await;
    }
}

/// A stream of bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection of a client that speaks HTTP/2.
pub(super) struct Connection {
    /// What was read of it already, and is still to be read by the server.
    unread: &'static [u8],
    stream: Box<dyn Stream>,
    _served: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
