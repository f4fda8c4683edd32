//! What checks look at: the daemon's answers, and files of the node under a root folder.

use core::cell::OnceCell;
use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vpc_ipam_core::{Lease, error_chain};
use vpc_ipam_protocol::{
    self as protocol, Answer, AskError, Inventory, NetReport, Probe, Refusal, Request, Status,
};

use crate::node_files::NodeFiles;

/// How long one answer of the daemon is waited for: longer than it takes for a probe, which ends after 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// What checks look at.
pub(super) struct Facts {
    pub(super) files: NodeFiles,
    socket: PathBuf,
    ask: Box<Ask>,
    pub(super) now: SystemTime,
    /// Returns how many bytes and files a file system has room for.
    pub(super) room: fn(&Path) -> io::Result<Room>,
    status: OnceCell<Answered<Status>>,
    inventory: OnceCell<Answered<Box<Inventory>>>,
    leases: OnceCell<Answered<Vec<Lease>>>,
    net: OnceCell<Answered<NetReport>>,
    probe: OnceCell<Answered<Box<Probe>>>,
}

/// How the daemon is asked.
pub(super) type Ask = dyn Fn(&Request) -> Answered<Answer>;

/// An answer of the daemon, or why there is none.
pub(super) type Answered<T> = Result<T, Unanswered>;

/// Why the daemon did not answer.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    pub(super) why: String,
    /// Whether the user of this program may not ask.
    pub(super) denied: bool,
}

/// How much a file system has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) bytes: u64,
    /// Files; none where the file system does not count them.
    pub(super) files: Option<u64>,
}

impl Facts {
    /// Looks at the node whose files are under `root` and whose daemon listens at `socket`.
    pub(super) fn new(root: &Path, socket: &Path) -> Self {
        let at = socket.to_owned();
        Self::with(root, socket, Box::new(move |request| ask(&at, request)))
    }

    /// Looks at files under `root`, and asks the daemon by `ask`.
    pub(super) fn with(root: &Path, socket: &Path, ask: Box<Ask>) -> Self {
        Self {
            files: NodeFiles::below(root),
            socket: socket.to_owned(),
            ask,
            now: SystemTime::now(),
            room,
            status: OnceCell::new(),
            inventory: OnceCell::new(),
            leases: OnceCell::new(),
            net: OnceCell::new(),
            probe: OnceCell::new(),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn status(&self) -> Result<&Status, &Unanswered> {
        let ask = || match (self.ask)(&Request::Status)? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        };
        self.status.get_or_init(ask).as_ref()
    }

    pub(super) fn inventory(&self) -> Result<&Inventory, &Unanswered> {
        let ask = || match self.answer(&Request::Inventory)? {
            Answer::Inventory(inventory) => Ok(inventory),
            other => Err(unexpected(other)),
        };
        self.inventory.get_or_init(ask).as_deref()
    }

    pub(super) fn leases(&self) -> Result<&[Lease], &Unanswered> {
        let ask = || match self.answer(&Request::Leases { network: None })? {
            Answer::Leases(leases) => Ok(leases),
            other => Err(unexpected(other)),
        };
        self.leases.get_or_init(ask).as_deref()
    }

    pub(super) fn net(&self) -> Result<&NetReport, &Unanswered> {
        let ask = || match self.answer(&Request::NetDiff)? {
            Answer::Net(report) => Ok(report),
            other => Err(unexpected(other)),
        };
        self.net.get_or_init(ask).as_ref()
    }

    pub(super) fn probe(&self) -> Result<&Probe, &Unanswered> {
        let ask = || match self.answer(&Request::Probe)? {
            Answer::Probe(probe) => Ok(probe),
            other => Err(unexpected(other)),
        };
        self.probe.get_or_init(ask).as_deref()
    }

    /// Asks a daemon that answers at all: one that does not is waited for once.
    fn answer(&self, request: &Request) -> Answered<Answer> {
        self.status().map_err(Clone::clone)?;
        (self.ask)(request)
    }

    /// Returns how the names of pods' links begin on this node.
    pub(super) fn veth_prefix(&self) -> String {
        let setting = |inventory: &Inventory| {
            Some(inventory.settings.get("AWS_VPC_K8S_CNI_VETHPREFIX")?.as_str()?.to_owned())
        };
        self.inventory().ok().and_then(setting).unwrap_or_else(|| "eni".to_owned())
    }
}

fn ask(socket: &Path, request: &Request) -> Answered<Answer> {
    protocol::ask_within(socket, request, PATIENCE).map_err(|error| {
        let denied = matches!(&error, AskError::Connect { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied);
        Unanswered { why: error_chain(&error), denied }
    })
}

fn unexpected(answer: Answer) -> Unanswered {
    let why = match answer {
        Answer::Refused(Refusal { message, details, .. }) => {
            format!("the daemon refused: {message}: {details}")
        }
        _ => "the daemon's answer does not fit the question: is it of the same version?".to_owned(),
    };
    Unanswered { why, denied: false }
}

fn room(path: &Path) -> io::Result<Room> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Room {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        files: (found.f_files > 0).then_some(found.f_favail),
    })
}
