//! What plugin and daemon say to each other: a line each way.

use core::net::IpAddr;
use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the daemon of a node listens.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join("var/run/aws-node/ipamd.sock")
}

/// What an allocation is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) network: String,
    pub(crate) container: String,
    pub(crate) ifname: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    AddNetwork { key: Key, namespace: String, pod: String },
    DelNetwork { key: Key, reason: String },
}

/// An address with its way out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Allocation {
    pub(crate) address: IpAddr,
    pub(crate) device: u8,
    pub(crate) table: u32,
}

pub(crate) type Reply = Result<Allocation, String>;

/// The error that makes a DEL succeed without doing anything.
pub(crate) const UNKNOWN_POD: &str = "datastore: unknown pod";

/// Asks the daemon. An error of the outer kind says that it could not be asked.
pub(crate) fn ask(root: &Path, request: &Request) -> Result<Reply, String> {
    let exchange = || -> std::io::Result<Reply> {
        let mut stream = UnixStream::connect(socket(root))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    exchange().map_err(|error| format!("ask the daemon: {error}"))
}
