//! Getting more addresses.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Because, CardDemand, EniLimit, Planner, WaitingOn, Wanted};
use crate::backoff::Culprit;
use crate::demand::PREFIX_SIZE;
use crate::pool::{Ec2Call, Ec2CallKind, Eni, Stage};
use crate::{
    Action, ActionId, AssignPrivateIpAddresses, Card, CreateNetworkInterface, Ec2Action, EniId,
    Ipv4Amount, Ipv4Kind, Planned, SubnetId, WarmTarget, tags,
};

impl Planner<'_> {
    /// Plans for the whole shortage: room on the ENIs there are first, then new ENIs.
    pub(super) fn grow(&mut self, on: CardDemand, short: u32) {
        let CardDemand { card, kind, .. } = on;
        let wanted = Wanted::Addresses { card };
        if let Some(gate) = self.growth_gate() {
            self.hold(wanted, gate);
            return;
        }
        // Which ENIs may be filled depends on their subnets' tags. Where EC2 does not list subnets, it goes without.
        if self.constraints.reads.subnets.answered.is_none() && !self.subnets_fail() {
            self.hold(wanted, WaitingOn::Subnets);
            return;
        }
        let Some(mut missing) = self.within_max_pods(on, short) else {
            return;
        };
        let most = self.places_for_stand_ins(on);
        if most < missing {
            missing = most;
            self.hold_for_prefixes(card, wanted);
        }
        let because =
            Because::OffTarget { card, target: on.target, stock: on.stock, demand: on.demand };
        self.fill(card, kind, &mut missing, because);
        if missing == 0 {
            return;
        }
        let slots = u32::from(self.limits.ipv4_slots());
        let whole = matches!(on.target, WarmTarget::Enis(_)) && self.config.pods_max.is_none();
        let mut amounts = Vec::new();
        while missing > 0 && slots > 0 {
            let blocks = if whole { slots.min(most) } else { missing.min(slots) };
            missing = missing.saturating_sub(blocks);
            // An ENI takes at most 64 blocks.
            amounts.push(amount(kind, blocks as u16));
        }
        self.create_enis(card, &amounts, because);
    }

    /// Returns how many single addresses may stand in for prefixes: those that pods wait for, and all that leave one place
    /// free, so that a prefix can be tried again without giving any of them up.
    fn places_for_stand_ins(&self, on: CardDemand) -> u32 {
        if on.kind == Ipv4Kind::Prefixes || self.serving.ipv4 != Some(Ipv4Kind::Prefixes) {
            return u32::MAX;
        }
        let enis = self.pool.enis().iter().filter(|eni| eni.card == on.card);
        let serving = enis.filter(|eni| self.serving.takes_pods(eni));
        let new = self.eni_room(on.card).unwrap_or(0) * u32::from(self.limits.ipv4_slots());
        let room = serving.map(|eni| self.room(eni)).sum::<u32>() + new;
        let awaited = u32::try_from(-on.stock.free()).unwrap_or(0);
        room.saturating_sub(1).max(awaited)
    }

    /// Notes that more addresses have to wait until a subnet has a free prefix.
    fn hold_for_prefixes(&mut self, card: Card, wanted: Wanted) {
        let of_enis = self.pool.enis().iter().filter(|eni| eni.card == card).map(|eni| eni.subnet);
        let subnets = of_enis.chain(self.subnets_for_enis());
        let waits: Vec<_> =
            subnets.filter_map(|subnet| self.subnet_backoff(subnet, true)).collect();
        if let Some(wait) = waits.into_iter().min_by_key(WaitingOn::until) {
            self.hold(wanted, wait);
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
            self.hold(Wanted::Addresses { card }, WaitingOn::MaxPods(pods_max));
        }
        Some(short.min(blocks)).filter(|blocks| *blocks > 0)
    }

    /// Fills the ENIs there are, and lowers `missing` by what they take, now or once they can.
    fn fill(&mut self, card: Card, kind: Ipv4Kind, missing: &mut u32, because: Because) {
        let mut enis: Vec<&Eni> = self
            .pool
            .enis()
            .iter()
            .filter(|eni| eni.card == card && self.serving.takes_pods(eni))
            .collect();
        enis.sort_by_key(|eni| (!eni.is_primary(), Reverse(eni.ipv4_slots_used()), eni.device));
        for eni in enis {
            let blocks = self.room(eni).min(*missing);
            if blocks == 0 {
                continue;
            }
            let wanted = Wanted::Addresses { card };
            if let Some(wait) = self.subnet_backoff(eni.subnet, kind == Ipv4Kind::Prefixes) {
                self.hold(wanted, wait);
                continue;
            }
            // Room on an ENI that is busy is still room: it is filled next, instead of making another ENI.
            if eni.stage == Stage::Available {
                self.hold(wanted, WaitingOn::StepBefore(eni.id));
            } else if let Some(waiting_on) = self.waits_for(eni) {
                self.hold(wanted, waiting_on);
            } else if self.is_on_trial(eni.subnet, kind == Ipv4Kind::Prefixes) {
                if let Some(call) = self.call_into(eni.subnet) {
                    self.hold(wanted, WaitingOn::Outcome(call));
                }
            } else {
                let action = Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses {
                    eni: eni.id,
                    amount: amount(kind, blocks as u16),
                });
                self.call(action, Some(eni.id), wanted, because);
            }
            *missing -= blocks;
        }
    }

    /// Makes ENIs with so much each, as far as the card and the subnets allow.
    pub(super) fn create_enis(&mut self, card: Card, amounts: &[Ipv4Amount], because: Because) {
        let wanted = Wanted::Eni { card };
        if let Some(gate) = self.growth_gate() {
            self.hold(wanted, gate);
            return;
        }
        // One that was left from before a restart would do.
        if self.config.ec2_reads && self.constraints.reads.unattached.answered.is_none() {
            self.hold(wanted, WaitingOn::FirstObservation);
            return;
        }
        for amount in amounts {
            if let Err(limit) = self.eni_room(card) {
                self.hold(wanted, WaitingOn::EniLimit(limit));
                return;
            }
            let prefixes = matches!(amount, Ipv4Amount::Prefixes(_));
            let subnet = match self.subnet_for_eni(prefixes) {
                Ok(subnet) => subnet,
                Err(waiting_on) => {
                    self.hold(wanted, waiting_on);
                    return;
                }
            };
            if self.is_on_trial(subnet, prefixes) {
                if let Some(call) = self.call_into(subnet) {
                    self.hold(wanted, WaitingOn::Outcome(call));
                }
                return;
            }
            let Some(device) = self.place_for_eni(card) else {
                let limit = EniLimit::InstanceType(self.limits.enis(card));
                self.hold(wanted, WaitingOn::EniLimit(limit));
                return;
            };
            self.refresh_subnets();
            let request = self.creation(subnet, *amount);
            if !self.call(Ec2Action::CreateNetworkInterface(request), None, wanted, because) {
                self.created.retain(|place| *place != (card, device));
                return;
            }
        }
    }

    /// Returns whether a subnet ran out of addresses when it was asked last, and one call is finding out, in this plan or
    /// under way, whether it has some again. Others would fail with it.
    fn is_on_trial(&self, subnet: SubnetId, prefixes: bool) -> bool {
        let backoff = &self.constraints.backoff;
        let failed = backoff.has_failed(Culprit::Subnet(subnet))
            || prefixes && backoff.has_failed(Culprit::SubnetPrefixes(subnet));
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
        let node = &self.constraints.node;
        let groups = match &self.constraints.eni_config {
            Some(config) if self.config.custom_networking && !config.security_groups.is_empty() => {
                &config.security_groups
            }
            _ => &self.constraints.security_groups,
        };
        CreateNetworkInterface {
            client_token: self.client_token(),
            subnet,
            security_groups: groups.clone(),
            // The peer's tools find its ENIs by this prefix.
            description: alloc::format!("aws-K8S-{}", node.instance),
            tags: tags::of_new_eni(node, self.config, self.now),
            ipv4,
            ipv6_prefixes: u16::from(self.serving.ipv6),
        }
    }

    /// Returns a token that no other creation of this node has, before or after a restart: the seed tells runs apart.
    fn client_token(&self) -> String {
        let made = |planned: &&Planned| {
            matches!(planned.action, Action::Ec2(Ec2Action::CreateNetworkInterface(_)))
        };
        let repeated = |planned: &&Planned| planned.because == Because::Unanswered;
        let actions = self.plan.actions.iter();
        let count = actions.filter(|planned| made(planned) && !repeated(planned)).count() as u64
            + self.constraints.tokens;
        alloc::format!("{}-{:016x}-{count}", self.constraints.node.instance, self.constraints.seed)
    }
}

fn amount(kind: Ipv4Kind, blocks: u16) -> Ipv4Amount {
    match kind {
        Ipv4Kind::Addresses => Ipv4Amount::Addresses(blocks),
        Ipv4Kind::Prefixes => Ipv4Amount::Prefixes(blocks),
    }
}
