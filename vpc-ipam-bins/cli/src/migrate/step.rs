//! A move in steps: each is recorded before and after, may be repeated, and says what it would run.

mod back_up;
mod checkpoint;
mod conflist;
mod drain;
mod env_file;
mod fence;
mod guard;
mod hand_back;
mod import;
mod old_daemon;
mod old_plugin;
mod start;
mod state_file;
mod stop;
#[cfg(test)]
mod tests;
mod verify;

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Serialize;
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::{KernelNetlink, Namespace};

pub(super) use self::back_up::{IPTABLES, PODS, saved_by};
pub(super) use self::conflist::put_ours_back;
pub(super) use self::hand_back::SETTINGS;
use super::Paths;
use super::journal::{Journal, JournalError, Run};
use super::processes;
use super::progress::say;

/// Where a move has its files, and how it goes about things.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where everything is.
    pub(crate) paths: Paths,
    /// The shell command that starts vpc-ipamd, also at each boot from now on.
    pub(crate) start: String,
    /// The shell command that stops it, also at each boot from now on.
    pub(crate) stop: String,
    /// How long amazon-vpc-cni-k8s is waited for.
    pub(crate) wait: Duration,
    /// The conflist of amazon-vpc-cni-k8s for the way back, where no backup has it.
    pub(crate) conflist: Option<PathBuf>,
    /// The variables of vpc-ipamd that follow from what amazon-vpc-cni-k8s left.
    pub(crate) vars: BTreeMap<String, String>,
}

/// A step of a move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Its name in the journal and in what is printed.
    pub(crate) name: &'static str,
    /// Returns what it runs, as shell commands or in words.
    pub(crate) commands: fn(&Options) -> Vec<String>,
    /// Does it, whatever part of it is done already; returns what it found or did, in words.
    run: fn(&mut Context<'_>) -> Result<String, StepError>,
}

/// The steps to vpc-ipam, after the check.
pub(crate) const TO: [Step; 9] = [
    back_up::STEP,
    conflist::TO,
    old_plugin::STEP,
    env_file::STEP,
    start::STEP,
    import::STEP,
    start::ADOPT,
    verify::TO,
    fence::STEP,
];

/// The steps back to amazon-vpc-cni-k8s, after the check.
pub(crate) const BACK: [Step; 10] = [
    conflist::OUT,
    drain::STEP,
    stop::STEP,
    checkpoint::STEP,
    conflist::BACK,
    guard::STEP,
    old_daemon::STEP,
    hand_back::STEP,
    state_file::STEP,
    verify::BACK,
];

/// Why a step did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StepError {
    /// The node is not one to which it may be done. Nothing of the step was done.
    #[error("{0}")]
    Refused(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// What was done cannot be recorded, so that nothing more may be.
    #[error("{}", error_chain(.0))]
    Journal(#[from] JournalError),
}

impl StepError {
    /// Describes what failed, with its causes.
    pub(crate) fn failed(
        what: impl core::fmt::Display,
        error: &(dyn core::error::Error + 'static),
    ) -> Self {
        Self::Failed(format!("{what}: {}", error_chain(error)))
    }
}

macro_rules! failed_by {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for StepError {
            fn from(error: $error) -> Self {
                Self::Failed(error_chain(&error))
            }
        })*
    };
}

failed_by!(
    super::durable::FileError,
    super::conflist::ConflistError,
    super::processes::ProcessesError,
    super::CheckpointError,
    vpc_ipam_linux::NetlinkError,
    vpc_ipam_linux::NamespaceError,
    vpc_ipam_linux::ApplyError,
    vpc_ipam_protocol::AskError,
    std::io::Error,
    serde_json::Error,
);

/// What a step goes by.
pub(crate) struct Context<'a> {
    pub(super) options: &'a Options,
    pub(super) journal: &'a mut Journal,
}

impl Context<'_> {
    /// Returns the run that the step is part of.
    fn run(&self) -> &Run {
        self.journal.run().expect("steps are run after a run was begun")
    }

    /// Returns the folder of what this run keeps.
    pub(super) fn run_folder(&self) -> PathBuf {
        let run = self.run();
        let begun = run.begun.as_nanos() / 1_000_000_000;
        self.journal.folder().join(format!("{}-{begun}", run.direction))
    }

    /// Returns the folder of what the last way to vpc-ipam saved, if there was one.
    fn backup(&self) -> Option<&Path> {
        self.run().backup.as_deref()
    }

    /// Opens the network namespace of this program, which is the node's.
    fn netlink(&self) -> Result<KernelNetlink, StepError> {
        Ok(Namespace::current()?.netlink()?)
    }

    /// Returns the folder of the runtime's configurations as seen from here.
    fn cni_conf(&self) -> PathBuf {
        self.options.paths.at(&self.options.paths.cni_conf)
    }

    /// Returns the folder of the runtime's plugins as seen from here.
    fn cni_bin(&self) -> PathBuf {
        self.options.paths.at(&self.options.paths.cni_bin)
    }

    /// Returns where the kernel shows processes: those of the host, where its root is mounted with its /proc.
    fn proc(&self) -> PathBuf {
        processes::proc_of(&self.options.paths)
    }
}

/// A step that was done, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    /// Its name.
    pub(crate) step: &'static str,
    /// What it took, in milliseconds; `None` of one that an earlier program had done.
    pub(crate) ms: Option<u64>,
    /// What it found or did.
    pub(crate) said: String,
}

/// How a run of steps fared.
#[derive(Debug)]
pub(crate) enum Fared {
    /// All steps are done.
    Done,
    /// This step was not done.
    Stopped {
        /// Which.
        step: &'static str,
        /// Why.
        error: StepError,
    },
}

/// Does the steps that are not done yet, in their order, and prints a line for each.
pub(crate) fn run(
    steps: &[Step],
    options: &Options,
    journal: &mut Journal,
    report: &mut Vec<Done>,
    quiet: bool,
) -> Fared {
    for step in steps {
        match run_one(step, options, journal) {
            Ok(done) => {
                if !quiet {
                    let ms = done.ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
                    say(format!("{:<22} {ms:>9}  {}", step.name, done.said));
                }
                report.push(done);
            }
            Err(error) => return Fared::Stopped { step: step.name, error },
        }
    }
    Fared::Done
}

fn run_one(step: &Step, options: &Options, journal: &mut Journal) -> Result<Done, StepError> {
    if journal.is_done(step.name) {
        let said = "done by an earlier run".to_owned();
        return Ok(Done { step: step.name, ms: None, said });
    }
    journal.step_begun(step.name)?;
    let begun = Instant::now();
    let said = (step.run)(&mut Context { options, journal })?;
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    journal.step_done(step.name, ms)?;
    Ok(Done { step: step.name, ms: Some(ms), said })
}

/// Runs a line of shell; what it prints goes to standard error, so that it is read and JSON stays whole.
fn shell(line: &str) -> Result<(), StepError> {
    // What a daemon that it leaves behind prints is nothing to wait for.
    let status = Command::new("/bin/sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|error| StepError::failed(format!("run {line:?}"), &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(StepError::Failed(format!("{line:?} failed: {status}")))
    }
}

/// Runs a program of the node and returns what it prints.
fn output_of(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Vec<u8>, StepError> {
    let what = || format!("run {program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| StepError::failed(what(), &error))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).map_err(|error| StepError::failed(what(), &error))?;
    }
    let output = child.wait_with_output().map_err(|error| StepError::failed(what(), &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(StepError::Failed(format!("{}: {}: {}", what(), output.status, said.trim())))
}

/// Returns whether a program can be run at all.
fn is_installed(program: &str) -> bool {
    output_of(program, &["--version"], None).is_ok()
}

/// Waits until something is so, looking again after a pause; the last look says what was not.
pub(super) fn wait_until<T>(
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    const PAUSE: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(why) if begun.elapsed() >= patience => return Err(why),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
