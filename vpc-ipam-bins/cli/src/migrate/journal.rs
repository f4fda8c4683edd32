//! Which steps of a move are begun and done, in a file that survives every crash of the program and of the node.
//!
//! `journal.json` in the folder of the migration holds the last run. While it has not ended, the same command goes on with it, and the
//! other command turns it round. `lock` is locked by the program that runs.

use core::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpc_ipam_core::Timestamp;
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use super::durable::{self, FileError};

const FORM: &str = "vpc-ipam-migration/1";
/// Many times what a run has to say.
const BYTES_MAX: u64 = 1 << 20;

/// Where a run leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// To vpc-ipam.
    To,
    /// Back to amazon-vpc-cni-k8s.
    Back,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::To => "to",
            Self::Back => "back",
        })
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// It did what it should.
    Done,
    /// It failed or was turned round, and the node is as before.
    WentBack,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It was begun, and may be done in part.
    Begun,
    /// It is done.
    Done,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    /// Its name.
    pub(crate) name: String,
    /// How far it is.
    pub(crate) stage: Stage,
    /// What it took, in milliseconds, of the program that ended it.
    pub(crate) ms: u64,
}

/// A run: the way of a node to vpc-ipam, or back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    form: String,
    /// Where it leads.
    pub(crate) direction: Direction,
    /// When it was begun.
    pub(crate) begun: Timestamp,
    /// In which boot of the kernel it was begun.
    pub(crate) boot: String,
    /// The folder with what the last way to vpc-ipam saved.
    pub(crate) backup: Option<PathBuf>,
    /// Whether a way to vpc-ipam that had not ended was turned round, so that amazon-vpc-cni-k8s cannot be waited for.
    #[serde(default)]
    pub(crate) turned: bool,
    /// Its steps so far, in their order.
    pub(crate) steps: Vec<StepRecord>,
    /// How it ended, if it has.
    pub(crate) ended: Option<Ended>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JournalError {
    /// The folder or the file is not as it should be.
    #[error("use the journal of the migration")]
    Untrusted(#[from] UntrustedError),
    /// It cannot be written.
    #[error("write the journal of the migration")]
    Write(#[from] FileError),
    /// Another program has it.
    #[error("another vpc-ipam migrate runs on this node: it has locked {}", path.display())]
    InUse {
        /// The file that is locked.
        path: PathBuf,
    },
    /// It cannot be locked.
    #[error("lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is damaged, or another version's.
    #[error(
        "{} is no journal of a migration that this version can read ({why}): see which conflist and which daemon the node has, move the \
         file away, and run `vpc-ipam migrate to` or `back` from the beginning; every step may be repeated",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The journal of a node, which no other program can write to while this value lives.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    run: Option<Run>,
    _lock: File,
}

impl Journal {
    /// Opens the journal in a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, JournalError> {
        trusted_file::folder(folder)?;
        let path = folder.join("lock");
        let lock = match trusted_file::open(&path, BYTES_MAX)? {
            Some(lock) => lock,
            None => match trusted_file::create(&path) {
                Ok(lock) => lock,
                // Another program made it meanwhile.
                Err(error) => trusted_file::open(&path, BYTES_MAX)?.ok_or(error)?,
            },
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(JournalError::Lock { path, source }),
        }
        Ok(Self { run: read(folder)?, folder: folder.to_owned(), _lock: lock })
    }

    /// Returns the last run, if there was one.
    pub(crate) fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Returns where a run leads that has not ended, in whichever boot it was begun: what it did to files is there still.
    pub(crate) fn unended(&self) -> Option<Direction> {
        self.run.as_ref().filter(|run| run.ended.is_none()).map(|run| run.direction)
    }

    /// Returns the folder of the migration.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a run, or goes on with one that leads there and has not ended.
    ///
    /// What is known of the last backup is kept. Steps of an earlier boot are not done in this one.
    pub(crate) fn begin(
        &mut self,
        direction: Direction,
        boot: &str,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let last = self.run.take();
        if let Some(run) = &last
            && (run.direction, run.ended, run.boot.as_str()) == (direction, None, boot)
        {
            self.run = last;
            return Ok(());
        }
        let unended = last.as_ref().filter(|run| run.ended.is_none());
        let turned = match direction {
            Direction::To => false,
            Direction::Back => {
                unended.is_some_and(|run| run.direction == Direction::To || run.turned)
            }
        };
        self.run = Some(Run {
            form: FORM.to_owned(),
            direction,
            begun: now,
            boot: boot.to_owned(),
            backup: last.and_then(|run| run.backup),
            turned,
            steps: Vec::new(),
            ended: None,
        });
        self.write()
    }

    /// Returns whether a step of this run was begun.
    pub(crate) fn is_begun(&self, name: &str) -> bool {
        self.run.iter().flat_map(|run| &run.steps).any(|step| step.name == name)
    }

    /// Returns whether this run turned one round that had not ended.
    pub(crate) fn is_turned(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.turned)
    }

    /// Returns whether a step of this run is done.
    pub(crate) fn is_done(&self, name: &str) -> bool {
        let mut steps = self.run.iter().flat_map(|run| &run.steps);
        steps.any(|step| step.name == name && step.stage == Stage::Done)
    }

    /// Records that a step is begun; nothing of it is done before that is durable.
    pub(crate) fn step_begun(&mut self, name: &str) -> Result<(), JournalError> {
        self.record(name, Stage::Begun, 0)
    }

    /// Records that a step is done.
    pub(crate) fn step_done(&mut self, name: &str, ms: u64) -> Result<(), JournalError> {
        self.record(name, Stage::Done, ms)
    }

    /// Records that steps are to be done again: what they did was undone.
    pub(crate) fn undone(&mut self, names: &[&str]) -> Result<(), JournalError> {
        if let Some(run) = &mut self.run {
            run.steps.retain(|step| !names.contains(&step.name.as_str()));
        }
        self.write()
    }

    /// Records where the backup is.
    pub(crate) fn backup_is(&mut self, backup: &Path) -> Result<(), JournalError> {
        if let Some(run) = &mut self.run {
            run.backup = Some(backup.to_owned());
        }
        self.write()
    }

    /// Records how the run ended.
    pub(crate) fn end(&mut self, ended: Ended) -> Result<(), JournalError> {
        if let Some(run) = &mut self.run {
            run.ended = Some(ended);
        }
        self.write()
    }

    fn record(&mut self, name: &str, stage: Stage, ms: u64) -> Result<(), JournalError> {
        if let Some(run) = &mut self.run {
            let record = StepRecord { name: name.to_owned(), stage, ms };
            match run.steps.iter_mut().find(|step| step.name == name) {
                Some(step) => *step = record,
                None => run.steps.push(record),
            }
        }
        self.write()
    }

    fn write(&self) -> Result<(), JournalError> {
        let Some(run) = &self.run else { return Ok(()) };
        let text = serde_json::to_vec_pretty(run).expect("a run has text and numbers alone");
        Ok(durable::write(&path_in(&self.folder), &text, 0o600)?)
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("journal.json")
}

fn read(folder: &Path) -> Result<Option<Run>, JournalError> {
    let path = path_in(folder);
    let Some(text) = trusted_file::read(&path, BYTES_MAX)? else { return Ok(None) };
    let unreadable = |why: String| JournalError::Unreadable { path: path.clone(), why };
    let run: Run = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if run.form != FORM {
        return Err(unreadable(format!("its form is {:?}, not {FORM:?}", run.form)));
    }
    Ok(Some(run))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    #[test]
    fn run_that_has_not_ended_goes_on_and_one_that_has_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.begin(Direction::To, "boot-1", NOW).unwrap();
        journal.step_begun("back up").unwrap();
        journal.step_done("back up", 7).unwrap();
        journal.backup_is(Path::new("/backup")).unwrap();
        journal.step_begun("conflist").unwrap();
        drop(journal);

        let mut journal = Journal::open(folder.path()).unwrap();
        journal.begin(Direction::To, "boot-1", NOW).unwrap();
        assert!(journal.is_done("back up") && !journal.is_done("conflist"));
        // Of an earlier boot nothing is left in the kernel.
        assert_eq!(journal.unended(), Some(Direction::To));
        journal.begin(Direction::To, "boot-2", NOW).unwrap();
        assert!(!journal.is_done("back up"));
        assert_eq!(journal.run().unwrap().backup.as_deref(), Some(Path::new("/backup")));
        journal.step_done("back up", 7).unwrap();
        journal.undone(&["back up"]).unwrap();
        assert!(!journal.is_done("back up") && !journal.is_begun("back up"));
        journal.step_done("back up", 7).unwrap();
        journal.end(Ended::Done).unwrap();
        journal.begin(Direction::To, "boot-2", NOW).unwrap();
        assert!(!journal.is_done("back up"));
    }

    #[test]
    fn way_that_has_not_ended_can_be_turned_round() {
        // The runs before, each with whether it ended, and whether the way back after them is a turn.
        let cases: [(&[(Direction, bool)], bool); 4] = [
            (&[], false),
            (&[(Direction::To, false)], true),
            (&[(Direction::To, true)], false),
            (&[(Direction::To, true), (Direction::Back, false), (Direction::To, false)], true),
        ];
        for (runs, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = Journal::open(folder.path()).unwrap();
            for (direction, ended) in runs {
                journal.begin(*direction, "boot-1", NOW).unwrap();
                if *ended {
                    journal.end(Ended::Done).unwrap();
                }
            }
            journal.begin(Direction::Back, "boot-1", NOW).unwrap();
            assert_eq!(journal.run().unwrap().turned, expected, "{runs:?}");
        }
    }

    #[test]
    fn one_program_at_a_time_moves_a_node() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let error = Journal::open(folder.path()).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
        drop(journal);
        Journal::open(folder.path()).unwrap();
    }

    #[test]
    fn journal_that_cannot_be_read_is_an_error_that_says_what_to_do_and_is_left() {
        let later = r#"{"form":"vpc-ipam-migration/2","direction":"to","begun":0,"boot":"b","backup":null,"steps":[],"ended":null}"#;
        for text in ["", "{", r#"{"form":"vpc-ipam-migration/1"}"#, later] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("journal.json");
            fs::write(&path, text).unwrap();
            let error = Journal::open(folder.path()).unwrap_err().to_string();
            let named = error.contains(path.to_str().unwrap());
            assert!(named && error.contains("move the file away"), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
