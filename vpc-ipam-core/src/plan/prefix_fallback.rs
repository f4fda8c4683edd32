//! How single addresses stand in for /28 prefixes where a subnet has none free, and when prefixes are tried again.

use alloc::vec::Vec;

use super::{CardDemand, Planner, WaitingOn, Wanted};
use crate::{BackoffScope, Card, Ipv4Kind, SubnetId};

impl Planner<'_> {
    /// Returns in which pieces a card can get addresses: not in prefixes while no subnet that it could use has one.
    pub(super) fn kind_to_be_had(&self, card: Card, configured: Ipv4Kind) -> Ipv4Kind {
        if configured == Ipv4Kind::Addresses {
            return configured;
        }
        let without = |(subnet, own): (SubnetId, u32)| self.prefixes_wait(subnet, own).is_some();
        let filled = self.pool.enis().iter().filter(|eni| eni.card == card);
        let of_enis = filled
            .filter(|eni| self.eligibility.takes_pods(eni) && self.room(eni) > 0)
            .map(|eni| (eni.subnet, 0));
        let of_new = if self.eni_room(card).is_ok() { self.subnets_for_enis() } else { Vec::new() };
        let of_new = of_new.into_iter().map(|subnet| (subnet, 1));
        let mut subnets = of_enis.chain(of_new).peekable();
        if subnets.peek().is_some() && subnets.all(without) {
            Ipv4Kind::Addresses
        } else {
            Ipv4Kind::Prefixes
        }
    }

    /// Returns how many single addresses may stand in for prefixes: all that leave one slot free, so that a prefix can be tried
    /// again without giving any of them up; or those that pods wait for, unless prefixes were refused once and not again.
    pub(super) fn slots_for_stand_ins(&self, on: CardDemand) -> u32 {
        if on.kind == Ipv4Kind::Prefixes || self.eligibility.ipv4 != Some(Ipv4Kind::Prefixes) {
            return u32::MAX;
        }
        let backoff = &self.calls.backoff;
        let enis = self.pool.enis().iter().filter(|eni| eni.card == on.card);
        let mut subnets = enis.map(|eni| eni.subnet).chain(self.subnets_for_enis());
        let refused_once =
            subnets.any(|id| backoff.in_a_row(BackoffScope::SubnetPrefixes(id)) == 1);
        let awaited = if refused_once { 0 } else { u32::try_from(-on.stock.free()).unwrap_or(0) };
        self.slots_free(on.card).saturating_sub(1).max(awaited)
    }

    /// Returns how many further blocks a card takes, on the ENIs it has and on new ones.
    pub(super) fn slots_free(&self, card: Card) -> u32 {
        let enis = self.pool.enis().iter().filter(|eni| eni.card == card);
        let serving = enis.filter(|eni| self.eligibility.takes_pods(eni));
        let new = self.eni_room(card).unwrap_or(0) * u32::from(self.slots);
        serving.map(|eni| self.room(eni)).sum::<u32>() + new
    }

    /// Notes that more addresses have to wait until a subnet has a free prefix.
    pub(super) fn hold_for_prefixes(&mut self, card: Card, wanted: Wanted) {
        let of_enis = self.pool.enis().iter().filter(|eni| eni.card == card);
        let of_enis = of_enis.map(|eni| (eni.subnet, 0));
        let of_new = self.subnets_for_enis().into_iter().map(|subnet| (subnet, 1));
        let wait = of_enis.chain(of_new).filter_map(|(id, own)| self.prefixes_wait(id, own));
        if let Some(wait) = wait.min_by_key(WaitingOn::until) {
            self.block(wanted, wait);
        }
    }
}
