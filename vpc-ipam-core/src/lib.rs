//! The address management of an AWS node, as a value that is told things.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod action;
mod backoff;
mod budget;
pub mod capacity;
mod check;
mod config;
mod constraints;
mod demand;
mod event;
mod id;
mod ipam;
mod lease;
mod limits;
mod observation;
mod outcome;
mod plan;
mod pool;
#[cfg(feature = "sim")]
pub mod sim;
mod tags;
mod time;
mod vars;

pub use action::{
    Action, ActionId, AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    EniAttribute, EniLink, HostAction, Ipv4Amount, ModifyNetworkInterfaceAttribute,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};
pub use backoff::Culprit;
pub use budget::{Budget, Ec2Operation, Rate};
pub use check::Violation;
pub use config::{Config, Cooling, EniConfig, Families, Ipv4Kind, Timing, WarmTarget};
pub use constraints::Constraints;
pub use demand::{Demand, Stock, demand};
pub use event::Event;
pub use id::{
    AttachmentId, Card, DeviceIndex, EmptyKeyError, EniId, InstanceId, InstanceType, Mac,
    ParseIdError, ParseMacError, PodKey, SecurityGroupId, SubnetId, VpcId, Zone,
};
pub use ipam::{AssignError, Assigned, Grant, Ipam, Issued, Released, UnusableConfigError, Wake};
pub use lease::{AddressRequest, CardChoice, Lease, LeasedInterface, Pod, Record, Uncommitted};
pub use limits::{Hypervisor, Limits, UnknownInstanceTypeError};
pub use observation::{
    AttachmentStatus, InterfaceType, Metadata, Node, Observation, ObservedAttachment, ObservedEni,
    ObservedSubnet, Scope, Source,
};
pub use outcome::{Effect, Failure, FailureKind, Outcome};
pub use plan::{Because, CardDemand, EniLimit, Held, Plan, Planned, WaitingOn, Wanted, plan};
pub use pool::{Block, BlockState, Doubt, DoubtCause, Eni, Leaving, Management, Pool, Stage};
pub use time::Timestamp;
pub use vars::{Note, Remark, Vars};
