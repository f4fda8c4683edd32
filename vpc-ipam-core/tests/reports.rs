//! Reports of the field in which the product did not do what is right (commit e405b97). Each fails until it does.
#![allow(clippy::unwrap_used, missing_docs, dead_code, reason = "tests")]
mod node;

use node::{Node, ROLE, Setup, Trouble, names};
use vpc_ipam_core::sim::{CreateInterface, CreateSubnet, Ipv4Request};
use vpc_ipam_core::*;

const PD: [(&str, &str); 2] = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];

fn served(node: &Node, pods: &[String]) -> usize {
    pods.iter().filter(|pod| node.address(pod).is_some()).count()
}

/// kubelet asks again every few seconds.
fn insist(node: &mut Node, pods: &[String], secs: u64) -> usize {
    for _ in 0..secs / 5 {
        node.add(pods);
        node.run_for(5);
        if served(node, pods) == pods.len() {
            break;
        }
    }
    served(node, pods)
}

fn calls_about(node: &Node, eni: EniId) -> Vec<String> {
    let issued = node.log.iter().filter_map(|(_, told)| match told {
        node::Told::Issued(issued) => Some(format!("{:?}", issued.action)),
        _ => None,
    });
    issued.filter(|call| call.contains(eni.as_str()) && !call.contains("Describe")).collect()
}

/// W1. cilium PR 31016, log in aws#3105.
#[test]
fn w1_a_full_subnet_in_general_words_falls_back_to_single_addresses() {
    let mut node = Setup::new("m5.large", &PD).start();
    node.fragment();
    node.general_code = true;
    assert_eq!(insist(&mut node, &names("p", 0..5), 60), 5);
}

/// W1, second half: to the next subnet.
#[test]
fn w1_a_full_subnet_in_general_words_sends_growth_to_the_next() {
    let mut setup = Setup::within("10.0.0.0/26", &[], "m5.large", &[("WARM_IP_TARGET", "2")]);
    setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.run_for(60);
    node.crowd(node.subnet, 0);
    node.general_code = true;
    assert_eq!(insist(&mut node, &names("p", 0..8), 60), 8);
}

/// W1, as in aws#3105's log: custom networking, and the answer is CreateNetworkInterface's.
#[test]
fn w1_a_full_subnet_in_general_words_is_known_at_creation_too() {
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let mut setup = Setup::new("m5.large", &[PD[0], PD[1], custom]);
    let subnet = setup.subnet("10.0.64.0/26", &[]);
    let mut node = setup.start();
    node.crowd(subnet, 12);
    node.general_code = true;
    node.set_eni_config(EniConfig { subnet, security_groups: vec![] });
    assert_eq!(insist(&mut node, &names("p", 0..5), 60), 5);
}

/// W2. lyft/cni-ipvlan-vpc-k8s PR 101; Neon, May 2025.
#[test]
fn w2_the_last_addresses_of_a_subnet_are_had() {
    for vars in [&[][..], &[("WARM_IP_TARGET", "10")], &[("WARM_IP_TARGET", "1")]] {
        let mut node = Setup::within("10.0.0.0/26", &[], "m5.large", vars).start();
        node.crowd(node.subnet, 4);
        let pods = names("p", 0..5);
        assert_eq!(insist(&mut node, &pods, 60), 4, "{vars:?}: 4 addresses are free");
    }
}

/// W3. aws#3753.
#[test]
fn w3_a_primary_eni_at_device_1_is_the_primary() {
    let mut setup = Setup::new("m5.4xlarge", &[("WARM_IP_TARGET", "2")]);
    setup.shift = 1;
    let mut node = setup.start();
    node.run_for(60);
    let primary = node.ipam.constraints().node.primary;
    let pods = names("p", 0..32);
    node.add(&pods);
    node.run_for(120);
    for pod in &pods {
        if node.stored.get(&Node::key(pod)).is_some_and(|lease| lease.first.eni == primary) {
            let _ = node.del(pod);
        }
    }
    node.run_for(600);
    let calls = calls_about(&node, primary);
    let bad: Vec<_> = calls
        .iter()
        .filter(|call| {
            ["SetUpEni", "RemoveEni", "Detach", "Delete"].iter().any(|it| call.contains(it))
        })
        .map(|call| call.chars().take(40).collect::<String>())
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}

/// W3, under custom networking.
#[test]
fn w3_a_primary_eni_at_device_1_serves_nobody_under_custom_networking() {
    let mut setup = Setup::new("m5.4xlarge", &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]);
    setup.shift = 1;
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig { subnet, security_groups: vec![] });
    let pods = names("p", 0..20);
    insist(&mut node, &pods, 60);
    let primary = node.ipam.constraints().node.primary;
    let on_primary = node.stored.values().filter(|lease| lease.first.eni == primary).count();
    assert_eq!((served(&node, &pods), on_primary), (20, 0));
}

/// W4. aws PR 1595.
#[test]
fn w4_an_eni_of_another_vpc_is_left_alone() {
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
    assert!(node.cloud.interface(&theirs).is_some(), "{:?}", calls_about(&node, theirs));
}

/// W5. The code in cilium#9730's log, on attaching.
#[test]
fn w5_an_eni_with_too_many_addresses_to_be_attached_is_given_up() {
    let kind = FailureKind::of_ec2_error("InvalidInterface.IpAddressLimitExceeded", "");
    assert_eq!(kind, FailureKind::AddressLimit);
}

/// W5, the whole: a table or an override that promises one address too many.
#[test]
fn w5_a_limit_of_addresses_that_is_one_too_high_costs_one_address_and_not_all() {
    let mut setup = Setup::new("t3.medium", &[]);
    setup.believed = Some(Limits { ipv4_per_eni: 7, ..setup.limits.clone() });
    let mut node = setup.start();
    node.refuse("AttachNetworkInterface", "InvalidInterface.IpAddressLimitExceeded", u32::MAX);
    let pods = names("p", 0..3);
    assert_eq!(insist(&mut node, &pods, 300), 3, "the primary ENI takes 5 addresses");
}

/// W6. cilium#32346.
#[test]
fn w6_a_subnet_taken_out_of_use_is_noticed_within_the_hour() {
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

/// W7. aws#2497, aws#2669: asking EC2 once a minute for what it denied a minute ago.
#[test]
fn w7_a_phantom_in_the_metadata_is_not_asked_about_every_minute() {
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

/// W8. aws#277: groups that an ENIConfig gains. (The peer does not either.)
#[test]
fn w8_enis_follow_the_groups_of_their_eni_config() {
    let mut setup = Setup::new("m5.large", &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]);
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    let one = node.cloud.create_security_group(node.vpc).unwrap();
    let two = node.cloud.create_security_group(node.vpc).unwrap();
    node.set_eni_config(EniConfig { subnet, security_groups: vec![one] });
    node.run_for(60);
    node.set_eni_config(EniConfig { subnet, security_groups: vec![one, two] });
    node.run_for(600);
    assert_eq!(node.at(1).security_groups, [one, two]);
}

/// W9. aws#725: an ENI that nobody of ours made. (The peer deletes it as well.)
#[test]
fn w9_an_eni_that_was_not_made_by_us_is_not_deleted() {
    let mut node = Node::settled("m5.4xlarge", &[("WARM_IP_TARGET", "2")]);
    let theirs = node.plug(node.foreign(&[], InterfaceType::Interface), 0, 1);
    // Its owner's own tag comes after two minutes and a half.
    node.run_for(150);
    assert!(node.cloud.interface(&theirs).is_some(), "{:?}", calls_about(&node, theirs));
}

/// W10. From W5: an hour of Soon is not soon.
#[test]
fn w10_readiness_does_not_say_soon_for_an_hour() {
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

const _: Option<Trouble> = None;
