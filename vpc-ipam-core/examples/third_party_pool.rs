//! For testers with a pool of their own: proptest finds where its arithmetic breaks, on limits and numbers of pods around the edges.
//!
//! `cargo run -p vpc-ipam-core --features testkit --example third_party_pool`. The pool here is a small one that is not ours; EC2's limits
//! are held by the model of EC2. In a project of your own use the `proptest!` macro instead of a runner.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRng, TestRunner};
use vpc_ipam_core::sim::{Cloud, CreateInterface, CreateSubnet, Ipv4Request, RunInstance};
use vpc_ipam_core::testkit::strategy;
use vpc_ipam_core::{AttachNetworkInterface, Card, DeviceIndex, Ipv4Amount, Limits, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    // An ENI's own address is not for pods.
    test(|limits| limits.ipv4_per_eni - 1)?;
    println!("a pool that leaves each ENI its own address holds");

    match test(|limits| limits.ipv4_per_eni) {
        Err(TestError::Fail(why, (limits, pods))) => {
            println!(
                "a pool that does not is refused with {pods} pods on {} addresses per ENI: {why}",
                limits.ipv4_per_eni
            );
            assert!(why.message().contains("PrivateIpAddressLimitExceeded"), "{why}");
            // The smallest case: one pod more than the first ENI takes.
            assert_eq!(pods, limits.ipv4_slots() + 1);
            Ok(())
        }
        other => Err(format!("the fault was not found: {other:?}").into()),
    }
}

/// Runs a pool with so many addresses for pods on each ENI through limits and numbers of pods.
fn test(per_eni: fn(&Limits) -> u16) -> Result<(), TestError<(Limits, u16)>> {
    let cases = strategy::limits().prop_flat_map(|limits| {
        let pods = strategy::pods(&limits);
        (Just(limits), pods)
    });
    // The same cases on every run, and nothing written beside the sources.
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    TestRunner::new_with_rng(config, rng).run(&cases, |(limits, pods)| {
        let refused = |error: Box<dyn Error>| TestCaseError::fail(error.to_string());
        let served = serve(&limits, pods, per_eni(&limits)).map_err(refused)?;
        let room = u32::from(limits.enis(Card(0))) * u32::from(limits.ipv4_slots());
        prop_assert_eq!(u32::from(served), u32::from(pods).min(room));
        Ok(())
    })
}

/// The pool of a third party: fills one ENI after the other, and says for how many pods it has an address.
fn serve(limits: &Limits, pods: u16, per_eni: u16) -> Result<u16, Box<dyn Error>> {
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/17".parse()?);
    let subnet = cloud.create_subnet(subnet)?;
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
    let mut served = 0;
    for device in 0..limits.enis(Card(0)) {
        let count = per_eni.min(pods - served);
        if count == 0 {
            break;
        }
        let device = DeviceIndex(device);
        let eni = if device == DeviceIndex(0) {
            cloud.metadata(instance, now)?.node.primary
        } else {
            let eni = cloud.create_network_interface(&CreateInterface::new(subnet), now)?.id;
            let attach = AttachNetworkInterface { eni, instance, card: Card(0), device };
            cloud.attach_network_interface(&attach, now)?;
            eni
        };
        let addresses = Ipv4Request::Count(Ipv4Amount::Addresses(count));
        served += cloud.assign_private_ip_addresses(eni, &addresses, now)?.len() as u16;
    }
    Ok(served)
}
