use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::UdpSocket;

use vpc_ipam_linux::{HostConfig, SnatPorts};

use crate::support::{
    INTERNET, NODE_PORT, Vpc, add_pods, node_with_pods, receive, source_seen, source_seen_by,
    source_seen_from,
};

#[test]
fn pods_are_seen_as_they_should_be() {
    let (vpc, [a, b, c]) = node_with_pods(&HostConfig::default());
    let (a, b, c) = (&a.namespace, &b.namespace, &c.namespace);
    let (node, fabric) = (&vpc.node.namespace, &vpc.fabric.namespace);
    let cases = [
        ("device 0 to device 1", a, b, "10.0.0.101:80", "10.0.0.100"),
        ("device 0 to device 2", a, c, "10.0.32.102:80", "10.0.0.100"),
        ("device 1 to device 0", b, a, "10.0.0.100:80", "10.0.0.101"),
        ("device 1 to device 2", b, c, "10.0.32.102:80", "10.0.0.101"),
        ("device 2 to device 0", c, a, "10.0.0.100:80", "10.0.32.102"),
        ("device 2 to device 1", c, b, "10.0.0.101:80", "10.0.32.102"),
        ("pod on the primary ENI to the node", a, node, "10.0.0.10:80", "10.0.0.100"),
        ("pod on device 1 to the node", b, node, "10.0.0.10:80", "10.0.0.101"),
        ("pod on device 2 to the node", c, node, "10.0.0.10:80", "10.0.32.102"),
        ("node to the pod on the primary ENI", node, a, "10.0.0.100:80", "10.0.0.10"),
        ("node to the pod on device 1", node, b, "10.0.0.101:80", "10.0.0.10"),
        ("node to the pod on device 2", node, c, "10.0.32.102:80", "10.0.0.10"),
        ("pod on the primary ENI to another host", a, fabric, "10.0.0.30:80", "10.0.0.100"),
        ("pod on device 1 to another host", b, fabric, "10.0.0.30:80", "10.0.0.101"),
        ("pod on device 2 to another host", c, fabric, "10.0.0.30:80", "10.0.32.102"),
        ("pod on the primary ENI to the internet", a, fabric, INTERNET, "10.0.0.10"),
        ("pod on device 1 to the internet", b, fabric, INTERNET, "10.0.0.10"),
        ("pod on device 2 to the internet", c, fabric, INTERNET, "10.0.0.10"),
    ];
    for (case, client, server, to, expected) in cases {
        let actual = source_seen(client, server, to);
        assert_eq!(actual.as_deref(), Some(expected), "{case}");
    }
    for link in ["eth0", "eth1", "eth2"] {
        assert_eq!(vpc.drops(link), 0, "{link} sent what is not its own");
    }
}

/// A program that uses an ENI binds to its address.
#[test]
fn what_the_node_sends_from_an_address_of_an_eni_leaves_by_that_eni() {
    let (vpc, _pods) = node_with_pods(&HostConfig::default());
    sends_from_its_enis(&vpc, "nft");
}

#[test]
fn node_port_reaches_pods_on_any_eni() {
    let (vpc, [_a, b, c]) = node_with_pods(&HostConfig::default());
    for (pod, address) in [(&b, "10.0.0.101:80"), (&c, "10.0.32.102:80")] {
        node_port_to(&vpc, address);
        let client = &vpc.fabric.namespace;

        let actual = source_seen_by(client, &pod.namespace, NODE_PORT, address);

        // The router's own address: nothing was translated but the destination.
        assert_eq!(actual.as_deref(), Some("10.0.0.1"), "{address}");
        assert_eq!(vpc.drops("eth1") + vpc.drops("eth2"), 0, "{address}");
    }
}

#[test]
fn each_part_is_needed() {
    let (vpc, [_a, b, _c]) = node_with_pods(&HostConfig::default());
    let (fabric, b) = (&vpc.fabric.namespace, &b.namespace);
    node_port_to(&vpc, "10.0.0.101:80");
    let internet = || source_seen(b, fabric, INTERNET).is_some();
    let another_host = || source_seen(b, fabric, "10.0.0.30:80").is_some();
    let node_port = || source_seen_by(fabric, b, NODE_PORT, "10.0.0.101:80").is_some();
    let repair = || {
        vpc.set_up_host(&HostConfig::default());
    };
    assert!(internet() && another_host() && node_port());

    // How many packets of a step the VPC dropped because they left by the wrong ENI.
    let dropped_by = |link: &str, step: &dyn Fn()| {
        let before = vpc.drops(link);
        step();
        vpc.drops(link) - before
    };

    let wrong = dropped_by("eth1", &|| {
        vpc.node.ip("rule del pref 1024");
        assert!(!internet() && another_host() && !node_port(), "without the rule of the mark");
    });
    assert!(wrong > 0, "they leave by the pod's own ENI");
    repair();
    assert!(internet() && node_port());

    let wrong = dropped_by("eth1", &|| {
        vpc.node.nft("flush chain ip vpc-ipam restore-marks");
        assert!(!node_port(), "without the mark of connections that came in");
    });
    assert!(wrong > 0, "answers leave by the pod's own ENI");
    repair();
    assert!(internet() && node_port());

    // What comes in by eth0 is dropped by the node itself.
    vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    assert!(!internet() && another_host() && !node_port(), "with a strict rp_filter");
    repair();
    assert!(internet() && node_port());

    let wrong = dropped_by("eth0", &|| {
        vpc.node.ip("rule del pref 1536 from 10.0.0.101");
        assert!(!another_host() && internet() && node_port(), "without the rule from the pod");
    });
    assert!(wrong > 0, "it leaves by the primary ENI");
}

/// Everything else may be strict.
#[test]
fn strict_checks_elsewhere_do_no_harm() {
    let vpc = Vpc::new();
    for link in ["all", "default"] {
        vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter=1"));
    }
    vpc.set_up_host(&HostConfig::default());
    let [_a, b, c] = add_pods(&vpc, &mut vpc.node.netlink());
    let fabric = &vpc.fabric.namespace;
    for (pod, address) in [(&b, "10.0.0.101:80"), (&c, "10.0.32.102:80")] {
        let seen = source_seen(&pod.namespace, fabric, INTERNET);
        assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{address}");
        node_port_to(&vpc, address);
        let client = source_seen_by(fabric, &pod.namespace, NODE_PORT, address);
        assert_eq!(client.as_deref(), Some("10.0.0.1"), "{address}");
    }
}

#[test]
fn excluded_range_sees_the_pod_itself() {
    let excluded_cidrs = vec!["203.0.113.0/24".parse().unwrap()];
    for config in [
        HostConfig { excluded_cidrs, ..HostConfig::default() },
        HostConfig { external_snat: true, ..HostConfig::default() },
    ] {
        let (vpc, [a, b, c]) = node_with_pods(&config);
        for (pod, address) in [(a, "10.0.0.100"), (b, "10.0.0.101"), (c, "10.0.32.102")] {
            let actual = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
            assert_eq!(actual.as_deref(), Some(address), "{config:?}");
        }
    }
}

#[test]
fn service_of_kube_proxy_keeps_the_pods_address_within_the_vpc() {
    let (vpc, [_a, b, c]) = node_with_pods(&HostConfig::default());
    vpc.node.nft(
        "table ip kube-proxy { chain nat { type nat hook prerouting priority -100; \
         ip daddr 172.20.0.10 dnat to 10.0.0.30; ip daddr 172.20.0.11 dnat to 10.0.32.102; }; }",
    );
    for (server, to, behind) in [
        (&vpc.fabric.namespace, "172.20.0.10:80", "10.0.0.30:80"),
        (&c.namespace, "172.20.0.11:80", "10.0.32.102:80"),
    ] {
        let actual = source_seen_by(&b.namespace, server, to, behind);
        assert_eq!(actual.as_deref(), Some("10.0.0.101"), "{to}");
    }
}

/// Sends NodePort 30080 to a pod as kube-proxy does where the client's address is to be kept.
fn node_port_to(vpc: &Vpc, to: &str) {
    vpc.node.nft("add table ip kube-proxy; delete table ip kube-proxy");
    vpc.node.nft(&format!(
        "table ip kube-proxy {{ chain nat {{ type nat hook prerouting priority -100; \
         fib daddr type local tcp dport 30080 dnat to {to}; }}; }}"
    ));
}

/// Looks at what outside of the VPC sees of the node, by each of its addresses.
pub fn sends_from_its_enis(vpc: &Vpc, case: &str) {
    let (node, fabric) = (&vpc.node.namespace, &vpc.fabric.namespace);
    // One that is on no ENI's link, like a virtual one of a load balancer.
    vpc.node.ip("addr add 192.0.2.7/32 dev lo");
    for (from, seen_as) in [
        ("10.0.0.10", "10.0.0.10"),
        ("10.0.0.20", "10.0.0.20"),
        ("10.0.32.20", "10.0.32.20"),
        ("192.0.2.7", "10.0.0.10"),
    ] {
        let seen = source_seen_from(node, from, fabric, INTERNET);
        assert_eq!(seen.as_deref(), Some(seen_as), "{case}: from {from}");
        let seen = source_seen_from(node, from, fabric, "10.0.0.30:80");
        // Within the VPC nothing is translated, and what is not the ENI's own does not arrive.
        let expected = Some(from).filter(|from| *from != "192.0.2.7");
        assert_eq!(seen.as_deref(), expected, "{case}: from {from} within the VPC");
    }
    assert_eq!(vpc.drops("eth1") + vpc.drops("eth2"), 0, "{case}");
}

/// In named sets of nftables the kernel (6.18) finds nothing for a moment after the rules that look into them are there.
#[test]
fn no_connection_within_the_vpc_is_translated_while_rules_are_replaced() {
    let (vpc, [pod, ..]) = node_with_pods(&HostConfig::default());
    let server = vpc.fabric.namespace.run(|| receive("10.0.0.30:7000")).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // From a port of its own each, which makes it a connection.
                let open = || UdpSocket::bind("0.0.0.0:0");
                let socket = pod.namespace.run(open).unwrap().unwrap();
                socket.send_to(b"x", "10.0.0.30:7000").unwrap();
            }
        });
        let seen = scope.spawn(|| {
            let mut seen = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                if let Ok((_, source)) = server.recv_from(&mut [0]) {
                    *seen.entry(source.ip().to_string()).or_insert(0) += 1;
                }
            }
            seen
        });
        for _ in 0..30 {
            for snat_ports in [SnatPorts::Kept, SnatPorts::Random] {
                vpc.set_up_host(&HostConfig { snat_ports, ..HostConfig::default() });
            }
        }
        over.store(true, Ordering::Relaxed);
        client.join().unwrap();
        seen.join().unwrap()
    });
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["10.0.0.100"], "{seen:?}");
}
