//! What answers the plugin and the operator.

pub(crate) mod socket;
pub(crate) mod status;
