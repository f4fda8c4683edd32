//! The network of an AWS node in the Linux kernel: ENIs, pods and address translation.
//!
//! What should be there is data. [`host::desired`], [`eni::desired`] and [`pod::desired`] say what a node should hold, as
//! links, addresses, routes, rules, neighbours, kernel variables and rules of address translation. [`diff`] says how a
//! namespace differs from that, in words and as [changes](KernelChange); [`apply`] reads, compares and changes what differs, so
//! that applied twice it changes nothing the second time; [`remove`] takes it back. Objects that are not ours are never
//! touched: every route and rule made here carries [`Protocol::OURS`].
//!
//! The kernel is behind [`Netlink`]: [`KernelNetlink`] is a socket bound to one [`Namespace`], and the namespace of the
//! caller never changes.
//!
//! What a daemon does with it:
//!
//! * once, and whenever the ranges of the VPC change: [`host::set_up`];
//! * for each host action of the core: [`execute`];
//! * whenever the kernel reports something that [concerns](NodeNetwork::concerns) the node: [`NodeNetwork::repair`] (the feature `watch`
//!   adds the events);
//! * before a released address is given out again: [`flush_conntrack`];
//!
//! and a plugin: [`pod::add`], [`pod::check`], [`pod::remove`]. `examples/wire_a_pod.rs` wires one by hand, damages and repairs it.
//!
//! # The nouns
//!
//! * [`State`]: objects that should be there, and claims to what may be there besides. [`Object`]: a link, an address, a route, a rule ...
//! * [`Actual`]: what a namespace holds of that. [`Difference`]: what is missing, wrong or too much, in words and as [`KernelChange`]s.
//! * [`pod::PodNetwork`]: both sides of a pod, from a [`Lease`](vpc_ipam_core::Lease). [`NodeNetwork`]: all that a node should hold.
//!
//! # What holds
//!
//! * What `desired` returns follows from its arguments alone; nothing is read and nothing is changed.
//! * [`apply`], [`pod::add`] and what removes may be repeated; an ADD that fails leaves nothing of what it made.
//! * Objects of other programs are left alone, and so is what a later pod has by now.
//! * An executor of [`HostAction`](vpc_ipam_core::HostAction)s answers each once; [`execute`] does.
//!
//! [docs/datapath.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/datapath.md) has every object and draws the way of a packet,
//! [docs/keeping.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/keeping.md) says how it is kept, and
//! [docs/properties.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/properties.md) what core relies on.
//!
//! # Stopping
//!
//! A daemon or plugin that stops leaves the kernel as it is, and pods go on. To take a node's network away, end its pods
//! ([`pod::remove`], [`pod::remove_links`]), let core free the ENIs ([`eni::remove`] is what its action does), then [`remove`] what [`host::desired`]
//! returns. [docs/shutdown.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/shutdown.md) has the order, and the same by hand.
//!
//! # Features and an example
//!
//! The feature `lab` adds a VPC made of network namespaces, in which all of this runs without an AWS account; `testkit` adds
//! what the readers of the kernel's and other programs' answers are fuzzed with.
//!
//! ```
//! use vpc_ipam_core::{Card, DeviceIndex, Lease, LeasedInterface, Mac, Pod, PodKey, Timestamp};
//! use vpc_ipam_linux::{LinkIndex, VethPrefix, pod, pod::PodSettings};
//!
//! let key = PodKey::new("aws-cni", "4fb1", "eth0")?;
//! let mac = Mac([2, 0, 10, 0, 0, 20]);
//! let first = LeasedInterface::new("eni-0123456789abcdef0".parse()?, mac, Card(0), DeviceIndex(1))
//!     .with_ipv4(Some("10.0.0.101".parse()?));
//! let lease = Lease::new(key, Pod::new("default", "p1"), Timestamp::EPOCH, first);
//! let settings = PodSettings::new(VethPrefix::default(), 9001);
//!
//! let network = pod::desired(&lease, &settings)?;
//!
//! let interface = &network.interfaces[0];
//! assert_eq!(interface.host.name, "eni182c452fe96");
//! let on_host = interface.on_host(LinkIndex(7)).wanted;
//! let in_words: Vec<_> = on_host.iter().map(ToString::to_string).collect();
//! assert_eq!(in_words[11..], [
//!     "alias \"vpc-ipam default/p1\" of link eni182c452fe96",
//!     "link eni182c452fe96 mtu 9001 up",
//!     "route 10.0.0.101 table main dev eni182c452fe96",
//!     "rule 512: to 10.0.0.101 lookup main",
//!     "rule 1536: from 10.0.0.101 lookup 2",
//! ]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod config;
mod datapath;
mod kernel;
#[cfg(feature = "lab")]
pub mod lab;
mod node;
mod state;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use config::{BranchMode, HostConfig, SnatPorts, VethPrefix, VethPrefixError};
pub use datapath::aws_cni::{AwsCniListing, AwsCniNat, AwsCniSettings, Evident};
pub use datapath::beside_aws_cni::BesideAwsCni;
pub use datapath::conflict::Conflict;
pub use datapath::eni::{EniError, EniTable, TableReason};
pub use datapath::execute::execute;
pub use datapath::link::{LinkMissingError, link_by_mac};
pub use datapath::nat::{Nat, NatActual, NatDigest, NatPrograms};
pub use datapath::source_check::SourceCheck;
pub use datapath::{eni, host, pod};
pub use kernel::conntrack::{ConntrackError, flush_conntrack};
pub use kernel::netlink::{
    KernelNetlink, Netlink, NetlinkError, NetlinkLayer, PortOwner, port_owner,
};
pub use kernel::netns::{CreateNamespaceError, Namespace, NamespaceError, RemoveNamespaceError};
pub use kernel::network::{
    Address, Family, Leads, Link, LinkId, LinkIndex, Mark, Neighbour, Protocol, Route, RouteEntry,
    Rule, RuleAction, Scope, Table,
};
pub use kernel::sysctl::{Sysctl, SysctlKey};
#[cfg(feature = "watch")]
pub use node::watch::{Pace, Watch, WatchError};
pub use node::{
    AbsentLink, Adopted, AdoptedLink, Extent, Guard, HandBack, KernelEvent, NodeDifferences,
    NodeNetwork, OfLinks, Repaired, Seen, SeenLink, is_of_aws_cni, sweep_rules,
};
pub use state::actual::Actual;
pub use state::apply::{Applied, ApplyError, apply, remove};
pub use state::change::{Bridge, KernelChange, KernelEffect, Veth, VethPeer, Vlan};
pub use state::commands::commands;
pub use state::diff::{Difference, diff};
pub use state::object::Object;
pub use state::refusal::{Refusal, Refused};
pub use state::{Claim, State};
