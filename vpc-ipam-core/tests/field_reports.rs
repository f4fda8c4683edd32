//! What was reported from the field of this and of other address managements, each input as a test. The source stands with
//! each: a repository's name and the number of its report, `aws` for amazon-vpc-cni-k8s.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use node::{Node, ROLE, Setup, Told, names};
use vpc_ipam_core::sim::{CreateInterface, CreateSubnet, Ipv4Request, NetworkInterface};
use vpc_ipam_core::{
    Action, Ec2Action, EniConfig, EniId, Event, FailureKind, InterfaceType, Ipv4Amount, Issued,
    ObservedEni, Readiness, Source,
};

const PREFIXES: [(&str, &str); 2] =
    [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];
const CUSTOM_NETWORKING: (&str, &str) = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");

/// Returns the changes of an ENI that were asked for.
fn changes_of(node: &Node, eni: EniId) -> Vec<String> {
    let issued = node.log.iter().filter_map(|(_, told)| match told {
        Told::Issued(issued) => Some(format!("{:?}", issued.action)),
        _ => None,
    });
    issued.filter(|call| call.contains(eni.as_str()) && !call.contains("Describe")).collect()
}

/// cilium PR 31016, log in aws#3105.
#[test]
fn a_full_subnet_in_general_words_falls_back_to_single_addresses() {
    let mut node = Setup::new("m5.large", &PREFIXES).start();
    node.fragment();
    node.general_code = true;
    assert_eq!(node.insist(&names("p", 0..5), 60), 5);
}

/// The same, where another subnet has room.
#[test]
fn a_full_subnet_in_general_words_sends_growth_to_the_next() {
    let mut setup = Setup::within("10.0.0.0/26", &[], "m5.large", &[("WARM_IP_TARGET", "2")]);
    setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.crowd(node.subnet, 0);
    node.general_code = true;
    assert_eq!(node.insist(&names("p", 0..8), 60), 8);
}

/// aws#3105's log: custom networking, and the answer is CreateNetworkInterface's.
#[test]
fn a_full_subnet_in_general_words_is_known_at_creation_too() {
    let mut setup = Setup::new("m5.large", &[PREFIXES[0], PREFIXES[1], CUSTOM_NETWORKING]);
    let subnet = setup.subnet("10.0.64.0/26", &[]);
    let mut node = setup.start();
    node.crowd(subnet, 12);
    node.general_code = true;
    node.set_eni_config(EniConfig::new(subnet));
    assert_eq!(node.insist(&names("p", 0..5), 60), 5);
}

/// lyft/cni-ipvlan-vpc-k8s PR 101; Neon, May 2025.
#[test]
fn the_last_addresses_of_a_subnet_are_had() {
    for vars in [&[][..], &[("WARM_IP_TARGET", "10")], &[("WARM_IP_TARGET", "1")]] {
        let mut node = Setup::within("10.0.0.0/26", &[], "m5.large", vars).start();
        node.crowd(node.subnet, 4);
        let pods = names("p", 0..5);
        assert_eq!(node.insist(&pods, 60), 4, "{vars:?}: 4 addresses are free");
    }
}

/// aws#3753.
#[test]
fn a_primary_eni_at_device_1_is_the_primary() {
    let mut setup = Setup::new("m5.4xlarge", &[("WARM_IP_TARGET", "2")]);
    setup.shift = 1;
    let mut node = setup.start();
    node.run_for(60);
    let primary = node.ipam.node().primary;
    let pods = names("p", 0..32);
    node.add(&pods);
    node.run_for(120);
    for pod in &pods {
        if node.stored.get(&Node::key(pod)).is_some_and(|lease| lease.first.eni == primary) {
            let _ = node.del(pod);
        }
    }
    node.run_for(600);
    let calls = changes_of(&node, primary);
    let bad: Vec<_> = calls
        .iter()
        .filter(|call| {
            ["SetUpEni", "RemoveEni", "Detach", "Delete"].iter().any(|it| call.contains(it))
        })
        .map(|call| call.chars().take(40).collect::<String>())
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}

/// The same under custom networking.
#[test]
fn a_primary_eni_at_device_1_serves_no_pod_under_custom_networking() {
    let mut setup = Setup::new("m5.4xlarge", &[CUSTOM_NETWORKING]);
    setup.shift = 1;
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig::new(subnet));
    let pods = names("p", 0..20);
    node.insist(&pods, 60);
    let primary = node.ipam.node().primary;
    let on_primary = node.stored.values().filter(|lease| lease.first.eni == primary).count();
    assert_eq!((node.served(&pods), on_primary), (20, 0));
}

/// aws PR 1595.
#[test]
fn an_eni_of_another_vpc_is_left_alone() {
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "2")]);
    let vpc = node.cloud.create_vpc(vec!["172.20.0.0/16".parse().unwrap()], vec![]);
    let zone = "eu-west-1a".parse().unwrap();
    let range = "172.20.0.0/20".parse().unwrap();
    let subnet = node.cloud.create_subnet(CreateSubnet::new(vpc, zone, range)).unwrap();
    let two = Ipv4Request::Count(Ipv4Amount::Addresses(2));
    let theirs = node.plug(CreateInterface { ipv4: two, ..CreateInterface::new(subnet) }, 0, 1);
    node.run_for(61);
    let pods = names("p", 0..32);
    node.add(&pods);
    node.run_for(60);
    let elsewhere = node.stored.values().filter(|lease| lease.first.eni == theirs).count();
    for pod in &pods {
        let _ = node.del(pod);
    }
    node.run_for(3600);
    assert_eq!(elsewhere, 0, "pods have addresses of the other VPC");
    assert!(node.cloud.interface(&theirs).is_some(), "{:?}", changes_of(&node, theirs));
}

/// The code in cilium#9730's log, on attaching.
#[test]
fn too_many_addresses_to_attach_an_eni_with_is_a_limit_of_addresses() {
    let kind = FailureKind::of_ec2_error("InvalidInterface.IpAddressLimitExceeded", "");
    assert_eq!(kind, FailureKind::AddressLimit);
}

/// cilium#9730: a table or an override that promises one address too many.
#[test]
fn a_limit_of_addresses_that_is_one_too_high_costs_one_address_and_not_all() {
    let mut setup = Setup::new("t3.medium", &[]);
    setup.believed = Some(setup.limits.clone().with_ipv4_per_eni(7));
    let mut node = setup.start();
    node.refuse("AttachNetworkInterface", "InvalidInterface.IpAddressLimitExceeded", u32::MAX);
    let pods = names("p", 0..3);
    assert_eq!(node.insist(&pods, 300), 3, "the primary ENI takes 5 addresses");
}

/// cilium#32346.
#[test]
fn a_subnet_taken_out_of_use_is_noticed_within_the_hour() {
    let vars = [("WARM_IP_TARGET", "2")];
    let mut setup = Setup::within("10.0.0.0/24", &[(ROLE, "1")], "m5.large", &vars);
    setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    let tag = [(ROLE.to_string(), "0".to_string())].into();
    node.cloud.create_tags(&[node.subnet.as_str()], &tag, node.now).unwrap();
    node.run_for(3600);
    assert!(node.enis()[0].excluded);
}

/// aws#2497, aws#2669: asking EC2 once a minute for what it denied a minute ago.
#[test]
fn a_phantom_in_the_metadata_is_not_asked_about_every_minute() {
    let mut node = Node::settled("m5.large", &[("WARM_IP_TARGET", "2")]);
    let id = node.plug(node.foreign(&[], InterfaceType::Interface), 0, 1);
    let phantom = node.shown(Source::Imds).enis.into_iter().find(|eni| eni.id == id).unwrap();
    let attachment = node.cloud.interface(&id).unwrap().attachment.as_ref().unwrap().id;
    node.cloud.detach_network_interface(attachment, node.now).unwrap();
    node.cloud.delete_network_interface(id, node.now).unwrap();
    node.phantom = Some(phantom);
    let before = node.count("DescribeNetworkInterfaces");
    node.run_for(3600);
    let asked = node.count("DescribeNetworkInterfaces") - before;
    assert!(asked <= 12, "{asked} in an hour, 4 without the phantom");
}

/// aws PR 194: the metadata service lists a MAC whose device-number is 404.
#[test]
fn an_eni_that_the_metadata_service_lists_incompletely_stays_and_is_not_asked_about() {
    // Where EC2 may be asked, and where the metadata are all there is.
    for vars in [[("WARM_IP_TARGET", "12")], [("ENABLE_IMDS_ONLY_MODE", "true")]] {
        let mut node = Node::settled("m5.large", &vars);
        let two = Ipv4Request::Count(Ipv4Amount::Addresses(2));
        let request = CreateInterface { ipv4: two, ..CreateInterface::new(node.subnet) };
        // It has made one where it may.
        let made = node.enis().get(1).map(|eni| eni.id);
        let eni = made.unwrap_or_else(|| node.plug(request, 0, 1));
        node.run_for(600);
        let before = node.eni(eni).map(|eni| eni.blocks().len());
        assert!(before >= Some(2), "{vars:?}: {before:?}");
        let doubts = |node: &Node| {
            node.events().filter(|event| matches!(event, Event::SourcesDisagree { .. })).count()
        };
        let (asked, doubted) = (node.count("DescribeNetworkInterfaces"), doubts(&node));
        node.cloud.withhold_metadata(eni, Some("device-number"));
        node.run_for(3600);
        assert_eq!(node.eni(eni).map(|eni| eni.blocks().len()), before, "{vars:?}");
        assert_eq!(doubts(&node), doubted, "{vars:?}");
        let asked = node.count("DescribeNetworkInterfaces") - asked;
        assert!(asked <= 4, "{vars:?}: {asked} in an hour, 4 where nothing is left out");
    }
}

/// aws#277: groups that an ENIConfig gains. (amazon-vpc-cni-k8s does not either.)
#[test]
fn enis_follow_the_groups_of_their_eni_config() {
    let mut setup = Setup::new("m5.large", &[CUSTOM_NETWORKING]);
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    let one = node.cloud.create_security_group(node.vpc).unwrap();
    let two = node.cloud.create_security_group(node.vpc).unwrap();
    node.set_eni_config(EniConfig::new(subnet).with_security_groups(vec![one]));
    node.run_for(60);
    node.set_eni_config(EniConfig::new(subnet).with_security_groups(vec![one, two]));
    node.run_for(600);
    assert_eq!(node.at(1).security_groups, [one, two]);
}

/// aws#725: an ENI that another program made. (amazon-vpc-cni-k8s deletes it.)
#[test]
fn an_eni_that_was_not_made_by_us_is_not_deleted() {
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "2")]);
    let theirs = node.plug(node.foreign(&[], InterfaceType::Interface), 0, 1);
    // Its maker's own tag comes after two minutes and a half.
    node.run_for(150);
    assert!(node.cloud.interface(&theirs).is_some(), "{:?}", changes_of(&node, theirs));
}

/// Told as soon for an hour, it is not soon.
#[test]
fn readiness_does_not_say_soon_for_an_hour() {
    let mut node =
        Setup::new("m5.large", &[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false")]).start();
    node.refuse("AssignIpv6Addresses", "InvalidParameterValue", u32::MAX);
    node.add(["p"]);
    let mut soon = 0;
    for _ in 0..60 {
        node.run_for(60);
        soon += u32::from(matches!(node.ipam.readiness(node.now), Readiness::Soon { .. }));
    }
    assert!(soon <= 5, "Soon in {soon} of 60 minutes, with no address ever");
}

// What other address managements learnt.

/// cilium PR 48193: the amount that falls back from prefixes to addresses is cut to the places that an ENI has.
#[test]
fn a_fall_back_asks_for_no_more_than_an_eni_takes() {
    for (instance_type, pods) in [("t3.medium", 14), ("m5.large", 25), ("c5.4xlarge", 30)] {
        let mut node = Setup::new(instance_type, &PREFIXES).start();
        node.fragment();
        let slots = u32::from(node.limits.ipv4_slots());
        let pods = names("p", 0..pods);
        node.add(&pods);
        node.run_for(30);
        assert_eq!(node.served(&pods), pods.len(), "{instance_type}");
        for (_, told) in &node.log {
            let amount = match told {
                Told::Issued(Issued { action: Action::Ec2(action), .. }) => match action {
                    Ec2Action::CreateNetworkInterface(call) => call.ipv4,
                    Ec2Action::AssignPrivateIpAddresses(call) => call.amount,
                    _ => continue,
                },
                _ => continue,
            };
            let (Ipv4Amount::Addresses(n) | Ipv4Amount::Prefixes(n)) = amount;
            assert!(u32::from(n) <= slots, "{instance_type}: {amount:?}");
        }
    }
}

/// cilium#46644: prefixes of a sibling subnet before single addresses of the own.
#[test]
fn prefixes_of_a_sibling_subnet_come_before_single_addresses() {
    let mut setup = Setup::new("m5.large", &PREFIXES);
    let sibling = setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.fragment();
    let pods = names("p", 0..60);
    node.add(&pods);
    node.run_for(30);
    assert_eq!(node.served(&pods), 60);
    let made = node.at(1);
    assert_eq!(made.subnet, sibling);
    assert!(made.ipv4.iter().all(|net| net.prefix_len() == 28));
}

/// aws#537: marking ENIs is throttled for minutes.
#[test]
fn enis_serve_although_marking_them_is_throttled() {
    let mut node = Setup::new("m4.4xlarge", &[("WARM_ENI_TARGET", "8")]).start();
    node.refuse("ModifyNetworkInterfaceAttribute", "RequestLimitExceeded", 40);
    node.run_for(60);
    assert_eq!(node.held().0, 8 * 29);
    node.run_for(3600);
    assert_eq!((node.cloud.interfaces().count(), node.count("DeleteNetworkInterface")), (8, 0));
    let marked = |eni: &NetworkInterface| eni.attachment.as_ref().unwrap().delete_on_termination;
    assert!(node.cloud.interfaces().all(marked));
}

/// aws#2309: the table promises an ENI more than EC2 attaches.
#[test]
fn an_eni_too_many_is_tried_rarely() {
    let mut setup = Setup::new("d3en.12xlarge", &[]);
    setup.believed = Some(setup.limits.clone().with_enis_per_card(vec![4].into()));
    let mut node = setup.start();
    let pods = names("p", 0..95);
    node.add(&pods);
    node.run_for(3 * 3600);
    assert_eq!(node.served(&pods), 87);
    assert!(node.count("CreateNetworkInterface") <= 20);
}

/// aws#3833, aws PR 3843: subnets cannot be listed after a restart, with ENIs of a discovered subnet there.
#[test]
fn enis_of_a_discovered_subnet_serve_although_subnets_cannot_be_listed() {
    for code in ["RequestLimitExceeded", "UnauthorizedOperation"] {
        let mut setup = Setup::within("10.0.0.0/24", &[], "m6a.large", &[]);
        let other = setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
        let mut node = setup.start();
        node.run_for(30);
        node.add(names("p", 0..12));
        node.run_for(120);
        assert_eq!(node.cloud.interfaces().filter(|eni| eni.subnet == other).count(), 2);
        node.restart();
        node.refuse("DescribeSubnets", code, u32::MAX);
        let more = names("q", 0..12);
        node.add(&more);
        node.run_for(1800);
        assert_eq!(node.served(&more), 12, "{code}");
        assert_eq!(node.count("CreateNetworkInterface"), 2, "{code}");
    }
}

/// aws#2369: two ENIs, one kept from pods, the other for a trunk.
#[test]
fn a_type_with_no_eni_for_pods_says_so() {
    let vars = [CUSTOM_NETWORKING, PREFIXES[0], PREFIXES[1], ("ENABLE_POD_ENI", "true")];
    let mut setup = Setup::new("r7g.medium", &vars);
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig::new(subnet));
    node.run_for(60);
    let error = node.ask("p").unwrap_err();
    assert_eq!(error.retry_at(), None);
    assert!(error.to_string().contains("trunk"), "{error}");
    let trunk = InterfaceType::Trunk;
    node.plug(CreateInterface { interface_type: trunk, ..CreateInterface::new(subnet) }, 0, 1);
    node.run_for(600);
    assert!(node.ask("p").is_err());
    assert_eq!(node.count("CreateNetworkInterface"), 0);
}

/// Terway#197: all ENIs are there, and no subnet for another one is.
#[test]
fn enis_are_filled_although_there_is_no_subnet_for_new_ones() {
    let vars = [("WARM_IP_TARGET", "2")];
    let mut setup = Setup::within("10.0.0.0/24", &[(ROLE, "0")], "m5.large", &vars);
    let other = setup.subnet("10.0.64.0/20", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.add(names("p", 0..12));
    node.run_for(60);
    let tag = [(ROLE.to_string(), String::new())].into();
    node.cloud.create_tags(&[other.as_str()], &tag, node.now).unwrap();
    node.restart();
    let more = names("q", 0..6);
    node.add(&more);
    node.run_for(60);
    assert_eq!(node.served(&more), 6);
}

/// Terway#100: more pods than the subnet has, then fewer, then some again.
#[test]
fn a_node_recovers_from_more_pods_than_addresses() {
    let mut node =
        Setup::within("10.0.0.0/28", &[], "m5.large", &[("WARM_IP_TARGET", "1")]).start();
    let pods = names("p", 0..25);
    node.add(&pods);
    node.run_for(120);
    for pod in &pods[1..] {
        let _ = node.del(pod);
    }
    node.run_for(120);
    assert_eq!(node.held(), (2, 1));
    let more = names("q", 0..5);
    node.add(&more);
    node.run_for(60);
    assert_eq!(node.served(&more), 5);
}

/// aws#3704, eksctl#8768: IPv6 with a role that may do nothing but what IPv6 takes.
#[test]
fn ipv6_takes_no_other_permission() {
    let vars = [("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false")];
    let mut node = Setup::new("m5.large", &vars).start();
    for call in ["DescribeSubnets", "ModifyNetworkInterfaceAttribute", "CreateNetworkInterface"] {
        node.refuse(call, "UnauthorizedOperation", u32::MAX);
    }
    let pods = names("p", 0..20);
    node.add(&pods);
    node.restart();
    let more = names("q", 0..20);
    node.add(&more);
    node.run_for(60);
    assert_eq!((node.served(&pods), node.served(&more)), (20, 20));
}

/// aws#3685: a minimum, no warm target, prefixes, custom networking.
#[test]
fn pods_beyond_the_minimum_are_served_out_of_prefixes() {
    let warm = [("WARM_ENI_TARGET", "0"), ("WARM_IP_TARGET", "0"), ("MINIMUM_IP_TARGET", "22")];
    let vars = [CUSTOM_NETWORKING, PREFIXES[0], PREFIXES[1], warm[0], warm[1], warm[2]];
    let mut setup = Setup::new("m5.4xlarge", &vars);
    let subnet = setup.subnet("10.0.64.0/18", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig::new(subnet));
    let pods = names("p", 0..67);
    node.add(&pods);
    node.run_for(60);
    assert_eq!(node.served(&pods), 67);
}

/// aws#610: what was made is not found right afterwards.
#[test]
fn an_eni_that_is_not_found_right_after_it_was_made_is_not_lost() {
    for times in [1, 3] {
        let mut node = Node::settled("m5.large", &[]);
        node.refuse("AttachNetworkInterface", "InvalidNetworkInterfaceID.NotFound", times);
        let pods = names("p", 0..12);
        node.add(&pods);
        node.run_for(600);
        assert_eq!(node.served(&pods), 12);
        assert!(node.cloud.interfaces().all(|eni| eni.attachment.is_some()));
    }
}

/// aws#1929: IPv6 on bare metal; aws#3654: a subnet without IPv4.
#[test]
fn ipv6_on_bare_metal_and_without_ipv4() {
    fn no_ipv4(eni: &mut ObservedEni) {
        eni.primary_ipv4 = None;
    }
    let vars = [("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false"), PREFIXES[0]];
    for (instance_type, alter) in [("c5.metal", None), ("m5.large", Some(no_ipv4 as fn(&mut _)))] {
        let mut node = Setup::new(instance_type, &vars).start();
        node.alter = alter;
        let pods = names("p", 0..3);
        node.add(&pods);
        assert_eq!(node.served(&pods), 3, "{instance_type}");
    }
}
