//! The addresses of the node's ENIs, and which of them pods have.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use serde_json::{Value, json};
use vpc_ipam_core::{Metadata, ObservedEni};

use crate::checkpoint::{self, Entry};
use crate::eni::table;
use crate::settings::Settings;
use crate::wire::{Allocation, Key, Reply, Request, UNKNOWN_POD};

/// What plugins are answered from.
pub(crate) struct Pool {
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) metadata: Metadata,
    pub(crate) entries: Vec<Entry>,
    /// Addresses of pods that are gone, and since when.
    pub(crate) cooling: BTreeMap<IpAddr, Instant>,
}

impl Pool {
    pub(crate) fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::AddNetwork { key, namespace, pod } => {
                let metadata = json!({
                    "k8sPodNamespace": namespace,
                    "k8sPodName": pod,
                    "interfacesCount": 1,
                });
                self.add(key, metadata)
            }
            Request::DelNetwork { key, .. } => self.del(&key),
        }
    }

    fn add(&mut self, key: Key, metadata: Value) -> Reply {
        if key.network.is_empty() || key.container.is_empty() || key.ifname.is_empty() {
            return Err("datastore: empty key".to_owned());
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            return self.allocation(entry.address);
        }
        let cooldown = Duration::from_secs(self.settings.cooldown);
        self.cooling.retain(|_, since| since.elapsed() < cooldown);
        let Some(address) = self.free_address() else {
            return Err("no addresses available at this time".to_owned());
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        self.entries.push(Entry { key, address, since, metadata });
        if let Err(error) = checkpoint::write(&self.root, &self.entries) {
            self.entries.pop();
            return Err(error);
        }
        self.allocation(address)
    }

    fn del(&mut self, key: &Key) -> Reply {
        let of_cri = |entry: &Entry| {
            entry.key.network == "_migrated-from-cri"
                && entry.key.ifname == "unknown"
                && entry.key.container == key.container
        };
        let at = self.entries.iter().position(|entry| entry.key == *key);
        let at = at.or_else(|| self.entries.iter().position(of_cri));
        let entry = self.entries.remove(at.ok_or(UNKNOWN_POD)?);
        if let Err(error) = checkpoint::write(&self.root, &self.entries) {
            self.entries.push(entry);
            return Err(error);
        }
        self.cooling.insert(entry.address, Instant::now());
        self.allocation(entry.address)
    }

    /// Returns by which ENI an address leaves.
    pub(crate) fn allocation(&self, address: IpAddr) -> Reply {
        let carrier = self.carriers().find(|eni| carries(eni, address));
        let eni = carrier.ok_or_else(|| format!("no ENI has {address}"))?;
        let (table, device) = table(&self.metadata, eni);
        Ok(Allocation { address, device, table })
    }

    /// Returns the ENIs that carry pods.
    fn carriers(&self) -> impl Iterator<Item = &ObservedEni> {
        let custom = self.settings.custom_networking;
        let primary = self.metadata.node.primary;
        self.metadata.observation.enis.iter().filter(move |eni| !custom || eni.id != primary)
    }

    fn free_address(&self) -> Option<IpAddr> {
        let pods_on =
            |eni: &ObservedEni| self.entries.iter().filter(|it| carries(eni, it.address)).count();
        let mut carriers: Vec<_> = self.carriers().collect();
        carriers.sort_by_key(|eni| pods_on(eni));
        carriers.into_iter().find_map(|eni| {
            let blocks =
                eni.blocks.iter().filter(|block| self.settings.ipv6 != block.addr().is_ipv4());
            // Of a range of IPv6 the first addresses are more than a node has pods.
            let addresses = blocks.flat_map(|block| {
                block
                    .subnets(if self.settings.ipv6 { 128 } else { 32 })
                    .into_iter()
                    .flatten()
                    .take(1000)
            });
            addresses.map(|net| net.addr()).find(|address| self.is_free(*address))
        })
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.cooling.contains_key(&address)
            && self.entries.iter().all(|entry| entry.address != address)
    }
}

/// Returns whether an ENI has an address for pods.
pub(crate) fn carries(eni: &ObservedEni, address: IpAddr) -> bool {
    eni.blocks.iter().any(|block: &IpNet| block.contains(&address))
}
