//! What tests share that run the programs of this workspace together: where the programs are, since cargo tells a program's file to the
//! tests of its own package alone; EC2 at a socket; a node of amazon-vpc-cni-k8s; and traffic that is counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "programs take time, and are found by variables")]

pub mod ec2;
pub mod flows;
pub mod old_node;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Pid, Signal};

/// What builds all programs.
const BUILD: &str = "cargo build --workspace --all-features --locked --bins --examples; without the AWS SDK, --no-default-features in place of \
                     --all-features";

/// Returns the file of a program of this workspace, which cargo puts into the folder above that of the tests.
///
/// # Panics
/// Panics if the program is not there, or was built before a change that the test was built after. `cargo build` writes beside a
/// program which files it is made of; what changed since the test was built is in neither.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.ancestors().nth(2).expect("tests are in a folder of the programs' folder");
    let program = folder.join(name);
    let (Some(built), Some(test_built)) = (modified(&program), modified(&test)) else {
        panic!("{} is not there: build it first ({BUILD})", program.display());
    };
    let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let changed = |source: &&str| {
        modified(Path::new(source)).is_some_and(|at| at > built && at <= test_built)
    };
    if let Some(source) = sources.split_whitespace().skip(1).find(changed) {
        panic!("{} is older than {source}: build it first ({BUILD})", program.display());
    }
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the folder of this workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the package is two folders below").to_path_buf()
}

/// Sends a signal to a process that a test started.
///
/// # Panics
/// Panics if there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
