use vpc_ipam_core::Mac;
use vpc_ipam_linux::{Bridge, KernelChange, Link, Netlink as _, Veth, VethPeer};

use crate::support::Netns;

#[test]
fn bridge_keeps_its_address_and_isolates_its_ports() {
    let (fabric, node) = (Netns::new(), Netns::new());
    let mut netlink = fabric.netlink();
    let mac = Mac([0x02, 0, 0, 0, 0, 0xff]);
    let bridge = Bridge { name: "subnet1".to_owned(), mac, mtu: 9001 };
    let veth = Veth {
        name: "port1".to_owned(),
        mac: Mac([0x02, 0, 0, 0, 0, 1]),
        mtu: 9001,
        peer: VethPeer {
            name: "eth1".to_owned(),
            mac: Mac([0x02, 0, 0, 0, 0, 2]),
            namespace: node.namespace.clone(),
        },
    };

    let made =
        netlink.change(&[KernelChange::AddBridge(bridge), KernelChange::AddVeth(veth)]).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let mut id = |name| netlink.link(name).unwrap().map(|link: Link| link.id).unwrap();
    let (port, bridge) = (id("port1"), id("subnet1"));
    let joined = netlink.change(&[KernelChange::Join { port, bridge }]).unwrap();
    assert!(joined.iter().all(Result::is_ok), "{joined:?}");

    let link = netlink.link("subnet1").unwrap().unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 9001, true));
    let bridge = &fabric.json("-d link show dev subnet1")[0]["linkinfo"]["info_data"];
    assert_eq!((&bridge["stp_state"], &bridge["mcast_snooping"]), (&0.into(), &0.into()));
    let port = &fabric.json("-d link show dev port1")[0];
    assert_eq!(port["master"], "subnet1");
    assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], true);
}

#[test]
fn what_is_no_bridge_has_no_ports() {
    let fabric = Netns::new();
    let mut netlink = fabric.netlink();
    let lo = netlink.link("lo").unwrap().unwrap().id;

    let results = netlink.change(&[KernelChange::Join { port: lo.clone(), bridge: lo }]).unwrap();

    assert!(matches!(&results[..], [Err(_)]), "{results:?}");
}
