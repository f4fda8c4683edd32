//! Long-lived traffic that is counted: a probe each millisecond on every flow, each with a number, and each sent back.
//!
//! All clients are one thread's and all servers another's, so that a machine under load delays all flows alike and drops nothing:
//! sockets keep seconds of what was not read yet. The longest silence of a flow is counted in rounds of the clients' thread, so that
//! what it did not run itself is not taken for silence.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use vpc_ipam_linux::Namespace;

/// Between two probes of a flow.
const SPACING: Duration = Duration::from_millis(1);
/// After which nothing is sent any more, so that a test that hangs ends.
const LENGTH_MAX: Duration = Duration::from_secs(900);
/// How long a flow may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long answers are waited for after the last probe.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes that a socket keeps: of small datagrams more than ten thousand.
const BUFFER: usize = 16 << 20;
/// Between two connections of a flow that opens one after the other.
const NEW_SPACING: u32 = 20;
/// How long an answer of a connection is waited for that is not there for longer.
const NEW_PATIENCE: Duration = Duration::from_secs(2);

/// How probes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As datagrams, of which a lost one stays lost.
    Udp,
    /// In one connection, in which what is lost is sent again: nothing is lost while the connection lives, only late.
    Tcp,
    /// As datagrams, each from a port of its own, 20 ms apart: each is a connection by itself to address translation.
    New,
}

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What it shows: `pod-pod, same ENI`.
    pub kind: &'static str,
    /// How it is sent.
    pub transport: Transport,
    /// Where the client is.
    pub from: Namespace,
    /// What it calls.
    pub to: SocketAddr,
    /// Where the server is, and what it listens at: another address than is called, where it is translated.
    pub server: (Namespace, SocketAddr),
    /// As whom the server is to see the client.
    pub seen_as: Option<IpAddr>,
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub struct Tally {
    /// That of the flow.
    pub kind: &'static str,
    /// That of the flow.
    pub transport: Transport,
    /// How many probes were sent.
    pub sent: usize,
    /// How many of them did not come back.
    pub lost: usize,
    /// The most rounds, of a millisecond at least, that went by without an answer.
    pub silence: u32,
    /// The longest time in which the client did not run.
    pub pause: Duration,
    /// What else went wrong: a connection that ended, a wrong address.
    pub wrong: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::New => "new",
        };
        write!(
            f,
            "{:<28} {transport}  {:>7} sent  {:>4} lost  longest silence {:>4} ms",
            self.kind, self.sent, self.lost, self.silence
        )?;
        self.wrong.iter().try_for_each(|wrong| write!(f, "  {wrong}"))
    }
}

/// Flows that run until they are stopped, fifteen minutes at most.
#[derive(Debug)]
pub struct Flows {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Vec<Tally>>,
    server: JoinHandle<()>,
    serving: Arc<AtomicBool>,
}

impl Flows {
    /// Starts flows, and returns once a probe has come back on each of them.
    ///
    /// # Panics
    /// Panics if a flow cannot be opened, or nothing comes back.
    pub fn start(flows: &[Flow]) -> Self {
        let serving = Arc::new(AtomicBool::new(true));
        let mut servers = Servers::default();
        for flow in flows {
            servers.listen(flow);
        }
        let goes_on = Arc::clone(&serving);
        let server = std::thread::spawn(move || servers.serve(&goes_on));
        let mut clients: Vec<Client> = flows.iter().map(Client::open).collect();
        clients.iter_mut().for_each(Client::begin);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = std::thread::spawn(move || send(clients, &stopped));
        Self { stop, client, server, serving }
    }

    /// Stops the flows, waits for answers on the way, and returns what became of each, in their order.
    ///
    /// # Panics
    /// Panics if one of the threads did.
    pub fn stop(self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let tallies = self.client.join().unwrap();
        self.serving.store(false, Ordering::Relaxed);
        self.server.join().unwrap();
        tallies
    }
}

/// The servers of all flows.
#[derive(Default)]
struct Servers {
    datagrams: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    streams: Vec<TcpStream>,
    at: Vec<(std::path::PathBuf, SocketAddr, bool)>,
}

impl Servers {
    fn listen(&mut self, flow: &Flow) {
        let (netns, at) = &flow.server;
        let stream = flow.transport == Transport::Tcp;
        let place = (netns.path().to_path_buf(), *at, stream);
        if self.at.contains(&place) {
            return;
        }
        self.at.push(place);
        if stream {
            let listener = netns.run(|| TcpListener::bind(at)).unwrap();
            let listener = listener.unwrap_or_else(|error| panic!("{}: {at}: {error}", flow.kind));
            listener.set_nonblocking(true).unwrap();
            self.listeners.push(listener);
        } else {
            let socket = netns.run(|| UdpSocket::bind(at)).unwrap();
            let socket = socket.unwrap_or_else(|error| panic!("{}: {at}: {error}", flow.kind));
            self.datagrams.push(kept_for_long(socket));
        }
    }

    /// Sends back what comes. A datagram of five bytes asks for the address of its sender.
    fn serve(mut self, goes_on: &AtomicBool) {
        let mut bytes = vec![0; 1 << 16];
        while goes_on.load(Ordering::Relaxed) {
            self.wait();
            for socket in &self.datagrams {
                while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let sent = if length == 5 {
                        socket.send_to(from.ip().to_canonical().to_string().as_bytes(), from)
                    } else {
                        socket.send_to(&bytes[..length], from)
                    };
                    // What does not come back is counted by the client.
                    drop(sent);
                }
            }
            for listener in &self.listeners {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    self.streams.push(stream);
                }
            }
            self.streams.retain_mut(|stream| match stream.read(&mut bytes) {
                Ok(0) => false,
                // So little is under way that it always takes all.
                Ok(length) => stream.write_all(&bytes[..length]).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
        }
    }

    fn wait(&self) {
        let datagrams = self.datagrams.iter().map(|socket| PollFd::new(socket, PollFlags::IN));
        let listeners = self.listeners.iter().map(|socket| PollFd::new(socket, PollFlags::IN));
        let streams = self.streams.iter().map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut all: Vec<PollFd<'_>> = datagrams.chain(listeners).chain(streams).collect();
        let patience = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        // At its end what came is looked for.
        let _ = poll(&mut all, Some(&patience));
    }
}

fn kept_for_long(socket: UdpSocket) -> UdpSocket {
    socket.set_nonblocking(true).unwrap();
    // In a user namespace only as much as the system allows each user: a quarter of a second of probes.
    set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER))
        .unwrap();
    socket
}

/// The client of a flow.
struct Client {
    flow: Flow,
    way: Way,
    sent: usize,
    came: usize,
    /// How many were lost before one came back, as neighbours get to know each other.
    lost_before: usize,
    silence: u32,
    silence_max: u32,
    wrong: Vec<String>,
}

enum Way {
    /// With what came back, by number.
    Datagrams { socket: UdpSocket, back: Vec<bool> },
    /// With bytes that are not sent yet, and bytes of a probe that is not all there.
    Stream { stream: TcpStream, unsent: Vec<u8>, part: Vec<u8> },
    /// With the connections that wait for their answer.
    New { waiting: Vec<(UdpSocket, Instant)> },
}

impl Client {
    fn open(flow: &Flow) -> Self {
        let to = flow.to;
        let any: SocketAddr = (if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).parse().unwrap();
        let failed = |error: io::Error| -> ! { panic!("{} to {to}: {error}", flow.kind) };
        let way = match flow.transport {
            Transport::Udp => {
                let open = || UdpSocket::bind(any).and_then(|it| it.connect(to).map(|()| it));
                let socket = flow.from.run(open).unwrap().unwrap_or_else(|error| failed(error));
                Way::Datagrams { socket: kept_for_long(socket), back: Vec::new() }
            }
            Transport::Tcp => {
                let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
                let stream = flow.from.run(connect).unwrap().unwrap_or_else(|error| failed(error));
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                Way::Stream { stream, unsent: Vec::new(), part: Vec::new() }
            }
            Transport::New => Way::New { waiting: Vec::new() },
        };
        Self {
            flow: flow.clone(),
            way,
            sent: 0,
            came: 0,
            lost_before: 0,
            silence: 0,
            silence_max: 0,
            wrong: Vec::new(),
        }
    }

    /// Sends probes one at a time until one comes back.
    fn begin(&mut self) {
        let began = Instant::now();
        while self.came == 0 {
            let Flow { kind, to, transport, .. } = &self.flow;
            let opens = began.elapsed() < BEGIN_PATIENCE;
            assert!(opens, "{kind} to {to} by {transport:?}: nothing comes back; {:?}", self.wrong);
            self.send(0);
            let sent = Instant::now();
            while self.came == 0 && sent.elapsed() < NEW_PATIENCE / 10 {
                self.receive();
                std::thread::sleep(SPACING);
            }
        }
        self.lost_before = self.sent - self.came;
        (self.silence, self.silence_max) = (0, 0);
    }

    fn send(&mut self, tick: u32) {
        let number = u32::try_from(self.sent).unwrap();
        match &mut self.way {
            Way::Datagrams { socket, back } => {
                // One that is refused is lost.
                drop(socket.send(&number.to_be_bytes()));
                back.push(false);
            }
            Way::Stream { unsent, .. } => unsent.extend(number.to_be_bytes()),
            Way::New { .. } if !tick.is_multiple_of(NEW_SPACING) => return,
            Way::New { waiting } => {
                let to = self.flow.to;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let open = || UdpSocket::bind(any).and_then(|it| it.connect(to).map(|()| it));
                let socket = self.flow.from.run(open).unwrap().unwrap();
                socket.set_nonblocking(true).unwrap();
                drop(socket.send(b"who ?"));
                waiting.push((socket, Instant::now()));
            }
        }
        self.sent += 1;
    }

    /// Takes what came back.
    fn receive(&mut self) {
        let before = self.came;
        match &mut self.way {
            Way::Datagrams { socket, back } => {
                let mut bytes = [0; 8];
                loop {
                    match socket.recv(&mut bytes) {
                        Ok(4) => {
                            let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                            let place = back.get_mut(usize::try_from(number).unwrap());
                            if let Some(place) = place
                                && !core::mem::replace(place, true)
                            {
                                self.came += 1;
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // That of an earlier probe: it is lost.
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            Way::Stream { stream, unsent, part } => {
                match stream.write(unsent) {
                    Ok(length) => drop(unsent.drain(..length)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => self.wrong.push(format!("the connection ended: {error}")),
                }
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    part.extend(&bytes[..length]);
                }
                while let Some(number) = part.first_chunk::<4>() {
                    if u32::from_be_bytes(*number) != u32::try_from(self.came).unwrap() {
                        self.wrong.push(format!("{number:?} came as number {}", self.came));
                    }
                    part.drain(..4);
                    self.came += 1;
                }
                self.wrong.truncate(5);
            }
            Way::New { waiting } => {
                let (came, wrong, flow) = (&mut self.came, &mut self.wrong, &self.flow);
                waiting.retain(|(socket, since)| {
                    let mut bytes = [0; 64];
                    let Ok(length) = socket.recv(&mut bytes) else {
                        return since.elapsed() < NEW_PATIENCE;
                    };
                    let seen: Option<IpAddr> =
                        String::from_utf8_lossy(&bytes[..length]).parse().ok();
                    if flow.seen_as.is_none() || flow.seen_as == seen {
                        *came += 1;
                    } else {
                        wrong.push(format!("seen as {seen:?} instead of {:?}", flow.seen_as));
                        wrong.truncate(5);
                    }
                    false
                });
            }
        }
        self.silence = if self.came > before { 0 } else { self.silence + 1 };
        self.silence_max = self.silence_max.max(self.silence);
    }

    fn owed(&self) -> usize {
        self.sent.saturating_sub(self.came + self.lost_before)
    }

    fn tally(self, pause: Duration) -> Tally {
        Tally {
            kind: self.flow.kind,
            transport: self.flow.transport,
            sent: self.sent - self.lost_before,
            lost: self.owed(),
            silence: self.silence_max,
            pause,
            wrong: self.wrong,
        }
    }
}

/// Sends on all flows until stopped.
fn send(mut clients: Vec<Client>, stopped: &AtomicBool) -> Vec<Tally> {
    let began = Instant::now();
    let (mut last, mut pause, mut tick) = (began, Duration::ZERO, 0_u32);
    let mut next = began;
    while !stopped.load(Ordering::Relaxed) && began.elapsed() < LENGTH_MAX {
        let now = Instant::now();
        pause = pause.max(now - last);
        last = now;
        for client in &mut clients {
            client.send(tick);
            client.receive();
        }
        tick += 1;
        // A tick that was missed is left out: it would be sent with the next.
        next = (next + SPACING).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let ended = Instant::now();
    while ended.elapsed() < PATIENCE && clients.iter().any(|client| client.owed() > 0) {
        // What all came back of is silent for want of probes.
        clients.iter_mut().filter(|client| client.owed() > 0).for_each(Client::receive);
        std::thread::sleep(SPACING);
    }
    clients.into_iter().map(|client| client.tally(pause)).collect()
}
