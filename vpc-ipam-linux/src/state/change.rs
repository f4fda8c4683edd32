//! What can be changed.

use core::fmt;

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
