//! Which instance types a command is asked about, and whose limits count.

use std::path::PathBuf;

use clap::Args;
use vpc_ipam_core::{InstanceType, KnownLimits, Limits, LimitsSource, UnknownInstanceTypeError};
use wildmatch::WildMatch;

use super::Failure;
use vpc_ipamd::operator_file;

/// How many similar names an error about an unknown type shows.
const SIMILAR_MAX: usize = 3;

/// The least similarity of a name that is shown, from 0 to 1, by Jaro and Winkler: one slip of the pen.
const SIMILARITY_MIN: f64 = 0.88;

/// What limits are taken from besides the built-in table.
#[derive(Debug, Args)]
pub(super) struct Known {
    /// A file with limits that come before the table's: JSON objects as `vpc-ipam limits --json` prints them, of which
    /// instance_type, enis_per_card and ipv4_per_eni are needed
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
}

/// Why a type cannot be found.
#[derive(Debug, thiserror::Error)]
enum TypeError {
    /// It is not known; some known names are similar.
    #[error("{unknown}; or did you mean {}", similar.join(" or "))]
    Misspelt {
        /// What the search says.
        unknown: UnknownInstanceTypeError,
        /// The most similar first.
        similar: Vec<String>,
    },
    /// No type has a name like that.
    #[error(
        "no instance type matches {pattern}: * stands for any letters, ? for one, as in m5.* or c?g.large"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
}

/// The limits of a type, and who says so.
pub(super) type Found = (Limits, LimitsSource);

impl Known {
    /// Returns the limits of the types that names and patterns stand for, in the order of the arguments and within a pattern
    /// by name; of all types if there is none.
    pub(super) fn find_all(&self, names: &[String]) -> Result<Vec<Found>, Failure> {
        let known = self.known()?;
        let all = all(&known);
        if names.is_empty() {
            return Ok(all);
        }
        let mut found: Vec<Found> = Vec::new();
        for name in names {
            let more = if is_pattern(name) {
                let pattern = WildMatch::new(name);
                let matching: Vec<Found> = all
                    .iter()
                    .filter(|(limits, _)| pattern.matches(limits.instance_type.as_str()))
                    .cloned()
                    .collect();
                if matching.is_empty() {
                    return Err(TypeError::NoMatch { pattern: name.clone() }.into());
                }
                matching
            } else {
                vec![find(&known, name)?]
            };
            let is_new = |(limits, _): &Found| {
                !found.iter().any(|(other, _)| other.instance_type == limits.instance_type)
            };
            let more: Vec<Found> = more.into_iter().filter(is_new).collect();
            found.extend(more);
        }
        Ok(found)
    }

    fn known(&self) -> Result<KnownLimits, Failure> {
        let overrides = match &self.limits {
            Some(path) => operator_file::limits(path)?,
            None => Vec::new(),
        };
        Ok(KnownLimits::default().with_overrides(overrides))
    }
}

/// Returns whether a name stands for any number of types.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

fn find(known: &KnownLimits, name: &str) -> Result<Found, Failure> {
    let instance_type: InstanceType = name.parse()?;
    known.find(instance_type).map_err(|unknown| {
        let similar = similar(&all(known), name);
        if similar.is_empty() {
            unknown.into()
        } else {
            TypeError::Misspelt { unknown, similar }.into()
        }
    })
}

/// Returns every type that is known, by name.
fn all(known: &KnownLimits) -> Vec<Found> {
    let mut types: Vec<InstanceType> = Limits::all().map(|limits| limits.instance_type).collect();
    types.extend(known.overrides.iter().map(|limits| limits.instance_type));
    types.sort();
    types.dedup();
    types.into_iter().filter_map(|name| known.find(name).ok()).collect()
}

fn similar(all: &[Found], name: &str) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = all
        .iter()
        .map(|(limits, _)| {
            let known = limits.instance_type.as_str();
            (strsim::jaro_winkler(known, name), known)
        })
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .collect();
    scored.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then(a_name.cmp(b_name)));
    scored.into_iter().take(SIMILAR_MAX).map(|(_, known)| known.to_owned()).collect()
}
