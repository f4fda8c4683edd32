//! Chains of iptables as data.

use crate::Family;

/// One of the tables that iptables has, with what is ours in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Begins as those of its set do.
    pub(crate) name: &'static str,
    pub(crate) rules: Vec<String>,
    /// How packets come here: rules of chains that are not ours, each an `-A` or `-I` without the target.
    pub(crate) jumps: Vec<String>,
}
