//! What the plugin aws-cni asks for.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::{Request as Call, Response, Status, async_trait};
use tracing::warn;
use vpc_ipam_core::{AddressRequest, CardChoice, Lease, LeasedInterface, Pod};
use vpc_ipam_linux::{Table, eni};
use vpc_ipam_protocol::{Answer, Assign, NodeFacts, PodLinks, Refusal, RefusalKind, Request};

use super::{ask, caller_version};
use crate::grpc::rpc::cni_backend_server::CniBackend;
use crate::grpc::rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, IpAllocationMetadata,
};
use crate::input::Input;

/// Serves aws-cni. What it cannot have of addresses it hears as `Success=false`, whose reason the log has, and what it cannot have of
/// releases as an error of gRPC: it reads them so.
pub(super) struct Cni {
    inputs: mpsc::Sender<Input>,
}

impl Cni {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs }
    }

    async fn facts(&self) -> Result<Box<NodeFacts>, Status> {
        match ask(Request::Node, &self.inputs).await {
            Answer::Node(facts) => Ok(facts),
            other => Err(status(other)),
        }
    }
}

#[async_trait]
impl CniBackend for Cni {
    async fn add_network(
        &self,
        call: Call<AddNetworkRequest>,
    ) -> Result<Response<AddNetworkReply>, Status> {
        let request = call.into_inner();
        let AddNetworkRequest { client_version, network_name, container_id, if_name, .. } =
            &request;
        let key = caller_version::key(client_version, network_name, container_id, if_name)?;
        let assign = Assign {
            request: AddressRequest::new(key.clone(), Arc::new(pod(&request)))
                .with_cards(cards(&request)),
            sandbox: Some(request.netns).filter(|path| !path.is_empty()).map(Into::into),
            of: None,
        };
        // What cannot fail once the address is granted.
        let Ok(facts) = self.facts().await else {
            return Ok(Response::new(AddNetworkReply::default()));
        };
        match ask(Request::Assign(assign), &self.inputs).await {
            Answer::Lease { lease, links, .. } => Ok(Response::new(added(&lease, &links, *facts))),
            other => {
                let why = status(other);
                warn!(pod = %key, why = why.message(), "no address for a pod of aws-cni");
                Ok(Response::new(AddNetworkReply::default()))
            }
        }
    }

    async fn del_network(
        &self,
        call: Call<DelNetworkRequest>,
    ) -> Result<Response<DelNetworkReply>, Status> {
        let request = call.into_inner();
        let DelNetworkRequest { client_version, network_name, container_id, if_name, .. } =
            &request;
        let key = caller_version::key(client_version, network_name, container_id, if_name)?;
        let facts = self.facts().await?;
        match ask(Request::Release(key), &self.inputs).await {
            Answer::Lease { lease, links, .. } => Ok(Response::new(DelNetworkReply {
                success: true,
                ip_allocation_metadata: allocations(&lease, &links),
                pod_vlan_id: 0,
                network_policy_mode: mode(&facts),
            })),
            other => Err(status(other)),
        }
    }
}

/// Returns the pod's names; where there are none, the container's id stands in.
fn pod(request: &AddNetworkRequest) -> Pod {
    let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_string();
    Pod::new(
        or(&request.k8s_pod_namespace, "default"),
        or(&request.k8s_pod_name, &request.container_id),
    )
}

fn cards(request: &AddNetworkRequest) -> CardChoice {
    if request.requires_multi_nic_attachment { CardChoice::Every } else { CardChoice::Any }
}

fn added(lease: &Lease, links: &PodLinks, facts: NodeFacts) -> AddNetworkReply {
    let network_policy_mode = mode(&facts);
    // What is excluded from translation is reached as the VPC is, unless nothing is translated here.
    let excluded = facts.excluded_cidrs.into_iter().filter(|_| !facts.external_snat);
    let untranslated = facts.vpc_ipv4_cidrs.into_iter().chain(excluded);
    AddNetworkReply {
        success: true,
        ip_allocation_metadata: allocations(lease, links),
        use_external_snat: facts.external_snat,
        vp_cv4_cid_rs: untranslated.map(|cidr| cidr.to_string()).collect(),
        vp_cv6_cid_rs: facts.vpc_ipv6_cidrs.iter().map(ToString::to_string).collect(),
        network_policy_mode,
        ..AddNetworkReply::default()
    }
}

fn mode(facts: &NodeFacts) -> String {
    facts.network_policy.map(|mode| mode.to_string()).unwrap_or_default()
}

fn allocations(lease: &Lease, links: &PodLinks) -> Vec<IpAllocationMetadata> {
    let allocation = |interface: &LeasedInterface| {
        // By these the plugin tells the primary ENI from others.
        let (device, table) = if interface.on_primary() {
            (0, Table::MAIN.0)
        } else {
            let table = links.tables.get(&interface.eni).copied();
            let by_place = || eni::table(interface.card, interface.device).0;
            (i32::from(interface.device.0), table.unwrap_or_else(by_place))
        };
        IpAllocationMetadata {
            i_pv4_addr: interface.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            i_pv6_addr: interface.ipv6.map(|address| address.to_string()).unwrap_or_default(),
            device_number: device,
            route_table_id: i32::try_from(table).unwrap_or(i32::MAX),
        }
    };
    lease.interfaces().map(allocation).collect()
}

/// Returns an answer that is none of those that were asked for.
fn status(answer: Answer) -> Status {
    match answer {
        // The text by which the plugin knows that there is nothing to delete.
        Answer::Unknown => Status::unknown("datastore: unknown pod"),
        Answer::Refused(Refusal { kind, message, details }) => {
            let said = format!("{message}: {details}");
            match kind {
                RefusalKind::TryAgainLater => Status::unavailable(said),
                RefusalKind::PodDeleted => Status::not_found(said),
                RefusalKind::LinkTaken => Status::already_exists(said),
                RefusalKind::StateFile | RefusalKind::Kernel | RefusalKind::UnknownRequest => {
                    Status::internal(said)
                }
            }
        }
        other => Status::internal(format!("the answer does not fit the question: {other:?}")),
    }
}
