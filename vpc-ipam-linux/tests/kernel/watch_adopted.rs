//! What the kernel tells of amazon-vpc-cni-k8s that works beside this program: its pods, and its address translation.

use std::collections::BTreeSet;

use vpc_ipam_core::{EniLink, Families, Ipv4Kind};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{Extent, HostConfig, KernelEvent, NodeNetwork, Watch, eni as enis};

use crate::node::repair;
use crate::old;
use crate::support::{Netns, Vpc, eni, eni_mac};
use crate::watch::{drain, wait_for_concern};

const V6: &str = "2001:db8:a:0:1::2";

/// Step by step, as the plugin of amazon-vpc-cni-k8s does it: the pod's end is complete before the node knows of it.
#[tokio::test]
async fn address_of_a_pod_that_another_plugin_adds_is_known_by_the_time_it_is_reached() {
    for (address, table) in [("10.0.0.100", None), ("10.0.0.101", Some(2)), (V6, None)] {
        let (vpc, mut node) = node();
        let mut watch = Watch::open(&vpc.node.namespace).unwrap();
        let pod = old::veth(&vpc.node, "eni0000000000a");
        assert_eq!(wait_for_concern(&mut watch, &mut node, "link").await, Extent::Routing);
        old::give(&vpc.node, &pod, "eni0000000000a", address);
        for event in drain(&mut watch).await {
            node.learn(&event);
        }

        let family = old::family(address);
        vpc.node.ip(&format!("{family} route replace {address} dev eni0000000000a"));

        assert_eq!(wait_for_concern(&mut watch, &mut node, address).await, Extent::Routing);
        let expected = BTreeSet::from([address.parse().unwrap()]);
        assert_eq!(node.untracked(), expected, "before anything was compared");
        let (link, _) = node.adopted_route(address.parse().unwrap()).unwrap();
        assert_eq!(link.name, "eni0000000000a");
        vpc.node.ip(&format!("{family} rule add to {address} lookup main pref 512"));
        if let Some(table) = table {
            vpc.node.ip(&format!("{family} rule add from {address} lookup {table} pref 1536"));
        }
        for event in drain(&mut watch).await {
            assert_eq!(node.concerns(&event), None, "{event:?}");
            node.learn(&event);
        }
        let rules: usize = node.adopted.links.values().map(|link| link.rules.len()).sum();
        assert_eq!(rules, 1 + usize::from(table.is_some()), "{:?}", node.adopted);
        let heard = node.clone();
        node.remember(&repair(&node, &vpc, Extent::Routing));
        assert_eq!(node.adopted, heard.adopted, "a comparison finds what was heard");

        drop(pod);
        while !node.untracked().is_empty() {
            wait_for_concern(&mut watch, &mut node, "gone").await;
        }
        repair(&node, &vpc, Extent::Kernel);
        assert_eq!((vpc.node.rules(512).len(), vpc.node.rules(1536).len()), (0, 0));
    }
}

#[tokio::test]
async fn damage_to_a_pod_that_is_in_no_state_file_is_heard_of() {
    let (vpc, mut node) = node();
    let _pods: [Netns; 4] = [
        old::pod(&vpc.node, "eni0000000000a", &["10.0.0.101"], Some(2)),
        old::pod(&vpc.node, "eni0000000000b", &[V6], None),
        old::strict_pod(&vpc.node, 1, "vlan0000000000c", "10.0.30.200"),
        gateway(&vpc),
    ];
    node.remember(&repair(&node, &vpc, Extent::All));
    node.remember(&repair(&node, &vpc, Extent::All));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    for (damage, extent) in [
        ("ip route del 10.0.0.101", Extent::Routing),
        ("ip route replace blackhole 10.0.0.101", Extent::Routing),
        ("ip route replace 10.0.0.101 dev eth0 proto static", Extent::Routing),
        ("ip route replace 10.0.0.101 via 10.0.0.1 dev eth0", Extent::Routing),
        ("ip rule del pref 512 to 10.0.0.101", Extent::Routing),
        ("ip rule del pref 1536", Extent::Routing),
        ("ip rule add from 10.0.0.101 lookup 9 pref 1536", Extent::Routing),
        ("ip link set eni0000000000a down", Extent::Kernel),
        ("sysctl -qw net.ipv4.conf.eni0000000000a.forwarding=0", Extent::Kernel),
        (&format!("ip -6 route del {V6}"), Extent::Routing),
        (&format!("ip -6 rule del pref 512 to {V6}"), Extent::Routing),
        ("ip link set eni0000000000b down", Extent::Kernel),
        ("ip route del 10.0.30.200 table 101", Extent::Routing),
        ("ip route del default table 101", Extent::Routing),
        ("ip rule del pref 10 iif vlan0000000000c", Extent::Routing),
        ("ip rule del pref 10 iif vlan.eth.1", Extent::Routing),
        ("ip link set vlan.eth.1 down", Extent::Kernel),
        ("ip link set vlan0000000000c down", Extent::Kernel),
    ] {
        vpc.node.exec(damage);

        let concerned = wait_for_concern(&mut watch, &mut node, damage).await;

        assert_eq!(concerned, extent, "{damage}");
        let repaired = repair(&node, &vpc, extent);
        assert_ne!(repaired.differences, [], "{damage}");
        node.remember(&repaired);
        for event in drain(&mut watch).await {
            node.learn(&event);
        }
        assert_eq!(node.untracked().len(), 4, "{damage}: {:?}", node.untracked());
        assert_eq!(repair(&node, &vpc, Extent::Kernel).differences, [], "{damage}");
    }
    for change in ["ip route del 10.0.0.100", "ip link set gw0 down"] {
        vpc.node.exec(change);
        assert_eq!(wait_for_concern(&mut watch, &mut node, change).await, Extent::Routing);
    }
}

/// Calico's Felix removes routes over links of pods that do not carry its own protocol, and writes them anew.
#[tokio::test]
async fn route_under_another_protocol_is_as_good() {
    let (vpc, mut node) = node();
    let _pod = old::pod(&vpc.node, "eni0000000000a", &["10.0.0.100"], None);
    node.remember(&repair(&node, &vpc, Extent::All));
    node.remember(&repair(&node, &vpc, Extent::All));
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();

    vpc.node.ip("route replace 10.0.0.100 dev eni0000000000a scope link proto 80");

    for event in drain(&mut watch).await {
        assert_eq!(node.concerns(&event), None, "{event:?}");
        node.learn(&event);
        if let KernelEvent::Route { entry, .. } = &event {
            assert_eq!(node.pod_led_to(entry), Some("10.0.0.100".parse().unwrap()));
        }
    }
    assert_eq!(repair(&node, &vpc, Extent::All).differences, []);
}

#[tokio::test]
async fn address_translation_of_amazon_vpc_cni_k8s_is_an_event_and_that_of_other_programs_is_not() {
    let (vpc, node) = node();
    let mut watch = Watch::open(&vpc.node.namespace).unwrap();
    let of_aws_cni = [
        "nft add table ip aws-cni",
        "nft add chain ip aws-cni snat-mark",
        "iptables-nft -w -t nat -N AWS-SNAT-CHAIN-0",
        "iptables-nft -w -t nat -A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -j RETURN",
        "iptables-nft -w -t nat -A POSTROUTING -m comment --comment 'AWS SNAT CHAIN' -j AWS-SNAT-CHAIN-0",
        "iptables-nft -w -t mangle -A PREROUTING -i eni+ -m comment --comment 'AWS, primary ENI' -j CONNMARK --restore-mark --mask 0x80",
    ];
    let foreign = [
        "nft add table ip kube-proxy",
        "nft add table ip6 aws-cni",
        "nft add table inet aws-cni",
        "iptables-nft -w -t nat -N KUBE-SERVICES",
        "iptables-nft -w -t nat -A POSTROUTING -m comment --comment 'AWS' -j ACCEPT",
        "iptables-nft -w -t mangle -A PREROUTING -m comment --comment 'Antrea: AWS, primary ENI' -j ACCEPT",
        "iptables-nft -w -t filter -A FORWARD -m comment --comment 'AWS, CONNMARK' -j ACCEPT",
        "iptables-nft -w -t nat -N AWS-SNAT-CHAIN-MINE",
    ];
    for (command, is_from_aws_cni) in
        of_aws_cni.map(|it| (it, true)).into_iter().chain(foreign.map(|it| (it, false)))
    {
        vpc.node.shell(command);
        let heard = drain(&mut watch).await;
        assert_eq!(
            heard.contains(&KernelEvent::AwsCniNat),
            is_from_aws_cni,
            "{command}: {heard:?}"
        );
    }

    // What we remove of it is no news.
    assert_ne!(repair(&node, &vpc, Extent::Translation).differences, []);

    let heard = drain(&mut watch).await;
    assert!(!heard.contains(&KernelEvent::AwsCniNat), "{heard:?}");
    let left = vpc.node.exec("iptables-nft-save");
    assert_eq!(left.matches("AWS").count(), 4, "{left}");
}

/// A link by which another program leads to pods.
fn gateway(vpc: &Vpc) -> Netns {
    vpc.node.ip("link add gw0 type bridge");
    vpc.node.ip("link set gw0 up");
    vpc.node.ip("route add 10.0.0.100 dev gw0 scope link");
    Netns::new()
}

fn node() -> (Vpc, NodeNetwork) {
    let vpc = Vpc::with_ipv6();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101"]);
    let facts = HostFacts {
        families: Families::Dual(Ipv4Kind::Addresses),
        primary_ipv6: Some("2001:db8:a::10".parse().unwrap()),
        ..vpc.host_facts()
    };
    let eni: EniLink = eni(1);
    let mut node = NodeNetwork::new(HostConfig::default(), facts);
    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();
    node.enis.insert(eni.eni, eni);
    node.remember(&repair(&node, &vpc, Extent::All));
    (vpc, node)
}
