use alloc::format;
use alloc::vec::Vec;

use crate::plan::backoff::{about, asks_for_prefixes};
use crate::sim::Cloud;
use crate::{
    Action, Card, Ec2Action, Ec2Operation, EniId, Failure, FailureKind, HostAction, SubnetId,
    Timestamp,
};

/// Calls that fail, how, and for how long: a permission that is missing, a subnet that does not exist, a link that never
/// appears.
///
/// A refused call does nothing. A kind that cannot be the answer to an operation may be given all the same: what is refused
/// for no known reason has to be borne as well.
///
/// ```
/// use vpc_ipam_core::sim::{Call, Lasts, Refusal};
/// use vpc_ipam_core::{Ec2Operation, FailureKind};
///
/// let detaching = Call::Ec2(Ec2Operation::DetachNetworkInterface);
/// let denied = Refusal::new(detaching, FailureKind::Denied);
/// assert_eq!((denied.about, denied.lasts), (None, Lasts::ForEver));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The operation, or the change of the node, whose calls fail.
    pub call: Call,
    /// Narrows it to calls about one thing; `None` refuses them all.
    pub about: Option<About>,
    /// The kind of failure that each refused call answers with.
    pub kind: FailureKind,
    /// How long the calls go on failing.
    pub lasts: Lasts,
}

/// Calls of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// A call to the API of EC2.
    Ec2(Ec2Operation),
    /// Reading the metadata service, which is no operation of EC2.
    ReadMetadata,
    /// [`HostAction::SetUpEni`].
    SetUpEni,
    /// [`HostAction::RemoveEni`].
    RemoveEni,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The ENI that the call changes or asks for.
    Eni(EniId),
    /// A subnet: that of the ENI, or of the ENI to be made.
    Subnet(SubnetId),
    /// A network card: that of the ENI. A creation is about none.
    Card(Card),
}

/// How long something lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// For so many calls.
    Calls(u32),
    /// Until a point in time.
    Until(Timestamp),
    /// Until it is [healed](Refusals::heal).
    ForEver,
}

impl Call {
    /// All that a node calls.
    pub const ALL: [Self; 15] = [
        Self::Ec2(Ec2Operation::CreateNetworkInterface),
        Self::Ec2(Ec2Operation::AttachNetworkInterface),
        Self::Ec2(Ec2Operation::ModifyNetworkInterfaceAttribute),
        Self::Ec2(Ec2Operation::AssignPrivateIpAddresses),
        Self::Ec2(Ec2Operation::AssignIpv6Addresses),
        Self::Ec2(Ec2Operation::UnassignPrivateIpAddresses),
        Self::Ec2(Ec2Operation::UnassignIpv6Addresses),
        Self::Ec2(Ec2Operation::DetachNetworkInterface),
        Self::Ec2(Ec2Operation::DeleteNetworkInterface),
        Self::Ec2(Ec2Operation::CreateTags),
        Self::Ec2(Ec2Operation::DescribeNetworkInterfaces),
        Self::Ec2(Ec2Operation::DescribeSubnets),
        Self::ReadMetadata,
        Self::SetUpEni,
        Self::RemoveEni,
    ];

    /// Returns the call that an action is.
    pub fn of(action: &Action) -> Self {
        match action {
            Action::Ec2(action) => action.operation().map_or(Self::ReadMetadata, Self::Ec2),
            Action::Host(HostAction::SetUpEni(_)) => Self::SetUpEni,
            Action::Host(HostAction::RemoveEni(_)) => Self::RemoveEni,
        }
    }

    /// Returns the kinds of failure with which it can be refused.
    pub fn kinds(self) -> &'static [FailureKind] {
        match self {
            Self::Ec2(_) | Self::ReadMetadata => &[
                FailureKind::Throttled,
                FailureKind::SubnetFull,
                FailureKind::NoFreePrefix,
                FailureKind::AddressLimit,
                FailureKind::AttachmentLimit,
                FailureKind::EniLimit,
                FailureKind::NotFound,
                FailureKind::InUse,
                FailureKind::WrongState,
                FailureKind::Denied,
                FailureKind::Rejected,
                FailureKind::Unanswered,
            ],
            Self::SetUpEni | Self::RemoveEni => {
                &[FailureKind::LinkMissing, FailureKind::Kernel, FailureKind::Unanswered]
            }
        }
    }
}

impl Refusal {
    /// Refuses all calls of one name for ever.
    pub fn new(call: Call, kind: FailureKind) -> Self {
        Self { call, about: None, kind, lasts: Lasts::ForEver }
    }

    fn concerns(&self, action: &Action, cloud: &Cloud) -> bool {
        let eni = match action {
            Action::Ec2(action) => about(action),
            Action::Host(HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) => {
                Some(link.eni)
            }
        };
        let found = eni.and_then(|eni| cloud.interface(&eni));
        let same = match self.about {
            None => true,
            Some(About::Eni(id)) => eni == Some(id),
            Some(About::Subnet(id)) => match action {
                Action::Ec2(Ec2Action::CreateNetworkInterface(call)) => call.subnet == id,
                _ => found.is_some_and(|eni| eni.subnet == id),
            },
            Some(About::Card(card)) => match action {
                Action::Ec2(Ec2Action::AttachNetworkInterface(call)) => call.card == card,
                _ => found
                    .and_then(|eni| eni.attachment.as_ref())
                    .is_some_and(|attachment| attachment.card == card),
            },
        };
        same && Call::of(action) == self.call
    }
}

/// The refusals that stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    standing: Vec<Standing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    refusal: Refusal,
    /// How many calls it met.
    met: u32,
    /// Whether it met one since the node started, other than a call for prefixes: a node that is refused those tries without.
    known: bool,
}

impl Refusals {
    /// Adds a refusal to those that stand; of two that fit a call, the older one answers.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.standing.push(Standing { refusal, met: 0, known: false });
    }

    /// Ends all refusals, those that last for ever included.
    pub fn heal(&mut self) {
        self.standing.clear();
    }

    /// Returns how an action fails, if it is refused.
    pub fn meet(&mut self, action: &Action, cloud: &Cloud, now: Timestamp) -> Option<Failure> {
        self.standing.retain(|standing| match standing.refusal.lasts {
            Lasts::Calls(calls) => standing.met < calls,
            Lasts::Until(until) => now < until,
            Lasts::ForEver => true,
        });
        let met = self.standing.iter_mut().find(|it| it.refusal.concerns(action, cloud))?;
        met.met = met.met.saturating_add(1);
        met.known |= !matches!(action, Action::Ec2(action) if asks_for_prefixes(action));
        let kind = met.refusal.kind;
        Some(Failure {
            kind,
            retry_after: None,
            message: format!("{:?} is refused", met.refusal.call),
        })
    }

    /// The node starts anew, and knows of none.
    pub fn on_restart(&mut self) {
        for standing in &mut self.standing {
            standing.known = false;
        }
    }

    /// Returns whether a refusal stands that no call has met since the node started, so that it cannot know of it.
    pub fn are_unmet(&self) -> bool {
        self.standing.iter().any(|standing| !standing.known)
    }
}
