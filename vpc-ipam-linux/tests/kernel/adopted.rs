//! Pods that are in no state file: they are kept as they were found, for as long as their links are there.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::{EniLink, Families, Ipv4Kind};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{Extent, HostConfig, KernelEvent, Netlink as _, NodeNetwork, eni as enis};

use crate::node::{repair, wait_until};
use crate::old;
use crate::support::{Netns, Vpc, add, eni, eni_mac, lease, lease_with, network_of, source_seen};

/// A pod that is in no state file.
struct Case {
    name: &'static str,
    make: fn(&Vpc) -> Netns,
    /// Its links on the node.
    links: &'static [&'static str],
    /// Its addresses of the VPC.
    addresses: &'static [&'static str],
    /// How many routes, and rules, it has.
    counts: (usize, usize),
    /// A server that it reaches, and as whom.
    reaches: Option<(&'static str, &'static str)>,
}

const V4: &str = "10.0.0.100";
const V4_ON_ENI: &str = "10.0.0.101";
const V6: &str = "2001:db8:a:0:1::2";
const V6_ON_ENI: &str = "2001:db8:a:0:2::2";

const CASES: [Case; 9] = [
    Case {
        name: "on the primary ENI",
        make: |vpc| old::pod(&vpc.node, "eni0000000000a", &[V4], None),
        links: &["eni0000000000a"],
        addresses: &[V4],
        counts: (1, 1),
        reaches: Some(("203.0.113.10:80", "10.0.0.10")),
    },
    Case {
        name: "on a second ENI",
        make: |vpc| old::pod(&vpc.node, "eni0000000000a", &[V4_ON_ENI], Some(2)),
        links: &["eni0000000000a"],
        addresses: &[V4_ON_ENI],
        counts: (1, 2),
        reaches: Some(("10.0.0.30:80", V4_ON_ENI)),
    },
    Case {
        name: "on two network cards",
        make: |vpc| {
            let pod = old::pod(&vpc.node, "eni0000000000a", &[V4], None);
            vpc.node.ip(&format!(
                "link add eni0000000000b type veth peer name mNicIf1 netns {}",
                pod.name
            ));
            vpc.node.ip("link set eni0000000000b up");
            for command in [
                "route add 10.0.32.102 dev eni0000000000b scope link",
                "rule add to 10.0.32.102 lookup main pref 512",
                "rule add from 10.0.32.102 lookup 10101 pref 1536",
            ] {
                vpc.node.ip(command);
            }
            pod
        },
        links: &["eni0000000000a", "eni0000000000b"],
        addresses: &[V4, "10.0.32.102"],
        counts: (2, 3),
        reaches: None,
    },
    Case {
        name: "of IPv6",
        make: |vpc| old::pod(&vpc.node, "eni0000000000a", &[V6], None),
        links: &["eni0000000000a"],
        addresses: &[V6],
        counts: (1, 1),
        reaches: Some(("[2001:db8:a::30]:80", V6)),
    },
    Case {
        name: "of both families on a second ENI, under another prefix",
        make: |vpc| old::pod(&vpc.node, "pod_0000000000a", &[V4_ON_ENI, V6_ON_ENI], Some(2)),
        links: &["pod_0000000000a"],
        addresses: &[V4_ON_ENI, V6_ON_ENI],
        counts: (2, 4),
        reaches: Some(("[2001:db8:a::30]:80", V6_ON_ENI)),
    },
    Case {
        name: "of IPv6 that reaches IPv4 through the node",
        make: |vpc| {
            let pod = old::pod(&vpc.node, "eni0000000000a", &[V6], None);
            vpc.node
                .ip(&format!("link add veth1a2b3c4d type veth peer name v4if0 netns {}", pod.name));
            vpc.node.ip("link set veth1a2b3c4d up");
            vpc.node.ip("addr add 169.254.172.1/32 dev veth1a2b3c4d");
            vpc.node.ip("route add 169.254.172.9 dev veth1a2b3c4d scope link");
            pod
        },
        links: &["eni0000000000a", "veth1a2b3c4d"],
        addresses: &[V6],
        counts: (2, 1),
        reaches: None,
    },
    Case {
        name: "on a branch ENI in strict mode",
        make: |vpc| old::strict_pod(&vpc.node, 1, "vlan0000000000a", "10.0.30.200"),
        links: &["vlan0000000000a", "vlan.eth.1"],
        addresses: &["10.0.30.200"],
        counts: (3, 2),
        reaches: None,
    },
    Case {
        name: "on a branch ENI in standard mode",
        make: |vpc| {
            vpc.node.ip("link set lo up");
            old::branch(&vpc.node, 1);
            old::pod(&vpc.node, "eni0000000000a", &["10.0.30.200"], Some(101))
        },
        links: &["eni0000000000a", "vlan.eth.1"],
        addresses: &["10.0.30.200"],
        counts: (3, 2),
        reaches: None,
    },
    Case {
        name: "of ours, whose state was lost",
        make: |vpc| {
            add(&vpc.node, &network_of(&lease_with("a", 1, Some(V4_ON_ENI), Some(V6_ON_ENI))))
        },
        links: &["eni7cd5e0e0a0d"],
        addresses: &[V4_ON_ENI, V6_ON_ENI],
        counts: (2, 4),
        reaches: Some(("[2001:db8:a::30]:80", V6_ON_ENI)),
    },
];

#[test]
fn pod_is_kept_as_it_was_found_while_its_link_is_there() {
    for Case { name, make, links, addresses, counts, reaches } in CASES {
        let vpc = vpc();
        let pod = make(&vpc);
        let links = &links_of(&vpc, links);
        let mut node = node(&vpc);
        node.remember(&repair(&node, &vpc, Extent::All));
        node.remember(&repair(&node, &vpc, Extent::All));
        assert_eq!(node.untracked(), set(addresses), "{name}");
        let kept: (Vec<_>, Vec<_>) =
            node.adopted.links.values().map(|it| (it.routes.len(), it.rules.len())).unzip();
        assert_eq!(
            (kept.0.iter().sum(), kept.1.iter().sum()),
            counts,
            "{name}: {:?}",
            node.adopted
        );
        let before = state(&vpc);
        for damage in damages(&vpc, links, addresses) {
            vpc.node.shell(&damage);
            assert_ne!(state(&vpc), before, "{name}: {damage}");
            let found = node.diff(&mut vpc.node.netlink(), Extent::Kernel).unwrap();
            assert_ne!(found.differences, [], "{name}: {damage}");

            let repaired = repair(&node, &vpc, Extent::Kernel);

            assert_eq!(repaired.differences, found.differences, "{name}: {damage}");
            assert_eq!(state(&vpc), before, "{name}: {damage}");
            node.remember(&repaired);
            assert_eq!(node.untracked(), set(addresses), "{name}: {damage}");
            assert_eq!(repair(&node, &vpc, Extent::Kernel).differences, [], "{name}: {damage}");
        }
        if let Some((server, as_whom)) = reaches {
            // The link's own address of IPv6, by which the node asks for the pod, is the kernel's here, which lets a second pass
            // before it uses it.
            let seen = || source_seen(&pod.namespace, &vpc.fabric.namespace, server);
            let seen = (0..10).find_map(|_| seen());
            assert_eq!(seen.as_deref(), Some(as_whom), "{name}");
        }

        let of_pod = links.iter().filter(|link| !link.starts_with("vlan.eth."));
        let gone: Vec<_> =
            of_pod.map(|link| vpc.node.netlink().link(link).unwrap().unwrap()).collect();
        drop(pod);
        for link in gone {
            wait_until(|| vpc.node.try_ip(&format!("link show {}", link.id)).is_err());
            node.learn(&KernelEvent::Link { link, gone: true });
        }
        node.remember(&repair(&node, &vpc, Extent::Kernel));
        node.remember(&repair(&node, &vpc, Extent::Kernel));
        assert_eq!(node.untracked(), BTreeSet::new(), "{name}: it is gone");
        let left = state(&vpc);
        let of_pod = |line: &&String| {
            let mut words = line.split_whitespace();
            words.any(|word| addresses.contains(&word) || word == links[0])
        };
        assert_eq!(left.iter().find(of_pod), None, "{name}: it is gone");
    }
}

/// As a start finds it after networkd was restarted while no daemon ran; or while the plugin that makes the pod is at it.
#[test]
fn pod_without_a_route_is_found_by_the_address_at_the_other_end_of_its_link() {
    for (address, table) in [(V4, None), (V4_ON_ENI, Some(2)), (V6, None)] {
        let vpc = vpc();
        let pod = old::pod(&vpc.node, "eni0000000000a", &[address], table);
        let route = || vpc.node.ip(&format!("{} route show {address}", old::family(address)));
        assert!(route().contains("eni0000000000a"));
        for damage in ["down", "up"] {
            vpc.node.ip(&format!("link set eni0000000000a {damage}"));
        }
        assert_eq!(route(), "", "{address}");
        let mut node = bare_node(&vpc);

        let seen = node.look(&mut vpc.node.netlink()).unwrap();
        node.remember_seen(&seen);

        assert_eq!(node.untracked(), set(&[address]));
        repair(&node, &vpc, Extent::All);
        assert!(route().contains("eni0000000000a"), "{address}");
        let rules = usize::from(table.is_some()) + 1;
        let kept = vpc.node.ip(&format!("{} rule", old::family(address)));
        assert_eq!(kept.matches(&format!(" {address} ")).count(), rules, "{kept}");
        drop(pod);
    }
}

/// The address of a pod that is removed is not brought back, nor that of one that another program moves to another link.
#[test]
fn pod_that_leaves_or_gets_another_link_is_followed() {
    let vpc = vpc();
    let first = old::pod(&vpc.node, "eni0000000000a", &[V4], None);
    let mut node = node(&vpc);
    node.remember(&repair(&node, &vpc, Extent::All));
    drop(first);
    wait_until(|| vpc.node.try_ip("link show eni0000000000a").is_err());
    // The kernel may have reported nothing yet: the link of another pod has the name.
    let _second = old::pod(&vpc.node, "eni0000000000a", &[V4_ON_ENI], Some(2));

    node.remember(&repair(&node, &vpc, Extent::All));
    node.remember(&repair(&node, &vpc, Extent::All));

    assert_eq!(node.untracked(), set(&[V4_ON_ENI]));
    assert_eq!(vpc.node.ip(&format!("route show {V4}")), "");
    assert_eq!(vpc.node.rules(512), ["all 10.0.0.101 main"]);
}

/// What systemd-networkd, NodeLocalDNS, wireguard and administrators have beside pods.
#[test]
fn addresses_that_are_no_pods_are_not_taken_for_such() {
    let vpc = vpc();
    let mut node = node(&vpc);
    for command in [
        // The metadata service, the gateway and the resolver, as DHCP leads to them.
        "route add 169.254.169.254 dev eth0",
        "route add 10.0.0.1 dev eth0 proto dhcp scope link src 10.0.0.10 metric 1024",
        "route add 10.0.0.2 dev eth0 proto dhcp scope link metric 1024",
        "route add 10.0.0.3 via 10.0.0.1 dev eth0 proto dhcp",
        // The node's own.
        "addr add 2001:db8:a::11/128 dev eth0 nodad",
        "addr add 10.0.0.11/32 dev eth0",
        "route add 2001:db8:a::12 dev eth0 proto ra",
        "route add 10.0.0.20 dev eth1",
        "route add local 10.0.0.12 dev lo",
        "route add blackhole 10.0.0.13",
        // Links of other programs, with addresses that are not the VPC's, or their own.
        "link add nodelocaldns type bridge",
        "link set nodelocaldns up",
        "addr add 169.254.20.10/32 dev nodelocaldns",
        "addr add 172.20.0.10/32 dev nodelocaldns",
        "route add 172.20.0.11 dev nodelocaldns",
        "route add fe80::7 dev nodelocaldns",
        "route add 224.0.0.9 dev nodelocaldns",
        "link add docker0 type bridge",
        "link set docker0 up",
        "addr add 10.0.31.1/24 dev docker0",
        "route add 10.0.31.7 dev docker0",
        // By several ways, in tables of other programs, and with a next hop.
        "route add 10.0.0.14 nexthop dev nodelocaldns nexthop dev docker0",
        "route add 10.0.0.15 dev nodelocaldns table 77",
        "route add 10.0.0.16 via 10.0.31.9 dev docker0",
        "route add 10.0.31.9 dev nodelocaldns",
        // A pod's form of a name, and nothing of a pod.
        "link add eni0000000000b type veth peer name eni0000000000c",
        "link set eni0000000000b up",
        "link set eni0000000000c up",
        "route add 192.0.2.7 dev eni0000000000b",
    ] {
        vpc.node.ip(command);
    }
    let before = state(&vpc);

    let seen = node.look(&mut vpc.node.netlink()).unwrap();
    node.remember_seen(&seen);

    assert_eq!(node.untracked(), BTreeSet::new());
    assert_eq!(node.adopted, Default::default());
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences, []);
    assert_eq!(state(&vpc), before);
}

/// Antrea leads to all pods by its gateway, which tells nothing of whether a pod is there.
#[test]
fn pod_behind_a_link_of_several_is_there_while_its_route_is() {
    let vpc = vpc();
    for command in [
        "link add antrea-gw0 type bridge",
        "link set antrea-gw0 up",
        "addr add 10.0.0.10/32 dev antrea-gw0",
        "route add 10.0.0.100 dev antrea-gw0 scope link",
        "rule add to 10.0.0.100 lookup main pref 512",
        "route add 10.0.0.101 dev antrea-gw0 scope link",
        "rule add to 10.0.0.101 lookup main pref 512",
        "rule add from 10.0.0.101 lookup 2 pref 1536",
    ] {
        vpc.node.ip(command);
    }
    let mut node = node(&vpc);
    node.remember(&repair(&node, &vpc, Extent::All));
    assert_eq!(node.untracked(), set(&[V4, V4_ON_ENI]));
    let before = state(&vpc);

    vpc.node.ip("route del 10.0.0.101");
    let repaired = repair(&node, &vpc, Extent::Routing);

    // Its rules stay for who may bring the route back; this one cannot know.
    assert_eq!(repaired.differences, []);
    assert_eq!(repaired.seen.as_ref().unwrap().adopted.routed, set(&[V4]));
    vpc.node.ip("route add 10.0.0.101 dev antrea-gw0 scope link");
    assert_eq!(state(&vpc), before);

    vpc.node.ip("route del 10.0.0.101");
    node.adopted.routed.remove(&V4_ON_ENI.parse().unwrap());
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences.len(), 2, "its rules");
    assert_eq!((vpc.node.rules(512).len(), vpc.node.rules(1536).len()), (1, 0));
}

/// Of two pods with one address the one that is in the state file has it.
#[test]
fn address_of_a_pod_in_the_state_file_is_its_own() {
    let vpc = vpc();
    let network = network_of(&lease("a", "a", 0, 0, V4));
    let mut node = node(&vpc);
    node.pods.insert(crate::node::key("a"), network.clone());
    let _ours = add(&vpc.node, &network);
    node.remember(&repair(&node, &vpc, Extent::All));
    let before = vpc.node.ip(&format!("route show {V4}"));

    let _others = old::pod(&vpc.node, "eni0000000000b", &[V4], None);
    for _ in 0..2 {
        node.remember(&repair(&node, &vpc, Extent::All));
        assert_eq!(node.untracked(), BTreeSet::new());
        assert_eq!(vpc.node.ip(&format!("route show {V4}")), before);
    }
    // Its end of the state file's pod is gone, and with it what spoke against the other.
    node.pods.clear();
    vpc.node.ip(&format!("link del {}", network.interfaces[0].host.name));
    node.remember(&repair(&node, &vpc, Extent::All));
    node.remember(&repair(&node, &vpc, Extent::All));
    assert_eq!(node.untracked(), set(&[V4]));
    assert!(vpc.node.ip(&format!("route show {V4}")).contains("eni0000000000b"));
}

pub fn vpc() -> Vpc {
    let vpc = Vpc::with_ipv6();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", V4_ON_ENI, "2001:db8:a::20", V6_ON_ENI]);
    vpc
}

/// Returns the node, repaired.
pub fn node(vpc: &Vpc) -> NodeNetwork {
    let node = bare_node(vpc);
    repair(&node, vpc, Extent::All);
    node
}

/// Returns the node with its second ENI set up.
fn bare_node(vpc: &Vpc) -> NodeNetwork {
    let facts = HostFacts {
        families: Families::Dual(Ipv4Kind::Addresses),
        primary_ipv6: Some("2001:db8:a::10".parse().unwrap()),
        ..vpc.host_facts()
    };
    let eni = EniLink {
        primary_ipv6: Some("2001:db8:a::20".parse().unwrap()),
        subnet_ipv6: Some("2001:db8:a::/64".parse().unwrap()),
        ..eni(1)
    };
    let mut node = NodeNetwork::new(HostConfig::default(), facts);
    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();
    node.enis.insert(eni.eni, eni);
    node
}

/// Returns what may happen to a pod's network on the node.
pub fn damages(vpc: &Vpc, links: &[String], addresses: &[&str]) -> Vec<String> {
    let mut damages = Vec::new();
    for link in links {
        damages.extend([
            format!("ip link set {link} down"),
            format!("ip link set {link} down; ip link set {link} up"),
        ]);
        for table in ["main", "101"] {
            let routes = vpc.node.try_ip(&format!("route show dev {link} table {table}"));
            if routes.is_ok_and(|routes| !routes.is_empty()) {
                damages.push(format!("ip route flush dev {link} table {table}"));
            }
        }
    }
    for address in addresses {
        let ip = format!("ip {}", old::family(address));
        let table = if vpc.node.ip("rule show pref 10").is_empty() { "main" } else { "101" };
        damages.extend([
            format!("{ip} route del {address} table {table}"),
            format!("{ip} route replace blackhole {address} table {table}"),
            format!("{ip} route replace {address} dev eth0 table {table} proto static"),
        ]);
        let has_rule = |priority: &str| {
            let rules = vpc.node.ip(&format!("{} rule show pref {priority}", old::family(address)));
            rules.contains(&format!(" {address} "))
        };
        if has_rule("512") {
            damages.push(format!("{ip} rule del pref 512 to {address}"));
        }
        if has_rule("1536") {
            let another = format!("{ip} rule add pref 1536 from {address} lookup 9");
            damages.extend([
                format!("{ip} rule del pref 1536 from {address}"),
                format!("{ip} rule del pref 1536 from {address}; {another}"),
                another,
            ]);
        }
    }
    if !vpc.node.ip("rule show pref 10").is_empty() {
        damages.extend([
            "ip rule del pref 10".to_owned(),
            "ip rule del pref 10; ip rule del pref 10".to_owned(),
            "ip rule add lookup local pref 0 protocol kernel".to_owned(),
        ]);
    }
    damages
}

/// Returns all that iproute2 has to tell, in the order of the text: rules of one priority stand in the order in which they were made.
pub fn state(vpc: &Vpc) -> Vec<String> {
    let ipv6 = vpc.node.ip("-6 route show table all");
    let by_kernel = ["proto kernel", "fe80::/64", "multicast", "local ", "anycast "];
    let ipv6 = ipv6.lines().filter(|line| !by_kernel.iter().any(|words| line.contains(words)));
    let link_local = vpc.node.ip("-6 -o addr show scope link");
    let whole = link_local.lines().filter(|line| line.contains("/128 "));
    let mut lines: Vec<String> =
        vpc.node.snapshot().into_iter().chain(ipv6.chain(whole).map(str::to_owned)).collect();
    for line in &mut lines {
        // Of links whose other end is down, for a moment.
        *line = line.replace(" linkdown", "").trim_end().to_owned();
    }
    lines.sort();
    lines.dedup();
    lines
}

fn links_of(vpc: &Vpc, names: &[&str]) -> Vec<String> {
    let of_ours = || {
        let links = vpc.node.json("link show type veth").into_iter();
        let names = links.map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("eni")).collect::<Vec<_>>()
    };
    match names {
        ["eni7cd5e0e0a0d"] => of_ours(),
        names => names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}
