//! The threads that work on the node's network.

pub(crate) mod departed;
pub(crate) mod flight_recorder;
pub(crate) mod host_thread;
pub(crate) mod net_report;
pub(crate) mod translation;
pub(crate) mod worker;
pub(crate) mod writer;

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tracing::{info, warn};
use vpc_ipam_core::{Config, Metadata, error_chain};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{BesideAwsCni, Netlink, NetlinkError, NodeNetwork};

use crate::error::HostThreadError;
use crate::input::Input;
use crate::options::Options;
use crate::threads::departed::Departed;
use crate::threads::host_thread::{Changed, HostThread};
use crate::threads::translation::{SetUp, Translation};

/// A node whose network is set up.
pub(super) struct SetUpNode {
    pub(super) facts: HostFacts,
    /// What had to be changed.
    pub(super) changed: Changed,
    /// Whether nothing is left of amazon-vpc-cni-k8s's address translation.
    pub(super) took_over: bool,
}

/// The threads that work on the node's network.
pub(super) struct Threads {
    pub(super) host: HostThread,
    pub(super) translation: Translation,
    pub(super) departed: Departed,
    /// The netlink ports of their sockets.
    pub(super) ports: BTreeSet<u32>,
}

impl Threads {
    /// Starts them in the node's namespace.
    pub(super) fn start(
        options: &Options,
        config: &Config,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Self, HostThreadError> {
        let netns = &options.netns;
        let mut ports = BTreeSet::new();
        let mut netlink = || -> Result<Box<dyn Netlink + Send>, NetlinkError> {
            let mut netlink = netns.netlink()?;
            let port = netlink.port().map_err(|source| NetlinkError::Open { source })?;
            ports.insert(port);
            Ok(if options.adopt { Box::new(netlink) } else { Box::new(BesideAwsCni(netlink)) })
        };
        let (host_config, pool) = (options.host_config.clone(), config.clone());
        Ok(Self {
            host: HostThread::start(netns, netlink()?, host_config, pool, inputs.clone())?,
            translation: Translation::start(netns, netlink()?, inputs.clone())?,
            departed: Departed::start(netns, netlink()?, inputs.clone())?,
            ports,
        })
    }

    /// Sets the node's network up.
    ///
    /// While nft or iptables does not answer, the node serves its pods without address translation, which is tried again. Where it
    /// cannot be told what amazon-vpc-cni-k8s left, nothing is changed, unless an earlier start in this boot found it out: a node that works is
    /// not stopped because iptables was used since.
    pub(super) async fn set_up(
        &self,
        options: &Options,
        metadata: &Metadata,
        took_over_before: bool,
    ) -> Result<SetUpNode, HostThreadError> {
        if options.adopt && !took_over_before {
            let unlisted = self.translation.unlisted().await?;
            if !unlisted.is_empty() {
                let what = format!("cannot tell what it left: {}", unlisted.join("; "));
                return Err(HostThreadError::TakeOver(what));
            }
        }
        let (facts, mut changed) = self.host.set_up_now(metadata).await?;
        let mut took_over = took_over_before;
        let node = NodeNetwork::new(options.host_config.clone(), facts.clone());
        match self.translation.set_up_now(node).await? {
            SetUp::Done { changed: translated, took_over: done } => {
                changed.in_words.extend(translated.in_words);
                changed.of_aws_cni |= translated.of_aws_cni;
                // Beside another daemon nothing is looked for.
                took_over |= done && options.adopt;
            }
            SetUp::NotYet(error) => {
                warn!(
                    error = error_chain(&error),
                    "cannot set up address translation yet; trying again"
                );
            }
            SetUp::Refused(error) => return Err(HostThreadError::Translation(error)),
        }
        info!(changed = changed.in_words.len(), "node network is set up");
        Ok(SetUpNode { facts, changed, took_over })
    }
}
