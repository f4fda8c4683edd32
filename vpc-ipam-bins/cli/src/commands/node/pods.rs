//! `vpc-ipam pods`.

use core::net::IpAddr;

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::{Card, DeviceIndex, EniId, Lease};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{Answer, Request};

use super::Verdict;
use super::daemon::{AskFailed, Daemon};
use super::table::Table;
use super::which_pod::{self, WhichPod};

/// Show which pods have which addresses, on which ENI, and since when.
///
/// Exits with 0, with 1 if no pod is called like POD, with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = which_pod::HELP)]
pub(in crate::commands) struct PodsArgs {
    /// Only this pod
    pod: Option<WhichPod>,
    #[command(flatten)]
    daemon: Daemon,
}

/// A pod and what it has.
#[derive(Debug, Serialize)]
struct PodRow<'a> {
    namespace: &'a str,
    name: &'a str,
    network: &'a str,
    container: &'a str,
    ifname: &'a str,
    since: String,
    interfaces: Vec<InterfaceRow>,
    /// The names of its links, if it was imported from another program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    imported: Vec<&'a str>,
}

/// One of its interfaces.
#[derive(Debug, Serialize)]
struct InterfaceRow {
    addresses: Vec<IpAddr>,
    eni: EniId,
    card: Card,
    device: DeviceIndex,
}

impl<'a> From<&'a Lease> for PodRow<'a> {
    fn from(lease: &'a Lease) -> Self {
        let interfaces = lease.interfaces().map(|interface| InterfaceRow {
            addresses: interface.addresses().collect(),
            eni: interface.eni,
            card: interface.card,
            device: interface.device,
        });
        Self {
            namespace: &lease.pod.namespace,
            name: &lease.pod.name,
            network: lease.key.network(),
            container: lease.key.container(),
            ifname: lease.key.ifname(),
            since: lease.since.to_string(),
            interfaces: interfaces.collect(),
            imported: lease.found.iter().map(|link| &*link.name).collect(),
        }
    }
}

/// Prints the pods.
pub(in crate::commands) fn pods(args: &PodsArgs) -> Result<Verdict, AskFailed> {
    let leases = leases(&args.daemon)?;
    let found = match &args.pod {
        Some(pod) => pod.find(&leases),
        None => leases.iter().collect(),
    };
    if found.is_empty()
        && let Some(pod) = &args.pod
    {
        eprintln!("vpc-ipam: no pod with an address is called {}", OneLine(pod));
        return Ok(Verdict::No);
    }
    let rows: Vec<PodRow<'_>> = found.into_iter().map(PodRow::from).collect();
    args.daemon.print(&rows, |rows| table(rows))?;
    Ok(Verdict::Yes)
}

/// Asks for all leases.
pub(super) fn leases(daemon: &Daemon) -> Result<Vec<Lease>, AskFailed> {
    daemon.ask(&Request::Leases { network: None }, |answer| match answer {
        Answer::Leases(leases) => Some(leases),
        _ => None,
    })
}

fn table(rows: &[PodRow<'_>]) -> String {
    if rows.is_empty() {
        return "no pod has an address\n".to_string();
    }
    let has_imported = rows.iter().any(|row| !row.imported.is_empty());
    let columns = ["pod", "addresses", "eni", "container", "interface", "since", "imported"];
    // A column of its own where there is anything to say.
    let shown = columns.len() - usize::from(!has_imported);
    let mut table = Table::new(&columns[..shown]);
    for row in rows {
        for (index, interface) in row.interfaces.iter().enumerate() {
            let addresses: Vec<String> =
                interface.addresses.iter().map(ToString::to_string).collect();
            // Further interfaces are named after the first.
            let pod = match index {
                0 => format!("{}/{}", row.namespace, row.name),
                _ => String::new(),
            };
            let link = row.imported.get(index).copied().unwrap_or("-");
            let cells = [
                OneLine(pod).to_string(),
                addresses.join(","),
                interface.eni.to_string(),
                OneLine(row.container).to_string(),
                OneLine(row.ifname).to_string(),
                row.since.clone(),
                OneLine(link).to_string(),
            ];
            table.row(cells.into_iter().take(shown));
        }
    }
    table.to_string()
}
