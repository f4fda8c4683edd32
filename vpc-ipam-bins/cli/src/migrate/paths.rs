//! Where everything is that a migration reads and writes.

use std::path::{Path, PathBuf};

use clap::Args;
use vpc_ipam_protocol::SOCKET;

use crate::node_files::{Last, resolve};

/// Where everything is that a migration reads and writes.
///
/// All but the daemon's socket and state file, which the daemon names itself, are looked up below [`root`](Self::root) by [`at`](Self::at).
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Paths {
    /// Look for files of the node below another folder, as where the host's root is mounted in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The container runtime's folder of network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf: PathBuf,
    /// The container runtime's folder of plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin: PathBuf,
    /// The checkpoint of amazon-vpc-cni-k8s; those of further network cards, NAME-nic-N.json, are beside it
    #[arg(long, value_name = "FILE", default_value = "/var/run/aws-node/ipam.json")]
    pub checkpoint: PathBuf,
    /// Where vpc-ipamd listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// The state file of vpc-ipamd
    #[arg(long, value_name = "FILE", default_value = "/run/vpc-ipam/state.redb")]
    pub state: PathBuf,
    /// The variables of vpc-ipamd, NAME=VALUE a line
    #[arg(long, value_name = "FILE", default_value = "/etc/vpc-ipam/vpc-ipamd.env")]
    pub env_file: PathBuf,
    /// Where the migration keeps its journal and its backup
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vpc-ipam/migration")]
    pub folder: PathBuf,
}

impl Paths {
    /// Returns where a file of the node is as seen from here.
    ///
    /// Symbolic links among its folders are followed as the node sees them: `/var/run` is a link to `/run` on most systems, and below
    /// another root that is not the `/run` of this program. The last part of the path is not followed, so that a link is not taken for a file.
    pub fn at(&self, path: &Path) -> PathBuf {
        resolve(&self.root, path, Last::Kept)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::symlink;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        paths: Paths,
    }

    fn below(root: &Path) -> Paths {
        let arguments = ["program", "--root"].map(OsString::from);
        let root = root.as_os_str().to_owned();
        Program::parse_from(arguments.into_iter().chain([root])).paths
    }

    #[test]
    fn files_of_the_node_are_below_its_root_wherever_its_own_links_lead() {
        let node = tempfile::tempdir().unwrap();
        let root = node.path();
        fs::create_dir_all(root.join("run/aws-node")).unwrap();
        fs::create_dir_all(root.join("var/lib")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        // As Debian has it, and as Amazon Linux does; one that leads out of the root, and one to itself.
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../run", root.join("var/run2")).unwrap();
        symlink("../../../../run", root.join("var/run3")).unwrap();
        symlink("loop", root.join("var/loop")).unwrap();
        symlink("/run/aws-node", root.join("etc/last")).unwrap();
        let paths = below(root);
        let cases = [
            ("/var/run/aws-node/ipam.json", "run/aws-node/ipam.json"),
            ("/var/run2/aws-node/ipam.json", "run/aws-node/ipam.json"),
            ("/var/run3/aws-node/ipam.json", "run/aws-node/ipam.json"),
            ("/var/lib/../run/./x", "run/x"),
            ("/../../etc/x", "etc/x"),
            ("relative/x", "relative/x"),
            ("/missing/folder/x", "missing/folder/x"),
            ("/etc/last", "etc/last"),
            ("/etc/last/x", "run/aws-node/x"),
            ("/var/loop/x", "var/loop/x"),
            ("/", ""),
        ];
        for (path, expected) in cases {
            assert_eq!(paths.at(Path::new(path)), root.join(expected), "{path}");
        }
    }

    #[test]
    fn below_the_root_of_this_program_paths_are_what_they_are() {
        let paths = below(Path::new("/"));
        for path in ["/etc/cni/net.d", "/opt/cni/bin/aws-cni"] {
            let actual = paths.at(Path::new(path));
            assert_eq!(actual.canonicalize().ok(), Path::new(path).canonicalize().ok(), "{path}");
        }
        assert_eq!(paths.checkpoint, Path::new("/var/run/aws-node/ipam.json"));
    }
}
