//! A node that goes back to amazon-vpc-cni-k8s.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_linux::{AwsCniNat, Extent, HandBack, Netlink as _, sweep_rules};

use crate::adopt::{BACKENDS, node as node_network, node_of_aws_cni, sources_seen_during};
use crate::node::{node_with_pods, repair};
use crate::support::{Netns, source_seen};

const INTERNET: &str = "203.0.113.10:80";

/// Returns what of routing carries our protocol, or says that it is ours.
fn ours(node: &Netns) -> Vec<String> {
    let mut found = Vec::new();
    for list in ["rule show", "-6 rule show", "route show table all", "-6 route show table all"] {
        let listed = node.ip(&format!("-d {list}"));
        found.extend(listed.lines().filter(|it| it.contains("proto 86")).map(str::to_owned));
    }
    let links = node.ip("-d link show");
    found.extend(links.lines().filter(|it| it.contains("alias vpc-ipam")).map(str::to_owned));
    let tables = node.exec("nft list tables");
    found.extend(tables.lines().filter(|it| it.contains("vpc-ipam")).map(str::to_owned));
    found
}

#[test]
fn node_of_before_is_there_again_and_no_connection_is_lost_on_the_way() {
    for (iptables, native) in BACKENDS {
        let case = format!("{iptables}, nftables {native}");
        let (vpc, pod) = node_of_aws_cni(iptables, native);
        let saved = || vpc.node.exec(&format!("{iptables}-save"));
        let (rules, nat) = (vpc.node.ip("-d rule"), saved());
        let marks = native.then(|| vpc.node.exec("nft list table ip aws-cni"));
        repair(&node_network(&vpc), &vpc, Extent::All);
        assert_ne!(ours(&vpc.node), [] as [&str; 0], "{case}");
        assert!(!vpc.node.netlink().aws_cni_nat().unwrap().translates(), "{case}");

        let seen = sources_seen_during(&vpc, &pod, || {
            let script = AwsCniNat::restoration(&nat, &saved());
            vpc.node.shell(&format!("{iptables}-restore --noflush <<'END'\n{script}END"));
            if let Some(marks) = &marks {
                vpc.node.shell(&format!("nft -f - <<'END'\n{marks}END"));
            }
            let mut netlink = vpc.node.netlink();
            assert!(netlink.aws_cni_nat().unwrap().translates(), "{case}");
            let found = HandBack::find(&mut netlink).unwrap();
            assert!(!found.is_done(), "{case}");
            found.change_routing(&mut netlink).unwrap();
            found.remove_translation(&mut netlink).unwrap();
        });

        assert_eq!(seen, ["10.0.0.10".parse::<IpAddr>().unwrap()].into(), "{case}");
        assert_eq!(ours(&vpc.node), [] as [&str; 0], "{case}");
        assert!(HandBack::find(&mut vpc.node.netlink()).unwrap().is_done(), "{case}");
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::trim_end).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&vpc.node.ip("-d rule")), sorted(&rules), "{case}");
        // Again: what is there is left, and there is nothing twice.
        assert_eq!(rules_of(&saved()), rules_of(&nat), "{case}");
        let script = AwsCniNat::restoration(&nat, &saved());
        vpc.node.shell(&format!("{iptables}-restore --noflush <<'END'\n{script}END"));
        assert_eq!(rules_of(&saved()), rules_of(&nat), "{case}");

        // And it is taken over as before.
        repair(&node_network(&vpc), &vpc, Extent::All);
        assert!(!saved().contains("AWS"), "{case}");
        let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
        assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{case}");
    }
}

fn rules_of(saved: &str) -> BTreeSet<String> {
    saved.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect()
}

#[test]
fn pods_of_ours_keep_their_routes_and_rules_and_those_that_are_gone_do_not() {
    let (vpc, node, [a, b]) = node_with_pods();
    repair(&node, &vpc, Extent::All);
    let mut netlink = vpc.node.netlink();
    drop(b);
    crate::node::wait_until(|| vpc.node.json("route show 10.0.0.101").is_empty());
    assert_eq!(vpc.node.rules(1536).len(), 1, "rules do not go with the namespace");

    let found = HandBack::find(&mut netlink).unwrap();
    found.change_routing(&mut netlink).unwrap();

    assert_eq!(vpc.node.rules(512), ["all 10.0.0.100 main"]);
    assert_eq!(vpc.node.rules(1536), [] as [&str; 0]);
    let route = &vpc.node.json("-d route show 10.0.0.100")[0];
    assert_eq!((&route["protocol"], &route["scope"]), (&"boot".into(), &"link".into()));
    let table = vpc.node.json("-d route show table 2");
    assert!(table.iter().all(|it| it["protocol"] == "boot") && table.len() == 2, "{table:?}");
    // Address translation stays until that of the other daemon is there.
    assert!(vpc.node.exec("nft list tables").contains("table ip vpc-ipam"));
    found.remove_translation(&mut netlink).unwrap();
    assert_eq!(ours(&vpc.node), [] as [&str; 0]);
    let seen = source_seen(&a.namespace, &vpc.fabric.namespace, "10.0.0.30:80");
    assert_eq!(seen.as_deref(), Some("10.0.0.100"));
}

#[test]
fn rules_of_pods_that_are_gone_are_swept_and_of_no_other() {
    let (vpc, _, _pods) = node_with_pods();
    for rule in [
        "to 10.0.0.150 lookup main pref 512",
        "from 10.0.0.150 lookup 2 pref 1536",
        "to 10.0.0.151 lookup main pref 512",
        "to 10.0.0.150 lookup main pref 512 proto static",
    ] {
        vpc.node.ip(&format!("rule add {rule}"));
    }
    let of_pods = ["10.0.0.100", "10.0.0.101", "10.0.0.150"];
    let of_pods = of_pods.map(|it| it.parse::<IpAddr>().unwrap()).into();
    assert_eq!(sweep_rules(&mut vpc.node.netlink(), &of_pods).unwrap(), 2);
    let left = ["10.0.0.100", "10.0.0.101", "10.0.0.151", "10.0.0.150"];
    let mut rules = vpc.node.rules(512);
    rules.sort();
    let mut left = left.map(|it| format!("all {it} main"));
    left.sort();
    assert_eq!(rules, left);
    assert_eq!(vpc.node.rules(1536), ["10.0.0.101 - 2"]);
}
