//! What an earlier version recorded is read by this one.
//!
//! `stored/` has journals of earlier commits, one line for each step after the first, which says where it starts. Add one when
//! the form changes; never change one that is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::collections::BTreeMap;
use std::path::Path;

use vpc_ipam_core::journal::{Input, ReplayError, Start, Step, replay};
use vpc_ipam_core::{Families, Ipv4Kind, Record};

const JOURNAL: &str = "journal-e405b97.jsonl";

fn lines(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored").join(name);
    std::fs::read_to_string(path).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn journal_of_e405b97_is_read() {
    let lines = lines(JOURNAL);
    let start: Start = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(start.node.instance_type.as_str(), "i7ie.48xlarge");
    assert_eq!(start.config.families, Families::Dual(Ipv4Kind::Addresses));
    let steps: Vec<Step> = lines[1..].iter().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(steps.len(), 100);
    assert!(steps.iter().any(|step| !step.issued.is_empty()));

    // Every kind of input is in it.
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &steps {
        let kind = match &step.input {
            Input::Restore(_) => "restore",
            Input::Observe(_) => "observe",
            Input::Config(_) => "config",
            Input::EniConfig(_) => "eni config",
            Input::Schedulable(_) => "schedulable",
            Input::Terminating => "terminating",
            Input::Untracked { .. } => "untracked owner",
            Input::Assign(_) => "assign",
            Input::Commit(_) => "commit",
            Input::Abandon(_) => "abandon",
            Input::Release(_) => "release",
            Input::Outcome { .. } => "outcome",
            Input::Timeout => "timeout",
            other => panic!("{other:?} has no name here"),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(kinds.len(), 13, "{kinds:?}");
    let Input::Restore(records) = &steps[0].input else { panic!("{:?}", steps[0]) };
    let Record::Leased(lease) = &records[0] else { panic!("{records:?}") };
    assert_eq!(lease.first.ipv4, Some([10, 0, 9, 9].into()));

    // Another version may decide otherwise: then the first step that differs is named.
    match replay(&start, steps) {
        Ok(_) | Err(ReplayError::Diverged(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn journal_of_an_unknown_version_is_refused_by_its_version() {
    let first = lines(JOURNAL).swap_remove(0);
    let later = first.replacen('{', "{\"version\":7,", 1);
    let error = serde_json::from_str::<Start>(&later).unwrap_err().to_string();
    assert!(error.contains("version 7") && error.contains("version 1"), "{error}");
}
