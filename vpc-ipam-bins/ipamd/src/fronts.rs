//! What answers the plugin and the operator.

pub(crate) mod ask;
mod health;
pub(crate) mod http;
mod introspection;
mod metrics;
pub(crate) mod socket;
pub(crate) mod status;
