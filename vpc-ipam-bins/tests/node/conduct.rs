//! The program as a service: its file of variables, signals, and what the service manager hears.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use vpc_ipam_tests::program;

use crate::alone::{Alone, Ipamd};
use crate::support::{signal, wait_until};

/// Starts the program with these variables and arguments, and with what is needed to call EC2 from a file of variables.
fn start(alone: &Alone, vars: &[(&str, &str)], arguments: &[&str], further: &str) -> Ipamd {
    write_env(alone, further);
    let mut command = Command::new(program("vpc-ipamd"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(vars.iter().copied());
    command.arg("--env-file").arg(env_file(alone)).args(arguments);
    Ipamd::spawn(&alone.netns, command, alone.folder.path())
}

fn env_file(alone: &Alone) -> std::path::PathBuf {
    alone.folder.path().join("env")
}

fn write_env(alone: &Alone, further: &str) {
    let text = format!(
        "# The SDK reads these from the process.\nAWS_ACCESS_KEY_ID=test\nAWS_SECRET_ACCESS_KEY='geheim'\n\
         AWS_ENDPOINT_URL_EC2={}\nAWS_EC2_METADATA_SERVICE_ENDPOINT=\"{}\"\n{further}\n",
        alone.fronts.ec2, alone.fronts.imds
    );
    fs::write(env_file(alone), text).unwrap();
}

fn addresses(ipamd: &Ipamd) -> u32 {
    ipamd.status().unwrap().enis.iter().map(|eni| eni.addresses).sum()
}

#[test]
fn variables_of_a_file_count_after_those_of_the_process_and_bad_ones_are_named() {
    let alone = Alone::new();
    let further =
        "WARM_IP_TARGET=3\nMAX_ENI=1\nENABLE_IPV6=true\nANNOTATE_POD_IP=true\nbroken line\n";
    let ipamd = start(&alone, &[("WARM_IP_TARGET", "2")], &[], further);
    ipamd.wait_until_ready();
    wait_until("two addresses", || match addresses(&ipamd) {
        2 => Ok(()),
        other => Err(format!("{other}\n{}", ipamd.said())),
    });
    let said = ipamd.said();
    for expected in [
        "line 10, broken line: is no NAME=VALUE",
        "ENABLE_IPV6 is no variable of ours: did you mean ENABLE_IPv6?",
        "without effect here: ANNOTATE_POD_IP",
    ] {
        assert_eq!(said.matches(expected).count(), 1, "{expected}: {said}");
    }
    assert!(!said.contains("geheim"), "{said}");
    // It is the process that was started, under its name.
    let comm = fs::read_to_string(format!("/proc/{}/comm", ipamd.id())).unwrap();
    assert_eq!(comm.trim(), "vpc-ipamd");
    ipamd.terminate();
}

#[test]
fn hangup_has_the_settings_read_again_and_says_what_changed() {
    let alone = Alone::new();
    let overrides = alone.folder.path().join("overrides.json");
    fs::write(&overrides, "[]").unwrap();
    let arguments = ["--overrides", overrides.to_str().unwrap()];
    let ipamd = start(&alone, &[], &arguments, "WARM_IP_TARGET=2");
    ipamd.wait_until_ready();
    let warm = |expected: u32| {
        wait_until("the target", || match addresses(&ipamd) {
            now if now == expected => Ok(()),
            now => Err(format!("{now}\n{}", ipamd.said())),
        });
    };
    warm(2);

    write_env(&alone, "WARM_IP_TARGET=5\nAWS_VPC_ENI_MTU=1500\nAWS_REGION=eu-south-1");
    signal(ipamd.id(), Signal::HUP);
    let said = ipamd.wait_until_it_says("WARM_IP_TARGET: 2 -> 5");
    assert!(said.contains("AWS_REGION, AWS_VPC_ENI_MTU: 9001 (unset) -> 1500"), "{said}");
    assert!(said.contains("takes effect when vpc-ipamd is restarted"), "{said}");
    warm(5);

    // A file that cannot be used leaves what is in force.
    fs::write(&overrides, "[{").unwrap();
    write_env(&alone, "WARM_IP_TARGET=1");
    signal(ipamd.id(), Signal::HUP);
    let said = ipamd.wait_until_it_says("those in force stay");
    assert!(said.contains("overrides.json"), "{said}");
    assert_eq!(addresses(&ipamd), 5);

    let set = r#"[{"when": {"families": ["m5"]}, "set": {"target": {"Ips": {"warm": 7, "minimum": 0}}}}]"#;
    fs::write(&overrides, set).unwrap();
    signal(ipamd.id(), Signal::HUP);
    ipamd.wait_until_it_says("--overrides: 0 entries -> 1 entry");
    warm(7);
    ipamd.terminate();
}

#[test]
fn variable_that_is_not_utf_8_is_named_and_passed_over() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let alone = Alone::new();
    write_env(&alone, "");
    let mut command = Command::new(program("vpc-ipamd"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("WARM_IP_TARGET", OsStr::from_bytes(b"5\xff"));
    command.arg("--env-file").arg(env_file(&alone));
    let ipamd = Ipamd::spawn(&alone.netns, command, alone.folder.path());
    ipamd.wait_until_it_says("WARM_IP_TARGET: its value is not UTF-8");
    ipamd.wait_until_ready();
    ipamd.terminate();
}

/// Receives what the daemon tells the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn wait_for(&self, what: &str, ipamd: &Ipamd) -> String {
        let mut heard = Vec::new();
        wait_until(what, || {
            let mut datagram = [0; 4096];
            while let Ok(length) = self.0.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                if text.lines().any(|line| line.starts_with(what)) {
                    return Ok(text);
                }
                heard.push(text);
            }
            Err(format!("{heard:?}\n{}", ipamd.said()))
        })
    }
}

#[test]
fn service_manager_hears_how_the_daemon_stands_and_the_file_is_there_while_it_is_ready() {
    let alone = Alone::new();
    let (notify, ready) = (alone.folder.path().join("notify"), alone.folder.path().join("ready"));
    let manager = Manager::at(&notify);
    let vars = [("NOTIFY_SOCKET", notify.to_str().unwrap()), ("WATCHDOG_USEC", "1000000")];
    let ipamd = start(&alone, &vars, &["--ready-file", ready.to_str().unwrap()], "");
    manager.wait_for("READY=1", &ipamd);
    manager.wait_for("STATUS=ready: ", &ipamd);
    wait_until("the file", || if ready.exists() { Ok(()) } else { Err(ipamd.said()) });
    for _ in 0..2 {
        manager.wait_for("WATCHDOG=1", &ipamd);
    }
    signal(ipamd.id(), Signal::HUP);
    let told = manager.wait_for("RELOADING=1", &ipamd);
    assert!(told.contains("MONOTONIC_USEC="), "{told}");
    manager.wait_for("READY=1", &ipamd);
    ipamd.terminate();
    assert!(!ready.exists());
}
