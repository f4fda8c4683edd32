//! What has to be asked, and when: as little as keeps us honest.

use alloc::vec::Vec;

use super::{Because, Planner, WaitingOn, Wanted};
use crate::backoff::Culprit;
use crate::constraints::Read;
use crate::{Action, Ec2Action, Ec2Operation, EniId, Planned, Scope, Source, Timestamp};

impl Planner<'_> {
    pub(super) fn reads(&mut self) {
        self.read_metadata();
        if self.config.ec2_reads {
            self.read_attached();
            self.read_unattached();
            self.read_doubtful();
            self.read_subnets();
        }
    }

    fn read_metadata(&mut self) {
        let read = self.constraints.reads.metadata;
        let wanted = Wanted::Answer(Source::Imds);
        if let Some(wait) = self.constraints.backoff.wait(Culprit::Metadata, self.now) {
            self.hold(wanted, wait);
            return;
        }
        let timing = &self.config.timing;
        // Where EC2 does not list subnets, IMDS tells the ranges that links need.
        let every = if self.lacks_ranges() && self.subnets_fail() {
            timing.describe_spacing
        } else {
            timing.imds_every
        };
        let due = read.answered.map_or(self.now, |at| at + every);
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
        let read = self.constraints.reads.attached;
        let wanted = Wanted::Answer(Source::Ec2);
        let timing = &self.config.timing;
        let (due, because) = match read.answered {
            None => (self.now, Because::Start),
            // Not more often than answers can settle, whatever IMDS goes on showing.
            Some(at) if self.constraints.reads.ask_ec2 => {
                (at + timing.describe_spacing, Because::UnknownEni)
            }
            Some(at) => (at + timing.ec2_every, Because::Audit(Source::Ec2)),
        };
        if self.is_due(wanted, read, due) {
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
            self.call(action, None, wanted, because);
        }
    }

    fn read_unattached(&mut self) {
        if !self.config.provisioning {
            return;
        }
        let read = self.constraints.reads.unattached;
        let wanted = Wanted::Answer(Source::Ec2);
        let (due, because) = match read.answered {
            None => (self.now, Because::Start),
            Some(at) => (at + self.config.timing.ec2_every, Because::Audit(Source::Ec2)),
        };
        if self.is_due(wanted, read, due) {
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Unattached);
            self.call(action, None, wanted, because);
        }
    }

    fn read_doubtful(&mut self) {
        let doubtful: Vec<_> = self
            .pool
            .enis()
            .iter()
            .filter(|eni| eni.is_managed() && eni.ec2_call.is_none())
            .filter_map(|eni| Some((eni.id, eni.doubt?.cause)))
            .collect();
        let Some((eni, cause)) = doubtful.first().copied() else {
            return;
        };
        let read = self.constraints.reads.doubtful;
        let wanted = Wanted::Answer(Source::Ec2);
        let due = read.answered.map_or(self.now, |at| at + self.config.timing.describe_spacing);
        if self.is_due(wanted, read, due) {
            let ids: Vec<EniId> = doubtful.into_iter().map(|(eni, _)| eni).collect();
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Only(ids));
            self.call(action, None, wanted, Because::Doubt { eni, cause });
        }
    }

    /// The subnets are needed to set links up and to choose where an ENI goes. They are listed at start, and again before
    /// an ENI is made if that was long ago; see [`Planner::subnets_are_old`].
    fn read_subnets(&mut self) {
        let read = self.constraints.reads.subnets;
        let due = match read.answered {
            None => self.now,
            Some(at) if self.lacks_ranges() => at + self.config.timing.describe_spacing,
            Some(_) => return,
        };
        if self.is_due(Wanted::Subnets, read, due) {
            self.call(Ec2Action::DescribeSubnets, None, Wanted::Subnets, Because::SubnetsNeeded);
        }
    }

    /// Returns whether the ranges of an ENI's subnet are not known.
    fn lacks_ranges(&self) -> bool {
        let mut enis = self.pool.enis().iter();
        enis.any(|eni| eni.is_managed() && self.constraints.ranges(eni.subnet).is_none())
    }

    /// Returns whether EC2 does not list subnets, for now or because it may not be asked.
    pub(super) fn subnets_fail(&self) -> bool {
        let listing = Culprit::Operation(Ec2Operation::DescribeSubnets);
        !self.config.ec2_reads || self.constraints.backoff.until(listing, self.now).is_some()
    }

    /// Lists the subnets again if the list is old and an ENI is about to be made; that ENI is not held up by it.
    pub(super) fn refresh_subnets(&mut self) {
        let read = self.constraints.reads.subnets;
        if let Some(at) = read.answered
            && read.call.is_none()
            && self.now.since(at) > self.config.timing.subnets_age_max
        {
            self.call(Ec2Action::DescribeSubnets, None, Wanted::Subnets, Because::SubnetsNeeded);
        }
    }

    fn is_due(&mut self, wanted: Wanted, read: Read, due: Timestamp) -> bool {
        if let Some(id) = read.call {
            self.hold(wanted, WaitingOn::Outcome(id));
            return false;
        }
        if due > self.now {
            self.hold(wanted, WaitingOn::Time { until: due });
            return false;
        }
        true
    }
}
