//! What adapters are asked to do. Every action is fully specified: an executor translates it and chooses nothing.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    AttachmentId, Card, DeviceIndex, EniId, InstanceId, Mac, Scope, SecurityGroupId, SubnetId,
};

/// Names one action until its outcome is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct ActionId(pub u64);

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One thing to do, with nothing left to choose.
///
/// The enums of actions are exhaustive on purpose: an adapter that does not know a new one should not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Action {
    /// For the executor of EC2 calls.
    Ec2(Ec2Action),
    /// For the executor of kernel changes on the node.
    Host(HostAction),
}

/// One call to EC2, named after its operation, or one reading of the instance's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Ec2Action {
    /// Makes an ENI together with its addresses; it is not attached yet.
    CreateNetworkInterface(CreateNetworkInterface),
    /// Attaches an ENI to the instance.
    AttachNetworkInterface(AttachNetworkInterface),
    /// Changes an attribute of an ENI.
    ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttribute),
    /// Adds secondary IPv4 addresses or /28 prefixes to an ENI.
    AssignPrivateIpAddresses(AssignPrivateIpAddresses),
    /// Adds /80 prefixes to an ENI.
    AssignIpv6Addresses(AssignIpv6Addresses),
    /// Releases secondary IPv4 addresses and /28 prefixes of one ENI.
    UnassignPrivateIpAddresses(UnassignPrivateIpAddresses),
    /// Releases /80 prefixes of one ENI.
    UnassignIpv6Addresses(UnassignIpv6Addresses),
    /// Detaches an ENI from the instance; never forced.
    DetachNetworkInterface(DetachNetworkInterface),
    /// Deletes an ENI that is attached to nothing.
    DeleteNetworkInterface(DeleteNetworkInterface),
    /// Sets tags of an ENI.
    CreateTags(CreateTags),
    /// Asks EC2 what ENIs there are; its effect is an observation.
    DescribeNetworkInterfaces(Scope),
    /// Asks EC2 for the subnets of the instance's VPC and zone.
    DescribeSubnets,
    /// Asks the metadata service what ENIs there are; costs no EC2 call.
    ReadMetadata,
}

/// How many blocks of IPv4 to ask for; EC2 takes one kind a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Ipv4Amount {
    /// Secondary addresses (/32).
    Addresses(u16),
    /// Prefixes (/28, 16 addresses each).
    Prefixes(u16),
}

/// How many addresses a /28 prefix has.
pub(crate) const PREFIX_SIZE: u32 = 16;

/// The call CreateNetworkInterface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CreateNetworkInterface {
    /// Makes a repeated call return the first call's ENI instead of a second one.
    pub client_token: String,
    /// The subnet, which decides the availability zone too.
    pub subnet: SubnetId,
    /// Its security groups; empty asks for the VPC's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its description, by which people find it in the console.
    pub description: String,
    /// Its tags, set in the same call, so that no crash leaves an ENI without an owner.
    pub tags: BTreeMap<String, String>,
    /// Secondary IPv4 addresses or prefixes, besides the ENI's own address.
    pub ipv4: Ipv4Amount,
    /// Prefixes of IPv6 (/80).
    pub ipv6_prefixes: u16,
}

/// The call AttachNetworkInterface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AttachNetworkInterface {
    /// The ENI to attach.
    pub eni: EniId,
    /// The instance to attach it to, which is the node.
    pub instance: InstanceId,
    /// The network card of the instance, 0 on most types.
    pub card: Card,
    /// The index on that card.
    pub device: DeviceIndex,
}

/// The call ModifyNetworkInterfaceAttribute, which takes one attribute at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ModifyNetworkInterfaceAttribute {
    /// The ENI whose attribute changes.
    pub eni: EniId,
    /// The one attribute that a call changes, with its new value.
    pub attribute: EniAttribute,
}

/// An attribute of an ENI and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum EniAttribute {
    /// Has EC2 delete the ENI with the instance.
    DeleteOnTermination(AttachmentId),
    /// Replaces the security groups.
    Groups(Vec<SecurityGroupId>),
}

/// The call AssignPrivateIpAddresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AssignPrivateIpAddresses {
    /// The ENI that gets addresses or prefixes.
    pub eni: EniId,
    /// How many; EC2 gives all or none.
    pub amount: Ipv4Amount,
}

/// The call AssignIpv6Addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AssignIpv6Addresses {
    /// The ENI that gets prefixes.
    pub eni: EniId,
    /// How many /80 prefixes.
    pub prefixes: u16,
}

/// The call UnassignPrivateIpAddresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnassignPrivateIpAddresses {
    /// The ENI that loses them.
    pub eni: EniId,
    /// What to release: /32 for an address, /28 for a prefix.
    pub blocks: Vec<Ipv4Net>,
}

/// The call UnassignIpv6Addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnassignIpv6Addresses {
    /// The ENI that loses them.
    pub eni: EniId,
    /// What to release: /80 prefixes.
    pub prefixes: Vec<Ipv6Net>,
}

/// The call DetachNetworkInterface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DetachNetworkInterface {
    /// The ENI to detach.
    pub eni: EniId,
    /// Its attachment, which is what EC2 wants to be told.
    pub attachment: AttachmentId,
}

/// The call DeleteNetworkInterface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeleteNetworkInterface {
    /// The ENI to delete, which is attached to nothing.
    pub eni: EniId,
}

/// The call CreateTags, for one ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CreateTags {
    /// The ENI that gets the tags.
    pub eni: EniId,
    /// The tags that are missing or differ.
    pub tags: BTreeMap<String, String>,
}

/// One change to the node's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum HostAction {
    /// Configures the link of a secondary ENI: address, route table, rule.
    SetUpEni(EniLink),
    /// Removes what [`HostAction::SetUpEni`] made and the kernel does not remove with the link.
    RemoveEni(EniLink),
}

/// A secondary ENI as the kernel needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EniLink {
    /// The ENI that the link belongs to.
    pub eni: EniId,
    /// The MAC address, by which the kernel's link is found.
    pub mac: Mac,
    /// The network card of the instance, 0 on most types.
    pub card: Card,
    /// The index on that card; with the card it decides the route table.
    pub device: DeviceIndex,
    /// Whether it is a trunk, which gets no source rule.
    pub trunk: bool,
    /// The ENI's own IPv4 address.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// The ENI's own IPv6 address, if it has one and pods use IPv6.
    pub primary_ipv6: Option<Ipv6Addr>,
    /// The subnet's IPv4 range.
    pub subnet_ipv4: Option<Ipv4Net>,
    /// The subnet's IPv6 range, if it has one and pods use IPv6.
    pub subnet_ipv6: Option<Ipv6Net>,
    /// The link's MTU in bytes.
    pub mtu: u16,
}

/// For people; [`Ec2Action`] and [`HostAction`] are for code.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ec2(action) => action.fmt(f),
            Self::Host(action) => action.fmt(f),
        }
    }
}

impl fmt::Display for Ec2Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetworkInterface(call) => {
                write!(f, "create an ENI with {} in {}", call.ipv4, call.subnet)
            }
            Self::AttachNetworkInterface(call) => {
                write!(f, "attach {} as {} of {}", call.eni, call.device, call.card)
            }
            Self::ModifyNetworkInterfaceAttribute(call) => match &call.attribute {
                EniAttribute::DeleteOnTermination(_) => {
                    write!(f, "delete {} with the instance", call.eni)
                }
                EniAttribute::Groups(groups) => {
                    write!(f, "set {} security groups of {}", groups.len(), call.eni)
                }
            },
            Self::AssignPrivateIpAddresses(call) => {
                write!(f, "assign {} to {}", call.amount, call.eni)
            }
            Self::AssignIpv6Addresses(call) => {
                write!(
                    f,
                    "assign {} IPv6 {} to {}",
                    call.prefixes,
                    prefixes(call.prefixes),
                    call.eni
                )
            }
            Self::UnassignPrivateIpAddresses(call) => {
                let (count, eni) = (call.blocks.len(), call.eni);
                let single = call.blocks.iter().all(|block| block.prefix_len() == 32);
                let whole = call.blocks.iter().all(|block| block.prefix_len() < 32);
                match (single, whole) {
                    (true, _) if count == 1 => write!(f, "release 1 address of {eni}"),
                    (true, _) => write!(f, "release {count} addresses of {eni}"),
                    (_, true) => write!(f, "release {count} {} of {eni}", prefixes(count as u16)),
                    _ => write!(f, "release {count} addresses and prefixes of {eni}"),
                }
            }
            Self::UnassignIpv6Addresses(call) => {
                let count = call.prefixes.len();
                write!(f, "release {count} IPv6 {} of {}", prefixes(count as u16), call.eni)
            }
            Self::DetachNetworkInterface(call) => write!(f, "detach {}", call.eni),
            Self::DeleteNetworkInterface(call) => write!(f, "delete {}", call.eni),
            Self::CreateTags(call) => write!(f, "set {} tags of {}", call.tags.len(), call.eni),
            Self::DescribeNetworkInterfaces(Scope::Attached) => {
                f.write_str("ask EC2 for the ENIs of the instance")
            }
            Self::DescribeNetworkInterfaces(Scope::Unattached) => {
                f.write_str("ask EC2 for ENIs that were left unattached")
            }
            Self::DescribeNetworkInterfaces(Scope::Only(enis)) => {
                write!(f, "ask EC2 for {} ENIs by id", enis.len())
            }
            Self::DescribeSubnets => f.write_str("ask EC2 for the subnets"),
            Self::ReadMetadata => f.write_str("read the instance's metadata"),
        }
    }
}

fn prefixes(count: u16) -> &'static str {
    if count == 1 { "prefix" } else { "prefixes" }
}

impl fmt::Display for HostAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUpEni(link) => write!(f, "set up the link of {}", link.eni),
            Self::RemoveEni(link) => write!(f, "remove the rules of {}", link.eni),
        }
    }
}

impl fmt::Display for Ipv4Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(1) => f.write_str("1 address"),
            Self::Addresses(count) => write!(f, "{count} addresses"),
            Self::Prefixes(1) => f.write_str("1 prefix"),
            Self::Prefixes(count) => write!(f, "{count} prefixes"),
        }
    }
}
