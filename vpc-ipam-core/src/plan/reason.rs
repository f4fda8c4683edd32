//! Why something is done, and what holds something back.

use core::fmt;

use crate::{
    Action, ActionId, BackoffScope, Card, Demand, Ec2Operation, EniId, FailureKind, Source, Stock,
    SubnetId, Timestamp, UnconfirmedCause, WarmTarget,
};

/// Something to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Planned {
    /// The action, with no choice left.
    pub action: Action,
    /// The rule that it follows from.
    pub because: Because,
}

/// Why something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Because {
    /// The stock of a network card is not what its target asks for.
    OffTarget {
        /// The card whose stock is off its target.
        card: Card,
        /// What it should have.
        target: WarmTarget,
        /// What the card holds.
        stock: Stock,
        /// By how much that is off.
        demand: Demand,
    },
    /// The target of a network card is met without the ENI.
    NotNeeded {
        /// The card that reaches its target without it.
        card: Card,
        /// What it should have.
        target: WarmTarget,
        /// What it has, the ENI included.
        stock: Stock,
    },
    /// Pods get IPv6 addresses, and no ENI of the card can give one.
    NoEniOnCard {
        /// The card that has no ENI for pods.
        card: Card,
    },
    /// Pods get an IPv6 address, and the ENI has no /80 prefix.
    NoIpv6Prefix,
    /// The ENI was made but is not attached.
    NotAttached,
    /// There is no slot left to attach the ENI to: it was made before a restart, or fewer ENIs are allowed than before.
    #[cfg_attr(feature = "serde", serde(rename = "NoPlace"))]
    NoSlot,
    /// The node is going away, and the ENI is attached to nothing.
    Terminating,
    /// The ENI was made and could not be attached or set up for so long that another replaces it.
    NeverServed {
        /// The ENI that is replaced.
        eni: EniId,
    },
    /// The ENI would outlive the instance.
    NotDeletedOnTermination,
    /// The ENI is attached, but the node has not set its link up.
    NotSetUp,
    /// The ENI is on its way out: the step that follows the last.
    #[cfg_attr(feature = "serde", serde(rename = "Leaving"))]
    Removing,
    /// EC2 no longer has the ENI; what the node set up for it goes.
    Vanished,
    /// The ENI's subnet was taken out of use, and no pod is left on it.
    Excluded,
    /// The blocks are of the kind that is not asked for any more, and they are not in use.
    OtherKind,
    /// The ENI lacks tags, or has other values of them.
    TagsDiffer,
    /// The ENI's security groups are not those of the primary ENI, or of the ENIConfig under custom networking.
    GroupsDiffer,
    /// A call got no answer; it is repeated with the same token.
    Unanswered,
    /// What is known of an ENI needs EC2's word.
    #[cfg_attr(feature = "serde", serde(rename = "Doubt"))]
    Unconfirmed {
        /// The ENI that EC2 is asked about.
        eni: EniId,
        /// What came up about it.
        cause: UnconfirmedCause,
    },
    /// IMDS shows an ENI that is not known.
    UnknownEni,
    /// Nothing was asked yet.
    Start,
    /// The last answer of this source is old.
    Audit(Source),
    /// The list of subnets is needed, and missing or old.
    SubnetsNeeded,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffTarget { card, target, stock, demand } => {
                if *card != Card(0) {
                    write!(f, "{card}: ")?;
                }
                write!(f, "{stock}, {target}: {demand}")
            }
            Self::NotNeeded { card, target, stock } => {
                if *card != Card(0) {
                    write!(f, "{card}: ")?;
                }
                write!(f, "{stock}, {target}: met without it")
            }
            Self::NoEniOnCard { card } => write!(f, "{card} has no ENI that could serve pods"),
            Self::NoIpv6Prefix => f.write_str("pods need an IPv6 address and the ENI has no /80"),
            Self::NotAttached => f.write_str("made, not attached yet"),
            Self::NoSlot => f.write_str("no slot is left to attach it"),
            Self::Terminating => f.write_str("the node is terminating and it is not attached"),
            Self::NeverServed { .. } => {
                f.write_str("it could not be attached or set up; another takes its place")
            }
            Self::NotDeletedOnTermination => f.write_str("it would outlive the instance"),
            Self::NotSetUp => f.write_str("attached, link not set up yet"),
            Self::Removing => f.write_str("next step of removing it"),
            Self::Vanished => f.write_str("EC2 no longer has it"),
            Self::Excluded => f.write_str("its subnet is out of use and no pod is left on it"),
            Self::OtherKind => f.write_str("left from the other mode and unused"),
            Self::TagsDiffer => f.write_str("tags are missing or differ"),
            Self::GroupsDiffer => f.write_str("its security groups are not those it should have"),
            Self::Unanswered => f.write_str("the call before got no answer"),
            Self::Unconfirmed { eni, cause } => write!(f, "{eni} is unconfirmed: {cause}"),
            Self::UnknownEni => f.write_str("IMDS shows an ENI that is not known"),
            Self::Start => f.write_str("nothing is known yet"),
            Self::Audit(source) => write!(f, "the last answer of {source} is old"),
            Self::SubnetsNeeded => f.write_str("the list of subnets is needed"),
        }
    }
}

impl fmt::Display for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} total, {} assigned", self.total, self.assigned)?;
        if self.cooling > 0 {
            write!(f, ", {} cooling", self.cooling)?;
        }
        if self.waiting > 0 {
            write!(f, ", {} pod{} waiting", self.waiting, plural(self.waiting))?;
        }
        Ok(())
    }
}

impl fmt::Display for WarmTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enis(enis) => write!(f, "target {enis} free ENI{}", plural(*enis)),
            Self::Ips { warm, minimum: 0 } => write!(f, "target {warm} free"),
            Self::Ips { warm, minimum } => write!(f, "target {warm} free and {minimum} in all"),
            Self::Prefixes(prefixes) => {
                write!(f, "target {prefixes} free prefix{}", if *prefixes == 1 { "" } else { "es" })
            }
            Self::Batch { batch, buffer_percent } => {
                write!(f, "target batches of {batch} with {buffer_percent} % free")
            }
        }
    }
}

fn es(count: u32) -> &'static str {
    if count == 1 { "" } else { "es" }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Something that is wanted but has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Blocked {
    /// What has to wait.
    pub wanted: Wanted,
    /// What it waits for.
    pub waiting_on: WaitingOn,
}

impl Blocked {
    /// Returns whether it is only that the next reading of a source is not due yet, which is no news.
    pub fn is_next_reading(&self) -> bool {
        matches!(self.wanted, Wanted::Answer(_) | Wanted::Subnets)
            && matches!(self.waiting_on, WaitingOn::Time { .. })
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.wanted, self.waiting_on)
    }
}

/// What a plan wants and may have to wait with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Wanted {
    /// Further addresses on a network card.
    Addresses {
        /// The card that is short of addresses.
        card: Card,
    },
    /// A further ENI on a network card.
    Eni {
        /// The card that the ENI is for.
        card: Card,
    },
    /// Fewer addresses on a network card.
    FewerAddresses {
        /// The card that has too many.
        card: Card,
    },
    /// That an ENI goes.
    FreeEni(EniId),
    /// The next step of an ENI's life.
    NextStep(EniId),
    /// EC2's or IMDS's word.
    Answer(Source),
    /// The list of subnets.
    Subnets,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { card } => write!(f, "more addresses on {card}"),
            Self::Eni { card } => write!(f, "another ENI on {card}"),
            Self::FewerAddresses { card } => write!(f, "fewer addresses on {card}"),
            Self::FreeEni(eni) => write!(f, "remove {eni}"),
            Self::NextStep(eni) => write!(f, "next step of {eni}"),
            Self::Answer(source) => write!(f, "ask {source}"),
            Self::Subnets => f.write_str("list subnets"),
        }
    }
}

/// What something waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WaitingOn {
    /// EC2 was never asked what there is.
    FirstObservation,
    /// What became of an action.
    Outcome(ActionId),
    /// Another step that is planned for the ENI now.
    StepBefore(EniId),
    /// EC2's word on an ENI.
    Observation {
        /// The ENI that EC2 has to show first.
        eni: EniId,
        /// Why it is needed.
        cause: UnconfirmedCause,
    },
    /// Something failed lately and is left alone for a while.
    Backoff {
        /// What the failure says something about.
        #[cfg_attr(feature = "serde", serde(rename = "culprit"))]
        scope: BackoffScope,
        /// How it failed last.
        kind: FailureKind,
        /// Until when it is left alone.
        until: Timestamp,
    },
    /// The budget of calls is spent.
    Budget {
        /// The operation whose rate is used up.
        operation: Ec2Operation,
        /// When the next call may be made.
        until: Timestamp,
    },
    /// A point in time: the minimum life of an ENI, the spacing of decreases, the moment that detaching takes.
    Time {
        /// The point in time from which on it may go.
        until: Timestamp,
    },
    /// Addresses that were released lately, which no pod may use and EC2 may not get.
    Cooling {
        /// Until the first is ready.
        until: Timestamp,
    },
    /// The node is at its limit of ENIs.
    EniLimit(EniLimit),
    /// The node holds as many addresses as it may run pods.
    MaxPods(u32),
    /// No subnet is known in which an ENI may be made.
    NoSubnet,
    /// Custom networking is on, and it is not known in which subnet.
    NoEniConfig,
    /// The list of subnets.
    Subnets,
    /// A subnet has too few free addresses.
    SubnetSpace {
        /// The subnet that has too few free addresses.
        subnet: SubnetId,
        /// How many it has, as last listed, and less what the node took since.
        free: u32,
        /// When the subnets are listed again at the latest.
        until: Timestamp,
    },
    /// An untracked owner uses an address of the ENI.
    #[cfg_attr(feature = "serde", serde(rename = "UnknownOwner"))]
    Untracked(EniId),
    /// The sources do not agree on an ENI; nothing is released meanwhile.
    Disagreement(EniId),
    /// The node is cordoned.
    Unschedulable,
    /// The node is going away.
    Terminating,
    /// The configuration forbids changes in EC2.
    ProvisioningOff,
}

impl WaitingOn {
    /// Returns the time at which the wait ends by itself, if it does.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Backoff { until, .. }
            | Self::Budget { until, .. }
            | Self::Time { until }
            | Self::SubnetSpace { until, .. }
            | Self::Cooling { until } => Some(*until),
            _ => None,
        }
    }

    /// Returns whether it can end without the operator, so that a pod may as well wait.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::FirstObservation
            | Self::Outcome(_)
            | Self::StepBefore(_)
            | Self::Observation { .. }
            | Self::Backoff { .. }
            | Self::Budget { .. }
            | Self::Time { .. }
            | Self::Cooling { .. }
            | Self::Subnets
            | Self::SubnetSpace { .. }
            | Self::Untracked(_)
            | Self::Disagreement(_) => true,
            Self::EniLimit(_)
            | Self::MaxPods(_)
            | Self::NoSubnet
            | Self::NoEniConfig
            | Self::Unschedulable
            | Self::Terminating
            | Self::ProvisioningOff => false,
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstObservation => f.write_str("EC2 has not said yet what there is"),
            Self::Outcome(id) => write!(f, "action {id} is under way"),
            Self::StepBefore(eni) => write!(f, "another step of {eni} comes first"),
            Self::Observation { eni, cause } => {
                write!(f, "EC2's word on {eni} is needed: {cause}")
            }
            // These scopes say what failed.
            Self::Backoff {
                scope:
                    scope @ (BackoffScope::Subnet(_)
                    | BackoffScope::SubnetPrefixes(_)
                    | BackoffScope::SubnetIpv6(_)
                    | BackoffScope::Hint(_)),
                until,
                ..
            } => write!(f, "{scope}, left alone until {until}"),
            Self::Backoff { scope, kind, until } => {
                write!(f, "{scope} ({kind}), left alone until {until}")
            }
            Self::Budget { operation, until } => {
                write!(f, "budget of {operation} calls is spent until {until}")
            }
            Self::Time { until } => write!(f, "not before {until}"),
            Self::Cooling { until } => {
                write!(f, "released addresses cool, the first until {until}")
            }
            Self::EniLimit(limit) => write!(f, "{limit}"),
            Self::MaxPods(pods) => write!(f, "the node runs at most {pods} pods"),
            Self::NoSubnet => f.write_str("no subnet is known in which an ENI may be made"),
            Self::NoEniConfig => {
                f.write_str("custom networking is on, but no ENIConfig or override names a subnet")
            }
            Self::Subnets => f.write_str("the subnets were not listed yet"),
            Self::SubnetSpace { subnet, free, until } => {
                write!(f, "{subnet} has {free} free address{}, listed again by {until}", es(*free))
            }
            Self::Untracked(eni) => {
                write!(f, "an untracked owner uses an address of {eni}")
            }
            Self::Disagreement(eni) => {
                write!(f, "sources disagree on {eni}; nothing is released until EC2 settles it")
            }
            Self::Unschedulable => f.write_str("the node is cordoned"),
            Self::Terminating => f.write_str("the node is going away"),
            Self::ProvisioningOff => f.write_str("the configuration forbids changes in EC2"),
        }
    }
}

/// Why a network card takes no further ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum EniLimit {
    /// The instance type takes so many.
    InstanceType(u8),
    /// `MAX_ENI` allows so many.
    MaxEni(u8),
    /// Of so many slots, the last one is kept for a trunk.
    KeptForTrunk(u8),
    /// EC2 refused to attach more than so many lately, although the instance type promises more.
    Refused(u8),
}

impl fmt::Display for EniLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InstanceType(most) => {
                write!(f, "all {most} ENIs that the instance type takes are there")
            }
            Self::MaxEni(most) => write!(f, "all {most} ENIs that MAX_ENI allows are there"),
            Self::KeptForTrunk(most) => {
                write!(f, "the last of {most} ENIs is kept for a trunk")
            }
            Self::Refused(most) => {
                write!(
                    f,
                    "EC2 refused to attach more than {most} ENIs, although the type promises more"
                )
            }
        }
    }
}
