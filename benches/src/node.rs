//! Nodes of the core, in virtual time.

use core::time::Duration;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
use vpc_ipam_core::{AddressRequest, Assigned, Config, Limits, Pod, PodKey, Released, Timestamp};

/// Longer than an address rests.
pub(crate) const PAUSE: Duration = Duration::from_secs(60);

/// A node on which one pod after another comes and goes.
#[derive(Debug)]
pub struct BusyNode {
    /// The node.
    pub world: World,
    requests: Vec<AddressRequest>,
    next: usize,
}

impl BusyNode {
    /// Makes an m5.24xlarge with all its 15 ENIs of 49 places, each an address or a prefix, and so many pods.
    ///
    /// # Panics
    /// Panics if the model of EC2 does not give the node what it has to give.
    pub fn new(prefixes: bool, pods: usize) -> Self {
        let addresses = (735 * if prefixes { 16 } else { 1 }).to_string();
        let mut world = node(
            "m5.24xlarge",
            [
                ("ENABLE_PREFIX_DELEGATION", prefixes.to_string().as_str()),
                ("MINIMUM_IP_TARGET", &addresses),
                ("WARM_IP_TARGET", "0"),
            ],
        );
        let blocks: usize = world.ipam.pool().enis().iter().map(|eni| eni.blocks().len()).sum();
        assert_eq!((world.ipam.pool().enis().len(), blocks), (15, 735));

        for pod in 0..pods {
            world.add_pod(&name(pod));
        }
        world.run_for(PAUSE * 2);
        assert_eq!(world.leases().len(), pods);
        let requests = (pods..pods + 64).map(|pod| request(&name(pod))).collect();
        Self { world, requests, next: 0 }
    }

    /// Lets a pod come and go. The next comes when the address of this one has rested.
    ///
    /// # Panics
    /// Panics if it gets no address.
    pub fn assign_and_release(&mut self) -> Released {
        self.next = (self.next + 1) % self.requests.len();
        let request = &self.requests[self.next];
        self.world.now = self.world.now + PAUSE;
        let now = self.world.now;
        let Ok(Assigned::Now(uncommitted)) = self.world.ipam.assign(request, now) else {
            panic!("no address for {}", request.key)
        };
        drop(self.world.ipam.commit(uncommitted));
        self.world.ipam.release(&request.key, now)
    }
}

/// Makes a node, and lets it converge.
///
/// # Panics
/// Panics if there is no such type.
pub fn node<const N: usize>(instance_type: &str, vars: [(&str, &str); N]) -> World {
    let (config, _) = Config::from_vars(vars);
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let parse = |range: &str| range.parse().expect("a range");
    let vpc = cloud.create_vpc(vec![parse("10.0.0.0/16")], vec![]);
    let zone = "eu-west-1a".parse().expect("a zone");
    let subnet = CreateSubnet::new(vpc, zone, parse("10.0.0.0/17"));
    let subnet = cloud.create_subnet(subnet).expect("the range is within that of the VPC");
    let limits = Limits::lookup(instance_type.parse().expect("a type")).expect("a known type");
    let instance = RunInstance::new(limits.clone(), subnet);
    let instance = cloud.run_instance(instance, now).expect("the subnet has addresses");
    let mut world = World::new(cloud, instance, limits, config, 1, now).expect("usable");
    world.run_for(PAUSE);
    world
}

/// Returns a container's id as runtimes make them: 64 hexadecimal digits, in no order.
pub(crate) fn name(pod: usize) -> String {
    let scattered = (pod as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{scattered:016x}{:048x}", pod)
}

pub(crate) fn key(container: &str) -> PodKey {
    PodKey::new("aws-cni", container, "eth0").expect("no part is empty")
}

fn request(container: &str) -> AddressRequest {
    AddressRequest::new(key(container), Pod::new("default", container))
}
