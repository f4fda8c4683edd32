//! A model of the part of EC2 that address management touches, in virtual time.
//!
//! [`Cloud`] holds VPCs, subnets, instances and ENIs, and answers the operations that the executors of
//! [`Ec2Action`](crate::Ec2Action) call, under the limits that EC2 enforces and with EC2's error codes. It is a value
//! like the rest of this crate: it reads no clock, draws its random choices from a seed, and two clouds that are given
//! the same answer the same.
//!
//! ```
//! use vpc_ipam_core::sim::{Cloud, CreateInterface, CreateSubnet, Ipv4Request, RunInstance};
//! use vpc_ipam_core::{AttachNetworkInterface, Card, DeviceIndex, Ipv4Amount, Limits, Timestamp};
//!
//! let now = Timestamp::from_secs(1_700_000_000);
//! let mut cloud = Cloud::new(1);
//! let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
//! let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.1.0/24".parse()?))?;
//! let instance = cloud.run_instance(RunInstance::new(Limits::lookup("m5.large".parse()?)?, subnet), now)?;
//!
//! let eni = cloud.create_network_interface(
//!     &CreateInterface { ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(9)), ..CreateInterface::new(subnet) },
//!     now,
//! )?;
//! cloud.attach_network_interface(
//!     &AttachNetworkInterface { eni: eni.id, instance, card: Card(0), device: DeviceIndex(1) },
//!     now,
//! )?;
//! assert_eq!(cloud.instance(&instance).unwrap().enis.len(), 2);
//!
//! let more = Ipv4Request::Count(Ipv4Amount::Addresses(1));
//! let refused = cloud.assign_private_ip_addresses(eni.id, &more, now).unwrap_err();
//! assert_eq!(refused.code, "PrivateIpAddressLimitExceeded");
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! A cloud answers at once and truly. How EC2 and IMDS really answer, late, partly, with what was, or not at all, is a
//! [`Fault`], chosen for one call ([`Cloud::execute_with`]) or drawn at given rates ([`Faults`], [`World::with_faults`]).
//!
//! What fails for long, by operation, ENI, subnet or network card, is a [`Refusal`] ([`World::refuse`]).
//!
//! An executor calls a method per operation. A lab, which has links and routers to go with the ENIs, asks
//! [`Cloud::poll_change`] what became different in the fabric.

mod cloud;
mod error;
mod execute;
mod fault;
mod refusal;
mod rng;
mod space;
mod world;

pub use cloud::{
    Attachment, Change, Cloud, CreateInterface, CreateSubnet, Instance, Ipv4Request, Ipv6Request,
    ModifyInterface, NetworkInterface, Port, RunInstance, Vpc,
};
pub use error::CloudError;
pub use fault::{Fault, Faults};
pub use refusal::{About, Call, Lasts, Refusal, Refusals};
pub use space::Reservation;
pub use world::World;
