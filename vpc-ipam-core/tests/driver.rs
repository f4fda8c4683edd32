//! The scenario driver: what was found once stays found, what is drawn at random holds, the same twice is the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::fs;
use std::path::Path;

use vpc_ipam_core::testkit::Scenario;

/// Inputs of the fuzzer that reach far, and every one that ever broke a rule.
#[test]
fn corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/scenario");
    let mut broken = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let scenario = Scenario::decode(&fs::read(&file).unwrap());
        count += 1;
        if let Err(rule) = scenario.run() {
            broken.push(format!("{}: {rule}\n{}", file.display(), scenario.transcript()));
        }
    }
    assert!(count > 20, "{count} inputs in {}", folder.display());
    assert!(broken.is_empty(), "{} of {count}:\n{}", broken.len(), broken.join("\n"));
}
