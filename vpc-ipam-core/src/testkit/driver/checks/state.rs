use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::plan::backoff;
use crate::testkit::driver::{Driver, blocks_of};
use crate::testkit::rule::{Breach, Rule, hold};
use crate::{Action, Because, Card, Ec2Action, EniId, Ipv4Amount, Plan, Violation};

/// The rules of every state.
impl Driver {
    /// Checks what must hold of every state.
    pub(in crate::testkit::driver) fn check(&self) -> Result<(), Breach> {
        for violation in self.ipam.check() {
            // What another program took away, or what was given up before the restart, may still be counted when what came instead is counted already.
            let stale = (self.model.meddled || !self.model.lost.is_empty())
                && matches!(
                    violation,
                    Violation::TooManyBlocks { .. }
                        | Violation::TooManyEnis { .. }
                        | Violation::SharedDeviceIndex { .. }
                        | Violation::PrimaryAddressLeased { .. }
                );
            // An ENI that was made for a larger type.
            let large = self.resized && matches!(violation, Violation::TooManyBlocks { .. });
            hold!(stale || large, Counts, "{violation}");
        }
        self.check_leases()?;
        self.check_in_flight()?;
        self.check_plan()
    }

    pub(in crate::testkit::driver) fn check_leases(&self) -> Result<(), Breach> {
        let pool = self.ipam.pool();
        for (key, lease) in self.model.leases.iter().chain(&self.model.granted) {
            let held = pool.lease(key);
            let same = held.is_some_and(|held| held.addresses().eq(lease.addresses()));
            hold!(same, LeasesLast, "{lease:?} is {held:?}");
        }
        for lease in pool.leases() {
            let known = self.model.leases.contains_key(&lease.key)
                || self.model.granted.contains_key(&lease.key);
            hold!(known, LeasesLast, "{lease:?} was never granted");
        }
        Ok(())
    }

    pub(in crate::testkit::driver) fn check_in_flight(&self) -> Result<(), Breach> {
        let mut awaited: Vec<_> = self.ipam.in_flight().map(|(id, _)| id).collect();
        let mut open: Vec<_> = self
            .issued
            .iter()
            .chain(self.posted.iter().map(|(issued, _)| issued))
            .map(|i| i.id)
            .collect();
        // What the executor lost is awaited for a while; what it is late with, no longer.
        awaited.retain(|id| !self.lost.contains(id));
        open.retain(|id| !self.given_up.contains(id));
        awaited.sort_unstable();
        open.sort_unstable();
        hold!(awaited == open, Bookkeeping, "core awaits {awaited:?}, open are {open:?}");
        let mut enis: Vec<EniId> = self
            .ipam
            .in_flight()
            .filter_map(|(_, planned)| match &planned.action {
                Action::Ec2(action) => backoff::about(action),
                Action::Host(_) => None,
            })
            .collect();
        enis.sort_unstable();
        let twice = enis.windows(2).find(|pair| pair[0] == pair[1]);
        hold!(twice.is_none(), Bookkeeping, "two calls under way for {twice:?}");
        Ok(())
    }

    /// Checks that a plan does no more than what the node can hold needs.
    pub(in crate::testkit::driver) fn check_size(&self, plan: &Plan) -> Result<(), Breach> {
        let limits = &self.setup.limits;
        let enis: usize = limits.cards().iter().map(|card| usize::from(limits.enis(*card))).sum();
        let known = self.ipam.pool().enis().len();
        // A question of each kind; a call and a change of the node for each ENI; each creation.
        let most = 5 + 2 * known + enis;
        let actions = plan.actions.len();
        hold!(actions <= most, MinimalPlan, "{actions} actions, {most} at most");
        let mut blocks = 0;
        for planned in &plan.actions {
            blocks += match &planned.action {
                Action::Ec2(Ec2Action::CreateNetworkInterface(call)) => blocks_of(call.ipv4),
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) => blocks_of(call.amount),
                Action::Ec2(_) | Action::Host(_) => 0,
            };
        }
        let most = enis as u32 * u32::from(limits.ipv4_slots());
        hold!(blocks <= most, MinimalPlan, "{blocks} blocks at once, {most} at most");
        Ok(())
    }

    /// Checks that a card does not grow and shrink at once.
    pub(in crate::testkit::driver) fn check_plan(&self) -> Result<(), Breach> {
        let plan = self.ipam.plan(self.now);
        self.check_size(&plan)?;
        let mut grows: BTreeMap<Card, Vec<bool>> = BTreeMap::new();
        let mut shrinks: BTreeMap<Card, Vec<bool>> = BTreeMap::new();
        for planned in &plan.actions {
            let Action::Ec2(action) = &planned.action else { continue };
            match (action, planned.because.clone()) {
                (Ec2Action::AssignPrivateIpAddresses(request), Because::OffTarget { card, .. }) => {
                    grows.entry(card).or_default().push(is_prefixes(request.amount));
                }
                (Ec2Action::CreateNetworkInterface(request), Because::OffTarget { card, .. }) => {
                    grows.entry(card).or_default().push(is_prefixes(request.ipv4));
                }
                (Ec2Action::UnassignPrivateIpAddresses(request), _) => {
                    let serves = self.ipam.pool().eni(request.eni).filter(|eni| !eni.excluded);
                    let Some(eni) = serves else { continue };
                    let kinds = request.blocks.iter().map(|net| net.prefix_len() < 32);
                    shrinks.entry(eni.card).or_default().extend(kinds);
                }
                _ => {}
            }
        }
        for (card, kinds) in &grows {
            let both = shrinks.get(card).into_iter().flatten().any(|kind| kinds.contains(kind));
            let eligibility = !self.config.custom_networking;
            hold!(!both || !eligibility, OneDirection, "{card} grows and shrinks: {plan:?}");
        }
        Ok(())
    }
}

fn is_prefixes(amount: Ipv4Amount) -> bool {
    matches!(amount, Ipv4Amount::Prefixes(_))
}
