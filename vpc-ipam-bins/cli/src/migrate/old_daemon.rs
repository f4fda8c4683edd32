//! Whether amazon-vpc-cni-k8s serves on this node.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use vpc_ipam_core::error_chain;

use super::{Listener, Paths, listeners, processes};

/// Where versions from 1.23 on listen.
const SOCKET: &str = "/var/run/aws-node/ipamd.sock";
/// Where versions before that do, as [`listeners`] names it.
const PORT: &str = "TCP port 50051";
/// Its programs: what prepares the node, what starts the daemon, and the daemon.
pub(crate) const PROGRAMS: [&str; 3] = ["aws-vpc-cni-init", "aws-vpc-cni", "aws-k8s-agent"];
/// Its plugin.
pub(crate) const PLUGIN: &str = "aws-cni";
/// Its plugin by which pods reach the other family through the node.
pub(crate) const EGRESS_PLUGIN: &str = "egress-cni";
const OURS: &str = "vpc-ipamd";

/// Makes sure that it neither serves nor starts: it reads its checkpoint some time before it serves.
pub(crate) fn expect_none(paths: &Paths) -> Result<(), String> {
    if let Some(serves) = serves(paths)? {
        return Err(serves);
    }
    let (proc, bin) = (processes::proc_of(paths), paths.at(&paths.cni_bin));
    for program in PROGRAMS {
        let pids = processes::of(&proc, &bin, program);
        if let Some(pid) = pids.map_err(|error| error_chain(&error))?.first() {
            return Err(format!("{program}, process {pid}"));
        }
    }
    Ok(())
}

/// Returns where it serves, if it does; an error where that cannot be told.
///
/// vpc-ipamd may have a gRPC server at the same places, and any program the port: the names of the processes tell. One that cannot be seen, as from a
/// container without the host's processes, may be it.
pub(crate) fn serves(paths: &Paths) -> Result<Option<String>, String> {
    if let Ok(stream) = UnixStream::connect(paths.at(Path::new(SOCKET))) {
        let pid = socket_peercred(&stream).ok().map(|it| it.pid.as_raw_nonzero().get());
        let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        if name.is_none_or(|name| name.trim_end() != OURS) {
            return Ok(Some(format!("socket {SOCKET}")));
        }
    }
    Ok(listeners(paths)?.iter().any(is_its_port).then(|| PORT.to_owned()))
}

fn is_its_port(listener: &Listener) -> bool {
    let is_its = listener.owner.as_ref().is_none_or(|it| PROGRAMS.contains(&it.program.as_str()));
    listener.socket == PORT && is_its
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::NodeProcess;

    #[test]
    fn port_is_that_of_the_program_that_listens() {
        let owner = |program: &str| Some(NodeProcess { pid: 7, program: program.to_owned() });
        for (socket, owner, expected) in [
            (PORT, owner("aws-k8s-agent"), true),
            (PORT, owner("vpc-ipamd"), false),
            (PORT, owner("buildkitd"), false),
            (PORT, None, true),
            ("TCP port 61678", owner("aws-k8s-agent"), false),
        ] {
            let listener = Listener { socket: socket.to_owned(), owner: owner.clone() };
            assert_eq!(is_its_port(&listener), expected, "{socket} {owner:?}");
        }
    }
}
