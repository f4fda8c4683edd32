//! `vpc-ipam limits`, `max-pods`, `footprint` and `capacity-data`.

mod compare;
mod data;
mod expression;
mod footprint;
mod limits;
mod max_pods;
mod types;

use super::{Failure, unless_closed};

pub(super) use self::data::{DataArgs, write as data};
pub(super) use self::footprint::{FootprintArgs, footprint};
pub(super) use self::limits::{LimitsArgs, limits};
pub(super) use self::max_pods::{MaxPodsArgs, max_pods};
