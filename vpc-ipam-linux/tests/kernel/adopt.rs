//! Nodes that amazon-vpc-cni-k8s looked after until now.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;

use vpc_ipam_linux::{
    BesideAwsCni, Difference, Extent, HostConfig, NatPrograms, NodeNetwork, eni as enis,
};

use crate::node::{key, repair};
use crate::support::{Netns, Vpc, accept, add, eni, eni_mac, network, source_seen};

const INTERNET: &str = "203.0.113.10:80";

/// The program that makes its iptables, and where it marks connections.
pub const BACKENDS: [(&str, bool); 3] =
    [("iptables-nft", true), ("iptables-nft", false), ("iptables-legacy", false)];

#[test]
fn what_amazon_vpc_cni_k8s_made_is_replaced_without_a_gap() {
    for (iptables, native) in BACKENDS {
        let case = format!("{iptables}, nftables {native}");
        let (vpc, pod) = node_of_aws_cni(iptables, native);
        vpc.node.exec(&format!("{iptables} -w -t nat -A POSTROUTING -d 192.0.2.0/24 -j RETURN"));
        let node = node(&vpc);

        let seen = sources_seen_during(&vpc, &pod, || {
            assert_ne!(repair(&node, &vpc, Extent::All).differences.len(), 0, "{case}");
        });

        assert_eq!(seen, ["10.0.0.10".parse::<IpAddr>().unwrap()].into(), "{case}");
        let saved = vpc.node.exec(&format!("{iptables}-save"));
        assert!(!saved.contains("AWS"), "{case}: {saved}");
        assert!(saved.contains("-A POSTROUTING -d 192.0.2.0/24 -j RETURN"), "{case}: {saved}");
        assert_eq!(vpc.node.try_exec("nft list table ip aws-cni").ok(), None, "{case}");
        for (priority, count) in [(1024, 1), (32765, 1), (512, 1), (1536, 1)] {
            let rules = vpc.node.json(&format!("-d rule show pref {priority}"));
            assert_eq!(rules.len(), count, "{case}: {rules:?}");
            assert_eq!(rules[0]["protocol"], "86", "{case}: {rules:?}");
        }
        assert_eq!(repair(&node, &vpc, Extent::All).differences, [], "{case}: again");
    }
}

#[test]
fn what_amazon_vpc_cni_k8s_made_stays_where_nothing_is_to_be_adopted() {
    for (iptables, native) in BACKENDS {
        let (vpc, pod) = node_of_aws_cni(iptables, native);
        let before = vpc.node.exec(&format!("{iptables}-save -t nat"));
        let untagged = |vpc: &Vpc| {
            let rules = vpc.node.json("-d rule");
            rules.iter().filter(|rule| rule["protocol"] == "unspec").count()
        };
        let rules = untagged(&vpc);
        let node = node(&vpc);
        let repair_beside = || {
            let mut netlink = BesideAwsCni(vpc.node.netlink());
            enis::set_up(&mut netlink, &eni(1)).unwrap();
            NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap().differences
        };

        assert_ne!(repair_beside(), []);

        let comments_aside = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with(['#', ':'])).map(str::to_owned).collect()
        };
        let after = vpc.node.exec(&format!("{iptables}-save -t nat"));
        assert_eq!(comments_aside(&after), comments_aside(&before), "{iptables}");
        assert_eq!(vpc.node.try_exec("nft list table ip aws-cni").is_ok(), native);
        assert_eq!(untagged(&vpc), rules, "{iptables}");
        let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
        assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{iptables}");
        assert_eq!(repair_beside(), [], "{iptables}: again");
    }
}

#[test]
fn untracked_pods_of_amazon_vpc_cni_k8s_keep_their_rules_until_they_are_gone() {
    let (vpc, pod) = node_of_aws_cni("iptables-nft", true);
    let mut node = node(&vpc);
    node.pods = BTreeMap::new();

    repair(&node, &vpc, Extent::All);

    assert_eq!((vpc.node.rules(512).len(), vpc.node.rules(1536).len()), (1, 1));
    let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, "10.0.0.30:80");
    assert_eq!(seen.as_deref(), Some("10.0.0.101"));

    drop(pod);
    crate::node::wait_until(|| vpc.node.json("route show 10.0.0.101").is_empty());
    repair(&node, &vpc, Extent::Routing);
    assert_eq!((vpc.node.rules(512).len(), vpc.node.rules(1536).len()), (0, 0));
}

#[test]
fn chains_of_earlier_versions_of_amazon_vpc_cni_k8s_go_too() {
    let vpc = Vpc::new();
    // One chain for each range, each of which jumps to the next.
    for command in [
        "-N AWS-SNAT-CHAIN-0",
        "-N AWS-SNAT-CHAIN-1",
        "-A POSTROUTING -m comment --comment 'AWS SNAT CHAIN' -j AWS-SNAT-CHAIN-0",
        "-A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/16 -m comment --comment 'AWS SNAT CHAIN' -j AWS-SNAT-CHAIN-1",
        "-A AWS-SNAT-CHAIN-1 -m comment --comment 'AWS, SNAT' -j SNAT --to-source 10.0.0.10",
        // And still earlier there were no chains at all.
        "-A POSTROUTING ! -d 10.0.0.0/16 -m comment --comment 'AWS, SNAT' -j SNAT --to-source 10.0.0.10",
    ] {
        vpc.node.shell(&format!("iptables-nft -w -t nat {command}"));
    }

    repair(&node(&vpc), &vpc, Extent::All);

    assert!(!vpc.node.exec("iptables-nft-save -t nat").contains("AWS"));
}

/// Antrea leads what pods send into the chain of amazon-vpc-cni-k8s, where it is marked as what leaves by the primary ENI.
#[test]
fn chain_that_another_program_uses_keeps_all_of_amazon_vpc_cni_k8s_where_it_is_until_that_is_gone()
{
    let antrea = "PREROUTING -i antrea-gw0 -m comment --comment 'Antrea: AWS, outbound connections' -j AWS-CONNMARK-CHAIN-0";
    // The rule, and how it is reported.
    let rules = [
        (antrea, antrea.replace('\'', "\""), "Antrea"),
        ("POSTROUTING -s 192.0.2.0/24 -j AWS-SNAT-CHAIN-0", String::new(), "an administrator"),
        ("PREROUTING -i tap0 -g AWS-CONNMARK-CHAIN-0", String::new(), "an administrator"),
    ];
    for (iptables, native) in BACKENDS {
        for (rule, reported, author) in &rules {
            if native && rule.contains("CONNMARK") {
                continue;
            }
            let case = format!("{iptables}, nftables {native}: {rule}");
            let (vpc, pod) = node_of_aws_cni(iptables, native);
            vpc.node.shell(&format!("{iptables} -w -t nat -A {rule}"));
            let node = node(&vpc);
            let before = saved(&vpc, iptables);

            for round in 0..2 {
                let found = node.diff(&mut vpc.node.netlink(), Extent::Translation).unwrap();
                let repaired = repair(&node, &vpc, Extent::All);

                assert_eq!(repaired.conflicts, found.conflicts, "{case}");
                let [conflict] = &found.conflicts[..] else { panic!("{case}: {found:?}") };
                let rule = if reported.is_empty() { rule } else { reported.as_str() };
                assert_eq!(conflict.object, format!("rule of {iptables} in table nat: -A {rule}"));
                assert!(conflict.likely_author.contains(author), "{case}: {conflict}");
                let of_aws_cni =
                    |it: &Difference| matches!(it.object(), vpc_ipam_linux::Object::AwsCniNat(_));
                assert!(!repaired.differences.iter().any(of_aws_cni), "{case}: {repaired:?}");
                assert_eq!(repaired.differences.is_empty(), round > 0, "{case}: {repaired:?}");
                assert_eq!(saved(&vpc, iptables), before, "{case}");
                assert_eq!(
                    vpc.node.try_exec("nft list table ip aws-cni").is_ok(),
                    native,
                    "{case}"
                );
                let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
                assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{case}");
            }

            vpc.node.shell(&format!("{iptables} -w -t nat -D {rule}"));
            let repaired = repair(&node, &vpc, Extent::All);
            assert_eq!(repaired.conflicts, [], "{case}");
            assert!(!saved(&vpc, iptables).contains("AWS"), "{case}");
        }
    }
}

/// Rules of one kind of iptables are invisible to the programs of the other, and their comments to nft.
#[test]
fn what_cannot_be_listed_is_told_and_nothing_of_amazon_vpc_cni_k8s_is_removed() {
    let only = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let missing = PathBuf::from("/nonexistent/nft");
    let chains = "table nat of iptables-nft: has the chains AWS-";
    let cases: [(&str, bool, PathBuf, &[&str], &[&str]); 6] = [
        ("iptables-nft", false, "nft".into(), &[], &[chains, "may be its own"]),
        ("iptables-nft", true, "nft".into(), &["iptables-legacy"], &[chains, "may be its own"]),
        (
            "iptables-legacy",
            false,
            "nft".into(),
            &[],
            &["iptables-legacy has rules in the tables nat, mangle"],
        ),
        (
            "iptables-legacy",
            false,
            "nft".into(),
            &["iptables-nft"],
            &["iptables-legacy has rules in the tables nat, mangle"],
        ),
        ("iptables-nft", true, missing.clone(), &["iptables-nft"], &["its table ip aws-cni"]),
        ("iptables-nft", true, missing, &["iptables"], &["its table ip aws-cni"]),
    ];
    for (iptables, native, nft, names, expected) in cases {
        let case = format!("{iptables}, nftables {native}; with {} {names:?}", nft.display());
        let (vpc, _pod) = node_of_aws_cni(iptables, native);
        let node = node(&vpc);
        let programs = NatPrograms { nft, iptables: only(names) };
        let mut netlink = vpc.node.netlink().with_nat_programs(programs);
        let before = saved(&vpc, iptables);

        for _ in 0..2 {
            let found = node.diff(&mut netlink, Extent::Translation).unwrap();
            let repaired =
                NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap();

            assert_eq!(found.unlisted, repaired.unlisted, "{case}");
            assert_eq!(found.unlisted.len(), expected.len(), "{case}: {:?}", found.unlisted);
            for (reported, expected) in found.unlisted.iter().zip(expected) {
                assert!(
                    reported.starts_with("cannot tell what amazon-vpc-cni-k8s left: "),
                    "{case}: {reported}"
                );
                assert!(
                    reported.contains(expected) && reported.contains("is not installed"),
                    "{case}: {reported}"
                );
            }
            assert!(!found.is_empty(), "{case}");
            assert_eq!(peers(&saved(&vpc, iptables)), peers(&before), "{case}");
            assert_eq!(vpc.node.try_exec("nft list table ip aws-cni").is_ok(), native, "{case}");
        }

        let repaired = repair(&node, &vpc, Extent::All);
        assert_eq!(repaired.unlisted, [] as [&str; 0], "{case}: with all programs");
        assert!(!saved(&vpc, iptables).contains("AWS"), "{case}");
    }
}

/// kube-proxy's rules, say; the node's programs are fewer than its containers'.
#[test]
fn rules_of_iptables_that_nft_shows_not_of_amazon_vpc_cni_k8s_need_no_iptables() {
    let vpc = Vpc::new();
    for command in [
        "-t nat -N KUBE-POSTROUTING",
        "-t nat -A POSTROUTING -m comment --comment 'kubernetes postrouting rules' -j KUBE-POSTROUTING",
        "-t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-t mangle -A PREROUTING -i tap0 -j MARK --set-mark 1",
    ] {
        vpc.node.shell(&format!("iptables-nft -w {command}"));
    }
    let programs = NatPrograms { nft: "nft".into(), iptables: Vec::new() };
    let mut netlink = vpc.node.netlink().with_nat_programs(programs);
    let node = NodeNetwork::new(HostConfig::default(), vpc.host_facts());

    let repaired = NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap();

    assert_eq!(repaired.unlisted, [] as [&str; 0]);
    assert!(node.diff(&mut netlink, Extent::All).unwrap().is_empty());
}

/// Then iptables-save says so, and exits as if all were well.
#[test]
fn table_that_only_nft_can_list_is_looked_at_by_nft() {
    let (vpc, _pod) = node_of_aws_cni("iptables-nft", false);
    vpc.node.nft("add rule ip nat POSTROUTING meta l4proto tcp ct mark 7 jump AWS-SNAT-CHAIN-0");
    assert!(vpc.node.exec("iptables-nft-save").contains("# Table `nat' is incompatible"));
    let node = node(&vpc);

    let repaired = repair(&node, &vpc, Extent::All);

    let [reported] = &repaired.unlisted[..] else { panic!("{repaired:?}") };
    assert!(reported.contains("table nat of iptables-nft: has the chains AWS-"), "{reported}");
    assert!(vpc.node.exec("nft list table ip nat").contains("chain AWS-SNAT-CHAIN-0"));
    assert!(vpc.node.exec("iptables-nft-save").contains("AWS, primary ENI"), "all or nothing");
}

/// Returns what iptables has, without counters and dates.
fn saved(vpc: &Vpc, iptables: &str) -> String {
    let text = vpc.node.exec(&format!("{iptables}-save"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Returns what of it belongs to amazon-vpc-cni-k8s.
fn peers(saved: &str) -> Vec<&str> {
    saved.lines().filter(|line| line.contains("AWS")).collect()
}

/// Describes the node of [`node_of_aws_cni`].
pub fn node(vpc: &Vpc) -> NodeNetwork {
    let mut node = NodeNetwork::new(HostConfig::default(), vpc.host_facts());
    node.enis.insert(eni(1).eni, eni(1));
    node.pods.insert(key("b"), network("b", 1, "10.0.0.101"));
    node
}

/// Connects from a pod to the internet again and again, some times before, all the time during, and some times after.
pub fn sources_seen_during(vpc: &Vpc, pod: &Netns, what: impl FnOnce()) -> BTreeSet<IpAddr> {
    let to: SocketAddr = INTERNET.parse().unwrap();
    let listener = vpc.fabric.namespace.run(|| TcpListener::bind(to)).unwrap().unwrap();
    let (begun, begin) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let listener = &listener;
    let connect_on_and_on = move || {
        let mut seen = BTreeSet::new();
        while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            let _stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
            seen.insert(accept(listener).unwrap().ip());
            let _ = begun.send(());
        }
        seen
    };
    std::thread::scope(|scope| {
        // It goes with this scope, whatever happens in it.
        let stop = stop;
        let connecting = scope.spawn(move || pod.namespace.run(connect_on_and_on).unwrap());
        let some = || assert_eq!(begin.iter().take(5).count(), 5, "cannot connect");
        some();
        what();
        while begin.try_recv().is_ok() {}
        some();
        drop(stop);
        connecting.join().unwrap()
    })
}

/// Builds a node as amazon-vpc-cni-k8s leaves it, with a pod on device 1.
pub fn node_of_aws_cni(iptables: &str, native: bool) -> (Vpc, Netns) {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101"]);
    let node = &vpc.node;
    let sysctl = "sysctl -qw net.ipv4.conf.eth0.rp_filter=2";
    node.exec(sysctl);
    for command in [
        "rule add fwmark 0x80/0x80 lookup main pref 1024",
        "link set eth1 mtu 9001 up",
        "addr add 10.0.0.20/19 dev eth1",
        "route replace 10.0.0.1/32 dev eth1 scope link table 2",
        "route replace default via 10.0.0.1 dev eth1 table 2",
        "route del 10.0.0.0/19 src 10.0.0.20 scope link table main",
        "rule add from 10.0.0.20/32 lookup 2 pref 32765",
    ] {
        node.ip(command);
    }
    let nat = |rule: &str| node.shell(&format!("{iptables} -w -t nat {rule}"));
    let mangle = |rule: &str| node.shell(&format!("{iptables} -w -t mangle {rule}"));
    nat("-N AWS-SNAT-CHAIN-0");
    nat("-A POSTROUTING -m comment --comment 'AWS SNAT CHAIN' -j AWS-SNAT-CHAIN-0");
    nat("-I AWS-SNAT-CHAIN-0 1 -d 10.0.0.0/16 -m comment --comment 'AWS SNAT CHAIN' -j RETURN");
    nat("-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment 'AWS, SNAT' -m addrtype \
         ! --dst-type LOCAL -j SNAT --to-source 10.0.0.10 --random-fully");
    mangle(
        "-A PREROUTING -m comment --comment 'AWS, primary ENI' -i eth0 -m addrtype \
            --dst-type LOCAL --limit-iface-in -j CONNMARK --set-mark 0x80/0x80",
    );
    for links in ["eni+", "vlan+"] {
        mangle(&format!(
            "-A PREROUTING -m comment --comment 'AWS, primary ENI' -i {links} -j CONNMARK \
             --restore-mark --mask 0x80"
        ));
    }
    if native {
        node.nft("add table ip aws-cni; add chain ip aws-cni snat-mark; \
                  add chain ip aws-cni nat-prerouting { type nat hook prerouting priority -90; policy accept; }; \
                  add rule ip aws-cni nat-prerouting fib daddr type local return; \
                  add rule ip aws-cni nat-prerouting iifname \"eni*\" counter jump snat-mark; \
                  add rule ip aws-cni nat-prerouting counter meta mark set ct mark and 0x80; \
                  add rule ip aws-cni snat-mark counter ip daddr 10.0.0.0/16 return; \
                  add rule ip aws-cni snat-mark counter ct mark set ct mark or 0x80");
    } else {
        nat("-N AWS-CONNMARK-CHAIN-0");
        nat(
            "-A PREROUTING -i eni+ -m comment --comment 'AWS, outbound connections' -j AWS-CONNMARK-CHAIN-0",
        );
        nat(
            "-I AWS-CONNMARK-CHAIN-0 1 -d 10.0.0.0/16 -m comment --comment 'AWS CONNMARK CHAIN' -j RETURN",
        );
        nat(
            "-A PREROUTING -m comment --comment 'AWS, CONNMARK' -j CONNMARK --restore-mark --mask 0x80",
        );
        nat(
            "-A AWS-CONNMARK-CHAIN-0 -m comment --comment 'AWS, CONNMARK' -j CONNMARK --set-xmark 0x80/0x80",
        );
    }
    let pod = add(node, &network("b", 1, "10.0.0.101"));
    for (rule, what) in [
        ("to 10.0.0.101 lookup main pref 512", "512"),
        ("from 10.0.0.101 lookup 2 pref 1536", "1536"),
    ] {
        node.ip(&format!("rule del pref {what} protocol 86"));
        node.ip(&format!("rule add {rule}"));
    }
    let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{iptables}: before");
    (vpc, pod)
}
