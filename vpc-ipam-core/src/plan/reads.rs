//! What has to be asked, and when: as little as keeps us honest.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Because, Planner, WaitingOn, Wanted};
use crate::plan::questions::Read;
use crate::{
    Action, BackoffScope, Ec2Action, Ec2Operation, Eni, EniId, ObservedSubnet, Planned, Question,
    Scope, Source, Timestamp, Timing, Unconfirmed,
};

impl Planner<'_> {
    pub(super) fn reads(&mut self) {
        self.read_metadata();
        if self.config.ec2_reads {
            self.read_attached();
            self.read_unattached();
            self.read_unconfirmed();
            self.read_subnets();
        }
    }

    fn read_metadata(&mut self) {
        let read = self.reads.metadata;
        let wanted = Wanted::Answer(Source::Imds);
        let scope = BackoffScope::Question(Question::Metadata);
        if let Some(wait) = self.calls.backoff.wait(scope, self.now) {
            self.block(wanted, wait);
            return;
        }
        let timing = self.timing;
        // Where EC2 does not list subnets, IMDS tells the ranges that links need.
        let next = |at: Timestamp| match self.lacks_ranges_since() {
            Some(since) if self.subnets_fail() => {
                at + self.spacing(at, since).min(timing.imds_every)
            }
            _ => at + timing.imds_every,
        };
        let due = read.answered.map_or(self.now, next);
        if self.is_due(wanted, read, due) {
            let because = match read.answered {
                None => Because::Start,
                Some(_) => Because::Audit(Source::Imds),
            };
            self.plan
                .actions
                .push(Planned { action: Action::Ec2(Ec2Action::ReadMetadata), because });
        }
    }

    fn read_attached(&mut self) {
        let read = self.reads.attached;
        let wanted = Wanted::Answer(Source::Ec2);
        let timing = self.timing;
        let (due, because) = match read.answered {
            None => (self.now, Because::Start),
            // Not more often than answers can become consistent, whatever IMDS goes on showing.
            Some(at) if self.reads.ask_ec2 => (at + timing.describe_spacing, Because::UnknownEni),
            Some(at) => (at + timing.ec2_every, Because::Audit(Source::Ec2)),
        };
        if self.is_due(wanted.clone(), read, due) {
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
            self.call(action, None, wanted, because);
        }
    }

    fn read_unattached(&mut self) {
        if !self.config.provisioning {
            return;
        }
        let read = self.reads.unattached;
        let wanted = Wanted::Answer(Source::Ec2);
        let (due, because) = match read.answered {
            None => (self.now, Because::Start),
            Some(at) => (at + self.timing.ec2_every, Because::Audit(Source::Ec2)),
        };
        if self.is_due(wanted.clone(), read, due) {
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Unattached);
            self.call(action, None, wanted, because);
        }
    }

    fn read_unconfirmed(&mut self) {
        let unconfirmed: Vec<_> = self
            .pool
            .enis()
            .iter()
            .filter(|eni| eni.is_managed() && eni.ec2_call.is_none())
            .filter_map(|eni| Some((eni.id, eni.unconfirmed?)))
            .collect();
        let Some((eni, Unconfirmed { cause, .. })) = unconfirmed.first().copied() else {
            return;
        };
        let read = self.reads.unconfirmed;
        let wanted = Wanted::Answer(Source::Ec2);
        let youngest =
            unconfirmed.iter().map(|(_, unconfirmed)| unconfirmed.since).max().unwrap_or(self.now);
        let next = |at: Timestamp| at + self.spacing(at, youngest);
        let due = read.answered.map_or(self.now, next);
        if self.is_due(wanted.clone(), read, due) {
            let ids: Vec<EniId> = unconfirmed.into_iter().map(|(eni, _)| eni).collect();
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Only(ids));
            self.call(action, None, wanted, Because::Unconfirmed { eni, cause });
        }
    }

    /// The subnets are needed to set links up, to tell which ENIs may be filled, and to choose where an ENI goes. They are listed
    /// at start, now and then, and before addresses are asked for; see [`Planner::subnets_first`].
    fn read_subnets(&mut self) {
        let read = self.reads.subnets;
        let (due, because) = match read.answered {
            None => (self.now, Because::SubnetsNeeded),
            Some(at) => match self.lacks_ranges_since() {
                Some(since) => (at + self.spacing(at, since), Because::SubnetsNeeded),
                None => (at + self.timing.ec2_every, Because::Audit(Source::Ec2)),
            },
        };
        if self.is_due(Wanted::Subnets, read, due) {
            self.list_subnets(because);
        }
    }

    fn list_subnets(&mut self, because: Because) {
        let listed = |planned: &Planned| planned.action == Action::Ec2(Ec2Action::DescribeSubnets);
        if !self.plan.actions.iter().any(listed) {
            self.call(Ec2Action::DescribeSubnets, None, Wanted::Subnets, because);
        }
    }

    /// Addresses are about to be asked for. Tags may have taken a subnet out of use, and other nodes may have taken its addresses:
    /// returns what has to be waited for where the list is too old for that. Where EC2 does not list subnets, it goes
    /// without.
    pub(super) fn subnets_first(&mut self) -> Option<WaitingOn> {
        let read = self.reads.subnets;
        if self.subnets_fail() {
            return None;
        }
        if let Some(id) = read.call {
            return Some(WaitingOn::Outcome(id));
        }
        let Some(at) = read.answered else {
            return Some(WaitingOn::Subnets);
        };
        // One that was full is looked at before it is asked again.
        let tried_again = |subnet: &ObservedSubnet| {
            let scope = BackoffScope::Subnet(subnet.id);
            self.calls.backoff.last_until(scope).is_some_and(|until| at < until)
                && self.calls.backoff.until(scope, self.now).is_none()
        };
        let old = self.now.since(at) >= self.timing.subnets_age_max;
        if !old && !self.surroundings.subnets.list.iter().any(tried_again) {
            return None;
        }
        self.list_subnets(Because::SubnetsNeeded);
        Some(WaitingOn::Subnets)
    }

    /// Returns since when the node knows an ENI whose subnet it does not know; the youngest, if there are several.
    fn lacks_ranges_since(&self) -> Option<Timestamp> {
        let enis = self.pool.enis().iter();
        let lacks = |eni: &&Eni| {
            eni.is_managed()
                && !eni.is_removing()
                && self.surroundings.subnets.ranges_of(eni.subnet).is_none()
        };
        enis.filter(lacks).map(|eni| eni.since).max()
    }

    /// Returns how long to wait after an answer at `at` until the same is asked again, if the question came up at
    /// `since`: the longer answers leave it open, the less the next one is likely to answer it.
    fn spacing(&self, at: Timestamp, since: Timestamp) -> Duration {
        let Timing { describe_spacing, ec2_every, .. } = self.timing;
        (at.since(since) / 4).min(ec2_every).max(describe_spacing)
    }

    /// Returns whether EC2 does not list subnets, for now or because it may not be asked.
    pub(super) fn subnets_fail(&self) -> bool {
        let scopes = [
            BackoffScope::Operation(Ec2Operation::DescribeSubnets),
            BackoffScope::Question(Question::Subnets),
        ];
        let left_alone = |scope: BackoffScope| self.calls.backoff.until(scope, self.now).is_some();
        !self.config.ec2_reads || scopes.into_iter().any(left_alone)
    }

    fn is_due(&mut self, wanted: Wanted, read: Read, due: Timestamp) -> bool {
        if let Some(id) = read.call {
            self.block(wanted, WaitingOn::Outcome(id));
            return false;
        }
        if due > self.now {
            self.block(wanted, WaitingOn::Time { until: due });
            return false;
        }
        true
    }
}
