use vpc_ipam_linux::HostConfig;

use crate::support::{INTERNET, NODE_PORT, Vpc, node_with_pods, source_seen, source_seen_by};

#[test]
fn pods_are_seen_as_they_should_be() {
    let (vpc, [a, b, c]) = node_with_pods(&HostConfig::default());
    let (a, b, c) = (&a.namespace, &b.namespace, &c.namespace);
    let (node, fabric) = (&vpc.node.namespace, &vpc.fabric.namespace);
    let cases = [
        ("pod to pod, same ENI's node", a, b, "10.0.0.101:80", "10.0.0.100"),
        ("pod to pod, both on secondary ENIs", b, c, "10.0.32.102:80", "10.0.0.101"),
        ("pod to pod, back", c, a, "10.0.0.100:80", "10.0.32.102"),
        ("pod to node", b, node, "10.0.0.10:80", "10.0.0.101"),
        ("node to pod", node, c, "10.0.32.102:80", "10.0.0.10"),
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

    vpc.node.ip("rule del pref 1024");
    assert!(!internet() && another_host() && !node_port(), "without the rule of the mark");
    assert!(vpc.drops("eth1") > 0);
    repair();
    assert!(internet() && node_port());

    vpc.node.nft("flush chain ip vpc-ipam restore-marks");
    assert!(!node_port(), "without the mark of connections that came in");
    repair();
    assert!(internet() && node_port());

    vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    assert!(!internet() && another_host() && !node_port(), "with a strict rp_filter");
    repair();
    assert!(internet() && node_port());

    vpc.node.ip("rule del pref 1536 from 10.0.0.101");
    assert!(!another_host(), "without the rule from the pod");
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
