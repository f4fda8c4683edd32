use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::rng::Rng;
use crate::sim::{Cloud, Faults, Refusal, Refusals};
use crate::{
    Action, ActionId, AddressRequest, Assigned, Budget, CardChoice, Config, Ec2Operation, Effect,
    InstanceId, Ipam, Issued, Lease, Limits, Outcome, Pod, PodKey, Released, Timestamp,
    UnusableConfigError,
};

/// One node and its cloud in virtual time: every action is carried out at once, and time jumps to when something is due.
///
/// With [`World::with_faults`] answers come late, partly, wrongly or not at all.
///
/// ```
/// use std::time::Duration;
/// use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
/// use vpc_ipam_core::{Config, Limits, Timestamp};
///
/// let now = Timestamp::from_secs(1_700_000_000);
/// let mut cloud = Cloud::new(1);
/// let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
/// let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?))?;
/// let limits = Limits::lookup("m5.large".parse()?)?;
/// let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
///
/// let mut world = World::new(cloud, instance, limits, Config::default(), 1, now)?;
/// for pod in 0..10 {
///     world.add_pod(&format!("pod-{pod}"));
/// }
/// world.run_for(Duration::from_secs(600));
/// assert_eq!(world.leases().len(), 10);
/// // Nine addresses an ENI: two for the pods, and one more held ready.
/// assert_eq!(world.ipam.pool().enis().len(), 3);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct World {
    /// EC2 and IMDS; a test changes it as other programs would.
    pub cloud: Cloud,
    /// The node's address management.
    pub ipam: Ipam,
    /// The time that core and the cloud get; [`World::run_for`] moves it.
    pub now: Timestamp,
    leases: BTreeMap<PodKey, Lease>,
    /// Pods that were refused and ask again, as kubelet makes them.
    refused: VecDeque<(Timestamp, AddressRequest)>,
    calls: BTreeMap<Ec2Operation, u32>,
    changed_at: Timestamp,
    issued: Vec<(Timestamp, Issued)>,
    faults: Faults,
    refusals: Refusals,
    rng: Rng,
    /// Answers that are on their way, and when they arrive.
    answers: BTreeMap<(Timestamp, ActionId), Outcome>,
}

/// After which kubelet tries a pod again.
const RETRY: Duration = Duration::from_secs(10);

impl World {
    /// Starts the address management of an instance.
    ///
    /// # Panics
    /// Panics if the cloud does not have the instance.
    pub fn new(
        cloud: Cloud,
        instance: InstanceId,
        limits: Limits,
        config: Config,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, UnusableConfigError> {
        let node = cloud.instance(&instance).expect("the cloud has the instance").node.clone();
        Ok(Self {
            ipam: Ipam::new(node, limits, config, Budget::default(), seed, now)?,
            cloud,
            now,
            leases: BTreeMap::new(),
            refused: VecDeque::new(),
            calls: BTreeMap::new(),
            changed_at: now,
            issued: Vec::new(),
            faults: Faults::default(),
            refusals: Refusals::default(),
            rng: Rng::new(seed),
            answers: BTreeMap::new(),
        })
    }

    /// Lets EC2 and IMDS fail from now on; the seed of the world decides which calls. [`Faults::default`] heals them.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use vpc_ipam_core::sim::{Cloud, CreateSubnet, Faults, RunInstance, World};
    /// # use vpc_ipam_core::{Config, Limits, Timestamp};
    /// # let now = Timestamp::from_secs(1_700_000_000);
    /// # let mut cloud = Cloud::new(1);
    /// # let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    /// # let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?))?;
    /// # let limits = Limits::lookup("m5.large".parse()?)?;
    /// # let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
    /// let faults = Faults {
    ///     throttled: 300,
    ///     answer_lost: 100,
    ///     stale: 100,
    ///     stale_max: Duration::from_secs(60),
    ///     delay_max: Duration::from_secs(5),
    ///     ..Faults::default()
    /// };
    /// let mut world = World::new(cloud, instance, limits, Config::default(), 1, now)?.with_faults(faults);
    /// for pod in 0..10 {
    ///     world.add_pod(&format!("pod-{pod}"));
    /// }
    /// world.run_for(Duration::from_secs(3600));
    /// assert_eq!(world.leases().len(), 10);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.cloud.remember(faults.stale_max);
        self.faults = faults;
        self
    }

    /// Lets calls fail from now on.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusals.refuse(refusal);
    }

    /// Returns the refusals that stand.
    pub fn refusals(&mut self) -> &mut Refusals {
        &mut self.refusals
    }

    /// Returns the key of the pod that [`World::add_pod`] adds under this name.
    pub fn key(name: &str) -> PodKey {
        PodKey::new("aws-cni", name, "eth0").expect("no part is empty")
    }

    /// Starts a pod: it asks for an address until it has one.
    pub fn add_pod(&mut self, name: &str) {
        self.add_pod_on(name, CardChoice::Any);
    }

    /// Starts a pod that wants an interface on one network card, or on each.
    pub fn add_pod_on(&mut self, name: &str, cards: CardChoice) {
        self.ask(Self::request(name, cards));
    }

    fn request(name: &str, cards: CardChoice) -> AddressRequest {
        let pod = Pod { namespace: "default".to_string(), name: name.to_string() };
        AddressRequest::new(Self::key(name), Arc::new(pod)).with_cards(cards)
    }

    /// Ends a pod, by the name under which it was added: its lease is released.
    pub fn remove_pod(&mut self, name: &str) -> Released {
        let key = Self::key(name);
        self.refused.retain(|(_, request)| request.key != key);
        self.leases.remove(&key);
        self.ipam.release(&key, self.now)
    }

    /// Returns the leases of the pods that have an address.
    pub fn leases(&self) -> &BTreeMap<PodKey, Lease> {
        &self.leases
    }

    /// Returns how often each EC2 operation was called.
    pub fn calls(&self) -> &BTreeMap<Ec2Operation, u32> {
        &self.calls
    }

    /// Returns when something was last changed in EC2 or on the node, reads not counted.
    pub fn changed_at(&self) -> Timestamp {
        self.changed_at
    }

    /// Returns what was done, and when.
    pub fn issued(&self) -> &[(Timestamp, Issued)] {
        &self.issued
    }

    /// Returns what was changed in EC2 and on the node, a line for each action: when, what, why.
    pub fn transcript(&self) -> String {
        let mut lines = String::new();
        let changes = self.issued.iter().filter(|(_, issued)| !reads(&issued.action));
        for (at, Issued { id, action, because }) in changes {
            lines.push_str(&format!(
                "{at} {id} {action:?} because {because}
"
            ));
        }
        lines
    }

    /// Lets time pass, with everything that becomes due.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.run();
            let due = self.ipam.poll_timeout().map(|(at, _)| at);
            let retry = self.refused.front().map(|(at, _)| *at);
            let answer = self.answers.keys().next().map(|(at, _)| *at);
            match due.into_iter().chain(retry).chain(answer).min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            while self.refused.front().is_some_and(|(at, _)| *at <= self.now) {
                if let Some((_, request)) = self.refused.pop_front() {
                    self.ask(request);
                }
            }
            self.ipam.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Carries out what there is to do now, without letting time pass.
    pub fn run(&mut self) {
        loop {
            while let Some(grant) = self.ipam.poll_grant() {
                match grant.result {
                    Ok(uncommitted) => {
                        if let Some(lease) = self.ipam.commit(uncommitted) {
                            self.leases.insert(grant.key, lease);
                        }
                    }
                    Err(_) => self.ask_again(&grant.key),
                }
            }
            let answered = self.answers.first_entry().filter(|entry| entry.key().0 <= self.now);
            if let Some(answer) = answered {
                let ((_, id), outcome) = answer.remove_entry();
                self.ipam.handle_outcome(id, outcome, self.now);
            } else if let Some(issued) = self.ipam.poll_action() {
                self.execute(&issued);
            } else if self.ipam.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                self.ipam.handle_timeout(self.now);
            } else {
                break;
            }
        }
        while self.ipam.poll_event().is_some() {}
    }

    fn execute(&mut self, issued: &Issued) {
        self.issued.push((self.now, issued.clone()));
        let Issued { id, action, .. } = issued;
        let operation = match action {
            Action::Ec2(action) => action.operation(),
            Action::Host(_) => None,
        };
        if let Some(operation) = operation {
            *self.calls.entry(operation).or_default() += 1;
        }
        let refused = self.refusals.meet(action, &self.cloud, self.now);
        let (outcome, delay) = match (refused, action) {
            (Some(failure), _) => (Outcome::Failed(failure), Duration::ZERO),
            (None, Action::Ec2(action)) => {
                let node = self.ipam.node().clone();
                let (fault, delay) = self.faults.draw(action, &mut self.rng);
                (self.cloud.execute_with(&node, action, fault, self.now), delay)
            }
            (None, Action::Host(_)) => (Outcome::Done(Effect::Done), Duration::ZERO),
        };
        if !reads(action) {
            self.changed_at = self.now;
        }
        if delay == Duration::ZERO {
            self.ipam.handle_outcome(*id, outcome, self.now);
        } else {
            self.answers.insert((self.now + delay, *id), outcome);
        }
    }

    fn ask(&mut self, request: AddressRequest) {
        match self.ipam.assign(&request, self.now) {
            Ok(Assigned::Now(uncommitted)) => {
                if let Some(lease) = self.ipam.commit(uncommitted) {
                    self.leases.insert(request.key, lease);
                }
            }
            Ok(Assigned::Later { .. }) => {}
            Err(_) => self.refused.push_back((self.now + RETRY, request)),
        }
    }

    fn ask_again(&mut self, key: &PodKey) {
        let request = Self::request(key.container(), CardChoice::Any);
        self.refused.push_back((self.now + RETRY, request));
    }
}

/// Returns whether an action only asks.
fn reads(action: &Action) -> bool {
    match action {
        Action::Ec2(action) => action.operation().is_none_or(Ec2Operation::reads),
        Action::Host(_) => false,
    }
}
