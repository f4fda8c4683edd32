//! ENIs that no source described as they are known.

use core::fmt;

use crate::{Source, Timestamp};

/// Why EC2 has to be asked about an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Unconfirmed {
    /// When it came up; an answer of EC2 that is as young or younger ends it.
    pub since: Timestamp,
    /// What came up.
    pub cause: UnconfirmedCause,
}

/// Why EC2 has to be asked about an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum UnconfirmedCause {
    /// A call got no answer, so whether it took effect is not known.
    Unanswered,
    /// EC2's refusal does not fit what we know of it.
    Contradicted,
    /// A source showed other addresses than we know.
    Differs(Source),
    /// A source that should show it did not.
    Missing(Source),
}

impl fmt::Display for UnconfirmedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered => f.write_str("a call got no answer"),
            Self::Contradicted => f.write_str("EC2's refusal does not fit what is known"),
            Self::Differs(source) => write!(f, "{source} shows other addresses"),
            Self::Missing(source) => write!(f, "{source} does not show it"),
        }
    }
}
