use core::time::Duration;

use super::setup::pick;
use crate::sim::{Call, Fault};
use crate::{FailureKind, Source};

/// One thing that happens to a node. Every step is legal in every state: one that has nothing to act on does nothing.
///
/// Indexes count what there is and wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes until something is due, or for 5 minutes if nothing is.
    UntilDue,
    /// Time passes, with everything that becomes due.
    Wait(Duration),
    /// A pod asks for an address; again, if it has one.
    Add {
        /// The number of the pod, of 64.
        pod: u8,
        /// Whether on every network card.
        every_card: bool,
    },
    /// A pod goes, and its DEL arrives twice.
    Del {
        /// The number of the pod, of 64.
        pod: u8,
    },
    /// From now on the store of leases is prompt, slow or broken.
    Store(Store),
    /// The slow store has written the oldest lease, or failed to.
    Written {
        /// Whether it was written.
        durable: bool,
    },
    /// An action is carried out and its answer arrives.
    Answer {
        /// The index among the actions that were not carried out.
        which: u8,
        /// What goes wrong with the call; `None` for nothing.
        fault: Option<Fault>,
    },
    /// An action is carried out; the answer is on its way.
    Execute {
        /// The index among the actions that were not carried out.
        which: u8,
        /// What goes wrong with the call; `None` for nothing.
        fault: Option<Fault>,
    },
    /// An answer that was on its way arrives.
    Deliver {
        /// The index among the answers on their way.
        which: u8,
    },
    /// All that was asked for is carried out, and what follows from it.
    Cooperate,
    /// A source is asked by another program; the answer arrives at once.
    Observe {
        /// The source that is asked.
        source: Source,
        /// What goes wrong with the call; `None` for nothing.
        fault: Option<Fault>,
    },
    /// A source is asked by another program; the answer is on its way.
    Photograph {
        /// The source that is asked.
        source: Source,
        /// What goes wrong with the call; `None` for nothing.
        fault: Option<Fault>,
    },
    /// An answer that another program asked for arrives.
    Show {
        /// The index among the answers on their way.
        which: u8,
    },
    /// The process dies; another starts with what was durable.
    Crash,
    /// The clock is set back.
    ClockBack(Duration),
    /// The operator wants something else.
    Configure {
        /// Target and families, decoded as in the setup.
        bytes: [u8; 2],
    },
    /// Pods may no longer be scheduled, or may again.
    Cordon(bool),
    /// The node is going away.
    Terminate,
    /// An untracked owner uses an address of ours, or no longer does.
    Untracked {
        /// The index among what there is of the kind.
        which: u8,
        /// Whether it is in use.
        in_use: bool,
    },
    /// A pod of another program gets a lease of an address that it has.
    Import {
        /// The number of the pod, of 64.
        pod: u8,
        /// The index among the addresses of untracked owners; among all addresses of the node from 12 on.
        which: u8,
    },
    /// Another program changes the node's ENIs.
    Meddle {
        /// What the program does.
        how: Meddling,
        /// The index among the attached ENIs.
        which: u8,
    },
    /// Other nodes take addresses of the primary subnet.
    Crowd {
        /// How many addresses they take.
        addresses: u8,
    },
    /// Other nodes release what they took last.
    Disperse,
    /// The kernel refuses what it is asked for until further notice, or no longer.
    Kernel {
        /// Whether it does as it is asked.
        works: bool,
    },
    /// Calls fail from now on.
    Refuse {
        /// The operation whose calls fail.
        call: Call,
        /// Narrows it to calls about one thing.
        about: Place,
        /// The kind of failure that they answer with.
        kind: FailureKind,
        /// How long they go on failing; zero fails the next call alone.
        lasts: Duration,
    },
    /// Nothing is refused any more.
    Heal,
    /// Other nodes take all but so many addresses of the primary subnet.
    Fill {
        /// How many addresses they leave free.
        leave: u8,
    },
    /// A /28 of the primary subnet is reserved.
    Reserve {
        /// The index among what there is of the kind.
        which: u8,
        /// Whether for addresses that calls name, rather than for prefixes.
        explicit: bool,
    },
    /// An ENI of another VPC is attached.
    AttachOtherVpc,
    /// The instance is stopped and started as one of another size; its pods are gone.
    Resize {
        /// Slots an ENI, decoded as in the setup.
        slots: u8,
        /// ENIs of the type, decoded as in the setup.
        enis: u8,
    },
    /// The executor loses an action: no outcome ever comes.
    Lose {
        /// The index among the actions that were not carried out.
        which: u8,
    },
    /// An hour passes in which everything that is not refused works, and nothing else happens.
    Hour,
    /// Whether readiness says what the next ADD will be told.
    Probe,
}

/// Which calls of one name fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of them.
    Anywhere,
    /// Those about one ENI; which, counted among those that are attached.
    Eni(u8),
    /// Those in the primary ENI's subnet.
    PrimarySubnet,
    /// Those on a network card.
    Card(u8),
}

impl Place {
    /// What a byte picks from: one in four calls anywhere.
    const ALL: [Self; 8] = [
        Self::Anywhere,
        Self::Anywhere,
        Self::Eni(0),
        Self::Eni(1),
        Self::Eni(2),
        Self::PrimarySubnet,
        Self::Card(0),
        Self::Card(1),
    ];
}

/// How the store of leases is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A lease is durable at once.
    Prompt,
    /// A lease is durable when [`Step::Written`] says so.
    Slow,
    /// No lease becomes durable.
    Broken,
    /// Every write is said to have failed, and was done.
    Lying,
}

/// What another program may do to a node's ENIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meddling {
    /// Detaches a secondary ENI.
    Detach,
    /// Takes a block away.
    Unassign,
    /// Adds an address to an ENI.
    Assign,
    /// Attaches an ENI of its own.
    Attach,
    /// Gives the primary ENI another security group.
    Groups,
    /// Attaches an ENI that was made for the node to another instance, before the node does.
    Steal,
}

impl Meddling {
    /// In the order in which bytes pick them.
    const ALL: [Self; 6] =
        [Self::Detach, Self::Unassign, Self::Assign, Self::Attach, Self::Groups, Self::Steal];
}

/// How many bytes one step takes.
pub(super) const STEP_BYTES: usize = 3;

/// The staleness that address management must bear: [`crate::Timing::eventual_consistency`].
const STALE: [u64; 6] = [1, 10, 30, 45, 55, 59];
const WAITS: [u64; 12] = [0, 1, 5, 10, 29, 30, 31, 60, 61, 121, 301, 1801];
/// From the next call to as long as a scenario takes.
const LASTS: [u64; 8] = [0, 30, 90, 600, 3600, u64::MAX, u64::MAX, u64::MAX];
const BACK: [u64; 4] = [1, 31, 301, 3601];

impl Step {
    /// Makes a step of any three bytes.
    pub(super) fn decode([op, a, b]: [u8; STEP_BYTES]) -> Self {
        let source = if a & 1 == 0 { Source::Ec2 } else { Source::Imds };
        match op % 64 {
            0..=5 => Self::UntilDue,
            6..=8 => Self::Wait(Duration::from_secs(pick(&WAITS, a))),
            9..=15 => Self::Add { pod: a % 64, every_card: b % 8 == 7 },
            16..=19 => Self::Del { pod: a % 64 },
            20 if a >= 192 => Self::Store(Store::Lying),
            20 => Self::Store(pick(&[Store::Prompt, Store::Slow, Store::Broken], a)),
            21 => Self::Written { durable: b % 4 != 3 },
            22..=30 => Self::Answer { which: a, fault: fault(b) },
            31..=33 => Self::Execute { which: a, fault: fault(b) },
            34..=36 => Self::Deliver { which: a },
            37..=43 => Self::Cooperate,
            44..=46 => Self::Observe { source, fault: fault(b) },
            47 => Self::Photograph { source, fault: fault(b) },
            48 => Self::Show { which: a },
            49..=50 => Self::Crash,
            51 => Self::ClockBack(Duration::from_secs(pick(&BACK, a))),
            52..=53 => Self::Configure { bytes: [a, b] },
            54 => Self::Cordon(a % 2 == 0),
            55 if a % 4 == 0 => Self::Terminate,
            55..=56 => Self::Untracked { which: a, in_use: b % 2 == 0 },
            57..=58 => Self::Meddle { how: pick(&Meddling::ALL, b), which: a },
            59 => Self::Crowd { addresses: a % 64 + 1 },
            60 => Self::Disperse,
            61 => Self::Kernel { works: a % 2 == 0 },
            62 => Self::decode_refusal(a, b),
            _ => match a % 16 {
                0 => Self::Heal,
                1 | 2 => Self::Fill { leave: b % 32 },
                3 => Self::Reserve { which: b, explicit: b % 2 == 0 },
                4 => Self::AttachOtherVpc,
                5 => Self::Resize { slots: b, enis: b / 8 },
                6 | 7 => Self::Lose { which: b },
                8..=10 => Self::Hour,
                11..=13 => Self::Import { pod: b % 64, which: a / 16 },
                _ => Self::Probe,
            },
        }
    }

    fn decode_refusal(a: u8, b: u8) -> Self {
        let call = pick(&Call::ALL, a % 16);
        let about = pick(&Place::ALL, b / 16);
        let lasts = Duration::from_secs(pick(&LASTS, a / 16));
        Self::Refuse { call, about, kind: pick(call.kinds(), b % 16), lasts }
    }
}

fn fault(byte: u8) -> Option<Fault> {
    match byte % 16 {
        0..=8 => None,
        9 => Some(Fault::Throttled),
        10 => Some(Fault::CallLost),
        11 => Some(Fault::AnswerLost),
        12 => Some(Fault::Partial),
        13 => Some(Fault::Stale(Duration::from_secs(pick(&STALE, byte / 16)))),
        14 => Some(Fault::Empty),
        _ => Some(Fault::Reordered),
    }
}
