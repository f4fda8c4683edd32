//! A user who is not root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use vpc_ipam_tests::program;

use crate::support::wait_until;

/// A user who is not root, with folders of their own.
///
/// For root of the machine that is another user. For root of a user namespace, which is all that an ordinary user can be, there
/// is no other: it is the same user by another number, in one more user namespace.
pub(crate) struct User {
    folder: TempDir,
    /// The process that keeps the user namespace, if it takes one.
    namespace: Option<Child>,
}

impl User {
    pub(crate) const UID: u32 = 65534;

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["vpc-ipam", "vpc-cni"] {
            fs::copy(program(name), folder.path().join(name)).unwrap();
        }
        let mut user = Self { folder, namespace: None };
        fs::create_dir(user.runtime()).unwrap();
        if is_root_of_the_machine() {
            user.own(&user.runtime());
        } else {
            user.namespace = Some(start_namespace());
        }
        user
    }

    /// Makes something the user's own.
    pub(crate) fn own(&self, path: &Path) {
        chown(path, Some(Self::UID), Some(Self::UID)).unwrap();
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.folder.path().join("runtime")
    }

    /// Returns where the user's labs are written down.
    pub(crate) fn labs(&self) -> PathBuf {
        self.runtime().join("vpc-ipam-lab")
    }

    pub(crate) fn vpc_ipam(&self) -> Command {
        let id = Self::UID.to_string();
        let mut command = match &self.namespace {
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
                command
            }
            Some(process) => {
                let mut command = Command::new("nsenter");
                command.args(["--user", "--preserve-credentials", "--target"]);
                command.args([&process.id().to_string(), "--"]);
                command
            }
        };
        command
            .arg(self.folder.path().join("vpc-ipam"))
            .current_dir("/")
            .env("PATH", "/usr/bin:/bin")
            .env("XDG_RUNTIME_DIR", self.runtime());
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(process) = &mut self.namespace {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Returns whether user ids are the machine's own: user_namespaces(7).
fn is_root_of_the_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Starts a process that is not root in a user namespace of its own.
fn start_namespace() -> Child {
    let id = User::UID.to_string();
    let process = Command::new("unshare")
        .args(["--user", "--map-user", &id, "--map-group", &id, "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let comm = || fs::read_to_string(format!("/proc/{}/comm", process.id())).unwrap();
    wait_until("the user", || if comm() == "sleep\n" { Ok(()) } else { Err(comm()) });
    process
}
