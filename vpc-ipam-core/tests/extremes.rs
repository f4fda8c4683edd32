//! Every value of every public field of a configuration, a budget, limits and a shape is usable, or refused when a node is
//! made of it: the least, the greatest and those next to them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use vpc_ipam_core::capacity::{Cap, Shape, address_footprint, max_pods};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::{
    Action, AddressRequest, Assigned, Budget, Card, Config, Cooling, Ec2Operation, Effect,
    Families, Hypervisor, Ipam, Ipv4Kind, Issued, Lease, Limits, Outcome, Pod, PodKey, Rate,
    Timestamp, Timing, WarmTarget,
};

/// 2026-01-01T12:00:00Z.
const NOON: Timestamp = Timestamp::from_secs(1_767_268_800);
const HOUR: Duration = Duration::from_secs(3600);
/// How many actions a node issues in the first hour, at most: readings every second are as many as its fields can ask for, and
/// each of 16 ENIs comes and goes within some minutes.
const ACTIONS_MAX: usize = 3 * 3600 + 4000;

fn numbers() -> impl Strategy<Value = u32> {
    select(vec![0, 1, 2, 15, 16, 17, 100, i32::MAX as u32, u32::MAX - 1, u32::MAX])
}

fn shorts() -> impl Strategy<Value = u16> {
    select(vec![0, 1, 2, 16, 50, u16::MAX - 1, u16::MAX])
}

fn bytes() -> impl Strategy<Value = u8> {
    select(vec![0, 1, 2, 4, 15, u8::MAX - 1, u8::MAX])
}

fn times() -> impl Strategy<Value = Duration> {
    select(vec![
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_secs(1),
        Duration::from_secs(30),
        Duration::from_secs(u64::MAX / 1_000_000_000),
        Duration::from_secs(u64::MAX),
        Duration::MAX - Duration::from_nanos(1),
        Duration::MAX,
    ])
}

fn timing() -> impl Strategy<Value = Timing> {
    (
        (times(), times(), times(), times(), times(), times()),
        (times(), times(), times(), times(), times(), times()),
    )
        .prop_map(|((a, b, c, d, e, f), (g, h, i, j, k, l))| {
            Timing::default()
                .with_add_wait(a)
                .with_shrink_spacing(b)
                .with_eni_life_min(c)
                .with_eni_ready_max(d)
                .with_answer_max(e)
                .with_eventual_consistency(f)
                .with_subnet_backoff(g)
                .with_detach_wait(h)
                .with_describe_spacing(i)
                .with_imds_every(j)
                .with_ec2_every(k)
                .with_subnets_age_max(l)
        })
}

fn families() -> impl Strategy<Value = Families> {
    select(vec![
        Families::Ipv4(Ipv4Kind::Addresses),
        Families::Ipv4(Ipv4Kind::Prefixes),
        Families::Ipv6,
        Families::Dual(Ipv4Kind::Addresses),
        Families::Dual(Ipv4Kind::Prefixes),
    ])
}

fn targets() -> impl Strategy<Value = WarmTarget> {
    prop_oneof![
        numbers().prop_map(WarmTarget::Enis),
        numbers().prop_map(WarmTarget::Prefixes),
        (numbers(), numbers()).prop_map(|(warm, minimum)| WarmTarget::Ips { warm, minimum }),
        (numbers(), numbers())
            .prop_map(|(batch, buffer_percent)| WarmTarget::Batch { batch, buffer_percent }),
    ]
}

fn configs() -> impl Strategy<Value = Config> {
    let coolings = prop_oneof![Just(Cooling::All), times().prop_map(Cooling::ReadyWithin)];
    let numbers = (option::of(bytes()), option::of(numbers()), times(), coolings, shorts());
    let flags = proptest::array::uniform8(any::<bool>());
    (families(), targets(), numbers, flags, timing()).prop_map(
        |(families, target, (enis_max, pods_max, cooldown, cooling, eni_mtu), flags, timing)| {
            let [
                provisioning,
                ec2_reads,
                custom_networking,
                trunk,
                multi_nic,
                untagged,
                discovery,
                _,
            ] = flags;
            Config::default()
                .with_families(families)
                .with_target(target)
                .with_enis_max(enis_max)
                .with_pods_max(pods_max)
                .with_cooldown(cooldown)
                .with_cooling(cooling)
                .with_eni_mtu(eni_mtu)
                .with_provisioning(provisioning || !discovery)
                .with_ec2_reads(ec2_reads || !untagged)
                .with_custom_networking(custom_networking && !discovery)
                .with_trunk(trunk)
                .with_multi_nic(multi_nic)
                .with_manage_untagged(untagged)
                .with_subnet_discovery(discovery)
                .with_timing(timing)
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let hypervisors = select(vec![Hypervisor::Nitro, Hypervisor::Xen, Hypervisor::Unknown]);
    let numbers = (shorts(), shorts(), shorts(), numbers(), option::of(shorts()));
    (vec(bytes(), 0..4), bytes(), numbers, hypervisors, any::<bool>()).prop_map(
        |(cards, default_card, (ipv4, ipv6, vcpus, memory_mib, branch_enis), hypervisor, bare)| {
            Limits::new("m5.large".parse().unwrap(), Cow::Owned(cards), ipv4)
                .with_default_card(Card(default_card))
                .with_ipv6_per_eni(ipv6)
                .with_hypervisor(hypervisor)
                .with_bare_metal(bare)
                .with_vcpus(vcpus)
                .with_memory_mib(memory_mib)
                .with_branch_enis(branch_enis)
        },
    )
}

fn budgets() -> impl Strategy<Value = Budget> {
    let rate = || (numbers(), times()).prop_map(|(burst, interval)| Rate { burst, interval });
    let operations = select(vec![
        Ec2Operation::CreateNetworkInterface,
        Ec2Operation::AssignPrivateIpAddresses,
        Ec2Operation::DescribeNetworkInterfaces,
        Ec2Operation::DescribeSubnets,
    ]);
    let usual = Just(Budget::default());
    let any = (rate(), btree_map(operations, rate(), 0..4))
        .prop_map(|(default, rates)| Budget::default().with_default(default).with_rates(rates));
    prop_oneof![usual, any]
}

fn shapes() -> impl Strategy<Value = Shape> {
    let caps = prop_oneof![Just(Cap::None), Just(Cap::ByVcpus), numbers().prop_map(Cap::Fixed)];
    let flags = (any::<bool>(), any::<bool>());
    (families(), option::of(bytes()), flags, bytes(), numbers(), caps).prop_map(
        |(
            families,
            enis_max,
            (custom_networking, trunk),
            enis_reserved,
            host_network_pods,
            cap,
        )| {
            Shape::default()
                .with_families(families)
                .with_enis_max(enis_max)
                .with_custom_networking(custom_networking)
                .with_trunk(trunk)
                .with_enis_reserved(enis_reserved)
                .with_host_network_pods(host_network_pods)
                .with_cap(cap)
        },
    )
}

/// A node that believes these limits, in a cloud that holds to those of an m5.large or, where they are no more, to these.
struct World {
    cloud: Cloud,
    ipam: Ipam,
    now: Timestamp,
    actions: usize,
    served: Vec<Lease>,
    refused: usize,
}

impl World {
    fn new(config: Config, limits: Limits, budget: Budget) -> Option<Self> {
        let mut cloud = Cloud::new(7);
        let ipv6 = vec!["2001:db8::/56".parse().unwrap()];
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], ipv6);
        let subnet = CreateSubnet {
            ipv6_cidr: Some("2001:db8::/64".parse().unwrap()),
            ..CreateSubnet::new(vpc, "eu-west-1a".parse().unwrap(), "10.0.0.0/19".parse().unwrap())
        };
        let subnet = cloud.create_subnet(subnet).unwrap();
        let truth = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let instance = cloud.run_instance(RunInstance::new(truth, subnet), NOON).unwrap();
        let node = cloud.instance(&instance).unwrap().node.clone();
        let ipam = Ipam::new(node, limits, config, budget, 1, NOON).ok()?;
        Some(Self { cloud, ipam, now: NOON, actions: 0, served: Vec::new(), refused: 0 })
    }

    fn request(name: &str) -> AddressRequest {
        let pod = Pod::new("default", name);
        let key = PodKey::new("aws-cni", name, "eth0").unwrap();
        AddressRequest::new(key, Arc::new(pod))
    }

    fn add(&mut self, name: &str) {
        match self.ipam.assign(&Self::request(name), self.now) {
            Ok(Assigned::Now(uncommitted)) => self.served.extend(self.ipam.commit(uncommitted)),
            Ok(Assigned::Later { .. }) => {}
            Err(_) => self.refused += 1,
        }
    }

    /// Returns what went wrong, if something did.
    fn run_for(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        for round in 0.. {
            if round > 100_000 {
                return Err(format!("no end of work at {}", self.now));
            }
            while let Some(grant) = self.ipam.poll_grant() {
                match grant.result {
                    Ok(uncommitted) => self.served.extend(self.ipam.commit(uncommitted)),
                    Err(_) => self.refused += 1,
                }
            }
            if let Some(Issued { id, action, .. }) = self.ipam.poll_action() {
                self.actions += 1;
                let node = self.ipam.node().clone();
                let outcome = match &action {
                    Action::Ec2(action) => self.cloud.execute(&node, action, self.now),
                    Action::Host(_) => Outcome::Done(Effect::Done),
                };
                self.ipam.handle_outcome(id, outcome, self.now);
                continue;
            }
            match self.ipam.poll_timeout() {
                Some((due, _)) if due <= end => self.now = self.now.max(due),
                _ => break,
            }
            self.ipam.handle_timeout(self.now);
        }
        self.now = end;
        self.ipam.handle_timeout(self.now);
        Ok(())
    }
}

/// How many cases of each; `PROPTEST_CASES` asks for more.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn a_node_of_extreme_settings_is_refused_or_runs_an_hour_within_bounds(
        config in configs(),
        limits in limits(),
        of_table in any::<bool>(),
        budget in budgets(),
    ) {
        let table = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let limits = if of_table { table } else { limits };
        // Hundreds of ENIs, of which EC2 gives three, take long to plan for every second.
        let many = limits.enis_per_card.iter().any(|enis| *enis > 16);
        let minutes = if many { 2 } else { 60 };
        let _ = (config.warnings_on(&limits), limits.cards(), limits.ipv4_slots());
        let Some(mut world) = World::new(config, limits, budget) else {
            return Ok(());
        };
        let (mut asked, mut wrong) = (0, Ok(()));
        for minute in 0..minutes {
            if minute % 15 == 1 {
                for pod in 0..3 {
                    world.add(&format!("pod-{minute}-{pod}"));
                    asked += 1;
                }
            }
            wrong = wrong.and(world.run_for(HOUR / 60));
            let _ = (world.ipam.readiness(world.now), world.ipam.explain(world.now).to_string());
            if minute == minutes / 2 {
                for lease in core::mem::take(&mut world.served) {
                    let _ = world.ipam.release(&lease.key, world.now);
                    asked -= 1;
                }
            }
        }
        prop_assert_eq!(wrong, Ok(()));
        prop_assert!(world.actions <= ACTIONS_MAX, "{} actions", world.actions);
        // Each pod has an answer, or waits for it.
        let answered = world.served.len() + world.refused + world.ipam.waiting().len();
        prop_assert_eq!(answered, asked, "served {}, refused {}", world.served.len(), world.refused);
    }

    #[test]
    fn a_usual_node_of_any_timing_and_budget_serves_pods(timing in timing(), budget in budgets()) {
        let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let config = Config::default().with_timing(timing);
        let mut world = World::new(config, limits, budget).unwrap();
        prop_assert_eq!(world.run_for(HOUR / 60), Ok(()));
        for pod in 0..3 {
            world.add(&format!("pod-{pod}"));
        }
        prop_assert_eq!(world.run_for(HOUR), Ok(()));
        prop_assert!(world.actions <= ACTIONS_MAX, "{} actions", world.actions);
        prop_assert_eq!(world.served.len() + world.refused + world.ipam.waiting().len(), 3);
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn capacities_of_extreme_shapes_are_within_their_bounds(
        limits in limits(),
        shape in shapes(),
        config in configs(),
        pods in numbers(),
        max in numbers(),
    ) {
        let capacity = max_pods(&limits, &shape);
        prop_assert!(capacity.max_pods <= capacity.by_addresses);
        prop_assert!(capacity.by_addresses >= shape.host_network_pods);
        let footprints = address_footprint(&limits, &config, pods, max);
        prop_assert!(footprints.at_boot.for_pods <= footprints.worst.for_pods);
        prop_assert!(footprints.worst.in_all >= footprints.worst.for_pods);
    }
}
