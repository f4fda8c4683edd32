use core::cell::{Cell, RefCell};

use vpc_ipam_core::PodKey;
use vpc_ipam_linux::pod::PodNetwork;
use vpc_ipam_linux::{
    AbsentLink, ApplyError, Extent, HostConfig, KernelChange, NatPrograms, Netlink as _,
    NetlinkError, NodeNetwork, commands,
};

use crate::support::{Netns, Vpc, add, add_to, eni, eni_mac, network};

#[test]
fn node_that_was_repaired_needs_no_repair() {
    let (vpc, node, _pods) = node_with_pods();

    for extent in [Extent::All, Extent::Routing] {
        assert!(node.diff(&mut vpc.node.netlink(), extent).unwrap().is_empty(), "{extent:?}");
        let repaired = repair(&node, &vpc, extent);
        assert_eq!((repaired.differences.len(), repaired.absent.len()), (0, 0), "{extent:?}");
    }
}

#[test]
fn damage_is_found_told_and_repaired() {
    let (vpc, node, pods) = node_with_pods();
    let before = (vpc.node.snapshot(), vpc.nat());
    let veth = &node.pods[&key("b")].interfaces[0].host.name;
    let cases = [
        ("rule del pref 512 to 10.0.0.100".to_owned(), 1),
        ("rule del pref 1536".to_owned(), 1),
        ("rule del pref 1024".to_owned(), 1),
        ("rule del pref 32765".to_owned(), 1),
        ("rule add from 10.0.0.101 lookup 9 pref 1536".to_owned(), 1),
        ("route del 10.0.0.101".to_owned(), 1),
        ("route flush table 2".to_owned(), 2),
        ("route replace default via 10.0.0.7 dev eth1 table 2 onlink".to_owned(), 1),
        ("link set eth1 down".to_owned(), 3),
        ("link set eth1 mtu 1500".to_owned(), 1),
        ("addr del 10.0.0.20/19 dev eth1".to_owned(), 3),
        ("addr add 10.0.0.99/19 dev eth1".to_owned(), 2),
        (format!("link set {veth} down"), 2),
        ("rule flush".to_owned(), 5),
    ];
    for (damage, count) in cases {
        vpc.node.ip(&damage);
        if damage == "rule flush" {
            // It takes the kernel's own along.
            vpc.node.ip("rule add lookup main pref 32766");
            vpc.node.ip("rule add lookup default pref 32767");
        }
        let found = node.diff(&mut vpc.node.netlink(), Extent::Routing).unwrap();
        assert_eq!(found.differences.len(), count, "{damage}: {:?}", found.differences);

        let repaired = repair(&node, &vpc, Extent::Routing);

        assert_eq!(repaired.differences, found.differences, "{damage}");
        assert_eq!(
            (sorted(vpc.node.snapshot()), vpc.nat()),
            (sorted(before.0.clone()), before.1.clone()),
            "{damage}"
        );
    }
    drop(pods);
}

#[test]
fn printed_commands_do_what_a_repair_does() {
    let (vpc, node, _pods) = node_with_pods();
    let before = vpc.node.snapshot();
    let damages = [
        "rule del pref 1536",
        "rule add from 10.0.0.101 lookup 9 pref 1536",
        "rule del pref 1024",
        "route flush table 2",
        "addr add 10.0.0.99/19 dev eth1",
        "link set eth1 mtu 1500",
        "route del 10.0.0.101",
    ];
    for damage in damages {
        vpc.node.ip(damage);
    }
    vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    let changes = node.diff(&mut vpc.node.netlink(), Extent::All).unwrap().changes;

    let script = commands(&changes);

    assert!(script.len() >= damages.len(), "{script:?}");
    for line in &script {
        vpc.node.exec(line);
    }
    assert_eq!(vpc.node.snapshot(), before, "{script:?}");
    assert!(node.diff(&mut vpc.node.netlink(), Extent::All).unwrap().is_empty());
}

#[test]
fn printed_script_of_address_translation_is_the_one_that_is_applied() {
    let (vpc, node, _pods) = node_with_pods();
    let made = without_digest(&vpc.nat().unwrap());
    vpc.node.nft("flush table ip vpc-ipam");
    let changes = node.diff(&mut vpc.node.netlink(), Extent::All).unwrap().changes;
    let script = commands(&changes);
    assert_eq!(script.len(), 1, "{script:?}");

    vpc.node.shell(&script[0]);

    assert_eq!(without_digest(&vpc.nat().unwrap()), made);
}

#[test]
fn rules_of_a_pod_whose_namespace_died_are_removed() {
    let (vpc, node, [a, b]) = node_with_pods();
    drop(b);
    wait_until_gone(&vpc.node, &node.pods[&key("b")].interfaces[0].host.name);
    assert_eq!(vpc.node.rules(1536).len(), 1, "rules do not go with the namespace");

    let repaired = repair(&node, &vpc, Extent::Routing);

    assert_eq!(repaired.differences.len(), 2, "{repaired:?}");
    assert!(matches!(&repaired.absent[..], [AbsentLink::Pod(pod, _)] if *pod == key("b")));
    assert_eq!(vpc.node.rules(1536), [] as [&str; 0]);
    assert_eq!(vpc.node.rules(512), ["all 10.0.0.100 main"]);
    drop(a);
}

#[test]
fn rules_of_a_pod_that_nobody_knows_go_with_its_link_only() {
    let (vpc, mut node, [a, b]) = node_with_pods();
    // As after the loss of the state file.
    node.pods.clear();
    let before = vpc.node.snapshot();
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences, []);
    assert_eq!(vpc.node.snapshot(), before);

    drop(b);
    wait_until(|| vpc.node.json("route show 10.0.0.101").is_empty());
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences.len(), 2);

    assert_eq!(vpc.node.rules(512), ["all 10.0.0.100 main"]);
    assert_eq!(vpc.node.rules(1536), [] as [&str; 0]);
    drop(a);
}

#[test]
fn rules_of_an_eni_that_vanished_are_removed() {
    let (vpc, mut node, pods) = node_with_pods();
    vpc.fabric.ip("link del eth1");
    let repaired = repair(&node, &vpc, Extent::Routing);
    assert!(matches!(&repaired.absent[..], [AbsentLink::Eni(_, mac)] if *mac == eni_mac(1)));
    assert_eq!(vpc.node.rules(32765), [] as [&str; 0]);

    // One that is not even known.
    vpc.node.ip("rule add from 10.0.0.77 lookup 5 pref 32765 protocol 86");
    vpc.node.ip("rule add from 10.0.0.10 lookup 5 pref 32765 protocol 86");
    node.enis.clear();
    repair(&node, &vpc, Extent::Routing);
    assert_eq!(vpc.node.rules(32765), ["10.0.0.10 - 5"], "an address that is still there");
    drop(pods);
}

#[test]
fn pods_that_come_and_go_meanwhile_are_left_alone() {
    let (vpc, node, [_a, b]) = node_with_pods();
    vpc.node.ip("rule del pref 512 to 10.0.0.101");
    let mut leaving = node.clone();
    leaving.busy.insert("10.0.0.101".parse().unwrap());
    leaving.pods.remove(&key("b"));
    // Known when the repair begins, on its way out when it has read.
    let first = RefCell::new(Some(node));
    let latest = || first.take().unwrap_or_else(|| leaving.clone());

    let repaired = NodeNetwork::repair(&latest, &mut vpc.node.netlink(), Extent::Routing).unwrap();

    assert_eq!(repaired.differences, []);
    assert_eq!(vpc.node.rules(1536).len(), 1, "the plugin is at work on it");
    drop(b);
}

/// nft cannot write a quotation mark, and iptables takes a plus sign at the end for any ending.
#[test]
fn primary_link_of_a_name_that_rules_cannot_have_is_told_and_all_else_is_repaired() {
    for name in ["wan+", "w\"an"] {
        let (vpc, node, _pods) = node_with_pods();
        let nat = vpc.nat();
        vpc.node.run("ip", &["link", "set", "eth0", "name", name]);
        let rp_filter = format!("net/ipv4/conf/{name}/rp_filter");
        vpc.node.run("sysctl", &["-qw", &format!("{rp_filter}=1")]);
        vpc.node.ip("rule del pref 1024");
        let check = || vpc.node.exec("nft --stateless list table ip vpc-ipam-sources");
        let made = check();
        vpc.node.nft("delete table ip vpc-ipam-sources");

        let repaired = repair(&node, &vpc, Extent::All);

        let said = repaired.absent.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(said.contains(&format!("its link is named {name:?}")), "{name}: {said}");
        assert_eq!(vpc.node.sysctl(&rp_filter), "2", "{name}");
        assert_eq!(vpc.node.rules(1024).len(), 1, "{name}");
        assert_eq!(vpc.nat(), nat, "{name}");
        assert_eq!(check(), made, "{name}");
        let differences = node.diff(&mut vpc.node.netlink(), Extent::All).unwrap();
        assert_eq!(differences.differences, [], "{name}");
        assert!(!differences.is_empty(), "{name}");

        vpc.node.run("ip", &["link", "set", name, "name", "eth0"]);
        assert!(repair(&node, &vpc, Extent::All).absent.is_empty(), "{name}");
    }
}

/// A pod that a plugin is at work on has rules and no route for a moment, as one has that is gone.
#[test]
fn rules_of_a_pod_that_a_plugin_is_at_work_on_are_left_alone() {
    let (vpc, node, [_a, b]) = node_with_pods();
    let address = "10.0.0.101".parse().unwrap();
    vpc.node.ip("route del 10.0.0.101");
    let known = node.clone();
    let mut gone = node;
    gone.pods.remove(&key("b"));
    let mut busy = gone.clone();
    busy.busy.insert(address);
    // What the daemon knows before the kernel is read, and after.
    for (case, before, after) in [
        ("is being added or removed", &busy, &busy),
        ("was before it was read", &busy, &gone),
        ("is since it was read", &gone, &busy),
        ("came meanwhile", &gone, &known),
        ("went meanwhile", &known, &gone),
        ("came meanwhile, and was being added", &busy, &known),
    ] {
        let snapshot = vpc.node.snapshot();
        let asked = Cell::new(0);
        let latest = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 { before.clone() } else { after.clone() }
        };

        let repaired =
            NodeNetwork::repair(&latest, &mut vpc.node.netlink(), Extent::Routing).unwrap();

        assert_eq!(repaired.differences, [], "{case}");
        assert_eq!(vpc.node.snapshot(), snapshot, "{case}");
    }
    // Nothing is left alone for good.
    assert_eq!(repair(&gone, &vpc, Extent::Routing).differences.len(), 2);
    assert_eq!(repair(&known, &vpc, Extent::Routing).differences.len(), 3);
    drop(b);
}

/// The repair makes a rule again just when the plugin removes all other rules.
#[test]
fn what_a_repair_made_of_a_pod_that_went_meanwhile_is_removed() {
    let (vpc, node, [_a, b]) = node_with_pods();
    vpc.node.ip("rule del pref 512 to 10.0.0.101");
    let mut gone = node.clone();
    gone.pods.remove(&key("b"));
    let asked = Cell::new(0);
    let latest = || {
        asked.set(asked.get() + 1);
        match asked.get() {
            1 | 2 => node.clone(),
            3 => {
                vpc.node.ip("route del 10.0.0.101");
                vpc.node.ip("rule del pref 1536");
                gone.clone()
            }
            _ => gone.clone(),
        }
    };

    NodeNetwork::repair(&latest, &mut vpc.node.netlink(), Extent::Routing).unwrap();

    assert_eq!(vpc.node.rules(512), ["all 10.0.0.100 main"]);
    assert_eq!(vpc.node.rules(1536), [] as [&str; 0]);
    drop(b);
}

#[test]
fn objects_of_others_are_never_touched() {
    let (vpc, node, _pods) = node_with_pods();
    let foreign = [
        "rule add from 10.9.9.9 lookup 30200 pref 30200",
        "rule add to 10.9.9.9 lookup main pref 512 protocol 4",
        "rule add from 10.9.9.8 lookup 77 pref 1536 protocol 99",
        "rule add fwmark 0x4000/0x4000 lookup main pref 1024 protocol 99",
        "rule add from 10.9.9.9 to 10.8.0.0/16 lookup 5 pref 32765 protocol 4",
        // What is made without a priority gets the priority of amazon-vpc-cni-k8s for ENIs, and no protocol as its rules have none.
        "rule add from 192.0.2.7 lookup 5",
        "rule add from 192.0.2.7 lookup 5 pref 1536",
        "rule add to 192.0.2.7 lookup main pref 512",
        "rule add from 10.0.0.88 lookup 77 pref 32765",
        "route add default dev eth0 table 77",
        "rule add to 10.0.0.88 lookup 77 pref 512",
        "rule add iif tun0 lookup 5 pref 10",
        "rule add iif tun0 lookup 77 pref 10",
        "rule add iif eni00112233445 lookup 77 pref 10",
        "route add 192.0.2.0/24 dev eth1 table 2 proto static",
        "route add 192.0.2.7/32 dev eth0 proto static",
        "link add kept type bridge",
        "addr add 192.0.2.1/24 dev kept",
    ];
    for command in foreign {
        vpc.node.ip(command);
    }
    vpc.node.nft("table ip kube-proxy { chain nat { type nat hook prerouting priority -100; }; }");
    let before = (vpc.node.snapshot(), vpc.node.exec("nft list ruleset"));

    assert_eq!(repair(&node, &vpc, Extent::All).differences, []);

    assert_eq!((vpc.node.snapshot(), vpc.node.exec("nft list ruleset")), before);
}

#[test]
fn rules_that_amazon_vpc_cni_k8s_left_of_pods_and_enis_that_are_gone_are_removed() {
    let (vpc, node, _pods) = node_with_pods();
    let before = vpc.node.snapshot();
    for rule in [
        "from 10.0.0.77 lookup 5 pref 32765",
        "from 10.0.0.88 lookup 2 pref 1536",
        "to 10.0.0.88 lookup main pref 512",
        "iif eni00112233445 lookup 107 pref 10",
        "iif vlan.eth.7 lookup 107 pref 10",
    ] {
        vpc.node.ip(&format!("rule add {rule}"));

        assert_eq!(repair(&node, &vpc, Extent::Routing).differences.len(), 1, "{rule}");

        assert_eq!(vpc.node.snapshot(), before, "{rule}");
    }
}

#[test]
fn pod_of_another_prefix_and_mtu_keeps_them() {
    let (vpc, mut node, pods) = node_with_pods();
    let odd = {
        let lease = crate::support::lease("odd", "odd", 0, 1, "10.0.0.103");
        let prefix = "pod".parse().unwrap();
        let settings = vpc_ipam_linux::pod::PodSettings::new(prefix, 1400);
        vpc_ipam_linux::pod::desired(&lease, &settings).unwrap()
    };
    let inside = add(&vpc.node, &odd);
    node.pods.insert(key("odd"), network("odd", 1, "10.0.0.103"));
    assert_eq!(repair(&node, &vpc, Extent::All).differences, []);

    vpc.node.ip("route del 10.0.0.103");
    assert_eq!(repair(&node, &vpc, Extent::All).differences.len(), 1);

    let route = &vpc.node.json("route show 10.0.0.103")[0];
    assert_eq!(route["dev"], odd.interfaces[0].host.name.as_str());
    drop((inside, pods));
}

#[test]
fn repair_of_routing_starts_no_program_and_reads_no_list_twice() {
    let (vpc, node, _pods) = node_with_pods();
    // Without nft it could not look at the address translation.
    let mut netlink = vpc
        .node
        .netlink()
        .with_nat_programs(NatPrograms { nft: "/nonexistent/nft".into(), iptables: Vec::new() });
    NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::Routing).unwrap();
    NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap_err();
    assert!(netlink.link("eth1").unwrap().is_some());
}

#[test]
fn routing_is_repaired_although_address_translation_cannot_be_read() {
    let (vpc, node, _pods) = node_with_pods();
    let before = vpc.node.snapshot();
    vpc.node.ip("rule del pref 1024");
    vpc.node.ip("rule del pref 1536");
    let mut netlink = vpc
        .node
        .netlink()
        .with_nat_programs(NatPrograms { nft: "/nonexistent/nft".into(), iptables: Vec::new() });

    let error = NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap_err();

    assert!(matches!(error, ApplyError::Netlink(NetlinkError::Nat { .. })), "{error:?}");
    assert_eq!(vpc.node.snapshot(), before);
}

pub fn key(name: &str) -> PodKey {
    PodKey::new("aws-cni", name, "eth0").unwrap()
}

/// Returns a node with an ENI, a pod on the primary ENI and one on the other.
pub fn node_with_pods() -> (Vpc, NodeNetwork, [Netns; 2]) {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101", "10.0.0.103"]);
    let mut node = NodeNetwork::new(HostConfig::default(), vpc.host_facts());
    node.enis.insert(eni(1).eni, eni(1));
    let pods: [(&str, PodNetwork); 2] =
        [("a", network("a", 0, "10.0.0.100")), ("b", network("b", 1, "10.0.0.101"))];
    repair(&node, &vpc, Extent::All);
    let namespaces = pods.map(|(name, network)| {
        let namespace = Netns::new();
        add_to(&vpc.node, &namespace, &network);
        node.pods.insert(key(name), network);
        namespace
    });
    (vpc, node, namespaces)
}

pub fn repair(node: &NodeNetwork, vpc: &Vpc, extent: Extent) -> vpc_ipam_linux::Repaired {
    NodeNetwork::repair(&|| node.clone(), &mut vpc.node.netlink(), extent)
        .unwrap_or_else(|error| panic!("{}", crate::support::chain(&error)))
}

/// Several rules of one priority stand in the order in which they were made.
fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn without_digest(listing: &str) -> String {
    let (before, after) = listing.split_once("\tchain sealed-").unwrap_or((listing, ""));
    let after = after.split_once("}\n").map_or("", |(_, after)| after);
    format!("{}{after}", before.trim_end()).replace('\n', "").trim().to_owned()
}

fn wait_until_gone(node: &Netns, link: &str) {
    wait_until(|| node.netlink().link(link).unwrap().is_none());
}

/// Waits for the kernel to tear a namespace down, which it does in the background.
pub fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the kernel took too long");
}

#[test]
fn changes_are_none_where_nothing_differs() {
    let (vpc, node, _pods) = node_with_pods();
    let changes = node.diff(&mut vpc.node.netlink(), Extent::All).unwrap().changes;
    assert_eq!(changes, [] as [KernelChange; 0]);
}
