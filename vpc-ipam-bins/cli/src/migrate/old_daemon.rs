//! Whether amazon-vpc-cni-k8s serves on this node.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;

use super::Paths;

/// Where versions from 1.23 on listen.
const SOCKET: &str = "/var/run/aws-node/ipamd.sock";
/// Where versions before that do.
const PORT: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns where it serves, if it does.
///
/// vpc-ipamd may have a gRPC server at the same places. The name of its process tells; of the port that is not known, and it counts
/// as ours while vpc-ipamd answers.
pub(crate) fn serves(paths: &Paths) -> Option<String> {
    let socket = paths.at(Path::new(SOCKET));
    if let Ok(stream) = UnixStream::connect(&socket) {
        let pid = socket_peercred(&stream).ok().map(|it| it.pid.as_raw_nonzero().get());
        let name = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        if name.is_none_or(|name| name.trim_end() != "vpc-ipamd") {
            return Some(format!("socket {SOCKET}"));
        }
    }
    let ours = vpc_ipam_protocol::listener(&paths.socket).is_ok();
    if !ours && TcpStream::connect_timeout(&PORT, PATIENCE).is_ok() {
        return Some(format!("port {PORT}"));
    }
    None
}
