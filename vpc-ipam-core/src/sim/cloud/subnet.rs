use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Cloud;
use super::request::{CreateSubnet, Ipv4Request, Ipv6Request};
use crate::sim::error::CloudError;
use crate::sim::rng::Rng;
use crate::sim::space::{Ipv4Space, Ipv6Space, Reservation};
use crate::{Ipv4Amount, ObservedSubnet, SecurityGroupId, SubnetId, Timestamp, VpcId, Zone};

/// A VPC: the ranges that its subnets are cut from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// The id, `vpc-` and 17 hexadecimal digits.
    pub id: VpcId,
    /// The IPv4 ranges, the first of which is the one it was made with.
    pub ipv4_cidrs: Vec<Ipv4Net>,
    /// The IPv6 ranges, of which each subnet may have a /64.
    pub ipv6_cidrs: Vec<Ipv6Net>,
    /// The security group of ENIs that are made without one.
    pub default_security_group: SecurityGroupId,
}

/// A subnet and the addresses taken in it.
#[derive(Clone, Debug)]
pub(super) struct Subnet {
    pub(super) id: SubnetId,
    pub(super) vpc: VpcId,
    pub(super) zone: Zone,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) ipv4: Ipv4Space,
    pub(super) ipv6: Option<Ipv6Space>,
}

impl From<&Subnet> for ObservedSubnet {
    fn from(subnet: &Subnet) -> Self {
        Self {
            id: subnet.id,
            vpc: subnet.vpc,
            zone: subnet.zone,
            ipv4_cidr: subnet.ipv4.net(),
            ipv6_cidr: subnet.ipv6.as_ref().map(Ipv6Space::net),
            ipv4_addresses_free: subnet.ipv4.free(),
            tags: subnet.tags.clone(),
        }
    }
}

impl Subnet {
    pub(super) fn take_ipv4(
        &mut self,
        request: &Ipv4Request,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv4Net>, CloudError> {
        match request {
            Ipv4Request::Count(Ipv4Amount::Addresses(count)) => self.ipv4.take_any(*count, rng),
            Ipv4Request::Count(Ipv4Amount::Prefixes(count)) => {
                self.ipv4.take_any_prefixes(*count, rng)
            }
            Ipv4Request::Blocks(blocks) => self.ipv4.take(blocks).map(|()| blocks.clone()),
        }
    }

    pub(super) fn take_ipv6(
        &mut self,
        request: &Ipv6Request,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv6Net>, CloudError> {
        if request.len() == 0 {
            return Ok(Vec::new());
        }
        let space = self.ipv6.as_mut().ok_or_else(|| CloudError::no_ipv6(self.id))?;
        match request {
            Ipv6Request::AddressCount(count) => space.take_any(*count, rng),
            Ipv6Request::PrefixCount(count) => space.take_any_prefixes(*count, rng),
            Ipv6Request::Blocks(blocks) => space.take(blocks).map(|()| blocks.clone()),
        }
    }

    pub(super) fn release(&mut self, block: IpNet) {
        match (block, &mut self.ipv6) {
            (IpNet::V4(net), _) => self.ipv4.release(net),
            (IpNet::V6(net), Some(space)) => space.release(net),
            (IpNet::V6(_), None) => {}
        }
    }
}

/// VPCs and subnets, which other programs than the address management of a node make.
impl Cloud {
    /// Makes a VPC with these ranges and a default security group.
    pub fn create_vpc(&mut self, ipv4_cidrs: Vec<Ipv4Net>, ipv6_cidrs: Vec<Ipv6Net>) -> VpcId {
        let id = self.new_id("vpc-");
        let default_security_group = self.new_id("sg-");
        self.security_groups.insert(default_security_group, id);
        self.vpcs.insert(id, Vpc { id, ipv4_cidrs, ipv6_cidrs, default_security_group });
        id
    }

    /// Makes a security group in a VPC.
    pub fn create_security_group(&mut self, vpc: VpcId) -> Result<SecurityGroupId, CloudError> {
        if !self.vpcs.contains_key(&vpc) {
            return Err(CloudError::no_vpc(vpc));
        }
        let id = self.new_id("sg-");
        self.security_groups.insert(id, vpc);
        Ok(id)
    }

    /// Makes a subnet in a VPC.
    pub fn create_subnet(&mut self, request: CreateSubnet) -> Result<SubnetId, CloudError> {
        let vpc = self.vpcs.get(&request.vpc).ok_or_else(|| CloudError::no_vpc(request.vpc))?;

        let ipv4 = Ipv4Space::new(request.ipv4_cidr)
            .filter(|space| vpc.ipv4_cidrs.iter().any(|cidr| cidr.contains(&space.net())))
            .ok_or_else(|| CloudError::subnet_range(request.ipv4_cidr))?;
        let ipv6 = match request.ipv6_cidr {
            None => None,
            Some(cidr) => Ipv6Space::new(cidr)
                .filter(|_| vpc.ipv6_cidrs.iter().any(|range| range.contains(&cidr)))
                .ok_or_else(|| CloudError::subnet_range(cidr))
                .map(Some)?,
        };
        for other in self.subnets.values().filter(|other| other.vpc == vpc.id) {
            let (cidr, taken) = (request.ipv4_cidr, other.ipv4.net());
            if cidr.contains(&taken) || taken.contains(&cidr) {
                return Err(CloudError::subnet_conflict(cidr));
            }
            let taken = other.ipv6.as_ref().map(Ipv6Space::net);
            if let Some(cidr) = request.ipv6_cidr.filter(|cidr| taken == Some(*cidr)) {
                return Err(CloudError::subnet_conflict(cidr));
            }
        }

        let id = self.new_id("subnet-");
        self.subnets.insert(
            id,
            Subnet { id, vpc: request.vpc, zone: request.zone, tags: request.tags, ipv4, ipv6 },
        );
        Ok(id)
    }

    /// Reserves a range of a subnet, a /28 or larger, for prefixes or for addresses that calls name.
    pub fn reserve(
        &mut self,
        subnet: SubnetId,
        range: Ipv4Net,
        reservation: Reservation,
    ) -> Result<(), CloudError> {
        let found = self.subnets.get_mut(&subnet).ok_or_else(|| CloudError::no_subnet(subnet))?;
        if found.ipv4.reserve(range, reservation) {
            Ok(())
        } else {
            Err(CloudError::subnet_range(range))
        }
    }
}

impl Cloud {
    /// Returns a VPC by its id.
    pub fn vpc(&self, id: &VpcId) -> Option<&Vpc> {
        self.vpcs.get(id)
    }

    /// Returns a subnet by its id, as DescribeSubnets shows it.
    pub fn subnet(&self, id: &SubnetId) -> Option<ObservedSubnet> {
        self.subnets.get(id).map(ObservedSubnet::from)
    }

    /// Returns these subnets, or all if none is named, sorted by id; one that does not exist fails the call.
    pub fn describe_subnets(
        &mut self,
        ids: &[SubnetId],
        _now: Timestamp,
    ) -> Result<Vec<ObservedSubnet>, CloudError> {
        if let Some(id) = ids.iter().find(|id| !self.subnets.contains_key(id)) {
            return Err(CloudError::no_subnet(*id));
        }
        let named = |id: &SubnetId| ids.is_empty() || ids.contains(id);
        Ok(self
            .subnets
            .values()
            .filter(|subnet| named(&subnet.id))
            .map(ObservedSubnet::from)
            .collect())
    }
}

impl Cloud {
    /// Returns the security groups that an ENI of the VPC gets when these are asked for.
    pub(super) fn check_groups(
        &self,
        groups: &[SecurityGroupId],
        vpc: VpcId,
    ) -> Result<Vec<SecurityGroupId>, CloudError> {
        let foreign = |group: &&SecurityGroupId| self.security_groups.get(group) != Some(&vpc);
        match groups.iter().find(foreign) {
            Some(group) => Err(CloudError::no_security_group(*group)),
            None if groups.is_empty() => Ok(vec![self.vpcs[&vpc].default_security_group]),
            None => Ok(groups.to_vec()),
        }
    }
}
