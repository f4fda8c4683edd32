//! What keeps the node's network right: what it should hold, which events the kernel sends, and when damage is repaired.

pub(crate) mod aws_cni;
pub(crate) mod lost;
mod pods;
pub(crate) mod rivals;
mod side;
pub(crate) mod untracked;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use vpc_ipam_core::{EniId, EniLink, PodKey, Timestamp, error_chain};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::pod::{PodNetwork, PodSettings};
use vpc_ipam_linux::{
    AbsentLink, AdoptedLink, ApplyError, Extent, HostConfig, KernelEvent, LinkIndex, NodeNetwork,
    Protocol, Repaired, Seen, Table, Watch,
};

use self::aws_cni::AwsCni;
use self::lost::Lost;
use self::pods::{Coming, Departing};
use self::rivals::{Rivals, Yield};
use self::side::Side;
use self::untracked::{Changes, Untracked};

pub(crate) use self::pods::Left;

/// What the node should hold, shared with the threads that make it so.
pub(super) type SharedNode = Arc<Mutex<NodeNetwork>>;

/// Knows what the node's network should hold, and decides when which part of it is repaired.
pub(super) struct NetworkKeeper {
    node: SharedNode,
    settings: PodSettings,
    watch: Watch,
    /// When the watch may open new sockets, after it could not.
    watch_at: Option<Instant>,
    /// Of what the kernel tells by itself.
    kernel: Side,
    /// Of address translation, for which programs are run that may hang.
    translation: Side,
    /// When everything is compared for which the kernel sends no events.
    compare_at: Timestamp,
    /// Other programs that change what is kept.
    rivals: Rivals,
    /// The objects of which a warning said that other programs keep changing them.
    reported_fights: BTreeSet<String>,
    /// Why rules cannot name the link of the primary ENI, as the log said it.
    unnamable: Option<String>,
    /// Signs of amazon-vpc-cni-k8s beside this daemon.
    aws_cni: AwsCni,
    /// Pods that are in no state file.
    untracked: Untracked,
    /// Whether something may be new of them.
    untracked_changed: bool,
    /// Pods of the state file whose links are gone.
    lost: Lost,
    /// Those of them whose time is up.
    given_up: BTreeSet<PodKey>,
    /// Pods that a plugin is setting up: what is not there yet is no damage.
    coming: BTreeMap<PodKey, Coming>,
    /// Pods that a plugin is removing, until they are released.
    leaving: BTreeMap<PodKey, PodNetwork>,
    /// Pods that are gone, until their links are.
    departing: BTreeMap<PodKey, Departing>,
    /// Addresses that pods had which were in no state file: their rules are left where another pod got the address first.
    left: BTreeSet<IpAddr>,
}

/// What is to be repaired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) kernel: Option<Extent>,
    pub(super) translation: bool,
}

/// How often everything is compared, for what the kernel sends no event: some of its variables, and chains of iptables.
const COMPARE_EVERY: Duration = Duration::from_secs(300);

/// After new sockets could not be opened, until that is tried again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

impl NetworkKeeper {
    /// Begins to watch a node that is set up; the first repair is due at once. Of what tells that a pod is there, what is lost may be
    /// missing for the grace time.
    pub(super) fn start(
        node: NodeNetwork,
        settings: PodSettings,
        watch: Watch,
        rivals: Rivals,
        grace: Duration,
        now: Timestamp,
    ) -> Self {
        let mut keeper = Self {
            node: Arc::new(Mutex::new(node)),
            settings,
            watch,
            watch_at: None,
            kernel: Side::default(),
            translation: Side::default(),
            compare_at: now + COMPARE_EVERY,
            rivals,
            reported_fights: BTreeSet::new(),
            unnamable: None,
            aws_cni: AwsCni::default(),
            untracked: Untracked::new(grace),
            untracked_changed: false,
            lost: Lost::new(grace),
            given_up: BTreeSet::new(),
            coming: BTreeMap::new(),
            leaving: BTreeMap::new(),
            departing: BTreeMap::new(),
            left: BTreeSet::new(),
        };
        keeper.damaged(Extent::All, now);
        keeper
    }

    /// Returns what the node should hold, for the thread that makes it so.
    pub(super) fn node(&self) -> SharedNode {
        Arc::clone(&self.node)
    }

    /// Returns what the operator wants of the node's network.
    pub(super) fn node_config(&self) -> HostConfig {
        lock(&self.node).config.clone()
    }

    /// Waits for the kernel's next event.
    pub(super) async fn next(&mut self) -> KernelEvent {
        loop {
            if let Some(at) = self.watch_at {
                tokio::time::sleep_until(at).await;
                self.watch_at = None;
            }
            match self.watch.next().await {
                Ok(event) => return event,
                Err(error) => {
                    error!(
                        error = error_chain(&error),
                        "cannot watch the node's network; trying again"
                    );
                    self.watch_at = Some(Instant::now() + WATCH_PAUSE);
                }
            }
        }
    }

    /// Returns what the kernel told already.
    pub(super) fn next_now(&mut self) -> Option<KernelEvent> {
        self.watch.next_now()
    }

    /// Takes note of what the kernel told.
    pub(super) fn on_kernel_event(&mut self, event: &KernelEvent, now: Timestamp) {
        if let KernelEvent::Rule { rule, gone: false, .. } = event {
            self.arrive(now, |coming| coming.network.is_complete_with(rule));
        }
        let node = lock(&self.node);
        let concerned = node.concerns(event);
        let made_by_aws_cni = node.made_by_aws_cni(event).filter(|_| !self.rivals.is_own(event));
        drop(node);
        if let Some(what) = made_by_aws_cni {
            self.made_by_aws_cni(&what, &rivals::who(event), now);
        }
        if let Some(extent) = concerned {
            debug!(?event, "the node's network was changed");
            self.damaged(extent, now);
        }
        if *event == KernelEvent::Lost {
            warn!("the kernel dropped events of the node's network; all of it is compared");
        }
        let mut node = lock(&self.node);
        if let Some(Yield { pod, protocol, port }) = self.rivals.on_kernel_event(event, &node, now)
        {
            let by = rivals::name(port);
            if node.yielded.insert(pod, protocol) != Some(protocol) {
                warn!(%pod, by, %protocol, "another program removes the pod's route again and again; it is made under its protocol");
            }
        }
        self.untracked_changed |= node.learn(event);
    }

    /// Takes note that amazon-vpc-cni-k8s made something while this daemon runs.
    pub(super) fn made_by_aws_cni(&mut self, what: &str, by: &str, now: Timestamp) {
        self.aws_cni.made(what, by, now);
        self.damaged(Extent::Translation, now);
    }

    fn damaged(&mut self, extent: Extent, now: Timestamp) {
        if let Some(extent) = extent.of_kernel() {
            self.kernel.pace.damaged(extent, now);
        }
        if extent.has_translation() {
            self.translation.pace.damaged(Extent::Translation, now);
        }
    }

    /// Takes note of what a look at the kernel saw before anything is kept.
    pub(super) fn looked(&mut self, seen: &Seen) {
        lock(&self.node).remember_seen(seen);
        self.untracked_changed = true;
    }

    /// Returns what is new of pods that are in no state file, if anything may be.
    pub(super) fn untracked(&mut self) -> Option<Changes> {
        let changed = core::mem::take(&mut self.untracked_changed);
        let changes = changed.then(|| self.untracked.update(&lock(&self.node)))?;
        self.left.extend(&changes.gone);
        Some(changes)
    }

    /// Returns whether one of some addresses is that of a pod which is in no state file.
    pub(super) fn is_untracked(&self, mut addresses: impl Iterator<Item = IpAddr>) -> bool {
        addresses.any(|address| self.untracked.has(&address))
    }

    /// Returns the addresses of such pods.
    pub(super) fn untracked_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.untracked.addresses()
    }

    /// Returns what is to be said of a pod that amazon-vpc-cni-k8s added, if it did: routes of this program's pods carry our protocol.
    pub(super) fn pod_of_aws_cni(&self, address: IpAddr) -> Option<String> {
        let node = lock(&self.node);
        let (link, route) = node.adopted_route(address)?;
        let is_ours = route.protocol == Protocol::OURS;
        (!is_ours).then(|| format!("a pod with the address {address}, link {}", link.name))
    }

    /// Returns the name of the link by which such a pod is reached, if it has one of its own.
    pub(super) fn untracked_link(&self, address: IpAddr) -> Option<String> {
        let node = lock(&self.node);
        node.adopted_route(address).map(|(link, _)| link.name.clone())
    }

    /// Returns what is to be kept of such pods for the next start.
    pub(super) fn adopted(&self) -> BTreeMap<LinkIndex, AdoptedLink> {
        lock(&self.node).adopted.links.clone()
    }

    /// Returns what an operator should look at.
    pub(super) fn problems(&self, now: Timestamp) -> Vec<String> {
        let sides = [&self.kernel, &self.translation].into_iter();
        let unlisted = sides.flat_map(|side| side.unlisted.iter().cloned());
        self.aws_cni.problem(now).into_iter().chain(unlisted).collect()
    }

    /// Returns when there is something to do.
    pub(super) fn due(&self) -> Option<Timestamp> {
        let sides = [&self.kernel, &self.translation].into_iter();
        let repairs = sides.filter(|side| side.repairing.is_none()).filter_map(|it| it.pace.due());
        let arrivals = self.coming.values().map(|coming| coming.until);
        let looks = [self.aws_cni.due(), self.untracked.due(), self.lost.due()];
        // They end with a comparison, which is not asked for twice.
        let looks = looks.into_iter().flatten().filter(|_| self.kernel.pace.due().is_none());
        let looks = looks.filter(|_| self.kernel.repairing.is_none());
        repairs.chain(arrivals).chain(looks).chain([self.compare_at]).min()
    }

    /// Returns what is to be repaired, if it is time.
    pub(super) fn take(&mut self, now: Timestamp) -> Due {
        if self.arrive(now, |coming| coming.until <= now) {
            self.damaged(Extent::Routing, now);
        }
        if self.aws_cni.take(now) {
            self.damaged(Extent::Translation, now);
        }
        let looks = [self.untracked.due(), self.lost.due()];
        if looks.into_iter().flatten().any(|at| at <= now) && self.kernel.repairing.is_none() {
            self.damaged(Extent::Routing, now);
        }
        if self.compare_at <= now {
            self.compare_at = now + COMPARE_EVERY;
            self.damaged(Extent::All, now);
        }
        let due = Due {
            kernel: self.kernel.take(now),
            translation: self.translation.take(now).is_some(),
        };
        if due != Due::default() {
            let mut spared = self.kernel.pace.spared(now);
            spared.append(&mut self.translation.pace.spared(now));
            lock(&self.node).spared = spared;
        }
        due
    }

    /// Takes note of what came of a repair of what the kernel tells by itself.
    pub(super) fn repaired(&mut self, result: Result<Repaired, ApplyError>, now: Timestamp) {
        if let Ok(repaired) = &result {
            for absent in &repaired.absent {
                debug!(%absent, "waiting for a link");
            }
            self.untracked_changed |= lock(&self.node).remember(repaired);
            self.look_for_lost(repaired, now);
        }
        self.kernel.repaired(result, now);
        self.report_fights();
    }

    /// Takes note of what came of a repair of address translation.
    pub(super) fn translated(&mut self, result: Result<Repaired, ApplyError>, now: Timestamp) {
        if let Ok(repaired) = &result {
            self.report_unnamable(&repaired.absent);
        }
        self.translation.repaired(result, now);
        self.report_fights();
    }

    /// Says once that address translation cannot follow the primary ENI's link, and that it can again.
    fn report_unnamable(&mut self, absent: &[AbsentLink]) {
        let unnamable = |it: &&AbsentLink| matches!(it, AbsentLink::PrimaryUnnamable(_));
        let why = absent.iter().find(unnamable).map(ToString::to_string);
        if why == self.unnamable {
            return;
        }
        match &why {
            Some(why) => warn!("address translation stays as it is: {why}"),
            None => info!("rules can name the link of the primary ENI again"),
        }
        self.unnamable = why;
    }

    /// Says once of each object that it is put right again and again.
    fn report_fights(&mut self) {
        let sides = [&self.kernel, &self.translation].into_iter();
        let held_back: BTreeSet<String> =
            sides.flat_map(|side| side.pace.held_back()).map(str::to_owned).collect();
        for object in held_back.difference(&self.reported_fights) {
            let by = self.rivals.who(object);
            warn!(
                object,
                by, "another program keeps changing this; it is put right less and less often"
            );
        }
        self.reported_fights = held_back;
    }

    /// Returns how many repairs found something, and how many objects they put right.
    pub(super) fn counts(&self) -> (u64, u64) {
        let sides = [&self.kernel.pace, &self.translation.pace];
        (sides.iter().map(|it| it.repairs()).sum(), sides.iter().map(|it| it.objects()).sum())
    }

    /// An ENI is set up.
    pub(super) fn eni_set_up(&mut self, link: EniLink, now: Timestamp) {
        lock(&self.node).enis.insert(link.eni, link);
        // What its pods need could not be told before.
        self.damaged(Extent::Routing, now);
    }

    /// Takes note which route table an ENI has.
    pub(super) fn eni_table(&mut self, eni: EniId, table: Table) {
        lock(&self.node).tables.insert(eni, table);
    }

    /// An ENI is about to go.
    pub(super) fn eni_removing(&mut self, eni: EniId) {
        let mut node = lock(&self.node);
        node.tables.remove(&eni);
        node.enis.remove(&eni);
    }

    /// The node became known better.
    pub(super) fn learned(&mut self, facts: HostFacts, now: Timestamp) {
        lock(&self.node).facts = facts;
        self.damaged(Extent::Translation, now);
    }
}

/// Returns what the node should hold at this moment.
pub(super) fn latest(node: &SharedNode) -> NodeNetwork {
    lock(node).clone()
}

fn lock(node: &SharedNode) -> MutexGuard<'_, NodeNetwork> {
    // Every change of it is one insertion or removal.
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Lease, Mac, testkit};
    use vpc_ipam_linux::{
        Family, HostConfig, Leads, Link, LinkId, LinkIndex, Namespace, Route, RouteEntry, Seen,
        VethPrefix,
    };

    use super::pods::SET_UP_MAX;
    use super::*;

    #[tokio::test]
    async fn address_that_only_the_node_knows_is_remembered_until_its_pod_leaves() {
        let now = Timestamp::from_secs(1000);
        let mut keeper = keeper(now);
        let all = Due { kernel: Some(Extent::Kernel), translation: true };
        assert_eq!(keeper.take(now + SOON), all);
        keeper.repaired(Ok(Repaired::default()), now);
        keeper.translated(Ok(Repaired::default()), now);
        let lease = lease();
        keeper.leased(&lease, now);
        // No event named a rule, but it should be there by now.
        let late = now + SET_UP_MAX;
        let routing = || Due { kernel: Some(Extent::Routing), translation: false };
        assert_eq!(keeper.take(late), Due::default());
        assert_eq!(keeper.take(late + SOON), routing());
        let mac = lock(&keeper.node).pods[&lease.key].interfaces[0].host.mac;
        let address = IpAddr::from([169, 254, 172, 9]);
        let seen = || {
            let seen = Seen { egress: [(mac, address)].into(), ..Seen::default() };
            Ok(Repaired { seen: Some(seen), ..Repaired::default() })
        };
        keeper.repaired(seen(), late);
        assert_eq!(lock(&keeper.node).seen.egress, [(mac, address)].into());

        let route = Route::on_link(Table::MAIN, address);
        let entry = RouteEntry { route, leads: Leads::Over(LinkIndex(9)) };
        let lost = KernelEvent::Route { entry, gone: true, by: None };
        keeper.on_kernel_event(&lost, late);
        assert_eq!(keeper.take(late + SOON), routing());
        keeper.leaving(&lease.key);
        keeper.repaired(seen(), late);

        assert_eq!(lock(&keeper.node).seen.egress, BTreeMap::new());
        keeper.on_kernel_event(&lost, late);
        assert_eq!(keeper.take(late + SOON), Due::default());
    }

    /// While the pod was there, its address kept them.
    #[tokio::test]
    async fn rules_of_a_pod_in_no_state_file_are_looked_for_when_its_address_is_free_again() {
        let now = Timestamp::from_secs(1000);
        let mut keeper = keeper(now);
        keeper.take(now + SOON);
        keeper.repaired(Ok(Repaired::default()), now);
        keeper.translated(Ok(Repaired::default()), now);
        keeper.left.insert("2001:db8::1".parse().unwrap());
        for expected in [Some(Extent::Routing), None] {
            let lease = lease();
            keeper.found(&lease);
            keeper.leaving(&lease.key);
            keeper.released(&lease.key);
            assert_eq!(keeper.take(now + SOON), Due::default());

            keeper.departed(&lease.key, now);

            assert_eq!(keeper.take(now + 2 * SOON).kernel, expected);
            keeper.repaired(Ok(Repaired::default()), now);
        }
    }

    /// Longer than what a repair waits for more damage.
    const SOON: Duration = Duration::from_secs(1);

    fn keeper(now: Timestamp) -> NetworkKeeper {
        let primary = Link {
            id: LinkId::new(LinkIndex(2), "eth0"),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 9001,
            up: true,
            kind: None,
            lower: None,
            alias: None,
        };
        let facts = HostFacts::ipv4(primary, [10, 0, 0, 10].into(), Vec::new(), 9001);
        let settings = PodSettings {
            egress: Some(Family::Ipv4),
            ..PodSettings::new(VethPrefix::default(), 9001)
        };
        let watch = Watch::open(&Namespace::current().unwrap()).unwrap();
        let node = NodeNetwork::new(HostConfig::default(), facts);
        NetworkKeeper::start(node, settings, watch, Rivals::default(), SOON, now)
    }

    fn lease() -> Lease {
        testkit::lease("p", [(testkit::leased(0, 1, ["2001:db8::1"])).with_primary(true)])
    }
}
