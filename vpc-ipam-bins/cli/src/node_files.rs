//! Files of the node, below a root that may be another than this program's.

pub(crate) mod networks;
pub(crate) mod systemd;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

/// The longest file that is read, in bytes: many times the longest configuration.
const FILE_MAX: u64 = 1 << 20;

/// As many symbolic links as the kernel follows.
const LINKS_MAX: u32 = 40;

/// Files of the node, below a root that may be another than this program's.
#[derive(Clone, Debug)]
pub(crate) struct NodeFiles {
    root: PathBuf,
}

/// A process of the node.
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Its name, as the kernel cuts it: 15 bytes at most.
    pub(crate) name: String,
    /// Its arguments, its own name first.
    pub(crate) arguments: Vec<String>,
}

impl Process {
    /// Returns the value of an option, written `--name value` or `--name=value`.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
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

impl NodeFiles {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns where a file of the node is as seen from here, the last symbolic link followed too.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        resolve(&self.root, Path::new(path), Last::Followed)
    }

    /// Reads a file of the node; none if it is not there, and an empty one where it is masked by /dev/null.
    pub(crate) fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok(self.read_bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// As [`read`](Self::read), and cuts what is too long.
    pub(crate) fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
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
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, String> {
        let entries = match fs::read_dir(self.at(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| format!("cannot list {path}: {error}"))?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Returns whether there is a file of the node, or a symbolic link, wherever that leads.
    pub(crate) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.kept(path)).is_ok()
    }

    /// Returns where a symbolic link of the node leads, if it is one.
    pub(crate) fn link(&self, path: &str) -> Option<PathBuf> {
        fs::read_link(self.kept(path)).ok()
    }

    fn kept(&self, path: &str) -> PathBuf {
        resolve(&self.root, Path::new(path), Last::Kept)
    }

    /// Returns the processes of the node; without /proc an error.
    pub(crate) fn processes(&self) -> Result<Vec<Process>, String> {
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
}

/// Whether the last part of a path is followed if it is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Followed,
    Kept,
}

/// Returns where a path of the node is as seen from here.
///
/// Symbolic links are followed as the node sees them: `/var/run` is a link to `/run` on most systems, and below another root that is not the
/// `/run` of this program.
pub(crate) fn resolve(root: &Path, path: &Path, last: Last) -> PathBuf {
    // What is still to be walked, and what has been, from the node's root.
    let mut ahead: VecDeque<OsString> = parts(path).collect();
    let mut walked = PathBuf::new();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            walked.pop();
            continue;
        }
        let here = walked.join(&part);
        let followed = last == Last::Followed || !ahead.is_empty();
        let target = if followed { fs::read_link(root.join(&here)).ok() } else { None };
        match target {
            Some(target) if links < LINKS_MAX && !is_of_process(&here) => {
                links += 1;
                if target.is_absolute() {
                    walked.clear();
                }
                parts(&target).rev().for_each(|part| ahead.push_front(part));
            }
            _ => walked = here,
        }
    }
    root.join(walked)
}

/// Returns whether a path is one of the links of /proc that lead where no path does, such as `/proc/self/fd/3`. The kernel follows them.
fn is_of_process(path: &Path) -> bool {
    path.starts_with("proc")
}

/// Returns the names in a path, and its `..`.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part)
}
