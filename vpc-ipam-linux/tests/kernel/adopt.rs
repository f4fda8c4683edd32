//! Nodes that amazon-vpc-cni-k8s looked after until now.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use vpc_ipam_linux::{Beside, Extent, HostConfig, Node, eni as enis};

use crate::node::{key, repair};
use crate::support::{Netns, Vpc, accept, add, eni, eni_mac, network, source_seen};

const INTERNET: &str = "203.0.113.10:80";

/// The program that makes its iptables, and where it marks connections.
const BACKENDS: [(&str, bool); 3] =
    [("iptables-nft", true), ("iptables-nft", false), ("iptables-legacy", false)];

#[test]
fn what_the_peer_made_is_replaced_without_a_gap() {
    for (iptables, native) in BACKENDS {
        let case = format!("{iptables}, nftables {native}");
        let (vpc, pod) = node_of_the_peer(iptables, native);
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
fn what_the_peer_made_stays_where_nothing_is_to_be_adopted() {
    for (iptables, native) in BACKENDS {
        let (vpc, pod) = node_of_the_peer(iptables, native);
        let before = vpc.node.exec(&format!("{iptables}-save -t nat"));
        let untagged = |vpc: &Vpc| {
            let rules = vpc.node.json("-d rule");
            rules.iter().filter(|rule| rule["protocol"] == "unspec").count()
        };
        let rules = untagged(&vpc);
        let node = node(&vpc);
        let repair_beside = || {
            let mut netlink = Beside(vpc.node.netlink());
            enis::set_up(&mut netlink, &eni(1)).unwrap();
            Node::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap().differences
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
fn pods_of_the_peer_that_nobody_knows_keep_their_rules_until_they_are_gone() {
    let (vpc, pod) = node_of_the_peer("iptables-nft", true);
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
fn chains_of_earlier_versions_of_the_peer_go_too() {
    let vpc = Vpc::new();
    // One chain for each range, each of which jumps to the next.
    for command in [
        "-N AWS-SNAT-CHAIN-0",
        "-N AWS-SNAT-CHAIN-1",
        "-A POSTROUTING -j AWS-SNAT-CHAIN-0",
        "-A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/16 -j AWS-SNAT-CHAIN-1",
        "-A AWS-SNAT-CHAIN-1 -j SNAT --to-source 10.0.0.10",
    ] {
        vpc.node.exec(&format!("iptables-nft -w -t nat {command}"));
    }

    repair(&node(&vpc), &vpc, Extent::All);

    assert!(!vpc.node.exec("iptables-nft-save -t nat").contains("AWS"));
}

fn node(vpc: &Vpc) -> Node {
    let mut node = Node::new(HostConfig::default(), vpc.host_facts());
    node.enis.insert(eni(1).eni, eni(1));
    node.pods.insert(key("b"), network("b", 1, "10.0.0.101"));
    node
}

/// Connects from a pod to the internet again and again, some times before, all the time during, and some times after.
fn sources_seen_during(vpc: &Vpc, pod: &Netns, what: impl FnOnce()) -> BTreeSet<IpAddr> {
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

/// Builds a node as the peer leaves it, with a pod on device 1.
fn node_of_the_peer(iptables: &str, native: bool) -> (Vpc, Netns) {
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
