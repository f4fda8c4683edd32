//! A server on loopback that answers as a test wants, and counts.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use crate::lab::listener;

/// A server that says whatever it likes; it serves until its process ends.
pub struct Liar {
    addr: SocketAddr,
    asked: Arc<AtomicU32>,
    sent: Arc<AtomicU64>,
}

/// What the liar is asked, and how it answers.
pub struct Asked<'a> {
    /// The method and the path.
    pub line: String,
    /// What was sent along: of EC2 the parameters.
    pub body: String,
    /// How many requests there were before.
    pub before: u32,
    to: &'a TcpStream,
    sent: &'a AtomicU64,
}

impl Liar {
    pub fn new(answer: impl Fn(Asked<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let (asked, sent) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
        let answer = Arc::new(answer);
        let (count, bytes) = (Arc::clone(&asked), Arc::clone(&sent));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, count, bytes) = (answer.clone(), count.clone(), bytes.clone());
                std::thread::spawn(move || {
                    // A client that hangs up has heard enough.
                    let _ = serve(&stream.unwrap(), &*answer, &count, &bytes);
                });
            }
        });
        Self { addr, asked, sent }
    }

    /// Makes a metadata service that gives out a token and answers everything else as the test wants.
    pub fn imds(answer: impl Fn(Asked<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::new(move |asked| match asked.line.starts_with("PUT /latest/api/token") {
            true => asked.ok("x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", "token"),
            false => answer(asked),
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns how many requests there were.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of answers were taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Asked<'_> {
    /// Returns the path within the metadata.
    pub fn path(&self) -> &str {
        let path = self.line.split(' ').nth(1).unwrap_or_default();
        path.strip_prefix("/latest/meta-data/").unwrap_or(path)
    }

    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = self.to;
        to.write_all(bytes)?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Answers whole, with further headers.
    pub fn ok(&self, headers: &str, body: &str) -> io::Result<()> {
        self.status("200 OK", headers, body)
    }

    pub fn status(&self, status: &str, headers: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n");
        self.write((head + body).as_bytes())
    }

    /// Answers with a body of this many bytes.
    pub fn long(&self, bytes: u64) -> io::Result<()> {
        self.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").as_bytes())?;
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..bytes / piece.len() as u64 {
            self.write(&piece)?;
        }
        Ok(())
    }

    /// Sends a byte of the body after the other, and never the last.
    pub fn slowly(&self) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")?;
        loop {
            self.write(b"x")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(Asked<'_>) -> io::Result<()>,
    count: &AtomicU32,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = String::new();
        reader.by_ref().take(length).read_to_string(&mut body)?;
        let before = count.fetch_add(1, Ordering::Relaxed);
        answer(Asked { line: line.trim().to_owned(), body, before, to: stream, sent })?;
    }
}
