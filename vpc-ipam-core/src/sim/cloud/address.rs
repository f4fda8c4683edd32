use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Cloud;
use super::interface::NetworkInterface;
use super::request::{CreateInterface, Ipv4Request, Ipv6Request};
use super::subnet::Subnet;
use crate::sim::error::CloudError;
use crate::{
    EniId, InterfaceType, Ipv4Amount, Limits, SubnetId, Timestamp, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses,
};

/// The operations on the addresses of ENIs that address management calls.
impl Cloud {
    /// Adds secondary addresses or /28 prefixes to an ENI, and returns what was added.
    pub fn assign_private_ip_addresses(
        &mut self,
        eni: EniId,
        request: &Ipv4Request,
        now: Timestamp,
    ) -> Result<Vec<Ipv4Net>, CloudError> {
        self.past.record(&self.enis, now);
        self.check_assign(eni, request.len(), 0, request.has_prefixes())?;
        let eni = self.enis.get_mut(&eni).expect("the ENI was found above");
        let added = subnet_of(&mut self.subnets, eni).take_ipv4(request, &mut self.rng)?;
        eni.ipv4.extend(&added);
        Ok(added)
    }

    /// Adds IPv6 addresses or /80 prefixes to an ENI, and returns what was added.
    pub fn assign_ipv6_addresses(
        &mut self,
        eni: EniId,
        request: &Ipv6Request,
        now: Timestamp,
    ) -> Result<Vec<Ipv6Net>, CloudError> {
        self.past.record(&self.enis, now);
        self.check_assign(eni, 0, request.len(), request.has_prefixes())?;
        let eni = self.enis.get_mut(&eni).expect("the ENI was found above");
        let added = subnet_of(&mut self.subnets, eni).take_ipv6(request, &mut self.rng)?;
        eni.ipv6.extend(&added);
        Ok(added)
    }

    /// Takes secondary addresses and /28 prefixes from an ENI.
    pub fn unassign_private_ip_addresses(
        &mut self,
        request: &UnassignPrivateIpAddresses,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        let eni = self.interface_of(request.eni)?;
        for block in &request.blocks {
            if eni.primary_ipv4.map(Ipv4Net::from) == Some(*block) {
                return Err(CloudError::primary_address(eni.id));
            }
            if !eni.ipv4.contains(block) {
                return Err(CloudError::not_assigned(IpNet::V4(*block), eni.id));
            }
        }
        let eni = self.enis.get_mut(&request.eni).expect("the ENI was found above");
        let subnet = subnet_of(&mut self.subnets, eni);
        eni.ipv4.retain(|block| {
            let keep = !request.blocks.contains(block);
            if !keep {
                subnet.release(IpNet::V4(*block));
            }
            keep
        });
        Ok(())
    }

    /// Takes IPv6 addresses (/128) and /80 prefixes from an ENI.
    pub fn unassign_ipv6_addresses(
        &mut self,
        request: &UnassignIpv6Addresses,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        let eni = self.interface_of(request.eni)?;
        if let Some(block) = request.prefixes.iter().find(|block| !eni.ipv6.contains(block)) {
            return Err(CloudError::not_assigned(IpNet::V6(*block), eni.id));
        }
        let eni = self.enis.get_mut(&request.eni).expect("the ENI was found above");
        let subnet = subnet_of(&mut self.subnets, eni);
        eni.ipv6.retain(|block| {
            let keep = !request.prefixes.contains(block);
            if !keep {
                subnet.release(IpNet::V6(*block));
            }
            keep
        });
        Ok(())
    }
}

impl Cloud {
    /// Takes the addresses of a new ENI; where it fails, the ENI holds what it took so far.
    pub(super) fn fill_interface(
        &mut self,
        eni: &mut NetworkInterface,
        request: &CreateInterface,
    ) -> Result<(), CloudError> {
        if request.interface_type == InterfaceType::EfaOnly {
            let none = request.ipv4.len() == 0 && request.ipv6.len() == 0;
            return if none && request.primary_ipv4.is_none() {
                Ok(())
            } else {
                Err(CloudError::no_addresses_on(eni.id))
            };
        }
        let own = match request.primary_ipv4 {
            Some(address) => Ipv4Request::Blocks(vec![address.into()]),
            None => Ipv4Request::Count(Ipv4Amount::Addresses(1)),
        };
        let subnet = subnet_of(&mut self.subnets, eni);
        eni.primary_ipv4 = subnet.take_ipv4(&own, &mut self.rng)?.first().map(Ipv4Net::addr);
        eni.ipv4 = subnet.take_ipv4(&request.ipv4, &mut self.rng)?;
        eni.ipv6 = subnet.take_ipv6(&request.ipv6, &mut self.rng)?;
        Ok(())
    }

    pub(super) fn release_blocks(&mut self, eni: &NetworkInterface) {
        let subnet = subnet_of(&mut self.subnets, eni);
        let own = eni.primary_ipv4.map(Ipv4Net::from);
        own.iter().chain(&eni.ipv4).for_each(|net| subnet.release(IpNet::V4(*net)));
        eni.ipv6.iter().for_each(|net| subnet.release(IpNet::V6(*net)));
    }

    /// Checks that an ENI exists and may take that many blocks more. The limits are those of the instance: an ENI that
    /// is attached to none has none.
    pub(super) fn check_assign(
        &self,
        eni: EniId,
        ipv4: usize,
        ipv6: usize,
        prefixes: bool,
    ) -> Result<(), CloudError> {
        let eni = self.interface_of(eni)?;
        if eni.interface_type == InterfaceType::EfaOnly {
            return Err(CloudError::no_addresses_on(eni.id));
        }
        let instance =
            eni.attachment.as_ref().and_then(|attachment| self.instances.get(&attachment.instance));
        match instance {
            None => Ok(()),
            Some(instance) => {
                check_prefixes(&instance.limits, prefixes)?;
                check_room(&instance.limits, eni, ipv4, ipv6)
            }
        }
    }
}

/// Returns the subnet of an ENI. It is no method, so that the rest of the cloud can be used besides.
fn subnet_of<'a>(
    subnets: &'a mut BTreeMap<SubnetId, Subnet>,
    eni: &NetworkInterface,
) -> &'a mut Subnet {
    subnets.get_mut(&eni.subnet).expect("an ENI is made in a subnet, and subnets are not deleted")
}

/// Checks that an ENI on an instance with these limits may have that many blocks more.
pub(super) fn check_room(
    limits: &Limits,
    eni: &NetworkInterface,
    ipv4: usize,
    ipv6: usize,
) -> Result<(), CloudError> {
    let own = usize::from(eni.primary_ipv4.is_some());
    let ipv4_fits = own + eni.ipv4.len() + ipv4 <= usize::from(limits.ipv4_per_eni);
    let ipv6_fits = eni.ipv6.len() + ipv6 <= usize::from(limits.ipv6_per_eni);
    if ipv4_fits && ipv6_fits { Ok(()) } else { Err(CloudError::address_limit()) }
}

pub(super) fn check_prefixes(limits: &Limits, wanted: bool) -> Result<(), CloudError> {
    if wanted && !limits.prefixes() {
        Err(CloudError::no_prefixes_on(limits.instance_type))
    } else {
        Ok(())
    }
}
