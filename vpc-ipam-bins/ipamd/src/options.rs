//! What a daemon is started with, and what it tells its own process.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;
use std::collections::BTreeMap;
use std::path::PathBuf;

use vpc_ipam_core::{
    ActionId, Budget, Config, Event, Issued, KnownLimits, Outcome, Override, Timestamp,
};
use vpc_ipam_linux::{HostConfig, Namespace};

use crate::grpc_address::GrpcAddress;
use crate::journal::JournalOptions;
use crate::network_policy::NetworkPolicy;
use crate::service::ServiceOptions;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator wants of addresses.
    pub config: Config,
    /// What holds instead for some nodes.
    pub overrides: Vec<Override>,
    /// The node's labels, by which overrides may name it.
    pub labels: BTreeMap<String, String>,
    /// What is known of instance types besides the built-in table, and whom to believe first.
    pub limits: KnownLimits,
    /// What the operator wants of the node's network.
    pub host_config: HostConfig,
    /// How often EC2 may be called.
    pub budget: Budget,
    /// The node's network namespace.
    pub netns: Namespace,
    /// Where to listen.
    pub socket: PathBuf,
    /// Where to keep what must survive a restart.
    pub state: PathBuf,
    /// The id of this boot of the kernel.
    pub boot: String,
    /// Whether what amazon-vpc-cni-k8s made on the node is taken over.
    pub adopt: bool,
    /// To whom it tells how it stands, besides those who ask.
    pub service: ServiceOptions,
    /// Where metrics are served, if they are.
    pub metrics: Option<BindAddress>,
    /// Where introspection is served, if it is.
    pub introspection: Option<BindAddress>,
    /// Where inputs are recorded for a replay, if they are.
    pub journal: Option<JournalOptions>,
    /// Where gRPC is served; takes the feature `grpc`.
    pub grpc: Vec<GrpcAddress>,
    /// The network policy agent that hears of pods, if the node has one; takes the feature `grpc`.
    pub network_policy: Option<NetworkPolicy>,
}

/// Where something is served over HTTP.
///
/// ```
/// use vpc_ipamd::BindAddress;
///
/// let all: BindAddress = ":61678".parse()?;
/// assert_eq!(all.to_string(), "[::]:61678");
/// let socket: BindAddress = "unix:/run/vpc-ipam/introspection.sock".parse()?;
/// assert!(matches!(socket, BindAddress::Unix(_)));
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// A port of one address, or of all of both families.
    Tcp(SocketAddr),
    /// A unix socket, for root alone.
    Unix(PathBuf),
}

impl FromStr for BindAddress {
    type Err = &'static str;

    /// Reads `ADDRESS:PORT`, `localhost:PORT`, `:PORT` or `unix:/PATH`. Names are not looked up.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "an IP address and a port (127.0.0.1:61679), or unix: and an absolute path";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(EXPECTED) };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let host: IpAddr = match host {
            "" => Ipv6Addr::UNSPECIFIED.into(),
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            _ => return Err(EXPECTED),
        };
        Ok(Self::Tcp(SocketAddr::new(host, port.parse().map_err(|_| EXPECTED)?)))
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Something that happened, for code in the daemon's own process that watches it.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The node's network was set up, or found set up.
    HostReady {
        /// What had to be changed, in words.
        changed: Vec<String>,
    },
    /// An action was issued.
    Issued(Timestamp, Issued),
    /// An action ended.
    Ended(Timestamp, ActionId, Outcome),
    /// Something happened inside.
    Happened(Timestamp, Event),
}
