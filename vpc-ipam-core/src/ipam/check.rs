//! What must hold of a pool, whatever happened: for tests, and for `doctor`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::pool::{Block, Eni};
use crate::{Card, DeviceIndex, EniId, Ipam, PodKey, Removing, Stage};

/// A breach of what must hold of a node's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Violation {
    /// Two pods hold one address.
    SharedAddress {
        /// The address.
        address: IpAddr,
        /// The pods whose leases name it.
        pods: [PodKey; 2],
    },
    /// A pod holds the address that is an ENI's own.
    PrimaryAddressLeased {
        /// The primary address of an ENI.
        address: IpAddr,
        /// The pod whose lease names it.
        pod: PodKey,
    },
    /// A pod holds two interfaces on one network card.
    SharedCard {
        /// The card on which it has two interfaces.
        card: Card,
        /// The pod that has them.
        pod: PodKey,
    },
    /// An address of a lease is covered by a block that does not count it as assigned.
    LeaseNotCounted {
        /// The address that its block does not count.
        address: IpAddr,
        /// The pod whose lease names it.
        pod: PodKey,
    },
    /// An address counts as assigned, and no lease names it: it is lost to pods.
    AssignedWithoutLease {
        /// The address that no lease names.
        address: IpAddr,
        /// The ENI whose block counts it as assigned.
        eni: EniId,
    },
    /// The counts of an ENI or a block are not those of its addresses.
    WrongCount {
        /// The ENI whose counts are wrong.
        eni: EniId,
    },
    /// Two ENIs carry blocks that overlap.
    OverlappingBlocks {
        /// The block that begins first.
        first: IpNet,
        /// The block that overlaps it.
        second: IpNet,
    },
    /// An ENI has more blocks of IPv4 than the instance type allows.
    TooManyBlocks {
        /// The ENI that has them.
        eni: EniId,
        /// How many it has, without those that are being released.
        blocks: u32,
    },
    /// A network card has more ENIs attached than the instance type allows.
    TooManyEnis {
        /// The card that has them.
        card: Card,
        /// How many are attached to it.
        enis: usize,
    },
    /// Two ENIs are, or are about to be, at one index of a card.
    SharedDeviceIndex {
        /// The card of the slot.
        card: Card,
        /// The index of the slot on the card.
        device: DeviceIndex,
    },
    /// An ENI that pods use is on its way out.
    #[cfg_attr(feature = "serde", serde(rename = "LeavingWithPods"))]
    RemovingWithPods {
        /// The ENI that is being removed.
        eni: EniId,
        /// How many addresses on it are assigned to pods.
        pods: u32,
    },
    /// A block that a pod uses is being released.
    ReleasingWithPods {
        /// The block that EC2 was asked to take back.
        block: IpNet,
        /// How many addresses of it are assigned to pods.
        pods: u32,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedAddress { address, pods: [a, b] } => {
                write!(f, "{address} is held by {a} and by {b}")
            }
            Self::PrimaryAddressLeased { address, pod } => {
                write!(f, "{address} is an ENI's own and held by {pod}")
            }
            Self::SharedCard { card, pod } => write!(f, "{pod} has two interfaces on {card}"),
            Self::LeaseNotCounted { address, pod } => {
                write!(f, "{address} of {pod} does not count as assigned")
            }
            Self::AssignedWithoutLease { address, eni } => {
                write!(f, "{address} of {eni} counts as assigned and no pod has it")
            }
            Self::WrongCount { eni } => write!(f, "the counts of {eni} are wrong"),
            Self::OverlappingBlocks { first, second } => write!(f, "{first} overlaps {second}"),
            Self::TooManyBlocks { eni, blocks } => write!(f, "{eni} has {blocks} blocks"),
            Self::TooManyEnis { card, enis } => write!(f, "{card} has {enis} ENIs"),
            Self::SharedDeviceIndex { card, device } => {
                write!(f, "{card} has two ENIs at {device}")
            }
            Self::RemovingWithPods { eni, pods } => {
                write!(f, "{eni} is being removed and carries {pods} pods")
            }
            Self::ReleasingWithPods { block, pods } => {
                write!(f, "{block} is being released and carries {pods} pods")
            }
        }
    }
}

impl Ipam {
    /// Returns every breach of what must hold, by counting anew. Empty unless there is a defect in this crate, or EC2
    /// took something away that pods use.
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        self.check_leases(&mut violations);
        self.check_enis(&mut violations);
        violations
    }

    fn check_leases(&self, violations: &mut Vec<Violation>) {
        let own = |address: IpAddr| {
            // That of one that EC2 is deleting may be taken already.
            self.pool().enis().iter().filter(|eni| eni.occupies_slot()).any(|eni| {
                eni.primary_ipv4.map(IpAddr::V4) == Some(address)
                    || eni.primary_ipv6.map(IpAddr::V6) == Some(address)
            })
        };
        let mut owners: BTreeMap<IpAddr, &PodKey> = BTreeMap::new();
        for lease in self.pool().leases() {
            for address in lease.addresses() {
                // Records of before a restart may name one in two leases, which both keep until they end.
                let other = owners.insert(address, &lease.key);
                if let Some(other) = other.filter(|_| !self.pool().is_shared(address)) {
                    let pods = [other.clone(), lease.key.clone()];
                    violations.push(Violation::SharedAddress { address, pods });
                }
                if own(address) {
                    violations
                        .push(Violation::PrimaryAddressLeased { address, pod: lease.key.clone() });
                }
                let mut enis = self.pool().enis().iter();
                if enis.any(|eni| eni.block(address).is_some_and(|b| !b.is_assigned(address))) {
                    violations.push(Violation::LeaseNotCounted { address, pod: lease.key.clone() });
                }
            }
            let mut cards: Vec<Card> = lease.interfaces().map(|interface| interface.card).collect();
            cards.sort_unstable();
            if let Some(pair) = cards.windows(2).find(|pair| pair[0] == pair[1]) {
                violations.push(Violation::SharedCard { card: pair[0], pod: lease.key.clone() });
            }
        }
        for eni in self.pool().enis() {
            let assigned = eni.blocks().iter().flat_map(Block::assigned_addresses);
            for address in assigned.filter(|address| !owners.contains_key(address)) {
                violations.push(Violation::AssignedWithoutLease { address, eni: eni.id });
            }
        }
    }

    fn check_enis(&self, violations: &mut Vec<Violation>) {
        let enis = self.pool().enis();
        let mut nets: Vec<IpNet> =
            enis.iter().flat_map(|eni| eni.blocks().iter().map(|block| block.net())).collect();
        nets.sort_unstable();
        for pair in nets.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            if first.contains(&second) || second.contains(&first) {
                violations.push(Violation::OverlappingBlocks { first, second });
            }
        }
        for eni in enis {
            if !eni.counts_are_right() {
                violations.push(Violation::WrongCount { eni: eni.id });
            }
            // One that is being released may be gone already.
            let ipv4 = eni
                .blocks()
                .iter()
                .filter(|block| matches!(block.net(), IpNet::V4(_)) && !block.is_releasing());
            // An ENI has at most 64 addresses.
            let blocks = ipv4.count() as u32;
            if eni.is_managed() && blocks > u32::from(self.limits().ipv4_slots()) {
                violations.push(Violation::TooManyBlocks { eni: eni.id, blocks });
            }
            let given_back = eni.is_removing() && eni.stage != Stage::Removing(Removing::Vanished);
            if given_back && eni.assigned() > 0 {
                let pods = eni.assigned();
                violations.push(Violation::RemovingWithPods { eni: eni.id, pods });
            }
            for block in eni.blocks() {
                if block.is_releasing() && block.assigned() > 0 {
                    let (block, pods) = (block.net(), block.assigned());
                    violations.push(Violation::ReleasingWithPods { block, pods });
                }
            }
        }
        self.check_places(violations);
    }

    /// Checks the slots of ENIs. Another program may attach an ENI where ours was about to go: that is no breach, as EC2
    /// refuses the second.
    fn check_places(&self, violations: &mut Vec<Violation>) {
        let slot_of = |eni: &Eni| (eni.card, eni.device);
        let held = || self.pool().enis().iter().filter(|eni| eni.occupies_slot());
        // EC2 may have been asked already, with or without an answer: then its slot may be another program's.
        let going = |eni: &Eni| eni.stage == Stage::Removing(Removing::Detach);
        let attached: Vec<_> = held()
            .filter(|eni| eni.stage != Stage::Available && !going(eni))
            .map(slot_of)
            .collect();
        let coming: Vec<_> = held()
            .filter(|eni| eni.stage == Stage::Available && eni.has_slot())
            .map(slot_of)
            .chain(self.pool().creations().values().map(|c| (c.card, c.device)))
            .collect();
        for mut slots in [attached.clone(), coming] {
            slots.sort_unstable();
            for pair in slots.windows(2).filter(|pair| pair[0] == pair[1]) {
                let (card, device) = pair[0];
                violations.push(Violation::SharedDeviceIndex { card, device });
            }
        }
        for card in self.limits().cards() {
            let enis = attached.iter().filter(|(c, _)| *c == card).count();
            if enis > usize::from(self.limits().enis(card)) {
                violations.push(Violation::TooManyEnis { card, enis });
            }
        }
    }
}
