use alloc::vec::Vec;

use ipnet::IpNet;

use crate::pool::Eni;
use crate::sim::NetworkInterface;
use crate::testkit::driver::Driver;
use crate::testkit::rule::{Breach, Rule, hold};
use crate::{
    Block, BlockState, Blocked, CardDemand, Demand, Ipv4Kind, ObservedEni, Scope, Stage, WaitingOn,
    Wanted,
};

/// The rules of a node that was left alone with a healthy cloud.
impl Driver {
    /// Checks what must hold once everything has settled.
    pub(in crate::testkit::driver) fn check_converged(&self) -> Result<(), Breach> {
        let plan = self.ipam.plan(self.now);
        let waiting = self.ipam.waiting().count();
        hold!(waiting == 0, Answered, "{waiting} pods wait for ever");
        self.check_enis_converged()?;
        self.check_truth()?;
        plan.demand.iter().try_for_each(|on_card| self.check_demand_met(on_card, &plan.blocked))
    }

    /// Checks that no ENI and no block is between two states for ever.
    fn check_enis_converged(&self) -> Result<(), Breach> {
        for eni in self.ipam.pool().enis().iter().filter(|eni| eni.is_managed()) {
            let (id, stage) = (eni.id, eni.stage);
            hold!(eni.unconfirmed.is_none(), Converges, "{id} is unconfirmed for ever");
            for block in eni.blocks() {
                let (net, state) = (block.net(), block.state());
                hold!(!block.is_releasing(), ReleasesEnd, "{net} is being released for ever");
                let confirmed = state == BlockState::Confirmed;
                hold!(confirmed, Converges, "{net} is {state:?} for ever");
            }
            let waits = self.is_gated() || self.is_used(id) || self.is_named(id);
            hold!(stage == Stage::Ready || waits, Converges, "{id} is {stage:?} for ever");
        }
        Ok(())
    }

    /// Checks that a card is at its target, or that the plan says why it is not.
    fn check_demand_met(&self, on_card: &CardDemand, blocked: &[Blocked]) -> Result<(), Breach> {
        let card = on_card.card;
        match on_card.demand {
            Demand::Met => {}
            Demand::Short(_) => {
                let reason = blocked.iter().any(|blocked| {
                    matches!(blocked.wanted, Wanted::Addresses { card: of } | Wanted::Eni { card: of } if of == card)
                        && !matches!(blocked.waiting_on, WaitingOn::Outcome(_) | WaitingOn::Observation { .. })
                });
                hold!(reason, Converges, "{on_card:?} and nothing says why: {blocked:?}");
            }
            Demand::Over(_) => {
                // EC2 goes on refusing what the surplus is on, and the plan says so.
                let failing = blocked.iter().any(|blocked| {
                    blocked.wanted == Wanted::FewerAddresses { card }
                        && matches!(blocked.waiting_on, WaitingOn::Backoff { .. })
                });
                let enis = self.ipam.pool().enis().iter();
                let serving = enis.filter(|eni| eni.card == card && self.serves_pods(eni));
                let idle = serving.flat_map(Eni::blocks).any(|block| {
                    matches!(block.net(), IpNet::V4(_))
                        && block.is_idle(self.now, self.config.cooldown)
                        && block.is_prefix() == (on_card.kind == Ipv4Kind::Prefixes)
                });
                let stays = idle && self.config.provisioning && !failing;
                hold!(!stays, Converges, "{on_card:?} stays: {blocked:?}");
            }
        }
        Ok(())
    }

    /// Returns whether the node may not change its ENIs.
    fn is_gated(&self) -> bool {
        self.terminating
            || !self.config.provisioning
            || (!self.schedulable && !self.config.manage_unschedulable)
    }

    /// Checks that core knows what is there, and that nothing was forgotten.
    pub(in crate::testkit::driver) fn check_truth(&self) -> Result<(), Breach> {
        for id in self.attached() {
            let truth = self.cloud.interface(&id).expect("it is attached");
            let Some(eni) = self.ipam.pool().eni(id) else {
                hold!(false, Converges, "{id} is attached and unknown");
                continue;
            };
            if !eni.is_managed() {
                continue;
            }
            let shown = ObservedEni::from(truth);
            let mut blocks: Vec<IpNet> = shown.blocks.iter().map(IpNet::trunc).collect();
            blocks.sort_unstable();
            let known: Vec<IpNet> = eni.blocks().iter().map(Block::net).collect();
            hold!(blocks == known, Converges, "{id} has {blocks:?}, known are {known:?}");
        }
        for eni in self.ipam.pool().enis() {
            let ours = self.cloud.interface(&eni.id).is_some_and(|eni| {
                eni.attachment.as_ref().is_none_or(|a| a.instance == self.node.instance)
            });
            hold!(ours, Converges, "{} does not exist, or is another instance's", eni.id);
        }
        let owner = |eni: &NetworkInterface| eni.tags.get(Scope::INSTANCE_TAG).cloned();
        let forgotten = self.cloud.interfaces().find(|eni| {
            eni.attachment.is_none()
                && owner(eni).as_deref() == Some(self.node.instance.as_str())
                && !self.is_used(eni.id)
                && !self.is_named(eni.id)
        });
        hold!(
            self.is_gated() || forgotten.is_none(),
            NoLeak,
            "{:?} is attached to nothing",
            forgotten.map(|eni| eni.id)
        );
        Ok(())
    }
}
