//! The address management of an AWS node, as a value that is told things.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod action;
mod id;
mod lease;
mod limits;
mod observation;
mod outcome;
#[cfg(feature = "sim")]
pub mod sim;
mod time;

pub use action::{
    Action, ActionId, AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    EniAttribute, EniLink, HostAction, Ipv4Amount, ModifyNetworkInterfaceAttribute,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};
pub use id::{
    AttachmentId, Card, DeviceIndex, EmptyKeyError, EniId, InstanceId, InstanceType, Mac,
    ParseIdError, ParseMacError, PodKey, SecurityGroupId, SubnetId, VpcId, Zone,
};
pub use lease::{Lease, LeasedInterface, Pod};
pub use limits::{Hypervisor, Limits, UnknownInstanceTypeError};
pub use observation::{
    AttachmentStatus, InterfaceType, Metadata, Node, Observation, ObservedAttachment, ObservedEni,
    ObservedSubnet, Scope, Source,
};
pub use outcome::{Effect, Failure, FailureKind, Outcome};
pub use time::Timestamp;
