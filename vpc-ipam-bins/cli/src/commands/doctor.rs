//! `vpc-ipam doctor`: what can be wrong with a node, looked at one by one.
//!
//! A check is a file of its own in `doctor/`, and a row of [`CHECKS`]. It looks at the node by [`Facts`] alone, so that tests plant each
//! fault: in files under another root, and in answers of the daemon.

mod check;
mod clock;
mod conflist;
mod daemon;
mod enis;
mod facts;
mod firewall;
mod leases;
mod limits;
mod mac_policy;
mod max_pods;
mod metadata;
mod network;
mod network_manager;
mod networkd;
mod permissions;
mod pods;
mod rivals;
mod rp_filter;
mod state;
mod subnets;
#[cfg(test)]
mod tests;
mod untracked;
mod variables;
mod versions;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use vpc_ipam_protocol::SOCKET;
use vpc_ipam_protocol::one_line::OneLine;

use self::check::{Check, Finding, Verdict};
use self::facts::Facts;

/// All checks, in the order in which they are made.
const CHECKS: [Check; 22] = [
    daemon::CHECK,
    versions::CHECK,
    metadata::CHECK,
    permissions::CHECK,
    subnets::CHECK,
    limits::CHECK,
    max_pods::CHECK,
    variables::CHECK,
    conflist::CHECK,
    state::CHECK,
    clock::CHECK,
    firewall::CHECK,
    rp_filter::CHECK,
    networkd::CHECK,
    network_manager::CHECK,
    mac_policy::CHECK,
    enis::CHECK,
    untracked::CHECK,
    pods::CHECK,
    leases::CHECK,
    network::CHECK,
    rivals::CHECK,
];

const WARNINGS: u8 = 3;

/// Check what can be wrong with this node, and say what to do about it.
///
/// Each check prints verdicts (ok, warning, failure, not checked), the evidence and, after "do:", the remedy. Nothing is changed: EC2 is asked
/// with dry runs and reads, by the daemon. Without root or without a daemon the checks that need them are not made, and say so.
///
/// Exits with 0 if nothing was found, 1 if there is a failure, 2 if the arguments are wrong, 3 if there are warnings and no failure. What was
/// not checked does not count.
#[derive(Debug, Args)]
#[command(after_long_help = long_help())]
pub(super) struct DoctorArgs {
    /// The checks to make; all without any
    #[arg(value_name = "CHECK", value_parser = PossibleValuesParser::new(CHECKS.map(|check| check.name)), hide_possible_values = true)]
    checks: Vec<String>,
    /// Where the daemon listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Look for files of the node below another folder, as where the host's root is mounted in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn long_help() -> String {
    let row = |check: &Check| format!("\n  {:<16} {}", check.name, check.about);
    CHECKS.iter().fold("Checks:".to_owned(), |text, check| text + &row(check))
}

/// What a check found.
#[derive(Serialize)]
struct Checked {
    name: &'static str,
    /// The worst of its findings.
    verdict: Verdict,
    findings: Vec<Finding>,
}

pub(super) fn main(args: &DoctorArgs) -> ExitCode {
    let facts = Facts::new(&args.root, &args.socket);
    let wanted =
        |check: &&Check| args.checks.is_empty() || args.checks.iter().any(|it| it == check.name);
    let checked: Vec<Checked> =
        CHECKS.iter().filter(wanted).map(|check| checked(check, &facts)).collect();
    let written = if args.json {
        print_json(io::stdout().lock(), &checked)
    } else {
        print(io::stdout().lock(), &checked)
    };
    if let Err(failure) = super::unless_closed(written) {
        eprintln!("vpc-ipam: {failure}");
        return ExitCode::FAILURE;
    }
    exit_code(&checked)
}

fn checked(check: &Check, facts: &Facts) -> Checked {
    let findings = (check.run)(facts);
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    debug_assert!(findings.iter().all(|it| check.verdicts.contains(&it.verdict)), "{findings:?}");
    Checked { name: check.name, verdict, findings }
}

fn exit_code(checked: &[Checked]) -> ExitCode {
    match checked.iter().map(|check| check.verdict).max() {
        Some(Verdict::Failure) => ExitCode::FAILURE,
        Some(Verdict::Warning) => ExitCode::from(WARNINGS),
        _ => ExitCode::SUCCESS,
    }
}

/// Prints a line a finding, and one for what to do about it.
fn print(mut out: impl Write, checked: &[Checked]) -> io::Result<()> {
    for check in checked {
        for Finding { verdict, evidence, remedy } in &check.findings {
            writeln!(out, "{verdict:<12} {:<16} {}", check.name, OneLine(evidence))?;
            if let Some(remedy) = remedy {
                writeln!(out, "{:<29} do: {}", "", OneLine(remedy))?;
            }
        }
    }
    let [ok, not_checked, warnings, failures] = counts(checked);
    writeln!(out, "\n{ok} ok, {warnings} warnings, {failures} failures, {not_checked} not checked")
}

fn print_json(mut out: impl Write, checked: &[Checked]) -> io::Result<()> {
    let [ok, not_checked, warnings, failures] = counts(checked);
    let document = serde_json::json!({
        "checks": checked,
        "findings": { "ok": ok, "not_checked": not_checked, "warning": warnings, "failure": failures },
    });
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)
}

/// Returns how many findings there are of each verdict, in the order of [`Verdict`].
fn counts(checked: &[Checked]) -> [usize; 4] {
    let count = |verdict| {
        let findings = checked.iter().flat_map(|check| &check.findings);
        findings.filter(|finding| finding.verdict == verdict).count()
    };
    [Verdict::Ok, Verdict::NotChecked, Verdict::Warning, Verdict::Failure].map(count)
}
