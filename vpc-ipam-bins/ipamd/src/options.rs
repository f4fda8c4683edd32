//! What a daemon is started with, and what it tells its own process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vpc_ipam_core::{
    ActionId, Budget, Config, Event, Issued, KnownLimits, Outcome, Override, Timestamp,
};
use vpc_ipam_linux::{HostConfig, Namespace};

use crate::service::ServiceOptions;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator wants of addresses.
    pub config: Config,
    /// What holds instead for some nodes.
    pub overrides: Vec<Override>,
    /// The node's labels, by which overrides may name it.
    pub labels: BTreeMap<String, String>,
    /// What is known of instance types besides the built-in table, and whom to believe first.
    pub limits: KnownLimits,
    /// What the operator wants of the node's network.
    pub host_config: HostConfig,
    /// How often EC2 may be called.
    pub budget: Budget,
    /// The node's network namespace.
    pub netns: Namespace,
    /// Where to listen.
    pub socket: PathBuf,
    /// Where to keep what must survive a restart.
    pub state: PathBuf,
    /// The id of this boot of the kernel.
    pub boot: String,
    /// Whether what amazon-vpc-cni-k8s made on the node is taken over.
    pub adopt: bool,
    /// To whom it tells how it stands, besides those who ask.
    pub service: ServiceOptions,
}

/// Something that happened, for code in the daemon's own process that watches it.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The node's network was set up, or found set up.
    HostReady {
        /// What had to be changed, in words.
        changed: Vec<String>,
    },
    /// An action was issued.
    Issued(Timestamp, Issued),
    /// An action ended.
    Ended(Timestamp, ActionId, Outcome),
    /// Something happened inside.
    Happened(Timestamp, Event),
}
