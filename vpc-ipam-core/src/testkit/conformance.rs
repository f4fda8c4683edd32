//! Whether an executor does what core asks of one.

mod address;
mod answer;
mod attachment;
mod attribute;
mod call;
mod clean_up;
mod creation;
mod executor;
mod guard;
mod host;
mod questions;
mod report;
mod shown;
mod suite;

use alloc::vec;
use alloc::vec::Vec;

pub use self::executor::Executor;
pub use self::report::{Check, Verdict};
use self::suite::Suite;

/// Runs an executor through everything that core asks of one, and reports check by check.
///
/// The suite makes twelve ENIs in the primary ENI's subnet, attaches, changes, detaches and deletes them. After each change it
/// compares what every list shows of each of them, and of the primary ENI, with what should be there by then. It leaves the
/// instance as it found it, also after a failure or a panic of the executor; what cannot be deleted is named in the
/// check "nothing is left behind".
///
/// It needs an instance with room for one more ENI on card 0, and a subnet with 64 free addresses, both of which no
/// other program changes meanwhile. It takes fewer than 500 calls where nothing is wrong. What EC2 shows late is asked for again, for up to a
/// minute; a call that is throttled is made again.
///
/// What it cannot see: a description or a token that an executor replaces by another one each time, failures that cost
/// something to bring about (a full subnet, a quota, missing permissions), and trunks, which no action makes.
///
/// ```
/// use core::time::Duration;
/// use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
/// use vpc_ipam_core::testkit::{Executor, conformance};
/// use vpc_ipam_core::{Ec2Action, Limits, Node, Outcome, Timestamp};
///
/// // The executor under test; here, that of the model of EC2.
/// struct Mine { cloud: Cloud, node: Node, limits: Limits, now: Timestamp }
///
/// impl Executor for Mine {
///     fn node(&self) -> Node { self.node.clone() }
///     fn limits(&self) -> Limits { self.limits.clone() }
///     fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
///         self.cloud.execute(&self.node, action, now)
///     }
///     fn now(&self) -> Timestamp { self.now }
///     fn wait(&mut self, duration: Duration) { self.now = self.now + duration; }
/// }
///
/// # let now = Timestamp::from_secs(1_700_000_000);
/// # let mut cloud = Cloud::new(1);
/// # let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
/// # let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?))?;
/// # let limits = Limits::lookup("m5.large".parse()?)?;
/// # let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
/// # let node = cloud.instance(&instance).unwrap().node.clone();
/// # let mut mine = Mine { cloud, node, limits, now };
/// for check in conformance(&mut mine) {
///     println!("{check}");
///     assert!(!check.verdict.is_failure());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn conformance(executor: &mut dyn Executor) -> Vec<Check> {
    let mut suite = match Suite::begin(executor) {
        Ok(suite) => suite,
        Err(check) => return vec![check],
    };
    suite.part(Suite::questions);
    suite.part(Suite::life_of_an_eni);
    suite.part(Suite::clean_up);
    suite.end()
}

impl Suite<'_> {
    fn life_of_an_eni(&mut self) {
        let Some(eni) = self.creations() else { return };
        let attachment = self.attach(eni);
        self.host(eni);
        self.addresses(eni);
        if let Some(attachment) = attachment {
            self.goes_with_the_instance(eni, attachment);
        }
        self.security_groups(eni);
        self.tags(eni);
        self.end_of_an_eni(eni, attachment);
    }
}
