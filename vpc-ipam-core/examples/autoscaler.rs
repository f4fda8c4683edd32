//! For authors of an autoscaler: which type takes a batch of pods, and how many such nodes a subnet has addresses for.
//!
//! `cargo run -p vpc-ipam-core --example autoscaler`. Two pure functions of the crate without any feature.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;

use vpc_ipam_core::capacity::{Bound, Cap, Footprints, Shape, address_footprint, max_pods};
use vpc_ipam_core::{Config, Limits};

/// Pods that wait for a node, each with an address of its own.
const PODS: u32 = 50;
/// What DescribeSubnets says that the subnet has left.
const ADDRESSES_FREE: u32 = 400;

fn main() -> Result<(), Box<dyn Error>> {
    // The nodes' configuration, in the variables of amazon-vpc-cni-k8s.
    let (config, warnings) = Config::from_vars([("WARM_IP_TARGET", "5"), ("MAX_ENI", "6")]);
    assert!(warnings.is_empty());
    let shape = Shape::from(&config).with_cap(Cap::ByVcpus);

    println!("type          pods  bound by                       at boot  with pods  at worst");
    let mut nodes = Vec::new();
    for name in ["m5.large", "m5.xlarge", "m5.2xlarge", "m5.4xlarge"] {
        let limits = Limits::lookup(name.parse()?)?;
        let capacity = max_pods(&limits, &shape);
        // Pods that need an address: those on the host's network are in the number, too.
        let with_address = capacity.max_pods - shape.host_network_pods;
        // At worst a node holds as many addresses as its configuration lets it, so that has to know the most pods, too.
        let config = config.clone().with_pods_max(Some(with_address));
        let Footprints { at_boot, at_pods, worst, .. } =
            address_footprint(&limits, &config, PODS, with_address);
        println!(
            "{name:12} {:5}  {:30} {:7} {:10} {:9}",
            capacity.max_pods,
            capacity.bound_by.to_string(),
            at_boot.in_all,
            at_pods.in_all,
            worst.in_all,
        );
        nodes.push((name, with_address, capacity.bound_by, worst.in_all));
    }

    let (name, _, _, worst) = nodes
        .iter()
        .find(|(_, with_address, ..)| *with_address >= PODS)
        .ok_or("no type takes the batch")?;
    // By the most that each will ever hold, no node of the group runs out of addresses, whatever comes and goes.
    let fit = ADDRESSES_FREE / worst;
    println!(
        "{PODS} pods go on one {name}; {ADDRESSES_FREE} addresses are enough for {fit} of them"
    );
    assert_eq!((*name, fit), ("m5.xlarge", 6));
    // m5.4xlarge has room for 234 pods by its ENIs. Here MAX_ENI would allow 176, and AWS advises 110.
    assert_eq!(nodes[3].2, Bound::Cap);

    // There is no guess for a type that is not known: the error says where its limits can come from.
    let error = Limits::lookup("m5.lagre".parse()?).expect_err("there is no such type");
    println!("{error}");
    Ok(())
}
