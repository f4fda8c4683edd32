//! What to do next, and why: pure, from what is held and what is wanted.
//!
//! The rules are split by what they are about: [`reads`] what has to be asked, [`eni_steps`] the next step of each ENI,
//! [`grow`] and [`shrink`] how the pool follows its target, [`prefix_fallback`] when single addresses stand in for /28 prefixes,
//! [`subnet`] where a new ENI goes, [`upkeep`] what an ENI should have besides addresses.

pub(crate) mod backoff;
pub(crate) mod budget;
pub(crate) mod calls;
pub(crate) mod client_tokens;
pub(crate) mod conditions;
pub(crate) mod demand;
mod eni_steps;
mod eni_tags;
mod grow;
pub(crate) mod learned;
mod prefix_fallback;
pub(crate) mod questions;
mod reads;
mod reason;
mod shrink;
mod subnet;
mod upkeep;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::model::action::PREFIX_SIZE;
use crate::plan::backoff::{about, gates, of_eni};
use crate::plan::budget::Spent;
use crate::plan::calls::CallLimiter;
use crate::plan::client_tokens::ClientTokens;
use crate::plan::learned::Learned;
use crate::plan::questions::Reads;
use crate::pool::surroundings::Surroundings;
use crate::pool::{Block, Ec2Call, Ec2CallKind, Eligibility, Eni, Pool, Stage};
use crate::{
    Action, BackoffScope, Card, Conditions, Config, Cooling, Demand, DeviceIndex, Ec2Action,
    Ec2Operation, EniId, EniLink, HostAction, Ipv4Amount, Ipv4Kind, Limits, Node, Question, Stock,
    SubnetId, SubnetRanges, Timestamp, Timing, WarmTarget, demand,
};

pub use self::reason::{Because, Blocked, EniLimit, Planned, WaitingOn, Wanted};
pub(crate) use self::subnet::is_excluded;

/// What to do next, and why, and what is blocked, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "a plan changes nothing; its actions have to be carried out"]
#[non_exhaustive]
pub struct Plan {
    /// How far each network card is from its target.
    pub demand: Vec<CardDemand>,
    /// What to do now; at most one EC2 call for each ENI.
    pub actions: Vec<Planned>,
    /// What is wanted but has to wait.
    #[cfg_attr(feature = "serde", serde(alias = "held"))]
    pub blocked: Vec<Blocked>,
}

/// How far one network card is from its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CardDemand {
    /// The card that is compared.
    pub card: Card,
    /// What counts on it.
    pub target: WarmTarget,
    /// In which pieces: the configured ones, or single addresses where no subnet has a free prefix.
    pub kind: Ipv4Kind,
    /// What the card holds, with what is on its way.
    pub stock: Stock,
    /// How far that is from the target.
    pub demand: Demand,
}

impl Plan {
    /// Returns the earliest time at which something that is blocked may go.
    pub fn next_due(&self) -> Option<(Timestamp, WaitingOn)> {
        let due = self
            .blocked
            .iter()
            .filter_map(|blocked| Some((blocked.waiting_on.until()?, blocked.waiting_on.clone())));
        due.min_by_key(|(until, _)| *until)
    }
}

/// Everything that a plan follows from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) config: &'a Config,
    pub(crate) limits: &'a Limits,
    pub(crate) node: &'a Node,
    pub(crate) conditions: &'a Conditions,
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) reads: &'a Reads,
    pub(crate) learned: &'a Learned,
    pub(crate) calls: &'a CallLimiter,
    pub(crate) tokens: ClientTokens,
    pub(crate) now: Timestamp,
}

/// Returns what to do next on a node, and why. The same inputs give the same plan.
///
/// The whole shortage is planned at once, waiting pods included; growing and shrinking exclude each other.
pub(crate) fn plan(inputs: Inputs<'_>) -> Plan {
    let Inputs { pool, config, limits, node, conditions, surroundings, .. } = inputs;
    let Inputs { reads, learned, calls, tokens, now, .. } = inputs;
    let mut planner = Planner {
        pool,
        config,
        limits,
        node,
        conditions,
        surroundings,
        reads,
        learned,
        calls,
        tokens,
        now,
        eligibility: Eligibility::new(config, limits),
        slots: learned.new_eni_slots(now).unwrap_or(u16::MAX).min(limits.ipv4_slots()),
        timing: config.timing.usable(),
        asked: BTreeMap::new(),
        spent: None,
        created: Vec::new(),
        busy: Vec::new(),
        plan: Plan::default(),
    };
    planner.reads();
    planner.eni_steps();
    planner.cards();
    // What serves pods comes before what does not: an ENI has one EC2 call at a time.
    planner.upkeep();
    planner.plan
}

/// A plan in the making.
struct Planner<'a> {
    pool: &'a Pool,
    config: &'a Config,
    limits: &'a Limits,
    node: &'a Node,
    conditions: &'a Conditions,
    surroundings: &'a Surroundings,
    reads: &'a Reads,
    learned: &'a Learned,
    calls: &'a CallLimiter,
    tokens: ClientTokens,
    now: Timestamp,
    eligibility: Eligibility,
    /// How many IPv4 blocks a new ENI takes, as the type promises or EC2 taught.
    slots: u16,
    timing: Timing,
    /// How many IPv4 addresses this plan asks of each subnet.
    asked: BTreeMap<SubnetId, u32>,
    /// The budget as it will be spent once the plan is carried out; `None` while it spends nothing.
    spent: Option<Spent>,
    /// The slots that this plan fills with new ENIs.
    created: Vec<(Card, DeviceIndex)>,
    /// The ENIs for which this plan already makes an EC2 call.
    busy: Vec<EniId>,
    plan: Plan,
}

impl Planner<'_> {
    /// Compares each network card with its target and lets it grow or shrink.
    fn cards(&mut self) {
        let unknown = self.reads.attached.answered.is_none();
        // Where EC2 does not say what there is, the primary ENI may be known by IMDS, and can get addresses.
        if unknown && self.pool.enis().is_empty() {
            let wanted = Wanted::Addresses { card: Card(0) };
            self.block(wanted.clone(), WaitingOn::FirstObservation);
            if let Some(gate) = self.growth_gate() {
                self.block(wanted, gate);
            }
            return;
        }
        let Some(configured) = self.eligibility.ipv4 else {
            self.ipv6_cards();
            return;
        };
        for card in self.pool.cards_in_use(self.config.multi_nic, self.limits) {
            let kind = self.kind_to_be_had(card, configured);
            let target = self.config.target_of(card, self.limits);
            let stock = self.stock(card, kind, kind != configured);
            let mut demand = demand(target, kind, stock, self.slots);
            if demand == Demand::Met
                && stock.free() <= 0
                && self.calls.does_growth_fail()
                && !self.has_trusted_room(card)
                && !self.has_trusted_slot(card)
            {
                // Whether the next pod can be served has to be found out, or the node would be called not ready for ever.
                demand = Demand::Short(1);
            }
            let on_card = CardDemand { card, target, kind, stock, demand };
            self.plan.demand.push(on_card);
            self.shrink(on_card);
            if let Demand::Short(blocks) = demand {
                self.grow(on_card, blocks);
            }
            self.fill_enis_waited_for(on_card);
        }
    }

    /// Returns whether an ENI serves pods, or will by steps of which none is stuck.
    fn serves_in_time(&self, eni: &Eni) -> bool {
        let backoff = &self.calls.backoff;
        let stuck =
            |operation| of_eni(eni.id, operation).into_iter().any(|scope| backoff.is_stuck(scope));
        let unconfirmed =
            eni.unconfirmed.is_some() && self.calls.is_question_stuck(Question::Unconfirmed);
        let way = match eni.stage {
            Stage::Ready => true,
            Stage::Attached => !self.link_is_missing(eni),
            Stage::Available => {
                !stuck(Ec2Operation::AttachNetworkInterface)
                    && !unconfirmed
                    && !self.link_is_missing(eni)
            }
            Stage::Removing(_) => false,
        };
        way && (!self.eligibility.ipv6 || has_ipv6(eni) || !self.lacks_ipv6_for_long(eni))
    }

    /// Returns whether EC2 refuses an ENI its IPv6 prefix for so long that another one should serve pods.
    fn lacks_ipv6_for_long(&self, eni: &Eni) -> bool {
        /// An ENI more is a high price for a refusal that may pass.
        const PATIENCE: Duration = Duration::from_secs(60);
        let backoff = &self.calls.backoff;
        let mut scopes = of_eni(eni.id, Ec2Operation::AssignIpv6Addresses)
            .into_iter()
            .chain([BackoffScope::SubnetIpv6(eni.subnet)]);
        scopes.any(|scope| {
            let since = backoff.failing_since(scope);
            backoff.is_stuck(scope) && since.is_some_and(|since| since + PATIENCE <= self.now)
        })
    }

    /// Returns whether the node tries for so long to set an ENI up that nothing may be built on it.
    fn link_is_missing(&self, eni: &Eni) -> bool {
        // Links appear within 5 s as a rule; an executor may wait for 10 s before it says that one is missing.
        const PATIENCE: Duration = Duration::from_secs(15);
        let since = self.calls.backoff.failing_since(BackoffScope::SetUp(eni.id));
        since.is_some_and(|since| since + PATIENCE <= self.now)
    }

    /// Counts what a card holds, with what is on its way. In the mode of single addresses prefixes are not counted, nor
    /// the reverse, unless both kinds serve because no prefix can be had.
    fn stock(&self, card: Card, kind: Ipv4Kind, both_kinds: bool) -> Stock {
        let horizon = match self.config.cooling {
            Cooling::ReadyWithin(horizon) => Some(horizon),
            Cooling::All => None,
        };
        let prefixes = kind == Ipv4Kind::Prefixes;
        let mut stock = Stock::default();
        for eni in self.pool.enis().iter().filter(|eni| eni.card == card) {
            if !self.eligibility.takes_pods(eni) || !self.serves_in_time(eni) {
                continue;
            }
            self.count_blocks(eni, prefixes, both_kinds, horizon, &mut stock);
            match eni.ec2_call {
                Some(Ec2Call {
                    kind: Ec2CallKind::AssignIpv4 { blocks, prefixes: kind }, ..
                }) if kind == prefixes || both_kinds => add_blocks(&mut stock, blocks, kind),
                _ => {}
            }
        }
        for creation in self.pool.creations().values().filter(|creation| creation.card == card) {
            match creation.request.ipv4 {
                Ipv4Amount::Addresses(n) if !prefixes => add_blocks(&mut stock, n.into(), false),
                Ipv4Amount::Prefixes(n) if prefixes || both_kinds => {
                    add_blocks(&mut stock, n.into(), true);
                }
                Ipv4Amount::Addresses(_) | Ipv4Amount::Prefixes(_) => {}
            }
        }
        stock.waiting = match card {
            Card(0) => self.conditions.waiting,
            Card(_) => self.conditions.waiting_every_card,
        };
        stock
    }

    fn count_blocks(
        &self,
        eni: &Eni,
        prefixes: bool,
        both_kinds: bool,
        horizon: Option<Duration>,
        stock: &mut Stock,
    ) {
        let tallies = eni.tallies();
        let kinds = [(tallies.addresses, false), (tallies.prefixes, true)];
        for (tally, of_prefixes) in kinds {
            if of_prefixes != prefixes && !both_kinds {
                continue;
            }
            stock.total += tally.addresses;
            stock.assigned += tally.used;
            if prefixes && of_prefixes {
                stock.prefixes += tally.blocks;
                stock.prefixes_free += tally.blocks_free;
            }
        }
        if let Some(horizon) = horizon {
            let counts = |block: &Block| {
                let ipv4 = matches!(block.net(), ipnet::IpNet::V4(_));
                ipv4 && !block.is_releasing() && (block.is_prefix() == prefixes || both_kinds)
            };
            stock.cooling += eni.cooling_of(counts, self.now, self.eligibility.cooldown, horizon);
        }
    }

    /// Returns how many further IPv4 blocks an ENI takes.
    fn room(&self, eni: &Eni) -> u32 {
        let learned = self.learned.eni_slots(eni.id, self.now).unwrap_or(u16::MAX);
        u32::from(self.limits.ipv4_slots().min(learned)).saturating_sub(eni.ipv4_slots_used())
    }

    /// Returns how many ENIs a card takes as far as EC2 is concerned, and whether it taught that by a refusal.
    fn enis_of_type(&self, card: Card) -> (u8, bool) {
        let of_type = self.limits.enis(card);
        match self.learned.enis(card, self.now) {
            Some(most) if most < of_type => (most, true),
            _ => (of_type, false),
        }
    }

    /// Returns how many ENIs a card may have.
    fn enis_most(&self, card: Card) -> u8 {
        let (of_type, _) = self.enis_of_type(card);
        self.config.enis_max.map_or(of_type, |most| most.min(of_type))
    }

    /// Returns how many further ENIs a card takes, or what forbids any.
    fn eni_room(&self, card: Card) -> Result<u32, EniLimit> {
        let (of_type, learned) = self.enis_of_type(card);
        let most = self.enis_most(card);
        let enis = || self.pool.enis().iter().filter(|eni| eni.card == card);
        let held = enis().filter(|eni| eni.occupies_slot() && eni.has_slot());
        let coming =
            self.pool.creations().values().filter(|creation| creation.card == card).count()
                + self.created.iter().filter(|(c, _)| *c == card).count();
        let has_trunk = || enis().any(|eni| eni.interface_type == crate::InterfaceType::Trunk);
        let for_trunk = self.config.trunk
            && card == Card(0)
            && self.limits.branch_enis != Some(0)
            && !has_trunk();
        let room = usize::from(most)
            .saturating_sub(held.count() + coming)
            .saturating_sub(usize::from(for_trunk));
        match u32::try_from(room) {
            Ok(0) | Err(_) if most < of_type => Err(EniLimit::MaxEni(most)),
            Ok(0) | Err(_) if for_trunk => Err(EniLimit::KeptForTrunk(most)),
            Ok(0) | Err(_) if learned => Err(EniLimit::Refused(of_type)),
            Ok(0) | Err(_) => Err(EniLimit::InstanceType(of_type)),
            Ok(room) => Ok(room),
        }
    }

    /// Returns the link of an ENI as the node needs to know it, unless its subnet was not seen yet.
    fn link(&self, eni: &Eni) -> Option<EniLink> {
        // What was set up for it is found without.
        let unknown = eni.is_removing().then(SubnetRanges::default);
        let subnet = self.surroundings.subnets.ranges_of(eni.subnet).or(unknown)?;
        // A node whose pods have none may have IPv6 switched off.
        let ipv6 = self.config.families.ipv6();
        Some(EniLink {
            eni: eni.id,
            mac: eni.mac,
            card: eni.card,
            device: eni.device,
            trunk: eni.interface_type == crate::InterfaceType::Trunk,
            primary_ipv4: eni.primary_ipv4,
            primary_ipv6: eni.primary_ipv6.filter(|_| ipv6),
            subnet_ipv4: subnet.ipv4,
            subnet_ipv6: subnet.ipv6.filter(|_| ipv6),
            mtu: self.config.eni_mtu,
        })
    }

    /// Adds an EC2 call to the plan, unless the budget or an earlier failure holds it back.
    fn call(
        &mut self,
        action: Ec2Action,
        about: Option<EniId>,
        wanted: Wanted,
        because: Because,
    ) -> bool {
        let Some(operation) = action.operation() else {
            self.plan.actions.push(Planned { action: Action::Ec2(action), because });
            return true;
        };
        if let Some(wait) = self.wait_of(&action) {
            self.block(wanted, wait);
            return false;
        }
        let budget = &self.calls.budget;
        let spent = self.spent.as_ref().unwrap_or(&self.calls.spent);
        let ready_at = spent.ready_at(budget, operation, 1, self.now);
        if ready_at > self.now {
            self.block(wanted, WaitingOn::Budget { operation, until: ready_at });
            return false;
        }
        let spent = self.spent.get_or_insert_with(|| self.calls.spent.clone());
        spent.on_call(budget, operation, self.now);
        self.busy.extend(about);
        self.plan.actions.push(Planned { action: Action::Ec2(action), because });
        true
    }

    /// Returns what an action has to wait for because something failed, if it has to: of several, what ends last.
    fn wait_of(&self, action: &Ec2Action) -> Option<WaitingOn> {
        let eni = about(action).and_then(|eni| self.pool.eni(eni));
        let waits = gates(action, eni.map(|eni| eni.subnet))
            .filter_map(|scope| self.calls.backoff.wait(scope, self.now));
        waits.max_by_key(WaitingOn::until)
    }

    /// Adds a change of the node's own network to the plan, unless an earlier failure holds it back.
    fn plan_host_action(
        &mut self,
        eni: EniId,
        action: HostAction,
        wanted: Wanted,
        because: Because,
    ) -> bool {
        let scope = match &action {
            HostAction::SetUpEni(_) => BackoffScope::SetUp(eni),
            HostAction::RemoveEni(_) => BackoffScope::TearDown(eni),
        };
        if let Some(wait) = self.calls.backoff.wait(scope, self.now) {
            self.block(wanted, wait);
            return false;
        }
        self.plan.actions.push(Planned { action: Action::Host(action), because });
        true
    }

    fn block(&mut self, wanted: Wanted, waiting_on: WaitingOn) {
        let held = Blocked { wanted, waiting_on };
        if !self.plan.blocked.contains(&held) {
            self.plan.blocked.push(held);
        }
    }

    /// Returns what an ENI's EC2 calls have to wait for, if anything.
    fn waits_for(&self, eni: &Eni) -> Option<WaitingOn> {
        if let Some(call) = &eni.ec2_call {
            return Some(WaitingOn::Outcome(call.id));
        }
        if self.busy.contains(&eni.id) {
            return Some(WaitingOn::StepBefore(eni.id));
        }
        eni.unconfirmed
            .map(|unconfirmed| WaitingOn::Observation { eni: eni.id, cause: unconfirmed.cause })
    }

    /// Returns what forbids acquiring anything, if something does.
    fn growth_gate(&self) -> Option<WaitingOn> {
        if !self.config.provisioning {
            Some(WaitingOn::ProvisioningOff)
        } else if self.conditions.terminating {
            Some(WaitingOn::Terminating)
        } else if !self.conditions.schedulable && !self.config.manage_unschedulable {
            Some(WaitingOn::Unschedulable)
        } else {
            None
        }
    }

    /// Where pods get IPv6 alone, one ENI a card with one prefix serves them all.
    fn ipv6_cards(&mut self) {
        for card in self.pool.cards_in_use(self.config.multi_nic, self.limits) {
            let mut enis = self.pool.enis().iter().filter(|eni| eni.card == card);
            let there = enis
                .any(|eni| self.eligibility.takes_pods(eni) && self.serves_in_time(eni))
                || self.pool.creations().values().any(|creation| creation.card == card);
            if there {
                continue;
            }
            let gate = self.growth_gate();
            if let Some(waiting_on) = gate.or_else(|| self.subnets_first()) {
                self.block(Wanted::Eni { card }, waiting_on);
            } else {
                self.create_enis(card, &[Ipv4Amount::Addresses(0)], Because::NoEniOnCard { card });
            }
        }
    }
}

/// Returns whether an ENI has a prefix of IPv6 for pods.
fn has_ipv6(eni: &Eni) -> bool {
    eni.blocks().iter().any(|block| matches!(block.net(), ipnet::IpNet::V6(_)))
}

fn add_blocks(stock: &mut Stock, blocks: u32, prefixes: bool) {
    if prefixes {
        stock.total += blocks * PREFIX_SIZE;
        stock.prefixes += blocks;
        stock.prefixes_free += blocks;
    } else {
        stock.total += blocks;
    }
}

/// Returns whether the ENI's link is set up, or need not be.
fn is_ready(eni: &Eni) -> bool {
    eni.stage == Stage::Ready
}
