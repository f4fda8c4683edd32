//! `vpc-ipam migrate to`, `back` and `export`.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use vpc_ipam_core::error_chain;

use crate::migrate::{
    self, BACK, Finding, Moved, Options, Paths, Report, Step, StepError, Survey, TO, Verdict, say,
    warn,
};

/// The arguments are wrong, or the journal or the daemon cannot be used.
const CANNOT: u8 = 2;

/// How the unit is started that `make install-node` installs.
const START: &str = "systemctl enable --now vpc-ipamd";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, and the node is as before
  2  the arguments are wrong, or the journal of the migration cannot be used: nothing was changed
  4  refused: nothing was changed
  5  failed half-way; pods go on, and standard error says what to do";

/// How the commands are to go about things.
#[derive(Debug, Args)]
pub(super) struct HowArgs {
    #[command(flatten)]
    pub(super) paths: Paths,
    /// The shell command that starts vpc-ipamd, at each boot too
    #[arg(long, value_name = "COMMAND", default_value = START)]
    start: String,
    /// The shell command that stops vpc-ipamd, at each boot too
    #[arg(long, value_name = "COMMAND", default_value = "systemctl disable --now vpc-ipamd")]
    stop: String,
    /// How long amazon-vpc-cni-k8s is waited for on the way back
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
    /// The URL of the instance metadata service, to compare with what it says; it is not asked without
    #[cfg(feature = "aws")]
    #[arg(long, value_name = "URL")]
    imds_endpoint: Option<String>,
}

/// How they are to be made and told.
#[derive(Clone, Copy, Debug, Args)]
struct MoveArgs {
    /// Print the commands that would be run, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON at the end, with what each step took
    #[arg(long)]
    json: bool,
}

/// Move this node over from amazon-vpc-cni-k8s to vpc-ipam, with its pods running.
///
/// Run it as root on the node, after amazon-vpc-cni-k8s was kept off it (its DaemonSet's affinity) and vpc-ipam was installed, not started.
/// Each step is recorded in a journal: after a crash, whenever it comes, the same command goes on, and `migrate back` turns round. If a step
/// fails, it goes back by itself.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct ToArgs {
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    moves: MoveArgs,
    /// A file of variables for vpc-ipamd, NAME=VALUE a line, instead of the one of --env-file
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
}

/// Move this node back to amazon-vpc-cni-k8s, with its pods running.
///
/// Run it as root on the node. It stops vpc-ipamd, writes the checkpoint, and then waits for amazon-vpc-cni-k8s: let its DaemonSet run on the node
/// when the command says so. Only when that serves, what is left of vpc-ipam goes out of the kernel. Each step is recorded in a journal: after a crash
/// the same command goes on, and `migrate to` turns round.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct BackArgs {
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    moves: MoveArgs,
    /// The conflist of amazon-vpc-cni-k8s, for a node that began with vpc-ipam and has no backup of it
    #[arg(long, value_name = "FILE")]
    conflist: Option<PathBuf>,
}

/// Write the checkpoint of amazon-vpc-cni-k8s: what pods have by the records of vpc-ipamd, and nothing else.
///
/// The daemon says what pods have; where none runs, its state file. Pods whose addresses amazon-vpc-cni-k8s would release are named on standard
/// error.
///
/// Exits with 0, with 1 if it cannot be written, with 2 if neither daemon nor state file can be read, with 4 if there are such pods; nothing is
/// written then.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Where to write it; standard output without one
    file: Option<PathBuf>,
    #[command(flatten)]
    paths: Paths,
}

impl HowArgs {
    /// Looks at the node.
    pub(super) fn survey(&self, env: Option<&Path>) -> Survey {
        let mut survey = Survey::read(&self.paths, env);
        if self.start == START {
            survey.expect_unit(&self.paths);
        }
        #[cfg(feature = "aws")]
        if let Some(endpoint) = &self.imds_endpoint {
            survey.ask_metadata(endpoint);
        }
        survey
    }

    pub(super) fn options(&self, conflist: Option<PathBuf>) -> Options {
        Options {
            paths: self.paths.clone(),
            start: self.start.clone(),
            stop: self.stop.clone(),
            wait: Duration::from_secs(self.wait),
            conflist,
            vars: BTreeMap::new(),
        }
    }
}

pub(super) fn to(args: &ToArgs) -> ExitCode {
    let options = args.how.options(None);
    if args.moves.dry_run {
        return match check(args) {
            Ok(vars) => dry_run(&TO, &Options { vars, ..options }),
            Err(error) => {
                warn(&error);
                ExitCode::from(Moved::left(&error, None).outcome.code())
            }
        };
    }
    report(args.moves, migrate::to(&options, args.moves.json, || check(args)))
}

/// Returns the variables with which the node goes on; refuses it with the findings on standard error. Warnings are shown there, too.
fn check(args: &ToArgs) -> Result<BTreeMap<String, String>, StepError> {
    let survey = args.how.survey(args.env.as_deref());
    let report = Report::of(&survey);
    for Finding { severity, what, effect, remedy, .. } in &report.findings {
        warn(format!("{severity}: {what}; so: {effect}; do: {remedy}"));
    }
    match report.verdict(&survey) {
        Verdict::Ready | Verdict::Warnings => Ok(report.vars(&survey)),
        Verdict::Refused => Err(StepError::Refused(
            "this node is not one to be moved, as said above; nothing was changed".to_owned(),
        )),
        Verdict::NotTold => Err(StepError::Failed(format!(
            "whether this node can be moved could not be told, and nothing was changed: {}",
            survey.untold.join("; ")
        ))),
    }
}

pub(super) fn back(args: &BackArgs) -> ExitCode {
    let options = args.how.options(args.conflist.clone());
    if args.moves.dry_run {
        return dry_run(&BACK, &options);
    }
    report(args.moves, migrate::back(&options, args.moves.json))
}

fn dry_run(steps: &[Step], options: &Options) -> ExitCode {
    for step in steps {
        say(format!("# {}", step.name));
        (step.commands)(options).iter().for_each(say);
    }
    ExitCode::SUCCESS
}

fn report(args: MoveArgs, moved: Result<Moved, StepError>) -> ExitCode {
    let moved = match moved {
        Ok(moved) => moved,
        Err(error) => {
            warn(error);
            return ExitCode::from(CANNOT);
        }
    };
    if args.json {
        match serde_json::to_string_pretty(&moved) {
            Ok(json) => drop(writeln!(io::stdout(), "{json}")),
            Err(error) => warn(error),
        }
    }
    for said in moved.why.iter().chain(&moved.remedy) {
        warn(said);
    }
    ExitCode::from(moved.outcome.code())
}

pub(super) fn export(args: &ExportArgs) -> ExitCode {
    const REFUSED: u8 = 4;
    let exported = match migrate::find_export(&args.paths) {
        Ok((exported, _)) => exported,
        Err(error) => {
            warn(error);
            return ExitCode::from(CANNOT);
        }
    };
    exported.refused.iter().for_each(warn);
    let checkpoint = &exported.checkpoint;
    let written = match &args.file {
        _ if !exported.refused.is_empty() => return ExitCode::from(REFUSED),
        Some(path) => checkpoint.write(path).map_err(|error| error_chain(&error)),
        None => checkpoint
            .text()
            .and_then(|text| io::stdout().lock().write_all(&text))
            .map_err(|error| format!("write to standard output: {error}")),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            warn(why);
            ExitCode::FAILURE
        }
    }
}
