use core::time::Duration;

use crate::{Ec2Action, HostAction, Limits, Node, Outcome, SecurityGroupId, Timestamp};

/// An executor of [`Ec2Action`]s, and of [`HostAction`]s if it has one, on an instance that the suite may attach ENIs to.
///
/// An asynchronous one blocks on its runtime here.
pub trait Executor {
    /// Returns the instance for which actions are carried out.
    fn node(&self) -> Node;

    /// Returns what the instance can hold.
    fn limits(&self) -> Limits;

    /// Carries out an action, and says what became of it: what is under test.
    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome;

    /// Carries out a change of the node's network, where the suite runs on the node; `None` where it does not.
    fn execute_host(&mut self, _action: &HostAction) -> Option<Outcome> {
        None
    }

    /// Returns a security group of the VPC that the primary ENI does not have, if the tester has one: with it the suite
    /// sees that groups arrive, where otherwise it sees that other groups are refused.
    fn security_group(&self) -> Option<SecurityGroupId> {
        None
    }

    /// Returns the time.
    fn now(&self) -> Timestamp;

    /// Lets time pass, where EC2 needs a moment. An executor in virtual time only has to move its clock.
    fn wait(&mut self, duration: Duration);
}
