//! A set of rules in both forms, and how it is recognised.

use core::fmt;
use core::fmt::Write as _;
use std::sync::Arc;

use sha1::{Digest as _, Sha1};

use super::iptables::chain::Table;

/// What is there of a set of rules: those that translate addresses, or those that check sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatActual {
    /// There are no rules of ours.
    Absent,
    /// Rules of ours that are not as they were made: made in part, or changed by another program.
    Altered,
    /// Rules of ours that are as they were made, from the text with this digest.
    Intact(NatDigest),
}

/// Tells one set of rules from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatDigest(pub(super) String);

/// Which set of rules: each is listed, replaced and given a digest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// The rules that translate addresses and mark connections.
    Translation,
    /// The check of sources.
    Sources,
}

impl Set {
    /// Returns the name of the tables of nftables.
    pub(super) fn nft_table(self) -> &'static str {
        match self {
            Self::Translation => "vpc-ipam",
            Self::Sources => "vpc-ipam-sources",
        }
    }

    /// Returns how the names of the chains of iptables begin.
    pub(super) fn chains(self) -> &'static str {
        match self {
            Self::Translation => "VPC-IPAM-",
            Self::Sources => "VPC-SOURCE-",
        }
    }
}

/// A set of rules, or that there should be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSet {
    pub(super) set: Set,
    pub(super) rules: Option<Arc<Rules>>,
}

/// The rules in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) nftables: Text,
    /// What is loaded where the kernel refuses the other.
    pub(super) nftables_or: Option<Text>,
    pub(super) iptables: Vec<Table>,
    /// Of the chains of iptables.
    pub(super) iptables_digest: String,
    /// Whether there are rules for IPv6.
    pub(super) ipv6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) digest: String,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { digest: digest_of(&text), text }
    }
}

impl RuleSet {
    pub(crate) fn none(set: Set) -> Self {
        Self { set, rules: None }
    }

    /// Describes rules; the tables of nftables, and those that are loaded where the kernel refuses the first.
    pub(crate) fn new(
        set: Set,
        nftables: String,
        nftables_or: Option<String>,
        iptables: Vec<Table>,
        ipv6: bool,
    ) -> Self {
        let rules = Rules {
            nftables: nftables.into(),
            nftables_or: nftables_or.map(Text::from),
            iptables_digest: digest_of(&format!("{iptables:?}")),
            iptables,
            ipv6,
        };
        Self { set, rules: Some(Arc::new(rules)) }
    }

    /// Returns which it is.
    pub(crate) fn set(&self) -> Set {
        self.set
    }

    /// Returns the tables as text for nft, if there should be any.
    pub(crate) fn tables(&self) -> Option<&str> {
        self.rules.as_ref().map(|rules| rules.nftables.text.as_str())
    }

    /// Returns whether what is there is what there should be.
    pub(crate) fn is(&self, actual: &NatActual) -> bool {
        match (&self.rules, actual) {
            (None, NatActual::Absent) => true,
            (Some(rules), NatActual::Intact(digest)) => {
                let texts = core::iter::once(&rules.nftables).chain(&rules.nftables_or);
                let mut digests = texts.map(|text| &text.digest).chain([&rules.iptables_digest]);
                digests.any(|it| digest.is_of(it))
            }
            (None | Some(_), _) => false,
        }
    }
}

impl fmt::Display for RuleSet {
    /// Tells the digest of the rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rules.as_ref().map_or("none", |rules| &rules.nftables.digest))
    }
}

impl NatDigest {
    /// Forms with little room for a name keep the beginning of a digest only.
    fn is_of(&self, digest: &str) -> bool {
        !self.0.is_empty() && digest.starts_with(&self.0)
    }
}

/// 64 bits are plenty to distinguish versions of one table.
pub(super) fn digest_of(text: &str) -> String {
    Sha1::digest(text.as_bytes())[..8].iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
