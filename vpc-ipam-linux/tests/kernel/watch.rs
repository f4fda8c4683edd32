use core::time::Duration;
use std::collections::BTreeMap;

use tokio::time::timeout;
use vpc_ipam_core::Lease;
use vpc_ipam_linux::pod::{self, PodNetwork, PodSettings};
use vpc_ipam_linux::{Extent, KernelEvent, Netlink as _, NodeNetwork, SeenLink, Table, Watch};

use crate::cards::on_card;
use crate::node::{key, node_with_pods, repair};
use crate::support::{
    INTERNET, Vpc, add, add_to, eni, eni_mac, lease, network, network_of, remove, settings,
    source_seen,
};

/// Long enough for a machine that is busy with other things; it passes only where something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn damage_is_heard_of_and_is_what_concerns_the_node() {
    let (vpc, mut node, _pods) = node_with_pods();
    let veth = node.pods[&key("b")].interfaces[0].host.name.clone();
    node.remember(&repair(&node, &vpc, Extent::All));
    let before = sorted(&vpc);
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    let (routing, kernel) = (Extent::Routing, Extent::Kernel);
    for (damage, extent) in [
        ("ip rule del pref 512 to 10.0.0.100", routing),
        ("ip rule del pref 1536", routing),
        ("ip rule del pref 1024", routing),
        ("ip rule del pref 32765", routing),
        ("ip rule add from 10.0.0.101 lookup 9 pref 1536", routing),
        ("ip route del 10.0.0.101", routing),
        ("ip route replace blackhole 10.0.0.101", routing),
        ("ip route replace prohibit 10.0.0.100", routing),
        ("ip route replace 10.0.0.101 dev eth0 proto static", routing),
        ("ip route replace 10.0.0.101 via 10.0.0.1 dev eth0", routing),
        ("ip route replace 10.0.0.101 nexthop dev eth0 nexthop dev eth1", routing),
        ("ip route flush table 2", routing),
        ("ip route replace default via 10.0.0.7 dev eth1 table 2 onlink", routing),
        ("ip route replace default via 10.0.0.1 dev eth0 table 2", routing),
        ("ip route replace blackhole default table 2", routing),
        ("ip route replace unreachable 10.0.0.1 table 2", routing),
        ("ip route replace throw default table 2", routing),
        ("ip link set eth1 down", routing),
        ("ip link set eth1 mtu 1500", routing),
        ("ip link set eth0 mtu 1500", routing),
        ("ip addr del 10.0.0.20/19 dev eth1", routing),
        ("ip addr add 10.0.0.99/19 dev eth1", routing),
        (&format!("ip link set {veth} down"), kernel),
        ("sysctl -qw net.ipv4.conf.eth0.rp_filter=1", routing),
        ("sysctl -qw net.ipv4.conf.eth0.rp_filter=0", routing),
        ("sysctl -qw net.ipv4.ip_forward=0", routing),
        ("sysctl -qw net.ipv4.conf.eth0.forwarding=0", routing),
        ("sysctl -qw net.ipv4.conf.eth1.forwarding=0", kernel),
        (&format!("sysctl -qw net.ipv4.conf.{veth}.forwarding=0"), kernel),
        (&format!("sysctl -qw net.ipv6.conf.{veth}.forwarding=1"), kernel),
        ("nft flush chain ip vpc-ipam translate", Extent::Translation),
        ("nft delete table ip vpc-ipam", Extent::Translation),
        ("nft flush ruleset", Extent::Translation),
        ("nft add table ip aws-cni", Extent::Translation),
        ("ip rule flush", routing),
    ] {
        vpc.node.exec(damage);

        let concerned = wait_for_concern(&mut watch, &mut node, damage).await;

        assert_eq!(concerned, extent, "{damage}");
        let repaired = repair(&node, &vpc, extent);
        assert_ne!(repaired.differences, [], "{damage}");
        node.remember(&repaired);
        if damage != "ip rule flush" {
            assert_eq!(sorted(&vpc), before, "{damage}");
        }
        for event in drain(&mut watch).await {
            node.learn(&event);
        }
    }
}

/// A live rename, and one that takes the link down for it: the operating system's own part of it aside.
#[tokio::test]
async fn primary_link_is_followed_when_it_is_renamed() {
    let (vpc, mut node, pods) = node_with_pods();
    node.remember(&repair(&node, &vpc, Extent::All));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for (renaming, name) in [
        ("ip link set eth0 name ens5", "ens5"),
        (
            "ip link set ens5 down; ip link set ens5 name net0; ip link set net0 up; \
             ip route add default via 10.0.0.1 dev net0",
            "net0",
        ),
    ] {
        vpc.node.shell(renaming);

        // Whatever else is heard of it before.
        while wait_for_concern(&mut watch, &mut node, renaming).await != Extent::All {}
        node.remember(&repair(&node, &vpc, Extent::All));

        let expected = format!("iifname \"{name}\" fib daddr . iif");
        assert!(vpc.nat().unwrap().contains(&expected), "{name}: {:?}", vpc.nat());
        let rp_filter = format!("net/ipv4/conf/{name}/rp_filter");
        assert_eq!(vpc.node.sysctl(&rp_filter), "2", "{name}");
        let seen = source_seen(&pods[1].namespace, &vpc.fabric.namespace, INTERNET);
        assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{name}");
        for event in drain(&mut watch).await {
            node.learn(&event);
        }
        assert_eq!(repair(&node, &vpc, Extent::All).differences, [], "{name}");
    }
}

#[tokio::test]
async fn what_concerns_nobody_wakes_nobody() {
    let (vpc, mut node, _pods) = node_with_pods();
    node.remember(&repair(&node, &vpc, Extent::All));
    let veth = node.pods[&key("b")].interfaces[0].host.name.clone();
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for command in [
        "ip rule add from 10.9.9.9 lookup 77 pref 30200",
        "ip rule del pref 30200",
        "ip link add other type bridge",
        "ip link set other up",
        "ip addr add 192.0.2.1/24 dev other",
        "ip addr add 10.0.0.77/32 dev other",
        "ip addr del 192.0.2.1/24 dev other",
        "ip addr add 192.0.2.2/32 dev lo",
        "ip addr add 192.0.2.3/24 dev eth0",
        "ip addr del 192.0.2.3/24 dev eth0",
        "sysctl -qw net.ipv4.conf.other.rp_filter=1",
        "sysctl -qw net.ipv4.conf.other.forwarding=0",
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
        "sysctl -qw net.ipv4.conf.default.rp_filter=1",
        "ip link del other",
        "ip route add 192.0.2.0/24 dev eth0 proto static",
        "ip route del 192.0.2.0/24",
        "nft add table ip kube-proxy",
        "nft delete table ip kube-proxy",
        // As Calico writes the routes of pods.
        &format!("ip route replace 10.0.0.101 dev {veth} scope link proto boot"),
    ] {
        vpc.node.exec(command);
        for event in drain(&mut watch).await {
            node.learn(&event);
            assert_eq!(node.concerns(&event), None, "{command}: {event:?}");
        }
    }
    assert_eq!(repair(&node, &vpc, Extent::All).differences, []);

    // A pod that the daemon knows of before the plugin makes it, and forgets of before it removes it.
    let network = network("c", 1, "10.0.0.103");
    node.pods.insert(key("c"), network.clone());
    let pod = add(&vpc.node, &network);
    for event in drain(&mut watch).await {
        node.learn(&event);
        assert_eq!(node.concerns(&event), None, "ADD: {event:?}");
    }
    node.pods.remove(&key("c"));
    node.busy.insert("10.0.0.103".parse().unwrap());
    remove(&vpc.node, &network);
    drop(pod);
    for event in drain(&mut watch).await {
        node.learn(&event);
        assert_eq!(node.concerns(&event), None, "DEL: {event:?}");
    }
}

/// The kernel names the link of an address by its index alone.
#[tokio::test]
async fn links_are_known_from_events_as_from_a_comparison() {
    let (vpc, mut node, _pods) = node_with_pods();
    node.remember(&repair(&node, &vpc, Extent::Routing));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for kind in ["bridge", "veth", "macvlan link eth0", "vxlan id 7 dstport 0", "ifb", "tun"] {
        let (name, add) = match kind {
            "tun" => ("t0", "tuntap add t0 mode tun".to_owned()),
            "macvlan link eth0" => ("m0", "link add link eth0 m0 type macvlan".to_owned()),
            kind => ("k0", format!("link add k0 type {kind}")),
        };
        vpc.node.ip(&add);
        vpc.node.ip(&format!("link set {name} name renamed"));
        for event in drain(&mut watch).await {
            node.learn(&event);
        }
        let listed = vpc.node.netlink().links().unwrap();
        let listed: BTreeMap<_, _> =
            listed.iter().map(|link| (link.id.index, SeenLink::from(link))).collect();
        assert_eq!(node.seen.links, listed, "{kind}");
        vpc.node.ip("link del renamed");
    }
}

/// The system made the table of the ENI, so its number does not follow from where the ENI is attached.
#[tokio::test]
async fn table_that_the_system_made_is_watched_like_one_of_ours() {
    let (vpc, mut node, network) = node_with_system_table();
    node.pods.insert(key("c"), network_of(&on_other_card()));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    let _pod = add(&vpc.node, &network);
    for event in drain(&mut watch).await {
        node.learn(&event);
        assert_eq!(node.concerns(&event), None, "ADD: {event:?}");
    }
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences, []);

    for damage in [
        "ip rule del pref 1536",
        "ip rule add from 10.0.32.102 lookup 10101 pref 1536",
        "ip route flush table 10777",
    ] {
        vpc.node.exec(damage);
        wait_for_concern(&mut watch, &mut node, damage).await;
        repair(&node, &vpc, Extent::Routing);
        assert_eq!(vpc.node.rules(1536), ["10.0.32.102 - 10777"], "{damage}");
        assert_eq!(vpc.node.routes(10777).len(), 2, "{damage}");
        drain(&mut watch).await;
    }
}

/// Which ENIs there are, a daemon that starts learns one by one.
#[test]
fn pod_whose_eni_is_not_set_up_yet_keeps_its_table() {
    let (vpc, mut node, network) = node_with_system_table();
    let _pod = add(&vpc.node, &network);
    node.pods.insert(key("c"), network_of(&on_other_card()));
    node.enis.clear();
    node.tables.clear();

    assert_eq!(repair(&node, &vpc, Extent::Routing).differences, []);

    assert_eq!(vpc.node.rules(1536), ["10.0.32.102 - 10777"]);
}

/// Returns a node whose system made the table of an ENI, and the network of a pod on that.
fn node_with_system_table() -> (Vpc, NodeNetwork, PodNetwork) {
    let vpc = Vpc::new();
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
    vpc.node.ip("rule add from 10.0.32.20 lookup 10777 pref 10777");
    let (eni, table) = (on_card(1, 1), Table(10777));
    let mut node = NodeNetwork::new(Default::default(), vpc.host_facts());
    node.enis.insert(eni.eni, eni.clone());
    node.tables.insert(eni.eni, table);
    repair(&node, &vpc, Extent::All);
    let lease = on_other_card();
    let tables = BTreeMap::from([(lease.first.eni, table)]);
    let network = pod::desired(&lease, &PodSettings { tables, ..settings() }).unwrap();
    (vpc, node, network)
}

fn on_other_card() -> Lease {
    lease("c", "c", 1, 1, "10.0.32.102")
}

#[tokio::test]
async fn new_link_of_an_eni_is_heard_of() {
    let vpc = Vpc::new();
    let mut node = NodeNetwork::new(Default::default(), vpc.host_facts());
    node.enis.insert(eni(1).eni, eni(1));
    repair(&node, &vpc, Extent::All);
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);

    wait_for_concern(&mut watch, &mut node, "plug").await;
    repair(&node, &vpc, Extent::Routing);
    assert_eq!(vpc.node.routes(2).len(), 2);
    assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 2"]);
}

#[tokio::test]
async fn more_than_the_kernel_can_tell_is_told_as_such() {
    let vpc = Vpc::new();
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    vpc.node.shell(
        "seq 0 29999 | while read i; do echo route add 10.$((100 + i / 250)).$((i % 250)).1/32 dev lo; done \
         | ip -batch -",
    );

    let events = drain(&mut watch).await;

    assert!(events.contains(&KernelEvent::Lost), "{} events", events.len());
    let node = NodeNetwork::new(Default::default(), vpc.host_facts());
    assert_eq!(node.concerns(&KernelEvent::Lost), Some(Extent::All));
    // It goes on.
    vpc.node.ip("rule add from 10.9.9.9 lookup 77 pref 30200");
    let is_rule = |event: &KernelEvent| matches!(event, KernelEvent::Rule { gone: false, .. });
    // A link-local address may become usable meanwhile.
    let heard = async { while !is_rule(&watch.next().await.unwrap()) {} };
    timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn rules_of_a_pod_whose_namespace_dies_are_heard_of() {
    let (vpc, mut node, _pods) = node_with_pods();
    let network = network("c", 1, "10.0.0.103");
    let pod = crate::support::Netns::new();
    add_to(&vpc.node, &pod, &network);
    node.pods.insert(key("c"), network);
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    drop(pod);

    wait_for_concern(&mut watch, &mut node, "namespace").await;
    repair(&node, &vpc, Extent::Routing);
    assert!(!vpc.node.rules(512).contains(&"all 10.0.0.103 main".to_owned()));
}

pub async fn wait_for_concern(watch: &mut Watch, node: &mut NodeNetwork, damage: &str) -> Extent {
    let heard = async {
        loop {
            let event = watch.next().await.unwrap();
            let concerned = node.concerns(&event);
            node.learn(&event);
            if let Some(extent) = concerned {
                return extent;
            }
        }
    };
    timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{damage}: no event"))
}

/// Returns the events so far: the kernel reports before the system call that changed something returns.
pub async fn drain(watch: &mut Watch) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    // tokio lets a task receive so much before it has to step back once.
    for _ in 0..2 {
        while let Ok(event) = timeout(Duration::ZERO, watch.next()).await {
            events.push(event.unwrap());
        }
        tokio::task::yield_now().await;
    }
    events
}

/// Returns what there is, in the order of its text.
fn sorted(vpc: &Vpc) -> Vec<String> {
    let mut lines = vpc.node.snapshot();
    lines.extend(vpc.nat());
    lines.extend(["eth0", "eth1"].map(|link| {
        let value = |name| vpc.node.sysctl(&format!("net/ipv4/conf/{link}/{name}"));
        format!("{link} {} {}", value("rp_filter"), value("forwarding"))
    }));
    lines.sort();
    lines
}
