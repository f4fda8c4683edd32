//! The programs that this crate runs: nft, and those of iptables.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program in the calling thread's namespace, and returns what it prints.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
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
