//! The namespaces of a lab and their names.

use core::fmt;
use core::str::FromStr;
use std::io;

use crate::state::apply;
use crate::{
    ApplyError, CreateNamespaceError, KernelChange, KernelNetlink, LinkId, LinkIndex, Namespace,
    NamespaceError, Object, RemoveNamespaceError, Sysctl, SysctlKey,
};

/// The name of a lab, by which other processes find it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabName(String);

/// A text that is not the name of a lab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a lab: expected 1 to 32 of a-z and 0-9")]
pub struct LabNameError {
    text: String,
}

/// A namespace of a lab.
///
/// Its name under `/run/netns` is [`LabName::namespace`]; [`Namespace::named`] opens it, from any process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabNode {
    /// The VPC itself: a bridge and a router for each subnet.
    Router,
    /// The node whose network is tried.
    Node,
    /// Another host of the VPC.
    OtherHost,
    /// A host that is not in the VPC.
    Internet,
    /// A pod, by its name.
    Pod(String),
}

/// Begins the names of the namespaces of labs, and of no other namespaces.
const PREFIX: &str = "vil-";

const POD: &str = "pod-";

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<Self, LabNameError> {
        // Without a hyphen, so that no lab's prefix is part of another's.
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if (1..=32).contains(&text.len()) && text.chars().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(LabNameError { text: text.to_owned() })
        }
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LabName {
    /// Returns the name of a namespace of the lab under `/run/netns`.
    ///
    /// ```
    /// use vpc_ipam_linux::lab::{LabName, LabNode};
    ///
    /// let lab: LabName = "demo".parse()?;
    /// assert_eq!(lab.namespace(&LabNode::Node), "vil-demo-node");
    /// assert_eq!(lab.namespace(&LabNode::Pod("web-0".to_owned())), "vil-demo-pod-web-0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn namespace(&self, node: &LabNode) -> String {
        format!("{}{node}", self.prefix())
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{self}-")
    }
}

impl fmt::Display for LabNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => f.write_str("router"),
            Self::Node => f.write_str("node"),
            Self::OtherHost => f.write_str("host2"),
            Self::Internet => f.write_str("internet"),
            Self::Pod(pod) => write!(f, "{POD}{pod}"),
        }
    }
}

/// A failure to make one of a lab's namespaces. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabNodeError {
    /// There is no such lab.
    #[error("there is no lab {lab}")]
    NoLab {
        /// The name of the lab.
        lab: LabName,
        /// What its node's namespace says.
        source: NamespaceError,
    },
    /// The namespace could not be made.
    #[error(transparent)]
    Create(#[from] CreateNamespaceError),
    /// It could not be set up.
    #[error("set up network namespace {name}")]
    SetUp {
        /// The name of the namespace under `/run/netns`.
        name: String,
        /// What could not be read or changed.
        source: ApplyError,
    },
}

/// Makes the namespace of a pod in a lab, with its loopback up and nothing else in it.
pub fn add_pod(lab: &LabName, pod: &str) -> Result<Namespace, LabNodeError> {
    Namespace::named(&lab.namespace(&LabNode::Node))
        .map_err(|source| LabNodeError::NoLab { lab: lab.clone(), source })?;
    let netlink = make(lab, &LabNode::Pod(pod.to_owned()))?;
    Ok(netlink.namespace().clone())
}

/// Removes the namespace of a pod from a lab; one that is not there is removed already.
///
/// What the pod had on the node is left to the program that made it; its end of a veth goes with the namespace.
pub fn remove_pod(lab: &LabName, pod: &str) -> Result<(), RemoveNamespaceError> {
    Namespace::remove(&lab.namespace(&LabNode::Pod(pod.to_owned())))
}

/// Returns the names of the pods of a lab, in order.
pub fn pods(lab: &LabName) -> io::Result<Vec<String>> {
    let prefix = format!("{}{POD}", lab.prefix());
    let names = Namespace::names()?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
}

/// A failure to remove a lab. What could be removed is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveLabError {
    /// It is not known what there is.
    #[error("list the network namespaces of lab {lab}")]
    List {
        /// The name of the lab.
        lab: LabName,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Some of its namespaces stay.
    #[error("remove lab {lab}: {}", in_words(failed))]
    Remove {
        /// The name of the lab.
        lab: LabName,
        /// Those that stay, and why.
        failed: Vec<RemoveNamespaceError>,
    },
}

/// Removes all that there is of a lab, and returns the names of the namespaces that it had.
///
/// This is for what a lab left behind that was killed; one that is left alone removes itself.
pub fn remove_all(lab: &LabName) -> Result<Vec<String>, RemoveLabError> {
    let mut names =
        Namespace::names().map_err(|source| RemoveLabError::List { lab: lab.clone(), source })?;
    names.retain(|name| name.starts_with(&lab.prefix()));
    let failed: Vec<_> = names.iter().filter_map(|name| Namespace::remove(name).err()).collect();
    if failed.is_empty() {
        Ok(names)
    } else {
        Err(RemoveLabError::Remove { lab: lab.clone(), failed })
    }
}

fn in_words(failed: &[RemoveNamespaceError]) -> String {
    let words: Vec<_> = failed.iter().map(|error| format!("{error}: {}", error.source)).collect();
    words.join("; ")
}

/// Makes a namespace with its loopback up and with variables that do not depend on the machine.
pub(super) fn make(lab: &LabName, node: &LabNode) -> Result<KernelNetlink, LabNodeError> {
    let name = lab.namespace(node);
    let namespace = Namespace::create(&name)?;
    let forwards = match node {
        LabNode::Router | LabNode::Node | LabNode::OtherHost => "1",
        LabNode::Internet | LabNode::Pod(_) => "0",
    };
    let set_up = || {
        let mut netlink = namespace.netlink()?;
        set(&mut netlink, variables(forwards).chain([loopback()]))?;
        Ok(netlink)
    };
    set_up().map_err(|source| {
        // The first failure is the one to report.
        let _ = Namespace::remove(&name);
        LabNodeError::SetUp { name, source }
    })
}

/// Returns what a namespace may have inherited from the first one of the machine, with a value of its own.
///
/// In this order: to turn forwarding off turns `accept_redirects` on. A kernel without IPv6 has none of its variables.
fn variables(forwards: &'static str) -> impl Iterator<Item = Object> {
    let of_links = ["all", "default"].into_iter().flat_map(|link| {
        let ipv4 = ["rp_filter", "accept_redirects", "send_redirects"]
            .map(|name| variable(SysctlKey::ipv4_of_link(link, name), "0"));
        let ipv6 = ["disable_ipv6", "forwarding"].map(|name| {
            let (key, value) = (SysctlKey::ipv6_of_link(link, name), "0".to_owned());
            Object::Sysctl(Sysctl { key, value, optional: true })
        });
        ipv4.into_iter().chain(ipv6)
    });
    core::iter::once(variable(SysctlKey::new("net/ipv4/ip_forward"), forwards)).chain(of_links)
}

pub(super) fn variable(key: SysctlKey, value: &str) -> Object {
    Object::Sysctl(Sysctl { key, value: value.to_owned(), optional: false })
}

fn loopback() -> Object {
    const FIRST: LinkIndex = LinkIndex(1);
    const MTU: u32 = 65536;
    Object::Link { link: LinkId::new(FIRST, "lo"), mtu: MTU, up: true }
}

/// Makes objects be there, without a look at what is.
pub(super) fn set(
    netlink: &mut KernelNetlink,
    objects: impl IntoIterator<Item = Object>,
) -> Result<(), ApplyError> {
    let changes: Vec<_> = objects.into_iter().map(KernelChange::Set).collect();
    apply::carry_out(netlink, &changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_labs_prefix_is_part_of_anothers() {
        for text in ["a", "demo", "0", "lab42"] {
            assert_eq!(text.parse::<LabName>().unwrap().to_string(), text);
        }
        for text in ["", "a-b", "A", "a/b", "..", "a b", "ä", &"a".repeat(33)] {
            assert!(text.parse::<LabName>().is_err(), "{text:?}");
        }
    }
}
