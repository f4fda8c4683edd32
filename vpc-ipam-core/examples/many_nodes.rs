//! For authors of a scheduler that manages many nodes in one process: each has an [`Ipam`] of its own, and a share of the account's rate.
//!
//! `cargo run -p vpc-ipam-core --features sim --example many_nodes`. A [`Budget`] is one node's and is fixed when its `Ipam` is made, so the
//! shares are divided beforehand. All nodes start at once here, and their calls together stay within what the account may make.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::time::Duration;
use std::collections::BTreeMap;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::{
    Action, AddressRequest, Assigned, Budget, Config, Ec2Operation, Effect, Ipam, Limits, Outcome,
    Pod, PodKey, Rate, Timestamp,
};

const NODES: u32 = 20;
const PODS: usize = 12;
/// What EC2 gives the account for each operation: so many calls at once, then one for each interval.
const ACCOUNT: Rate = Rate { burst: 60, interval: Duration::from_millis(200) };

fn main() -> Result<(), Box<dyn Error>> {
    let start = Timestamp::from_secs(1_700_000_000);
    let mut fleet = Fleet::launch(start)?;
    fleet.run_until(start + Duration::from_secs(600));

    let served: usize = fleet.nodes.iter().map(|node| node.pool().leases().len()).sum();
    assert_eq!(served, NODES as usize * PODS, "every pod has its address");
    for (operation, calls) in &fleet.calls {
        println!("{:28} {:4} calls", operation.name(), calls.len());
        assert!(are_within(ACCOUNT, calls), "{} goes beyond the account's rate", operation.name());
    }
    Ok(())
}

/// Returns the budget of one node of so many. They all may spend theirs at the same moment.
fn share(of: Rate, nodes: u32) -> Budget {
    let rate = Rate { burst: of.burst / nodes, interval: of.interval * nodes };
    assert!(rate.burst > 0, "a bucket holds one call at least: so many nodes need a larger rate");
    Budget::default().with_default(rate)
}

/// Returns whether no window of time has more calls than a rate allows.
fn are_within(rate: Rate, calls: &[Timestamp]) -> bool {
    calls.iter().enumerate().all(|(index, first)| {
        calls[index..].iter().zip(1..).all(|(last, count)| {
            let refilled = last.since(*first).as_nanos() / rate.interval.as_nanos();
            u128::from(rate.burst) + refilled >= count
        })
    })
}

struct Fleet {
    cloud: Cloud,
    nodes: Vec<Ipam>,
    /// When each operation was called, by any node.
    calls: BTreeMap<Ec2Operation, Vec<Timestamp>>,
}

impl Fleet {
    fn launch(now: Timestamp) -> Result<Self, Box<dyn Error>> {
        let mut cloud = Cloud::new(1);
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
        let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
        let subnet = cloud.create_subnet(subnet)?;
        let limits = Limits::lookup("m5.large".parse()?)?;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
            let node = cloud.metadata(instance, now)?.node;
            let (config, _) = Config::from_vars([("WARM_IP_TARGET", "2")]);
            let (limits, budget) = (limits.clone(), share(ACCOUNT, NODES));
            let mut ipam = Ipam::new(node, limits, config, budget, number.into(), now)?;
            // EC2 takes its time under a small share; in a cluster kubelet asks again.
            let config = ipam.config().clone();
            let timing = config.timing.with_add_wait(Duration::from_secs(600));
            ipam.handle_config(config.with_timing(timing), now)?;
            for pod in 0..PODS {
                let name = format!("pod-{number}-{pod}");
                let key = PodKey::new("example", &name, "eth0")?;
                let request = AddressRequest::new(key, Pod::new("default", &name));
                assert!(matches!(ipam.assign(&request, now)?, Assigned::Later { .. }));
            }
            nodes.push(ipam);
        }
        Ok(Self { cloud, nodes, calls: BTreeMap::new() })
    }

    /// One loop for all nodes, each in its turn when something is due. The nodes know nothing of each other.
    fn run_until(&mut self, end: Timestamp) {
        let due = |ipam: &Ipam| ipam.poll_timeout().map(|(at, _why)| at);
        while let Some(now) = self.nodes.iter().filter_map(due).min().filter(|now| *now <= end) {
            for ipam in self.nodes.iter_mut().filter(|ipam| due(ipam).is_some_and(|at| at <= now)) {
                ipam.handle_timeout(now);
                drain(ipam, &mut self.cloud, &mut self.calls, now);
            }
        }
    }
}

fn drain(
    ipam: &mut Ipam,
    cloud: &mut Cloud,
    calls: &mut BTreeMap<Ec2Operation, Vec<Timestamp>>,
    now: Timestamp,
) {
    loop {
        while let Some(grant) = ipam.poll_grant() {
            // Here its record is written to stable storage.
            let _lease = grant.result.ok().and_then(|uncommitted| ipam.commit(uncommitted));
        }
        let Some(issued) = ipam.poll_action() else { break };
        let outcome = match &issued.action {
            Action::Ec2(action) => {
                // Reading the metadata is no call of EC2.
                if let Some(operation) = action.operation() {
                    calls.entry(operation).or_default().push(now);
                }
                cloud.execute(ipam.node(), action, now)
            }
            Action::Host(_) => Outcome::Done(Effect::Done),
        };
        ipam.handle_outcome(issued.id, outcome, now);
    }
}
