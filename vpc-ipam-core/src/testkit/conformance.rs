use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    AttachmentStatus, Card, CreateNetworkInterface, CreateTags, DeleteNetworkInterface,
    DetachNetworkInterface, DeviceIndex, Ec2Action, Effect, EniAttribute, EniId, EniLink,
    FailureKind, HostAction, Ipv4Amount, Limits, Mac, ModifyNetworkInterfaceAttribute, Node,
    Observation, ObservedEni, Outcome, Scope, Source, Timestamp, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses,
};

/// An executor of [`Ec2Action`]s, and of [`HostAction`]s if it has one, on an instance that the suite may attach ENIs to.
///
/// An asynchronous one blocks on its runtime here.
pub trait Executor {
    /// Returns the instance for which actions are carried out.
    fn node(&self) -> Node;

    /// Returns what the instance can hold.
    fn limits(&self) -> Limits;

    /// Carries out an action, and says what became of it: what is under test.
    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome;

    /// Carries out a change of the node's network, where the suite runs on the node; `None` where it does not.
    fn execute_host(&mut self, _action: &HostAction) -> Option<Outcome> {
        None
    }

    /// Returns the time.
    fn now(&self) -> Timestamp;

    /// Lets time pass, where EC2 needs a moment. An executor in virtual time only has to move its clock.
    fn wait(&mut self, duration: Duration);
}

/// What one check of [`conformance`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What should hold, as a fact.
    pub name: &'static str,
    /// Whether it does.
    pub verdict: Verdict,
}

/// Whether something holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not: this was seen.
    Fails(String),
    /// The instance or its subnet cannot show it: for this reason.
    NotApplicable(&'static str),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Holds => write!(f, "holds           {}", self.name),
            Verdict::Fails(seen) => write!(f, "FAILS           {}: {seen}", self.name),
            Verdict::NotApplicable(why) => write!(f, "not applicable  {} ({why})", self.name),
        }
    }
}

/// Runs an executor through everything that core asks of one, and reports check by check.
///
/// The suite makes ENIs in the primary ENI's subnet, attaches, changes, detaches and deletes them, and leaves the instance
/// as it found it, also where a check fails. It needs an instance with room for one more ENI on card 0, which no other program
/// changes meanwhile, and takes about thirty calls. What EC2 shows late is asked for again, for up to a minute.
///
/// ```
/// use core::time::Duration;
/// use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
/// use vpc_ipam_core::testkit::{Executor, Verdict, conformance};
/// use vpc_ipam_core::{Ec2Action, Limits, Node, Outcome, Timestamp};
///
/// // The executor under test; here, that of the model of EC2.
/// struct Mine { cloud: Cloud, node: Node, limits: Limits, now: Timestamp }
///
/// impl Executor for Mine {
///     fn node(&self) -> Node { self.node.clone() }
///     fn limits(&self) -> Limits { self.limits.clone() }
///     fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
///         self.cloud.execute(&self.node, action, now)
///     }
///     fn now(&self) -> Timestamp { self.now }
///     fn wait(&mut self, duration: Duration) { self.now = self.now + duration; }
/// }
///
/// # let now = Timestamp::from_secs(1_700_000_000);
/// # let mut cloud = Cloud::new(1);
/// # let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
/// # let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?))?;
/// # let limits = Limits::lookup("m5.large".parse()?)?;
/// # let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
/// # let node = cloud.instance(&instance).unwrap().node.clone();
/// # let mut mine = Mine { cloud, node, limits, now };
/// for check in conformance(&mut mine) {
///     println!("{check}");
///     assert!(!matches!(check.verdict, Verdict::Fails(_)));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn conformance(executor: &mut dyn Executor) -> Vec<Check> {
    let mut suite = Suite { executor, checks: Vec::new(), made: Vec::new() };
    suite.questions();
    suite.life_of_an_eni();
    suite.clean_up();
    suite.checks
}

struct Suite<'a> {
    executor: &'a mut dyn Executor,
    checks: Vec<Check>,
    /// ENIs that have to be gone in the end.
    made: Vec<EniId>,
}

/// How often what EC2 shows late is asked for again, a second apart at first.
const PATIENCE: u32 = 12;

impl Suite<'_> {
    fn questions(&mut self) {
        let node = self.executor.node();
        let now = self.executor.now();
        let metadata = self.done(&Ec2Action::ReadMetadata);
        self.check("metadata describes the node and shows its primary ENI", || match metadata? {
            Effect::Metadata(metadata) => {
                expect(metadata.node == node, || format!("{:?}", metadata.node))?;
                let observation = &metadata.observation;
                let asked =
                    (observation.source, &observation.scope) == (Source::Imds, &Scope::Attached);
                expect(asked, || format!("{:?} {:?}", observation.source, observation.scope))?;
                expect(observation.as_of >= now, || format!("as of {}", observation.as_of))?;
                primary_of(observation, &node)
            }
            effect => Err(format!("{effect:?}")),
        });

        let attached = self.observe(Scope::Attached);
        self.check("the primary ENI is among those attached, at device 0", || {
            primary_of(&attached?, &node)
        });
        let asked_at = self.executor.now();
        let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
        let outcome = self.executor.execute(&action, asked_at);
        self.check("an observation is as old as its question, and names source and scope", || {
            match outcome {
                Outcome::Done(Effect::Observed(seen)) => {
                    let named = (seen.as_of, seen.source, &seen.scope)
                        == (asked_at, Source::Ec2, &Scope::Attached);
                    expect(named, || {
                        format!("{:?} {:?} as of {}", seen.source, seen.scope, seen.as_of)
                    })
                }
                outcome => Err(format!("{outcome:?}")),
            }
        });
        let subnets = self.done(&Ec2Action::DescribeSubnets);
        self.check("the subnets are those of the node's VPC and zone, its own among them", || {
            match subnets? {
                Effect::Subnets(subnets) => {
                    let own = subnets.iter().any(|subnet| subnet.id == node.subnet);
                    let near = subnets.iter().all(|s| s.vpc == node.vpc && s.zone == node.zone);
                    expect(own && near, || format!("{subnets:?}"))
                }
                effect => Err(format!("{effect:?}")),
            }
        });
        let missing_eni: EniId = "eni-00000000000000000".parse().expect("an id");
        let absent = self.observe(Scope::Only(vec![missing_eni]));
        self.check("an ENI that does not exist is missing from the answer, and no failure", || {
            let absent = absent?;
            expect(absent.enis.is_empty(), || format!("{:?}", absent.enis))
        });
        let delete = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: missing_eni });
        let refused = self.failed(&delete);
        self.check("what is to be done to an ENI that does not exist fails as NotFound", || {
            is_kind(&refused?, FailureKind::NotFound)
        });
    }

    fn life_of_an_eni(&mut self) {
        let node = self.executor.node();
        let limits = self.executor.limits();
        let request = self.creation();
        let create = Ec2Action::CreateNetworkInterface(request.clone());
        let made = self.done(&create).and_then(created);
        let Some(eni) = self.keep("an ENI is made with the addresses that were asked for", made)
        else {
            return;
        };
        self.made.push(eni.id);
        self.check(
            "an ENI that was made has what it was asked for, and is attached to nothing",
            || {
                let (blocks, own) = (eni.blocks.len(), eni.primary_ipv4.is_some());
                let single = eni.blocks.iter().all(|net| net.prefix_len() == 32);
                expect(blocks == 1 && own && single, || format!("{eni:?}"))?;
                expect(eni.subnet == node.subnet && eni.attachment.is_none(), || format!("{eni:?}"))
            },
        );
        let again = self.done(&create).and_then(created);
        self.check("the same creation again returns the same ENI", || {
            let again = again?;
            expect(again.id == eni.id, || format!("{} and {}", eni.id, again.id))
        });
        if let Ok(again) = self.done(&create).and_then(created)
            && !self.made.contains(&again.id)
        {
            self.made.push(again.id);
        }
        let shown = self.eventually(Scope::Unattached, eni.id, |_| true);
        self.check(
            "an ENI that is attached to nothing is found by its tag, with all its tags",
            || {
                let tags = shown?.tags.unwrap_or_default();
                let all = request.tags.iter().all(|(key, value)| tags.get(key) == Some(value));
                expect(all, || format!("{tags:?}"))
            },
        );

        let Some(attachment) = self.attach(eni.id, &node) else {
            return;
        };
        self.host(&eni);
        self.addresses(&eni, &limits);
        self.attributes(&eni, attachment);
        self.end(&eni, attachment);
    }

    fn creation(&self) -> CreateNetworkInterface {
        let node = self.executor.node();
        // A token that no run before has used.
        let token = format!("conformance-{}", self.executor.now().as_nanos());
        let owner = (Scope::INSTANCE_TAG.to_string(), node.instance.to_string());
        CreateNetworkInterface {
            client_token: token,
            subnet: node.subnet,
            security_groups: Vec::new(),
            description: "vpc-ipam conformance".to_string(),
            tags: BTreeMap::from([owner, ("conformance".to_string(), "yes".to_string())]),
            ipv4: Ipv4Amount::Addresses(1),
            ipv6_prefixes: 0,
        }
    }

    fn attach(&mut self, eni: EniId, node: &Node) -> Option<AttachmentId> {
        let seen = self.observe(Scope::Attached).ok()?;
        let taken: Vec<DeviceIndex> = seen
            .enis
            .iter()
            .filter_map(|eni| eni.attachment.as_ref())
            .filter(|attachment| attachment.card == Card(0))
            .map(|attachment| attachment.device)
            .collect();
        let most = self.executor.limits().enis(Card(0));
        let Some(device) = (0..most).map(DeviceIndex).find(|device| !taken.contains(device)) else {
            let why = Verdict::NotApplicable("the instance has no room for another ENI");
            self.report("an ENI is attached where it was asked for", why);
            return None;
        };
        let request =
            AttachNetworkInterface { eni, instance: node.instance, card: Card(0), device };
        let attach = Ec2Action::AttachNetworkInterface(request);
        let attached = self.done(&attach).and_then(|effect| match effect {
            Effect::Attached(attachment) => Ok(attachment),
            effect => Err(format!("{effect:?}")),
        });
        let attachment = self.keep("an attachment has an id", attached)?;
        let shown = self.eventually(Scope::Attached, eni, |eni| {
            eni.attachment.as_ref().is_some_and(|a| a.status == AttachmentStatus::Attached)
        });
        self.check("an ENI is attached where it was asked for", || {
            let seen = shown?.attachment.ok_or("no attachment")?;
            let there = (seen.instance, seen.card, seen.device, seen.id)
                == (node.instance, Card(0), device, Some(attachment));
            expect(there, || format!("{seen:?}"))
        });
        Some(attachment)
    }

    fn addresses(&mut self, eni: &ObservedEni, limits: &Limits) {
        let slots = limits.ipv4_slots();
        let assign = |amount| {
            Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses { eni: eni.id, amount })
        };
        let mut added: Vec<Ipv4Net> = Vec::new();
        let few = 2.min(slots.saturating_sub(1));
        const SINGLE: &str = "single addresses are assigned, as many as asked for, and named";
        if few == 0 {
            self.report(SINGLE, Verdict::NotApplicable("the type has no place for a second block"));
        } else {
            let assigned = self.done(&assign(Ipv4Amount::Addresses(few))).and_then(ipv4_blocks);
            if let Some(blocks) = self.keep(SINGLE, assigned) {
                added.extend(&blocks);
                self.check("assigned addresses are in full length, in the ENI's subnet", || {
                    let right = blocks.len() == usize::from(few)
                        && blocks.iter().all(|net| net.prefix_len() == 32);
                    expect(right, || format!("{blocks:?}"))
                });
            }
        }
        const PREFIX: &str = "a prefix is assigned, and named with its length";
        if !limits.prefixes() || slots < few + 2 {
            self.report(PREFIX, Verdict::NotApplicable("the type takes no further prefix"));
        } else {
            let assigned = self.done(&assign(Ipv4Amount::Prefixes(1))).and_then(ipv4_blocks);
            if let Some(blocks) = self.keep(PREFIX, assigned) {
                added.extend(&blocks);
                self.check("an assigned prefix is a /28", || {
                    let right = blocks.len() == 1 && blocks[0].prefix_len() == 28;
                    expect(right, || format!("{blocks:?}"))
                });
            }
        }
        let want: Vec<IpNet> = added.iter().map(|net| IpNet::V4(*net)).collect();
        let shown = self.eventually(Scope::Only(vec![eni.id]), eni.id, |eni| {
            want.iter().all(|net| eni.blocks.contains(net))
        });
        self.check("what was assigned is shown, single addresses as /32", || shown.map(drop));
        let refused = self.failed(&assign(Ipv4Amount::Addresses(slots)));
        self.check("more than an ENI takes fails as AddressLimit", || {
            is_kind(&refused?, FailureKind::AddressLimit)
        });
        self.ipv6(eni);
        self.unassign(eni, &added);
    }

    fn host(&mut self, eni: &ObservedEni) {
        const SET_UP: &str = "a link is set up, and again without complaint";
        const REMOVED: &str = "what was set up is removed, and again without complaint";
        const MISSING: &str = "a link that is not there fails as LinkMissing";
        let subnet = match self.done(&Ec2Action::DescribeSubnets) {
            Ok(Effect::Subnets(subnets)) => subnets.into_iter().find(|s| s.id == eni.subnet),
            _ => None,
        };
        let place = self.observe(Scope::Attached).ok().and_then(|seen| {
            let shown = seen.enis.into_iter().find(|shown| shown.id == eni.id)?;
            shown.attachment.map(|attachment| (attachment.card, attachment.device))
        });
        let (Some(subnet), Some((card, device))) = (subnet, place) else {
            return;
        };
        let link = EniLink {
            eni: eni.id,
            mac: eni.mac,
            card,
            device,
            trunk: false,
            primary_ipv4: eni.primary_ipv4,
            primary_ipv6: eni.primary_ipv6,
            subnet_ipv4: Some(subnet.ipv4_cidr),
            subnet_ipv6: subnet.ipv6_cidr,
            mtu: 9001,
        };
        let absent = EniLink { mac: Mac([0x02, 0, 0, 0, 0, 0xfe]), ..link };
        let done = Outcome::Done(Effect::Done);
        let twice = [done.clone(), done];
        let set_up = HostAction::SetUpEni(link.clone());
        if !self.host_twice(SET_UP, &set_up, &twice) {
            for name in [REMOVED, MISSING] {
                self.report(name, Verdict::NotApplicable("there is no executor of host actions"));
            }
            return;
        }
        let missing = self.executor.execute_host(&HostAction::SetUpEni(absent));
        self.check(MISSING, || match missing {
            Some(Outcome::Failed(failure)) => is_kind(&failure.kind, FailureKind::LinkMissing),
            outcome => Err(format!("{outcome:?}")),
        });
        self.host_twice(REMOVED, &HostAction::RemoveEni(link), &twice);
    }

    /// Carries out a host action twice; returns false if there is no executor of them.
    fn host_twice(
        &mut self,
        name: &'static str,
        action: &HostAction,
        expected: &[Outcome],
    ) -> bool {
        let outcomes: Vec<Outcome> =
            (0..2).filter_map(|_| self.executor.execute_host(action)).collect();
        if outcomes.is_empty() {
            self.report(name, Verdict::NotApplicable("there is no executor of host actions"));
            return false;
        }
        self.check(name, || expect(outcomes == expected, || format!("{outcomes:?}")));
        true
    }

    fn ipv6(&mut self, eni: &ObservedEni) {
        const NAME: &str = "an IPv6 prefix is assigned, named as a /80, and released";
        let node = self.executor.node();
        let limits = self.executor.limits();
        let has_range = match self.done(&Ec2Action::DescribeSubnets) {
            Ok(Effect::Subnets(subnets)) => {
                subnets.iter().any(|subnet| subnet.id == node.subnet && subnet.ipv6_cidr.is_some())
            }
            _ => false,
        };
        if !has_range || !limits.prefixes() || limits.ipv6_per_eni == 0 {
            self.report(
                NAME,
                Verdict::NotApplicable("the subnet has no IPv6, or the type no prefixes"),
            );
            return;
        }
        let request = AssignIpv6Addresses { eni: eni.id, prefixes: 1 };
        let assigned = self.done(&Ec2Action::AssignIpv6Addresses(request));
        let verdict = assigned.and_then(|effect| match effect {
            Effect::Assigned(blocks) => match blocks[..] {
                [IpNet::V6(prefix)] if prefix.prefix_len() == 80 => {
                    let request = UnassignIpv6Addresses { eni: eni.id, prefixes: vec![prefix] };
                    self.done(&Ec2Action::UnassignIpv6Addresses(request)).and_then(is_done)
                }
                _ => Err(format!("{blocks:?}")),
            },
            effect => Err(format!("{effect:?}")),
        });
        self.check(NAME, || verdict);
    }

    fn unassign(&mut self, eni: &ObservedEni, added: &[Ipv4Net]) {
        // Core asks for one kind a call.
        for length in [32, 28] {
            let blocks: Vec<Ipv4Net> =
                added.iter().copied().filter(|net| net.prefix_len() == length).collect();
            if blocks.is_empty() {
                continue;
            }
            let unassign = |blocks| {
                let request = UnassignPrivateIpAddresses { eni: eni.id, blocks };
                Ec2Action::UnassignPrivateIpAddresses(request)
            };
            let done = self.done(&unassign(blocks.clone())).and_then(is_done);
            let shown = self.eventually(Scope::Only(vec![eni.id]), eni.id, |eni| {
                !blocks.iter().any(|net| eni.blocks.contains(&IpNet::V4(*net)))
            });
            let name = match length {
                32 => "single addresses are released",
                _ => "a prefix is released",
            };
            self.check(name, || done.and(shown.map(drop)));
            if length == 32 {
                let refused = self.failed(&unassign(blocks));
                self.check("what the ENI does not have is refused, not lost", || {
                    let kind = refused?;
                    let refused = matches!(kind, FailureKind::Rejected | FailureKind::NotFound);
                    expect(refused, || format!("{kind:?}"))
                });
            }
        }
    }

    fn attributes(&mut self, eni: &ObservedEni, attachment: AttachmentId) {
        let attribute = EniAttribute::DeleteOnTermination(attachment);
        let modify = ModifyNetworkInterfaceAttribute { eni: eni.id, attribute };
        let done = self.done(&Ec2Action::ModifyNetworkInterfaceAttribute(modify)).and_then(is_done);
        let shown = self.eventually(Scope::Attached, eni.id, |eni| {
            let attachment = eni.attachment.as_ref();
            attachment.is_some_and(|a| a.delete_on_termination == Some(true))
        });
        self.check("an ENI is let go with the instance", || done.and(shown.map(drop)));

        let groups = eni.security_groups.clone();
        let attribute = EniAttribute::Groups(groups);
        let modify = ModifyNetworkInterfaceAttribute { eni: eni.id, attribute };
        let done = self.done(&Ec2Action::ModifyNetworkInterfaceAttribute(modify)).and_then(is_done);
        self.check("security groups are set", || done);

        let tags = BTreeMap::from([("conformance".to_string(), "changed".to_string())]);
        let create = Ec2Action::CreateTags(CreateTags { eni: eni.id, tags });
        let done = self.done(&create).and_then(is_done);
        let shown = self.eventually(Scope::Only(vec![eni.id]), eni.id, |eni| {
            let tags = eni.tags.as_ref();
            tags.and_then(|tags| tags.get("conformance")).is_some_and(|value| value == "changed")
        });
        self.check("tags are set, and others stay", || {
            done?;
            let tags = shown?.tags.unwrap_or_default();
            expect(tags.contains_key(Scope::INSTANCE_TAG), || format!("{tags:?}"))
        });
    }

    fn end(&mut self, eni: &ObservedEni, attachment: AttachmentId) {
        let delete = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: eni.id });
        let refused = self.failed(&delete);
        self.check("deleting an ENI that is attached fails as InUse", || {
            is_kind(&refused?, FailureKind::InUse)
        });
        let detach =
            Ec2Action::DetachNetworkInterface(DetachNetworkInterface { eni: eni.id, attachment });
        let done = self.done(&detach).and_then(is_done);
        let shown = self.eventually(Scope::Unattached, eni.id, |eni| eni.attachment.is_none());
        self.check("an ENI is detached", || done.and(shown.map(drop)));
        let refused = self.failed(&detach);
        self.check("detaching what is detached fails as NotFound", || {
            is_kind(&refused?, FailureKind::NotFound)
        });
        let done = self.done(&delete).and_then(is_done);
        self.check("an ENI is deleted", || done);
        let gone = self.observe(Scope::Only(vec![eni.id]));
        self.check("a deleted ENI is missing from the answer, and no failure", || {
            let gone = gone?;
            expect(gone.enis.is_empty(), || format!("{:?}", gone.enis))
        });
    }

    /// Detaches and deletes what is left.
    fn clean_up(&mut self) {
        let mut left = Vec::new();
        for eni in core::mem::take(&mut self.made) {
            let mut wait = Duration::from_secs(1);
            for _ in 0..PATIENCE {
                match self.observe(Scope::Only(vec![eni])) {
                    Ok(seen) if seen.enis.is_empty() => break,
                    Ok(seen) => {
                        let attachment = seen.enis[0].attachment.as_ref().and_then(|a| a.id);
                        if let Some(attachment) = attachment {
                            let detach = DetachNetworkInterface { eni, attachment };
                            let _ = self.done(&Ec2Action::DetachNetworkInterface(detach));
                        }
                        let delete = DeleteNetworkInterface { eni };
                        let _ = self.done(&Ec2Action::DeleteNetworkInterface(delete));
                    }
                    Err(_) => {}
                }
                self.executor.wait(wait);
                wait = wait.saturating_mul(2).min(Duration::from_secs(8));
            }
            if !self.observe(Scope::Only(vec![eni])).is_ok_and(|seen| seen.enis.is_empty()) {
                left.push(eni);
            }
        }
        self.check("nothing is left behind", || expect(left.is_empty(), || format!("{left:?}")));
    }

    /// Asks until an ENI shows as wanted, or patience ends; returns how it shows.
    fn eventually(
        &mut self,
        scope: Scope,
        id: EniId,
        wanted: impl Fn(&ObservedEni) -> bool,
    ) -> Result<ObservedEni, String> {
        let mut wait = Duration::from_secs(1);
        let mut last = String::new();
        for _ in 0..PATIENCE {
            match self.observe(scope.clone()) {
                Ok(seen) => match seen.enis.into_iter().find(|eni| eni.id == id) {
                    Some(eni) if wanted(&eni) => return Ok(eni),
                    Some(eni) => last = format!("{eni:?}"),
                    None => last = format!("{id} is not shown for {scope:?}"),
                },
                Err(error) => last = error,
            }
            self.executor.wait(wait);
            wait = wait.saturating_mul(2).min(Duration::from_secs(8));
        }
        Err(last)
    }

    fn observe(&mut self, scope: Scope) -> Result<Observation, String> {
        match self.done(&Ec2Action::DescribeNetworkInterfaces(scope))? {
            Effect::Observed(observation) => Ok(observation),
            effect => Err(format!("{effect:?}")),
        }
    }

    fn done(&mut self, action: &Ec2Action) -> Result<Effect, String> {
        let now = self.executor.now();
        match self.executor.execute(action, now) {
            Outcome::Done(effect) => Ok(effect),
            Outcome::Failed(failure) => Err(format!("{action}: {failure}")),
        }
    }

    fn failed(&mut self, action: &Ec2Action) -> Result<FailureKind, String> {
        let now = self.executor.now();
        match self.executor.execute(action, now) {
            Outcome::Failed(failure) => Ok(failure.kind),
            Outcome::Done(effect) => Err(format!("{action}: done, {effect:?}")),
        }
    }

    /// Reports a result, and returns what it is about, if it came about.
    fn keep<T>(&mut self, name: &'static str, result: Result<T, String>) -> Option<T> {
        let (verdict, value) = match result {
            Ok(value) => (Verdict::Holds, Some(value)),
            Err(seen) => (Verdict::Fails(seen), None),
        };
        self.report(name, verdict);
        value
    }

    fn check(&mut self, name: &'static str, check: impl FnOnce() -> Result<(), String>) {
        let verdict = match check() {
            Ok(()) => Verdict::Holds,
            Err(seen) => Verdict::Fails(seen),
        };
        self.report(name, verdict);
    }

    fn report(&mut self, name: &'static str, verdict: Verdict) {
        self.checks.push(Check { name, verdict });
    }
}

fn expect(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}

fn is_kind(kind: &FailureKind, expected: FailureKind) -> Result<(), String> {
    expect(*kind == expected, || format!("{kind:?}"))
}

fn is_done(effect: Effect) -> Result<(), String> {
    expect(effect == Effect::Done, || format!("{effect:?}"))
}

fn created(effect: Effect) -> Result<ObservedEni, String> {
    match effect {
        Effect::Created(eni) => Ok(eni),
        effect => Err(format!("{effect:?}")),
    }
}

fn ipv4_blocks(effect: Effect) -> Result<Vec<Ipv4Net>, String> {
    let Effect::Assigned(blocks) = effect else {
        return Err(format!("{effect:?}"));
    };
    blocks
        .into_iter()
        .map(|net| match net {
            IpNet::V4(net) => Ok(net),
            IpNet::V6(net) => Err(format!("{net}")),
        })
        .collect()
}

fn primary_of(observation: &Observation, node: &Node) -> Result<(), String> {
    let primary = observation.enis.iter().find(|eni| eni.id == node.primary);
    let seen = primary.and_then(|eni| eni.attachment.as_ref()).ok_or("it is missing")?;
    let there = (seen.instance, seen.device) == (node.instance, DeviceIndex(0));
    expect(there && seen.status == AttachmentStatus::Attached, || format!("{seen:?}"))
}
