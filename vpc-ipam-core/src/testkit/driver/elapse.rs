use alloc::format;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use core::time::Duration;

use crate::sim::Call;
use crate::testkit::driver::Driver;
use crate::testkit::rule::{Breach, Rule, hold};
use crate::testkit::setup::Setup;
use crate::testkit::step::Store;
use crate::{AddressRequest, Assigned, Ipv4Kind, Pod, PodKey, Readiness, Timestamp};

/// How often an operation may be called in an hour for a cause that does not change, for each thing that it is about; see
/// `backoff/rules.rs`.
const CALLS_AN_HOUR: u32 = 22;

/// Time that passes, and what has to hold after it.
impl Driver {
    /// Heals the cloud and the node, lets time pass, and checks that the node converges at its target.
    pub(in crate::testkit) fn converge(&mut self) -> Result<(), Breach> {
        /// How long the worst chain of waits may take: audits, and back-offs at their longest.
        const LONG: Duration = Duration::from_secs(3 * 3600);
        /// In which nothing may change any more.
        const STILL: Duration = Duration::from_secs(3600);

        self.note(|| "settle".to_string());
        self.kernel_works = true;
        self.refusals.heal();
        self.store = Store::Prompt;
        self.photographs.clear();
        self.wait_until(self.latest)?;
        while !self.unwritten.is_empty() {
            self.written(true)?;
        }
        for (issued, outcome) in core::mem::take(&mut self.posted) {
            self.deliver(&issued, outcome)?;
        }
        self.drain()?;
        self.run_until(self.now + LONG)?;
        let (_, changed) = self.changes;
        let tried = self.changes.0;
        self.run_until(self.now + STILL)?;
        hold!(
            self.changes.1 == changed,
            Converged,
            "{} changes after it converged",
            self.changes.1 - changed
        );
        // A subnet that is full is tried again after its back-off, which is 120 s at first and 480 s in the end.
        hold!(
            self.changes.0 - tried <= 40,
            Budget,
            "{} attempts after it converged",
            self.changes.0 - tried
        );
        self.check_converged()
    }

    /// An hour passes in which what is refused goes on being refused, and nothing else happens.
    pub(super) fn hour(&mut self) -> Result<(), Breach> {
        // What follows from the steps before is no part of it.
        self.run_until(self.now + Duration::from_secs(60))?;
        let before = self.calls.clone();
        self.run_until(self.now + Duration::from_secs(3600))?;
        // A scope for each ENI, each subnet and each card; questions are asked again where sources disagree.
        let limits = &self.setup.limits;
        let most: u32 = limits.cards().into_iter().map(|card| u32::from(limits.enis(card))).sum();
        let places = most.max(self.ipam.pool().enis().len() as u32) + 4;
        for (call, count) in &self.calls {
            let made = count - before.get(call).copied().unwrap_or(0);
            let most = match call {
                Call::ReadMetadata => 70,
                // Each thing that fails may make the node ask once what EC2 has.
                Call::Ec2(operation) if operation.reads() => 40 + CALLS_AN_HOUR * places / 3,
                _ => CALLS_AN_HOUR * places,
            };
            hold!(
                made <= most,
                Calls,
                "{call:?} is called {made} times in an hour, {most} at most"
            );
        }
        Ok(())
    }

    /// Checks that what readiness promises comes true, on a copy in which no further fault begins.
    pub(super) fn probe(&mut self) -> Result<(), Breach> {
        // What core cannot know yet, it need not tell.
        let unknown = self.refusals.are_unmet()
            || self.unseen_shortage
            || self.unseen_eni
            || self.unseen_fragments && self.config.families.ipv4() == Some(Ipv4Kind::Prefixes)
            || self.now < self.latest
            || self.model.meddled
            || self.misled
            || !self.posted.is_empty()
            || !self.lost.is_empty()
            || !self.kernel_works
            || self.store != Store::Prompt;
        let by = match self.ipam.readiness(self.now) {
            _ if unknown => return Ok(()),
            Readiness::NotReady(error) => {
                let said = !error.to_string().is_empty();
                hold!(said, ToldTruly, "not ready, and nothing says why");
                return Ok(());
            }
            Readiness::Ready => self.now,
            Readiness::Soon { by } => by,
        };
        if self.log.is_some() {
            let explained = self.ipam.explain(self.now);
            self.note(|| format!("promised by {by}: {explained}"));
        }
        let mut copy = self.clone();
        copy.log = None;
        let key = PodKey::new("aws-cni", "probe", "eth0").expect("no part is empty");
        let pod = Arc::new(Pod { namespace: "default".to_string(), name: "probe".to_string() });
        let request = AddressRequest::new(key.clone(), pod);
        match copy.ipam.assign(&request, copy.now) {
            Ok(Assigned::Now(uncommitted)) => return copy.granted(uncommitted),
            Ok(Assigned::Later { .. }) => {}
            Err(error) => hold!(false, ToldTruly, "promised by {by}, refused: {error}"),
        }
        copy.run_until(by)?;
        let served = copy.model.leases.contains_key(&key);
        hold!(served, ToldTruly, "promised by {by}: {}", copy.ipam.explain(copy.now));
        Ok(())
    }

    /// Sets the clock that core gets back.
    pub(super) fn set_clock_back(&mut self, duration: Duration) {
        let back = self.now.as_nanos().saturating_sub(duration.as_nanos() as u64);
        self.now = Timestamp::from_nanos(back);
        self.model.on_clock_set_back(self.now);
        // The cloud's past goes by the same clock.
        self.cloud.remember(Setup::REACH);
        // What was shown before has no age by this clock: it is void.
        self.photographs.clear();
        let posted = self.posted.iter().map(|(issued, _)| issued);
        self.void.extend(self.issued.iter().chain(posted).map(|issued| issued.id));
        self.ipam.handle_timeout(self.now);
    }

    /// Carries everything out as it comes until a point in time.
    pub(in crate::testkit) fn run_until(&mut self, end: Timestamp) -> Result<(), Breach> {
        loop {
            self.cooperate()?;
            self.check()?;
            match self.ipam.poll_timeout() {
                Some((due, _)) if due <= end => self.wait_until(due)?,
                _ => break,
            }
        }
        self.wait_until(end)?;
        self.cooperate()?;
        self.check()
    }

    /// Carries out all that was asked for and all that follows.
    pub(super) fn cooperate(&mut self) -> Result<(), Breach> {
        self.drain()?;
        // A chain of steps for each ENI, of which there are few.
        for _ in 0..400 {
            let Some((issued, outcome)) = self.execute(0, None) else {
                return Ok(());
            };
            self.deliver(&issued, outcome)?;
            self.drain()?;
        }
        hold!(self.issued.is_empty(), Converges, "400 actions at one time");
        Ok(())
    }

    /// Waits until something is due, or for 5 minutes if nothing is.
    pub(super) fn wait_until_due(&mut self) -> Result<(), Breach> {
        let due = self.ipam.poll_timeout().map(|(at, _)| at);
        self.wait_until(due.unwrap_or(self.now + Duration::from_secs(300)))
    }

    pub(super) fn wait_until(&mut self, at: Timestamp) -> Result<(), Breach> {
        self.real = self.real + at.since(self.now);
        self.now = self.now.max(at);
        self.latest = self.latest.max(self.now);
        self.ipam.handle_timeout(self.now);
        for (key, deadline) in self.ipam.waiting() {
            hold!(deadline > self.now, Answered, "{key} waits since {deadline} at {}", self.now);
        }
        self.drain()
    }
}
