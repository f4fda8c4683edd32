//! Namespaces of a benchmark's own.

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Tells the process that it is inside already.
const INSIDE: &str = "VPC_IPAM_BENCH_ISOLATED";

/// Why a benchmark could not be given namespaces of its own.
#[derive(Debug, thiserror::Error)]
#[error("run the benchmark again in namespaces of its own with unshare (util-linux)")]
pub struct IsolateError(#[source] io::Error);

/// Goes on in a network and a mount namespace of the process's own, where `/run` is a memory file system and empty: by
/// starting this program again, within a user namespace where the caller is not root. All that a benchmark makes ends
/// with it, however it ends, and nothing of it reaches the machine's network.
pub fn isolate() -> Result<(), IsolateError> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    command.args(["--net", "--mount", "sh", "-c", script]);
    let program = env::current_exe().map_err(IsolateError)?;
    // Without root, what configures networks is often not in PATH.
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    command.arg(program).args(env::args_os().skip(1)).env(INSIDE, "1").env("PATH", path);
    Err(IsolateError(command.exec()))
}
