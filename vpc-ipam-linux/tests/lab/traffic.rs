use core::net::{IpAddr, Ipv4Addr};
use std::net::UdpSocket;

use vpc_ipam_core::sim::Ipv4Request;
use vpc_ipam_core::{Ipv4Amount, UnassignPrivateIpAddresses};
use vpc_ipam_linux::lab::INTERNET;
use vpc_ipam_linux::{Address, KernelChange, Namespace, Netlink as _, Object, Scope};

use crate::support::{NOW, World, ask, ask_in_vain, chain, respond};

/// A node with an ENI in each subnet besides the primary one, and two pods on each of the three.
fn node_with_pods() -> (World, Vec<(String, Namespace, Ipv4Addr)>) {
    let mut world = World::new();
    let two = Ipv4Amount::Addresses(2);
    world.cloud.assign_private_ip_addresses(world.primary, &Ipv4Request::Count(two), NOW).unwrap();
    world.attach(1, 0, two);
    world.attach(2, 1, Ipv4Amount::Prefixes(1));
    world.converge();
    world.set_up_node();
    world.set_up_eni(1);
    world.set_up_eni(2);

    let addresses = |device| -> Vec<_> {
        let blocks = world.eni(device).ipv4;
        // Of a prefix every address is a pod's, the first and the last included.
        blocks.iter().flat_map(|block| [block.network(), block.broadcast()]).collect()
    };
    let of_device = |device| {
        let mut addresses = addresses(device);
        addresses.dedup();
        assert_eq!(addresses.len(), 2, "device {device}");
        addresses.into_iter().map(move |address| (device, address))
    };
    let pods =
        [0, 1, 2].into_iter().flat_map(of_device).enumerate().map(|(n, (device, address))| {
            let name = format!("p{n}");
            let namespace = world.add_pod(&name, device, address);
            (format!("{name} on device {device}"), namespace, address)
        });
    let pods = pods.collect();
    (world, pods)
}

#[test]
fn all_reach_each_other_and_nothing_is_dropped() {
    let (world, pods) = node_with_pods();
    let lab = &world.lab;
    let (node, other_host) = (lab.layout().node.primary_ipv4, lab.layout().other_host.primary_ipv4);
    let mut servers: Vec<_> = pods.iter().map(|(_, namespace, _)| respond(namespace)).collect();
    servers.extend([lab.node(), lab.other_host(), lab.internet()].map(respond));

    let mut cases: Vec<(String, &Namespace, Ipv4Addr, Ipv4Addr)> = Vec::new();
    for (name, pod, address) in &pods {
        for (to, _, of_peer) in pods.iter().filter(|(to, ..)| to != name) {
            cases.push((format!("{name} to {to}"), pod, *of_peer, *address));
        }
        cases.push((format!("{name} to the node"), pod, node, *address));
        cases.push((format!("{name} to the other host"), pod, other_host, *address));
        cases.push((format!("{name} to the internet"), pod, INTERNET, node));
        cases.push((format!("the node to {name}"), lab.node(), *address, node));
        cases.push((format!("the other host to {name}"), lab.other_host(), *address, other_host));
    }
    cases.push(("the node to the other host".to_owned(), lab.node(), other_host, node));
    cases.push(("the node to the internet".to_owned(), lab.node(), INTERNET, node));

    for (case, from, to, expected) in cases {
        let seen = ask(from, to).unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
        assert_eq!(seen, IpAddr::from(expected), "{case}");
    }
    let drops = lab.source_check_drops().unwrap();
    assert_eq!(drops.len(), 4, "three ENIs of the node, one of the other host: {drops:?}");
    assert!(drops.values().all(|&packets| packets == 0), "{drops:?}");
}

#[test]
fn source_that_is_not_the_enis_is_dropped_and_counted() {
    let world = World::new();
    let (lab, eni) = (&world.lab, world.eni(0));
    let _server = respond(lab.internet());
    let not_assigned = Ipv4Addr::new(10, 0, 31, 200);
    let mut netlink = lab.node().netlink().unwrap();
    let link = netlink.link("eth0").unwrap().unwrap().id;
    let address = Address { net: IpAddr::from(not_assigned).into(), scope: Scope::Global };
    netlink.change(&[KernelChange::Set(Object::Address { link, address })]).unwrap()[0]
        .clone()
        .unwrap();

    let socket = lab.node().run(|| UdpSocket::bind((not_assigned, 0))).unwrap().unwrap();
    for _ in 0..3 {
        socket.send_to(b"from another host", (INTERNET, 7778)).unwrap();
    }
    // What was sent first has arrived first.
    let seen = ask(lab.node(), INTERNET).unwrap();

    assert_eq!(seen, IpAddr::from(eni.primary_ipv4.unwrap()));
    assert_eq!(world.drops(eni.id), 3);
}

#[test]
fn unassigned_address_neither_sends_nor_receives() {
    let mut world = World::new();
    world.attach(1, 0, Ipv4Amount::Addresses(1));
    world.converge();
    world.set_up_node();
    world.set_up_eni(1);
    let eni = world.eni(1);
    let block = eni.ipv4[0];
    let pod = world.add_pod("p", 1, block.addr());
    let other_host = world.lab.layout().other_host.primary_ipv4;
    let _servers = [respond(&pod), respond(world.lab.other_host())];
    ask(&pod, other_host).unwrap();
    ask(world.lab.other_host(), block.addr()).unwrap();

    let request = UnassignPrivateIpAddresses { eni: eni.id, blocks: vec![block] };
    world.cloud.unassign_private_ip_addresses(&request, NOW).unwrap();
    world.converge();

    assert_eq!(world.drops(eni.id), 0);
    ask_in_vain(&pod, other_host);
    assert!(world.drops(eni.id) > 0);
    let before = world.drops(eni.id);
    ask_in_vain(world.lab.other_host(), block.addr());
    assert_eq!(world.drops(eni.id), before, "nothing reached the pod that it could answer");

    let again = Ipv4Request::Blocks(vec![block]);
    world.cloud.assign_private_ip_addresses(eni.id, &again, NOW).unwrap();
    world.converge();
    ask(&pod, other_host).unwrap();
    ask(world.lab.other_host(), block.addr()).unwrap();
}
