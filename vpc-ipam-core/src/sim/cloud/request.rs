use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    AttachmentId, CreateNetworkInterface, EniAttribute, InterfaceType, Ipv4Amount, Limits,
    SecurityGroupId, SubnetId, VpcId, Zone,
};

/// What a subnet shall be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSubnet {
    /// The VPC to make it in.
    pub vpc: VpcId,
    /// The availability zone that its instances and ENIs are in.
    pub zone: Zone,
    /// Its IPv4 range, from /16 to /28, within the VPC's.
    pub ipv4_cidr: Ipv4Net,
    /// Its IPv6 range, a /64 within the VPC's.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// Tags to set at once.
    pub tags: BTreeMap<String, String>,
}

impl CreateSubnet {
    /// Asks for a subnet without IPv6 and tags.
    pub fn new(vpc: VpcId, zone: Zone, ipv4_cidr: Ipv4Net) -> Self {
        Self { vpc, zone, ipv4_cidr, ipv6_cidr: None, tags: BTreeMap::new() }
    }
}

/// What an instance shall be launched with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInstance {
    /// Its type and what that allows.
    pub limits: Limits,
    /// The subnet of its primary ENI.
    pub subnet: SubnetId,
    /// The security groups of its primary ENI; empty asks for the VPC's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its primary ENI's own IPv4 address; `None` leaves the choice to EC2.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// Tags to set at once.
    pub tags: BTreeMap<String, String>,
}

impl RunInstance {
    /// Asks for an instance with an address of EC2's choice, in the VPC's default security group.
    pub fn new(limits: Limits, subnet: SubnetId) -> Self {
        Self {
            limits,
            subnet,
            security_groups: Vec::new(),
            primary_ipv4: None,
            tags: BTreeMap::new(),
        }
    }
}

/// What an ENI shall be made with: [`CreateNetworkInterface`] and what other clients of EC2 may ask for besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateInterface {
    /// Makes a repeated call return the first call's ENI instead of a second one, while that ENI exists.
    pub client_token: Option<String>,
    /// The subnet to make it in, which decides its VPC and zone.
    pub subnet: SubnetId,
    /// Its security groups; empty asks for the VPC's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// A text that EC2 keeps and shows.
    pub description: String,
    /// Tags to set at once.
    pub tags: BTreeMap<String, String>,
    /// What it is for.
    pub interface_type: InterfaceType,
    /// Its own IPv4 address; `None` leaves the choice to EC2.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// IPv4 besides its own address.
    pub ipv4: Ipv4Request,
    /// IPv6 addresses or prefixes, where the subnet has an IPv6 range.
    pub ipv6: Ipv6Request,
}

impl CreateInterface {
    /// Asks for an ENI with nothing but its own IPv4 address.
    pub fn new(subnet: SubnetId) -> Self {
        Self {
            client_token: None,
            subnet,
            security_groups: Vec::new(),
            description: String::new(),
            tags: BTreeMap::new(),
            interface_type: InterfaceType::Interface,
            primary_ipv4: None,
            ipv4: Ipv4Request::default(),
            ipv6: Ipv6Request::default(),
        }
    }
}

impl From<&CreateNetworkInterface> for CreateInterface {
    fn from(action: &CreateNetworkInterface) -> Self {
        Self {
            client_token: Some(action.client_token.clone()),
            security_groups: action.security_groups.clone(),
            description: action.description.clone(),
            tags: action.tags.clone(),
            ipv4: Ipv4Request::Count(action.ipv4),
            ipv6: Ipv6Request::PrefixCount(action.ipv6_prefixes),
            ..Self::new(action.subnet)
        }
    }
}

/// Which IPv4 addresses or prefixes to add; EC2 takes one kind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipv4Request {
    /// That many, of EC2's choice.
    Count(Ipv4Amount),
    /// These: /32 for an address, /28 for a prefix.
    Blocks(Vec<Ipv4Net>),
}

impl Default for Ipv4Request {
    fn default() -> Self {
        Self::Count(Ipv4Amount::Addresses(0))
    }
}

impl Ipv4Request {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Count(Ipv4Amount::Addresses(count) | Ipv4Amount::Prefixes(count)) => {
                usize::from(*count)
            }
            Self::Blocks(blocks) => blocks.len(),
        }
    }

    pub(super) fn has_prefixes(&self) -> bool {
        match self {
            Self::Count(Ipv4Amount::Addresses(_)) => false,
            Self::Count(Ipv4Amount::Prefixes(count)) => *count > 0,
            Self::Blocks(blocks) => blocks.iter().any(|block| block.prefix_len() < 32),
        }
    }
}

/// Which IPv6 addresses or prefixes to add; EC2 takes one kind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipv6Request {
    /// That many addresses of EC2's choice.
    AddressCount(u16),
    /// That many /80 prefixes of EC2's choice.
    PrefixCount(u16),
    /// These: /128 for an address, /80 for a prefix.
    Blocks(Vec<Ipv6Net>),
}

impl Default for Ipv6Request {
    fn default() -> Self {
        Self::AddressCount(0)
    }
}

impl Ipv6Request {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::AddressCount(count) | Self::PrefixCount(count) => usize::from(*count),
            Self::Blocks(blocks) => blocks.len(),
        }
    }

    pub(super) fn has_prefixes(&self) -> bool {
        match self {
            Self::AddressCount(_) => false,
            Self::PrefixCount(count) => *count > 0,
            Self::Blocks(blocks) => blocks.iter().any(|block| block.prefix_len() < 128),
        }
    }
}

/// Which attribute of an ENI to change, and to what: [`EniAttribute`] and what other clients of EC2 may ask for besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModifyInterface {
    /// Decides whether the ENI goes when the instance goes.
    DeleteOnTermination {
        /// The ENI's present attachment; another's is refused.
        attachment: AttachmentId,
        /// Whether EC2 deletes it when the instance ends.
        value: bool,
    },
    /// Replaces the security groups.
    Groups(Vec<SecurityGroupId>),
}

impl From<&EniAttribute> for ModifyInterface {
    fn from(attribute: &EniAttribute) -> Self {
        match attribute {
            EniAttribute::DeleteOnTermination(attachment) => {
                Self::DeleteOnTermination { attachment: *attachment, value: true }
            }
            EniAttribute::Groups(groups) => Self::Groups(groups.clone()),
        }
    }
}
