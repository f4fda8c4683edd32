//! How many addresses a node is said to take is how many it takes: each footprint is held against a node that lives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use node::{Node, Setup, names};
use vpc_ipam_core::EniConfig;
use vpc_ipam_core::capacity::{Footprint, address_footprint};

/// Instance type, variables, pods that need an address, the most that the node runs.
const CASES: [(&str, &[(&str, &str)], usize, u32); 24] = [
    ("m5.large", &[("ENABLE_IPv6", "true")], 20, 110),
    ("m5.large", &[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "true")], 20, 110),
    (
        "m5.4xlarge",
        &[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "true"), ("WARM_IP_TARGET", "2")],
        40,
        110,
    ),
    ("p4d.24xlarge", &[("ENABLE_IPv6", "true"), ("ENABLE_MULTI_NIC", "true")], 12, 110),
    ("m5.large", &[], 0, 29),
    ("m5.large", &[], 10, 29),
    ("m5.large", &[], 27, 29),
    ("m4.4xlarge", &[], 1, 234),
    ("m4.4xlarge", &[], 30, 234),
    ("m4.4xlarge", &[("WARM_ENI_TARGET", "0")], 29, 234),
    ("m4.4xlarge", &[("WARM_ENI_TARGET", "3")], 5, 234),
    ("m4.4xlarge", &[("MAX_ENI", "2")], 58, 60),
    ("m5.4xlarge", &[("WARM_IP_TARGET", "5")], 20, 110),
    ("m5.4xlarge", &[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "35")], 12, 110),
    ("m5.4xlarge", &[("MINIMUM_IP_TARGET", "10")], 25, 110),
    ("m5.4xlarge", &[], 40, 40),
    ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")], 20, 110),
    ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "0")], 16, 110),
    ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_IP_TARGET", "5")], 44, 110),
    ("m4.4xlarge", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")], 20, 234),
    ("m5.4xlarge", &[("ENABLE_POD_ENI", "true"), ("WARM_IP_TARGET", "2")], 33, 110),
    (
        "m5.4xlarge",
        &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("WARM_IP_TARGET", "2")],
        33,
        110,
    ),
    ("p4d.24xlarge", &[("ENABLE_MULTI_NIC", "true")], 20, 110),
    ("p4d.24xlarge", &[("ENABLE_MULTI_NIC", "true"), ("ENABLE_PREFIX_DELEGATION", "true")], 9, 110),
];

fn start(instance_type: &str, vars: &[(&str, &str)], max_pods: u32) -> Node {
    let mut setup = Setup::new(instance_type, vars);
    setup.config.pods_max = Some(max_pods);
    let mut node = setup.start();
    node.set_eni_config(EniConfig::new(node.subnet));
    node.run_for(300);
    node
}

/// What a [`Footprint`] counts.
#[derive(Debug, PartialEq)]
struct Taken {
    enis: u32,
    for_pods: u32,
    in_all: u32,
    ipv6_prefixes: u32,
}

impl From<Footprint> for Taken {
    fn from(footprint: Footprint) -> Self {
        let Footprint { enis, for_pods, in_all, ipv6_prefixes, .. } = footprint;
        Self { enis, for_pods, in_all, ipv6_prefixes }
    }
}

/// Counts what a node takes out of its subnets.
fn taken(node: &Node) -> Taken {
    let mine = || node.cloud.interfaces().filter(|eni| eni.attachment.is_some());
    let of_net = |length: u8| 1u32 << (32 - length);
    let for_pods = mine().flat_map(|eni| &eni.ipv4).map(|net| of_net(net.prefix_len())).sum();
    let enis = mine().count() as u32;
    let ipv6_prefixes = mine().map(|eni| eni.ipv6.len()).sum::<usize>() as u32;
    Taken { enis, for_pods, in_all: for_pods + enis, ipv6_prefixes }
}

#[test]
fn footprints_are_what_a_node_comes_to_take() {
    for (instance_type, vars, pods, max_pods) in CASES {
        let mut node = start(instance_type, vars, max_pods);
        let footprints = address_footprint(&node.limits, &node.config, pods as u32, max_pods);
        assert_eq!(
            taken(&node),
            Taken::from(footprints.at_boot),
            "{instance_type} {vars:?} at boot"
        );
        node.add(names("pod", 0..pods));
        node.run_for(600);
        assert_eq!(node.stored.len(), pods, "{instance_type} {vars:?}");
        assert_eq!(
            taken(&node),
            Taken::from(footprints.at_pods),
            "{instance_type} {vars:?} with {pods} pods"
        );
    }
}

#[test]
fn no_coming_and_going_takes_more_than_the_worst_footprint() {
    for (instance_type, vars, pods, max_pods) in CASES {
        for capped in [true, false] {
            let mut node = start(instance_type, vars, max_pods);
            if !capped {
                node.config.pods_max = None;
                node.ipam.handle_config(node.config.clone(), node.now).unwrap();
            }
            let worst = address_footprint(&node.limits, &node.config, 0, max_pods).worst;
            // All pods end at once, and as many come.
            for round in 0..4 {
                node.add(names(&format!("round-{round}"), 0..pods));
                node.run_for(45);
                let taken = taken(&node);
                assert!(
                    taken.in_all <= worst.in_all && taken.enis <= worst.enis,
                    "{instance_type} {vars:?} capped {capped}: {taken:?} of {worst:?}"
                );
                for name in names(&format!("round-{round}"), 0..pods) {
                    let _ = node.del(&name);
                }
            }
        }
    }
}
