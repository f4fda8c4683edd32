//! That the stand-in for amazon-vpc-cni-k8s leaves a node as the facts about that program say, mode by mode, so that what is shown on such
//! a node is worth something.

use core::time::Duration;
use std::collections::BTreeMap;

use vpc_ipam_tests::flows::Flows;
use vpc_ipam_tests::old_node::{Iptables, MODES, OldNode, Pod};

use crate::runtime::wait_until;

const PODS: usize = 6;

#[test]
fn node_of_amazon_vpc_cni_k8s_is_as_it_says_in_every_mode() {
    for mode in &MODES {
        let node = OldNode::start(mode, "m5.xlarge", 3);
        let runtime = node.runtime();
        let mut pods: Vec<Pod> = (0..PODS).map(|n| runtime.add(&format!("p{n}"), &[])).collect();

        let mark = if mode.name == "mark-and-names" { "0x100" } else { "0x80" };
        let rules = node.shell(if mode.ipv6() { "ip -6 rule" } else { "ip rule" });
        let has = |rule: &str| rules.lines().any(|line| line == rule);
        assert!(
            has(&format!("1024:\tfrom all fwmark {mark}/{mark} lookup main")),
            "{}: {rules}",
            mode.name
        );
        for pod in &pods {
            let own = pod.address;
            assert!(has(&format!("512:\tfrom all to {own} lookup main")), "{}: {rules}", mode.name);
            let table = pod.table();
            let led = rules.lines().any(|line| line == format!("1536:\tfrom {own} lookup {table}"));
            assert_eq!(led, table != 254, "{}: {own} {rules}", mode.name);
        }
        let tables: BTreeMap<u32, usize> = pods.iter().fold(BTreeMap::new(), |mut count, pod| {
            *count.entry(pod.table()).or_default() += 1;
            count
        });
        let expected: &[u32] = match mode {
            mode if mode.ipv6() => &[254],
            mode if mode.custom_networking() => &[2, 3],
            _ => &[2, 3, 254],
        };
        assert_eq!(tables.keys().copied().collect::<Vec<_>>(), expected, "{}", mode.name);
        let entries = node.checkpoint_addresses();
        let made = pods.iter().map(|pod| (pod.container.clone(), pod.address)).collect();
        assert_eq!(entries, made, "{}", mode.name);
        translation_is_of_mode(&node, mark);

        // A start of it changes nothing about that, and drops the pod that is gone.
        let state = |node: &OldNode| {
            let list = "ip rule; ip -6 rule; ip route show table all; ip -6 route; iptables-save -t nat; \
                        iptables-save -t mangle; nft -s list table ip aws-cni 2>&1 || true";
            let text = node.shell(list);
            // The times and counters of iptables-save; and what the kernel adds of its own as links forward.
            let noise = |line: &str| ["#", ":", "anycast "].iter().any(|it| line.starts_with(it));
            let lines = text.lines().filter(|line| !noise(line));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let before = state(&node);
        let mut node = node;
        node.stop_old_daemon();
        node.start_old_daemon();
        assert_eq!(state(&node), before, "{}: started again", mode.name);
        node.stop_old_daemon();
        let gone = pods.remove(0);
        let (address, link) = (gone.address, gone.link.clone());
        runtime.remove_sandbox(gone);
        wait_until("its link to go", || {
            let links = node.shell("ip -o link");
            if links.contains(&link) { Err(links) } else { Ok(()) }
        });
        node.start_old_daemon();
        assert_eq!(node.checkpoint_addresses().len(), PODS - 1, "{}", mode.name);
        let rules = node.shell(if mode.ipv6() { "ip -6 rule" } else { "ip rule" });
        assert!(!rules.contains(&format!("{address} ")), "{}: {rules}", mode.name);
        for pod in pods {
            runtime.remove(pod);
        }
        assert_eq!(node.checkpoint_addresses(), BTreeMap::new(), "{}", mode.name);
        drop(node);
    }
}

/// What the rows of its address translation read like.
fn translation_is_of_mode(node: &OldNode, mark: &str) {
    let mode = node.mode;
    let nat = node.shell("iptables-save -t nat");
    let nft = node.shell("nft list tables");
    let table = nft.lines().any(|line| line == "table ip aws-cni");
    if mode.ipv6() || mode.external_snat() {
        assert!(!nat.contains("-j SNAT") && !table, "{}: {nat} {nft}", mode.name);
        return;
    }
    let by_iptables = mode.iptables == Iptables::Legacy || mode.name == "iptables-nft";
    assert_eq!(table, !by_iptables, "{}: {nft}", mode.name);
    assert_eq!(nat.contains("AWS-CONNMARK-CHAIN-0"), by_iptables, "{}: {nat}", mode.name);
    let chain: Vec<&str> =
        nat.lines().filter(|line| line.starts_with("-A AWS-SNAT-CHAIN-0 ")).collect();
    let last = chain.last().unwrap();
    assert!(last.contains("-j SNAT --to-source 10.0."), "{}: {nat}", mode.name);
    let random = if mode.name == "mark-and-names" { "--random" } else { "--random-fully" };
    assert!(last.ends_with(random), "{}: {last}", mode.name);
    let ranges = match mode.name {
        "custom-networking" => 2,
        "excluded" => 3,
        _ => 1,
    };
    assert_eq!(chain.len(), ranges + 1, "{}: {nat}", mode.name);
    let mangle = node.shell("iptables-save -t mangle");
    let primary = format!(
        "-A PREROUTING -i eth0 -m comment --comment \"AWS, primary ENI\" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark {mark}/{mark}"
    );
    assert_eq!(
        mangle.lines().filter(|line| *line == primary).count(),
        1,
        "{}: {mangle}",
        mode.name
    );
}

#[test]
fn traffic_of_a_node_of_amazon_vpc_cni_k8s_arrives_in_every_mode() {
    for mode in &MODES {
        let node = OldNode::start(mode, "m5.xlarge", 3);
        let pods = pods_with_a_port(&node, 6);
        let flows = Flows::start(&node.traffic(&pods));
        std::thread::sleep(Duration::from_millis(300));
        for tally in flows.stop() {
            let fine = tally.sent > 0 && tally.lost == 0 && tally.wrong.is_empty();
            assert!(fine, "{}: {tally}", mode.name);
        }
    }
}

/// Adds pods, one of them with ports of the node.
pub(crate) fn pods_with_a_port(node: &OldNode, count: usize) -> Vec<Pod> {
    let runtime = node.runtime();
    let ports = OldNode::host_ports();
    let pod = |n: usize| runtime.add(&format!("p{n}"), if n == 0 { &ports } else { &[] });
    (0..count).map(pod).collect()
}
