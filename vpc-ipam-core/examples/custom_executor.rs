//! For those who write their own executor of EC2 calls: one under the conformance suite, and one with a fault that it names.
//!
//! `cargo run -p vpc-ipam-core --features testkit --example custom_executor`. In a project of your own the suite is a test: implement
//! [`Executor`] for what you have, and assert that no check fails.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::time::Duration;

use vpc_ipam_core::sim::{Cloud, CloudError, CreateInterface, CreateSubnet, Ipv4Request};
use vpc_ipam_core::sim::{Ipv6Request, ModifyInterface, RunInstance};
use vpc_ipam_core::testkit::{Executor, conformance};
use vpc_ipam_core::{
    Ec2Action, Effect, Failure, FailureKind, Limits, Node, ObservedEni, Outcome, Source, Timestamp,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut mine = Mine::new(|error| FailureKind::of_ec2_error(error.code, &error.message))?;
    let checks = conformance(&mut mine);
    for check in &checks {
        println!("{check}");
        assert!(!check.verdict.is_failure(), "{check}");
    }
    assert_eq!(mine.cloud.interfaces().count(), 1, "the suite leaves the instance as it was");

    // An executor that takes every refusal for final: the core would never look for an ENI that is gone.
    let mut faulty = Mine::new(|_| FailureKind::Rejected)?;
    let checks = conformance(&mut faulty);
    let failed = checks.iter().filter(|check| check.verdict.is_failure());
    let failed: Vec<_> = failed.map(ToString::to_string).collect();
    println!("\nwith a fault:\n{}", failed.join("\n"));
    assert!(failed.iter().any(|check| check.contains("NotFound")), "{failed:?}");
    Ok(())
}

/// The executor under test. Its client of EC2 is the model here; in yours it is an SDK, a proxy, another cloud.
struct Mine {
    cloud: Cloud,
    node: Node,
    limits: Limits,
    now: Timestamp,
    /// What an error of EC2 means.
    classify: fn(&CloudError) -> FailureKind,
}

impl Executor for Mine {
    fn node(&self) -> Node {
        self.node.clone()
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        match self.call(action, now) {
            Ok(effect) => Outcome::Done(effect),
            Err(error) => Outcome::Failed(Failure::new((self.classify)(&error), error.to_string())),
        }
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }
}

impl Mine {
    fn new(classify: fn(&CloudError) -> FailureKind) -> Result<Self, Box<dyn Error>> {
        let now = Timestamp::from_secs(1_700_000_000);
        let mut cloud = Cloud::new(1);
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
        let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
        let subnet = cloud.create_subnet(subnet)?;
        let limits = Limits::lookup("m5.large".parse()?)?;
        let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
        let node = cloud.metadata(instance, now)?.node;
        Ok(Self { cloud, node, limits, now, classify })
    }

    /// Translates an action into a call, and its answer into an effect. The match is exhaustive: an action that is new does
    /// not compile until it is translated.
    fn call(&mut self, action: &Ec2Action, now: Timestamp) -> Result<Effect, CloudError> {
        let Self { cloud, node, .. } = self;
        Ok(match action {
            Ec2Action::CreateNetworkInterface(call) => {
                let eni = cloud.create_network_interface(&CreateInterface::from(call), now)?;
                Effect::Created(ObservedEni::from(&eni))
            }
            Ec2Action::AttachNetworkInterface(call) => {
                Effect::Attached(cloud.attach_network_interface(call, now)?)
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(call) => {
                let attribute = ModifyInterface::from(&call.attribute);
                cloud.modify_network_interface_attribute(call.eni, &attribute, now)?;
                Effect::Done
            }
            Ec2Action::AssignPrivateIpAddresses(call) => {
                let wanted = Ipv4Request::Count(call.amount);
                let assigned = cloud.assign_private_ip_addresses(call.eni, &wanted, now)?;
                Effect::Assigned(assigned.into_iter().map(Into::into).collect())
            }
            Ec2Action::AssignIpv6Addresses(call) => {
                let wanted = Ipv6Request::PrefixCount(call.prefixes);
                let assigned = cloud.assign_ipv6_addresses(call.eni, &wanted, now)?;
                Effect::Assigned(assigned.into_iter().map(Into::into).collect())
            }
            Ec2Action::UnassignPrivateIpAddresses(call) => {
                cloud.unassign_private_ip_addresses(call, now)?;
                Effect::Done
            }
            Ec2Action::UnassignIpv6Addresses(call) => {
                cloud.unassign_ipv6_addresses(call, now)?;
                Effect::Done
            }
            Ec2Action::DetachNetworkInterface(call) => {
                cloud.detach_network_interface(call.attachment, now)?;
                Effect::Done
            }
            Ec2Action::DeleteNetworkInterface(call) => {
                cloud.delete_network_interface(call.eni, now)?;
                Effect::Done
            }
            Ec2Action::CreateTags(call) => {
                cloud.create_tags(&[call.eni.as_str()], &call.tags, now)?;
                Effect::Done
            }
            Ec2Action::DescribeNetworkInterfaces(scope) => {
                Effect::Observed(cloud.observe(node.instance, Source::Ec2, scope, now)?)
            }
            Ec2Action::DescribeSubnets => {
                let mut subnets = cloud.describe_subnets(&[], now)?;
                subnets.retain(|subnet| (subnet.vpc, subnet.zone) == (node.vpc, node.zone));
                Effect::Subnets(subnets)
            }
            Ec2Action::ReadMetadata => Effect::Metadata(cloud.metadata(node.instance, now)?),
        })
    }
}
