//! The source/destination check of ENIs: what leaves an ENI with an address that is not its own goes nowhere.
//!
//! The link-local addresses of IPv6 pass, and the unspecified one: neighbours are found with them, and no router forwards them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;
use vpc_ipam_core::Mac;

use crate::kernel::process;
use crate::{Namespace, NamespaceError};

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
        /// The error of the operating system.
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
    blocks: &BTreeSet<IpNet>,
) -> Result<(), SourceCheckError> {
    nft(router, &["--file", "-"], &script(port, mac, blocks)).map(drop)
}

/// Removes the check of a port; how much it dropped stays.
pub(super) fn remove(router: &Namespace, port: &str) -> Result<(), SourceCheckError> {
    // To delete what may not be there, it is added first.
    let mut script =
        format!("add chain {TABLE} {port}\ndelete chain {TABLE} {port}\n{}", add_sets(port));
    for (set, _) in sets(port) {
        script += &format!("delete set {TABLE} {set}\n");
    }
    nft(router, &["--file", "-"], &script).map(drop)
}

/// Returns how many packets each port dropped.
pub(super) fn drops(router: &Namespace) -> Result<BTreeMap<String, u64>, SourceCheckError> {
    let mut arguments = vec!["--json", "list", "counters", "table"];
    arguments.extend(TABLE.split(' '));
    parse(&nft(router, &arguments, "")?).ok_or(SourceCheckError::Listing)
}

/// Returns the names of the sets of a port's blocks, and their types.
fn sets(port: &str) -> [(String, &'static str); 2] {
    [(format!("{port}-ipv4"), "ipv4_addr"), (format!("{port}-ipv6"), "ipv6_addr")]
}

fn add_sets(port: &str) -> String {
    let add = |(set, kind)| format!("add set {TABLE} {set} {{ type {kind}; flags interval; }}\n");
    sets(port).map(add).concat()
}

fn script(port: &str, mac: Mac, blocks: &BTreeSet<IpNet>) -> String {
    let add_sets = add_sets(port);
    let [(ipv4, _), (ipv6, _)] = sets(port);
    // Elements must not overlap.
    let (of_ipv4, of_ipv6): (Vec<_>, Vec<_>) =
        IpNet::aggregate(&blocks.iter().copied().collect()).into_iter().partition(is_ipv4);
    let (of_ipv4, of_ipv6) = (add_elements(&ipv4, &of_ipv4), add_elements(&ipv6, &of_ipv6));
    format!(
        "add counter {TABLE} {port}\n\
         {add_sets}\
         flush set {TABLE} {ipv4}\n\
         flush set {TABLE} {ipv6}\n\
         {of_ipv4}{of_ipv6}\
         add chain {TABLE} {port} {{ type filter hook ingress device \"{port}\" priority 0; policy accept; }}\n\
         flush chain {TABLE} {port}\n\
         add rule {TABLE} {port} ether saddr != {mac} counter name {port} drop\n\
         add rule {TABLE} {port} ip saddr != @{ipv4} counter name {port} drop\n\
         add rule {TABLE} {port} ip6 saddr {{ ::, fe80::/10 }} accept\n\
         add rule {TABLE} {port} ip6 saddr != @{ipv6} counter name {port} drop\n"
    )
}

fn is_ipv4(block: &IpNet) -> bool {
    block.addr().is_ipv4()
}

/// Fills a set; an empty list of elements is a syntax error.
fn add_elements(set: &str, blocks: &[IpNet]) -> String {
    if blocks.is_empty() {
        return String::new();
    }
    let blocks: Vec<_> = blocks.iter().map(IpNet::to_string).collect();
    format!("add element {TABLE} {set} {{ {} }}\n", blocks.join(", "))
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

/// Returns the nft by which the VPC is played: the system's, whatever the node uses instead.
pub(super) fn nft_of_system() -> &'static Path {
    let paths = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"].map(Path::new);
    paths.into_iter().find(|path| path.exists()).unwrap_or(Path::new("nft"))
}

fn nft(router: &Namespace, arguments: &[&str], input: &str) -> Result<String, SourceCheckError> {
    let run = || process::run(nft_of_system(), arguments, input);
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
        let blocks = |blocks: &[&str]| blocks.iter().map(|block| block.parse().unwrap()).collect();
        let text = script(
            "port1",
            mac,
            &blocks(&[
                "10.0.0.17/32",
                "10.0.0.16/28",
                "10.0.0.4/32",
                "2001:db8::1/128",
                "2001:db8:0:0:1::/80",
                "2001:db8:0:0:1::7/128",
            ]),
        );
        assert!(text.contains("port1-ipv4 { 10.0.0.4/32, 10.0.0.16/28 }"), "{text}");
        assert!(text.contains("port1-ipv6 { 2001:db8::1/128, 2001:db8:0:0:1::/80 }"), "{text}");

        let text = script("port1", mac, &blocks(&["10.0.0.4/32"]));
        assert!(!text.contains("add element netdev source-check port1-ipv6"), "{text}");
        let text = script("port1", mac, &blocks(&[]));
        assert!(!text.contains("add element"), "{text}");
    }
}
