//! Pods on a node with a network policy agent, which is played in Python.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vpc_ipam::lab::{LabNode, StartError, folder};
use vpc_ipam_core::error_chain;

use crate::daemon::assigned;
use crate::python::Python;
use crate::runtime::{
    Pod, address, call, failed, netns, spec, start, succeeded, wait_for_no_pods, wait_until,
};

/// A node of this mode, and where its agent is to listen.
fn node(mode: Option<&str>) -> (LabNode, PathBuf) {
    let mut spec = spec("m5.large");
    let agent = folder(&spec.name).join("npa.sock");
    let mut set = |name: &str, value: &str| spec.vars.push((name.to_owned(), value.to_owned()));
    set("NETWORK_POLICY_AGENT_SOCKET", agent.to_str().unwrap());
    if let Some(mode) = mode {
        set("NETWORK_POLICY_ENFORCING_MODE", mode);
    }
    (start(&spec), agent)
}

/// Starts an agent, and waits until it listens.
fn agent(node: &LabNode, socket: &Path, conduct: &str) -> Python {
    let _ = fs::remove_file(socket);
    let mut agent = Python::start(&netns(node), "agent.py", &[socket.to_str().unwrap(), conduct]);
    assert!(agent.hear()["listening"].is_string());
    agent
}

fn enforce(name: &str, mode: &str) -> Value {
    json!({
        "call": "EnforceNpToPod", "name": name, "namespace": "default", "mode": mode, "interfaces": 1,
    })
}

fn delete(name: &str) -> Value {
    json!({"call": "DeletePodNp", "name": name, "namespace": "default"})
}

#[test]
fn agent_hears_of_a_pod_before_it_runs_and_after_it_is_gone() {
    for mode in ["none", "strict", "STANDARD"] {
        let (node, socket) = node(Some(mode));
        let mut agent = agent(&node, &socket, "accept");
        let pod = Pod::new(&node, "a");
        pod.add(&node.address);
        assert_eq!(agent.hear(), enforce("a", &mode.to_lowercase()), "{mode}");
        // One that runs is not asked for again.
        pod.add(&node.address);
        assert_eq!(agent.heard(), [] as [Value; 0], "{mode}");
        pod.del(&node.address);
        assert_eq!(agent.hear(), delete("a"), "{mode}");
        pod.die();
        node.stop().unwrap();
    }
}

#[test]
fn pod_does_not_run_while_the_agent_is_absent_refuses_or_hangs() {
    let (node, socket) = node(Some("strict"));
    let pod = Pod::new(&node, "a");
    let refused = |case: &str, expected: &str| {
        let said = failed(&call(&node.address, "ADD", &pod, "1.0.0", None));
        assert_eq!(said["code"], 11, "{case}: {said}");
        assert_eq!(said["msg"], "have the pod's network policies enforced", "{case}");
        let details = said["details"].as_str().unwrap();
        for part in [expected, socket.to_str().unwrap()] {
            assert!(details.contains(part), "{case}: {details}");
        }
        assert_eq!(assigned(&node), 0, "{case}");
        wait_for_no_pods(&node);
    };
    refused("absent", "is it running?");
    let silent = UnixListener::bind(&socket).unwrap();
    refused("listens and accepts nothing", "does not answer within 10s");
    drop(silent);
    for (conduct, expected) in [
        ("refuse", "Success=false"),
        ("fail", "no program for the pod"),
        ("hang", "does not answer within 10s"),
    ] {
        let mut agent = agent(&node, &socket, conduct);
        refused(conduct, expected);
        assert_eq!(agent.hear(), enforce("a", "strict"), "{conduct}");
        assert_eq!(agent.hear(), delete("a"), "{conduct}");
    }
    let mut agent = agent(&node, &socket, "accept");
    pod.add(&node.address);
    assert_eq!(agent.hear(), enforce("a", "strict"));
    // A DEL does without the agent.
    drop(agent);
    pod.del(&node.address);
    assert_eq!(assigned(&node), 0);
    pod.die();
    node.stop().unwrap();
}

#[test]
fn pod_that_runs_keeps_its_network_when_it_is_added_again_and_the_agent_is_gone() {
    let (node, socket) = node(Some("strict"));
    let agent = agent(&node, &socket, "accept");
    let pod = Pod::new(&node, "a");
    let added = pod.add(&node.address);
    drop(agent);
    assert_eq!(address(&pod.add(&node.address)), address(&added));
    assert_eq!(assigned(&node), 1);
    pod.del(&node.address);
    pod.die();
    node.stop().unwrap();
}

#[test]
fn policies_of_a_pod_stay_when_an_earlier_sandbox_of_it_is_deleted() {
    let (node, socket) = node(Some("standard"));
    let mut agent = agent(&node, &socket, "accept");
    let before = Pod::new(&node, "a");
    before.add(&node.address);
    assert_eq!(agent.hear(), enforce("a", "standard"));
    // Its link's name is the pod's: the runtime removes the sandbox before it makes another one, and may call DEL once more after.
    before.del(&node.address);
    assert_eq!(agent.hear(), delete("a"));
    let after = Pod::again(&node, "b", "a");
    after.add(&node.address);
    assert_eq!(agent.hear(), enforce("a", "standard"));
    succeeded(&call(&node.address, "DEL", &before, "1.0.0", None));
    after.add(&node.address);
    assert_eq!(agent.heard(), [] as [Value; 0]);
    after.del(&node.address);
    assert_eq!(agent.hear(), delete("a"));
    before.die();
    after.die();
    node.stop().unwrap();
}

#[test]
fn agent_is_left_alone_where_no_mode_is_set() {
    let (node, socket) = node(None);
    let mut agent = agent(&node, &socket, "accept");
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    pod.del(&node.address);
    wait_until("the pod to be gone", || match assigned(&node) {
        0 => Ok(()),
        n => Err(n.to_string()),
    });
    assert_eq!(agent.heard(), [] as [Value; 0]);
    pod.die();
    node.stop().unwrap();
}

#[test]
fn mode_that_is_none_ends_the_start() {
    for mode in ["", "on"] {
        let mut spec = spec("m5.large");
        spec.vars.push(("NETWORK_POLICY_ENFORCING_MODE".to_owned(), mode.to_owned()));
        let error = LabNode::start(&spec).unwrap_err();
        assert!(matches!(error, StartError::Daemon(_)), "{mode}: {error:?}");
        let why = error_chain(&error);
        assert!(why.contains(&format!("{mode:?}: expected none, strict or standard")), "{why}");
    }
}
