//! What was recorded leads to the same state and the same actions again, and a difference is found where it begins.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use vpc_ipam_core::journal::{
    Hashes, Input, Replay, ReplayError, Reply, Snapshot, Start, Step, replay,
};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, Faults, RunInstance, World};
use vpc_ipam_core::{
    AddressRequest, Budget, Config, Effect, EniConfig, Ipam, Lease, Limits, Observation, Outcome,
    Pod, Record, Scope, Source, Timestamp, testkit,
};

/// A day in the life of a node whose cloud fails now and then, and what it was told.
fn recorded(seed: u64) -> (Start, Vec<Step>, Ipam) {
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(seed);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![]);
    let zone = "eu-west-1a".parse().unwrap();
    let subnet = CreateSubnet::new(vpc, zone, "10.0.0.0/19".parse().unwrap());
    let subnet = cloud.create_subnet(subnet).unwrap();
    let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now).unwrap();
    let node = cloud.instance(&instance).unwrap().node.clone();
    let (config, _) = Config::from_vars([("WARM_IP_TARGET", "3")]);
    let start =
        Start::new(node, limits, config, now).with_budget(Budget::default()).with_seed(seed);

    let Start { limits, config, .. } = start.clone();
    let faults = Faults {
        throttled: 200,
        answer_lost: 100,
        stale: 100,
        stale_max: Duration::from_secs(60),
        delay_max: Duration::from_secs(5),
        ..Faults::default()
    };
    let mut world =
        World::new(cloud, instance, limits, config, seed, now).unwrap().with_faults(faults);
    world.ipam = start.begin().unwrap();
    let mut steps = Vec::new();
    for round in 0..40u32 {
        world.add_pod(&format!("pod-{round}"));
        if round % 3 == 2 {
            let _ = world.remove_pod(&format!("pod-{}", round - 2));
        }
        if round == 20 {
            let (config, _) = Config::from_vars([("WARM_IP_TARGET", "1")]);
            world.ipam.handle_config(config, world.now).unwrap();
            world.ipam.handle_schedulable(false, world.now);
        }
        if round == 25 {
            world.ipam.handle_schedulable(true, world.now);
        }
        world.run_for(Duration::from_secs(20));
        steps.extend(core::iter::from_fn(|| world.ipam.poll_step()));
    }
    (start, steps, world.ipam)
}

#[test]
fn a_recorded_journal_replays_to_the_identical_state_and_actions() {
    for seed in 0..8 {
        let (start, steps, ipam) = recorded(seed);
        assert!(steps.len() > 100, "{} steps", steps.len());
        assert!(steps.iter().any(|step| !step.issued.is_empty()));
        let replayed = replay(&start, steps).unwrap();
        assert_eq!(replayed.state(), ipam.state(), "seed {seed}");
        assert_eq!(replayed.pool(), ipam.pool(), "seed {seed}");
    }
}

#[test]
fn a_journal_survives_json() {
    let (start, steps, ipam) = recorded(1);
    let start = serde_json::from_str(&serde_json::to_string(&start).unwrap()).unwrap();
    let lines = steps.iter().map(|step| serde_json::to_string(step).unwrap());
    let read = lines.map(|line| serde_json::from_str(&line).unwrap());
    assert_eq!(replay(&start, read).unwrap().state(), ipam.state());
}

#[test]
fn a_difference_is_found_at_the_step_where_it_begins() {
    let (start, mut steps, _) = recorded(1);
    // Another program changes one input that had an effect: the state differs from there on.
    let index = steps.windows(2).rposition(|pair| {
        matches!(pair[1].input, Input::Assign(_)) && pair[0].state != pair[1].state
    });
    let index = index.unwrap() + 1;
    let Input::Assign(request) = &mut steps[index].input else { unreachable!() };
    request.key = World::key("another-pod");
    let number = steps[index].number;
    let recorded = steps[index].state;

    let error = replay(&start, steps).map(|ipam| ipam.state()).unwrap_err();
    let ReplayError::Diverged(divergence) = &error else { panic!("{error}") };
    assert_eq!((divergence.recorded.number, divergence.recorded.state), (number, recorded));
    assert_ne!(Some(divergence.state), recorded);
    assert!(error.to_string().starts_with(&format!("step {number} at ")), "{error}");
    assert!(error.to_string().contains("another-pod"), "{error}");
}

#[test]
fn the_first_action_that_differs_is_named() {
    let (start, mut steps, _) = recorded(1);
    let index = steps.iter().position(|step| !step.issued.is_empty()).unwrap();
    let was = steps[index].issued.remove(0);
    let error = replay(&start, steps).map(|ipam| ipam.state()).unwrap_err();
    let ReplayError::Diverged(divergence) = error else { panic!("{error}") };
    let (recorded, replayed) = divergence.action.clone().unwrap();
    assert_ne!(recorded.as_ref(), Some(&was));
    assert_eq!(replayed, Some(was));
    assert_eq!(divergence.recorded.number, index as u64 + 1);
}

/// A flight recorder keeps the end of a long life: it begins anew again and again, from the state as it is then.
#[test]
fn a_journal_that_begins_in_the_middle_replays_from_its_snapshot() {
    for seed in 0..8 {
        let (start, steps, _) = recorded(seed);
        for begin in [0, 1, steps.len() / 3, steps.len() - 10] {
            let mut live = Replay::from_start(&start).unwrap();
            for step in &steps[..begin] {
                live.step(step.clone()).unwrap();
            }
            let mut ipam = live.into_ipam();
            let snapshot = ipam.begin_journal(Hashes::EveryStep);
            let text = serde_json::to_string(&snapshot).unwrap();
            let read: Snapshot = serde_json::from_str(&text).unwrap();
            assert_eq!(read, snapshot, "seed {seed} after {begin} steps");
            assert_eq!(read.state(), ipam.state());

            let mut replay = Replay::from_snapshot(&read);
            for (step, number) in steps[begin..].iter().cloned().zip(1..) {
                let state = step.state;
                let mut step = step;
                step.number = number;
                let replayed = replay.step(step).unwrap();
                assert_eq!(replayed.step.state, state);
            }
        }
    }
}

#[test]
fn hashes_are_as_far_apart_as_asked_for_and_actions_are_compared_at_every_step() {
    let (start, steps, ipam) = recorded(2);
    let spacing = Duration::from_secs(60);
    let mut sparse = start.begin().unwrap();
    let snapshot = sparse.begin_journal(Hashes::Every(spacing));
    let mut hashed = Vec::new();
    let mut replay = Replay::from_snapshot(&snapshot);
    for step in &steps {
        replay.step(without_hash(step)).unwrap();
    }
    assert_eq!(replay.ipam().state(), ipam.state());

    for second in 0..200 {
        let now = start.at + Duration::from_secs(second);
        sparse.handle_timeout(now);
        let step = sparse.poll_step().unwrap();
        hashed.extend(step.state.map(|_| second));
    }
    assert_eq!(hashed, [0, 60, 120, 180]);

    // Without a hash, too, an action that differs is named.
    let index = steps.iter().position(|step| !step.issued.is_empty()).unwrap();
    let mut replay = Replay::from_start(&start).unwrap();
    for step in &steps[..index] {
        replay.step(without_hash(step)).unwrap();
    }
    let mut changed = without_hash(&steps[index]);
    changed.issued.clear();
    let error = replay.step(changed).unwrap_err();
    assert!(error.to_string().contains("leads to other actions; the first"), "{error}");
}

fn without_hash(step: &Step) -> Step {
    let mut step = step.clone();
    step.state = None;
    step
}

#[test]
fn a_replay_says_what_pods_were_answered() {
    let (start, steps, _) = recorded(1);
    let mut replay = Replay::from_start(&start).unwrap();
    let mut said: BTreeSet<&str> = BTreeSet::new();
    for step in steps {
        let input = step.input.clone();
        for reply in replay.step(step).unwrap().replies {
            let text = reply.to_string();
            said.insert(match (&reply, &input) {
                (Reply::Granted(lease), Input::Assign(request)) => {
                    assert_eq!(lease.key, request.key);
                    assert!(text.starts_with(&format!("grants {} 10.0.", lease.key)), "{text}");
                    "at once"
                }
                (Reply::Granted(_), _) => "later",
                (Reply::Committed(_), Input::Commit(_)) => "committed",
                (Reply::Released(_), Input::Release(_)) => "released",
                (Reply::Wait { .. }, Input::Assign(_)) => "wait",
                (Reply::Refused { error, .. }, Input::Assign(_)) => {
                    assert!(text.ends_with(&error.to_string()), "{text}");
                    "refused"
                }
                (other, input) => panic!("{other:?} to {input}"),
            });
        }
    }
    assert_eq!(
        said.into_iter().collect::<Vec<_>>(),
        ["at once", "committed", "later", "refused", "released", "wait"]
    );
}

/// A hash reads the whole state, and a copy that is asked something must not record.
#[test]
fn a_question_is_no_part_of_the_journal() {
    let (_, _, mut ipam) = recorded(1);
    let _ = ipam.begin_journal(Hashes::EveryStep);
    let _ = ipam.readiness(ipam.poll_timeout().unwrap().0);
    let _ = ipam.explain(Timestamp::from_secs(1_700_001_000));
    assert_eq!(ipam.poll_step(), None);
    ipam.end_journal();
    ipam.handle_schedulable(false, Timestamp::from_secs(1_700_001_000));
    assert_eq!(ipam.poll_step(), None);
}

#[test]
fn missing_steps_are_reported() {
    let (start, mut steps, _) = recorded(1);
    steps.remove(4);
    assert_eq!(replay(&start, steps).unwrap_err(), ReplayError::Gap { last: 4, found: 6 });
}

/// The number that other machines get, too: any change of it is a change of the state or of how it is written.
#[test]
fn a_fresh_node_has_the_same_hash_everywhere() {
    let (start, ..) = recorded(1);
    let other = start.clone().with_seed(2);
    let hash = |start: &Start| start.begin().unwrap().state();
    assert_eq!(hash(&start), hash(&start));
    assert_ne!(hash(&start), hash(&other));
}

/// Each kind of input there is, by the method that takes it in; what becomes of a lease is in the tests above and in
/// `bugs.rs`.
/// A store that appends keeps what one that deletes does not: leases that ended.
#[test]
fn records_of_a_store_that_appends_restore_no_lease_that_ended() {
    let (start, ..) = recorded(1);
    let at = |secs| start.at + Duration::from_secs(secs);
    let lease = |name: &str, address: &str, since| {
        testkit::lease(name, [testkit::leased(0, 0, [address])]).with_since(at(since))
    };
    let released = |lease: &Lease, since| {
        let addresses: Vec<IpAddr> = lease.addresses().collect();
        Record::Released { key: lease.key.clone(), addresses, at: at(since) }
    };
    let a = lease("a", "10.0.0.7", 1);
    let b = lease("b", "10.0.0.8", 2);
    let undone = Record::Released { key: a.key.clone(), addresses: Vec::new(), at: at(2) };
    // What was written, and whose leases are there after it.
    let cases: [(&str, Vec<Record>, &[&str]); 6] = [
        ("a released", vec![Record::Leased(a.clone()), released(&a, 3)], &[]),
        ("a undone", vec![Record::Leased(a.clone()), undone], &[]),
        (
            "its address given to b later",
            vec![
                Record::Leased(a.clone()),
                released(&a, 3),
                Record::Leased(lease("b", "10.0.0.7", 40)),
            ],
            &["b"],
        ),
        (
            "a again, on another address",
            vec![
                Record::Leased(a.clone()),
                released(&a, 3),
                Record::Leased(lease("a", "10.0.0.9", 4)),
            ],
            &["a"],
        ),
        (
            "a again, and the release of before kept by its address",
            vec![Record::Leased(lease("a", "10.0.0.9", 4)), released(&a, 3)],
            &["a"],
        ),
        ("b stays", vec![Record::Leased(a.clone()), Record::Leased(b), released(&a, 3)], &["b"]),
    ];
    for (name, records, expected) in cases {
        let mut ipam = start.begin().unwrap();
        ipam.restore(records, at(50));
        let left: Vec<&str> = ipam.pool().leases().map(|lease| lease.pod.name.as_str()).collect();
        assert_eq!(left, expected, "{name}");
    }
}

#[test]
fn every_kind_of_input_is_recorded_and_replayed() {
    let (start, ..) = recorded(1);
    let now = start.at;
    let lease = {
        let (_, steps, _) = recorded(1);
        let commit = steps.into_iter().find_map(|step| match step.input {
            Input::Commit(lease) => Some(lease),
            _ => None,
        });
        commit.unwrap()
    };
    let address = lease.addresses().next().unwrap();
    let mut ipam = start.begin().unwrap();
    ipam.restore([Record::Leased(lease)], now);
    let (enis, incomplete) = (Vec::new(), Vec::new());
    let (source, scope) = (Source::Imds, Scope::Attached);
    ipam.observe(
        &Observation::new(now, source, scope).with_enis(enis).with_incomplete(incomplete),
        now,
    );
    ipam.handle_config(Config::from_vars([("WARM_IP_TARGET", "7")]).0, now).unwrap();
    let subnet = start.node.subnet;
    ipam.handle_eni_config(Some(EniConfig::new(subnet)), now);
    ipam.handle_schedulable(false, now);
    ipam.handle_untracked(address, true, now);
    let request = AddressRequest::new(World::key("pod"), Pod::new("default", "pod"));
    let _ = ipam.assign(&request, now);
    let issued = ipam.poll_action().unwrap();
    ipam.handle_outcome(issued.id, Outcome::Done(Effect::Done), now);
    let _ = ipam.release(&World::key("pod"), now);
    ipam.handle_timeout(now);
    ipam.handle_terminating(now);

    let steps: Vec<Step> = core::iter::from_fn(|| ipam.poll_step()).collect();
    let kinds: BTreeSet<&str> = steps.iter().map(|step| kind(&step.input)).collect();
    let expected = [
        "assign",
        "config",
        "eni config",
        "observe",
        "outcome",
        "release",
        "restore",
        "schedulable",
        "terminating",
        "timeout",
        "untracked owner",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(replay(&start, steps).unwrap().state(), ipam.state());
}

/// Returns a name for each kind of input.
fn kind(input: &Input) -> &'static str {
    match input {
        Input::Restore(_) => "restore",
        Input::Observe(_) => "observe",
        Input::Config(_) => "config",
        Input::EniConfig(_) => "eni config",
        Input::Schedulable(_) => "schedulable",
        Input::Terminating => "terminating",
        Input::Untracked { .. } => "untracked owner",
        Input::Assign(_) => "assign",
        Input::Commit(_) => "commit",
        Input::Abandon(_) => "abandon",
        Input::Release(_) => "release",
        Input::Outcome { .. } => "outcome",
        Input::Timeout => "timeout",
        other => panic!("{other:?} has no name here"),
    }
}
