//! The thread that changes the node's network: one at a time, in the order asked for.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use vpc_ipam_core::{ActionId, Config, HostAction, Metadata};
use vpc_ipam_linux::host::{HostError, HostFacts, facts, set_up};
use vpc_ipam_linux::{
    Beside, Extent, HostConfig, Namespace, Netlink, NetlinkError, Node, Refused, Repaired,
    commands, eni, execute, flush_conntrack,
};

use super::Input;
use super::keep::{SharedNode, latest};
use crate::cni::{Code, chain};
use crate::protocol::{Answer, NetReport};

/// The thread that changes the node's network.
pub(super) struct HostThread(Sender<Job>);

/// Why the node's network could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostThreadError {
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The node could not be set up.
    #[error(transparent)]
    SetUp(#[from] HostError),
    /// The thread could not be started, or ended.
    #[error("the host thread is not there")]
    Thread,
}

/// What came of setting the node up: what is known of it, and what had to be changed, in words.
pub(super) type SetUpResult = Result<(HostFacts, Vec<String>), HostThreadError>;

enum Job {
    Execute(ActionId, HostAction),
    SetUp(Box<Metadata>, Option<oneshot::Sender<SetUpResult>>),
    Repair(SharedNode, Extent),
    Diff(SharedNode, oneshot::Sender<Answer>),
    RepairNow(SharedNode, oneshot::Sender<Answer>),
    FlushConntrack(BTreeSet<IpAddr>),
}

impl HostThread {
    /// Starts the thread with a socket in the node's namespace.
    ///
    /// `adopt` says whether what amazon-vpc-cni-k8s made there is taken over.
    pub(super) fn start(
        netns: Namespace,
        config: HostConfig,
        pool: Config,
        adopt: bool,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, HostThreadError> {
        let netlink = netns.netlink()?;
        let (jobs, queue) = channel();
        let work = move || {
            let netlink: Box<dyn Netlink> =
                if adopt { Box::new(netlink) } else { Box::new(Beside(netlink)) };
            Work { netlink, netns, config, pool, inputs, told: BTreeSet::new() }.run(&queue);
        };
        thread::Builder::new()
            .name("host".to_string())
            .spawn(work)
            .map_err(|_| HostThreadError::Thread)?;
        Ok(Self(jobs))
    }

    /// Sets the node up.
    pub(super) async fn set_up_now(&self, metadata: &Metadata) -> SetUpResult {
        let (reply, result) = oneshot::channel();
        self.send(Job::SetUp(Box::new(metadata.clone()), Some(reply)))?;
        result.await.map_err(|_| HostThreadError::Thread)?
    }

    /// Sets the node up again; the loop hears of it.
    pub(super) fn set_up(&self, metadata: Metadata) -> Result<(), HostThreadError> {
        self.send(Job::SetUp(Box::new(metadata), None))
    }

    /// Carries out an action; the loop hears of its outcome.
    pub(super) fn execute(&self, id: ActionId, action: HostAction) -> Result<(), HostThreadError> {
        self.send(Job::Execute(id, action))
    }

    /// Makes the node as it should be; the loop hears of what that took.
    pub(super) fn repair(&self, node: SharedNode, extent: Extent) -> Result<(), HostThreadError> {
        self.send(Job::Repair(node, extent))
    }

    /// Tells a caller how the node differs from what it should be.
    pub(super) fn diff(
        &self,
        node: SharedNode,
        caller: oneshot::Sender<Answer>,
    ) -> Result<(), HostThreadError> {
        self.send(Job::Diff(node, caller))
    }

    /// Makes the node as it should be, and tells a caller what that took.
    pub(super) fn repair_now(
        &self,
        node: SharedNode,
        caller: oneshot::Sender<Answer>,
    ) -> Result<(), HostThreadError> {
        self.send(Job::RepairNow(node, caller))
    }

    /// Makes the kernel forget the connections of addresses; the loop hears when it did.
    pub(super) fn flush_conntrack(
        &self,
        addresses: BTreeSet<IpAddr>,
    ) -> Result<(), HostThreadError> {
        self.send(Job::FlushConntrack(addresses))
    }

    fn send(&self, job: Job) -> Result<(), HostThreadError> {
        self.0.send(job).map_err(|_| HostThreadError::Thread)
    }
}

/// What the thread works with.
struct Work {
    netlink: Box<dyn Netlink>,
    netns: Namespace,
    config: HostConfig,
    pool: Config,
    inputs: mpsc::Sender<Input>,
    /// What was told of already and need not be again.
    told: BTreeSet<String>,
}

impl Work {
    /// Works until the daemon drops its end of the queue.
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let input = match job {
                Job::Execute(id, action) => {
                    let outcome = execute(&mut *self.netlink, &action);
                    // Before the outcome, which may serve a pod that waits for the ENI.
                    if let Some(table) = table_of_its_own(&mut *self.netlink, &action)
                        && self.inputs.blocking_send(table).is_err()
                    {
                        break;
                    }
                    Some(Input::Outcome(id, outcome))
                }
                Job::SetUp(metadata, reply) => {
                    let result = self.set_up(&metadata);
                    match reply {
                        Some(reply) => {
                            // Whoever asked may have stopped waiting.
                            let _ = reply.send(result);
                            None
                        }
                        None => Some(Input::HostSetUp(result.map_err(|error| chain(&error)))),
                    }
                }
                Job::Repair(node, extent) => Some(Input::Repaired(self.repair(&node, extent))),
                Job::Diff(node, caller) => {
                    let found = latest(&node).diff(&mut *self.netlink, Extent::All);
                    let answer = found.map(|found| {
                        Answer::Net(NetReport {
                            differences: in_words(&found.differences),
                            beyond: in_words(&found.absent),
                            commands: commands(&found.changes),
                        })
                    });
                    let refused = |error| refused("compare the node's network", chain(&error));
                    let _ = caller.send(answer.unwrap_or_else(refused));
                    None
                }
                Job::RepairNow(node, caller) => {
                    let answer = self.repair(&node, Extent::All).map(|repaired| {
                        let mut beyond = in_words(&repaired.absent);
                        beyond.extend(repaired.unwritable.iter().map(|refused| chain(refused)));
                        let differences = in_words(&repaired.differences);
                        Answer::Net(NetReport { differences, beyond, commands: Vec::new() })
                    });
                    let refused = |error| refused("put the node's network right", error);
                    let _ = caller.send(answer.unwrap_or_else(refused));
                    None
                }
                Job::FlushConntrack(addresses) => {
                    let flushed = flush_conntrack(&self.netns, &addresses);
                    Some(Input::Flushed(flushed.map(drop).map_err(|error| chain(&error))))
                }
            };
            if input.is_some_and(|input| self.inputs.blocking_send(input).is_err()) {
                break;
            }
        }
    }

    fn set_up(&mut self, metadata: &Metadata) -> SetUpResult {
        let facts = facts(&mut *self.netlink, metadata, &self.config, &self.pool)?;
        let changed = set_up(&mut *self.netlink, &self.config, &facts)
            .map(|applied| in_words(&applied))
            .or_else(|error| unwritable(error, &mut self.told))?;
        Ok((facts, changed))
    }

    fn repair(&mut self, node: &SharedNode, extent: Extent) -> Result<Repaired, String> {
        let repaired = Node::repair(&|| latest(node), &mut *self.netlink, extent)
            .map_err(|error| chain(&error))?;
        tell_once(&repaired.unwritable, &mut self.told);
        Ok(repaired)
    }
}

fn in_words(things: &[impl ToString]) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}

fn refused(message: &str, details: String) -> Answer {
    Answer::Refused { code: Code::Kernel, message: message.to_string(), details }
}

/// Returns whether an ENI that was set up has a route table that does not follow from its place.
fn table_of_its_own(netlink: &mut dyn Netlink, action: &HostAction) -> Option<Input> {
    let HostAction::SetUpEni(link) = action else { return None };
    // What cannot be read now could not be set up either.
    let table = eni::table_here(netlink, link).ok()?;
    let of_its_own = table != eni::table(link.card, link.device);
    Some(Input::Table(link.eni, of_its_own.then_some(table)))
}

/// Goes on without kernel variables that cannot be written.
fn unwritable(error: HostError, told: &mut BTreeSet<String>) -> Result<Vec<String>, HostError> {
    let HostError::Apply(refused) = &error else { return Err(error) };
    let Some(refused) = refused.kernel_variables() else { return Err(error) };
    tell_once(refused, told);
    Ok(Vec::new())
}

/// Tells of kernel variables that cannot be written, of each once.
fn tell_once(refused: &[Refused], told: &mut BTreeSet<String>) {
    for refused in refused {
        let what = chain(refused);
        if told.insert(what.clone()) {
            warn!(what, "cannot set a kernel variable; the node goes on without");
        }
    }
}
