//! What became of an action.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use ipnet::IpNet;

use crate::{AttachmentId, Metadata, Observation, ObservedEni, ObservedSubnet};

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Outcome {
    /// The action took effect, and this is what came of it.
    Done(Effect),
    /// It was not done, or that is not known.
    Failed(Failure),
}

/// What an action brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Effect {
    /// Of CreateNetworkInterface: the ENI with the addresses that EC2 chose.
    Created(ObservedEni),
    /// The attachment that AttachNetworkInterface made.
    Attached(AttachmentId),
    /// Of AssignPrivateIpAddresses and AssignIpv6Addresses: the blocks that EC2 chose.
    Assigned(Vec<IpNet>),
    /// What DescribeNetworkInterfaces showed.
    Observed(Observation),
    /// The subnets that DescribeSubnets listed.
    Subnets(Vec<ObservedSubnet>),
    /// What IMDS answered to ReadMetadata.
    Metadata(Metadata),
    /// Of every action whose answer says only that it was done.
    Done,
}

/// Why an action was not done.
///
/// The adapter classifies, core decides: `kind` is what core acts on, the rest is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[error("{kind}: {message}")]
#[non_exhaustive]
pub struct Failure {
    /// The class of failure.
    pub kind: FailureKind,
    /// How long the other side asks to wait, if it does.
    pub retry_after: Option<Duration>,
    /// EC2's error code and message, or the errno and the kernel object.
    pub message: String,
}

impl Failure {
    /// Returns a failure after which the other side asks for no wait.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, retry_after: None, message: message.into() }
    }
}

setters!(Failure {
    with_kind kind: FailureKind,
    with_retry_after retry_after: Option<Duration>,
    with_message message: String,
});

/// The classes of failure that lead to different decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum FailureKind {
    /// The call came too soon after others: `RequestLimitExceeded` and its kin.
    Throttled,
    /// The subnet has not that many addresses left: `InsufficientFreeAddressesInSubnet`.
    SubnetFull,
    /// The subnet has no free /28 or /80 left: `InsufficientCidrBlocks`.
    NoFreePrefix,
    /// The ENI is at its limit of addresses: `PrivateIpAddressLimitExceeded`.
    AddressLimit,
    /// The instance takes no further ENI: `AttachmentLimitExceeded`.
    AttachmentLimit,
    /// The account is at its quota of ENIs: `NetworkInterfaceLimitExceeded`.
    EniLimit,
    /// The ENI or attachment does not exist: `InvalidNetworkInterfaceID.NotFound`, `InvalidAttachmentID.NotFound`.
    NotFound,
    /// The ENI is attached, or still on its way off: `InvalidNetworkInterface.InUse`.
    InUse,
    /// The ENI or the instance is in a state that does not allow the call and that passes: `IncorrectState`.
    WrongState,
    /// The credentials do not allow the call: `UnauthorizedOperation`.
    Denied,
    /// The call can never succeed as it is.
    Rejected,
    /// No answer came, or the server failed: whether it was done is not known. An executor that lost an answer must report this, once: the
    /// core then looks before it acts again.
    Unanswered,
    /// The answer cannot be whole: it lacks the primary ENI.
    Incomplete,
    /// No link on the node has the ENI's MAC address.
    LinkMissing,
    /// The kernel refused a change of the node's network.
    Kernel,
}

/// What EC2's error codes mean. Those that are not here are refusals that can never succeed as they are.
///
/// From the EC2 API reference ("Error codes for the Amazon EC2 API"), and for throttling those of the AWS SDKs' standard
/// retry mode besides.
const EC2_CODES: &[(&str, FailureKind)] = &[
    ("BandwidthLimitExceeded", FailureKind::Throttled),
    // Two calls change the tags of one resource.
    ("ConcurrentTagAccess", FailureKind::Throttled),
    ("EC2ThrottledException", FailureKind::Throttled),
    ("PriorRequestNotComplete", FailureKind::Throttled),
    ("RequestLimitExceeded", FailureKind::Throttled),
    ("RequestThrottled", FailureKind::Throttled),
    ("RequestThrottledException", FailureKind::Throttled),
    ("SlowDown", FailureKind::Throttled),
    ("ThrottledException", FailureKind::Throttled),
    ("Throttling", FailureKind::Throttled),
    ("ThrottlingException", FailureKind::Throttled),
    ("TooManyRequestsException", FailureKind::Throttled),
    ("InsufficientAddressCapacity", FailureKind::SubnetFull),
    ("InsufficientFreeAddressesInSubnet", FailureKind::SubnetFull),
    ("InsufficientCidrBlocks", FailureKind::NoFreePrefix),
    ("InvalidInterface.IpAddressLimitExceeded", FailureKind::AddressLimit),
    ("PrivateIpAddressLimitExceeded", FailureKind::AddressLimit),
    ("AttachmentLimitExceeded", FailureKind::AttachmentLimit),
    ("NetworkInterfaceLimitExceeded", FailureKind::EniLimit),
    ("ResourceLimitExceeded", FailureKind::EniLimit),
    ("InvalidAttachment.NotFound", FailureKind::NotFound),
    ("InvalidAttachmentID.NotFound", FailureKind::NotFound),
    ("InvalidNetworkInterface.NotFound", FailureKind::NotFound),
    ("InvalidNetworkInterfaceID.NotFound", FailureKind::NotFound),
    ("InvalidNetworkInterfaceId.NotFound", FailureKind::NotFound),
    ("InvalidNetworkInterface.InUse", FailureKind::InUse),
    ("IncorrectInstanceState", FailureKind::WrongState),
    ("IncorrectState", FailureKind::WrongState),
    ("InsufficientCapacity", FailureKind::WrongState),
    // The instance was launched a moment ago.
    ("InvalidInstanceID.NotFound", FailureKind::WrongState),
    ("InvalidState", FailureKind::WrongState),
    ("AccessDenied", FailureKind::Denied),
    ("AccessDeniedException", FailureKind::Denied),
    ("AccountDisabled", FailureKind::Denied),
    ("AuthFailure", FailureKind::Denied),
    ("Blocked", FailureKind::Denied),
    ("ExpiredToken", FailureKind::Denied),
    ("ExpiredTokenException", FailureKind::Denied),
    ("IncompleteSignature", FailureKind::Denied),
    ("InvalidClientTokenId", FailureKind::Denied),
    ("InvalidSecurity.RequestHasExpired", FailureKind::Denied),
    ("MissingAuthenticationToken", FailureKind::Denied),
    ("OptInRequired", FailureKind::Denied),
    ("PendingVerification", FailureKind::Denied),
    ("RequestExpired", FailureKind::Denied),
    ("SignatureDoesNotMatch", FailureKind::Denied),
    ("UnauthorizedOperation", FailureKind::Denied),
    ("UnrecognizedClientException", FailureKind::Denied),
    ("InternalError", FailureKind::Unanswered),
    ("InternalFailure", FailureKind::Unanswered),
    ("RequestTimeout", FailureKind::Unanswered),
    ("RequestTimeoutException", FailureKind::Unanswered),
    ("ServerInternal", FailureKind::Unanswered),
    ("ServiceUnavailable", FailureKind::Unanswered),
    ("Unavailable", FailureKind::Unanswered),
];

/// What EC2 says under its general code `InvalidParameterValue` where it has a code of its own for it elsewhere: parts of
/// its messages, in lower case, all of which have to be there.
const EC2_MESSAGES: &[(&[&str], FailureKind)] = &[
    // On deleting an ENI that is attached.
    (&["currently in use"], FailureKind::InUse),
    // On creating an ENI, or assigning, in a subnet that has too little left; which kind of block, it does not say.
    (&["sufficient free", "addresses"], FailureKind::SubnetFull),
    (&["sufficient free", "prefix"], FailureKind::NoFreePrefix),
    (&["sufficient free", "cidr"], FailureKind::NoFreePrefix),
];

impl FailureKind {
    /// Returns what an error code of EC2 means, and, under the code `InvalidParameterValue`, its message. A prefix
    /// `Client.` or `Server.`, as EC2's older interface has it, is ignored.
    ///
    /// ```
    /// use vpc_ipam_core::FailureKind;
    ///
    /// assert_eq!(FailureKind::of_ec2_error("RequestLimitExceeded", ""), FailureKind::Throttled);
    /// assert_eq!(FailureKind::of_ec2_error("SomethingNew", ""), FailureKind::Rejected);
    /// ```
    pub fn of_ec2_error(code: &str, message: &str) -> Self {
        let prefix = ["Client.", "Server."].into_iter().find_map(|it| code.strip_prefix(it));
        let code = prefix.unwrap_or(code);
        if code == "InvalidParameterValue" {
            let message = message.to_lowercase();
            let says = |parts: &&(&[&str], Self)| parts.0.iter().all(|part| message.contains(part));
            return EC2_MESSAGES.iter().find(says).map_or(Self::Rejected, |(_, kind)| *kind);
        }
        let known = EC2_CODES.iter().find(|(known, _)| *known == code);
        known.map_or(Self::Rejected, |(_, kind)| *kind)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttled => "throttled by EC2",
            Self::SubnetFull => "subnet has too few free addresses",
            Self::NoFreePrefix => "subnet has no free prefix",
            Self::AddressLimit => "ENI is at its address limit",
            Self::AttachmentLimit => "the instance takes no further ENI",
            Self::EniLimit => "the account's quota of ENIs is used up",
            Self::NotFound => "not found",
            Self::InUse => "in use",
            Self::WrongState => "not in the state that the call needs",
            Self::Denied => "not allowed by IAM",
            Self::Rejected => "rejected",
            Self::Unanswered => "no answer",
            Self::Incomplete => "the answer lacks the primary ENI",
            Self::LinkMissing => "no link with the ENI's MAC address",
            Self::Kernel => "refused by the kernel",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_the_same_with_and_without_its_prefix() {
        for (code, kind) in EC2_CODES {
            for prefix in ["", "Client.", "Server."] {
                let code = alloc::format!("{prefix}{code}");
                assert_eq!(FailureKind::of_ec2_error(&code, ""), *kind, "{code}");
            }
        }
        assert_eq!(FailureKind::of_ec2_error("Client.", ""), FailureKind::Rejected);
    }

    #[test]
    fn each_code_of_the_table_is_there_once() {
        let mut codes: Vec<_> = EC2_CODES.iter().map(|(code, _)| *code).collect();
        codes.sort_unstable();
        let count = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }

    #[test]
    fn codes_are_classified_by_what_follows_from_them() {
        use FailureKind::*;
        let cases = [
            ("ServerInternal", "", Unanswered),
            ("InvalidNetworkInterface.NotFound", "", NotFound),
            ("InvalidSecurity.RequestHasExpired", "", Denied),
            ("AccountDisabled", "", Denied),
            ("ConcurrentTagAccess", "", Throttled),
            ("InsufficientAddressCapacity", "", SubnetFull),
            ("ResourceLimitExceeded", "", EniLimit),
            ("NetworkInterfaceLimitExceeded", "", EniLimit),
            ("AttachmentLimitExceeded", "", AttachmentLimit),
            ("IncorrectState", "", WrongState),
            ("InvalidState", "", WrongState),
            ("IncorrectInstanceState", "", WrongState),
            ("Client.UnauthorizedOperation", "", Denied),
            (
                "Client.InvalidParameterValue",
                "Network interface 'eni-1' is currently in use.",
                InUse,
            ),
            ("InvalidInterface.IpAddressLimitExceeded", "", AddressLimit),
            (
                "InvalidParameterValue",
                "There aren't sufficient free Ipv4 addresses or prefixes",
                SubnetFull,
            ),
            (
                "InvalidParameterValue",
                "There aren't sufficient free /80 prefixes in subnet-1",
                NoFreePrefix,
            ),
            ("InvalidParameterValue", "Bad MAC", Rejected),
            ("InvalidSubnetID.NotFound", "", Rejected),
            ("TagLimitExceeded", "", Rejected),
            ("", "", Rejected),
        ];
        for (code, message, expected) in cases {
            let actual = FailureKind::of_ec2_error(code, message);
            assert_eq!(actual, expected, "{code} {message}");
        }
    }
}
