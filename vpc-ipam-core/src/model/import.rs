//! Pods that another program set up, and that hold their addresses without a lease.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::{FoundLink, Pod, PodKey, Timestamp};

/// A running pod of another program, such as amazon-vpc-cni-k8s, that is to get a lease of the addresses that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Import {
    /// The key under which its runtime will delete it.
    pub key: PodKey,
    /// The pod, for people.
    pub pod: Arc<Pod>,
    /// When the other program handed its addresses out.
    pub since: Timestamp,
    /// Its interfaces, in the order of their network cards.
    pub interfaces: Vec<FoundInterface>,
}

impl Import {
    /// Returns the import of a pod without interfaces.
    pub fn new(key: PodKey, pod: impl Into<Arc<Pod>>, since: Timestamp) -> Self {
        Self { key, pod: pod.into(), since, interfaces: Vec::new() }
    }
}

setters!(Import {
    with_key key: PodKey,
    with_pod pod: Arc<Pod>,
    with_since since: Timestamp,
    with_interfaces interfaces: Vec<FoundInterface>,
});

/// An interface of such a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FoundInterface {
    /// Its address.
    pub address: IpAddr,
    /// The host's end of its link.
    pub link: FoundLink,
}

impl FoundInterface {
    /// Returns an interface with an address.
    pub fn new(address: IpAddr, link: FoundLink) -> Self {
        Self { address, link }
    }
}
