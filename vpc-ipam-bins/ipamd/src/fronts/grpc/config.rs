//! What the network policy agent asks for.

use tokio::sync::mpsc;
use tonic::{Request as Call, Response, Status, async_trait};
use vpc_ipam_protocol::{Answer, Request};

use super::ask;
use crate::grpc::rpc::NetworkPolicyAgentConfigReply;
use crate::grpc::rpc::config_server_backend_server::ConfigServerBackend;
use crate::input::Input;

/// Tells the network policy agent about the node.
pub(super) struct ConfigServer {
    inputs: mpsc::Sender<Input>,
}

impl ConfigServer {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs }
    }
}

#[async_trait]
impl ConfigServerBackend for ConfigServer {
    async fn get_network_policy_configs(
        &self,
        _: Call<()>,
    ) -> Result<Response<NetworkPolicyAgentConfigReply>, Status> {
        let Answer::Node(facts) = ask(Request::Node, &self.inputs).await else {
            return Err(Status::unavailable("vpc-ipamd is stopping"));
        };
        Ok(Response::new(NetworkPolicyAgentConfigReply {
            network_policy_mode: facts.network_policy.map(|it| it.to_string()).unwrap_or_default(),
            multi_nic_enabled: facts.multi_nic,
            node_i_pv4: facts.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            node_i_pv6: facts.ipv6.map(|address| address.to_string()).unwrap_or_default(),
            instance_id: facts.instance,
            region: facts.region,
        }))
    }
}
