//! The thread that changes what the kernel keeps of the node's network: one job at a time, in the order asked for.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;

use tokio::sync::{mpsc, oneshot};
use vpc_ipam_core::{ActionId, Config, HostAction, Metadata};
use vpc_ipam_linux::host::{HostError, HostFacts, facts, set_up_routing};
use vpc_ipam_linux::{
    ApplyError, Difference, Extent, HostConfig, Namespace, Netlink, NodeNetwork, Repaired, eni,
    execute, flush_conntrack,
};

use crate::error::HostThreadError;
use crate::input::Input;
use crate::keeper::{SharedNode, latest};
use crate::threads::net_report::{
    Part, PartError, different_part, in_words, repaired_part, warn_once,
};
use crate::threads::worker::{Gone, Worker};

/// The thread that changes what the kernel keeps of the node's network.
pub(crate) struct HostThread(Worker<Job>);

impl From<Gone> for HostThreadError {
    fn from(_: Gone) -> Self {
        Self::Thread
    }
}

/// What came of setting the node up.
pub(crate) type SetUpResult = Result<(HostFacts, Changed), HostThreadError>;

/// What had to be changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// In words.
    pub(crate) in_words: Vec<String>,
    /// Whether something was amazon-vpc-cni-k8s's.
    pub(crate) of_aws_cni: bool,
}

impl From<&[Difference]> for Changed {
    fn from(differences: &[Difference]) -> Self {
        let of_aws_cni = differences.iter().any(Difference::is_of_aws_cni);
        Self { in_words: in_words(differences), of_aws_cni }
    }
}

enum Job {
    Execute(ActionId, HostAction),
    SetUp(Box<Metadata>, Option<oneshot::Sender<SetUpResult>>),
    Repair(SharedNode, Extent),
    Diff(SharedNode, oneshot::Sender<Part>),
    RepairNow(SharedNode, oneshot::Sender<Part>),
    FlushConntrack(BTreeSet<IpAddr>),
}

impl HostThread {
    /// Starts the thread in the node's namespace, where it works by a socket of its own.
    pub(crate) fn start(
        netns: &Namespace,
        netlink: Box<dyn Netlink + Send>,
        config: HostConfig,
        pool: Config,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, Gone> {
        let namespace = netns.clone();
        let work = move |queue: &Receiver<Job>| {
            let reported = BTreeSet::new();
            Work { netlink, netns: namespace, config, pool, inputs, reported }.run(queue);
        };
        Worker::start("host", netns, work).map(Self)
    }

    /// Sets the node up, but for its address translation.
    pub(crate) async fn set_up_now(&self, metadata: &Metadata) -> SetUpResult {
        let (reply, result) = oneshot::channel();
        self.0.send(Job::SetUp(Box::new(metadata.clone()), Some(reply)))?;
        result.await.map_err(|_| HostThreadError::Thread)?
    }

    /// Sets the node up again; the result comes to the loop as an input.
    pub(crate) fn set_up(&self, metadata: Metadata) -> Result<(), Gone> {
        self.0.send(Job::SetUp(Box::new(metadata), None))
    }

    /// Carries out an action; its outcome comes to the loop as an input.
    pub(crate) fn execute(&self, id: ActionId, action: HostAction) -> Result<(), Gone> {
        self.0.send(Job::Execute(id, action))
    }

    /// Makes the node as it should be; what that took comes to the loop as an input.
    pub(crate) fn repair(&self, node: SharedNode, extent: Extent) -> Result<(), Gone> {
        self.0.send(Job::Repair(node, extent))
    }

    /// Tells how the node differs from what it should be.
    pub(crate) fn diff(&self, node: SharedNode) -> oneshot::Receiver<Part> {
        self.0.ask(|caller| Job::Diff(node, caller))
    }

    /// Makes the node as it should be, and tells what that took.
    pub(crate) fn repair_now(&self, node: SharedNode) -> oneshot::Receiver<Part> {
        self.0.ask(|caller| Job::RepairNow(node, caller))
    }

    /// Makes the kernel forget the connections of addresses; the result comes to the loop as an input.
    pub(crate) fn flush_conntrack(&self, addresses: BTreeSet<IpAddr>) -> Result<(), Gone> {
        self.0.send(Job::FlushConntrack(addresses))
    }
}

/// What the thread works with.
struct Work {
    netlink: Box<dyn Netlink + Send>,
    netns: Namespace,
    config: HostConfig,
    pool: Config,
    inputs: mpsc::Sender<Input>,
    /// What a warning said already.
    reported: BTreeSet<String>,
}

impl Work {
    /// Works until the daemon drops its end of the queue.
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let input = match job {
                Job::Execute(id, action) => {
                    let outcome = execute(&mut *self.netlink, &action);
                    // Before the outcome, which may serve a pod that waits for the ENI.
                    if let Some(table) = table_of(&mut *self.netlink, &action)
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
                            // The caller may have stopped waiting.
                            let _ = reply.send(result);
                            None
                        }
                        None => {
                            let result = result.map(|(facts, changed)| (facts, changed.in_words));
                            Some(Input::HostSetUp(result))
                        }
                    }
                }
                Job::Repair(node, extent) => {
                    Some(Input::Repaired(self.repair(&|| latest(&node), extent)))
                }
                Job::Diff(node, caller) => {
                    let found = latest(&node).diff(&mut *self.netlink, Extent::Kernel);
                    let _ = caller.send(found.map(different_part).map_err(PartError::from));
                    None
                }
                Job::RepairNow(node, caller) => {
                    let asked = || NodeNetwork { spared: BTreeSet::new(), ..latest(&node) };
                    let repaired = self.repair(&asked, Extent::Kernel);
                    let _ = caller.send(repaired.map(repaired_part).map_err(PartError::from));
                    None
                }
                Job::FlushConntrack(addresses) => {
                    let flushed = flush_conntrack(&self.netns, &addresses);
                    Some(Input::Flushed(flushed.map(drop)))
                }
            };
            if input.is_some_and(|input| self.inputs.blocking_send(input).is_err()) {
                break;
            }
        }
    }

    fn set_up(&mut self, metadata: &Metadata) -> SetUpResult {
        let facts = facts(&mut *self.netlink, metadata, &self.config, &self.pool)?;
        let changed = set_up_routing(&mut *self.netlink, &self.config, &facts)
            .map(|applied| Changed::from(&*applied))
            .or_else(|error| unwritable(error, &mut self.reported))?;
        Ok((facts, changed))
    }

    fn repair(
        &mut self,
        node: &dyn Fn() -> NodeNetwork,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        let repaired = NodeNetwork::repair(node, &mut *self.netlink, extent)?;
        warn_once(&repaired.unwritable, &mut self.reported);
        Ok(repaired)
    }
}

/// Returns the route table of an ENI that was set up.
fn table_of(netlink: &mut dyn Netlink, action: &HostAction) -> Option<Input> {
    let HostAction::SetUpEni(link) = action else { return None };
    // What cannot be read now could not be set up either.
    let table = eni::table_here(netlink, link).ok()?;
    Some(Input::Table(link.clone(), table))
}

/// Goes on without kernel variables that cannot be written.
fn unwritable(error: HostError, reported: &mut BTreeSet<String>) -> Result<Changed, HostError> {
    let HostError::Apply(refused) = &error else { return Err(error) };
    let Some(refused) = refused.kernel_variables() else { return Err(error) };
    warn_once(refused, reported);
    Ok(Changed::default())
}
