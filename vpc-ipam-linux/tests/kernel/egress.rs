//! Pods reach the family of which they have no address in the VPC through their node.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::io;
use std::net::TcpStream;

use ipnet::IpNet;
use vpc_ipam_core::{Families, Ipv4Kind};
use vpc_ipam_linux::host::{self, HostFacts};
use vpc_ipam_linux::pod::{self, PodNetwork, PodSettings};
use vpc_ipam_linux::{
    Difference, Extent, Family, HandBack, HostConfig, KernelEvent, Leads, Netlink as _,
    NodeNetwork, Object, Route, RouteEntry, Table,
};

use crate::node::{key, repair};
use crate::support::{INTERNET, Netns, Vpc, add, add_to, chain, lease_with, settings, source_seen};

const IPV4: Families = Families::Ipv4(Ipv4Kind::Addresses);

#[test]
fn pods_without_an_address_of_a_family_get_one_that_only_the_node_knows() {
    for side in SIDES {
        let vpc = side.node();
        let [a, b] = [side.network("a", 0), side.network("b", 1)];
        let [pod_a, pod_b] = [add(&vpc.node, &a), add(&vpc.node, &b)];

        let [hidden_a, hidden_b] = [&pod_a, &pod_b].map(|pod| side.hidden(pod));
        assert_ne!(hidden_a, hidden_b, "{side:?}");
        let range: IpNet = side.range.parse().unwrap();
        assert!(range.contains(&hidden_a.parse::<IpAddr>().unwrap()), "{hidden_a}");
        for (pod, network) in [(&pod_a, &a), (&pod_b, &b)] {
            let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, side.internet);
            assert_eq!(seen.as_deref(), Some(side.node), "{side:?}");
            let differences =
                pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), network).unwrap();
            assert_eq!(differences, [], "{side:?}");
            let mtu = &pod.json("link show eth0")[0]["mtu"];
            assert_eq!(mtu, 9001, "{side:?}: 1.12.6 and 1.18.3 ignored the MTU");
        }
        assert_eq!(vpc.drops("eth0"), 0, "{side:?}");

        // No rule leads there; and a second ADD gives the same address.
        let before = (vpc.node.snapshot(), pod_a.snapshot());
        add_to(&vpc.node, &pod_a, &a);
        assert_eq!((vpc.node.snapshot(), pod_a.snapshot()), before, "{side:?}");
    }
}

/// Without our address translation the address leads nowhere.
#[test]
fn address_is_told_of_a_node_that_is_handed_back() {
    for side in SIDES {
        let vpc = side.node();
        let pod = add(&vpc.node, &side.network("a", 0));
        let hidden: IpAddr = side.hidden(&pod).parse().unwrap();
        let mut netlink = vpc.node.netlink();

        let found = HandBack::find(&mut netlink).unwrap();

        assert_eq!(found.egress, [hidden].into(), "{side:?}");
        assert!(found.pods.contains(&hidden) && found.pods.len() == 2, "{side:?}: {found:?}");
        found.change_routing(&mut netlink).unwrap();
        let found = HandBack::find(&mut netlink).unwrap();
        assert_eq!((found.egress, found.routing), ([].into(), vec![]), "{side:?}");
        assert_eq!(found.pods.len(), 2, "{side:?}");
    }
}

#[test]
fn nobody_but_the_node_gets_to_the_address() {
    for side in SIDES {
        let vpc = side.node();
        let [a, b] = ["a", "b"]
            .map(|name| add(&vpc.node, &side.network(name, if name == "a" { 0 } else { 1 })));
        let to = side.socket(&side.hidden(&b));
        let connect = |from: &Netns| {
            // The first refusal comes back while TCP still holds the socket, and is lost; it sends again after a second.
            let timeout = core::time::Duration::from_secs(5);
            from.namespace.run(|| TcpStream::connect_timeout(&to, timeout)).unwrap()
        };
        let listener = b.namespace.run(|| std::net::TcpListener::bind(to)).unwrap().unwrap();

        let refused = connect(&a).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{side:?}: {refused}");
        connect(&vpc.node).unwrap_or_else(|error| panic!("{side:?}: node to pod: {error}"));
        drop(listener);
    }
}

#[test]
fn address_is_free_again_when_the_pod_is_gone() {
    for side in SIDES {
        let vpc = side.node();
        let network = side.network("a", 0);
        let pod = add(&vpc.node, &network);
        let hidden = side.hidden(&pod);
        vpc.node.ip(&format!("link del {}", network.interfaces[0].host.name));

        let again = add(&vpc.node, &network);

        assert_eq!(side.hidden(&again), hidden, "{side:?}");
    }
}

/// The kernel takes routes along with a link that goes down; nothing else on the node tells of the address.
#[test]
fn route_that_is_lost_is_reported_and_repaired() {
    for side in SIDES {
        let vpc = side.node();
        let network = side.network("a", 0);
        let pod = add(&vpc.node, &network);
        let mut node = NodeNetwork::new(Side::config(), side.facts(&vpc));
        node.pods.insert(key("a"), network.clone());
        let repaired = repair(&node, &vpc, Extent::Routing);
        assert_eq!(repaired.differences, [], "{side:?}");
        let hidden: IpAddr = side.hidden(&pod).parse().unwrap();
        let veth = &network.interfaces[0].host;
        node.seen = repaired.seen.unwrap();
        assert_eq!(node.seen.egress, [(veth.mac, hidden)].into(), "{side:?}");
        let route = Route::on_link(Table::MAIN, hidden);
        let link = vpc.node.netlink().link(&veth.name).unwrap().unwrap().id;
        let entry = RouteEntry { route, leads: Leads::Over(link.index) };
        assert!(node.concerns(&KernelEvent::Route { entry, gone: true, by: None }).is_some());
        let missing = Difference::Missing(Object::Route { link, route });

        for damage in [
            format!("route del {hidden} dev {}", veth.name),
            format!("link set {} down", veth.name),
        ] {
            vpc.node.ip(&damage);
            let check =
                || pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), &network).unwrap();
            assert!(check().contains(&missing), "{side:?}: {damage}: {:?}", check());

            let repaired = repair(&node, &vpc, Extent::Routing);

            assert!(repaired.differences.contains(&missing), "{side:?}: {damage}: {repaired:?}");
            assert_eq!(check(), [], "{side:?}: {damage}");
            // As after an ADD: the node does not have to ask before it can send.
            for address in pod.ip("-6 -o addr show dev eth0 scope global").lines() {
                let address =
                    address.split([' ', '/']).find(|word| word.contains(':') && word.len() > 3);
                let known =
                    vpc.node.ip(&format!("neigh show {} dev {}", address.unwrap(), veth.name));
                let mac = network.interfaces[0].container.mac.unwrap().to_string();
                assert!(known.contains(&mac), "{side:?}: {damage}: {address:?}: {known}");
            }
            let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, side.internet);
            assert_eq!(seen.as_deref(), Some(side.node), "{side:?}: {damage}");
        }

        // Who has it by now keeps it.
        vpc.node.ip(&format!("route del {hidden} dev {}", veth.name));
        vpc.node.ip(&format!("route add {hidden} dev lo"));
        assert_eq!(repair(&node, &vpc, Extent::Routing).differences, [], "{side:?}");
    }
}

#[test]
fn pod_that_finds_every_address_taken_says_so_and_leaves_nothing() {
    let side = SIDES[0];
    let vpc = side.node();
    // Of other links, as other pods take them.
    let mut batch = String::new();
    for i in 2..=1022_u32 {
        let address = Ipv4Addr::from(0xa9fe_ac00 + i);
        batch += &format!("route add {address} dev lo\n");
    }
    vpc.node.run("sh", &["-c", &format!("printf '{batch}' | ip -batch -")]);
    let before = vpc.node.snapshot();
    let (network, pod) = (side.network("a", 0), Netns::new());

    let added = pod::add(&mut vpc.node.netlink(), &mut pod.netlink(), &pod.namespace, &network);

    let error = added.unwrap_err();
    assert!(chain(&error).contains("File exists"), "{}", chain(&error));
    assert_eq!(vpc.node.snapshot(), before);
}

#[test]
fn node_without_an_address_of_the_family_gives_none() {
    let vpc = Vpc::new();
    let config = HostConfig { ipv6_egress: true, ..HostConfig::default() };
    let facts = HostFacts { families: IPV4, ..vpc.host_facts() };
    assert_eq!(facts.egress(&config), None);

    host::set_up(&mut vpc.node.netlink(), &config, &facts).unwrap();

    // 1.16.3: such a node did not come up.
    assert!(vpc.node.try_exec("nft list table ip6 vpc-ipam").is_err());
    assert!(vpc.nat().unwrap().contains("snat to 10.0.0.10"));
}

/// What pods have, and what they reach through the node.
#[derive(Clone, Copy, Debug)]
struct Side {
    families: Families,
    egress: Family,
    range: &'static str,
    internet: &'static str,
    /// The node's address.
    node: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        families: Families::Ipv6,
        egress: Family::Ipv4,
        range: "169.254.172.0/22",
        internet: INTERNET,
        node: "10.0.0.10",
    },
    Side {
        families: IPV4,
        egress: Family::Ipv6,
        range: "fd00::ac:0/118",
        internet: "[2001:db8:f::10]:80",
        node: "2001:db8:a::10",
    },
];

impl Side {
    fn node(self) -> Vpc {
        let vpc = Vpc::with_ipv6();
        vpc.deliver("eth0", crate::support::PRIMARY_MAC, "subnet1", &["10.0.0.100", "10.0.0.109"]);
        let (config, facts) = (Self::config(), self.facts(&vpc));
        assert_eq!(facts.egress(&config), Some(self.egress));
        host::set_up(&mut vpc.node.netlink(), &config, &facts)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        vpc
    }

    fn config() -> HostConfig {
        HostConfig { ipv6_egress: true, ..HostConfig::default() }
    }

    fn facts(self, vpc: &Vpc) -> HostFacts {
        let ipv6 = "2001:db8:a::10".parse().unwrap();
        HostFacts { families: self.families, primary_ipv6: Some(ipv6), ..vpc.host_facts() }
    }

    fn network(self, name: &str, number: usize) -> PodNetwork {
        let lease = match self.egress {
            Family::Ipv4 => {
                let address = ["2001:db8:a:0:1::2", "2001:db8:a:0:1::3"][number];
                lease_with(name, 0, None, Some(address))
            }
            Family::Ipv6 => lease_with(name, 0, Some(["10.0.0.100", "10.0.0.109"][number]), None),
        };
        let settings = PodSettings { egress: Some(self.egress), ..settings() };
        pod::desired(&lease, &settings).unwrap()
    }

    /// Returns the address that the pod has of the other family.
    fn hidden(self, pod: &Netns) -> String {
        let family = match self.egress {
            Family::Ipv4 => "-4",
            Family::Ipv6 => "-6",
        };
        let links = pod.json(&format!("{family} addr show dev eth0 scope global"));
        // iproute2 leaves an empty object for each that it does not show.
        let addresses = links[0]["addr_info"].as_array().unwrap().iter();
        let addresses: Vec<_> = addresses.filter(|it| it["local"].is_string()).collect();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        addresses[0]["local"].as_str().unwrap().to_owned()
    }

    fn socket(self, address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 80)
    }
}
