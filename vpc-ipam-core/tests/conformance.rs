//! The conformance suite, run against an executor that conforms and against some that do not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::testkit::{Check, Executor, Verdict, conformance};
use vpc_ipam_core::{
    Ec2Action, Effect, Failure, FailureKind, HostAction, Limits, Node, Outcome, Scope, Timestamp,
};

#[test]
fn the_models_executor_conforms_on_every_kind_of_type() {
    // type, and how many checks its instances or their subnet cannot show
    for (name, not_applicable) in [("m5.large", 0), ("m4.4xlarge", 2), ("t3.nano", 2)] {
        let mut sim = Sim::new(name, |_, outcome| outcome);
        let before = sim.cloud.interfaces().cloned().collect::<Vec<_>>();
        let checks = conformance(&mut sim);
        let report = report(&checks);
        let failed = checks.iter().filter(|check| matches!(check.verdict, Verdict::Fails(_)));
        assert_eq!(failed.count(), 0, "{name}\n{report}");
        let skipped = checks.iter().filter(|c| matches!(c.verdict, Verdict::NotApplicable(_)));
        assert_eq!(skipped.count(), not_applicable, "{name}\n{report}");
        assert!(checks.len() > 20, "{name}\n{report}");
        assert_eq!(sim.cloud.interfaces().cloned().collect::<Vec<_>>(), before, "{name}");
    }
}

/// An executor that is wrong in one way, and the check that has to notice.
#[test]
fn executors_that_do_not_conform_are_told_why() {
    let cases: [(&str, fn(&Ec2Action, Outcome) -> Outcome); 8] = [
        ("an observation is as old as its question, and names source and scope", |_, outcome| {
            observed(outcome, |seen| seen.as_of = Timestamp::EPOCH)
        }),
        (
            "an ENI that does not exist is missing from the answer, and no failure",
            |action, outcome| match (action, &outcome) {
                (
                    Ec2Action::DescribeNetworkInterfaces(Scope::Only(_)),
                    Outcome::Done(Effect::Observed(seen)),
                ) if seen.enis.is_empty() => failed(FailureKind::NotFound),
                _ => outcome,
            },
        ),
        ("what is to be done to an ENI that does not exist fails as NotFound", |_, outcome| {
            reclassified(outcome, FailureKind::NotFound, FailureKind::Rejected)
        }),
        ("more than an ENI takes fails as AddressLimit", |_, outcome| {
            reclassified(outcome, FailureKind::AddressLimit, FailureKind::Unanswered)
        }),
        ("deleting an ENI that is attached fails as InUse", |_, outcome| {
            reclassified(outcome, FailureKind::InUse, FailureKind::Rejected)
        }),
        (
            "an ENI that is attached to nothing is found by its tag, with all its tags",
            |_, outcome| {
                observed(outcome, |seen| seen.enis.iter_mut().for_each(|eni| eni.tags = None))
            },
        ),
        ("what was assigned is shown, single addresses as /32", |_, outcome| {
            observed(outcome, |seen| seen.enis.iter_mut().for_each(|eni| eni.blocks.clear()))
        }),
        ("single addresses are released", |action, outcome| match action {
            Ec2Action::UnassignPrivateIpAddresses(_) => Outcome::Done(Effect::Assigned(Vec::new())),
            _ => outcome,
        }),
    ];
    for (name, sabotage) in cases {
        let checks = conformance(&mut Sim::new("m5.large", sabotage));
        let noticed = checks
            .iter()
            .any(|check| check.name == name && matches!(check.verdict, Verdict::Fails(_)));
        assert!(noticed, "{name}\n{}", report(&checks));
    }
}

#[test]
fn the_same_creation_that_makes_a_second_eni_is_noticed_and_cleaned_up() {
    let mut sim = Sim::new("m5.large", |_, outcome| outcome);
    sim.forgets_tokens = true;
    let checks = conformance(&mut sim);
    let name = "the same creation again returns the same ENI";
    let noticed = checks.iter().any(|c| c.name == name && matches!(c.verdict, Verdict::Fails(_)));
    assert!(noticed, "{}", report(&checks));
}

struct Sim {
    cloud: Cloud,
    node: Node,
    limits: Limits,
    now: Timestamp,
    sabotage: fn(&Ec2Action, Outcome) -> Outcome,
    forgets_tokens: bool,
    calls: u64,
}

impl Sim {
    fn new(name: &str, sabotage: fn(&Ec2Action, Outcome) -> Outcome) -> Self {
        let now = Timestamp::from_secs(1_700_000_000);
        let mut cloud = Cloud::new(1);
        let ipv6 = "2001:db8::/56".parse().unwrap();
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![ipv6]);
        let zone = "eu-west-1a".parse().unwrap();
        let subnet = CreateSubnet::new(vpc, zone, "10.0.0.0/19".parse().unwrap());
        let ipv6_cidr = Some("2001:db8::/64".parse().unwrap());
        let subnet = cloud.create_subnet(CreateSubnet { ipv6_cidr, ..subnet }).unwrap();
        let limits = Limits::lookup(name.parse().unwrap()).unwrap();
        let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now).unwrap();
        let node = cloud.instance(&instance).unwrap().node.clone();
        Self { cloud, node, limits, now, sabotage, forgets_tokens: false, calls: 0 }
    }
}

impl Executor for Sim {
    fn node(&self) -> Node {
        self.node.clone()
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        let mut action = action.clone();
        self.calls += 1;
        if let Ec2Action::CreateNetworkInterface(request) = &mut action
            && self.forgets_tokens
        {
            request.client_token = format!("{}", self.calls);
        }
        let outcome = self.cloud.execute(&self.node, &action, now);
        (self.sabotage)(&action, outcome)
    }

    fn execute_host(&mut self, action: &HostAction) -> Option<Outcome> {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        let there = self.cloud.interfaces().any(|eni| eni.mac == link.mac);
        match action {
            HostAction::SetUpEni(_) if !there => Some(failed(FailureKind::LinkMissing)),
            _ => Some(Outcome::Done(Effect::Done)),
        }
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }
}

fn observed(mut outcome: Outcome, change: impl FnOnce(&mut vpc_ipam_core::Observation)) -> Outcome {
    if let Outcome::Done(Effect::Observed(seen)) = &mut outcome {
        change(seen);
    }
    outcome
}

fn reclassified(outcome: Outcome, from: FailureKind, to: FailureKind) -> Outcome {
    match outcome {
        Outcome::Failed(failure) if failure.kind == from => failed(to),
        outcome => outcome,
    }
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, retry_after: None, message: "sabotage".into() })
}

fn report(checks: &[Check]) -> String {
    checks.iter().map(|check| format!("{check}\n")).collect()
}
