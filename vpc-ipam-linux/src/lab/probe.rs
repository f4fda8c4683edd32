//! Traffic between the namespaces of a lab.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout, set_ip_mtu_discover,
    set_ipv6_mtu_discover, set_socket_timeout,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

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
        /// The address to listen at.
        address: SocketAddr,
        /// The namespace to listen in.
        namespace: Namespace,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("start a thread to answer on {address}")]
    Thread {
        /// The address to listen at.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// After which a client that does not read is given up, so that other clients are served.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

impl Responder {
    /// Starts a server in a namespace. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self, RespondError> {
        let failed =
            |source| RespondError::Listen { address, namespace: namespace.clone(), source };
        // A socket belongs to the namespace in which it was opened, whichever thread uses it.
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
            // It does nothing that panics, and there is no caller to report to.
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
        /// The server that was asked.
        to: SocketAddr,
        /// Where the client is.
        from: Namespace,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No answer came.
    #[error("receive the answer of {to} in {from:?}")]
    Receive {
        /// The server that was asked.
        to: SocketAddr,
        /// Where the client is.
        from: Namespace,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The answer is no address: another server is there.
    #[error("{to} answered {answer:?} instead of an address")]
    Answer {
        /// The server that was asked.
        to: SocketAddr,
        /// The text that came back.
        answer: String,
    },
}

/// Connects to a [`Responder`] from inside a namespace, and returns the source address that it saw.
///
/// The timeout is for the connection, and again for the answer.
pub fn ask(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<IpAddr, AskError> {
    ask_by(from, to, timeout, || TcpStream::connect_timeout(&to, timeout))
}

/// Asks as [`ask`] does, from one of the addresses that the namespace has: of a pod with several interfaces that decides by
/// which it leaves.
pub fn ask_from(
    from: &Namespace,
    source: IpAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<IpAddr, AskError> {
    ask_by(from, to, timeout, || connect_from(source, to, timeout))
}

fn ask_by(
    from: &Namespace,
    to: SocketAddr,
    timeout: Duration,
    connect: impl FnOnce() -> io::Result<TcpStream> + Send,
) -> Result<IpAddr, AskError> {
    let failed = |source| AskError::Connect { to, from: from.clone(), source };
    let receive = |source| AskError::Receive { to, from: from.clone(), source };
    let stream = from.run(connect)?.map_err(failed)?;
    stream.set_read_timeout(Some(timeout)).map_err(receive)?;
    let mut answer = String::new();
    // No address is longer.
    stream.take(64).read_to_string(&mut answer).map_err(receive)?;
    answer.trim_end().parse().map_err(|_| AskError::Answer { to, answer })
}

fn connect_from(source: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    // Bounds connect(2) too (socket(7)), which then ends with EINPROGRESS.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    match rustix::net::connect(&socket, &to) {
        Err(rustix::io::Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        other => Ok(other.map(|()| socket.into())?),
    }
}

/// A server that sends each datagram back to where it came from, until dropped.
///
/// It listens in the namespace in which it was started, and keeps that namespace alive.
#[derive(Debug)]
pub struct Echo {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// The longest IP packet, whose length is a number of 16 bits.
const PACKET_MAX: usize = 65_535;

impl Echo {
    /// Starts a server in a namespace. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self, RespondError> {
        let failed =
            |source| RespondError::Listen { address, namespace: namespace.clone(), source };
        let socket = namespace.run(|| UdpSocket::bind(address))?.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let socket = Arc::new(socket);
        let serving = Arc::clone(&socket);
        let thread = thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || send_back(&serving))
            .map_err(|source| RespondError::Thread { address, source })?;
        Ok(Self { socket, address, thread: Some(thread) })
    }

    /// Returns the address on which it listens, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Makes `recv_from` return with nothing; the kernel says that a socket without a peer is not connected, and does it.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics, and there is no caller to report to.
            let _ = thread.join();
        }
    }
}

fn send_back(socket: &UdpSocket) {
    let mut datagram = vec![0; PACKET_MAX];
    loop {
        match socket.recv_from(&mut datagram) {
            // An empty one ends it, as does the socket's end, which looks the same.
            Ok((0, _)) | Err(_) => return,
            // What becomes of one answer is that client's to tell.
            Ok((length, client)) => drop(socket.send_to(&datagram[..length], client)),
        }
    }
}

/// A failure to have a packet sent back by an [`Echo`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EchoError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The packet was not sent, or did not come back.
    #[error("send a packet of {bytes} bytes to {to} from {from:?} and back")]
    Exchange {
        /// The length of the datagram, without headers.
        bytes: u16,
        /// The server that was asked.
        to: SocketAddr,
        /// Where the client is.
        from: Namespace,
        /// Why not. One that is longer than a link on the way is refused with EMSGSIZE.
        source: io::Error,
    },
}

/// Sends an [`Echo`] one IP packet of so many bytes, headers included, that no router may cut, and waits until it is back.
///
/// # Panics
/// Panics if the packet is not longer than its headers, which take 48 bytes at most.
pub fn echo(
    from: &Namespace,
    to: SocketAddr,
    bytes: u16,
    timeout: Duration,
) -> Result<(), EchoError> {
    let exchange = |source| EchoError::Exchange { bytes, to, from: from.clone(), source };
    from.run(|| exchange_packet(to, bytes, timeout))?.map_err(exchange)
}

fn exchange_packet(to: SocketAddr, bytes: u16, timeout: Duration) -> io::Result<()> {
    /// Of IPv4 without options, of IPv6, and of UDP.
    const HEADERS: [u16; 3] = [20, 40, 8];
    let (any, headers) = match to {
        SocketAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), HEADERS[0] + HEADERS[2]),
        SocketAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), HEADERS[1] + HEADERS[2]),
    };
    assert!(bytes > headers, "{bytes} bytes are not more than the headers");
    let socket = UdpSocket::bind((any, 0))?;
    match to {
        SocketAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
    }
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    let sent = vec![0x5a; usize::from(bytes - headers)];
    socket.send(&sent)?;
    let mut back = vec![0; PACKET_MAX];
    let length = socket.recv(&mut back)?;
    if back[..length] == sent[..] {
        Ok(())
    } else {
        Err(io::Error::other(format!("{length} bytes came back that were not sent")))
    }
}
