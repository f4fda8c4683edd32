//! The programs by which the kernel is changed.

use core::net::IpAddr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Where a command of iproute2 is carried out.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In the namespace of the caller.
    Here,
    /// In the namespace that this file stands for.
    Netns(&'a Path),
}

impl Place<'_> {
    fn command(self, program: &str) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Netns(path) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", path.display())).arg(program);
                command
            }
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Returns the option of iproute2 for it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Ipv4 => "-4",
            Self::Ipv6 => "-6",
        }
    }

    /// Returns the length of the prefix of one address.
    pub(crate) fn host(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// Carries out commands of iproute2 one after the other. What is there already of rules to be added, and what is gone already of what
/// is to be deleted, is no failure.
pub(crate) fn ip(place: Place<'_>, family: Family, lines: &[String]) -> Result<(), String> {
    let mut command = place.command("ip");
    command.args([family.option(), "-force", "-batch", "-"]);
    let output = feed(&mut command, &(lines.join("\n") + "\n"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let mut why = "";
    for line in said.lines() {
        let number = line.strip_prefix("Command failed -:").and_then(|rest| rest.parse().ok());
        let Some(number): Option<usize> = number else {
            why = line;
            continue;
        };
        let failed = number.checked_sub(1).and_then(|at| lines.get(at)).map_or("", |line| line);
        let tolerated = match why {
            why if why.ends_with("File exists") => failed.contains("rule add"),
            // A table that was never made has no rule and no route.
            _ => failed.contains(" del "),
        };
        if !tolerated {
            return Err(format!("ip {failed}: {why}"));
        }
    }
    Ok(())
}

/// Returns what iproute2 prints as JSON.
pub(crate) fn ip_json(place: Place<'_>, words: &str) -> Result<Vec<Value>, String> {
    let mut command = place.command("ip");
    let output = command.arg("-j").args(words.split(' ')).output();
    let output = output.map_err(|error| format!("ip {words}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).map_err(|error| format!("ip {words}: {error}"))
}

/// Runs a program, feeds it, and returns what it printed if it succeeds.
pub(crate) fn fed(program: &str, words: &[&str], text: &str) -> Result<String, String> {
    let output = feed(Command::new(program).args(words), text)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {}: {said}", words.join(" ")))
    }
}

/// Runs a program, and returns what it printed if it succeeds.
pub(crate) fn run(program: &str, words: &[&str]) -> Result<String, String> {
    fed(program, words, "")
}

/// Sets a kernel variable that may not exist.
pub(crate) fn sysctl(place: Place<'_>, key: &str, value: &str) -> Result<(), String> {
    let mut command = place.command("sysctl");
    let output = command.args(["-q", "-e", "-w", &format!("{key}={value}")]).output();
    output.map(drop).map_err(|error| format!("sysctl {key}: {error}"))
}

fn feed(command: &mut Command, text: &str) -> Result<Output, String> {
    let mut exchange = || -> std::io::Result<Output> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    };
    exchange().map_err(|error| format!("run {command:?}: {error}"))
}
