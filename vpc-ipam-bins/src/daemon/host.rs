//! The thread that changes the node's network: one at a time, in the order asked for.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use vpc_ipam_core::{ActionId, Config, HostAction, Metadata};
use vpc_ipam_linux::host::{HostError, facts, set_up};
use vpc_ipam_linux::{HostConfig, KernelNetlink, Namespace, NetlinkError, eni, execute};

use super::Input;
use crate::cni::chain;

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

type SetUpResult = Result<Vec<String>, HostThreadError>;

enum Job {
    Execute(ActionId, HostAction),
    SetUp(Box<Metadata>, Option<oneshot::Sender<SetUpResult>>),
}

impl HostThread {
    /// Starts the thread with a socket in the node's namespace.
    pub(super) fn start(
        netns: Namespace,
        config: HostConfig,
        pool: Config,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, HostThreadError> {
        let netlink = netns.netlink()?;
        let (jobs, queue) = channel();
        thread::Builder::new()
            .name("host".to_string())
            .spawn(move || work(netlink, &config, &pool, &queue, &inputs))
            .map_err(|_| HostThreadError::Thread)?;
        Ok(Self(jobs))
    }

    /// Sets the node up and returns what had to be changed, in words.
    pub(super) async fn set_up_now(&self, metadata: &Metadata) -> SetUpResult {
        let (reply, result) = oneshot::channel();
        let job = Job::SetUp(Box::new(metadata.clone()), Some(reply));
        self.0.send(job).map_err(|_| HostThreadError::Thread)?;
        result.await.map_err(|_| HostThreadError::Thread)?
    }

    /// Sets the node up again; the loop hears of it.
    pub(super) fn set_up(&self, metadata: Metadata) -> Result<(), HostThreadError> {
        let job = Job::SetUp(Box::new(metadata), None);
        self.0.send(job).map_err(|_| HostThreadError::Thread)
    }

    /// Carries out an action; the loop hears of its outcome.
    pub(super) fn execute(&self, id: ActionId, action: HostAction) -> Result<(), HostThreadError> {
        self.0.send(Job::Execute(id, action)).map_err(|_| HostThreadError::Thread)
    }
}

/// Works until the daemon drops its end of the queue.
fn work(
    mut netlink: KernelNetlink,
    config: &HostConfig,
    pool: &Config,
    queue: &Receiver<Job>,
    inputs: &mpsc::Sender<Input>,
) {
    let mut told = BTreeSet::new();
    while let Ok(job) = queue.recv() {
        let heard = match job {
            Job::Execute(id, action) => {
                let outcome = execute(&mut netlink, &action);
                // Before the outcome, which may serve a pod that waits for the ENI.
                if let Some(table) = table_of_its_own(&mut netlink, &action)
                    && inputs.blocking_send(table).is_err()
                {
                    break;
                }
                inputs.blocking_send(Input::Outcome(id, outcome))
            }
            Job::SetUp(metadata, reply) => {
                let result = facts(&mut netlink, &metadata, config, pool)
                    .and_then(|facts| set_up(&mut netlink, config, &facts))
                    .map(|applied| applied.iter().map(ToString::to_string).collect())
                    .or_else(|error| unwritable(error, &mut told))
                    .map_err(HostThreadError::SetUp);
                match reply {
                    Some(reply) => {
                        // Whoever asked may have stopped waiting.
                        let _ = reply.send(result);
                        Ok(())
                    }
                    None => {
                        let result = result.map_err(|error| chain(&error));
                        inputs.blocking_send(Input::HostSetUp(result))
                    }
                }
            }
        };
        if heard.is_err() {
            break;
        }
    }
}

/// Returns the route table of an ENI if it does not follow from its place.
fn table_of_its_own(netlink: &mut KernelNetlink, action: &HostAction) -> Option<Input> {
    let HostAction::SetUpEni(link) = action else { return None };
    // What cannot be read now could not be set up either.
    let table = eni::table_here(netlink, link).ok()?;
    (table != eni::table(link.card, link.device)).then_some(Input::Table(link.eni, table))
}

/// Tells of kernel variables that cannot be written, of each once, and goes on without them.
fn unwritable(error: HostError, told: &mut BTreeSet<String>) -> Result<Vec<String>, HostError> {
    let HostError::Apply(refused) = &error else { return Err(error) };
    let Some(refused) = refused.kernel_variables() else { return Err(error) };
    for refused in refused {
        let what = chain(refused);
        if told.insert(what.clone()) {
            warn!(what, "cannot set a kernel variable; the node goes on without");
        }
    }
    Ok(Vec::new())
}
