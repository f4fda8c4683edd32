//! What other programs have that diverts packets of pods and ENIs: it is reported, and left to them.

use vpc_ipam_linux::{Conflict, Extent, NodeNetwork};

use crate::node::{node_with_pods, repair};
use crate::support::{Netns, Vpc};

/// The pods are 10.0.0.100 on the primary ENI, and 10.0.0.101 on eth1, whose own address is 10.0.0.20.
#[test]
fn what_diverts_packets_is_told_and_left() {
    let (vpc, mut node, _pods) = node_with_pods();
    node.tables.insert(crate::support::eni(1).eni, vpc_ipam_linux::Table(2));
    let b = node.pods[&crate::node::key("b")].interfaces[0].host.name.clone();
    let default_of_9 = "route add default via 10.0.0.1 dev eth0 table 9 proto static";
    // What is done, the object that is reported, and whose packets it diverts.
    let cases: [(&[&str], &str, &str); 26] = [
        (
            &["rule add from 10.0.0.101 lookup 9 pref 100 proto static", default_of_9],
            "rule 100: from 10.0.0.101 lookup 9 proto static",
            "what 10.0.0.101 sends",
        ),
        (
            // There is nothing in the table yet.
            &["rule add from 10.0.0.101 lookup 9 pref 1536 proto static"],
            "",
            "",
        ),
        (
            &["rule add from 10.0.0.101 lookup 9 pref 1535 proto static"],
            "rule 1535: from 10.0.0.101 lookup 9 proto static",
            "what 10.0.0.101 sends",
        ),
        (
            &["rule add from 10.0.0.96/27 lookup 9 pref 100", default_of_9],
            "rule 100: from 10.0.0.96/27 lookup 9 proto unspec",
            "what 10.0.0.101 sends",
        ),
        (
            &[
                "rule add lookup 9 pref 100",
                "route add default via 10.0.0.1 dev eth1 onlink table 9",
            ],
            "rule 100: lookup 9 proto unspec",
            "what 10.0.0.100 sends, what is sent to 10.0.0.100, what is sent to 10.0.0.101",
        ),
        (
            &["rule add lookup main pref 1000"],
            "rule 1000: lookup main proto unspec",
            "what 10.0.0.101 sends, what 10.0.0.20 sends",
        ),
        (
            &["rule add to 10.0.0.101 lookup 9 pref 10 proto static"],
            "rule 10: to 10.0.0.101 lookup 9 proto static",
            "what is sent to 10.0.0.101",
        ),
        (
            &["rule add to 10.0.0.0/16 lookup 9 pref 10", default_of_9],
            "rule 10: to 10.0.0.0/16 lookup 9 proto unspec",
            "what is sent to 10.0.0.100, what is sent to 10.0.0.101",
        ),
        (
            &["rule add iif eth0 lookup 9 pref 10", default_of_9],
            "rule 10: iif eth0 lookup 9 proto unspec",
            "what is sent to 10.0.0.100, what is sent to 10.0.0.101",
        ),
        (
            &["rule add iif B lookup 9 pref 10", default_of_9],
            "rule 10: iif B lookup 9 proto unspec",
            "what 10.0.0.101 sends",
        ),
        (
            &["rule add blackhole from 10.0.0.101 pref 100"],
            "rule 100: from 10.0.0.101 refuse proto unspec",
            "what 10.0.0.101 sends",
        ),
        (
            &["rule add prohibit to 10.0.0.100 pref 100"],
            "rule 100: to 10.0.0.100 refuse proto unspec",
            "what is sent to 10.0.0.100",
        ),
        (
            &["rule add from 10.0.0.101 ipproto udp dport 53 lookup 9 pref 100", default_of_9],
            "rule 100: from 10.0.0.101 ipproto 17 and other conditions lookup 9 proto unspec",
            "what 10.0.0.101 sends",
        ),
        (
            &["rule add from 10.0.0.20 lookup main pref 100 proto static"],
            "rule 100: from 10.0.0.20 lookup main proto static",
            "what 10.0.0.20 sends",
        ),
        (
            &[
                "rule add fwmark 0x80/0x80 lookup 9 pref 100",
                "route add default via 10.0.0.1 dev eth1 onlink table 9",
            ],
            "rule 100: fwmark 0x80/0x80 lookup 9 proto unspec",
            "what has to leave by the primary ENI",
        ),
        (
            // As wg-quick has all that it did not send itself go through its tunnel.
            &[
                "rule add not fwmark 0xca6c lookup 51820 pref 1200",
                "route add default dev eth0 table 51820",
            ],
            "rule 1200: not fwmark 0xca6c/0xffffffff lookup 51820 proto unspec",
            "what 10.0.0.101 sends, what 10.0.0.20 sends",
        ),
        (
            &[
                "rule add not from 192.0.2.0/24 lookup 9 pref 1200",
                "route add default dev eth0 table 9",
            ],
            "rule 1200: not from 192.0.2.0/24 lookup 9 proto unspec",
            "what 10.0.0.101 sends, what 10.0.0.20 sends",
        ),
        (
            &["route add 192.0.2.0/24 via 10.0.0.1 dev eth0 table 2 proto static"],
            "route 192.0.2.0/24 via 10.0.0.1 table 2 dev eth0 proto static",
            "what eni-1 and its pods send to 192.0.2.0/24",
        ),
        (
            &["route add blackhole 192.0.2.0/24 table 2 proto static"],
            "route blackhole 192.0.2.0/24 table 2 proto static",
            "what eni-1 and its pods send to 192.0.2.0/24",
        ),
        (
            &["route add 0.0.0.0/1 dev eth0 table 2 proto static"],
            "route 0.0.0.0/1 table 2 dev eth0 proto static",
            "what eni-1 and its pods send to 0.0.0.0/1",
        ),
        (
            &["route prepend 10.0.0.101 dev eth0 proto static"],
            "route 10.0.0.101 table main dev eth0 proto static",
            "what is sent to 10.0.0.101",
        ),
        (
            &["addr add 10.0.0.101/32 dev lo"],
            "address 10.0.0.101/32 dev lo",
            "what is sent to 10.0.0.101",
        ),
        (
            &["route add local 10.0.0.101 dev lo table local proto static"],
            "route local 10.0.0.101 table local proto static",
            "what is sent to 10.0.0.101",
        ),
        (
            &[
                "route add 0.0.0.0/1 dev eth1 proto static",
                "route add 128.0.0.0/1 dev eth0 proto static",
            ],
            "route 0.0.0.0/1 table main dev eth1 proto static",
            "what leaves by the primary ENI",
        ),
        (
            &["route del default", "route add default dev eth1 proto dhcp metric 100"],
            "route default table main dev eth1 proto dhcp",
            "what leaves by the primary ENI",
        ),
        (
            &["route replace blackhole default proto static"],
            "route blackhole default table main proto static",
            "what leaves by the primary ENI",
        ),
    ];
    for (commands, object, diverts) in cases {
        let (object, diverts) = (object.replace('B', &b), format!("diverts {diverts}"));
        let before = Before::of(&vpc);
        for command in commands {
            vpc.node.ip(&command.replace(" B ", &format!(" {b} ")));
        }
        let snapshot = vpc.node.snapshot();

        let found = node.diff(&mut vpc.node.netlink(), Extent::Kernel).unwrap();
        let repaired = repair(&node, &vpc, Extent::Kernel);

        assert_eq!(found.differences, [], "{commands:?}");
        assert_eq!(repaired.differences, [], "{commands:?}");
        assert_eq!(vpc.node.snapshot(), snapshot, "{commands:?}: it is not ours to remove");
        assert_eq!(repaired.conflicts, found.conflicts, "{commands:?}");
        let reported: Vec<_> =
            found.conflicts.iter().map(|it| (it.object.clone(), it.effect.clone())).collect();
        let expected: Vec<_> =
            Some((object, diverts)).filter(|(it, _)| !it.is_empty()).into_iter().collect();
        assert_eq!(reported, expected, "{commands:?}");
        before.bring_back(&vpc.node);
        assert_eq!(conflicts(&node, &vpc), [], "{commands:?}: gone");
    }
}

#[test]
fn what_leads_the_same_way_or_concerns_other_networks_is_no_conflict() {
    let (vpc, mut node, _pods) = node_with_pods();
    node.tables.insert(crate::support::eni(1).eni, vpc_ipam_linux::Table(2));
    let before = Before::of(&vpc);
    for command in [
        // As amazon-ec2-net-utils sets an ENI up.
        "route add default via 10.0.0.1 dev eth1 onlink table 10101 proto static",
        "rule add from 10.0.0.20 lookup 10101 pref 10101 proto static",
        "rule add from 10.0.0.101 lookup 10101 pref 101 proto static",
        "route add default via 10.0.0.1 dev eth1 onlink proto dhcp metric 1024",
        // As a VPN, another CNI plugin or an administrator has its own.
        "link add other type bridge",
        "link set other up",
        "addr add 192.168.7.1/24 dev other",
        "rule add from 192.168.7.0/24 lookup 77 pref 100",
        "rule add to 100.64.0.0/10 lookup 52 pref 50",
        "rule add lookup 52 pref 5270",
        "rule add lookup 53 pref 60",
        "route add 100.64.0.0/10 dev other table 52",
        "route add 100.64.0.0/10 dev other table 53",
        "route add throw default table 53",
        "rule add fwmark 0x200/0xf00 lookup 2004 pref 9",
        "route add local default dev lo table 2004",
        "rule add iif other lookup 77 pref 8",
        "route add default via 192.168.7.2 dev other table 77",
        "rule add uidrange 1000-2000 lookup 77 pref 7",
        "rule add not from 10.0.0.0/16 lookup 77 pref 600",
        "route add 172.17.0.0/16 dev other",
        "rule add from 10.0.0.101 lookup main suppress_prefixlength 0 pref 99",
        "rule add to 10.0.0.101 lookup main pref 98",
        "route add 192.0.2.0/24 via 10.0.0.1 dev eth1 onlink table 2 proto static",
        "route add throw 198.51.100.0/24 table 2",
        "route append 10.0.0.101 dev eth0 proto static",
        "route add blackhole 10.0.0.101 metric 100",
        "addr add 10.0.0.77/32 dev lo",
    ] {
        vpc.node.ip(command);
        let conflicts = conflicts(&node, &vpc);
        if command.contains("suppress_prefixlength") {
            // It names the pod's address and leads to main; that it leads nowhere by a default route is not reported.
            assert_eq!(conflicts.len(), 1, "{conflicts:?}");
            vpc.node.ip(&command.replace(" add ", " del "));
        } else {
            assert_eq!(conflicts, [], "{command}");
        }
    }
    drop(before);
}

#[test]
fn likely_author_is_told_by_the_numbers_that_programs_are_known_by() {
    let (vpc, node, _pods) = node_with_pods();
    for (rule, author) in [
        ("from 10.0.0.101 lookup 9 pref 100 proto static", "systemd-networkd"),
        ("from 10.0.0.101 lookup 9 pref 100 proto dhcp", "DHCP"),
        ("from 10.0.0.101 lookup 9 pref 100 proto 80", "Calico"),
        ("from 10.0.0.101 lookup 30200 pref 1000 proto 200", "not known"),
        ("from 10.0.0.20 lookup 30400 pref 30400 proto 4", "nm-cloud-setup"),
        ("from 10.0.0.20 lookup 10001 pref 10001", "amazon-ec2-net-utils"),
        ("from all lookup 52 pref 5270", "Tailscale"),
    ] {
        vpc.node.ip(&format!("rule add {rule}"));
        vpc.node.ip("route add default via 10.0.0.1 dev eth1 onlink table 52");
        let found = conflicts(&node, &vpc);
        assert_eq!(found.len(), 1, "{rule}: {found:?}");
        assert!(found[0].likely_author.contains(author), "{rule}: {found:?}");
        let text = found[0].to_string();
        assert!(text.starts_with("conflict: rule ") && text.contains(" diverts what "), "{text}");
        vpc.node.ip(&format!("rule del {rule}"));
        vpc.node.ip("route flush table 52");
    }
}

#[test]
fn conflicts_of_ipv6_are_told_too() {
    let vpc = Vpc::with_ipv6();
    let (mut node, _pod) = crate::ipv6::node_with_pod(&vpc);
    node.tables.insert(crate::support::eni(1).eni, vpc_ipam_linux::Table(2));
    let a = "2001:db8:a:0:1::2";
    for (command, object) in [
        (
            format!("-6 rule add from {a} lookup 9 pref 100"),
            format!("rule 100: from {a} lookup 9 proto unspec"),
        ),
        (
            format!("-6 route add {a} dev eth0 metric 1 proto static"),
            format!("route {a} table main dev eth0 proto static"),
        ),
        (
            "-6 route add default dev eth0 metric 1 table 2 proto static".to_owned(),
            "route default table 2 dev eth0 proto static".to_owned(),
        ),
        (format!("-6 addr add {a}/128 dev lo"), format!("address {a}/128 dev lo")),
    ] {
        vpc.node.ip(&command);
        let reported: Vec<_> = conflicts(&node, &vpc).into_iter().map(|it| it.object).collect();
        assert_eq!(reported, [object], "{command}");
        vpc.node.ip(&command.replacen(" add ", " del ", 1));
        assert_eq!(conflicts(&node, &vpc), [], "{command}: gone");
    }
}

fn conflicts(node: &NodeNetwork, vpc: &Vpc) -> Vec<Conflict> {
    let found = node.diff(&mut vpc.node.netlink(), Extent::Routing).unwrap();
    assert_eq!(found.differences, []);
    found.conflicts
}

/// The rules and routes of a node, to be brought back.
struct Before {
    rules: Vec<String>,
    routes: Vec<String>,
}

impl Before {
    fn of(vpc: &Vpc) -> Self {
        Self { rules: rules(&vpc.node), routes: routes(&vpc.node) }
    }

    fn bring_back(&self, node: &Netns) {
        for rule in rules(node).iter().filter(|rule| !self.rules.contains(rule)) {
            let (priority, _) = rule.split_once(':').unwrap();
            // Where there is another of that priority, the first is ours.
            let rest = rule.split_once('\t').unwrap().1.replace(" proto ", " protocol ");
            node.ip(&format!("rule del pref {priority} {}", rest.trim()));
        }
        let _ = node.try_ip("addr del 10.0.0.101/32 dev lo");
        for route in routes(node).iter().filter(|route| !self.routes.contains(route)) {
            let _ = node.try_ip(&format!("route del {}", route.trim()));
        }
        for route in &self.routes {
            if !routes(node).contains(route) {
                node.ip(&format!("route add {}", route.trim()));
            }
        }
    }
}

fn rules(node: &Netns) -> Vec<String> {
    node.ip("-4 rule").lines().map(str::to_owned).collect()
}

fn routes(node: &Netns) -> Vec<String> {
    node.ip("-4 route show table all").lines().map(str::to_owned).collect()
}
