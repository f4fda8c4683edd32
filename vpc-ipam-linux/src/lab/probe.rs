//! Traffic between the namespaces of a lab.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::{Namespace, NamespaceError};

/// A server that answers each connection with the address from which it came, as text and a line feed, until dropped.
///
/// It listens in the namespace in which it was started, and keeps that namespace alive.
#[derive(Debug)]
pub struct Responder {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// A failure to start a [`Responder`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The address could not be listened on.
    #[error("listen on {address} in {namespace:?}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Where.
        namespace: Namespace,
        /// Why not.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("start a thread to answer on {address}")]
    Thread {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// After which a client that does not read is given up, so that others are served.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

impl Responder {
    /// Starts a server in a namespace. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self, RespondError> {
        let failed =
            |source| RespondError::Listen { address, namespace: namespace.clone(), source };
        // A socket belongs to the namespace in which it was opened, whoever uses it.
        let listener = namespace.run(|| TcpListener::bind(address))?.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = Arc::new(listener);
        let serving = Arc::clone(&listener);
        let thread = thread::Builder::new()
            .name("responder".to_owned())
            .spawn(move || serve(&serving))
            .map_err(|source| RespondError::Thread { address, source })?;
        Ok(Self { listener, address, thread: Some(thread) })
    }

    /// Returns the address on which it listens, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Makes `accept` return, and every later one.
        let stopped = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take().filter(|_| stopped.is_ok()) {
            // It does nothing that panics, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener) {
    loop {
        match listener.accept() {
            // What becomes of one client is that client's to tell.
            Ok((stream, client)) => drop(answer(stream, client.ip())),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                _ => return,
            },
        }
    }
}

fn answer(mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.write_all(format!("{}\n", client.to_canonical()).as_bytes())
}

/// A failure to learn from a [`Responder`] as whom it sees the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No connection came about.
    #[error("connect to {to} from {from:?}")]
    Connect {
        /// The server.
        to: SocketAddr,
        /// Where the client is.
        from: Namespace,
        /// Why not.
        source: io::Error,
    },
    /// No answer came.
    #[error("receive the answer of {to} in {from:?}")]
    Receive {
        /// The server.
        to: SocketAddr,
        /// Where the client is.
        from: Namespace,
        /// Why not.
        source: io::Error,
    },
    /// The answer is no address: another server is there.
    #[error("{to} answered {answer:?} instead of an address")]
    Answer {
        /// The server.
        to: SocketAddr,
        /// What it said.
        answer: String,
    },
}

/// Connects to a [`Responder`] from inside a namespace, and returns the source address that it saw.
///
/// The timeout is for the connection, and again for the answer.
pub fn ask(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<IpAddr, AskError> {
    let connect = |source| AskError::Connect { to, from: from.clone(), source };
    let receive = |source| AskError::Receive { to, from: from.clone(), source };
    let connection = from.run(|| TcpStream::connect_timeout(&to, timeout))?;
    let stream = connection.map_err(connect)?;
    stream.set_read_timeout(Some(timeout)).map_err(receive)?;
    let mut answer = String::new();
    // No address is longer.
    stream.take(64).read_to_string(&mut answer).map_err(receive)?;
    answer.trim_end().parse().map_err(|_| AskError::Answer { to, answer })
}
