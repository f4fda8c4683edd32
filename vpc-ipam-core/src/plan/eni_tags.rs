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

impl Config {
    /// Returns the tags that every managed ENI should carry because the operator wants them: those of `ADDITIONAL_ENI_TAGS` and of
    /// `CLUSTER_NAME`. CreateTags sets the ones that an ENI lacks.
    pub fn tags_of_managed_eni(&self) -> BTreeMap<String, String> {
        let mut tags: BTreeMap<_, _> = self
            .eni_tags
            .iter()
            .filter(|(key, _)| !key.contains(RESERVED))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let Some(cluster) = &self.cluster {
            tags.insert(CLUSTER.to_string(), cluster.clone());
            tags.entry(OWNER.0.to_string()).or_insert_with(|| OWNER.1.to_string());
        }
        tags
    }

    /// Returns the tags with which CreateNetworkInterface makes an ENI of this node: those of [`Self::tags_of_managed_eni`],
    /// whose it is, and when it is made.
    pub fn tags_of_new_eni(&self, node: &Node, now: Timestamp) -> BTreeMap<String, String> {
        let mut tags = self.tags_of_managed_eni();
        tags.insert(INSTANCE.to_string(), node.instance.to_string());
        // amazon-vpc-cni-k8s' leaked-ENI sweep reads whole seconds.
        let whole_seconds = Timestamp::from_secs(now.as_nanos() / 1_000_000_000);
        tags.insert(CREATED_AT.to_string(), whole_seconds.to_string());
        tags
    }
}
