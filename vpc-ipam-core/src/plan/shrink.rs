//! Releasing what is too much, and what serves no pod.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Because, CardDemand, Planner, WaitingOn, Wanted, is_ready};
use crate::plan::backoff::{gates, is_step_of_new_eni};
use crate::pool::{Block, Ec2Call, Ec2CallKind, Eni};
use crate::{
    AssignPrivateIpAddresses, BackoffScope, Card, Demand, Ec2Action, Ec2Operation, EniId,
    HostAction, InterfaceType, Ipv4Amount, Ipv4Kind, Stock, SubnetId, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses, WarmTarget, demand,
};

impl Planner<'_> {
    /// Releases what a card has too much, whole ENIs before single blocks, and in any case what serves no pod: ENIs and
    /// blocks of a subnet that was taken out of use, blocks of the mode that was left.
    pub(super) fn shrink(&mut self, on: CardDemand) {
        if !self.config.provisioning {
            return;
        }
        let enis: Vec<&Eni> = self
            .pool
            .enis()
            .iter()
            .filter(|eni| eni.card == on.card && eni.is_managed() && !eni.is_removing())
            .collect();
        let mut surplus = Surplus {
            stock: on.stock,
            blocks: match on.demand {
                Demand::Over(blocks) => blocks,
                Demand::Met | Demand::Short(_) => 0,
            },
        };
        self.await_cooldown(on, &enis);
        // A call under way is counted, and may fail.
        let coming = if surplus.blocks > 0 { self.coming(on.card) } else { None };
        if let Some(call @ WaitingOn::Outcome(_)) = coming {
            self.block(Wanted::FewerAddresses { card: on.card }, call);
            surplus.blocks = 0;
        }
        let freed = self.free_enis(on, &enis, &mut surplus);
        let stay = enis.into_iter().filter(|eni| !freed.contains(&eni.id)).collect();
        self.release_blocks(on, stay, surplus.blocks);
    }

    /// Notes until when addresses cool that will be too much then, so that the plan is made again then.
    fn await_cooldown(&mut self, on: CardDemand, enis: &[&Eni]) {
        let cooled = Stock { cooling: 0, ..on.stock };
        let later = demand(on.target, on.kind, cooled, self.slots);
        if !matches!(later, Demand::Over(_)) {
            return;
        }
        let serving = enis.iter().filter(|eni| self.eligibility.takes_pods(eni));
        let blocks = serving.flat_map(|eni| self.counted(on.kind, eni));
        let ends = blocks.filter_map(|block| block.cooled_at(self.now, self.eligibility.cooldown));
        if let Some(until) = ends.min() {
            self.block(Wanted::FewerAddresses { card: on.card }, WaitingOn::Cooling { until });
        }
    }

    /// Frees ENIs that are not in use, the highest device index first. Returns them, and those that go once they are old
    /// enough and nothing of them cools.
    fn free_enis(&mut self, on: CardDemand, enis: &[&Eni], surplus: &mut Surplus) -> Vec<EniId> {
        let mut freed = Vec::new();
        for eni in enis.iter().rev() {
            if !is_ready(eni) || eni.assigned() > 0 || !self.is_ours_to_remove(eni) {
                continue;
            }
            let after = if eni.excluded { *surplus } else { self.without(on.kind, *surplus, eni) };
            let because = if eni.excluded {
                Because::Excluded
            } else if self.is_dispensable(on, eni, *surplus, after) {
                Because::NotNeeded { card: on.card, target: on.target, stock: surplus.stock }
            } else {
                continue;
            };
            let wanted = Wanted::FreeEni(eni.id);
            if let Some(waiting_on) = self.keeps_from_freeing(on.card, eni) {
                if let WaitingOn::Time { .. } | WaitingOn::Cooling { .. } = waiting_on {
                    // Freed once it is old enough, unless releasing blocks elsewhere reaches the target first.
                    freed.push(eni.id);
                    *surplus = after;
                }
                self.block(wanted, waiting_on);
                continue;
            }
            let Some(link) = self.link(eni) else {
                self.block(wanted, WaitingOn::Subnets);
                continue;
            };
            if self.plan_host_action(eni.id, HostAction::RemoveEni(link), wanted, because) {
                freed.push(eni.id);
                *surplus = after;
            }
        }
        freed
    }

    /// Returns whether a card meets its target without an ENI. A card other than 0 keeps its last one, without which it
    /// would serve no pod.
    fn is_dispensable(&self, on: CardDemand, eni: &Eni, now: Surplus, after: Surplus) -> bool {
        let met =
            |stock| !matches!(demand(on.target, on.kind, stock, self.slots), Demand::Short(_));
        let last_of_card = on.card != Card(0)
            && !self.pool.enis().iter().any(|other| {
                other.card == on.card && other.id != eni.id && self.eligibility.takes_pods(other)
            });
        // Whole ENIs are the unit of this target, so it has no surplus of single blocks to be held against.
        let within_surplus = match on.target {
            WarmTarget::Enis(_) => true,
            _ => {
                self.counted(on.kind, eni).map(|b| blocks_of(on.kind, b)).sum::<u32>() <= now.blocks
            }
        };
        !matches!(on.demand, Demand::Short(_))
            && !last_of_card
            && within_surplus
            && met(after.stock)
            && self.is_dispensable_as_configured(on, eni)
    }

    /// Where single addresses stand in for prefixes, returns whether a card meets its target without an ENI in prefixes too. If
    /// not, it would be made again as soon as one can be had.
    fn is_dispensable_as_configured(&self, on: CardDemand, eni: &Eni) -> bool {
        match self.eligibility.ipv4 {
            Some(configured) if configured != on.kind => {
                let stock = self.stock(on.card, configured, false);
                let Surplus { stock, .. } =
                    self.without(configured, Surplus { stock, blocks: 0 }, eni);
                !matches!(demand(on.target, configured, stock, self.slots), Demand::Short(_))
            }
            _ => true,
        }
    }

    fn keeps_from_freeing(&self, card: Card, eni: &Eni) -> Option<WaitingOn> {
        let old_enough = eni.since + self.timing.eni_life_min;
        if self.conditions.terminating {
            Some(WaitingOn::Terminating)
        } else if !self.conditions.schedulable && !self.config.manage_unschedulable {
            Some(WaitingOn::Unschedulable)
        } else if let Some(unconfirmed) = self.pool.unconfirmed() {
            Some(WaitingOn::Disagreement(unconfirmed))
        } else if old_enough > self.now {
            Some(WaitingOn::Time { until: old_enough })
        } else if let Some(wait) = self.freeing_backoff(eni) {
            Some(wait)
        } else if let Some(until) = self.cooled_at(eni) {
            Some(WaitingOn::Cooling { until })
        } else if !eni.is_idle(self.now, self.eligibility.cooldown) {
            Some(WaitingOn::Untracked(eni.id))
        } else {
            self.waits_for(eni).or_else(|| self.coming(card).filter(|_| !eni.excluded))
        }
    }

    /// Returns what a card waits for that its stock counts already. Nothing goes on the strength of what may not come.
    fn coming(&self, card: Card) -> Option<WaitingOn> {
        let created = self.pool.creations().iter().find(|(_, creation)| creation.card == card);
        let of_enis = || {
            let enis = self.pool.enis().iter().filter(|eni| eni.card == card);
            enis.filter(|eni| self.eligibility.takes_pods(eni)).find_map(|eni| {
                match &eni.ec2_call {
                    Some(Ec2Call { id, kind: Ec2CallKind::AssignIpv4 { .. } }) => {
                        Some(WaitingOn::Outcome(*id))
                    }
                    _ => (!is_ready(eni) && self.serves_in_time(eni))
                        .then_some(WaitingOn::StepBefore(eni.id)),
                }
            })
        };
        created.map(|(id, _)| WaitingOn::Outcome(*id)).or_else(of_enis)
    }

    /// Releases single blocks: `over` of the kind that counts, from the emptiest secondary ENI first and the primary
    /// last, and all that serve no pod.
    fn release_blocks(&mut self, on: CardDemand, mut enis: Vec<&Eni>, mut over: u32) {
        if over == 0 && !enis.iter().any(|eni| self.may_be_useless(eni)) {
            return;
        }
        enis.sort_by_key(|eni| (eni.is_primary(), eni.assigned(), Reverse((eni.device, eni.id))));
        let mut releases = Vec::new();
        let mut in_the_way = self.other_kind_in_the_way(on, &enis);
        for eni in enis {
            let serves = self.eligibility.takes_pods(eni);
            let most = if serves { in_the_way } else { usize::MAX };
            let mut nets: Vec<IpNet> = self.useless_blocks(on, eni).take(most).collect();
            if serves {
                in_the_way -= nets.len();
            }
            let mut because = if serves { Because::OtherKind } else { Because::Excluded };
            if over > 0 && serves {
                // The highest addresses go, so that those that stay are together.
                let idle = self.countable(on.kind, eni).filter(|block| self.is_idle(block));
                let count = nets.len();
                nets.extend(idle.rev().take(over as usize).map(Block::net));
                over -= (nets.len() - count) as u32;
                if nets.len() > count {
                    because = because_off_target(on);
                }
            }
            if !nets.is_empty() {
                releases.push((eni, nets, because));
            }
        }
        self.release(on.card, releases);
    }

    /// Returns how many blocks of the other kind than the one that counts may go. While something is missing or has yet to
    /// come, they may still help out, unless they take the room.
    fn other_kind_in_the_way(&self, on: CardDemand, enis: &[&Eni]) -> usize {
        match on.demand {
            _ if self.coming(on.card).is_some() => 0,
            Demand::Short(_) if self.has_room(on.card) => 0,
            // Nothing changed since no prefix could be had.
            Demand::Short(_) if enis.iter().all(|eni| self.is_fragmented(eni.subnet)) => 0,
            // One slot is enough to find out whether a prefix can be had.
            Demand::Short(_) if enis.iter().any(|eni| self.lacked_prefixes(eni)) => 1,
            Demand::Short(missing) => missing as usize,
            Demand::Met | Demand::Over(_) => usize::MAX,
        }
    }

    /// Asks EC2 to take blocks of ENIs back, unless something holds that up.
    fn release(&mut self, card: Card, releases: Vec<(&Eni, Vec<IpNet>, Because)>) {
        if releases.is_empty() {
            return;
        }
        let wanted = Wanted::FewerAddresses { card };
        if let Some(eni) = self.pool.unconfirmed() {
            self.block(wanted, WaitingOn::Disagreement(eni));
            return;
        }
        // Strictly more than the spacing, as amazon-vpc-cni-k8s.
        let spacing = self.timing.shrink_spacing + Duration::from_nanos(1);
        let until = self.pool.shrunk_at.map(|at| at + spacing);
        if let Some(until) = until.filter(|until| *until > self.now) {
            self.block(wanted, WaitingOn::Time { until });
            return;
        }
        for (eni, nets, because) in releases {
            match self.waits_for(eni) {
                Some(waiting_on) => self.block(wanted.clone(), waiting_on),
                None => {
                    self.call(unassign(eni.id, nets), Some(eni.id), wanted.clone(), because);
                }
            }
        }
    }

    /// Returns the idle blocks that are to go whatever the target says: all of an ENI that takes no pods, and those of the
    /// mode that was left, unless they stand in for prefixes that the subnet does not have.
    fn useless_blocks<'e>(
        &'e self,
        on: CardDemand,
        eni: &'e Eni,
    ) -> impl Iterator<Item = IpNet> + use<'e> {
        let kept_for_pods = self.eligibility.takes_pods(eni);
        let trunk = eni.interface_type == InterfaceType::Trunk;
        let falls_back = self.eligibility.ipv4.is_some_and(|configured| configured != on.kind)
            || self.prefixes_wait(eni.subnet, 0).is_some();
        eni.blocks()
            .iter()
            .filter(move |block| {
                let other_kind = self.eligibility.is_other_kind(block) && !falls_back;
                !trunk && (!kept_for_pods || other_kind) && self.is_idle(block)
            })
            .map(Block::net)
    }

    /// Returns whether the subnet of an ENI had no free prefix when it was asked last.
    fn lacked_prefixes(&self, eni: &Eni) -> bool {
        self.calls.backoff.has_failed(BackoffScope::SubnetPrefixes(eni.subnet))
    }

    /// Returns whether a subnet has no more free addresses than when none of them made a prefix.
    fn is_fragmented(&self, subnet: SubnetId) -> bool {
        self.surroundings.subnets.fragmented.contains_key(&subnet)
    }

    /// Returns whether an ENI can have useless blocks at all.
    fn may_be_useless(&self, eni: &Eni) -> bool {
        let tallies = eni.tallies();
        let (addresses, prefixes) = (tallies.addresses.held, tallies.prefixes.held);
        let other_kind = match self.eligibility.ipv4 {
            Some(Ipv4Kind::Addresses) => prefixes,
            Some(Ipv4Kind::Prefixes) => addresses,
            None => addresses + prefixes,
        };
        let ipv6 = if self.eligibility.ipv6 { 0 } else { tallies.ipv6.held };
        !self.eligibility.takes_pods(eni) || other_kind + ipv6 > 0
    }

    /// Returns whether a card has room for another block, on an ENI that is there or on a new one.
    pub(super) fn has_room(&self, card: Card) -> bool {
        let mut enis = self.pool.enis().iter().filter(|eni| eni.card == card);
        enis.any(|eni| self.eligibility.takes_pods(eni) && self.room(eni) > 0)
            || self.eni_room(card).is_ok()
    }

    /// Returns whether a card has an ENI with room for a block that nothing that failed speaks against.
    pub(super) fn has_trusted_room(&self, card: Card) -> bool {
        let backoff = &self.calls.backoff;
        let mut enis = self.pool.enis().iter().filter(|eni| eni.card == card && is_ready(eni));
        enis.any(|eni| {
            let amount = Ipv4Amount::Addresses(1);
            let call = AssignPrivateIpAddresses { eni: eni.id, amount };
            let action = Ec2Action::AssignPrivateIpAddresses(call);
            let mut scopes = gates(&action, Some(eni.subnet));
            self.eligibility.takes_pods(eni)
                && self.room(eni) > 0
                && !scopes.any(|scope| backoff.has_failed(scope))
        })
    }

    /// Returns whether a card takes another ENI that nothing that failed speaks against.
    pub(super) fn has_trusted_slot(&self, card: Card) -> bool {
        let backoff = &self.calls.backoff;
        let create = BackoffScope::Operation(Ec2Operation::CreateNetworkInterface);
        let speaks_against = |scope| {
            is_step_of_new_eni(scope) || scope == create || scope == BackoffScope::Card(card)
        };
        let is_trusted = |subnet: &SubnetId| {
            let mut scopes =
                [BackoffScope::Creation(*subnet), BackoffScope::Subnet(*subnet)].into_iter();
            !scopes.any(|scope| backoff.has_failed(scope))
        };
        self.eni_room(card).is_ok()
            && !backoff.failing().any(speaks_against)
            && self.subnets_for_enis().iter().any(is_trusted)
    }

    fn is_idle(&self, block: &Block) -> bool {
        block.is_idle(self.now, self.eligibility.cooldown)
    }

    pub(super) fn cooled_at(&self, eni: &Eni) -> Option<crate::Timestamp> {
        let ends = eni.blocks().iter().map(|b| b.cooled_at(self.now, self.eligibility.cooldown));
        ends.flatten().max()
    }

    /// Returns the blocks of an ENI that count in the stock of a card: of one kind, or of both where single addresses stand
    /// in for prefixes.
    fn counted<'e>(
        &self,
        kind: Ipv4Kind,
        eni: &'e Eni,
    ) -> impl Iterator<Item = &'e Block> + use<'e> {
        let both_kinds = self.eligibility.ipv4 != Some(kind);
        let prefixes = kind == Ipv4Kind::Prefixes;
        eni.blocks().iter().filter(move |block| {
            matches!(block.net(), IpNet::V4(_))
                && !block.is_releasing()
                && (both_kinds || block.is_prefix() == prefixes)
        })
    }

    /// Returns the blocks of an ENI that may go when a card has too many of a kind.
    fn countable<'e>(
        &self,
        kind: Ipv4Kind,
        eni: &'e Eni,
    ) -> impl DoubleEndedIterator<Item = &'e Block> + use<'e> {
        let prefixes = kind == Ipv4Kind::Prefixes;
        eni.blocks().iter().filter(move |block| {
            matches!(block.net(), IpNet::V4(_))
                && !block.is_releasing()
                && block.is_prefix() == prefixes
        })
    }

    /// Returns what is left of a surplus when an ENI without pods goes.
    fn without(&self, kind: Ipv4Kind, surplus: Surplus, eni: &Eni) -> Surplus {
        let Surplus { mut stock, mut blocks } = surplus;
        for block in self.counted(kind, eni) {
            stock.total -= block.capacity().min(stock.total);
            if block.is_prefix() {
                stock.prefixes = stock.prefixes.saturating_sub(1);
                stock.prefixes_free = stock.prefixes_free.saturating_sub(1);
            }
            blocks = blocks.saturating_sub(blocks_of(kind, block));
        }
        Surplus { stock, blocks }
    }
}

/// What a card has, and how many blocks of it are too much, while the plan gives some away.
#[derive(Clone, Copy)]
struct Surplus {
    stock: Stock,
    blocks: u32,
}

/// Returns how many blocks of a kind a block stands for.
fn blocks_of(kind: Ipv4Kind, block: &Block) -> u32 {
    match kind {
        Ipv4Kind::Addresses => block.capacity(),
        Ipv4Kind::Prefixes => 1,
    }
}

fn because_off_target(on: CardDemand) -> Because {
    let CardDemand { card, target, stock, demand, .. } = on;
    Because::OffTarget { card, target, stock, demand }
}

/// One call for each ENI at a time, and one kind of block for each call, since EC2 does not say what it makes of two: the
/// others follow in a later plan.
fn unassign(eni: EniId, mut nets: Vec<IpNet>) -> Ec2Action {
    nets.sort_unstable();
    let length = nets.first().map(IpNet::prefix_len);
    let mut ipv4: Vec<Ipv4Net> = Vec::new();
    let mut ipv6: Vec<Ipv6Net> = Vec::new();
    for net in nets.into_iter().filter(|net| Some(net.prefix_len()) == length) {
        match net {
            IpNet::V4(net) => ipv4.push(net),
            IpNet::V6(net) => ipv6.push(net),
        }
    }
    if ipv4.is_empty() {
        Ec2Action::UnassignIpv6Addresses(UnassignIpv6Addresses { eni, prefixes: ipv6 })
    } else {
        Ec2Action::UnassignPrivateIpAddresses(UnassignPrivateIpAddresses { eni, blocks: ipv4 })
    }
}
