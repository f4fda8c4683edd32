use core::net::IpAddr;
use std::collections::BTreeSet;
use std::net::UdpSocket;

use vpc_ipam_linux::flush_conntrack;

use crate::support::{Netns, add, network};

/// The kernel picks the connections of a few addresses out, and hands all out for many.
#[test]
fn connections_of_a_released_address_are_forgotten_and_no_others() {
    for more in [0, 1, 5] {
        forgets_connections_of_one_address(more);
    }
}

fn forgets_connections_of_one_address(more: u8) {
    let node = Netns::new();
    let (gone, stays) = (network("a", 0, "10.0.0.100"), network("b", 0, "10.0.0.101"));
    let (gone, stays) = (add(&node, &gone), add(&node, &stays));
    // Connections are tracked where a rule looks at them; one is translated, as a service is.
    node.nft(
        "table ip services { chain nat { type nat hook prerouting priority -100; \
         ip daddr 172.20.0.10 dnat to 10.0.0.100; }; }",
    );
    node.ip("addr add 10.0.0.7/32 dev lo");
    let from = |pod: &Netns, address: &str, to: &str| {
        let socket = pod.namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.send_to(b"x", to).unwrap();
    };
    from(&gone, "10.0.0.100:1000", "10.0.0.101:53");
    from(&stays, "10.0.0.101:1001", "10.0.0.100:53");
    from(&stays, "10.0.0.101:1002", "172.20.0.10:53");
    from(&stays, "10.0.0.101:1003", "10.0.0.7:53");
    let listed = || node.exec("conntrack -L");
    let ports = |listed: &str| {
        [1000, 1001, 1002, 1003].map(|port| listed.contains(&format!("sport={port} ")))
    };
    assert_eq!(ports(&listed()), [true; 4], "{}", listed());

    let mut addresses: BTreeSet<IpAddr> = ["10.0.0.100".parse().unwrap()].into();
    addresses.extend((0..more).map(|number| IpAddr::from([10, 0, 9, number])));
    addresses.insert("2001:db8::1".parse().unwrap());
    let forgotten = flush_conntrack(&node.namespace, &addresses).unwrap();

    assert_eq!(ports(&listed()), [false, false, false, true], "{}", listed());
    assert_eq!(forgotten, 3);
    assert_eq!(flush_conntrack(&node.namespace, &addresses).unwrap(), 0, "again");
    assert_eq!(flush_conntrack(&node.namespace, &BTreeSet::new()).unwrap(), 0, "none");
}

#[test]
fn connections_over_ipv6_are_forgotten_too() {
    let node = Netns::new();
    node.nft(
        "table ip6 any { chain c { type filter hook output priority 0; ct state new counter; }; }",
    );
    node.ip("-6 addr add 2001:db8::7/128 dev lo nodad");
    node.ip("-6 addr add 2001:db8::8/128 dev lo nodad");
    node.namespace
        .run(|| UdpSocket::bind("[2001:db8::7]:1000")?.send_to(b"x", "[2001:db8::8]:53"))
        .unwrap()
        .unwrap();
    node.namespace
        .run(|| UdpSocket::bind("[2001:db8::8]:1001")?.send_to(b"x", "[2001:db8::8]:53"))
        .unwrap()
        .unwrap();
    assert!(node.exec("conntrack -L -f ipv6").contains("sport=1000"));

    let addresses: BTreeSet<_> = ["2001:db8::7".parse().unwrap()].into();
    assert_eq!(flush_conntrack(&node.namespace, &addresses).unwrap(), 1);

    let left = node.exec("conntrack -L -f ipv6");
    assert!(!left.contains("sport=1000 ") && left.contains("sport=1001 "), "{left}");
}
