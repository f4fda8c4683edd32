//! For operators and embedders who uninstall: a target of nothing, and what is left when it is reached.
//!
//! `cargo run -p vpc-ipam-core --features sim --example release_everything`. The page is docs/shutdown.md; the file of overrides there has
//! the same settings for `vpc-ipamd`. At the end the same node terminates instead, which keeps what goes with the instance.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::time::Duration;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
use vpc_ipam_core::{Config, Families, Ipam, Ipv4Kind, Limits, Timestamp, WaitingOn, WarmTarget};

const PODS: u32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let mut world = node_with_pods()?;
    assert_eq!((world.leases().len(), world.cloud.interfaces().count()), (12, 3));

    // Drained: its pods are gone, and their addresses cool.
    remove_pods(&mut world);
    let config = world.ipam.config().clone();
    let nothing = config
        .with_target(WarmTarget::Ips { warm: 0, minimum: 0 })
        // Prefixes, of IPv4 and of IPv6, serve no pod then, and go as well.
        .with_families(Families::Ipv4(Ipv4Kind::Addresses));
    world.ipam.handle_config(nothing, world.now)?;
    let asked_at = world.now;
    while !is_done(&world.ipam) {
        assert!(
            world.now.since(asked_at) < Duration::from_secs(600),
            "{}",
            world.ipam.explain(world.now)
        );
        world.run_for(Duration::from_secs(1));
    }
    for (at, issued) in world.issued().iter().filter(|(at, _)| *at >= asked_at) {
        println!("{at} {} because {}", issued.action, issued.because);
    }
    println!("done after {:?}", world.now.since(asked_at));
    let left: Vec<_> = world.cloud.interfaces().collect();
    assert_eq!(left.len(), 1, "the primary ENI alone");
    assert!(left[0].ipv4.is_empty(), "with its own address alone");

    // A node that goes away with its instance releases no ENI that serves: EC2 deletes them along.
    let mut world = node_with_pods()?;
    world.ipam.handle_terminating(world.now);
    remove_pods(&mut world);
    world.run_for(Duration::from_secs(600));
    let waits = world.ipam.plan(world.now).blocked;
    assert!(waits.iter().any(|blocked| blocked.waiting_on == WaitingOn::Terminating), "{waits:?}");
    let stay: Vec<_> =
        world.cloud.interfaces().filter(|eni| eni.id != world.ipam.node().primary).collect();
    assert_eq!(stay.len(), 2);
    for eni in stay {
        let attachment = eni.attachment.as_ref().ok_or("it stays attached")?;
        assert!(attachment.delete_on_termination, "{} would outlive the instance", eni.id);
    }
    Ok(())
}

/// Returns whether all that can be released is: the primary ENI is alone and carries nothing for pods.
fn is_done(ipam: &Ipam) -> bool {
    let enis = ipam.pool().enis();
    enis.iter().all(|eni| eni.is_primary() && eni.blocks().is_empty())
        && ipam.in_flight().next().is_none()
}

fn node_with_pods() -> Result<World, Box<dyn Error>> {
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
    let subnet = cloud.create_subnet(subnet)?;
    let limits = Limits::lookup("m5.large".parse()?)?;
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
    let mut world = World::new(cloud, instance, limits, Config::default(), 1, now)?;
    for pod in 0..PODS {
        world.add_pod(&format!("pod-{pod}"));
    }
    world.run_for(Duration::from_secs(600));
    Ok(world)
}

fn remove_pods(world: &mut World) {
    for pod in 0..PODS {
        let _released = world.remove_pod(&format!("pod-{pod}"));
    }
}
