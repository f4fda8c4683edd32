//! Pods whose names give their links on the host one name: none gets the link of another.

use std::fs;

use serde_json::Value;
use vpc_ipam::lab::{LabNode, PluginCall};

use crate::daemon::{Daemon, assigned, node};
use crate::runtime::{
    Pod, call, failed, kept, settled, spawn, spec, start, succeeded, wait_for_no_pods,
};

/// Of one link: vpc-ipam-linux's `examples/colliding_names.rs` found them.
const COLLIDING: [&str; 2] = ["web-5952665", "web-14117156"];

#[test]
fn pod_is_refused_as_long_as_another_has_its_link() {
    let node = node();
    let daemon = Daemon::start(&node);
    let [one, other] = COLLIDING.map(|name| Pod::new(&node, name));
    one.add(&node.address);

    let refused = |after: &str| {
        let before = settled(&node);
        let error = failed(&call(&node.address, "ADD", &other, "1.0.0", None));
        assert_refused(&error, &other, &one, after);
        assert_eq!(assigned(&node), 1, "{after}: it holds no address");
        // What a runtime does with a pod that could not be added.
        other.del(&node.address);
        assert_eq!(kept(&node), before, "{after}");
        check(&node, &one);
    };
    refused("ADD");
    daemon.crash();
    let daemon = Daemon::start(&node);
    refused("a restart");

    one.del(&node.address);
    other.add(&node.address);
    let error = failed(&call(&node.address, "ADD", &one, "1.0.0", None));
    assert_refused(&error, &one, &other, "DEL");
    one.die();
    check(&node, &other);
    other.del(&node.address);
    other.die();
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

/// A StatefulSet's, whose old sandbox lives on.
#[test]
fn pod_that_is_made_anew_under_its_name_takes_its_link_and_no_other_pod_does() {
    let node = node();
    let daemon = Daemon::start(&node);
    let [name, colliding] = COLLIDING;
    let (old, new) = (Pod::again(&node, "old", name), Pod::again(&node, "new", name));
    let other = Pod::new(&node, colliding);
    old.add(&node.address);

    new.add(&node.address);

    check(&node, &new);
    for gone in [None, Some(&old)] {
        if let Some(gone) = gone {
            gone.del(&node.address);
        }
        let error = failed(&call(&node.address, "ADD", &other, "1.0.0", None));
        assert_refused(&error, &other, &new, "made anew");
        check(&node, &new);
    }
    new.del(&node.address);
    other.add(&node.address);
    check(&node, &other);
    other.del(&node.address);
    for pod in [old, new, other] {
        pod.die();
    }
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

/// Nothing but its link and the kernel's routes tell of the first pod then.
#[test]
fn link_of_a_pod_that_the_daemon_does_not_know_is_not_taken() {
    let node = node();
    let daemon = Daemon::start(&node);
    let [one, other] = COLLIDING.map(|name| Pod::new(&node, name));
    one.add(&node.address);
    daemon.crash();
    fs::remove_file(node.address.socket.with_file_name("state.redb")).unwrap();
    let daemon = Daemon::start(&node);
    let before = settled(&node);

    let error = failed(&call(&node.address, "ADD", &other, "1.0.0", None));

    assert_refused(&error, &other, &one, "the loss of the state file");
    assert_eq!((assigned(&node), kept(&node)), (0, before));
    other.del(&node.address);
    one.del(&node.address);
    other.add(&node.address);
    check(&node, &other);
    other.del(&node.address);
    one.die();
    other.die();
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn of_two_that_come_at_once_one_is_refused() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pods = COLLIDING.map(|name| Pod::new(&node, name));
    for round in 0..10 {
        let calls = [0, 1].map(|place| spawn(&node.address, "ADD", &pods[place]));
        let [one, other] = calls.map(|call| call.wait_with_output().unwrap());
        let (added, refused) = match (one.status.success(), other.status.success()) {
            (true, false) => (&pods[0], failed(&other)),
            (false, true) => (&pods[1], failed(&one)),
            both => panic!("round {round}: {both:?}: {one:?} {other:?}"),
        };
        assert_eq!(refused["code"], 102, "{refused}");
        check(&node, added);
        for pod in &pods {
            pod.del(&node.address);
        }
        assert_eq!(assigned(&node), 0);
    }
    for pod in pods {
        pod.die();
    }
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn further_interface_of_a_pod_is_not_taken_nor_takes() {
    let mut spec = spec("p4d.24xlarge");
    spec.vars.push(("ENABLE_MULTI_NIC".to_owned(), "true".to_owned()));
    let node = start(&spec);
    let pods = ["web", "web.1"].map(|name| Pod::new(&node, name));
    let [on_every_card, with_dot] = &pods;
    let add = |pod: &Pod, everywhere: bool| {
        let call = PluginCall::add(&pod.called, &pod.path);
        let call = if everywhere { call.on_every_card() } else { call };
        node.address.call_plugin(&call).map(drop).map_err(|error| error.to_string())
    };
    let interfaces = |pod: &Pod| crate::runtime::run(&pod.netns, "ip -br link").lines().count() - 1;

    add(on_every_card, true).unwrap();
    assert!(interfaces(on_every_card) > 1);
    let error = add(with_dot, false).unwrap_err();
    assert!(error.contains("default/web:") || error.contains("default/web\""), "{error}");
    assert!(error.contains("default/web.1"), "{error}");
    check(&node, on_every_card);
    with_dot.del(&node.address);
    check(&node, on_every_card);

    on_every_card.del(&node.address);
    add(with_dot, false).unwrap();
    let error = add(on_every_card, true).unwrap_err();
    assert!(error.contains("default/web.1"), "{error}");
    assert_eq!(interfaces(on_every_card), 0, "not the first one either");
    check(&node, with_dot);
    // On one card it is in no pod's way.
    add(on_every_card, false).unwrap();
    check(&node, on_every_card);
    for pod in pods {
        pod.del(&node.address);
        pod.die();
    }
    wait_for_no_pods(&node);
    node.stop().unwrap();
}

fn assert_refused(error: &Value, pod: &Pod, by: &Pod, after: &str) {
    assert_eq!(error["code"], 102, "{after}: {error}");
    let words = format!("{} {}", error["msg"], error["details"]);
    for pod in [pod, by] {
        assert!(words.contains(&format!("default/{}", pod.called)), "{after}: {error}");
    }
}

/// Panics unless a pod's network is as ADD made it.
fn check(node: &LabNode, pod: &Pod) {
    succeeded(&call(&node.address, "CHECK", pod, "1.0.0", None));
}
