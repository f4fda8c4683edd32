//! Why a daemon does not start, or ends.

use vpc_ipam_aws::Ec2Error;
use vpc_ipam_core::{UnknownInstanceTypeError, UnusableConfigError};
use vpc_ipam_linux::host::HostError;
use vpc_ipam_linux::{ApplyError, NetlinkError, WatchError};
use vpc_ipam_protocol::UnknownNetworkPolicyModeError;

use super::fronts::socket::claim::ClaimError;
use super::store::OpenError;

/// Why a daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The instance's metadata could not be read.
    #[error(
        "read the instance's metadata (in a container: run it in the host's network and leave the hop limit of IMDSv2 at 1, \
         since with a larger one pods get the role of the node; --imds-endpoint names another service)"
    )]
    Metadata(#[source] Ec2Error),
    /// The metadata are of another node than those that the state file keeps of this boot.
    #[error(
        "the metadata name {now}, and named {before} earlier in this boot; the next start goes by them (does the endpoint \
         belong to another instance?)"
    )]
    OtherNode {
        /// The node of before.
        before: String,
        /// The node that the metadata name.
        now: String,
    },
    /// The limits of the instance type are not known.
    #[error("ask EC2 for the limits of instance type {instance_type}")]
    Limits {
        /// The type.
        instance_type: String,
        /// Why EC2 did not tell.
        source: Ec2Error,
    },
    /// No trusted source knows the limits of the instance type.
    #[error(transparent)]
    UnknownType(#[from] UnknownInstanceTypeError),
    /// The configuration does not go together with the instance type.
    #[error("start with this configuration")]
    Config(#[from] UnusableConfigError),
    /// The node's network could not be set up.
    #[error("set up the node's network")]
    Host(#[source] HostThreadError),
    /// The node's network could not be read.
    #[error("read which pods the node has")]
    Netlink(#[from] NetlinkError),
    /// The kernel sends no events of changes.
    #[error("watch the node's network")]
    Watch(#[from] WatchError),
    /// The state file could not be opened.
    #[error("open the state file")]
    State(#[from] OpenError),
    /// The socket is another daemon's, or cannot be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The socket could not be made.
    #[error("listen at {path}")]
    Listen {
        /// The socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The thread that serves metrics and introspection could not be started.
    #[error("start to serve metrics and introspection")]
    Http(#[source] std::io::Error),
    /// The mode of enforcing network policies is none.
    #[error(transparent)]
    NetworkPolicy(#[from] UnknownNetworkPolicyModeError),
    /// gRPC is asked for, and this program cannot speak it.
    #[error(
        "{setting} is set, and this vpc-ipamd was built without gRPC: build it with --features grpc, or unset the variable"
    )]
    WithoutGrpc {
        /// The variable that asks for it.
        setting: &'static str,
    },
    /// A thread of the daemon ended, which it never should.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Why the node's network could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostThreadError {
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The node could not be set up.
    #[error(transparent)]
    SetUp(#[from] HostError),
    /// The node's addresses cannot be translated.
    #[error("set up address translation")]
    Translation(#[source] ApplyError),
    /// It cannot be told what amazon-vpc-cni-k8s left, which would go on translating. Nothing was changed.
    #[error(
        "take the node over from amazon-vpc-cni-k8s: {0} (install what is missing, or start with --no-adopt, which leaves what there \
         is)"
    )]
    TakeOver(String),
    /// The thread could not be started, or ended.
    #[error("the host thread is not there")]
    Thread,
}
