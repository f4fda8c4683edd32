//! What comes of a change of the node's network.

use core::time::Duration;

use crate::ipam::Ipam;
use crate::plan::backoff::{PASSING, Pace};
use crate::{
    ActionId, BackoffScope, Eni, Event, Failure, FailureKind, HostAction, Stage, Timestamp,
};

/// While the kernel does not show the link of an ENI: it comes within seconds of the attachment.
const LINK: Pace = Pace { first: Duration::from_millis(50), most: Duration::from_secs(300) };

impl Ipam {
    /// The node did what it was asked to do for an ENI.
    pub(super) fn on_host_done(&mut self, id: ActionId, action: &HostAction, now: Timestamp) {
        let Some((eni, scope)) = self.end_host_call(id, action) else {
            return;
        };
        match action {
            HostAction::SetUpEni(_) => {
                let first = !eni.was_ready;
                eni.on_set_up();
                let (id, ready, card) = (eni.id, eni.stage == Stage::Ready, eni.card);
                self.succeed(scope);
                if ready {
                    self.event(Event::EniReady { eni: id });
                }
                if ready && first {
                    self.succeed(BackoffScope::Card(card));
                }
            }
            HostAction::RemoveEni(link) => {
                let over = eni.on_host_removed();
                self.succeed(scope);
                if over {
                    self.pool.remove(link.eni, now);
                }
            }
        }
    }

    /// The node could not do what it was asked to do for an ENI.
    pub(super) fn on_host_failed(
        &mut self,
        id: ActionId,
        action: &HostAction,
        failure: &Failure,
        now: Timestamp,
    ) {
        let Some((eni, scope)) = self.end_host_call(id, action) else {
            return;
        };
        let eni = eni.id;
        match action {
            // A link that is missing is about to appear.
            HostAction::SetUpEni(_) if failure.kind == FailureKind::LinkMissing => {
                self.fail(scope, LINK, failure, now);
            }
            HostAction::SetUpEni(_) => self.fail(scope, PASSING, failure, now),
            HostAction::RemoveEni(_) => {
                self.fail(scope, PASSING, failure, now);
                self.return_if_stuck(eni, failure, now);
            }
        }
    }

    /// Records that a host action is over, if it is the one under way. Returns its ENI, and what its failure says something about.
    pub(super) fn end_host_call(
        &mut self,
        id: ActionId,
        action: &HostAction,
    ) -> Option<(&mut Eni, BackoffScope)> {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        let scope = match action {
            HostAction::SetUpEni(_) => BackoffScope::SetUp(link.eni),
            HostAction::RemoveEni(_) => BackoffScope::TearDown(link.eni),
        };
        let eni = self.pool.eni_mut(link.eni)?;
        eni.host_call.take_if(|call| *call == id)?;
        Some((eni, scope))
    }
}
