//! What a lab needs of the machine and of who builds it.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::thread::{CapabilitySet, capabilities};

use crate::kernel::process;

/// A lab cannot be built, and why.
#[derive(Debug, thiserror::Error)]
pub struct UnmetError {
    /// All that is missing.
    pub missing: Vec<Missing>,
}

/// Something that a lab needs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Missing {
    /// The capability to configure networks.
    NetAdmin,
    /// The capability to make namespaces and mounts.
    SysAdmin,
    /// The permission to name namespaces.
    Directory {
        /// The directory that would have to be written to.
        path: PathBuf,
        /// Why it cannot be.
        source: io::Error,
    },
    /// The program that sets the source/destination checks.
    Nft {
        /// Why it does not run.
        source: io::Error,
    },
}

impl UnmetError {
    /// Returns whether nothing is missing that a user namespace, with a mount namespace and a `/run` of its own, would not
    /// give.
    pub fn is_met_in_a_user_namespace(&self) -> bool {
        self.missing.iter().all(|missing| match missing {
            Missing::NetAdmin | Missing::SysAdmin | Missing::Directory { .. } => true,
            Missing::Nft { .. } => false,
        })
    }
}

impl fmt::Display for UnmetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.missing.iter().map(Missing::to_string).collect();
        write!(f, "a lab cannot be built here: {}", words.join("; "))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetAdmin => f.write_str("CAP_NET_ADMIN is missing"),
            Self::SysAdmin => f.write_str("CAP_SYS_ADMIN is missing"),
            Self::Directory { path, source } => {
                write!(f, "{} cannot be written to: {source}", path.display())
            }
            Self::Nft { source } if source.kind() == io::ErrorKind::NotFound => {
                f.write_str("nft is not found by PATH: install nftables, or add /usr/sbin to PATH")
            }
            Self::Nft { source } => write!(f, "nft does not run: {source}"),
        }
    }
}

/// Returns whether a lab can be built, as far as that shows without trying, or all that is missing.
pub fn requirements() -> Result<(), UnmetError> {
    requirements_with(Path::new("nft"))
}

fn requirements_with(program: &Path) -> Result<(), UnmetError> {
    // Where a process cannot read its own capabilities, the kernel says what it may not do.
    let held = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective);
    let mut missing = Vec::new();
    if !held.contains(CapabilitySet::NET_ADMIN) {
        missing.push(Missing::NetAdmin);
    }
    if !held.contains(CapabilitySet::SYS_ADMIN) {
        missing.push(Missing::SysAdmin);
    }
    missing.extend(unwritable().map(|(path, source)| Missing::Directory { path, source }));
    if let Err(source) = process::run(program, &["--version"], "") {
        missing.push(Missing::Nft { source });
    }
    if missing.is_empty() { Ok(()) } else { Err(UnmetError { missing }) }
}

/// Returns the directory that keeps namespaces from getting names, if one does.
fn unwritable() -> Option<(PathBuf, io::Error)> {
    // One that is not there yet is made in the next.
    for path in ["/run/netns", "/run"] {
        match rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => return None,
            Err(rustix::io::Errno::NOENT) if path != "/run" => {}
            Err(errno) => return Some((path.into(), errno.into())),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_nft_is_not_met_by_a_user_namespace() {
        let unmet = requirements_with(Path::new("/nonexistent/nft")).unwrap_err();
        assert!(unmet.to_string().ends_with("add /usr/sbin to PATH"), "{unmet}");
        assert!(!unmet.is_met_in_a_user_namespace());
    }

    #[test]
    fn missing_capabilities_are_named() {
        // Capabilities are a thread's own.
        let unmet = std::thread::spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective = CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets).unwrap();
            requirements_with(Path::new("true")).unwrap_err()
        });
        let unmet = unmet.join().unwrap();
        let words = unmet.to_string();
        assert!(words.contains("CAP_NET_ADMIN is missing; CAP_SYS_ADMIN is missing"), "{words}");
        assert!(unmet.is_met_in_a_user_namespace(), "{words}");
    }
}
