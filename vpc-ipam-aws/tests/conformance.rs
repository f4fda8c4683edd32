//! Our executor, held against what core asks of one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use vpc_ipam_aws::{EmulatedEc2, SharedCloud, execute};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::testkit::{Check, Executor, Verdict, conformance};
use vpc_ipam_core::{Ec2Action, Limits, Node, Outcome, Timestamp};

#[test]
fn our_executor_conforms() {
    let start = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let ipv6 = "2001:db8::/56".parse().unwrap();
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![ipv6]);
    let subnet =
        CreateSubnet::new(vpc, "eu-west-1a".parse().unwrap(), "10.0.0.0/19".parse().unwrap());
    let ipv6_cidr = Some("2001:db8::/64".parse().unwrap());
    let subnet = cloud.create_subnet(CreateSubnet { ipv6_cidr, ..subnet }).unwrap();
    let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), start).unwrap();
    let node = cloud.instance(&instance).unwrap().node.clone();
    let clock = Arc::new(AtomicU64::new(start.as_nanos()));
    let read = Arc::clone(&clock);
    let shared =
        SharedCloud::new(cloud, move || Timestamp::from_nanos(read.load(Ordering::SeqCst)));
    let ec2 = EmulatedEc2::new(shared, instance);
    let runtime = Builder::new_current_thread().build().unwrap();

    let checks = conformance(&mut Ours { ec2, node, limits, clock, runtime });

    let report: String = checks.iter().map(|check| format!("{check}\n")).collect();
    assert!(checks.iter().all(|check| !check.verdict.is_failure()), "{report}");
    let left: Vec<&str> =
        checks.iter().filter(|check| not_applicable(check)).map(|it| it.name).collect();
    // Links are the business of another crate, and the type has one network card.
    let expected = [
        "an ENI is attached to another network card where it was asked for",
        "a link is set up, and again without complaint",
        "a link that is not there fails as LinkMissing",
        "what was set up is removed, and again without complaint",
    ];
    assert_eq!(left, expected, "{report}");
}

fn not_applicable(check: &Check) -> bool {
    matches!(check.verdict, Verdict::NotApplicable(_))
}

struct Ours {
    ec2: EmulatedEc2,
    node: Node,
    limits: Limits,
    clock: Arc<AtomicU64>,
    runtime: Runtime,
}

impl Executor for Ours {
    fn node(&self) -> Node {
        self.node.clone()
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        self.runtime.block_on(execute(&self.ec2, &self.node, action, now))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.load(Ordering::SeqCst))
    }

    fn wait(&mut self, duration: Duration) {
        self.clock.fetch_add(duration.as_nanos() as u64, Ordering::SeqCst);
    }
}
