//! The network policy agent of the node, which hears of each pod before it runs and after it is gone.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use tracing::{debug, warn};
use vpc_ipam_core::{Lease, Pod, PodKey, error_chain};
use vpc_ipam_protocol::NetworkPolicyMode;

/// Where amazon-vpc-cni-k8s' network policy agent listens.
pub const AGENT_SOCKET: &str = "/var/run/aws-node/npa.sock";

/// How long the agent may take over a pod. It attaches programs to the pod's links, which takes well under a second.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);

/// What the operator wants of network policies, on a node with an agent for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// How they are enforced.
    pub mode: NetworkPolicyMode,
    /// Where the agent listens.
    pub agent: PathBuf,
}

/// Why the agent did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AgentError {
    /// It is not there.
    #[error(
        "connect to the network policy agent at {} (is it running? where none is meant to, unset NETWORK_POLICY_ENFORCING_MODE)",
        agent.display()
    )]
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "no agent is called"))]
    Connect { agent: PathBuf, source: Box<dyn core::error::Error + Send + Sync> },
    /// It is there, and does not answer.
    #[error("the network policy agent at {} does not answer within {CALL_MAX:?}", agent.display())]
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "no agent is called"))]
    Silent { agent: PathBuf },
    /// It refuses.
    #[error("the network policy agent at {} refuses: {why}", agent.display())]
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "no agent is called"))]
    Refused { agent: PathBuf, why: String },
    /// This daemon cannot call it.
    #[error("this vpc-ipamd was built without the feature grpc")]
    #[cfg_attr(feature = "grpc", expect(dead_code, reason = "it was built with it"))]
    Unbuilt,
}

/// What the agent is asked for.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "no agent is called"))]
pub(crate) enum Call {
    /// That a pod's policies be enforced, on that many interfaces.
    Enforce { mode: NetworkPolicyMode, interfaces: usize },
    /// That a pod be forgotten.
    Forget,
}

/// Tells the agent of pods: in order for each pod, and of different pods at a time.
#[derive(Debug)]
pub(crate) struct NetworkPolicies {
    settings: NetworkPolicy,
    /// The last call about each pod, until it has ended.
    calls: BTreeMap<Arc<Pod>, JoinHandle<()>>,
    /// The pods that the agent took.
    enforced: Arc<Mutex<BTreeSet<PodKey>>>,
}

impl NetworkPolicies {
    pub(crate) fn new(settings: NetworkPolicy) -> Self {
        Self { settings, calls: BTreeMap::new(), enforced: Arc::default() }
    }

    pub(crate) fn mode(&self) -> NetworkPolicyMode {
        self.settings.mode
    }

    /// A pod was set up: `then` hears whether its policies are enforced. A pod that runs already is not asked for again.
    pub(crate) fn wired(
        &mut self,
        lease: &Lease,
        then: impl FnOnce(Result<(), AgentError>) + Send + 'static,
    ) {
        if lock(&self.enforced).contains(&lease.key) {
            return then(Ok(()));
        }
        let interfaces = lease.interfaces().count();
        let call = Call::Enforce { mode: self.settings.mode, interfaces };
        let (enforced, key) = (Arc::clone(&self.enforced), lease.key.clone());
        self.call(&lease.pod, call, move |result| {
            if result.is_ok() {
                lock(&enforced).insert(key);
            }
            then(result);
        });
    }

    /// A pod is gone. `replaced` says that another sandbox of it is there, whose policies stay.
    pub(crate) fn gone(&mut self, lease: &Lease, replaced: bool) {
        lock(&self.enforced).remove(&lease.key);
        if replaced {
            return;
        }
        let pod = Arc::clone(&lease.pod);
        self.call(&lease.pod, Call::Forget, move |result| {
            // It forgets the pod by itself once the cluster does, and the DEL is not delayed for it.
            if let Err(error) = result {
                let (namespace, name) = (&pod.namespace, &pod.name);
                warn!(
                    namespace,
                    name,
                    error = error_chain(&error),
                    "a pod is gone, and the network policy agent was not told"
                );
            }
        });
    }

    fn call(
        &mut self,
        pod: &Arc<Pod>,
        call: Call,
        then: impl FnOnce(Result<(), AgentError>) + Send + 'static,
    ) {
        self.calls.retain(|_, call| !call.is_finished());
        let before = self.calls.remove(pod);
        let (agent, of) = (self.settings.agent.clone(), Arc::clone(pod));
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                // It ends by itself, and in time.
                let _ = before.await;
            }
            let result = carry_out(&agent, &of, &call).await;
            debug!(pod = ?of, ?call, ?result, "called the network policy agent");
            then(result);
        });
        self.calls.insert(Arc::clone(pod), task);
    }
}

#[cfg(feature = "grpc")]
async fn carry_out(agent: &Path, pod: &Pod, call: &Call) -> Result<(), AgentError> {
    crate::grpc::agent::call(agent, pod, call).await
}

#[cfg(not(feature = "grpc"))]
#[expect(clippy::unused_async, reason = "with the feature grpc it waits")]
async fn carry_out(_: &Path, _: &Pod, _: &Call) -> Result<(), AgentError> {
    Err(AgentError::Unbuilt)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
