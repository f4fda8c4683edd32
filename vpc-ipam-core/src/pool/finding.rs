//! What an observation leads to.

use alloc::vec::Vec;

use crate::{EniId, Event};

/// What an observation leads to, besides the changes of the pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) events: Vec<Event>,
    /// ENIs that IMDS shows and that are not known: only EC2 can explain them.
    pub(crate) unknown: Vec<EniId>,
    /// ENIs of which EC2 says what is known already, although IMDS shows them otherwise.
    pub(crate) contradicted: Vec<EniId>,
    /// ENIs of which EC2 says something new, as IMDS had it.
    pub(crate) borne_out: Vec<EniId>,
}
