//! The programs that this crate runs: nft, and those of iptables.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// The variables that are handed on: by which programs and their libraries are found, and where iptables has its lock. Keys of
/// AWS and whatever else is in our environment are nothing to them.
const VARS: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "XTABLES_LIBDIR", "XTABLES_LOCKFILE"];

/// Runs a program in the calling thread's namespace, and returns what it prints, in English.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(vars())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take();
    // Each reads all of its input before it writes, so neither waits for the other. One that dies early says why below.
    let written = stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!(
            "{}: {}: {}",
            program.display(),
            output.status,
            says.trim()
        )));
    }
    written.map(|()| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[allow(clippy::disallowed_methods, reason = "they are handed on, nothing is decided by them")]
fn vars() -> impl Iterator<Item = (&'static str, OsString)> {
    let ours = VARS.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    ours.chain([("LC_ALL", OsString::from("C"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "to see that there is more than is handed on")]
    fn programs_get_no_more_of_the_environment_than_they_need() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo sets it for tests");

        let printed = run(Path::new("env"), &[], "").unwrap();

        let names: Vec<&str> =
            printed.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"PATH") && names.contains(&"LC_ALL"), "{names:?}");
        let more: Vec<_> =
            names.iter().filter(|name| **name != "LC_ALL" && !VARS.contains(name)).collect();
        assert!(more.is_empty(), "{more:?}");
    }
}
