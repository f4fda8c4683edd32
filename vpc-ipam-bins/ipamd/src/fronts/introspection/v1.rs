//! The documents of amazon-vpc-cni-k8s, in the shapes of its version 1.23, and `/v1/pods` in that of 1.6. Container ids and names of
//! interfaces are blank there too.

use core::net::IpAddr;
use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use vpc_ipam_core::{AddressUse, InterfaceType, Timestamp};
use vpc_ipam_protocol::{AddressInUse, BlockInventory, EniInventory, Inventory};

use crate::fronts::ask::{Asker, NoAnswer};

pub(super) fn routes() -> Router<Asker> {
    Router::new()
        .route("/v1/enis", get(enis))
        .route("/v1/pods", get(pods))
        .route("/v1/eni-configs", get(eni_configs))
        .route("/v1/ipamd-env-settings", get(ipamd_settings))
        .route("/v1/networkutils-env-settings", get(network_settings))
}

async fn enis(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    let Inventory { enis, .. } = *asker.inventory().await?;
    let mut cards: BTreeMap<u8, Vec<&EniInventory>> = BTreeMap::new();
    for eni in &enis {
        cards.entry(eni.card.0).or_default().push(eni);
    }
    let cards = cards.into_iter().map(|(card, enis)| (card.to_string(), of_card(&enis)));
    Ok(Json(Value::Object(cards.collect())))
}

fn of_card(enis: &[&EniInventory]) -> Value {
    let blocks = || enis.iter().flat_map(|eni| &eni.blocks);
    json!({
        "TotalIPs": blocks().map(|block| block.capacity).sum::<u32>(),
        "AssignedIPs": blocks().map(|block| block.states().assigned).sum::<u32>(),
        "ENIs": enis.iter().map(|eni| (eni.id.to_string(), of_eni(eni))).collect::<Map<_, _>>(),
    })
}

fn of_eni(eni: &EniInventory) -> Value {
    let of_family = |ipv4: bool| {
        let blocks = eni.blocks.iter().filter(|block| block.net.addr().is_ipv4() == ipv4);
        blocks.map(|block| (block.net.to_string(), of_block(block))).collect::<Map<_, _>>()
    };
    json!({
        "ID": eni.id,
        "IsPrimary": eni.primary,
        "IsTrunk": eni.interface_type == InterfaceType::Trunk,
        "IsEFA": matches!(eni.interface_type, InterfaceType::Efa | InterfaceType::EfaOnly),
        "DeviceNumber": eni.device.0,
        "AvailableIPv4Cidrs": of_family(true),
        "IPv6Cidrs": of_family(false),
        "IsExcludedForPodIPs": eni.excluded,
        "RouteTableID": eni.route_table,
        "SubnetID": eni.subnet,
    })
}

fn of_block(block: &BlockInventory) -> Value {
    json!({
        "Cidr": { "IP": block.net.addr(), "Mask": mask(block.net) },
        "IPAddresses": block
            .in_use
            .iter()
            .map(|it| (it.address.to_string(), of_address(it)))
            .collect::<Map<_, _>>(),
        "IsPrefix": block.net.prefix_len() < block.net.max_prefix_len(),
        "AddressFamily": "",
    })
}

fn of_address(AddressInUse { address, used, pod }: &AddressInUse) -> Value {
    let since = pod.as_ref().map_or(Timestamp::EPOCH, |pod| pod.since);
    let network = pod.as_ref().map_or("", |pod| pod.key.network());
    let (namespace, name) =
        pod.as_ref().map_or(("", ""), |pod| (pod.pod.namespace.as_str(), pod.pod.name.as_str()));
    // The time that Go has for none.
    const NEVER: &str = "0001-01-01T00:00:00Z";
    let time = |at: Timestamp| if at == Timestamp::EPOCH { NEVER.into() } else { at.to_string() };
    let assigned = matches!(used, AddressUse::Assigned);
    json!({
        "Address": address,
        "IPAMKey": { "networkName": network, "containerID": "", "ifName": "" },
        "IPAMMetadata": {
            "k8sPodNamespace": namespace,
            "k8sPodName": name,
            "interfacesCount": pod.as_ref().map_or(0, |pod| pod.interfaces),
        },
        "AssignedTime": time(if assigned { since } else { Timestamp::EPOCH }),
        "UnassignedTime": match used {
            AddressUse::Cooling { since, .. } => time(*since),
            _ => NEVER.to_string(),
        },
    })
}

async fn pods(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    let inventory = asker.inventory().await?;
    let of_pods = inventory.enis.iter().flat_map(|eni| {
        let in_use = eni.blocks.iter().flat_map(|block| &block.in_use);
        in_use.filter_map(move |it| it.pod.as_ref().map(|pod| (eni, it.address, pod)))
    });
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for (eni, address, pod) in of_pods {
        // The sandbox is blank as well; the third part tells pods of one name apart by their time.
        let name = format!("{}_{}_{}", pod.pod.name, pod.pod.namespace, pod.since.as_nanos());
        let told = json!({ "IP": address, "DeviceNumber": eni.device.0 });
        // Of two addresses that of IPv4, which 1.6 knows alone.
        if address.is_ipv4() || !pods.contains_key(&name) {
            pods.insert(name, told);
        }
    }
    Ok(Json(json!(pods)))
}

/// No Kubernetes node is read: what names an ENIConfig comes from a file (docs/per-node.md), which has no names.
async fn eni_configs() -> Response {
    (StatusCode::NOT_FOUND, Json(json!(""))).into_response()
}

async fn ipamd_settings(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    const NAMES: [&str; 5] = [
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE",
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
        "ENABLE_SUBNET_DISCOVERY",
        "WARM_ENI_TARGET",
        "WARM_IP_TARGET",
    ];
    let Inventory { mut settings, .. } = *asker.inventory().await?;
    settings.retain(|name, _| NAMES.contains(&name.as_str()));
    // Of two targets one is in force; the other is 0 there.
    for name in ["WARM_ENI_TARGET", "WARM_IP_TARGET"] {
        settings.entry(name.to_string()).or_insert(json!(0));
    }
    Ok(Json(json!(settings)))
}

async fn network_settings(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    const NAMES: [&str; 7] = [
        "AWS_EXTERNAL_SERVICE_CIDRS",
        "AWS_VPC_CNI_NODE_PORT_SUPPORT",
        "AWS_VPC_ENI_MTU",
        "AWS_VPC_K8S_CNI_CONNMARK",
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
        "AWS_VPC_K8S_CNI_EXTERNALSNAT",
        "AWS_VPC_K8S_CNI_VETHPREFIX",
    ];
    let Inventory { mut settings, .. } = *asker.inventory().await?;
    // A number there: of none, hashrandom, prng.
    let ports = match settings.get("AWS_VPC_K8S_CNI_RANDOMIZESNAT").and_then(Value::as_str) {
        Some("hashrandom") => 1,
        Some("prng") => 2,
        _ => 0,
    };
    settings.retain(|name, _| NAMES.contains(&name.as_str()));
    for name in ["AWS_EXTERNAL_SERVICE_CIDRS", "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] {
        // A list there, and null where it is empty.
        let list: Vec<&str> = settings
            .get(name)
            .and_then(Value::as_str)
            .map_or(Vec::new(), |text| text.split(',').filter(|range| !range.is_empty()).collect());
        let list = if list.is_empty() { Value::Null } else { json!(list) };
        settings.insert(name.to_string(), list);
    }
    settings.insert("AWS_VPC_K8S_CNI_RANDOMIZESNAT".to_string(), json!(ports));
    Ok(Json(json!(settings)))
}

/// Returns a mask as Go's JSON has bytes.
fn mask(net: IpNet) -> String {
    match net.netmask() {
        IpAddr::V4(mask) => BASE64_STANDARD.encode(mask.octets()),
        IpAddr::V6(mask) => BASE64_STANDARD.encode(mask.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_encoded_as_go_encodes_bytes() {
        let cases = [
            ("10.0.0.1/32", "/////w=="),
            ("10.0.0.16/28", "////8A=="),
            ("2001:db8::/80", "/////////////wAAAAAAAA=="),
        ];
        for (net, expected) in cases {
            assert_eq!(mask(net.parse().unwrap()), expected, "{net}");
        }
    }
}
