//! `vpc-ipam lab` as one types it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use vpc_ipam_linux::lab::LabName;

use crate::support::{VPC_IPAM, left_of, printed, unused_name, wait_until};

/// A `vpc-ipam lab up`; ended by a signal, if only at the end of the test.
struct Up {
    process: Child,
    ready: Value,
    name: LabName,
}

impl Up {
    fn start() -> Self {
        let name = unused_name();
        let mut process = Command::new(VPC_IPAM)
            .args(["lab", "up", "--json", "--name", &name.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { process, ready, name }
    }

    fn signal(&self, signal: &str, pid: u32) {
        let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Runs another command on this lab; `rest` follows the name.
    fn lab(&self, command: &[&str], rest: &[&str]) -> Output {
        let name = self.name.to_string();
        let mut all = Command::new(VPC_IPAM);
        all.arg("lab").args(command).args(["--name", &name]).args(rest).output().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.signal("TERM", self.process.id());
        let _ = self.process.wait();
    }
}

fn wait_until_gone(name: &LabName) {
    wait_until("what is left of the lab", || {
        let left = left_of(name);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn lab_run_passes_and_says_what_it_did_and_why() {
    let output = Command::new(VPC_IPAM).args(["lab", "run"]).output().unwrap();
    let said = printed(&output);
    assert!(output.status.success(), "{said}");
    for expected in [
        "pods on 3 ENIs",
        "attach",
        "because",
        "pod to internet",
        "source/dest. check drops             0         0  ok",
        "all passed",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
}

#[cfg(feature = "aws")]
#[test]
fn lab_run_passes_through_the_sdk_and_http() {
    let output = Command::new(VPC_IPAM).args(["lab", "run", "--wire"]).output().unwrap();
    assert!(
        output.status.success() && printed(&output).contains("all passed"),
        "{}",
        printed(&output)
    );
}

/// What a user who is not root gets; the tests' own user is mapped to nobody for that.
#[test]
fn lab_run_needs_no_root_where_user_namespaces_are_allowed() {
    let folder = tempfile::tempdir().unwrap();
    for program in ["vpc-ipam", "vpc-cni"] {
        let from = std::path::Path::new(VPC_IPAM).with_file_name(program);
        std::fs::copy(from, folder.path().join(program)).unwrap();
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(folder.path().join("vpc-ipam"))
        .args(["lab", "run"])
        .current_dir("/")
        .output()
        .unwrap();
    let said = printed(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("in a user namespace") && said.contains("all passed"), "{said}");
}

#[test]
fn lab_up_tells_where_it_is_and_takes_pods() {
    let up = Up::start();
    let keys = ["node_netns", "socket", "cni_bin_dir", "cni_conf_dir", "instance_id"];
    for key in keys {
        assert!(up.ready[key].is_string(), "{key}: {}", up.ready);
    }
    for key in ["ec2_endpoint", "imds_endpoint"] {
        assert_eq!(up.ready.get(key), Some(&Value::Null), "{key}: {}", up.ready);
    }
    let conflists = std::fs::read_dir(up.ready["cni_conf_dir"].as_str().unwrap()).unwrap();
    let conflist = conflists.map(|entry| entry.unwrap().path()).next().unwrap();
    assert_eq!(conflist.extension().unwrap(), "conflist");

    let added = up.lab(&["pod", "add"], &["web", "--json"]);
    assert!(added.status.success(), "{}", printed(&added));
    let result: Value = serde_json::from_slice(&added.stdout).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap();
    let inside = up.lab(&["exec"], &["web", "--", "ip", "-o", "-4", "address", "show", "eth0"]);
    assert!(printed(&inside).contains(address), "{address}: {}", printed(&inside));
    let failed = up.lab(&["exec"], &["node", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let nowhere = up.lab(&["exec"], &["nowhere", "--", "true"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(printed(&nowhere).contains("has it such a place?"), "{}", printed(&nowhere));

    let again = up.lab(&["pod", "add"], &["web"]);
    assert!(!again.status.success(), "{}", printed(&again));
    let deleted = up.lab(&["pod", "del"], &["web"]);
    assert!(deleted.status.success(), "{}", printed(&deleted));
    let name = up.name.clone();
    let down = up.lab(&["down"], &[]);
    assert!(down.status.success(), "{}", printed(&down));
    assert_eq!(left_of(&name), [""; 0]);
    drop(up);
}

#[test]
fn second_lab_of_a_name_is_refused_and_the_first_stays() {
    let up = Up::start();
    let second = up.lab(&["up"], &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(printed(&second).contains("is there already"), "{}", printed(&second));
    assert!(up.lab(&["exec"], &["node", "--", "true"]).status.success());
}

/// The process that was started, and the one that it keeps the lab with.
#[test]
fn nothing_is_left_whichever_process_ends_however() {
    for signal in ["INT", "TERM", "HUP", "KILL"] {
        for inner in [false, true] {
            let mut up = Up::start();
            assert_ne!(left_of(&up.name), [""; 0]);
            let keeper = u32::try_from(up.ready["pid"].as_u64().unwrap()).unwrap();
            up.signal(signal, if inner { keeper } else { up.process.id() });
            let _ = up.process.wait().unwrap();
            wait_until_gone(&up.name);
            let name = up.name.clone();
            core::mem::forget(up);
            assert_eq!(left_of(&name), [""; 0], "{signal} inner {inner}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_helps() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["lab", "run", "--instance-type", "m9.huge"], 1, "m9.huge"),
        (&["lab", "up", "--env", "WARM_IP_TARGET"], 2, "K=V"),
        (&["lab", "up", "--name", "NOT A NAME"], 2, "NOT A NAME"),
        (&["lab", "pod", "add", "--name", "vilnone", "web"], 1, "vpc-ipam lab up"),
        (&["lab", "frobnicate"], 2, "frobnicate"),
    ];
    for (arguments, code, expected) in cases {
        let output = Command::new(VPC_IPAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", printed(&output));
        assert!(printed(&output).contains(expected), "{arguments:?}: {}", printed(&output));
    }
}
