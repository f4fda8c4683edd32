//! What the plugin and the daemon do for a runtime that says which attachments it knows.

use serde_json::{Value, json};
use vpc_ipam::lab::LabNode;
use vpc_ipam_core::Lease;
use vpc_ipam_protocol::{Answer, Request, ask};

use crate::call::Call;
use crate::runtime::{Pod, failed, kept_of_pods, run, settled, spec, start, succeeded};

fn leases(node: &LabNode, network: Option<&str>) -> Vec<Lease> {
    let network = network.map(str::to_owned);
    match ask(&node.address.socket, &Request::Leases { network }) {
        Ok(Answer::Leases(leases)) => leases,
        other => panic!("{other:?}"),
    }
}

/// Returns which containers have leases.
fn containers(node: &LabNode, network: Option<&str>) -> Vec<String> {
    leases(node, network).iter().map(|lease| lease.key.container().to_owned()).collect()
}

#[test]
fn leases_are_told_of_one_network_or_of_all() {
    let node = start(&spec("m5.large"));
    for (name, network) in [("b", "aws-cni"), ("c", "other"), ("a", "aws-cni")] {
        let pod = Pod::new(&node, name);
        let add = Call::of_pod(&node.address, "ADD", "1.0.0", &pod);
        succeeded(&add.key("name", network).run(&node.address));
    }

    assert_eq!(containers(&node, None), ["a", "b", "c"]);
    assert_eq!(containers(&node, Some("aws-cni")), ["a", "b"]);
    assert_eq!(containers(&node, Some("other")), ["c"]);
    assert_eq!(containers(&node, Some("none")), [""; 0]);
    node.stop().unwrap();
}

/// A GC by a runtime that knows these containers.
fn gc(node: &LabNode, containers: &[&str]) -> Call {
    let valid: Vec<Value> =
        containers.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    Call::new(&node.address, "GC", "1.1.0").key("cni.dev/valid-attachments", valid)
}

fn add(node: &LabNode, name: &str, network: &str) -> Pod {
    let pod = Pod::new(node, name);
    let add = Call::of_pod(&node.address, "ADD", "1.1.0", &pod);
    succeeded(&add.key("name", network).run(&node.address));
    pod
}

#[test]
fn gc_deletes_the_pods_of_its_network_that_are_not_listed() {
    let node = start(&spec("m5.large"));
    let kept = [add(&node, "a", "aws-cni"), add(&node, "b", "other")];
    settled(&node);
    let before = kept_of_pods(&node);
    let gone = [add(&node, "c", "aws-cni"), add(&node, "d", "aws-cni")];

    for _ in 0..2 {
        succeeded(&gc(&node, &["a", "never"]).run(&node.address));

        assert_eq!(containers(&node, None), ["a", "b"]);
        assert_eq!(kept_of_pods(&node), before);
        for pod in &gone {
            let links = run(&pod.netns, "ip -o link");
            assert!(!links.contains("eth0"), "{}: {links}", pod.name);
        }
        for pod in &kept {
            assert!(run(&pod.netns, "ip -o link").contains("eth0"), "{}", pod.name);
        }
    }
    // The name of the interface is part of what is listed.
    let other = json!([{"containerID": "a", "ifname": "eth1"}]);
    succeeded(&gc(&node, &[]).key("cni.dev/valid-attachments", other).run(&node.address));
    assert_eq!(containers(&node, None), ["b"]);
    node.stop().unwrap();
}

#[test]
fn gc_without_a_daemon_or_a_list_says_so_and_deletes_nothing() {
    let mut node = start(&spec("m5.large"));
    let pod = add(&node, "a", "aws-cni");
    settled(&node);
    let before = kept_of_pods(&node);

    let error = failed(&Call::new(&node.address, "GC", "1.1.0").run(&node.address));
    assert_eq!(error["code"], 7, "{error}");
    assert_eq!(containers(&node, None), ["a"]);

    node.stop_daemon().unwrap();
    let error = failed(&gc(&node, &[]).run(&node.address));

    assert_eq!(error["code"], 11, "{error}");
    let socket = node.address.socket.display().to_string();
    assert!(error["details"].as_str().unwrap().contains(&socket), "{error}");
    assert_eq!(kept_of_pods(&node), before);
    assert!(run(&pod.netns, "ip -o link").contains("eth0"));
    node.stop().unwrap();
}
