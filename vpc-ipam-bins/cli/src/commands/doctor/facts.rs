//! What checks look at: the daemon's answers, and files of the node under a root folder.

use core::cell::OnceCell;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vpc_ipam_core::{Lease, error_chain};
use vpc_ipam_protocol::{
    self as protocol, Answer, AskError, Inventory, NetReport, Probe, Refusal, Request, Status,
};

/// The longest file that is read, in bytes: many times the longest configuration.
const FILE_MAX: u64 = 1 << 20;

/// How long one answer of the daemon is waited for: longer than it takes for a probe, which ends after 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// What checks look at.
pub(super) struct Facts {
    root: PathBuf,
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

/// A process of the node.
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its name, as the kernel cuts it: 15 bytes at most.
    pub(super) name: String,
    /// Its arguments, its own name first.
    pub(super) arguments: Vec<String>,
}

impl Process {
    /// Returns the value of an option, written `--name value` or `--name=value`.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(rest) = argument.strip_prefix(name) else { continue };
            match rest.strip_prefix('=') {
                Some(value) => return Some(value),
                None if rest.is_empty() => return arguments.next().map(String::as_str),
                None => {}
            }
        }
        None
    }
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
            root: root.to_owned(),
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

    /// Returns where a file of the node is.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Reads a file of the node; none if it is not there, and an empty one where it is masked by /dev/null.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok(self.read_bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// As [`read`](Self::read), and cuts what is too long.
    pub(super) fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        let at = self.at(path);
        let read = || -> io::Result<Option<Vec<u8>>> {
            let kind = fs::metadata(&at)?.file_type();
            if !kind.is_file() {
                let masked = kind.is_char_device().then(Vec::new);
                return masked.map(Some).ok_or_else(|| io::Error::other("is no regular file"));
            }
            let mut bytes = Vec::new();
            File::open(&at)?.take(FILE_MAX).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map_err(|error| format!("cannot read {path}: {error}")),
        }
    }

    /// Returns the names in a folder of the node, sorted; none where it is not there.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, String> {
        let entries = match fs::read_dir(self.at(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| format!("cannot list {path}: {error}"))?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Returns whether there is a file of the node.
    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// Returns the processes of the node; without /proc an error.
    pub(super) fn processes(&self) -> Result<Vec<Process>, String> {
        let names = self.names("/proc")?;
        let pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        if pids.is_empty() {
            return Err("no processes can be listed in /proc".to_owned());
        }
        // One that ends meanwhile is one that does not run.
        let process = |pid: u32| {
            let name = self.read(&format!("/proc/{pid}/comm")).ok()??;
            let arguments = self.read(&format!("/proc/{pid}/cmdline")).ok()??;
            let arguments = arguments.split_terminator('\0').map(str::to_owned).collect();
            Some(Process { pid, name: name.trim_end().to_owned(), arguments })
        };
        Ok(pids.into_iter().filter_map(process).collect())
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
