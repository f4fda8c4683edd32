//! The way to vpc-ipam.

use std::collections::BTreeMap;

use vpc_ipam_linux::Namespace;
use vpc_ipam_protocol::trusted_file;
use vpc_ipamd::store;

use super::conflist::Conflists;
use super::journal::{Direction, Ended, Journal};
use super::moved::{Moved, Outcome};
use super::progress::{say, warn};
use super::step::{self, Fared, Options, StepError};
use super::{back, durable, now, swept};

/// The variables of a run, in its folder: what a node shows that is half-way is not what amazon-vpc-cni-k8s left.
const VARS: &str = "vars.json";

/// Moves the node to vpc-ipam; goes back by itself where that fails.
///
/// `check` refuses what may not be moved, or returns the variables that follow from what is there. It is not asked of a node that is half-way.
pub(crate) fn to(
    options: &Options,
    quiet: bool,
    check: impl FnOnce() -> Result<BTreeMap<String, String>, StepError>,
) -> Result<Moved, StepError> {
    let mut journal = Journal::open(&options.paths.at(&options.paths.folder))?;
    let boot = store::boot_id()?;
    let unended = journal.unended();
    if unended.is_none() && is_moved(options, &journal)? {
        if !quiet {
            say("this node is with vpc-ipam already");
        }
        return Ok(Moved { outcome: Outcome::Done, ..Moved::default() });
    }
    // A run that was stopped before its first change left the node as it was.
    let is_changed =
        |direction: &Direction| *direction == Direction::Back || journal.is_begun(step::TO[1].name);
    let half_way = unended.filter(is_changed);
    let mut options = options.clone();
    options.vars = match known_vars(&options, &mut journal, unended)? {
        Some(vars) => vars,
        None => match check() {
            Ok(vars) => vars,
            Err(error) => return Ok(Moved::left(&error, half_way)),
        },
    };
    let options = &options;
    journal.begin(Direction::To, &boot, now())?;
    if let Err(error) = begin(options, &mut journal) {
        return Ok(Moved::left(&error, half_way));
    }
    let mut moved = Moved::default();
    match step::run(&step::TO, options, &mut journal, &mut moved.steps, quiet) {
        Fared::Done => Ok(moved.ended(&mut journal, Ended::Done, Outcome::Done)),
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
                let outcome = if is_refusal { Outcome::Refused } else { Outcome::Failed };
                return Ok(moved.ended(&mut journal, Ended::WentBack, outcome));
            }
            warn(format!("{step}: {error}; going back"));
            back::go_back(options, journal, moved, quiet)
        }
    }
}

/// Makes the folder of a run, with the variables, and sweeps what the last one left to it.
fn begin(options: &Options, journal: &mut Journal) -> Result<(), StepError> {
    let folder = step::Context { options, journal }.run_folder();
    trusted_file::folder(&folder)
        .map_err(|error| StepError::failed("make the folder of this run", &error))?;
    durable::write(&folder.join(VARS), &serde_json::to_vec_pretty(&options.vars)?, 0o600)?;
    swept::sweep(journal.folder(), &mut Namespace::current()?.netlink()?)?;
    Ok(())
}

/// Returns the variables of a run that has not ended: of this way, or of the one to which a way back is turned round.
fn known_vars(
    options: &Options,
    journal: &mut Journal,
    unended: Option<Direction>,
) -> Result<Option<BTreeMap<String, String>>, StepError> {
    let folder = match unended {
        None => return Ok(None),
        // Before that nothing was changed, and what was found then may be so no longer.
        Some(Direction::To) if !journal.is_begun(step::TO[1].name) => None,
        Some(Direction::To) => Some(step::Context { options, journal }.run_folder()),
        Some(Direction::Back) => journal.run().and_then(|run| run.backup.clone()),
    };
    let text = folder.map(|folder| durable::read(&folder.join(VARS))).transpose()?;
    Ok(text.flatten().map(|text| serde_json::from_slice(&text)).transpose()?)
}

/// Returns whether the last run led here, and vpc-ipamd runs and is what the runtime calls.
fn is_moved(options: &Options, journal: &Journal) -> Result<bool, StepError> {
    let paths = &options.paths;
    let conflists = Conflists::read(&paths.at(&paths.cni_conf))?;
    let is_called = conflists.old().is_none() && conflists.all_ours().next().is_some();
    let was_moved = journal
        .run()
        .is_some_and(|run| (run.direction, run.ended) == (Direction::To, Some(Ended::Done)));
    Ok(was_moved && is_called && vpc_ipam_protocol::listener(&paths.socket).is_ok())
}
