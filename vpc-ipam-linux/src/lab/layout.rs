//! What a lab consists of before anything is plugged in.

use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::sim::Cloud;
use vpc_ipam_core::{EniId, InstanceId, SubnetId};

/// The subnets of a VPC, and the two instances in it that have a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The subnets of the VPC, each of which gets a bridge.
    pub subnets: Vec<Subnet>,
    /// The instance whose network is tried.
    pub node: Host,
    /// Another host of the VPC, for the node's pods to talk to.
    pub other_host: Host,
}

/// A subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The id that the model of the cloud gave it.
    pub id: SubnetId,
    /// Its IPv4 range. The router is the first address after the base, as EC2 has it.
    pub ipv4_cidr: Ipv4Net,
    /// Its IPv6 range, if it has one. The router is fe80:ec2::1, as for every subnet of EC2.
    pub ipv6_cidr: Option<Ipv6Net>,
}

/// An instance as its operating system knows it when it boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The id of the instance in the model of the cloud.
    pub instance: InstanceId,
    /// Its primary ENI.
    pub primary: EniId,
    /// What that ENI's own address is, which DHCP gives to the link.
    pub primary_ipv4: Ipv4Addr,
    /// The ENI's own IPv6 address, if it has one, which DHCPv6 gives to the link.
    pub primary_ipv6: Option<Ipv6Addr>,
}

/// A layout that the cloud has no answer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no such subnet.
    #[error("the cloud has no subnet {0}")]
    NoSubnet(SubnetId),
    /// There is no such instance.
    #[error("the cloud has no instance {0}")]
    NoInstance(InstanceId),
    /// The primary ENI of an instance has no IPv4 address.
    #[error("the primary ENI {0} has no IPv4 address")]
    NoAddress(EniId),
}

impl Layout {
    /// Reads a layout off the model of a cloud.
    pub fn of(
        cloud: &Cloud,
        subnets: impl IntoIterator<Item = SubnetId>,
        node: InstanceId,
        other_host: InstanceId,
    ) -> Result<Self, LayoutError> {
        let subnet = |id| {
            let found = cloud.subnet(&id).ok_or(LayoutError::NoSubnet(id))?;
            Ok(Subnet { id, ipv4_cidr: found.ipv4_cidr, ipv6_cidr: found.ipv6_cidr })
        };
        let host = |instance| {
            let found = cloud.instance(&instance).ok_or(LayoutError::NoInstance(instance))?;
            let primary = found.node.primary;
            let eni = cloud.interface(&primary);
            let primary_ipv4 = eni.and_then(|eni| eni.primary_ipv4);
            let primary_ipv4 = primary_ipv4.ok_or(LayoutError::NoAddress(primary))?;
            let primary_ipv6 = eni.and_then(|eni| eni.ipv6_addresses().next());
            Ok(Host { instance, primary, primary_ipv4, primary_ipv6 })
        };
        Ok(Self {
            subnets: subnets.into_iter().map(subnet).collect::<Result<_, _>>()?,
            node: host(node)?,
            other_host: host(other_host)?,
        })
    }

    /// Returns whether any subnet has an IPv6 range, so that the kernel must have IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.subnets.iter().any(|subnet| subnet.ipv6_cidr.is_some())
    }
}

impl Subnet {
    /// Returns the IPv4 address of the router.
    pub fn router(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.ipv4_cidr.network()).saturating_add(1))
    }
}
