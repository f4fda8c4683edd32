//! What leads packets of pods while amazon-vpc-cni-k8s starts, which removes what they need.

use vpc_ipam_linux::{Extent, Guard};

use crate::node::{node_with_pods, repair};
use crate::support::{Netns, source_seen};

/// The other host of the VPC, and the internet: the answer of either comes back only if the packet left by the right ENI.
const SERVERS: [(&str, &str); 2] =
    [("10.0.0.30:80", "10.0.0.101"), ("203.0.113.10:80", "10.0.0.10")];

/// Each with what of the start it is, and whether packets of the pod on the secondary ENI are lost without a guard.
const REMOVALS: [(&str, &[&str]); 4] = [
    ("mark", &["rule del fwmark 0x80/0x80 lookup main pref 1024"]),
    ("pod", &["rule del from 10.0.0.101 pref 1536"]),
    ("address", &["addr del 10.0.0.20/19 dev eth1"]),
    (
        "routes",
        &[
            "route del 10.0.0.1 dev eth1 scope link table 2",
            "route del default via 10.0.0.1 dev eth1 table 2",
        ],
    ),
];

/// What there is of routing but for what has the protocol of ours and goes with the removal anyway.
fn routing(node: &Netns) -> Vec<String> {
    let lists = ["rule show", "route show table all", "-6 route show table all", "-4 addr show"];
    let mut lines: Vec<String> =
        lines_of(lists.map(|list| node.ip(&format!("-d {list}")))).collect();
    lines.sort();
    lines
}

fn lines_of(texts: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    texts
        .into_iter()
        .flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
}

#[test]
fn packets_go_the_same_way_while_what_they_need_is_removed() {
    for (name, removal) in REMOVALS {
        for guarded in [true, false] {
            let (vpc, node, [_a, b]) = node_with_pods();
            repair(&node, &vpc, Extent::All);
            let before = routing(&vpc.node);
            let mut netlink = vpc.node.netlink();
            if guarded {
                for _ in 0..2 {
                    Guard::find(&mut netlink).unwrap().raise(&mut netlink).unwrap();
                }
            }
            for command in removal {
                vpc.node.ip(command);
            }
            let arrives = SERVERS.map(|(server, as_whom)| {
                source_seen(&b.namespace, &vpc.fabric.namespace, server).as_deref() == Some(as_whom)
            });
            // Without a guard this shows that the removal is one that hurts.
            assert_eq!(arrives == [true, true], guarded, "{name}: {arrives:?}, guarded: {guarded}");
            if guarded {
                repair(&node, &vpc, Extent::All);
                for _ in 0..2 {
                    Guard::lower(&mut netlink).unwrap();
                }
                assert_eq!(routing(&vpc.node), before, "{name}");
            }
        }
    }
}

/// As after a start of amazon-vpc-cni-k8s that ended half-way.
#[test]
fn nothing_is_left_of_the_guard_of_an_eni_whose_rule_and_routes_are_gone() {
    let (vpc, node, _pods) = node_with_pods();
    repair(&node, &vpc, Extent::All);
    let mut netlink = vpc.node.netlink();
    let raised = Guard::find(&mut netlink).unwrap();
    raised.raise(&mut netlink).unwrap();
    vpc.node.ip("rule del from 10.0.0.20 lookup 2 pref 32765");
    vpc.node.ip("route flush table 2");

    Guard::lower(&mut netlink).unwrap();

    let left: Vec<String> = routing(&vpc.node)
        .into_iter()
        .filter(|line| {
            ["169.254.255.86", "86000", "1025:", "1537:"].iter().any(|it| line.contains(it))
        })
        .collect();
    assert_eq!(left, [] as [&str; 0]);
}
