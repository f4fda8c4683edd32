//! The address management of an AWS node, as a value that is fed events.
//!
//! An instance in a VPC has network interfaces (ENIs), each with a few addresses besides its own that pods can use. This
//! crate decides how many ENIs and addresses a node should hold, asks for them, gives each pod one, cools it when the pod ends, and
//! releases what is too much; and it stays safe when its inputs are late, partial or wrong. It reads no clock,
//! file or variable and makes no call: you feed [`Ipam`] what happened and carry out the [`Action`]s that it hands out.
//! Executors for EC2 and for the Linux kernel are in the crates `vpc-ipam-aws` and `vpc-ipam-linux`; use them or your own.
//!
//! # The nouns
//!
//! * [`Node`] and [`Limits`]: which instance this is, and what its type can hold. [`Config`]: what the operator wants.
//! * [`Observation`]: what EC2 or IMDS showed, and when it was asked.
//! * [`Action`] and [`Outcome`]: what to do, with no choice left, and what became of it.
//! * [`AddressRequest`] leads to an [`Uncommitted`] lease, and, once its [`Record`] is on stable storage, to a [`Lease`].
//! * [`Plan`]: what is to be done and why, what is blocked and by what; [`Ipam::plan`] tells at any time.
//!
//! # The loop
//!
//! ```
//! use vpc_ipam_core::{
//!     Action, AddressRequest, Assigned, Budget, Config, Ec2Action, Effect, Ipam, Ipv4Amount,
//!     Limits, Outcome, Pod, PodKey, Released, Timestamp,
//! };
//! # use vpc_ipam_core::{
//! #     Card, DeviceIndex, Mac, Node, Observation, ObservedAttachment, ObservedEni,
//! #     ObservedSubnet, Scope, Source,
//! # };
//! # // A cloud with one instance that has its primary ENI and nothing else.
//! # struct Cloud { node: Node, addresses: Vec<ipnet::IpNet> }
//! # impl Cloud {
//! #     fn new() -> Result<Self, Box<dyn std::error::Error>> {
//! #         let node = Node::new(
//! #             "i-1".parse()?, "m5.large".parse()?, "eu-west-1a".parse()?, "vpc-1".parse()?,
//! #             "eni-1".parse()?, "subnet-1".parse()?,
//! #         );
//! #         Ok(Self { node, addresses: Vec::new() })
//! #     }
//! #     fn observe(&self, scope: &Scope, as_of: Timestamp) -> Observation {
//! #         let node = &self.node;
//! #         let attachment = ObservedAttachment::new(node.instance, Card(0), DeviceIndex(0));
//! #         let primary = ObservedEni::new(node.primary, Mac([2, 0, 0, 0, 0, 1]), node.subnet)
//! #             .with_attachment(Some(attachment))
//! #             .with_primary_ipv4(Some([10, 0, 0, 10].into()))
//! #             .with_blocks(self.addresses.clone())
//! #             .with_tags(Some(Default::default()));
//! #         let enis = if *scope == Scope::Attached { vec![primary] } else { Vec::new() };
//! #         Observation::new(as_of, Source::Ec2, scope.clone()).with_enis(enis)
//! #     }
//! #     fn subnet(&self) -> ObservedSubnet {
//! #         let node = &self.node;
//! #         ObservedSubnet::new(node.subnet, node.vpc, node.zone, "10.0.0.0/19".parse().unwrap())
//! #             .with_ipv4_addresses_free(8000)
//! #     }
//! # }
//! // Your executor: turns an action into calls and the answer into an outcome. This one plays EC2 itself.
//! fn execute(cloud: &mut Cloud, action: &Action, now: Timestamp) -> Outcome {
//!     Outcome::Done(match action {
//!         Action::Ec2(Ec2Action::DescribeNetworkInterfaces(scope)) => {
//!             Effect::Observed(cloud.observe(scope, now))
//!         }
//!         Action::Ec2(Ec2Action::DescribeSubnets) => Effect::Subnets(vec![cloud.subnet()]),
//!         Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) => {
//!             let Ipv4Amount::Addresses(count) = call.amount else { unreachable!() };
//!             let first = cloud.addresses.len() as u8 + 100;
//!             let new: Vec<_> = (0..count as u8)
//!                 .map(|n| ipnet::IpNet::from(std::net::IpAddr::from([10, 0, 0, first + n])))
//!                 .collect();
//!             cloud.addresses.extend(&new);
//!             Effect::Assigned(new)
//!         }
//!         _ => Effect::Done,
//!     })
//! }
//!
//! let mut cloud = Cloud::new()?;
//! let limits = Limits::lookup(cloud.node.instance_type)?;
//! let (config, _notes) = Config::from_vars([("WARM_IP_TARGET", "2")]);
//! let mut now = Timestamp::from_secs(1_700_000_000);
//! let mut ipam = Ipam::new(cloud.node.clone(), limits, config, Budget::default(), 1, now)?;
//!
//! // Two pods ask before anything is known: they wait, and count as demand.
//! let request = |container: &str| {
//!     let key = PodKey::new("aws-cni", container, "eth0").unwrap();
//!     AddressRequest::new(key, Pod::new("default", container))
//! };
//! assert!(matches!(ipam.assign(&request("a"), now)?, Assigned::Later { .. }));
//! assert!(matches!(ipam.assign(&request("b"), now)?, Assigned::Later { .. }));
//!
//! // The loop: hand out what there is, then wait until something happens or is due.
//! let mut leases = Vec::new();
//! while leases.len() < 2 {
//!     while let Some(issued) = ipam.poll_action() {
//!         let outcome = execute(&mut cloud, &issued.action, now);
//!         ipam.handle_outcome(issued.id, outcome, now);
//!     }
//!     while let Some(grant) = ipam.poll_grant() {
//!         let uncommitted = grant.result?;
//!         // Write `uncommitted.record()` to stable storage here; only then there is a lease.
//!         leases.extend(ipam.commit(uncommitted));
//!     }
//!     let Some((due, _why)) = ipam.poll_timeout() else { break };
//!     now = now.max(due);
//!     ipam.handle_timeout(now);
//! }
//!
//! assert_eq!(leases.len(), 2);
//! assert_eq!(leases[0].first.ipv4, Some([10, 0, 0, 100].into()));
//! // Two in use, two held ready.
//! assert_eq!(cloud.addresses.len(), 4);
//!
//! // A pod ends. Its address cools before another pod gets it; write this record, too.
//! let released = ipam.release(&leases[0].key, now);
//! assert!(matches!(released, Released::Lease { .. }));
//! assert_eq!(ipam.check(), []);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Time is an argument of everything that needs it. Inputs may come in any order and late; what [`Ipam`] does follows from
//! them and from the seed alone, so that the same inputs lead to the same actions.
//!
//! `examples/embed.rs` is the same with a JSON file as the store and a restart in between; many nodes in one process, with one rate of calls, are in
//! `examples/many_nodes.rs`.
//!
//! # What holds
//!
//! * An address has at most one owner, its cooldown included. Asking again is safe.
//! * No address that is assigned, cooling or untracked is released, and no ENI that carries one is deleted.
//! * A partial, empty or old observation erases nothing. Only what EC2 confirmed is handed out.
//! * With a healthy cloud the pool converges, and then nothing changes; calls stay within the [`Budget`].
//!
//! [docs/properties.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/properties.md) has all of it, and which test says so.
//!
//! # The contract of an executor
//!
//! **Answer each [`Issued`] exactly once. Lost means [`FailureKind::Unanswered`].** Carry out what the action says and nothing else, in any order,
//! as many at once as you like. Neither retry nor wait: both are decided here. An action that is not answered within [`Timing::answer_max`]
//! counts as unanswered; what is answered later is a hint. `testkit::conformance` checks an executor.
//!
//! # Stopping
//!
//! Drop the [`Ipam`]: it holds nothing but what it was told. What must not be lost is a [`Record`]: write those that are due, answer
//! who waits, then stop. Actions that are under way may be abandoned, since the next start asks EC2.
//!
//! * A [`Record::Released`] may be dropped once it is older than [`Config::cooldown`]: [`Ipam::restore`] ignores it from then on.
//! * [`Ipam::handle_terminating`]: the instance goes away. Nothing is acquired any more, ENIs that are attached to nothing are deleted, and those that
//!   serve are left to go with the instance.
//! * To release everything and keep the instance, end its pods and ask for a [`WarmTarget::Ips`] of nothing, in [`Ipv4Kind::Addresses`]. It is
//!   done when the primary ENI is alone, without a block, and nothing is in flight: `examples/release_everything.rs`.
//!
//! [docs/shutdown.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/shutdown.md) has the order, and what stays.
//!
//! # Knowing why
//!
//! [`Ipam::explain`] tells what is wanted, done and blocked, [`Ipam::readiness`] what the next ADD would be told, and
//! [`Ipam::check`] whether what must hold does. [`journal`] records what a node was told and replays it.
//!
//! # Features
//!
//! * `serde`: what crosses a process or a restart is serialisable.
//! * `sim`: the module `sim`, a model of EC2 in virtual time to test against.
//! * `testkit`: the module `testkit`, what this crate is tested with, for executors and changes of your own; it needs `std`.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
mod setters;

pub mod capacity;
mod config;
mod ipam;
mod limits;
mod model;
mod plan;
mod pool;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use config::overrides::{ConfigChange, NodeSelector, Override};
pub use config::parser::Vars;
pub use config::warnings::{ConfigProblem, ConfigWarning};
pub use config::{
    Config, Cooling, EniConfig, EniConfigKeys, Families, Ipv4Kind, Timing, WarmTarget,
};
pub use ipam::check::Violation;
pub use ipam::explain::{AddressCount, EniAccount, Explanation, WaitingPod};
pub use ipam::journal;
pub use ipam::{
    AssignError, Assigned, Grant, Ipam, Issued, Readiness, Released, UnusableConfigError, Wake,
};
pub use limits::{Hypervisor, KnownLimits, Limits, LimitsSource, UnknownInstanceTypeError};
pub use model::action::{
    Action, ActionId, AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    EniAttribute, EniLink, HostAction, Ipv4Amount, ModifyNetworkInterfaceAttribute,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};
pub use model::error_chain::error_chain;
pub use model::event::Event;
pub use model::id::{
    AttachmentId, Card, DeviceIndex, EmptyKeyError, EniId, InstanceId, InstanceType, Mac,
    ParseIdError, ParseMacError, PodKey, SecurityGroupId, SubnetId, VpcId, Zone,
};
pub use model::import::{FoundInterface, Import};
pub use model::lease::{
    AddressRequest, CardChoice, FoundLink, Lease, LeasedInterface, Pod, Record, Uncommitted,
};
pub use model::observation::{
    AttachmentStatus, IncompleteEni, InterfaceType, Metadata, Node, Observation,
    ObservedAttachment, ObservedEni, ObservedSubnet, Scope, Source, SubnetRanges,
};
pub use model::operation::Ec2Operation;
pub use model::outcome::{Effect, Failure, FailureKind, Outcome};
pub use model::scope::{BackoffScope, Question};
pub use model::time::Timestamp;
pub use model::unconfirmed::{Unconfirmed, UnconfirmedCause};
pub use plan::backoff::RecentFailure;
pub use plan::budget::{Budget, Rate};
pub use plan::conditions::Conditions;
pub use plan::demand::{Demand, Stock, demand};
pub use plan::learned::LearnedLimit;
pub use plan::{Because, Blocked, CardDemand, EniLimit, Plan, Planned, WaitingOn, Wanted};
pub use pool::{
    AddressUse, Block, BlockState, Eni, ImportError, Management, Pool, Removing, Stage,
};
