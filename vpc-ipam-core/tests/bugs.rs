//! Every bug of amazon-vpc-cni-k8s that is known, and every case that its history says must hold, each as a fact about us that
//! amazon-vpc-cni-k8s' behaviour contradicts or once contradicted.
//!
//! In brackets: `bug N`, visible in amazon-vpc-cni-k8s' newest version; `#N`, of its tracker or changelog.
//!
//! What is not decided in this crate is held elsewhere. In the daemon and its store: a store that cannot be read stops
//! nothing (bug 9's file, #972, #1123, #1140), rows of pods that are gone go with their rules (#2110, #2307), a client of
//! another version is refused (#1141), the page shows copies (#1179), start without the API server (#3243), DEL of a pod
//! that was made again (#3304, by key). In the executor of EC2: the limits of a type that is not in the table (#782, #484,
//! #1616), pages of long answers (bug 27, #1333), time limits of calls (v1.22.1). In the sweep of other nodes' leftovers:
//! which ENIs it may delete (bug 24, #1109, #2856). In the datapath: rules of a pod whose routes cannot be set (bug 15's
//! other half).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use core::time::Duration;

use ipnet::IpNet;
use node::{NOON, Node, ROLE, Setup, Told, Trouble, call_of, names};
use vpc_ipam_core::sim::{CreateInterface, Ipv4Request};
use vpc_ipam_core::{
    Action, AssignError, Budget, Card, CardChoice, Config, Demand, DeviceIndex, Ec2Action, EniId,
    Event, FailureKind, HostAction, InterfaceType, Ipam, Ipv4Amount, Limits, Management,
    Observation, PodKey, Record, Released, Scope, Source, Stage, SubnetId, UnusableConfigError,
    WaitingOn,
};

/// Lets an hour pass and returns how much is changed in it.
fn changes_in_an_hour(node: &mut Node) -> usize {
    let before = node.changes();
    node.run_for(3600);
    node.changes() - before
}

// Bugs that are visible in amazon-vpc-cni-k8s' newest version.

/// bug 1, #587
#[test]
fn warm_eni_target_0_with_exactly_full_enis_settles() {
    let mut node = Node::settled("t3.small", &[("WARM_ENI_TARGET", "0")]);
    node.add(names("pod", 1..=3));
    node.run_for(600);
    assert_eq!(node.enis().len(), 2);
    assert_eq!(changes_in_an_hour(&mut node), 0);
}

/// bug 2
#[test]
fn warm_prefix_target_0_settles_without_pods_and_with_full_prefixes() {
    for pods in [0, 16, 32] {
        let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "0")];
        let mut node = Node::settled("m5.large", &vars);
        node.add(names("pod", 0..pods));
        node.run_for(600);
        assert_eq!(changes_in_an_hour(&mut node), 0, "{pods} pods");
    }
}

/// bug 3
#[test]
fn a_free_prefix_of_another_card_is_not_a_surplus_of_addresses() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("ENABLE_MULTI_NIC", "true")];
    let mut node = Node::settled("p4d.24xlarge", &vars);
    let plan = node.ipam.plan(node.now);
    assert_eq!(plan.demand.len(), 4);
    assert!(plan.demand.iter().all(|on| on.demand == Demand::Met), "{:?}", plan.demand);
    assert_eq!(changes_in_an_hour(&mut node), 0);
}

/// A node whose primary ENI has pods on two prefixes, and whose subnet is then taken out of use.
fn excluded_with_prefixes() -> Node {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];
    let mut setup = Setup::new("m5.large", &vars);
    setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.add(names("pod", 0..20));
    node.run_for(60);
    let subnet = node.subnet.as_str().to_string();
    let tags = [(ROLE.to_string(), "0".to_string())].into();
    node.cloud.create_tags(&[&subnet], &tags, node.now).unwrap();
    node.restart();
    node.run_for(120);
    assert!(node.enis()[0].excluded);
    node
}

/// bug 4
#[test]
fn prefixes_of_an_excluded_eni_are_no_surplus() {
    let mut node = excluded_with_prefixes();
    let excluded: Vec<IpNet> = node.enis()[0].blocks().iter().map(|block| block.net()).collect();
    assert_eq!(node.enis()[0].assigned(), 20, "{excluded:?}");
    assert_eq!(changes_in_an_hour(&mut node), 0);
    let on = node.ipam.plan(node.now).demand[0];
    assert_eq!((on.stock.prefixes, on.demand), (1, Demand::Met));
}

/// bug 5, #2042, vector V503
#[test]
fn what_a_vanished_eni_carried_is_taken_off_once() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];
    let mut node = Node::settled("t3.small", &vars);
    node.add(names("pod", 0..49));
    node.run_for(60);
    let second = node.at(1).clone();
    assert!(node.eni(second.id).unwrap().assigned() > 0);
    node.cloud.detach_network_interface(second.attachment.as_ref().unwrap().id, node.now).unwrap();
    node.cloud.delete_network_interface(second.id, node.now).unwrap();
    let shown = node.shown(Source::Ec2);
    node.now = node.now + Duration::from_secs(120);
    node.observe(&shown.with_as_of(node.now));
    node.run_for(120);
    // `check` counts anew after each step; here the stock is held against the cloud.
    let stock = node.ipam.plan(node.now).demand[0].stock;
    let prefixes = node.enis().iter().map(|eni| eni.blocks().len() as u32).sum::<u32>();
    assert_eq!((stock.prefixes, stock.total), (prefixes, prefixes * 16));
}

/// bug 6, bug 19
#[test]
fn what_an_excluded_eni_has_no_use_for_is_given_back_to_ec2() {
    let mut node = excluded_with_prefixes();
    for name in names("pod", 0..20) {
        let _ = node.del(&name);
    }
    node.run_for(300);
    assert_eq!(node.enis()[0].blocks().len(), 0);
    assert_eq!(node.at(0).ipv4.len(), 0, "EC2 was not told");
}

/// bug 7, vector V264
#[test]
fn an_address_that_was_given_back_and_came_again_stays_with_its_pod() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "3")]);
    node.set(&[("WARM_IP_TARGET", "1")]);
    node.run_for(1);
    let eni = node.at(0).id;
    assert_eq!(node.at(0).ipv4.len(), 1);
    // EC2 hands the same addresses out again within seconds.
    let gone: Vec<_> = node
        .events()
        .filter_map(|event| match event {
            Event::BlocksRemoved { blocks, .. } => Some(blocks.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let same = gone.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    node.issued();
    node.cloud
        .assign_private_ip_addresses(eni, &Ipv4Request::Blocks(same.collect()), node.now)
        .unwrap();
    node.now = node.now + Duration::from_secs(61);
    let shown = node.shown(Source::Ec2);
    node.observe(&shown);
    node.add(names("pod", 0..3));
    node.run_for(30);
    let held = node.address("pod-2").unwrap();
    let imds = node.shown(Source::Imds);
    node.observe(&imds);
    node.run_for(300);
    assert_eq!(node.address("pod-2"), Some(held));
    assert!(!node.events().any(|event| matches!(event, Event::AddressLost { .. })));
}

/// bug 8, #2384, vector V501
#[test]
fn a_lease_whose_eni_shows_up_late_keeps_its_address_from_others() {
    let mut node = Node::settled("t3.small", &[("WARM_ENI_TARGET", "0")]);
    node.add(names("pod", 0..4));
    let address = node.address("pod-3").unwrap();
    let late = node.at(1).id;
    node.restart();
    let mut shown = node.shown(Source::Ec2);
    let all = shown.clone();
    shown.enis.retain(|eni| eni.id != late);
    node.issued();
    node.ipam.observe(&shown, node.now);
    node.issued();
    assert_eq!(
        node.ipam.pool().lease(&Node::key("pod-3")).unwrap().addresses().next(),
        Some(address)
    );
    node.now = node.now + Duration::from_secs(70);
    node.ipam.observe(&all.with_as_of(node.now), node.now);
    node.run_for(60);
    node.add(names("more", 0..5));
    node.run_for(60);
    let owners = node.ipam.pool().leases().filter(|lease| lease.addresses().any(|a| a == address));
    assert_eq!(owners.map(|lease| lease.key.container()).collect::<Vec<_>>(), ["pod-3"]);
}

/// #972, #1123: the store is lost and the pods still run.
#[test]
fn an_address_whose_owner_is_not_known_is_kept_for_it_before_its_eni_is_seen() {
    let mut node = Node::settled("t3.small", &[("WARM_ENI_TARGET", "0")]);
    node.add(names("pod", 0..4));
    let used: Vec<_> = (0..4).map(|n| node.address(&format!("pod-{n}")).unwrap()).collect();
    node.stored.clear();
    node.restart();
    for address in &used {
        node.ipam.handle_untracked(*address, true, node.now);
    }

    node.run_for(60);
    node.add(names("new", 0..2));
    node.run_for(300);

    let given: Vec<_> = (0..2).map(|n| node.address(&format!("new-{n}")).unwrap()).collect();
    assert!(given.iter().all(|address| !used.contains(address)), "{given:?} of {used:?}");
    node.ipam.handle_untracked(used[0], false, node.now);
    node.run_for(60);
    node.add(["late"]);
    assert_eq!(node.address("late"), Some(used[0]), "all others are in use");
}

/// bug 9, vector V502
#[test]
fn a_duplicate_in_the_store_is_reported_and_stops_nothing() {
    let mut node = Node::settled("m5.large", &[]);
    node.add(["old"]);
    let lease = node.stored[&Node::key("old")].clone();
    let twin = lease.with_key(Node::key("twin")).with_since(node.now + Duration::from_secs(1));
    node.stored.insert(twin.key.clone(), twin);
    node.restart();
    node.run_for(60);
    assert!(node.events().any(|event| *event == Event::LeaseConflict { key: Node::key("twin") }));
    assert!(node.ipam.pool().lease(&Node::key("old")).is_some());
    assert!(node.ask("new").unwrap().is_some());
}

/// bug 10, #627, vector V500
#[test]
fn a_cooling_address_is_not_available_and_is_not_given_back() {
    let vars = [("WARM_IP_TARGET", "1"), ("IP_COOLDOWN_PERIOD", "60")];
    let mut node = Node::settled("m5.large", &vars);
    node.add(names("pod", 0..6));
    node.run_for(60);
    let cooling: Vec<_> = (0..6).map(|n| node.address(&format!("pod-{n}")).unwrap()).collect();
    for name in names("pod", 0..6) {
        let _ = node.del(&name);
    }
    // One that is free is not enough for two, although seven are unassigned.
    node.add(["one", "two"]);
    assert!(node.address("two").is_some_and(|address| !cooling.contains(&address)));
    node.run_for(59);
    for address in &cooling {
        assert!(
            node.enis().iter().any(|eni| eni.blocks().iter().any(|b| b.net().contains(address)))
        );
    }
    node.run_for(120);
    assert_eq!(node.held(), (3, 2));
}

/// bug 11
#[test]
fn a_leftover_address_is_no_free_prefix() {
    let vars = [("WARM_IP_TARGET", "2")];
    let mut node = Node::settled("m5.large", &vars);
    node.add(["old"]);
    node.set(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]);
    node.run_for(60);
    let on = node.ipam.plan(node.now).demand[0];
    assert_eq!((on.stock.prefixes, on.stock.prefixes_free, on.stock.total), (1, 1, 16));
}

/// bug 12, vector V124
#[test]
fn an_idle_excluded_eni_is_freed_whatever_the_target_says() {
    let mut setup = Setup::new("m5.large", &[("WARM_IP_TARGET", "11")]);
    let other = setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.refuse("CreateNetworkInterface", "UnauthorizedOperation", u32::MAX);
    node.run_for(60);
    // One of ours, as from before a restart.
    let tags = [(Scope::INSTANCE_TAG.to_string(), node.instance.to_string())].into();
    let ours = CreateInterface {
        ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(2)),
        tags,
        ..CreateInterface::new(other)
    };
    let eni = node.plug(ours, 0, 1);
    node.run_for(1900);
    assert!(node.eni(eni).is_some());
    let tags = [(ROLE.to_string(), "0".to_string())].into();
    node.cloud.create_tags(&[other.as_str()], &tags, node.now).unwrap();
    node.restart();
    node.run_for(120);
    assert!(node.cloud.interface(&eni).is_none());
}

/// bug 13, vectors V256 and V257
#[test]
fn an_empty_answer_of_imds_removes_nothing() {
    let mut node = Node::settled("m5.large", &[]);
    node.add(names("pod", 0..10));
    node.run_for(60);
    let held = node.held();
    let mut nothing = node.shown(Source::Imds);
    nothing.enis.clear();
    for _ in 0..3 {
        node.now = node.now + Duration::from_secs(61);
        node.observe(&nothing.clone().with_as_of(node.now));
    }
    assert_eq!(node.held(), held);
}

/// bug 14, #1967
#[test]
fn an_eni_that_imds_omits_stays_with_its_pods_until_ec2_says_so() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(names("pod", 0..10));
    node.run_for(120);
    let second = node.at(1).id;
    let mut shown = node.shown(Source::Imds);
    shown.enis.retain(|eni| eni.id != second);
    node.refuse("DescribeNetworkInterfaces", "InternalError", 3);
    node.observe(&shown);
    let doubted = node.eni(second).unwrap();
    assert!(doubted.unconfirmed.is_some());
    assert_eq!(doubted.assigned(), 1);
    node.run_for(120);
    assert_eq!(node.eni(second).unwrap().unconfirmed, None);
    assert!(node.address("pod-9").is_some());
}

/// bug 15
#[test]
fn an_eni_that_the_node_could_not_set_up_gives_no_address() {
    let mut node = Node::settled("t3.small", &[("WARM_ENI_TARGET", "0")]);
    let refused = Trouble::Refuse(FailureKind::Kernel, "EPERM".to_string());
    node.trouble("SetUpEni", refused, u32::MAX);
    node.add(names("pod", 0..3));
    node.add(["more"]);
    node.run_for(20);
    assert_eq!(node.address("more"), None);
    assert_eq!(node.eni(node.at(1).id).unwrap().stage, Stage::Attached);
    node.run_for(20);
    assert!(matches!(node.refusals().back(), Some(AssignError::NoAddress { causes, .. })
        if causes.iter().any(|held| matches!(held.waiting_on, WaitingOn::Backoff { .. }))));
    node.heal();
    node.run_for(120);
    node.add(["more"]);
    assert!(node.address("more").is_some());
}

/// bug 16, #1174
#[test]
fn an_eni_whose_link_is_late_is_waited_for_and_not_made_again() {
    let mut node = Node::settled("t3.small", &[("WARM_ENI_TARGET", "0")]);
    let missing = Trouble::Refuse(FailureKind::LinkMissing, "no link".to_string());
    node.trouble("SetUpEni", missing, 8);
    node.add(names("pod", 0..4));
    node.run_for(60);
    assert_eq!(
        (node.count("CreateNetworkInterface"), node.count("DeleteNetworkInterface")),
        (1, 0)
    );
    assert!(node.address("pod-3").is_some());
}

/// bug 17
#[test]
fn a_leftover_address_goes_when_its_pod_does() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(["old"]);
    let address = node.address("old").unwrap();
    node.set(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]);
    node.run_for(120);
    assert_eq!(node.address("old"), Some(address));
    let _ = node.del("old");
    node.run_for(180);
    assert!(node.at(0).ipv4.iter().all(|net| net.prefix_len() == 28), "{:?}", node.at(0).ipv4);
}

/// bug 18
#[test]
fn a_busy_prefix_does_not_keep_the_others_from_being_given_back() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "3")];
    let mut node = Node::settled("m5.large", &vars);
    node.add(["pod"]);
    let address = node.address("pod").unwrap();
    node.set(&[("WARM_IP_TARGET", "1")]);
    node.run_for(120);
    let prefixes: Vec<_> = node.at(0).ipv4.iter().filter(|net| net.prefix_len() == 28).collect();
    assert_eq!(prefixes.len(), 1, "{prefixes:?}");
    assert!(IpNet::V4(*prefixes[0]).contains(&address));
    assert_eq!(node.at(0).ipv4.len(), 2);
}

/// bug 20, vector V282
#[test]
fn an_exhausted_node_with_a_gap_between_its_cards_says_so() {
    let vars = [("ENABLE_MULTI_NIC", "true"), ("MAX_ENI", "1"), ("WARM_IP_TARGET", "1")];
    let mut setup = Setup::new("p4d.24xlarge", &vars);
    // Card 1 takes no ENI, cards 0 and 2 take one each with one address.
    setup.limits.enis_per_card = vec![1, 0, 1].into();
    setup.limits.ipv4_per_eni = 2;
    let mut node = setup.start();
    node.run_for(60);
    node.add(["one", "two"]);
    node.run_for(60);
    assert!(node.address("one").is_some() && node.address("two").is_some());
    assert!(matches!(node.ask("three"), Err(AssignError::NoAddress { .. })));
}

/// bug 21
#[test]
fn the_same_pod_asking_again_gets_the_same_address_whatever_came_free_meanwhile() {
    let mut setup = Setup::new("p4d.24xlarge", &[("ENABLE_MULTI_NIC", "true"), ("MAX_ENI", "1")]);
    setup.limits.enis_per_card = vec![1, 1].into();
    setup.limits.ipv4_per_eni = 2;
    let mut node = setup.start();
    node.run_for(60);
    node.add(["one", "two"]);
    let two = node.stored[&Node::key("two")].clone();
    assert_eq!(two.first.card, Card(1));
    let _ = node.del("one");
    node.run_for(31);
    let again = node.ask("two").unwrap().unwrap();
    assert_eq!(again, two);
    assert_eq!(node.held().1, 1);
}

/// bug 22, vector V281
#[test]
fn an_add_for_every_card_gets_all_or_takes_none() {
    let mut setup = Setup::new("p4d.24xlarge", &[("ENABLE_MULTI_NIC", "true"), ("MAX_ENI", "1")]);
    setup.limits.enis_per_card = vec![1, 1].into();
    setup.limits.ipv4_per_eni = 2;
    let mut node = setup.start();
    node.run_for(60);
    node.add(["one"]);
    assert!(matches!(node.ask_on("both", CardChoice::Every), Err(AssignError::NoAddress { .. })));
    assert_eq!(node.held().1, 1);
    assert!(node.ask("two").unwrap().is_some());
}

/// bug 23, #782, #1601
#[test]
fn an_unknown_type_is_an_error_that_says_what_to_do() {
    let error = Limits::lookup("m99.large".parse().unwrap()).unwrap_err();
    for way_out in ["DescribeInstanceTypes", "override file", "update"] {
        assert!(error.to_string().contains(way_out), "{error}");
    }
}

/// bug 25, vector row "WAITING"
#[test]
fn pods_beyond_the_minimum_are_served() {
    let mut node = Node::settled("m5.large", &[("MINIMUM_IP_TARGET", "4")]);
    node.add(names("pod", 0..7));
    node.run_for(60);
    assert_eq!(node.held(), (7, 7));
}

/// bug 26
#[test]
fn a_release_that_failed_leaves_its_blocks_accounted_for() {
    for trouble in [Trouble::LoseCall, Trouble::LoseAnswer] {
        let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "8")]);
        node.trouble("UnassignPrivateIpAddresses", trouble.clone(), 1);
        node.set(&[("WARM_IP_TARGET", "2")]);
        assert_eq!(node.held().0, node.at(0).ipv4.len() as u32, "{trouble:?}");
        // And it is tried again, so that nothing is kept for ever.
        node.run_for(600);
        assert_eq!((node.held().0, node.at(0).ipv4.len()), (2, 2), "{trouble:?}");
    }
}

/// bug 27
#[test]
fn an_empty_subnet_does_not_stop_growth_in_another() {
    let mut setup = Setup::new("m5.large", &[]);
    let other = setup.subnet("10.0.64.0/28", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.crowd(node.subnet, 0);
    node.add(["pod"]);
    node.run_for(10);
    assert_eq!(node.at(1).subnet, other);
}

// Cases of amazon-vpc-cni-k8s' history that must hold.

/// #127
#[test]
fn an_address_whose_lease_could_not_be_written_is_free_again_at_once() {
    let mut node = Node::settled("t3.nano", &[("WARM_ENI_TARGET", "0"), ("MAX_ENI", "1")]);
    let request = Node::request("pod", CardChoice::Any);
    let vpc_ipam_core::Assigned::Now(uncommitted) = node.ipam.assign(&request, node.now).unwrap()
    else {
        panic!("an address is free");
    };
    let _ = node.ipam.abandon(uncommitted, node.now);
    assert!(node.ask("other").unwrap().is_some());
    node.assert_replays();
}

/// #169, #461
#[test]
fn targets_are_held_after_every_change() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    for (pods, held) in [(1, 3), (5, 7), (12, 14), (20, 22)] {
        node.add(
            names("pod", 0..pods)
                .into_iter()
                .filter(|name| !node_has(&node.ipam, name))
                .collect::<Vec<_>>(),
        );
        node.run_for(120);
        assert_eq!(node.held(), (held, pods as u32), "{pods} pods");
    }
}

fn node_has(ipam: &Ipam, name: &str) -> bool {
    ipam.pool().lease(&Node::key(name)).is_some()
}

/// #251, #472, vectors V017 to V023
#[test]
fn max_eni_lowers_the_types_limit_and_never_raises_it() {
    for (value, enis) in [("0", 3), ("-1", 3), ("abc", 3), ("2", 2), ("3", 3), ("20", 3)] {
        let mut node = Node::settled("m5.large", &[("MAX_ENI", value), ("WARM_ENI_TARGET", "9")]);
        node.run_for(60);
        assert_eq!(node.enis().len(), enis, "MAX_ENI={value}");
    }
}

/// #487, #1279, #1272, vector V499
#[test]
fn enis_that_are_there_are_filled_first_and_with_no_more_than_is_missing() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(names("pod", 0..5));
    assert_eq!(node.count("CreateNetworkInterface"), 0);
    assert_eq!(node.held(), (6, 5));
}

/// #538, #458
#[test]
fn an_eni_is_detached_before_it_is_deleted() {
    let mut node = Node::settled("m5.large", &[("WARM_ENI_TARGET", "2")]);
    node.set(&[("WARM_ENI_TARGET", "0")]);
    node.run_for(300);
    let calls: Vec<String> = node
        .log
        .iter()
        .filter_map(|(_, told)| match told {
            Told::Issued(issued) => Some(call_of(&issued.action)),
            _ => None,
        })
        .filter(|call| {
            ["RemoveEni", "DetachNetworkInterface", "DeleteNetworkInterface"]
                .contains(&call.as_str())
        })
        .collect();
    assert_eq!(calls, ["RemoveEni", "DetachNetworkInterface", "DeleteNetworkInterface"]);
}

/// #750, vector V268
#[test]
fn del_of_an_unknown_pod_succeeds_and_changes_nothing() {
    let mut node = Node::settled("m5.large", &[]);
    node.add(["pod"]);
    let state = node.ipam.state();
    assert_eq!(node.ipam.release(&Node::key("no-pod"), node.now), Released::Unknown);
    assert_eq!(node.ipam.state(), state);
}

/// #754, #391
#[test]
fn a_detached_eni_goes_even_with_pods_and_its_pods_are_named() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    node.add(names("pod", 0..10));
    node.run_for(120);
    let second = node.at(1).clone();
    node.cloud.detach_network_interface(second.attachment.as_ref().unwrap().id, node.now).unwrap();
    node.run_for(180);
    let pods = vec![Node::key("pod-9")];
    assert!(
        node.events()
            .any(|event| *event == Event::EniVanished { eni: second.id, pods: pods.clone() })
    );
    assert_eq!(node.count("RemoveEni"), 1);
    assert!(matches!(node.del("pod-9"), Released::Lease { .. }));
}

/// #645
#[test]
fn a_terminating_node_acquires_nothing_and_frees_no_eni() {
    let mut node = Node::settled("m5.large", &[("WARM_ENI_TARGET", "2")]);
    node.ipam.handle_terminating(node.now);
    let enis = node.enis().len();
    node.add(names("pod", 0..20));
    node.set(&[("WARM_ENI_TARGET", "0")]);
    for name in names("pod", 0..20) {
        let _ = node.del(&name);
    }
    node.run_for(600);
    assert_eq!(node.enis().len(), enis);
    assert_eq!((node.count("CreateNetworkInterface"), node.count("RemoveEni")), (1, 0));
}

/// #648, #2354
#[test]
fn the_primary_eni_gets_addresses_at_start() {
    let mut node = Setup::new("m5.large", &[]).start();
    node.run();
    assert_eq!(node.at(0).ipv4.len(), 9);
}

/// #612
#[test]
fn the_minimum_is_held_before_the_first_pod() {
    let node = Node::settled("m5.large", &[("MINIMUM_IP_TARGET", "12"), ("WARM_IP_TARGET", "2")]);
    assert_eq!((node.held(), node.enis().len()), ((12, 0), 2));
}

/// #915
#[test]
fn an_eni_without_attachment_is_somebody_elses_unless_tagged_as_ours() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    let stray = CreateInterface::new(node.subnet);
    let stray = node.cloud.create_network_interface(&stray, node.now).unwrap();
    let shown =
        Observation::new(node.now, Source::Ec2, Scope::Unattached).with_enis(vec![(&stray).into()]);
    node.observe(&shown);
    assert!(node.eni(stray.id).is_none());
    assert!(node.cloud.interface(&stray.id).is_some());
}

/// #1011, #1177, vectors V247, V254, V255, V260 to V263 and V495
#[test]
fn stale_imds_neither_adds_nor_drops_addresses() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "4")]);
    let before = node.shown(Source::Imds);
    node.set(&[("WARM_IP_TARGET", "1")]);
    assert_eq!(node.held().0, 1);
    // Late by less than a minute: what was released does not come back, and EC2 is not even asked.
    let asked = node.count("DescribeNetworkInterfaces");
    node.now = node.now + Duration::from_secs(30);
    node.observe(&before.clone().with_as_of(node.now));
    assert_eq!((node.held().0, node.count("DescribeNetworkInterfaces")), (1, asked));
    // Later it makes us ask EC2, which decides.
    node.now = node.now + Duration::from_secs(31);
    node.observe(&before.with_as_of(node.now));
    assert_eq!(node.held().0, 1);
    assert!(node.count("DescribeNetworkInterfaces") > asked);
    // IMDS shows none, EC2 cannot be asked, then shows them all: they stay.
    let mut none = node.shown(Source::Imds);
    none.enis[0].blocks.clear();
    node.refuse("DescribeNetworkInterfaces", "InternalError", 1);
    node.run_for(61);
    node.observe(&none.with_as_of(node.now));
    assert_eq!(node.held().0, 1);
    node.run_for(60);
    assert_eq!(node.held().0, 1);
    assert!(node.ask("pod").unwrap().is_some());
}

/// #1011, vector V247: what both sources deny goes.
#[test]
fn what_imds_and_ec2_both_deny_is_gone() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    let blocks = node.at(0).ipv4.clone();
    let call = vpc_ipam_core::UnassignPrivateIpAddresses { eni: node.at(0).id, blocks };
    node.cloud.unassign_private_ip_addresses(&call, node.now).unwrap();
    node.run_for(61);
    assert!(node.events().any(|event| matches!(event, Event::BlocksRemoved { .. })));
    node.run_for(60);
    assert_eq!(node.at(0).ipv4.len(), 2);
}

/// #1174, vectors V232 to V237
#[test]
fn what_ec2_gave_of_what_was_asked_for_is_used() {
    for (vars, given) in [
        ([("WARM_IP_TARGET", "5"), ("ENABLE_PREFIX_DELEGATION", "false")], "10.0.5.5/32"),
        ([("WARM_IP_TARGET", "40"), ("ENABLE_PREFIX_DELEGATION", "true")], "10.0.5.16/28"),
    ] {
        let mut node = Setup::new("m5.large", &vars).start();
        node.ipam.handle_timeout(node.now);
        let assign = loop {
            let issued = node.ipam.poll_action().expect("addresses are asked for");
            match &issued.action {
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(_)) => break issued,
                _ => node.execute(issued),
            }
        };
        let part = vpc_ipam_core::Effect::Assigned(vec![given.parse().unwrap()]);
        node.ipam.handle_outcome(assign.id, vpc_ipam_core::Outcome::Done(part), node.now);
        assert!(node.ask("pod").unwrap().is_some(), "{given}");
    }
}

/// #1210, #3250
#[test]
fn a_place_is_kept_for_the_trunk_on_types_that_take_one() {
    for (name, enis) in [("m5.large", 2), ("t3.small", 3)] {
        let vars = [("ENABLE_POD_ENI", "true"), ("WARM_ENI_TARGET", "9")];
        assert_eq!(Node::settled(name, &vars).enis().len(), enis, "{name}");
    }
}

/// #1237, #2801
#[test]
fn efa_and_trunk_enis_are_never_detached_and_a_trunk_gets_no_pod() {
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "1")]);
    let efa = node.plug(node.foreign(&[], InterfaceType::Efa), 0, 1);
    let trunk = node.plug(node.foreign(&[], InterfaceType::Trunk), 0, 2);
    node.run_for(3600);
    node.add(names("pod", 0..60));
    node.run_for(60);
    assert!(node.eni(efa).unwrap().assigned() > 0);
    assert_eq!(node.eni(trunk).unwrap().assigned(), 0);
    for name in names("pod", 0..60) {
        let _ = node.del(&name);
    }
    node.run_for(3600);
    for eni in [efa, trunk] {
        assert!(node.cloud.interface(&eni).unwrap().attachment.is_some());
    }
}

/// #1247, #3156, vectors V258 and V259
#[test]
fn an_enis_own_address_is_never_a_pods_even_if_set_up_failed() {
    let mut node = Node::settled("t3.small", &[]);
    node.add(names("pod", 0..9));
    node.run_for(60);
    let own: Vec<_> = node.cloud.interfaces().filter_map(|eni| eni.primary_ipv4).collect();
    for lease in node.stored.values() {
        assert!(!own.contains(&lease.first.ipv4.unwrap()));
    }
}

/// #1499, #111, vectors V277 and V278
#[test]
fn no_address_reaches_the_caller_with_its_reason() {
    let mut node = Node::settled("t3.nano", &[("MAX_ENI", "1")]);
    node.add(["one"]);
    let error = node.ask("two").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address to be had: 1 total, 1 assigned; another ENI on card 0: all 1 ENIs that MAX_ENI allows are there"
    );
    assert_eq!(error.retry_at(), None);
}

/// #1585, #1773, vectors V174 to V176 and V484
#[test]
fn an_empty_subnet_is_left_alone_for_two_minutes_for_either_error_and_then_tried_again() {
    for code in ["InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"] {
        let mut node = Setup::new("m5.large", &[("WARM_IP_TARGET", "1")]).start();
        node.refuse("AssignPrivateIpAddresses", code, 1);
        node.run();
        assert_eq!(node.count("AssignPrivateIpAddresses"), 1);
        // Lengthened by up to a quarter.
        node.run_for(120);
        assert_eq!(node.count("AssignPrivateIpAddresses"), 1, "{code}");
        node.run_for(31);
        assert_eq!(node.count("AssignPrivateIpAddresses"), 2, "{code}");
    }
}

/// #1526, #1937, vector V185
#[test]
fn a_type_without_prefixes_gets_addresses_and_bare_metal_gets_prefixes() {
    for (name, length) in [("m4.4xlarge", 32), ("m5.metal", 28), ("m5.large", 28)] {
        let node = Node::settled(name, &[("ENABLE_PREFIX_DELEGATION", "true")]);
        assert!(node.at(0).ipv4.iter().all(|net| net.prefix_len() == length), "{name}");
        assert!(!node.at(0).ipv4.is_empty(), "{name}");
    }
}

/// #726, #1607, #3660, vectors V188 to V198
#[test]
fn tags_decide_which_enis_are_ours() {
    const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
    const INSTANCE: &str = "node.k8s.amazonaws.com/instance_id";
    let managed = Management::Managed;
    // MANAGE_UNTAGGED_ENI, tags of a secondary ENI, what it is; OWN stands for the instance.
    let cases: [(&str, &[(&str, &str)], Management); 10] = [
        ("true", &[], managed),
        ("true", &[(NO_MANAGE, "true")], Management::NoManageTag),
        ("true", &[(NO_MANAGE, "false")], managed),
        ("true", &[(INSTANCE, "OWN")], managed),
        ("true", &[(INSTANCE, "i-other")], managed),
        ("false", &[], Management::Untagged),
        ("false", &[(NO_MANAGE, "true")], Management::NoManageTag),
        ("false", &[(NO_MANAGE, "false")], managed),
        ("false", &[(INSTANCE, "OWN")], managed),
        ("false", &[(INSTANCE, "i-other")], Management::Untagged),
    ];
    for (untagged, tags, expected) in cases {
        let vars = [("MANAGE_UNTAGGED_ENI", untagged), ("WARM_IP_TARGET", "1")];
        let mut node = Node::settled("m5.4xlarge", &vars);
        let own = node.instance.to_string();
        let tags: Vec<_> = tags
            .iter()
            .map(|(key, value)| (*key, if *value == "OWN" { own.as_str() } else { *value }))
            .collect();
        let eni = node.plug(node.foreign(&tags, InterfaceType::Interface), 0, 1);
        // Twice, so that nothing accumulates.
        for _ in 0..2 {
            let shown = node.shown(Source::Ec2);
            node.ipam.observe(&shown, node.now);
            assert_eq!(node.eni(eni).unwrap().management, expected, "{untagged} {tags:?}");
            assert_eq!(node.enis().len(), 2);
        }
        // The primary is ours whatever its tags say.
        let primary = node.at(0).id;
        let tag = [(NO_MANAGE.to_string(), "true".to_string())].into();
        node.cloud.create_tags(&[primary.as_str()], &tag, node.now).unwrap();
        let shown = node.shown(Source::Ec2);
        node.ipam.observe(&shown, node.now);
        assert_eq!(node.eni(primary).unwrap().management, managed);
    }
}

/// #1586, #1823, vector V485
#[test]
fn provisioning_off_means_no_change_in_ec2() {
    for name in ["DISABLE_NETWORK_RESOURCE_PROVISIONING", "ENABLE_IMDS_ONLY_MODE"] {
        let mut node = Setup::new("m5.large", &[(name, "true"), ("CLUSTER_NAME", "blue")]).start();
        let some = Ipv4Request::Count(Ipv4Amount::Addresses(3));
        let primary = node.at(0).id;
        node.cloud.assign_private_ip_addresses(primary, &some, NOON).unwrap();
        node.run_for(3600);
        node.add(names("pod", 0..3));
        assert!(matches!(node.ask("more"), Err(AssignError::NoAddress { .. })), "{name}");
        for pod in names("pod", 0..3) {
            let _ = node.del(&pod);
        }
        node.run_for(3600);
        assert_eq!(node.changes(), 0, "{name}");
        assert_eq!(node.held(), (3, 0), "{name}");
    }
}

/// ENABLE_IMDS_ONLY_MODE: EC2 is not called at all.
#[test]
fn imds_only_mode_calls_no_ec2_operation() {
    let mut node = Setup::new("m5.large", &[("ENABLE_IMDS_ONLY_MODE", "true")]).start();
    let second = node.plug(node.foreign(&[], InterfaceType::Interface), 0, 1);
    node.add(["pod"]);
    assert!(node.address("pod").is_some(), "IMDS is read at once, and tells what the link needs");
    assert_eq!(node.eni(second).unwrap().stage, Stage::Ready);
    node.run_for(7200);
    let calls = node.log.iter().filter(|(_, told)| match told {
        Told::Issued(issued) => match &issued.action {
            Action::Ec2(action) => action.operation().is_some(),
            Action::Host(_) => false,
        },
        _ => false,
    });
    assert_eq!(calls.count(), 0);
}

/// #1698, vectors V177 to V187
#[test]
fn a_configuration_that_a_type_cannot_follow_is_refused() {
    let ipv6 = ("ENABLE_IPv6", "true");
    let dual = ("ENABLE_IPv4", "true");
    let prefixes = ("ENABLE_PREFIX_DELEGATION", "true");
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let pod_eni = ("ENABLE_POD_ENI", "true");
    let cases: [(&str, &[(&str, &str)], bool); 10] = [
        ("m5.large", &[], true),
        ("m5.large", &[prefixes], true),
        ("m5.large", &[ipv6, prefixes], true),
        ("m5.large", &[ipv6, prefixes, pod_eni], true),
        ("m5.large", &[prefixes, pod_eni], true),
        ("m4.4xlarge", &[ipv6, prefixes], false),
        ("m4.4xlarge", &[prefixes], true),
        ("m5.large", &[ipv6, prefixes, custom], false),
        // We give both families, and take prefixes for meant where IPv6 is: amazon-vpc-cni-k8s refuses these.
        ("m5.large", &[ipv6, dual], true),
        ("m5.large", &[ipv6], true),
    ];
    for (name, vars, usable) in cases {
        let node = Node::settled("m5.large", &[]).ipam.node().clone();
        let limits = Limits::lookup(name.parse().unwrap()).unwrap();
        let config = Config::from_vars(vars.iter().copied()).0;
        let made: Result<Ipam, UnusableConfigError> =
            Ipam::new(node, limits, config, Budget::default(), 1, NOON);
        assert_eq!(made.is_ok(), usable, "{name} {vars:?}");
    }
}

/// #1927, #2296
#[test]
fn a_cordoned_node_changes_no_eni_unless_told_to() {
    for (manage, grown) in [("false", false), ("true", true)] {
        let vars = [("AWS_MANAGE_ENIS_NON_SCHEDULABLE", manage), ("WARM_IP_TARGET", "1")];
        let mut node = Node::settled("m5.large", &vars);
        node.ipam.handle_schedulable(false, node.now);
        node.add(names("pod", 0..10));
        node.run_for(60);
        assert_eq!(node.enis().len() == 2, grown, "AWS_MANAGE_ENIS_NON_SCHEDULABLE={manage}");
    }
}

/// #2210, vector V497
#[test]
fn limit_exceeded_makes_us_look_and_not_repeat() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "1")]);
    let eni = node.at(0).id;
    // Another program filled the ENI behind our back.
    let some = Ipv4Request::Count(Ipv4Amount::Addresses(8));
    node.cloud.assign_private_ip_addresses(eni, &some, node.now).unwrap();
    node.add(names("pod", 0..3));
    node.run_for(10);
    assert_eq!(node.count("AssignPrivateIpAddresses"), 2);
    assert!(node.address("pod-2").is_some());
    assert_eq!(node.held(), (4, 3), "what was too much went");
}

/// #2368, vector V494
#[test]
fn a_surplus_is_of_the_node_and_not_of_each_eni() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "25")]);
    node.add(names("pod", 0..20));
    node.run_for(60);
    assert_eq!(node.held(), (27, 20));
    node.set(&[("WARM_IP_TARGET", "2")]);
    node.run_for(60);
    assert_eq!(node.held(), (22, 20));
}

/// #2427, #2475
#[test]
fn an_eni_is_made_with_the_primarys_security_groups_and_follows_them() {
    let mut node = Node::settled("m5.large", &[]);
    node.add(["pod"]);
    node.run_for(60);
    assert_eq!(node.at(1).security_groups, node.at(0).security_groups);
    let other = node.cloud.create_security_group(node.vpc).unwrap();
    let groups = vpc_ipam_core::sim::ModifyInterface::Groups(vec![other]);
    let primary = node.at(0).id;
    node.cloud.modify_network_interface_attribute(primary, &groups, node.now).unwrap();
    let shown = node.shown(Source::Ec2);
    node.observe(&shown);
    assert_eq!(node.at(1).security_groups, [other]);
}

/// #2492, #3634, vectors V269 and V483
#[test]
fn the_rest_of_an_address_is_as_long_as_configured() {
    for (period, secs) in [("10", 10), ("30", 30), ("120", 120)] {
        let vars = [("IP_COOLDOWN_PERIOD", period), ("MAX_ENI", "1")];
        let mut node = Node::settled("t3.nano", &vars);
        node.add(["old"]);
        let address = node.address("old");
        let _ = node.del("old");
        node.run_for(secs);
        assert_ne!(node.ipam.readiness(node.now), vpc_ipam_core::Readiness::Ready);
        node.run_for(1);
        node.add(["new"]);
        assert_eq!(node.address("new"), address, "IP_COOLDOWN_PERIOD={period}");
    }
}

/// #2745, #2793
#[test]
fn no_more_addresses_than_pods_are_held() {
    for (vars, held) in [
        (&[("WARM_ENI_TARGET", "1")][..], 20),
        (&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "5")], 32),
    ] {
        let mut setup = Setup::new("m5.4xlarge", vars);
        setup.config.pods_max = Some(20);
        let mut node = setup.start();
        node.add(names("pod", 0..20));
        node.run_for(600);
        assert_eq!(node.held(), (held, 20), "{vars:?}");
    }
}

/// #2744, #2810
#[test]
fn a_shortage_that_nothing_can_end_is_no_loop() {
    let mut node = Node::settled("t3.nano", &[("MAX_ENI", "1"), ("WARM_IP_TARGET", "5")]);
    assert_eq!(changes_in_an_hour(&mut node), 0);
    let plan = node.ipam.plan(node.now);
    assert!(plan.blocked.iter().any(|held| !held.waiting_on.is_temporary()));
}

/// #2784
#[test]
fn enis_of_other_cards_take_no_place_on_this_one() {
    let vars = [("MAX_ENI", "2"), ("WARM_ENI_TARGET", "5")];
    let mut node = Setup::new("p4d.24xlarge", &vars).start();
    for card in 1..4 {
        node.plug(node.foreign(&[], InterfaceType::Interface), card, 1);
    }
    node.run_for(60);
    let of_card_0 = node.enis().iter().filter(|eni| eni.card == Card(0)).count();
    assert_eq!(of_card_0, 2);
    assert_eq!(node.at(1).attachment.as_ref().unwrap().device, DeviceIndex(1));
}

/// #2714, #2954
#[test]
fn an_eni_in_a_full_subnet_sends_growth_to_the_next() {
    let mut setup = Setup::within("10.0.0.0/27", &[], "m5.large", &[("WARM_IP_TARGET", "2")]);
    let other: SubnetId = setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.crowd(node.subnet, 0);
    node.add(names("pod", 0..4));
    node.run_for(20);
    assert!(node.address("pod-3").is_some());
    assert_eq!(node.at(1).subnet, other);
}

/// #3033
#[test]
fn equal_counts_are_not_equal_sets() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    let eni = node.at(0).id;
    let swapped = node.at(0).ipv4[0];
    let call = vpc_ipam_core::UnassignPrivateIpAddresses { eni, blocks: vec![swapped] };
    node.cloud.unassign_private_ip_addresses(&call, node.now).unwrap();
    let new = Ipv4Request::Blocks(vec!["10.0.7.7/32".parse().unwrap()]);
    node.cloud.assign_private_ip_addresses(eni, &new, node.now).unwrap();
    node.run_for(61);
    let known: Vec<String> =
        node.enis()[0].blocks().iter().map(|block| block.net().to_string()).collect();
    assert!(known.contains(&"10.0.7.7/32".to_string()), "{known:?}");
    assert!(!known.contains(&swapped.to_string()), "{known:?}");
}

/// #3047, #3122, #3489, #3681
#[test]
fn enis_without_addresses_and_of_the_other_family_are_tolerated() {
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "1")]);
    let efa_only = node.plug(node.foreign(&[], InterfaceType::EfaOnly), 0, 1);
    let ipv6 = CreateInterface {
        ipv6: vpc_ipam_core::sim::Ipv6Request::PrefixCount(1),
        ..CreateInterface::new(node.subnet)
    };
    let ipv6: EniId = node.plug(ipv6, 0, 2);
    node.run_for(61);
    assert_eq!(node.eni(efa_only).unwrap().management, Management::InterfaceType);
    assert!(node.eni(ipv6).is_some());
    node.add(names("pod", 0..40));
    node.run_for(60);
    assert!(node.stored.values().all(|lease| lease.first.ipv6.is_none()));
    assert_eq!(node.stored.len(), 40);
}

/// #3304
#[test]
fn a_pod_that_was_made_again_is_another_pod() {
    let mut node = Node::settled("m5.large", &[]);
    let key = |container: &str| PodKey::new("aws-cni", container, "eth0").unwrap();
    node.add(["sandbox-1"]);
    node.add(["sandbox-2"]);
    let kept = node.address("sandbox-2");
    assert!(matches!(node.del("sandbox-1"), Released::Lease { .. }));
    assert_eq!(node.del("sandbox-1"), Released::Unknown);
    assert_eq!(node.ipam.pool().lease(&key("sandbox-2")).unwrap().addresses().next(), kept);
}

/// #3727
#[test]
fn nothing_is_remembered_for_ever() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    node.run_for(3600);
    let rest = format!("{:?}", node.ipam.pool()).len();
    for round in 0..20 {
        let pods = names("pod", (round * 10)..(round * 10 + 10));
        node.add(&pods);
        node.run_for(200);
        for pod in &pods {
            let _ = node.del(pod);
        }
        node.run_for(400);
    }
    node.run_for(3600);
    let after = format!("{:?}", node.ipam.pool()).len();
    assert!(after < rest + rest / 4, "{rest} then {after}");
}

/// #3463, #3647, vectors V223 to V231
#[test]
fn tags_decide_where_an_eni_is_made() {
    // Discovery, role of the primary's subnet, role of the other; where the ENI is made.
    let cases = [
        ("true", "0", "1", Some(1)),
        ("true", "0", "0", None),
        ("false", "0", "1", None),
        ("false", "", "1", Some(0)),
        ("true", "", "", Some(0)),
        // The other has more free addresses.
        ("true", "", "1", Some(1)),
    ];
    for (discovery, first, second, expected) in cases {
        let vars = [("ENABLE_SUBNET_DISCOVERY", discovery)];
        let mut setup = Setup::within("10.0.0.0/24", &[(ROLE, first)], "m5.large", &vars);
        let other = setup.subnet("10.0.64.0/20", &[(ROLE, second)]);
        let mut node = setup.start();
        node.add(["pod"]);
        node.run_for(20);
        let made: Vec<SubnetId> = node
            .cloud
            .interfaces()
            .filter(|eni| !eni.tags.is_empty())
            .map(|eni| eni.subnet)
            .collect();
        let expected = expected.map(|index| if index == 0 { node.subnet } else { other });
        assert_eq!(made.first().copied(), expected, "discovery {discovery} {first:?} {second:?}");
    }
}

/// vectors V226 to V228
#[test]
fn the_subnet_with_most_free_addresses_comes_first_and_the_next_after_it() {
    let mut setup = Setup::within("10.0.0.0/26", &[], "m5.large", &[("WARM_ENI_TARGET", "2")]);
    let small = setup.subnet("10.0.64.0/25", &[(ROLE, "1")]);
    let large = setup.subnet("10.0.65.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.refuse("CreateNetworkInterface", "InsufficientFreeAddressesInSubnet", 1);
    node.run_for(20);
    let tried: Vec<SubnetId> = node
        .log
        .iter()
        .filter_map(|(_, told)| match told {
            Told::Issued(issued) => match &issued.action {
                Action::Ec2(Ec2Action::CreateNetworkInterface(call)) => Some(call.subnet),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(tried, [large, small]);
}

/// vectors V230 and V231, defect of subnet discovery
#[test]
fn where_subnets_cannot_be_listed_the_primarys_subnet_is_used() {
    for discovery in ["true", "false"] {
        let vars = [("ENABLE_SUBNET_DISCOVERY", discovery)];
        let mut node = Setup::new("m5.large", &vars).start();
        node.refuse("DescribeSubnets", "UnauthorizedOperation", u32::MAX);
        node.add(names("pod", 0..12));
        node.run_for(20);
        assert!(node.address("pod-11").is_some(), "discovery {discovery}");
        assert_eq!(node.at(1).subnet, node.subnet, "discovery {discovery}");
    }
}

/// vectors V479 and V482
#[test]
fn decreases_are_spaced_and_enis_live_for_a_while() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "9")]);
    node.set(&[("WARM_IP_TARGET", "6")]);
    assert_eq!(node.held().0, 6);
    node.set(&[("WARM_IP_TARGET", "3")]);
    node.run_for(30);
    assert_eq!(node.held().0, 6, "exactly 30 s are not enough");
    node.run_for(1);
    assert_eq!(node.held().0, 3);

    node.set(&[("WARM_ENI_TARGET", "1")]);
    node.add(["pod"]);
    let made = node.now;
    let eni = node.at(1).id;
    let _ = node.del("pod");
    node.set(&[("WARM_ENI_TARGET", "0")]);
    node.run_for(59);
    assert_eq!(node.eni(eni).unwrap().stage, Stage::Ready);
    node.run_for(1);
    assert_eq!(node.now, made + Duration::from_secs(60));
    assert!(node.eni(eni).is_none_or(|eni| eni.is_removing()));
}

/// vectors V265, V266, V276 and V280
#[test]
fn asking_twice_is_asking_once() {
    let mut node = Node::settled("m5.large", &[]);
    let first = node.ask("pod").unwrap();
    assert!(first.is_some());
    assert_eq!(node.ask("pod").unwrap(), first);
    assert_eq!(node.held().1, 1);
}

/// vectors V271 and V272
#[test]
fn a_prefix_stays_while_one_of_its_addresses_is_used() {
    let vars = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_IP_TARGET", "1")];
    let mut node = Node::settled("m5.large", &vars);
    node.add(names("pod", 0..3));
    let _ = node.del("pod-1");
    node.run_for(600);
    assert_eq!(node.held(), (16, 2));
}

/// vectors V246, V248, V250 and V252
#[test]
fn what_somebody_attaches_is_taken_up() {
    for (vars, per_block) in
        [([("WARM_IP_TARGET", "9")], 1), ([("ENABLE_PREFIX_DELEGATION", "true")], 16)]
    {
        let mut node = Node::settled("m5.large", &vars);
        let before = node.held().0;
        let amount =
            if per_block == 1 { Ipv4Amount::Addresses(1) } else { Ipv4Amount::Prefixes(1) };
        let eni = CreateInterface {
            ipv4: Ipv4Request::Count(amount),
            ..CreateInterface::new(node.subnet)
        };
        let eni = node.plug(eni, 0, 1);
        let shown = node.shown(Source::Ec2);
        node.ipam.observe(&shown, node.now);
        assert_eq!(node.held().0, before + per_block);
        assert_eq!(node.eni(eni).unwrap().stage, Stage::Attached);
        let set_up = node.issued().into_iter().any(|issued| {
            matches!(issued.action, Action::Host(HostAction::SetUpEni(link)) if link.eni == eni)
        });
        assert!(set_up);
    }
}

/// #69, #66: a tag, set in the call itself, tells whose an ENI is and since when.
#[test]
fn an_eni_is_tagged_in_the_call_that_makes_it() {
    let mut node = Node::settled("m5.large", &[("CLUSTER_NAME", "blue")]);
    node.add(["pod"]);
    let tags = &node.at(1).tags;
    assert_eq!(tags["node.k8s.amazonaws.com/instance_id"], node.instance.as_str());
    assert_eq!(tags["node.k8s.amazonaws.com/createdAt"], node.now.to_string());
    assert_eq!(tags["cluster.k8s.amazonaws.com/name"], "blue");
    assert_eq!(tags["eks:eni:owner"], "amazon-vpc-cni");
    assert!(node.at(1).attachment.as_ref().unwrap().delete_on_termination);
    assert_eq!(node.count("CreateTags"), 1, "the primary alone is tagged afterwards");
}

/// aws#3824: neither is a block of an untracked owner released, after a restart included.
#[test]
fn leases_from_before_a_restart_are_never_given_back_however_little_is_seen() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "9")]);
    node.add(names("pod", 0..6));
    node.run_for(60);
    node.set(&[("WARM_IP_TARGET", "1")]);
    node.restart();
    node.run_for(600);
    for lease in node.stored.values() {
        let address = lease.first.ipv4.unwrap();
        assert!(node.cloud.interfaces().any(|eni| eni.ipv4.contains(&address.into())), "{address}");
    }
    assert_eq!(node.held(), (7, 6));
}

/// The record of a release counts after a restart, and one that is over is forgotten.
#[test]
fn rest_survives_a_restart_and_not_longer() {
    let mut node = Node::settled("t3.nano", &[("MAX_ENI", "1")]);
    node.add(["old"]);
    let _ = node.del("old");
    assert!(matches!(node.released[0], Record::Released { .. }));
    node.restart();
    node.run_for(1);
    assert_eq!(node.ask("new").unwrap(), None);
    node.run_for(31);
    assert!(node.address("new").is_some());
}

/// #66, #608, #1223: whatever call is lost, before or after it took effect, an ENI comes and goes once.
#[test]
fn a_lost_call_neither_leaks_nor_doubles_an_eni() {
    let calls = [
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
        "SetUpEni",
        "RemoveEni",
        "DetachNetworkInterface",
        "DeleteNetworkInterface",
    ];
    for call in calls {
        for trouble in [Trouble::LoseCall, Trouble::LoseAnswer] {
            for times in [1, 3] {
                let mut node = Node::settled("m5.large", &[]);
                node.trouble(call, trouble.clone(), times);
                node.add(["pod"]);
                node.run_for(300);
                let enis = node.cloud.interfaces().count();
                assert_eq!((node.enis().len(), enis), (2, 2), "{call} {trouble:?} {times}");
                let _ = node.del("pod");
                node.run_for(900);
                let enis = node.cloud.interfaces().count();
                assert_eq!((node.enis().len(), enis), (1, 1), "{call} {trouble:?} {times}");
            }
        }
    }
}
