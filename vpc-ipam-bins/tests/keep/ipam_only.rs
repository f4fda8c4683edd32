//! Addresses for pods whose links are made by other plugins, past the lab's source check.

use core::net::IpAddr;
use core::time::Duration;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use vpc_ipam::lab::LabNode;
use vpc_ipam_linux::lab::{self, INTERNET};
use vpc_ipam_protocol::{Answer, Request, ask};
use vpc_ipam_tests::program;

use crate::call::Call;
use crate::chain::Chain;
use crate::daemon::{Daemon, assigned};
use crate::runtime::{
    Pod, address, failed, kept_of_pods, netns, run, settled, spec, start, succeeded,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A call of the plugin under its other name, for a plugin of a type.
fn ipam(node: &LabNode, command: &str, pod: &Pod, main: &str) -> Call {
    let call = Call::of_pod(&node.address, command, "1.0.0", pod);
    call.key("type", main).key("ipam", json!({"type": "vpc-cni-ipam"}))
}

#[test]
fn addresses_gateway_and_routes_are_told_and_no_link_is_touched() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "p");
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("vpc-cni-ipam");
    symlink(program("vpc-cni"), &link).unwrap();
    let named = |command: &str| {
        let mut call = Call::of_pod(&node.address, command, "1.0.0", &pod);
        call.program.clone_from(&link);
        call
    };
    let own = node.with_lab(|lab| lab.layout().node.primary_ipv4);

    let result = succeeded(&named("ADD").run(&node.address));
    let again = succeeded(&ipam(&node, "ADD", &pod, "ptp").run(&node.address));

    assert_eq!(again, result, "by either way of asking");
    assert_eq!(result.get("interfaces"), None);
    assert_eq!(result["ips"][0].get("interface"), None);
    assert_eq!(result["ips"][0]["gateway"], own.to_string());
    let default = json!({"dst": "0.0.0.0/0", "gw": own.to_string()});
    assert!(result["routes"].as_array().unwrap().contains(&default), "{result}");
    assert_eq!(assigned(&node), 1);
    let links = run(&pod.netns, "ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
    succeeded(&named("CHECK").key("prevResult", result.clone()).run(&node.address));
    let mut other = result;
    other["ips"][0]["address"] = json!("10.0.99.99/20");
    failed(&named("CHECK").key("prevResult", other).run(&node.address));
    settled(&node);
    assert_eq!(kept_of_pods(&node), [""; 0], "the node keeps nothing for it");

    for _ in 0..2 {
        succeeded(&named("DEL").run(&node.address));
        assert_eq!(assigned(&node), 0);
    }
    failed(&named("CHECK").run(&node.address));
    succeeded(&ipam(&node, "ADD", &pod, "ptp").run(&node.address));
    let gc = Call::new(&node.address, "GC", "1.1.0").key("cni.dev/valid-attachments", json!([]));
    succeeded(&gc.key("ipam", json!({"type": "vpc-cni-ipam"})).run(&node.address));
    assert_eq!(assigned(&node), 0);
    assert_eq!(kept_of_pods(&node), [""; 0]);
    node.stop().unwrap();
}

#[test]
fn addresses_are_of_the_eni_that_master_names_and_else_of_the_primary() {
    // Two ENIs, of which each has few addresses.
    let node = start(&spec("m5.large"));
    let pods: Vec<Pod> = (0..40).map(|i| Pod::new(&node, &format!("p{i}"))).collect();
    let mut got = 0;
    let mut refused = None;
    for pod in &pods {
        let output = ipam(&node, "ADD", pod, "ptp").run(&node.address);
        if output.status.success() {
            got += 1;
        } else {
            refused = Some(failed(&output));
            break;
        }
    }
    let refused = refused.expect("the primary has fewer addresses than that");
    // An ENI of m5.large carries 10 addresses, one of them its own.
    assert_eq!((got, refused["code"].as_u64()), (9, Some(11)), "{refused}");
    let enis = || {
        let leases = ask(&node.address.socket, &Request::Leases { network: None });
        let Ok(Answer::Leases(leases)) = leases else { panic!("{leases:?}") };
        leases
    };
    assert!(enis().iter().all(|lease| lease.first.primary), "{:?}", enis());

    let links = run(&netns(&node), "ip -o link");
    let secondary = links.lines().any(|line| line.contains(" eth1@"));
    assert!(secondary, "{links}");
    let call = ipam(&node, "ADD", &pods[20], "ipvlan").key("master", "eth1");
    let result = succeeded(&call.run(&node.address));
    let last = enis().into_iter().find(|lease| lease.key.container() == "p20").unwrap();
    assert!(!last.first.primary);
    assert_eq!(address(&result), last.first.ipv4.unwrap().to_string());

    for (key, value, code) in [("master", json!("none0"), 7), ("master", json!("lo"), 11)] {
        let call = ipam(&node, "ADD", &pods[21], "ipvlan").key(key, value.clone());
        let error = failed(&call.run(&node.address));
        assert_eq!(error["code"], code, "{value}: {error}");
    }
    for main in ["macvlan", "bridge"] {
        let call = ipam(&node, "ADD", &pods[21], main).key("isGateway", true);
        let error = failed(&call.run(&node.address));
        assert_eq!(error["code"], 7, "{main}: {error}");
        assert!(error["msg"].as_str().unwrap().contains(main), "{error}");
    }
    node.stop().unwrap();
}

/// Asserts that a pod reaches, and is reached, as itself within the VPC, and reaches the internet.
fn is_connected(node: &LabNode, pod: &Pod, own: &str) {
    let own: IpAddr = own.parse().unwrap();
    let (other_host, other_ip, internet, node_netns) = node.with_lab(|lab| {
        let other = lab.layout().other_host.primary_ipv4;
        (lab.other_host().clone(), other, lab.internet().clone(), lab.node().clone())
    });
    let at_other = lab::Responder::start(&other_host, (other_ip, 80).into()).unwrap();
    let at_internet = lab::Responder::start(&internet, "0.0.0.0:80".parse().unwrap()).unwrap();
    let at_pod = lab::Responder::start(&pod.netns, (own, 80).into()).unwrap();
    let seen = lab::ask(&pod.netns, (other_ip, 80).into(), PATIENCE).unwrap();
    assert_eq!(seen, own, "another host sees the pod's own address");
    lab::ask(&pod.netns, (INTERNET, 80).into(), PATIENCE).unwrap();
    assert_eq!(lab::ask(&other_host, (own, 80).into(), PATIENCE).unwrap(), IpAddr::V4(other_ip));
    lab::ask(&node_netns, (own, 80).into(), PATIENCE).unwrap();
    drop((at_other, at_internet, at_pod));
    assert_eq!(node.drops().unwrap(), 0, "dropped by the source check");
}

fn conf(node: &LabNode, main: &str) -> Value {
    let mut conf = json!({
        "type": main,
        "ipam": {"type": "vpc-cni-ipam", "socket": node.address.socket},
    });
    if main == "bridge" {
        conf["bridge"] = json!("cni0");
    }
    conf
}

#[test]
fn pods_of_ptp_and_bridge_are_connected_and_survive_a_restart_of_the_daemon() {
    for main in ["ptp", "bridge"] {
        let mut node = start(&spec("m5.large"));
        let chain = Chain::new("1.0.0", "others", json!([conf(&node, main)]));
        let pods = ["a", "b"].map(|name| Pod::new(&node, name));
        let results = pods.each_ref().map(|pod| chain.add(&node, pod).pop().unwrap());
        for (pod, result) in pods.iter().zip(&results) {
            is_connected(&node, pod, &address(result));
            // The bridge plugin's own CHECK fails once a further pod has changed the bridge's MAC address.
            if main == "ptp" {
                chain.again(&node, "CHECK", pod, result);
            }
        }
        let between = (address(&results[1]).parse::<IpAddr>().unwrap(), 81).into();
        let responder = lab::Responder::start(&pods[1].netns, between).unwrap();
        let seen = lab::ask(&pods[0].netns, between, PATIENCE).unwrap();
        assert_eq!(seen.to_string(), address(&results[0]), "{main}: pod to pod");
        drop(responder);

        node.stop_daemon().unwrap();
        let daemon = Daemon::start(&node);
        assert_eq!(assigned(&node), 2, "{main}");
        is_connected(&node, &pods[0], &address(&results[0]));
        chain.again(&node, "DEL", &pods[0], &results[0]);
        assert_eq!(assigned(&node), 1, "{main}");
        daemon.crash();
        chain.again(&node, "DEL", &pods[1], &results[1]);
        let daemon = Daemon::start(&node);
        assert_eq!(assigned(&node), 0, "{main}");
        let routes = run(&netns(&node), "ip route");
        for result in &results {
            assert!(!routes.contains(&format!("{} ", address(result))), "{main}: {routes}");
        }
        daemon.crash();
        node.stop().unwrap();
    }
}

/// The routes to pods behind a bridge.
fn routes_over(node: &LabNode, bridge: &str) -> Vec<String> {
    let routes = run(&netns(node), &format!("ip route show dev {bridge} proto static"));
    routes.lines().map(str::to_owned).collect()
}

/// A GC of the network "others" by a runtime that knows these attachments.
fn gc_of_bridge(node: &LabNode, listed: &Value) -> Call {
    let mut call = Call::new(&node.address, "GC", "1.1.0");
    call.config = conf(node, "bridge");
    let call = call.key("cniVersion", "1.1.0").key("name", "others");
    call.key("cni.dev/valid-attachments", listed.clone())
}

#[test]
fn gc_removes_the_routes_over_the_bridge_of_the_pods_that_are_not_listed() {
    let node = start(&spec("m5.large"));
    let chain = Chain::new("1.0.0", "others", json!([conf(&node, "bridge")]));
    let pods = ["kept", "gone", "too"].map(|name| Pod::new(&node, name));
    let results = pods.each_ref().map(|pod| chain.add(&node, pod).pop().unwrap());
    assert_eq!(routes_over(&node, "cni0").len(), 3);

    let kept = json!([{"containerID": "kept", "ifname": "eth0"}]);
    for _ in 0..2 {
        succeeded(&gc_of_bridge(&node, &kept).run(&node.address));

        assert_eq!(assigned(&node), 1);
        let routes = routes_over(&node, "cni0");
        assert_eq!(routes.len(), 1, "{routes:?}");
        assert!(routes[0].starts_with(&format!("{} ", address(&results[0]))), "{routes:?}");
    }
    is_connected(&node, &pods[0], &address(&results[0]));

    node.stop().unwrap();
}

#[test]
fn pod_is_deleted_whose_route_over_the_bridge_went_before() {
    let node = start(&spec("m5.large"));
    let chain = Chain::new("1.0.0", "others", json!([conf(&node, "bridge")]));
    for name in ["del", "gc"] {
        let pod = Pod::new(&node, name);
        let result = chain.add(&node, &pod).pop().unwrap();
        // As by a call that was interrupted before it released the address, or by a bridge that was down for a moment.
        run(&netns(&node), &format!("ip route del {} dev cni0", address(&result)));

        if name == "gc" {
            succeeded(&gc_of_bridge(&node, &json!([])).run(&node.address));
        } else {
            chain.again(&node, "DEL", &pod, &result);
        }

        assert_eq!(assigned(&node), 0, "{name}");
    }
    node.stop().unwrap();
}

#[test]
fn add_that_fails_releases_a_new_lease_and_keeps_that_of_a_running_pod() {
    let node = start(&spec("m5.large"));
    let [running, new] = ["running", "new"].map(|name| Pod::new(&node, name));
    let add = |pod: &Pod| ipam(&node, "ADD", pod, "bridge").key("bridge", "cni0");
    let names = || {
        let leases = ask(&node.address.socket, &Request::Leases { network: None });
        let Ok(Answer::Leases(leases)) = leases else { panic!("{leases:?}") };
        leases.iter().map(|lease| lease.key.container().to_owned()).collect::<Vec<_>>()
    };
    run(&netns(&node), "ip link add cni0 type bridge");
    run(&netns(&node), "ip link set cni0 up");
    let result = succeeded(&add(&running).run(&node.address));

    // The kernel takes no route over a link that is down.
    run(&netns(&node), "ip link set cni0 down");
    for pod in [&running, &new] {
        let error = failed(&add(pod).run(&node.address));
        assert_eq!(error["code"], 100, "{error}");
        assert_eq!(names(), ["running"], "{}", pod.name);
    }

    run(&netns(&node), "ip link set cni0 up");
    assert_eq!(succeeded(&add(&running).run(&node.address)), result);
    succeeded(&add(&new).run(&node.address));
    assert_eq!(names(), ["new", "running"]);
    node.stop().unwrap();
}
