//! The program nft.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs nft in the calling thread's namespace, and returns what it prints.
pub(crate) fn run(nft: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(nft)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take();
    // nft reads all of its input before it writes, so neither waits for the other. One that dies early says why below.
    let written = stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("nft: {}: {}", output.status, says.trim())));
    }
    written.map(|()| String::from_utf8_lossy(&output.stdout).into_owned())
}
