//! What observations change.

use crate::ipam::Ipam;
use crate::ipam::recorder::Input;
use crate::plan::backoff::Pace;
use crate::plan::is_excluded;
use crate::plan::questions::Read;
use crate::pool::{Finding, Reconciler, is_whole};
use crate::{
    BackoffScope, EniId, Event, Failure, FailureKind, Observation, Question, Scope, Source,
    Timestamp,
};

impl Ipam {
    /// Takes in what a source showed without being asked by an action.
    ///
    /// One that was made before the clock was set back is void: do not show it. What is from the future is put aside.
    pub fn observe(&mut self, observation: &Observation, now: Timestamp) {
        let tape = self.tape(|| Input::Observe(observation.clone()));
        self.on_observation(observation, now);
        self.replan(now);
        self.record(tape, Some(now));
    }

    /// Takes in an observation. Returns whether it counts: not if it is older than what is remembered, or from the future.
    pub(super) fn on_observation(&mut self, observation: &Observation, now: Timestamp) -> bool {
        let Observation { as_of, source, ref enis, .. } = *observation;
        let eventual_consistency = self.config.timing.eventual_consistency;
        if as_of > now || !self.pool.remembers(as_of, eventual_consistency) {
            self.event(Event::ObservationPutAside { source, as_of, enis: enis.len() });
            return false;
        }
        self.know_primary(observation, now);
        let reconciler = Reconciler {
            pool: &mut self.pool,
            observation,
            node: &self.node,
            subnets: &self.surroundings.subnets,
            imds_ignored: &self.calls.backoff.hints_ignored(now),
            config: &self.config,
            now,
            finding: Finding::default(),
        };
        let finding = reconciler.reconcile();
        self.on_finding(finding, now);
        self.on_answered(observation, now);
        let primary = enis.iter().find(|eni| eni.id == self.node.primary);
        if let Some(primary) = primary {
            let mut groups = primary.security_groups.clone();
            groups.sort_unstable();
            self.surroundings.security_groups = groups;
        }
        self.mark_excluded();
        true
    }

    /// Takes in what an observation led to.
    pub(super) fn on_finding(&mut self, finding: Finding, now: Timestamp) {
        for event in finding.events {
            self.event(event);
        }
        let reads = &mut self.reads;
        reads.ask_ec2 |= !finding.unknown.is_empty();
        reads.hints.extend(finding.unknown);
        for eni in finding.borne_out {
            self.succeed(BackoffScope::Hint(eni));
        }
        for eni in finding.contradicted {
            self.on_hint_contradicted(eni, now);
        }
    }

    /// EC2 says otherwise than IMDS: what IMDS shows of this ENI is believed ever more rarely.
    pub(super) fn on_hint_contradicted(&mut self, eni: EniId, now: Timestamp) {
        const PACE: Pace = Pace::secs(60, 3600);
        let failure = Failure {
            kind: FailureKind::Rejected,
            retry_after: None,
            message: "EC2 does not confirm what IMDS shows".into(),
        };
        self.fail(BackoffScope::Hint(eni), PACE, &failure, now);
    }

    /// Notes which question an observation answers.
    pub(super) fn on_answered(&mut self, observation: &Observation, now: Timestamp) {
        let as_of = observation.as_of;
        let reads = &mut self.reads;
        let answered = |read: &mut Read| {
            read.answered = Some(read.answered.map_or(as_of, |at| at.max(as_of)));
        };
        match (observation.source, &observation.scope) {
            (Source::Imds, _) => {
                answered(&mut reads.metadata);
                if !self.config.ec2_reads {
                    answered(&mut reads.attached);
                }
            }
            (Source::Ec2, Scope::Attached) if is_whole(observation, &self.node) => {
                answered(&mut reads.attached);
                reads.ask_ec2 = false;
                for eni in core::mem::take(&mut reads.hints) {
                    if self.pool.eni(eni).is_some() {
                        self.succeed(BackoffScope::Hint(eni));
                    } else {
                        self.on_hint_contradicted(eni, now);
                    }
                }
            }
            // An answer without the primary ENI decides nothing.
            (Source::Ec2, Scope::Attached) => {}
            (Source::Ec2, Scope::Unattached) => answered(&mut reads.unattached),
            (Source::Ec2, Scope::Only(_)) => answered(&mut reads.unconfirmed),
        }
    }

    /// Learns of the primary ENI by IMDS while EC2 cannot be asked what there is. Its blocks are suspect until EC2 shows
    /// them; it can get further ones.
    pub(super) fn know_primary(&mut self, observation: &Observation, now: Timestamp) {
        let primary = self.node.primary;
        let unknown = self.reads.attached.answered.is_none()
            && self.pool.eni(primary).is_none()
            && observation.source == Source::Imds;
        if !(unknown && self.config.ec2_reads && self.calls.is_question_stuck(Question::Attached)) {
            return;
        }
        if let Some(observed) = observation.enis.iter().find(|eni| eni.id == primary) {
            let event = self.pool.insert_unconfirmed_primary(observed, now);
            self.event(event);
        }
    }

    /// Marks the ENIs whose subnets were taken out of use, and those whose subnets are back in use. A subnet that an
    /// ENIConfig names is in use, whatever its tags say: under custom networking no subnet is discovered by tags.
    pub(super) fn mark_excluded(&mut self) {
        let cluster = self.config.cluster.as_deref();
        let named = self.conditions.eni_config.as_ref().filter(|_| self.config.custom_networking);
        let named = named.map(|eni_config| eni_config.subnet);
        for eni in self.pool.enis_mut() {
            if let Some(subnet) = self.surroundings.subnets.list.iter().find(|s| s.id == eni.subnet)
            {
                eni.excluded = named != Some(eni.subnet) && is_excluded(subnet, cluster);
            }
        }
    }
}
