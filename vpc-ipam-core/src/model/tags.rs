//! The tags that tell ENIs and subnets apart.

use crate::Scope;

/// Set on every ENI we make: whose it is.
pub(crate) const INSTANCE: &str = Scope::INSTANCE_TAG;
/// Set by other programs on an ENI that is not ours to touch.
pub(crate) const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
/// Tells on a subnet whether ENIs may be made in it: `0` no, `1` yes.
pub(crate) const SUBNET_ROLE: &str = "kubernetes.io/role/cni";
/// Followed by a cluster's name, on a subnet: only clusters so named use it.
pub(crate) const SUBNET_CLUSTER_PREFIX: &str = "cni.networking.k8s.aws/cluster/";
