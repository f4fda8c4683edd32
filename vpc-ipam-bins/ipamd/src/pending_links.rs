//! ENIs whose links are still to appear.

use core::time::Duration;
use std::collections::BTreeMap;

use vpc_ipam_core::{ActionId, EniLink, FailureKind, HostAction, Mac, Outcome, Timestamp};

/// Actions that set ENIs up, until they end.
///
/// EC2 attaches an ENI a moment before the kernel has its link. An action that came too early is not told as failed: it is
/// carried out again as soon as the link appears.
#[derive(Debug, Default)]
pub(super) struct PendingLinks {
    under_way: BTreeMap<ActionId, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    link: EniLink,
    /// Whether the link appeared since the action last began: the action may have looked before that.
    appeared: bool,
    /// When the action is given up that found no link; while it is carried out there is no such time.
    until: Option<Timestamp>,
}

/// What is to be done about the outcome of an action.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it to core.
    Report(Outcome),
    /// Carry the action out again.
    Retry(HostAction),
    /// Wait for the link.
    Wait,
}

/// How long a link may take before its absence is a failure, which has its own pace of trying again.
const PATIENCE: Duration = Duration::from_secs(10);

impl PendingLinks {
    /// Takes note that an action begins.
    pub(super) fn begin(&mut self, id: ActionId, action: &HostAction) {
        if let HostAction::SetUpEni(link) = action {
            self.under_way
                .insert(id, UnderWay { link: link.clone(), appeared: false, until: None });
        }
    }

    /// Returns the ENI that an action sets up.
    pub(super) fn link(&self, id: ActionId) -> Option<&EniLink> {
        self.under_way.get(&id).map(|action| &action.link)
    }

    /// Decides about an outcome.
    pub(super) fn end(&mut self, id: ActionId, outcome: Outcome, now: Timestamp) -> Verdict {
        let missing = matches!(&outcome, Outcome::Failed(failure) if failure.kind == FailureKind::LinkMissing);
        let Some(action) = self.under_way.get_mut(&id) else {
            return Verdict::Report(outcome);
        };
        if !missing {
            self.under_way.remove(&id);
            return Verdict::Report(outcome);
        }
        if core::mem::take(&mut action.appeared) {
            return Verdict::Retry(HostAction::SetUpEni(action.link.clone()));
        }
        action.until = Some(now + PATIENCE);
        Verdict::Wait
    }

    /// A link appeared; returns the actions that waited for it.
    pub(super) fn appeared(&mut self, mac: Mac) -> Vec<(ActionId, HostAction)> {
        let of_link = self.under_way.iter_mut().filter(|(_, action)| action.link.mac == mac);
        of_link
            .filter_map(|(id, action)| match action.until.take() {
                Some(_) => Some((*id, HostAction::SetUpEni(action.link.clone()))),
                None => {
                    action.appeared = true;
                    None
                }
            })
            .collect()
    }

    /// Returns when the first action is given up.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.under_way.values().filter_map(|action| action.until).min()
    }

    /// Returns the actions whose time is up; carried out once more, they end whatever they find.
    pub(super) fn give_up(&mut self, now: Timestamp) -> Vec<(ActionId, HostAction)> {
        let due = |action: &UnderWay| action.until.is_some_and(|until| until <= now);
        let over: Vec<_> = self.under_way.extract_if(.., |_, action| due(action)).collect();
        over.into_iter().map(|(id, action)| (id, HostAction::SetUpEni(action.link))).collect()
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Card, DeviceIndex, Effect, Failure};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(100);
    const ID: ActionId = ActionId(7);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn link_that_appears_late_is_set_up_then() {
        let mut links = begun();
        assert_eq!(links.end(ID, missing(), NOW), Verdict::Wait);
        assert_eq!(links.appeared(Mac([2, 0, 0, 0, 0, 9])), []);
        assert_eq!(links.appeared(MAC), [(ID, action())]);
        assert_eq!(links.due(), None, "it is under way");
        assert_eq!(links.end(ID, done(), NOW), Verdict::Report(done()));
        assert_eq!(links.appeared(MAC), [], "it is over");
    }

    #[test]
    fn link_that_appears_while_it_is_looked_for_is_looked_for_again() {
        let mut links = begun();
        assert_eq!(links.appeared(MAC), []);
        assert_eq!(links.end(ID, missing(), NOW), Verdict::Retry(action()));
        assert_eq!(links.end(ID, missing(), NOW), Verdict::Wait);
    }

    #[test]
    fn link_that_never_appears_is_told_of() {
        let mut links = begun();
        assert_eq!(links.end(ID, missing(), NOW), Verdict::Wait);
        assert_eq!(links.due(), Some(NOW + PATIENCE));
        assert_eq!(links.give_up(NOW), []);
        assert_eq!(links.give_up(NOW + PATIENCE), [(ID, action())]);
        assert_eq!(links.end(ID, missing(), NOW), Verdict::Report(missing()));
    }

    #[test]
    fn other_failures_are_told_of_at_once() {
        let mut links = begun();
        let refused = Outcome::Failed(Failure::new(FailureKind::Kernel, String::new()));
        assert_eq!(links.end(ID, refused.clone(), NOW), Verdict::Report(refused));
    }

    fn begun() -> PendingLinks {
        let mut links = PendingLinks::default();
        links.begin(ID, &action());
        links
    }

    fn action() -> HostAction {
        HostAction::SetUpEni(EniLink {
            eni: "eni-1".parse().unwrap(),
            mac: MAC,
            card: Card(0),
            device: DeviceIndex(1),
            trunk: false,
            primary_ipv4: None,
            primary_ipv6: None,
            subnet_ipv4: None,
            subnet_ipv6: None,
            mtu: 9001,
        })
    }

    fn missing() -> Outcome {
        Outcome::Failed(Failure::new(FailureKind::LinkMissing, String::new()))
    }

    fn done() -> Outcome {
        Outcome::Done(Effect::Done)
    }
}
