//! What a failure says something about.

use core::fmt;

use crate::{Card, Ec2Operation, EniId, SubnetId};

/// What failed, and so is left alone for a while: no more than the failure says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum BackoffScope {
    /// An EC2 operation, whatever it is about: throttled, or the account's quota is used up.
    Operation(Ec2Operation),
    /// An EC2 operation on one ENI.
    EniOperation(EniId, Ec2Operation),
    /// Creating ENIs in one subnet.
    Creation(SubnetId),
    /// A subnet without free IPv4 addresses.
    Subnet(SubnetId),
    /// A subnet without a free /28; single addresses may still be free.
    SubnetPrefixes(SubnetId),
    /// A subnet without a free /80 of IPv6.
    SubnetIpv6(SubnetId),
    /// Further ENIs on a network card: the last ones that were made never served a pod.
    Card(Card),
    /// The node's set-up of one ENI.
    SetUp(EniId),
    /// The removal of the node's set-up of one ENI.
    TearDown(EniId),
    /// Freeing one ENI: it could not leave, and serves pods again.
    Free(EniId),
    /// One question to EC2 or IMDS.
    Question(Question),
    /// What IMDS shows of one ENI: EC2 says otherwise.
    Hint(EniId),
}

/// What EC2 and IMDS are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Question {
    /// IMDS: the metadata.
    Metadata,
    /// EC2: the ENIs that are attached to the instance.
    Attached,
    /// EC2: the ENIs that were made for the instance and are attached to nothing.
    Unattached,
    /// EC2: single ENIs that are unconfirmed.
    Unconfirmed,
    /// EC2: the subnets.
    Subnets,
}

impl fmt::Display for BackoffScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => write!(f, "{operation} failed"),
            Self::EniOperation(eni, operation) => write!(f, "{eni}: {operation} failed"),
            Self::Creation(subnet) => write!(f, "{subnet}: CreateNetworkInterface failed"),
            Self::Subnet(subnet) => write!(f, "{subnet} has no free address"),
            Self::SubnetPrefixes(subnet) => write!(f, "{subnet} has no free prefix"),
            Self::SubnetIpv6(subnet) => write!(f, "{subnet} has no free IPv6 prefix"),
            Self::Card(card) => write!(f, "the last ENI made for {card} never served a pod"),
            Self::SetUp(eni) => write!(f, "the node could not configure {eni}"),
            Self::TearDown(eni) => write!(f, "the node could not remove the rules of {eni}"),
            Self::Free(eni) => write!(f, "{eni} could not leave and serves pods again"),
            Self::Question(Question::Metadata) => f.write_str("the metadata could not be read"),
            Self::Question(Question::Attached) => {
                f.write_str("attached ENIs: DescribeNetworkInterfaces failed")
            }
            Self::Question(Question::Unattached) => {
                f.write_str("unattached ENIs: DescribeNetworkInterfaces failed")
            }
            Self::Question(Question::Unconfirmed) => {
                f.write_str("unconfirmed ENIs: DescribeNetworkInterfaces failed")
            }
            Self::Question(Question::Subnets) => f.write_str("DescribeSubnets failed"),
            Self::Hint(eni) => write!(f, "IMDS shows {eni} otherwise than EC2"),
        }
    }
}
