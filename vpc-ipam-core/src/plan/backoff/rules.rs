//! Which failure of EC2 says something about what, and how long that is left alone.
//!
//! The waits decide how often a call is made for a cause that does not change: [`PASSING`] at most 20 times in the first hour and
//! 12 in each later one, [`LASTING`] 11 and 4, [`DENIED`] 8 and 4, for each thing that the scope names. While a pod waits
//! for what the call would bring, [`PASSING`] is cut to [`HURRIED`](super::HURRIED): 121 an hour.

use core::time::Duration;

use super::Pace;
use crate::{
    BackoffScope, Ec2Action, Ec2Operation, EniId, FailureKind, Ipv4Amount, Question, Scope,
    SubnetId,
};

/// After a failure that passes by itself: throttling, no answer, a state that EC2 is about to leave.
pub(crate) const PASSING: Pace = Pace::secs(1, 5 * 60);
/// After a refusal that lasts until an operator, or another program, changes something. It begins short: what looks final may
/// be a state on its way.
const LASTING: Pace = Pace::secs(5, 15 * 60);
/// After a call that IAM forbids: an operator has to act, which takes minutes.
const DENIED: Pace = Pace::secs(60, 15 * 60);
/// After the account's quota of ENIs was reached: other nodes have to delete theirs first.
const QUOTA: Pace = DENIED;

/// Returns what a failed EC2 call says something about, and how long that is left alone. `subnet` is that of the ENI, or
/// of the ENI to be made; `full` is the wait after a subnet ran out.
pub(crate) fn rule(
    action: &Ec2Action,
    subnet: Option<SubnetId>,
    kind: FailureKind,
    full: Duration,
) -> (BackoffScope, Pace) {
    let Some(operation) = action.operation() else {
        return (BackoffScope::Question(Question::Metadata), PASSING);
    };
    let full = Pace { first: full, most: full.saturating_mul(4) };
    let own = match (action, about(action)) {
        (Ec2Action::CreateNetworkInterface(request), _) => BackoffScope::Creation(request.subnet),
        (_, Some(eni)) => BackoffScope::EniOperation(eni, operation),
        (_, None) => {
            question(action).map_or(BackoffScope::Operation(operation), BackoffScope::Question)
        }
    };
    let of_subnet = |scope: fn(SubnetId) -> BackoffScope| subnet.map_or(own, scope);
    match kind {
        FailureKind::Throttled => (BackoffScope::Operation(operation), PASSING),
        FailureKind::EniLimit if matches!(own, BackoffScope::Creation(_)) => {
            (BackoffScope::Operation(operation), QUOTA)
        }
        FailureKind::EniLimit => (own, QUOTA),
        FailureKind::SubnetFull | FailureKind::NoFreePrefix => match asked(action, kind) {
            Some(Asked::Ipv6) => (of_subnet(BackoffScope::SubnetIpv6), full),
            Some(Asked::Prefixes) => (of_subnet(BackoffScope::SubnetPrefixes), full),
            // There may be enough for an address more on an ENI that is there.
            Some(Asked::Addresses) if matches!(own, BackoffScope::Creation(_)) => (own, full),
            Some(Asked::Addresses) => (of_subnet(BackoffScope::Subnet), full),
            None => (own, LASTING),
        },
        // As it is, the call can never succeed; single addresses may be had where prefixes are not.
        FailureKind::Rejected | FailureKind::Denied if asks_for_prefixes(action) => {
            (of_subnet(BackoffScope::SubnetPrefixes), full)
        }
        FailureKind::Denied => (own, DENIED),
        FailureKind::Rejected | FailureKind::AddressLimit | FailureKind::AttachmentLimit => {
            (own, LASTING)
        }
        FailureKind::NotFound
        | FailureKind::InUse
        | FailureKind::WrongState
        | FailureKind::Unanswered
        | FailureKind::Incomplete
        | FailureKind::LinkMissing
        | FailureKind::Kernel => (own, PASSING),
    }
}

/// Returns the scopes of which each holds an EC2 action back while it is left alone, and is over when the action succeeds.
pub(crate) fn gates(
    action: &Ec2Action,
    subnet: Option<SubnetId>,
) -> impl Iterator<Item = BackoffScope> + use<> {
    let operation = action.operation();
    let eni = about(action).zip(operation);
    let (mut ipv4, mut prefixes, mut ipv6, mut creation) = (None, None, None, None);
    match action {
        Ec2Action::CreateNetworkInterface(request) => {
            creation = Some(request.subnet);
            ipv4 = Some(request.subnet);
            prefixes = asks_for_prefixes(action).then_some(request.subnet);
            ipv6 = (request.ipv6_prefixes > 0).then_some(request.subnet);
        }
        Ec2Action::AssignPrivateIpAddresses(_) => {
            ipv4 = subnet;
            prefixes = subnet.filter(|_| asks_for_prefixes(action));
        }
        Ec2Action::AssignIpv6Addresses(_) => ipv6 = subnet,
        _ => {}
    }
    [
        operation.map(BackoffScope::Operation),
        eni.map(|(eni, operation)| BackoffScope::EniOperation(eni, operation)),
        creation.map(BackoffScope::Creation),
        ipv4.map(BackoffScope::Subnet),
        prefixes.map(BackoffScope::SubnetPrefixes),
        ipv6.map(BackoffScope::SubnetIpv6),
        question(action).map(BackoffScope::Question),
    ]
    .into_iter()
    .flatten()
}

/// Returns whether every new ENI takes this step: what fails for another may fail for it.
pub(crate) fn is_step_of_new_eni(scope: BackoffScope) -> bool {
    let attach = Ec2Operation::AttachNetworkInterface;
    match scope {
        BackoffScope::Operation(operation) | BackoffScope::EniOperation(_, operation) => {
            operation == attach
        }
        BackoffScope::SetUp(_) => true,
        _ => false,
    }
}

/// Returns the ENI that an action is about, if it is about one.
pub(crate) fn about(action: &Ec2Action) -> Option<EniId> {
    match action {
        Ec2Action::AttachNetworkInterface(call) => Some(call.eni),
        Ec2Action::ModifyNetworkInterfaceAttribute(call) => Some(call.eni),
        Ec2Action::AssignPrivateIpAddresses(call) => Some(call.eni),
        Ec2Action::AssignIpv6Addresses(call) => Some(call.eni),
        Ec2Action::UnassignPrivateIpAddresses(call) => Some(call.eni),
        Ec2Action::UnassignIpv6Addresses(call) => Some(call.eni),
        Ec2Action::DetachNetworkInterface(call) => Some(call.eni),
        Ec2Action::DeleteNetworkInterface(call) => Some(call.eni),
        Ec2Action::CreateTags(call) => Some(call.eni),
        Ec2Action::CreateNetworkInterface(_)
        | Ec2Action::DescribeNetworkInterfaces(_)
        | Ec2Action::DescribeSubnets
        | Ec2Action::ReadMetadata => None,
    }
}

/// Returns whether an action asks for IPv4 prefixes.
pub(crate) fn asks_for_prefixes(action: &Ec2Action) -> bool {
    let amount = match action {
        Ec2Action::CreateNetworkInterface(request) => request.ipv4,
        Ec2Action::AssignPrivateIpAddresses(request) => request.amount,
        _ => return false,
    };
    matches!(amount, Ipv4Amount::Prefixes(count) if count > 0)
}

/// What a call asked a subnet for, that it has too little of.
enum Asked {
    Addresses,
    Prefixes,
    Ipv6,
}

/// Returns what a subnet has too little of. EC2 does not say; where a call asks for several, the one that most often runs
/// out is blamed first: a later call without it tells.
fn asked(action: &Ec2Action, kind: FailureKind) -> Option<Asked> {
    match action {
        Ec2Action::AssignIpv6Addresses(_) => Some(Asked::Ipv6),
        action if asks_for_prefixes(action) => Some(Asked::Prefixes),
        Ec2Action::CreateNetworkInterface(request)
            if kind == FailureKind::NoFreePrefix && request.ipv6_prefixes > 0 =>
        {
            Some(Asked::Ipv6)
        }
        Ec2Action::CreateNetworkInterface(_) | Ec2Action::AssignPrivateIpAddresses(_) => {
            Some(Asked::Addresses)
        }
        _ => None,
    }
}

fn question(action: &Ec2Action) -> Option<Question> {
    match action {
        Ec2Action::ReadMetadata => Some(Question::Metadata),
        Ec2Action::DescribeSubnets => Some(Question::Subnets),
        Ec2Action::DescribeNetworkInterfaces(Scope::Attached) => Some(Question::Attached),
        Ec2Action::DescribeNetworkInterfaces(Scope::Unattached) => Some(Question::Unattached),
        Ec2Action::DescribeNetworkInterfaces(Scope::Only(_)) => Some(Question::Unconfirmed),
        _ => None,
    }
}

/// Returns the scopes of an operation on one ENI that hold it back.
pub(crate) fn of_eni(eni: EniId, operation: Ec2Operation) -> [BackoffScope; 2] {
    [BackoffScope::Operation(operation), BackoffScope::EniOperation(eni, operation)]
}
