//! Reports of the field in which the product did what is right (commit e405b97).
#![allow(clippy::unwrap_used, missing_docs, dead_code, reason = "tests")]
mod node;

use node::{Node, ROLE, Setup, Told, names};
use vpc_ipam_core::sim::CreateInterface;
use vpc_ipam_core::*;

const PD: [(&str, &str); 2] = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];

fn served(node: &Node, pods: &[String]) -> usize {
    pods.iter().filter(|pod| node.address(pod).is_some()).count()
}

/// R1. cilium PR 48193: the amount that falls back from prefixes to addresses is cut to the places that an ENI has.
#[test]
fn r1_a_fall_back_asks_for_no_more_than_an_eni_takes() {
    for (instance_type, pods) in [("t3.medium", 14), ("m5.large", 25), ("c5.4xlarge", 30)] {
        let mut node = Setup::new(instance_type, &PD).start();
        node.fragment();
        let slots = u32::from(node.limits.ipv4_slots());
        let pods = names("p", 0..pods);
        node.add(&pods);
        node.run_for(30);
        assert_eq!(served(&node, &pods), pods.len(), "{instance_type}");
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

/// R2. cilium#46644: prefixes of a sibling subnet before single addresses of the own.
#[test]
fn r2_prefixes_of_a_sibling_subnet_come_before_single_addresses() {
    let mut setup = Setup::new("m5.large", &PD);
    let sibling = setup.subnet("10.0.64.0/24", &[(ROLE, "1")]);
    let mut node = setup.start();
    node.fragment();
    let pods = names("p", 0..60);
    node.add(&pods);
    node.run_for(30);
    assert_eq!(served(&node, &pods), 60);
    let made = node.at(1);
    assert_eq!(made.subnet, sibling);
    assert!(made.ipv4.iter().all(|net| net.prefix_len() == 28));
}

/// R3. aws#537: marking ENIs is throttled for minutes.
#[test]
fn r3_enis_serve_although_marking_them_is_throttled() {
    let mut node = Setup::new("m4.4xlarge", &[("WARM_ENI_TARGET", "8")]).start();
    node.refuse("ModifyNetworkInterfaceAttribute", "RequestLimitExceeded", 40);
    node.run_for(60);
    assert_eq!(node.held().0, 8 * 29);
    node.run_for(3600);
    assert_eq!((node.cloud.interfaces().count(), node.count("DeleteNetworkInterface")), (8, 0));
    let marked = |eni: &vpc_ipam_core::sim::NetworkInterface| {
        eni.attachment.as_ref().unwrap().delete_on_termination
    };
    assert!(node.cloud.interfaces().all(marked));
}

/// R4. aws#2309: the table promises an ENI more than EC2 attaches. (What is not right: its 30 addresses are parked in an ENI
/// that nobody can attach, again and again; the limit is not learnt.)
#[test]
fn r4_an_eni_too_many_is_tried_rarely() {
    let mut setup = Setup::new("d3en.12xlarge", &[]);
    setup.believed = Some(Limits { enis_per_card: vec![4].into(), ..setup.limits.clone() });
    let mut node = setup.start();
    let pods = names("p", 0..95);
    node.add(&pods);
    node.run_for(3 * 3600);
    assert_eq!(served(&node, &pods), 87);
    assert!(node.count("CreateNetworkInterface") <= 20);
}

/// R5. aws#3833, aws PR 3843: subnets cannot be listed after a restart, with ENIs of a discovered subnet there.
#[test]
fn r5_enis_of_a_discovered_subnet_serve_although_subnets_cannot_be_listed() {
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
        assert_eq!(served(&node, &more), 12, "{code}");
        assert_eq!(node.count("CreateNetworkInterface"), 2, "{code}");
    }
}

/// R6. aws#2369: two ENIs, one kept from pods, the other for a trunk.
#[test]
fn r6_a_type_with_no_eni_for_pods_says_so() {
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let vars = [custom, PD[0], PD[1], ("ENABLE_POD_ENI", "true")];
    let mut setup = Setup::new("r7g.medium", &vars);
    let subnet = setup.subnet("10.0.64.0/20", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig { subnet, security_groups: vec![] });
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

/// R7. Terway#197: all ENIs are there, and no subnet for another one is.
#[test]
fn r7_enis_are_filled_although_no_subnet_is_left_for_new_ones() {
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
    assert_eq!(served(&node, &more), 6);
}

/// R8. Terway#100: more pods than the subnet has, then fewer, then some again.
#[test]
fn r8_a_node_recovers_from_more_pods_than_addresses() {
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
    assert_eq!(served(&node, &more), 5);
}

/// R9. aws#3704, eksctl#8768: IPv6 with a role that may do nothing but what IPv6 takes.
#[test]
fn r9_ipv6_takes_no_other_permission() {
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
    assert_eq!((served(&node, &pods), served(&node, &more)), (20, 20));
}

/// R10. aws#3685: a minimum, no warm target, prefixes, custom networking.
#[test]
fn r10_pods_beyond_the_minimum_are_served_out_of_prefixes() {
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let warm = [("WARM_ENI_TARGET", "0"), ("WARM_IP_TARGET", "0"), ("MINIMUM_IP_TARGET", "22")];
    let vars = [custom, PD[0], PD[1], warm[0], warm[1], warm[2]];
    let mut setup = Setup::new("m5.4xlarge", &vars);
    let subnet = setup.subnet("10.0.64.0/18", &[]);
    let mut node = setup.start();
    node.set_eni_config(EniConfig { subnet, security_groups: vec![] });
    let pods = names("p", 0..67);
    node.add(&pods);
    node.run_for(60);
    assert_eq!(served(&node, &pods), 67);
}

/// R11. aws#610: what was made is not found right afterwards.
#[test]
fn r11_an_eni_that_is_not_found_right_after_it_was_made_is_not_lost() {
    for times in [1, 3] {
        let mut node = Node::settled("m5.large", &[]);
        node.refuse("AttachNetworkInterface", "InvalidNetworkInterfaceID.NotFound", times);
        let pods = names("p", 0..12);
        node.add(&pods);
        node.run_for(600);
        assert_eq!(served(&node, &pods), 12);
        assert!(node.cloud.interfaces().all(|eni| eni.attachment.is_some()));
    }
}

/// R12. aws#1929: IPv6 on bare metal; aws#3654: a subnet without IPv4.
#[test]
fn r12_ipv6_on_bare_metal_and_without_ipv4() {
    fn no_ipv4(eni: &mut ObservedEni) {
        eni.primary_ipv4 = None;
    }
    let vars = [("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false"), PD[0]];
    for (instance_type, alter) in [("c5.metal", None), ("m5.large", Some(no_ipv4 as fn(&mut _)))] {
        let mut node = Setup::new(instance_type, &vars).start();
        node.alter = alter;
        let pods = names("p", 0..3);
        node.add(&pods);
        assert_eq!(served(&node, &pods), 3, "{instance_type}");
    }
}
