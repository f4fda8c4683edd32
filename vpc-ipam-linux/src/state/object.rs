//! What a namespace is configured with, one thing at a time.

use core::fmt;

use crate::kernel::network::{Address, LinkId, Neighbour, Route, Rule};
use crate::{AwsCniNat, Nat, SourceCheck, Sysctl};

/// One thing that a namespace is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The settings of a link.
    Link {
        /// The link that has it.
        link: LinkId,
        /// Its MTU in bytes.
        mtu: u32,
        /// Whether it is up.
        up: bool,
    },
    /// What is said of a link to people. Where another program said something, that stays.
    Alias {
        /// The link that has it.
        link: LinkId,
        /// The text, of at most 254 bytes.
        alias: String,
    },
    /// An address of a link.
    Address {
        /// The link that has it.
        link: LinkId,
        /// The address with its network and scope.
        address: Address,
    },
    /// A route over a link.
    Route {
        /// The link that has it.
        link: LinkId,
        /// The route without its link.
        route: Route,
    },
    /// A neighbour on a link.
    Neighbour {
        /// The link that has it.
        link: LinkId,
        /// The neighbour's address and MAC address.
        neighbour: Neighbour,
    },
    /// A rule of the routing policy.
    Rule(Rule),
    /// A kernel variable.
    Sysctl(Sysctl),
    /// The address translation of the node.
    Nat(Nat),
    /// The check of the sources of what pods send.
    SourceCheck(SourceCheck),
    /// The address translation that amazon-vpc-cni-k8s left; there is only its removal.
    AwsCniNat(AwsCniNat),
}

impl Object {
    /// Returns whether other programs list and load it: nft or iptables.
    pub(crate) fn is_by_programs(&self) -> bool {
        matches!(self, Self::Nat(_) | Self::SourceCheck(_) | Self::AwsCniNat(_))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { link, mtu, up } => {
                write!(f, "link {link} mtu {mtu} {}", if *up { "up" } else { "down" })
            }
            Self::Alias { link, alias } => write!(f, "alias {alias:?} of link {link}"),
            Self::Address { link, address } => write!(f, "address {address} dev {link}"),
            Self::Route { link, route } => write!(f, "route {route} dev {link}"),
            Self::Neighbour { link, neighbour: Neighbour { address, mac } } => {
                write!(f, "neighbour {address} lladdr {mac} dev {link}")
            }
            Self::Rule(rule) => write!(f, "rule {rule}"),
            Self::Sysctl(sysctl) => write!(f, "sysctl {sysctl}"),
            Self::Nat(nat) => write!(f, "{nat}"),
            Self::SourceCheck(check) => write!(f, "{check}"),
            Self::AwsCniNat(left) => write!(f, "{left}"),
        }
    }
}
