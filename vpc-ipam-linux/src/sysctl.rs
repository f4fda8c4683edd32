//! Kernel variables under `/proc/sys`.

use core::fmt;
use std::io;
use std::path::PathBuf;

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
    /// The variable.
    pub key: SysctlKey,
    /// Its value.
    pub value: String,
    /// Whether a kernel without the variable will do.
    pub optional: bool,
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Reads a variable of the calling thread's namespace; a kernel that has none of that name answers `None`.
pub(crate) fn read(key: &SysctlKey) -> io::Result<Option<String>> {
    match std::fs::read_to_string(key.path()) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a variable of the calling thread's namespace unless it has the value already.
///
/// In a container `/proc/sys` is often mounted read-only; what is right needs no write.
pub(crate) fn write(sysctl: &Sysctl) -> io::Result<()> {
    if read(&sysctl.key)?.as_ref() == Some(&sysctl.value) {
        return Ok(());
    }
    std::fs::OpenOptions::new()
        .write(true)
        .open(sysctl.key.path())
        .and_then(|mut file| io::Write::write_all(&mut file, sysctl.value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_link_names_are_told_from_dots_between_parts() {
        let key = SysctlKey::ipv6_of_link("vlan.eth.7", "accept_ra");
        assert_eq!(key.to_string(), "net.ipv6.conf.vlan/eth/7.accept_ra");
        assert_eq!(key.path().to_str(), Some("/proc/sys/net/ipv6/conf/vlan.eth.7/accept_ra"));
    }
}
