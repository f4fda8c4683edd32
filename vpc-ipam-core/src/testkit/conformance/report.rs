use alloc::string::String;
use core::fmt;

/// What one check of [`conformance`](super::conformance) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What should hold, as a fact.
    pub name: &'static str,
    /// Whether the fact holds.
    pub verdict: Verdict,
}

/// Whether a fact about an executor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The fact holds.
    Holds,
    /// It does not: what was expected, and what was seen instead.
    Fails(String),
    /// The instance or its subnet cannot show it: for this reason.
    NotApplicable(&'static str),
}

impl Verdict {
    /// Returns whether the executor is wrong: what cannot be shown is no failure.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fails(_))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Holds => write!(f, "holds           {}", self.name),
            Verdict::Fails(seen) => write!(f, "FAILS           {}: {seen}", self.name),
            Verdict::NotApplicable(why) => write!(f, "not applicable  {} ({why})", self.name),
        }
    }
}
