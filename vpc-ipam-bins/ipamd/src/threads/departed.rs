//! What pods leave behind that are gone: their links, as long as their namespaces live.

use core::time::Duration;
use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tracing::warn;
use vpc_ipam_core::{PodKey, Record, Timestamp, error_chain};
use vpc_ipam_linux::{Namespace, Netlink, pod};

use crate::input::Input;
use crate::keeper::Left;
use crate::threads::worker::{Gone, Worker};

/// Removes what pods leave behind, on a thread of its own.
///
/// To remove a link takes the kernel some 15 ms (measured on two cores), in which nothing else may change links, addresses,
/// routes and rules. So it begins when no plugin is at work, or after a moment in any case. A DEL that is alone finds it begun by
/// the time it ends, and a program that looks for the link then waits for the kernel and finds it gone.
pub(crate) struct Departed {
    worker: Worker<Vec<(PodKey, Left)>>,
    waiting: Vec<(PodKey, Left)>,
    /// Since when the first of them waits.
    since: Option<Timestamp>,
    /// Pods whose links may still be there. One that is added again would take them for its own.
    leaving: BTreeSet<PodKey>,
}

/// How long plugins that are at work are waited for.
const PATIENCE: Duration = Duration::from_millis(100);

impl Departed {
    /// Starts the thread in the node's namespace. Each pod that it is done with comes to the loop as an input.
    pub(crate) fn start(
        netns: &Namespace,
        mut netlink: Box<dyn Netlink + Send>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, Gone> {
        let worker = Worker::start("departed", netns, move |queue| {
            for (key, left) in queue.iter().flatten() {
                remove(&mut *netlink, &left);
                if inputs.blocking_send(Input::Departed(key)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { worker, waiting: Vec::new(), since: None, leaving: BTreeSet::new() })
    }

    /// A pod is gone and left this.
    pub(crate) fn push(&mut self, key: &PodKey, left: Left, now: Timestamp) {
        self.leaving.insert(key.clone());
        self.waiting.push((key.clone(), left));
        self.since.get_or_insert(now);
    }

    /// Nothing is left of a pod.
    pub(crate) fn done(&mut self, key: &PodKey) {
        self.leaving.remove(key);
    }

    /// Returns whether nothing is left of any pod.
    pub(crate) fn is_idle(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Returns whether what is to be made durable is the grant of a pod whose earlier links have to go first.
    pub(crate) fn holds_back(&self, record: &Record) -> bool {
        matches!(record, Record::Leased(lease) if self.leaving.contains(&lease.key))
    }

    /// Returns when it is time, whether plugins are at work or not.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.since.map(|since| since + PATIENCE)
    }

    /// Begins, if it is time.
    pub(crate) fn run_due(&mut self, plugins_at_work: bool, now: Timestamp) -> Result<(), Gone> {
        if self.due().is_none_or(|due| plugins_at_work && due > now) {
            return Ok(());
        }
        self.since = None;
        self.worker.send(core::mem::take(&mut self.waiting))
    }
}

fn remove(netlink: &mut dyn Netlink, left: &Left) {
    let (network, everything) = match left {
        Left::Links(network) => (network, false),
        Left::All(network) => (network, true),
    };
    let routing = if everything { pod::remove(netlink, network).map(drop) } else { Ok(()) };
    for result in [routing, pod::remove_links(netlink, network)] {
        if let Err(error) = result {
            warn!(error = error_chain(&error), "cannot remove what a pod left behind");
        }
    }
}
