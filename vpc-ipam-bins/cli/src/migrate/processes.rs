//! The processes of a plugin that are at work on this node.

use core::time::Duration;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use super::Paths;

/// How long a plugin may take: runtimes give a pod's network some minutes at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Why it is not known, or not so, that no process of a plugin runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ProcessesError {
    /// The processes cannot be listed.
    #[error("list the processes of this node in {path}")]
    List {
        /// Where.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Some still run.
    #[error(
        "{program} still runs after {} s (processes {}): see what it waits for, end it, and run this again",
        waited.as_secs(),
        pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    )]
    Run {
        /// The plugin.
        program: &'static str,
        /// Its processes.
        pids: Vec<u32>,
        /// How long they were waited for.
        waited: Duration,
    },
}

/// Returns where the kernel shows processes: those of the host, where its root is mounted with its /proc.
pub(crate) fn proc_of(paths: &Paths) -> PathBuf {
    let of_root = paths.at(Path::new("/proc"));
    if of_root.join("1").exists() { of_root } else { PathBuf::from("/proc") }
}

/// Returns the processes of a program of this node: of its file in a folder, or in the network namespace of this process, in which a node's
/// runtime calls its plugins. While it works on a pod, a plugin is in the pod's.
pub(crate) fn of(proc: &Path, folder: &Path, program: &str) -> Result<Vec<u32>, ProcessesError> {
    let failed = |source| ProcessesError::List { path: proc.display().to_string(), source };
    let place = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let own = fs::metadata("/proc/self/ns/net").map_err(failed)?;
    let (own, file) = (Some((own.dev(), own.ino())), place(&folder.join(program)));
    let mut pids = Vec::new();
    for entry in fs::read_dir(proc).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile is one that does not run.
        let is_it = is_of(&entry.path(), program).unwrap_or(false);
        let is_here = place(&entry.path().join("ns/net")) == own;
        if is_it && (is_here || file.is_some() && place(&entry.path().join("exe")) == file) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The kernel cuts the name of a process to 15 bytes; what it was started as tells the rest.
fn is_of(process: &Path, program: &str) -> io::Result<bool> {
    const CUT: usize = 15;
    let name = fs::read_to_string(process.join("comm"))?;
    let cut = &program[..program.len().min(CUT)];
    if name.trim_end() != cut {
        return Ok(false);
    }
    // One that is gone and not waited for has no arguments.
    let arguments = fs::read(process.join("cmdline"))?;
    Ok(!arguments.is_empty())
}

/// Waits until no process of a program runs.
pub(crate) fn wait_for_none(
    proc: &Path,
    folder: &Path,
    program: &'static str,
    patience: Duration,
) -> Result<(), ProcessesError> {
    let begun = Instant::now();
    loop {
        let pids = of(proc, folder, program)?;
        if pids.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= patience {
            return Err(ProcessesError::Run { program, pids, waited: patience });
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn process_of_a_plugin_is_waited_for_until_it_ends() {
        let proc = Path::new("/proc");
        let folder = tempfile::tempdir().unwrap();
        // The name of a process is that of its file.
        let program = folder.path().join("aws-cni");
        // By a process of its own: one that another test starts meanwhile would have the file open for writing.
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        let mut command = Command::new(&program);
        // Where this test fails, nothing waits for the end of what the child prints.
        command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let elsewhere = Path::new("/nonexistent");
        let runs = |program: &str| of(proc, elsewhere, program).unwrap().contains(&child.id());
        // It is started before it has its name and arguments.
        while !runs("aws-cni") {
            thread::yield_now();
        }
        assert!(!runs("aws-cn") && !runs("vpc-cni"));

        let error =
            wait_for_none(proc, elsewhere, "aws-cni", Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(&child.id().to_string()), "{error}");
        child.kill().unwrap();
        // It is a zombie by now.
        while of(proc, elsewhere, "aws-cni").unwrap().contains(&child.id()) {
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(of(elsewhere, elsewhere, "aws-cni").is_err());
    }
}
