//! The pods that the node should hold: found, set up, taken apart, gone or lost.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::{FoundLink, Lease, Mac, PodKey, Timestamp};
use vpc_ipam_linux::pod::{self, PodNetwork};
use vpc_ipam_linux::{AbsentLink, AdoptedLink, Extent, Repaired};

use super::{NetworkKeeper, lock};

/// How long a plugin may take to set a pod up: many times what it does on a busy machine.
pub(super) const SET_UP_MAX: Duration = Duration::from_secs(10);

/// A pod that is gone, and its links not yet.
pub(super) struct Departing {
    /// The MAC addresses of its links.
    pub(super) links: Vec<Mac>,
    /// Whether rules of a pod may be left that had one of its addresses before, and was in no state file.
    pub(super) leaves_rules: bool,
}

/// A pod that a plugin is setting up.
pub(super) struct Coming {
    pub(super) network: PodNetwork,
    /// When it should be there, with or without events.
    pub(super) until: Timestamp,
}

/// What is left of a pod that is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its links alone.
    Links(PodNetwork),
    /// Possibly routes and rules too.
    All(PodNetwork),
}

impl NetworkKeeper {
    /// A pod had its addresses before this daemon started.
    pub(crate) fn found(&mut self, lease: &Lease) {
        if lease.addresses_only {
            return;
        }
        if let Ok(network) = pod::desired(lease, &self.settings) {
            lock(&self.node).pods.insert(lease.key.clone(), network);
        }
    }

    /// A pod got its addresses and is about to be set up, if it is not already.
    pub(crate) fn leased(&mut self, lease: &Lease, now: Timestamp) {
        self.lost.forget(&lease.key);
        self.given_up.remove(&lease.key);
        if lease.addresses_only {
            return;
        }
        // The plugin will tell what is wrong with a lease that no network can be made for.
        let Ok(network) = pod::desired(lease, &self.settings) else {
            return;
        };
        let mut node = lock(&self.node);
        self.leaving.remove(&lease.key);
        if node.pods.get(&lease.key) != Some(&network) {
            node.pods.remove(&lease.key);
            node.busy.extend(addresses(&network));
            node.busy_links.extend(links(&network));
            // One that was made under this key before the state was lost is this pod's again.
            let own =
                |it: &AdoptedLink| it.mac.is_some_and(|mac| links(&network).any(|own| own == mac));
            let before = node.adopted.links.len();
            node.adopted.links.retain(|_, link| !own(link));
            self.untracked_changed |= node.adopted.links.len() < before;
            let coming = Coming { network, until: now + SET_UP_MAX };
            self.coming.insert(lease.key.clone(), coming);
        }
    }

    /// A pod that was in no state file has a lease: its link, its routes and its rules are kept as those of any other from now on.
    pub(crate) fn imported(&mut self, lease: &Lease, now: Timestamp) {
        self.found(lease);
        let mut node = lock(&self.node);
        let of_pod =
            |link: &AdoptedLink| lease.found.iter().any(|found| link.mac == Some(found.mac));
        node.adopted.links.retain(|_, link| !of_pod(link));
        drop(node);
        for address in lease.addresses() {
            self.untracked.forget(&address);
        }
        // What is remembered of such pods changed.
        self.untracked_changed = true;
        // Rules carry no protocol yet, and variables are another program's.
        self.damaged(Extent::Kernel, now);
    }

    /// Returns the link of its own by which an address is reached of a pod that is in no state file, as a lease of the pod keeps it; or
    /// why there is none.
    pub(crate) fn link_to_import(&self, address: IpAddr) -> Result<FoundLink, String> {
        let node = lock(&self.node);
        if node.beside_aws_cni {
            return Err(
                "vpc-ipamd runs with --no-adopt, and leaves pods to amazon-vpc-cni-k8s".to_owned()
            );
        }
        let Some((link, _)) = node.adopted_route(address) else {
            return Err(match node.untracked().contains(&address) {
                true => format!("the route to {address} leads over a link of several pods"),
                false => format!("no link of a pod leads to {address}: its pod is gone"),
            });
        };
        let name = &link.name;
        let mac = link.mac.ok_or_else(|| format!("link {name} has no MAC address"))?;
        let seen = node.seen.links.values().filter(|it| it.mac == Some(mac));
        if seen.count() > 1 {
            return Err(format!("several links have the MAC address {mac} of link {name}"));
        }
        Ok(FoundLink::new(name, mac).with_table(link.table_from(address).map(|table| table.0)))
    }

    /// Pods are there; returns whether any is.
    pub(super) fn arrive(&mut self, now: Timestamp, arrives: impl Fn(&Coming) -> bool) -> bool {
        let mut node = lock(&self.node);
        let mut any = false;
        for (key, Coming { network, .. }) in self.coming.extract_if(.., |_, it| arrives(it)) {
            for address in addresses(&network) {
                node.busy.remove(&address);
            }
            for mac in links(&network) {
                node.busy_links.remove(&mac);
            }
            if network.interfaces.iter().any(|interface| interface.egress.is_some()) {
                // Nothing may be wrong, but only a look at the routes tells which address it has.
                self.kernel.pace.damaged(Extent::Routing, now);
            }
            node.pods.insert(key, network);
            any = true;
        }
        any
    }

    /// A pod is about to be taken apart: its rules go, and are not to be brought back.
    pub(crate) fn leaving(&mut self, key: &PodKey) {
        self.lost.forget(key);
        self.given_up.remove(key);
        let mut node = lock(&self.node);
        let coming = self.coming.remove(key).map(|coming| coming.network);
        if let Some(network) = node.pods.remove(key).or(coming) {
            node.busy.extend(addresses(&network));
            node.busy_links.extend(links(&network));
            self.leaving.insert(key.clone(), network);
        }
    }

    /// A pod is gone; returns what it left behind for this node to remove.
    pub(crate) fn released(&mut self, key: &PodKey) -> Option<Left> {
        // Of a plugin that began before this daemon did, rules and routes may have been brought back meanwhile.
        let announced = self.leaving.contains_key(key);
        self.leaving(key);
        let network = self.leaving.remove(key)?;
        let mut node = lock(&self.node);
        let mut leaves_rules = false;
        for address in addresses(&network) {
            node.busy.remove(&address);
            node.yielded.remove(&address);
            self.rivals.forget(address);
            leaves_rules |= self.left.remove(&address);
        }
        let links = links(&network).collect();
        self.departing.insert(key.clone(), Departing { links, leaves_rules });
        Some(if announced { Left::Links(network) } else { Left::All(network) })
    }

    /// Nothing is left of a pod that is gone.
    pub(crate) fn departed(&mut self, key: &PodKey, now: Timestamp) {
        let Some(Departing { links, leaves_rules }) = self.departing.remove(key) else { return };
        for mac in links {
            lock(&self.node).busy_links.remove(&mac);
        }
        if leaves_rules {
            self.damaged(Extent::Routing, now);
        }
    }

    /// Returns whether a plugin is setting up or removing a pod.
    pub(crate) fn is_at_work(&self) -> bool {
        !self.coming.is_empty() || !self.leaving.is_empty()
    }

    /// Returns the pods of the state file that have been without links for too long.
    pub(crate) fn given_up(&mut self) -> BTreeSet<PodKey> {
        core::mem::take(&mut self.given_up)
    }

    /// Takes note of the pods that a comparison found without links, or without the route that alone tells that they are there.
    pub(super) fn look_for_lost(&mut self, repaired: &Repaired, now: Timestamp) {
        let Some(seen) = &repaired.seen else { return };
        let mut node = lock(&self.node);
        let mut absent: BTreeMap<&PodKey, usize> = BTreeMap::new();
        for link in &repaired.absent {
            if let AbsentLink::Pod(key, _) = link {
                *absent.entry(key).or_default() += 1;
            }
        }
        let all = |(key, count): &(&PodKey, usize)| {
            node.pods.get(*key).is_some_and(|network| network.interfaces.len() == *count)
        };
        let without_links = absent.into_iter().filter(all).map(|(key, _)| key.clone()).collect();
        self.given_up.extend(self.lost.found(without_links, now));
        let known = &mut node.adopted.routed;
        self.untracked_changed |= self.untracked.routed(&seen.adopted.routed, known, now);
    }
}

fn addresses(network: &PodNetwork) -> impl Iterator<Item = IpAddr> {
    network.interfaces.iter().flat_map(|it| &it.addresses).map(|it| it.address)
}

/// Returns the MAC addresses of a pod's links on the node.
fn links(network: &PodNetwork) -> impl Iterator<Item = Mac> {
    network.interfaces.iter().map(|it| it.host.mac)
}
