//! Reads what a namespace holds, and changes what differs from what it should hold.

use std::io;

use super::State;
use super::actual::Actual;
use super::diff::{Difference, changes, diff, difference_of};
use super::refusal::is_so_already;
use crate::{KernelChange, NatActual, Netlink, NetlinkError, Object, Refused};

/// What [`apply`] changed.
pub type Applied = Vec<Difference>;

/// A failure to make a namespace as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// What it holds could not be read, or the changes could not be sent.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refused some of the changes; the rest is made.
    #[error("{}", in_words(refused))]
    Refused {
        /// Those that it refused.
        refused: Vec<Refused>,
    },
}

impl ApplyError {
    /// Returns whether the same may succeed the next time because only time was lacking: a program that writes rules
    /// did not end, or something else held its lock.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { refused } => refused.iter().all(|it| it.refusal.may_pass()),
            Self::Netlink(
                NetlinkError::Nat { source }
                | NetlinkError::SourceCheck { source }
                | NetlinkError::AwsCniNat { source },
            ) => {
                matches!(source.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy)
            }
            Self::Netlink(_) => false,
        }
    }

    /// Returns what was refused if a node goes on without: kernel variables, and the check of sources where the kernel lacks what it
    /// needs.
    pub fn dispensable(&self) -> Option<&[Refused]> {
        let is_dispensable = |it: &Refused| {
            let (KernelChange::Set(object) | KernelChange::Remove(object)) = &*it.change else {
                return false;
            };
            match object {
                Object::Sysctl(_) => true,
                Object::SourceCheck(_) => !it.refusal.may_pass(),
                _ => false,
            }
        };
        match self {
            Self::Refused { refused } if refused.iter().all(is_dispensable) => Some(refused),
            Self::Refused { .. } | Self::Netlink(_) => None,
        }
    }

    /// Returns what was refused if that was kernel variables alone: in a container `/proc/sys` is often read-only, and the rest
    /// works as well as the variables let it.
    pub fn kernel_variables(&self) -> Option<&[Refused]> {
        let of_sysctl = |it: &Refused| matches!(*it.change, KernelChange::Set(Object::Sysctl(_)));
        match self {
            Self::Refused { refused } if refused.iter().all(of_sysctl) => Some(refused),
            Self::Refused { .. } | Self::Netlink(_) => None,
        }
    }
}

pub(crate) fn in_words(refused: &[Refused]) -> String {
    let words: Vec<_> = refused.iter().map(|it| format!("{it}: {}", it.refusal)).collect();
    words.join("; ")
}

/// Makes a namespace as it should be, and returns what it found that was not.
///
/// It reads first and changes what differs: applied twice, it changes nothing the second time.
pub fn apply(netlink: &mut dyn Netlink, desired: &State) -> Result<Applied, ApplyError> {
    let actual = Actual::read(netlink, desired)?;
    let differences = diff(desired, &actual);
    carry_out(netlink, &changes(&differences, &actual))?;
    Ok(differences)
}

/// Removes what a state wants and what it claims; the settings of links and kernel variables stay.
///
/// What is not there any more is no failure. A change that is refused does not stop the rest.
pub fn remove(netlink: &mut dyn Netlink, state: &State) -> Result<Applied, ApplyError> {
    let absent = State { wanted: Vec::new(), claims: state.claims.clone() };
    let actual = Actual::read(netlink, state)?;
    let unclaimed = state.wanted.iter().filter(|object| match object {
        Object::Link { .. } | Object::Alias { .. } | Object::Sysctl(_) => false,
        Object::Nat(_) => actual.nat != Some(NatActual::Absent),
        Object::SourceCheck(_) => actual.source_check != Some(NatActual::Absent),
        Object::Address { .. } | Object::Route { .. } | Object::Neighbour { .. } => {
            difference_of(object, &actual).is_none()
        }
        Object::Rule(_) | Object::AwsCniNat(_) => difference_of(object, &actual).is_none(),
    });
    let mut differences: Vec<_> = unclaimed.cloned().map(Difference::Unwanted).collect();
    for difference in diff(&absent, &actual) {
        if !differences.contains(&difference) {
            differences.push(difference);
        }
    }
    carry_out(netlink, &changes(&differences, &actual))?;
    Ok(differences)
}

/// Makes changes and returns an error that names all that were refused.
pub(crate) fn carry_out(
    netlink: &mut dyn Netlink,
    changes: &[KernelChange],
) -> Result<(), ApplyError> {
    if changes.is_empty() {
        return Ok(());
    }
    let results = netlink.change(changes)?;
    let refused = refused(changes, results);
    if refused.is_empty() { Ok(()) } else { Err(ApplyError::Refused { refused }) }
}

/// Returns the changes that were refused, but for those that were so already.
pub(crate) fn refused<T>(
    changes: &[KernelChange],
    results: Vec<Result<T, crate::Refusal>>,
) -> Vec<Refused> {
    let refused = changes.iter().zip(results).filter_map(|(change, result)| {
        let refusal = result.err().filter(|refusal| !is_so_already(change, refusal))?;
        Some(Refused::new(change, refusal))
    });
    refused.collect()
}
