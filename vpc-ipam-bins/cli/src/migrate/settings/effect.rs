//! What becomes of traffic where a variable says otherwise than the node shows.

use std::collections::BTreeSet;

/// Returns it in words.
pub(super) fn of(name: &str, given: &str, derived: &str) -> String {
    let given_is_true = matches!(given, "1" | "t" | "T" | "TRUE" | "true" | "True");
    match (name, given_is_true) {
        ("AWS_VPC_K8S_CNI_CONNMARK", _) => format!(
            "running connections carry the mark {derived}: answers to them would leave by the ENI of the pod instead of the primary one, and \
             get lost; rules of other programs may use {given}"
        ),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", _) => format!(
            "rules for links {given}* do not see running pods behind {derived}*: connections of those on secondary ENIs to outside would \
             leave untranslated, and network policy by the prefix {derived} would not see new pods"
        ),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", true) => {
            "connections of pods to outside of the VPC would leave with the pods' own addresses, and no answer comes back".to_owned()
        }
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", false) => {
            "connections of pods to outside of the VPC would leave with the node's address instead of the pods' own: servers and firewalls \
             that know pods by their addresses would refuse them"
                .to_owned()
        }
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", _) => {
            let (more, less) = (only_in(given, derived), only_in(derived, given));
            let mut parts = Vec::new();
            if !less.is_empty() {
                parts.push(format!("connections of pods to {less} would leave with the node's address"));
            }
            if !more.is_empty() {
                parts.push(format!("connections of pods to {more} would leave with the pods' own addresses"));
            }
            parts.join("; ")
        }
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", _) => format!(
            "source ports of connections to outside would be chosen by {given} instead of {derived}: where several pods take the same port to \
             the same server at once, more of their connections fail, or fewer"
        ),
        ("AWS_EXTERNAL_SERVICE_CIDRS", _) => {
            let (more, less) = (only_in(given, derived), only_in(derived, given));
            let mut parts = Vec::new();
            if !less.is_empty() {
                parts.push(format!("pods on secondary ENIs would reach {less} by their own ENI instead of the primary one"));
            }
            if !more.is_empty() {
                parts.push(format!("pods on secondary ENIs would reach {more} by the primary ENI"));
            }
            parts.join("; ")
        }
        ("AWS_VPC_ENI_MTU", _) => format!(
            "the links of ENIs would change from {derived} to {given} bytes under running connections: larger packets are dropped or come in \
             pieces, or the room for them is not used"
        ),
        ("POD_MTU", _) => format!(
            "new pods would send packets of up to {given} bytes and running ones of up to {derived}: what does not fit through an ENI or a tunnel \
             is dropped"
        ),
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", false) => {
            "answers of pods on secondary ENIs to NodePort connections would leave by their own ENI, and get lost".to_owned()
        }
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", true) => {
            "connections that come in by the primary ENI would be marked, and a program that uses the same bits of marks would see them"
                .to_owned()
        }
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", _) => {
            "new pods would get addresses of the primary ENI's subnet, and its security groups instead of the ENIConfig's".to_owned()
        }
        ("ENABLE_IPv6", true) => "new pods would get IPv6 addresses instead of IPv4".to_owned(),
        ("ENABLE_IPv6", false) => "new pods would get IPv4 addresses instead of IPv6".to_owned(),
        ("ENABLE_V4_EGRESS", false) => "new pods would not reach IPv4".to_owned(),
        ("ENABLE_V4_EGRESS", true) => "new pods would reach IPv4, which running ones do not".to_owned(),
        ("ENABLE_V6_EGRESS", false) => "new pods would not reach IPv6, which running ones do".to_owned(),
        ("ENABLE_V6_EGRESS", true) => "new pods would reach IPv6, which running ones do not".to_owned(),
        ("ENABLE_PREFIX_DELEGATION", true) => {
            "the node would take prefixes of 16 addresses for new pods, as far as its subnet has them in one piece".to_owned()
        }
        ("ENABLE_PREFIX_DELEGATION", false) => {
            "new pods would get addresses one by one: the node takes far fewer pods".to_owned()
        }
        ("DISABLE_POD_V6", _) => "new pods would have link-local addresses of IPv6, which running ones do not".to_owned(),
        _ => format!("the node would not go on as it was, with {derived}"),
    }
}

/// Returns the items of one list that another lacks, with commas between.
fn only_in(one: &str, other: &str) -> String {
    let items = |text: &str| -> BTreeSet<String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        // A range by any of its addresses is that range.
        items
            .map(|item| {
                item.parse::<ipnet::Ipv4Net>().map_or(item.to_owned(), |it| it.trunc().to_string())
            })
            .collect()
    };
    items(one).difference(&items(other)).cloned().collect::<Vec<_>>().join(", ")
}
