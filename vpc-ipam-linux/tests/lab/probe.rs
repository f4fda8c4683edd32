//! What tests do on the hosts and in the pods of a lab.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::process::Command;

use vpc_ipam_linux::lab::{Echo, EchoError, RunError, add_pod, ask_from, echo, output};
use vpc_ipam_linux::{Address, KernelChange, Netlink as _, Object, Scope};

use crate::support::{PORT, World, respond};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn command_sees_the_links_of_its_namespace_alone() {
    let world = World::new();
    let pod = add_pod(world.lab.name(), "p").unwrap();
    let list = |netns| {
        let listed = output(netns, Command::new("ls").arg("/sys/class/net")).unwrap();
        String::from_utf8(listed.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    let here: Vec<String> = list(&pod);
    assert_eq!(here, ["lo"]);
    let node: Vec<String> = list(world.lab.node());
    assert_eq!(node, ["eth0", "lo"]);
    let written = "cat /sys/class/net/eth0/address";
    let mac = output(world.lab.node(), Command::new("sh").args(["-c", written])).unwrap();
    assert_eq!(String::from_utf8(mac.stdout).unwrap().trim(), world.eni(0).mac.to_string());

    // The caller stays where it is.
    let own = std::fs::read_dir("/sys/class/net").unwrap().count();
    let same = Command::new("sh").args(["-c", "ls /sys/class/net | wc -l"]).output().unwrap();
    assert_eq!(String::from_utf8(same.stdout).unwrap().trim(), own.to_string());
    let missing = output(&pod, &mut Command::new("vil-there-is-no-such-program"));
    assert!(matches!(missing, Err(RunError::Run { .. })), "{missing:?}");
}

#[test]
fn packet_as_long_as_the_links_comes_back_and_a_longer_one_is_not_sent() {
    let world = World::new();
    let lab = &world.lab;
    let to: SocketAddr = (lab.layout().other_host.primary_ipv4, PORT).into();
    let server = Echo::start(lab.other_host(), (Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap();
    for bytes in [29, 1500, 9001] {
        echo(lab.node(), to, bytes, PATIENCE).unwrap();
    }
    let refused = echo(lab.node(), to, 9002, PATIENCE).unwrap_err();
    let EchoError::Exchange { source, .. } = &refused else { panic!("{refused}") };
    assert_eq!(source.raw_os_error(), Some(90), "EMSGSIZE");

    drop(server);
    echo(lab.node(), to, 1500, Duration::from_millis(100)).unwrap_err();
    // The port is free again, or it could not be bound.
    drop(Echo::start(lab.other_host(), (Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap());
}

#[test]
fn question_is_asked_from_the_address_that_is_named() {
    let world = World::new();
    let lab = &world.lab;
    let _server = respond(lab.node());
    let mut netlink = lab.node().netlink().unwrap();
    let link = netlink.link("lo").unwrap().unwrap().id;
    let second = Ipv4Addr::new(127, 0, 0, 7);
    let address = Address { net: IpAddr::from(second).into(), scope: Scope::Host };
    netlink.change(&[KernelChange::Set(Object::Address { link, address })]).unwrap()[0]
        .clone()
        .unwrap();
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, PORT).into();

    let seen = ask_from(lab.node(), second.into(), to, PATIENCE).unwrap();

    assert_eq!(seen, IpAddr::from(second));
    let nowhere = (lab.layout().other_host.primary_ipv4, PORT + 1).into();
    ask_from(lab.node(), lab.layout().node.primary_ipv4.into(), nowhere, PATIENCE).unwrap_err();
    let not_here = ask_from(lab.node(), Ipv4Addr::new(192, 0, 2, 1).into(), to, PATIENCE);
    not_here.unwrap_err();
}
