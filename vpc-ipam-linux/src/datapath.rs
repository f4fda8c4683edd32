//! The network of a node as desired state: the host, ENIs, pods, address translation.

pub(crate) mod aws_cni;
pub(crate) mod beside_aws_cni;
pub(crate) mod conflict;
pub mod eni;
pub(crate) mod execute;
pub(crate) mod facts;
pub mod host;
pub(crate) mod link;
pub(crate) mod nat;
pub(crate) mod numbering;
pub mod pod;
pub(crate) mod source_check;
