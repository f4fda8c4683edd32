//! Pods that another program set up and that get a lease of the addresses that they have.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use core::net::IpAddr;
use core::time::Duration;

use node::{Node, names};
use vpc_ipam_core::{
    AddressUse, Budget, Card, FoundInterface, FoundLink, Import, ImportError, Ipam, Mac, Pod,
    Record, Released, Timestamp,
};

const WARM: [(&str, &str); 1] = [("WARM_IP_TARGET", "4")];

fn import(name: &str, addresses: &[IpAddr]) -> Import {
    let link = |number: usize| {
        let mac = Mac([2, 0, 0, 0, 1, u8::try_from(number).unwrap()]);
        FoundLink::new(format!("eni{number}"), mac).with_table(Some(2))
    };
    let found = addresses.iter().enumerate();
    let interfaces = found.map(|(number, it)| FoundInterface::new(*it, link(number))).collect();
    Import::new(Node::key(name), Pod::new("default", name), Timestamp::from_secs(1_000))
        .with_interfaces(interfaces)
}

/// Returns addresses of the node that no pod has.
fn free(node: &Node) -> Vec<IpAddr> {
    let now = node.now;
    let in_use = |address: IpAddr| {
        let blocks = node.enis().iter().flat_map(|eni| eni.blocks());
        let mut used = blocks.flat_map(|block| block.in_use(now, node.config.cooldown));
        used.any(|(it, _)| it == address)
    };
    let blocks = node.enis().iter().flat_map(|eni| eni.blocks());
    blocks.map(|block| block.net().addr()).filter(|it| !in_use(*it)).collect()
}

fn use_of(node: &Node, address: IpAddr) -> Option<AddressUse> {
    let blocks = node.enis().iter().flat_map(|eni| eni.blocks());
    let mut used = blocks.flat_map(|block| block.in_use(node.now, node.config.cooldown));
    used.find(|(it, _)| *it == address).map(|(_, used)| used)
}

fn imported(node: &mut Node, import: &Import) {
    let uncommitted = node.ipam.import(import, node.now).unwrap();
    node.write(uncommitted.record());
    node.ipam.commit(uncommitted).unwrap();
    node.run();
}

#[test]
fn imported_pod_is_as_any_other() {
    let mut node = Node::settled("m5.large", &WARM);
    let address = free(&node)[0];
    node.ipam.handle_untracked(address, true, node.now);
    let import = import("old", &[address]);

    imported(&mut node, &import);

    let lease = node.ipam.pool().lease(&import.key).unwrap().clone();
    assert_eq!(lease.found, [import.interfaces[0].link.clone()]);
    assert_eq!((lease.since, lease.is_imported()), (import.since, true));
    assert_eq!(use_of(&node, address), Some(AddressUse::Assigned));
    // It is asked again, and got what it has; the program that found it has nothing more to say.
    node.ipam.handle_untracked(address, false, node.now);
    assert_eq!(node.ask("old").unwrap().unwrap().found, lease.found);
    let again = node.ipam.import(&import, node.now).unwrap();
    assert_eq!(again.record(), Record::Leased(lease.clone()));
    assert_eq!(node.ipam.commit(again), Some(lease.clone()));

    node.restart();
    node.run_for(60);
    assert_eq!(node.ipam.pool().lease(&import.key).unwrap().found, lease.found);
    node.add(names("new", 0..20));
    assert!(names("new", 0..20).iter().all(|name| node.address(name) != Some(address)));

    assert!(matches!(node.del("old"), Released::Lease { .. }));
    assert!(matches!(use_of(&node, address), Some(AddressUse::Cooling { .. })));
    assert_eq!(node.del("old"), Released::Unknown);
    node.restart();
    node.run_for(1);
    assert!(matches!(use_of(&node, address), Some(AddressUse::Cooling { .. })));
    assert_eq!(node.ipam.check(), []);
    node.assert_replays();
}

#[test]
fn address_of_an_import_that_is_not_durable_stays_the_pods() {
    let mut node = Node::settled("m5.large", &WARM);
    let address = free(&node)[0];
    node.ipam.handle_untracked(address, true, node.now);
    let import = import("old", &[address]);
    let uncommitted = node.ipam.import(&import, node.now).unwrap();

    let undone = node.ipam.abandon(uncommitted, node.now).unwrap();

    let (key, addresses, at) = (import.key.clone(), [address].into(), node.now);
    assert_eq!(undone, Record::Released { key, addresses, at });
    assert_eq!(use_of(&node, address), Some(AddressUse::Untracked));
    node.run_for(3600);
    assert_eq!(use_of(&node, address), Some(AddressUse::Untracked));
    // The pod is deleted while its lease is written.
    let uncommitted = node.ipam.import(&import, node.now).unwrap();
    assert!(matches!(node.del("old"), Released::Lease { .. }));
    assert_eq!(node.ipam.commit(uncommitted), None);
    assert_eq!(use_of(&node, address), Some(AddressUse::Untracked));
    node.ipam.handle_untracked(address, false, node.now);
    assert!(matches!(use_of(&node, address), Some(AddressUse::Cooling { .. })));
    // It goes while its lease is written: what it used cools all the same.
    node.run_for(3600);
    let address = free(&node)[0];
    let import = self::import("old", &[address]);
    let uncommitted = node.ipam.import(&import, node.now).unwrap();
    node.ipam.handle_untracked(address, false, node.now);
    assert!(node.ipam.abandon(uncommitted, node.now).is_some());
    assert!(matches!(use_of(&node, address), Some(AddressUse::Cooling { .. })));
    assert_eq!(node.ipam.check(), []);
    node.assert_replays();
}

#[test]
fn pod_is_refused_with_the_reason() {
    let mut node = Node::settled("m5.large", &WARM);
    let known: IpAddr = "10.0.0.77".parse().unwrap();
    node.add(["new"]);
    let taken = node.address("new").unwrap();
    let [one, other] = [free(&node)[0], free(&node)[1]];
    let own = IpAddr::V4(node.at(0).primary_ipv4.unwrap());
    let before = node.ipam.clone();
    let (held, card) = (Node::key("new"), Card(0));
    let cases = [
        (import("old", &[]), ImportError::NoInterface),
        (import("old", &[known]), ImportError::NotHeld { address: known }),
        (import("old", &[own]), ImportError::NotHeld { address: own }),
        (import("old", &[one, other]), ImportError::CardOrder { address: other, card }),
        (import("old", &[one, one]), ImportError::CardOrder { address: one, card }),
        (import("old", &[taken]), ImportError::AddressTaken { address: taken, by: held }),
        (import("new", &[one]), ImportError::KeyTaken { addresses: [taken].into() }),
    ];
    for (import, expected) in cases {
        let actual = node.ipam.import(&import, node.now).unwrap_err();
        assert_eq!(actual, expected, "{import:?}");
        let is_temporary = matches!(actual, ImportError::NotHeld { .. });
        assert_eq!(actual.is_temporary(), is_temporary, "{actual}");
    }
    assert_eq!(node.ipam.pool(), before.pool());
    let (of, limits, config) = (node.ipam.node().clone(), node.limits.clone(), node.config.clone());
    let mut unseen = Ipam::new(of, limits, config, Budget::default(), 1, node.now).unwrap();
    let error = unseen.import(&import("old", &[one]), node.now).unwrap_err();
    assert_eq!((&error, error.is_temporary()), (&ImportError::NotSeen, true));
}

#[test]
fn pod_on_several_cards_is_imported_in_their_order() {
    let vars = [("ENABLE_MULTI_NIC", "true"), ("WARM_IP_TARGET", "2")];
    let mut node = Node::settled("p4d.24xlarge", &vars);
    let on = |node: &Node, card| {
        let mut enis = node.enis().iter().filter(|eni| eni.card == Card(card));
        enis.find_map(|eni| Some(eni.blocks().first()?.net().addr())).unwrap()
    };
    let (first, second) = (on(&node, 0), on(&node, 1));
    let reversed = node.ipam.import(&import("old", &[second, first]), node.now);
    assert_eq!(reversed.unwrap_err(), ImportError::CardOrder { address: first, card: Card(0) });

    imported(&mut node, &import("old", &[first, second]));

    let lease = node.ipam.pool().lease(&Node::key("old")).unwrap();
    assert_eq!((lease.first.card, lease.more[0].card), (Card(0), Card(1)));
    assert_eq!((lease.addresses().count(), lease.found.len()), (2, 2));
    assert_eq!(node.ipam.check(), []);
    node.run_for(Duration::from_secs(3600).as_secs());
    assert_eq!(node.ipam.pool().lease(&Node::key("old")).unwrap().addresses().count(), 2);
    node.assert_replays();
}
