//! What EC2's refusals taught.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{Card, EniId, SubnetId, Timestamp};

/// What EC2 refused that the limits of the type promise, and until when it is believed: then it is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Learned {
    /// How many ENIs a network card takes.
    pub(crate) enis: BTreeMap<Card, (u8, Timestamp)>,
    /// How many IPv4 blocks an ENI may have to be attached.
    pub(crate) new_eni_slots: Option<(u16, Timestamp)>,
    /// How many IPv4 blocks single ENIs take.
    pub(crate) eni_slots: BTreeMap<EniId, (u16, Timestamp)>,
    /// How much may be asked at a time, after more was refused.
    #[cfg_attr(feature = "serde", serde(with = "crate::model::pairs"))]
    pub(crate) asks: BTreeMap<AskedOf, Ask>,
}

/// A limit of the instance type that EC2 holds lower than the table, or an override, does: learned from a refusal, and
/// tried again after an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LearnedLimit {
    /// ENIs that a network card takes.
    Enis {
        /// The card that takes fewer.
        card: Card,
        /// How many ENIs it takes, the primary one included.
        most: u8,
        /// When more is tried again.
        until: Timestamp,
    },
    /// IPv4 addresses and prefixes that an ENI may have, besides its own address, to be attached.
    NewEniSlots {
        /// How many of them it may have, at least 1.
        most: u16,
        /// When more is tried again.
        until: Timestamp,
    },
    /// IPv4 addresses and prefixes that one ENI takes besides its own address.
    EniSlots {
        /// The ENI that takes fewer.
        eni: EniId,
        /// How many of them it takes.
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

    /// Forgets what is no longer believed.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        self.asks.retain(|_, ask| ask.until > now);
        self.enis.retain(|_, (_, until)| *until > now);
        self.eni_slots.retain(|_, (_, until)| *until > now);
        self.new_eni_slots.take_if(|(_, until)| *until <= now);
    }

    /// Returns the limits that EC2 holds lower than the limits of the type say.
    pub(crate) fn limits(&self) -> impl Iterator<Item = LearnedLimit> {
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
        if let Some(ask) = self.asks.get_mut(&of).filter(|ask| blocks >= ask.most) {
            ask.most = ask.most.saturating_mul(2);
        }
    }
}

/// What has room for fewer blocks than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum AskedOf {
    /// A subnet, for IPv4 addresses.
    Addresses(SubnetId),
    /// A subnet, for /28 prefixes.
    Prefixes(SubnetId),
    /// An ENI, for IPv4 addresses and prefixes.
    Eni(EniId),
}

/// How much may be asked at a time, and until when: 1 after more was refused, then twice what was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Ask {
    /// In blocks, at least 1.
    pub(crate) most: u16,
    pub(crate) until: Timestamp,
}
