//! The operations of the EC2 API.

use core::fmt;

use crate::Ec2Action;

/// An operation of the EC2 API; EC2 limits the rate of each apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Ec2Operation {
    /// Makes an ENI, with its first addresses.
    CreateNetworkInterface,
    /// Attaches an ENI to an instance.
    AttachNetworkInterface,
    /// Changes an attribute of an ENI.
    ModifyNetworkInterfaceAttribute,
    /// Adds IPv4 addresses or prefixes.
    AssignPrivateIpAddresses,
    /// Assigns IPv6 prefixes (/80) to an ENI.
    AssignIpv6Addresses,
    /// Gives IPv4 addresses or prefixes back.
    UnassignPrivateIpAddresses,
    /// Gives IPv6 prefixes back.
    UnassignIpv6Addresses,
    /// Detaches an ENI from its instance.
    DetachNetworkInterface,
    /// Deletes an ENI that is attached to nothing.
    DeleteNetworkInterface,
    /// Sets tags of an ENI.
    CreateTags,
    /// Lists ENIs by a filter or by their ids.
    DescribeNetworkInterfaces,
    /// Lists the subnets of a VPC and zone.
    DescribeSubnets,
    /// Lists instances; the core never asks for it.
    DescribeInstances,
    /// Lists instance types with their limits; the core never asks for it.
    DescribeInstanceTypes,
}

impl Ec2Operation {
    /// Those that the core asks for.
    pub(crate) const ASKED: [Self; 12] = [
        Self::CreateNetworkInterface,
        Self::AttachNetworkInterface,
        Self::ModifyNetworkInterfaceAttribute,
        Self::AssignPrivateIpAddresses,
        Self::AssignIpv6Addresses,
        Self::UnassignPrivateIpAddresses,
        Self::UnassignIpv6Addresses,
        Self::DetachNetworkInterface,
        Self::DeleteNetworkInterface,
        Self::CreateTags,
        Self::DescribeNetworkInterfaces,
        Self::DescribeSubnets,
    ];

    /// Returns the operation's name in the EC2 API.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateNetworkInterface => "CreateNetworkInterface",
            Self::AttachNetworkInterface => "AttachNetworkInterface",
            Self::ModifyNetworkInterfaceAttribute => "ModifyNetworkInterfaceAttribute",
            Self::AssignPrivateIpAddresses => "AssignPrivateIpAddresses",
            Self::AssignIpv6Addresses => "AssignIpv6Addresses",
            Self::UnassignPrivateIpAddresses => "UnassignPrivateIpAddresses",
            Self::UnassignIpv6Addresses => "UnassignIpv6Addresses",
            Self::DetachNetworkInterface => "DetachNetworkInterface",
            Self::DeleteNetworkInterface => "DeleteNetworkInterface",
            Self::CreateTags => "CreateTags",
            Self::DescribeNetworkInterfaces => "DescribeNetworkInterfaces",
            Self::DescribeSubnets => "DescribeSubnets",
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeInstanceTypes => "DescribeInstanceTypes",
        }
    }

    /// Returns whether it only reads.
    pub fn reads(self) -> bool {
        matches!(
            self,
            Self::DescribeNetworkInterfaces
                | Self::DescribeSubnets
                | Self::DescribeInstances
                | Self::DescribeInstanceTypes
        )
    }
}

impl fmt::Display for Ec2Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Ec2Action {
    /// Returns the EC2 operation that it costs one call of; reading the metadata costs none.
    pub fn operation(&self) -> Option<Ec2Operation> {
        Some(match self {
            Self::CreateNetworkInterface(_) => Ec2Operation::CreateNetworkInterface,
            Self::AttachNetworkInterface(_) => Ec2Operation::AttachNetworkInterface,
            Self::ModifyNetworkInterfaceAttribute(_) => {
                Ec2Operation::ModifyNetworkInterfaceAttribute
            }
            Self::AssignPrivateIpAddresses(_) => Ec2Operation::AssignPrivateIpAddresses,
            Self::AssignIpv6Addresses(_) => Ec2Operation::AssignIpv6Addresses,
            Self::UnassignPrivateIpAddresses(_) => Ec2Operation::UnassignPrivateIpAddresses,
            Self::UnassignIpv6Addresses(_) => Ec2Operation::UnassignIpv6Addresses,
            Self::DetachNetworkInterface(_) => Ec2Operation::DetachNetworkInterface,
            Self::DeleteNetworkInterface(_) => Ec2Operation::DeleteNetworkInterface,
            Self::CreateTags(_) => Ec2Operation::CreateTags,
            Self::DescribeNetworkInterfaces(_) => Ec2Operation::DescribeNetworkInterfaces,
            Self::DescribeSubnets => Ec2Operation::DescribeSubnets,
            Self::ReadMetadata => return None,
        })
    }
}
