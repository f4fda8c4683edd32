//! What a check is, and what it finds.

use core::fmt;

use serde::Serialize;

use super::facts::Facts;

/// One thing that can be wrong with a node.
pub(super) struct Check {
    /// By which it is asked for.
    pub(super) name: &'static str,
    /// What it looks at.
    pub(super) about: &'static str,
    /// The verdicts that it can come to; the tests drive it to each of them.
    pub(super) verdicts: &'static [Verdict],
    /// Looks.
    pub(super) run: fn(&Facts) -> Vec<Finding>,
}

/// What a check comes to; the worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It is as it should be.
    Ok,
    /// It could not be looked at, and the evidence says why.
    NotChecked,
    /// It works, and may not for long, or not for all.
    Warning,
    /// Pods do not get addresses or have no network, now or with the next one.
    Failure,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Failure => "failure",
        })
    }
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// What was seen, and where.
    pub(super) evidence: String,
    /// What to do about it; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(evidence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, evidence: evidence.into(), remedy: None }
    }

    pub(super) fn not_checked(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::NotChecked, evidence: why.into(), remedy: None }
    }

    pub(super) fn warning(evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (evidence, remedy) = (evidence.into(), Some(remedy.into()));
        Self { verdict: Verdict::Warning, evidence, remedy }
    }

    pub(super) fn failure(evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failure, ..Self::warning(evidence, remedy) }
    }

    /// The same with something to do about it.
    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}
