//! Runs every example of the crate: each asserts what it shows.
//!
//! Cargo builds them along with the tests of the package.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_example_holds_what_it_shows() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(sources).unwrap() {
        let source = entry.unwrap().path();
        let program = program(&source);
        let output = Command::new(&program).output().unwrap();
        assert!(
            output.status.success(),
            "{}: {}\n{}{}",
            source.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(!output.stdout.is_empty(), "{} prints nothing", source.display());
        names.push(source);
    }
    assert!(names.len() >= 9, "{names:?}");
}

/// Returns the program that cargo built of an example.
fn program(source: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // This test is target/PROFILE/deps/examples-HASH.
    let profile = test.parent().and_then(Path::parent).unwrap();
    let name = source.file_stem().unwrap();
    let program =
        profile.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let built = |path: &Path| fs::metadata(path).and_then(|it| it.modified());
    let is_fresh = built(&program).is_ok_and(|at| at >= built(source).unwrap());
    assert!(
        is_fresh,
        "{} is missing or older than {}: cargo build -p {} --all-features --examples",
        program.display(),
        source.display(),
        env!("CARGO_PKG_NAME"),
    );
    program
}
