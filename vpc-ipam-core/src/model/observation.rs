//! What was seen in the cloud, when, and by whom.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    AttachmentId, Card, DeviceIndex, EniId, InstanceId, InstanceType, Mac, SecurityGroupId,
    SubnetId, Timestamp, VpcId, Zone,
};

/// The instance on which the pods run, as its metadata describes it: what does not change while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Node {
    /// The id of the instance.
    pub instance: InstanceId,
    /// Its type, which decides the limits.
    pub instance_type: InstanceType,
    /// Its availability zone; an ENI attaches only within it.
    pub zone: Zone,
    /// The VPC of its primary ENI.
    pub vpc: VpcId,
    /// Its primary ENI: there from launch, never detached; its MAC address is the instance's own.
    pub primary: EniId,
    /// The subnet of the primary ENI, where new ENIs go unless configured otherwise.
    pub subnet: SubnetId,
}

impl Node {
    /// Returns the instance with these ids.
    pub fn new(
        instance: InstanceId,
        instance_type: InstanceType,
        zone: Zone,
        vpc: VpcId,
        primary: EniId,
        subnet: SubnetId,
    ) -> Self {
        Self { instance, instance_type, zone, vpc, primary, subnet }
    }
}

setters!(Node {
    with_instance instance: InstanceId,
    with_instance_type instance_type: InstanceType,
    with_zone zone: Zone,
    with_vpc vpc: VpcId,
    with_primary primary: EniId,
    with_subnet subnet: SubnetId,
});

/// What one source said about ENIs, and when it was asked.
///
/// An observation is a hint with an age: it may be late, miss items, or come out of order. EC2 is the authority; IMDS
/// only makes us ask EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Observation {
    /// When the question was asked; what happened after may be missing from the answer.
    pub as_of: Timestamp,
    /// The service that answered.
    pub source: Source,
    /// Which ENIs were asked about: one that is missing from `enis` is denied only if it lies within.
    pub scope: Scope,
    /// The ENIs of the answer, in any order.
    pub enis: Vec<ObservedEni>,
    /// The ENIs that the source lists without telling all of them: they are neither shown nor denied. Of EC2 there are none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub incomplete: Vec<IncompleteEni>,
}

impl Observation {
    /// Returns an observation that shows no ENI.
    pub fn new(as_of: Timestamp, source: Source, scope: Scope) -> Self {
        Self { as_of, source, scope, enis: Vec::new(), incomplete: Vec::new() }
    }
}

setters!(Observation {
    with_as_of as_of: Timestamp,
    with_source source: Source,
    with_scope scope: Scope,
    with_enis enis: Vec<ObservedEni>,
    with_incomplete incomplete: Vec<IncompleteEni>,
});

/// An ENI that the metadata service lists, and of which it does not tell what every ENI has. It is being attached or
/// detached, or the service is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct IncompleteEni {
    /// Its MAC address, under which the service lists it.
    pub mac: Mac,
    /// What is not told, by its name in the service, and why it cannot be read where it is there.
    pub missing: String,
}

impl IncompleteEni {
    /// Returns an ENI of which something is missing.
    pub fn new(mac: Mac, missing: impl Into<String>) -> Self {
        Self { mac, missing: missing.into() }
    }
}

setters!(IncompleteEni {
    with_mac mac: Mac,
    with_missing missing: String,
});

impl fmt::Display for IncompleteEni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the metadata service lists the ENI {} without {}", self.mac, self.missing)
    }
}

/// Who made an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Source {
    /// The instance metadata service: cheap, and seconds to minutes late.
    Imds,
    /// EC2, asked by DescribeNetworkInterfaces.
    Ec2,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imds => "IMDS",
            Self::Ec2 => "EC2",
        })
    }
}

/// Which ENIs a question is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// All that are attached to this instance.
    Attached,
    /// All that carry this instance's tag and are attached to nothing: left by a crash between two calls.
    Unattached,
    /// The ENIs with these ids.
    Only(Vec<EniId>),
}

impl Scope {
    /// The key of the tag whose value is the id of the instance for which an ENI was made; amazon-vpc-cni-k8s', too.
    pub const INSTANCE_TAG: &'static str = "node.k8s.amazonaws.com/instance_id";
}

/// One ENI as EC2 or IMDS shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ObservedEni {
    /// The id of the ENI.
    pub id: EniId,
    /// Its MAC address, by which the kernel's link is found.
    pub mac: Mac,
    /// The subnet of its addresses.
    pub subnet: SubnetId,
    /// Its VPC, if the source says.
    #[cfg_attr(feature = "serde", serde(default))]
    pub vpc: Option<VpcId>,
    /// Its attachment, if it has one.
    pub attachment: Option<ObservedAttachment>,
    /// What it is for; IMDS cannot tell and says [`InterfaceType::Interface`].
    pub interface_type: InterfaceType,
    /// Its own IPv4 address, never given to a pod; an EFA-only ENI has none.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// Its first own IPv6 address.
    pub primary_ipv6: Option<Ipv6Addr>,
    /// What pods may use: secondary IPv4 addresses as /32, IPv4 prefixes as /28, IPv6 prefixes as /80.
    pub blocks: Vec<IpNet>,
    /// The security groups of its traffic, that of its pods included.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its tags; `None` from IMDS, which has none.
    pub tags: Option<BTreeMap<String, String>>,
}

impl ObservedEni {
    /// Returns an ordinary ENI that is attached to nothing and has no address, as IMDS would show it: without tags.
    pub fn new(id: EniId, mac: Mac, subnet: SubnetId) -> Self {
        Self {
            id,
            mac,
            subnet,
            vpc: None,
            attachment: None,
            interface_type: InterfaceType::Interface,
            primary_ipv4: None,
            primary_ipv6: None,
            blocks: Vec::new(),
            security_groups: Vec::new(),
            tags: None,
        }
    }
}

setters!(ObservedEni {
    with_id id: EniId,
    with_mac mac: Mac,
    with_subnet subnet: SubnetId,
    with_vpc vpc: Option<VpcId>,
    with_attachment attachment: Option<ObservedAttachment>,
    with_interface_type interface_type: InterfaceType,
    with_primary_ipv4 primary_ipv4: Option<Ipv4Addr>,
    with_primary_ipv6 primary_ipv6: Option<Ipv6Addr>,
    with_blocks blocks: Vec<IpNet>,
    with_security_groups security_groups: Vec<SecurityGroupId>,
    with_tags tags: Option<BTreeMap<String, String>>,
});

/// The attachment of an ENI as EC2 or IMDS shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ObservedAttachment {
    /// Its id; `None` from IMDS, which has none.
    pub id: Option<AttachmentId>,
    /// The instance that it is attached to, which may be another node.
    pub instance: InstanceId,
    /// The network card of that instance.
    pub card: Card,
    /// The index on that card.
    pub device: DeviceIndex,
    /// How far it is.
    pub status: AttachmentStatus,
    /// Whether the ENI goes when the instance goes; `None` from IMDS.
    pub delete_on_termination: Option<bool>,
}

impl ObservedAttachment {
    /// Returns an attachment that is there, as IMDS would show it.
    pub fn new(instance: InstanceId, card: Card, device: DeviceIndex) -> Self {
        Self {
            id: None,
            instance,
            card,
            device,
            status: AttachmentStatus::Attached,
            delete_on_termination: None,
        }
    }
}

setters!(ObservedAttachment {
    with_id id: Option<AttachmentId>,
    with_instance instance: InstanceId,
    with_card card: Card,
    with_device device: DeviceIndex,
    with_status status: AttachmentStatus,
    with_delete_on_termination delete_on_termination: Option<bool>,
});

/// How far an attachment is, in EC2's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AttachmentStatus {
    /// Requested, not yet there.
    Attaching,
    /// The instance has it.
    Attached,
    /// EC2 is detaching it.
    Detaching,
    /// EC2 detached it.
    Detached,
}

/// What an ENI is for, in EC2's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum InterfaceType {
    /// An ordinary ENI, which carries pods.
    #[default]
    Interface,
    /// An ENI with an Elastic Fabric Adapter; it may carry pod addresses and is never detached.
    Efa,
    /// A fabric adapter without addresses.
    EfaOnly,
    /// A trunk, which carries branch ENIs; it takes no pod address of its own and is never detached.
    Trunk,
    /// A branch ENI behind a trunk.
    Branch,
    /// Anything else: a NAT gateway's, a load balancer's.
    Other,
}

/// One subnet as DescribeSubnets shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ObservedSubnet {
    /// The id of the subnet.
    pub id: SubnetId,
    /// The VPC that it is part of.
    pub vpc: VpcId,
    /// The availability zone of all its ENIs.
    pub zone: Zone,
    /// Its IPv4 range; the router is the first address after the base.
    pub ipv4_cidr: Ipv4Net,
    /// Its IPv6 range, a /64.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// How many IPv4 addresses EC2 counts as free. It says nothing of whether a whole /28 is.
    pub ipv4_addresses_free: u32,
    /// Its tags, which say whether new ENIs may be made in it.
    pub tags: BTreeMap<String, String>,
}

impl ObservedSubnet {
    /// Returns a subnet without IPv6, free addresses and tags.
    pub fn new(id: SubnetId, vpc: VpcId, zone: Zone, ipv4_cidr: Ipv4Net) -> Self {
        Self {
            id,
            vpc,
            zone,
            ipv4_cidr,
            ipv6_cidr: None,
            ipv4_addresses_free: 0,
            tags: BTreeMap::new(),
        }
    }
}

setters!(ObservedSubnet {
    with_id id: SubnetId,
    with_vpc vpc: VpcId,
    with_zone zone: Zone,
    with_ipv4_cidr ipv4_cidr: Ipv4Net,
    with_ipv6_cidr ipv6_cidr: Option<Ipv6Net>,
    with_ipv4_addresses_free ipv4_addresses_free: u32,
    with_tags tags: BTreeMap<String, String>,
});

/// The instance as its metadata service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Metadata {
    /// What does not change while the instance lives.
    pub node: Node,
    /// The ENIs, asked as [`Source::Imds`] with [`Scope::Attached`].
    pub observation: Observation,
    /// The primary ENI's own IPv4 address, to which SNAT translates.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// The IPv4 ranges of the VPC: within them pod addresses are routed as they are.
    pub vpc_ipv4_cidrs: Vec<Ipv4Net>,
    /// The IPv6 ranges of the VPC.
    pub vpc_ipv6_cidrs: Vec<Ipv6Net>,
    /// The ranges of the subnets of its ENIs: enough to set their links up where EC2 does not list subnets.
    pub subnets: BTreeMap<SubnetId, SubnetRanges>,
}

impl Metadata {
    /// Returns the metadata of an instance of whose VPC nothing is known.
    pub fn new(node: Node, observation: Observation) -> Self {
        Self {
            node,
            observation,
            primary_ipv4: None,
            vpc_ipv4_cidrs: Vec::new(),
            vpc_ipv6_cidrs: Vec::new(),
            subnets: BTreeMap::new(),
        }
    }
}

setters!(Metadata {
    with_node node: Node,
    with_observation observation: Observation,
    with_primary_ipv4 primary_ipv4: Option<Ipv4Addr>,
    with_vpc_ipv4_cidrs vpc_ipv4_cidrs: Vec<Ipv4Net>,
    with_vpc_ipv6_cidrs vpc_ipv6_cidrs: Vec<Ipv6Net>,
    with_subnets subnets: BTreeMap<SubnetId, SubnetRanges>,
});

/// The ranges of a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SubnetRanges {
    /// Its IPv4 range; `None` if it is not known.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 range; `None` if it has none or it is not known.
    pub ipv6: Option<Ipv6Net>,
}

impl SubnetRanges {
    /// Returns the ranges of a subnet.
    pub fn new(ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> Self {
        Self { ipv4, ipv6 }
    }
}

setters!(SubnetRanges {
    with_ipv4 ipv4: Option<Ipv4Net>,
    with_ipv6 ipv6: Option<Ipv6Net>,
});
