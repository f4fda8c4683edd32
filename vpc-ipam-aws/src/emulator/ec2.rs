//! The EC2 Query API: a form in, XML out.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::sim::{CreateInterface, Instance, Ipv4Request, Ipv6Request, ModifyInterface};
use vpc_ipam_core::{
    AttachNetworkInterface, Card, DeviceIndex, EniId, InstanceId, InstanceType, InterfaceType,
    Ipv4Amount, SubnetId, UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};

use super::filter::Filters;
use super::query::{Page, Query, Refusal};
use super::render;
use super::xml::Xml;
use super::{SharedCloud, has_dry_run};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) fn router(cloud: SharedCloud) -> Router {
    Router::new()
        .fallback(answer)
        .with_state(Arc::new(Front { cloud, requests: AtomicU64::new(0) }))
}

struct Front {
    cloud: SharedCloud,
    requests: AtomicU64,
}

/// What follows the request id in an answer.
type Body = Box<dyn FnOnce(&mut Xml)>;

async fn answer(State(front): State<Arc<Front>>, uri: Uri, body: Bytes) -> Response {
    let mut query = match uri.query() {
        Some(query) if body.is_empty() => Query::parse(query.as_bytes()),
        _ => Query::parse(&body),
    };
    let number = front.requests.fetch_add(1, Ordering::Relaxed);
    let request_id = format!("00000000-0000-4000-8000-{number:012x}");
    let (status, document) = match operate(&front.cloud, &mut query) {
        Ok((action, body)) => {
            let root = format!("{action}Response");
            let document = Xml::document(&root, Some(NAMESPACE), |xml| {
                xml.text("requestId", &request_id);
                body(xml);
            });
            (StatusCode::OK, document)
        }
        Err(refusal) => {
            let document = Xml::document("Response", None, |xml| {
                xml.element("Errors", |xml| {
                    xml.element("Error", |xml| {
                        xml.text("Code", &refusal.code);
                        xml.text("Message", &refusal.message);
                    });
                });
                xml.text("RequestID", &request_id);
            });
            (http_status(&refusal.code), document)
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/xml;charset=UTF-8"),
        (HeaderName::from_static("x-amzn-requestid"), &*request_id),
    ];
    (status, headers, document).into_response()
}

/// Returns the status with which EC2 answers an error code.
fn http_status(code: &str) -> StatusCode {
    match code {
        "DryRunOperation" => StatusCode::PRECONDITION_FAILED,
        "UnauthorizedOperation" => StatusCode::FORBIDDEN,
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        "RequestLimitExceeded" | "Unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn operate(cloud: &SharedCloud, query: &mut Query) -> Result<(String, Body), Refusal> {
    let action: String = query.required("Action")?;
    let version: String = query.required("Version")?;
    type Operation = fn(&SharedCloud, Query) -> Result<Body, Refusal>;
    let operation: Operation = match action.as_str() {
        "CreateNetworkInterface" => create_network_interface,
        "AttachNetworkInterface" => attach_network_interface,
        "ModifyNetworkInterfaceAttribute" => modify_network_interface_attribute,
        "AssignPrivateIpAddresses" => assign_private_ip_addresses,
        "AssignIpv6Addresses" => assign_ipv6_addresses,
        "UnassignPrivateIpAddresses" => unassign_private_ip_addresses,
        "UnassignIpv6Addresses" => unassign_ipv6_addresses,
        "DetachNetworkInterface" => detach_network_interface,
        "DeleteNetworkInterface" => delete_network_interface,
        "CreateTags" => create_tags,
        "DescribeNetworkInterfaces" => describe_network_interfaces,
        "DescribeInstances" => describe_instances,
        "DescribeSubnets" => describe_subnets,
        "DescribeInstanceTypes" => describe_instance_types,
        _ => {
            return Err(Refusal::new(
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            ));
        }
    };
    if version != "2016-11-15" {
        let message = format!("The version {version} is not served here.");
        return Err(Refusal::new("NoSuchVersion", message));
    }
    cloud.authorize(&action)?;
    if has_dry_run(&action) && query.optional("DryRun")? == Some(true) {
        return Err(Refusal::new(
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        ));
    }
    let body = operation(cloud, query.clone())?;
    Ok((action, body))
}

fn create_network_interface(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let own = query.optional("PrivateIpAddress")?;
    let (own, named) = named_addresses(&mut query, own)?;
    let request = CreateInterface {
        client_token: query.text("ClientToken"),
        subnet: query.required("SubnetId")?,
        security_groups: query.list("SecurityGroupId")?,
        description: query.text("Description").unwrap_or_default(),
        tags: specified_tags(&mut query, "network-interface")?,
        interface_type: match query.text("InterfaceType").as_deref() {
            None | Some("interface") => InterfaceType::Interface,
            Some("efa") => InterfaceType::Efa,
            Some("efa-only") => InterfaceType::EfaOnly,
            Some("trunk") => InterfaceType::Trunk,
            Some(other) => return Err(invalid("InterfaceType", other)),
        },
        primary_ipv4: own,
        ipv4: ipv4_request(&mut query, named)?,
        ipv6: ipv6_request(&mut query)?,
    };
    query.finish()?;

    let eni = cloud.with(|cloud, now| cloud.create_network_interface(&request, now))?;
    Ok(Box::new(move |xml| {
        xml.element("networkInterface", |xml| render::interface(xml, &eni));
        if let Some(token) = &request.client_token {
            xml.text("clientToken", token);
        }
    }))
}

fn attach_network_interface(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let request = AttachNetworkInterface {
        eni: query.required("NetworkInterfaceId")?,
        instance: query.required("InstanceId")?,
        card: Card(query.optional("NetworkCardIndex")?.unwrap_or(0)),
        device: DeviceIndex(query.required("DeviceIndex")?),
    };
    query.finish()?;

    let id = cloud.with(|cloud, now| cloud.attach_network_interface(&request, now))?;
    Ok(Box::new(move |xml| {
        xml.text("attachmentId", id);
        xml.text("networkCardIndex", request.card.0);
    }))
}

fn modify_network_interface_attribute(
    cloud: &SharedCloud,
    mut query: Query,
) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    let groups = query.list("SecurityGroupId")?;
    let attachment = query.optional("Attachment.AttachmentId")?;
    let delete = query.optional("Attachment.DeleteOnTermination")?;
    query.finish()?;

    let request = match (groups.is_empty(), attachment, delete) {
        (false, None, None) => ModifyInterface::Groups(groups),
        (true, Some(attachment), Some(value)) => {
            ModifyInterface::DeleteOnTermination { attachment, value }
        }
        _ => {
            return Err(Refusal::new(
                "InvalidParameterCombination",
                "Fields for one attribute must be specified, and for no other",
            ));
        }
    };
    cloud.with(|cloud, now| cloud.modify_network_interface_attribute(eni, &request, now))?;
    Ok(done())
}

fn assign_private_ip_addresses(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    let named = query.list("PrivateIpAddress")?;
    let request = ipv4_request(&mut query, named)?;
    query.finish()?;

    let added = cloud.with(|cloud, now| cloud.assign_private_ip_addresses(eni, &request, now))?;
    Ok(Box::new(move |xml| {
        let (addresses, prefixes): (Vec<&Ipv4Net>, Vec<&Ipv4Net>) =
            added.iter().partition(|net| net.prefix_len() == 32);
        xml.text("networkInterfaceId", eni);
        xml.list("assignedPrivateIpAddressesSet", addresses, |xml, net| {
            xml.text("privateIpAddress", net.addr());
        });
        xml.list("assignedIpv4PrefixSet", prefixes, |xml, net| {
            xml.text("ipv4Prefix", net);
        });
        xml.text("return", true);
    }))
}

fn assign_ipv6_addresses(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    let request = ipv6_request(&mut query)?;
    query.finish()?;

    let added = cloud.with(|cloud, now| cloud.assign_ipv6_addresses(eni, &request, now))?;
    Ok(Box::new(move |xml| {
        xml.text("networkInterfaceId", eni);
        ipv6_blocks(xml, &added, "assignedIpv6Addresses", "assignedIpv6PrefixSet");
    }))
}

fn unassign_private_ip_addresses(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    let addresses: Vec<Ipv4Addr> = query.list("PrivateIpAddress")?;
    let prefixes: Vec<Ipv4Net> = query.list("Ipv4Prefix")?;
    query.finish()?;

    let addresses = addresses.into_iter().map(Ipv4Net::from);
    let request = UnassignPrivateIpAddresses { eni, blocks: addresses.chain(prefixes).collect() };
    cloud.with(|cloud, now| cloud.unassign_private_ip_addresses(&request, now))?;
    Ok(done())
}

fn unassign_ipv6_addresses(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    let addresses: Vec<Ipv6Addr> = query.list("Ipv6Addresses")?;
    let prefixes: Vec<Ipv6Net> = query.list("Ipv6Prefix")?;
    query.finish()?;

    let addresses = addresses.into_iter().map(Ipv6Net::from);
    let request = UnassignIpv6Addresses { eni, prefixes: addresses.chain(prefixes).collect() };
    cloud.with(|cloud, now| cloud.unassign_ipv6_addresses(&request, now))?;
    Ok(Box::new(move |xml| {
        xml.text("networkInterfaceId", eni);
        let removed = &request.prefixes;
        ipv6_blocks(xml, removed, "unassignedIpv6Addresses", "unassignedIpv6PrefixSet");
    }))
}

fn detach_network_interface(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let attachment = query.required("AttachmentId")?;
    // Force tells EC2 not to wait for the instance, which is never waited for here.
    query.optional::<bool>("Force")?;
    query.finish()?;

    cloud.with(|cloud, now| cloud.detach_network_interface(attachment, now))?;
    Ok(done())
}

fn delete_network_interface(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let eni = query.required("NetworkInterfaceId")?;
    query.finish()?;

    cloud.with(|cloud, now| cloud.delete_network_interface(eni, now))?;
    Ok(done())
}

fn create_tags(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let resources: Vec<String> = query.list("ResourceId")?;
    let tags = tags(&mut query)?;
    query.finish()?;

    let resources: Vec<_> = resources.iter().map(String::as_str).collect();
    cloud.with(|cloud, now| cloud.create_tags(&resources, &tags, now))?;
    Ok(done())
}

fn describe_network_interfaces(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let ids: Vec<EniId> = query.list("NetworkInterfaceId")?;
    let named = (!ids.is_empty()).then_some("networkInterfaceIds");
    let page = Page::take(&mut query, 5..=1000, named)?;
    let filters = Filters::take(&mut query)?;
    query.finish()?;

    let mut enis = cloud.with(|cloud, now| cloud.describe_network_interfaces(&ids, now))?;
    filters.apply(&mut enis)?;
    let next = page.cut(&mut enis, |eni| eni.id.to_string());
    Ok(Box::new(move |xml| {
        xml.list("networkInterfaceSet", &enis, render::interface);
        next_token(xml, next);
    }))
}

fn describe_instances(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let ids: Vec<InstanceId> = query.list("InstanceId")?;
    let named = (!ids.is_empty()).then_some("instancesSet");
    let page = Page::take(&mut query, 5..=1000, named)?;
    let filters = Filters::take(&mut query)?;
    query.finish()?;

    let (mut instances, enis) = cloud.with(|cloud, now| {
        let instances = cloud.describe_instances(&ids, now)?;
        Ok::<_, Refusal>((instances, cloud.describe_network_interfaces(&[], now)?))
    })?;
    filters.apply(&mut instances)?;
    let next = page.cut(&mut instances, |instance| instance.node.instance.to_string());
    Ok(Box::new(move |xml| {
        xml.list("reservationSet", &instances, |xml, instance: &Instance| {
            // Every instance was launched by itself, and so has a reservation of its own.
            let own: Vec<_> =
                (enis.iter()).filter(|eni| instance.enis.contains(&eni.id)).cloned().collect();
            let id = instance.node.instance.as_str();
            xml.text("reservationId", id.replacen("i-", "r-", 1));
            xml.text("ownerId", render::ACCOUNT);
            xml.list("instancesSet", [instance], |xml, instance| {
                render::instance(xml, instance, &own);
            });
        });
        next_token(xml, next);
    }))
}

fn describe_subnets(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let ids: Vec<SubnetId> = query.list("SubnetId")?;
    let named = (!ids.is_empty()).then_some("subnetIds");
    let page = Page::take(&mut query, 5..=1000, named)?;
    let filters = Filters::take(&mut query)?;
    query.finish()?;

    let mut subnets = cloud.with(|cloud, now| cloud.describe_subnets(&ids, now))?;
    filters.apply(&mut subnets)?;
    let next = page.cut(&mut subnets, |subnet| subnet.id.to_string());
    Ok(Box::new(move |xml| {
        xml.list("subnetSet", &subnets, render::subnet);
        next_token(xml, next);
    }))
}

fn describe_instance_types(cloud: &SharedCloud, mut query: Query) -> Result<Body, Refusal> {
    let names: Vec<InstanceType> = query.list("InstanceType")?;
    let named = (!names.is_empty()).then_some("instanceTypes");
    let page = Page::take(&mut query, 5..=100, named)?;
    let filters = Filters::take(&mut query)?;
    query.finish()?;

    let mut types = cloud.with(|cloud, now| cloud.describe_instance_types(&names, now))?;
    types.sort_by_key(|limits| limits.instance_type);
    filters.apply(&mut types)?;
    let next = page.cut(&mut types, |limits| limits.instance_type.to_string());
    Ok(Box::new(move |xml| {
        xml.list("instanceTypeSet", &types, render::instance_type);
        next_token(xml, next);
    }))
}

/// The answer of an operation that says only that it was done.
fn done() -> Body {
    Box::new(|xml| xml.text("return", true))
}

fn next_token(xml: &mut Xml, token: Option<String>) {
    if let Some(token) = token {
        xml.text("nextToken", token);
    }
}

fn ipv6_blocks(xml: &mut Xml, blocks: &[Ipv6Net], addresses: &str, prefixes: &str) {
    let (whole, cut): (Vec<&Ipv6Net>, Vec<&Ipv6Net>) =
        blocks.iter().partition(|net| net.prefix_len() == 128);
    xml.texts(addresses, whole.into_iter().map(Ipv6Net::addr));
    xml.texts(prefixes, cut);
}

/// Takes `PrivateIpAddresses`: the ENI's own address, if one is marked as primary, and the others.
fn named_addresses(
    query: &mut Query,
    mut own: Option<Ipv4Addr>,
) -> Result<(Option<Ipv4Addr>, Vec<Ipv4Addr>), Refusal> {
    let mut others = Vec::new();
    for mut item in query.structures("PrivateIpAddresses") {
        let address = item.required("PrivateIpAddress")?;
        let primary = item.optional("Primary")?.unwrap_or(false);
        item.finish()?;
        match (primary, own) {
            (false, _) => others.push(address),
            (true, None) => own = Some(address),
            (true, Some(_)) => {
                return Err(Refusal::new(
                    "InvalidParameterCombination",
                    "Only one private IP address may be the primary one",
                ));
            }
        }
    }
    Ok((own, others))
}

/// Takes what is asked for of IPv4 besides the addresses that are named, which are `named`.
fn ipv4_request(query: &mut Query, named: Vec<Ipv4Addr>) -> Result<Ipv4Request, Refusal> {
    let prefixes: Vec<Ipv4Net> = values(query, "Ipv4Prefix", "Ipv4Prefix")?;
    let address_count = query.optional("SecondaryPrivateIpAddressCount")?;
    let prefix_count = query.optional("Ipv4PrefixCount")?;

    let addresses: Vec<_> = named.into_iter().map(Ipv4Net::from).collect();
    one_kind([
        address_count.map(|count| Ipv4Request::Count(Ipv4Amount::Addresses(count))),
        prefix_count.map(|count| Ipv4Request::Count(Ipv4Amount::Prefixes(count))),
        (!addresses.is_empty()).then_some(Ipv4Request::Blocks(addresses)),
        (!prefixes.is_empty()).then_some(Ipv4Request::Blocks(prefixes)),
    ])
}

/// Takes what is asked for of IPv6.
fn ipv6_request(query: &mut Query) -> Result<Ipv6Request, Refusal> {
    let addresses: Vec<Ipv6Addr> = values(query, "Ipv6Addresses", "Ipv6Address")?;
    let prefixes: Vec<Ipv6Net> = values(query, "Ipv6Prefix", "Ipv6Prefix")?;
    let address_count = query.optional("Ipv6AddressCount")?;
    let prefix_count = query.optional("Ipv6PrefixCount")?;

    let addresses: Vec<_> = addresses.into_iter().map(Ipv6Net::from).collect();
    one_kind([
        address_count.map(Ipv6Request::AddressCount),
        prefix_count.map(Ipv6Request::PrefixCount),
        (!addresses.is_empty()).then_some(Ipv6Request::Blocks(addresses)),
        (!prefixes.is_empty()).then_some(Ipv6Request::Blocks(prefixes)),
    ])
}

/// Takes a list that holds plain values on assigning, and structures with one field on creating an ENI.
fn values<T: FromStr<Err: fmt::Display>>(
    query: &mut Query,
    list: &str,
    field: &str,
) -> Result<Vec<T>, Refusal> {
    let mut values = query.list(list)?;
    for mut item in query.structures(list) {
        values.push(item.required(field)?);
        item.finish()?;
    }
    Ok(values)
}

/// Returns the one kind of blocks that was asked for: EC2 takes no second in a call.
fn one_kind<T: Default>(kinds: [Option<T>; 4]) -> Result<T, Refusal> {
    let mut kinds = kinds.into_iter().flatten();
    match (kinds.next(), kinds.next()) {
        (None, _) => Ok(T::default()),
        (Some(kind), None) => Ok(kind),
        (Some(_), Some(_)) => Err(Refusal::new(
            "InvalidParameterCombination",
            "Addresses, prefixes and counts of them cannot be used together",
        )),
    }
}

/// Takes the tags that `TagSpecification` has for one type of resource.
fn specified_tags(query: &mut Query, resource: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut found = BTreeMap::new();
    for mut specification in query.structures("TagSpecification") {
        let of: String = specification.required("ResourceType")?;
        if of != resource {
            return Err(invalid("TagSpecification.ResourceType", &of));
        }
        found.extend(tags(&mut specification)?);
        specification.finish()?;
    }
    Ok(found)
}

fn tags(query: &mut Query) -> Result<BTreeMap<String, String>, Refusal> {
    let take = |mut tag: Query| {
        let pair = (tag.required("Key")?, tag.text("Value").unwrap_or_default());
        tag.finish()?;
        Ok(pair)
    };
    query.structures("Tag").into_iter().map(take).collect()
}

fn invalid(name: &str, value: &str) -> Refusal {
    Refusal::new(
        "InvalidParameterValue",
        format!("Value ({value}) for parameter {name} is invalid."),
    )
}
