//! How the names of the links of pods begin on the host.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

/// The beginning of the names of the pods' links on the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VethPrefix(Arc<str>);

/// A text that cannot begin the name of a pod's link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot begin the name of a link: expected {EXPECTED_PREFIX}")]
pub struct VethPrefixError {
    text: String,
}

/// What a prefix has to be, in the words of a warning.
pub(super) const EXPECTED_PREFIX: &str =
    "1 to 4 letters, digits, dashes or underscores, not eth, lo or vlan";

impl VethPrefix {
    /// Returns what pods on branch ENIs have in strict mode, and no other pods may.
    pub(crate) fn for_strict_branches() -> Self {
        Self("vlan".into())
    }

    /// Returns the prefix as text: 1 to 4 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for VethPrefix {
    fn default() -> Self {
        Self("eni".into())
    }
}

impl FromStr for VethPrefix {
    type Err = VethPrefixError;

    fn from_str(text: &str) -> Result<Self, VethPrefixError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let taken = ["eth", "lo", "vlan"].contains(&text);
        if (1..=4).contains(&text.len()) && text.bytes().all(plain) && !taken {
            Ok(Self(text.into()))
        } else {
            Err(VethPrefixError { text: text.into() })
        }
    }
}

impl fmt::Display for VethPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VethPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
