//! One question to the daemon, and its answer.

use core::fmt;
use core::time::Duration;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::{Answer, Request, trusted_file};

/// How long the daemon is waited for unless a caller says otherwise: longer than an ADD may wait for an address.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that a caller reads, in bytes: 10,000 leases with the longest names take a third of it.
const ANSWER_MAX: u64 = 64 << 20;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No daemon runs: there is no socket, or nothing listens at it.
    #[error("{what} {}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What of the two it is.
        what: Absent,
    },
    /// There is something else where the socket should be.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// Its path.
        path: PathBuf,
    },
    /// The system does not let us connect.
    #[error("connect to the socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another user listens there, who may not speak for the daemon.
    #[error("user {uid} listens at {}, who is neither root nor the user of this program", path.display())]
    Untrusted {
        /// The socket.
        path: PathBuf,
        /// The user who listens.
        uid: u32,
    },
    /// The daemon has not answered in time.
    #[error("no answer in {} at {}", InWords(*within), path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        within: Duration,
    },
    /// The daemon closed the connection without an answer or in the middle of it, as it does when it ends.
    #[error("the connection to {} was closed before the answer", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("exchange with {}", path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The answer is not what this version understands.
    #[error("read the answer of {}", path.display())]
    Decode {
        /// The socket.
        path: PathBuf,
        /// Where its JSON is wrong.
        source: serde_json::Error,
    },
}

/// What is missing where no daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Absent {
    /// The socket itself.
    Socket,
    /// A program that listens at it.
    Listener,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "there is no socket",
            Self::Listener => "nothing listens at the socket",
        })
    }
}

/// A duration as a message says it: `60 s`, `75 ms`.
struct InWords(Duration);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{} s", self.0.as_secs()),
            _ => write!(f, "{} ms", self.0.as_millis()),
        }
    }
}

/// Asks the daemon, and waits [`PATIENCE`] for its answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, AskError> {
    ask_within(socket, request, PATIENCE)
}

/// Asks the daemon, and waits for its answer no longer than `patience` in all.
pub fn ask_within(
    socket: &Path,
    request: &Request,
    patience: Duration,
) -> Result<Answer, AskError> {
    Asked::send(socket, request, patience)?.answer()
}

/// Returns the id of the process that listens at a socket, the daemon's.
pub fn listener(socket: &Path) -> Result<u32, AskError> {
    let stream = open(socket, PATIENCE)?;
    let peer = socket_peercred(&stream)
        .map_err(|errno| AskError::Exchange { path: socket.to_owned(), source: errno.into() })?;
    Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
}

/// A question that the daemon was asked and has yet to answer.
#[derive(Debug)]
pub struct Asked {
    stream: UnixStream,
    path: PathBuf,
    patience: Duration,
    deadline: Instant,
}

impl Asked {
    /// Asks the daemon, and does not wait: a grant takes the daemon a while, in which the caller has things to do too.
    pub fn send(path: &Path, request: &Request, patience: Duration) -> Result<Self, AskError> {
        let deadline = Instant::now() + patience;
        let stream = open(path, patience)?;
        let mut asked = Self { stream, path: path.to_owned(), patience, deadline };
        asked.write(request).map_err(|error| asked.failed(error))?;
        Ok(asked)
    }

    /// Waits for the answer.
    pub fn answer(mut self) -> Result<Answer, AskError> {
        // As long as the answers are that the plugin gets.
        let mut answer = Vec::with_capacity(2048);
        self.read(&mut answer).map_err(|error| self.failed(error))?;
        serde_json::from_slice(&answer).map_err(|source| {
            if source.is_eof() {
                AskError::Closed { path: self.path }
            } else {
                AskError::Decode { path: self.path, source }
            }
        })
    }

    fn write(&mut self, request: &Request) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(&serde_json::to_vec(request)?)?;
        self.stream.shutdown(Shutdown::Write)
    }

    fn read(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
        let mut part = vec![0; 16 << 10];
        while (answer.len() as u64) < ANSWER_MAX {
            // A daemon that writes a little now and then gets no longer than one that writes nothing.
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(&mut part) {
                Ok(0) => break,
                Ok(len) => answer.extend_from_slice(&part[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn failed(&self, source: io::Error) -> AskError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                AskError::NoAnswer { path, within: self.patience }
            }
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AskError::Closed { path },
            _ => AskError::Exchange { path, source },
        }
    }
}

/// Connects to the daemon. A daemon that hangs takes no connections once its queue is full, so that this may wait too.
fn open(path: &Path, patience: Duration) -> Result<UnixStream, AskError> {
    let to = path.to_owned();
    let connected = || -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        connect(&socket, &address)?;
        Ok(socket)
    };
    let socket = connected().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => AskError::NoDaemon { path: to.clone(), what: Absent::Socket },
        io::ErrorKind::ConnectionRefused if !is_socket(path) => {
            AskError::NotASocket { path: to.clone() }
        }
        io::ErrorKind::ConnectionRefused => {
            AskError::NoDaemon { path: to.clone(), what: Absent::Listener }
        }
        io::ErrorKind::WouldBlock => AskError::NoAnswer { path: to.clone(), within: patience },
        _ => AskError::Connect { path: to.clone(), source },
    })?;
    let listener = socket_peercred(&socket)
        .map_err(|error| AskError::Exchange { path: to.clone(), source: error.into() })?;
    let uid = listener.uid.as_raw();
    if !trusted_file::is_trusted(uid) {
        return Err(AskError::Untrusted { path: to, uid });
    }
    Ok(socket.into())
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn refused(path: &Path) -> String {
        let error = ask_within(path, &Request::Status, SHORT).unwrap_err();
        vpc_ipam_core::error_chain(&error)
    }

    #[test]
    fn error_says_what_there_is_instead_of_a_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        drop(UnixListener::bind(at("left")).unwrap());
        let cases = [
            ("none", "there is no socket {}"),
            ("none/none", "there is no socket {}"),
            ("file", "{} is not a socket"),
            (".", "{} is not a socket"),
            ("left", "nothing listens at the socket {}"),
        ];
        for (name, expected) in cases {
            let expected = expected.replace("{}", &at(name).display().to_string());
            assert_eq!(refused(&at(name)), expected, "{name}");
        }
        for name in ["file/none", &"x".repeat(200)] {
            let said = refused(&at(name));
            let expected = format!("connect to the socket {}: ", at(name).display());
            assert!(said.starts_with(&expected), "{said}");
        }
    }

    #[test]
    fn daemon_that_hangs_is_waited_for_no_longer_than_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let expected = format!("no answer in 50 ms at {}", path.display());

        assert_eq!(refused(&path), expected, "it takes the connection");
        // A connection that nothing takes and that has no deadline would wait for ever.
        let _queued: Vec<UnixStream> = core::iter::from_fn(|| open(&path, SHORT).ok()).collect();
        assert_eq!(refused(&path), expected, "its queue is full");
    }

    #[test]
    fn answer_in_pieces_and_connection_without_answer_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = std::thread::spawn(move || {
            for pieces in [&[r#""unk"#, r#"nown""#][..], &[], &["nonsense"]] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                stream.read_to_end(&mut request).unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).unwrap();
                }
            }
        });

        assert_eq!(ask(&path, &Request::Status).unwrap(), Answer::Unknown);
        assert!(matches!(ask(&path, &Request::Status), Err(AskError::Closed { .. })));
        assert!(matches!(ask(&path, &Request::Status), Err(AskError::Decode { .. })));
        serve.join().unwrap();
    }
}
