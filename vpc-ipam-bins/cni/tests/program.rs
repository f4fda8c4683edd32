//! `vpc-cni` as a runtime calls it, as far as that takes no node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn call(vars: &[(&str, &str)], config: &Value) -> (Output, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vpc-cni"))
        .env_clear()
        .envs(vars.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap();
    (output, said)
}

#[test]
fn version_names_what_is_supported() {
    let (output, said) = call(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"}));
    assert_eq!(output.status.code(), Some(0));
    let supported = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(said, json!({"cniVersion": "1.0.0", "supportedVersions": supported}));
}

#[test]
fn version_of_the_program_is_printed_when_it_is_asked_for() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vpc-cni")).arg("--version").env_clear().output().unwrap();
    let printed = concat!("vpc-cni ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((output.status.code(), output.stdout), (Some(0), printed.into()));
}

#[test]
fn refused_call_is_an_error_object_and_an_exit_code() {
    let config = json!({"cniVersion": "0.4.0", "name": "aws-cni", "type": "vpc-cni"});
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    // What is changed, and the error: of a command that is not known the configuration is not read.
    let cases = [(("CNI_COMMAND", "GIVE"), "1.1.0", 4), (("CNI_IFNAME", "a/b"), "0.4.0", 4)];
    for ((name, value), version, code) in cases {
        let vars = vars.map(|var| if var.0 == name { (name, value) } else { var });
        let (output, said) = call(&vars, &config);
        assert_eq!(output.status.code(), Some(1), "{name}={value}: {said}");
        assert_eq!((&said["cniVersion"], &said["code"]), (&json!(version), &json!(code)), "{said}");
        assert!(said["msg"].as_str().is_some_and(|text| !text.is_empty()), "{said}");
    }
}
