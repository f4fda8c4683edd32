use alloc::vec::Vec;

use ipnet::IpNet;

use crate::testkit::driver::Driver;
use crate::testkit::rule::{Breach, Rule, hold};
use crate::{BlockState, Demand, InterfaceType, Ipv4Kind, Scope, Stage, WaitingOn, Wanted};

/// The rules of a node that was left alone with a healthy cloud.
impl Driver {
    /// Checks what must hold once everything has settled.
    pub(in crate::testkit::driver) fn check_converged(&self) -> Result<(), Breach> {
        let plan = self.ipam.plan(self.now);
        let waiting = self.ipam.waiting().count();
        hold!(waiting == 0, Answered, "{waiting} pods wait for ever");
        for eni in self.ipam.pool().enis() {
            hold!(
                eni.unconfirmed.is_none() || !eni.is_managed(),
                Converges,
                "{} is unconfirmed for ever",
                eni.id
            );
            for block in eni.blocks().iter().filter(|_| eni.is_managed()) {
                hold!(
                    !block.is_releasing(),
                    ReleasesEnd,
                    "{} is being released for ever",
                    block.net()
                );
                hold!(
                    block.state() == BlockState::Confirmed,
                    Converges,
                    "{} is {:?} for ever",
                    block.net(),
                    block.state()
                );
            }
            let under_way = matches!(eni.stage, Stage::Ready) || !eni.is_managed();
            let gated = self.terminating
                || !self.config.provisioning
                || (!self.schedulable && !self.config.manage_unschedulable);
            let waits = self.is_used(eni.id) || self.is_named(eni.id);
            hold!(under_way || gated || waits, Converges, "{} is {:?} for ever", eni.id, eni.stage);
        }
        self.check_truth()?;
        for on_card in &plan.demand {
            let held: Vec<_> = plan.blocked.iter().collect();
            let card = on_card.card;
            match on_card.demand {
                Demand::Met => {}
                Demand::Short(_) => {
                    let reason = held.iter().any(|held| {
                        matches!(held.wanted, Wanted::Addresses { card: of } | Wanted::Eni { card: of } if of == card)
                            && !matches!(held.waiting_on, WaitingOn::Outcome(_) | WaitingOn::Observation { .. })
                    });
                    hold!(reason, Converges, "{on_card:?} and nothing says why: {held:?}");
                }
                Demand::Over(_) => {
                    // EC2 goes on refusing what the surplus is on, and the plan says so.
                    let failing = held.iter().any(|held| {
                        held.wanted == Wanted::FewerAddresses { card }
                            && matches!(held.waiting_on, WaitingOn::Backoff { .. })
                    });
                    let idle =
                        self.ipam.pool().enis().iter().filter(|eni| eni.card == card).any(|eni| {
                            eni.is_managed()
                                && !eni.excluded
                                && eni.blocks().iter().any(|block| {
                                    matches!(block.net(), IpNet::V4(_))
                                        && block.is_idle(self.now, self.config.cooldown)
                                        && block.is_prefix() == (on_card.kind == Ipv4Kind::Prefixes)
                                })
                                && eni.interface_type != InterfaceType::Trunk
                                && !(self.config.custom_networking && eni.is_primary())
                        });
                    hold!(
                        !idle || !self.config.provisioning || failing,
                        Converges,
                        "{on_card:?} stays: {held:?}"
                    );
                }
            }
        }
        Ok(())
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
            let shown = crate::ObservedEni::from(truth);
            let mut blocks: Vec<IpNet> = shown.blocks.iter().map(IpNet::trunc).collect();
            blocks.sort_unstable();
            let known: Vec<IpNet> = eni.blocks().iter().map(crate::Block::net).collect();
            hold!(blocks == known, Converges, "{id} has {blocks:?}, known are {known:?}");
        }
        for eni in self.ipam.pool().enis() {
            let ours = self.cloud.interface(&eni.id).is_some_and(|eni| {
                eni.attachment.as_ref().is_none_or(|a| a.instance == self.node.instance)
            });
            hold!(ours, Converges, "{} does not exist, or is another instance's", eni.id);
        }
        let gated = self.terminating
            || !self.config.provisioning
            || (!self.schedulable && !self.config.manage_unschedulable);
        let owner = |eni: &crate::sim::NetworkInterface| eni.tags.get(Scope::INSTANCE_TAG).cloned();
        let forgotten = self.cloud.interfaces().find(|eni| {
            eni.attachment.is_none()
                && owner(eni).as_deref() == Some(self.node.instance.as_str())
                && !self.is_used(eni.id)
                && !self.is_named(eni.id)
        });
        hold!(
            gated || forgotten.is_none(),
            NoLeak,
            "{:?} is attached to nothing",
            forgotten.map(|eni| eni.id)
        );
        Ok(())
    }
}
