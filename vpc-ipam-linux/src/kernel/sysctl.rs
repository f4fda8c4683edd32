//! Kernel variables under `/proc/sys`.

use core::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// Names a kernel variable by its path below `/proc/sys`.
///
/// The path form is unambiguous where the dotted one is not: `vlan.eth.7` is a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlKey(String);

impl SysctlKey {
    /// Names a variable by its path, such as `net/ipv4/ip_forward`.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// Names an IPv4 variable of a link.
    pub fn ipv4_of_link(link: &str, name: &str) -> Self {
        Self(format!("net/ipv4/conf/{link}/{name}"))
    }

    /// Names an IPv6 variable of a link.
    pub fn ipv6_of_link(link: &str, name: &str) -> Self {
        Self(format!("net/ipv6/conf/{link}/{name}"))
    }

    /// Returns the link of which it is an IPv4 variable, and the name of that.
    pub(crate) fn as_ipv4_of_link(&self) -> Option<(&str, &str)> {
        let (link, name) = self.0.strip_prefix("net/ipv4/conf/")?.split_once('/')?;
        (!["all", "default"].contains(&link)).then_some((link, name))
    }

    /// Returns the folder below `/proc/sys`, and the name in it.
    fn parts(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or_default()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/sys/{}", self.0))
    }
}

impl fmt::Display for SysctlKey {
    /// Writes the key as sysctl(8) takes it, in which `/` and `.` swap places.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            fmt::Write::write_char(
                f,
                match c {
                    '/' => '.',
                    '.' => '/',
                    other => other,
                },
            )
        })
    }
}

/// A kernel variable and the value that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// The variable to set.
    pub key: SysctlKey,
    /// The value as the kernel shows it.
    pub value: String,
    /// Whether a kernel without the variable will do.
    pub optional: bool,
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Reads variables of the calling thread's namespace; of those that the kernel does not have the value is `None`.
pub(crate) fn read(keys: &[SysctlKey]) -> Vec<io::Result<Option<String>>> {
    each(
        keys,
        |key| key,
        |folder, name, _| match open(folder, name, OFlags::RDONLY) {
            Ok(file) => value_in(&file).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        },
    )
}

/// Writes variables of the calling thread's namespace, and returns what came of each. One that has its value already is not
/// written: in a container `/proc/sys` is often mounted read-only.
pub(crate) fn write(sysctls: &[&Sysctl]) -> Vec<io::Result<()>> {
    each(
        sysctls,
        |sysctl| &sysctl.key,
        |folder, name, sysctl| {
            let (file, refused) = match open(folder, name, OFlags::RDWR) {
                Ok(file) => (file, None),
                Err(Errno::NOENT) => return Err(Errno::NOENT.into()),
                Err(refused) => (open(folder, name, OFlags::RDONLY)?, Some(refused)),
            };
            if value_in(&file)? == sysctl.value {
                return Ok(());
            }
            match refused {
                Some(refused) => Err(refused.into()),
                None => Ok(rustix::io::pwrite(&file, sysctl.value.as_bytes(), 0).map(drop)?),
            }
        },
    )
}

/// Does something with the file of each variable, of neighbours in one folder with one look for that.
fn each<T, R>(
    all: &[T],
    key: impl Fn(&T) -> &SysctlKey,
    act: impl Fn(BorrowedFd<'_>, &str, &T) -> io::Result<R>,
) -> Vec<io::Result<R>> {
    let mut results = Vec::with_capacity(all.len());
    for together in all.chunk_by(|one, other| key(one).parts().0 == key(other).parts().0) {
        let folder = match together {
            [_] => None,
            _ => together.first().and_then(|first| open_folder(key(first).parts().0)),
        };
        results.extend(together.iter().map(|it| match &folder {
            Some(folder) => act(folder.as_fd(), key(it).parts().1, it),
            // Alone, or in a folder that is not there.
            None => act(CWD, &key(it).path().to_string_lossy(), it),
        }));
    }
    results
}

fn open_folder(path: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/sys/{path}"), flags, Mode::empty()).ok()
}

fn open(folder: BorrowedFd<'_>, name: &str, how: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(folder, name, how | OFlags::CLOEXEC, Mode::empty())
}

fn value_in(file: &OwnedFd) -> io::Result<String> {
    // Longer than the value of any variable that is asked for.
    let mut value = [0; 128];
    let len = rustix::io::read(file, &mut value)?;
    Ok(String::from_utf8_lossy(value[..len].trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_links_are_told_from_those_of_all() {
        let cases = [
            ("net/ipv4/conf/vlan.eth.7/rp_filter", Some(("vlan.eth.7", "rp_filter"))),
            ("net/ipv4/conf/all/rp_filter", None),
            ("net/ipv4/conf/default/rp_filter", None),
            ("net/ipv6/conf/eth0/accept_ra", None),
            ("net/ipv4/ip_forward", None),
        ];
        for (path, expected) in cases {
            assert_eq!(SysctlKey::new(path).as_ipv4_of_link(), expected, "{path}");
        }
    }

    #[test]
    fn dots_in_link_names_are_told_from_dots_between_parts() {
        let key = SysctlKey::ipv6_of_link("vlan.eth.7", "accept_ra");
        assert_eq!(key.to_string(), "net.ipv6.conf.vlan/eth/7.accept_ra");
        assert_eq!(key.path().to_str(), Some("/proc/sys/net/ipv6/conf/vlan.eth.7/accept_ra"));
    }
}
