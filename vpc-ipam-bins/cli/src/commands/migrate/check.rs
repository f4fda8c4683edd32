//! `vpc-ipam migrate check`: changes nothing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpc_ipam_protocol::one_line::OneLine;

use super::moves::HowArgs;
use crate::migrate::{
    Fate, Finding, Options, PodMove, Report, Survey, TO, Variable, Verdict, WITHOUT_TRACE,
};

/// Show whether this node can be moved over, with which settings, and what becomes of each pod.
///
/// Run it as root on the node, in the node's network namespace, after amazon-vpc-cni-k8s was kept off it. It changes nothing. It prints what speaks
/// against the move and what to do about it; the variables by which vpc-ipamd goes on as amazon-vpc-cni-k8s did, each with what shows it; each
/// pod; and the commands that `migrate to` would run.
///
/// What a file of variables says otherwise than the node shows is refused: traffic of running pods would change. Variables that leave no trace on
/// a node are those of the DaemonSet aws-node: write them to the file.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    how: HowArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A file of variables for vpc-ipamd, NAME=VALUE a line, instead of the one of --env-file
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  ready
  1  that could not be told, and it says what could not be read
  2  the arguments are wrong
  3  ready, with warnings
  4  refused";

pub(super) fn main(args: &CheckArgs) -> ExitCode {
    let survey = args.how.survey(args.env.as_deref());
    let report = Report::of(&survey);
    let checked = Checked::of(&survey, &report, args.how.options(None));
    let out = io::stdout().lock();
    let written = if args.json { checked.print_json(out) } else { checked.print(out) };
    if let Err(failure) = super::super::unless_closed(written) {
        eprintln!("vpc-ipam: {failure}");
        return ExitCode::FAILURE;
    }
    match checked.verdict {
        Verdict::Ready => ExitCode::SUCCESS,
        Verdict::NotTold => ExitCode::FAILURE,
        Verdict::Warnings => ExitCode::from(3),
        Verdict::Refused => ExitCode::from(4),
    }
}

/// What is printed.
#[derive(Serialize)]
struct Checked<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
    /// What could not be read that has to be known, and why.
    not_told: &'a [String],
    environment: Vec<Variable>,
    pods: &'a [PodMove],
    steps: Vec<StepCommands>,
}

/// What a step of `migrate to` would run.
#[derive(Serialize)]
struct StepCommands {
    step: &'static str,
    commands: Vec<String>,
}

impl<'a> Checked<'a> {
    fn of(survey: &'a Survey, report: &'a Report, options: Options) -> Self {
        let environment = report.derived.environment(&survey.given);
        let options = Options { vars: report.vars(survey), ..options };
        let commands = |step: &crate::migrate::Step| StepCommands {
            step: step.name,
            commands: (step.commands)(&options),
        };
        Self {
            verdict: report.verdict(survey),
            findings: &report.findings,
            not_told: &survey.untold,
            environment,
            pods: &report.pods,
            steps: TO.iter().map(commands).collect(),
        }
    }

    fn print_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    fn print(&self, mut out: impl Write) -> io::Result<()> {
        for Finding { check, severity, what, effect, remedy } in self.findings {
            writeln!(out, "{severity:<8} {check:<15} {}", OneLine(what))?;
            writeln!(out, "{:<24} so: {}", "", OneLine(effect))?;
            writeln!(out, "{:<24} do: {}", "", OneLine(remedy))?;
        }
        for what in self.not_told {
            writeln!(out, "not told {:<15} {}", "", OneLine(what))?;
        }
        writeln!(out, "\n# Variables for vpc-ipamd")?;
        for Variable { name, value, evidence } in &self.environment {
            writeln!(out, "# {}", OneLine(evidence))?;
            writeln!(out, "{name}={}", OneLine(value))?;
        }
        writeln!(out, "# These leave no trace on a node; take them from the DaemonSet aws-node:")?;
        writeln!(out, "# {WITHOUT_TRACE}")?;
        writeln!(out, "\n# Pods")?;
        for pod in self.pods {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let name = match (&pod.pod, &pod.container) {
                (Some(pod), _) => pod.clone(),
                (None, Some(container)) => format!("container {container:.12}"),
                (None, None) => "-".to_owned(),
            };
            let (name, fate) = (OneLine(name).to_string(), in_words(&pod.fate));
            writeln!(out, "{:<15} {name:<40} {}", addresses.join(","), OneLine(fate))?;
        }
        writeln!(out, "\n# What `migrate to` runs")?;
        for StepCommands { step, commands } in &self.steps {
            writeln!(out, "# {step}")?;
            for command in commands {
                writeln!(out, "{}", OneLine(command))?;
            }
        }
        let words = match self.verdict {
            Verdict::Ready => "ready",
            Verdict::Warnings => "ready, with warnings",
            Verdict::NotTold => "whether the node can be moved could not be told",
            Verdict::Refused => "refused",
        };
        writeln!(out, "\n{words}")
    }
}

fn in_words(fate: &Fate) -> String {
    match fate {
        Fate::Imported { links, tables, missing } => {
            let lacks = if missing.is_empty() {
                String::new()
            } else {
                format!("; missing, and put back: {}", missing.join(", "))
            };
            format!("becomes a lease with {}, table {}{lacks}", links.join(", "), tables.join(", "))
        }
        Fate::Untracked { link, why } => {
            format!("untracked, keeps its address while {link} is there: {why}")
        }
        Fate::Skipped { why } => format!("skipped: {why}"),
        Fate::Refused { why } => format!("refused: {why}"),
    }
}
