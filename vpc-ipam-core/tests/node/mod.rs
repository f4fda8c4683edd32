//! A node and its cloud for tests that steer both: which call fails and how, what a source shows, when the node restarts.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(
    unreachable_pub,
    reason = "a module that several tests share is a crate of its own to each"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use vpc_ipam_core::journal::{Start, Step, replay};
use vpc_ipam_core::sim::{
    About, Call, Cloud, CreateInterface, CreateSubnet, Ipv4Request, Lasts, NetworkInterface,
    Refusal, Refusals, RunInstance,
};
use vpc_ipam_core::{
    Action, ActionId, AddressRequest, AssignError, Assigned, AttachNetworkInterface, Budget, Card,
    CardChoice, Config, DeviceIndex, Ec2Action, Effect, Eni, EniConfig, EniId, Event, Failure,
    FailureKind, HostAction, InstanceId, InterfaceType, Ipam, Ipv4Amount, Issued, Lease, Limits,
    Observation, Outcome, Pod, PodKey, Record, Released, Scope, Source, SubnetId, Timestamp, VpcId,
};

/// 2026-01-01T12:00:00Z.
pub const NOON: Timestamp = Timestamp::from_secs(1_767_268_800);
/// A subnet of it is taken out of use, or in.
pub const ROLE: &str = "kubernetes.io/role/cni";

/// What becomes of calls of one name.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// EC2, or the kernel, refuses.
    Refuse(FailureKind, String),
    /// EC2 refuses, and says after which time to ask again.
    RefuseFor(FailureKind, Duration),
    /// It takes effect, and its answer is lost.
    LoseAnswer,
    /// It takes effect, and the executor hands the outcome back so much later; never after [`Duration::MAX`].
    Late(Duration),
    /// It never arrives.
    LoseCall,
}

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Told {
    Issued(Issued),
    Event(Event),
    Granted(PodKey, Lease),
    Refused(PodKey, AssignError),
}

/// One node, its address management, and the cloud around it.
#[derive(Clone)]
pub struct Node {
    pub cloud: Cloud,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub instance: InstanceId,
    pub limits: Limits,
    pub config: Config,
    pub ipam: Ipam,
    pub now: Timestamp,
    pub eni_config: Option<EniConfig>,
    /// What is on stable storage.
    pub stored: BTreeMap<PodKey, Lease>,
    pub released: Vec<Record>,
    pub log: Vec<(Timestamp, Told)>,
    troubles: Vec<(String, Trouble, u32)>,
    /// What fails of one ENI, subnet or network card.
    refusals: Refusals,
    /// Outcomes that the executor did not hand back yet, and when it does; never, if that is not said.
    late: Vec<(Option<Timestamp>, ActionId, Outcome)>,
    /// Whether EC2 answers a request for more than a subnet has with its general code, and says it in the message.
    pub general_code: bool,
    /// What becomes of each ENI that EC2 shows.
    pub alter: Option<fn(&mut vpc_ipam_core::ObservedEni)>,
    /// What becomes of each ENI that IMDS shows.
    pub alter_imds: Option<fn(&mut vpc_ipam_core::ObservedEni)>,
    /// ENIs that EC2 does not show yet.
    pub unseen: Vec<EniId>,
    /// An ENI that IMDS goes on showing.
    pub phantom: Option<vpc_ipam_core::ObservedEni>,
    /// How much higher every device index of card 0 is than usual, the highest becoming 0 and so on.
    pub shift: u8,
    /// What the address management was made of, and what it was told since.
    start: Start,
    steps: Vec<Step>,
}

/// What a node is made of, before it starts.
pub struct Setup {
    pub cloud: Cloud,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub limits: Limits,
    pub config: Config,
    /// What the address management believes of the type, where that is not the truth.
    pub believed: Option<Limits>,
    /// How much higher every device index of card 0 is than usual, the highest becoming 0 and so on.
    pub shift: u8,
}

impl Setup {
    /// A VPC with one subnet, 10.0.0.0/19, that has IPv6 too; a node of this type with these variables.
    pub fn new(instance_type: &str, vars: &[(&str, &str)]) -> Self {
        Self::within("10.0.0.0/19", &[], instance_type, vars)
    }

    /// The same with another subnet, and its tags.
    pub fn within(
        cidr: &str,
        tags: &[(&str, &str)],
        instance_type: &str,
        vars: &[(&str, &str)],
    ) -> Self {
        let mut cloud = Cloud::new(7);
        let ranges = vec!["10.0.0.0/16".parse().unwrap()];
        let vpc = cloud.create_vpc(ranges, vec!["2001:db8::/56".parse().unwrap()]);
        let limits = Limits::lookup(instance_type.parse().unwrap()).unwrap();
        let config = Config::from_vars(vars.iter().copied()).0;
        let mut setup = Self {
            cloud,
            vpc,
            subnet: "none".parse().unwrap(),
            limits,
            config,
            believed: None,
            shift: 0,
        };
        setup.subnet = setup.subnet_with(cidr, Some("2001:db8::/64"), tags);
        setup
    }

    /// Makes a further subnet of the node's zone.
    pub fn subnet(&mut self, cidr: &str, tags: &[(&str, &str)]) -> SubnetId {
        self.subnet_with(cidr, None, tags)
    }

    fn subnet_with(&mut self, cidr: &str, ipv6: Option<&str>, tags: &[(&str, &str)]) -> SubnetId {
        let request = CreateSubnet {
            ipv6_cidr: ipv6.map(|cidr| cidr.parse().unwrap()),
            tags: tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            ..CreateSubnet::new(self.vpc, "eu-west-1a".parse().unwrap(), cidr.parse().unwrap())
        };
        self.cloud.create_subnet(request).unwrap()
    }

    /// Launches the instance and starts its address management.
    pub fn start(mut self) -> Node {
        let run = RunInstance::new(self.limits.clone(), self.subnet);
        let instance = self.cloud.run_instance(run, NOON).unwrap();
        let node = self.cloud.instance(&instance).unwrap().node.clone();
        let Self { cloud, vpc, subnet, limits, config, believed, shift } = self;
        let limits = believed.unwrap_or(limits);
        let start = Start::new(node, limits.clone(), config.clone(), NOON)
            .with_budget(Budget::default())
            .with_seed(1);
        let ipam = start.begin().unwrap();
        Node {
            cloud,
            vpc,
            subnet,
            instance,
            limits,
            config,
            ipam,
            now: NOON,
            eni_config: None,
            stored: BTreeMap::new(),
            released: Vec::new(),
            log: Vec::new(),
            troubles: Vec::new(),
            refusals: Refusals::default(),
            late: Vec::new(),
            phantom: None,
            general_code: false,
            alter: None,
            alter_imds: None,
            unseen: Vec::new(),
            shift,
            start,
            steps: Vec::new(),
        }
    }
}

impl Node {
    /// A node in a VPC with one subnet that has converged.
    pub fn settled(instance_type: &str, vars: &[(&str, &str)]) -> Self {
        let mut node = Setup::new(instance_type, vars).start();
        node.run_for(600);
        node
    }

    pub fn key(name: &str) -> PodKey {
        PodKey::new("aws-cni", name, "eth0").unwrap()
    }

    pub fn request(name: &str, cards: CardChoice) -> AddressRequest {
        let pod = Pod::new("default", name);
        AddressRequest::new(Self::key(name), Arc::new(pod)).with_cards(cards)
    }

    /// ADD, and nothing else: an address at once, a wait, or a refusal.
    pub fn ask(&mut self, name: &str) -> Result<Option<Lease>, AssignError> {
        self.ask_on(name, CardChoice::Any)
    }

    pub fn ask_on(&mut self, name: &str, cards: CardChoice) -> Result<Option<Lease>, AssignError> {
        match self.ipam.assign(&Self::request(name, cards), self.now)? {
            Assigned::Now(uncommitted) => {
                let lease = self.ipam.commit(uncommitted).unwrap();
                self.stored.insert(lease.key.clone(), lease.clone());
                Ok(Some(lease))
            }
            Assigned::Later { .. } => Ok(None),
        }
    }

    /// ADDs, and everything that they lead to at once.
    pub fn add(&mut self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        for name in names {
            let name = name.as_ref();
            if let Err(error) = self.ask(name) {
                self.log.push((self.now, Told::Refused(Self::key(name), error)));
            }
        }
        self.run();
    }

    /// DEL.
    pub fn del(&mut self, name: &str) -> Released {
        let released = self.ipam.release(&Self::key(name), self.now);
        self.stored.remove(&Self::key(name));
        if let Released::Lease { lease, at } = &released {
            self.released.push(Record::released(lease, *at));
        }
        self.run();
        released
    }

    /// Writes a record to stable storage.
    pub fn write(&mut self, record: Record) {
        match &record {
            Record::Leased(lease) => {
                self.stored.insert(lease.key.clone(), lease.clone());
            }
            Record::Released { key, .. } => {
                self.stored.remove(key);
                self.released.push(record);
            }
        }
    }

    /// ADD with a store that says that it failed although the record reached the disk. Returns the record that undoes it, which
    /// is not written yet.
    pub fn ask_of_a_lying_store(&mut self, name: &str) -> (IpAddr, Record) {
        let request = Self::request(name, CardChoice::Any);
        let Assigned::Now(uncommitted) = self.ipam.assign(&request, self.now).unwrap() else {
            panic!("no address is free for {name}");
        };
        let address = uncommitted.addresses().next().unwrap();
        self.write(uncommitted.record());
        let undone = self.ipam.abandon(uncommitted, self.now).unwrap();
        self.run();
        (address, undone)
    }

    /// Returns a pod's address.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.stored.get(&Self::key(name))?.addresses().next()
    }

    /// ADDs, asked again every 5 seconds as kubelet does, until all are served or the time is over. Returns how many are.
    pub fn insist(&mut self, pods: &[String], secs: u64) -> usize {
        for _ in 0..secs / 5 {
            self.add(pods);
            self.run_for(5);
            if self.served(pods) == pods.len() {
                break;
            }
        }
        self.served(pods)
    }

    /// Returns how many of these pods have an address.
    pub fn served(&self, pods: &[String]) -> usize {
        pods.iter().filter(|pod| self.address(pod).is_some()).count()
    }

    /// Lets calls of a name fail so many times: an EC2 operation's, `ReadMetadata`, `SetUpEni` or `RemoveEni`.
    pub fn trouble(&mut self, call: &str, trouble: Trouble, times: u32) {
        self.troubles.push((call.to_string(), trouble, times));
    }

    /// Lets calls of a name be refused with an error code of EC2's.
    pub fn refuse(&mut self, call: &str, code: &str, times: u32) {
        let kind = FailureKind::of_ec2_error(code, "");
        self.trouble(call, Trouble::Refuse(kind, code.to_string()), times);
    }

    /// Lets all calls of one name fail, or those about one thing, until they are healed.
    pub fn refuse_about(&mut self, call: Call, about: Option<About>, kind: FailureKind) {
        self.refusals.refuse(Refusal { call, about, kind, lasts: Lasts::ForEver });
    }

    pub fn heal(&mut self) {
        self.troubles.clear();
        self.refusals.heal();
    }

    /// Does all there is to do now, without letting time pass.
    pub fn run(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "does not converge: {:?}", self.log.last());
            self.drain();
            self.hand_back_late();
            if let Some(issued) = self.ipam.poll_action() {
                self.execute(issued);
            } else if self.ipam.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
                self.ipam.handle_timeout(self.now);
            } else {
                break;
            }
        }
        assert_eq!(self.ipam.check(), [], "at {}", self.now);
        self.steps.extend(core::iter::from_fn(|| self.ipam.poll_step()));
    }

    /// Takes grants and events out.
    pub fn drain(&mut self) {
        while let Some(event) = self.ipam.poll_event() {
            self.log.push((self.now, Told::Event(event)));
        }
        while let Some(grant) = self.ipam.poll_grant() {
            let told = match grant.result {
                Ok(uncommitted) => {
                    let lease = self.ipam.commit(uncommitted).unwrap();
                    self.stored.insert(lease.key.clone(), lease.clone());
                    Told::Granted(grant.key, lease)
                }
                Err(error) => Told::Refused(grant.key, error),
            };
            self.log.push((self.now, told));
        }
    }

    /// Lets so many seconds pass, with everything that becomes due.
    pub fn run_for(&mut self, secs: u64) {
        let end = self.now + Duration::from_secs(secs);
        loop {
            self.run();
            let late = self.late.iter().filter_map(|(at, ..)| *at);
            let due = self.ipam.poll_timeout().map(|(due, _)| due).into_iter().chain(late).min();
            match due {
                Some(due) if due <= end => self.now = self.now.max(due),
                _ => break,
            }
            self.ipam.handle_timeout(self.now);
        }
        self.now = end;
        self.ipam.handle_timeout(self.now);
        self.run();
    }

    /// Tells another the same, which must lead to the same state and actions.
    pub fn assert_replays(&mut self) {
        self.steps.extend(core::iter::from_fn(|| self.ipam.poll_step()));
        let steps = core::mem::take(&mut self.steps);
        let replayed = replay(&self.start, steps).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(replayed.state(), self.ipam.state());
    }

    /// Takes the actions out without carrying them out.
    pub fn issued(&mut self) -> Vec<Issued> {
        core::iter::from_fn(|| self.ipam.poll_action()).collect()
    }

    /// Carries an action out.
    pub fn execute(&mut self, issued: Issued) {
        let call = call_of(&issued.action);
        let trouble = self.troubles.iter_mut().find(|(name, _, left)| *name == call && *left > 0);
        let trouble = trouble.map(|(_, trouble, left)| {
            *left -= 1;
            trouble.clone()
        });
        let outcome = self.outcome(&issued.action, trouble.as_ref());
        self.log.push((self.now, Told::Issued(issued.clone())));
        if let Some(Trouble::Late(by)) = trouble {
            let at = (by < Duration::MAX).then(|| self.now + by);
            self.late.push((at, issued.id, outcome));
        } else {
            self.ipam.handle_outcome(issued.id, outcome, self.now);
        }
    }

    /// Hands the outcomes back that are late by now.
    fn hand_back_late(&mut self) {
        let (due, rest) = core::mem::take(&mut self.late)
            .into_iter()
            .partition(|(at, ..)| at.is_some_and(|at| at <= self.now));
        self.late = rest;
        self.hand_back(due);
    }

    /// Hands back all the outcomes that were kept, also those that would never be.
    pub fn hand_back_all(&mut self) {
        let late = core::mem::take(&mut self.late);
        self.hand_back(late);
        self.run();
    }

    fn hand_back(&mut self, late: Vec<(Option<Timestamp>, ActionId, Outcome)>) {
        for (_, id, outcome) in late {
            self.ipam.handle_outcome(id, outcome, self.now);
        }
    }

    fn outcome(&mut self, action: &Action, trouble: Option<&Trouble>) -> Outcome {
        if let Some(failure) = self.refusals.meet(action, &self.cloud, self.now) {
            return Outcome::Failed(failure);
        }
        let failed = |kind, retry_after, message: &str| {
            Outcome::Failed(Failure::new(kind, message.to_string()).with_retry_after(retry_after))
        };
        match trouble {
            Some(Trouble::Refuse(kind, message)) => failed(*kind, None, message),
            Some(Trouble::RefuseFor(kind, time)) => failed(*kind, Some(*time), "ask later"),
            Some(Trouble::LoseCall) => failed(FailureKind::Unanswered, None, "timed out"),
            Some(Trouble::LoseAnswer) => {
                let _ = self.carry_out(action);
                failed(FailureKind::Unanswered, None, "timed out")
            }
            Some(Trouble::Late(_)) | None => self.carry_out(action),
        }
    }

    fn carry_out(&mut self, action: &Action) -> Outcome {
        let node = self.ipam.node().clone();
        match action {
            Action::Ec2(action) => {
                let mut action = action.clone();
                match &mut action {
                    Ec2Action::AttachNetworkInterface(attach) if attach.card == Card(0) => {
                        let slots = self.limits.enis(Card(0));
                        attach.device.0 = (attach.device.0 + slots - self.shift) % slots;
                    }
                    _ => {}
                }
                let mut outcome = self.cloud.execute(&node, &action, self.now);
                self.bend(&mut outcome);
                outcome
            }
            Action::Host(HostAction::SetUpEni(_) | HostAction::RemoveEni(_)) => {
                Outcome::Done(Effect::Done)
            }
        }
    }

    /// Makes an answer what this node's cloud shows.
    fn bend(&mut self, outcome: &mut Outcome) {
        let (instance, places) = (self.instance, self.limits.enis(Card(0)));
        match outcome {
            Outcome::Failed(failure)
                if self.general_code
                    && matches!(
                        failure.kind,
                        FailureKind::SubnetFull | FailureKind::NoFreePrefix
                    ) =>
            {
                let message = "There aren't sufficient free Ipv4 addresses or prefixes";
                failure.kind = FailureKind::of_ec2_error("InvalidParameterValue", message);
                failure.message = format!("InvalidParameterValue: {message}");
            }
            Outcome::Done(Effect::Observed(seen)) => {
                shift(seen, instance, self.shift, places);
                seen.enis.retain(|eni| !self.unseen.contains(&eni.id));
                if let Some(alter) = self.alter {
                    seen.enis.iter_mut().for_each(alter);
                }
            }
            Outcome::Done(Effect::Metadata(metadata)) => {
                shift(&mut metadata.observation, instance, self.shift, places);
                metadata.observation.enis.extend(self.phantom.clone());
                if let Some(alter) = self.alter_imds {
                    metadata.observation.enis.iter_mut().for_each(alter);
                }
            }
            _ => {}
        }
    }

    /// Returns what a source shows.
    pub fn shown(&mut self, source: Source) -> Observation {
        let mut seen =
            self.cloud.observe(self.instance, source, &Scope::Attached, self.now).unwrap();
        shift(&mut seen, self.instance, self.shift, self.limits.enis(Card(0)));
        if source == Source::Imds {
            seen.enis.extend(self.phantom.clone());
        }
        seen
    }

    pub fn observe(&mut self, observation: &Observation) {
        self.ipam.observe(observation, self.now);
        self.run();
    }

    /// Another configuration.
    pub fn set(&mut self, vars: &[(&str, &str)]) {
        self.config = Config::from_vars(vars.iter().copied()).0;
        self.ipam.handle_config(self.config.clone(), self.now).unwrap();
        self.run();
    }

    pub fn set_eni_config(&mut self, config: EniConfig) {
        self.eni_config = Some(config);
        self.ipam.handle_eni_config(self.eni_config.clone(), self.now);
        self.run();
    }

    /// The process dies, and another begins with what is on stable storage. Nothing was asked yet.
    pub fn restart(&mut self) {
        self.assert_replays();
        self.start = self
            .start
            .clone()
            .with_config(self.config.clone())
            .with_seed(self.start.seed + 1)
            .with_at(self.now);
        self.late.clear();
        self.ipam = self.start.begin().unwrap();
        let stored = self.stored.values().cloned().map(Record::Leased);
        self.ipam.restore(stored.chain(self.released.iter().cloned()), self.now);
        if self.eni_config.is_some() {
            self.ipam.handle_eni_config(self.eni_config.clone(), self.now);
        }
    }

    /// Another program attaches an ENI to the node.
    pub fn plug(&mut self, eni: CreateInterface, card: u8, device: u8) -> EniId {
        let id = self.cloud.create_network_interface(&eni, self.now).unwrap().id;
        let (card, device) = (Card(card), DeviceIndex(device));
        let attach = AttachNetworkInterface { eni: id, instance: self.instance, card, device };
        self.cloud.attach_network_interface(&attach, self.now).unwrap();
        id
    }

    /// Asks for an ENI in the node's subnet.
    pub fn foreign(&self, tags: &[(&str, &str)], interface_type: InterfaceType) -> CreateInterface {
        let addresses = if interface_type == InterfaceType::EfaOnly { 0 } else { 2 };
        CreateInterface {
            tags: tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            interface_type,
            ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(addresses)),
            ..CreateInterface::new(self.subnet)
        }
    }

    /// Another program takes all but so many addresses of a subnet.
    pub fn crowd(&mut self, subnet: SubnetId, leave: u32) {
        loop {
            let free = self.cloud.subnet(&subnet).unwrap().ipv4_addresses_free;
            if free <= leave {
                break;
            }
            let more = (free - leave - 1).min(40) as u16;
            let ipv4 = Ipv4Request::Count(Ipv4Amount::Addresses(more));
            let eni = CreateInterface { ipv4, ..CreateInterface::new(subnet) };
            self.cloud.create_network_interface(&eni, self.now).unwrap();
        }
    }

    /// Another program takes addresses so that the node's subnet has no free /28 and thousands of free addresses.
    pub fn fragment(&mut self) {
        let subnet = self.cloud.subnet(&self.subnet).unwrap().ipv4_cidr;
        let blocks: Vec<_> = subnet.subnets(28).unwrap().collect();
        for some in blocks.chunks(40) {
            for block in some {
                // One that is taken already fragments its block as well.
                let one = Ipv4Request::Blocks(vec![block.hosts().nth(7).unwrap().into()]);
                let eni = CreateInterface { ipv4: one, ..CreateInterface::new(self.subnet) };
                let _ = self.cloud.create_network_interface(&eni, self.now);
            }
        }
    }

    /// Returns the ENIs of the pool, by card and device.
    pub fn enis(&self) -> &[Eni] {
        self.ipam.pool().enis()
    }

    pub fn eni(&self, id: EniId) -> Option<&Eni> {
        self.ipam.pool().eni(id)
    }

    /// Returns the cloud's view of the ENI at an index of card 0.
    pub fn at(&self, device: u8) -> &NetworkInterface {
        let at = |eni: &&NetworkInterface| {
            eni.attachment.as_ref().is_some_and(|attachment| {
                attachment.instance == self.instance
                    && (attachment.card, attachment.device) == (Card(0), DeviceIndex(device))
            })
        };
        self.cloud.interfaces().find(at).unwrap()
    }

    /// Returns how often an EC2 operation, or a change of the node, was asked for.
    pub fn count(&self, call: &str) -> usize {
        let issued = self.log.iter().filter_map(|(_, told)| match told {
            Told::Issued(issued) => Some(call_of(&issued.action)),
            _ => None,
        });
        issued.filter(|name| name == call).count()
    }

    /// Returns how many changes of EC2 and the node were asked for.
    pub fn changes(&self) -> usize {
        let reads = ["DescribeNetworkInterfaces", "DescribeSubnets", "ReadMetadata"];
        let issued = self.log.iter().filter_map(|(_, told)| match told {
            Told::Issued(issued) => Some(call_of(&issued.action)),
            _ => None,
        });
        issued.filter(|name| !reads.contains(&name.as_str())).count()
    }

    /// Returns addresses held and assigned, of blocks that count.
    pub fn held(&self) -> (u32, u32) {
        let blocks = || self.enis().iter().flat_map(|eni| eni.blocks());
        (blocks().map(|b| b.capacity()).sum(), blocks().map(|b| b.assigned()).sum())
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.log.iter().filter_map(|(_, told)| match told {
            Told::Event(event) => Some(event),
            _ => None,
        })
    }

    /// Returns what the last refused pod was told.
    pub fn refusals(&self) -> VecDeque<&AssignError> {
        let refused = self.log.iter().filter_map(|(_, told)| match told {
            Told::Refused(_, error) => Some(error),
            _ => None,
        });
        refused.collect()
    }
}

/// Returns the name of the call that an action is.
pub fn call_of(action: &Action) -> String {
    match action {
        Action::Ec2(Ec2Action::ReadMetadata) => "ReadMetadata".to_string(),
        Action::Ec2(action) => action.operation().unwrap().name().to_string(),
        Action::Host(HostAction::SetUpEni(_)) => "SetUpEni".to_string(),
        Action::Host(HostAction::RemoveEni(_)) => "RemoveEni".to_string(),
    }
}

/// Returns names like `web-1`, `web-2`, …
pub fn names(prefix: &str, numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("{prefix}-{number}")).collect()
}

fn shift(seen: &mut Observation, instance: InstanceId, by: u8, places: u8) {
    for eni in &mut seen.enis {
        let own = eni.attachment.as_mut();
        let own = own.filter(|own| own.instance == instance && own.card == Card(0));
        if let Some(attachment) = own {
            attachment.device.0 = (attachment.device.0 + by) % places;
        }
    }
}
