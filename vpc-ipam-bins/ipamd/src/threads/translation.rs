//! The thread that keeps the node's address translation and its check of sources: it runs nft or iptables, which may hang or wait
//! for a lock, and nothing else waits for it.

use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;

use tokio::sync::{mpsc, oneshot};
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::{ApplyError, Extent, Namespace, Netlink, NodeNetwork, Repaired};
use vpc_ipam_protocol::NetReport;

use crate::input::Input;
use crate::keeper::{SharedNode, latest};
use crate::threads::host_thread::Changed;
use crate::threads::net_report::{Part, PartError, different_part, repaired_part, warn_once};
use crate::threads::worker::{Gone, Worker};

/// The thread that keeps the node's address translation.
pub(crate) struct Translation(Worker<Job>);

/// What came of setting address translation up.
#[derive(Debug)]
pub(crate) enum SetUp {
    Done {
        /// What had to be changed.
        changed: Changed,
        /// Whether nothing is left of amazon-vpc-cni-k8s that is known, or cannot be told.
        took_over: bool,
    },
    /// Only time was lacking: it is to be tried again.
    NotYet(ApplyError),
    Refused(ApplyError),
}

enum Job {
    Look(oneshot::Sender<Result<Vec<String>, ApplyError>>),
    SetUp(Box<NodeNetwork>, oneshot::Sender<SetUp>),
    Repair(SharedNode),
    Diff(SharedNode, oneshot::Sender<Part>),
    RepairNow(SharedNode, oneshot::Sender<Part>),
}

impl Translation {
    /// Starts the thread in the node's namespace.
    pub(crate) fn start(
        netns: &Namespace,
        mut netlink: Box<dyn Netlink + Send>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, Gone> {
        let mut reported = BTreeSet::new();
        let work = move |queue: &Receiver<Job>| {
            while let Ok(job) = queue.recv() {
                let input = match job {
                    Job::Look(caller) => {
                        let left = netlink.aws_cni_nat().map_err(ApplyError::from);
                        let _ = caller.send(left.map(|left| left.unlisted().to_vec()));
                        None
                    }
                    Job::SetUp(node, caller) => {
                        // The caller may have stopped waiting.
                        let _ = caller.send(set_up(&mut *netlink, &node, &mut reported));
                        None
                    }
                    Job::Repair(node) => {
                        let repaired = repair(&mut *netlink, &|| latest(&node), &mut reported);
                        Some(Input::Translated(repaired))
                    }
                    Job::Diff(node, caller) => {
                        let found = latest(&node).diff(&mut *netlink, Extent::Translation);
                        let found = found.map(different_part).map_err(PartError::from);
                        let _ = caller.send(found.map(|part| counted(&mut *netlink, part)));
                        None
                    }
                    Job::RepairNow(node, caller) => {
                        let asked = || NodeNetwork { spared: BTreeSet::new(), ..latest(&node) };
                        let repaired = repair(&mut *netlink, &asked, &mut reported);
                        let part = repaired.map(repaired_part).map_err(PartError::from);
                        let _ = caller.send(part.map(|part| counted(&mut *netlink, part)));
                        None
                    }
                };
                if input.is_some_and(|input| inputs.blocking_send(input).is_err()) {
                    break;
                }
            }
        };
        Worker::start("translation", netns, work).map(Self)
    }

    /// Returns what cannot be found out of what amazon-vpc-cni-k8s left. Where only time is lacking, that is left for later.
    pub(crate) async fn unlisted(&self) -> Result<Vec<String>, Gone> {
        let (caller, answer) = oneshot::channel();
        self.0.send(Job::Look(caller))?;
        Ok(match answer.await.map_err(|_| Gone)? {
            Ok(unlisted) => unlisted,
            Err(error) if error.may_pass() => Vec::new(),
            Err(error) => vec![error_chain(&error)],
        })
    }

    /// Sets address translation up.
    pub(crate) async fn set_up_now(&self, node: NodeNetwork) -> Result<SetUp, Gone> {
        let (caller, done) = oneshot::channel();
        self.0.send(Job::SetUp(Box::new(node), caller))?;
        done.await.map_err(|_| Gone)
    }

    /// Makes address translation as it should be; what that took comes to the loop as an input.
    pub(crate) fn repair(&self, node: SharedNode) -> Result<(), Gone> {
        self.0.send(Job::Repair(node))
    }

    /// Tells how address translation differs from what it should be.
    pub(crate) fn diff(&self, node: SharedNode) -> oneshot::Receiver<Part> {
        self.0.ask(|caller| Job::Diff(node, caller))
    }

    /// Makes address translation as it should be, and tells what that took.
    pub(crate) fn repair_now(&self, node: SharedNode) -> oneshot::Receiver<Part> {
        self.0.ask(|caller| Job::RepairNow(node, caller))
    }
}

fn set_up(netlink: &mut dyn Netlink, node: &NodeNetwork, reported: &mut BTreeSet<String>) -> SetUp {
    match repair(netlink, &|| node.clone(), reported) {
        Ok(repaired) => SetUp::Done {
            changed: Changed::from(&*repaired.differences),
            took_over: repaired.unlisted.is_empty() && repaired.conflicts.is_empty(),
        },
        Err(error) if error.may_pass() => SetUp::NotYet(error),
        Err(error) => SetUp::Refused(error),
    }
}

fn repair(
    netlink: &mut dyn Netlink,
    node: &dyn Fn() -> NodeNetwork,
    reported: &mut BTreeSet<String>,
) -> Result<Repaired, ApplyError> {
    let repaired = NodeNetwork::repair(node, netlink, Extent::Translation)?;
    warn_once(&repaired.unwritable, reported);
    Ok(repaired)
}

/// Adds how many packets of pods were dropped for their sources. Where they cannot be counted, the differences stand alone.
fn counted(netlink: &mut dyn Netlink, part: NetReport) -> NetReport {
    NetReport { spoofed: netlink.spoofed_packets().ok(), ..part }
}
