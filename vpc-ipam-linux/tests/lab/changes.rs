use vpc_ipam_core::Ipv4Amount;
use vpc_ipam_core::sim::{Change, RunInstance};
use vpc_ipam_core::{Limits, SubnetId};
use vpc_ipam_linux::lab::{ChangeError, INTERNET, Layout, LayoutError};
use vpc_ipam_linux::{Namespace, Netlink as _, Sysctl, SysctlKey};

use crate::support::{NOW, World, ask, build, respond};

#[test]
fn enis_appear_as_an_operating_system_finds_them() {
    let mut world = World::new();
    world.attach(1, 0, Ipv4Amount::Addresses(0));
    world.attach(2, 1, Ipv4Amount::Addresses(0));
    world.converge();

    let links = world.node_links();
    let expected = [("eth0", 0, true), ("eth1", 1, false), ("eth2", 2, false)];
    assert_eq!(links.len(), expected.len(), "{links:?}");
    let mut netlink = world.lab.node().netlink().unwrap();
    for (name, device, up) in expected {
        let link = links.iter().find(|link| &*link.id.name == name).unwrap();
        let eni = world.eni(device);
        assert_eq!((link.mac, link.mtu, link.up), (Some(eni.mac), 9001, up), "{name}");
        let addresses = netlink.addresses(link.id.index).unwrap();
        let ipv4 = addresses.iter().filter(|address| address.net.addr().is_ipv4());
        let ipv4: Vec<_> = ipv4.map(|address| address.net.to_string()).collect();
        let expected = if up { vec![format!("{}/19", eni.primary_ipv4.unwrap())] } else { vec![] };
        assert_eq!(ipv4, expected, "{name}");
    }
    let (index, route) = netlink.route_to(INTERNET.into()).unwrap().unwrap();
    let by = links.iter().find(|link| link.id.index == index).unwrap();
    assert_eq!((&*by.id.name, route.gateway), ("eth0", Some("10.0.0.1".parse().unwrap())));
}

#[test]
fn applied_twice_a_change_does_nothing_more() {
    let mut world = World::new();
    world.attach(1, 0, Ipv4Amount::Prefixes(1));
    let mut changes = Vec::new();
    while let Some(change) = world.cloud.poll_change() {
        world.lab.apply(&change).unwrap();
        changes.push(change);
    }
    let before = (world.node_links(), neighbours(world.lab.router()));
    assert_eq!(before.1, 2 + 1 + 16, "two primary ENIs; a secondary one with a prefix");

    for change in &changes {
        world.lab.apply(change).unwrap();
    }

    assert_eq!((world.node_links(), neighbours(world.lab.router())), before);
    let _server = respond(world.lab.internet());
    ask(world.lab.node(), INTERNET).unwrap();
}

#[test]
fn detached_eni_takes_its_link_along_and_leaves_its_count() {
    let mut world = World::new();
    let mut attachment = world.attach(1, 0, Ipv4Amount::Addresses(1));
    world.converge();
    let eni = world.eni(1).id;
    assert_eq!(world.node_links().len(), 2);

    for _ in 0..3 {
        world.cloud.detach_network_interface(attachment, NOW).unwrap();
        let detached = world.cloud.poll_change().unwrap();
        world.lab.apply(&detached).unwrap();
        world.lab.apply(&detached).unwrap();

        assert_eq!(world.node_links().len(), 1);
        assert_eq!(neighbours(world.lab.router()), 2);
        assert_eq!(world.drops(eni), 0);

        attachment = world.attach_again(eni, 1);
        world.converge();
        // Of an attachment that is no more.
        world.lab.apply(&detached).unwrap();
        assert_eq!(world.node_links().len(), 2);
        assert_eq!(neighbours(world.lab.router()), 2 + 2);
    }
}

#[test]
fn what_the_lab_does_not_have_is_told() {
    let mut world = World::new();
    let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
    world.cloud.run_instance(RunInstance::new(limits, world.subnets[0]), NOW).unwrap();
    let of_third = world.cloud.poll_change().unwrap();
    world.lab.apply(&of_third).unwrap();
    assert_eq!(world.node_links().len(), 1, "a third instance is none of the lab's");

    world.attach(1, 1, Ipv4Amount::Addresses(0));
    let Some(Change::Attached(mut port)) = world.cloud.poll_change() else {
        panic!("nothing was attached");
    };
    port.subnet = "subnet-unknown".parse().unwrap();
    let refused = world.lab.apply(&Change::Attached(port)).unwrap_err();
    assert!(matches!(refused, ChangeError::NoSubnet { .. }), "{refused}");

    let unknown: SubnetId = "subnet-unknown".parse().unwrap();
    let other_host = world.lab.layout().other_host.instance;
    let layout = Layout::of(&world.cloud, [unknown], world.node, other_host);
    assert_eq!(layout, Err(LayoutError::NoSubnet(unknown)));
}

#[test]
fn failed_change_can_be_applied_again() {
    let mut world = World::new();
    let mut netlink = world.lab.node().netlink().unwrap();
    let squatter = vpc_ipam_linux::Bridge {
        name: "eth1".to_owned(),
        mac: vpc_ipam_core::Mac([2, 0, 0, 0, 0, 0xaa]),
        mtu: 1500,
    };
    netlink.change(&[vpc_ipam_linux::KernelChange::AddBridge(squatter)]).unwrap()[0]
        .clone()
        .unwrap();
    world.attach(1, 0, Ipv4Amount::Addresses(0));
    let attached = world.cloud.poll_change().unwrap();

    let refused = world.lab.apply(&attached).unwrap_err();

    assert!(matches!(refused, ChangeError::Network { .. }), "{refused}");
    let removal = vpc_ipam_linux::KernelChange::RemoveLink { name: "eth1".to_owned() };
    netlink.change(&[removal]).unwrap()[0].clone().unwrap();
    world.lab.apply(&attached).unwrap();
    assert_eq!(world.node_links().len(), 2);
}

#[test]
fn largest_packets_of_a_vpc_fit_everywhere() {
    let mut world = World::new();
    world.attach(1, 1, Ipv4Amount::Addresses(0));
    world.converge();
    let lab = &world.lab;
    for namespace in [lab.router(), lab.node(), lab.other_host(), lab.internet()] {
        for link in namespace.netlink().unwrap().links().unwrap() {
            let is_loopback = &*link.id.name == "lo";
            assert!(is_loopback || link.mtu == 9001, "{namespace:?}: {link:?}");
        }
    }
}

#[test]
fn variables_do_not_depend_on_the_machine() {
    let world = World::new();
    let pod = vpc_ipam_linux::lab::add_pod(world.lab.name(), "p").unwrap();
    let lab = &world.lab;
    for (namespace, forwards) in [
        (lab.router(), "1"),
        (lab.node(), "1"),
        (lab.other_host(), "1"),
        (lab.internet(), "0"),
        (&pod, "0"),
    ] {
        let mut keys = vec![SysctlKey::new("net/ipv4/ip_forward")];
        for link in ["all", "default"] {
            keys.extend(
                ["rp_filter", "accept_redirects", "send_redirects"]
                    .map(|name| SysctlKey::ipv4_of_link(link, name)),
            );
        }
        let values = namespace.netlink().unwrap().sysctls(&keys).unwrap();
        let expected = core::iter::once(forwards).chain(core::iter::repeat("0"));
        for ((key, actual), expected) in keys.into_iter().zip(values).zip(expected) {
            let actual = Sysctl { key, value: actual.unwrap(), optional: false };
            assert!(actual.value == expected, "{namespace:?}: {actual}, expected {expected}");
        }
    }
}

#[test]
fn lab_of_the_same_name_is_refused_and_the_first_stays() {
    let world = World::new();
    let name = world.lab.name().clone();

    let second = vpc_ipam_linux::lab::Lab::build(name, world.lab.layout().clone());

    assert!(second.is_err());
    let _server = respond(world.lab.internet());
    ask(world.lab.node(), INTERNET).unwrap();
    drop(build(world.lab.layout().clone()));
    ask(world.lab.node(), INTERNET).unwrap();
}

/// Counts the addresses that the router delivers.
fn neighbours(router: &Namespace) -> usize {
    let mut netlink = router.netlink().unwrap();
    let bridges = netlink.links().unwrap();
    let bridges = bridges.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    bridges.map(|bridge| netlink.neighbours(bridge.id.index).unwrap().len()).sum()
}
