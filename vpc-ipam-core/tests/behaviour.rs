//! What a caller sees of the modes that few nodes run in: IPv6, both families, several network cards, custom networking,
//! ENIs that are another program's, blocks of both kinds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use core::net::IpAddr;

use ipnet::IpNet;
use node::{Node, ROLE, Setup, Told, names};
use vpc_ipam_core::sim::{Ipv4Request, Ipv6Request};
use vpc_ipam_core::{
    Action, AssignError, Card, CardChoice, Ec2Action, EniConfig, Event, FailureKind, InterfaceType,
    Ipv4Amount, Management, Readiness, Released, Source, Stage, WaitingOn,
};

const DUAL: [(&str, &str); 3] =
    [("ENABLE_IPv4", "true"), ("ENABLE_IPv6", "true"), ("WARM_IP_TARGET", "1")];

fn prefixes_80(node: &Node, device: u8) -> usize {
    node.at(device).ipv6.iter().filter(|net| net.prefix_len() == 80).count()
}

// IPv6.

#[test]
fn one_prefix_of_ipv6_serves_more_pods_than_ipv4_could() {
    let mut node = Node::settled("t3.nano", &[("ENABLE_IPv6", "true")]);
    node.add(names("pod", 0..300));
    assert_eq!(node.stored.len(), 300);
    let addresses: std::collections::BTreeSet<_> =
        node.stored.values().map(|lease| lease.first.ipv6.unwrap()).collect();
    assert_eq!(addresses.len(), 300);
    assert!(node.stored.values().all(|lease| lease.first.ipv4.is_none()));
    assert_eq!((node.count("AssignIpv6Addresses"), node.changes()), (1, 1));
}

#[test]
fn a_prefix_of_ipv6_that_is_there_is_used_and_no_other_asked_for() {
    let mut node = Setup::new("m5.large", &[("ENABLE_IPv6", "true")]).start();
    let eni = node.at(0).id;
    node.cloud.assign_ipv6_addresses(eni, &Ipv6Request::PrefixCount(2), node.now).unwrap();
    node.add(names("pod", 0..20));
    node.run_for(3600);
    assert_eq!(node.count("AssignIpv6Addresses"), 0);
    // All of one prefix, so that the other stays free.
    let used: std::collections::BTreeSet<_> = node
        .stored
        .values()
        .map(|lease| IpNet::new(IpAddr::V6(lease.first.ipv6.unwrap()), 80).unwrap().trunc())
        .collect();
    assert_eq!(used.len(), 1, "{used:?}");
}

#[test]
fn ipv6_leases_survive_a_restart_and_rest_after_it() {
    let mut node = Node::settled("m5.large", &[("ENABLE_IPv6", "true")]);
    node.add(["old", "gone"]);
    let (old, gone) = (node.address("old").unwrap(), node.address("gone").unwrap());
    let _ = node.del("gone");
    node.restart();
    node.run_for(1);
    assert_eq!(node.ask("old").unwrap().unwrap().first.ipv6.map(IpAddr::V6), Some(old));
    node.add(["new"]);
    assert!(![old, gone].contains(&node.address("new").unwrap()));
}

#[test]
fn a_refused_prefix_of_ipv6_leaves_pods_refused_with_the_reason() {
    let mut node = Setup::new("m5.large", &[("ENABLE_IPv6", "true")]).start();
    node.refuse("AssignIpv6Addresses", "UnauthorizedOperation", u32::MAX);
    node.run_for(5);
    let error = node.ask("pod").unwrap_err();
    assert!(error.to_string().contains("not allowed by IAM"), "{error}");
    assert!(error.retry_at().is_some());
    node.heal();
    node.run_for(120);
    assert!(node.ask("pod").unwrap().is_some());
}

// Both families.

#[test]
fn both_families_or_neither() {
    let mut node = Setup::new("m5.large", &DUAL).start();
    node.refuse("AssignIpv6Addresses", "UnauthorizedOperation", u32::MAX);
    node.run_for(5);
    assert_eq!(node.at(0).ipv4.len(), 1);
    // An IPv4 address is free, and no pod gets it without its companion.
    let error = node.ask("pod").unwrap_err();
    assert!(error.to_string().contains("not allowed by IAM"), "{error}");
    assert_eq!(node.held().1, 0);
    assert!(!node.ipam.readiness(node.now).is_ready());
    node.heal();
    node.run_for(120);
    let lease = node.ask("pod").unwrap().unwrap();
    assert!(lease.first.ipv4.is_some() && lease.first.ipv6.is_some());
    assert_eq!(node.held().1, 2);
}

#[test]
fn both_families_are_given_up_and_rest_together() {
    let mut node = Node::settled("m5.large", &DUAL);
    node.add(["old"]);
    let lease = node.stored[&Node::key("old")].clone();
    let released = node.del("old");
    let Released::Lease { lease: given_up, .. } = released else { panic!("{released:?}") };
    let addresses: Vec<IpAddr> = given_up.addresses().collect();
    assert_eq!(addresses, lease.addresses().collect::<Vec<_>>());
    node.add(["new"]);
    let new = &node.stored[&Node::key("new")];
    assert!(new.addresses().all(|address| !addresses.contains(&address)));
}

#[test]
fn every_eni_has_a_prefix_of_ipv6_where_pods_get_both() {
    let mut node = Node::settled("m5.large", &DUAL);
    node.add(names("pod", 0..12));
    node.run_for(60);
    assert_eq!((prefixes_80(&node, 0), prefixes_80(&node, 1)), (1, 1));
    assert_eq!(node.count("AssignIpv6Addresses"), 1, "the second came with its ENI");
    for lease in node.stored.values() {
        let eni = node.cloud.interface(&lease.first.eni).unwrap();
        let ipv6 = IpNet::from(IpAddr::V6(lease.first.ipv6.unwrap()));
        assert!(eni.ipv6.iter().any(|net| IpNet::V6(*net).contains(&ipv6)), "{lease:?}");
    }
}

#[test]
fn pods_of_one_family_keep_their_addresses_when_the_other_is_switched_on() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(["old"]);
    let old = node.address("old");
    node.set(&DUAL);
    node.run_for(60);
    node.add(["new"]);
    assert_eq!(node.address("old"), old);
    assert!(node.stored[&Node::key("new")].first.ipv6.is_some());
    // And off again: the prefix goes once it is not in use.
    node.set(&[("WARM_IP_TARGET", "1")]);
    node.run_for(300);
    assert_eq!(prefixes_80(&node, 0), 1);
    let _ = node.del("new");
    node.run_for(300);
    assert_eq!(prefixes_80(&node, 0), 0);
    assert_eq!(node.address("old"), old);
}

#[test]
fn both_families_with_prefixes_of_both() {
    let mut vars = DUAL.to_vec();
    vars.push(("ENABLE_PREFIX_DELEGATION", "true"));
    let mut node = Node::settled("m5.large", &vars);
    node.add(names("pod", 0..40));
    node.run_for(60);
    assert_eq!(node.stored.len(), 40);
    assert!(node.at(0).ipv4.iter().all(|net| net.prefix_len() == 28));
}

// Several network cards.

#[test]
fn other_cards_are_left_alone_unless_asked_for() {
    let mut node = Setup::new("p4d.24xlarge", &[("WARM_IP_TARGET", "1")]).start();
    let other = node.plug(node.foreign(&[], InterfaceType::Interface), 1, 1);
    node.run_for(600);
    assert_eq!(node.eni(other).unwrap().management, Management::Card);
    assert!(node.enis().iter().all(|eni| eni.card == Card(0) || eni.id == other));
}

/// vector V279
#[test]
fn a_pod_that_wants_every_card_is_refused_where_one_is_in_use() {
    let mut node = Node::settled("p4d.24xlarge", &[("WARM_IP_TARGET", "1")]);
    let error = node.ask_on("job", CardChoice::Every).unwrap_err();
    assert!(matches!(error, AssignError::OneCard), "{error}");
    assert!(error.to_string().contains("ENABLE_MULTI_NIC"), "{error}");
}

#[test]
fn a_card_that_is_kept_for_a_fabric_adapter_serves_no_pods() {
    let vars = [("ENABLE_MULTI_NIC", "true"), ("WARM_IP_TARGET", "1")];
    let mut node = Setup::new("p4d.24xlarge", &vars).start();
    node.plug(node.foreign(&[], InterfaceType::EfaOnly), 2, 1);
    node.run_for(300);
    let cards: Vec<_> = node.ipam.plan(node.now).demand.iter().map(|on| on.card).collect();
    assert_eq!(cards, [Card(0), Card(1), Card(3)]);
    node.add(["warm-up"]);
    let lease = node.ask_on("job", CardChoice::Every).unwrap();
    let lease = lease.or_else(|| {
        node.run_for(10);
        node.stored.get(&Node::key("job")).cloned()
    });
    let cards: Vec<_> = lease.unwrap().interfaces().map(|i| i.card).collect();
    assert_eq!(cards, [Card(0), Card(1), Card(3)]);
}

#[test]
fn a_pod_on_every_card_waits_until_each_has_an_address() {
    let vars = [("ENABLE_MULTI_NIC", "true"), ("WARM_IP_TARGET", "1")];
    let mut node = Node::settled("p4d.24xlarge", &vars);
    assert!(node.ask_on("one", CardChoice::Every).unwrap().is_some());
    // The next finds each card empty, and waits for all of them at once.
    assert_eq!(node.ask_on("two", CardChoice::Every).unwrap(), None);
    node.run_for(5);
    assert_eq!(node.stored[&Node::key("two")].interfaces().count(), 4);
}

// One ENI.

#[test]
fn pods_that_want_the_primary_eni_get_its_addresses_and_are_refused_once_it_is_full() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    let primary = node.enis().iter().find(|eni| eni.is_primary()).unwrap().id;
    // 10 addresses, one of them its own.
    for number in 0..9 {
        let name = format!("pod-{number}");
        if node.ask_on(&name, CardChoice::On(primary)).unwrap().is_none() {
            node.run_for(5);
        }
        assert_eq!(node.stored[&Node::key(&name)].first.eni, primary, "{name}");
        node.run_for(10);
    }
    assert!(node.ipam.readiness(node.now).is_ready(), "other ENIs serve pods that do not mind");

    let error = node.ask_on("last", CardChoice::On(primary)).unwrap_err();

    assert!(matches!(error, AssignError::NoAddress { .. }), "{error}");
    assert!(node.ask("other").unwrap().is_some());
    node.run_for(60);
    let secondary = node.stored[&Node::key("other")].first.eni;
    assert_ne!(secondary, primary);
    assert!(node.ask_on("there", CardChoice::On(secondary)).unwrap().is_some());
}

#[test]
fn an_eni_that_pods_wait_for_is_filled_whatever_others_have_free() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "3")]);
    node.add((0..10).map(|number| format!("pod-{number}")));
    node.run_for(60);
    let other = node.enis().iter().find(|eni| !eni.is_primary()).unwrap().id;
    // The other ENI has what is free, and this many more want it than it has.
    let there = || CardChoice::On(other);
    for number in 0..6 {
        if node.ask_on(&format!("there-{number}"), there()).unwrap().is_none() {
            node.run_for(5);
        }
        let name = format!("there-{number}");
        assert_eq!(node.stored[&Node::key(&name)].first.eni, other, "{name}");
    }
}

#[test]
fn a_pod_that_wants_an_eni_that_there_is_not_is_refused() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    let error = node.ask_on("pod", CardChoice::On("eni-0123".parse().unwrap())).unwrap_err();
    assert!(matches!(error, AssignError::NoAddress { .. }), "{error}");
    assert_eq!(node.ipam.waiting().len(), 0);
}

// Custom networking.

fn custom(vars: &[(&str, &str)]) -> (Node, EniConfig) {
    let mut all = vec![("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("WARM_IP_TARGET", "2")];
    all.extend(vars);
    let mut setup = Setup::new("m5.large", &all);
    let pods = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    let group = node.cloud.create_security_group(node.vpc).unwrap();
    node.run_for(60);
    (node, EniConfig::new(pods).with_security_groups(vec![group]))
}

/// vector V229
#[test]
fn custom_networking_uses_the_named_subnet_and_groups_and_never_the_primary() {
    let (mut node, config) = custom(&[("ENABLE_SUBNET_DISCOVERY", "true")]);
    // Left on the primary ENI from before.
    let primary = node.at(0).id;
    let some = Ipv4Request::Count(Ipv4Amount::Addresses(3));
    node.cloud.assign_private_ip_addresses(primary, &some, node.now).unwrap();
    node.set_eni_config(config.clone());
    node.run_for(120);
    node.add(names("pod", 0..10));
    node.run_for(60);
    assert_eq!(
        (node.at(1).subnet, &node.at(1).security_groups),
        (config.subnet, &config.security_groups)
    );
    assert!(node.stored.values().all(|lease| lease.first.eni != primary));
    assert_eq!(node.stored.len(), 10);
    // Its groups are those of the configuration, whatever becomes of the primary's.
    let other = node.cloud.create_security_group(node.vpc).unwrap();
    let groups = vpc_ipam_core::sim::ModifyInterface::Groups(vec![other]);
    node.cloud.modify_network_interface_attribute(primary, &groups, node.now).unwrap();
    let shown = node.shown(Source::Ec2);
    node.observe(&shown);
    node.run_for(120);
    assert_eq!(node.at(1).security_groups, config.security_groups);
}

#[test]
fn without_groups_of_its_own_an_eni_config_takes_the_primarys() {
    let (mut node, config) = custom(&[]);
    node.set_eni_config(config.with_security_groups(Vec::new()));
    node.run_for(60);
    assert_eq!(node.at(1).security_groups, node.at(0).security_groups);
}

#[test]
fn another_eni_config_counts_for_the_next_eni() {
    let (mut node, config) = custom(&[]);
    node.set_eni_config(config.clone());
    node.run_for(60);
    let subnet = node.subnet;
    node.set_eni_config(EniConfig::new(subnet));
    node.add(names("pod", 0..12));
    node.run_for(60);
    assert_eq!((node.at(1).subnet, node.at(2).subnet), (config.subnet, subnet));
}

#[test]
fn without_an_eni_config_a_pod_is_told_so() {
    let (mut node, _) = custom(&[]);
    let error = node.ask("pod").unwrap_err();
    let AssignError::NoAddress { causes, retry_at, .. } = &error else { panic!("{error}") };
    assert!(causes.iter().any(|held| held.waiting_on == WaitingOn::NoEniConfig));
    assert_eq!(*retry_at, None);
    assert!(matches!(node.ipam.readiness(node.now), Readiness::NotReady(_)));
}

// Subnets.

/// vector V222
#[test]
fn an_eni_in_a_subnet_that_is_not_listed_is_in_use() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    let mut shared = node.foreign(&[], InterfaceType::Interface);
    shared.ipv4 = Ipv4Request::Count(Ipv4Amount::Addresses(2));
    let eni = node.plug(shared, 0, 1);
    let mut shown = node.shown(Source::Ec2);
    // Of another account: EC2 lists the ENI's subnet to its owner only.
    for shown in shown.enis.iter_mut().filter(|shown| shown.id == eni) {
        shown.subnet = "subnet-of-another-account".parse().unwrap();
    }
    node.ipam.observe(&shown, node.now);
    assert!(!node.eni(eni).unwrap().excluded);
    assert_eq!(node.held().0, 4);
}

#[test]
fn a_subnet_that_is_out_of_use_comes_back_with_its_tag() {
    let mut setup = Setup::new("m5.large", &[("WARM_IP_TARGET", "2")]);
    setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.add(["old"]);
    node.run_for(60);
    let subnet = node.subnet.to_string();
    for (role, excluded) in [("0", true), ("1", false)] {
        let tags = [(ROLE.to_string(), role.to_string())].into();
        node.cloud.create_tags(&[&subnet], &tags, node.now).unwrap();
        node.restart();
        node.run_for(120);
        assert_eq!(node.enis()[0].excluded, excluded, "role {role}");
        assert!(node.address("old").is_some());
        node.add([format!("new-{role}")]);
        let lease = &node.stored[&Node::key(&format!("new-{role}"))];
        assert!(!(excluded && lease.first.on_primary()), "role {role}");
    }
}

// Blocks of both kinds.

/// vector V275: amazon-vpc-cni-k8s refuses; an address that is there is better than none.
#[test]
fn addresses_of_the_other_kind_are_the_last_resort() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "3")]);
    node.refuse("AssignPrivateIpAddresses", "InsufficientCidrBlocks", u32::MAX);
    node.refuse("CreateNetworkInterface", "InsufficientCidrBlocks", u32::MAX);
    node.set(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]);
    assert!(node.ask("pod").unwrap().is_some());
}

#[test]
fn one_eni_carries_prefixes_and_addresses_at_once_within_its_places() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_IP_TARGET", "1")];
    let mut node = Node::settled("m5.large", &vars);
    node.refuse("AssignPrivateIpAddresses", "InsufficientCidrBlocks", 1);
    node.add(names("pod", 0..20));
    node.run_for(10);
    let kinds: std::collections::BTreeSet<u8> =
        node.at(0).ipv4.iter().map(|net| net.prefix_len()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [28, 32]);
    assert!(node.at(0).ipv4.len() <= 9);
    assert_eq!(node.stored.len(), 20);
}

#[test]
fn a_subnet_without_prefixes_is_asked_again_and_does_not_flap() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_IP_TARGET", "1")];
    let mut node = Setup::new("m5.large", &vars).start();
    // As a fragmented subnet does: single addresses can be had, no prefix.
    node.fragment();
    node.add(names("pod", 0..3));
    node.run_for(600);
    assert_eq!(node.stored.len(), 3);
    assert!(node.at(0).ipv4.iter().all(|net| net.prefix_len() == 32), "{:?}", node.at(0).ipv4);
    let before = node.changes();
    node.run_for(86_400);
    // Asked for again now and then, one call each time.
    let after = node.changes() - before;
    assert!(after <= 86_400 / 120, "{after} changes");
    let released = node.count("UnassignPrivateIpAddresses");
    assert_eq!(released, 0, "what stands in stays");
}

// What is another program's.

#[test]
fn unmanaged_enis_take_places_and_nothing_else() {
    let mut node = Setup::new("m5.large", &[("WARM_ENI_TARGET", "5")]).start();
    let tag = [("node.k8s.amazonaws.com/no_manage", "true")];
    let eni = node.plug(node.foreign(&tag, InterfaceType::Interface), 0, 1);
    node.run_for(600);
    assert_eq!(node.enis().len(), 3);
    assert_eq!(node.eni(eni).unwrap().stage, Stage::Attached, "it is not set up");
    assert!(node.eni(eni).unwrap().blocks().iter().all(|block| block.assigned() == 0));
    node.add(names("pod", 0..18));
    node.run_for(60);
    assert!(matches!(node.ask("more"), Err(AssignError::NoAddress { .. })));
    assert_eq!(node.cloud.interface(&eni).unwrap().ipv4.len(), 2);
}

#[test]
fn a_fabric_adapter_may_carry_pods_and_is_never_given_back() {
    let mut node = Setup::new("m5.large", &[("WARM_IP_TARGET", "1")]).start();
    let eni = node.plug(node.foreign(&[], InterfaceType::Efa), 0, 1);
    node.add(names("pod", 0..11));
    node.run_for(60);
    assert!(node.eni(eni).unwrap().assigned() > 0);
    for name in names("pod", 0..11) {
        let _ = node.del(&name);
    }
    node.run_for(3600);
    assert!(node.cloud.interface(&eni).unwrap().attachment.is_some());
    assert_eq!(node.count("DetachNetworkInterface"), 0);
}

#[test]
fn an_eni_that_somebody_attaches_where_we_were_about_to_takes_the_place() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    // The place is taken between the plan and the call.
    let foreign = node.foreign(&[], InterfaceType::Interface);
    node.ipam.assign(&Node::request("pod", CardChoice::Any), node.now).map(drop).unwrap();
    for name in names("pod", 0..9) {
        let _ = node.ask(&name);
    }
    node.plug(foreign, 0, 1);
    node.run_for(300);
    let devices: Vec<u8> = node.enis().iter().map(|eni| eni.device.0).collect();
    let unique: std::collections::BTreeSet<&u8> = devices.iter().collect();
    assert_eq!(unique.len(), devices.len(), "{devices:?}");
    assert_eq!(node.stored.len(), 9);
}

// Cordon, terminate.

#[test]
fn a_cordoned_node_goes_on_serving_from_what_it_holds_and_gives_back_addresses() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "5")]);
    node.ipam.handle_schedulable(false, node.now);
    node.add(names("pod", 0..5));
    assert_eq!(node.stored.len(), 5);
    node.set(&[("WARM_IP_TARGET", "1")]);
    for name in names("pod", 0..5) {
        let _ = node.del(&name);
    }
    node.run_for(300);
    assert_eq!(node.held(), (1, 0));
    node.ipam.handle_schedulable(true, node.now);
    node.set(&[("WARM_IP_TARGET", "4")]);
    assert_eq!(node.held(), (4, 0));
}

#[test]
fn what_was_begun_before_the_end_is_finished() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    // An ENI is being released when the node begins to terminate.
    node.add(names("pod", 0..10));
    for name in names("pod", 0..10) {
        let _ = node.del(&name);
    }
    node.now = node.now + core::time::Duration::from_secs(120);
    node.ipam.handle_timeout(node.now);
    let first = node.issued();
    node.ipam.handle_terminating(node.now);
    for issued in first {
        node.execute(issued);
    }
    node.run_for(60);
    assert_eq!(node.count("DeleteNetworkInterface"), 1);
    assert_eq!(node.enis().len(), 1);
}

// Permissions.

/// amazon-vpc-cni-k8s does not start without CreateTags, and frees an ENI that it may not mark.
#[test]
fn a_permission_that_is_missing_stops_what_needs_it_and_nothing_else() {
    for call in ["CreateTags", "ModifyNetworkInterfaceAttribute", "DeleteNetworkInterface"] {
        let vars = [("WARM_IP_TARGET", "1"), ("CLUSTER_NAME", "blue")];
        let mut node = Setup::new("m5.large", &vars).start();
        node.refuse(call, "UnauthorizedOperation", u32::MAX);
        node.add(names("pod", 0..12));
        node.run_for(60);
        assert_eq!(node.stored.len(), 12, "{call}");
        for name in names("pod", 0..12) {
            let _ = node.del(&name);
        }
        node.run_for(600);
        assert_eq!(node.ipam.plan(node.now).demand[0].stock.total, 1, "{call}");
        // An hour, in which it is tried a few times.
        let before = node.count(call);
        node.run_for(3600);
        assert!(node.count(call) - before <= 8, "{call}");
        let denied = node.events().any(|event| {
            matches!(event, Event::ActionFailed { failure, .. } if failure.kind == FailureKind::Denied)
        });
        assert!(denied, "{call}");
    }
}

// Reconciling.

/// vectors V249 and V251
#[test]
fn what_imds_no_longer_shows_goes_when_ec2_agrees() {
    for vars in [[("WARM_IP_TARGET", "11")], [("ENABLE_PREFIX_DELEGATION", "true")]] {
        let mut node = Node::settled("m5.large", &vars);
        node.refuse("AssignPrivateIpAddresses", "UnauthorizedOperation", u32::MAX);
        node.refuse("CreateNetworkInterface", "UnauthorizedOperation", u32::MAX);
        let blocks = node.at(0).ipv4.clone();
        let call = vpc_ipam_core::UnassignPrivateIpAddresses { eni: node.at(0).id, blocks };
        node.cloud.unassign_private_ip_addresses(&call, node.now).unwrap();
        let second = node.enis().get(1).map(|eni| eni.id);
        if let Some(second) = second {
            let attachment = node.at(1).attachment.as_ref().unwrap().id;
            node.cloud.detach_network_interface(attachment, node.now).unwrap();
            node.cloud.delete_network_interface(second, node.now).unwrap();
        }
        node.run_for(180);
        assert_eq!((node.enis().len(), node.held().0), (1, 0), "{vars:?}");
        let vanished = node.events().any(|event| matches!(event, Event::EniVanished { .. }));
        assert_eq!(vanished, second.is_some(), "{vars:?}");
    }
}

/// vector V253
#[test]
fn ec2_is_not_asked_while_imds_shows_what_is_known() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    let asked = node.count("DescribeNetworkInterfaces");
    let read = node.count("ReadMetadata");
    node.run_for(600);
    assert_eq!(node.count("DescribeNetworkInterfaces"), asked);
    assert_eq!(node.count("ReadMetadata"), read + 10);
}

/// vectors V273 and V274
#[test]
fn a_block_with_a_pod_goes_only_when_ec2_says_so() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "3")];
    let mut node = Node::settled("m5.large", &vars);
    node.add(["pod"]);
    let address = node.address("pod").unwrap();
    node.set(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "0")]);
    node.run_for(600);
    assert_eq!(node.held(), (16, 1));
    let blocks = node.at(0).ipv4.clone();
    let call = vpc_ipam_core::UnassignPrivateIpAddresses { eni: node.at(0).id, blocks };
    node.cloud.unassign_private_ip_addresses(&call, node.now).unwrap();
    node.run_for(180);
    let lost = Event::AddressLost { key: Node::key("pod"), address };
    assert!(node.events().any(|event| *event == lost));
    assert_eq!(node.held(), (16, 0), "another prefix, without the pod");
}

/// vectors V493, V496 and V492
#[test]
fn an_eni_rests_as_long_as_its_addresses_and_the_lowest_is_filled_first() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    assert_eq!(node.held().0, 2, "what is missing is asked for, and no more");
    node.add(names("pod", 0..8));
    node.run_for(120);
    let second = node.at(1).id;
    let pod = node.stored.values().find(|lease| lease.first.eni == second);
    assert!(pod.is_none(), "the primary is filled first");
    for name in names("pod", 0..8) {
        let _ = node.del(&name);
    }
    let released = node.now;
    node.run_for(45);
    let freed = node.log.iter().find(|(_, told)| match told {
        Told::Issued(issued) => {
            matches!(issued.action, Action::Ec2(Ec2Action::DetachNetworkInterface(_)))
        }
        _ => false,
    });
    let after = freed.map(|(at, _)| at.since(released).as_secs());
    assert!(after.is_some_and(|secs| (30..=45).contains(&secs)), "{after:?}");
}

/// A node with one pod on a second ENI, and everything that EC2 knows of it an hour old.
fn with_a_second_eni() -> (Node, vpc_ipam_core::EniId) {
    let mut node = Node::settled("m5.large", &[]);
    node.add(names("pod", 0..10));
    node.run_for(120);
    let second = node.at(1).id;
    let on_second = |lease: &&vpc_ipam_core::Lease| lease.first.eni == second;
    assert_eq!(node.stored.values().filter(on_second).count(), 1);
    node.now = node.now + core::time::Duration::from_secs(61);
    (node, second)
}

#[test]
fn one_answer_without_it_takes_no_eni_on_which_addresses_rest() {
    let (mut node, second) = with_a_second_eni();
    let on_second = node.stored.values().find(|lease| lease.first.eni == second);
    let name = on_second.unwrap().key.container().to_string();
    let _ = node.del(&name);
    let mut shown = node.shown(Source::Ec2);
    shown.enis.retain(|eni| eni.id != second);
    node.ipam.observe(&shown, node.now);
    assert_eq!(node.eni(second).unwrap().stage, Stage::Ready);
}

#[test]
fn one_answer_without_it_takes_no_eni_that_somebody_unknown_uses() {
    let (mut node, second) = with_a_second_eni();
    let on_second = node.stored.values().find(|lease| lease.first.eni == second);
    let lease = on_second.unwrap().clone();
    let _ = node.del(lease.key.container());
    node.run_for(300);
    // One of the addresses that a lost store would have named.
    let address = lease.addresses().next().unwrap();
    node.ipam.handle_untracked(address, true, node.now);
    node.now = node.now + core::time::Duration::from_secs(61);
    let mut shown = node.shown(Source::Ec2);
    shown.enis.retain(|eni| eni.id != second);
    node.ipam.observe(&shown, node.now);
    assert_eq!(node.eni(second).unwrap().stage, Stage::Ready);
    // The second such answer counts.
    node.now = node.now + core::time::Duration::from_secs(1);
    shown.as_of = node.now;
    node.ipam.observe(&shown, node.now);
    assert!(node.eni(second).unwrap().is_removing());
}

/// What was made for the node and not attached yet is anybody's to attach.
#[test]
fn an_eni_that_somebody_attached_to_another_instance_is_forgotten() {
    let mut node = Node::settled("m5.large", &[]);
    node.refuse("AttachNetworkInterface", "RequestLimitExceeded", 1);
    node.add(["pod"]);
    let made = node.enis().iter().find(|eni| eni.stage == Stage::Available).unwrap().id;
    let run = vpc_ipam_core::sim::RunInstance::new(node.limits.clone(), node.subnet);
    let other = node.cloud.run_instance(run, node.now).unwrap();
    let attach = vpc_ipam_core::AttachNetworkInterface {
        eni: made,
        instance: other,
        card: vpc_ipam_core::Card(0),
        device: vpc_ipam_core::DeviceIndex(1),
    };
    node.cloud.attach_network_interface(&attach, node.now).unwrap();
    node.run_for(600);
    assert_eq!(node.eni(made), None);
    assert_eq!(node.enis().len(), 2, "another was made");
}

#[test]
fn an_eni_that_somebody_deleted_before_it_was_attached_is_forgotten_by_a_node_that_does_not_grow() {
    let mut node = Node::settled("m5.large", &[]);
    node.refuse("AttachNetworkInterface", "RequestLimitExceeded", 1);
    node.add(["pod"]);
    let made = node.enis().iter().find(|eni| eni.stage == Stage::Available).unwrap().id;
    node.ipam.handle_schedulable(false, node.now);
    node.cloud.delete_network_interface(made, node.now).unwrap();
    node.run_for(2 * 3600);
    assert_eq!(node.eni(made), None);
}

/// It would take the address that it has, not another.
#[test]
fn a_pod_that_waits_for_the_address_it_has_is_no_demand() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(["pod"]);
    node.run_for(60);
    node.restart();
    // Nothing was seen yet, so that the lease cannot be confirmed.
    assert_eq!(node.ask("pod"), Ok(None));
    node.ipam.handle_timeout(node.now);
    assert_eq!(node.ipam.waiting().len(), 1);
    assert_eq!(node.ipam.conditions().waiting, 0);
    node.run_for(600);
    assert_eq!(node.held(), (2, 1));
    assert_eq!(node.count("AssignPrivateIpAddresses"), 2);
}

/// Types with network cards take 80 ENIs.
#[test]
fn an_eni_beyond_the_64th_serves_pods() {
    let mut setup = Setup::new("m5.large", &[("WARM_IP_TARGET", "1")]);
    setup.limits.enis_per_card = vec![80].into();
    setup.limits.ipv4_per_eni = 2;
    let mut node = setup.start();
    node.run_for(60);
    for pod in names("pod", 0..72) {
        node.add([pod]);
        node.run_for(60);
    }
    assert_eq!(node.stored.len(), 72);
}

// Policies.

#[test]
fn the_batch_policy_holds_whole_batches_and_settles() {
    let mut setup = Setup::new("m5.4xlarge", &[]);
    setup.config.target = vpc_ipam_core::WarmTarget::Batch { batch: 8, buffer_percent: 50 };
    let mut node = setup.start();
    // batch x ceil(buffer + demand / batch)
    for (pods, held) in [(0, 8), (4, 8), (5, 16), (12, 16), (13, 24), (40, 48)] {
        let missing: Vec<_> = names("pod", 0..pods)
            .into_iter()
            .filter(|name| node.ipam.pool().lease(&Node::key(name)).is_none())
            .collect();
        node.add(missing);
        node.run_for(300);
        assert_eq!(node.held(), (held, pods as u32), "{pods} pods");
    }
    for name in names("pod", 13..40) {
        let _ = node.del(&name);
    }
    node.run_for(600);
    assert_eq!(node.held(), (24, 13));
    let before = node.changes();
    node.run_for(3600);
    assert_eq!(node.changes(), before);
}

#[test]
fn calls_stay_within_the_budget_and_what_is_over_waits_its_turn() {
    let setup = Setup::new("m5.24xlarge", &[("WARM_ENI_TARGET", "14")]);
    let mut node = setup.start();
    let rate = vpc_ipam_core::Rate { burst: 2, interval: core::time::Duration::from_secs(10) };
    let budget = vpc_ipam_core::Budget::default().with_default(rate);
    let start = node.ipam.node().clone();
    node.ipam = vpc_ipam_core::Ipam::new(
        start,
        node.limits.clone(),
        node.config.clone(),
        budget,
        1,
        node.now,
    )
    .unwrap();
    node.run();
    assert!(node.count("CreateNetworkInterface") <= 2);
    let plan = node.ipam.plan(node.now);
    assert!(plan.blocked.iter().any(|held| matches!(held.waiting_on, WaitingOn::Budget { .. })));
    node.run_for(600);
    assert_eq!(node.enis().len(), 14);
    let calls: Vec<_> = node
        .log
        .iter()
        .filter(|(_, told)| match told {
            Told::Issued(issued) => {
                matches!(issued.action, Action::Ec2(Ec2Action::CreateNetworkInterface(_)))
            }
            _ => false,
        })
        .map(|(at, _)| *at)
        .collect();
    assert!(calls.windows(3).all(|three| three[2].since(three[0]).as_secs() >= 10), "{calls:?}");
}

/// A node that is full tells so at once; one that waits for something tells until when, and keeps its word.
#[test]
fn status_says_what_the_next_add_gets() {
    let situations: [(&str, fn() -> Node); 5] = [
        ("after it converged", || Node::settled("m5.large", &[])),
        ("full", || {
            let mut node = Node::settled("t3.nano", &[]);
            node.add(["one", "two"]);
            node
        }),
        ("cooling", || {
            let mut node = Node::settled("t3.nano", &[]);
            node.add(["one", "two"]);
            node.run_for(60);
            let _ = node.del("one");
            node.run_for(10);
            node
        }),
        ("empty subnet", || {
            let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
            node.crowd(node.subnet, 0);
            node.add(["one"]);
            node.run_for(5);
            node
        }),
        ("cordoned", || {
            let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
            node.ipam.handle_schedulable(false, node.now);
            node.add(["one"]);
            node
        }),
    ];
    for (name, make) in situations {
        let mut node = make();
        let said = node.ipam.readiness(node.now);
        let asked = node.ask("next");
        match (&said, asked) {
            (Readiness::Ready, Ok(Some(_))) => {}
            (Readiness::Soon { by }, Ok(None)) => {
                node.run_for(by.since(node.now).as_secs());
                assert!(node.address("next").is_some(), "{name}: {said}");
            }
            (Readiness::NotReady(expected), Err(error)) => assert_eq!(*expected, error, "{name}"),
            (said, asked) => panic!("{name}: said {said}, got {asked:?}"),
        }
    }
}

/// A node that EC2 has told nothing yet promises nothing, but lets a pod wait.
#[test]
fn a_fresh_node_promises_nothing_and_lets_pods_wait() {
    let mut node = Setup::new("m5.large", &[]).start();
    assert!(!node.ipam.readiness(node.now).is_ready());
    assert_eq!(node.ask("next"), Ok(None));
    node.run_for(30);
    assert!(node.address("next").is_some());
    assert_eq!(node.ipam.readiness(node.now), Readiness::Ready);
}

/// The same wherever a node gets to while nothing fails: what STATUS says of the next ADD is what becomes of it.
#[test]
fn status_keeps_its_word_wherever_a_healthy_node_gets_to() {
    let kinds: [(&str, &[(&str, &str)]); 8] = [
        ("t3.nano", &[]),
        ("t3.small", &[("WARM_IP_TARGET", "1")]),
        ("t3.small", &[("WARM_ENI_TARGET", "0"), ("IP_COOLDOWN_PERIOD", "20")]),
        ("m5.large", &[("WARM_IP_TARGET", "2"), ("MAX_ENI", "2")]),
        ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true"), ("MAX_ENI", "1")]),
        ("t3.nano", &[("MINIMUM_IP_TARGET", "1")]),
        ("t3.nano", &DUAL),
        ("t3.nano", &[("ENABLE_IPv6", "true")]),
    ];
    let mut said = [0u32; 3];
    for (seed, (name, vars)) in (1u64..=12).flat_map(|seed| kinds.map(|kind| (seed, kind))) {
        let mut random = seed;
        let mut draw = |below: u64| {
            // The sequence of Knuth's MMIX, of which the high bits are good enough.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut node = Setup::new(name, vars).start();
        for step in 0..40 {
            match draw(5) {
                0 | 1 => node.add([format!("pod-{step}")]),
                2 => {
                    let gone = format!("pod-{}", draw(step + 1));
                    let _ = node.del(&gone);
                }
                3 => node.run_for(draw(40)),
                _ => {
                    let schedulable = draw(4) > 0;
                    node.ipam.handle_schedulable(schedulable, node.now);
                    node.run();
                }
            }
            let readiness = node.ipam.readiness(node.now);
            let mut probe = node.clone();
            match (&readiness, probe.ask("next")) {
                (Readiness::Ready, Ok(Some(_))) => said[0] += 1,
                (Readiness::Soon { by }, Ok(None)) => {
                    probe.run_for(by.since(probe.now).as_secs());
                    let served = probe.address("next").is_some();
                    assert!(served, "{name} {vars:?} seed {seed}: {}", node.ipam.explain(node.now));
                    said[1] += 1;
                }
                (Readiness::NotReady(expected), Err(error)) => {
                    assert_eq!(*expected, error);
                    // It is not told so while an address is there.
                    probe.run_for(1);
                    assert!(probe.address("next").is_none());
                    said[2] += 1;
                }
                (said, asked) => panic!("{name} seed {seed}: said {said}, got {asked:?}"),
            }
        }
    }
    assert!(said.iter().all(|count| *count > 100), "each answer is given often: {said:?}");
}

/// However slowly the pods go, and in whichever order, no more addresses are left than the target has, and no ENI without one.
#[test]
fn pods_that_go_one_by_one_leave_no_empty_eni() {
    for cooldown in ["0", "2", "30"] {
        for count in 10..17 {
            for (every, step) in [(0, 1), (1, 1), (1, 3), (4, 5), (20, 7), (35, 11), (35, 16)] {
                let vars = [("WARM_IP_TARGET", "5"), ("IP_COOLDOWN_PERIOD", cooldown)];
                let mut node = Node::settled("m5.large", &vars);
                let mut left = names("p", 0..count);
                node.add(&left);
                node.run_for(120);
                while !left.is_empty() {
                    let pod = left.remove(step % left.len());
                    let _ = node.del(&pod);
                    node.run_for(every);
                }
                node.run_for(900);
                let case = format!("{count} pods, cooldown {cooldown} s, every {every} s, {step}");
                let empty = node.enis().iter().filter(|eni| eni.blocks().is_empty()).count();
                assert_eq!((node.held().0, empty), (5, 0), "{case}");
            }
        }
    }
}
