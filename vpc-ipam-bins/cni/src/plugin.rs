//! The CNI plugin: asks the daemon for addresses and sets the pod's network up.

mod add;
mod check;
mod daemon;
mod del;
mod gc;
mod ipam;
mod status;

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vpc_ipam_core::{PodKey, error_chain};
use vpc_ipam_linux::pod::PodSettings;
use vpc_ipam_linux::{
    Family, KernelNetlink, Namespace, NamespaceError, NetlinkError, Table, VethPrefix,
};
use vpc_ipam_protocol::{PodLinks, SOCKET};

use crate::call::IPAM_NAME;
use crate::log::CallLog;
use crate::{Call, CniVersion, Code, Command, Error};

/// Carries out one call of a container runtime: the environment and standard input say which, standard output gets the
/// result or the error, as CNI wants it.
///
/// With `--version` it prints its version instead, for people and `vpc-ipam doctor`.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        let _ = writeln!(io::stdout().lock(), "vpc-cni {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let called_as = std::env::args_os().next().map(PathBuf::from);
    let is_ipam =
        called_as.is_some_and(|path| path.file_name().is_some_and(|name| name == IPAM_NAME));
    let env = |name: &str| std::env::var(name).ok();
    let mut log = CallLog::of(io::stdin().lock());
    let outcome = run(env, &mut log, is_ipam);
    log.write(env, &outcome);
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(json)) => (json.to_string(), ExitCode::SUCCESS),
        Err((version, error)) => (error.to_json(version).to_string(), ExitCode::FAILURE),
    };
    // Without standard output there is no way to report anything.
    let _ = writeln!(io::stdout().lock(), "{text}");
    code
}

fn run(
    env: impl Fn(&str) -> Option<String>,
    stdin: impl Read,
    is_ipam: bool,
) -> Result<Option<serde_json::Value>, (CniVersion, Error)> {
    let mut call = Call::parse(env, stdin)?;
    call.config.addresses_only |= is_ipam;
    let version = call.config.version;
    let result = match call.command {
        Command::Add if call.config.addresses_only => {
            ipam::add(&call).map(|result| Some(result.to_json(version)))
        }
        Command::Check if call.config.addresses_only => ipam::check(&call).map(|()| None),
        Command::Del if call.config.addresses_only => ipam::del(&call).map(|()| None),
        Command::Add => add::add(&call).map(|result| Some(result.to_json(version))),
        Command::Check => check::check(&call).map(|()| None),
        Command::Del => del::del(&call).map(|()| None),
        Command::Status => status::status(&call).map(|()| None),
        Command::Gc => gc::gc(&call).map(|()| None),
        Command::Version => Ok(Some(serde_json::json!({
            "cniVersion": version.as_str(),
            "supportedVersions": CniVersion::ALL.map(CniVersion::as_str),
        }))),
    };
    result.map_err(|error| (version, error))
}

/// The netlink sockets by which a pod is set up.
struct Sockets {
    host: KernelNetlink,
    pod: KernelNetlink,
}

impl Sockets {
    fn open(netns: &Namespace) -> Result<Self, Error> {
        let pod = netns.visit(|| netns.netlink()).map_err(NetlinkError::from).flatten();
        let pod = pod.map_err(|error| kernel("open the pod's network", &error))?;
        Ok(Self { host: open_host()?, pod: pod.visiting() })
    }
}

fn open_host() -> Result<KernelNetlink, Error> {
    KernelNetlink::current().map_err(|error| kernel("open the host's network", &error))
}

fn kernel(what: &str, error: &dyn core::error::Error) -> Error {
    Error { code: Code::Kernel, message: what.to_string(), details: error_chain(error) }
}

/// Opens the container's namespace, which must not be the host's.
fn sandbox(call: &Call) -> Result<(Namespace, PathBuf), Error> {
    let path = call.netns.clone().unwrap_or_default();
    let wrong = |code, error: NamespaceError| {
        Error::new(code, "open the container's network namespace").because(error)
    };
    let netns = Namespace::open(&path).map_err(|error| {
        let code = match &error {
            NamespaceError::Missing { .. } => Code::UnknownContainer,
            NamespaceError::NotANamespace { .. } => Code::InvalidEnvironment,
            _ => Code::Io,
        };
        wrong(code, error)
    })?;
    let own = Namespace::current().map_err(|error| wrong(Code::Io, error))?;
    if netns == own {
        return Err(Error::new(
            Code::InvalidNetns,
            format!("CNI_NETNS={} is the host's own namespace", path.display()),
        ));
    }
    Ok((netns, path))
}

fn key(call: &Call) -> Result<PodKey, Error> {
    PodKey::new(&call.config.name, &call.container, &call.ifname)
        .map_err(|error| Error::new(Code::InvalidEnvironment, "name the pod").because(error))
}

fn socket(call: &Call) -> &Path {
    call.config.socket.as_deref().unwrap_or(Path::new(SOCKET))
}

/// Returns how the pod's link is to be made: with the daemon's prefix, which its translation rules know, and with the MTU
/// of the network configuration or else the daemon's.
fn settings(call: &Call, links: PodLinks) -> Result<PodSettings, Error> {
    let PodLinks {
        veth_prefix,
        mtu,
        ipv4_egress,
        ipv6_egress,
        ipv6_disabled,
        tables,
        source_check,
        report_wired: _,
    } = links;
    if let Some(other) = call.config.veth_prefix.as_ref().filter(|other| **other != veth_prefix) {
        let what = format!("vethPrefix {other:?} is not the daemon's, which is {veth_prefix:?}");
        let mut error = Error::new(Code::InvalidConfig, what);
        error.details =
            "leave it out, and set AWS_VPC_K8S_CNI_VETHPREFIX for vpc-ipamd".to_string();
        return Err(error);
    }
    let veth_prefix = veth_prefix.parse::<VethPrefix>().map_err(|error| {
        Error::new(Code::Daemon, format!("use vethPrefix {veth_prefix:?}")).because(error)
    })?;
    let egress = match (ipv4_egress, ipv6_egress) {
        (true, _) => Some(Family::Ipv4),
        (false, true) => Some(Family::Ipv6),
        (false, false) => None,
    };
    Ok(PodSettings {
        veth_prefix,
        mtu: call.config.mtu.unwrap_or(mtu),
        egress,
        ipv6_disabled,
        tables: tables.into_iter().map(|(eni, table)| (eni, Table(table))).collect(),
        source_check,
    })
}
