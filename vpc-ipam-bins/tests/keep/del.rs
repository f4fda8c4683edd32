//! DEL in the hands of a runtime that has little to say, or wrong things.

use std::fs;

use serde_json::json;
use vpc_ipam::lab::LabAddress;

use crate::call::Call;
use crate::daemon::{Daemon, assigned};
use crate::runtime::{Pod, failed, run, spec, start, succeeded, wait_for_no_pods};

#[test]
fn pod_is_deleted_whatever_the_configuration_says_besides_its_network() {
    let node = start(&spec("m5.large"));
    let values = [
        ("mtu", json!("none")),
        ("vethPrefix", json!("toolong")),
        ("vethPrefix", json!("other")),
        ("runtimeConfig", json!([1])),
        ("runtimeConfig", json!(null)),
        ("prevResult", json!("none")),
        ("cniVersion", json!(null)),
        ("ipam", json!(7)),
    ];
    let pod = Pod::new(&node, "p");
    for (key, value) in values {
        pod.add(&node.address);

        let del = Call::of_pod(&node.address, "DEL", "1.0.0", &pod).key(key, value.clone());
        succeeded(&del.run(&node.address));

        assert_eq!(assigned(&node), 0, "{key}: {value}");
        assert!(!run(&pod.netns, "ip -o link").contains("eth0"), "{key}: {value}");
    }
    wait_for_no_pods(&node);
    node.stop().unwrap();
}

#[test]
fn interface_is_gone_when_del_ends_and_those_of_other_networks_stay() {
    let mut node = start(&spec("m5.large"));
    let pods = ["p", "q"].map(|name| Pod::new(&node, name));
    for pod in &pods {
        run(&pod.netns, "ip link add first0 type veth peer name other");
        pod.add(&node.address);
    }
    for (pod, with_daemon) in pods.iter().zip([true, false]) {
        if !with_daemon {
            node.stop_daemon().unwrap();
        }
        pod.del(&node.address);
        let links = run(&pod.netns, "ip -o link");
        assert!(links.contains("first0") && !links.contains("eth0"), "{with_daemon}: {links}");
    }
    node.stop().unwrap();
}

#[test]
fn path_that_is_no_socket_is_named_and_no_folder_made_beside_it() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "p");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("folder")).unwrap();
    let cases = [
        ("file", 7, "is not a socket"),
        ("folder", 7, "is not a socket"),
        ("a/b", 11, "no socket"),
    ];
    for command in ["ADD", "CHECK", "DEL"] {
        for (name, code, expected) in cases {
            let call = Call::of_pod(&node.address, command, "1.0.0", &pod);
            let error = failed(&call.key("socket", at(name).to_str()).run(&node.address));
            assert_eq!(error["code"], code, "{command} {name}: {error}");
            let details = error["details"].as_str().unwrap();
            assert!(details.contains(expected), "{command} {name}: {error}");
            assert!(details.contains(at(name).to_str().unwrap()), "{command} {name}: {error}");
        }
    }
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "folder"]);
    assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 0);
    node.stop().unwrap();
}

#[test]
fn containers_with_ids_of_any_length_come_and_go_with_and_without_a_daemon() {
    let mut node = start(&spec("m5.large"));
    let pods = [1, 2, 64, 128, 200, 240, 253].map(|len| {
        let mut pod = Pod::new(&node, &format!("p{len}"));
        pod.name = "c".repeat(len);
        pod
    });
    let all = |node: &LabAddress, command: &str| {
        for pod in &pods {
            let call = Call::of_pod(node, command, "1.0.0", pod);
            succeeded(&call.var("CNI_ARGS", None).run(node));
        }
    };
    for command in ["ADD", "CHECK", "DEL", "ADD"] {
        all(&node.address, command);
    }
    node.stop_daemon().unwrap();

    all(&node.address, "DEL");

    let daemon = Daemon::start(&node);
    assert_eq!(assigned(&node), 0);
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}
