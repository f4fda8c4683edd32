//! What a namespace should hold, how it differs from that, and the changes that make it so.

pub(crate) mod apply;
pub(crate) mod change;
pub(crate) mod commands;
pub(crate) mod object;
