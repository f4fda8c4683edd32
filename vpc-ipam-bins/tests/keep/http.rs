//! What a daemon serves over HTTP, asked for as callers in the node's namespace do.

mod introspection;
mod metrics;
mod page;

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use vpc_ipam::lab::LabNode;

use crate::runtime::{netns, wait_until};

pub(crate) const METRICS: u16 = 61678;
pub(crate) const INTROSPECTION: u16 = 61679;

/// What a daemon says that has not found out yet what node it is on, in words and in metrics.
pub(crate) const STARTING: &str = "the daemon is starting";
const IN_START: &str = r#"awscni_ipamd_action_inprogress{fn="nodeInit"} 1"#;

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks for a path at a port of the node's loopback, as soon as it is served by a daemon that has started.
pub(crate) fn get(node: &LabNode, port: u16, path: &str) -> Response {
    wait_until("an answer over HTTP", || {
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        let answer = request(node, port, &text)?;
        let starts = answer.body.contains(STARTING) || answer.body.contains(IN_START);
        if starts { Err(answer.body) } else { Ok(answer) }
    })
}

/// Sends a request as it is, and reads the answer until the daemon closes.
pub(crate) fn request(node: &LabNode, port: u16, text: &str) -> Result<Response, String> {
    let mut stream = connect(node, port)?;
    // The body ends where the connection does.
    let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    stream.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let head = head.to_lowercase();
    let status = status.ok_or(format!("no status: {head}"))?;
    Ok(Response { status, head, body: body.to_owned() })
}

pub(crate) fn connect(node: &LabNode, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(30));
    let stream = netns(node).run(connect).unwrap().map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    Ok(stream)
}
