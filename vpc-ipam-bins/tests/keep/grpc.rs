//! The gRPC services of amazon-vpc-cni-k8s, called by a client in Python.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vpc_ipam::lab::{LabNode, folder};
use vpc_ipam_core::error_chain;
use vpc_ipamd::{DaemonError, GrpcAddress};

use crate::daemon::{Daemon, api, assigned, daemon_as, node, runtime};
use crate::python::Python;
use crate::runtime::{netns, spec, start, wait_until};

/// A node that serves gRPC at a socket of its own.
fn serving(instance_type: &str, vars: &[(&str, &str)]) -> (LabNode, PathBuf) {
    let mut spec = spec(instance_type);
    let socket = folder(&spec.name).join("aws-node/ipamd.sock");
    let own = [("GRPC_BIND_ADDRESS", format!("unix:{}", socket.display()))];
    spec.vars.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    spec.vars.extend(vars);
    (start(&spec), socket)
}

fn client(node: &LabNode, socket: &Path) -> Python {
    Python::start(&netns(node), "client.py", &[&format!("unix:{}", socket.display())])
}

fn request(container: &str, version: &str) -> Value {
    json!({
        "name": format!("{container}-0"),
        "namespace": "default",
        "infra_container_id": container,
        "ifname": "eth0",
        "network": "aws-cni",
        "container": container,
        "client_version": version,
    })
}

fn call(client: &mut Python, method: &str, request: Value) -> Value {
    client.ask(&json!({"call": method, "request": request}))
}

fn check(client: &mut Python, service: &str) -> Value {
    call(client, "Check", json!({"service": service}))
}

#[test]
fn pod_gets_its_address_again_and_loses_it_over_grpc() {
    let (node, socket) = serving("m5.large", &[("NETWORK_POLICY_ENFORCING_MODE", "Strict")]);
    let mut client = client(&node, &socket);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for version in ["v1.20.0", "v1.20.5", "v1.21.1", "v1.22.2", "v1.23.1", ""] {
        let added = call(&mut client, "AddNetwork", request("a", version));
        assert_eq!(added["success"], true, "{version}: {added}");
        assert_eq!(added["network_policy_mode"], "strict");
        assert_eq!(added["vpc_ipv4_cidrs"], json!(["10.0.0.0/16"]), "{added}");
        assert_eq!(added.get("external_snat"), None, "false is not written: {added}");
        let allocations = added["allocations"].as_array().unwrap();
        assert_eq!(allocations.len(), 1);
        assert!(allocations[0]["ipv4"].as_str().unwrap().starts_with("10.0."), "{added}");
        // The first address of a node is one of its primary ENI.
        assert_eq!((&allocations[0]["table"], allocations[0].get("device")), (&json!(254), None));
        assert_eq!(assigned(&node), 1);

        let again = call(&mut client, "AddNetwork", request("a", version));
        assert_eq!(again, added, "{version}");
        assert_eq!(assigned(&node), 1);

        let mut gone = request("a", version);
        gone["reason"] = json!("PodDeleted");
        gone["uid"] = json!("5d5a");
        let deleted = call(&mut client, "DelNetwork", gone.clone());
        let expected = json!({
            "success": true,
            "allocations": added["allocations"],
            "network_policy_mode": "strict",
        });
        assert_eq!(deleted, expected, "{version}");
        assert_eq!(assigned(&node), 0);
        let unknown = call(&mut client, "DelNetwork", gone);
        assert_eq!(unknown, json!({"error": "UNKNOWN", "details": "datastore: unknown pod"}));
    }
    node.stop().unwrap();
}

#[test]
fn reply_says_what_the_node_is_set_to() {
    let vars = [
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "172.16.0.0/12"),
        ("ENABLE_MULTI_NIC", "true"),
        ("WARM_IP_TARGET", "2"),
    ];
    let (node, socket) = serving("p4d.24xlarge", &vars);
    let mut client = client(&node, &socket);
    let config = call(&mut client, "GetNetworkPolicyConfigs", json!({}));
    assert_eq!(config["instance"], node.address.instance_id.to_string());
    assert_eq!(config["multi_nic"], true);
    assert!(config["ipv4"].as_str().unwrap().starts_with("10.0."), "{config}");
    assert!(config["region"].as_str().unwrap().ends_with(|c: char| c.is_ascii_digit()), "{config}");
    assert_eq!(config.get("network_policy_mode"), None, "{config}");

    let mut every = request("a", "");
    every["every_card"] = json!(true);
    let added = wait_until("an interface on every card", || {
        let added = call(&mut client, "AddNetwork", every.clone());
        if added["success"] == true { Ok(added) } else { Err(added.to_string()) }
    });
    let cidrs: Vec<_> = added["vpc_ipv4_cidrs"].as_array().unwrap().clone();
    assert!(cidrs.contains(&json!("172.16.0.0/12")), "{added}");
    let allocations = added["allocations"].as_array().unwrap();
    assert!(allocations.len() > 1, "{added}");
    // Those of other cards are no primary ENI, and have the route tables of their links.
    let tables: Vec<_> = allocations.iter().map(|it| it["table"].as_i64().unwrap()).collect();
    assert!(tables[1..].iter().all(|table| *table > 10_000), "{added}");
    node.stop().unwrap();
}

#[test]
fn client_of_an_earlier_version_is_refused_with_what_to_upgrade() {
    let (node, socket) = serving("m5.large", &[]);
    let mut client = client(&node, &socket);
    let without = |key: &str| {
        let mut request = request("a", "");
        request[key] = json!("");
        request
    };
    let requests = [
        request("a", "v1.19.6"),
        request("a", "1.7.0"),
        without("network"),
        without("container"),
        without("ifname"),
        json!({"name": "a-0", "namespace": "default", "infra_container_id": "a"}),
    ];
    for request in requests {
        for method in ["AddNetwork", "DelNetwork"] {
            let refused = call(&mut client, method, request.clone());
            assert_eq!(refused["error"], "FAILED_PRECONDITION", "{method} {request}: {refused}");
            let details = refused["details"].as_str().unwrap();
            assert!(details.contains("upgrade it"), "{method} {request}: {details}");
        }
    }
    assert_eq!(assigned(&node), 0);
    node.stop().unwrap();
}

#[test]
fn health_is_not_serving_while_the_next_pod_gets_no_address_and_that_add_fails_without_an_error() {
    // Room for one pod.
    let (node, socket) = serving("t3.nano", &[("MAX_ENI", "1")]);
    let mut client = client(&node, &socket);
    let serving = json!({"status": "SERVING"});
    let not_serving = json!({"status": "NOT_SERVING"});
    for service in ["", "grpc.health.v1.aws-node", "live"] {
        wait_until(service, || {
            let is = check(&mut client, service);
            if is == serving { Ok(()) } else { Err(is.to_string()) }
        });
    }
    assert_eq!(check(&mut client, "other")["error"], "NOT_FOUND");

    assert_eq!(call(&mut client, "AddNetwork", request("a", ""))["success"], true);
    let mut watching = self::client(&node, &socket);
    let watch = json!({"watch": "grpc.health.v1.aws-node", "count": 2});
    assert_eq!(watching.ask(&watch), not_serving);
    for service in ["", "grpc.health.v1.aws-node"] {
        assert_eq!(check(&mut client, service), not_serving, "{service}");
    }
    assert_eq!(check(&mut client, "live"), serving);
    assert_eq!(call(&mut client, "AddNetwork", request("b", "")), json!({}));
    assert_eq!(call(&mut client, "DelNetwork", request("a", ""))["success"], true);
    assert_eq!(watching.hear(), serving);
    node.stop().unwrap();
}

/// Bytes by chance, the same ones in each run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    core::iter::repeat_with(next).take(len).collect()
}

#[test]
fn thousand_connections_with_garbage_leave_the_service_as_it_was() {
    let (node, socket) = serving("m5.large", &[]);
    let mut client = client(&node, &socket);
    assert_eq!(call(&mut client, "AddNetwork", request("a", ""))["success"], true);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // A request of AddNetwork needs a path; these are headers that no decoder can read.
    let frames: [&[u8]; 3] =
        [b"", preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x08\x01\x05\0\0\0\x01"];
    let mut open = Vec::new();
    for number in 0..1_000_u64 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let before = frames[usize::try_from(number).unwrap() % frames.len()];
        let noise = noise(number, usize::try_from(number).unwrap() * 7 % 400);
        // It may hang up as soon as it has read enough.
        let _ = stream.write_all(before).and_then(|()| stream.write_all(&noise));
        match number % 4 {
            0 => open.push(stream),
            1 => {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
            _ => {}
        }
    }
    // Neither the client that was there, nor a new one, nor one whose message is garbage, is harmed.
    assert_eq!(call(&mut client, "DelNetwork", request("a", ""))["success"], true);
    let mut other = self::client(&node, &socket);
    assert_eq!(call(&mut other, "AddNetwork", request("b", ""))["success"], true);
    for number in 0..50 {
        let hex: String = noise(number, 40).iter().map(|byte| format!("{byte:02x}")).collect();
        for method in ["AddNetwork", "DelNetwork"] {
            let said = other.ask(&json!({"call": method, "hex": hex}));
            assert!(said["error"].is_string(), "{method} {hex}: {said}");
        }
    }
    // What a later version adds is passed over: field 200, a text.
    let ours = ["2a0465746830", "32076177732d636e69", "3a0162"].concat();
    let said = other.ask(&json!({"call": "AddNetwork", "hex": format!("{ours}c20c0178")}));
    assert!(said["hex"].as_str().is_some_and(|hex| hex.starts_with("0801")), "{said}");
    assert_eq!(assigned(&node), 1);
    drop(open);
    node.stop().unwrap();
}

#[test]
fn port_of_the_loopback_address_is_served_in_the_network_of_the_node() {
    let mut spec = spec("m5.large");
    spec.vars.push(("GRPC_BIND_ADDRESS".to_owned(), "127.0.0.1:50051".to_owned()));
    let node = start(&spec);
    let mut client = Python::start(&netns(&node), "client.py", &["127.0.0.1:50051"]);
    assert_eq!(call(&mut client, "AddNetwork", request("a", ""))["success"], true);
    assert_eq!(call(&mut client, "DelNetwork", request("a", ""))["success"], true);
    node.stop().unwrap();
}

#[test]
fn daemon_ends_where_another_one_serves_and_leaves_what_there_is() {
    let node = node();
    let socket = node.address.socket.with_file_name("aws-node.sock");
    let grpc = vec![GrpcAddress::Unix(socket.clone())];
    let daemon = Daemon::start_as(&node, |options| options.grpc.clone_from(&grpc));
    let mut client = client(&node, &socket);
    assert_eq!(check(&mut client, "live"), json!({"status": "SERVING"}));

    let never = core::future::pending();
    let second = daemon_as(&node, api(&node), never, |options| {
        options.socket = options.socket.with_file_name("second.sock");
        options.state = options.state.with_file_name("second.redb");
        options.grpc = grpc;
    });
    let error = runtime().block_on(second).unwrap_err();
    assert!(matches!(error, DaemonError::Claim(_)), "{error:?}");
    let why = error_chain(&error);
    assert!(why.contains("aws-node.sock is the socket of another daemon"), "{why}");
    assert!(!node.address.socket.with_file_name("second.redb").exists());

    // The socket is made again when it is removed.
    fs::remove_file(&socket).unwrap();
    let mut client = wait_until("the socket", || {
        if socket.exists() { Ok(self::client(&node, &socket)) } else { Err("none".to_owned()) }
    });
    assert_eq!(check(&mut client, "live"), json!({"status": "SERVING"}));
    daemon.crash();
    node.stop().unwrap();
}
