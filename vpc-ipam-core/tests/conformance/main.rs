//! The conformance suite, run against executors that conform and against many that are wrong in one way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod faults;
mod sim;

use core::time::Duration;
use std::collections::BTreeSet;

use vpc_ipam_core::sim::Fault;
use vpc_ipam_core::testkit::{Check, Executor, Verdict, conformance};
use vpc_ipam_core::{
    Ec2Action, Effect, EniAttribute, EniId, FailureKind, Limits, Node, Outcome, SecurityGroupId,
    Timestamp,
};

use crate::faults::FAULTS;
use crate::sim::{Sim, Wrong, failed};

#[test]
fn the_models_executor_conforms_on_every_kind_of_type() {
    // Types, and what their instances or subnet cannot show.
    let one_card = "an ENI is attached to another network card where it was asked for";
    let no_prefix: &[&str] = &[
        one_card,
        "an ENI is made with a prefix",
        "a prefix is assigned, and named as a /28",
        "an IPv6 prefix is assigned, and named as a /80",
        "an IPv6 prefix is released, and no other",
    ];
    let many = "more ENIs than a network card takes fail as AttachmentLimit";
    let cases: [(&str, &[&str]); 5] = [
        ("m5.large", &[one_card]),
        ("t3.nano", &[one_card]),
        ("m4.large", no_prefix),
        ("c6in.32xlarge", &[]),
        ("p4d.24xlarge", &[many]),
    ];
    for (instance_type, expected) in cases {
        for own_group in [false, true] {
            let mut sim = Sim::new(instance_type);
            sim.group = sim.group.filter(|_| own_group);
            let before = sim.cloud.interfaces().cloned().collect::<Vec<_>>();
            let checks = conformance(&mut sim);
            let report = report(&checks);
            assert_eq!(failures(&checks), BTreeSet::new(), "{instance_type}\n{report}");
            let skipped = |check: &&Check| matches!(check.verdict, Verdict::NotApplicable(_));
            let skipped: BTreeSet<_> = checks.iter().filter(skipped).map(|it| it.name).collect();
            assert_eq!(skipped, expected.iter().copied().collect(), "{instance_type}\n{report}");
            let after = sim.cloud.interfaces().cloned().collect::<Vec<_>>();
            assert_eq!(after, before, "{instance_type}");
            assert!(sim.calls < 500, "{instance_type}: {} calls", sim.calls);
        }
    }
}

#[test]
fn each_planted_fault_is_seen_and_nothing_is_left() {
    let mut unseen = Vec::new();
    for (fault, instance_type, wrong, check) in FAULTS {
        let mut sim = Sim::new(instance_type);
        sim.group = None;
        sim.wrong = *wrong;
        let before = sim.interfaces();

        let checks = conformance(&mut sim);

        let report = report(&checks);
        if !failures(&checks).contains(check) {
            unseen.push(format!("{fault}: expected that \"{check}\" fails\n{report}"));
        }
        if sim.interfaces() != before || failures(&checks).contains(NOTHING_LEFT) {
            unseen.push(format!("{fault}: expected that nothing is left\n{report}"));
        }
    }
    assert!(unseen.is_empty(), "{} of {}\n{}", unseen.len(), FAULTS.len(), unseen.join("\n"));
}

/// A line for a person: what should be, and what is.
#[test]
fn a_failure_says_what_was_expected_and_what_was_seen() {
    for (fault, instance_type, wrong, _) in FAULTS {
        let mut sim = Sim::new(instance_type);
        sim.group = None;
        sim.wrong = *wrong;
        for check in conformance(&mut sim) {
            if let Verdict::Fails(seen) = &check.verdict {
                let told = seen.contains("expected") && seen.contains("saw");
                assert!(told, "{fault}: {check}");
                assert!(!seen.contains('\n'), "{fault}: one line: {check}");
            }
        }
    }
}

/// Changes the security groups of each call that has some.
fn grouped(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&Sim, &mut Vec<SecurityGroupId>),
) -> Outcome {
    let mut action = action.clone();
    match &mut action {
        Ec2Action::CreateNetworkInterface(request) => change(sim, &mut request.security_groups),
        Ec2Action::ModifyNetworkInterfaceAttribute(call) => {
            if let EniAttribute::Groups(groups) = &mut call.attribute {
                change(sim, groups);
            }
        }
        _ => {}
    }
    sim.right(&action, now)
}

#[test]
fn with_a_group_of_the_testers_it_is_seen_on_the_eni_that_groups_are_wrong() {
    let made = "an ENI is made with all that was asked for, and attached to nothing";
    let set = "security groups are set, and no others stay";
    let cases: [(&str, Wrong, &str); 4] = [
        ("lost", |s, a, n| grouped(s, a, n, |_, groups| groups.clear()), made),
        ("added", |s, a, n| grouped(s, a, n, |s, groups| groups.extend(s.group)), set),
        ("constant", |s, a, n| grouped(s, a, n, |s, groups| *groups = vec![s.group.unwrap()]), set),
        (
            "never set",
            |s, a, n| match a {
                Ec2Action::ModifyNetworkInterfaceAttribute(_) => Outcome::Done(Effect::Done),
                _ => s.right(a, n),
            },
            set,
        ),
    ];
    for (what, wrong, check) in cases {
        let mut sim = Sim::new("m5.large");
        sim.wrong = wrong;
        let checks = conformance(&mut sim);
        assert!(failures(&checks).contains(check), "{what}\n{}", report(&checks));
    }
}

#[test]
fn an_eni_that_cannot_be_deleted_is_named() {
    let cases: [fn(&mut Sim, &Ec2Action, _) -> Outcome; 3] = [
        |sim, action, now| match action {
            Ec2Action::DeleteNetworkInterface(_) => Outcome::Done(Effect::Done),
            _ => sim.right(action, now),
        },
        |sim, action, now| match action {
            Ec2Action::DeleteNetworkInterface(_) => failed(FailureKind::Denied),
            _ => sim.right(action, now),
        },
        |sim, action, now| match action {
            Ec2Action::DeleteNetworkInterface(_) => panic!("no deletions here"),
            _ => sim.right(action, now),
        },
    ];
    for wrong in cases {
        let mut sim = Sim::new("m5.large");
        sim.wrong = wrong;
        let before = sim.interfaces();
        let checks = conformance(&mut sim);
        let left: Vec<EniId> = sim.interfaces().difference(&before).copied().collect();
        let last = checks.iter().find(|check| check.name == NOTHING_LEFT).unwrap();
        assert_eq!(left.len(), 12, "{}", report(&checks));
        for eni in left {
            assert!(last.to_string().contains(eni.as_str()), "{eni}\n{}", report(&checks));
        }
    }
}

#[test]
fn an_executor_that_panics_everywhere_is_reported_and_touches_nothing() {
    let mut sim = Sim::new("m5.large");
    sim.wrong = |_, _, _| panic!("not written yet");
    let checks = conformance(&mut sim);
    let panics = checks.iter().find(|check| check.name == "the executor does not panic").unwrap();
    assert!(panics.to_string().contains("not written yet"), "{}", report(&checks));
    assert!(checks.len() > 3, "{}", report(&checks));
}

#[test]
fn a_clock_that_panics_does_not_lose_the_report() {
    struct NoClock(Sim, bool);
    impl Executor for NoClock {
        fn node(&self) -> Node {
            self.0.node.clone()
        }
        fn limits(&self) -> Limits {
            self.0.limits.clone()
        }
        fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
            self.1 = true;
            self.0.right(action, now)
        }
        fn now(&self) -> Timestamp {
            assert!(!self.1, "the clock stands still");
            self.0.now
        }
        fn wait(&mut self, _: Duration) {
            panic!("no waiting here");
        }
    }
    let sim = Sim::new("m5.large");
    let before = sim.interfaces();
    let mut executor = NoClock(sim, false);
    let checks = conformance(&mut executor);
    let panics = "the executor does not panic";
    assert_eq!(failures(&checks), BTreeSet::from([panics]), "{}", report(&checks));
    assert_eq!(executor.0.interfaces(), before);

    // One that cannot even say for which node it is.
    executor.0.now = Timestamp::EPOCH;
    let checks = conformance(&mut executor);
    assert_eq!(checks.len(), 1, "{}", report(&checks));
    assert!(checks[0].to_string().contains("the clock stands still"), "{}", checks[0]);
}

#[test]
fn an_executor_that_is_slow_to_show_and_throttled_conforms() {
    let mut late = Sim::new("m5.large");
    late.cloud.remember(Duration::from_secs(60));
    late.wrong = |sim, action, now| {
        let (node, stale) = (sim.node.clone(), Fault::Stale(Duration::from_secs(20)));
        sim.cloud.execute_with(&node, action, Some(stale), now)
    };
    let mut throttled = Sim::new("m5.large");
    throttled.wrong = |sim, action, now| match sim.calls % 3 {
        0 => failed(FailureKind::Throttled),
        _ => sim.right(action, now),
    };
    for mut sim in [late, throttled] {
        let before = sim.interfaces();
        let checks = conformance(&mut sim);
        assert_eq!(failures(&checks), BTreeSet::new(), "{}", report(&checks));
        assert_eq!(sim.interfaces(), before);
    }
}

#[test]
fn a_subnet_without_room_is_named_as_the_reason() {
    let mut sim = Sim::new("m5.large");
    sim.fill_subnet(4);
    let checks = conformance(&mut sim);
    let whole = "a list of more ENIs than one page holds is read to its end";
    let check = checks.iter().find(|check| check.name == whole).unwrap();
    let why = Verdict::NotApplicable("the subnet has too few free addresses");
    assert_eq!(check.verdict, why, "{}", report(&checks));
    assert_eq!(failures(&checks), BTreeSet::new(), "{}", report(&checks));
}

#[test]
fn only_what_is_wrong_is_a_failure() {
    assert!(Verdict::Fails("expected 1, saw 2".into()).is_failure());
    assert!(!Verdict::Holds.is_failure());
    assert!(!Verdict::NotApplicable("no IPv6").is_failure());
}

const NOTHING_LEFT: &str = "nothing is left behind";

fn failures(checks: &[Check]) -> BTreeSet<&'static str> {
    checks.iter().filter(|check| check.verdict.is_failure()).map(|check| check.name).collect()
}

fn report(checks: &[Check]) -> String {
    checks.iter().map(|check| format!("{check}\n")).collect()
}
