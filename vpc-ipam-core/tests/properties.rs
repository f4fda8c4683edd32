//! The properties of `docs/properties.md`, by number. Those that must hold at every moment are rules of the scenario
//! driver; the others have a test each.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;
use vpc_ipam_core::sim::{Faults, World};
use vpc_ipam_core::testkit::{Setup, Terrain, strategy};
use vpc_ipam_core::{
    Action, AddressRequest, Assigned, Block, Blocked, Card, CardDemand, Demand, Ec2Action, Eni,
    Families, InterfaceType, Ipv4Kind, Issued, Limits, Pod, PodKey, Scope, Source, Timestamp,
    WaitingOn, Wanted, WarmTarget,
};

/// How many cases of each; `PROPTEST_CASES` asks for more.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

const HOUR: Duration = Duration::from_secs(3600);

// Properties 1 to 8, 10 to 12, 14 to 16, 23, 25, 26 and 29 to 33, after every step of anything that can happen.
proptest! {
    #![proptest_config(cases(256))]
    #[test]
    fn every_rule_holds_after_every_step_of_any_scenario(scenario in strategy::scenario()) {
        let result = scenario.run();
        prop_assert!(result.is_ok(), "{}\n{}", result.unwrap_err(), scenario.transcript());
    }
}

/// Property 9.
#[test]
fn key_that_is_empty_in_any_part_is_rejected() {
    for parts in [["", "c", "i"], ["n", "", "i"], ["n", "c", ""], ["", "", ""]] {
        assert!(PodKey::new(parts[0], parts[1], parts[2]).is_err(), "{parts:?}");
    }
    assert!(PodKey::new("n", "c", "i").is_ok());
}

proptest! {
    #![proptest_config(cases(64))]

    /// Property 13.
    #[test]
    fn whole_shortage_takes_one_allocation_for_each_eni_and_one_more((setup, pods) in plain()) {
        let world = settled(&setup, pods);
        let enis = world.ipam.pool().enis().len();
        let allocations = changes(&world)
            .filter(|issued| matches!(
                issued.action,
                Action::Ec2(Ec2Action::CreateNetworkInterface(_) | Ec2Action::AssignPrivateIpAddresses(_))
            ))
            .count();
        prop_assert!(allocations <= enis + 1, "{allocations} for {enis} ENIs\n{}", world.transcript());
    }

    /// Properties 14 and 15.
    #[test]
    fn node_at_its_target_plans_nothing_and_changes_nothing((setup, pods) in anything()) {
        let mut world = settled(&setup, pods);
        let done = changes(&world).count();
        let plan = world.ipam.plan(world.now);
        for on_card in &plan.demand {
            let said = plan.blocked.iter().any(|held| says_why(held, on_card));
            // What pods share a prefix with cannot be released, nor anything by a node that may change nothing.
            let stays = !setup.config.provisioning || !has_idle(&world, on_card);
            let in_use = matches!(on_card.demand, Demand::Over(_)) && stays;
            prop_assert!(
                on_card.demand == Demand::Met || said || in_use,
                "{on_card:?} and nothing says why: {:?}\n{}", plan.blocked, world.transcript()
            );
        }
        world.run_for(2 * HOUR);
        // Where a subnet is full, it is tried again from time to time, and refuses.
        let failing = world.ipam.recent_failures(world.now).count() > 0;
        let more = changes(&world).count() - done;
        prop_assert!(more == 0 || failing, "{more} changes after it converged\n{}", world.transcript());
    }

    /// Property 16.
    #[test]
    fn calls_that_fail_for_an_hour_are_bounded_by_their_back_off((setup, pods) in plain()) {
        let broken = Faults { throttled: 1000, ..Faults::default() };
        let mut world = setup.world().with_faults(broken);
        add(&mut world, pods);
        world.run_for(HOUR);
        for (operation, calls) in world.calls() {
            // Pods wait for what they bring: one second, doubled up to half a minute, then every half minute; two questions share
            // one operation.
            prop_assert!(*calls <= 2 * 125, "{calls} calls of {operation} in an hour");
        }
        let mut world = world.with_faults(Faults::default());
        world.run_for(HOUR);
        prop_assert_eq!(world.leases().len(), usize::from(pods), "{}", world.transcript());
    }

    /// Property 17.
    #[test]
    fn more_pods_or_a_higher_target_never_mean_fewer_addresses(
        (setup, pods) in plain(),
        more_pods in 0..4u16,
        more_warm in 0..4u32,
        enis_max in proptest::option::of(1..5u8),
        more_enis in 0..2u8,
    ) {
        let WarmTarget::Ips { warm, minimum } = setup.config.target else {
            return Ok(());
        };
        let config = setup.config.clone().with_enis_max(enis_max);
        let less = held(&settled(&Setup { config, ..setup.clone() }, pods));
        let target = WarmTarget::Ips { warm: warm + more_warm, minimum };
        let enis_max = enis_max.map(|most| most + more_enis);
        let config = setup.config.clone().with_target(target).with_enis_max(enis_max);
        let more = Setup { config, ..setup };
        let room = u16::from(more.limits.enis(Card(0))) * more.limits.ipv4_slots();
        let more = held(&settled(&more, (pods + more_pods).min(room.max(pods))));
        prop_assert!(more >= less, "{less}, then {more}");
    }

    /// Property 18.
    #[test]
    fn targets_are_met_exactly((setup, pods) in plain()) {
        let Setup { limits, config, .. } = &setup;
        let (slots, pods_held) = (u32::from(limits.ipv4_slots()), u32::from(pods));
        let room = u32::from(limits.enis(Card(0))) * slots;
        let (kind, target) = (config.families.ipv4().unwrap(), config.target);
        let expected = match (kind, target) {
            (Ipv4Kind::Addresses, WarmTarget::Ips { warm, minimum }) => {
                (pods_held + warm).max(minimum)
            }
            (Ipv4Kind::Addresses, WarmTarget::Enis(enis)) => {
                (pods_held + (enis * slots).max(1)).div_ceil(slots) * slots
            }
            (Ipv4Kind::Prefixes, WarmTarget::Ips { warm, minimum }) => {
                (pods_held + warm).div_ceil(16).max(minimum.div_ceil(16)) * 16
            }
            (Ipv4Kind::Prefixes, WarmTarget::Prefixes(prefixes)) => {
                (pods_held + (prefixes * 16).max(1)).div_ceil(16) * 16
            }
            (kind, WarmTarget::Batch { batch, buffer_percent }) => {
                let wanted = (pods_held * 100 + buffer_percent * batch).div_ceil(batch * 100) * batch;
                if kind == Ipv4Kind::Prefixes { wanted.div_ceil(16) * 16 } else { wanted }
            }
            (Ipv4Kind::Addresses, WarmTarget::Prefixes(_)) | (Ipv4Kind::Prefixes, WarmTarget::Enis(_)) => {
                unreachable!("not made by `plain`")
            }
        };
        let places = if kind == Ipv4Kind::Prefixes { expected / 16 } else { expected };
        let world = settled(&setup, pods);
        let expected = if places <= room { expected } else { room * (expected / places) };
        prop_assert_eq!(held(&world), expected, "{} pods\n{}", pods, world.transcript());
    }

    /// Property 19.
    #[test]
    fn node_that_holds_what_it_may_run_does_not_grow((setup, pods) in plain(), room in 1..40u32) {
        let unit = match setup.config.families.ipv4() {
            Some(Ipv4Kind::Prefixes) => 16,
            _ => 1,
        };
        let pods_max = u32::from(pods) + room;
        let config = setup.config.clone().with_pods_max(Some(pods_max));
        let world = settled(&Setup { config, ..setup }, pods);
        let held = held(&world);
        prop_assert!(held < pods_max + unit, "{held} of {pods_max}\n{}", world.transcript());
    }

    /// Property 20.
    #[test]
    fn node_without_pods_goes_back_to_the_fewest_enis((setup, pods) in plain()) {
        let fresh = settled(&setup, 0);
        let mut world = settled(&setup, pods);
        for pod in 0..pods {
            let _ = world.remove_pod(&format!("pod-{pod}"));
        }
        world.run_for(3 * HOUR);
        let enis = |world: &World| world.ipam.pool().enis().len();
        prop_assert_eq!(enis(&world), enis(&fresh), "{}", world.transcript());
        prop_assert_eq!(held(&world), held(&fresh), "{}", world.transcript());
    }

    /// Property 21.
    #[test]
    fn the_same_twice_is_the_same_byte_for_byte(scenario in strategy::scenario()) {
        prop_assert_eq!(scenario.transcript(), scenario.transcript());
    }

    /// Property 21, as others see it: what was asked for, serialised.
    #[test]
    fn two_runs_ask_for_the_same_byte_for_byte((setup, pods) in anything()) {
        let run = || {
            let faults = Faults {
                throttled: 100,
                answer_lost: 50,
                partial: 50,
                stale: 100,
                stale_max: Duration::from_secs(59),
                delay_max: Duration::from_secs(20),
                ..Faults::default()
            };
            let mut world = setup.world().with_faults(faults);
            add(&mut world, pods);
            world.run_for(HOUR);
            let issued: Vec<&Issued> = world.issued().iter().map(|(_, issued)| issued).collect();
            serde_json::to_vec(&issued).unwrap()
        };
        let first = run();
        prop_assert!(!first.is_empty());
        prop_assert_eq!(first, run());
    }

    /// Property 22.
    #[test]
    fn order_of_a_snapshot_does_not_matter((setup, pods) in anything()) {
        let run = |faults: Faults| {
            let mut world = setup.world().with_faults(faults);
            add(&mut world, pods);
            world.run_for(HOUR);
            world.issued().to_vec()
        };
        let reordered = Faults { reordered: 1000, ..Faults::default() };
        prop_assert_eq!(run(Faults::default()), run(reordered));
    }

    /// Property 23.
    #[test]
    fn clock_set_back_never_shortens_a_cooldown((setup, pods) in plain(), back in 1..100_000u64) {
        let mut world = settled(&setup, pods.max(1));
        let lease = world.leases().values().next().unwrap().clone();
        let _ = world.ipam.release(&lease.key, world.now);
        let earlier = Timestamp::from_nanos(world.now.as_nanos() - back * 1_000_000_000);
        for pod in 0..200 {
            let Ok(Assigned::Now(uncommitted)) = world.ipam.assign(&request(pod), earlier) else {
                break;
            };
            let got = world.ipam.commit(uncommitted).unwrap();
            for address in got.addresses() {
                prop_assert!(!lease.addresses().any(|a| a == address), "{address} at {earlier}");
            }
        }
    }

    /// Property 24.
    #[test]
    fn snapshot_taken_in_twice_counts_once((setup, pods) in anything()) {
        let mut world = settled(&setup, pods);
        let node = world.ipam.node().clone();
        for source in [Source::Ec2, Source::Imds] {
            let seen = world.cloud.observe(node.instance, source, &Scope::Attached, world.now).unwrap();
            world.ipam.observe(&seen, world.now);
            while world.ipam.poll_event().is_some() {}
            let once = world.ipam.clone();
            world.ipam.observe(&seen, world.now);
            prop_assert_eq!(world.ipam.pool(), once.pool());
            prop_assert!(world.ipam.poll_event().is_none());
        }
    }

    /// Property 24.
    #[test]
    fn snapshot_older_than_the_last_confirmed_effect_changes_nothing((setup, pods) in plain()) {
        let mut world = settled(&setup, 0);
        let node = world.ipam.node().clone();
        let old = world.cloud.observe(node.instance, Source::Ec2, &Scope::Attached, world.now).unwrap();
        add(&mut world, pods);
        world.run_for(Duration::from_secs(30));
        let before = blocks(&world);
        world.ipam.observe(&old, world.now);
        prop_assert_eq!(before, blocks(&world));
    }

    /// Property 25.
    #[test]
    fn address_that_ec2_hands_out_again_at_once_stays(pods in 1..4u16) {
        // A subnet so small that EC2 has to hand out the same addresses again.
        let setup = Setup { terrain: Terrain::Tiny, ..Setup::decode(&[]) };
        let mut world = settled(&setup, pods);
        for pod in 0..pods {
            let _ = world.remove_pod(&format!("pod-{pod}"));
        }
        world.run_for(Duration::from_secs(35));
        add(&mut world, pods);
        world.run_for(Duration::from_secs(5));
        let leases = world.leases().clone();
        prop_assert_eq!(leases.len(), usize::from(pods));
        let node = world.ipam.node().clone();
        for source in [Source::Imds, Source::Ec2] {
            let seen = world.cloud.observe(node.instance, source, &Scope::Attached, world.now).unwrap();
            world.ipam.observe(&seen, world.now);
        }
        world.run_for(HOUR);
        prop_assert_eq!(&leases, world.leases());
        prop_assert!(world.ipam.check().is_empty());
    }
}

/// Property 32: EC2 does not say what it makes of a release of two kinds, so there is none.
#[test]
fn one_release_has_one_kind_of_block() {
    // Many addresses in the mode of prefixes, with too many prefixes besides.
    let mut setup = Setup::decode(&[3]);
    setup.config.families = Families::Ipv4(Ipv4Kind::Prefixes);
    setup.config.target = WarmTarget::Prefixes(3);
    let mut world = setup.world();
    world.run_for(HOUR);
    let primary = world.ipam.node().primary;
    let more = vpc_ipam_core::sim::Ipv4Request::Count(vpc_ipam_core::Ipv4Amount::Addresses(3));
    world.cloud.assign_private_ip_addresses(primary, &more, world.now).unwrap();
    let config = setup.config.with_target(WarmTarget::Prefixes(1));
    world.ipam.handle_config(config, world.now).unwrap();
    let node = world.ipam.node().clone();
    let seen =
        world.cloud.observe(node.instance, Source::Ec2, &Scope::Attached, world.now).unwrap();
    world.ipam.observe(&seen, world.now);
    world.run_for(HOUR);

    let lengths: Vec<Vec<u8>> = changes(&world)
        .filter_map(|issued| match &issued.action {
            Action::Ec2(Ec2Action::UnassignPrivateIpAddresses(call)) => {
                Some(call.blocks.iter().map(|net| net.prefix_len()).collect())
            }
            _ => None,
        })
        .collect();
    assert_eq!(lengths.concat().iter().filter(|length| **length == 32).count(), 3, "{lengths:?}");
    assert_eq!(lengths.concat().iter().filter(|length| **length == 28).count(), 2, "{lengths:?}");
    for call in &lengths {
        assert!(call.iter().all(|length| *length == call[0]), "{lengths:?}");
    }
}

/// Makes IPv4 nodes in a wide subnet without gates, and as many pods as they can run.
fn plain() -> impl Strategy<Value = (Setup, u16)> {
    strategy::limits().prop_flat_map(|limits| {
        let slots = u32::from(limits.ipv4_slots());
        let ips = |warm, minimum| WarmTarget::Ips { warm, minimum };
        let targets = select(vec![
            ips(1, 0),
            ips(2, 5),
            ips(slots, slots + 1),
            ips(0, slots),
            ips(17, 33),
            WarmTarget::Enis(0),
            WarmTarget::Enis(1),
            WarmTarget::Prefixes(0),
            WarmTarget::Prefixes(1),
            WarmTarget::Prefixes(2),
            WarmTarget::Batch { batch: 8, buffer_percent: 50 },
            WarmTarget::Batch { batch: 16, buffer_percent: 100 },
        ]);
        let kinds = select(vec![Ipv4Kind::Addresses, Ipv4Kind::Prefixes]);
        let pods = strategy::pods(&limits);
        (targets, kinds, pods, any::<u8>()).prop_map(move |(target, kind, pods, seed)| {
            let kind = if limits.prefixes() { kind } else { Ipv4Kind::Addresses };
            let (kind, target) = match target {
                WarmTarget::Enis(_) => (Ipv4Kind::Addresses, target),
                WarmTarget::Prefixes(_) if limits.prefixes() => (Ipv4Kind::Prefixes, target),
                // A target of prefixes on a type without them is another test's.
                WarmTarget::Prefixes(count) => (kind, ips(count, 0)),
                _ => (kind, target),
            };
            let plain = Setup::decode(&[]);
            let config = plain.config.with_families(Families::Ipv4(kind)).with_target(target);
            let room = u16::from(limits.enis(Card(0))) * limits.ipv4_slots();
            // EC2 calls are not the point.
            let pods = pods.min(room).min(120);
            let limits: Limits = limits.clone();
            (Setup { limits, config, seed: seed.into(), ..plain }, pods)
        })
    })
}

/// Makes any node, and some pods.
fn anything() -> impl Strategy<Value = (Setup, u16)> {
    strategy::setup().prop_flat_map(|setup| {
        let pods = strategy::pods(&setup.limits).prop_map(|pods| pods.min(60));
        (Just(setup), pods)
    })
}

/// Returns a node with pods on which everything that was to happen has happened.
fn settled(setup: &Setup, pods: u16) -> World {
    let mut world = setup.world();
    add(&mut world, pods);
    world.run_for(HOUR);
    world
}

fn add(world: &mut World, pods: u16) {
    for pod in 0..pods {
        world.add_pod(&format!("pod-{pod}"));
    }
}

/// Returns whether something that is held back says why a card is not at its target.
fn says_why(held: &Blocked, on: &CardDemand) -> bool {
    match (on.demand, held.wanted.clone()) {
        (Demand::Short(_), Wanted::Addresses { card } | Wanted::Eni { card }) => {
            let passing =
                matches!(held.waiting_on, WaitingOn::Outcome(_) | WaitingOn::Observation { .. });
            card == on.card && !passing
        }
        (Demand::Over(_), Wanted::FewerAddresses { card }) => card == on.card,
        _ => false,
    }
}

/// Returns whether a card has a block of the kind that counts, on an ENI that serves pods, of which no address is in use.
fn has_idle(world: &World, on: &CardDemand) -> bool {
    let config = world.ipam.config();
    let serves = |eni: &&Eni| {
        eni.card == on.card
            && eni.is_managed()
            && !eni.excluded
            && eni.interface_type != InterfaceType::Trunk
            && !(config.custom_networking && eni.is_primary())
    };
    let mut blocks = world.ipam.pool().enis().iter().filter(serves).flat_map(Eni::blocks);
    blocks.any(|block| match block.net() {
        IpNet::V4(net) => {
            (net.prefix_len() < 32) == (on.kind == Ipv4Kind::Prefixes)
                && block.is_idle(world.now, config.cooldown)
        }
        IpNet::V6(_) => false,
    })
}

/// Returns what was done besides asking.
fn changes(world: &World) -> impl Iterator<Item = &Issued> {
    world.issued().iter().map(|(_, issued)| issued).filter(|issued| match &issued.action {
        Action::Ec2(action) => action.operation().is_some_and(|operation| !operation.reads()),
        Action::Host(_) => true,
    })
}

/// Returns how many IPv4 addresses the node holds for pods.
fn held(world: &World) -> u32 {
    let blocks = world.ipam.pool().enis().iter().flat_map(Eni::blocks);
    blocks.filter(|block| matches!(block.net(), IpNet::V4(_))).map(Block::capacity).sum()
}

fn blocks(world: &World) -> Vec<IpNet> {
    world.ipam.pool().enis().iter().flat_map(Eni::blocks).map(Block::net).collect()
}

fn request(pod: u16) -> AddressRequest {
    let name = format!("other-{pod}");
    let key = PodKey::new("aws-cni", &name, "eth0").unwrap();
    let pod = Arc::new(Pod::new("default", name));
    AddressRequest::new(key, pod)
}
