//! `vpc-ipam limits`, `max-pods`, `footprint` and `capacity-data`.

mod compare;
mod data;
mod expression;
mod footprint;
mod limits;
mod max_pods;
mod types;

use std::io;

use super::Failure;

pub(super) use self::data::{DataArgs, write as data};
pub(super) use self::footprint::{FootprintArgs, footprint};
pub(super) use self::limits::{LimitsArgs, limits};
pub(super) use self::max_pods::{MaxPodsArgs, max_pods};

/// A reader that closes early, as `head` does, has what it wants.
fn unless_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
