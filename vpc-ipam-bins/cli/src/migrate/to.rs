//! The way to vpc-ipam.

use vpc_ipam_linux::Namespace;
use vpc_ipamd::store;

use super::journal::{Direction, Ended, Journal};
use super::moved::{Moved, Outcome};
use super::step::{self, Fared, Options, StepError};
use super::{back, now, swept};

/// Moves the node to vpc-ipam; goes back by itself where that fails.
///
/// `check` refuses what may not be moved. It is not asked again of a run that goes on, of which part is done.
pub(crate) fn to(
    options: &Options,
    quiet: bool,
    check: impl FnOnce() -> Result<(), StepError>,
) -> Result<Moved, StepError> {
    let mut journal = Journal::open(&options.paths.at(&options.paths.folder))?;
    let boot = store::boot_id()?;
    let unended = journal.unended(&boot);
    if unended != Some(Direction::To)
        && let Err(error) = check()
    {
        return Ok(Moved::left(&error, unended));
    }
    journal.begin(Direction::To, &boot, now())?;
    swept::sweep(journal.folder(), &mut Namespace::current()?.netlink()?)?;
    let mut moved = Moved::default();
    match step::run(&step::TO, options, &mut journal, &mut moved.steps, quiet) {
        Fared::Done => {
            journal.end(Ended::Done)?;
            moved.outcome = Outcome::Done;
            Ok(moved)
        }
        Fared::Stopped { step, error } => {
            moved.why = Some(format!("{step}: {error}"));
            if let StepError::Journal(_) = error {
                // The way back could not be recorded either.
                return Ok(moved.half_way(Direction::To));
            }
            // The first step saves, and one that refuses does nothing.
            let is_refusal = matches!(error, StepError::Refused(_));
            let [first, second, ..] = step::TO;
            let changed = step != first.name && !(step == second.name && is_refusal);
            if !changed && unended != Some(Direction::Back) {
                journal.end(Ended::WentBack)?;
                moved.outcome = if is_refusal { Outcome::Refused } else { Outcome::Failed };
                return Ok(moved);
            }
            eprintln!("vpc-ipam: {step}: {error}; going back");
            back::go_back(options, journal, moved, quiet)
        }
    }
}
