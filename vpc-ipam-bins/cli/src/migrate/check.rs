//! What speaks against moving a node, looked at one by one.
//!
//! A check is a file of its own in `check/`, and a row of [`CHECKS`]. It looks at a [`Survey`] and at what follows from it alone, so that tests
//! plant each fault in a plain value.

mod branch;
mod chains;
mod checkpoint;
mod conflist;
mod contradictions;
mod daemon;
mod firewall;
mod metadata;
mod networkd;
mod old_daemon;
mod old_plugin;
mod owners;
mod second_cni;
mod settings;
mod stale;
#[cfg(test)]
pub(super) mod tests;
mod traces;
mod traffic_control;
mod untracked;

use core::fmt;
use std::collections::BTreeMap;

use serde::Serialize;

use super::{Derived, PodMove, Survey, pods};

/// All checks, in the order in which they are made.
const CHECKS: [Check; 18] = [
    old_daemon::CHECK,
    old_plugin::CHECK,
    daemon::CHECK,
    traces::CHECK,
    firewall::CHECK,
    chains::CHECK,
    checkpoint::CHECK,
    owners::CHECK,
    contradictions::CHECK,
    metadata::CHECK,
    branch::CHECK,
    second_cni::CHECK,
    conflist::CHECK,
    settings::CHECK,
    traffic_control::CHECK,
    networkd::CHECK,
    stale::CHECK,
    untracked::CHECK,
];

/// One thing that can speak against moving a node.
struct Check {
    /// By which it is named.
    name: &'static str,
    /// What it can come to; the tests drive it to each of them.
    severities: &'static [Severity],
    /// Looks.
    run: fn(&Node<'_>) -> Vec<Finding>,
}

/// What checks look at.
struct Node<'a> {
    survey: &'a Survey,
    derived: &'a Derived,
    pods: &'a [PodMove],
}

/// How much a finding speaks against moving a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The node can be moved, and something is different afterwards, or is lost that need not be.
    Warning,
    /// The node is not moved: pods would lose their network, or an address would be given twice.
    Refusal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Refusal => "refused",
        })
    }
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How much it speaks against moving the node.
    pub severity: Severity,
    /// What was seen, and where.
    pub what: String,
    /// What would come of it.
    pub effect: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    fn warning(
        what: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (what, effect, remedy) = (what.into(), effect.into(), remedy.into());
        Self { check: "", severity: Severity::Warning, what, effect, remedy }
    }

    fn refusal(
        what: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Refusal, ..Self::warning(what, effect, remedy) }
    }
}

/// Whether a node can be moved, with which settings, and what becomes of each pod.
#[derive(Clone, Debug)]
pub struct Report {
    /// What speaks against it.
    pub findings: Vec<Finding>,
    /// The variables that follow from what is on the node.
    pub derived: Derived,
    /// Each pod, and what becomes of it.
    pub pods: Vec<PodMove>,
}

/// What a report comes to, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing speaks against it.
    Ready,
    /// There are warnings.
    Warnings,
    /// Something could not be read that has to be known.
    NotTold,
    /// It is refused.
    Refused,
}

impl Report {
    /// Looks at what was read of a node.
    pub fn of(survey: &Survey) -> Self {
        let derived = Derived::of(survey);
        let pods = pods::pods(survey, &derived);
        let node = Node { survey, derived: &derived, pods: &pods };
        let findings = CHECKS.iter().flat_map(|check| {
            let found = (check.run)(&node);
            debug_assert!(
                found.iter().all(|it| check.severities.contains(&it.severity)),
                "{found:?}"
            );
            found.into_iter().map(|finding| Finding { check: check.name, ..finding })
        });
        Self { findings: findings.collect(), derived, pods }
    }

    /// Returns the environment to use, by name.
    pub fn vars(&self, survey: &Survey) -> BTreeMap<String, String> {
        let variables = self.derived.environment(&survey.given).into_iter();
        variables.map(|it| (it.name, it.value)).collect()
    }

    /// Returns what it comes to.
    pub fn verdict(&self, survey: &Survey) -> Verdict {
        let worst = self.findings.iter().map(|finding| finding.severity).max();
        match worst {
            Some(Severity::Refusal) => Verdict::Refused,
            _ if !survey.untold.is_empty() => Verdict::NotTold,
            Some(Severity::Warning) => Verdict::Warnings,
            None => Verdict::Ready,
        }
    }
}

/// Joins up to five of many, and says how many more there are.
fn some_of<T: fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    if all.len() > SHOWN {
        text.push(format!("{} more", all.len() - SHOWN));
    }
    text.join(", ")
}
