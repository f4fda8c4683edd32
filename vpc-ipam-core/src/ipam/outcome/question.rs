//! What comes of asking EC2 or IMDS.

use alloc::format;
use alloc::vec::Vec;

use crate::ipam::outcome::unanswered;
use crate::ipam::{InFlight, Ipam};
use crate::plan::backoff::Pace;
use crate::pool::is_whole;
use crate::{
    ActionId, BackoffScope, Failure, FailureKind, Observation, ObservedSubnet, SubnetId, Timestamp,
};

impl Ipam {
    /// Takes in the answer to a question about ENIs.
    pub(super) fn on_shown(
        &mut self,
        mut observation: Observation,
        in_flight: &InFlight,
        now: Timestamp,
    ) -> Result<(), Failure> {
        if in_flight.before_clock_set_back {
            return Err(unanswered("the clock was set back meanwhile".into()));
        }
        if observation.as_of > now {
            // It knows what was when it was asked for, whatever clock its executor has.
            observation.as_of = in_flight.issued_at;
        }
        if !self.on_observation(&observation, now) {
            return Err(unanswered("the answer took too long to be compared".into()));
        }
        if is_whole(&observation, &self.node) {
            return Ok(());
        }
        let node = &self.node;
        if let Some(listed) = observation.incomplete.first() {
            let message = format!("{listed}, and not the primary {}", node.primary);
            return Err(Failure { kind: FailureKind::Incomplete, retry_after: None, message });
        }
        let message = format!(
            "{} lists {} ENIs of {} without its primary {}: is this the right account, Region and endpoint?",
            observation.source,
            observation.enis.len(),
            node.instance,
            node.primary
        );
        Err(Failure { kind: FailureKind::Incomplete, retry_after: None, message })
    }

    pub(super) fn on_subnets(&mut self, subnets: Vec<ObservedSubnet>, now: Timestamp) {
        self.reads.subnets.answered = Some(now);
        self.surroundings.subnets.on_listed(subnets);
        let subnet_backoff = self.config.timing.subnet_backoff;
        let full: Vec<SubnetId> = self
            .surroundings
            .subnets
            .list
            .iter()
            .filter(|subnet| subnet.ipv4_addresses_free == 0)
            .map(|subnet| subnet.id)
            .collect();
        for subnet in full {
            let scope = BackoffScope::Subnet(subnet);
            if self.calls.backoff.until(scope, now).is_none() {
                let pace = Pace { first: subnet_backoff, most: subnet_backoff.saturating_mul(4) };
                let failure = Failure {
                    kind: FailureKind::SubnetFull,
                    retry_after: None,
                    message: "DescribeSubnets shows 0 free addresses".into(),
                };
                self.fail(scope, pace, &failure, now);
            }
        }
        self.refuse_outside();
        self.mark_excluded();
    }

    pub(super) fn refuse_outside(&mut self) {
        for event in self.pool.refuse_outside(&self.surroundings.subnets) {
            self.event(event);
        }
    }

    /// Records that a question is no longer being asked.
    pub(super) fn end_read(&mut self, id: ActionId) {
        let reads = &mut self.reads;
        for read in [
            &mut reads.metadata,
            &mut reads.attached,
            &mut reads.unattached,
            &mut reads.unconfirmed,
            &mut reads.subnets,
        ] {
            read.call.take_if(|call| *call == id);
        }
    }
}
