//! Core's conformance suite, with the AWS SDK: against the emulator, and against moto as far as that goes.

use core::time::Duration;
use std::collections::BTreeSet;

use tokio::runtime::{Builder, Runtime};
use vpc_ipam_aws::{SdkEc2, execute};
use vpc_ipam_core::testkit::{Check, Executor, Verdict, conformance};
use vpc_ipam_core::{Ec2Action, Limits, Node, Outcome, Timestamp};

use crate::lab::{Lab, NOW};
use crate::moto::Moto;
use crate::sdk;

#[test]
fn the_sdk_conforms_on_the_emulator() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (lab, ec2) = runtime.block_on(async {
        let lab = Lab::new();
        let ec2 = sdk::connect(&lab).await;
        (lab, ec2)
    });
    let before = lab.cloud.with(|cloud, _| cloud.interfaces().cloned().collect::<Vec<_>>());

    let checks = conformance(&mut Sdk { ec2, node: lab.node.clone(), now: NOW, runtime });

    assert_eq!(failures(&checks), BTreeSet::new(), "{}", report(&checks));
    let held = checks.iter().filter(|check| check.verdict == Verdict::Holds).count();
    assert!(held >= 40, "{}", report(&checks));
    let after = lab.cloud.with(|cloud, _| cloud.interfaces().cloned().collect::<Vec<_>>());
    assert_eq!(after, before);
}

#[test]
fn the_sdk_conforms_on_moto_as_far_as_that_plays_ec2() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (moto, ec2) = runtime.block_on(async {
        let moto = Moto::start().await;
        let ec2 = SdkEc2::connect(sdk::options(&moto.url, None)).await.unwrap();
        (moto, ec2)
    });

    let checks = conformance(&mut Sdk { ec2, node: moto.node, now: NOW, runtime });

    // moto has no metadata service and no limits, heeds no token, and lets an ENI be attached twice and deleted while it is
    // attached. What it plays as EC2 does, the SDK reads and asks for as it should.
    let held: BTreeSet<&str> =
        checks.iter().filter(|check| check.verdict == Verdict::Holds).map(|it| it.name).collect();
    let as_ec2 = [
        "the primary ENI is among those attached, at device 0",
        "the node's subnet is among the subnets, with its own addresses",
        "an ENI that does not exist is missing from the answer, and no failure",
        "an ENI is made with all that was asked for, and attached to nothing",
        "an ENI that was made is shown as it was made, wherever it belongs",
        "a list of more ENIs than one page holds is read to its end",
        "an ENI is attached where it was asked for",
        "one address is released, and no other",
        "deleting what is deleted fails as NotFound",
        "nothing is left behind",
        "a failure says what was refused, and why",
        "a list holds nothing but what was asked for",
        "a list names each ENI, MAC address, block and subnet once",
        "an observation is as old as its question, and names source and scope",
        "blocks are whole /32, /28 and /80, and an ENI's own addresses are not among them",
        "the effect is that of the action",
        "the executor does not panic",
    ];
    for name in as_ec2 {
        assert!(held.contains(name), "{name}\n{}", report(&checks));
    }
}

/// The SDK, at a time that only waiting moves: neither server is late.
struct Sdk {
    ec2: SdkEc2,
    node: Node,
    now: Timestamp,
    runtime: Runtime,
}

impl Executor for Sdk {
    fn node(&self) -> Node {
        self.node.clone()
    }

    fn limits(&self) -> Limits {
        Limits::lookup(self.node.instance_type).unwrap()
    }

    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        self.runtime.block_on(execute(&self.ec2, &self.node, action, now))
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }
}

fn failures(checks: &[Check]) -> BTreeSet<&'static str> {
    checks.iter().filter(|check| check.verdict.is_failure()).map(|check| check.name).collect()
}

fn report(checks: &[Check]) -> String {
    checks.iter().map(|check| format!("{check}\n")).collect()
}
