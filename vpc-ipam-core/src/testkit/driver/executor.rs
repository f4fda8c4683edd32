use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::plan::backoff;
use crate::sim::{Call, Fault};
use crate::testkit::driver::{Driver, index};
use crate::testkit::rule::Breach;
use crate::{
    Action, Ec2Action, Ec2Operation, Effect, EniId, Failure, FailureKind, HostAction, Issued,
    Observation, Outcome, Scope, Source,
};

/// The executor, and answers to questions of other programs.
impl Driver {
    /// Limits a stale answer to what was since the process started: what a former one did is known to EC2 by then.
    pub(super) fn bounded(&self, fault: Option<Fault>) -> Option<Fault> {
        match fault {
            Some(Fault::Stale(age)) => Some(Fault::Stale(age.min(self.real.since(self.started)))),
            fault => fault,
        }
    }

    /// Carries out an action, with a fault.
    pub(super) fn execute(&mut self, which: u8, fault: Option<Fault>) -> Option<(Issued, Outcome)> {
        let fault = self.bounded(fault);
        self.misled |= fault == Some(Fault::Partial);
        let issued = self.issued.remove(index(which, self.issued.len())?);
        *self.calls.entry(Call::of(&issued.action)).or_default() += 1;
        // An executor's own limit is below the time after which core gives an action up. One that takes something away later
        // than that does what another program may do.
        let late = self.given_up.contains(&issued.id);
        let takes = matches!(
            issued.action,
            Action::Ec2(
                Ec2Action::UnassignPrivateIpAddresses(_)
                    | Ec2Action::UnassignIpv6Addresses(_)
                    | Ec2Action::DetachNetworkInterface(_)
                    | Ec2Action::DeleteNetworkInterface(_)
            )
        );
        self.model.meddled |= late && takes;
        let refused = self.refusals.meet(&issued.action, &self.cloud, self.now);
        let outcome = match (refused, &issued.action) {
            (Some(failure), _) => Outcome::Failed(failure),
            (None, Action::Ec2(action)) => {
                self.cloud.execute_with(&self.node, action, fault, self.now)
            }
            (None, Action::Host(action)) => self.on_host(action, fault),
        };
        let listed = matches!(&outcome, Outcome::Done(Effect::Subnets(_)));
        let short = matches!(&outcome, Outcome::Failed(failure)
            if matches!(failure.kind, FailureKind::SubnetFull | FailureKind::NoFreePrefix));
        self.unseen_shortage &= late || !listed && !short;
        let no_prefix = matches!(&outcome, Outcome::Failed(failure)
            if failure.kind == FailureKind::NoFreePrefix);
        self.unseen_fragments &= !no_prefix && !has_prefix(&outcome);
        let reads = match &issued.action {
            Action::Ec2(action) => action.operation().is_none_or(Ec2Operation::reads),
            Action::Host(_) => false,
        };
        if !reads {
            self.changes.0 += 1;
            self.changes.1 += u32::from(matches!(outcome, Outcome::Done(_)));
        }
        self.note(|| format!("{} {:?}: {outcome:?}", issued.id, issued.action));
        Some((issued, outcome))
    }

    pub(super) fn on_host(&mut self, action: &HostAction, fault: Option<Fault>) -> Outcome {
        let failed =
            |kind| Outcome::Failed(Failure { kind, retry_after: None, message: String::new() });
        if !self.kernel_works || fault.is_some_and(|fault| fault != Fault::AnswerLost) {
            return failed(FailureKind::Kernel);
        }
        match action {
            HostAction::SetUpEni(link) => {
                let attached = self.cloud.interface(&link.eni).is_some_and(|eni| {
                    eni.attachment.as_ref().is_some_and(|a| a.instance == self.node.instance)
                });
                if !attached {
                    return failed(FailureKind::LinkMissing);
                }
                self.model.links.insert(link.eni);
            }
            HostAction::RemoveEni(link) => {
                self.model.links.remove(&link.eni);
            }
        }
        if fault == Some(Fault::AnswerLost) {
            return failed(FailureKind::Kernel);
        }
        Outcome::Done(Effect::Done)
    }

    /// Carries out an action, and hands core its outcome.
    pub(super) fn answer(&mut self, which: u8, fault: Option<Fault>) -> Result<(), Breach> {
        match self.execute(which, fault) {
            Some((issued, outcome)) => self.deliver(&issued, outcome),
            None => Ok(()),
        }
    }

    /// Carries out an action, whose outcome is on its way until [`Step::Deliver`](crate::testkit::Step::Deliver).
    pub(super) fn post(&mut self, which: u8, fault: Option<Fault>) {
        let posted = self.execute(which, fault);
        self.posted.extend(posted);
    }

    /// Hands core an outcome that was on its way.
    pub(super) fn deliver_posted(&mut self, which: u8) -> Result<(), Breach> {
        match index(which, self.posted.len()) {
            Some(index) => {
                let (issued, outcome) = self.posted.remove(index);
                self.deliver(&issued, outcome)
            }
            None => Ok(()),
        }
    }

    /// Loses an action: core never gets an outcome of it.
    pub(super) fn lose(&mut self, which: u8) {
        if let Some(index) = index(which, self.issued.len()) {
            let issued = self.issued.remove(index);
            self.note(|| format!("lost {} {:?}", issued.id, issued.action));
            self.lost.push(issued.id);
        }
    }

    /// Hands core the outcome of an action.
    pub(super) fn deliver(&mut self, issued: &Issued, outcome: Outcome) -> Result<(), Breach> {
        if let Outcome::Done(effect) = &outcome {
            match effect {
                Effect::Created(eni) => self.model.on_shown(eni.id, &eni.blocks),
                Effect::Assigned(blocks) => {
                    let about = match &issued.action {
                        Action::Ec2(action) => backoff::about(action),
                        Action::Host(_) => None,
                    };
                    if let Some(eni) = about {
                        self.model.on_shown(eni, blocks);
                    }
                }
                _ if self.void.contains(&issued.id) || self.given_up.contains(&issued.id) => {}
                Effect::Observed(observation) => self.on_observation(&observation.clone()),
                Effect::Metadata(metadata) => {
                    self.on_observation(&metadata.observation.clone());
                }
                _ => {}
            }
        }
        self.ipam.handle_outcome(issued.id, outcome, self.now);
        self.drain()
    }

    pub(super) fn photograph(
        &mut self,
        source: Source,
        fault: Option<Fault>,
    ) -> Option<Observation> {
        let fault = self.bounded(fault);
        self.misled |= fault == Some(Fault::Partial);
        let action = match source {
            Source::Ec2 => Ec2Action::DescribeNetworkInterfaces(Scope::Attached),
            Source::Imds => Ec2Action::ReadMetadata,
        };
        match self.cloud.execute_with(&self.node, &action, fault, self.now) {
            Outcome::Done(Effect::Observed(observation)) => Some(observation),
            Outcome::Done(Effect::Metadata(metadata)) => Some(metadata.observation),
            Outcome::Done(_) | Outcome::Failed(_) => None,
        }
    }

    /// Asks a source as another program does, and shows core the answer.
    pub(super) fn observe_at_once(
        &mut self,
        source: Source,
        fault: Option<Fault>,
    ) -> Result<(), Breach> {
        match self.photograph(source, fault) {
            Some(observation) => self.observe(&observation),
            None => Ok(()),
        }
    }

    /// Asks a source as another program does, whose answer is on its way until [`Step::Show`](crate::testkit::Step::Show).
    pub(super) fn keep_photograph(&mut self, source: Source, fault: Option<Fault>) {
        let photograph = self.photograph(source, fault);
        self.photographs.extend(photograph);
    }

    /// Shows core an answer that was on its way.
    pub(super) fn show(&mut self, which: u8) -> Result<(), Breach> {
        match index(which, self.photographs.len()) {
            Some(index) => {
                let observation = self.photographs.remove(index);
                self.observe(&observation)
            }
            None => Ok(()),
        }
    }

    pub(super) fn observe(&mut self, observation: &Observation) -> Result<(), Breach> {
        self.note(|| format!("shown {observation:?}"));
        self.on_observation(observation);
        self.ipam.observe(observation, self.now);
        self.drain()
    }

    pub(super) fn on_observation(&mut self, observation: &Observation) {
        let all = observation.source == self.authority() && observation.scope == Scope::Attached;
        self.unseen_eni &= !all;
        // Too old to count.
        if !self.ipam.pool().remembers(observation.as_of, self.config.timing.eventual_consistency) {
            return;
        }
        let known: Vec<EniId> = self.ipam.pool().enis().iter().map(|eni| eni.id).collect();
        let authority = observation.source == Source::Ec2 || !self.config.ec2_reads;
        self.model.on_observation(observation, &known, authority, &self.node);
    }

    pub(super) fn authority(&self) -> Source {
        if self.config.ec2_reads { Source::Ec2 } else { Source::Imds }
    }
}

fn has_prefix(outcome: &Outcome) -> bool {
    let blocks = match outcome {
        Outcome::Done(Effect::Created(eni)) => &eni.blocks,
        Outcome::Done(Effect::Assigned(blocks)) => blocks,
        Outcome::Done(_) | Outcome::Failed(_) => return false,
    };
    blocks.iter().any(|block| matches!(block, IpNet::V4(net) if net.prefix_len() < 32))
}
