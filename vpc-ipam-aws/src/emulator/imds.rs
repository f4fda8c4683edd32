//! The instance metadata service, version 2: a tree of texts behind a session token.

use core::fmt::Display;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use ipnet::Ipv4Net;
use vpc_ipam_core::sim::{Cloud, NetworkInterface, Vpc};
use vpc_ipam_core::{Card, InstanceId, Limits, ObservedSubnet, Timestamp};

use super::{SharedCloud, render};

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// Where the metadata are, and not the dynamic data.
const META_DATA: &str = "latest/meta-data/";

/// EC2's bound of a token's life: six hours.
const TTL_MAX_SECS: u64 = 21_600;

pub(super) fn router(cloud: SharedCloud, instance: InstanceId) -> Router {
    Router::new()
        .route("/latest/api/token", put(token))
        .fallback(read)
        .with_state(Arc::new(Front { cloud, instance }))
}

struct Front {
    cloud: SharedCloud,
    instance: InstanceId,
}

impl Front {
    /// Returns the status with which a request is refused, if it is.
    fn refusal(&self) -> Option<StatusCode> {
        let status = self.cloud.on_metadata_request()?;
        Some(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

/// A token is the time at which it ends: the server remembers none, and a forged one gains nothing.
async fn token(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    match front.refusal() {
        None | Some(StatusCode::UNAUTHORIZED) => {}
        Some(status) => return status.into_response(),
    }
    let ttl = headers
        .get(TTL_HEADER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .filter(|ttl| (1..=TTL_MAX_SECS).contains(ttl));
    let Some(ttl) = ttl else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let now = front.cloud.with(|_, now| now);
    let end = (now + Duration::from_secs(ttl)).as_nanos();
    ([(TTL_HEADER, ttl.to_string())], format!("AQAE{end:016x}")).into_response()
}

async fn read(State(front): State<Arc<Front>>, uri: Uri, headers: HeaderMap) -> Response {
    if let Some(status) = front.refusal() {
        return status.into_response();
    }
    let end = headers
        .get(TOKEN_HEADER)
        .and_then(|token| token.to_str().ok()?.strip_prefix("AQAE"))
        .and_then(|end| u64::from_str_radix(end, 16).ok())
        .map(Timestamp::from_nanos);
    let tree = front.cloud.with(|cloud, now| match end {
        Some(end) if end > now => Ok(tree(cloud, front.instance, now)),
        _ => Err(StatusCode::UNAUTHORIZED),
    });
    match tree {
        Err(status) => status.into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Ok(Some(tree)) => match look_up(&tree, uri.path()) {
            Some(text) => text.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// Returns the text of a path, or the names in a directory: those of directories end with a slash.
fn look_up(tree: &Tree, path: &str) -> Option<String> {
    let path = path.trim_matches('/');
    if let Some(text) = tree.get(path) {
        return text.clone();
    }
    let names: BTreeSet<String> = tree
        .keys()
        .filter_map(|key| key.strip_prefix(path)?.strip_prefix('/'))
        .map(|rest| match rest.split_once('/') {
            Some((directory, _)) => format!("{directory}/"),
            None => rest.to_owned(),
        })
        .collect();
    (!names.is_empty()).then(|| lines(names))
}

/// All texts by their path; `None` for one that is listed and not told.
type Tree = BTreeMap<String, Option<String>>;

/// Returns what there is to be read; `None` once the instance is gone.
fn tree(cloud: &mut Cloud, instance: InstanceId, now: Timestamp) -> Option<Tree> {
    let instance = cloud.instance(&instance)?;
    let (node, limits) = (&instance.node, &instance.limits);
    let primary = cloud.interface(&node.primary)?;
    let vpc = cloud.vpc(&node.vpc)?;
    let region = render::region(&node.zone);

    let mut tree = Tree::new();
    let mut put = |path: &str, text: &dyn Display| {
        tree.insert(format!("{META_DATA}{path}"), Some(text.to_string()));
    };
    put("instance-id", &node.instance);
    put("instance-type", &node.instance_type);
    put("mac", &primary.mac);
    put("placement/availability-zone", &node.zone);
    put("placement/region", &region);
    put("services/domain", &"amazonaws.com");
    put("services/partition", &"aws");
    if let Some(address) = primary.primary_ipv4 {
        put("local-ipv4", &address);
        put("local-hostname", &render::private_dns(address, &node.zone));
        put("hostname", &render::private_dns(address, &node.zone));
    }
    if let Some(address) = primary.ipv6_addresses().next() {
        put("ipv6", &address);
    }
    // A client that takes its credentials from here gets some: EC2's front looks at none.
    put("iam/security-credentials/emulator", &role_credentials(now));
    for eni in instance.enis.iter().filter_map(|id| cloud.interface(id)) {
        let subnet = cloud.subnet(&eni.subnet)?;
        for (name, text) in interface(eni, &subnet, vpc, limits) {
            put(&format!("network/interfaces/macs/{}/{name}", eni.mac), &text);
        }
    }
    for eni in instance.enis.iter().filter_map(|id| cloud.interface(id)) {
        if let Some(name) = cloud.withheld_metadata(&eni.id) {
            tree.insert(format!("{META_DATA}network/interfaces/macs/{}/{name}", eni.mac), None);
        }
    }

    let document = format!(
        r#"{{"accountId":"{}","availabilityZone":"{}","instanceId":"{}","instanceType":"{}","region":"{region}"}}"#,
        render::ACCOUNT,
        node.zone,
        node.instance,
        node.instance_type,
    );
    tree.insert("latest/dynamic/instance-identity/document".into(), Some(document));
    Some(tree)
}

/// Returns what the metadata service shows of an ENI. A name for which there is nothing is missing.
fn interface(
    eni: &NetworkInterface,
    subnet: &ObservedSubnet,
    vpc: &Vpc,
    limits: &Limits,
) -> Vec<(&'static str, String)> {
    let attachment = eni.attachment.as_ref();
    let device = attachment.map_or(0, |found| found.device.0);
    let card = attachment.map_or(Card(0), |found| found.card);
    let own = eni.primary_ipv4.into_iter();
    let (secondary, prefixes): (Vec<&Ipv4Net>, Vec<&Ipv4Net>) =
        eni.ipv4.iter().partition(|net| net.prefix_len() == 32);
    let ipv6_prefixes = eni.ipv6.iter().filter(|net| net.prefix_len() < 128);
    let cards = (limits.enis_per_card.len() > 1).then_some(card.0);

    let all = [
        ("device-number", lines([device])),
        ("interface-id", lines([eni.id])),
        ("ipv4-prefix", lines(prefixes)),
        ("ipv6-prefix", lines(ipv6_prefixes)),
        ("ipv6s", lines(eni.ipv6_addresses())),
        ("local-ipv4s", lines(own.chain(secondary.into_iter().map(|net| net.addr())))),
        ("mac", lines([eni.mac])),
        ("network-card", lines(cards)),
        ("owner-id", lines([render::ACCOUNT])),
        ("security-group-ids", lines(&eni.security_groups)),
        ("subnet-id", lines([eni.subnet])),
        ("subnet-ipv4-cidr-block", lines([subnet.ipv4_cidr])),
        ("subnet-ipv6-cidr-blocks", lines(subnet.ipv6_cidr)),
        ("vpc-id", lines([eni.vpc])),
        ("vpc-ipv4-cidr-block", lines(vpc.ipv4_cidrs.first())),
        ("vpc-ipv4-cidr-blocks", lines(&vpc.ipv4_cidrs)),
        ("vpc-ipv6-cidr-blocks", lines(&vpc.ipv6_cidrs)),
    ];
    let told = all.into_iter().filter(|(_, text)| !text.is_empty());
    told.collect()
}

fn role_credentials(now: Timestamp) -> String {
    let end = now + Duration::from_secs(TTL_MAX_SECS);
    format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"emulator","SecretAccessKey":"emulator","Token":"emulator","LastUpdated":"{now}","Expiration":"{end}"}}"#,
    )
}

fn lines<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let lines: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    lines.join("\n")
}
