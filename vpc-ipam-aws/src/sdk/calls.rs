//! The calls that change something, as they are sent, and as a dry run of them is.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::attach_network_interface::builders::AttachNetworkInterfaceFluentBuilder;
use aws_sdk_ec2::operation::create_network_interface::builders::CreateNetworkInterfaceFluentBuilder;
use aws_sdk_ec2::operation::create_tags::builders::CreateTagsFluentBuilder;
use aws_sdk_ec2::operation::delete_network_interface::builders::DeleteNetworkInterfaceFluentBuilder;
use aws_sdk_ec2::operation::detach_network_interface::builders::DetachNetworkInterfaceFluentBuilder;
use aws_sdk_ec2::operation::modify_network_interface_attribute::builders::ModifyNetworkInterfaceAttributeFluentBuilder;
use aws_sdk_ec2::types::builders::NetworkInterfaceAttachmentChangesBuilder;
use aws_sdk_ec2::types::{ResourceType, TagSpecification};
use vpc_ipam_core::{
    AttachNetworkInterface, CreateNetworkInterface, CreateTags, DeleteNetworkInterface,
    DetachNetworkInterface, EniAttribute, Ipv4Amount, ModifyNetworkInterfaceAttribute,
};

use super::translate;

pub(super) fn create_network_interface(
    client: &Client,
    request: &CreateNetworkInterface,
) -> CreateNetworkInterfaceFluentBuilder {
    let mut call = client
        .create_network_interface()
        .client_token(&request.client_token)
        .subnet_id(request.subnet.as_str())
        .description(&request.description);
    for group in &request.security_groups {
        call = call.groups(group.as_str());
    }
    if !request.tags.is_empty() {
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::NetworkInterface)
            .set_tags(Some(translate::tags(&request.tags)))
            .build();
        call = call.tag_specifications(tags);
    }
    // EC2 takes a count of zero for wrong.
    match request.ipv4 {
        Ipv4Amount::Addresses(0) | Ipv4Amount::Prefixes(0) => {}
        Ipv4Amount::Addresses(count) => {
            call = call.secondary_private_ip_address_count(count.into());
        }
        Ipv4Amount::Prefixes(count) => call = call.ipv4_prefix_count(count.into()),
    }
    if request.ipv6_prefixes > 0 {
        call = call.ipv6_prefix_count(request.ipv6_prefixes.into());
    }
    call
}

pub(super) fn attach_network_interface(
    client: &Client,
    request: &AttachNetworkInterface,
) -> AttachNetworkInterfaceFluentBuilder {
    client
        .attach_network_interface()
        .network_interface_id(request.eni.as_str())
        .instance_id(request.instance.as_str())
        // Said even where it is 0: without it EC2 counts the devices of all cards together (cilium/cilium#42512).
        .network_card_index(request.card.0.into())
        .device_index(request.device.0.into())
}

pub(super) fn modify_network_interface_attribute(
    client: &Client,
    request: &ModifyNetworkInterfaceAttribute,
) -> ModifyNetworkInterfaceAttributeFluentBuilder {
    let mut call =
        client.modify_network_interface_attribute().network_interface_id(request.eni.as_str());
    match &request.attribute {
        EniAttribute::DeleteOnTermination(attachment) => {
            let change = NetworkInterfaceAttachmentChangesBuilder::default()
                .attachment_id(attachment.as_str())
                .delete_on_termination(true)
                .build();
            call = call.attachment(change);
        }
        EniAttribute::Groups(groups) => {
            for group in groups {
                call = call.groups(group.as_str());
            }
        }
    }
    call
}

pub(super) fn detach_network_interface(
    client: &Client,
    request: &DetachNetworkInterface,
) -> DetachNetworkInterfaceFluentBuilder {
    client.detach_network_interface().attachment_id(request.attachment.as_str())
}

pub(super) fn delete_network_interface(
    client: &Client,
    request: &DeleteNetworkInterface,
) -> DeleteNetworkInterfaceFluentBuilder {
    client.delete_network_interface().network_interface_id(request.eni.as_str())
}

pub(super) fn create_tags(client: &Client, request: &CreateTags) -> CreateTagsFluentBuilder {
    client
        .create_tags()
        .resources(request.eni.as_str())
        .set_tags(Some(translate::tags(&request.tags)))
}
