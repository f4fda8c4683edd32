//! What keeps the node's network right: what it should hold, what the kernel tells of it, and when damage is repaired.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{debug, error, info, warn};
use vpc_ipam_core::{EniId, EniLink, Lease, Mac, PodKey, Timestamp};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::pod::{self, PodNetwork, PodSettings};
use vpc_ipam_linux::{Event, Extent, Node, Pace, Repaired, Table, Watch};

use crate::cni::chain;

/// What the node should hold, shared with the thread that makes it so.
pub(super) type SharedNode = Arc<Mutex<Node>>;

/// The keeper of the node's network.
pub(super) struct Keep {
    node: SharedNode,
    settings: PodSettings,
    /// `None` once it failed.
    watch: Option<Watch>,
    pace: Pace,
    /// Whether the host thread is at it.
    repairing: Option<Extent>,
    /// Whether it was said that repairs are held back.
    told: bool,
    /// Pods that a plugin is wiring; nobody shall take what is not there yet for damage.
    coming: BTreeMap<PodKey, Coming>,
    /// Addresses of pods that are being removed, until they are released.
    leaving: BTreeMap<PodKey, Vec<IpAddr>>,
}

struct Coming {
    network: PodNetwork,
    /// When it should be there, whatever was heard of it.
    until: Timestamp,
}

/// How long a plugin may take to wire a pod: many times what it does on a busy machine.
const WIRING_MAX: Duration = Duration::from_secs(10);

impl Keep {
    /// Begins to watch a node that is set up; the first repair is due at once.
    pub(super) fn start(node: Node, settings: PodSettings, watch: Watch, now: Timestamp) -> Self {
        let mut pace = Pace::default();
        pace.damaged(Extent::All, now);
        Self {
            node: Arc::new(Mutex::new(node)),
            settings,
            watch: Some(watch),
            pace,
            repairing: None,
            told: false,
            coming: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// Returns what the node should hold, for the thread that makes it so.
    pub(super) fn node(&self) -> SharedNode {
        Arc::clone(&self.node)
    }

    /// Waits for the kernel to tell of something.
    pub(super) async fn next(&mut self) -> Event {
        let Some(watch) = &mut self.watch else {
            return core::future::pending().await;
        };
        match watch.next().await {
            Ok(event) => event,
            Err(error) => {
                error!(error = chain(&error), "the node's network is watched no longer");
                self.watch = None;
                Event::Lost
            }
        }
    }

    /// Returns what the kernel told already.
    pub(super) fn next_now(&mut self) -> Option<Event> {
        self.watch.as_mut().and_then(Watch::next_now)
    }

    /// Takes note of what the kernel told.
    pub(super) fn heard(&mut self, event: &Event, now: Timestamp) {
        if let Event::Rule { rule, gone: false } = event {
            self.arrive(now, |coming| coming.network.is_complete_with(rule));
        }
        if lock(&self.node).concerns(event) {
            debug!(?event, "the node's network was changed");
            let extent = match event {
                Event::Nat | Event::Lost => Extent::All,
                Event::Link { .. }
                | Event::Address { .. }
                | Event::Route { .. }
                | Event::Rule { .. } => Extent::Routing,
            };
            self.pace.damaged(extent, now);
        }
    }

    /// A pod that the node was not known to have is gone; it left its rules.
    pub(super) fn stranger_gone(&mut self, now: Timestamp) {
        self.pace.damaged(Extent::Routing, now);
    }

    /// Returns when there is something to do.
    pub(super) fn due(&self) -> Option<Timestamp> {
        let repair = self.pace.due().filter(|_| self.repairing.is_none());
        repair.into_iter().chain(self.coming.values().map(|coming| coming.until)).min()
    }

    /// Returns how much is to be repaired, if it is time.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Extent> {
        if self.arrive(now, |coming| coming.until <= now) {
            self.pace.damaged(Extent::Routing, now);
        }
        if self.repairing.is_none() {
            self.repairing = self.pace.take(now);
            return self.repairing;
        }
        None
    }

    /// Takes note of what came of a repair.
    pub(super) fn repaired(&mut self, result: Result<Repaired, String>, now: Timestamp) {
        let extent = self.repairing.take().unwrap_or(Extent::All);
        match result {
            // The thread that could not write a kernel variable told of that.
            Ok(Repaired { differences, absent, unwritable: _, egress }) => {
                self.remember(egress);
                self.pace.repaired(differences.len(), now);
                for absent in absent {
                    debug!(%absent, "waiting for a link");
                }
                for difference in &differences {
                    info!(%difference, "the node's network was put right");
                }
            }
            Err(error) => {
                error!(error, "cannot put the node's network right; trying again");
                self.pace.failed(extent, now);
            }
        }
        let held_back = self.pace.is_held_back();
        if held_back && !self.told {
            warn!(
                repairs = self.pace.repairs(),
                "something keeps changing the node's network; it is put right less often"
            );
        }
        self.told = held_back;
    }

    /// Remembers which addresses pods have beyond those of the VPC, unless they left meanwhile.
    fn remember(&self, mut egress: BTreeMap<Mac, IpAddr>) {
        let mut node = lock(&self.node);
        let interfaces = node.pods.values().flat_map(|network| &network.interfaces);
        let macs: BTreeSet<Mac> = interfaces.map(|interface| interface.host.mac).collect();
        egress.retain(|mac, _| macs.contains(mac));
        node.egress.retain(|mac, _| macs.contains(mac));
        node.egress.append(&mut egress);
    }

    /// Returns how many repairs found something, and how many objects they put right.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.pace.repairs(), self.pace.objects())
    }

    /// A pod had its addresses before this daemon started.
    pub(super) fn found(&mut self, lease: &Lease) {
        if let Ok(network) = pod::desired(lease, &self.settings) {
            lock(&self.node).pods.insert(lease.key.clone(), network);
        }
    }

    /// A pod got its addresses and is about to be wired, if it is not already.
    pub(super) fn leased(&mut self, lease: &Lease, now: Timestamp) {
        // The plugin will tell what is wrong with a lease that no network can be made for.
        let Ok(network) = pod::desired(lease, &self.settings) else {
            return;
        };
        let mut node = lock(&self.node);
        self.leaving.remove(&lease.key);
        if node.pods.get(&lease.key) != Some(&network) {
            node.pods.remove(&lease.key);
            node.busy.extend(addresses(&network));
            let coming = Coming { network, until: now + WIRING_MAX };
            self.coming.insert(lease.key.clone(), coming);
        }
    }

    /// Pods are there; returns whether any is.
    fn arrive(&mut self, now: Timestamp, arrives: impl Fn(&Coming) -> bool) -> bool {
        let mut node = lock(&self.node);
        let mut any = false;
        for (key, Coming { network, .. }) in self.coming.extract_if(.., |_, it| arrives(it)) {
            for address in addresses(&network) {
                node.busy.remove(&address);
            }
            if network.interfaces.iter().any(|interface| interface.egress.is_some()) {
                // Nothing may be wrong, but only a look at the routes tells which address it has.
                self.pace.damaged(Extent::Routing, now);
            }
            node.pods.insert(key, network);
            any = true;
        }
        any
    }

    /// A pod is about to be taken apart: its rules go, and nobody shall bring them back.
    pub(super) fn leaving(&mut self, key: &PodKey) {
        let mut node = lock(&self.node);
        let coming = self.coming.remove(key).map(|coming| coming.network);
        if let Some(network) = node.pods.remove(key).or(coming) {
            let addresses: Vec<IpAddr> = addresses(&network).collect();
            node.busy.extend(&addresses);
            self.leaving.insert(key.clone(), addresses);
        }
    }

    /// A pod is gone.
    pub(super) fn released(&mut self, key: &PodKey) {
        self.leaving(key);
        for address in self.leaving.remove(key).unwrap_or_default() {
            lock(&self.node).busy.remove(&address);
        }
    }

    /// An ENI is set up.
    pub(super) fn eni_set_up(&mut self, link: EniLink, now: Timestamp) {
        lock(&self.node).enis.insert(link.eni, link);
        // What its pods need could not be told before.
        self.pace.damaged(Extent::Routing, now);
    }

    /// Takes note which route table an ENI has, if that does not follow from its place.
    pub(super) fn eni_table(&mut self, eni: EniId, table: Option<Table>) {
        let mut node = lock(&self.node);
        match table {
            Some(table) => node.tables.insert(eni, table),
            None => node.tables.remove(&eni),
        };
    }

    /// An ENI is about to go.
    pub(super) fn eni_leaving(&mut self, eni: EniId) {
        self.eni_table(eni, None);
        lock(&self.node).enis.remove(&eni);
    }

    /// The node became known better.
    pub(super) fn learned(&mut self, facts: HostFacts) {
        lock(&self.node).facts = facts;
    }
}

/// Returns what the node should hold at this moment.
pub(super) fn latest(node: &SharedNode) -> Node {
    lock(node).clone()
}

fn addresses(network: &PodNetwork) -> impl Iterator<Item = IpAddr> {
    network.interfaces.iter().flat_map(|it| &it.addresses).map(|it| it.address)
}

fn lock(node: &SharedNode) -> MutexGuard<'_, Node> {
    // Every change of it is one insertion or removal.
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Card, DeviceIndex, LeasedInterface, Pod};
    use vpc_ipam_linux::{
        Family, HostConfig, Link, LinkId, LinkIndex, Namespace, Route, Table, VethPrefix,
    };

    use super::*;

    #[tokio::test]
    async fn address_that_only_the_node_knows_is_remembered_until_its_pod_leaves() {
        let now = Timestamp::from_secs(1000);
        let mut keep = keep(now);
        assert_eq!(keep.take(now + SOON), Some(Extent::All));
        keep.repaired(Ok(Repaired::default()), now);
        let lease = lease();
        keep.leased(&lease, now);
        // No rule was heard of, but it should be there by now.
        let late = now + WIRING_MAX;
        assert_eq!(keep.take(late), None);
        assert_eq!(keep.take(late + SOON), Some(Extent::Routing));
        let mac = lock(&keep.node).pods[&lease.key].interfaces[0].host.mac;
        let address = IpAddr::from([169, 254, 172, 9]);
        let seen = || Ok(Repaired { egress: [(mac, address)].into(), ..Repaired::default() });
        keep.repaired(seen(), late);
        assert_eq!(lock(&keep.node).egress, [(mac, address)].into());

        let lost = Event::Route { route: Route::on_link(Table::MAIN, address), gone: true };
        keep.heard(&lost, late);
        assert_eq!(keep.take(late + SOON), Some(Extent::Routing));
        keep.leaving(&lease.key);
        keep.repaired(seen(), late);

        assert_eq!(lock(&keep.node).egress, BTreeMap::new());
        keep.heard(&lost, late);
        assert_eq!(keep.take(late + SOON), None);
    }

    /// Longer than what a repair waits for more damage.
    const SOON: Duration = Duration::from_secs(1);

    fn keep(now: Timestamp) -> Keep {
        let primary = Link {
            id: LinkId::new(LinkIndex(2), "eth0"),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 9001,
            up: true,
            kind: None,
            lower: None,
        };
        let facts = HostFacts::ipv4(primary, [10, 0, 0, 10].into(), Vec::new(), 9001);
        let settings = PodSettings {
            egress: Some(Family::Ipv4),
            ..PodSettings::new(VethPrefix::default(), 9001)
        };
        let watch = Watch::open(&Namespace::current().unwrap()).unwrap();
        Keep::start(Node::new(HostConfig::default(), facts), settings, watch, now)
    }

    fn lease() -> Lease {
        Lease {
            key: PodKey::new("net", "c", "eth0").unwrap(),
            pod: Pod { namespace: "default".into(), name: "p".into() }.into(),
            since: Timestamp::EPOCH,
            first: LeasedInterface {
                eni: "eni-1".parse().unwrap(),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                card: Card(0),
                device: DeviceIndex(0),
                ipv4: None,
                ipv6: Some("2001:db8::1".parse().unwrap()),
            },
            more: Vec::new(),
        }
    }
}
