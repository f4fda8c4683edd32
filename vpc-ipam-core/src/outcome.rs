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
    /// It was done.
    Done(Effect),
    /// It was not done, or nobody knows.
    Failed(Failure),
}

/// What an action brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Effect {
    /// Of CreateNetworkInterface: the ENI with the addresses that EC2 chose.
    Created(ObservedEni),
    /// Of AttachNetworkInterface.
    Attached(AttachmentId),
    /// Of AssignPrivateIpAddresses and AssignIpv6Addresses: the blocks that EC2 chose.
    Assigned(Vec<IpNet>),
    /// Of DescribeNetworkInterfaces.
    Observed(Observation),
    /// Of DescribeSubnets.
    Subnets(Vec<ObservedSubnet>),
    /// Of ReadMetadata.
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
pub struct Failure {
    /// The class of failure.
    pub kind: FailureKind,
    /// How long the other side asks to wait, if it does.
    pub retry_after: Option<Duration>,
    /// EC2's error code and message, or the errno and the kernel object.
    pub message: String,
}

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
    /// The instance or the account is at its limit of ENIs: `AttachmentLimitExceeded`, `NetworkInterfaceLimitExceeded`.
    EniLimit,
    /// The ENI or attachment does not exist: `InvalidNetworkInterfaceID.NotFound`, `InvalidAttachmentID.NotFound`.
    NotFound,
    /// The ENI is attached, or still on its way off: `InvalidNetworkInterface.InUse`.
    InUse,
    /// The credentials do not allow the call: `UnauthorizedOperation`.
    Denied,
    /// The call can never succeed as it is.
    Rejected,
    /// No answer came, or the server failed: whether it was done, nobody knows.
    Unanswered,
    /// No link on the node has the ENI's MAC address.
    LinkMissing,
    /// The kernel refused.
    Kernel,
}

impl FailureKind {
    /// Returns what an error code of EC2 means.
    ///
    /// The codes are those of the EC2 API reference ("Error codes for the Amazon EC2 API"), and for throttling those of the
    /// AWS SDKs' standard retry mode besides. The message decides where EC2 has no code of its own: on deleting an ENI that
    /// is attached it answers `InvalidParameterValue`.
    ///
    /// ```
    /// use vpc_ipam_core::FailureKind;
    ///
    /// assert_eq!(FailureKind::of_ec2_error("RequestLimitExceeded", ""), FailureKind::Throttled);
    /// assert_eq!(FailureKind::of_ec2_error("SomethingNew", ""), FailureKind::Rejected);
    /// ```
    pub fn of_ec2_error(code: &str, message: &str) -> Self {
        match code {
            "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "EC2ThrottledException"
            | "BandwidthLimitExceeded"
            | "PriorRequestNotComplete"
            | "SlowDown" => Self::Throttled,

            "InsufficientFreeAddressesInSubnet" => Self::SubnetFull,
            "InsufficientCidrBlocks" => Self::NoFreePrefix,
            "PrivateIpAddressLimitExceeded" => Self::AddressLimit,
            "AttachmentLimitExceeded" | "NetworkInterfaceLimitExceeded" => Self::EniLimit,

            "InvalidNetworkInterfaceID.NotFound"
            | "InvalidNetworkInterfaceId.NotFound"
            | "InvalidAttachmentID.NotFound" => Self::NotFound,

            "InvalidNetworkInterface.InUse" => Self::InUse,
            "InvalidParameterValue" if message.contains("currently in use") => Self::InUse,

            "UnauthorizedOperation"
            | "AccessDenied"
            | "AccessDeniedException"
            | "AuthFailure"
            | "Blocked"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "OptInRequired"
            | "PendingVerification"
            | "RequestExpired"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException" => Self::Denied,

            "InternalError"
            | "InternalFailure"
            | "ServiceUnavailable"
            | "Unavailable"
            | "RequestTimeout"
            | "RequestTimeoutException" => Self::Unanswered,

            _ => Self::Rejected,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttled => "throttled by EC2",
            Self::SubnetFull => "subnet has too few free addresses",
            Self::NoFreePrefix => "subnet has no free prefix",
            Self::AddressLimit => "ENI is at its address limit",
            Self::EniLimit => "ENI limit reached",
            Self::NotFound => "not found",
            Self::InUse => "in use",
            Self::Denied => "not allowed by IAM",
            Self::Rejected => "rejected",
            Self::Unanswered => "no answer",
            Self::LinkMissing => "no link with the ENI's MAC address",
            Self::Kernel => "refused by the kernel",
        })
    }
}
