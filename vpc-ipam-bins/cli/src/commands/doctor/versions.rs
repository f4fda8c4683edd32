//! Whether plugin, daemon and command line are of one version.

use core::time::Duration;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use vpc_ipam_protocol::{PROTOCOL, trusted_file};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "versions",
    about: "the versions of plugin, daemon and this program, and of what they say to each other",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

const OWN: &str = env!("CARGO_PKG_VERSION");
const PLUGIN: &str = "/opt/cni/bin/vpc-cni";
/// How long the plugin may take to print its version: it does nothing else.
const PATIENCE: Duration = Duration::from_secs(5);
const REMEDY: &str = "upgrade all three together, the daemon first: make install-node DIR=/";

fn run(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match facts.status() {
        Ok(status) if status.protocol != PROTOCOL => findings.push(Finding::failure(
            format!(
                "vpc-ipamd {} speaks version {} of the protocol, this program {PROTOCOL}",
                status.version, status.protocol
            ),
            REMEDY,
        )),
        Ok(status) if status.version != OWN => findings.push(Finding::warning(
            format!("vpc-ipamd is of version {}, this program of {OWN}", status.version),
            REMEDY,
        )),
        Ok(_) => findings.push(Finding::ok(format!("vpc-ipamd and vpc-ipam are of version {OWN}"))),
        Err(error) => findings.push(Finding::not_checked(&error.why)),
    }
    if !facts.files.exists(PLUGIN) {
        findings.push(Finding::not_checked(format!("there is no {PLUGIN}")));
        return findings;
    }
    findings.push(match plugins(facts) {
        Ok(version) if version == OWN => Finding::ok(format!("{PLUGIN} is of version {OWN}")),
        Ok(version) => Finding::warning(
            format!("{PLUGIN} is of version {version}, this program of {OWN}"),
            REMEDY,
        ),
        Err(why) => Finding::failure(format!("{PLUGIN} tells no version: {why}"), REMEDY),
    });
    findings
}

/// Has the plugin print its version.
fn plugins(facts: &Facts) -> Result<String, String> {
    let path = facts.files.at(PLUGIN);
    let found = path.metadata().map_err(|error| error.to_string())?;
    // It would run with the rights of who runs this.
    if !trusted_file::is_trusted(found.uid()) {
        return Err(format!("it belongs to user {}, and is not run", found.uid()));
    }
    let child = Command::new(&path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > deadline {
            // It ends with or without that.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("vpc-cni ").filter(|_| output.status.success());
    version
        .map(str::to_owned)
        .ok_or_else(|| "it is of an earlier version, or none of ours".to_owned())
}
