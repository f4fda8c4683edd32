//! Objects of other programs that stand in the way.

use core::fmt;

/// An object of another program that stands in the way of what the node should be, and is not this crate's to remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The object, in the words of iproute2 as far as they go.
    pub object: String,
    /// What it does, in words: as a rule it diverts packets of pods or ENIs.
    pub effect: String,
    /// Who makes such objects.
    pub likely_author: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, effect, likely_author } = self;
        write!(f, "conflict: {object} {effect}; likely author: {likely_author}")
    }
}
