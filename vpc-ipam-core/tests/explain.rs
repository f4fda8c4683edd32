//! What an explanation holds as data: the same as its text, without loss, and nothing that depends on a look inside.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use node::{Node, Setup, Trouble, names};
use serde_json::{Value, json};
use vpc_ipam_core::{AssignError, Explanation, FailureKind};

fn explained(node: &Node) -> (Explanation, Value) {
    let explanation = node.ipam.explain(node.now);
    let json = serde_json::to_value(&explanation).unwrap();
    let back: Explanation = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(back, explanation);
    (explanation, json)
}

#[test]
fn an_explanation_is_json_and_comes_back_from_it() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    node.refuse("AssignPrivateIpAddresses", "RequestLimitExceeded", 3);
    node.add(names("pod", 0..3));
    let (_, json) = explained(&node);
    assert_eq!(json["instance_type"], "m5.large");
    assert_eq!(
        json["enis"][0]["ipv4"],
        json!({"total": 2, "assigned": 2, "cooling": 0, "quarantined": 0, "withheld": 0})
    );
    assert_eq!(json["wanted"][0]["demand"], json!({"Short": 3}));
    assert_eq!(json["waiting"][0]["key"]["container"], "pod-2");
    let failed = &json["failed"][0];
    assert_eq!(failed["culprit"], json!({"Operation": "AssignPrivateIpAddresses"}));
    assert_eq!((&failed["last"]["kind"], &failed["in_a_row"]), (&json!("Throttled"), &json!(1)));
    assert!(json["blocked"].as_array().unwrap().iter().any(|held| {
        held["wanted"] == json!({"Addresses": {"card": 0}})
            && held["waiting_on"]["Backoff"]["kind"] == "Throttled"
    }));
}

#[test]
fn an_explanation_changes_nothing() {
    let mut node = Node::settled("m5.large", &[]);
    node.add(names("pod", 0..12));
    let before = node.ipam.clone();
    let _ = node.ipam.explain(node.now);
    let _ = node.ipam.readiness(node.now);
    assert_eq!(node.ipam, before);
}

#[test]
fn what_is_under_way_is_told_apart_from_what_comes_next_and_what_waits() {
    let mut node = Setup::new("m5.large", &[("WARM_IP_TARGET", "1")]).start();
    let (fresh, _) = explained(&node);
    assert!(fresh.doing.is_empty());
    assert_eq!(
        fresh.next.len(),
        3,
        "EC2 is asked for ENIs, for leftovers and for subnets: {fresh}"
    );

    node.ipam.handle_timeout(node.now);
    let issued = node.issued();
    let (asking, _) = explained(&node);
    assert_eq!(asking.doing, issued);
    assert!(asking.next.is_empty());
    assert!(asking.to_string().contains("#1 ask EC2 for the ENIs of the instance"), "{asking}");

    for one in issued {
        node.execute(one);
    }
    node.run();
    let (rest, _) = explained(&node);
    assert!(rest.doing.is_empty() && rest.next.is_empty() && rest.waiting.is_empty(), "{rest}");
}

/// Lets time pass until something that fails is left alone for longer than an ADD may wait.
fn until_left_alone(node: &mut Node) {
    for _ in 0..600 {
        let longest = node.now + core::time::Duration::from_secs(40);
        if node.ipam.recent_failures(node.now).any(|f| f.until > longest) {
            return;
        }
        node.run_for(1);
    }
    panic!("nothing is left alone for long: {}", node.ipam.explain(node.now));
}

/// Each reason for which a pod may be refused, the words that tell it from others, and whether time alone can help.
#[test]
fn every_refusal_names_its_cause_and_what_to_expect() {
    let full = || {
        let mut node = Node::settled("t3.nano", &[]);
        node.add(["one", "two"]);
        node
    };
    let failing = |call: &str, code: &str| {
        // What one ENI is refused another one may get, so there is one alone.
        let most = if call == "CreateNetworkInterface" { "3" } else { "1" };
        let vars = [("WARM_IP_TARGET", "1"), ("MAX_ENI", most)];
        let mut node = Node::settled("m5.large", &vars);
        node.refuse(call, code, u32::MAX);
        node.add(["one"]);
        until_left_alone(&mut node);
        node
    };
    let with = |vars: &[(&str, &str)]| Node::settled("m5.large", vars);
    let mut terminating = with(&[("WARM_IP_TARGET", "1")]);
    terminating.ipam.handle_terminating(terminating.now);
    terminating.add(["one"]);
    let mut cordoned = with(&[("WARM_IP_TARGET", "1")]);
    cordoned.ipam.handle_schedulable(false, cordoned.now);
    cordoned.add(["one"]);
    let mut host = Setup::new("t3.small", &[("MAX_ENI", "2")]).start();
    host.trouble("SetUpEni", Trouble::Refuse(FailureKind::Kernel, "EPERM".into()), u32::MAX);
    host.add(names("pod", 0..3));
    until_left_alone(&mut host);
    let mut unseen = Setup::new("m5.large", &[]).start();
    unseen.refuse("DescribeNetworkInterfaces", "UnauthorizedOperation", u32::MAX);
    unseen.run_for(1);

    let cases = [
        (full(), "all 2 ENIs that the instance type takes are there", false),
        (
            {
                let mut node = Node::settled("t3.nano", &[("MAX_ENI", "1")]);
                node.add(["one"]);
                node
            },
            "all 1 ENIs that MAX_ENI allows are there",
            false,
        ),
        (
            {
                let mut node = Node::settled("m5.large", &[("ENABLE_POD_ENI", "true")]);
                node.add(names("pod", 0..18));
                node
            },
            "the last of 3 ENIs is kept for a trunk",
            false,
        ),
        (
            with(&[("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true")]),
            "the configuration forbids changes in EC2",
            false,
        ),
        (terminating, "the node is going away", false),
        (cordoned, "the node is cordoned", false),
        (
            failing("AssignPrivateIpAddresses", "UnauthorizedOperation"),
            "AssignPrivateIpAddresses failed (not allowed by IAM), left alone until",
            true,
        ),
        (
            failing("AssignPrivateIpAddresses", "InsufficientFreeAddressesInSubnet"),
            "has no free address, left alone until",
            true,
        ),
        (
            failing("AssignPrivateIpAddresses", "RequestLimitExceeded"),
            "AssignPrivateIpAddresses failed (throttled by EC2), left alone until",
            true,
        ),
        (host, "the node could not configure", true),
        (unseen, "DescribeNetworkInterfaces failed (not allowed by IAM), left alone until", true),
    ];
    for (mut node, words, ends_by_itself) in cases {
        let Err(error) = node.ask("next") else { panic!("{words}: not refused") };
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.retry_at().is_some(), ends_by_itself, "{words}: {error}");
        let explained = node.ipam.explain(node.now).to_string();
        assert!(explained.contains(words), "{words}:\n{explained}");
        let AssignError::NoAddress { stock, .. } = error else { panic!("{words}: {error}") };
        assert!(stock.is_none_or(|stock| stock.free() <= 3), "{words}: {stock:?}");
    }
}
