//! ADD: gets addresses for a pod and sets its network up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use vpc_ipam_core::{AddressRequest, CardChoice, Lease, Pod, PodKey};
use vpc_ipam_linux::pod::{self, AddFailure, PodNetwork, PodSettings};
use vpc_ipam_linux::{Namespace, Table};
use vpc_ipam_protocol::pending_release;
use vpc_ipam_protocol::{Answer, Assign, Request};

use super::daemon::{Daemon, ask, unexpected};
use super::del::del_with_daemon;
use super::{Sockets, kernel, key, sandbox, settings, socket};
use crate::{AddResult, Call, Code, Error, Interface, Ip, Route};

pub(super) fn add(call: &Call) -> Result<AddResult, Error> {
    // Before anything is asked for: an address for a pod that is not there would have to be released.
    let (netns, path) = sandbox(call)?;
    let key = key(call)?;
    let request = AddressRequest::new(key.clone(), Arc::new(pod_of(call))).with_cards(cards(call));
    let socket = socket(call);
    // JSON has no place for what is no text.
    let sandbox = path.to_str().map(PathBuf::from);
    let asked = Request::Assign(Assign { request, sandbox, of: None });
    let mut daemon = Daemon::at(socket);
    let asked_first = daemon.ask(&asked)?;
    // While the daemon makes the grant durable.
    let sockets = Sockets::open(&netns);
    let (lease, report, settings, again) = match daemon.answer(asked_first, &asked)? {
        Answer::Lease { lease, links, again } => {
            (lease, links.report_wired, settings(call, links), again)
        }
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
        Ok(network) => {
            if report {
                report_wired(call, &mut daemon, socket, key)?;
            }
            Ok(result(&network, &path))
        }
        // Of a container that was added before, and may run: it keeps its address.
        Err(NotSetUp { error, running }) if running || again => Err(error),
        Err(NotSetUp { mut error, .. }) => {
            if let Err(also) = ask(socket, &Request::Release(key)) {
                error.details.push_str(&format!("; and releasing the address failed: {also}"));
            }
            Err(error)
        }
    }
}

/// Tells the daemon that the pod is set up, on nodes where it must not run before. If the daemon refuses, the pod is taken apart as by
/// DEL.
fn report_wired(
    call: &Call,
    daemon: &mut Daemon<'_>,
    socket: &Path,
    key: PodKey,
) -> Result<(), Error> {
    let wired = Request::Wired(key.clone());
    let answer = daemon.ask(&wired).and_then(|asked| daemon.answer(asked, &wired));
    let mut error = match answer {
        Ok(Answer::Lease { .. }) => return Ok(()),
        Ok(Answer::Refused(refusal)) => refusal.into(),
        Ok(Answer::Unknown) => {
            Error::new(Code::UnknownContainer, format!("{key} was deleted while it was set up"))
        }
        Ok(other) => unexpected(&other),
        Err(error) => error,
    };
    if let Err(also) = del_with_daemon(call, socket, key) {
        let also = Error::from(also);
        error.details.push_str(&format!("; and taking the pod apart failed: {also}"));
    }
    Err(error)
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

/// Returns the pod's names; where the runtime passes none, the container's id stands in.
pub(super) fn pod_of(call: &Call) -> Pod {
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

fn result(network: &PodNetwork, sandbox: &Path) -> AddResult {
    let mut result = AddResult { interfaces: Vec::new(), ips: Vec::new(), routes: Vec::new() };
    for interface in &network.interfaces {
        let index = result.interfaces.len() + 1;
        let (host, container) = (&interface.host, &interface.container);
        for (name, mac, sandbox) in [
            (&host.name, Some(host.mac), None),
            (&container.name, container.mac, Some(sandbox.to_path_buf())),
        ] {
            result.interfaces.push(Interface {
                name: name.clone(),
                mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
                mtu: interface.mtu,
                sandbox,
            });
        }
        for address in interface.addresses.iter().filter(|it| !it.only_on_node) {
            let table = (address.table != Table::MAIN).then_some(address.table.0);
            result.ips.push(Ip {
                address: IpNet::from(address.address),
                gateway: address.gateway,
                interface: Some(index),
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
    use crate::CniVersion;
    use vpc_ipam_linux::VethPrefix;

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
