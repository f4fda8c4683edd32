//! The largest packet of a VPC, 9001 bytes, whole from end to end.

use std::net::UdpSocket;

use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{HostConfig, Namespace, host};

use crate::support::{Netns, PODS, Vpc, add, lease, node_with_pods, note_links, settings};

/// 9001 less the headers of IP and UDP.
const LARGEST: usize = 9001 - 20 - 8;

#[test]
fn largest_packet_passes_whole_between_all_pods_and_to_other_hosts() {
    let (vpc, pods) = node_with_pods(&HostConfig::default());
    for ((from, _, _), client) in PODS.iter().zip(&pods) {
        for ((to, _, address), server) in PODS.iter().zip(&pods).filter(|(to, _)| to.0 != *from) {
            assert!(passes(client, server, address), "{from} to {to}");
        }
        for to in ["10.0.0.30", "203.0.113.10"] {
            assert!(passes(client, &vpc.fabric, to), "{from} to {to}");
        }
        assert!(passes(client, &vpc.node, "10.0.0.10"), "{from} to the node");
    }
    for netns in pods.iter().chain([&vpc.node, &vpc.fabric]) {
        assert_eq!(fragments(netns), 0, "{}", netns.name);
    }

    // One byte more does not.
    send(&pods[1].namespace, "10.0.0.30:9", LARGEST + 1);
    assert!(fragments(&pods[1]) > 0);
}

/// 1.3.0, 1.6.0 and 1.16.4: configurable, and for pods apart.
#[test]
fn mtu_is_as_configured() {
    let vpc = Vpc::new();
    let facts = HostFacts { mtu: 1500, ..vpc.host_facts() };
    host::set_up(&mut vpc.node.netlink(), &HostConfig::default(), &facts).unwrap();
    assert_eq!(vpc.node.json("link show eth0")[0]["mtu"], 1500);

    let settings = PodSettings { mtu: 1400, ..settings() };
    let network = pod::desired(&lease("p", "p", 0, 0, "10.0.0.100"), &settings).unwrap();
    let pod = add(&vpc.node, &network);
    assert_eq!(pod.json("link show eth0")[0]["mtu"], 1400);
    let name = &network.interfaces[0].host.name;
    assert_eq!(vpc.node.json(&format!("link show {name}"))[0]["mtu"], 1400);
}

/// Sends a datagram of the largest size, and returns whether it came.
fn passes(client: &Netns, server: &Netns, address: &str) -> bool {
    note_links(&client.namespace);
    note_links(&server.namespace);
    // Not of a fixed number: a program that another test starts at this moment has the socket of the last one for a while.
    let any = format!("{address}:0");
    let listener = server.namespace.run(|| UdpSocket::bind(&any)).unwrap().unwrap();
    let to = listener.local_addr().unwrap().to_string();
    listener.set_read_timeout(Some(core::time::Duration::from_millis(500))).unwrap();
    let mut buffer = vec![0; LARGEST + 1];
    // The first one may be lost while a neighbour is asked for.
    (0..3).any(|_| {
        send(&client.namespace, &to, LARGEST);
        listener.recv(&mut buffer).is_ok_and(|len| len == LARGEST)
    })
}

fn send(from: &Namespace, to: &str, len: usize) {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    // What is too large for the way is refused here.
    let _ = socket.send_to(&vec![0; len], to);
}

/// Returns how many fragments were made in a namespace.
fn fragments(netns: &Netns) -> u64 {
    let snmp = netns.exec("cat /proc/net/snmp");
    let mut ip = snmp.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
    let index = names.split(' ').position(|name| name == "FragCreates").unwrap();
    values.split(' ').nth(index).unwrap().parse().unwrap()
}
