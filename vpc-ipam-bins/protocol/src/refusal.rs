//! Why the daemon does not do what it is asked.

use serde::{Deserialize, Serialize};

/// The daemon's answer to a request that it does not fulfil.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The class of failure.
    #[serde(rename = "code")]
    pub kind: RefusalKind,
    /// What was attempted.
    pub message: String,
    /// Why it failed, and what helps.
    pub details: String,
}

/// Classes of refusals. Each travels as a number; the plugin decides by which code of CNI it reports one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum RefusalKind {
    /// The pod was deleted while it waited for an address.
    PodDeleted,
    /// The state file cannot be written.
    StateFile,
    /// No address is free at present, or the daemon is stopping.
    TryAgainLater,
    /// The kernel refused.
    Kernel,
    /// The request cannot be read.
    UnknownRequest,
    /// The pod's link on the host is another pod's.
    LinkTaken,
}

impl RefusalKind {
    const ALL: [Self; 6] = [
        Self::PodDeleted,
        Self::StateFile,
        Self::TryAgainLater,
        Self::Kernel,
        Self::UnknownRequest,
        Self::LinkTaken,
    ];
}

impl From<RefusalKind> for u32 {
    fn from(kind: RefusalKind) -> Self {
        match kind {
            RefusalKind::PodDeleted => 3,
            RefusalKind::StateFile => 5,
            RefusalKind::TryAgainLater => 11,
            RefusalKind::Kernel => 100,
            RefusalKind::UnknownRequest => 101,
            RefusalKind::LinkTaken => 102,
        }
    }
}

impl TryFrom<u32> for RefusalKind {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| u32::from(*kind) == number);
        kind.ok_or_else(|| format!("{number} is no refusal of this daemon"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_is_told_by_its_number() {
        for kind in RefusalKind::ALL {
            assert_eq!(RefusalKind::try_from(u32::from(kind)), Ok(kind));
        }
        assert!(RefusalKind::try_from(7).is_err());
    }
}
