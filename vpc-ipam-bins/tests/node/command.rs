//! `vpc-ipam lab` as one types it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use vpc_ipam_linux::lab::LabName;
use vpc_ipam_tests::program;

use crate::support::{left_of, printed, signal, unused_name, wait_until};
use crate::user::User;

/// A `vpc-ipam lab up`; ended by a signal, if only at the end of the test.
struct Up<'a> {
    process: Child,
    ready: Value,
    name: LabName,
    user: Option<&'a User>,
}

impl<'a> Up<'a> {
    fn start() -> Self {
        Self::start_by(None)
    }

    fn start_by(user: Option<&'a User>) -> Self {
        Self::start_with(user, &[])
    }

    fn start_with(user: Option<&'a User>, arguments: &[&str]) -> Self {
        let name = unused_name();
        let mut process = vpc_ipam(user)
            .args(["lab", "up", "--json", "--name", &name.to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { process, ready, name, user }
    }

    /// The process that keeps the lab.
    fn keeper(&self) -> u32 {
        u32::try_from(self.ready["pid"].as_u64().unwrap()).unwrap()
    }

    /// Runs another command on this lab; `rest` follows the name.
    fn lab(&self, command: &[&str], rest: &[&str]) -> Output {
        let name = self.name.to_string();
        let mut all = vpc_ipam(self.user);
        all.arg("lab").args(command).args(["--name", &name]).args(rest).output().unwrap()
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        // Until it is waited for, no other process gets the number.
        if let Ok(None) = self.process.try_wait() {
            signal(self.process.id(), Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// Returns a call of the program as root, or as a user who is not.
fn vpc_ipam(user: Option<&User>) -> Command {
    user.map_or_else(|| Command::new(program("vpc-ipam")), User::vpc_ipam)
}

fn wait_until_gone(name: &LabName) {
    wait_until("what is left of the lab", || {
        let left = left_of(name);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn lab_run_passes_and_says_what_it_did_and_why() {
    let output = Command::new(program("vpc-ipam")).args(["lab", "run"]).output().unwrap();
    let said = printed(&output);
    assert!(output.status.success(), "{said}");
    for expected in [
        "pods on 3 ENIs",
        "attach",
        "because",
        "pod to internet",
        "source/dest. check drops",
        "all passed",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
}

#[test]
fn lab_run_passes_for_other_types_and_variables() {
    let prefixes = "ENABLE_PREFIX_DELEGATION=true";
    let cases: [(&[&str], &str); 8] = [
        (&["--env", "WARM_IP_TARGET=5"], "19 pods on 3 ENIs"),
        (&["--env", prefixes], "64 pods on 1 ENIs"),
        (&["--instance-type", "t3.nano", "--env", prefixes], "32 pods on 2 ENIs"),
        (&["--env", "MAX_ENI=2"], "18 pods on 2 ENIs"),
        (&["--env", "ENABLE_POD_ENI=true"], "18 pods on 2 ENIs"),
        (&["--env", "AWS_VPC_K8S_CNI_EXTERNALSNAT=true"], "19 pods on 3 ENIs"),
        (&["--instance-type", "t3.nano"], "2 pods on 2 ENIs"),
        (&["--instance-type", "c5.4xlarge"], "59 pods on 3 ENIs"),
    ];
    // Most of the time of each is waiting.
    for some in cases.chunks(4) {
        let runs: Vec<_> = some
            .iter()
            .map(|(arguments, expected)| {
                let mut run = Command::new(program("vpc-ipam"));
                let run = run.args(["lab", "run"]).args(*arguments);
                let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                (run, arguments, expected)
            })
            .collect();
        for (run, arguments, expected) in runs {
            let output = run.wait_with_output().unwrap();
            let said = printed(&output);
            assert!(output.status.success(), "{arguments:?}: {said}");
            assert!(said.contains(expected), "{arguments:?}: {said}");
        }
    }
}

#[cfg(feature = "aws")]
#[test]
fn lab_run_passes_through_the_sdk_and_http() {
    let output = Command::new(program("vpc-ipam")).args(["lab", "run", "--wire"]).output().unwrap();
    assert!(
        output.status.success() && printed(&output).contains("all passed"),
        "{}",
        printed(&output)
    );
}

#[test]
fn lab_run_needs_no_root_where_user_namespaces_are_allowed() {
    let output = User::new().vpc_ipam().args(["lab", "run"]).output().unwrap();
    let said = printed(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("in a user namespace") && said.contains("all passed"), "{said}");
}

#[test]
fn users_lab_takes_commands_and_goes() {
    let user = User::new();
    let up = Up::start_by(Some(&user));
    let added = up.lab(&["pod", "add"], &["web", "--json"]);
    assert!(added.status.success(), "{}", printed(&added));
    let result: Value = serde_json::from_slice(&added.stdout).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap();
    let inside = up.lab(&["exec"], &["web", "--", "ip", "-o", "-4", "address", "show", "eth0"]);
    assert!(printed(&inside).contains(address), "{address}: {}", printed(&inside));
    let failed = up.lab(&["exec"], &["node", "--", "sh", "-c", "nft list ruleset && exit 7"]);
    assert_eq!(failed.status.code(), Some(7), "{}", printed(&failed));
    let second = up.lab(&["up"], &[]);
    assert!(printed(&second).contains("is there already"), "{}", printed(&second));
    let deleted = up.lab(&["pod", "del"], &["web"]);
    assert!(deleted.status.success(), "{}", printed(&deleted));

    let down = up.lab(&["down"], &[]);
    assert!(printed(&down).contains("is gone"), "{}", printed(&down));
    assert!(!Path::new(&format!("/proc/{}", up.keeper())).exists(), "it is gone when it says so");
    assert_eq!(fs::read_dir(user.labs()).unwrap().count(), 0);
    let again = up.lab(&["exec"], &["node", "--", "true"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(printed(&again).contains("is not up"), "{}", printed(&again));
}

#[test]
fn users_lab_goes_whichever_process_ends_however() {
    let user = User::new();
    for (with, inner) in signals_to_both() {
        let mut up = Up::start_by(Some(&user));
        let keeper = up.keeper();
        signal(if inner { keeper } else { up.process.id() }, with);
        up.process.wait().unwrap();
        wait_until("the end of the process that kept the lab", || {
            match Path::new(&format!("/proc/{keeper}")).exists() {
                true => Err(format!("process {keeper}, {with:?}, inner {inner}")),
                false => Ok(()),
            }
        });
        let exec = up.lab(&["exec"], &["node", "--", "true"]);
        assert!(printed(&exec).contains("is not up"), "{with:?} {inner}: {}", printed(&exec));
        let down = up.lab(&["down"], &[]);
        assert!(down.status.success(), "{with:?} {inner}: {}", printed(&down));
        assert_eq!(fs::read_dir(user.labs()).unwrap().count(), 0, "{with:?} {inner}");
    }
}

#[test]
fn name_of_a_users_lab_is_free_after_a_kill() {
    let user = User::new();
    let mut up = Up::start_by(Some(&user));
    signal(up.process.id(), Signal::KILL);
    up.process.wait().unwrap();
    assert!(user.labs().join(up.name.to_string()).exists(), "a killed process removes no file");

    let mut again = user.vpc_ipam();
    again.args(["lab", "up", "--json", "--name", &up.name.to_string()]);
    let mut again = again.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(again.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("node_netns"), "{line:?}");
    let down = up.lab(&["down"], &[]);
    assert!(printed(&down).contains("is gone"), "{}", printed(&down));
    again.wait().unwrap();
}

#[test]
fn what_a_killed_process_left_goes_with_the_users_next_lab() {
    let user = User::new();
    let running = Up::start_by(Some(&user));
    let mut killed = Up::start_by(Some(&user));
    signal(killed.process.id(), Signal::KILL);
    killed.process.wait().unwrap();

    let next = Up::start_by(Some(&user));

    let mut left: Vec<_> = fs::read_dir(user.labs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = [&running, &next].map(|up| up.name.to_string());
    expected.sort();
    assert_eq!(left, expected);
    assert!(running.lab(&["exec"], &["node", "--", "true"]).status.success());
}

/// What runs in there is the user's to choose.
#[test]
fn root_enters_no_namespace_of_a_user() {
    let user = User::new();
    let up = Up::start_by(Some(&user));
    for command in
        [&["exec", "node", "--", "true"][..], &["pod", "add", "web"], &["pod", "del", "web"]]
    {
        let (command, rest) = command.split_at(if command[0] == "pod" { 2 } else { 1 });
        let output = Command::new(program("vpc-ipam"))
            .arg("lab")
            .args(command)
            .args(["--name", &up.name.to_string()])
            .args(rest)
            .env("XDG_RUNTIME_DIR", user.runtime())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", printed(&output));
        assert!(printed(&output).contains("is not up"), "{command:?}: {}", printed(&output));
    }
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
    let links = up.lab(&["exec"], &["web", "--", "ls", "/sys/class/net"]);
    assert_eq!(printed(&links), "eth0\nlo\n", "a pod sees its own /sys");
    let failed = up.lab(&["exec"], &["node", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let missing = up.lab(&["exec"], &["node", "--", "vil-there-is-no-such-program"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(printed(&missing).contains("no-such-program"), "{}", printed(&missing));
    let nowhere = up.lab(&["exec"], &["nowhere", "--", "true"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(printed(&nowhere).contains("has no nowhere"), "{}", printed(&nowhere));

    let again = up.lab(&["pod", "add"], &["web"]);
    assert!(!again.status.success(), "{}", printed(&again));
    let deleted = up.lab(&["pod", "del"], &["web"]);
    assert!(deleted.status.success(), "{}", printed(&deleted));
    let down = up.lab(&["down"], &[]);
    assert!(down.status.success(), "{}", printed(&down));
    assert_eq!(left_of(&up.name), [""; 0]);
}

#[test]
fn command_in_a_lab_gets_the_signals_and_ends_as_it_ends() {
    let up = Up::start();
    let name = up.name.to_string();
    let mut sleep = Command::new(program("vpc-ipam"))
        .args(["lab", "exec", "--name", &name, "node", "--", "sleep", "600"])
        .spawn()
        .unwrap();
    let is = || fs::read_to_string(format!("/proc/{}/comm", sleep.id())).unwrap();
    wait_until("the command", || if is() == "sleep\n" { Ok(()) } else { Err(is()) });
    signal(sleep.id(), Signal::TERM);
    assert_eq!(sleep.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn pod_of_a_lab_takes_every_network_card() {
    let node = ["--instance-type", "hpc7a.12xlarge", "--env", "ENABLE_MULTI_NIC=true"];
    let up = Up::start_with(None, &node);
    let added = up.lab(&["pod", "add"], &["web", "--every-card", "--json"]);
    let result: Value = serde_json::from_slice(&added.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", printed(&added)));
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
    let links = up.lab(&["exec"], &["web", "--", "ls", "/sys/class/net"]);
    assert_eq!(printed(&links), "eth0\nlo\nmNicIf1\n");
    let one = up.lab(&["pod", "add"], &["one", "--json"]);
    let result: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(1), "{result}");
}

/// Such as a pager whose user does not scroll on.
#[test]
fn reader_who_stops_holds_up_neither_pods_nor_the_end() {
    let name = unused_name().to_string();
    let (unread, mut stderr) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&stderr, true).unwrap();
    while std::io::Write::write(&mut stderr, &[b'.'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&stderr, false).unwrap();
    let mut up = Command::new(program("vpc-ipam"))
        .args(["lab", "up", "--json", "--name", &name, "--env", "WARM_IP_TARGET=many"])
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(up.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let lab = |arguments: &[&str]| {
        let (command, rest) = arguments.split_at(arguments.len().min(2));
        let mut all = Command::new(program("vpc-ipam"));
        all.arg("lab").args(command).args(["--name", &name]).args(rest).output().unwrap()
    };
    let added = lab(&["pod", "add", "web"]);
    assert!(added.status.success(), "{}", printed(&added));
    let down = lab(&["down"]);
    assert!(down.status.success(), "{}", printed(&down));
    assert!(up.wait().unwrap().success());
    assert_eq!(left_of(&name.parse().unwrap()), [""; 0]);
    drop(unread);
}

#[test]
fn reader_who_goes_leaves_nothing_behind() {
    for arguments in [&["run"][..], &["up"]] {
        let name = unused_name();
        let mut lab = Command::new(program("vpc-ipam"));
        let mut lab = match arguments {
            ["up"] => lab.args(["lab", "up", "--name", &name.to_string()]),
            _ => lab.args(["lab", "run"]),
        }
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
        let mut line = String::new();
        BufReader::new(lab.stdout.take().unwrap()).read_line(&mut line).unwrap();
        drop(lab.stderr.take());
        if arguments == ["up"] {
            signal(lab.id(), Signal::TERM);
        }
        let status = lab.wait().unwrap();
        assert!(status.success(), "{arguments:?}: {status}");
        let run = format!("run{}", lab.id()).parse().unwrap();
        assert_eq!((left_of(&name), left_of(&run)), (vec![], vec![]), "{arguments:?}");
    }
}

#[test]
fn second_lab_of_a_name_is_refused_and_the_first_stays() {
    let up = Up::start();
    let second = up.lab(&["up"], &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(printed(&second).contains("is there already"), "{}", printed(&second));
    assert!(up.lab(&["exec"], &["node", "--", "true"]).status.success());
}

/// Which signal, and whether the process that keeps the lab gets it, or the one that was started.
fn signals_to_both() -> impl Iterator<Item = (Signal, bool)> {
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL];
    signals.into_iter().flat_map(|signal| [(signal, false), (signal, true)])
}

#[test]
fn nothing_is_left_whichever_process_ends_however() {
    for (with, inner) in signals_to_both() {
        let mut up = Up::start();
        assert_ne!(left_of(&up.name), [""; 0]);
        signal(if inner { up.keeper() } else { up.process.id() }, with);
        up.process.wait().unwrap();
        wait_until_gone(&up.name);
    }
}

#[test]
fn lab_of_which_both_processes_were_killed_is_removed_by_down() {
    let mut up = Up::start();
    signal(up.process.id(), Signal::STOP);
    signal(up.keeper(), Signal::KILL);
    signal(up.process.id(), Signal::KILL);
    up.process.wait().unwrap();
    assert_ne!(left_of(&up.name), [""; 0]);
    let exec = up.lab(&["up"], &[]);
    assert!(printed(&exec).contains("is there already"), "{}", printed(&exec));

    let down = up.lab(&["down"], &[]);
    assert!(down.status.success(), "{}", printed(&down));
    assert!(printed(&down).contains("namespaces that it had left"), "{}", printed(&down));
    assert_eq!(left_of(&up.name), [""; 0]);
}

#[test]
fn lab_whose_keeper_does_not_end_is_left_alone() {
    let up = Up::start();
    let before = left_of(&up.name);
    signal(up.keeper(), Signal::STOP);
    let down = up.lab(&["down"], &[]);
    let after = left_of(&up.name);
    signal(up.keeper(), Signal::CONT);
    assert_eq!(down.status.code(), Some(1), "{}", printed(&down));
    assert!(printed(&down).contains("kill -9"), "{}", printed(&down));
    assert_eq!(after, before);
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
        let output = Command::new(program("vpc-ipam")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", printed(&output));
        assert!(printed(&output).contains(expected), "{arguments:?}: {}", printed(&output));
    }
}
