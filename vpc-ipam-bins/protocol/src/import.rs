//! Pods of amazon-vpc-cni-k8s that are to get leases of the addresses that they have.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};
use vpc_ipam_core::{Pod, PodKey, Timestamp};

/// A running pod that another program set up, as that program's records tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodImport {
    /// The key under which its runtime will delete it.
    pub key: PodKey,
    /// Its names, as far as they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// When its addresses were handed out.
    pub since: Timestamp,
    /// The address of each of its interfaces, in the order of their network cards.
    pub addresses: Vec<IpAddr>,
}

/// What became of the import of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportOutcome {
    /// It has a lease since.
    Imported,
    /// It had the lease before.
    AlreadyThere,
    /// It has none.
    Skipped {
        /// The reason.
        why: String,
        /// Whether trying again may help: the daemon may not know yet what the node's ENIs hold.
        #[serde(default)]
        temporary: bool,
    },
}
