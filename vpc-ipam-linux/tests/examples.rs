//! Runs the examples of the crate that assert what they show. They make network namespaces, as other tests here do.
//!
//! Cargo builds them along with the tests of the package.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tries millions of names, which takes a release build.
const TOO_LONG: &str = "colliding_names";

#[test]
fn every_example_holds_what_it_shows() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut run = 0;
    for entry in fs::read_dir(sources).unwrap() {
        let source = entry.unwrap().path();
        if source.file_stem().unwrap() == TOO_LONG {
            continue;
        }
        let output = Command::new(program(&source)).output().unwrap();
        assert!(
            output.status.success(),
            "{}: {}\n{}{}\nThe tests need root or a user namespace: run them with scripts/test.sh instead of cargo test",
            source.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        run += 1;
    }
    assert!(run > 0);
}

#[test]
fn examples_leave_no_namespace() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/wire_a_pod.rs");
    let child = Command::new(program(&source)).stdout(std::process::Stdio::null()).spawn().unwrap();
    let prefix = format!("vpc-ipam-example-{}-", child.id());
    assert!(child.wait_with_output().unwrap().status.success());
    let left = fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(&prefix)).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
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
