//! What bears on a plan besides the pool, the configuration and the limits.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::plan::backoff::Backoff;
use crate::plan::budget::Spent;
use crate::{
    ActionId, BackoffScope, Budget, Card, Ec2Operation, EniConfig, EniId, Node, ObservedSubnet,
    Question, RecentFailure, SecurityGroupId, SubnetId, SubnetRanges, Timestamp,
};

/// What bears on a plan besides the pool, the configuration and the limits: the node's state, what failed lately, what
/// was asked when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraints {
    /// The node.
    pub node: Node,
    /// Whether pods may be scheduled on the node; a cordoned node neither grows nor frees ENIs, unless configured to.
    pub schedulable: bool,
    /// Whether the node is going away: nothing is acquired any more.
    pub terminating: bool,
    /// How many pods wait for an address, on any network card, besides those that wait for the one they have.
    pub waiting: u32,
    /// How many of them want an address on every network card.
    pub waiting_every_card: u32,
    /// Where new ENIs go under custom networking; `None` until it is known.
    pub eni_config: Option<EniConfig>,
    /// The rates at which EC2 may be called.
    pub budget: Budget,
    /// The subnets of the VPC and zone, as last seen.
    pub(crate) subnets: Subnets,
    /// The primary ENI's security groups, as last seen.
    pub(crate) security_groups: Vec<SecurityGroupId>,
    pub(crate) spent: Spent,
    pub(crate) backoff: Backoff,
    /// When addresses were last released.
    pub(crate) shrunk_at: Option<Timestamp>,
    pub(crate) reads: Reads,
    /// What EC2 refused that the limits of the type promise.
    pub(crate) learned: Learned,
    /// How much may be asked at a time, after more was refused.
    pub(crate) asks: BTreeMap<AskedOf, Ask>,
    /// Counts the ENIs asked for, so that each has a client token of its own.
    pub(crate) tokens: u64,
    pub(crate) seed: u64,
}

/// The subnets of the VPC and zone, as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subnets {
    pub(crate) list: Vec<ObservedSubnet>,
    /// Of those of the node's ENIs, as IMDS tells them.
    pub(crate) ranges: BTreeMap<SubnetId, SubnetRanges>,
    /// How many free addresses a subnet showed when it refused a single prefix, or fewer since: that many hold none.
    pub(crate) fragmented: BTreeMap<SubnetId, u32>,
}

impl Subnets {
    /// Takes in a list that EC2 answered with.
    pub(crate) fn on_listed(&mut self, list: Vec<ObservedSubnet>) {
        // An empty answer cannot be whole: the node itself is in a subnet.
        if !list.is_empty() {
            self.list = list;
        }
        let list = &self.list;
        self.fragmented.retain(|id, free| {
            let listed = list.iter().find(|it| it.id == *id).map(|it| it.ipv4_addresses_free);
            let more = listed.is_none_or(|listed| listed > *free);
            *free = listed.unwrap_or(0).min(*free);
            !more
        });
    }

    /// Takes in that a subnet has no prefix free.
    pub(crate) fn on_no_prefix(&mut self, id: SubnetId) {
        if let Some(subnet) = self.list.iter().find(|it| it.id == id) {
            self.fragmented.insert(id, subnet.ipv4_addresses_free);
        }
    }
}

/// What was asked when, and what is being asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) metadata: Read,
    pub(crate) attached: Read,
    pub(crate) unattached: Read,
    pub(crate) unconfirmed: Read,
    pub(crate) subnets: Read,
    /// Whether something happened that only EC2 can explain.
    pub(crate) ask_ec2: bool,
    /// ENIs that IMDS showed since EC2 was asked last, and that are not known.
    pub(crate) hints: BTreeSet<EniId>,
}

/// What EC2 refused that the limits of the type promise, and until when it is believed: then it is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// How many ENIs a network card takes.
    pub(crate) enis: BTreeMap<Card, (u8, Timestamp)>,
    /// How many IPv4 blocks an ENI may have to be attached.
    pub(crate) new_eni_slots: Option<(u16, Timestamp)>,
    /// How many IPv4 blocks single ENIs take.
    pub(crate) eni_slots: BTreeMap<EniId, (u16, Timestamp)>,
}

/// A limit of the instance type that EC2 holds lower than the table, or an override, does: learned from a refusal, and
/// tried again after an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LearnedLimit {
    /// ENIs that a network card takes.
    Enis {
        /// The card.
        card: Card,
        /// How many.
        most: u8,
        /// When more is tried again.
        until: Timestamp,
    },
    /// IPv4 addresses and prefixes that an ENI may have, besides its own address, to be attached.
    NewEniSlots {
        /// How many.
        most: u16,
        /// When more is tried again.
        until: Timestamp,
    },
    /// IPv4 addresses and prefixes that one ENI takes besides its own address.
    EniSlots {
        /// Which.
        eni: EniId,
        /// How many.
        most: u16,
        /// When more is tried again.
        until: Timestamp,
    },
}

/// How long a limit is believed that EC2 taught.
const LEARNED_FOR: Duration = Duration::from_secs(3600);

impl Learned {
    /// Takes in that a network card takes so many ENIs.
    pub(crate) fn on_enis(&mut self, card: Card, most: u8, now: Timestamp) {
        self.enis.insert(card, (most, now + LEARNED_FOR));
    }

    /// Takes in that an ENI is attached with so many IPv4 blocks at most.
    pub(crate) fn on_new_eni_slots(&mut self, most: u16, now: Timestamp) {
        self.new_eni_slots = Some((most, now + LEARNED_FOR));
    }

    /// Takes in that one ENI takes so many IPv4 blocks.
    pub(crate) fn on_eni_slots(&mut self, eni: EniId, most: u16, now: Timestamp) {
        self.eni_slots.insert(eni, (most, now + LEARNED_FOR));
    }

    /// Returns how many ENIs a network card takes, if less than its type promises.
    pub(crate) fn enis(&self, card: Card, now: Timestamp) -> Option<u8> {
        self.enis.get(&card).filter(|(_, until)| *until > now).map(|(most, _)| *most)
    }

    /// Returns how many IPv4 blocks an ENI may have to be attached, if fewer than its type promises.
    pub(crate) fn new_eni_slots(&self, now: Timestamp) -> Option<u16> {
        self.new_eni_slots.filter(|(_, until)| *until > now).map(|(most, _)| most)
    }

    /// Returns how many IPv4 blocks one ENI takes, if fewer than its type promises.
    pub(crate) fn eni_slots(&self, eni: EniId, now: Timestamp) -> Option<u16> {
        self.eni_slots.get(&eni).filter(|(_, until)| *until > now).map(|(most, _)| *most)
    }

    fn prune(&mut self, now: Timestamp) {
        self.enis.retain(|_, (_, until)| *until > now);
        self.eni_slots.retain(|_, (_, until)| *until > now);
        self.new_eni_slots.take_if(|(_, until)| *until <= now);
    }

    fn all(&self) -> impl Iterator<Item = LearnedLimit> {
        let enis = self.enis.iter().map(|(card, (most, until))| LearnedLimit::Enis {
            card: *card,
            most: *most,
            until: *until,
        });
        let new = self.new_eni_slots.iter();
        let new = new.map(|(most, until)| LearnedLimit::NewEniSlots { most: *most, until: *until });
        let single = self.eni_slots.iter().map(|(eni, (most, until))| LearnedLimit::EniSlots {
            eni: *eni,
            most: *most,
            until: *until,
        });
        enis.chain(new).chain(single)
    }
}

/// What has room for fewer blocks than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AskedOf {
    /// A subnet, for IPv4 addresses.
    Addresses(SubnetId),
    /// A subnet, for /28 prefixes.
    Prefixes(SubnetId),
    /// An ENI.
    Eni(EniId),
}

/// How much may be asked at a time, and until when: 1 after more was refused, then twice what was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// In blocks, at least 1.
    pub(crate) most: u16,
    pub(crate) until: Timestamp,
}

/// When one question was last answered, and whether it is being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) answered: Option<Timestamp>,
    pub(crate) call: Option<ActionId>,
}

impl Constraints {
    /// Returns the constraints of a node that starts.
    pub(crate) fn new(node: Node, budget: Budget, seed: u64) -> Self {
        Self {
            node,
            schedulable: true,
            terminating: false,
            waiting: 0,
            waiting_every_card: 0,
            eni_config: None,
            budget,
            subnets: Subnets::default(),
            security_groups: Vec::new(),
            spent: Spent::default(),
            backoff: Backoff::new(seed),
            shrunk_at: None,
            reads: Reads::default(),
            learned: Learned::default(),
            asks: BTreeMap::new(),
            tokens: 0,
            seed,
        }
    }

    /// Returns what failed lately and is left alone for a while.
    pub fn recent_failures(&self, now: Timestamp) -> impl Iterator<Item = RecentFailure> {
        self.backoff.recent(now)
    }

    /// Returns whether nothing may be built on an answer to a question any more.
    pub(crate) fn is_question_stuck(&self, question: Question) -> bool {
        let operation = match question {
            Question::Metadata => None,
            Question::Subnets => Some(Ec2Operation::DescribeSubnets),
            Question::Attached | Question::Unattached | Question::Unconfirmed => {
                Some(Ec2Operation::DescribeNetworkInterfaces)
            }
        };
        self.backoff.is_stuck(BackoffScope::Question(question))
            || operation.is_some_and(|it| self.backoff.is_stuck(BackoffScope::Operation(it)))
    }

    /// Returns whether something failed last by which a node gets further addresses, and was not tried successfully since.
    pub(crate) fn does_growth_fail(&self) -> bool {
        self.backoff.failing().any(|scope| match scope {
            BackoffScope::Operation(operation) | BackoffScope::EniOperation(_, operation) => {
                matches!(
                    operation,
                    Ec2Operation::CreateNetworkInterface
                        | Ec2Operation::AttachNetworkInterface
                        | Ec2Operation::AssignPrivateIpAddresses
                        | Ec2Operation::AssignIpv6Addresses
                        | Ec2Operation::DescribeNetworkInterfaces
                )
            }
            BackoffScope::Creation(_)
            | BackoffScope::Subnet(_)
            | BackoffScope::SubnetIpv6(_)
            | BackoffScope::Card(_)
            | BackoffScope::SetUp(_)
            | BackoffScope::Question(
                Question::Attached | Question::Unattached | Question::Unconfirmed,
            ) => true,
            // Single addresses are asked for instead; growth does without the others.
            BackoffScope::SubnetPrefixes(_)
            | BackoffScope::TearDown(_)
            | BackoffScope::Free(_)
            | BackoffScope::Hint(_)
            | BackoffScope::Question(Question::Metadata | Question::Subnets) => false,
        })
    }

    /// Forgets what no longer bears on anything.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        self.backoff.prune(now);
        self.asks.retain(|_, ask| ask.until > now);
        self.learned.prune(now);
    }

    /// Returns how many blocks may be asked of something at a time.
    pub(crate) fn ask_most(&self, of: AskedOf, now: Timestamp) -> Option<u16> {
        self.asks.get(&of).filter(|ask| ask.until > now).map(|ask| ask.most)
    }

    /// Takes in that so many blocks were refused: single ones are asked for next. Returns whether that is fewer.
    pub(crate) fn on_too_many(&mut self, of: AskedOf, blocks: u16, until: Timestamp) -> bool {
        if blocks > 1 {
            self.asks.insert(of, Ask { most: 1, until });
        }
        blocks > 1
    }

    /// Takes in that so many blocks were had.
    pub(crate) fn on_had(&mut self, of: AskedOf, blocks: u16) {
        if let Some(ask) = self.asks.get_mut(&of)
            && blocks >= ask.most
        {
            ask.most = ask.most.saturating_mul(2);
        }
    }

    /// Returns the limits that EC2 holds lower than the limits of the type say.
    pub fn learned(&self) -> impl Iterator<Item = LearnedLimit> {
        self.learned.all()
    }

    /// Returns the ranges of a subnet as last seen.
    pub(crate) fn ranges(&self, id: SubnetId) -> Option<SubnetRanges> {
        match self.subnet(id) {
            Some(subnet) => {
                Some(SubnetRanges { ipv4: Some(subnet.ipv4_cidr), ipv6: subnet.ipv6_cidr })
            }
            None => self.subnets.ranges.get(&id).copied(),
        }
    }

    /// Returns a subnet as EC2 listed it.
    pub(crate) fn subnet(&self, id: SubnetId) -> Option<&ObservedSubnet> {
        self.subnets.list.iter().find(|subnet| subnet.id == id)
    }
}
