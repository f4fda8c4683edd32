use alloc::format;

use super::answer::holds;
use super::suite::Suite;
use crate::{Effect, EniId, EniLink, FailureKind, HostAction, Mac, Outcome};

const SET_UP: &str = "a link is set up, and again without complaint";
const REMOVED: &str = "what was set up is removed, and again without complaint";
const MISSING: &str = "a link that is not there fails as LinkMissing";

/// Changes of the node's network, where there is an executor of them.
impl Suite<'_> {
    pub(super) fn host(&mut self, eni: EniId) {
        let Some(link) = self.link(eni) else {
            for name in [SET_UP, MISSING, REMOVED] {
                self.not_applicable(name, "the ENI could not be attached");
            }
            return;
        };
        let set_up = HostAction::SetUpEni(link.clone());
        let remove = HostAction::RemoveEni(link.clone());
        if !self.host_twice(SET_UP, &set_up) {
            for name in [MISSING, REMOVED] {
                self.not_applicable(name, "there is no executor of host actions");
            }
            return;
        }
        let absent = EniLink { mac: Mac([0x02, 0, 0, 0, 0, 0xfe]), ..link };
        let missing = match self.call_host(&HostAction::SetUpEni(absent)) {
            Some(Outcome::Failed(failure)) => {
                holds(failure.kind == FailureKind::LinkMissing, || {
                    format!("expected LinkMissing, saw {:?} ({})", failure.kind, failure.message)
                })
            }
            outcome => Err(format!("expected LinkMissing, saw {outcome:?}")),
        };
        self.check(MISSING, missing);
        self.host_twice(REMOVED, &remove);
    }

    fn link(&mut self, eni: EniId) -> Option<EniLink> {
        let subnet = self.own_subnet().ok()?;
        let eni = self.expected.get(&eni)?;
        let attachment = eni.attachment.as_ref()?;
        Some(EniLink {
            eni: eni.id,
            mac: eni.mac,
            card: attachment.card,
            device: attachment.device,
            trunk: false,
            primary_ipv4: eni.primary_ipv4,
            primary_ipv6: eni.primary_ipv6,
            subnet_ipv4: Some(subnet.ipv4_cidr),
            subnet_ipv6: subnet.ipv6_cidr,
            // What EC2 carries within a VPC.
            mtu: 9001,
        })
    }

    /// Carries out a host action twice; returns false if there is no executor of them.
    fn host_twice(&mut self, name: &'static str, action: &HostAction) -> bool {
        let outcomes = [self.call_host(action), self.call_host(action)];
        if outcomes.iter().all(Option::is_none) {
            self.not_applicable(name, "there is no executor of host actions");
            return false;
        }
        let done = Some(Outcome::Done(Effect::Done));
        let right = outcomes.iter().all(|outcome| *outcome == done);
        let seen = || format!("{action}, twice: expected Done and Done, saw {outcomes:?}");
        self.check(name, holds(right, seen));
        true
    }
}
