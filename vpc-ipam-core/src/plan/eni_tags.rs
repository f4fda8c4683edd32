//! The tags that ENIs should carry.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};

use crate::model::tags::INSTANCE;
use crate::{Config, Node, Timestamp};

/// Set on every ENI we make: when, in RFC 3339.
pub(crate) const CREATED_AT: &str = "node.k8s.amazonaws.com/createdAt";
/// Set on every ENI we manage, where the cluster's name is known.
const CLUSTER: &str = "cluster.k8s.amazonaws.com/name";
/// Set beside [`CLUSTER`]; other tools look for it.
const OWNER: (&str, &str) = ("eks:eni:owner", "amazon-vpc-cni");
/// Keys with this in them are ours; the operator's tags may not set them.
const RESERVED: &str = "k8s.amazonaws.com";

/// Returns the tags that every managed ENI should carry because the operator wants them.
pub(crate) fn wanted(config: &Config) -> BTreeMap<String, String> {
    let mut tags: BTreeMap<_, _> = config
        .eni_tags
        .iter()
        .filter(|(key, _)| !key.contains(RESERVED))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(cluster) = &config.cluster {
        tags.insert(CLUSTER.to_string(), cluster.clone());
        tags.entry(OWNER.0.to_string()).or_insert_with(|| OWNER.1.to_string());
    }
    tags
}

/// Returns the tags of an ENI that is about to be made.
pub(crate) fn of_new_eni(node: &Node, config: &Config, now: Timestamp) -> BTreeMap<String, String> {
    let mut tags = wanted(config);
    tags.insert(INSTANCE.to_string(), node.instance.to_string());
    // amazon-vpc-cni-k8s' leaked-ENI sweep reads whole seconds.
    let whole_seconds = Timestamp::from_secs(now.as_nanos() / 1_000_000_000);
    tags.insert(CREATED_AT.to_string(), whole_seconds.to_string());
    tags
}
