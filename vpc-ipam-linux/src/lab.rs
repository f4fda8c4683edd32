//! A VPC made of network namespaces, in which a node's network can be tried without an AWS account.
//!
//! A [`Lab`] follows core's [model of the cloud](vpc_ipam_core::sim): each [change](Change) of the fabric that the model reports
//! becomes one in the kernel. Attaching an ENI plugs a link with the ENI's MAC address into the node's namespace;
//! assigning an address makes the router deliver it there.
//!
//! | namespace | what is in it |
//! |---|---|
//! | `vil-NAME-router` | a bridge for each subnet with the router's address, and one end of every cable |
//! | `vil-NAME-node` | the links of the node's ENIs; the primary as DHCP leaves it, the others down and bare |
//! | `vil-NAME-host2` | another host of the VPC |
//! | `vil-NAME-internet` | a host that is not in the VPC, at [`INTERNET`] |
//! | `vil-NAME-pod-POD` | a [pod](add_pod), empty until a CNI plugin fills it |
//!
//! It is like EC2's VPC where that shows on a node. ENIs reach each other by the router alone, which answers every
//! question for a MAC address and has a permanent neighbour for each assigned address. What an ENI sends with a source
//! that is not assigned to it is dropped and [counted](Lab::source_check_drops). Packets are of up to 9001 bytes.
//!
//! Where a subnet has an IPv6 range, all of this holds of IPv6 too: the router is fe80:ec2::1, prefixes are delivered, and
//! nothing is translated on the way to the internet at [`INTERNET_IPV6`].
//!
//! It is unlike it in this: the internet sees the IPv4 address of the primary ENI, where an internet gateway would put a
//! public one in its place, and reaches every address of the VPC; a host has its IPv6 address as a /128, since the router
//! answers no question for the neighbours of a whole range; there are no security groups, no name server, and nothing answers
//! at the address of the metadata service.
//!
//! Everything happens in namespaces that the lab makes, all of which go with it. Another process finds them by name, adds
//! pods with [`add_pod`], and removes with [`remove_all`] what a lab left that was killed. [`requirements`] says whether a
//! lab can be built at all; for those who are not root it can inside a user namespace, with a `/run` of its own.
//!
//! ```no_run
//! use std::time::Duration;
//! use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
//! use vpc_ipam_core::{Limits, Timestamp};
//! use vpc_ipam_linux::lab::{self, INTERNET, Lab, Layout, Responder};
//!
//! let now = Timestamp::from_secs(1_700_000_000);
//! let mut cloud = Cloud::new(1);
//! let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
//! let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
//! let subnet = cloud.create_subnet(subnet)?;
//! let limits = Limits::lookup("m5.large".parse()?)?;
//! let node = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
//! let other_host = cloud.run_instance(RunInstance::new(limits, subnet), now)?;
//!
//! lab::requirements()?;
//! let layout = Layout::of(&cloud, [subnet], node, other_host)?;
//! let mut lab = Lab::build("demo".parse()?, layout)?;
//! while let Some(change) = cloud.poll_change() {
//!     lab.apply(&change)?;
//! }
//!
//! let server = Responder::start(lab.internet(), "0.0.0.0:80".parse()?)?;
//! let seen = lab::ask(lab.node(), (INTERNET, 80).into(), Duration::from_secs(1))?;
//! assert_eq!(seen, lab.layout().node.primary_ipv4);
//! assert!(lab.source_check_drops()?.values().all(|&packets| packets == 0));
//!
//! drop(server);
//! lab.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod fabric;
mod layout;
mod node;
mod probe;
mod requirements;
mod source_check;
mod view;

use std::collections::BTreeMap;

use vpc_ipam_core::sim::{Change, Port};
use vpc_ipam_core::{AttachmentId, Card, DeviceIndex, EniId};

use self::fabric::{Fabric, primary};
use self::node::{make, set};
use crate::{KernelNetlink, Namespace, Netlink as _, NetlinkError};

pub use self::error::{BuildFailure, ChangeError};
pub use self::fabric::{INTERNET, INTERNET_IPV6};
pub use self::layout::{Host, Layout, LayoutError, Subnet};
pub use self::node::{
    LabName, LabNameError, LabNode, LabNodeError, RemoveLabError, add_pod, pods, remove_all,
    remove_pod,
};
pub use self::probe::{AskError, Echo, EchoError, RespondError, Responder, ask, ask_from, echo};
pub use self::requirements::{Missing, UnmetError, requirements};
pub use self::source_check::SourceCheckError;
pub use self::view::{EnterError, RunError, enter, output};

/// A VPC made of network namespaces. It goes when dropped, whatever other programs made in it meanwhile.
pub struct Lab {
    standing: Standing,
    layout: Layout,
    fabric: Fabric,
    node: KernelNetlink,
    other_host: KernelNetlink,
    internet: Namespace,
    cables: BTreeMap<EniId, AttachmentId>,
}

/// A failure to build a lab.
#[derive(Debug, thiserror::Error)]
#[error("build lab {lab}{}", left_in_words(left_behind))]
pub struct BuildError {
    /// The name of the lab that was to be built.
    pub lab: LabName,
    /// The step that failed.
    #[source]
    pub cause: BuildFailure,
    /// Why something of it is left, if it is.
    pub left_behind: Option<Box<RemoveLabError>>,
}

impl Lab {
    /// Builds a lab into which nothing is plugged yet. If it fails, nothing is left but what the error says.
    pub fn build(name: LabName, layout: Layout) -> Result<Self, BuildError> {
        // Who makes this one has the name. What another lab has made under it stays.
        let router = make(&name, &LabNode::Router).map_err(|error| BuildError {
            lab: name.clone(),
            cause: error.into(),
            left_behind: None,
        })?;
        let standing = Standing { name: name.clone(), removed: false };
        match build_nodes(&name, &layout, router) {
            Ok((fabric, [node, other_host, internet])) => Ok(Self {
                standing,
                layout,
                fabric,
                node,
                other_host,
                internet: internet.namespace().clone(),
                cables: BTreeMap::new(),
            }),
            Err(cause) => Err(BuildError {
                lab: name,
                cause,
                left_behind: standing.remove().err().map(Box::new),
            }),
        }
    }

    /// Does in the kernel what the cloud did in its model. Changes of instances other than the layout's two are not
    /// here. [`link_name`] returns the name of an ENI's link.
    pub fn apply(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::Detached(port) => self.unplug(port),
            Change::Attached(port)
            | Change::Assigned { port, .. }
            | Change::Unassigned { port, .. } => self.plug(port),
        }
    }

    /// Lets the kernel take note of which links of the router and the hosts are up, as it does when it is asked about one
    /// (since Linux 6.13). Left to itself it may take a second after a cable was plugged in, and drops what is sent until then.
    pub fn note_links(&mut self) -> Result<(), NetlinkError> {
        for netlink in [self.fabric.router(), &mut self.node, &mut self.other_host] {
            // The youngest first: a bridge is up only once one of its ports is known to be.
            for link in netlink.links()?.into_iter().rev() {
                netlink.link(&link.id.name)?;
            }
        }
        Ok(())
    }

    /// Returns how many packets the source/destination check dropped of each ENI that was ever plugged in.
    pub fn source_check_drops(&self) -> Result<BTreeMap<EniId, u64>, SourceCheckError> {
        self.fabric.drops()
    }

    /// Returns the lab's name.
    pub fn name(&self) -> &LabName {
        &self.standing.name
    }

    /// Returns what it consists of.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the namespace of the router.
    pub fn router(&self) -> &Namespace {
        self.fabric.namespace()
    }

    /// Returns the namespace of the node.
    pub fn node(&self) -> &Namespace {
        self.node.namespace()
    }

    /// Returns the namespace of the other host in the VPC.
    pub fn other_host(&self) -> &Namespace {
        self.other_host.namespace()
    }

    /// Returns the namespace of the host on the internet.
    pub fn internet(&self) -> &Namespace {
        &self.internet
    }

    /// Removes the lab with all of its pods, as dropping it does, and says what stays and why.
    pub fn remove(self) -> Result<(), RemoveLabError> {
        self.standing.remove()
    }

    fn plug(&mut self, port: &Port) -> Result<(), ChangeError> {
        let (host, netlink) = match port.instance {
            instance if instance == self.layout.node.instance => (self.layout.node, &mut self.node),
            instance if instance == self.layout.other_host.instance => {
                (self.layout.other_host, &mut self.other_host)
            }
            _ => return Ok(()),
        };
        let Port { eni, attachment, .. } = *port;
        if self.cables.get(&eni) == Some(&attachment) {
            return self.fabric.deliver(port);
        }
        let subnet = self.layout.subnets.iter().find(|subnet| subnet.id == port.subnet);
        let subnet = subnet.ok_or(ChangeError::NoSubnet { eni, subnet: port.subnet })?;
        let link =
            self.fabric.plug(port, netlink.namespace(), &link_name(port.card, port.device))?;
        if eni == host.primary {
            set(netlink, primary(&link, port.mac, &host, subnet))
                .map_err(|source| ChangeError::Network { eni, source })?;
        }
        self.cables.insert(eni, attachment);
        Ok(())
    }

    fn unplug(&mut self, port: &Port) -> Result<(), ChangeError> {
        // One that was plugged in again since is another's.
        if self.cables.get(&port.eni) == Some(&port.attachment) {
            self.fabric.unplug(port)?;
            self.cables.remove(&port.eni);
        }
        Ok(())
    }
}

/// Makes the namespaces besides the router's, and the cables that are no ENI's.
fn build_nodes(
    name: &LabName,
    layout: &Layout,
    router: KernelNetlink,
) -> Result<(Fabric, [KernelNetlink; 3]), BuildFailure> {
    let hosts = [
        make(name, &LabNode::Node)?,
        make(name, &LabNode::OtherHost)?,
        make(name, &LabNode::Internet)?,
    ];
    let [_, _, internet] = &hosts;
    let fabric = Fabric::build(router, layout, internet.namespace())?;
    Ok((fabric, hosts))
}

/// Returns the name of the link of an ENI that is plugged in there: `eth` and the index of the device, with 100 added for each
/// network card before its own.
pub fn link_name(card: Card, device: DeviceIndex) -> String {
    format!("eth{}", 100 * u16::from(card.0) + u16::from(device.0))
}

/// A lab of which something stands; it goes with this value.
struct Standing {
    name: LabName,
    removed: bool,
}

impl Standing {
    fn remove(mut self) -> Result<(), RemoveLabError> {
        self.removed = true;
        remove_all(&self.name).map(drop)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if !self.removed {
            // Who wants to know asks for the removal.
            let _ = remove_all(&self.name);
        }
    }
}

fn left_in_words(left_behind: &Option<Box<RemoveLabError>>) -> String {
    match left_behind {
        Some(left) => format!(" (and to undo it: {left})"),
        None => String::new(),
    }
}
