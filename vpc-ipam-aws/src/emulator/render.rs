//! The answers' contents, in the words and the element names of the EC2 API.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use vpc_ipam_core::sim::{Attachment, Instance, NetworkInterface};
use vpc_ipam_core::{
    AttachmentStatus, Hypervisor, InterfaceType, Limits, ObservedSubnet, SecurityGroupId, Zone,
};

use super::xml::Xml;

/// The account to which everything belongs; AWS's documentation uses this number.
pub(super) const ACCOUNT: &str = "123456789012";

pub(super) fn status(eni: &NetworkInterface) -> &'static str {
    if eni.attachment.is_some() { "in-use" } else { "available" }
}

pub(super) fn interface_type(value: InterfaceType) -> &'static str {
    match value {
        InterfaceType::Interface | InterfaceType::Other => "interface",
        InterfaceType::Efa => "efa",
        InterfaceType::EfaOnly => "efa-only",
        InterfaceType::Trunk => "trunk",
        InterfaceType::Branch => "branch",
    }
}

pub(super) fn attachment_status(value: AttachmentStatus) -> &'static str {
    match value {
        AttachmentStatus::Attaching => "attaching",
        AttachmentStatus::Attached => "attached",
        AttachmentStatus::Detaching => "detaching",
        AttachmentStatus::Detached => "detached",
    }
}

/// Returns what EC2 calls a hypervisor; bare metal has none.
pub(super) fn hypervisor(value: Hypervisor) -> Option<&'static str> {
    match value {
        Hypervisor::Nitro => Some("nitro"),
        Hypervisor::Xen => Some("xen"),
        Hypervisor::Unknown => None,
    }
}

/// Returns the region of a zone: `us-west-2` of `us-west-2a` and of the local zone `us-west-2-lax-1a`.
pub(super) fn region(zone: &Zone) -> &str {
    let zone = zone.as_str();
    let digits = zone.find(|c: char| c.is_ascii_digit()).unwrap_or(zone.len());
    let end = zone[digits..]
        .find(|c: char| !c.is_ascii_digit())
        .map_or(zone.len(), |length| digits + length);
    &zone[..end]
}

/// Returns the name under which an address is known within the VPC.
pub(super) fn private_dns(address: Ipv4Addr, zone: &Zone) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{}.compute.internal", region(zone))
}

pub(super) fn interface(xml: &mut Xml, eni: &NetworkInterface) {
    xml.text("networkInterfaceId", eni.id);
    xml.text("subnetId", eni.subnet);
    xml.text("vpcId", eni.vpc);
    xml.text("availabilityZone", eni.zone);
    xml.text("description", &eni.description);
    xml.text("ownerId", ACCOUNT);
    xml.text("requesterManaged", false);
    xml.text("status", status(eni));
    xml.text("macAddress", eni.mac);
    xml.text("sourceDestCheck", true);
    xml.text("interfaceType", interface_type(eni.interface_type));
    addresses(xml, eni);
    groups(xml, &eni.security_groups);
    tags(xml, &eni.tags);
    if let Some(found) = &eni.attachment {
        xml.element("attachment", |xml| {
            attachment(xml, found);
            xml.text("instanceId", found.instance);
            xml.text("instanceOwnerId", ACCOUNT);
        });
    }
}

fn attachment(xml: &mut Xml, found: &Attachment) {
    xml.text("attachmentId", found.id);
    xml.text("deviceIndex", found.device.0);
    xml.text("networkCardIndex", found.card.0);
    xml.text("status", attachment_status(found.status));
    xml.text("attachTime", found.since);
    xml.text("deleteOnTermination", found.delete_on_termination);
}

fn addresses(xml: &mut Xml, eni: &NetworkInterface) {
    if let Some(address) = eni.primary_ipv4 {
        xml.text("privateIpAddress", address);
        xml.text("privateDnsName", private_dns(address, &eni.zone));
    }
    let own = eni.primary_ipv4.map(|address| (address, true));
    let (secondary, prefixes): (Vec<&Ipv4Net>, Vec<&Ipv4Net>) =
        eni.ipv4.iter().partition(|net| net.prefix_len() == 32);
    let secondary = secondary.into_iter().map(|net| (net.addr(), false));
    xml.list(
        "privateIpAddressesSet",
        own.into_iter().chain(secondary),
        |xml, (address, primary)| {
            xml.text("privateIpAddress", address);
            xml.text("privateDnsName", private_dns(address, &eni.zone));
            xml.text("primary", primary);
        },
    );
    xml.list("ipv4PrefixSet", prefixes, |xml, prefix| {
        xml.text("ipv4Prefix", prefix);
    });
    xml.list("ipv6AddressesSet", eni.ipv6_addresses(), |xml, address| {
        xml.text("ipv6Address", address);
    });
    let prefixes = eni.ipv6.iter().filter(|net| net.prefix_len() < 128);
    xml.list("ipv6PrefixSet", prefixes, |xml, prefix| {
        xml.text("ipv6Prefix", prefix);
    });
}

pub(super) fn groups(xml: &mut Xml, groups: &[SecurityGroupId]) {
    xml.list("groupSet", groups, |xml, group| {
        xml.text("groupId", group);
        xml.text("groupName", group);
    });
}

pub(super) fn tags(xml: &mut Xml, tags: &BTreeMap<String, String>) {
    xml.list("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

/// Writes an instance; `enis` are those attached to it.
pub(super) fn instance(xml: &mut Xml, instance: &Instance, enis: &[NetworkInterface]) {
    let node = &instance.node;
    let primary = enis.iter().find(|eni| eni.id == node.primary);
    xml.text("instanceId", node.instance);
    xml.text("instanceType", node.instance_type);
    xml.text("launchTime", instance.launched);
    xml.text("subnetId", node.subnet);
    xml.text("vpcId", node.vpc);
    xml.text("sourceDestCheck", true);
    xml.element("instanceState", |xml| {
        xml.text("code", 16);
        xml.text("name", "running");
    });
    xml.element("placement", |xml| {
        xml.text("availabilityZone", node.zone);
        xml.text("tenancy", "default");
    });
    if let Some(address) = primary.and_then(|eni| eni.primary_ipv4) {
        xml.text("privateIpAddress", address);
        xml.text("privateDnsName", private_dns(address, &node.zone));
    }
    if let Some(primary) = primary {
        groups(xml, &primary.security_groups);
    }
    tags(xml, &instance.tags);
    xml.list("networkInterfaceSet", enis, |xml, eni| {
        xml.text("networkInterfaceId", eni.id);
        xml.text("subnetId", eni.subnet);
        xml.text("vpcId", eni.vpc);
        xml.text("description", &eni.description);
        xml.text("ownerId", ACCOUNT);
        xml.text("status", status(eni));
        xml.text("macAddress", eni.mac);
        xml.text("sourceDestCheck", true);
        xml.text("interfaceType", interface_type(eni.interface_type));
        addresses(xml, eni);
        groups(xml, &eni.security_groups);
        if let Some(found) = &eni.attachment {
            xml.element("attachment", |xml| attachment(xml, found));
        }
    });
}

pub(super) fn subnet(xml: &mut Xml, subnet: &ObservedSubnet) {
    xml.text("subnetId", subnet.id);
    xml.text("vpcId", subnet.vpc);
    xml.text("state", "available");
    xml.text("availabilityZone", subnet.zone);
    xml.text("cidrBlock", subnet.ipv4_cidr);
    xml.text("availableIpAddressCount", subnet.ipv4_addresses_free);
    xml.text("defaultForAz", false);
    xml.text("mapPublicIpOnLaunch", false);
    xml.text("assignIpv6AddressOnCreation", false);
    xml.text("ownerId", ACCOUNT);
    xml.list("ipv6CidrBlockAssociationSet", subnet.ipv6_cidr, |xml, cidr| {
        xml.text("associationId", format_args!("subnet-cidr-assoc-{}", subnet.id));
        xml.text("ipv6CidrBlock", cidr);
        xml.element("ipv6CidrBlockState", |xml| xml.text("state", "associated"));
    });
    tags(xml, &subnet.tags);
}

pub(super) fn instance_type(xml: &mut Xml, limits: &Limits) {
    xml.text("instanceType", limits.instance_type);
    xml.text("bareMetal", limits.bare_metal);
    if let Some(hypervisor) = hypervisor(limits.hypervisor) {
        xml.text("hypervisor", hypervisor);
    }
    xml.element("vCpuInfo", |xml| xml.text("defaultVCpus", limits.vcpus));
    xml.element("memoryInfo", |xml| xml.text("sizeInMiB", limits.memory_mib));
    xml.element("networkInfo", |xml| {
        let enis: u32 = limits.enis_per_card.iter().copied().map(u32::from).sum();
        xml.text("maximumNetworkInterfaces", enis);
        xml.text("maximumNetworkCards", limits.enis_per_card.len());
        xml.text("defaultNetworkCardIndex", limits.default_card.0);
        xml.text("ipv4AddressesPerInterface", limits.ipv4_per_eni);
        xml.text("ipv6AddressesPerInterface", limits.ipv6_per_eni);
        xml.text("ipv6Supported", limits.ipv6_per_eni > 0);
        xml.list("networkCards", limits.cards(), |xml, card| {
            xml.text("networkCardIndex", card.0);
            xml.text("maximumNetworkInterfaces", limits.enis(card));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_lie_in_regions() {
        let cases = [
            ("eu-west-1a", "eu-west-1"),
            ("us-gov-west-1b", "us-gov-west-1"),
            ("us-west-2-lax-1a", "us-west-2"),
            ("nowhere", "nowhere"),
        ];
        for (zone, expected) in cases {
            assert_eq!(region(&zone.parse().unwrap()), expected, "{zone}");
        }
    }
}
