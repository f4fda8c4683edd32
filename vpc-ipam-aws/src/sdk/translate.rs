//! Between the SDK's types and core's.

use core::str::FromStr;
use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesOutput;
use aws_sdk_ec2::types::{
    self, InstanceTypeHypervisor, InstanceTypeInfo, NetworkInterface, NetworkInterfaceType, Tag,
};
use ipnet::{IpNet, Ipv4Net};
use vpc_ipam_core::{
    AttachmentStatus, Card, DeviceIndex, Hypervisor, InterfaceType, Limits, Node,
    ObservedAttachment, ObservedEni, ObservedSubnet,
};

use crate::Ec2Error;

/// Reads a value of an answer. An answer that cannot be read is none.
pub(super) fn parse<T>(operation: &str, name: &str, text: &str) -> Result<T, Ec2Error>
where
    T: FromStr<Err: fmt::Display>,
{
    text.parse().map_err(|error| {
        Ec2Error::unanswered(operation, format!("read {name} of the answer: {error}"))
    })
}

/// Reads a value that every answer of EC2 has.
pub(super) fn required<T>(operation: &str, name: &str, text: Option<&str>) -> Result<T, Ec2Error>
where
    T: FromStr<Err: fmt::Display>,
{
    parse(operation, name, text.ok_or_else(|| missing(operation, name))?)
}

fn optional<T>(operation: &str, name: &str, text: Option<&str>) -> Result<Option<T>, Ec2Error>
where
    T: FromStr<Err: fmt::Display>,
{
    text.filter(|text| !text.is_empty()).map(|text| parse(operation, name, text)).transpose()
}

/// Reads a number of the width that core has for it.
fn number<N, T>(operation: &str, name: &str, value: Option<N>) -> Result<T, Ec2Error>
where
    N: TryInto<T> + fmt::Display + Copy,
{
    let value = value.ok_or_else(|| missing(operation, name))?;
    value.try_into().map_err(|_| {
        let message = format!("read {name} of the answer: {value} is out of range");
        Ec2Error::unanswered(operation, message)
    })
}

fn missing(operation: &str, name: &str) -> Ec2Error {
    Ec2Error::unanswered(operation, format!("the answer holds no {name}"))
}

pub(super) fn tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn tag_map(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.into(), tag.value().unwrap_or_default().into())))
        .collect()
}

pub(super) fn eni(operation: &str, eni: &NetworkInterface) -> Result<ObservedEni, Ec2Error> {
    let mut blocks: Vec<IpNet> = Vec::new();
    for address in eni.private_ip_addresses() {
        if !address.primary().unwrap_or(false) {
            let address: core::net::Ipv4Addr =
                required(operation, "privateIpAddress", address.private_ip_address())?;
            blocks.push(IpNet::V4(address.into()));
        }
    }
    for prefix in eni.ipv4_prefixes() {
        blocks.push(required(operation, "ipv4Prefix", prefix.ipv4_prefix())?);
    }
    for prefix in eni.ipv6_prefixes() {
        blocks.push(required(operation, "ipv6Prefix", prefix.ipv6_prefix())?);
    }
    let ipv6 = eni.ipv6_addresses().first();
    let id = required(operation, "networkInterfaceId", eni.network_interface_id())?;
    let mac = required(operation, "macAddress", eni.mac_address())?;
    let subnet = required(operation, "subnetId", eni.subnet_id())?;
    let attachment = eni.attachment().map(|found| attachment(operation, found)).transpose()?;
    let interface_type = match eni.interface_type() {
        None | Some(NetworkInterfaceType::Interface) => InterfaceType::Interface,
        Some(NetworkInterfaceType::Efa) => InterfaceType::Efa,
        Some(NetworkInterfaceType::EfaOnly) => InterfaceType::EfaOnly,
        Some(NetworkInterfaceType::Trunk) => InterfaceType::Trunk,
        Some(NetworkInterfaceType::Branch) => InterfaceType::Branch,
        Some(_) => InterfaceType::Other,
    };
    let ipv6 = ipv6.and_then(|address| address.ipv6_address());
    let groups = eni.groups().iter();
    let groups = groups.map(|group| required(operation, "groupId", group.group_id()));
    Ok(ObservedEni::new(id, mac, subnet)
        .with_vpc(optional(operation, "vpcId", eni.vpc_id())?)
        .with_attachment(attachment)
        .with_interface_type(interface_type)
        .with_primary_ipv4(optional(operation, "privateIpAddress", eni.private_ip_address())?)
        .with_primary_ipv6(optional(operation, "ipv6Address", ipv6)?)
        .with_blocks(blocks)
        .with_security_groups(groups.collect::<Result<_, _>>()?)
        .with_tags(Some(tag_map(eni.tag_set()))))
}

fn attachment(
    operation: &str,
    found: &types::NetworkInterfaceAttachment,
) -> Result<ObservedAttachment, Ec2Error> {
    Ok(ObservedAttachment::new(
        required(operation, "instanceId of the attachment", found.instance_id())?,
        Card(number(operation, "networkCardIndex", Some(found.network_card_index().unwrap_or(0)))?),
        DeviceIndex(number(operation, "deviceIndex", found.device_index())?),
    )
    .with_id(optional(operation, "attachmentId", found.attachment_id())?)
    .with_status(match found.status() {
        Some(types::AttachmentStatus::Attaching) => AttachmentStatus::Attaching,
        Some(types::AttachmentStatus::Attached) => AttachmentStatus::Attached,
        Some(types::AttachmentStatus::Detaching) => AttachmentStatus::Detaching,
        Some(types::AttachmentStatus::Detached) => AttachmentStatus::Detached,
        other => {
            let message = format!("read status of the attachment: {other:?} is unknown");
            return Err(Ec2Error::unanswered(operation, message));
        }
    })
    .with_delete_on_termination(found.delete_on_termination()))
}

pub(super) fn assigned_ipv4(
    operation: &str,
    answer: &AssignPrivateIpAddressesOutput,
) -> Result<Vec<Ipv4Net>, Ec2Error> {
    let mut blocks = Vec::new();
    for address in answer.assigned_private_ip_addresses() {
        let address: core::net::Ipv4Addr =
            required(operation, "privateIpAddress", address.private_ip_address())?;
        blocks.push(address.into());
    }
    for prefix in answer.assigned_ipv4_prefixes() {
        blocks.push(required(operation, "ipv4Prefix", prefix.ipv4_prefix())?);
    }
    Ok(blocks)
}

pub(super) fn subnet(operation: &str, subnet: &types::Subnet) -> Result<ObservedSubnet, Ec2Error> {
    let ipv6 = subnet.ipv6_cidr_block_association_set().iter().find(|found| {
        let state = found.ipv6_cidr_block_state().and_then(|state| state.state());
        state == Some(&types::SubnetCidrBlockStateCode::Associated)
    });
    Ok(ObservedSubnet::new(
        required(operation, "subnetId", subnet.subnet_id())?,
        required(operation, "vpcId", subnet.vpc_id())?,
        required(operation, "availabilityZone", subnet.availability_zone())?,
        required(operation, "cidrBlock", subnet.cidr_block())?,
    )
    .with_ipv6_cidr(optional(
        operation,
        "ipv6CidrBlock",
        ipv6.and_then(|found| found.ipv6_cidr_block()),
    )?)
    .with_ipv4_addresses_free(number(
        operation,
        "availableIpAddressCount",
        subnet.available_ip_address_count(),
    )?)
    .with_tags(tag_map(subnet.tags())))
}

pub(super) fn node(operation: &str, instance: &types::Instance) -> Result<Node, Ec2Error> {
    let primary = instance.network_interfaces().iter().find(|eni| {
        eni.attachment().is_some_and(|attachment| {
            attachment.device_index() == Some(0)
                && attachment.network_card_index().unwrap_or(0) == 0
        })
    });
    let zone = instance.placement().and_then(|placement| placement.availability_zone());
    let instance_type = instance.instance_type().map(|name| name.as_str());
    Ok(Node::new(
        required(operation, "instanceId", instance.instance_id())?,
        required(operation, "instanceType", instance_type)?,
        required(operation, "availabilityZone", zone)?,
        required(operation, "vpcId", instance.vpc_id())?,
        required(
            operation,
            "networkInterfaceId of the primary ENI",
            primary.and_then(|eni| eni.network_interface_id()),
        )?,
        required(operation, "subnetId", instance.subnet_id())?,
    ))
}

pub(super) fn limits(operation: &str, info: &InstanceTypeInfo) -> Result<Limits, Ec2Error> {
    let network = info.network_info().ok_or_else(|| missing(operation, "networkInfo"))?;
    let mut cards: Vec<_> = network.network_cards().iter().collect();
    cards.sort_by_key(|card| card.network_card_index());
    let mut enis_per_card: Vec<u8> = cards
        .iter()
        .map(|card| {
            let enis = card.maximum_network_interfaces();
            number(operation, "maximumNetworkInterfaces of a card", enis)
        })
        .collect::<Result<_, _>>()?;
    if enis_per_card.is_empty() {
        let enis = network.maximum_network_interfaces();
        enis_per_card.push(number(operation, "maximumNetworkInterfaces", enis)?);
    }
    let ipv6_per_eni = match network.ipv6_supported() {
        Some(true) => {
            number(operation, "ipv6AddressesPerInterface", network.ipv6_addresses_per_interface())?
        }
        _ => 0,
    };
    Ok(Limits::new(
        required(operation, "instanceType", info.instance_type().map(|name| name.as_str()))?,
        enis_per_card.into(),
        number(operation, "ipv4AddressesPerInterface", network.ipv4_addresses_per_interface())?,
    )
    .with_default_card(Card(number(
        operation,
        "defaultNetworkCardIndex",
        Some(network.default_network_card_index().unwrap_or(0)),
    )?))
    .with_ipv6_per_eni(ipv6_per_eni)
    .with_hypervisor(match info.hypervisor() {
        Some(InstanceTypeHypervisor::Nitro) => Hypervisor::Nitro,
        Some(InstanceTypeHypervisor::Xen) => Hypervisor::Xen,
        _ => Hypervisor::Unknown,
    })
    .with_bare_metal(info.bare_metal().unwrap_or(false))
    .with_vcpus(number(
        operation,
        "defaultVCpus",
        info.v_cpu_info().and_then(|cpus| cpus.default_v_cpus()),
    )?)
    .with_memory_mib(number(
        operation,
        "sizeInMiB",
        info.memory_info().and_then(|memory| memory.size_in_mib()),
    )?))
}
