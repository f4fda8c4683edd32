use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use std::path::PathBuf;

/// Where the gRPC services of amazon-vpc-cni-k8s are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcAddress {
    /// A socket that only root and the daemon's own user can use: `unix:PATH`.
    Unix(PathBuf),
    /// A port of the loopback address, which every program in the node's network can use.
    Tcp(SocketAddr),
}

/// A text names no place where gRPC is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected unix:/PATH, or a port of the loopback address such as 127.0.0.1:50051")]
pub struct GrpcAddressError(String);

impl FromStr for GrpcAddress {
    type Err = GrpcAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || GrpcAddressError(text.to_string());
        if let Some(path) = text.strip_prefix("unix:") {
            // Of the form that clients write, unix:///PATH, too.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        if address.ip().is_loopback() { Ok(Self::Tcp(address)) } else { Err(wrong()) }
    }
}

impl fmt::Display for GrpcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_and_ports_of_the_loopback_address_are_served() {
        let cases = [
            ("unix:/run/aws-node/ipamd.sock", Some("unix:/run/aws-node/ipamd.sock")),
            ("unix:///run/aws-node/ipamd.sock", Some("unix:/run/aws-node/ipamd.sock")),
            ("127.0.0.1:50051", Some("127.0.0.1:50051")),
            ("[::1]:50051", Some("[::1]:50051")),
            ("unix:", None),
            ("unix:ipamd.sock", None),
            ("/run/aws-node/ipamd.sock", None),
            (":50051", None),
            ("0.0.0.0:50051", None),
            ("10.0.0.1:50051", None),
            ("localhost:50051", None),
        ];
        for (text, expected) in cases {
            let address = text.parse::<GrpcAddress>().ok().map(|address| address.to_string());
            assert_eq!(address.as_deref(), expected, "{text}");
        }
    }
}
