//! What can be changed, and how a refusal reads.

use core::fmt;
use std::io;

use vpc_ipam_core::Mac;

use crate::{LinkId, LinkIndex, Namespace, Neighbour, Object, Route};

/// One change to a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelChange {
    /// Makes a pair of links, of which one end is up and the other in another namespace and down.
    AddVeth(Veth),
    /// Makes a link of a VLAN that is down.
    AddVlan(Vlan),
    /// Makes a bridge that is up. Without spanning tree and multicast snooping, what is plugged in is reached at once.
    AddBridge(Bridge),
    /// Makes a link a port of a bridge, isolated from the bridge's other isolated ports.
    Join {
        /// The link that is plugged in.
        port: LinkId,
        /// The bridge that it is plugged into.
        bridge: LinkId,
    },
    /// Removes a link.
    RemoveLink {
        /// The name that it has, or is to have.
        name: String,
    },
    /// Removes a link, and not another that has its name by now.
    RemoveLinkByIndex(LinkId),
    /// Adds a route, which the kernel refuses where there is one to the same destination: of two pods that want an address one gets it.
    AddRoute {
        /// The link that it leads over, or is reached by.
        link: LinkId,
        /// The route without its link.
        route: Route,
    },
    /// Tells the kernel a neighbour's MAC address before it asks; it goes on to find out by itself whether that stays so.
    AddNeighbour {
        /// The link that it leads over, or is reached by.
        link: LinkId,
        /// The neighbour's address and MAC address.
        neighbour: Neighbour,
    },
    /// Makes the object be there and be as it says.
    Set(Object),
    /// Makes the object not be there. The settings of a link and kernel variables have no absence: nothing happens.
    Remove(Object),
}

impl fmt::Display for KernelChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVeth(veth) => write!(
                f,
                "add veth {} with its peer {} in {}",
                veth.name,
                veth.peer.name,
                veth.peer.namespace.path().display()
            ),
            Self::AddVlan(vlan) => {
                write!(f, "add vlan {} with id {} on {}", vlan.name, vlan.id, vlan.trunk)
            }
            Self::AddNeighbour { link, neighbour: Neighbour { address, mac } } => {
                write!(f, "add neighbour {address} lladdr {mac} dev {link}")
            }
            Self::AddRoute { link, route } => write!(f, "add route {route} dev {link}"),
            Self::AddBridge(bridge) => write!(f, "add bridge {}", bridge.name),
            Self::Join { port, bridge } => write!(f, "make {port} a port of bridge {bridge}"),
            Self::RemoveLink { name } => write!(f, "remove link {name}"),
            Self::RemoveLinkByIndex(link) => write!(f, "remove link {link}"),
            Self::Set(object) => write!(f, "set {object}"),
            Self::Remove(object) => write!(f, "remove {object}"),
        }
    }
}

/// A pair of links to be made, each of which is the other's only neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// The name of the end that is made here.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The end that is made in another namespace.
    pub peer: VethPeer,
}

/// The end of a veth that is made in another namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPeer {
    /// The name that it has, or is to have.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Where it is made.
    pub namespace: Namespace,
}

/// A link to be made that carries one VLAN of another link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The name that it has, or is to have.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The VLAN's id, 1 to 4094.
    pub id: u16,
    /// The link beneath it.
    pub trunk: LinkId,
}

/// A bridge to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The name that it has, or is to have.
    pub name: String,
    /// Its MAC address. Without one of its own it would take its ports', and forget its neighbours each time.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What came of a change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEffect {
    /// The change is made; there is nothing more to know.
    Done,
    /// The pair of links has these indexes, each in its own namespace.
    Veth {
        /// Of the end that was made here.
        link: LinkIndex,
        /// Of the other end.
        peer: LinkIndex,
    },
}

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
