use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::CloudError;
use super::fabric::{Change, Told};
use super::fault::Past;
use super::rng::Rng;
use super::space::{Ipv4Space, Ipv6Space, Reservation};
use crate::{
    AttachNetworkInterface, AttachmentId, AttachmentStatus, Card, CreateNetworkInterface,
    DeviceIndex, EniAttribute, EniId, IncompleteEni, InstanceId, InstanceType, InterfaceType,
    Ipv4Amount, Limits, Mac, Metadata, Node, Observation, ObservedAttachment, ObservedEni,
    ObservedSubnet, Scope, SecurityGroupId, Source, SubnetId, SubnetRanges, Timestamp,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses, VpcId, Zone,
};

/// One region of EC2, as far as ENIs and their addresses go.
///
/// Its operations are named for EC2's, take the time of the call, and do all or nothing. Every change is there at once
/// and every answer is true; what EC2 does late or wrongly is a [`Fault`](super::Fault), which
/// [`Cloud::execute_with`] adds.
#[derive(Clone, Debug)]
pub struct Cloud {
    rng: Rng,
    vpcs: BTreeMap<VpcId, Vpc>,
    security_groups: BTreeMap<SecurityGroupId, VpcId>,
    subnets: BTreeMap<SubnetId, Subnet>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    pub(super) enis: BTreeMap<EniId, NetworkInterface>,
    attachments: BTreeMap<AttachmentId, EniId>,
    macs: BTreeSet<Mac>,
    /// Client tokens of the ENIs that exist.
    tokens: BTreeMap<String, (CreateInterface, EniId)>,
    told: Told,
    pub(super) past: Past,
    /// What the metadata service does not tell of ENIs that it lists.
    withheld: BTreeMap<EniId, String>,
}

/// A VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// Its IPv4 ranges.
    pub ipv4_cidrs: Vec<Ipv4Net>,
    /// Its IPv6 ranges.
    pub ipv6_cidrs: Vec<Ipv6Net>,
    /// The security group of ENIs that are made without one.
    pub default_security_group: SecurityGroupId,
}

/// What a subnet shall be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSubnet {
    /// Its VPC.
    pub vpc: VpcId,
    /// Its availability zone.
    pub zone: Zone,
    /// Its IPv4 range, from /16 to /28, within the VPC's.
    pub ipv4_cidr: Ipv4Net,
    /// Its IPv6 range, a /64 within the VPC's.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// Its tags.
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
    /// Its tags.
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

/// An instance; it runs for as long as it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its type and what that allows.
    pub limits: Limits,
    /// What does not change while it lives.
    pub node: Node,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// When it was launched.
    pub launched: Timestamp,
    /// The ENIs attached to it, its primary one included.
    pub enis: BTreeSet<EniId>,
}

/// What an ENI shall be made with: [`CreateNetworkInterface`] and what other clients of EC2 may ask for besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateInterface {
    /// Makes a repeated call return the first call's ENI instead of a second one, while that ENI exists.
    pub client_token: Option<String>,
    /// Where.
    pub subnet: SubnetId,
    /// Its security groups; empty asks for the VPC's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it is for.
    pub interface_type: InterfaceType,
    /// Its own IPv4 address; `None` leaves the choice to EC2.
    pub primary_ipv4: Option<Ipv4Addr>,
    /// IPv4 besides its own address.
    pub ipv4: Ipv4Request,
    /// IPv6.
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
    /// Asks for none.
    fn default() -> Self {
        Self::Count(Ipv4Amount::Addresses(0))
    }
}

impl Ipv4Request {
    fn len(&self) -> usize {
        match self {
            Self::Count(Ipv4Amount::Addresses(count) | Ipv4Amount::Prefixes(count)) => {
                usize::from(*count)
            }
            Self::Blocks(blocks) => blocks.len(),
        }
    }

    fn has_prefixes(&self) -> bool {
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
    /// Asks for none.
    fn default() -> Self {
        Self::AddressCount(0)
    }
}

impl Ipv6Request {
    fn len(&self) -> usize {
        match self {
            Self::AddressCount(count) | Self::PrefixCount(count) => usize::from(*count),
            Self::Blocks(blocks) => blocks.len(),
        }
    }

    fn has_prefixes(&self) -> bool {
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
        /// Its attachment.
        attachment: AttachmentId,
        /// Whether it goes.
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

/// An ENI with all that EC2 tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: Mac,
    /// Its VPC.
    pub vpc: VpcId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its availability zone, which is its subnet's.
    pub zone: Zone,
    /// What it is for.
    pub interface_type: InterfaceType,
    /// Its description.
    pub description: String,
    /// Its security groups.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its tags.
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
    /// Its id.
    pub id: AttachmentId,
    /// The instance.
    pub instance: InstanceId,
    /// The network card.
    pub card: Card,
    /// The index on that card.
    pub device: DeviceIndex,
    /// How far it is.
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

/// A subnet and the addresses taken in it.
#[derive(Clone, Debug)]
struct Subnet {
    id: SubnetId,
    vpc: VpcId,
    zone: Zone,
    tags: BTreeMap<String, String>,
    ipv4: Ipv4Space,
    ipv6: Option<Ipv6Space>,
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
    fn take_ipv4(
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

    fn take_ipv6(
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

    fn release(&mut self, block: IpNet) {
        match (block, &mut self.ipv6) {
            (IpNet::V4(net), _) => self.ipv4.release(net),
            (IpNet::V6(net), Some(space)) => space.release(net),
            (IpNet::V6(_), None) => {}
        }
    }
}

/// The set-up: what other programs than the address management of a node do.
impl Cloud {
    /// Makes a cloud with nothing in it; ids and addresses are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            vpcs: BTreeMap::new(),
            security_groups: BTreeMap::new(),
            subnets: BTreeMap::new(),
            instances: BTreeMap::new(),
            enis: BTreeMap::new(),
            attachments: BTreeMap::new(),
            macs: BTreeSet::new(),
            tokens: BTreeMap::new(),
            told: Told::default(),
            past: Past::default(),
            withheld: BTreeMap::new(),
        }
    }

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

    /// Launches an instance with its primary ENI: device 0 of the type's default card.
    pub fn run_instance(
        &mut self,
        request: RunInstance,
        now: Timestamp,
    ) -> Result<InstanceId, CloudError> {
        let primary = self.make_interface(&CreateInterface {
            security_groups: request.security_groups,
            primary_ipv4: request.primary_ipv4,
            ..CreateInterface::new(request.subnet)
        })?;
        let (eni, vpc, zone) = (primary.id, primary.vpc, primary.zone);
        let id = self.new_id("i-");
        let card = request.limits.default_card;
        self.instances.insert(
            id,
            Instance {
                node: Node {
                    instance: id,
                    instance_type: request.limits.instance_type,
                    zone,
                    vpc,
                    primary: eni,
                    subnet: request.subnet,
                },
                limits: request.limits,
                tags: request.tags,
                launched: now,
                enis: BTreeSet::new(),
            },
        );
        self.attach(eni, id, card, DeviceIndex(0), now);
        if let Some(attachment) = self.enis.get_mut(&eni).and_then(|eni| eni.attachment.as_mut()) {
            attachment.delete_on_termination = true;
        }
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

    /// Makes an instance one of another type, as is possible while it is stopped. Its ENIs stay attached, so EC2 starts it
    /// only if the new type can hold them.
    pub fn resize_instance(&mut self, id: InstanceId, limits: Limits) -> Result<(), CloudError> {
        let instance = self.instances.get(&id).ok_or_else(|| CloudError::no_instance(id))?;
        for card in instance.limits.cards() {
            let on_card = instance.enis.iter().filter_map(|id| self.enis[id].attachment.as_ref());
            let count = on_card.filter(|attachment| attachment.card == card).count();
            if count > usize::from(limits.enis(card)) {
                return Err(CloudError::interface_limit(count, limits.instance_type));
            }
        }
        for eni in instance.enis.iter().map(|id| &self.enis[id]) {
            check_room(&limits, eni, 0, 0)?;
            check_prefixes(&limits, eni.ipv4.iter().any(|net| net.prefix_len() < 32))?;
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.node.instance_type = limits.instance_type;
            instance.limits = limits;
        }
        Ok(())
    }

    /// Ends an instance: ENIs that are to go with it go, the others stay unattached.
    pub fn terminate_instance(&mut self, id: InstanceId) -> Result<(), CloudError> {
        let instance = self.instances.remove(&id).ok_or_else(|| CloudError::no_instance(id))?;
        for eni in instance.enis {
            let attachment = self.enis.get_mut(&eni).and_then(|eni| eni.attachment.take());
            let Some(attachment) = attachment else {
                continue;
            };
            self.attachments.remove(&attachment.id);
            if attachment.delete_on_termination {
                self.remove_interface(eni);
            }
        }
        Ok(())
    }
}

/// The operations that address management calls.
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

    /// Attaches an ENI to an instance.
    pub fn attach_network_interface(
        &mut self,
        request: &AttachNetworkInterface,
        now: Timestamp,
    ) -> Result<AttachmentId, CloudError> {
        self.past.record(&self.enis, now);
        let eni = self.interface_of(request.eni)?;
        let instance = self
            .instances
            .get(&request.instance)
            .ok_or_else(|| CloudError::no_instance(request.instance))?;
        let limits = &instance.limits;
        let (card, device) = (request.card, request.device);

        if eni.attachment.is_some() {
            return Err(CloudError::attached_already(eni.id));
        }
        if eni.zone != instance.node.zone {
            return Err(CloudError::other_zone());
        }
        if limits.enis(card) == 0 {
            return Err(CloudError::no_card(card.0, limits.instance_type));
        }
        let on_card: Vec<_> = instance
            .enis
            .iter()
            .filter_map(|id| self.enis[id].attachment.as_ref())
            .filter(|attachment| attachment.card == card)
            .collect();
        if on_card.iter().any(|attachment| attachment.device == device) {
            return Err(CloudError::device_taken(request.instance, device.0));
        }
        if on_card.len() >= usize::from(limits.enis(card)) {
            // EC2 counts the interface that it refuses.
            let count = on_card.len() + 1;
            return Err(CloudError::interface_limit(count, limits.instance_type));
        }
        check_room(limits, eni, 0, 0)?;
        check_prefixes(
            limits,
            eni.ipv4.iter().any(|net| net.prefix_len() < 32)
                || eni.ipv6.iter().any(|net| net.prefix_len() < 128),
        )?;

        Ok(self.attach(request.eni, request.instance, card, device, now))
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

    /// Detaches an ENI from its instance.
    pub fn detach_network_interface(
        &mut self,
        attachment: AttachmentId,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        let no_attachment = || CloudError::no_attachment(attachment);
        let id = *self.attachments.get(&attachment).ok_or_else(no_attachment)?;
        let eni = self.enis.get_mut(&id).ok_or_else(no_attachment)?;
        let instance = eni
            .attachment
            .as_ref()
            .and_then(|attachment| self.instances.get_mut(&attachment.instance))
            .ok_or_else(no_attachment)?;
        if instance.node.primary == id {
            return Err(CloudError::primary_interface());
        }
        instance.enis.remove(&id);
        eni.attachment = None;
        self.attachments.remove(&attachment);
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

    /// Returns these instances, or all if none is named, sorted by id; one that does not exist fails the call.
    pub fn describe_instances(
        &mut self,
        ids: &[InstanceId],
        _now: Timestamp,
    ) -> Result<Vec<Instance>, CloudError> {
        if let Some(id) = ids.iter().find(|id| !self.instances.contains_key(id)) {
            return Err(CloudError::no_instance(*id));
        }
        let named = |id: &InstanceId| ids.is_empty() || ids.contains(id);
        Ok(self
            .instances
            .values()
            .filter(|instance| named(&instance.node.instance))
            .cloned()
            .collect())
    }

    /// Returns the limits of these types, or of all that the built-in table has if none is named; one that does not
    /// exist fails the call. An instance that was launched with limits of its own makes them its type's.
    pub fn describe_instance_types(
        &mut self,
        types: &[InstanceType],
        _now: Timestamp,
    ) -> Result<Vec<Limits>, CloudError> {
        if types.is_empty() {
            return Ok(Limits::all().collect());
        }
        let launched = |name: InstanceType| {
            let mut limits = self.instances.values().map(|instance| &instance.limits);
            limits.find(|limits| limits.instance_type == name).cloned()
        };
        types
            .iter()
            .map(|name| {
                launched(*name)
                    .or_else(|| Limits::lookup(*name).ok())
                    .ok_or_else(|| CloudError::no_instance_type(*name))
            })
            .collect()
    }

    /// Returns what a source shows of an instance's ENIs. The instance need not exist.
    pub fn observe(
        &mut self,
        instance: InstanceId,
        source: Source,
        scope: &Scope,
        now: Timestamp,
    ) -> Result<Observation, CloudError> {
        let in_scope = |eni: &&NetworkInterface| match scope {
            Scope::Attached => true,
            Scope::Unattached => {
                let owner = eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str);
                eni.attachment.is_none() && owner == Some(instance.as_str())
            }
            Scope::Only(ids) => ids.contains(&eni.id),
        };
        let attached = || {
            let ids = self.instances.get(&instance).map(|instance| &instance.enis);
            ids.into_iter().flatten().map(|id| &self.enis[id])
        };
        let enis: Vec<&NetworkInterface> = match (source, scope) {
            (Source::Imds, _) | (_, Scope::Attached) => attached().filter(in_scope).collect(),
            (Source::Ec2, _) => self.enis.values().filter(in_scope).collect(),
        };
        let observed = |eni: &NetworkInterface| match source {
            Source::Ec2 => ObservedEni::from(eni),
            Source::Imds => as_imds_tells(eni.into()),
        };
        let withheld = |eni: &NetworkInterface| match source {
            Source::Ec2 => None,
            Source::Imds => self.withheld.get(&eni.id).cloned(),
        };
        let incomplete = |eni: &&NetworkInterface| {
            withheld(eni).map(|missing| IncompleteEni { mac: eni.mac, missing })
        };
        Ok(Observation {
            as_of: now,
            source,
            scope: scope.clone(),
            incomplete: enis.iter().filter_map(incomplete).collect(),
            enis: enis.into_iter().filter(|eni| withheld(eni).is_none()).map(observed).collect(),
        })
    }

    /// Returns an instance's metadata.
    pub fn metadata(
        &mut self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Metadata, CloudError> {
        let observation = self.observe(instance, Source::Imds, &Scope::Attached, now)?;
        let node =
            self.instance(&instance).ok_or_else(|| CloudError::no_instance(instance))?.node.clone();
        let vpc = &self.vpcs[&node.vpc];
        Ok(Metadata {
            primary_ipv4: self.enis[&node.primary].primary_ipv4,
            vpc_ipv4_cidrs: vpc.ipv4_cidrs.clone(),
            vpc_ipv6_cidrs: vpc.ipv6_cidrs.clone(),
            subnets: (observation.enis.iter())
                .map(|eni| {
                    let subnet = &self.subnets[&eni.subnet];
                    let ipv6 = subnet.ipv6.as_ref().map(Ipv6Space::net);
                    (subnet.id, SubnetRanges { ipv4: Some(subnet.ipv4.net()), ipv6 })
                })
                .collect(),
            node,
            observation,
        })
    }
}

/// The view of EC2 itself: true, free of charge, and never refused.
impl Cloud {
    /// Returns a VPC.
    pub fn vpc(&self, id: &VpcId) -> Option<&Vpc> {
        self.vpcs.get(id)
    }

    /// Returns an instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Returns a subnet.
    pub fn subnet(&self, id: &SubnetId) -> Option<ObservedSubnet> {
        self.subnets.get(id).map(ObservedSubnet::from)
    }

    /// Returns an ENI.
    pub fn interface(&self, id: &EniId) -> Option<&NetworkInterface> {
        self.enis.get(id)
    }

    /// Lets the metadata service list an ENI without telling one value of it, by its name in the service (`device-number`);
    /// with `None` it tells all again.
    pub fn withhold_metadata(&mut self, eni: EniId, name: Option<&str>) {
        match name {
            Some(name) => self.withheld.insert(eni, name.into()),
            None => self.withheld.remove(&eni),
        };
    }

    /// Returns the name of the value that the metadata service does not tell of an ENI, if there is one.
    pub fn withheld_metadata(&self, eni: &EniId) -> Option<&str> {
        self.withheld.get(eni).map(String::as_str)
    }

    /// Returns all ENIs, sorted by id.
    pub fn interfaces(&self) -> impl Iterator<Item = &NetworkInterface> {
        self.enis.values()
    }

    /// Returns what became different in the fabric since the last call, one change at a time, until it returns `None`.
    ///
    /// What goes is listed before what comes. A change that was undone before the call is left out.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.told.next(&self.enis)
    }
}

impl Cloud {
    /// Makes an ENI; with its addresses, or not at all.
    fn make_interface(
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

    /// Takes the addresses of a new ENI; where it fails, the ENI holds what it took so far.
    fn fill_interface(
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

    /// Connects an ENI and an instance, both of which exist.
    fn attach(
        &mut self,
        eni: EniId,
        instance: InstanceId,
        card: Card,
        device: DeviceIndex,
        now: Timestamp,
    ) -> AttachmentId {
        let id = self.new_id("eni-attach-");
        let attachment = Attachment {
            id,
            instance,
            card,
            device,
            status: AttachmentStatus::Attached,
            delete_on_termination: false,
            since: now,
        };
        self.attachments.insert(id, eni);
        if let Some(eni) = self.enis.get_mut(&eni) {
            eni.attachment = Some(attachment);
        }
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.enis.insert(eni);
        }
        id
    }

    fn remove_interface(&mut self, id: EniId) {
        let Some(eni) = self.enis.remove(&id) else {
            return;
        };
        self.release_blocks(&eni);
        self.macs.remove(&eni.mac);
        self.tokens.retain(|_, (_, made)| *made != id);
    }

    fn release_blocks(&mut self, eni: &NetworkInterface) {
        let subnet = subnet_of(&mut self.subnets, eni);
        let own = eni.primary_ipv4.map(Ipv4Net::from);
        own.iter().chain(&eni.ipv4).for_each(|net| subnet.release(IpNet::V4(*net)));
        eni.ipv6.iter().for_each(|net| subnet.release(IpNet::V6(*net)));
    }

    fn interface_of(&self, id: EniId) -> Result<&NetworkInterface, CloudError> {
        self.enis.get(&id).ok_or_else(|| CloudError::no_interfaces(&[id]))
    }

    fn tags_of(&mut self, resource: &str) -> Option<&mut BTreeMap<String, String>> {
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

    /// Returns the security groups that an ENI of the VPC gets when these are asked for.
    fn check_groups(
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

    /// Checks that an ENI exists and may take that many blocks more. The limits are those of the instance: an ENI that
    /// is attached to none has none.
    fn check_assign(
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

    /// Makes an id in EC2's form: 17 hexadecimal digits, the first of which is 0.
    fn new_id<I: FromStr>(&mut self, prefix: &str) -> I {
        let text = format!("{prefix}0{:016x}", self.rng.next());
        match text.parse() {
            Ok(id) => id,
            Err(_) => unreachable!("{text} is at most 28 printable characters"),
        }
    }

    /// Makes a MAC address that no ENI has, locally administered as EC2's are.
    fn new_mac(&mut self) -> Mac {
        loop {
            let [a, b, c, d, e, ..] = self.rng.next().to_be_bytes();
            let mac = Mac([0x02, a, b, c, d, e]);
            if !self.macs.contains(&mac) {
                return mac;
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
fn check_room(
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

fn check_prefixes(limits: &Limits, wanted: bool) -> Result<(), CloudError> {
    if wanted && !limits.prefixes() {
        Err(CloudError::no_prefixes_on(limits.instance_type))
    } else {
        Ok(())
    }
}

/// Returns what the metadata service tells of an ENI: no tags, no attachment id, no type.
fn as_imds_tells(mut eni: ObservedEni) -> ObservedEni {
    eni.tags = None;
    eni.interface_type = InterfaceType::Interface;
    if let Some(attachment) = &mut eni.attachment {
        attachment.id = None;
        attachment.delete_on_termination = None;
    }
    eni
}

#[cfg(test)]
mod tests;
