//! What goes on failing while the rest works: one operation, one ENI, one subnet, one source of information, an executor or a
//! store. A node serves the pods that it can serve all the same, calls no more often than helps, and says what is wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use core::net::IpAddr;
use core::time::Duration;

use node::{Node, ROLE, Setup, Trouble, call_of, names};
use vpc_ipam_core::sim::{About, Call, Ipv4Request, RunInstance};
use vpc_ipam_core::{
    Action, AssignError, Assigned, AttachNetworkInterface, BackoffScope, Card, CardChoice,
    DeviceIndex, Ec2Action, Ec2Operation, Effect, Eni, EniConfig, EniId, Event, FailureKind,
    InterfaceType, Lease, Management, ObservedEni, Outcome, Question, Readiness, Record, Released,
    Removing, Source, Stage, Timestamp, UnassignPrivateIpAddresses,
};

const WARM_1: (&str, &str) = ("WARM_IP_TARGET", "1");
const DUAL: [(&str, &str); 3] = [("ENABLE_IPv4", "true"), ("ENABLE_IPv6", "true"), WARM_1];
const PREFIXES: (&str, &str) = ("ENABLE_PREFIX_DELEGATION", "true");
const MULTI_NIC: [(&str, &str); 2] = [("ENABLE_MULTI_NIC", "true"), WARM_1];
/// How often a call that passes by itself is made in the first hour of a failure, at most.
const PASSING_MAX: usize = 20;
/// The same of a call that is refused until something changes.
const LASTING_MAX: usize = 11;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Lets time pass, and returns how often a call was made in it.
fn calls_in(node: &mut Node, call: &str, secs: u64) -> usize {
    let before = node.count(call);
    node.run_for(secs);
    node.count(call) - before
}

/// Returns the ENI that a node is going to have at an index of card 0 once these pods run.
fn eni_to_come(node: &Node, device: u8, pods: &[String]) -> EniId {
    let mut ahead = node.clone();
    ahead.insist(pods, 60);
    ahead.at(device).id
}

fn del_all(node: &mut Node, pods: &[String]) {
    for pod in pods {
        assert!(matches!(node.del(pod), Released::Lease { .. }), "{pod}");
    }
}

/// Returns whether what readiness says of the next pod is what becomes of it.
fn is_told_truly(node: &Node) -> bool {
    let mut probe = node.clone();
    let said = probe.ipam.readiness(probe.now);
    match (said, probe.ask("probe")) {
        (Readiness::Ready, Ok(Some(_))) | (Readiness::NotReady(_), Err(_)) => true,
        (Readiness::Soon { by }, Ok(None)) => {
            probe.run_for(by.since(probe.now).as_secs());
            probe.address("probe").is_some()
        }
        // A pod may wait for more than is promised.
        (Readiness::NotReady(_), Ok(None)) => true,
        _ => false,
    }
}

// Sources of information.

#[test]
fn metadata_that_cannot_be_read_is_asked_for_ever_more_rarely() {
    for kind in [FailureKind::Throttled, FailureKind::Denied, FailureKind::Rejected] {
        let mut node = Node::settled("m5.large", &[WARM_1]);
        node.trouble("ReadMetadata", Trouble::Refuse(kind, "HTTP".into()), u32::MAX);
        let first = calls_in(&mut node, "ReadMetadata", 3600);
        assert!((2..=PASSING_MAX).contains(&first), "{kind:?}: {first} in an hour");
        // At most every 5 minutes, the jitter on top.
        let second = calls_in(&mut node, "ReadMetadata", 3600);
        assert!((9..=12).contains(&second), "{kind:?}: {second} in a later hour");
        let failing = |event: &&Event| {
            let metadata = BackoffScope::Question(Question::Metadata);
            matches!(event, Event::Failing { scope, .. } if *scope == metadata)
        };
        assert_eq!(node.events().filter(failing).count(), 1, "{kind:?}: news once");
        assert!(node.ask("pod").unwrap().is_some());
    }
}

#[test]
fn metadata_that_asks_to_be_left_alone_for_an_hour_gets_five_minutes() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    let hour = Trouble::RefuseFor(FailureKind::Throttled, secs(3600));
    node.trouble("ReadMetadata", hour, 1);
    let read = |node: &Node| node.count("ReadMetadata");
    let before = read(&node);
    while read(&node) == before {
        node.run_for(1);
    }
    // A quarter of jitter on top.
    node.run_for(299);
    assert_eq!(read(&node), before + 1);
    node.run_for(76);
    assert_eq!(read(&node), before + 2);
}

/// An answer without the primary ENI is of another account, Region or endpoint.
#[test]
fn answers_without_the_primary_eni_are_asked_for_ever_more_rarely() {
    let mut node = Setup::new("m5.large", &[WARM_1]).start();
    node.unseen = vec![node.ipam.node().primary];
    let calls = calls_in(&mut node, "DescribeNetworkInterfaces", 3600);
    assert!(calls <= 2 * PASSING_MAX, "{calls} in an hour, of two questions");
    let later = calls_in(&mut node, "DescribeNetworkInterfaces", 3600);
    assert!(later <= 2 * 12, "{later} in a later hour");
    // IMDS shows the primary ENI, which can get addresses; no other is made while it is not known how many there are.
    assert_eq!(node.insist(&names("pod", 0..9), 60), 9);
    assert_eq!(node.count("CreateNetworkInterface"), 0);
    node.unseen.clear();
    node.run_for(600);
    assert_eq!(node.insist(&names("more", 0..9), 60), 9);
}

#[test]
fn blocks_that_no_source_shows_are_not_counted_as_free() {
    fn no_blocks(eni: &mut ObservedEni) {
        eni.blocks.clear();
    }
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "5")]);
    node.alter_imds = Some(no_blocks);
    node.refuse("DescribeNetworkInterfaces", "UnauthorizedOperation", u32::MAX);
    node.run_for(300);
    assert!(is_told_truly(&node), "{}", node.ipam.readiness(node.now));
    let pods = names("pod", 0..20);
    for round in 0..6 {
        node.add(&pods);
        node.run_for(10);
        assert!(is_told_truly(&node), "{round}: {}", node.ipam.readiness(node.now));
    }
    assert_eq!(node.served(&pods), 20);
}

#[test]
fn answers_that_take_longer_than_the_settling_time_do_not_keep_a_node_from_starting() {
    let mut node = Setup::new("m5.large", &[WARM_1]).start();
    // Longer than EC2 may go on showing what was before a change.
    node.trouble("DescribeNetworkInterfaces", Trouble::Late(secs(90)), u32::MAX);
    assert_eq!(node.insist(&names("pod", 0..3), 600), 3);
    assert!(node.ipam.readiness(node.now).is_ready());
}

// What one ENI is refused.

/// As EC2 answers where an ENI has 50 tags, and where a security group was deleted.
#[test]
fn tags_that_are_refused_for_an_eni_do_not_keep_pods_from_it() {
    let mut node = Setup::new("m5.4xlarge", &[WARM_1, ("CLUSTER_NAME", "blue")]).start();
    node.refuse("CreateTags", "TagLimitExceeded", u32::MAX);
    let pods = names("pod", 0..60);
    assert_eq!(node.insist(&pods, 60), 60);
    node.run_for(3600);
    let enis = node.enis().len();
    assert!((1..=enis * LASTING_MAX).contains(&node.count("CreateTags")), "it was tried");
}

#[test]
fn groups_that_are_refused_for_an_eni_do_not_keep_pods_from_it() {
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let mut setup = Setup::new("m5.4xlarge", &[WARM_1, custom]);
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    let [one, two] = [0, 1].map(|_| node.cloud.create_security_group(node.vpc).unwrap());
    node.set_eni_config(EniConfig::new(subnet).with_security_groups(vec![one]));
    node.add(["first"]);
    node.run_for(60);
    node.refuse("ModifyNetworkInterfaceAttribute", "InvalidGroup.NotFound", u32::MAX);
    node.set_eni_config(EniConfig::new(subnet).with_security_groups(vec![one, two]));
    assert_eq!(node.insist(&names("pod", 0..60), 60), 60);
    node.run_for(3600);
    let (calls, enis) = (node.count("ModifyNetworkInterfaceAttribute"), node.enis().len());
    assert!((2..=enis * (PASSING_MAX + 1)).contains(&calls), "{calls} of {enis} ENIs");
}

#[test]
fn room_that_one_eni_refuses_for_ever_is_made_on_another() {
    let kinds = [
        FailureKind::AddressLimit,
        FailureKind::Denied,
        FailureKind::Rejected,
        FailureKind::NotFound,
        FailureKind::InUse,
        FailureKind::WrongState,
    ];
    for kind in kinds {
        let mut node = Node::settled("m5.4xlarge", &[WARM_1]);
        let primary = node.at(0).id;
        let assign = Call::Ec2(Ec2Operation::AssignPrivateIpAddresses);
        node.refuse_about(assign, Some(About::Eni(primary)), kind);
        assert_eq!(node.insist(&names("pod", 0..30), 300), 30, "{kind:?}");
        assert_eq!(node.at(0).ipv4.len(), 1, "{kind:?}: as before");
    }
}

#[test]
fn addresses_of_an_eni_whose_link_never_appears_are_not_stock() {
    let mut node = Node::settled("m5.xlarge", &[WARM_1]);
    let pods = names("pod", 0..42);
    let linkless = eni_to_come(&node, 1, &pods);
    node.refuse_about(Call::SetUpEni, Some(About::Eni(linkless)), FailureKind::LinkMissing);
    node.add(&pods);
    for _ in 0..12 {
        node.run_for(5);
        assert!(is_told_truly(&node), "{}", node.ipam.readiness(node.now));
    }
    // 14 addresses on each of the other three ENIs that the type takes.
    assert_eq!(node.insist(&pods, 300), 42);
    assert!(node.stored.values().all(|lease| lease.first.eni != linkless));
}

#[test]
fn an_eni_whose_link_never_appears_is_replaced() {
    let mut node = Node::settled("t3.small", &[WARM_1]);
    let pods = names("pod", 0..5);
    // The type takes three ENIs of three addresses, and one of them is of no use.
    let linkless = eni_to_come(&node, 1, &pods);
    node.refuse_about(Call::SetUpEni, Some(About::Eni(linkless)), FailureKind::LinkMissing);
    node.add(&pods);
    node.run_for(179);
    assert!(node.cloud.interface(&linkless).is_some(), "links were seen to take 150 s");
    node.run_for(300);
    assert!(node.cloud.interface(&linkless).is_none());
    assert_eq!(node.insist(&names("pod", 0..8), 300), 8);
}

#[test]
fn an_eni_that_cannot_leave_serves_pods_again() {
    let kernel = Trouble::Refuse(FailureKind::Kernel, "EBUSY".into());
    let denied = Trouble::Refuse(FailureKind::Denied, "UnauthorizedOperation".into());
    for (call, trouble) in [("DetachNetworkInterface", denied), ("RemoveEni", kernel)] {
        let mut node = Node::settled("m5.large", &[WARM_1]);
        let pods = names("pod", 0..26);
        assert_eq!(node.insist(&pods, 60), 26);
        node.trouble(call, trouble, u32::MAX);
        del_all(&mut node, &pods);
        node.run_for(1800);
        assert!(node.count(call) > 0, "{call}");
        assert_eq!(node.insist(&names("more", 0..26), 60), 26, "{call}");
        assert!(node.enis().iter().all(|eni| !eni.is_removing()), "{call}");
    }
}

#[test]
fn an_eni_that_could_not_leave_is_not_chosen_again_for_a_while() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    let pods = names("pod", 0..26);
    assert_eq!(node.insist(&pods, 60), 26);
    node.refuse("DetachNetworkInterface", "UnauthorizedOperation", u32::MAX);
    del_all(&mut node, &pods);
    node.run_for(2 * 3600);
    // Two ENIs, each a minute after its first failure, then after two, up to an hour.
    let later = calls_in(&mut node, "DetachNetworkInterface", 4 * 3600);
    assert!((2..=2 * 5).contains(&later), "{later} in four hours");
}

#[test]
fn an_eni_that_cannot_leave_stays_on_its_way_out_while_the_node_is_terminating() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    let pods = names("pod", 0..12);
    assert_eq!(node.insist(&pods, 60), 12);
    del_all(&mut node, &pods);
    let second = node.at(1).id;
    // Its link is taken off, and the node hears of it before EC2 refuses the rest.
    node.trouble("DetachNetworkInterface", Trouble::Late(secs(5)), u32::MAX);
    node.refuse_about(Call::Ec2(Ec2Operation::DetachNetworkInterface), None, FailureKind::Denied);
    while !node.eni(second).unwrap().is_removing() {
        node.run_for(1);
    }
    node.ipam.handle_terminating(node.now);
    node.run_for(3600);
    assert!(node.eni(second).unwrap().is_removing());
}

#[test]
fn enis_that_cannot_be_deleted_do_not_pile_up() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    node.refuse("DeleteNetworkInterface", "UnauthorizedOperation", u32::MAX);
    for round in 0..20 {
        let pods = names(&format!("round-{round}"), 0..12);
        assert_eq!(node.insist(&pods, 120), 12, "round {round}");
        del_all(&mut node, &pods);
        node.run_for(300);
    }
    let interfaces = node.cloud.interfaces().count();
    assert!(interfaces <= 4, "{interfaces} ENIs after 20 rounds");
}

#[test]
fn an_eni_on_its_way_out_that_another_instance_has_is_forgotten() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    let pods = names("pod", 0..12);
    assert_eq!(node.insist(&pods, 60), 12);
    let second = node.at(1).id;
    let on_second = |lease: &&Lease| lease.first.eni == second;
    let address = node.stored.values().find(on_second).unwrap().addresses().next().unwrap();
    node.refuse("DeleteNetworkInterface", "RequestLimitExceeded", u32::MAX);
    del_all(&mut node, &pods);
    while !matches!(node.eni(second).unwrap().stage, Stage::Removing(Removing::Delete { .. })) {
        node.run_for(1);
    }
    node.ipam.handle_untracked(address, true, node.now);
    let run = RunInstance::new(node.limits.clone(), node.subnet);
    let instance = node.cloud.run_instance(run, node.now).unwrap();
    let (card, device) = (Card(0), DeviceIndex(1));
    let attach = AttachNetworkInterface { eni: second, instance, card, device };
    node.cloud.attach_network_interface(&attach, node.now).unwrap();
    node.heal();
    node.run_for(2 * 3600);
    assert_eq!(node.eni(second), None);
    assert!(node.cloud.interface(&second).is_some(), "it is another instance's");
}

// What one subnet is refused.

#[test]
fn a_subnet_in_which_no_eni_can_be_made_sends_growth_to_the_next() {
    for kind in [
        FailureKind::of_ec2_error("InvalidSubnetID.NotFound", ""),
        FailureKind::of_ec2_error("UnauthorizedOperation", ""),
    ] {
        let mut setup = Setup::new("m5.large", &[WARM_1]);
        let other = setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
        let mut node = setup.start();
        node.run_for(60);
        let create = Call::Ec2(Ec2Operation::CreateNetworkInterface);
        node.refuse_about(create, Some(About::Subnet(node.subnet)), kind);
        assert_eq!(node.insist(&names("pod", 0..26), 60), 26, "{kind:?}");
        assert_eq!((node.at(1).subnet, node.at(2).subnet), (other, other), "{kind:?}");
        let refused = node.count("CreateNetworkInterface") - 2;
        assert!(
            (1..=2).contains(&refused),
            "{kind:?}: the preferred one was tried, {refused} times"
        );
    }
}

#[test]
fn a_subnet_without_room_for_ipv6_is_asked_rarely_and_keeps_its_prefixes_of_ipv4() {
    for code in ["InsufficientCidrBlocks", "InsufficientFreeAddressesInSubnet"] {
        let vars = |warm| [DUAL[0], DUAL[1], PREFIXES, ("WARM_IP_TARGET", warm)];
        let mut node = Setup::new("m5.large", &vars("1")).start();
        node.refuse("AssignIpv6Addresses", code, u32::MAX);
        let calls = calls_in(&mut node, "AssignIpv6Addresses", 3600);
        assert!((1..=12).contains(&calls), "{code}: {calls} in an hour");
        assert!(node.at(0).ipv4.iter().all(|net| net.prefix_len() == 28), "{code}");
        assert_eq!(node.at(0).ipv4.len(), 1, "{code}");
        // More of IPv4 is still had as prefixes, and an ENI that is made with its prefix of IPv6 serves.
        node.set(&vars("20"));
        node.run_for(60);
        let lengths: Vec<u8> =
            node.cloud.interfaces().flat_map(|eni| &eni.ipv4).map(|net| net.prefix_len()).collect();
        assert!(lengths.len() > 1 && lengths.iter().all(|length| *length == 28), "{lengths:?}");
        assert!(node.ask("pod").unwrap().is_some(), "{code}");
    }
}

#[test]
fn enis_with_too_many_addresses_to_be_attached_are_made_rarely() {
    let mut node = Setup::new("m5.large", &[("WARM_ENI_TARGET", "2")]).start();
    node.refuse("AttachNetworkInterface", "PrivateIpAddressLimitExceeded", u32::MAX);
    node.run_for(900);
    let created = node.count("CreateNetworkInterface");
    // Each has one address fewer than the one before, down to a single one; then it is tried hourly.
    assert!((1..=12).contains(&created), "{created} in 15 minutes");
    let later = calls_in(&mut node, "CreateNetworkInterface", 3600);
    assert!(later <= 12, "{later} in the next hour");
    assert!(node.cloud.interfaces().count() <= 2);
}

// Several network cards.

#[test]
fn a_pod_on_every_card_is_refused_with_the_card_that_has_no_address() {
    let mut node = Setup::new("p4d.24xlarge", &MULTI_NIC).start();
    node.refuse("CreateNetworkInterface", "UnauthorizedOperation", u32::MAX);
    node.run_for(300);
    let error = match node.ask_on("job", CardChoice::Every) {
        Err(error) => error,
        Ok(lease) => {
            assert_eq!(lease, None, "it has to have an interface on each card");
            node.run_for(31);
            node.refusals().back().copied().unwrap().clone()
        }
    };
    assert!(error.to_string().contains("card 1"), "{error}");
    assert!(error.to_string().contains("not allowed by IAM"), "{error}");
    assert!(node.ask("plain").unwrap().is_some(), "card 0 serves others");
}

#[test]
fn several_cards_are_followed_at_once_when_they_are_switched_on_or_off() {
    let mut node = Setup::new("p4d.24xlarge", &[WARM_1]).start();
    let other = node.plug(node.foreign(&[], InterfaceType::Interface), 1, 1);
    node.run_for(600);
    assert_eq!(node.eni(other).unwrap().management, Management::Card);
    node.set(&MULTI_NIC);
    assert!(node.eni(other).unwrap().is_managed());
    let cards: Vec<_> = node.ipam.plan(node.now).demand.iter().map(|on| on.card).collect();
    assert_eq!(cards, [Card(0), Card(1), Card(2), Card(3)]);
    node.run_for(10);
    assert_eq!(node.ask_on("job", CardChoice::Every).unwrap().unwrap().interfaces().count(), 4);
    node.set(&[WARM_1]);
    assert_eq!(node.eni(other).unwrap().management, Management::Card);
    assert!(matches!(node.ask_on("next", CardChoice::Every), Err(AssignError::OneCard)));
}

#[test]
fn an_address_that_ec2_moves_to_another_card_is_free_when_its_pod_ends() {
    let mut node = Node::settled("p4d.24xlarge", &MULTI_NIC);
    node.add(["pod"]);
    let address = node.address("pod").unwrap();
    let from = node.at(0).id;
    let to = node.enis().iter().find(|eni| eni.card == Card(1)).unwrap().id;
    let IpAddr::V4(moved) = address else { panic!("{address}") };
    let gone = UnassignPrivateIpAddresses { eni: from, blocks: vec![moved.into()] };
    node.cloud.unassign_private_ip_addresses(&gone, node.now).unwrap();
    let there = Ipv4Request::Blocks(vec![moved.into()]);
    node.cloud.assign_private_ip_addresses(to, &there, node.now).unwrap();
    node.now = node.now + secs(120);
    let shown = node.shown(Source::Ec2);
    node.observe(&shown);
    assert!(node.eni(to).unwrap().blocks().iter().any(|block| block.net().contains(&address)));
    let assigned = node.held().1;
    let _ = node.del("pod");
    assert_eq!(node.held().1, assigned - 1);
    assert_eq!(node.ipam.check(), []);
}

// Untracked pods, and a store that lies.

#[test]
fn an_address_that_an_untracked_pod_uses_goes_to_no_other_pod_when_its_own_ends() {
    let mut node = Node::settled("t3.nano", &[WARM_1]);
    node.add(["first"]);
    node.run_for(30);
    let address = node.address("first").unwrap();
    node.ipam.handle_untracked(address, true, node.now);
    let _ = node.del("first");
    // The cooldown is 30 s.
    for _ in 0..10 {
        node.run_for(31);
        node.add(["second", "third"]);
        assert!(node.stored.values().all(|lease| lease.addresses().all(|it| it != address)));
    }
    assert_eq!(node.served(&["second".into(), "third".into()]), 1, "the type takes two");
    node.ipam.handle_untracked(address, false, node.now);
    node.run_for(31);
    node.add(["second", "third"]);
    assert!([node.address("second"), node.address("third")].contains(&Some(address)));
}

#[test]
fn an_untracked_pod_far_up_in_a_prefix_of_ipv6_keeps_its_eni() {
    let mut node = Node::settled("m5.large", &DUAL);
    node.add(names("pod", 0..10));
    node.run_for(60);
    let second = node.at(1).id;
    let prefix = node.at(1).ipv6.iter().find(|net| net.prefix_len() == 80).unwrap().addr();
    let beyond = core::net::Ipv6Addr::from(u128::from(prefix) + 70_000);
    node.ipam.handle_untracked(beyond.into(), true, node.now);
    del_all(&mut node, &names("pod", 0..10));
    node.run_for(3600);
    assert!(!node.eni(second).unwrap().is_removing());
    assert!(node.at(1).ipv6.iter().any(|net| net.contains(&beyond)), "nor is its prefix released");
    node.ipam.handle_untracked(beyond.into(), false, node.now);
    node.run_for(600);
    assert_eq!(node.eni(second), None);
}

#[test]
fn an_abandoned_lease_leaves_a_record_that_undoes_it_on_disk() {
    let mut node = Node::settled("t3.nano", &[WARM_1]);
    let (address, undone) = node.ask_of_a_lying_store("first");
    let Record::Released { key, addresses, .. } = &undone else { panic!("{undone:?}") };
    assert_eq!((key, addresses.as_slice()), (&Node::key("first"), [].as_slice()));
    node.write(undone);
    node.add(["second"]);
    assert_eq!(node.address("second"), Some(address), "no pod had it, so it need not cool down");
    node.restart();
    node.run_for(60);
    assert_eq!(node.ipam.pool().leases().count(), 1);
    assert!(!node.events().any(|event| matches!(event, Event::LeaseConflict { .. })));
    assert_eq!(node.ask("second").unwrap().unwrap().addresses().next(), Some(address));
}

#[test]
fn an_address_that_two_records_name_goes_to_no_new_pod_and_not_to_ec2_until_both_are_gone() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "3")]);
    let (address, _) = node.ask_of_a_lying_store("first");
    node.add(["second"]);
    assert_eq!(node.address("second"), Some(address));
    // The node dies before the record of the first is undone.
    node.restart();
    node.run_for(60);
    let second = node.ipam.pool().lease(&Node::key("second")).unwrap();
    assert_eq!(second.addresses().next(), Some(address));
    let conflicts = node.events().filter(|event| matches!(event, Event::LeaseConflict { .. }));
    assert_eq!(conflicts.count(), 1);
    let held = |node: &Node| {
        let IpAddr::V4(address) = address else { panic!("{address}") };
        node.at(0).ipv4.contains(&address.into())
    };
    for (goes, stays) in [("first", "second"), ("second", "first")] {
        let mut node = node.clone();
        let _ = node.del(goes);
        node.add(names("third", 0..3));
        node.run_for(31);
        node.add(names("fourth", 0..3));
        let others = names("third", 0..3).into_iter().chain(names("fourth", 0..3));
        assert!(others.map(|name| node.address(&name)).all(|other| other != Some(address)));
        assert_eq!(node.address(stays), Some(address));
        // Single addresses that no pod has go.
        node.set(&[PREFIXES, WARM_1]);
        node.run_for(3600);
        assert!(held(&node), "{stays} may have it");
        let _ = node.del(stays);
        node.run_for(3600);
        assert!(!held(&node), "both are gone");
    }
}

#[test]
fn leases_of_one_pod_at_one_nanosecond_are_told_apart() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    let request = Node::request("pod", CardChoice::Any);
    let ask = |node: &mut Node| match node.ipam.assign(&request, node.now).unwrap() {
        Assigned::Now(uncommitted) => uncommitted,
        later => panic!("{later:?}"),
    };
    let serial = |record: Record| match record {
        Record::Leased(lease) => lease.serial,
        released => panic!("{released:?}"),
    };
    let mut node = {
        node.set(&[("WARM_IP_TARGET", "5")]);
        node.run_for(10);
        node
    };
    let early = ask(&mut node);
    assert!(matches!(node.ipam.release(&request.key, node.now), Released::Lease { .. }));
    let late = ask(&mut node);
    assert!(serial(early.record()) < serial(late.record()));
    assert_eq!(node.ipam.commit(early), None, "its pod was deleted");
    let kept = late.addresses().next().unwrap();
    assert!(node.ipam.pool().lease(&request.key).is_some());
    assert_eq!(node.ipam.commit(late).unwrap().addresses().next(), Some(kept));

    assert!(matches!(node.ipam.release(&request.key, node.now), Released::Lease { .. }));
    let early = ask(&mut node);
    assert!(matches!(node.ipam.release(&request.key, node.now), Released::Lease { .. }));
    let late = ask(&mut node);
    assert_eq!(node.ipam.abandon(early, node.now), None, "there is nothing to undo");
    assert!(node.ipam.pool().lease(&request.key).is_some());
    assert!(node.ipam.commit(late).is_some());
}

// A node that goes away.

#[test]
fn an_eni_that_is_not_attached_yet_is_deleted_by_a_terminating_node() {
    let mut node = Node::settled("m5.large", &[]);
    node.refuse("AttachNetworkInterface", "RequestLimitExceeded", u32::MAX);
    node.add(["pod"]);
    let made = node.enis().iter().find(|eni| eni.stage == Stage::Available).unwrap().id;
    node.ipam.handle_terminating(node.now);
    node.run_for(60);
    assert!(node.cloud.interface(&made).is_none());
}

#[test]
fn a_lost_creation_is_not_repeated_by_a_terminating_node() {
    for trouble in [Trouble::LoseCall, Trouble::LoseAnswer] {
        let mut node = Node::settled("m5.large", &[]);
        let before = node.count("CreateNetworkInterface");
        node.trouble("CreateNetworkInterface", trouble.clone(), 1);
        node.add(["pod"]);
        node.ipam.handle_terminating(node.now);
        node.run_for(3600);
        assert_eq!(node.count("CreateNetworkInterface") - before, 1, "{trouble:?}");
        assert_eq!(
            node.cloud.interfaces().count(),
            1,
            "{trouble:?}: what was made is found and deleted"
        );
    }
}

#[test]
fn a_prefix_of_ipv6_is_not_asked_for_by_a_terminating_node() {
    for vars in [&DUAL[..], &[("ENABLE_IPv6", "true")]] {
        let mut node = Setup::new("m5.large", vars).start();
        node.refuse("AssignIpv6Addresses", "RequestLimitExceeded", 1);
        node.run();
        assert_eq!(node.count("AssignIpv6Addresses"), 1, "{vars:?}");
        node.ipam.handle_terminating(node.now);
        node.run_for(3600);
        assert_eq!(node.count("AssignIpv6Addresses"), 1, "{vars:?}");
    }
}

// Targets beyond all bounds.

#[test]
fn targets_beyond_what_the_type_holds_are_what_it_holds_and_a_note_says_so() {
    let names = ["WARM_IP_TARGET", "WARM_ENI_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET"];
    for name in names {
        for value in ["4294967295", "100000000"] {
            let prefixes = name == "WARM_PREFIX_TARGET";
            let mut vars = vec![(name, value)];
            if prefixes {
                vars.push(PREFIXES);
            }
            let setup = Setup::new("m5.large", &vars);
            let notes = setup.config.warnings_on(&setup.limits);
            assert!(notes.iter().any(|note| note.variable == name), "{vars:?}: {notes:?}");
            let mut node = setup.start();
            node.ipam.handle_timeout(node.now);
            node.run_for(60);
            // 3 ENIs of 9 places.
            let held = if prefixes { 27 * 16 } else { 27 };
            assert_eq!(node.held().0, held, "{vars:?}");
            assert!(node.changes() <= 9, "{vars:?}: {}", node.changes());
            let plan = node.ipam.plan(node.now);
            assert!(plan.actions.is_empty() && plan.blocked.len() <= 8, "{vars:?}: {plan:?}");
        }
    }
}

// Executors.

#[test]
fn a_pod_is_served_although_an_executor_loses_an_outcome_of_any_call() {
    let calls = [
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
        "AssignPrivateIpAddresses",
        "DescribeNetworkInterfaces",
        "DescribeSubnets",
        "CreateTags",
        "ReadMetadata",
        "SetUpEni",
    ];
    for call in calls {
        let mut node = Setup::new("m5.large", &[WARM_1, ("CLUSTER_NAME", "blue")]).start();
        node.trouble(call, Trouble::Late(Duration::MAX), 1);
        let pods = names("pod", 0..12);
        node.add(&pods);
        // An action counts as unanswered after five minutes.
        node.run_for(300);
        assert!(is_told_truly(&node), "{call}: {}", node.ipam.readiness(node.now));
        assert_eq!(node.insist(&pods, 120), 12, "{call}");
        assert!(node.count(call) >= 1, "{call}");
    }
}

#[test]
fn an_action_without_an_outcome_counts_as_unanswered_after_a_bounded_time() {
    let mut setup = Setup::new("m5.large", &[WARM_1]);
    setup.config.timing.answer_max = secs(3600);
    let mut node = setup.start();
    node.run_for(600);
    node.trouble("AssignPrivateIpAddresses", Trouble::Late(Duration::MAX), 1);
    node.add(["pod"]);
    node.run_for(3599);
    assert_eq!(node.ipam.in_flight().count(), 1);
    let given_up = |event: &Event| {
        matches!(event, Event::ActionFailed { failure, .. }
            if failure.kind == FailureKind::Unanswered && failure.message.contains("no outcome"))
    };
    assert!(!node.events().any(given_up));
    node.run_for(2);
    assert_eq!(node.events().filter(|event| given_up(event)).count(), 1);
}

#[test]
fn an_outcome_that_comes_after_it_was_given_up_causes_a_read() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    node.trouble("AssignPrivateIpAddresses", Trouble::Late(Duration::MAX), 1);
    node.add(["one", "two"]);
    node.run_for(330);
    let (asked, held) = (node.count("DescribeNetworkInterfaces"), node.held());
    node.hand_back_all();
    let doubted = node.enis().iter().any(|eni| eni.unconfirmed.is_some());
    node.run_for(10);
    assert!(doubted || node.count("DescribeNetworkInterfaces") > asked);
    assert_eq!(node.held(), held, "a late outcome is no news by itself");
}

#[test]
fn one_call_is_under_way_for_each_eni_however_many_outcomes_are_lost() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    for call in ["AssignPrivateIpAddresses", "AttachNetworkInterface"] {
        node.trouble(call, Trouble::Late(Duration::MAX), u32::MAX);
    }
    for round in 0..60 {
        node.add(names("pod", 0..20));
        node.run_for(30);
        let mut about: Vec<EniId> = Vec::new();
        for (_, planned) in node.ipam.in_flight() {
            match &planned.action {
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) => about.push(call.eni),
                Action::Ec2(Ec2Action::AttachNetworkInterface(call)) => about.push(call.eni),
                _ => {}
            }
        }
        let calls = about.len();
        about.sort_unstable();
        about.dedup();
        assert_eq!(about.len(), calls, "round {round}");
    }
}

/// What IMDS and EC2 never list: the ENI's own address, what is of no length that EC2 assigns, what lies in another
/// block, what is outside its subnet.
#[test]
fn blocks_that_no_pod_can_have_are_dropped_from_observations() {
    fn of_no_use(eni: &mut ObservedEni) {
        if let Some(own) = eni.primary_ipv4 {
            eni.blocks.push(IpAddr::V4(own).into());
        }
        for net in ["10.0.1.0/24", "0.0.0.0/0"] {
            eni.blocks.push(net.parse().unwrap());
        }
    }
    fn outside(eni: &mut ObservedEni) {
        for net in ["8.8.8.8/32", "8.8.8.16/28"] {
            eni.blocks.push(net.parse().unwrap());
        }
    }
    // Once the subnet's range is known.
    for (after, alter) in [(0, of_no_use as fn(&mut _)), (1, outside)] {
        let mut node = Setup::new("m5.large", &[WARM_1]).start();
        if after > 0 {
            node.run_for(after);
        }
        node.alter = Some(alter);
        node.alter_imds = Some(alter);
        let pods = names("pod", 0..12);
        assert_eq!(node.insist(&pods, 120), 12);
        node.run_for(3600);
        let more = names("more", 0..3);
        assert_eq!(node.insist(&more, 120), 3);
        let refused = node.events().filter(|event| matches!(event, Event::BlocksRefused { .. }));
        assert!(refused.count() > 0);
        for lease in node.stored.values() {
            let eni = node.cloud.interface(&lease.first.eni).unwrap();
            let address = lease.first.ipv4.unwrap();
            assert!(eni.ipv4.contains(&address.into()), "{address} is not of {}", eni.id);
        }
    }
}

#[test]
fn a_block_that_lies_in_another_of_its_answer_is_dropped() {
    fn overlapping(eni: &mut ObservedEni) {
        for net in ["10.0.31.0/28", "10.0.31.1/32", "10.0.31.0/28"] {
            eni.blocks.push(net.parse().unwrap());
        }
    }
    let mut node = Setup::new("m5.large", &[WARM_1]).start();
    node.alter = Some(overlapping);
    node.alter_imds = Some(overlapping);
    node.add(names("pod", 0..17));
    node.run_for(120);
    let inner = "10.0.31.1/32".parse().unwrap();
    assert!(node.events().any(|event| {
        matches!(event, Event::BlocksRefused { blocks, .. } if *blocks == [inner])
    }));
    assert_eq!(node.stored.len(), 17);
}

#[test]
fn blocks_that_no_pod_can_have_are_dropped_from_assignments() {
    let own = Node::settled("m5.large", &[WARM_1]).at(0).primary_ipv4.unwrap().to_string();
    for net in [own.as_str(), "8.8.8.8", "10.0.1.0/24", "0.0.0.0/0"] {
        let net: ipnet::IpNet = net.parse().or_else(|_| format!("{net}/32").parse()).unwrap();
        let mut node = Node::settled("m5.large", &[WARM_1]);
        assert!(node.ask("first").unwrap().is_some());
        assert_eq!(node.ask("pod").unwrap(), None);
        node.ipam.handle_timeout(node.now);
        let assign = loop {
            let issued = node.ipam.poll_action().unwrap();
            if call_of(&issued.action) == "AssignPrivateIpAddresses" {
                break issued.id;
            }
            node.execute(issued);
        };
        let outcome = Outcome::Done(Effect::Assigned(vec![net]));
        node.ipam.handle_outcome(assign, outcome, node.now);
        let refused = core::iter::from_fn(|| node.ipam.poll_event())
            .any(|event| matches!(event, Event::BlocksRefused { blocks, .. } if blocks == [net]));
        assert!(refused, "{net}");
        assert_eq!(node.held(), (1, 1), "{net}");
        assert!(node.ipam.poll_grant().is_none(), "{net}");
    }
}

// Time.

#[test]
fn a_pod_that_comes_while_the_timer_is_late_does_not_overtake_one_that_waits() {
    let mut node = Node::settled("t3.nano", &[WARM_1]);
    node.add(["one", "two"]);
    let _ = node.del("one");
    node.run_for(1);
    // It is going to have the address that cools down.
    assert_eq!(node.ask("first"), Ok(None));
    node.ipam.handle_timeout(node.now);
    node.run_for(10);
    // The timer of the moment at which it is ready does not fire.
    node.now = node.now + secs(20);
    assert!(matches!(node.ask("second"), Ok(None) | Err(_)));
    node.run();
    assert_eq!((node.address("first").is_some(), node.address("second")), (true, None));
}

#[test]
fn a_full_node_serves_within_minutes_after_a_restart_an_hour_back() {
    let mut node = Node::settled("t3.nano", &[WARM_1]);
    node.add(["one", "two"]);
    node.run_for(3600);
    let _ = node.del("one");
    let _ = node.del("two");
    node.now = Timestamp::from_nanos(node.now.as_nanos() - 3_600_000_000_000);
    node.restart();
    assert_eq!(node.insist(&names("pod", 0..2), 120), 2);
}

#[test]
fn an_eni_that_is_not_attached_yet_stays_so_where_max_eni_is_lowered() {
    let mut node = Node::settled("m5.large", &[]);
    node.refuse("AttachNetworkInterface", "RequestLimitExceeded", 1);
    node.add(["pod"]);
    let made = node.enis().iter().find(|eni| eni.stage == Stage::Available).unwrap().id;
    node.set(&[("MAX_ENI", "1")]);
    node.run_for(600);
    assert_eq!(node.count("AttachNetworkInterface"), 1);
    assert!(node.cloud.interface(&made).is_none(), "there is no place for it");
}

#[test]
fn an_answer_from_before_the_clock_was_set_back_is_void() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    // EC2 is asked, and knows nothing of what comes next.
    node.trouble("DescribeNetworkInterfaces", Trouble::Late(Duration::MAX), 1);
    // The audit of every half hour.
    while node.ipam.in_flight().count() == 0 {
        node.run_for(60);
    }
    node.now = Timestamp::from_nanos(node.now.as_nanos() - 600_000_000_000);
    node.set(&[("WARM_IP_TARGET", "5")]);
    node.add(names("pod", 0..5));
    let (held, leases) = (node.held(), node.stored.len());
    assert_eq!(leases, 5);
    node.hand_back_all();
    let void = node.events().any(|event| {
        matches!(event, Event::ActionFailed { failure, .. } if failure.message.contains("set back"))
    });
    assert!(void);
    assert_eq!(node.held(), held);
    node.run_for(300);
    assert!(!node.events().any(|event| matches!(event, Event::AddressLost { .. })));
    assert!(node.ipam.readiness(node.now).is_ready());
}

// What is under way, what is being tried again, what is unconfirmed.

#[test]
fn nothing_is_released_and_no_eni_leaves_while_imds_and_ec2_disagree_about_an_eni() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "20")]);
    assert_eq!(node.enis().len(), 3);
    let second = node.at(1).id;
    let mut shown = node.shown(Source::Imds);
    shown.enis.retain(|eni| eni.id != second);
    node.refuse("DescribeNetworkInterfaces", "RequestLimitExceeded", u32::MAX);
    node.observe(&shown);
    assert!(node.eni(second).unwrap().unconfirmed.is_some());
    node.set(&[WARM_1]);
    node.run_for(600);
    assert_eq!((node.count("UnassignPrivateIpAddresses"), node.count("RemoveEni")), (0, 0));
    node.heal();
    node.run_for(1200);
    assert_eq!(node.held(), (1, 0));
}

/// How often a call that passes by itself is made in an hour in which pods wait for what it brings: every 30 s.
const HURRIED_MAX: usize = 121;

#[test]
fn call_that_pods_wait_for_is_tried_again_in_half_a_minute_and_no_sooner() {
    for code in ["RequestLimitExceeded", "InternalError"] {
        let mut node = Node::settled("m5.large", &[WARM_1]);
        let pods = names("pod", 0..20);
        node.insist(&pods[..9], 60);
        node.refuse("CreateNetworkInterface", code, u32::MAX);
        // Those of the second ENI, which is there before the calls fail, and not of the third.
        assert_eq!(node.insist(&pods, 3600), 18, "{code}");
        let before = node.count("CreateNetworkInterface");
        node.insist(&pods, 3600);
        // A wait is up to a quarter longer, and pods ask every 5 s.
        let calls = node.count("CreateNetworkInterface") - before;
        assert!((80..=HURRIED_MAX).contains(&calls), "{code}: {calls} in a later hour");
        // Without pods that wait, as seldom as ever.
        let calls = calls_in(&mut node, "CreateNetworkInterface", 3600);
        assert!(calls <= 20, "{code}: {calls} in an hour in which no pod asks");
        node.heal();
        // A try, and what it brings.
        assert_eq!(node.insist(&pods, 60), 20, "{code}");
    }
}

#[test]
fn the_quota_of_enis_is_tried_a_few_times_an_hour() {
    let mut node = Node::settled("m5.large", &[WARM_1]);
    node.refuse("CreateNetworkInterface", "NetworkInterfaceLimitExceeded", u32::MAX);
    let pods = names("pod", 0..20);
    assert_eq!(node.insist(&pods, 3600), 9);
    let calls = node.count("CreateNetworkInterface");
    assert!((2..=8).contains(&calls), "{calls} in an hour");
}

#[test]
fn enis_of_one_plan_take_their_places_of_max_eni_and_beside_the_trunk() {
    for vars in [[("MAX_ENI", "2"), WARM_1], [("ENABLE_POD_ENI", "true"), WARM_1]] {
        let mut node = Node::settled("m5.large", &vars);
        node.add(names("pod", 0..30));
        assert_eq!(node.count("CreateNetworkInterface"), 1, "{vars:?}");
    }
}

#[test]
fn enis_under_way_take_their_places_of_max_eni_and_beside_the_trunk() {
    for vars in [[("MAX_ENI", "2"), WARM_1], [("ENABLE_POD_ENI", "true"), WARM_1]] {
        for call in ["CreateNetworkInterface", "AttachNetworkInterface"] {
            let mut node = Node::settled("m5.large", &vars);
            node.trouble(call, Trouble::Late(secs(60)), u32::MAX);
            for pod in names("pod", 0..30) {
                node.add([pod]);
                node.run_for(1);
            }
            assert_eq!(node.count("CreateNetworkInterface"), 1, "{vars:?}, {call} is slow");
            node.run_for(600);
            assert_eq!(node.enis().len(), 2, "{vars:?}");
        }
    }
}

#[test]
fn one_call_finds_out_whether_a_full_subnet_has_room_again() {
    let mut node = Node::settled("m5.4xlarge", &[WARM_1]);
    let pods = names("pod", 0..85);
    assert_eq!(node.insist(&pods, 60), 85);
    // One pod stays on each ENI, so that each has room.
    let enis: Vec<EniId> = node.enis().iter().map(|eni| eni.id).collect();
    assert_eq!(enis.len(), 3);
    let on = |eni: &EniId| node.stored.values().find(|lease| lease.first.eni == *eni).unwrap();
    let stay: Vec<_> = enis.iter().map(|eni| on(eni).key.container().to_string()).collect();
    let go: Vec<_> = pods.into_iter().filter(|pod| !stay.contains(pod)).collect();
    del_all(&mut node, &go);
    node.run_for(600);
    assert_eq!(node.held(), (4, 3));
    for operation in [Ec2Operation::AssignPrivateIpAddresses, Ec2Operation::CreateNetworkInterface]
    {
        node.refuse_about(Call::Ec2(operation), None, FailureKind::SubnetFull);
        node.trouble(operation.name(), Trouble::Late(secs(2)), u32::MAX);
    }
    let pods = names("more", 0..60);
    node.add(&pods);
    node.run_for(3);
    let calls =
        |node: &Node| node.count("AssignPrivateIpAddresses") + node.count("CreateNetworkInterface");
    let before = calls(&node);
    for second in 0..900 {
        node.add(&pods);
        node.run_for(1);
        let under_way = node.ipam.in_flight().filter(|(_, planned)| {
            matches!(
                planned.action,
                Action::Ec2(
                    Ec2Action::CreateNetworkInterface(_) | Ec2Action::AssignPrivateIpAddresses(_)
                )
            )
        });
        assert!(under_way.count() <= 1, "after {second} s");
    }
    assert!(calls(&node) > before, "it is tried again");
}

#[test]
fn a_subnet_that_never_was_full_is_asked_by_several_calls_at_once() {
    let mut node = Node::settled("m5.4xlarge", &[WARM_1]);
    node.trouble("CreateNetworkInterface", Trouble::Late(secs(30)), u32::MAX);
    node.add(names("pod", 0..100));
    assert!(node.count("CreateNetworkInterface") >= 3);
}

/// EC2 may go on showing for a minute what was before a change.
#[test]
fn a_block_that_ec2_just_moved_stays_where_it_is_though_an_old_answer_shows_it_elsewhere() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "12")]);
    let (first, second) = (node.at(0).id, node.at(1).id);
    let before = node.shown(Source::Ec2);
    let moved = node.at(0).ipv4[0];
    let gone = UnassignPrivateIpAddresses { eni: first, blocks: vec![moved] };
    node.cloud.unassign_private_ip_addresses(&gone, node.now).unwrap();
    let there = Ipv4Request::Blocks(vec![moved]);
    node.cloud.assign_private_ip_addresses(second, &there, node.now).unwrap();
    node.now = node.now + secs(120);
    let shown = node.shown(Source::Ec2);
    node.observe(&shown);
    let carrier = |node: &Node| {
        let carries =
            |eni: &&Eni| eni.blocks().iter().any(|block| block.net() == ipnet::IpNet::V4(moved));
        node.enis().iter().find(carries).map(|eni| eni.id)
    };
    assert_eq!(carrier(&node), Some(second));
    node.now = node.now + secs(1);
    let old = before.with_as_of(node.now);
    node.observe(&old);
    assert_eq!(carrier(&node), Some(second));
}
