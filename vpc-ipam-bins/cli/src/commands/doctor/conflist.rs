//! Whether the container runtime calls vpc-cni: what is in its configuration folder.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;
use crate::node_files::networks::{self, BrokenNetwork, Network, is_ours};

pub(super) const CHECK: Check = Check {
    name: "conflist",
    about: "the runtime's configuration: that ours comes first, is in its form, and names plugins that are there",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

const FOLDER: &str = "/etc/cni/net.d";
const PROGRAMS: &str = "/opt/cni/bin";

/// Returns the configurations in the order in which a runtime takes them, and what is wrong with files that are none.
pub(super) fn networks(facts: &Facts) -> Result<(Vec<Network>, Vec<Finding>), String> {
    let (networks, broken) = networks::networks(&facts.files, FOLDER)?;
    let broken = broken.into_iter().map(|BrokenNetwork { file, why }| {
        let path = format!("{FOLDER}/{file}");
        Finding::warning(
            format!("{path} is no JSON: {why}; runtimes pass over it, or stop there"),
            format!("correct {path}, or move it away"),
        )
    });
    Ok((networks, broken.collect()))
}

fn run(facts: &Facts) -> Vec<Finding> {
    let (networks, mut findings) = match networks(facts) {
        Ok(found) => found,
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let Some(at) = networks.iter().position(Network::is_ours) else {
        findings.push(Finding::failure(
            format!("no file in {FOLDER} names vpc-cni: the runtime does not call it"),
            "make install-node DIR=/ places 10-vpc-ipam.conflist there",
        ));
        return findings;
    };
    let ours = &networks[at];
    if let Some(first) = networks[..at].first() {
        findings.push(Finding::failure(
            format!("{FOLDER}/{} sorts before {}: the runtime takes that", first.file, ours.file),
            format!("move it away: mv {FOLDER}/{0} {FOLDER}/{0}.disabled", first.file),
        ));
    }
    let more = networks[at + 1..].iter().filter(|network| network.is_ours());
    findings.extend(more.map(|more| {
        Finding::warning(
            format!("{FOLDER}/{} names vpc-cni too, and {} is taken", more.file, ours.file),
            format!("remove {FOLDER}/{}", more.file),
        )
    }));
    of_ours(facts, ours, &mut findings);
    if findings.is_empty() {
        let types: Vec<&str> = ours.plugins.iter().filter_map(|it| it["type"].as_str()).collect();
        let evidence = format!("{FOLDER}/{} is taken: {}", ours.file, types.join(", "));
        findings.push(Finding::ok(evidence));
    }
    findings
}

/// Looks at the configuration that names vpc-cni.
fn of_ours(facts: &Facts, ours: &Network, findings: &mut Vec<Finding>) {
    let path = format!("{FOLDER}/{}", ours.file);
    if ours.plugins.first().is_some_and(|plugin| !is_ours(plugin)) {
        findings.push(Finding::failure(
            format!("vpc-cni is not the first plugin of {path}"),
            "put it first: it makes the link that the others work on",
        ));
    }
    for plugin in &ours.plugins {
        let ipam = plugin["ipam"]["type"].as_str();
        for kind in plugin["type"].as_str().into_iter().chain(ipam) {
            if kind.contains('/') || !facts.files.exists(&format!("{PROGRAMS}/{kind}")) {
                findings.push(Finding::failure(
                    format!("{path} names the plugin {kind}, and there is no {PROGRAMS}/{kind}"),
                    "install it (the package containernetworking-plugins has portmap, bandwidth and others; make install-node DIR=/ has \
                     vpc-cni), or take it out of the list",
                ));
            }
        }
        if !is_ours(plugin) {
            continue;
        }
        let socket = plugin["socket"]
            .as_str()
            .or(plugin["ipam"]["socket"].as_str())
            .filter(|socket| !socket.is_empty());
        let socket = socket.unwrap_or(vpc_ipam_protocol::SOCKET);
        if facts.socket().as_os_str() != socket {
            findings.push(Finding::warning(
                format!(
                    "{path} has the plugin ask at {socket}, and this looks at {}",
                    facts.socket().display()
                ),
                "give both the same socket: the plugin by the key socket, this by --socket",
            ));
        }
        if let (Some(prefix), Ok(_)) = (plugin["vethPrefix"].as_str(), facts.inventory())
            && prefix != facts.veth_prefix()
        {
            findings.push(Finding::failure(
                format!("{path} has vethPrefix {prefix:?}, the daemon {:?}", facts.veth_prefix()),
                "leave vethPrefix out: the plugin takes the daemon's",
            ));
        }
    }
}
