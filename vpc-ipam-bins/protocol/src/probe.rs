//! What only the daemon can find out of EC2 and the metadata service, and what it was started with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpc_ipam_core::{
    Ec2Operation, InstanceId, InstanceType, LimitsSource, ObservedSubnet, Pod, PodKey, SubnetId,
    Timestamp, Zone,
};

/// What EC2 and the metadata service let the daemon do, and what it was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The time by the daemon's clock, which is the wall clock of its start advanced by the monotonic one.
    pub now: Timestamp,
    /// What the metadata service says of the instance.
    pub metadata: Told<MetadataTold>,
    /// Each operation of EC2 that the daemon calls with its settings, and whether it may.
    pub permissions: Vec<Permission>,
    /// The subnets of the VPC and zone.
    pub subnets: Told<Vec<ObservedSubnet>>,
    /// The limits of the instance type.
    pub limits: LimitsTold,
    /// The most pods that the daemon expects, its `--max-pods`.
    pub pods_max: Option<u32>,
    /// The state file.
    pub state: PathBuf,
    /// Where the network namespaces of pods are, as far as the daemon knows.
    pub sandboxes: Vec<PodSandbox>,
}

/// An answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<T> {
    /// The answer.
    Told(T),
    /// It was asked for, and failed so.
    Failed(String),
    /// It was not asked for, for this reason.
    NotAsked(String),
}

/// What the metadata service says of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataTold {
    /// The instance.
    pub instance: InstanceId,
    /// Its type.
    pub instance_type: InstanceType,
    /// Its availability zone.
    pub zone: Zone,
    /// The subnet of its primary ENI, where new ENIs go unless configured otherwise.
    pub subnet: SubnetId,
    /// ENIs that it shows only in part, and what is missing of each.
    pub incomplete: Vec<String>,
    /// How long it took to read them, in milliseconds.
    pub ms: u64,
}

/// Whether the daemon may call an operation of EC2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The operation.
    pub operation: Ec2Operation,
    /// Whether it may.
    pub permitted: Permitted,
}

/// Whether something is permitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permitted {
    /// A read succeeded, or a dry run was answered as EC2 does where the call would succeed.
    Yes,
    /// EC2 refused for a right or for credentials, with this message.
    No(String),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// The limits of the instance type that the daemon works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsTold {
    /// The instance type.
    pub instance_type: InstanceType,
    /// Where they come from.
    pub source: LimitsSource,
    /// The most ENIs of the default network card.
    pub enis: u8,
    /// The most IPv4 addresses of an ENI, its own included.
    pub ipv4_per_eni: u16,
}

/// Where the network namespace of a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandbox {
    /// Its container and interface.
    pub key: PodKey,
    /// Its name.
    #[serde(flatten)]
    pub pod: Pod,
    /// The file of its namespace, as the plugin named it; none of pods whose plugin did not.
    pub path: Option<PathBuf>,
}
