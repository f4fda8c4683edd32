//! Nodes as other programs and amazon-vpc-cni-k8s leave them, one of a kind: after the take-over all that other programs made is as it was.
//!
//! `migrate/` has a file for each: sections of commands of iproute2 and of lines of iptables-save, each of other programs or of amazon-vpc-cni-k8s, in the
//! order in which they are made.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::path::Path;

use vpc_ipam_linux::{BesideAwsCni, Extent, HostConfig, NodeNetwork, Repaired, eni as enis};

use crate::node::repair;
use crate::old;
use crate::support::{INTERNET, Netns, Vpc, eni, eni_mac, source_seen};

/// A node.
struct Case {
    /// Its file.
    name: &'static str,
    /// Pods besides 10.0.0.100 on eth0 and 10.0.0.101 on eth1.
    pods: &'static [&'static str],
    /// What of other programs stands in the way, as it is reported.
    conflicts: &'static [&'static str],
}

const CASES: [Case; 7] = [
    Case { name: "bottlerocket", pods: &[], conflicts: &[] },
    Case { name: "amazon-linux-2023", pods: &[], conflicts: &[] },
    Case {
        name: "antrea",
        pods: &["10.0.0.102", "10.0.0.103"],
        conflicts: &[
            "in table nat: -A PREROUTING -i antrea-gw0 -m comment --comment \"Antrea: AWS, outbound connections\" -j \
             AWS-CONNMARK-CHAIN-0 leads to the chain AWS-CONNMARK-CHAIN-0 of amazon-vpc-cni-k8s, all of whose rules and chains stay \
             until it is gone; likely author: Antrea",
        ],
    },
    Case { name: "calico", pods: &[], conflicts: &[] },
    Case { name: "nodelocaldns", pods: &[], conflicts: &[] },
    Case { name: "security-groups", pods: &["10.0.30.200"], conflicts: &[] },
    Case { name: "multus", pods: &[], conflicts: &[] },
];

const KINDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

#[test]
fn what_others_made_is_as_it_was_after_the_node_is_taken_over() {
    for (Case { name, pods, conflicts }, iptables) in cases() {
        let case = format!("{name}, {iptables}");
        let found = FoundNode::load(name, iptables);
        let before = found.state();

        let (node, repaired) = found.take_over();

        let reported: Vec<String> = repaired.conflicts.iter().map(ToString::to_string).collect();
        let expected: Vec<String> =
            conflicts.iter().map(|it| format!("conflict: rule of {iptables} {it}")).collect();
        assert_eq!(reported, expected, "{case}");
        assert_eq!(repaired.unlisted, [] as [&str; 0], "{case}");
        let of_node = ["10.0.0.100", "10.0.0.101"].iter().chain(*pods);
        let untracked: BTreeSet<IpAddr> = of_node.map(|pod| pod.parse().unwrap()).collect();
        assert_eq!(node.untracked(), untracked, "{case}");
        let after = found.state();
        if conflicts.is_empty() {
            let mut rest = before.iptables.clone();
            rest.retain(|line| !line.contains("AWS"));
            assert_eq!(after.iptables, rest, "{case}");
        } else {
            assert_eq!(after.iptables, before.iptables, "{case}: nothing is changed");
        }
        // Rules of amazon-vpc-cni-k8s for the node and for the ENI gave way to ours, and a strict pod of it needs one more.
        let strict = *name == "security-groups";
        let ours = [
            (true, "1024:\tfrom all fwmark 0x80/0x80 lookup main proto 86"),
            (true, "32765:\tfrom 10.0.0.20 lookup 2 proto 86"),
            (strict, "20:\tfrom all lookup local proto 86"),
        ];
        let ours = ours.into_iter().filter(|(is_there, _)| *is_there).map(|(_, line)| line);
        let peers = |line: &String| {
            ["1024:\tfrom all fwmark 0x80/0x80 lookup main", "32765:\tfrom 10.0.0.20 lookup 2"]
                .contains(&line.as_str())
        };
        let mut expected: Vec<String> =
            before.kernel.iter().filter(|line| !peers(line)).cloned().collect();
        expected.extend(ours.map(str::to_owned));
        expected.sort();
        assert_same(&after.kernel, &expected, &case);

        for (pod, server, as_whom) in [
            (&found.pods[0], "10.0.0.30:80", "10.0.0.100"),
            (&found.pods[1], "10.0.0.30:80", "10.0.0.101"),
            (&found.pods[0], INTERNET, "10.0.0.10"),
            (&found.pods[1], INTERNET, "10.0.0.10"),
        ] {
            let seen = source_seen(&pod.namespace, &found.vpc.fabric.namespace, server);
            assert_eq!(seen.as_deref(), Some(as_whom), "{case}: {server}");
        }
        let again = repair(&node, &found.vpc, Extent::All);
        assert_eq!(again.differences, [], "{case}: again");
        assert_eq!(again.conflicts, repaired.conflicts, "{case}: again");
    }
}

/// With `--no-adopt` what amazon-vpc-cni-k8s made is one more program's.
#[test]
fn what_amazon_vpc_cni_k8s_made_is_as_it_was_too_where_nothing_is_to_be_adopted() {
    for (Case { name, .. }, iptables) in cases() {
        let case = format!("{name}, {iptables}");
        let found = FoundNode::load(name, iptables);
        let before = found.state();
        let mut node = found.node();
        node.beside_aws_cni = true;
        let mut netlink = BesideAwsCni(found.vpc.node.netlink());
        let seen = node.look(&mut netlink).unwrap();
        node.remember_seen(&seen);
        enis::set_up(&mut netlink, &eni(1)).unwrap();

        for _ in 0..2 {
            let repaired =
                NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap();
            node.remember(&repaired);
        }

        let after = found.state();
        assert_eq!(after.iptables, before.iptables, "{case}");
        let ours = |line: &&String| !line.contains("proto 86");
        let rest: Vec<_> = after.kernel.iter().filter(ours).cloned().collect();
        assert_same(&rest, &before.kernel, &case);
    }
}

fn cases() -> impl Iterator<Item = (&'static Case, &'static str)> {
    CASES.iter().flat_map(|case| KINDS.map(|iptables| (case, iptables)))
}

/// A node as it is found.
struct FoundNode {
    vpc: Vpc,
    pods: [Netns; 2],
    iptables: &'static str,
}

/// What there is on it, but for our address translation.
struct State {
    /// What iproute2 tells, one thing a line, sorted.
    kernel: Vec<String>,
    /// What iptables-save tells, in its order.
    iptables: Vec<String>,
}

impl FoundNode {
    fn load(name: &str, iptables: &'static str) -> Self {
        let vpc = Vpc::new();
        vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101"]);
        vpc.plug("eth2", eni_mac(2), "subnet1", &["10.0.0.25"]);
        // As both daemons have it.
        vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=2");
        vpc.node.ip("link set eth0 mtu 9001");
        let pods = [
            old::pod(&vpc.node, "eni0000000000a", &["10.0.0.100"], None),
            old::pod(&vpc.node, "eni0000000000b", &["10.0.0.101"], Some(2)),
        ];
        let mut section = String::new();
        let mut saved = String::new();
        for line in lines(name) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(next) => section = next.to_owned(),
                None if section.starts_with("ip ") => drop(vpc.node.ip(&line)),
                None => {
                    saved += &format!("{line}\n");
                    if line == "COMMIT" {
                        let restore = format!("{iptables}-restore --noflush <<'END'\n{saved}END");
                        vpc.node.shell(&restore);
                        saved.clear();
                    }
                }
            }
        }
        assert_eq!(saved, "", "{name}: no COMMIT");
        Self { vpc, pods, iptables }
    }

    fn node(&self) -> NodeNetwork {
        let mut node = NodeNetwork::new(HostConfig::default(), self.vpc.host_facts());
        node.enis.insert(eni(1).eni, eni(1));
        node
    }

    /// Does what a daemon does when it starts.
    fn take_over(&self) -> (NodeNetwork, Repaired) {
        let mut node = self.node();
        let seen = node.look(&mut self.vpc.node.netlink()).unwrap();
        node.remember_seen(&seen);
        self.vpc.set_up_host(&HostConfig::default());
        enis::set_up(&mut self.vpc.node.netlink(), &eni(1)).unwrap();
        let repaired = repair(&node, &self.vpc, Extent::All);
        node.remember(&repaired);
        (node, repaired)
    }

    fn state(&self) -> State {
        let mut kernel = self.vpc.node.snapshot();
        kernel.sort();
        let text = self.vpc.node.exec(&format!("{}-save", self.iptables));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // Counters, and chains that are empty and the kernel's own, come and go with who looks.
        let line = |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
        State { kernel, iptables: lines.map(line).collect() }
    }
}

fn assert_same(actual: &[String], expected: &[String], case: &str) {
    let only_in = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (more, less) = (only_in(actual, expected), only_in(expected, actual));
    assert_eq!((more, less), (Vec::new(), Vec::new()), "{case}: what is too much, what is missing");
    assert_eq!(actual.len(), expected.len(), "{case}: {actual:#?}");
}

/// Returns the lines of a file, and of those that it includes.
fn lines(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/migrate").join(name);
    let text = std::fs::read_to_string(path.with_extension("txt")).unwrap();
    let facts = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let included = |line: &str| match line.strip_prefix("include ") {
        Some(other) => lines(other),
        None => vec![line.to_owned()],
    };
    facts.flat_map(included).collect()
}
