//! The check of the sources of what pods send, with nft and with either kind of iptables.
//!
//! A pod that sends as it likes is played by one that has one address more, of its own loopback.

use core::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use core::time::Duration;
use std::net::UdpSocket;

use vpc_ipam_core::{Families, Ipv4Kind};
use vpc_ipam_linux::host::{self, HostFacts};
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{
    BranchMode, Extent, Family, HostConfig, KernelNetlink, NatActual, NatPrograms, Netlink as _,
    eni as enis,
};

use crate::support::{
    Netns, PRIMARY_MAC, Vpc, add, add_to, chain, eni, eni_mac, lease_with, leased, network_of,
    note_links, receive, settings, source_seen_from,
};

/// By which the rules are written: nft, or a kind of iptables.
const BACKENDS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];

/// The node's addresses, another host's, and those of the internet.
const NODE: [&str; 2] = ["10.0.0.10", "2001:db8:a::10"];
const HOST: [&str; 2] = ["10.0.0.30", "2001:db8:a::30"];
const INTERNET: [&str; 2] = ["203.0.113.10", "2001:db8:f::10"];

/// The gateway of pods, at the node's end of the link.
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Every way that a packet of a pod may take: to the node, to a pod on each ENI, to another host and to the internet.
#[test]
fn pods_send_from_their_own_addresses_alone_whichever_way() {
    for backend in BACKENDS {
        let world = World::new(backend, &HostConfig::default());
        let mut dropped = 0;
        for sender in &world.pods {
            for (to, receiver) in world.receivers(sender) {
                for (family, to) in to.iter().enumerate() {
                    let case = format!("{backend}: {} to {to}", sender.name);
                    let own = sender.addresses[family];
                    let arrives = |from| arrives(&sender.netns, from, own, receiver, to);
                    for spoofed in world.of_others(sender, family).into_iter().filter(|it| it != to)
                    {
                        assert!(!arrives(spoofed), "{case}, from {spoofed}: arrived");
                        let counted = world.spoofed();
                        assert!(counted > dropped, "{case}, from {spoofed}: counted");
                        dropped = counted;
                    }
                    assert_eq!(world.spoofed(), dropped, "{case}: only what is spoofed");
                }
            }
        }
        assert_eq!(["eth0", "eth1"].map(|link| world.vpc.drops(link)), [0, 0], "{backend}");
    }
}

/// What is dropped above is dropped by the check; and an operator who needs to may switch it off.
#[test]
fn switched_off_everything_is_passed_on() {
    for backend in BACKENDS {
        let config = HostConfig { source_check: false, ..HostConfig::default() };
        let world = World::new(backend, &config);
        let [sender, _, other] = &world.pods;
        for (family, address) in other.addresses.iter().enumerate() {
            let to = socket(NODE[family]);
            let seen = with_address(&sender.netns, address, || {
                let (pod, node) = (&sender.netns.namespace, &world.vpc.node.namespace);
                source_seen_from(pod, address, node, &to)
            });
            assert_eq!(seen.as_deref(), Some(*address), "{backend}");
        }
        assert_eq!(world.spoofed(), 0, "{backend}");
        let link = &sender.network.interfaces[0].host.name;
        assert_eq!(world.vpc.node.sysctl(&format!("net/ipv4/conf/{link}/rp_filter")), "0");

        // And on again, by a repair as the daemon makes it.
        host::set_up(&mut world.netlink(), &HostConfig::default(), &world.facts).unwrap();
        for (family, address) in other.addresses.iter().enumerate() {
            let own = sender.addresses[family];
            let arrives = arrives(&sender.netns, address, own, &world.vpc.node, NODE[family]);
            assert!(!arrives, "{backend}: {address}");
        }
        host::set_up(&mut world.netlink(), &config, &world.facts).unwrap();
        assert_eq!(world.netlink().source_check().unwrap(), NatActual::Absent, "{backend}");
    }
}

/// The kernel takes the greater of `all` and the link, and a loose check for a strict one where a link has no address.
#[test]
fn rp_filter_checks_besides_and_its_absence_does_no_harm() {
    let world = World::new("nft", &HostConfig::default());
    let [sender, _, other] = &world.pods;
    let [spoofed, _] = other.addresses;
    let own = sender.addresses[0];
    let spoof = || arrives(&sender.netns, spoofed, own, &world.vpc.node, NODE[0]);
    let link = &sender.network.interfaces[0].host.name;
    world.vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter=0"));
    assert!(!spoof(), "rp_filter is off, the rules are there");
    world.vpc.node.exec("nft flush chain ip vpc-ipam-sources check");
    for filter in [1, 2] {
        world.vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter={filter}"));
        assert!(!spoof(), "the rules are gone, rp_filter is {filter}");
    }
    world.vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter=0"));
    assert!(spoof(), "neither is left");

    let applied = host::set_up(&mut world.netlink(), &HostConfig::default(), &world.facts);

    let words: Vec<_> = applied.unwrap().iter().map(ToString::to_string).collect();
    assert!(words.len() == 1 && words[0].contains("check of the sources of pods"), "{words:?}");
    assert!(!spoof());
}

/// Packets of link-local addresses and of none are not passed on; without them no pod finds its gateway.
#[test]
fn neighbours_are_asked_and_addresses_tried_as_ever() {
    for backend in BACKENDS {
        let world = World::new(backend, &HostConfig::default());
        let [sender, ..] = &world.pods;
        let pod = &sender.netns;
        // The gateway is known from the start; when it is forgotten, it has to be asked for.
        pod.ip("-6 neigh del fe80::1 dev eth0");
        let node = &world.vpc.node.namespace;
        let heard = node.run(|| receive("[::]:8080")).unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let speaker = pod.namespace.run(|| UdpSocket::bind("[::]:0")).unwrap().unwrap();
        speaker.send_to(b"x", SocketAddrV6::new(GATEWAY, 8080, 0, index_of(pod, "eth0"))).unwrap();
        let (_, SocketAddr::V6(from)) = heard.recv_from(&mut [0]).unwrap() else { panic!() };
        assert!(from.ip().is_unicast_link_local(), "{backend}: {from}");

        // Duplicate address detection asks from the unspecified address.
        pod.exec("sysctl -qw net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=1");
        pod.ip("addr add fe80::77/64 dev eth0");
        crate::node::wait_until(|| !pod.ip("addr show dev eth0").contains("tentative"));
        assert!(!pod.ip("addr show dev eth0").contains("dadfailed"), "{backend}");
        assert_eq!(world.spoofed(), 0, "{backend}");
    }
}

#[test]
fn further_interfaces_send_from_their_own_addresses() {
    for backend in BACKENDS {
        let vpc = Vpc::with_ipv6();
        let facts = facts(&vpc);
        let mut netlink = netlink(&vpc, backend);
        host::set_up(&mut netlink, &HostConfig::default(), &facts).unwrap();
        vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
        enis::set_up(&mut netlink, &crate::cards::on_card(1, 1)).unwrap();
        let lease = (lease_with("m", 0, Some("10.0.0.100"), None)).with_more(vec![leased(
            1,
            1,
            "10.0.32.102",
        )]);
        let network = network_of(&lease);
        let pod = add(&vpc.node, &network);
        let spoofed = || self::netlink(&vpc, backend).spoofed_packets().unwrap();
        pod.ip("rule add pref 0 to 10.0.0.10 lookup 77");
        // Neither from that of the other.
        let addresses = ["10.0.0.100", "10.0.32.102"];
        for (number, interface) in network.interfaces.iter().enumerate() {
            let (by, mac) = (&interface.container.name, interface.host.mac);
            pod.ip(&format!("route replace 10.0.0.10 dev {by} table 77"));
            pod.ip(&format!("neigh replace 10.0.0.10 lladdr {mac} dev {by} nud permanent"));
            let (own, other, before) = (addresses[number], addresses[1 - number], spoofed());
            let arrives = arrives(&pod, other, own, &vpc.node, "10.0.0.10");
            assert!(!arrives, "{backend}: by {by} from {other}");
            assert_eq!(spoofed(), before + 1, "{backend}: by {by} from {other}");
        }
    }
}

/// The address that only the node knows is a pod's own too, and no other pod's.
#[test]
fn pods_reach_the_other_family_through_the_node_from_their_own_hidden_address() {
    for backend in BACKENDS {
        for (egress, family) in [(Family::Ipv4, 0), (Family::Ipv6, 1)] {
            let vpc = Vpc::with_ipv6();
            vpc.deliver("eth0", PRIMARY_MAC, "subnet1", &["10.0.0.100", "10.0.0.109"]);
            let families = match egress {
                Family::Ipv4 => Families::Ipv6,
                Family::Ipv6 => Families::Ipv4(Ipv4Kind::Addresses),
            };
            let facts = HostFacts { families, ..facts(&vpc) };
            let config = HostConfig { ipv6_egress: true, ..HostConfig::default() };
            let mut netlink = netlink(&vpc, backend);
            host::set_up(&mut netlink, &config, &facts).unwrap();
            let pods = [0, 1].map(|number| {
                let name = ["a", "b"][number];
                let ipv4 = ["10.0.0.100", "10.0.0.109"][number];
                let ipv6 = ["2001:db8:a:0:1::2", "2001:db8:a:0:1::3"][number];
                let lease = match egress {
                    Family::Ipv4 => lease_with(name, 0, None, Some(ipv6)),
                    Family::Ipv6 => lease_with(name, 0, Some(ipv4), None),
                };
                let settings = PodSettings { egress: Some(egress), ..settings() };
                add(&vpc.node, &pod::desired(&lease, &settings).unwrap())
            });
            let [own, of_other] = [&pods[0], &pods[1]].map(|pod| hidden(pod, egress));
            let spoofed = || self::netlink(&vpc, backend).spoofed_packets().unwrap();
            for other in [of_other.as_str(), HOST[family], NODE[family]] {
                let before = spoofed();
                let arrives = arrives(&pods[0], other, &own, &vpc.fabric, INTERNET[family]);
                assert!(!arrives, "{backend}: {egress:?}: from {other}");
                assert_eq!(spoofed(), before + 1, "{backend}: {egress:?}: from {other}");
            }
        }
    }
}

/// What pods on branch ENIs send in strict mode crosses the VPC. Of IPv4 the kernel drops the same by itself, since it takes where a
/// packet goes into account; of IPv6 it is nft alone.
#[test]
fn pods_on_branch_enis_send_from_their_own_addresses() {
    let own = ["10.0.0.107", "2001:db8:a:0:7::2"];
    for mode in [BranchMode::Strict, BranchMode::Standard] {
        let (vpc, _network, pod) = crate::branch::dual_node_with_pod(mode);
        let addresses = ["10.0.0.100", "2001:db8:a:0:1::2"];
        let lease = lease_with("a", 0, Some(addresses[0]), Some(addresses[1]));
        let other = add(&vpc.node, &network_of(&lease));
        let dropped = || {
            let netstat = vpc.node.exec("cat /proc/net/netstat");
            vpc.node.netlink().spoofed_packets().unwrap() + filtered(&netstat)
        };
        for (to, receiver) in [(HOST, &vpc.fabric), (INTERNET, &vpc.fabric), (addresses, &other)] {
            for family in [0, 1] {
                let elsewhere = ["192.0.2.7", "2001:db8:77::7"][family];
                for spoofed in [addresses[family], HOST[family], elsewhere] {
                    let (case, before) = (format!("{mode:?}: from {spoofed}"), dropped());
                    if spoofed == to[family] {
                        continue;
                    }
                    assert!(!arrives(&pod, spoofed, own[family], receiver, to[family]), "{case}");
                    assert_eq!(dropped(), before + 1, "{case}");
                    assert_eq!(vpc.drops("vlan.eth.7"), 0, "{case}: it left the node");
                }
            }
        }
        let by_rules = vpc.node.netlink().spoofed_packets().unwrap();
        // Of either family in standard mode, of IPv6 in strict mode.
        assert_eq!(by_rules, if mode == BranchMode::Strict { 7 } else { 14 }, "{mode:?}");
    }
}

/// Returns how many packets `rp_filter` dropped.
fn filtered(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let [names, values] = [lines.next(), lines.next()].map(|line| line.unwrap().split(' '));
    let (_, value) = names.zip(values).find(|(name, _)| *name == "IPReversePathFilter").unwrap();
    value.parse().unwrap()
}

/// A kernel that cannot do it has the rest set up all the same, and says so.
#[test]
fn node_goes_on_without_a_check_that_the_kernel_cannot_do() {
    use vpc_ipam_linux::{KernelChange, NodeNetwork, Object, Refusal};

    let vpc = Vpc::new();
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::Set(Object::SourceCheck(_)) => {
            Err(Refusal { errno: Some(2), says: Some("no fib".to_owned()) })
        }
        other => crate::support::really(inner, other),
    };
    let mut netlink = crate::support::Altered { inner: vpc.node.netlink(), change };
    let node = NodeNetwork::new(HostConfig::default(), vpc.host_facts());

    let repaired = NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap();

    let words: Vec<_> = repaired.unwritable.iter().map(|it| chain(it)).collect();
    assert!(words.len() == 1 && words[0].contains("ENABLE_POD_SOURCE_CHECK=false"), "{words:?}");
    assert!(vpc.nat().is_some());
}

#[test]
fn rules_of_the_check_are_put_right_and_taken_back() {
    for backend in BACKENDS {
        let vpc = Vpc::with_ipv6();
        let (config, facts) = (HostConfig::default(), facts(&vpc));
        let set_up = || host::set_up(&mut netlink(&vpc, backend), &config, &facts).unwrap().len();
        set_up();
        assert_eq!(set_up(), 0, "{backend}");
        let damages = match backend {
            "nft" => vec![
                "nft flush chain ip vpc-ipam-sources check".to_owned(),
                "nft flush chain ip6 vpc-ipam-sources check".to_owned(),
                "nft delete table ip6 vpc-ipam-sources".to_owned(),
                "nft delete table ip vpc-ipam-sources".to_owned(),
                "nft insert rule ip vpc-ipam-sources check accept".to_owned(),
            ],
            iptables => ["", "6"]
                .map(|six| iptables.replacen("iptables", &format!("ip{six}tables"), 1))
                .iter()
                .flat_map(|program| {
                    [
                        "-F VPC-SOURCE-CHECK",
                        "-D PREROUTING -j VPC-SOURCE-CHECK",
                        "-I VPC-SOURCE-CHECK -j ACCEPT",
                    ]
                    .map(|damage| format!("{program} -w -t raw {damage}"))
                })
                .collect(),
        };
        for damage in damages {
            vpc.node.exec(&damage);
            assert_eq!(set_up(), 1, "{backend}: {damage}");
            assert_eq!(set_up(), 0, "{backend}: {damage}: again");
        }

        let state = host::desired(&config, &facts).unwrap();
        vpc_ipam_linux::remove(&mut netlink(&vpc, backend), &state).unwrap();

        let left = match backend {
            "nft" => vpc.node.exec("nft list tables"),
            kind => vpc.node.exec(&format!("{kind}-save")),
        };
        assert!(!left.contains("vpc-ipam") && !left.contains("VPC-"), "{backend}: {left}");
    }
}

/// A node of both families, with pods on the primary ENI, on a secondary one, and one more on that.
struct World {
    vpc: Vpc,
    facts: HostFacts,
    backend: &'static str,
    pods: [Sender; 3],
}

struct Sender {
    name: &'static str,
    netns: Netns,
    addresses: [&'static str; 2],
    network: pod::PodNetwork,
}

impl World {
    fn new(backend: &'static str, config: &HostConfig) -> Self {
        let vpc = Vpc::with_ipv6();
        let facts = facts(&vpc);
        let mut netlink = netlink(&vpc, backend);
        host::set_up(&mut netlink, config, &facts)
            .unwrap_or_else(|error| panic!("{backend}: {}", chain(&error)));
        let on_secondary = ["10.0.0.101", "10.0.0.102", "2001:db8:a::101", "2001:db8:a::102"];
        vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "2001:db8:a::20"]);
        vpc.deliver("eth1", eni_mac(1), "subnet1", &on_secondary);
        let eni = vpc_ipam_core::EniLink {
            primary_ipv6: Some("2001:db8:a::20".parse().unwrap()),
            subnet_ipv6: Some("2001:db8:a::/64".parse().unwrap()),
            ..eni(1)
        };
        enis::set_up(&mut netlink, &eni).unwrap();
        let settings = PodSettings { source_check: config.source_check, ..settings() };
        let pods = [
            ("a", 0, ["10.0.0.100", "2001:db8:a:0:1::2"]),
            ("b", 1, ["10.0.0.101", "2001:db8:a::101"]),
            ("c", 1, ["10.0.0.102", "2001:db8:a::102"]),
        ]
        .map(|(name, device, addresses)| {
            let lease = lease_with(name, device, Some(addresses[0]), Some(addresses[1]));
            let network = pod::desired(&lease, &settings).unwrap();
            let netns = Netns::new();
            add_to(&vpc.node, &netns, &network);
            Sender { name, netns, addresses, network }
        });
        Self { vpc, facts, backend, pods }
    }

    fn netlink(&self) -> KernelNetlink {
        netlink(&self.vpc, self.backend)
    }

    fn spoofed(&self) -> u64 {
        self.netlink().spoofed_packets().unwrap()
    }

    /// Returns whom a pod may send to, by what addresses.
    fn receivers(&self, sender: &Sender) -> Vec<([&'static str; 2], &Netns)> {
        let other_pods = self.pods.iter().filter(|pod| pod.name != sender.name);
        let pods = other_pods.map(|pod| (pod.addresses, &pod.netns));
        let outside =
            [(NODE, &self.vpc.node), (HOST, &self.vpc.fabric), (INTERNET, &self.vpc.fabric)];
        pods.chain(outside).collect()
    }

    /// Returns addresses that are not a pod's: another pod's, the node's, another host's, and one from anywhere.
    fn of_others(&self, sender: &Sender, family: usize) -> [&'static str; 4] {
        let other = self.pods.iter().find(|pod| pod.name != sender.name).unwrap();
        [
            other.addresses[family],
            NODE[family],
            HOST[family],
            ["192.0.2.7", "2001:db8:77::7"][family],
        ]
    }
}

fn facts(vpc: &Vpc) -> HostFacts {
    HostFacts {
        families: Families::Dual(Ipv4Kind::Addresses),
        primary_ipv6: Some("2001:db8:a::10".parse().unwrap()),
        ..vpc.host_facts()
    }
}

fn netlink(vpc: &Vpc, backend: &str) -> KernelNetlink {
    let netlink = vpc.node.netlink();
    match backend {
        "nft" => netlink,
        kind => netlink.with_nat_programs(NatPrograms {
            nft: "/nonexistent/nft".into(),
            iptables: vec![kind.into()],
        }),
    }
}

/// Sends from an address as if it were the pod's, and then from one that is, which has to arrive. Returns whether the first arrived.
fn arrives(pod: &Netns, from: &str, own: &str, receiver: &Netns, to: &str) -> bool {
    for netns in [pod, receiver] {
        note_links(&netns.namespace);
    }
    let to = socket(to);
    let listening = receiver.namespace.run(|| receive(&to)).unwrap();
    listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    with_address(pod, from, || {
        let bound = |address| pod.namespace.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        let [spoofing, honest] = [from, own].map(bound);
        spoofing.send_to(b"spoofed", &to).unwrap();
        let (mut seen, mut buffer) = (false, [0; 16]);
        for _ in 0..20 {
            honest.send_to(b"own", &to).unwrap();
            while let Ok(len) = listening.recv(&mut buffer) {
                match &buffer[..len] {
                    b"own" => return seen,
                    _ => seen = true,
                }
            }
        }
        panic!("nothing arrives at {to} from {own} either");
    })
}

/// Lets a pod send from any address meanwhile.
fn with_address<R>(pod: &Netns, address: &str, act: impl FnOnce() -> R) -> R {
    let nodad = if address.contains(':') { " nodad" } else { "" };
    pod.ip(&format!("addr add {address} dev lo{nodad}"));
    let result = act();
    pod.ip(&format!("addr del {address} dev lo"));
    result
}

fn index_of(netns: &Netns, link: &str) -> u32 {
    netns.netlink().link(link).unwrap().unwrap().id.index.0
}

/// Returns the address that a pod has of the family that it reaches through the node.
fn hidden(pod: &Netns, family: Family) -> String {
    let option = if family == Family::Ipv4 { "-4" } else { "-6" };
    let links = pod.json(&format!("{option} addr show dev eth0 scope global"));
    let addresses = links[0]["addr_info"].as_array().unwrap().iter();
    addresses.filter_map(|it| it["local"].as_str()).next().unwrap().to_owned()
}

fn socket(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") }
}
