//! Version, help, completions and manual of `vpc-ipam`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vpc-ipam")).args(args).output().unwrap()
}

fn prints(args: &[&str]) -> String {
    let output = run(args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{args:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn version_and_help_name_the_program_and_its_exit_codes() {
    assert_eq!(prints(&["--version"]), concat!("vpc-ipam ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = prints(&["--help"]);
    assert!(help.contains("Usage: vpc-ipam <COMMAND>"), "{help}");
    assert!(help.contains("Exit codes:") && help.contains("2  the arguments are wrong"), "{help}");
    assert_eq!(run(&["max-pods"]).status.code(), Some(2));
    assert_eq!(run(&["max-pods", "m99.large"]).status.code(), Some(1));
}

#[test]
fn shells_get_completions_of_every_command() {
    for (shell, words) in [
        ("bash", "-o default vpc-ipam"),
        ("zsh", "#compdef vpc-ipam"),
        ("fish", "complete -c vpc-ipam"),
    ] {
        let script = prints(&["completions", shell]);
        assert!(script.contains(words) && script.contains("max-pods"), "{shell}: {script}");
    }
    // bash takes the script.
    let script = prints(&["completions", "bash"]);
    let syntax = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
    assert!(syntax.status.success(), "{}", String::from_utf8_lossy(&syntax.stderr));
    assert_eq!(run(&["completions", "cmd"]).status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man/man1");
    prints(&["man", path.to_str().unwrap()]);
    for page in ["vpc-ipam.1", "vpc-ipam-max-pods.1", "vpc-ipam-net-diff.1", "vpc-ipam-lab-run.1"] {
        let text = std::fs::read_to_string(path.join(page)).unwrap();
        assert!(text.contains(".TH ") && text.contains("SYNOPSIS"), "{page}: {text}");
    }
    let output = run(&["man", "/proc/none"]);
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("write the manual to /proc/none: No such file"), "{err}");
}
