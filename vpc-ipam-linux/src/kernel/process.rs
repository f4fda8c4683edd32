//! The programs that this crate runs: nft, and those of iptables.

use core::time::Duration;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

/// How long a program may run. Listing tens of thousands of rules takes seconds; what takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How long iptables waits for its lock, which every other program that uses iptables takes too.
pub(crate) const WAIT_FOR_LOCK: &str = "--wait=20";

/// The longest output that is read, in bytes: many times what a node with 10,000 services has.
const OUTPUT_MAX: usize = 256 << 20;

/// Runs a program in the calling thread's namespace, and returns what it prints, in English.
///
/// One that does not end within [`LIMIT`] is killed, and so are its children; the error is of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut). If the lock of iptables is held, or the kernel has no time or memory at present, it is
/// [`ResourceBusy`](io::ErrorKind::ResourceBusy). Both pass; any other failure is what the program says, of the kind
/// [`Other`](io::ErrorKind::Other), unless it could not even be started.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    run_within(LIMIT, program, arguments, input)
}

fn run_within(
    limit: Duration,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(vars())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let conversed = converse(&mut child, input.as_bytes(), limit);
    if conversed.is_err() {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // One that ended meanwhile has no group any more.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let status = child.wait()?;
    let Output { stdout, stderr, written } = conversed.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            let seconds = limit.as_secs_f32();
            let what = format!("{} was ended: it ran for {seconds} s", program.display());
            io::Error::new(error.kind(), what)
        }
        _ => error,
    })?;
    if !status.success() {
        return Err(failure(program, status, &stderr));
    }
    written.map(|()| String::from_utf8_lossy(&stdout).into_owned())
}

/// The variables that are handed on: by which programs and their libraries are found, and where iptables has its lock. Keys of
/// AWS and whatever else is in our environment are nothing to them.
const VARS: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "XTABLES_LIBDIR", "XTABLES_LOCKFILE"];

#[allow(clippy::disallowed_methods, reason = "they are handed on, nothing is decided by them")]
fn vars() -> impl Iterator<Item = (&'static str, OsString)> {
    let ours = VARS.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    ours.chain([("LC_ALL", OsString::from("C"))])
}

fn failure(program: &Path, status: ExitStatus, stderr: &[u8]) -> io::Error {
    /// What iptables says of its lock, and what the C library calls EBUSY, EAGAIN, EINTR, ENOMEM and ENOBUFS. The status of neither
    /// program tells.
    const PASSING: [&str; 6] = [
        "holding the xtables lock",
        "Device or resource busy",
        "Resource temporarily unavailable",
        "Interrupted system call",
        "Cannot allocate memory",
        "No buffer space available",
    ];
    let says = String::from_utf8_lossy(stderr);
    let passes = PASSING.iter().any(|words| says.contains(words));
    let kind = if passes { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    let ended = match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => status.to_string(),
    };
    io::Error::new(kind, format!("{}: {ended}: {}", program.display(), says.trim()))
}

struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whether it took all of its input. One that dies early says why by its status.
    written: io::Result<()>,
}

/// Hands a program its input and takes its output, neither of which waits for the other, until it ends.
fn converse(child: &mut Child, mut input: &[u8], limit: Duration) -> io::Result<Output> {
    let deadline = Deadline::after(limit);
    let mut output = Output { stdout: Vec::new(), stderr: Vec::new(), written: Ok(()) };
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    for pipe in [fd(&stdin), fd(&stdout), fd(&stderr)].into_iter().flatten() {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    while stdin.is_some() || stdout.is_some() || stderr.is_some() {
        let read = [fd(&stdout), fd(&stderr)].into_iter().flatten().map(|fd| (fd, PollFlags::IN));
        let write = fd(&stdin).map(|fd| (fd, PollFlags::OUT));
        deadline.wait_for(read.chain(write))?;
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(count) => input = &input[count..],
                Err(error) if would_block(&error) => {}
                Err(error) => {
                    output.written = Err(error);
                    input = &[];
                }
            }
            if input.is_empty() {
                stdin = None;
            }
        }
        take(&mut stdout, &mut output.stdout)?;
        take(&mut stderr, &mut output.stderr)?;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Before Linux 5.3 there is nothing to wait by; but who has closed all is about to end.
    if let Some(Ok(ended)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        deadline.wait_for([(ended.as_fd(), PollFlags::IN)])?;
    }
    Ok(output)
}

fn fd(pipe: &Option<impl AsFd>) -> Option<BorrowedFd<'_>> {
    pipe.as_ref().map(AsFd::as_fd)
}

/// Reads what there is, and closes the pipe at its end.
fn take(pipe: &mut Option<impl io::Read>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let mut part = [0; 16 << 10];
    loop {
        match open.by_ref().read(&mut part) {
            Ok(0) => {
                *pipe = None;
                return Ok(());
            }
            Ok(count) if into.len() + count <= OUTPUT_MAX => into.extend(&part[..count]),
            Ok(_) => return Err(io::Error::other("its output has no end")),
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

struct Deadline(Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "only the time that passes shows that a program hangs"
)]
impl Deadline {
    fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Waits until one of some files is as it should be.
    fn wait_for<'a>(
        &self,
        files: impl IntoIterator<Item = (BorrowedFd<'a>, PollFlags)>,
    ) -> io::Result<()> {
        let files = files.into_iter();
        let mut files: Vec<_> =
            files.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
        loop {
            let left = self.0.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut files, Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_gets_its_input_and_is_heard_however_much_there_is() {
        let input = "0123456789abcdef".repeat(20_000);
        let script = ["-c", "tee /dev/fd/2 2>/dev/null"];
        assert_eq!(run(Path::new("sh"), &script, &input).unwrap(), input);
        assert_eq!(run(Path::new("true"), &[], &input).map_err(|error| error.kind()), {
            // It may end before it is written to.
            Err(io::ErrorKind::BrokenPipe)
        });
    }

    #[test]
    fn program_that_hangs_is_ended_with_its_children() {
        let limit = Duration::from_millis(200);
        for script in ["sleep 1000", "sleep 1000 & echo begun; wait", "exec 1>&- 2>&-; sleep 1000"]
        {
            let error = run_within(limit, Path::new("sh"), &["-c", script], "").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}: {error}");
            assert_eq!(error.to_string(), "sh was ended: it ran for 0.2 s", "{script}");
        }
    }

    #[test]
    fn children_of_a_program_that_hangs_are_ended_too() {
        let file = std::env::temp_dir().join(format!("vit-{}-child", std::process::id()));
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let limit = Duration::from_secs(1);
        let error = run_within(limit, Path::new("sh"), &["-c", &script], "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        let child = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        // Nothing is left of it, or its parent has not waited for it yet: its arguments go first.
        let arguments = || std::fs::read(format!("/proc/{}/cmdline", child.trim()));
        let gone = || arguments().unwrap_or_default().is_empty();
        assert!((0..1_000_000).any(|_| gone()), "{:?}", arguments());
    }

    #[test]
    fn failures_are_told_apart() {
        let cases = [
            (
                "echo 'Another app is currently holding the xtables lock.' >&2; exit 4",
                io::ErrorKind::ResourceBusy,
                "sh: exit status: 4: Another app is currently holding the xtables lock.",
            ),
            ("echo why >&2; exit 1", io::ErrorKind::Other, "sh: exit status: 1: why"),
            (
                "echo 'Error: Device or resource busy' >&2; exit 1",
                io::ErrorKind::ResourceBusy,
                "sh: exit status: 1: Error: Device or resource busy",
            ),
            ("kill -9 $$", io::ErrorKind::Other, "sh: killed by signal 9: "),
        ];
        for (script, kind, says) in cases {
            let error = run(Path::new("sh"), &["-c", script], "").unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, says), "{script}");
        }
        let missing = run(Path::new("/nonexistent/nft"), &[], "").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

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
