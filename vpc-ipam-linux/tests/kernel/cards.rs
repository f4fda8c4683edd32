//! ENIs of other network cards than the first, which Amazon's systems may have set up by themselves.

use std::collections::BTreeMap;

use vpc_ipam_core::{Card, DeviceIndex, EniLink};
use vpc_ipam_linux::{EniTable, HostConfig, Table, TableReason, eni as enis, pod};

use crate::support::{
    Vpc, add, eni, eni_mac, lease, leased, network_of, settings, source_seen, source_seen_by,
};

/// 1.7.10 and 1.16.4: it has the device index of the primary ENI, whose routes it took over.
#[test]
fn device_0_of_another_card_does_not_touch_the_main_table() {
    let vpc = Vpc::new();
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20"]);
    let main = vpc.node.ip("route show table main");

    enis::set_up(&mut vpc.node.netlink(), &on_card(1, 0)).unwrap();

    assert_eq!(vpc.node.ip("route show table main"), main);
    assert_eq!(vpc.node.routes(10100).len(), 2);
    assert_eq!(vpc.node.rules(32765), ["10.0.32.20 - 10100"]);
}

/// 1.20.3: the system's rules for the card were there already.
#[test]
fn table_that_the_system_made_is_used() {
    let vpc = Vpc::new();
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
    vpc.node.ip("rule add from 10.0.32.20 lookup 10777 pref 10777");
    vpc.node.ip("rule add from 10.0.32.20 lookup 10888 pref 10888");
    let eni = on_card(1, 1);

    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();

    assert_eq!(vpc.node.routes(10777).len(), 2);
    assert_eq!(vpc.node.routes(10101).len(), 0);
    assert_eq!(vpc.node.rules(32765), [] as [&str; 0], "no rule beside the system's");
    assert_eq!(vpc.node.rules(10777), ["10.0.32.20 - 10777"]);
    assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni).unwrap(), []);

    // Pods follow.
    let EniTable { table, because } = enis::table_here(&mut vpc.node.netlink(), &eni).unwrap();
    assert_eq!((table, because), (Table(10777), TableReason::System));
    let lease = lease("c", "c", 1, 1, "10.0.32.102");
    let tables = BTreeMap::from([(lease.first.eni, table)]);
    let network = pod::desired(&lease, &pod::PodSettings { tables, ..settings() }).unwrap();
    vpc.set_up_host(&HostConfig::default());
    let pod = add(&vpc.node, &network);
    assert_eq!(vpc.node.rules(1536), ["10.0.32.102 - 10777"]);
    let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, "10.0.0.30:80");
    assert_eq!(seen.as_deref(), Some("10.0.32.102"));
}

#[test]
fn rule_of_ours_gives_way_to_the_systems() {
    let vpc = Vpc::new();
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20"]);
    let eni = on_card(1, 1);
    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();
    assert_eq!(vpc.node.rules(32765), ["10.0.32.20 - 10101"]);
    vpc.node.ip("rule add from 10.0.32.20 lookup 10777 pref 10777");

    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();

    assert_eq!(vpc.node.rules(32765), [] as [&str; 0]);
    assert_eq!((vpc.node.routes(10777).len(), vpc.node.routes(10101).len()), (2, 0));
}

#[test]
fn rules_of_others_are_no_tables_of_the_eni() {
    for rule in [
        "from 10.0.32.0/24 lookup 77 pref 100",
        "from 10.0.32.20 to 192.0.2.0/24 lookup main pref 100",
        "from 10.0.32.21 lookup 77 pref 100",
    ] {
        let vpc = Vpc::new();
        vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20"]);
        vpc.node.ip(&format!("rule add {rule}"));
        enis::set_up(&mut vpc.node.netlink(), &on_card(1, 1)).unwrap();
        assert_eq!(vpc.node.rules(32765), ["10.0.32.20 - 10101"], "{rule}");
    }
}

#[test]
fn pod_on_two_cards_is_reached_by_both_and_leaves_by_the_address_it_uses() {
    let vpc = Vpc::new();
    vpc.deliver("eth0", crate::support::PRIMARY_MAC, "subnet1", &["10.0.0.100"]);
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
    vpc.set_up_host(&HostConfig::default());
    enis::set_up(&mut vpc.node.netlink(), &on_card(1, 0)).unwrap();
    let first = lease("m", "m", 0, 0, "10.0.0.100");
    let second = leased(1, 0, "10.0.32.102");
    let pod = add(&vpc.node, &network_of(&first.with_more(vec![second])));

    let (pod, fabric) = (&pod.namespace, &vpc.fabric.namespace);
    assert_eq!(source_seen(pod, fabric, "10.0.0.30:80").as_deref(), Some("10.0.0.100"));
    for address in ["10.0.0.100:80", "10.0.32.102:80"] {
        assert!(
            source_seen_by(fabric, pod, address, address).is_some(),
            "to {address}: {} {} {}",
            vpc.drops("eth2"),
            vpc.node.exec("nstat -az"),
            vpc.node.ip("neigh")
        );
    }
    assert_eq!(vpc.drops("eth0") + vpc.drops("eth2"), 0);
}

pub fn on_card(card: u8, device: u8) -> EniLink {
    EniLink { card: Card(card), device: DeviceIndex(device), ..eni(2) }
}
