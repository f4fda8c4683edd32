//! The source/destination check of ENIs: what leaves an ENI with an address that is not its own goes nowhere.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::Value;
use vpc_ipam_core::Mac;

use crate::{Namespace, NamespaceError, nft};

/// A failure to set or to read the source/destination checks of a lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceCheckError {
    /// The namespace of the router could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// nft could not be run, or failed.
    #[error("run nft for the source/destination checks")]
    Nft {
        /// Why.
        source: io::Error,
    },
    /// The counters are not listed as nft 1.0 lists them.
    #[error("understand the counters that nft lists")]
    Listing,
}

const TABLE: &str = "netdev source-check";

/// Makes the table in which the checks go.
pub(super) fn build(router: &Namespace) -> Result<(), SourceCheckError> {
    nft(router, &["--file", "-"], &format!("add table {TABLE}\n")).map(drop)
}

/// Lets a port take in nothing but what comes from the MAC address and the blocks of its ENI. How much it dropped so far
/// stays.
pub(super) fn set(
    router: &Namespace,
    port: &str,
    mac: Mac,
    blocks: &[Ipv4Net],
) -> Result<(), SourceCheckError> {
    nft(router, &["--file", "-"], &script(port, mac, blocks)).map(drop)
}

/// Removes the check of a port; how much it dropped stays.
pub(super) fn remove(router: &Namespace, port: &str) -> Result<(), SourceCheckError> {
    // To delete what may not be there, it is added first.
    let script = format!(
        "add chain {TABLE} {port}\n\
         delete chain {TABLE} {port}\n\
         add set {TABLE} {port} {{ type ipv4_addr; flags interval; }}\n\
         delete set {TABLE} {port}\n"
    );
    nft(router, &["--file", "-"], &script).map(drop)
}

/// Returns how many packets each port dropped.
pub(super) fn drops(router: &Namespace) -> Result<BTreeMap<String, u64>, SourceCheckError> {
    let mut arguments = vec!["--json", "list", "counters", "table"];
    arguments.extend(TABLE.split(' '));
    parse(&nft(router, &arguments, "")?).ok_or(SourceCheckError::Listing)
}

fn script(port: &str, mac: Mac, blocks: &[Ipv4Net]) -> String {
    // Elements must not overlap, and an empty list of them is a syntax error.
    let blocks: Vec<_> =
        Ipv4Net::aggregate(&blocks.to_vec()).iter().map(Ipv4Net::to_string).collect();
    let elements = match blocks.join(", ") {
        none if none.is_empty() => String::new(),
        some => format!("add element {TABLE} {port} {{ {some} }}\n"),
    };
    format!(
        "add counter {TABLE} {port}\n\
         add set {TABLE} {port} {{ type ipv4_addr; flags interval; }}\n\
         flush set {TABLE} {port}\n\
         {elements}\
         add chain {TABLE} {port} {{ type filter hook ingress device \"{port}\" priority 0; policy accept; }}\n\
         flush chain {TABLE} {port}\n\
         add rule {TABLE} {port} ether saddr != {mac} counter name {port} drop\n\
         add rule {TABLE} {port} ip saddr != @{port} counter name {port} drop\n"
    )
}

fn parse(listing: &str) -> Option<BTreeMap<String, u64>> {
    let listing: Value = serde_json::from_str(listing).ok()?;
    let counters = listing.get("nftables")?.as_array()?.iter().filter_map(|it| it.get("counter"));
    counters
        .map(|counter| {
            Some((counter.get("name")?.as_str()?.to_owned(), counter.get("packets")?.as_u64()?))
        })
        .collect()
}

fn nft(router: &Namespace, arguments: &[&str], input: &str) -> Result<String, SourceCheckError> {
    let run = || nft::run(Path::new("nft"), arguments, input);
    router.run(run)?.map_err(|source| SourceCheckError::Nft { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_nft_lists_them() {
        let listing = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"counter": {"family": "netdev", "name": "port1", "table": "source-check", "handle": 1, "packets": 3, "bytes": 252}},
            {"counter": {"family": "netdev", "name": "port2", "table": "source-check", "handle": 5, "packets": 0, "bytes": 0}}]}"#;
        let expected = [("port1".to_owned(), 3), ("port2".to_owned(), 0)];
        assert_eq!(parse(listing), Some(BTreeMap::from(expected)));

        for odd in ["", "{}", r#"{"nftables": [{"counter": {"name": "port1"}}]}"#] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn blocks_that_overlap_are_one_element() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let blocks = ["10.0.0.17/32", "10.0.0.16/28", "10.0.0.4/32"];
        let blocks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
        let text = script("port1", mac, &blocks);
        assert!(text.contains("{ 10.0.0.4/32, 10.0.0.16/28 }"), "{text}");

        let text = script("port1", mac, &[]);
        assert!(!text.contains("add element"), "{text}");
    }
}
