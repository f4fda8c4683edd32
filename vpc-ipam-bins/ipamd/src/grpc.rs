//! The gRPC of amazon-vpc-cni-k8s: the messages of its package `rpc`, and its network policy agent as a client sees it.

pub(crate) mod agent;

/// What proto/rpc.proto defines.
#[allow(
    clippy::all,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::std_instead_of_core,
    clippy::use_self,
    missing_docs,
    unreachable_pub,
    unnameable_types,
    reason = "generated"
)]
pub(crate) mod rpc {
    tonic::include_proto!("rpc");
}
