//! What the plugin and the command line say to the daemon, and hear: one JSON document each way over a unix socket.
//!
//! The caller writes a request and closes its side; the daemon answers and closes. Only root and the daemon's own user are
//! served.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

mod ask;
mod import;
mod inventory;
pub mod log_file;
mod node_event;
mod node_facts;
pub mod one_line;
pub mod pending_release;
mod probe;
mod refusal;
pub mod trusted_file;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpc_ipam_core::{AddressRequest, EniId, Explanation, Lease, Mac, Plan, PodKey};

pub use self::ask::{Absent, AskError, Asked, PATIENCE, ask, ask_within, listener};
pub use self::import::{ImportOutcome, PodImport};
pub use self::inventory::{
    AddressHolder, AddressInUse, AddressStates, BlockInventory, EniInventory, Inventory,
};
pub use self::node_event::{NodeEvent, NodeEventKind, NodeEvents};
pub use self::node_facts::{NetworkPolicyMode, NodeFacts, UnknownNetworkPolicyModeError};
pub use self::probe::{LimitsTold, MetadataTold, Permission, Permitted, PodSandbox, Probe, Told};
pub use self::refusal::{Refusal, RefusalKind};

/// The version of what daemon and callers say to each other. It grows when a request or an answer gains something that an older side
/// does not know; requests of an older version are answered as before.
pub const PROTOCOL: u32 = 3;
/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "/run/vpc-ipam/ipamd.sock";
/// The longest request that the daemon reads, in bytes: many times the longest that a caller writes.
pub const REQUEST_MAX: u64 = 1 << 20;
/// The longest that the daemon waits for something to happen before it says that nothing did, in seconds.
pub const EVENTS_WAIT_MAX: u64 = 30;

/// What the daemon is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// An address for a pod; answered with [`Answer::Lease`].
    Assign(Assign),
    /// What a pod has; answered with [`Answer::Lease`] or [`Answer::Unknown`].
    Find(PodKey),
    /// What a pod has that is about to be taken apart, so that the daemon stops repairing it; answered as [`Request::Find`].
    Leave(PodKey),
    /// A pod is gone; answered with [`Answer::Lease`], what it had, or [`Answer::Unknown`].
    Release(PodKey),
    /// Leases for pods that amazon-vpc-cni-k8s set up and that run; answered with [`Answer::Imported`] once they are durable. Repeated, it
    /// changes nothing.
    Import(Vec<PodImport>),
    /// A pod was set up whose lease came with [`PodLinks::report_wired`]; answered as [`Request::Find`] once its network policies are
    /// enforced, or refused if they are not, and then the pod must not run.
    Wired(PodKey),
    /// What other programs of the node go by; answered with [`Answer::Node`].
    Node,
    /// What pods have; answered with [`Answer::Leases`].
    Leases {
        /// The network configuration whose pods are meant; all pods of the node without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
    },
    /// How the node stands; answered with [`Answer::Status`].
    Status,
    /// What is wanted, done and blocked, and why; answered with [`Answer::Explanation`].
    Explain,
    /// What would be done next; answered with [`Answer::Plan`].
    Plan,
    /// What happened after the event of this number; answered with [`Answer::Events`].
    Events {
        /// The number of the last one that is known; 0 for all that the daemon still knows.
        #[serde(default)]
        after: u64,
        /// How long to wait for the next one if there is none yet, in seconds: at most [`EVENTS_WAIT_MAX`].
        #[serde(default)]
        wait: u64,
    },
    /// What the node holds, address by address; answered with [`Answer::Inventory`].
    Inventory,
    /// What EC2 and the metadata service let the daemon do, without effect, and what it was started with; answered with
    /// [`Answer::Probe`].
    Probe,
    /// How the node's network differs from what it should be; answered with [`Answer::Net`].
    NetDiff,
    /// That the node's network be made as it should be; answered with [`Answer::Net`].
    NetRepair,
}

/// A pod that wants an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Which, and on which network cards.
    #[serde(flatten)]
    pub request: AddressRequest,
    /// The file of its network namespace, by which it can be told later that it is gone; earlier plugins do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<PathBuf>,
    /// The ENI whose address it must be, where the pod's links are another plugin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<EniOf>,
}

/// An ENI of the node, as a network configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniOf {
    /// The primary one.
    Primary,
    /// That of a link, by its MAC address.
    Link(Mac),
}

impl From<AddressRequest> for Assign {
    fn from(request: AddressRequest) -> Self {
        Self { request, sandbox: None, of: None }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A pod's addresses, and how its links are to be made.
    Lease {
        /// The addresses.
        lease: Lease,
        /// What the node's configuration says of links.
        links: PodLinks,
        /// Whether the pod had them before it asked for them, as one that runs and is added again.
        #[serde(default)]
        again: bool,
    },
    /// The pod is not known.
    Unknown,
    /// What pods have, in the order of their keys.
    Leases(Vec<Lease>),
    /// What became of each pod that was to be imported, in the order of the request.
    Imported(Vec<ImportOutcome>),
    /// What other programs of the node go by.
    Node(Box<NodeFacts>),
    /// How the node stands.
    Status(Status),
    /// What is wanted, done and blocked, and why.
    Explanation(Box<Explanation>),
    /// What would be done next.
    Plan(Plan),
    /// What happened.
    Events(NodeEvents),
    /// What the node holds.
    Inventory(Box<Inventory>),
    /// What EC2 and the metadata service let the daemon do.
    Probe(Box<Probe>),
    /// How the node's network is.
    Net(NetReport),
    /// It could not be done.
    Refused(Refusal),
}

/// What all pods of a node have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLinks {
    /// The prefix of host veth names.
    pub veth_prefix: String,
    /// The MTU in bytes.
    pub mtu: u16,
    /// Whether pods without an IPv4 address reach IPv4 through the node.
    pub ipv4_egress: bool,
    /// Whether pods without an IPv6 address reach IPv6 through the node.
    pub ipv6_egress: bool,
    /// Whether pods without an IPv6 address have no IPv6 at all.
    pub ipv6_disabled: bool,
    /// The route tables of ENIs for which they do not follow from the place.
    pub tables: BTreeMap<EniId, u32>,
    /// Whether pods may send from their own addresses alone.
    #[serde(default = "unless_told_otherwise")]
    pub source_check: bool,
    /// Whether the plugin sends [`Request::Wired`] once the pod is set up, so that its network policies are enforced before it runs.
    #[serde(default)]
    pub report_wired: bool,
}

fn unless_told_otherwise() -> bool {
    true
}

/// How a node's network differs, or differed, from what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetReport {
    /// In words.
    pub differences: Vec<String>,
    /// What differs and is not for the daemon to put right: links that are not there, kernel variables that cannot be
    /// written.
    pub beyond: Vec<String>,
    /// Objects of other programs that stand in the way, and their likely authors.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// What cannot be told, and why.
    #[serde(default)]
    pub not_told: Vec<String>,
    /// The commands that do what a repair would do; none after a repair.
    pub commands: Vec<String>,
    /// How many packets of pods were dropped for their sources since the check of sources was made; `None` where that cannot be told.
    #[serde(default)]
    pub spoofed: Option<u64>,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    #[serde(default)]
    pub version: String,
    /// The version of what it understands, [`PROTOCOL`]; 0 of one that does not say.
    #[serde(default)]
    pub protocol: u32,
    /// Whether the next pod would get an address, at once or within the time that an ADD may wait.
    pub ready: bool,
    /// The instance.
    pub instance: String,
    /// Its type.
    pub instance_type: String,
    /// The ENIs.
    pub enis: Vec<EniStatus>,
    /// Pods that wait for an address.
    pub waiting: usize,
    /// What is wanted but has to wait, and for what.
    #[serde(alias = "held")]
    pub blocked: Vec<String>,
    /// How often the node's network was found damaged and put right.
    pub repairs: u64,
    /// How many objects that were.
    pub repaired: u64,
    /// What an operator should look at, and what it may come from.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// How an ENI stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniStatus {
    /// Its id.
    pub id: String,
    /// Its network card.
    pub card: u8,
    /// Its index on that card.
    pub device: u8,
    /// How far it is.
    pub stage: vpc_ipam_core::Stage,
    /// Addresses on it.
    pub addresses: u32,
    /// Of these, addresses that pods hold.
    pub assigned: u32,
    /// Of these, addresses that cool down.
    pub cooling: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_survive_encoding() {
        let key = PodKey::new("aws-cni", "c0ffee", "eth0").unwrap();
        let since = vpc_ipam_core::Timestamp::from_secs(1);
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        let import = PodImport { key: key.clone(), pod: None, since, addresses };
        let requests = [
            Request::Import(vec![import]),
            Request::Find(key.clone()),
            Request::Release(key),
            Request::Leases { network: Some("aws-cni".to_string()) },
            Request::Leases { network: None },
            Request::Status,
        ];
        for request in requests {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
        let refused = Answer::Refused(Refusal {
            kind: RefusalKind::TryAgainLater,
            message: "assign".into(),
            details: "full".into(),
        });
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(text, r#"{"refused":{"code":11,"message":"assign","details":"full"}}"#);
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), refused);
    }
}
