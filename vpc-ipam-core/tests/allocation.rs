//! What a node does for every pod asks the allocator for nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;

use allocation_counter::measure;
use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
use vpc_ipam_core::{AddressRequest, Assigned, Config, Limits, Pod, Released, Timestamp};

#[test]
fn granting_and_releasing_an_address_allocates_nothing() {
    for prefixes in ["false", "true"] {
        let mut world = full_node(prefixes);
        let name = "pod-that-comes-and-goes";
        let request = AddressRequest::new(World::key(name), Pod::new("default", name));
        let mut come_and_go = || {
            world.now = world.now + Duration::from_secs(60);
            let granted = world.ipam.assign(&request, world.now).unwrap();
            let Assigned::Now(uncommitted) = granted else { panic!("{granted:?}") };
            world.ipam.commit(uncommitted).unwrap();
            let released = world.ipam.release(&request.key, world.now);
            assert!(matches!(released, Released::Lease { .. }));
        };
        // An address takes memory when it is used for the first time, and those that were not are used first.
        (0..100).for_each(|_| come_and_go());

        let allocations = measure(|| (0..100).for_each(|_| come_and_go()));

        assert_eq!(allocations.count_total, 0, "prefixes {prefixes}: {allocations:?}");
    }
}

/// Makes a node with 15 ENIs of 49 places and 700 pods.
fn full_node(prefixes: &str) -> World {
    const PODS: usize = 700;
    let vars = [
        ("ENABLE_PREFIX_DELEGATION", prefixes),
        ("MINIMUM_IP_TARGET", "735"),
        ("WARM_IP_TARGET", "0"),
    ];
    let (config, _) = Config::from_vars(vars);
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![]);
    let subnet = "10.0.0.0/19".parse().unwrap();
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse().unwrap(), subnet);
    let subnet = cloud.create_subnet(subnet).unwrap();
    let limits = Limits::lookup("m5.24xlarge".parse().unwrap()).unwrap();
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now).unwrap();
    let mut world = World::new(cloud, instance, limits, config, 1, now).unwrap();
    for pod in 0..PODS {
        world.add_pod(&format!("pod-{pod}"));
    }
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.leases().len(), PODS);
    world
}
