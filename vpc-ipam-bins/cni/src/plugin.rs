//! The CNI plugin: asks the daemon for addresses and sets the pod's network up.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ipnet::IpNet;
use vpc_ipam_core::{AddressRequest, CardChoice, Lease, Pod, PodKey, error_chain};
use vpc_ipam_linux::pod::{self, AddFailure, PodNetwork, PodSettings};
use vpc_ipam_linux::{
    Family, KernelNetlink, Namespace, NamespaceError, NetlinkError, Table, VethPrefix,
};
use vpc_ipam_protocol::pending_release::{self, PendingRelease};
use vpc_ipam_protocol::{
    self as protocol, Answer, AskError, Asked, Assign, PodLinks, Refusal, RefusalKind, Request,
    SOCKET,
};

use crate::{AddResult, Call, CniVersion, Code, Command, Error, Interface, Ip, Route};

/// Carries out one call of a container runtime: the environment and standard input say which, standard output gets the
/// result or the error, as CNI wants it.
pub fn main() -> ExitCode {
    let outcome = run(|name| std::env::var(name).ok(), io::stdin().lock());
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
) -> Result<Option<serde_json::Value>, (CniVersion, Error)> {
    let call = Call::parse(env, stdin)?;
    let version = call.config.version;
    let result = match call.command {
        Command::Add => add(&call).map(|result| Some(result.to_json(version))),
        Command::Check => check(&call).map(|()| None),
        Command::Del => del(&call).map(|()| None),
        Command::Version => Ok(Some(serde_json::json!({
            "cniVersion": version.as_str(),
            "supportedVersions": CniVersion::ALL.map(CniVersion::as_str),
        }))),
    };
    result.map_err(|error| (version, error))
}

fn add(call: &Call) -> Result<AddResult, Error> {
    // Before anything is asked for: an address for a pod that is not there would have to be released.
    let (netns, path) = sandbox(call)?;
    let key = key(call)?;
    let request = AddressRequest::new(key.clone(), Arc::new(pod_of(call))).with_cards(cards(call));
    let socket = socket(call);
    // JSON has no place for what is no text.
    let sandbox = path.to_str().map(PathBuf::from);
    let asked = Request::Assign(Assign { request, sandbox });
    let asked = Asked::send(socket, &asked).map_err(not_asked)?;
    // While the daemon makes the grant durable.
    let sockets = Sockets::open(&netns);
    let (lease, settings) = match asked.answer().map_err(not_asked)? {
        Answer::Lease { lease, links } => (lease, settings(call, links)),
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    // The daemon has read what was left for it: a pending release of this pod would take away the address that it just got.
    let done = pending_release::withdraw(socket, &key)
        .map_err(|error| Error::new(Code::Io, "withdraw the pending release").because(error))
        .and(settings)
        .map_err(NotSetUp::from)
        .and_then(|settings| set_up(&lease, &settings, &netns, &mut sockets?));
    match done {
        Ok(network) => Ok(result(&network, &path)),
        // Of a container that was added before and runs: it keeps its address.
        Err(NotSetUp { error, running: true }) => Err(error),
        Err(NotSetUp { mut error, running: false }) => {
            if let Err(also) = ask(socket, &Request::Release(key)) {
                error.details.push_str(&format!("; and releasing the address failed: {also}"));
            }
            Err(error)
        }
    }
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

/// Why a pod was not set up, and whether it runs since an earlier ADD.
struct NotSetUp {
    error: Error,
    running: bool,
}

impl From<Error> for NotSetUp {
    fn from(error: Error) -> Self {
        Self { error, running: false }
    }
}

fn set_up(
    lease: &Lease,
    settings: &PodSettings,
    netns: &Namespace,
    sockets: &mut Sockets,
) -> Result<PodNetwork, NotSetUp> {
    let network = pod::desired(lease, settings)
        .map_err(|error| kernel("lay out the pod's network", &error))?;
    pod::add(&mut sockets.host, &mut sockets.pod, netns, &network).map_err(|error| {
        let code = match error.cause {
            AddFailure::LinkOfAnotherPod { .. } | AddFailure::LinkOfUnknownPod { .. } => {
                Code::LinkTaken
            }
            _ => Code::Kernel,
        };
        let told = kernel("set up the pod's network", &error);
        NotSetUp { running: error.running, error: Error { code, ..told } }
    })
}

fn kernel(what: &str, error: &dyn core::error::Error) -> Error {
    Error { code: Code::Kernel, message: what.to_string(), details: error_chain(error) }
}

/// Compares the pod's network with what ADD made, on the host and in the pod.
fn check(call: &Call) -> Result<(), Error> {
    let (netns, _) = sandbox(call)?;
    let key = key(call)?;
    let (lease, settings) = match ask(socket(call), &Request::Find(key.clone()))? {
        Answer::Lease { lease, links } => (lease, settings(call, links)?),
        Answer::Unknown => {
            let what = format!("check the network of {key}");
            let mut error = Error::new(Code::UnknownContainer, what);
            error.details = "vpc-ipamd knows no such pod".to_string();
            return Err(error);
        }
        Answer::Refused(refusal) => return Err(refusal.into()),
        other => return Err(unexpected(&other)),
    };
    let network = pod::desired(&lease, &settings)
        .map_err(|error| kernel("lay out the pod's network", &error))?;
    let mut sockets = Sockets::open(&netns)?;
    let differences = pod::check(&mut sockets.host, &mut sockets.pod, &network)
        .map_err(|error| kernel("read the pod's network", &error))?;
    let mut wrong: Vec<_> = differences.iter().map(ToString::to_string).collect();
    if let Some(told) = &call.config.prev_result {
        let told = crate::addresses(told);
        let lost = lease.addresses().filter(|address| !told.contains(address));
        wrong.extend(lost.map(|address| format!("prevResult does not have {address}")));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(Code::Kernel, "the pod's network is not as it should be");
    error.details = wrong.join("; ");
    Err(error)
}

fn del(call: &Call) -> Result<(), Error> {
    let (key, socket) = (key(call)?, socket(call));
    match del_with_daemon(call, socket, key.clone()) {
        Err(DelError::NoDaemon(error)) => del_without_daemon(call, socket, key, error),
        other => other.map_err(Error::from),
    }
}

/// Why a pod could not be deleted.
enum DelError {
    /// No daemon listens at the socket.
    NoDaemon(AskError),
    Other(Error),
}

impl From<Error> for DelError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<DelError> for Error {
    fn from(error: DelError) -> Self {
        match error {
            DelError::NoDaemon(error) => not_asked(error),
            DelError::Other(error) => error,
        }
    }
}

/// Removes the pod's routes and rules first, and releases its addresses then: interrupted in between, a repeated DEL finds
/// everything it needs. The links are removed by the daemon, for which no pod waits.
fn del_with_daemon(call: &Call, socket: &Path, key: PodKey) -> Result<(), DelError> {
    let answer =
        protocol::ask(socket, &Request::Leave(key.clone())).map_err(|error| match error {
            error @ AskError::Connect { .. } => DelError::NoDaemon(error),
            error => DelError::Other(not_asked(error)),
        })?;
    let (lease, settings) = match answer {
        Answer::Lease { lease, links } => (lease, settings(call, links)?),
        // It may be waiting for an address, which it no longer should; or the daemon lost its state.
        Answer::Unknown => {
            remove_found(&key)?;
            return Ok(release(socket, key)?);
        }
        Answer::Refused(refusal) => return Err(Error::from(refusal).into()),
        other => return Err(unexpected(&other).into()),
    };
    let network = pod::desired(&lease, &settings)
        .map_err(|error| kernel("lay out the pod's network", &error))?;
    pod::remove(&mut open_host()?, &network)
        .map_err(|error| kernel("remove the pod's routes and rules", &error))?;
    Ok(release(socket, key)?)
}

/// Takes away of the pod what its links tell, and leaves the daemon a pending release of its addresses: a pod that could not
/// be deleted before the daemon is back would stand in the way of the node's repair.
fn del_without_daemon(
    call: &Call,
    socket: &Path,
    key: PodKey,
    no_daemon: AskError,
) -> Result<(), Error> {
    remove_found(&key)?;
    pending_release::leave(socket, &PendingRelease { key: key.clone() }).map_err(|error| {
        let mut refused = not_asked(no_daemon);
        refused.details.push_str(&format!("; and leaving it a pending release failed: {error}"));
        refused
    })?;
    // It may have read the pending releases just before this one was left. It listens before it reads.
    match del_with_daemon(call, socket, key.clone()) {
        Err(DelError::NoDaemon(_)) => return Ok(()),
        other => other?,
    }
    pending_release::withdraw(socket, &key)
        .map_err(|error| Error::new(Code::Io, "withdraw the pending release").because(error))
}

/// Removes what the pod's links tell to be its own, and the links.
fn remove_found(key: &PodKey) -> Result<(), Error> {
    let removed = pod::remove_found(&mut open_host()?, key);
    removed.map(drop).map_err(|error| kernel("remove the pod's links, routes and rules", &error))
}

fn release(socket: &Path, key: PodKey) -> Result<(), Error> {
    match ask(socket, &Request::Release(key))? {
        Answer::Lease { .. } | Answer::Unknown => Ok(()),
        Answer::Refused(refusal) => Err(refusal.into()),
        other => Err(unexpected(&other)),
    }
}

fn ask(socket: &Path, request: &Request) -> Result<Answer, Error> {
    protocol::ask(socket, request).map_err(not_asked)
}

fn not_asked(error: AskError) -> Error {
    let code = match &error {
        AskError::Decode(_) => Code::Daemon,
        _ => Code::TryAgainLater,
    };
    let mut refused = Error::new(code, "ask vpc-ipamd").because(error);
    refused.details.push_str("; is vpc-ipamd running?");
    refused
}

impl From<Refusal> for Error {
    fn from(Refusal { kind, message, details }: Refusal) -> Self {
        let code = match kind {
            RefusalKind::PodDeleted => Code::UnknownContainer,
            RefusalKind::StateFile => Code::Io,
            RefusalKind::TryAgainLater => Code::TryAgainLater,
            RefusalKind::Kernel => Code::Kernel,
            RefusalKind::UnknownRequest => Code::Daemon,
            RefusalKind::LinkTaken => Code::LinkTaken,
        };
        Self { code, message, details }
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error {
        code: Code::Daemon,
        message: "ask vpc-ipamd".to_string(),
        details: format!(
            "its answer does not fit the question: {answer:?}; are plugin and daemon of the same version?"
        ),
    }
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

/// Returns the pod's names; where the runtime passes none, the container's id stands in.
fn pod_of(call: &Call) -> Pod {
    let arg = |name: &str| call.args.get(name).filter(|value| !value.is_empty()).cloned();
    Pod::new(
        arg("K8S_POD_NAMESPACE").unwrap_or_else(|| "default".to_string()),
        arg("K8S_POD_NAME").unwrap_or_else(|| call.container.clone()),
    )
}

/// Returns on which network cards the pod wants an interface, as its annotation says.
fn cards(call: &Call) -> CardChoice {
    match call.config.nic_config.as_deref() {
        Some("multi-nic-attachment") => CardChoice::Every,
        Some(_) | None => CardChoice::Any,
    }
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

fn result(network: &PodNetwork, sandbox: &Path) -> AddResult {
    let mut result = AddResult { interfaces: Vec::new(), ips: Vec::new(), routes: Vec::new() };
    for interface in &network.interfaces {
        let index = result.interfaces.len() + 1;
        for (end, sandbox) in
            [(&interface.host, None), (&interface.container, Some(sandbox.to_path_buf()))]
        {
            result.interfaces.push(Interface {
                name: end.name.clone(),
                mac: end.mac.to_string(),
                mtu: interface.mtu,
                sandbox,
            });
        }
        for address in interface.addresses.iter().filter(|it| !it.only_on_node) {
            let table = (address.table != Table::MAIN).then_some(address.table.0);
            result.ips.push(Ip {
                address: IpNet::from(address.address),
                gateway: address.gateway,
                interface: index,
            });
            for (destination, gateway) in address.routes() {
                result.routes.push(Route { destination, gateway, table });
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::testkit::{lease, leased};

    use super::*;

    #[test]
    fn routes_of_a_further_interface_are_told_with_their_table_or_not_at_all() {
        let lease = lease("p", [leased(0, 1, ["10.0.0.1"]), leased(1, 1, ["10.0.1.1"])]);
        let settings = PodSettings::new(VethPrefix::default(), 9001);
        let network = pod::desired(&lease, &settings).unwrap();
        let routes = |version| {
            let json = result(&network, Path::new("/run/netns/pod")).to_json(version);
            assert_eq!(json["ips"].as_array().unwrap().len(), 2);
            json["routes"].clone()
        };
        let of_first = [
            serde_json::json!({"dst": "169.254.1.1/32"}),
            serde_json::json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}),
        ];
        let of_second = [
            serde_json::json!({"dst": "169.254.1.2/32", "table": 1}),
            serde_json::json!({"dst": "0.0.0.0/0", "gw": "169.254.1.2", "table": 1}),
        ];

        assert_eq!(routes(CniVersion::V1_0_0), serde_json::json!(of_first));
        let all = [of_first, of_second].concat();
        assert_eq!(routes(CniVersion::V1_1_0), serde_json::json!(all));
    }

    #[test]
    fn annotation_asks_for_an_interface_on_every_card() {
        let with = |annotations: &str| {
            format!(
                r#"{{"cniVersion": "1.0.0", "name": "aws-cni", "runtimeConfig": {{
                    "io.kubernetes.cri.pod-annotations": {annotations}}}}}"#
            )
        };
        let cases = [
            (r#"{"cniVersion": "1.0.0", "name": "aws-cni"}"#.to_string(), CardChoice::Any),
            (with("{}"), CardChoice::Any),
            (with(r#"{"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}"#), CardChoice::Every),
            (with(r#"{"k8s.amazonaws.com/nicConfig": "other"}"#), CardChoice::Any),
        ];
        for (config, expected) in cases {
            let env = |name: &str| {
                let value = match name {
                    "CNI_COMMAND" => "ADD",
                    "CNI_NETNS" => "/run/netns/pod",
                    "CNI_CONTAINERID" | "CNI_IFNAME" => "a",
                    _ => return None,
                };
                Some(value.to_string())
            };
            let call = Call::parse(env, config.as_bytes()).unwrap();
            assert_eq!(cards(&call), expected, "{config}");
        }
    }
}
