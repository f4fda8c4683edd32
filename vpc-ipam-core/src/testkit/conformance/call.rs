use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::guard::{PANICS, guarded, longer};
use super::suite::{PATIENCE, Suite};
use crate::{
    Ec2Action, Effect, EniId, Failure, FailureKind, HostAction, ObservedEni, ObservedSubnet,
    Outcome, Scope, Timestamp,
};

const SAYS_WHY: &str = "a failure says what was refused, and why";

/// Calls of the executor under test. One that panics counts as one that was not answered.
impl Suite<'_> {
    /// Carries an action out; after a while again, if it was throttled.
    pub(super) fn call(&mut self, action: &Ec2Action) -> Outcome {
        let mut wait = Duration::from_secs(1);
        let mut outcome = self.call_once(action);
        for _ in 1..PATIENCE {
            match &outcome {
                Outcome::Failed(failure) if failure.kind == FailureKind::Throttled => {}
                Outcome::Failed(_) | Outcome::Done(_) => break,
            }
            self.wait(wait);
            wait = longer(wait);
            outcome = self.call_once(action);
        }
        outcome
    }

    fn call_once(&mut self, action: &Ec2Action) -> Outcome {
        let now = self.now();
        let outcome = match guarded(|| self.executor.execute(action, now)) {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.unsound(
                    PANICS,
                    format!("{action}: expected an outcome, saw a panic: {panic}"),
                );
                self.failed = Some(FailureKind::Unanswered);
                return unanswered(format!("the executor panicked: {panic}"));
            }
        };
        self.failed = match &outcome {
            Outcome::Failed(failure) => Some(failure.kind),
            Outcome::Done(_) => None,
        };
        match &outcome {
            Outcome::Failed(failure) if failure.message.is_empty() => {
                let text = format!("{action}: expected the error of EC2, saw no message");
                self.unsound(SAYS_WHY, text);
            }
            Outcome::Failed(_) => self.sound(SAYS_WHY),
            Outcome::Done(effect) => self.judge(action, effect, now),
        }
        outcome
    }

    /// Carries out a change of the node; `None` where there is no executor of them.
    pub(super) fn call_host(&mut self, action: &HostAction) -> Option<Outcome> {
        match guarded(|| self.executor.execute_host(action)) {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.unsound(
                    PANICS,
                    format!("{action}: expected an outcome, saw a panic: {panic}"),
                );
                Some(unanswered(format!("the executor panicked: {panic}")))
            }
        }
    }

    pub(super) fn now(&mut self) -> Timestamp {
        match guarded(|| self.executor.now()) {
            Ok(now) => self.last = now,
            Err(panic) => self
                .unsound(PANICS, format!("Executor::now: expected the time, saw a panic: {panic}")),
        }
        self.last
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        if let Err(panic) = guarded(|| self.executor.wait(duration)) {
            self.unsound(
                PANICS,
                format!("Executor::wait: expected that it returns, saw a panic: {panic}"),
            );
        }
    }

    /// Returns the effect of an action, or why there is none.
    pub(super) fn done(&mut self, action: &Ec2Action) -> Result<Effect, String> {
        match self.call(action) {
            Outcome::Done(effect) => Ok(effect),
            Outcome::Failed(failure) => {
                Err(format!("{action}: expected that it is done, saw \"{failure}\""))
            }
        }
    }

    /// Checks that an action is done whose effect says nothing more.
    pub(super) fn just_done(&mut self, action: &Ec2Action) -> Result<(), String> {
        match self.done(action)? {
            Effect::Done => Ok(()),
            effect => Err(format!("{action}: expected Done, saw {effect:?}")),
        }
    }

    /// Checks that an action fails as one of these kinds.
    pub(super) fn refused(
        &mut self,
        action: &Ec2Action,
        kinds: &[FailureKind],
    ) -> Result<(), String> {
        match self.call(action) {
            Outcome::Failed(failure) if kinds.contains(&failure.kind) => Ok(()),
            Outcome::Failed(failure) => {
                let (kind, message) = (failure.kind, failure.message);
                Err(format!("{action}: expected {}, saw {kind:?} ({message})", names(kinds)))
            }
            Outcome::Done(effect) => {
                Err(format!("{action}: expected {}, saw it done: {effect:?}", names(kinds)))
            }
        }
    }

    /// Returns the ENIs of a scope.
    pub(super) fn list(&mut self, scope: &Scope) -> Result<Vec<ObservedEni>, String> {
        match self.done(&Ec2Action::DescribeNetworkInterfaces(scope.clone()))? {
            Effect::Observed(observation) => Ok(observation.enis),
            effect => Err(format!("expected an observation of {scope:?}, saw {effect:?}")),
        }
    }

    pub(super) fn subnets(&mut self) -> Result<Vec<ObservedSubnet>, String> {
        match self.done(&Ec2Action::DescribeSubnets)? {
            Effect::Subnets(subnets) => Ok(subnets),
            effect => Err(format!("expected a list of subnets, saw {effect:?}")),
        }
    }

    /// Returns the node's own subnet.
    pub(super) fn own_subnet(&mut self) -> Result<ObservedSubnet, String> {
        let own = self.node.subnet;
        let found = self.subnets()?.into_iter().find(|subnet| subnet.id == own);
        found.ok_or_else(|| format!("expected {own} among the subnets, saw it missing"))
    }

    /// Asks for an ENI by its id until it is not shown, or patience ends.
    pub(super) fn eventually_gone(&mut self, eni: EniId) -> Result<(), String> {
        let scope = Scope::Only([eni].into());
        let mut wait = Duration::from_secs(1);
        let mut last = Ok(());
        for _ in 0..PATIENCE {
            last = match self.list(&scope) {
                Ok(shown) if shown.iter().any(|shown| shown.id == eni) => {
                    Err(format!("expected {eni} missing, saw it there"))
                }
                Ok(_) => return Ok(()),
                Err(error) => Err(error),
            };
            self.wait(wait);
            wait = longer(wait);
        }
        last
    }

    /// Reports that something was not done: as not applicable, where the subnet or the account has no room for it.
    pub(super) fn not_done(&mut self, name: &'static str, seen: String) {
        // Below that the suite may take all that a subnet has.
        const ROOM: u32 = 64;
        let full = |subnet: ObservedSubnet| subnet.ipv4_addresses_free < ROOM;
        let failed = self.failed;
        let is_full = self.own_subnet().is_ok_and(full);
        match failed {
            Some(FailureKind::NoFreePrefix) => {
                self.not_applicable(name, "the subnet has no whole /28 or /80")
            }
            Some(FailureKind::EniLimit) => {
                self.not_applicable(name, "the account takes no further ENI")
            }
            Some(FailureKind::SubnetFull) if is_full => {
                self.not_applicable(name, "the subnet has too few free addresses");
            }
            _ => self.check(name, Err(seen)),
        }
    }
}

fn unanswered(message: String) -> Outcome {
    Outcome::Failed(Failure { kind: FailureKind::Unanswered, retry_after: None, message })
}

fn names(kinds: &[FailureKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
    names.join(" or ")
}
