use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Cloud;
use super::request::{CreateInterface, ModifyInterface};
use crate::sim::error::CloudError;
use crate::{
    AttachmentId, AttachmentStatus, Card, DeviceIndex, EniId, InstanceId, InterfaceType, Mac,
    ObservedAttachment, ObservedEni, SecurityGroupId, SubnetId, Timestamp, VpcId, Zone,
};

/// An ENI with all that EC2 tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// The id, `eni-` and 17 hexadecimal digits.
    pub id: EniId,
    /// The MAC address of its link, unique in the cloud.
    pub mac: Mac,
    /// The VPC, which is its subnet's.
    pub vpc: VpcId,
    /// The subnet that all its addresses are of.
    pub subnet: SubnetId,
    /// Its availability zone, which is its subnet's.
    pub zone: Zone,
    /// What it is for.
    pub interface_type: InterfaceType,
    /// The text that its maker gave it.
    pub description: String,
    /// The security groups, in the order in which they were set.
    pub security_groups: Vec<SecurityGroupId>,
    /// Tags by key.
    pub tags: BTreeMap<String, String>,
    /// Its own IPv4 address; an EFA-only ENI has none.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// Secondary IPv4 addresses (/32) and prefixes (/28).
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6 addresses (/128), the first of which is its own, and prefixes (/80).
    pub ipv6: Vec<Ipv6Net>,
    /// Its attachment, if it has one.
    pub attachment: Option<Attachment>,
}

/// The attachment of an ENI to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The id, a new one each time the ENI is attached.
    pub id: AttachmentId,
    /// The instance to which it is attached.
    pub instance: InstanceId,
    /// The network card of the instance; 0 where a type has one.
    pub card: Card,
    /// The index on that card.
    pub device: DeviceIndex,
    /// How far attaching is: this cloud attaches and detaches at once.
    pub status: AttachmentStatus,
    /// Whether the ENI goes when the instance goes.
    pub delete_on_termination: bool,
    /// When it was made.
    pub since: Timestamp,
}

impl NetworkInterface {
    /// Returns its IPv6 addresses, its own first.
    pub fn ipv6_addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.ipv6.iter().filter(|net| net.prefix_len() == 128).map(Ipv6Net::addr)
    }
}

/// What DescribeNetworkInterfaces tells of it.
impl From<&NetworkInterface> for ObservedEni {
    fn from(eni: &NetworkInterface) -> Self {
        let ipv6_prefixes = eni.ipv6.iter().filter(|net| net.prefix_len() < 128);
        Self {
            id: eni.id,
            mac: eni.mac,
            subnet: eni.subnet,
            vpc: Some(eni.vpc),
            attachment: eni.attachment.as_ref().map(|attachment| ObservedAttachment {
                id: Some(attachment.id),
                instance: attachment.instance,
                card: attachment.card,
                device: attachment.device,
                status: attachment.status,
                delete_on_termination: Some(attachment.delete_on_termination),
            }),
            interface_type: eni.interface_type,
            primary_ipv4: eni.primary_ipv4,
            primary_ipv6: eni.ipv6_addresses().next(),
            blocks: (eni.ipv4.iter().copied().map(IpNet::V4))
                .chain(ipv6_prefixes.copied().map(IpNet::V6))
                .collect(),
            security_groups: eni.security_groups.clone(),
            tags: Some(eni.tags.clone()),
        }
    }
}

/// The operations on ENIs that address management calls.
impl Cloud {
    /// Makes an ENI with its addresses.
    pub fn create_network_interface(
        &mut self,
        request: &CreateInterface,
        now: Timestamp,
    ) -> Result<NetworkInterface, CloudError> {
        self.past.record(&self.enis, now);
        if let Some((before, eni)) =
            request.client_token.as_ref().and_then(|token| self.tokens.get(token))
        {
            return if before == request {
                Ok(self.enis[eni].clone())
            } else {
                Err(CloudError::token_reused())
            };
        }
        let eni = self.make_interface(request)?.clone();
        if let Some(token) = &request.client_token {
            self.tokens.insert(token.clone(), (request.clone(), eni.id));
        }
        Ok(eni)
    }

    /// Changes one attribute of an ENI.
    pub fn modify_network_interface_attribute(
        &mut self,
        id: EniId,
        request: &ModifyInterface,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        let vpc = self.interface_of(id)?.vpc;
        if let ModifyInterface::Groups(groups) = request {
            self.check_groups(groups, vpc)?;
        }
        let eni = self.enis.get_mut(&id).expect("the ENI was found above");
        match request {
            ModifyInterface::DeleteOnTermination { attachment, value } => {
                match &mut eni.attachment {
                    Some(own) if own.id == *attachment => own.delete_on_termination = *value,
                    _ if self.attachments.contains_key(attachment) => {
                        return Err(CloudError::not_its_attachment(*attachment, id));
                    }
                    _ => return Err(CloudError::no_attachment(*attachment)),
                }
            }
            ModifyInterface::Groups(groups) => eni.security_groups = groups.clone(),
        }
        Ok(())
    }

    /// Deletes an ENI that is attached to nothing.
    pub fn delete_network_interface(
        &mut self,
        eni: EniId,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        if self.interface_of(eni)?.attachment.is_some() {
            return Err(CloudError::still_attached(eni));
        }
        self.remove_interface(eni);
        Ok(())
    }

    /// Sets tags of ENIs, instances and subnets, named by their ids.
    pub fn create_tags(
        &mut self,
        resources: &[&str],
        tags: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        for resource in resources {
            if self.tags_of(resource).is_none() {
                return Err(match resource.parse() {
                    Ok(eni) if resource.starts_with("eni-") => CloudError::no_interfaces(&[eni]),
                    _ => CloudError::no_resource(resource),
                });
            }
        }
        for resource in resources {
            if let Some(found) = self.tags_of(resource) {
                found.extend(tags.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        Ok(())
    }

    /// Returns these ENIs, or all if none is named, sorted by id; one that does not exist fails the call.
    pub fn describe_network_interfaces(
        &mut self,
        ids: &[EniId],
        _now: Timestamp,
    ) -> Result<Vec<NetworkInterface>, CloudError> {
        let missing: Vec<_> =
            ids.iter().filter(|id| !self.enis.contains_key(id)).copied().collect();
        if !missing.is_empty() {
            return Err(CloudError::no_interfaces(&missing));
        }
        let named = |id: &EniId| ids.is_empty() || ids.contains(id);
        Ok(self.enis.values().filter(|eni| named(&eni.id)).cloned().collect())
    }
}

impl Cloud {
    /// Returns an ENI by its id.
    pub fn interface(&self, id: &EniId) -> Option<&NetworkInterface> {
        self.enis.get(id)
    }

    /// Returns all ENIs, sorted by id.
    pub fn interfaces(&self) -> impl Iterator<Item = &NetworkInterface> {
        self.enis.values()
    }
}

impl Cloud {
    /// Makes an ENI; with its addresses, or not at all.
    pub(super) fn make_interface(
        &mut self,
        request: &CreateInterface,
    ) -> Result<&NetworkInterface, CloudError> {
        let subnet = self
            .subnets
            .get(&request.subnet)
            .ok_or_else(|| CloudError::no_subnet(request.subnet))?;
        let (vpc, zone) = (subnet.vpc, subnet.zone);
        let groups = self.check_groups(&request.security_groups, vpc)?;

        let id = self.new_id("eni-");
        let mac = self.new_mac();
        let mut eni = NetworkInterface {
            id,
            mac,
            vpc,
            subnet: request.subnet,
            zone,
            interface_type: request.interface_type,
            description: request.description.clone(),
            security_groups: groups,
            tags: request.tags.clone(),
            primary_ipv4: None,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            attachment: None,
        };
        if let Err(error) = self.fill_interface(&mut eni, request) {
            self.release_blocks(&eni);
            return Err(error);
        }
        self.macs.insert(mac);
        Ok(self.enis.entry(id).or_insert(eni))
    }

    pub(super) fn remove_interface(&mut self, id: EniId) {
        let Some(eni) = self.enis.remove(&id) else {
            return;
        };
        self.release_blocks(&eni);
        self.macs.remove(&eni.mac);
        self.tokens.retain(|_, (_, made)| *made != id);
    }

    pub(super) fn interface_of(&self, id: EniId) -> Result<&NetworkInterface, CloudError> {
        self.enis.get(&id).ok_or_else(|| CloudError::no_interfaces(&[id]))
    }

    pub(super) fn tags_of(&mut self, resource: &str) -> Option<&mut BTreeMap<String, String>> {
        fn find<'a, I: FromStr + Ord, T>(
            map: &'a mut BTreeMap<I, T>,
            id: &str,
        ) -> Option<&'a mut T> {
            map.get_mut(&id.parse().ok()?)
        }
        match resource.split_once('-')?.0 {
            "eni" => find(&mut self.enis, resource).map(|eni| &mut eni.tags),
            "i" => find(&mut self.instances, resource).map(|instance| &mut instance.tags),
            "subnet" => find(&mut self.subnets, resource).map(|subnet| &mut subnet.tags),
            _ => None,
        }
    }

    /// Makes a MAC address that no ENI has, locally administered as EC2's are.
    pub(super) fn new_mac(&mut self) -> Mac {
        loop {
            let [a, b, c, d, e, ..] = self.rng.next().to_be_bytes();
            let mac = Mac([0x02, a, b, c, d, e]);
            if !self.macs.contains(&mac) {
                return mac;
            }
        }
    }
}
