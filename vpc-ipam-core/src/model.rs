//! What goes in and out: ids, times, observations, leases, actions, outcomes and events.

pub(crate) mod action;
pub(crate) mod error_chain;
pub(crate) mod event;
pub(crate) mod id;
pub(crate) mod import;
pub(crate) mod lease;
pub(crate) mod observation;
pub(crate) mod operation;
pub(crate) mod outcome;
#[cfg(feature = "serde")]
pub(crate) mod pairs;
pub(crate) mod scope;
pub(crate) mod tags;
pub(crate) mod time;
pub(crate) mod unconfirmed;
