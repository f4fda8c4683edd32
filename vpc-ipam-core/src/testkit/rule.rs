use alloc::string::String;
use core::fmt;

/// What the driver checks after every step; `docs/properties.md` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// An address has one owner, a key one address a card, and asking again gives the same.
    OneOwner,
    /// What is in use is not released, nor the ENI that carries it.
    InUseStays,
    /// An ENI's own address is neither assigned nor released.
    PrimaryAddress,
    /// Limits of ENIs, slots and indexes hold, calls under way included.
    Limits,
    /// Core leaves alone what is not ours.
    HandsOff,
    /// An address that cools is neither assigned nor released.
    Cooldown,
    /// An ENI goes only when it is old enough and not needed.
    FreedInTime,
    /// Counts equal a recount, and [`Ipam::check`](crate::Ipam::check) finds nothing.
    Counts,
    /// Leases last until their pods give them up, restarts included.
    LeasesLast,
    /// No answer that lacks something takes it away by itself where a pod uses it.
    Evidence,
    /// A plan grows or shrinks, never both.
    OneDirection,
    /// Left alone with a healthy cloud, the node reaches its target.
    Converges,
    /// At its target, it changes nothing.
    Converged,
    /// Calls stay within their budget.
    Budget,
    /// Every action's outcome is awaited, one EC2 call an ENI; no wake-up is due for ever.
    Bookkeeping,
    /// What is being released stays accounted for, and comes to an end.
    ReleasesEnd,
    /// Only what EC2 confirmed, and the node can carry, is handed out.
    Confirmed,
    /// A pod that waits is answered in time.
    Answered,
    /// No ENI that was made is forgotten.
    NoLeak,
    /// A call to EC2 is one that EC2 understands: one kind of block, something in it, a token of its own.
    WellFormed,
    /// For a cause that does not change, an operation is called a few times an hour.
    Calls,
    /// When readiness promises an address, the next ADD gets one in the time that it names.
    ToldTruly,
    /// A plan does no more than what the node can hold needs.
    MinimalPlan,
}

impl Rule {
    /// Returns the number of the property in `docs/properties.md` that the rule is part of.
    pub fn property(self) -> u8 {
        match self {
            Self::OneOwner => 1,
            Self::InUseStays => 2,
            Self::PrimaryAddress => 3,
            Self::Limits => 4,
            Self::HandsOff => 5,
            Self::Cooldown => 6,
            Self::FreedInTime => 7,
            Self::Counts => 8,
            Self::LeasesLast => 10,
            Self::Evidence => 11,
            Self::OneDirection => 12,
            Self::Converges => 14,
            Self::Converged => 15,
            Self::Budget => 16,
            Self::ReleasesEnd => 26,
            Self::Confirmed => 29,
            Self::Answered => 30,
            Self::NoLeak => 31,
            Self::WellFormed => 32,
            Self::Bookkeeping => 33,
            Self::Calls => 35,
            Self::ToldTruly => 36,
            Self::MinimalPlan => 37,
        }
    }
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {rule:?} (property {}): {what}", rule.property())]
pub struct Broken {
    /// After which step; one more than there are means while settling at the end.
    pub step: usize,
    /// The rule that did not hold.
    pub rule: Rule,
    /// What was seen instead, with the ids and addresses concerned.
    pub what: String,
}

/// A rule that did not hold, before it is known in which step.
#[derive(Debug)]
pub(super) struct Breach(pub(super) Rule, pub(super) String);

/// Checks that a condition holds, or returns a breach of the rule.
macro_rules! hold {
    ($condition:expr, $rule:ident, $($what:tt)+) => {
        if !$condition {
            return Err(Breach(Rule::$rule, alloc::format!($($what)+)));
        }
    };
}
pub(super) use hold;

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
