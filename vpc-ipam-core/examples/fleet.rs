//! For those who size a fleet and its subnets: a day of pods under several settings, in virtual time.
//!
//! `cargo run -p vpc-ipam-core --features sim --example fleet`. Put your own hours and type in; what is printed is what each setting takes out of
//! the subnet for one node, and how often it asks EC2 to change something. A formula gives the end of it, this the way.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::time::Duration;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
use vpc_ipam_core::{Config, Limits, Timestamp};

/// How many pods the node runs in each hour of a day.
const PODS: [u32; 24] =
    [8, 8, 8, 8, 8, 12, 20, 32, 40, 40, 38, 36, 40, 40, 40, 38, 36, 32, 24, 20, 16, 12, 8, 8];
const SETTINGS: [(&str, &[(&str, &str)]); 4] = [
    ("default", &[]),
    ("warm 5", &[("WARM_IP_TARGET", "5")]),
    ("warm 5, minimum 40", &[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "40")]),
    ("prefixes", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("setting              at night  at peak  changes of EC2");
    let mut days = Vec::new();
    for (name, vars) in SETTINGS {
        let day = run(vars)?;
        println!("{name:20} {:8} {:8} {:15}", day.at_night, day.at_peak, day.changes);
        days.push(day);
    }
    let [default, warm, minimum, prefixes] = &days[..] else { return Err("four days".into()) };
    // What is held ready is paid for in addresses, what is not in calls.
    assert!(warm.at_night < default.at_night && warm.at_peak < default.at_peak);
    assert!(warm.changes > default.changes);
    assert!(minimum.changes < warm.changes, "the minimum saves the calls of every morning");
    assert!(prefixes.changes < warm.changes);
    Ok(())
}

/// What a day took.
struct Day {
    /// The fewest addresses out of the subnet at the end of an hour, each ENI's own included.
    at_night: usize,
    /// The most.
    at_peak: usize,
    /// Calls of EC2 that change something.
    changes: u32,
}

fn run(vars: &[(&str, &str)]) -> Result<Day, Box<dyn Error>> {
    let (config, warnings) = Config::from_vars(vars.iter().copied());
    assert!(warnings.is_empty());
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
    let subnet = cloud.create_subnet(subnet)?;
    let limits = Limits::lookup("m5.4xlarge".parse()?)?;
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
    let mut world = World::new(cloud, instance, limits, config, 1, now)?;

    let mut taken = Vec::new();
    let mut running = 0;
    for pods in PODS {
        // The last that came goes first. Each is a pod of its own.
        for pod in running..pods {
            world.add_pod(&format!("pod-{pod}"));
        }
        for pod in pods..running {
            let _released = world.remove_pod(&format!("pod-{pod}"));
        }
        running = pods;
        world.run_for(Duration::from_secs(3600));
        assert_eq!(world.leases().len(), pods as usize, "every pod has its address");
        taken.push(addresses(&world.cloud));
    }
    let changes = world.calls().iter().filter(|(operation, _)| !operation.reads());
    Ok(Day {
        at_night: taken.iter().copied().min().unwrap_or(0),
        at_peak: taken.iter().copied().max().unwrap_or(0),
        changes: changes.map(|(_, count)| count).sum(),
    })
}

/// Returns how many IPv4 addresses the ENIs of a cloud take out of its subnets.
fn addresses(cloud: &Cloud) -> usize {
    let of_blocks = |prefix_len: u8| 1 << (32 - prefix_len);
    cloud
        .interfaces()
        .map(|eni| 1 + eni.ipv4.iter().map(|net| of_blocks(net.prefix_len())).sum::<usize>())
        .sum()
}
