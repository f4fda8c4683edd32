//! The file of allocations, `vpc-cni-ipam/1`.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::wire::Key;

/// An allocation.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) address: IpAddr,
    /// Unix time in nanoseconds.
    pub(crate) since: i64,
    pub(crate) metadata: Value,
}

impl Entry {
    /// Returns the pod's namespace and name, if they are known.
    pub(crate) fn pod(&self) -> Option<(&str, &str)> {
        let text = |key: &str| self.metadata[key].as_str().filter(|text| !text.is_empty());
        text("k8sPodNamespace").zip(text("k8sPodName"))
    }
}

pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("var/run/aws-node/ipam.json")
}

/// Reads the file. What the original does not start with is an error: another version, text that is no JSON, an address that two have.
pub(crate) fn read(root: &Path) -> Result<Vec<Entry>, String> {
    let path = path(root);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    let file: Value = serde_json::from_slice(&text)
        .map_err(|error| format!("parse {}: {error}", path.display()))?;
    if file["version"] != "vpc-cni-ipam/1" {
        return Err(format!("{}: datastore: unknown backing store format", path.display()));
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut used = BTreeSet::new();
    for row in file["allocations"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let address = ["ipv4", "ipv6"].into_iter().find_map(|key| text(key).parse().ok());
        let Some(address) = address else {
            return Err(format!("{}: {row} has no address", path.display()));
        };
        if !used.insert(address) {
            return Err(format!("{}: datastore: IP {address} is in use already", path.display()));
        }
        entries.push(Entry {
            key: Key {
                network: text("networkName"),
                container: text("containerID"),
                ifname: text("ifName"),
            },
            address,
            since: row["allocationTimestamp"].as_i64().unwrap_or_default(),
            metadata: row["metadata"].clone(),
        });
    }
    Ok(entries)
}

/// Puts a file with these entries in the place of the one that is there.
pub(crate) fn write(root: &Path, entries: &[Entry]) -> Result<(), String> {
    let rows = entries.iter().map(|entry| {
        let family = if entry.address.is_ipv4() { "ipv4" } else { "ipv6" };
        json!({
            "networkName": entry.key.network,
            "containerID": entry.key.container,
            "ifName": entry.key.ifname,
            family: entry.address,
            "allocationTimestamp": entry.since,
            "metadata": entry.metadata,
        })
    });
    let file = json!({"version": "vpc-cni-ipam/1", "allocations": rows.collect::<Vec<_>>()});
    let path = path(root);
    let temporary = path.with_extension("json.tmp");
    let put = || -> std::io::Result<()> {
        let mut out = File::create(&temporary)?;
        out.write_all(file.to_string().as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, &path)
    };
    put().map_err(|error| format!("write {}: {error}", path.display()))
}
