//! Calls of the network policy agent.

use core::time::Duration;
use std::path::Path;

use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use vpc_ipam_core::Pod;

use super::rpc::np_backend_client::NpBackendClient;
use super::rpc::{DeleteNpRequest, EnforceNpRequest};
use crate::network_policy::{AgentError, CALL_MAX, Call};

/// How long it may take to reach the agent; amazon-vpc-cni-k8s takes as long.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Asks the agent for something about a pod, once.
pub(crate) async fn call(agent: &Path, pod: &Pod, call: &Call) -> Result<(), AgentError> {
    let channel = connect(agent).await?;
    let answer = timeout(CALL_MAX, ask(NpBackendClient::new(channel), pod, call));
    let refused = |why| AgentError::Refused { agent: agent.to_path_buf(), why };
    match answer.await {
        Err(_) => Err(AgentError::Silent { agent: agent.to_path_buf() }),
        Ok(Err(status)) => Err(refused(format!("{}: {}", status.code(), status.message()))),
        Ok(Ok(false)) => Err(refused("it answers Success=false; its log says why".to_string())),
        Ok(Ok(true)) => Ok(()),
    }
}

async fn connect(agent: &Path) -> Result<Channel, AgentError> {
    let failed = |source: Box<dyn core::error::Error + Send + Sync>| AgentError::Connect {
        agent: agent.to_path_buf(),
        source,
    };
    let endpoint = Endpoint::from_shared(format!("unix:{}", agent.display()));
    let endpoint = endpoint.map_err(|error| failed(error.into()))?;
    match timeout(CONNECT_MAX, endpoint.connect()).await {
        Ok(channel) => channel.map_err(|error| failed(error.into())),
        Err(elapsed) => Err(failed(elapsed.into())),
    }
}

async fn ask(mut agent: NpBackendClient<Channel>, pod: &Pod, call: &Call) -> Result<bool, Status> {
    let (k8s_pod_name, k8s_pod_namespace) = (pod.name.clone(), pod.namespace.clone());
    Ok(match call {
        Call::Enforce { mode, interfaces } => {
            let request = EnforceNpRequest {
                k8s_pod_name,
                k8s_pod_namespace,
                network_policy_mode: mode.to_string(),
                interface_count: i32::try_from(*interfaces).unwrap_or(i32::MAX),
            };
            agent.enforce_np_to_pod(request).await?.into_inner().success
        }
        Call::Forget => {
            let request = DeleteNpRequest { k8s_pod_name, k8s_pod_namespace };
            agent.delete_pod_np(request).await?.into_inner().success
        }
    })
}
