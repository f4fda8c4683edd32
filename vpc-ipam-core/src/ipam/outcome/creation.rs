//! What comes of asking EC2 for an ENI.

use alloc::format;
use core::time::Duration;

use crate::ipam::Ipam;
use crate::plan::backoff::Pace;
use crate::pool::Finding;
use crate::{
    ActionId, BackoffScope, Eni, EniId, Event, Failure, FailureKind, ObservedEni, Timestamp,
};

/// After an ENI that was made never served a pod, until another is made for its network card.
pub(super) const NEVER_SERVED: Pace = Pace::secs(60, 3600);
/// Between two calls with the token of a creation that got no answer: doubled with each, up to a minute.
const CREATION_REPEAT: Duration = Duration::from_secs(1);
/// How often a creation is asked for again with its token before the tag by which it can be found has to do.
const CREATION_ATTEMPTS_MAX: u32 = 8;

impl Ipam {
    pub(super) fn on_created(&mut self, id: ActionId, observed: &ObservedEni, now: Timestamp) {
        let Some(creation) = self.pool.creations_mut().remove(&id) else {
            return;
        };
        let (subnet, ipv4) = (creation.request.subnet, creation.request.ipv4);
        self.on_ipv4_had(subnet, ipv4, 1);
        // After a repeated call an observation may have shown it already.
        if self.pool.eni(observed.id).is_none() {
            let mut finding = Finding::default();
            let subnets = &self.surroundings.subnets;
            let observed = self.pool.without_unusable(observed, subnets, &mut finding);
            let mut eni = Eni::new(&observed, creation.card, creation.device, now, now);
            // The answer to the call may leave them out; they were part of it.
            eni.tags.extend(creation.request.tags);
            self.event(Event::EniAppeared {
                eni: eni.id,
                card: creation.card,
                device: creation.device,
            });
            self.pool.insert(eni, None);
            self.on_finding(finding, now);
            self.mark_excluded();
        }
    }

    pub(super) fn on_creation_failed(&mut self, id: ActionId, kind: FailureKind, now: Timestamp) {
        let unanswered = kind == FailureKind::Unanswered;
        let terminating = self.conditions.terminating;
        let creations = self.pool.creations_mut();
        let Some(creation) = creations.get_mut(&id) else {
            return;
        };
        creation.attempts += 1;
        creation.called = false;
        // It may have been made. The same call again returns the same ENI; should that fail for good, its tag tells.
        if unanswered && creation.attempts < CREATION_ATTEMPTS_MAX && !terminating {
            creation.repeat_at = Some(now + CREATION_REPEAT * (1 << creation.attempts.min(6)));
            return;
        }
        let was_unanswered = creation.attempts > 1 || unanswered;
        creations.remove(&id);
        if was_unanswered {
            self.reads.unattached.answered = None;
        }
    }

    /// Where the node is going away, creations that got no answer are not repeated: if they took effect, their tag tells.
    pub(in crate::ipam) fn give_up_creations(&mut self) {
        let creations = self.pool.creations_mut();
        let before = creations.len();
        creations.retain(|_, creation| creation.called);
        if creations.len() < before {
            self.reads.unattached.answered = None;
        }
    }

    /// An ENI that was made is given up, since it never could serve a pod.
    pub(in crate::ipam) fn on_never_served(&mut self, id: EniId, now: Timestamp) {
        let Some(card) = self.pool.eni(id).map(|eni| eni.card) else { return };
        let failure = Failure {
            kind: FailureKind::Rejected,
            retry_after: None,
            message: format!("{id} could not be attached or set up"),
        };
        self.fail(BackoffScope::Card(card), NEVER_SERVED, &failure, now);
    }
}
