//! `scripts/test.sh`, on systems that allow more or less than this one: programs of ours take the place of unshare and cargo.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "programs are found by variables")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs the script where `unshare` is this shell script, and returns how it ended and with which arguments it called cargo.
fn run(unshare: &str, arguments: &[&str]) -> (Output, Option<String>) {
    let folder = TempDir::new().unwrap();
    let program = |name: &str, script: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    };
    program("unshare", unshare);
    program("cargo", "printf '%s\\n' \"$@\" >\"$CALLED\"; exit 7");
    let called = folder.path().join("called");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/test.sh");
    let output = Command::new(script)
        .args(arguments)
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("CALLED", &called)
        .output()
        .unwrap();
    (output, fs::read_to_string(called).ok())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const REFUSED: &str = "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1";

/// Only in a user namespace.
const IN_USER_NAMESPACE: &str =
    "[ \"$1\" = --user ] || { echo 'unshare: Operation not permitted' >&2; exit 1; }";

#[test]
fn system_that_allows_no_namespaces_has_nothing_tested_and_is_told_so_in_a_line() {
    for arguments in ["--workspace", "--check"] {
        let (output, called) = run(REFUSED, &[arguments]);
        let said = said(&output);
        assert_eq!(called, None, "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for expected in ["nothing was tested", "forbidden by", "Operation not permitted"] {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
    }
}

#[test]
fn user_has_test_programs_run_in_a_user_namespace_and_is_told_what_is_left_out() {
    let cases: [(&[&str], &str); 2] = [
        (&["-p", "a"], "-p\na\n--\n--skip\nas_root::\n"),
        (&["-p", "a", "--", "name"], "-p\na\n--\nname\n--skip\nas_root::\n"),
    ];
    for (arguments, expected) in cases {
        let (output, called) = run(IN_USER_NAMESPACE, arguments);
        let called = called.unwrap_or_default();
        assert!(called.starts_with("test\n--config\n"), "{called}");
        assert!(called.contains("scripts/in-user-namespace.sh"), "{called}");
        assert!(called.ends_with(expected), "{called}");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(7), "as cargo ended: {said}");
        assert!(said.contains("not tested") && said.contains("as_root"), "{said}");
    }
}

#[test]
fn check_runs_nothing() {
    for unshare in ["exit 0", IN_USER_NAMESPACE] {
        let (output, called) = run(unshare, &["--check"]);
        assert_eq!((output.status.code(), called), (Some(0), None), "{}", said(&output));
    }
}
