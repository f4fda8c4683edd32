//! Getting more addresses.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use ipnet::IpNet;

use super::subnet::addresses_of;
use super::{Because, CardDemand, EniLimit, Planner, WaitingOn, Wanted};
use crate::model::action::PREFIX_SIZE;
use crate::plan::backoff::gates;
use crate::plan::learned::AskedOf;
use crate::pool::{Ec2Call, Ec2CallKind, Eni, Stage};
use crate::{
    Action, ActionId, AssignPrivateIpAddresses, BackoffScope, BlockState, Card,
    CreateNetworkInterface, Demand, Ec2Action, Ec2Operation, EniId, Ipv4Amount, Ipv4Kind, Planned,
    Question, SubnetId, WarmTarget,
};

impl Planner<'_> {
    /// Plans for the whole shortage: room on the ENIs there are first, then new ENIs.
    pub(super) fn grow(&mut self, on: CardDemand, short: u32) {
        let CardDemand { card, kind, .. } = on;
        let wanted = Wanted::Addresses { card };
        if let Some(gate) = self.growth_gate() {
            self.block(wanted, gate);
            return;
        }
        let Some(mut missing) = self.within_max_pods(on, short) else {
            return;
        };
        let before = if self.has_room(card) { self.subnets_first() } else { None };
        if let Some(waiting_on) = before {
            self.block(wanted, waiting_on);
            if self.slots_free(card) < missing {
                // Whatever the subnets have, this is the end.
                let all = EniLimit::InstanceType(self.limits.enis(card));
                let limit = self.eni_room(card).err().unwrap_or(all);
                self.block(Wanted::Eni { card }, WaitingOn::EniLimit(limit));
            }
            return;
        }
        let most = self.slots_for_stand_ins(on);
        if most < missing {
            missing = most;
            self.hold_for_prefixes(card, wanted);
        }
        let because =
            Because::OffTarget { card, target: on.target, stock: on.stock, demand: on.demand };
        self.fill(card, kind, &mut missing, because.clone());
        if missing == 0 {
            return;
        }
        let slots = u32::from(self.slots);
        let whole = matches!(on.target, WarmTarget::Enis(_)) && self.config.pods_max.is_none();
        // One more than there is room for, so that it is said what the limit is.
        let enis_most = self.eni_room(card).unwrap_or(0) as usize + 1;
        let mut amounts = Vec::new();
        while missing > 0 && slots > 0 && amounts.len() < enis_most {
            let blocks = if whole { slots.min(most) } else { missing.min(slots) };
            missing = missing.saturating_sub(blocks);
            amounts.push(amount(kind, u16::try_from(blocks).unwrap_or(self.slots)));
        }
        self.create_enis(card, &amounts, because);
    }

    /// Fills the ENIs of which pods want an address: what is free on others is of no use to them.
    pub(super) fn fill_enis_waited_for(&mut self, on: CardDemand) {
        let CardDemand { card, kind, target, stock, .. } = on;
        let now = self.now;
        for (id, waiting) in &self.conditions.waiting_on_eni {
            let Some(eni) = self.pool.eni(*id) else { continue };
            let asked_for = self.plan.actions.iter().any(|planned| {
                matches!(&planned.action,
                    Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) if call.eni == *id)
            });
            let serves = self.eligibility.takes_pods(eni) && self.serves_in_time(eni);
            if eni.card != card || asked_for || !serves {
                continue;
            }
            let free: u32 = eni
                .blocks()
                .iter()
                .filter(|block| {
                    matches!(block.net(), IpNet::V4(_)) && block.state() == BlockState::Confirmed
                })
                .map(|block| {
                    let cooling = block.cooling(now, self.config.cooldown, Duration::ZERO);
                    let taken = block.assigned() + block.quarantined() + cooling;
                    block.capacity().saturating_sub(taken)
                })
                .sum();
            let short = match kind {
                Ipv4Kind::Addresses => waiting.saturating_sub(free),
                Ipv4Kind::Prefixes => waiting.saturating_sub(free).div_ceil(PREFIX_SIZE),
            };
            let short = short.min(self.room(eni));
            let Some(blocks) = Some(short).filter(|short| *short > 0) else { continue };
            let wanted = Wanted::Addresses { card };
            if let Some(gate) = self.growth_gate() {
                self.block(wanted, gate);
                continue;
            }
            let Some(blocks) = self.within_max_pods(on, blocks) else { continue };
            if let Some(waiting_on) = self.subnets_first() {
                self.block(wanted, waiting_on);
                continue;
            }
            let demand = Demand::Short(blocks);
            self.fill_one(eni, kind, blocks, Because::OffTarget { card, target, stock, demand });
        }
    }

    /// Returns how much of a shortage stays below the number of pods that the node may run, rounded up to whole blocks.
    fn within_max_pods(&mut self, on: CardDemand, short: u32) -> Option<u32> {
        let CardDemand { card, kind, stock, .. } = on;
        let Some(pods_max) = self.config.pods_max.filter(|_| card == Card(0)) else {
            return Some(short);
        };
        let left = pods_max.saturating_sub(stock.total);
        let blocks = match kind {
            Ipv4Kind::Addresses => left,
            Ipv4Kind::Prefixes => left.div_ceil(PREFIX_SIZE),
        };
        if blocks < short {
            self.block(Wanted::Addresses { card }, WaitingOn::MaxPods(pods_max));
        }
        Some(short.min(blocks)).filter(|blocks| *blocks > 0)
    }

    /// Fills the ENIs there are, and lowers `missing` by what they take, now or once they can. Room that was refused, or that
    /// nothing will be known of, is no room.
    fn fill(&mut self, card: Card, kind: Ipv4Kind, missing: &mut u32, because: Because) {
        let mut enis: Vec<&Eni> = self
            .pool
            .enis()
            .iter()
            .filter(|eni| eni.card == card && self.eligibility.takes_pods(eni))
            .filter(|eni| self.serves_in_time(eni))
            .collect();
        enis.sort_by_key(|eni| (!eni.is_primary(), Reverse(eni.ipv4_slots_used()), eni.device));
        for eni in enis {
            let blocks = self.room(eni).min(*missing);
            if blocks > 0 {
                *missing -= self.fill_one(eni, kind, blocks, because.clone());
            }
        }
    }

    /// Asks for so many blocks for an ENI, or as many as there may be. Returns how many it takes, now or once it can.
    fn fill_one(&mut self, eni: &Eni, kind: Ipv4Kind, blocks: u32, because: Because) -> u32 {
        let wanted = Wanted::Addresses { card: eni.card };
        let prefixes = kind == Ipv4Kind::Prefixes;
        let action = |blocks: u16| {
            let amount = amount(kind, blocks);
            Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses { eni: eni.id, amount })
        };
        let backoff = &self.calls.backoff;
        let stuck = gates(&action(1), Some(eni.subnet)).any(|scope| backoff.is_stuck(scope));
        if let Some(wait) = if stuck { self.wait_of(&action(1)) } else { None } {
            self.block(wanted, wait);
            return 0;
        }
        let most = match self.space_for(eni.subnet, kind, 0) {
            Ok(most) => {
                most.min(self.learned.ask_most(AskedOf::Eni(eni.id), self.now).unwrap_or(u16::MAX))
            }
            Err(waiting_on) => {
                self.block(wanted, waiting_on);
                return 0;
            }
        };
        // Room on an ENI that is busy is still room: it is filled next, instead of making another ENI.
        if eni.stage == Stage::Available {
            self.block(wanted, WaitingOn::StepBefore(eni.id));
            return blocks;
        }
        if let Some(waiting_on) = self.waits_for(eni) {
            self.block(wanted, waiting_on.clone());
            let unconfirmed = matches!(waiting_on, WaitingOn::Observation { .. });
            let never = self.calls.is_question_stuck(Question::Unconfirmed);
            return if unconfirmed && never { 0 } else { blocks };
        }
        if self.is_on_trial(eni.subnet, prefixes) {
            if let Some(call) = self.call_into(eni.subnet) {
                self.block(wanted, WaitingOn::Outcome(call));
            }
            return blocks;
        }
        let some = u16::try_from(blocks).unwrap_or(u16::MAX).min(most);
        if self.call(action(some), Some(eni.id), wanted, because) {
            self.on_asked(eni.subnet, addresses_of(amount(kind, some)));
        }
        // What is refused for now at this size is asked for next.
        blocks
    }

    /// Makes ENIs with so much each, as far as the card and the subnets allow.
    pub(super) fn create_enis(&mut self, card: Card, amounts: &[Ipv4Amount], because: Because) {
        let wanted = Wanted::Eni { card };
        if let Some(waiting_on) = self.keeps_from_creating(card) {
            self.block(wanted, waiting_on);
            return;
        }
        for amount in amounts {
            if let Err(waiting_on) = self.create_eni(card, *amount, because.clone()) {
                if let Some(waiting_on) = waiting_on {
                    self.block(wanted, waiting_on);
                }
                return;
            }
        }
    }

    /// Returns what keeps any ENI from being made for a card, if something does.
    fn keeps_from_creating(&self, card: Card) -> Option<WaitingOn> {
        let reads = &self.reads;
        let gate = self.growth_gate();
        if gate.is_some() {
            gate
        } else if reads.attached.answered.is_none() {
            // How many there are is not known.
            Some(WaitingOn::FirstObservation)
        } else if self.config.ec2_reads
            && reads.unattached.answered.is_none()
            && !self.calls.is_question_stuck(Question::Unattached)
        {
            // One that was left from before a restart would do.
            Some(WaitingOn::FirstObservation)
        } else {
            self.calls.backoff.wait(BackoffScope::Card(card), self.now)
        }
    }

    /// Makes an ENI with so much, or as much as there may be; otherwise returns what it has to wait for, unless that is noted
    /// already.
    fn create_eni(
        &mut self,
        card: Card,
        wanted: Ipv4Amount,
        because: Because,
    ) -> Result<(), Option<WaitingOn>> {
        self.eni_room(card).map_err(WaitingOn::EniLimit)?;
        let kind = match wanted {
            Ipv4Amount::Addresses(_) => Ipv4Kind::Addresses,
            Ipv4Amount::Prefixes(_) => Ipv4Kind::Prefixes,
        };
        let (subnet, most) = match wanted {
            // IPv6 alone: it takes its own address and no other of IPv4.
            Ipv4Amount::Addresses(0) => (self.subnet_for_ipv6()?, 0),
            _ => self.subnet_for_eni(kind)?,
        };
        if self.is_on_trial(subnet, kind == Ipv4Kind::Prefixes) {
            return Err(self.call_into(subnet).map(WaitingOn::Outcome));
        }
        if self.is_creation_on_trial(subnet) {
            let under_way = self.pool.creations().keys().next();
            return Err(under_way.map(|id| WaitingOn::Outcome(*id)));
        }
        let limit = EniLimit::InstanceType(self.limits.enis(card));
        let device = self.slot_for_eni(card).ok_or(WaitingOn::EniLimit(limit))?;
        let (Ipv4Amount::Addresses(blocks) | Ipv4Amount::Prefixes(blocks)) = wanted;
        let some = amount(kind, blocks.min(most));
        let request = Ec2Action::CreateNetworkInterface(self.creation(subnet, some));
        if !self.call(request, None, Wanted::Eni { card }, because) {
            self.created.retain(|slot| *slot != (card, device));
            return Err(None);
        }
        self.on_asked(subnet, addresses_of(some).saturating_add(1));
        Ok(())
    }

    /// Returns whether a subnet ran out of addresses when it was asked last, and one call is finding out, in this plan or
    /// under way, whether it has some again. Others would fail with it.
    fn is_on_trial(&self, subnet: SubnetId, prefixes: bool) -> bool {
        let backoff = &self.calls.backoff;
        let asked_of =
            if prefixes { AskedOf::Prefixes(subnet) } else { AskedOf::Addresses(subnet) };
        let failed = backoff.has_failed(BackoffScope::Subnet(subnet))
            || prefixes && backoff.has_failed(BackoffScope::SubnetPrefixes(subnet))
            || self.learned.ask_most(asked_of, self.now).is_some();
        let subnet_of = |eni: EniId| self.pool.eni(eni).map(|eni| eni.subnet);
        let planned = || {
            self.plan.actions.iter().any(|planned| match &planned.action {
                Action::Ec2(Ec2Action::CreateNetworkInterface(call)) => call.subnet == subnet,
                Action::Ec2(Ec2Action::AssignPrivateIpAddresses(call)) => {
                    subnet_of(call.eni) == Some(subnet)
                }
                _ => false,
            })
        };
        failed && (self.call_into(subnet).is_some() || planned())
    }

    /// Returns whether making an ENI failed last, and one call is finding out, in this plan or under way, whether it works again.
    fn is_creation_on_trial(&self, subnet: SubnetId) -> bool {
        let backoff = &self.calls.backoff;
        let operation = BackoffScope::Operation(Ec2Operation::CreateNetworkInterface);
        let ipv6 = self.eligibility.ipv6.then_some(BackoffScope::SubnetIpv6(subnet));
        let mut scopes = [operation, BackoffScope::Creation(subnet)].into_iter().chain(ipv6);
        scopes.any(|scope| backoff.has_failed(scope))
            && (!self.created.is_empty() || !self.pool.creations().is_empty())
    }

    /// Returns a call under way that asks for addresses of a subnet.
    fn call_into(&self, subnet: SubnetId) -> Option<ActionId> {
        let mut creations = self.pool.creations().iter();
        let created = creations.find(|(_, creation)| creation.request.subnet == subnet);
        let mut enis = self.pool.enis().iter().filter(|eni| eni.subnet == subnet);
        created.map(|(id, _)| *id).or_else(|| {
            enis.find_map(|eni| match &eni.ec2_call {
                Some(Ec2Call { id, kind: Ec2CallKind::AssignIpv4 { .. } }) => Some(*id),
                _ => None,
            })
        })
    }

    fn creation(&self, subnet: SubnetId, ipv4: Ipv4Amount) -> CreateNetworkInterface {
        let node = &self.node;
        let groups = self.wanted_groups().unwrap_or_default();
        CreateNetworkInterface {
            client_token: self.client_token(),
            subnet,
            security_groups: groups.to_vec(),
            // amazon-vpc-cni-k8s' tools find its ENIs by this prefix.
            description: alloc::format!("aws-K8S-{}", node.instance),
            tags: self.config.tags_of_new_eni(node, self.now),
            ipv4,
            ipv6_prefixes: u16::from(self.eligibility.ipv6),
        }
    }

    /// Returns a token that no other creation of this node has, those of this plan included.
    fn client_token(&self) -> String {
        let made = |planned: &&Planned| {
            matches!(planned.action, Action::Ec2(Ec2Action::CreateNetworkInterface(_)))
        };
        let repeated = |planned: &&Planned| planned.because == Because::Unanswered;
        let actions = self.plan.actions.iter();
        let asked = actions.filter(|planned| made(planned) && !repeated(planned)).count() as u64;
        self.tokens.next_after(asked)
    }
}

fn amount(kind: Ipv4Kind, blocks: u16) -> Ipv4Amount {
    match kind {
        Ipv4Kind::Addresses => Ipv4Amount::Addresses(blocks),
        Ipv4Kind::Prefixes => Ipv4Amount::Prefixes(blocks),
    }
}
