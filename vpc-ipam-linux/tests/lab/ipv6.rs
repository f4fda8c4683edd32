use core::net::{IpAddr, Ipv6Addr};
use std::net::UdpSocket;
use std::process::Command;

use vpc_ipam_core::sim::Ipv6Request;
use vpc_ipam_core::{Families, Ipv4Amount, Ipv4Kind, UnassignIpv6Addresses};
use vpc_ipam_linux::lab::{self, INTERNET, INTERNET_IPV6, output};
use vpc_ipam_linux::{Address, KernelChange, Namespace, Netlink as _, Object, Scope};

use crate::support::{NOW, World, ask, ask_in_vain, chain, respond};

const DUAL: Families = Families::Dual(Ipv4Kind::Addresses);

/// A node with an ENI in each subnet besides the primary one, all with a prefix.
fn node_with_prefixes() -> World {
    let mut world = World::of(DUAL);
    let prefix = Ipv6Request::PrefixCount(1);
    world.cloud.assign_ipv6_addresses(world.primary, &prefix, NOW).unwrap();
    world.attach(1, 0, Ipv4Amount::Addresses(0));
    world.attach(2, 1, Ipv4Amount::Addresses(0));
    world.converge();
    world.set_up_node();
    world.set_up_eni(1);
    world.set_up_eni(2);
    world
}

fn prefix_of(world: &World, device: u8) -> ipnet::Ipv6Net {
    let blocks = world.eni(device).ipv6;
    *blocks.iter().find(|block| block.prefix_len() == 80).unwrap()
}

#[test]
fn all_reach_each_other_and_nothing_is_dropped() {
    let world = node_with_prefixes();
    let lab = &world.lab;
    let pods: Vec<_> = [0, 1, 2]
        .into_iter()
        .flat_map(|device| {
            // Of a prefix every address is a pod's, the first and the last included.
            let prefix = prefix_of(&world, device);
            [prefix.network(), prefix.broadcast()].map(|address| (device, address))
        })
        .enumerate()
        .map(|(number, (device, address))| {
            let namespace = world.add_pod(&format!("p{number}"), device, address);
            (format!("p{number} on device {device}"), namespace, address)
        })
        .collect();
    let own = |host: &vpc_ipam_linux::lab::Host| host.primary_ipv6.unwrap();
    let (node, other_host) = (own(&lab.layout().node), own(&lab.layout().other_host));
    let mut servers: Vec<_> = pods.iter().map(|(_, namespace, _)| respond(namespace)).collect();
    servers.extend([lab.node(), lab.other_host(), lab.internet()].map(respond));

    let mut cases: Vec<(String, &Namespace, Ipv6Addr, Ipv6Addr)> = Vec::new();
    for (name, pod, address) in &pods {
        for (to, _, of_peer) in pods.iter().filter(|(to, ..)| to != name) {
            cases.push((format!("{name} to {to}"), pod, *of_peer, *address));
        }
        for (to, host, of_host) in [
            ("the node", lab.node(), node),
            ("the other host", lab.other_host(), other_host),
            ("the internet", lab.internet(), INTERNET_IPV6),
        ] {
            cases.push((format!("{name} to {to}"), pod, of_host, *address));
            cases.push((format!("{to} to {name}"), host, *address, of_host));
        }
    }
    cases.push(("the node to the other host".to_owned(), lab.node(), other_host, node));
    cases.push(("the node to the internet".to_owned(), lab.node(), INTERNET_IPV6, node));

    for (case, from, to, expected) in cases {
        let seen = ask(from, to).unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
        assert_eq!(seen, IpAddr::from(expected), "{case}");
    }
    let seen = ask(lab.node(), INTERNET).unwrap();
    assert_eq!(seen, IpAddr::from(lab.layout().node.primary_ipv4), "IPv4 besides");
    let drops = lab.source_check_drops().unwrap();
    assert!(drops.values().all(|&packets| packets == 0), "{drops:?}");
    for host in [lab.node(), lab.other_host(), lab.internet()] {
        let counters = output(host, Command::new("cat").arg("/proc/net/snmp6")).unwrap();
        let counters = String::from_utf8(counters.stdout).unwrap();
        let redirects = counters.lines().find(|line| line.starts_with("Icmp6InRedirects")).unwrap();
        assert_eq!(redirects.split_whitespace().last(), Some("0"), "EC2's router sends none");
    }
}

#[test]
fn source_that_is_not_the_enis_is_dropped_and_counted() {
    let world = World::of(DUAL);
    let eni = world.eni(0);
    let _server = respond(world.lab.internet());
    let not_assigned: Ipv6Addr = "2001:db8:0:a00::bad".parse().unwrap();
    let mut netlink = world.lab.node().netlink().unwrap();
    let link = netlink.link("eth0").unwrap().unwrap().id;
    let address = Address { net: IpAddr::from(not_assigned).into(), scope: Scope::Global };
    netlink.change(&[KernelChange::Set(Object::Address { link, address })]).unwrap()[0]
        .clone()
        .unwrap();

    // The question for the router's MAC address has the source of the packet that waits for it.
    let own = eni.ipv6_addresses().next().unwrap();
    let ask = || {
        let to = (INTERNET_IPV6, crate::support::PORT).into();
        lab::ask_from(world.lab.node(), own.into(), to, core::time::Duration::from_secs(2))
    };
    ask().unwrap();
    assert_eq!(world.drops(eni.id), 0);

    let socket = world.lab.node().run(|| UdpSocket::bind((not_assigned, 0))).unwrap().unwrap();
    for _ in 0..3 {
        socket.send_to(b"from another address", (INTERNET_IPV6, 7778)).unwrap();
    }
    // What was sent first has arrived first.
    assert_eq!(ask().unwrap(), IpAddr::from(own));

    assert_eq!(world.drops(eni.id), 3);
}

#[test]
fn unassigned_prefix_neither_sends_nor_receives() {
    let mut world = node_with_prefixes();
    let (eni, prefix) = (world.eni(1).id, prefix_of(&world, 1));
    let address = prefix.network();
    let pod = world.add_pod("p", 1, address);
    let other_host = world.lab.layout().other_host.primary_ipv6.unwrap();
    let _servers = [respond(&pod), respond(world.lab.other_host())];
    ask(&pod, other_host).unwrap();
    ask(world.lab.other_host(), address).unwrap();

    let request = UnassignIpv6Addresses { eni, prefixes: vec![prefix] };
    world.cloud.unassign_ipv6_addresses(&request, NOW).unwrap();
    world.converge();

    assert_eq!(world.drops(eni), 0);
    ask_in_vain(&pod, other_host);
    let before = world.drops(eni);
    assert!(before > 0);
    ask_in_vain(world.lab.other_host(), address);
    assert_eq!(world.drops(eni), before, "nothing reached the pod that it could answer");

    let again = Ipv6Request::Blocks(vec![prefix]);
    world.cloud.assign_ipv6_addresses(eni, &again, NOW).unwrap();
    world.converge();
    ask(&pod, other_host).unwrap();
    ask(world.lab.other_host(), address).unwrap();
}

#[test]
fn detached_eni_leaves_nothing_in_the_router() {
    let mut world = World::of(DUAL);
    let before = held_by_router(&world);
    let mut attachment = world.attach(1, 0, Ipv4Amount::Addresses(1));
    world.converge();
    let eni = world.eni(1).id;
    let with = held_by_router(&world);
    assert_ne!(with, before);
    for _ in 0..2 {
        world.cloud.detach_network_interface(attachment, NOW).unwrap();
        world.converge();
        assert_eq!(held_by_router(&world), before);
        attachment = world.attach_again(eni, 1);
        world.converge();
        assert_eq!(held_by_router(&world), with);
    }
}

fn held_by_router(world: &World) -> Vec<String> {
    let script =
        "ip -6 route show table all; ip -6 neigh show nud permanent; ip neigh show nud permanent";
    let held = output(world.lab.router(), Command::new("sh").args(["-c", script])).unwrap();
    let held = String::from_utf8(held.stdout).unwrap();
    let mut held: Vec<_> = held.lines().map(str::to_owned).collect();
    held.sort();
    held
}

#[test]
fn host_has_what_dhcp_and_the_router_give() {
    let world = World::of(DUAL);
    let mut netlink = world.lab.node().netlink().unwrap();
    let link = netlink.link("eth0").unwrap().unwrap().id;
    let own = world.eni(0).ipv6_addresses().next().unwrap();
    let addresses = netlink.addresses(link.index).unwrap();
    assert!(addresses.iter().any(|it| it.net == ipnet::Ipv6Net::from(own).into()), "{addresses:?}");
    let (_, route) = netlink.route_to(INTERNET_IPV6.into()).unwrap().unwrap();
    assert_eq!(route.gateway, Some("fe80:ec2::1".parse().unwrap()));
    // Who sends from it need not wait until the kernel trusts it.
    let show = "ip -6 addr show dev eth0 tentative";
    let tentative = output(world.lab.node(), Command::new("sh").args(["-c", show])).unwrap();
    assert_eq!(String::from_utf8(tentative.stdout).unwrap(), "");
}
