//! How a refusal of the kernel reads, and which refusal means that nothing was to be done.

use core::fmt;
use std::io;

use super::change::KernelChange;
use crate::Object;

/// The kernel's refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Its error number, if it is the kernel that refused and not nft.
    pub errno: Option<i32>,
    /// What was added in words, if anything was.
    pub says: Option<String>,
}

impl Refusal {
    /// Returns whether the same may be done the next time: a program took too long, or something else held its lock.
    pub(crate) fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        self.is(&[Errno::TIME, Errno::BUSY])
    }

    pub(crate) fn is(&self, errnos: &[rustix::io::Errno]) -> bool {
        errnos.iter().any(|errno| Some(errno.raw_os_error()) == self.errno)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        let says = error.raw_os_error().is_none().then(|| error.to_string());
        let errno = match error.kind() {
            // Of programs, which have no such numbers.
            io::ErrorKind::TimedOut => Some(Errno::TIME.raw_os_error()),
            io::ErrorKind::ResourceBusy => Some(Errno::BUSY.raw_os_error()),
            _ => error.raw_os_error(),
        };
        Self { errno, says }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = self.errno.map(|errno| io::Error::from_raw_os_error(errno).to_string());
        let words: Vec<_> = [&errno, &self.says].into_iter().flatten().cloned().collect();
        f.write_str(&words.join(": "))
    }
}

/// A change that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{change}{}", likely_cause(change, refusal))]
pub struct Refused {
    /// What was to be done.
    pub change: Box<KernelChange>,
    /// Why it was not.
    #[source]
    pub refusal: Refusal,
}

impl Refused {
    pub(crate) fn new(change: &KernelChange, refusal: Refusal) -> Self {
        Self { change: Box::new(change.clone()), refusal }
    }
}

/// Returns whether a refusal means that what was wanted is so already.
pub(crate) fn is_so_already(change: &KernelChange, refusal: &Refusal) -> bool {
    use rustix::io::Errno;
    match change {
        KernelChange::AddVeth(_)
        | KernelChange::AddVlan(_)
        | KernelChange::AddBridge(_)
        | KernelChange::AddRoute { .. }
        | KernelChange::AddNeighbour { .. }
        | KernelChange::Join { .. } => false,
        KernelChange::RemoveLink { .. } | KernelChange::RemoveLinkByIndex(_) => {
            refusal.is(&[Errno::NODEV])
        }
        KernelChange::Set(Object::Address { .. } | Object::Rule(_)) => refusal.is(&[Errno::EXIST]),
        KernelChange::Set(Object::Sysctl(sysctl)) => sysctl.optional && refusal.is(&[Errno::NOENT]),
        KernelChange::Set(_) => false,
        // A table that holds no route any more answers ENOENT where one that does answers ESRCH; and a kernel without IPv6
        // has no object of it.
        KernelChange::Remove(_) => refusal.is(&[
            Errno::NOENT,
            Errno::SRCH,
            Errno::ADDRNOTAVAIL,
            Errno::NODEV,
            Errno::AFNOSUPPORT,
        ]),
    }
}

fn likely_cause(change: &KernelChange, refusal: &Refusal) -> &'static str {
    use rustix::io::Errno;
    if refusal.is(&[Errno::PERM, Errno::ACCESS]) {
        return match change {
            KernelChange::Set(Object::Sysctl(_)) => " (not root on the host?)",
            _ => " (CAP_NET_ADMIN is missing?)",
        };
    }
    match change {
        KernelChange::AddVeth(_) if refusal.is(&[Errno::EXIST]) => {
            " (a link of that name is in either namespace)"
        }
        KernelChange::AddVeth(_) if refusal.is(&[Errno::OPNOTSUPP]) => {
            " (the kernel has no veth: module not loaded?)"
        }
        KernelChange::AddVlan(_) if refusal.is(&[Errno::OPNOTSUPP]) => {
            " (the kernel has no VLANs: module 8021q not loaded?)"
        }
        KernelChange::AddBridge(_) if refusal.is(&[Errno::OPNOTSUPP]) => {
            " (the kernel has no bridge: module not loaded?)"
        }
        KernelChange::Set(Object::Route { .. })
            if refusal.is(&[Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::NETDOWN]) =>
        {
            " (the next hop is on no link, or the link is down)"
        }
        KernelChange::Set(Object::Sysctl(_)) if refusal.is(&[Errno::ROFS]) => {
            " (/proc/sys is mounted read-only: write it on the host or in a privileged init container)"
        }
        KernelChange::Set(_) if refusal.is(&[Errno::NODEV]) => " (the link is gone)",
        KernelChange::Set(_) if refusal.is(&[Errno::AFNOSUPPORT]) => {
            " (the kernel has no such address family: booted with ipv6.disable=1?)"
        }
        KernelChange::Set(Object::Nat(_)) if refusal.is(&[Errno::NOENT]) => {
            " (nft is not installed?)"
        }
        KernelChange::Set(Object::SourceCheck(_)) => {
            " (the kernel lacks fib of nft or rpfilter of iptables? ENABLE_POD_SOURCE_CHECK=false does without)"
        }
        _ => "",
    }
}
