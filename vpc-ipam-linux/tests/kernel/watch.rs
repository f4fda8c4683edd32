use core::time::Duration;
use std::collections::BTreeMap;

use tokio::time::timeout;
use vpc_ipam_core::Lease;
use vpc_ipam_linux::pod::{self, PodNetwork, PodSettings};
use vpc_ipam_linux::{Event, Extent, Node, Table, Watch};

use crate::cards::on_card;
use crate::node::{key, node_with_pods, repair};
use crate::support::{
    Vpc, add, add_to, eni, eni_mac, lease, network, network_of, remove, settings,
};

/// Long enough for a machine that is busy with other things; nobody waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn damage_is_heard_of_and_is_what_concerns_the_node() {
    let (vpc, node, _pods) = node_with_pods();
    let veth = &node.pods[&key("b")].interfaces[0].host.name;
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for damage in [
        "ip rule del pref 512 to 10.0.0.100",
        "ip rule del pref 1536",
        "ip rule del pref 1024",
        "ip rule del pref 32765",
        "ip rule add from 10.0.0.101 lookup 9 pref 1536",
        "ip route del 10.0.0.101",
        "ip route flush table 2",
        "ip route replace default via 10.0.0.7 dev eth1 table 2 onlink",
        "ip link set eth1 down",
        "ip link set eth1 mtu 1500",
        "ip link set eth0 mtu 1500",
        "ip addr del 10.0.0.20/19 dev eth1",
        "ip addr add 10.0.0.99/19 dev eth1",
        &format!("ip link set {veth} down"),
        "nft flush chain ip vpc-ipam translate",
        "nft delete table ip vpc-ipam",
        "nft flush ruleset",
        "nft add table ip aws-cni",
        "ip rule flush",
    ] {
        vpc.node.exec(damage);

        wait_for_concern(&mut watch, &node, damage).await;

        repair(&node, &vpc, Extent::All);
        drain(&mut watch).await;
    }
}

#[tokio::test]
async fn what_concerns_nobody_wakes_nobody() {
    let (vpc, mut node, _pods) = node_with_pods();
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for command in [
        "ip rule add from 10.9.9.9 lookup 77 pref 30200",
        "ip rule del pref 30200",
        "ip link add other type bridge",
        "ip link set other up",
        "ip link del other",
        "ip route add 192.0.2.0/24 dev eth0 proto static",
        "ip route del 192.0.2.0/24",
        "nft add table ip kube-proxy",
        "nft delete table ip kube-proxy",
    ] {
        vpc.node.exec(command);
        for event in drain(&mut watch).await {
            assert!(!node.concerns(&event), "{command}: {event:?}");
        }
    }

    // A pod that the daemon knows of before the plugin makes it, and forgets of before it removes it.
    let network = network("c", 1, "10.0.0.103");
    node.pods.insert(key("c"), network.clone());
    let pod = add(&vpc.node, &network);
    for event in drain(&mut watch).await {
        assert!(!node.concerns(&event), "ADD: {event:?}");
    }
    node.pods.remove(&key("c"));
    node.busy.insert("10.0.0.103".parse().unwrap());
    remove(&vpc.node, &network);
    drop(pod);
    for event in drain(&mut watch).await {
        assert!(!node.concerns(&event), "DEL: {event:?}");
    }
}

/// The system made the table of the ENI, so its number does not follow from the ENI's place.
#[tokio::test]
async fn table_that_the_system_made_is_watched_like_one_of_ours() {
    let (vpc, mut node, network) = node_with_system_table();
    node.pods.insert(key("c"), network_of(&on_other_card()));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    let _pod = add(&vpc.node, &network);
    for event in drain(&mut watch).await {
        assert!(!node.concerns(&event), "ADD: {event:?}");
    }
    assert_eq!(repair(&node, &vpc, Extent::Routing).differences, []);

    for damage in [
        "ip rule del pref 1536",
        "ip rule add from 10.0.32.102 lookup 10101 pref 1536",
        "ip route flush table 10777",
    ] {
        vpc.node.exec(damage);
        wait_for_concern(&mut watch, &node, damage).await;
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
fn node_with_system_table() -> (Vpc, Node, PodNetwork) {
    let vpc = Vpc::new();
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
    vpc.node.ip("rule add from 10.0.32.20 lookup 10777 pref 10777");
    let (eni, table) = (on_card(1, 1), Table(10777));
    let mut node = Node::new(Default::default(), vpc.host_facts());
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
    let mut node = Node::new(Default::default(), vpc.host_facts());
    node.enis.insert(eni(1).eni, eni(1));
    repair(&node, &vpc, Extent::All);
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);

    wait_for_concern(&mut watch, &node, "plug").await;
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

    assert!(events.contains(&Event::Lost), "{} events", events.len());
    let node = Node::new(Default::default(), vpc.host_facts());
    assert!(node.concerns(&Event::Lost));
    // It goes on.
    vpc.node.ip("rule add from 10.9.9.9 lookup 77 pref 30200");
    let heard = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(heard, Event::Rule { gone: false, .. }), "{heard:?}");
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

    wait_for_concern(&mut watch, &node, "namespace").await;
    repair(&node, &vpc, Extent::Routing);
    assert!(!vpc.node.rules(512).contains(&"all 10.0.0.103 main".to_owned()));
}

async fn wait_for_concern(watch: &mut Watch, node: &Node, damage: &str) {
    let heard = async { while !node.concerns(&watch.next().await.unwrap()) {} };
    timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{damage}: nobody told"));
}

/// Returns what was told so far: the kernel tells before the system call that changed something returns.
async fn drain(watch: &mut Watch) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(event) = timeout(Duration::ZERO, watch.next()).await {
        events.push(event.unwrap());
    }
    events
}
