use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::model::Model;
use super::rule::{Breach, Rule, hold};
use super::setup::{Launched, Setup, config_of, net};
use super::step::{Meddling, Place, Step, Store};
use crate::model::tags;
use crate::pool::Eni;
use crate::sim::{
    About, Call, Cloud, CreateInterface, CreateSubnet, Fault, Ipv4Request, Lasts, ModifyInterface,
    Refusal, Refusals, Reservation, RunInstance,
};
use crate::{
    Action, ActionId, AddressRequest, AssignError, Assigned, AttachNetworkInterface, Because,
    BlockState, Card, CardChoice, Config, Demand, DeviceIndex, Ec2Action, EniConfig, EniId,
    Failure, FailureKind, HostAction, InterfaceType, Ipam, Ipv4Amount, Ipv4Kind, Issued, Lease,
    LeasedInterface, Node, Observation, Outcome, Pod, PodKey, Readiness, Record, Released, Scope,
    Source, Stage, Timestamp, UnassignIpv6Addresses, UnassignPrivateIpAddresses, Uncommitted,
    Violation, WaitingOn, Wanted,
};

/// A node under test: core, the model of EC2, and a [`Model`] that watches both.
///
/// Every method that does something checks the rules afterwards.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    setup: Setup,
    node: Node,
    pub(super) cloud: Cloud,
    pub(super) ipam: Ipam,
    model: Model,
    pub(super) now: Timestamp,
    /// The latest time ever told.
    latest: Timestamp,
    /// The time as it would be if the clock had not been set back.
    real: Timestamp,
    /// When the process started, by that time.
    started: Timestamp,
    config: Config,
    eni_config: Option<EniConfig>,
    schedulable: bool,
    terminating: bool,
    kernel_works: bool,
    starts: u64,
    store: Store,
    /// Leases that the slow store has not written.
    unwritten: VecDeque<Lease>,
    refusals: Refusals,
    /// Whether a subnet, or the instance, has less room than core was ever shown.
    unseen_shortage: bool,
    /// Whether this process never asked for a prefix: no list says whether a subnet has one.
    unseen_fragments: bool,
    /// Whether another program attached an ENI since EC2 last said what is attached.
    unseen_eni: bool,
    /// Actions that the executor lost.
    lost: Vec<ActionId>,
    /// Actions that were issued before the clock was set back: what they show is void.
    void: BTreeSet<ActionId>,
    /// Actions that core gave up because no outcome came in time.
    given_up: BTreeSet<ActionId>,
    /// Actions that were not carried out.
    issued: Vec<Issued>,
    /// Whether the instance changed its type.
    resized: bool,
    /// Whether an answer left out ENIs that are there.
    misled: bool,
    /// Actions that were carried out, and their answers, which are on their way.
    posted: Vec<(Issued, Outcome)>,
    /// Answers to questions of other programs.
    photographs: Vec<Observation>,
    crowds: Vec<EniId>,
    /// How many changes in EC2 and on the node were tried, and succeeded.
    changes: (u32, u32),
    /// How often each operation was called.
    calls: BTreeMap<Call, u32>,
    log: Option<String>,
}

/// How many pods a scenario has.
const PODS: u8 = 64;
/// How often an operation may be called in an hour for a cause that does not change, for each thing that it is about; see
/// `backoff/rules.rs`.
const CALLS_AN_HOUR: u32 = 22;

impl Driver {
    pub(super) fn new(setup: &Setup) -> Self {
        let now = Setup::START;
        let launched = setup.launch();
        let eni_config = Setup::eni_config(&launched);
        let Launched { cloud, instance, foreign, .. } = launched;
        let node = cloud.instance(&instance).expect("it was launched").node.clone();
        let mut model = Model::default();
        model.links.insert(node.primary);
        // Tags and types tell what is whose, and IMDS has neither.
        if setup.config.ec2_reads {
            model.foreign.extend(foreign);
        }
        let (limits, config) = (setup.limits.clone(), setup.config.clone());
        let ipam = Ipam::new(node.clone(), limits, config, setup.budget.clone(), setup.seed, now)
            .expect("a setup's configuration is usable");
        let mut driver = Self {
            config: setup.config.clone(),
            setup: setup.clone(),
            node,
            cloud,
            ipam,
            model,
            now,
            latest: now,
            real: now,
            started: now,
            eni_config,
            schedulable: true,
            terminating: false,
            kernel_works: true,
            starts: 1,
            store: Store::Prompt,
            unwritten: VecDeque::new(),
            refusals: Refusals::default(),
            unseen_shortage: false,
            unseen_fragments: true,
            unseen_eni: false,
            lost: Vec::new(),
            void: BTreeSet::new(),
            given_up: BTreeSet::new(),
            issued: Vec::new(),
            resized: false,
            misled: false,
            posted: Vec::new(),
            photographs: Vec::new(),
            crowds: Vec::new(),
            changes: (0, 0),
            calls: BTreeMap::new(),
            log: None,
        };
        driver.ipam.handle_eni_config(driver.eni_config.clone(), now);
        driver
    }

    /// Writes down what happens from now on.
    pub(super) fn keep_log(&mut self) {
        self.log = Some(String::new());
    }

    pub(super) fn into_log(self) -> String {
        self.log.unwrap_or_default()
    }

    /// Returns a hash of everything that decides what comes next.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let enis: Vec<_> = self.cloud.interfaces().collect();
        let open = (&self.issued, &self.posted, &self.unwritten, &self.photographs, &self.refusals);
        let told = (self.now, self.schedulable, self.terminating, self.kernel_works, self.store);
        let stored = (&self.model.leases, &self.model.released, &self.model.granted);
        let state = (self.ipam.essence(), enis, open, told, stored);
        let _ = write!(hash, "{state:?}");
        hash.0
    }

    /// Takes one step, and checks the rules.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Breach> {
        self.drain()?;
        self.note(|| format!("{step:?}"));
        match step {
            Step::UntilDue => {
                let due = self.ipam.poll_timeout().map(|(at, _)| at);
                let later = due.unwrap_or(self.now + Duration::from_secs(300));
                self.wait_until(later)?;
            }
            Step::Wait(duration) => self.wait_until(self.now + duration)?,
            Step::Add { pod, every_card } => self.add(pod, every_card)?,
            Step::Del { pod } => self.del(pod)?,
            Step::Store(store) => self.store = store,
            Step::Written { durable } => self.written(durable)?,
            Step::Answer { which, fault } => {
                if let Some((issued, outcome)) = self.execute(which, fault) {
                    self.deliver(&issued, outcome)?;
                }
            }
            Step::Execute { which, fault } => {
                let posted = self.execute(which, fault);
                self.posted.extend(posted);
            }
            Step::Deliver { which } => {
                if let Some(index) = index(which, self.posted.len()) {
                    let (issued, outcome) = self.posted.remove(index);
                    self.deliver(&issued, outcome)?;
                }
            }
            Step::Cooperate => self.cooperate()?,
            Step::Observe { source, fault } => {
                if let Some(observation) = self.photograph(source, fault) {
                    self.observe(&observation)?;
                }
            }
            Step::Photograph { source, fault } => {
                let photograph = self.photograph(source, fault);
                self.photographs.extend(photograph);
            }
            Step::Show { which } => {
                if let Some(index) = index(which, self.photographs.len()) {
                    let observation = self.photographs.remove(index);
                    self.observe(&observation)?;
                }
            }
            Step::Crash => self.crash(),
            Step::ClockBack(duration) => {
                let back = self.now.as_nanos().saturating_sub(duration.as_nanos() as u64);
                self.now = Timestamp::from_nanos(back);
                self.model.on_clock_set_back(self.now);
                // The cloud's past goes by the same clock.
                self.cloud.remember(Setup::REACH);
                // What was shown before has no age by this clock: it is void.
                self.photographs.clear();
                let posted = self.posted.iter().map(|(issued, _)| issued);
                self.void.extend(self.issued.iter().chain(posted).map(|issued| issued.id));
                self.ipam.handle_timeout(self.now);
            }
            Step::Configure { bytes: [target, families] } => {
                let was = &self.setup.config;
                let wanted = config_of(&self.setup.limits, &[target, families]);
                self.config = Config {
                    families: if was.custom_networking { was.families } else { wanted.families },
                    target: wanted.target,
                    ..was.clone()
                };
                let config = self.config.clone();
                let usable = self.ipam.handle_config(config, self.now);
                usable.expect("a setup's configurations are usable");
            }
            Step::Cordon(cordoned) => {
                self.schedulable = !cordoned;
                self.ipam.handle_schedulable(!cordoned, self.now);
            }
            Step::Terminate => {
                self.terminating = true;
                self.ipam.handle_terminating(self.now);
            }
            Step::Untracked { which, in_use } => self.untracked(which, in_use),
            Step::Meddle { how, which } => self.meddle(how, which),
            Step::Crowd { addresses } => {
                let request = CreateInterface {
                    ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(u16::from(addresses))),
                    ..CreateInterface::new(self.node.subnet)
                };
                if let Ok(eni) = self.cloud.create_network_interface(&request, self.now) {
                    self.crowds.push(eni.id);
                    self.on_space_taken();
                }
            }
            Step::Disperse => {
                if let Some(eni) = self.crowds.pop() {
                    let _ = self.cloud.delete_network_interface(eni, self.now);
                }
            }
            Step::Kernel { works } => self.kernel_works = works,
            Step::Refuse { call, about, kind, lasts } => self.refuse(call, about, kind, lasts),
            Step::Heal => self.refusals.heal(),
            Step::Fill { leave } => self.fill(leave),
            Step::Reserve { which, explicit } => self.reserve(which, explicit),
            Step::AttachOtherVpc => self.attach_other_vpc(),
            Step::Resize { slots, enis } => self.resize(slots, enis),
            Step::Lose { which } => {
                if let Some(index) = index(which, self.issued.len()) {
                    let issued = self.issued.remove(index);
                    self.note(|| format!("lost {} {:?}", issued.id, issued.action));
                    self.lost.push(issued.id);
                }
            }
            Step::Hour => self.hour()?,
            Step::Probe => self.probe()?,
        }
        self.drain()?;
        self.check()
    }

    /// Heals the cloud and the node, lets time pass, and checks that the node converges at its target.
    pub(super) fn settle(&mut self) -> Result<(), Breach> {
        /// How long the worst chain of waits may take: audits, and back-offs at their longest.
        const LONG: Duration = Duration::from_secs(3 * 3600);
        /// In which nothing may change any more.
        const STILL: Duration = Duration::from_secs(3600);

        self.note(|| "settle".to_string());
        self.kernel_works = true;
        self.refusals.heal();
        self.store = Store::Prompt;
        self.photographs.clear();
        self.wait_until(self.latest)?;
        while !self.unwritten.is_empty() {
            self.written(true)?;
        }
        for (issued, outcome) in core::mem::take(&mut self.posted) {
            self.deliver(&issued, outcome)?;
        }
        self.drain()?;
        self.run_until(self.now + LONG)?;
        let (_, changed) = self.changes;
        let tried = self.changes.0;
        self.run_until(self.now + STILL)?;
        hold!(
            self.changes.1 == changed,
            Converged,
            "{} changes after it converged",
            self.changes.1 - changed
        );
        // A subnet that is full is tried again after its back-off, which is 120 s at first and 480 s in the end.
        hold!(
            self.changes.0 - tried <= 40,
            Budget,
            "{} attempts after it converged",
            self.changes.0 - tried
        );
        self.check_converged()
    }

    /// An hour passes in which what is refused goes on being refused, and nothing else happens.
    fn hour(&mut self) -> Result<(), Breach> {
        // What follows from the steps before is no part of it.
        self.run_until(self.now + Duration::from_secs(60))?;
        let before = self.calls.clone();
        self.run_until(self.now + Duration::from_secs(3600))?;
        // A scope for each ENI, each subnet and each card; questions are asked again where sources disagree.
        let limits = &self.setup.limits;
        let most: u32 = limits.cards().into_iter().map(|card| u32::from(limits.enis(card))).sum();
        let places = most.max(self.ipam.pool().enis().len() as u32) + 4;
        for (call, count) in &self.calls {
            let made = count - before.get(call).copied().unwrap_or(0);
            let most = match call {
                Call::ReadMetadata => 70,
                // Each thing that fails may make the node ask once what EC2 has.
                Call::Ec2(operation) if operation.reads() => 40 + CALLS_AN_HOUR * places / 3,
                _ => CALLS_AN_HOUR * places,
            };
            hold!(
                made <= most,
                Calls,
                "{call:?} is called {made} times in an hour, {most} at most"
            );
        }
        Ok(())
    }

    /// Checks that what readiness promises comes true, on a copy in which no further fault begins.
    fn probe(&mut self) -> Result<(), Breach> {
        // What core cannot know yet, it need not tell.
        let unknown = self.refusals.are_unmet()
            || self.unseen_shortage
            || self.unseen_eni
            || self.unseen_fragments && self.config.families.ipv4() == Some(Ipv4Kind::Prefixes)
            || self.now < self.latest
            || self.model.meddled
            || self.misled
            || !self.posted.is_empty()
            || !self.lost.is_empty()
            || !self.kernel_works
            || self.store != Store::Prompt;
        let by = match self.ipam.readiness(self.now) {
            _ if unknown => return Ok(()),
            Readiness::NotReady(error) => {
                let said = !error.to_string().is_empty();
                hold!(said, ToldTruly, "not ready, and nothing says why");
                return Ok(());
            }
            Readiness::Ready => self.now,
            Readiness::Soon { by } => by,
        };
        if self.log.is_some() {
            let explained = self.ipam.explain(self.now);
            self.note(|| format!("promised by {by}: {explained}"));
        }
        let mut copy = self.clone();
        copy.log = None;
        let key = PodKey::new("aws-cni", "probe", "eth0").expect("no part is empty");
        let pod = Arc::new(Pod { namespace: "default".to_string(), name: "probe".to_string() });
        let request = AddressRequest { key: key.clone(), pod, cards: CardChoice::Any };
        match copy.ipam.assign(&request, copy.now) {
            Ok(Assigned::Now(uncommitted)) => return copy.granted(uncommitted),
            Ok(Assigned::Later { .. }) => {}
            Err(error) => hold!(false, ToldTruly, "promised by {by}, refused: {error}"),
        }
        copy.run_until(by)?;
        let served = copy.model.leases.contains_key(&key);
        hold!(served, ToldTruly, "promised by {by}: {}", copy.ipam.explain(copy.now));
        Ok(())
    }

    fn refuse(&mut self, call: Call, about: Place, kind: FailureKind, lasts: Duration) {
        let about = match about {
            Place::Anywhere => None,
            Place::Eni(which) => {
                let attached = self.attached();
                let eni = index(which, attached.len()).map(|index| About::Eni(attached[index]));
                if eni.is_none() {
                    return;
                }
                eni
            }
            Place::PrimarySubnet => Some(About::Subnet(self.node.subnet)),
            Place::Card(card) => Some(About::Card(Card(card))),
        };
        let lasts = match lasts {
            Duration::ZERO => Lasts::Calls(1),
            lasts if lasts.as_secs() == u64::MAX => Lasts::ForEver,
            lasts => Lasts::Until(self.now + lasts),
        };
        self.refusals.refuse(Refusal { call, about, kind, lasts });
    }

    /// Other nodes took addresses of a subnet, which no list showed core yet.
    fn on_space_taken(&mut self) {
        self.unseen_shortage = true;
        self.unseen_fragments = true;
    }

    /// Other nodes take all but so many addresses of the primary subnet, unless it is too large for that.
    fn fill(&mut self, leave: u8) {
        for _ in 0..8 {
            let free = self.cloud.subnet(&self.node.subnet).map_or(0, |it| it.ipv4_addresses_free);
            let Some(more) = free.checked_sub(u32::from(leave) + 1) else { return };
            let addresses = u16::try_from(more.min(2000)).unwrap_or(0);
            let request = CreateInterface {
                ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(addresses)),
                ..CreateInterface::new(self.node.subnet)
            };
            let Ok(eni) = self.cloud.create_network_interface(&request, self.now) else { return };
            self.crowds.push(eni.id);
            self.on_space_taken();
        }
    }

    fn reserve(&mut self, which: u8, explicit: bool) {
        let Some(subnet) = self.cloud.subnet(&self.node.subnet) else { return };
        let blocks: Vec<Ipv4Net> = match subnet.ipv4_cidr.subnets(28) {
            Ok(blocks) => blocks.take(256).collect(),
            Err(_) => return,
        };
        let reservation = if explicit { Reservation::Explicit } else { Reservation::Prefix };
        if let Some(index) = index(which, blocks.len()) {
            let _ = self.cloud.reserve(subnet.id, blocks[index], reservation);
            self.on_space_taken();
        }
    }

    fn attach_other_vpc(&mut self) {
        let vpc = self.cloud.create_vpc(alloc::vec![net("172.20.0.0/16")], Vec::new());
        let request = CreateSubnet::new(vpc, self.node.zone, net("172.20.0.0/20"));
        let subnet = self.cloud.create_subnet(request).expect("the VPC is empty");
        let two = Ipv4Request::Count(Ipv4Amount::Addresses(2));
        let Some(device) = self.free_device() else { return };
        self.unseen_eni = true;
        let request = CreateInterface { ipv4: two, ..CreateInterface::new(subnet) };
        let Ok(made) = self.cloud.create_network_interface(&request, self.now) else { return };
        self.on_space_taken();
        let instance = self.node.instance;
        let attach = AttachNetworkInterface { eni: made.id, instance, card: Card(0), device };
        if self.cloud.attach_network_interface(&attach, self.now).is_ok() {
            self.model.foreign.insert(made.id);
        }
    }

    /// The instance is stopped, becomes one of another size, and starts: as another boot, without pods.
    fn resize(&mut self, slots: u8, enis: u8) {
        let limits = super::setup::limits_of(slots, enis, self.setup.shape());
        if self.cloud.resize_instance(self.node.instance, limits.clone()).is_err() {
            return;
        }
        self.setup.limits = limits;
        self.resized = true;
        self.model.leases.clear();
        self.model.undead.clear();
        self.model.released.clear();
        self.model.links = [self.node.primary].into();
        self.crash();
    }

    /// Returns a device index of card 0 at which nothing is attached.
    fn free_device(&self) -> Option<DeviceIndex> {
        let taken: Vec<DeviceIndex> = self
            .attached()
            .iter()
            .filter_map(|id| self.cloud.interface(id)?.attachment.as_ref())
            .filter(|attachment| attachment.card == Card(0))
            .map(|attachment| attachment.device)
            .collect();
        let most = self.setup.limits.enis(Card(0));
        (0..most).map(DeviceIndex).find(|device| !taken.contains(device))
    }

    /// Carries everything out as it comes until a point in time.
    pub(super) fn run_until(&mut self, end: Timestamp) -> Result<(), Breach> {
        loop {
            self.cooperate()?;
            self.check()?;
            match self.ipam.poll_timeout() {
                Some((due, _)) if due <= end => self.wait_until(due)?,
                _ => break,
            }
        }
        self.wait_until(end)?;
        self.cooperate()?;
        self.check()
    }

    /// Carries out all that was asked for and all that follows.
    fn cooperate(&mut self) -> Result<(), Breach> {
        self.drain()?;
        // A chain of steps for each ENI, of which there are few.
        for _ in 0..400 {
            let Some((issued, outcome)) = self.execute(0, None) else {
                return Ok(());
            };
            self.deliver(&issued, outcome)?;
            self.drain()?;
        }
        hold!(self.issued.is_empty(), Converges, "400 actions at one time");
        Ok(())
    }

    fn wait_until(&mut self, at: Timestamp) -> Result<(), Breach> {
        self.real = self.real + at.since(self.now);
        self.now = self.now.max(at);
        self.latest = self.latest.max(self.now);
        self.ipam.handle_timeout(self.now);
        for (key, deadline) in self.ipam.waiting() {
            hold!(deadline > self.now, Answered, "{key} waits since {deadline} at {}", self.now);
        }
        self.drain()
    }

    fn add(&mut self, pod: u8, every_card: bool) -> Result<(), Breach> {
        let name = format!("pod-{}", pod % PODS);
        let key = key(pod);
        let request = AddressRequest {
            key: key.clone(),
            pod: Arc::new(Pod { namespace: "default".to_string(), name }),
            cards: if every_card { CardChoice::Every } else { CardChoice::Any },
        };
        let could = self.free_address();
        match self.ipam.assign(&request, self.now) {
            Ok(Assigned::Now(uncommitted)) => self.granted(uncommitted)?,
            Ok(Assigned::Later { deadline }) => {
                hold!(deadline > self.now, Answered, "{key} shall wait until {deadline}");
            }
            Err(AssignError::NoAddress { .. }) => {
                let refused =
                    !every_card && !self.config.multi_nic && self.config.families.ipv4().is_some();
                if refused
                    && !self.config.families.ipv6()
                    && let Some(free) = could
                {
                    hold!(false, Answered, "{key} was refused while {free} is free");
                }
            }
            Err(AssignError::OneCard) => {
                let one = !self.config.multi_nic;
                hold!(every_card && one, Answered, "{key} was refused for want of cards");
            }
            Err(AssignError::NotUsable { .. }) => {
                let held = self.model.leases.get(&key).or(self.model.granted.get(&key));
                hold!(held.is_some(), Answered, "{key} was refused an address that it has not");
            }
            Err(error) => hold!(false, Answered, "{key}: {error}"),
        }
        Ok(())
    }

    /// Returns an IPv4 address that a pod could have had, as far as can be seen without a plan.
    fn free_address(&self) -> Option<IpAddr> {
        let usable = |eni: &&Eni| {
            eni.stage == Stage::Ready
                && eni.is_managed()
                && !eni.excluded
                && eni.interface_type != InterfaceType::Trunk
                && !(self.config.custom_networking && eni.is_primary())
                && eni.card == Card(0)
        };
        let blocks = self.ipam.pool().enis().iter().filter(usable).flat_map(Eni::blocks);
        let confirmed = blocks.filter(|block| block.state() == BlockState::Confirmed);
        let hosts = confirmed.filter_map(|block| match block.net() {
            IpNet::V4(net) => Some(u32::from(net.network())..=u32::from(net.broadcast())),
            IpNet::V6(_) => None,
        });
        hosts.flatten().map(|bits| IpAddr::V4(bits.into())).find(|address| {
            self.model.owner(*address).is_none()
                && !self.model.is_cooling(*address, self.config.cooldown, self.real)
                && !self.model.seems_to_cool(*address, self.config.cooldown, self.now)
                && !self.model.unknown.contains(address)
        })
    }

    fn del(&mut self, pod: u8) -> Result<(), Breach> {
        let key = key(pod);
        let held = self.model.leases.get(&key).or(self.model.granted.get(&key)).cloned();
        let released = self.ipam.release(&key, self.now);
        match (&released, &held) {
            (Released::Lease { lease, at }, Some(held)) => {
                hold!(
                    lease.addresses().eq(held.addresses()),
                    LeasesLast,
                    "{held:?} ended as {lease:?}"
                );
                let record = Record::released(lease, *at);
                let right = matches!(&record, Record::Released { key: of, at, .. } if *of == key && *at == self.now);
                hold!(right, LeasesLast, "the record of DEL is {record:?}");
            }
            (Released::Lease { lease, .. }, None) => {
                hold!(false, LeasesLast, "{key} held nothing and released {lease:?}");
            }
            (_, Some(held)) => hold!(false, LeasesLast, "{released:?}, but held {held:?}"),
            (_, None) => {}
        }
        self.model.on_del(&key, self.now, self.real);
        let again = self.ipam.release(&key, self.now);
        hold!(again == Released::Unknown, LeasesLast, "the second DEL of {key}: {again:?}");
        Ok(())
    }

    /// Checks a grant, and makes it durable, or not, as the store is.
    fn granted(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let Uncommitted { lease } = &uncommitted;
        self.note(|| format!("granted {lease:?}"));
        self.check_grant(lease)?;
        if !self.model.leases.contains_key(&lease.key) {
            self.model.granted.insert(lease.key.clone(), lease.clone());
        }
        match self.store {
            Store::Prompt => self.commit(uncommitted)?,
            Store::Slow => self.unwritten.push_back(uncommitted.lease),
            Store::Broken => self.abandon(uncommitted)?,
            Store::Lying => {
                self.model.undead.insert(uncommitted.lease.key.clone(), uncommitted.lease.clone());
                self.abandon(uncommitted)?;
            }
        }
        Ok(())
    }

    fn written(&mut self, durable: bool) -> Result<(), Breach> {
        let Some(lease) = self.unwritten.pop_front() else {
            return Ok(());
        };
        let uncommitted = Uncommitted { lease };
        if durable {
            self.commit(uncommitted)?;
        } else {
            self.abandon(uncommitted)?;
        }
        Ok(())
    }

    fn commit(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let written = uncommitted.lease.clone();
        let held = self.model.leases.get(&written.key).or(self.model.granted.get(&written.key));
        let expected = held.is_some_and(|held| {
            held.serial == written.serial && held.addresses().eq(written.addresses())
        });
        let lease = self.ipam.commit(uncommitted);
        match lease {
            Some(lease) => {
                let same = lease.addresses().eq(written.addresses());
                hold!(same, LeasesLast, "{written:?} was written, and {lease:?} counts as durable");
                hold!(expected, LeasesLast, "{lease:?} was given up and counts as durable");
                self.model.on_durable(lease);
            }
            None => hold!(!expected, LeasesLast, "{written:?} was written and does not count"),
        }
        Ok(())
    }

    fn abandon(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let lease = uncommitted.lease.clone();
        let undone = self.ipam.abandon(uncommitted, self.now);
        let others = self.unwritten.iter().any(|other| *other == lease);
        let held = self.model.granted.get(&lease.key);
        let same = held.is_some_and(|held| {
            held.serial == lease.serial && held.addresses().eq(lease.addresses())
        });
        let durable = self.model.leases.contains_key(&lease.key);
        if !others && same {
            self.model.granted.remove(&lease.key);
        }
        let expected = !others && same && !durable;
        hold!(
            undone.is_some() == expected,
            LeasesLast,
            "{lease:?} was abandoned, to be undone: {undone:?}"
        );
        if durable {
            // It was durable before: what was written again is no other.
            self.model.undead.remove(&lease.key);
        }
        Ok(())
    }

    /// Limits a stale answer to what was since the process started: what a former one did is known to EC2 by then.
    fn bounded(&self, fault: Option<Fault>) -> Option<Fault> {
        match fault {
            Some(Fault::Stale(age)) => Some(Fault::Stale(age.min(self.real.since(self.started)))),
            fault => fault,
        }
    }

    /// Carries out an action, with a fault.
    fn execute(&mut self, which: u8, fault: Option<Fault>) -> Option<(Issued, Outcome)> {
        let fault = self.bounded(fault);
        self.misled |= fault == Some(Fault::Partial);
        let issued = self.issued.remove(index(which, self.issued.len())?);
        *self.calls.entry(Call::of(&issued.action)).or_default() += 1;
        // An executor's own limit is below the time after which core gives an action up. One that takes something away later
        // than that does what another program may do.
        let late = self.given_up.contains(&issued.id);
        let takes = matches!(
            issued.action,
            Action::Ec2(
                Ec2Action::UnassignPrivateIpAddresses(_)
                    | Ec2Action::UnassignIpv6Addresses(_)
                    | Ec2Action::DetachNetworkInterface(_)
                    | Ec2Action::DeleteNetworkInterface(_)
            )
        );
        self.model.meddled |= late && takes;
        let refused = self.refusals.meet(&issued.action, &self.cloud, self.now);
        let outcome = match (refused, &issued.action) {
            (Some(failure), _) => Outcome::Failed(failure),
            (None, Action::Ec2(action)) => {
                self.cloud.execute_with(&self.node, action, fault, self.now)
            }
            (None, Action::Host(action)) => self.on_host(action, fault),
        };
        let listed = matches!(&outcome, Outcome::Done(crate::Effect::Subnets(_)));
        let short = matches!(&outcome, Outcome::Failed(failure)
            if matches!(failure.kind, FailureKind::SubnetFull | FailureKind::NoFreePrefix));
        self.unseen_shortage &= late || !listed && !short;
        let no_prefix = matches!(&outcome, Outcome::Failed(failure)
            if failure.kind == FailureKind::NoFreePrefix);
        self.unseen_fragments &= !no_prefix && !has_prefix(&outcome);
        let reads = match &issued.action {
            Action::Ec2(action) => action.operation().is_none_or(crate::Ec2Operation::reads),
            Action::Host(_) => false,
        };
        if !reads {
            self.changes.0 += 1;
            self.changes.1 += u32::from(matches!(outcome, Outcome::Done(_)));
        }
        self.note(|| format!("{} {:?}: {outcome:?}", issued.id, issued.action));
        Some((issued, outcome))
    }

    fn on_host(&mut self, action: &HostAction, fault: Option<Fault>) -> Outcome {
        let failed =
            |kind| Outcome::Failed(Failure { kind, retry_after: None, message: String::new() });
        if !self.kernel_works || fault.is_some_and(|fault| fault != Fault::AnswerLost) {
            return failed(FailureKind::Kernel);
        }
        match action {
            HostAction::SetUpEni(link) => {
                let attached = self.cloud.interface(&link.eni).is_some_and(|eni| {
                    eni.attachment.as_ref().is_some_and(|a| a.instance == self.node.instance)
                });
                if !attached {
                    return failed(FailureKind::LinkMissing);
                }
                self.model.links.insert(link.eni);
            }
            HostAction::RemoveEni(link) => {
                self.model.links.remove(&link.eni);
            }
        }
        if fault == Some(Fault::AnswerLost) {
            return failed(FailureKind::Kernel);
        }
        Outcome::Done(crate::Effect::Done)
    }

    /// Hands core the outcome of an action.
    fn deliver(&mut self, issued: &Issued, outcome: Outcome) -> Result<(), Breach> {
        if let Outcome::Done(effect) = &outcome {
            match effect {
                crate::Effect::Created(eni) => self.model.on_shown(eni.id, &eni.blocks),
                crate::Effect::Assigned(blocks) => {
                    if let Action::Ec2(action) = &issued.action
                        && let Some(eni) = crate::plan::backoff::about(action)
                    {
                        self.model.on_shown(eni, blocks);
                    }
                }
                _ if self.void.contains(&issued.id) || self.given_up.contains(&issued.id) => {}
                crate::Effect::Observed(observation) => self.on_observation(&observation.clone()),
                crate::Effect::Metadata(metadata) => {
                    self.on_observation(&metadata.observation.clone());
                }
                _ => {}
            }
        }
        self.ipam.handle_outcome(issued.id, outcome, self.now);
        self.drain()
    }

    fn photograph(&mut self, source: Source, fault: Option<Fault>) -> Option<Observation> {
        let fault = self.bounded(fault);
        self.misled |= fault == Some(Fault::Partial);
        let action = match source {
            Source::Ec2 => Ec2Action::DescribeNetworkInterfaces(Scope::Attached),
            Source::Imds => Ec2Action::ReadMetadata,
        };
        match self.cloud.execute_with(&self.node, &action, fault, self.now) {
            Outcome::Done(crate::Effect::Observed(observation)) => Some(observation),
            Outcome::Done(crate::Effect::Metadata(metadata)) => Some(metadata.observation),
            Outcome::Done(_) | Outcome::Failed(_) => None,
        }
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), Breach> {
        self.note(|| format!("shown {observation:?}"));
        self.on_observation(observation);
        self.ipam.observe(observation, self.now);
        self.drain()
    }

    fn on_observation(&mut self, observation: &Observation) {
        let all = observation.source == self.authority() && observation.scope == Scope::Attached;
        self.unseen_eni &= !all;
        // Too old to count.
        if !self.ipam.pool().remembers(observation.as_of, self.config.timing.settle) {
            return;
        }
        let known: Vec<EniId> = self.ipam.pool().enis().iter().map(|eni| eni.id).collect();
        let authority = observation.source == Source::Ec2 || !self.config.ec2_reads;
        self.model.on_observation(observation, &known, authority, &self.node);
    }

    fn authority(&self) -> Source {
        if self.config.ec2_reads { Source::Ec2 } else { Source::Imds }
    }

    fn crash(&mut self) {
        self.issued.clear();
        self.lost.clear();
        self.given_up.clear();
        self.void.clear();
        self.posted.clear();
        self.unwritten.clear();
        self.photographs.clear();
        self.started = self.real;
        // This process has no list of subnets yet.
        self.unseen_shortage = true;
        self.unseen_fragments = true;
        let has = |address: IpAddr| {
            let net = |eni: &crate::sim::NetworkInterface| {
                let blocks = eni.ipv4.iter().map(|net| IpNet::V4(*net));
                let mut blocks = blocks.chain(eni.ipv6.iter().map(|net| IpNet::V6(*net)));
                blocks.any(|net| net.contains(&address))
            };
            self.cloud.interfaces().any(net)
        };
        let undead = self.model.undead.values();
        let lost = undead.filter(|lease| !lease.addresses().all(has));
        let lost: Vec<PodKey> = lost.map(|lease| lease.key.clone()).collect();
        self.model.lost.extend(lost);
        self.model.on_restart();
        self.refusals.on_restart();
        let seed = self.setup.seed + 65_536 * self.starts;
        self.starts += 1;
        let (limits, budget) = (self.setup.limits.clone(), self.setup.budget.clone());
        self.ipam =
            Ipam::new(self.node.clone(), limits, self.config.clone(), budget, seed, self.now)
                .expect("the configuration was usable before");
        self.ipam.restore(self.model.records(), self.now);
        self.ipam.handle_eni_config(self.eni_config.clone(), self.now);
        self.ipam.handle_schedulable(self.schedulable, self.now);
        if self.terminating {
            self.ipam.handle_terminating(self.now);
        }
    }

    fn untracked(&mut self, which: u8, in_use: bool) {
        let address = if in_use {
            // No pod has an address of an ENI that is not attached, nor of one that a call under way detaches.
            let attached = self.attached();
            let going = |id: EniId| {
                self.issued.iter().any(|issued| {
                    matches!(&issued.action, Action::Ec2(Ec2Action::DetachNetworkInterface(call)) if call.eni == id)
                })
            };
            let enis = self.ipam.pool().enis().iter();
            let enis = enis.filter(|eni| attached.contains(&eni.id) && !going(eni.id));
            let free: Vec<IpAddr> = enis
                .flat_map(Eni::blocks)
                .map(|block| block.net().network())
                .filter(|address| self.model.owner(*address).is_none())
                .collect();
            index(which, free.len()).map(|index| free[index])
        } else {
            let unknown: Vec<IpAddr> = self.model.unknown.iter().copied().collect();
            index(which, unknown.len()).map(|index| unknown[index])
        };
        let Some(address) = address else { return };
        self.ipam.handle_untracked(address, in_use, self.now);
        if in_use {
            self.model.unknown.insert(address);
        } else {
            self.model.unknown.remove(&address);
            let untracked = PodKey::new("unknown", "owner", "x").expect("no part is empty");
            self.model.released.insert(address, (untracked, self.now, self.real));
        }
    }

    fn meddle(&mut self, how: Meddling, which: u8) {
        let now = self.now;
        let attached = self.attached();
        let Some(eni) = index(which, attached.len()).map(|index| attached[index]) else {
            return;
        };
        let found = self.cloud.interface(&eni).expect("it is attached").clone();
        match how {
            Meddling::Detach => {
                let attachment = found.attachment.expect("it is attached").id;
                if self.cloud.detach_network_interface(attachment, now).is_ok() {
                    self.model.meddled = true;
                    self.model.links.remove(&eni);
                }
            }
            Meddling::Unassign => {
                if let Some(block) = found.ipv4.first() {
                    let request = UnassignPrivateIpAddresses { eni, blocks: [*block].into() };
                    let done = self.cloud.unassign_private_ip_addresses(&request, now);
                    self.model.meddled |= done.is_ok();
                } else if let Some(block) = found.ipv6.first() {
                    let request = UnassignIpv6Addresses { eni, prefixes: [*block].into() };
                    let done = self.cloud.unassign_ipv6_addresses(&request, now);
                    self.model.meddled |= done.is_ok();
                }
            }
            Meddling::Assign => {
                self.on_space_taken();
                let one = Ipv4Request::Count(Ipv4Amount::Addresses(1));
                let _ = self.cloud.assign_private_ip_addresses(eni, &one, now);
            }
            Meddling::Attach => {
                let tags = [(tags::NO_MANAGE.to_string(), "true".to_string())].into();
                let request = CreateInterface { tags, ..CreateInterface::new(self.node.subnet) };
                self.on_space_taken();
                self.unseen_eni = true;
                let free = self.free_device();
                let Some(device) = free else { return };
                let Ok(made) = self.cloud.create_network_interface(&request, now) else { return };
                let instance = self.node.instance;
                let attach =
                    AttachNetworkInterface { eni: made.id, instance, card: Card(0), device };
                let attached = self.cloud.attach_network_interface(&attach, now).is_ok();
                if attached && self.config.ec2_reads {
                    self.model.foreign.insert(made.id);
                }
            }
            Meddling::Steal => {
                let owner = Some(self.node.instance.as_str());
                let made = self.cloud.interfaces().find(|eni| {
                    eni.attachment.is_none()
                        && eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str) == owner
                });
                let Some(eni) = made.map(|eni| eni.id) else { return };
                let run = RunInstance::new(self.setup.limits.clone(), self.node.subnet);
                let Ok(instance) = self.cloud.run_instance(run, now) else { return };
                let (card, device) = (Card(0), DeviceIndex(1));
                let attach = AttachNetworkInterface { eni, instance, card, device };
                let stolen = self.cloud.attach_network_interface(&attach, now).is_ok();
                self.model.meddled |= stolen;
            }
            Meddling::Groups => {
                if let Ok(group) = self.cloud.create_security_group(self.node.vpc) {
                    let groups = ModifyInterface::Groups([group].into());
                    let primary = self.node.primary;
                    let _ = self.cloud.modify_network_interface_attribute(primary, &groups, now);
                }
            }
        }
    }

    /// Returns the ENIs that are attached in truth.
    fn attached(&self) -> Vec<EniId> {
        let instance = self.cloud.instance(&self.node.instance);
        instance.into_iter().flat_map(|instance| instance.enis.iter().copied()).collect()
    }

    /// Takes over what core has to say, as a daemon does after every input.
    fn drain(&mut self) -> Result<(), Breach> {
        // Where the store is broken, each pod that waits is granted what the one before did not get.
        for _ in 0..u32::from(PODS) + 3 {
            while let Some(grant) = self.ipam.poll_grant() {
                match grant.result {
                    Ok(uncommitted) => {
                        hold!(
                            *uncommitted.key() == grant.key,
                            OneOwner,
                            "{} for {}",
                            uncommitted.key(),
                            grant.key
                        );
                        self.granted(uncommitted)?;
                    }
                    Err(error) => self.note(|| format!("{}: {error}", grant.key)),
                }
            }
            while let Some(event) = self.ipam.poll_event() {
                match &event {
                    crate::Event::EniAppeared { eni, .. } => {
                        self.model.known_since.insert(*eni, self.now);
                    }
                    crate::Event::EniVanished { eni, .. } => self.check_vanished(*eni)?,
                    crate::Event::ActionFailed { id, .. } => self.on_failed(*id),
                    _ => {}
                }
                self.note(|| format!("event {event:?}"));
            }
            while let Some(issued) = self.ipam.poll_action() {
                self.note(|| {
                    format!("issued {} {:?} because {}", issued.id, issued.action, issued.because)
                });
                self.check_action(&issued)?;
                self.issued.push(issued);
            }
            match self.ipam.poll_timeout() {
                Some((due, _)) if due <= self.now => self.ipam.handle_timeout(self.now),
                _ => return Ok(()),
            }
        }
        hold!(false, Bookkeeping, "{:?} is due again and again", self.ipam.poll_timeout());
        Ok(())
    }

    /// An action that failed while it is still open was given up.
    fn on_failed(&mut self, id: ActionId) {
        let posted = self.posted.iter().map(|(issued, _)| issued);
        if self.issued.iter().chain(posted).any(|issued| issued.id == id) {
            self.given_up.insert(id);
        }
        self.lost.retain(|lost| *lost != id);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{} {}", self.now, line());
        }
    }
}

/// The rules.
impl Driver {
    fn check_grant(&self, lease: &Lease) -> Result<(), Breach> {
        let held = self.model.leases.get(&lease.key).or(self.model.granted.get(&lease.key));
        if let Some(held) = held {
            let same = held.addresses().eq(lease.addresses());
            hold!(same, OneOwner, "{} asked again: {held:?}, then {lease:?}", lease.key);
            return Ok(());
        }
        let mut cards: Vec<Card> = lease.interfaces().map(|interface| interface.card).collect();
        cards.sort_unstable();
        cards.dedup();
        hold!(cards.len() == lease.interfaces().count(), OneOwner, "two on one card: {lease:?}");
        for interface in lease.interfaces() {
            self.check_granted_interface(lease, interface)?;
        }
        Ok(())
    }

    fn check_granted_interface(&self, lease: &Lease, on: &LeasedInterface) -> Result<(), Breach> {
        let model = &self.model;
        let families = self.config.families;
        let complete =
            on.ipv4.is_some() == families.ipv4().is_some() && on.ipv6.is_some() == families.ipv6();
        hold!(complete, Confirmed, "{families:?} and {on:?}");
        let linked = model.links.contains(&on.eni) || model.meddled;
        hold!(linked, Confirmed, "{} is not set up: {lease:?}", on.eni);
        hold!(!model.foreign.contains(&on.eni), HandsOff, "{} is not ours: {lease:?}", on.eni);
        for address in on.addresses() {
            if let Some(owner) = model.owner(address) {
                hold!(
                    *owner == lease.key,
                    OneOwner,
                    "{address} of {owner} granted to {}",
                    lease.key
                );
            }
            let cooling = model.is_cooling(address, self.config.cooldown, self.real);
            hold!(!cooling, Cooldown, "{address} granted to {} in its cooldown", lease.key);
            hold!(!model.unknown.contains(&address), OneOwner, "{address} is an untracked owner's");
            hold!(model.was_shown(on.eni, address), Confirmed, "{address} was never confirmed");
            let own = self
                .cloud
                .interfaces()
                .any(|eni| eni.primary_ipv4.map(IpAddr::V4) == Some(address));
            hold!(!own || model.meddled, PrimaryAddress, "{address} granted to {}", lease.key);
            if !model.meddled {
                let eni = self.cloud.interface(&on.eni);
                let attached = eni.is_some_and(|eni| {
                    eni.attachment.as_ref().is_some_and(|a| a.instance == self.node.instance)
                });
                let carried = eni.is_some_and(|eni| {
                    eni.ipv4.iter().any(|net| IpNet::V4(*net).contains(&address))
                        || eni.ipv6.iter().any(|net| IpNet::V6(*net).contains(&address))
                });
                hold!(attached && carried, Confirmed, "{address} is not on {}", on.eni);
            }
        }
        if let Some(eni) = self.ipam.pool().eni(on.eni) {
            let serves = eni.is_managed()
                && !eni.excluded
                && eni.interface_type != InterfaceType::Trunk
                && !(self.config.custom_networking && eni.is_primary());
            hold!(serves, HandsOff, "{} serves no pods: {lease:?}", on.eni);
        }
        Ok(())
    }

    fn check_action(&mut self, issued: &Issued) -> Result<(), Breach> {
        match &issued.action {
            Action::Ec2(action) => {
                if let Some(operation) = action.operation() {
                    self.model.on_call(operation, &self.setup.budget, self.real)?;
                    hold!(
                        self.config.provisioning || operation.reads(),
                        HandsOff,
                        "{action} without leave"
                    );
                    let lists_enis = matches!(action, Ec2Action::DescribeNetworkInterfaces(_));
                    hold!(self.config.ec2_reads || !lists_enis, HandsOff, "{action} without leave");
                }
                self.check_ec2_action(action, issued.because)
            }
            Action::Host(HostAction::SetUpEni(link)) => {
                hold!(!self.model.foreign.contains(&link.eni), HandsOff, "{} set up", link.eni);
                Ok(())
            }
            Action::Host(HostAction::RemoveEni(link)) => {
                self.check_removal(link.eni, issued.because)
            }
        }
    }

    fn check_removal(&self, id: EniId, because: Because) -> Result<(), Breach> {
        hold!(id != self.node.primary, HandsOff, "the primary ENI is removed: {because}");
        hold!(!self.model.foreign.contains(&id), HandsOff, "{id} removed: {because}");
        let pods: Vec<_> =
            self.model.held().filter(|(address, lease)| self.is_on(id, *address, lease)).collect();
        if because == Because::Vanished {
            if !self.model.meddled && !pods.is_empty() {
                let denied = self.model.is_denied(id, self.authority());
                hold!(denied, Evidence, "{id} was given up with {} pods", pods.len());
            }
            return Ok(());
        }
        hold!(pods.is_empty(), InUseStays, "{id} goes with {pods:?}: {because}");
        let Some(eni) = self.ipam.pool().eni(id) else { return Ok(()) };
        let fixed = matches!(eni.interface_type, InterfaceType::Trunk | InterfaceType::Efa);
        hold!(!fixed, HandsOff, "{id} is a {:?} and goes: {because}", eni.interface_type);
        for block in eni.blocks() {
            self.check_nobody_in(id, block.net())?;
        }
        if matches!(because, Because::NotNeeded { .. } | Because::Excluded) {
            let age = self.now.since(self.model.known_since.get(&id).copied().unwrap_or(self.now));
            hold!(age >= self.config.timing.eni_life_min, FreedInTime, "{id} goes after {age:?}");
            hold!(!self.terminating, FreedInTime, "{id} goes while the node does");
            let gate = self.schedulable || self.config.manage_unschedulable;
            hold!(gate, FreedInTime, "{id} goes while the node is cordoned");
        }
        Ok(())
    }

    /// Checks that an ENI that was given up for gone carried no address in use, or that enough spoke against it.
    fn check_vanished(&self, id: EniId) -> Result<(), Breach> {
        let blocks = || self.ipam.pool().eni(id).into_iter().flat_map(Eni::blocks);
        let cooling = |address: &&IpAddr| {
            blocks().any(|block| block.net().contains(*address))
                && self.model.is_cooling(**address, self.config.cooldown, self.real)
        };
        let cooling = self.model.released.keys().find(cooling);
        if !self.model.meddled && (self.is_used(id) || cooling.is_some()) {
            let denied = self.model.is_denied(id, self.authority());
            hold!(denied, Evidence, "{id} was given up in use, {cooling:?} cools");
        }
        Ok(())
    }

    /// Returns whether a lease's address is on an ENI: where it was granted, or, if another program moved it or took it away, where
    /// core has it.
    fn is_on(&self, eni: EniId, address: IpAddr, lease: &Lease) -> bool {
        if self.model.meddled {
            let known = self.ipam.pool().eni(eni);
            return known.is_some_and(|eni| eni.block(address).is_some());
        }
        lease
            .interfaces()
            .any(|interface| interface.eni == eni && interface.addresses().any(|a| a == address))
    }

    /// Returns whether a pod or an untracked owner uses an address of an ENI.
    fn is_used(&self, eni: EniId) -> bool {
        let blocks = || self.ipam.pool().eni(eni).into_iter().flat_map(Eni::blocks);
        self.model.held().any(|(address, lease)| self.is_on(eni, address, lease))
            || self.model.unknown.iter().any(|a| blocks().any(|block| block.net().contains(a)))
    }

    /// Returns whether a durable lease names an ENI, whatever became of its addresses: one that was detached with its pods
    /// waits for them to go.
    fn is_named(&self, eni: EniId) -> bool {
        self.model.leases.values().flat_map(Lease::interfaces).any(|on| on.eni == eni)
    }

    /// Checks that no address of a block is in use, and that none cools.
    fn check_nobody_in(&self, eni: EniId, net: IpNet) -> Result<(), Breach> {
        for (address, lease) in self.model.held().filter(|(address, _)| net.contains(address)) {
            hold!(false, InUseStays, "{net} of {eni} goes with {address} of {}", lease.key);
        }
        for address in self.model.unknown.iter().filter(|address| net.contains(*address)) {
            hold!(
                false,
                InUseStays,
                "{net} of {eni} goes with {address}, in use by an untracked owner"
            );
        }
        for address in self.model.released.keys().filter(|address| net.contains(*address)) {
            let cooling = self.model.is_cooling(*address, self.config.cooldown, self.real);
            hold!(!cooling, Cooldown, "{net} of {eni} goes while {address} cools");
        }
        Ok(())
    }

    fn check_ec2_action(&mut self, action: &Ec2Action, because: Because) -> Result<(), Breach> {
        let about = crate::plan::backoff::about(action);
        let gate = if self.terminating {
            Some("terminating")
        } else if !self.schedulable && !self.config.manage_unschedulable {
            Some("cordoned")
        } else {
            None
        };
        if let Some(id) = about {
            hold!(!self.model.foreign.contains(&id), HandsOff, "{action} is not ours to do");
            let removes = matches!(
                action,
                Ec2Action::DetachNetworkInterface(_) | Ec2Action::DeleteNetworkInterface(_)
            );
            let tags = matches!(action, Ec2Action::CreateTags(_)) && id != self.node.primary;
            hold!(!removes && !tags || self.is_made_for_us(id), HandsOff, "{action}: not ours");
        }
        let eni = about.and_then(|id| self.ipam.pool().eni(id));
        match action {
            Ec2Action::CreateNetworkInterface(request) => {
                // One that may have been made is asked for again, unless the node is going away.
                let again = because == Because::Unanswered && !self.terminating;
                hold!(gate.is_none() || again, HandsOff, "{action} while {gate:?}");
                let new = self.model.tokens.insert(request.client_token.clone());
                let again = because == Because::Unanswered;
                hold!(new != again, WellFormed, "the token of {action} is new: {new}, {because}");
                let slots = u32::from(self.setup.limits.ipv4_slots());
                let blocks = blocks_of(request.ipv4);
                hold!(blocks <= slots, Limits, "{action} on ENIs of {slots}");
                if let Because::OffTarget { card, .. } | Because::NoEniOnCard { card } = because {
                    self.check_room(card, action)?;
                }
            }
            Ec2Action::AttachNetworkInterface(request) => {
                hold!(gate.is_none(), HandsOff, "{action} while {gate:?}");
                let most = self.setup.limits.enis(request.card);
                hold!(request.device.0 < most, Limits, "{action} of {most}");
            }
            Ec2Action::AssignPrivateIpAddresses(request) => {
                hold!(gate.is_none(), HandsOff, "{action} while {gate:?}");
                hold!(blocks_of(request.amount) > 0, WellFormed, "{action}");
                if let Some(eni) = eni {
                    let serves = eni.is_managed()
                        && !eni.excluded
                        && eni.interface_type != InterfaceType::Trunk
                        && !(self.config.custom_networking && eni.is_primary());
                    hold!(serves, HandsOff, "{action}, which serves no pods");
                    let (slots, used) = (self.setup.limits.ipv4_slots(), eni.ipv4_slots_used());
                    hold!(used <= u32::from(slots), Limits, "{action}: {used} slots of {slots}");
                }
            }
            Ec2Action::AssignIpv6Addresses(request) => {
                hold!(!self.terminating, HandsOff, "{action} while terminating");
                hold!(request.prefixes > 0, WellFormed, "{action}");
            }
            Ec2Action::UnassignPrivateIpAddresses(request) => {
                hold!(!request.blocks.is_empty(), WellFormed, "{action}");
                let kinds = request.blocks.iter().map(|net| net.prefix_len());
                let one_kind = kinds.clone().min() == kinds.max();
                hold!(one_kind, WellFormed, "two kinds of block: {request:?}");
                let own = self.cloud.interface(&request.eni).and_then(|eni| eni.primary_ipv4);
                for net in &request.blocks {
                    hold!(Some(net.addr()) != own, PrimaryAddress, "{action}: {net}");
                    self.check_nobody_in(request.eni, IpNet::V4(*net))?;
                }
            }
            Ec2Action::UnassignIpv6Addresses(request) => {
                hold!(!request.prefixes.is_empty(), WellFormed, "{action}");
                for net in &request.prefixes {
                    self.check_nobody_in(request.eni, IpNet::V6(*net))?;
                }
            }
            Ec2Action::DetachNetworkInterface(request) => {
                hold!(request.eni != self.node.primary, HandsOff, "{action}");
                let link = self.model.links.contains(&request.eni);
                hold!(
                    !link || self.model.meddled,
                    FreedInTime,
                    "{action} before its link is removed"
                );
                self.check_removal(request.eni, because)?;
            }
            Ec2Action::DeleteNetworkInterface(request) => {
                hold!(request.eni != self.node.primary, HandsOff, "{action}");
                self.check_removal(request.eni, because)?;
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(_)
            | Ec2Action::CreateTags(_)
            | Ec2Action::DescribeNetworkInterfaces(_)
            | Ec2Action::DescribeSubnets
            | Ec2Action::ReadMetadata => {}
        }
        Ok(())
    }

    /// Returns whether the tag of an ENI names this instance, or the ENI is gone.
    fn is_made_for_us(&self, id: EniId) -> bool {
        self.cloud.interface(&id).is_none_or(|eni| {
            let owner = eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str);
            owner == Some(self.node.instance.as_str())
        })
    }

    /// Checks that a card has room for an ENI that is about to be made, which core counts already.
    fn check_room(&self, card: Card, action: &Ec2Action) -> Result<(), Breach> {
        let of_type = self.setup.limits.enis(card);
        let most = self.config.enis_max.map_or(of_type, |most| most.min(of_type));
        let held = self
            .ipam
            .pool()
            .enis()
            .iter()
            .filter(|eni| eni.card == card && eni.occupies_slot() && eni.is_placed());
        let coming = self.ipam.pool().creations().values().filter(|c| c.card == card).count();
        let enis = held.count() + coming;
        hold!(enis <= usize::from(most), Limits, "{action} makes {enis} of {most} on {card}");
        Ok(())
    }

    /// Checks what must hold of every state.
    fn check(&self) -> Result<(), Breach> {
        for violation in self.ipam.check() {
            // What another program took away, or what was given up before the restart, may still be counted when what came instead is counted already.
            let stale = (self.model.meddled || !self.model.lost.is_empty())
                && matches!(
                    violation,
                    Violation::TooManyBlocks { .. }
                        | Violation::TooManyEnis { .. }
                        | Violation::SharedDeviceIndex { .. }
                        | Violation::PrimaryAddressLeased { .. }
                );
            // An ENI that was made for a larger type.
            let large = self.resized && matches!(violation, Violation::TooManyBlocks { .. });
            hold!(stale || large, Counts, "{violation}");
        }
        self.check_leases()?;
        self.check_in_flight()?;
        self.check_plan()
    }

    fn check_leases(&self) -> Result<(), Breach> {
        let pool = self.ipam.pool();
        for (key, lease) in self.model.leases.iter().chain(&self.model.granted) {
            let held = pool.lease(key);
            let same = held.is_some_and(|held| held.addresses().eq(lease.addresses()));
            hold!(same, LeasesLast, "{lease:?} is {held:?}");
        }
        for lease in pool.leases() {
            let known = self.model.leases.contains_key(&lease.key)
                || self.model.granted.contains_key(&lease.key);
            hold!(known, LeasesLast, "{lease:?} was never granted");
        }
        Ok(())
    }

    fn check_in_flight(&self) -> Result<(), Breach> {
        let mut awaited: Vec<_> = self.ipam.in_flight().map(|(id, _)| id).collect();
        let mut open: Vec<_> = self
            .issued
            .iter()
            .chain(self.posted.iter().map(|(issued, _)| issued))
            .map(|i| i.id)
            .collect();
        // What the executor lost is awaited for a while; what it is late with, no longer.
        awaited.retain(|id| !self.lost.contains(id));
        open.retain(|id| !self.given_up.contains(id));
        awaited.sort_unstable();
        open.sort_unstable();
        hold!(awaited == open, Bookkeeping, "core awaits {awaited:?}, open are {open:?}");
        let mut enis: Vec<EniId> = self
            .ipam
            .in_flight()
            .filter_map(|(_, planned)| match &planned.action {
                Action::Ec2(action) => crate::plan::backoff::about(action),
                Action::Host(_) => None,
            })
            .collect();
        enis.sort_unstable();
        let twice = enis.windows(2).find(|pair| pair[0] == pair[1]);
        hold!(twice.is_none(), Bookkeeping, "two calls under way for {twice:?}");
        Ok(())
    }

    /// Checks that a plan does no more than what the node can hold needs.
    fn check_size(&self, plan: &crate::Plan) -> Result<(), Breach> {
        let limits = &self.setup.limits;
        let enis: usize = limits.cards().iter().map(|card| usize::from(limits.enis(*card))).sum();
        let known = self.ipam.pool().enis().len();
        // A question of each kind; a call and a change of the node for each ENI; each creation.
        let most = 5 + 2 * known + enis;
        let actions = plan.actions.len();
        hold!(actions <= most, MinimalPlan, "{actions} actions, {most} at most");
        let mut blocks = 0;
        for planned in &plan.actions {
            blocks += match &planned.action {
                Action::Ec2(Ec2Action::CreateNetworkInterface(call)) => blocks_of(call.ipv4),
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) => blocks_of(call.amount),
                Action::Ec2(_) | Action::Host(_) => 0,
            };
        }
        let most = enis as u32 * u32::from(limits.ipv4_slots());
        hold!(blocks <= most, MinimalPlan, "{blocks} blocks at once, {most} at most");
        Ok(())
    }

    /// Checks that a card does not grow and shrink at once.
    fn check_plan(&self) -> Result<(), Breach> {
        let plan = self.ipam.plan(self.now);
        self.check_size(&plan)?;
        let mut grows: BTreeMap<Card, Vec<bool>> = BTreeMap::new();
        let mut shrinks: BTreeMap<Card, Vec<bool>> = BTreeMap::new();
        for planned in &plan.actions {
            let Action::Ec2(action) = &planned.action else { continue };
            match (action, planned.because) {
                (Ec2Action::AssignPrivateIpAddresses(request), Because::OffTarget { card, .. }) => {
                    grows.entry(card).or_default().push(is_prefixes(request.amount));
                }
                (Ec2Action::CreateNetworkInterface(request), Because::OffTarget { card, .. }) => {
                    grows.entry(card).or_default().push(is_prefixes(request.ipv4));
                }
                (Ec2Action::UnassignPrivateIpAddresses(request), _) => {
                    let serves = self.ipam.pool().eni(request.eni).filter(|eni| !eni.excluded);
                    let Some(eni) = serves else { continue };
                    let kinds = request.blocks.iter().map(|net| net.prefix_len() < 32);
                    shrinks.entry(eni.card).or_default().extend(kinds);
                }
                _ => {}
            }
        }
        for (card, kinds) in &grows {
            let both = shrinks.get(card).into_iter().flatten().any(|kind| kinds.contains(kind));
            let eligibility = !self.config.custom_networking;
            hold!(!both || !eligibility, OneDirection, "{card} grows and shrinks: {plan:?}");
        }
        Ok(())
    }

    /// Checks what must hold once everything has settled.
    fn check_converged(&self) -> Result<(), Breach> {
        let plan = self.ipam.plan(self.now);
        let waiting = self.ipam.waiting().count();
        hold!(waiting == 0, Answered, "{waiting} pods wait for ever");
        for eni in self.ipam.pool().enis() {
            hold!(
                eni.unconfirmed.is_none() || !eni.is_managed(),
                Converges,
                "{} is unconfirmed for ever",
                eni.id
            );
            for block in eni.blocks().iter().filter(|_| eni.is_managed()) {
                hold!(
                    !block.is_releasing(),
                    ReleasesEnd,
                    "{} is being released for ever",
                    block.net()
                );
                hold!(
                    block.state() == BlockState::Confirmed,
                    Converges,
                    "{} is {:?} for ever",
                    block.net(),
                    block.state()
                );
            }
            let under_way = matches!(eni.stage, Stage::Ready) || !eni.is_managed();
            let gated = self.terminating
                || !self.config.provisioning
                || (!self.schedulable && !self.config.manage_unschedulable);
            let waits = self.is_used(eni.id) || self.is_named(eni.id);
            hold!(under_way || gated || waits, Converges, "{} is {:?} for ever", eni.id, eni.stage);
        }
        self.check_truth()?;
        for on_card in &plan.demand {
            let held: Vec<_> = plan.blocked.iter().collect();
            let card = on_card.card;
            match on_card.demand {
                Demand::Met => {}
                Demand::Short(_) => {
                    let reason = held.iter().any(|held| {
                        matches!(held.wanted, Wanted::Addresses { card: of } | Wanted::Eni { card: of } if of == card)
                            && !matches!(held.waiting_on, WaitingOn::Outcome(_) | WaitingOn::Observation { .. })
                    });
                    hold!(reason, Converges, "{on_card:?} and nothing says why: {held:?}");
                }
                Demand::Over(_) => {
                    // EC2 goes on refusing what the surplus is on, and the plan says so.
                    let failing = held.iter().any(|held| {
                        held.wanted == Wanted::FewerAddresses { card }
                            && matches!(held.waiting_on, WaitingOn::Backoff { .. })
                    });
                    let idle =
                        self.ipam.pool().enis().iter().filter(|eni| eni.card == card).any(|eni| {
                            eni.is_managed()
                                && !eni.excluded
                                && eni.blocks().iter().any(|block| {
                                    matches!(block.net(), IpNet::V4(_))
                                        && block.is_idle(self.now, self.config.cooldown)
                                        && block.is_prefix() == (on_card.kind == Ipv4Kind::Prefixes)
                                })
                                && eni.interface_type != InterfaceType::Trunk
                                && !(self.config.custom_networking && eni.is_primary())
                        });
                    hold!(
                        !idle || !self.config.provisioning || failing,
                        Converges,
                        "{on_card:?} stays: {held:?}"
                    );
                }
            }
        }
        Ok(())
    }

    /// Checks that core knows what is there, and that nothing was forgotten.
    fn check_truth(&self) -> Result<(), Breach> {
        for id in self.attached() {
            let truth = self.cloud.interface(&id).expect("it is attached");
            let Some(eni) = self.ipam.pool().eni(id) else {
                hold!(false, Converges, "{id} is attached and unknown");
                continue;
            };
            if !eni.is_managed() {
                continue;
            }
            let shown = crate::ObservedEni::from(truth);
            let mut blocks: Vec<IpNet> = shown.blocks.iter().map(IpNet::trunc).collect();
            blocks.sort_unstable();
            let known: Vec<IpNet> = eni.blocks().iter().map(crate::Block::net).collect();
            hold!(blocks == known, Converges, "{id} has {blocks:?}, known are {known:?}");
        }
        for eni in self.ipam.pool().enis() {
            let ours = self.cloud.interface(&eni.id).is_some_and(|eni| {
                eni.attachment.as_ref().is_none_or(|a| a.instance == self.node.instance)
            });
            hold!(ours, Converges, "{} does not exist, or is another instance's", eni.id);
        }
        let gated = self.terminating
            || !self.config.provisioning
            || (!self.schedulable && !self.config.manage_unschedulable);
        let owner = |eni: &crate::sim::NetworkInterface| eni.tags.get(Scope::INSTANCE_TAG).cloned();
        let forgotten = self.cloud.interfaces().find(|eni| {
            eni.attachment.is_none()
                && owner(eni).as_deref() == Some(self.node.instance.as_str())
                && !self.is_used(eni.id)
                && !self.is_named(eni.id)
        });
        hold!(
            gated || forgotten.is_none(),
            NoLeak,
            "{:?} is attached to nothing",
            forgotten.map(|eni| eni.id)
        );
        Ok(())
    }
}

/// The hash FNV-1a of what is written to it.
struct Fnv(u64);

impl core::fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

fn has_prefix(outcome: &Outcome) -> bool {
    let blocks = match outcome {
        Outcome::Done(crate::Effect::Created(eni)) => &eni.blocks,
        Outcome::Done(crate::Effect::Assigned(blocks)) => blocks,
        Outcome::Done(_) | Outcome::Failed(_) => return false,
    };
    blocks.iter().any(|block| matches!(block, IpNet::V4(net) if net.prefix_len() < 32))
}

fn key(pod: u8) -> PodKey {
    PodKey::new("aws-cni", &format!("pod-{}", pod % PODS), "eth0").expect("no part is empty")
}

fn index(which: u8, len: usize) -> Option<usize> {
    usize::from(which).checked_rem(len)
}

fn blocks_of(amount: Ipv4Amount) -> u32 {
    match amount {
        Ipv4Amount::Addresses(count) | Ipv4Amount::Prefixes(count) => u32::from(count),
    }
}

fn is_prefixes(amount: Ipv4Amount) -> bool {
    matches!(amount, Ipv4Amount::Prefixes(_))
}
