use core::net::Ipv4Addr;
use core::time::Duration;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use vpc_ipam::lab::LabNode;

use super::{INTROSPECTION, STARTING, connect, get, request};
use crate::daemon::{self, Daemon};
use crate::runtime::{Pod, address, netns, spec, start, status, wait_until};

#[test]
fn v1_has_the_shapes_of_amazon_vpc_cni() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "web");
    let address = address(&pod.add(&node.address));

    let enis = json_of(&node, "/v1/enis");

    let primary = &status(&node).enis[0].id;
    let card = &enis["0"];
    assert_eq!(card["AssignedIPs"], 1, "{enis:#}");
    let eni = &card["ENIs"][primary];
    assert_eq!(eni["IsPrimary"], true, "{eni:#}");
    assert_eq!(eni["DeviceNumber"], 0, "{eni:#}");
    let cidr = &eni["AvailableIPv4Cidrs"][format!("{address}/32")];
    assert_eq!(cidr["Cidr"], json!({ "IP": address, "Mask": "/////w==" }), "{cidr:#}");
    assert_eq!(cidr["IsPrefix"], false);
    let ip = &cidr["IPAddresses"][&address];
    let key = json!({ "networkName": "aws-cni", "containerID": "", "ifName": "" });
    assert_eq!(ip["IPAMKey"], key, "container ids are not told");
    let pod_of = json!({ "k8sPodNamespace": "default", "k8sPodName": "web", "interfacesCount": 1 });
    assert_eq!(ip["IPAMMetadata"], pod_of);
    assert_eq!(ip["UnassignedTime"], "0001-01-01T00:00:00Z");
    assert!(ip["AssignedTime"].as_str().unwrap().starts_with("20"), "{ip:#}");
    for key in ["IsTrunk", "IsEFA", "IPv6Cidrs", "IsExcludedForPodIPs", "RouteTableID", "SubnetID"]
    {
        assert!(!eni[key].is_null(), "{key} of {eni:#}");
    }

    let pods = json_of(&node, "/v1/pods");
    let (name, told) = pods.as_object().unwrap().iter().next().unwrap();
    assert!(name.starts_with("web_default_"), "{pods:#}");
    assert_eq!(*told, json!({ "IP": address, "DeviceNumber": 0 }));

    pod.del(&node.address);
    let ip = wait_until("the address to cool or to be free", || {
        let enis = json_of(&node, "/v1/enis");
        let ip = enis["0"]["ENIs"][primary]["AvailableIPv4Cidrs"][format!("{address}/32")]
            ["IPAddresses"][&address]
            .clone();
        if ip["IPAMMetadata"]["k8sPodName"] == "web" { Err(format!("{ip:#}")) } else { Ok(ip) }
    });
    assert!(ip.is_null() || ip["UnassignedTime"].as_str().unwrap().starts_with("20"), "{ip:#}");
    node.stop().unwrap();
}

#[test]
fn a_prefix_of_ipv6_is_listed_by_what_is_in_use() {
    let mut spec = spec("m5.large");
    spec.vars.push(("ENABLE_IPv6".into(), "true".into()));
    let node = start(&spec);
    let address = address(&Pod::new(&node, "six").add(&node.address));

    let primary = &status(&node).enis[0].id;
    let eni = &json_of(&node, "/v1/enis")["0"]["ENIs"][primary];
    let (cidr, told) = eni["IPv6Cidrs"].as_object().unwrap().iter().next().unwrap();
    assert!(cidr.ends_with("/80"), "{eni:#}");
    assert_eq!(told["IsPrefix"], true);
    assert_eq!(told["Cidr"]["Mask"], "/////////////wAAAAAAAA==");
    assert_eq!(told["IPAddresses"][&address]["IPAMMetadata"]["k8sPodName"], "six");
    assert_eq!(told["IPAddresses"].as_object().unwrap().len(), 1, "{told:#}");
    let block = &json_of(&node, "/page/node")["enis"][0]["blocks"][0];
    assert_eq!(
        (&block["capacity"], &block["in_use"][0]["address"]),
        (&json!(65536), &json!(address))
    );
    let metrics = get(&node, super::METRICS, "/metrics").body;
    for (state, count) in [("assigned", 1), ("free", 65535)] {
        let sample = format!(r#"family="ipv6",state="{state}",subnet="#);
        let line = metrics.lines().find(|line| line.contains(&sample));
        assert!(
            line.is_some_and(|line| line.ends_with(&format!(" {count}"))),
            "{line:?} {metrics}"
        );
    }
    node.stop().unwrap();
}

#[test]
fn v1_tells_the_settings_in_force_in_go_types() {
    let mut spec = spec("m5.large");
    let vars = [
        ("WARM_IP_TARGET", "4"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.9.0.0/16"),
    ];
    spec.vars.extend(vars.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let node = start(&spec);

    assert_eq!(
        json_of(&node, "/v1/ipamd-env-settings"),
        json!({
            "AWS_MANAGE_ENIS_NON_SCHEDULABLE": false,
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": false,
            "ENABLE_SUBNET_DISCOVERY": true,
            "WARM_ENI_TARGET": 0,
            "WARM_IP_TARGET": 4,
        })
    );
    assert_eq!(
        json_of(&node, "/v1/networkutils-env-settings"),
        json!({
            "AWS_EXTERNAL_SERVICE_CIDRS": null,
            "AWS_VPC_CNI_NODE_PORT_SUPPORT": true,
            "AWS_VPC_ENI_MTU": 9001,
            "AWS_VPC_K8S_CNI_CONNMARK": 128,
            "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": ["10.9.0.0/16"],
            "AWS_VPC_K8S_CNI_EXTERNALSNAT": false,
            "AWS_VPC_K8S_CNI_RANDOMIZESNAT": 2,
            "AWS_VPC_K8S_CNI_VETHPREFIX": "eni",
        })
    );
    assert_eq!(get(&node, INTROSPECTION, "/v1/eni-configs").status, 404);
    node.stop().unwrap();
}

#[test]
fn every_command_that_is_listed_answers() {
    let node = start(&spec("m5.large"));
    let root = json_of(&node, "/");
    let listed = root["AvailableCommands"].as_array().unwrap();
    assert!(listed.len() > 10, "{root:#}");
    for path in listed {
        let path = path.as_str().unwrap();
        let answer = get(&node, INTROSPECTION, path);
        let expected = if path == "/v1/eni-configs" { 404 } else { 200 };
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
        if path != "/" {
            assert!(!answer.body.contains("AvailableCommands"), "{path} is not there: {answer:?}");
        }
    }
    for path in ["/v1/nothing", "/v3", "/v1/enis/", "/%2e%2e/etc/passwd", "//"] {
        assert_eq!(json_of(&node, path), root, "{path}");
    }
    assert_eq!(json_of(&node, "/v2/inventory")["ready"], true);
    assert_eq!(json_of(&node, "/v2/status")["ready"], true);
    node.stop().unwrap();
}

#[test]
fn segments_of_the_journal_are_those_that_are_on_disk() {
    let node = start(&spec("m5.large"));
    let listed = wait_until("the journal", || match json_of(&node, "/v2/journal") {
        Value::Array(listed) if !listed.is_empty() => Ok(listed),
        other => Err(other.to_string()),
    });
    assert_eq!(listed.len(), 1, "{listed:?}");
    let (number, bytes) = (&listed[0]["segment"], listed[0]["bytes"].as_u64().unwrap());
    assert!(bytes > 0, "{listed:?}");
    let segment = get(&node, INTROSPECTION, &format!("/v2/journal/{number}"));
    assert!(segment.head.contains("application/x-ndjson"), "{}", segment.head);
    let on_disk = node.address.socket.with_file_name("journal/segment-000001.jsonl");
    // More may have been written since.
    let on_disk = std::fs::read_to_string(on_disk).unwrap();
    assert!(segment.body.len() as u64 >= bytes && on_disk.starts_with(&segment.body));
    assert_eq!(get(&node, INTROSPECTION, "/v2/journal/99").status, 404);
    for elsewhere in ["/v2/journal/..", "/v2/journal/%2e%2e%2fstate.redb", "/v2/journal/-1"] {
        assert_eq!(get(&node, INTROSPECTION, elsewhere).status, 400, "{elsewhere}");
    }
    node.stop().unwrap();
}

/// A page of another site that a browser on the node shows must not read what the daemon answers.
#[test]
fn only_who_names_this_host_by_address_or_localhost_is_answered() {
    let node = start(&spec("m5.large"));
    json_of(&node, "/");
    let status_of = |head: &str| {
        let answer = request(&node, INTROSPECTION, &format!("GET /v2/status {head}\r\n\r\n"));
        let answer = answer.unwrap();
        assert!(!answer.head.contains("access-control"), "{answer:?}");
        answer.status
    };
    assert_eq!(status_of("HTTP/1.1\r\nHost: 127.0.0.1:61679"), 200);
    assert_eq!(status_of("HTTP/1.1\r\nHost: [::1]:61679"), 200);
    assert_eq!(status_of("HTTP/1.0"), 200);
    assert_eq!(status_of("HTTP/1.1\r\nHost: rebound.example:61679"), 421);
    node.stop().unwrap();
}

#[test]
fn nothing_but_reading_is_served() {
    let node = start(&spec("m5.large"));
    json_of(&node, "/");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        for path in ["/", "/v1/enis", "/v2/status", "/nothing"] {
            let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = request(&node, INTROSPECTION, &text).unwrap();
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        }
    }
    let head = "HEAD /v1/enis HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head = request(&node, INTROSPECTION, head).unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    node.stop().unwrap();
}

/// Callers who ask for nothing, for too much, in garbage or in large numbers take nothing from the others, nor from pods.
#[test]
fn service_goes_on_whatever_callers_do() {
    let node = start(&spec("m5.large"));
    json_of(&node, "/");
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let long = request(&node, INTROSPECTION, &long);
    assert!(long.as_ref().map_or(true, |it| (400..500).contains(&it.status)), "{long:?}");
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"\r\n\r\n\r\n", b"GET", b"\0\0\0"]
    {
        let mut stream = connect(&node, INTROSPECTION).unwrap();
        stream.write_all(garbage).unwrap();
    }
    let mut callers = Vec::new();
    for number in 0..2000 {
        // The kernel's queue is full now and then; those who wait in it are callers too.
        match connect(&node, INTROSPECTION) {
            Ok(stream) => callers.push(stream),
            Err(error) => panic!("caller {number}: {error}"),
        }
        if callers.len() > 600 {
            callers.remove(0);
        }
    }
    assert_eq!(json_of(&node, "/v2/status")["ready"], true);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    pod.del(&node.address);
    // Those who say nothing are let go in their time.
    let mut last = callers.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut rest = Vec::new();
    let closed = last.read_to_end(&mut rest);
    assert!(closed.is_ok_and(|read| read == 0), "{rest:?}");
    node.stop().unwrap();
}

#[test]
fn a_caller_that_does_not_read_is_let_go() {
    let node = start(&spec("m5.large"));
    json_of(&node, "/");
    let mut stream = connect(&node, INTROSPECTION).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Many at once, so that the answers fill the little that the kernel keeps for the reader.
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    let requests = "GET /v2/inventory HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    wait_until("the daemon to close", || match stream.write_all(requests.as_bytes()) {
        Err(error)
            if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    assert_eq!(json_of(&node, "/v2/status")["ready"], true);
    node.stop().unwrap();
}

#[test]
fn a_taken_port_is_tried_again() {
    let node = daemon::node();
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, INTROSPECTION));
    let other = netns(&node).run(listen).unwrap().unwrap();
    let address = format!("127.0.0.1:{INTROSPECTION}").parse().unwrap();
    let daemon = Daemon::start_as(&node, |options| options.introspection = Some(address));

    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    drop(other);

    wait_until("the port to be served", || match get(&node, INTROSPECTION, "/readyz") {
        ready if ready.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    pod.del(&node.address);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn introspection_at_a_unix_socket_is_for_root_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("introspection.sock");
    // One that a killed daemon left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut spec = spec("m5.large");
    let at = format!("unix:{}", path.display());
    spec.vars.push(("INTROSPECTION_BIND_ADDRESS".into(), at));
    let node = start(&spec);

    let answer = wait_until("the socket", || {
        let mut stream = UnixStream::connect(&path).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // By any name: no browser reaches it.
        stream
            .write_all(b"GET /v2/status HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            .map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        if answer.contains(STARTING) { Err(answer) } else { Ok(answer) }
    });

    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    node.stop().unwrap();
    assert!(!path.exists(), "it goes with the daemon");

    let mut node = start(&spec);
    wait_until("the socket", || path.metadata().map(drop).map_err(|error| error.to_string()));
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    node.stop_daemon().unwrap();
    assert!(path.exists(), "another program's stays");
    drop(other);
    node.stop().unwrap();
}

#[test]
fn what_is_disabled_is_not_served() {
    let mut spec = spec("m5.large");
    spec.vars.push(("DISABLE_METRICS".into(), "true".into()));
    spec.vars.push(("DISABLE_INTROSPECTION".into(), "true".into()));
    let node = start(&spec);
    for port in [super::METRICS, INTROSPECTION] {
        assert!(connect(&node, port).is_err(), "{port}");
    }
    node.stop().unwrap();
}

fn json_of(node: &LabNode, path: &str) -> Value {
    let answer = get(node, INTROSPECTION, path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    assert!(answer.head.contains("content-type: application/json"), "{path}: {}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}
