//! Variables that cannot be used, have no effect, or are probably misspelt.

use std::collections::BTreeMap;

use vpc_ipamd::settings::Settings;
use vpc_ipamd::{env_file, variables};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;
use crate::node_files::Process;

pub(super) const CHECK: Check = Check {
    name: "variables",
    about: "variables of the daemon: values that cannot be used, names without effect, names that are probably misspelt",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::NotChecked],
    run,
};

/// The file that the unit names.
const FILE: &str = "/etc/vpc-ipam/vpc-ipamd.env";

fn run(facts: &Facts) -> Vec<Finding> {
    let processes = facts.files.processes().unwrap_or_default();
    let daemon = processes.iter().find(|process| process.name == "vpc-ipamd");
    let mut findings = Vec::new();
    let mut vars = BTreeMap::new();
    let mut from = Vec::new();
    if let Some(daemon) = daemon {
        match of_process(facts, daemon) {
            Ok(found) => {
                vars.extend(found);
                from.push(format!("process {}", daemon.pid));
            }
            Err(why) => findings.push(Finding::not_checked(why)),
        }
    }
    let file = daemon.and_then(|daemon| daemon.option("--env-file")).unwrap_or(FILE);
    match facts.files.read_bytes(file) {
        Ok(Some(text)) => {
            let (found, bad) = env_file::parse(&text);
            findings.extend(bad.iter().map(|bad| {
                Finding::warning(format!("{file}, {bad}"), format!("correct the line in {file}"))
            }));
            // Those of the process come first.
            for (name, value) in found {
                vars.entry(name).or_insert(value);
            }
            from.push(file.to_owned());
        }
        Ok(None) => {}
        Err(why) => findings.push(Finding::not_checked(why)),
    }
    if from.is_empty() {
        if findings.is_empty() {
            let why = format!("no vpc-ipamd runs, and there is no {file}");
            findings.push(Finding::not_checked(why));
        }
        return findings;
    }
    let place = from.join(" and ");
    let (_, values) = Settings::from_vars(vars.clone());
    let noted: Vec<&str> = values.iter().map(|note| note.variable).collect();
    let set = vars.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let names = variables::notes(set, &noted);
    let notes = values.iter().map(ToString::to_string).chain(names.iter().map(ToString::to_string));
    let before = findings.len();
    let remedy = format!("correct or remove it in {file}, then systemctl reload vpc-ipamd");
    findings.extend(notes.map(|note| Finding::warning(note, &remedy)));
    if findings.len() == before {
        let known = vars.keys().filter(|name| variables::find(name).is_some()).count();
        let evidence =
            format!("{known} known variables are set in {place}, all of them to some effect");
        findings.insert(0, Finding::ok(evidence));
    }
    findings
}

fn of_process(facts: &Facts, daemon: &Process) -> Result<Vec<(String, String)>, String> {
    let path = format!("/proc/{}/environ", daemon.pid);
    let text = facts.files.read(&path)?.ok_or_else(|| format!("there is no {path}"))?;
    let pair = |entry: &str| {
        entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    Ok(text.split_terminator('\0').filter_map(pair).collect())
}
