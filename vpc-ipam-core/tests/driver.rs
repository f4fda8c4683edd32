//! The scenario driver: what was found once stays found, what is drawn at random holds, the same twice is the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::fs;
use std::path::Path;

use vpc_ipam_core::sim::Fault;
use vpc_ipam_core::testkit::{Scenario, Setup, Step, Store, exhaust};

/// Inputs of the fuzzer that reach far, and every one that ever broke a rule.
#[test]
fn corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/scenario");
    let mut broken = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let scenario = Scenario::decode(&fs::read(&file).unwrap());
        count += 1;
        if let Err(rule) = scenario.run() {
            broken.push(format!("{}: {rule}\n{}", file.display(), scenario.transcript()));
        }
    }
    assert!(count > 20, "{count} inputs in {}", folder.display());
    assert!(broken.is_empty(), "{} of {count}:\n{}", broken.len(), broken.join("\n"));
}

/// The pods of another program, seen, imported, deleted and gone, in every order with pods of ours.
#[test]
fn every_order_of_events_around_an_import_holds() {
    let setup = Setup::decode(&[]);
    let events = [
        Step::Untracked { which: 0, in_use: true },
        Step::Untracked { which: 0, in_use: false },
        Step::Import { pod: 0, which: 0 },
        Step::Import { pod: 1, which: 12 },
        Step::Add { pod: 1, every_card: false },
        Step::Del { pod: 0 },
        Step::Store(Store::Slow),
        Step::Store(Store::Lying),
        Step::Written { durable: true },
        Step::Written { durable: false },
        Step::UntilDue,
        Step::Crash,
    ];
    let reached =
        exhaust(&setup, &[Step::Cooperate], &events, 5, 1).unwrap_or_else(|b| panic!("{b}"));
    println!("{reached:?}");
    assert!(reached.states > 1000, "{reached:?}");
}

/// Two ENIs of three addresses each, three pods, and everything that can happen to them, in every order.
#[test]
fn every_order_of_events_on_a_small_node_holds() {
    let setup = Setup::decode(&[]);
    assert_eq!((setup.limits.enis(vpc_ipam_core::Card(0)), setup.limits.ipv4_slots()), (2, 3));
    let add = |pod| Step::Add { pod, every_card: false };
    let events = [
        add(0),
        add(1),
        add(2),
        Step::Del { pod: 0 },
        Step::Del { pod: 1 },
        Step::Answer { which: 0, fault: None },
        Step::Answer { which: 0, fault: Some(Fault::AnswerLost) },
        Step::UntilDue,
        Step::Crash,
    ];
    // From the start, and from a node that has one ENI's worth of pods, so that the next pod needs another.
    let busy = [Step::Cooperate, add(0), Step::Cooperate, add(1), Step::Cooperate];
    for (first, depth) in [(&[][..], 6), (&busy[..], 6)] {
        let reached = exhaust(&setup, first, &events, depth, 2).unwrap_or_else(|b| panic!("{b}"));
        println!("{reached:?}");
        assert!(reached.states > 1000, "{reached:?}");
    }
}
