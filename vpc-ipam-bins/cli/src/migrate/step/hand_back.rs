//! The kernel holds what amazon-vpc-cni-k8s makes, and nothing of ours.

use std::collections::BTreeMap;

use serde_json::Value;
use vpc_ipam_core::Config;
use vpc_ipam_linux::{Guard, HandBack, HostConfig, Netlink as _};
use vpc_ipamd::env_file;

use super::{Context, Options, Step, StepError};
use crate::migrate::durable;

pub(super) const STEP: Step = Step { name: "hand back", commands, run };

/// The settings of the daemon that ran, in the folder of the run.
pub(in crate::migrate) const SETTINGS: &str = "settings.json";

fn commands(_: &Options) -> Vec<String> {
    vec![
        "# what the guard added is removed".to_owned(),
        "# rules and routes of protocol 86: each made again without a protocol (routes: boot), then the one of ours removed".to_owned(),
        "ip link set dev LINK alias ''    # of each pod".to_owned(),
        "nft delete table ip vpc-ipam-sources; nft delete table ip6 vpc-ipam-sources".to_owned(),
        "nft delete table ip vpc-ipam    # or the chains VPC-IPAM-* of iptables".to_owned(),
    ]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    expect_no_daemon(context)?;
    let mut netlink = context.netlink()?;
    if HandBack::find(&mut netlink)?.is_done() {
        return Ok("nothing of ours is in the kernel".to_owned());
    }
    let theirs = netlink.aws_cni_nat()?;
    let needs = needs(context)?;
    if !theirs.has(needs.translation, needs.node_port) {
        return Err(StepError::Failed(
            "the address translation of amazon-vpc-cni-k8s is gone again, so ours stays: run `vpc-ipam migrate back` again once it runs".to_owned(),
        ));
    }
    Guard::lower(&mut netlink)?;
    let found = HandBack::find(&mut netlink)?;
    found.change_routing(&mut netlink)?;
    found.remove_translation(&mut netlink)?;
    let left = HandBack::find(&mut netlink)?;
    if !left.is_done() {
        let left = vpc_ipam_linux::commands(&left.routing).join("; ");
        return Err(StepError::Failed(format!(
            "still to be done, since something made it again: {left}"
        )));
    }
    Ok(format!(
        "{} changes of rules, routes and links, {} of address translation; {} pods",
        found.routing.len(),
        found.translation.len(),
        found.pods.len()
    ))
}

/// Makes sure that vpc-ipamd does not run: it would make again what is taken out of the kernel.
pub(super) fn expect_no_daemon(context: &Context<'_>) -> Result<(), StepError> {
    match vpc_ipam_protocol::listener(&context.options.paths.socket) {
        Ok(pid) => Err(StepError::Failed(format!(
            "vpc-ipamd runs again (process {pid}): stop it, and what started it, and run this again"
        ))),
        Err(_) => Ok(()),
    }
}

/// What of the address translation of amazon-vpc-cni-k8s is needed before ours may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Packets of pods to elsewhere than the VPC take the address of the primary ENI.
    pub(super) translation: bool,
    /// Connections to NodePorts keep to the primary ENI.
    pub(super) node_port: bool,
}

/// Returns what is needed by the settings of the daemon that ran.
pub(super) fn needs(context: &Context<'_>) -> Result<Needs, StepError> {
    if let Some(text) = durable::read(&context.run_folder().join(SETTINGS))? {
        let settings: BTreeMap<String, Value> = serde_json::from_slice(&text)?;
        let settings = settings.into_iter().filter_map(|(name, value)| match value {
            Value::Null => None,
            Value::String(text) => Some((name, text)),
            other => Some((name, other.to_string())),
        });
        return Ok(needs_of(&settings.collect::<Vec<_>>()));
    }
    let path = context.options.paths.at(&context.options.paths.env_file);
    let vars = durable::read(&path)?.map(|text| env_file::parse(&text).0);
    Ok(needs_of(&vars.unwrap_or_default()))
}

/// Reads the settings as the daemon does.
fn needs_of(vars: &[(String, String)]) -> Needs {
    let ipv4 = Config::from_vars(vars.iter().cloned()).0.families.ipv4().is_some();
    let host = HostConfig::from_vars(vars.iter().cloned()).0;
    Needs { translation: ipv4 && !host.external_snat, node_port: ipv4 && host.node_port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_follows_from_the_settings_as_the_daemon_reads_them() {
        let cases: [(&[(&str, &str)], bool, bool); 6] = [
            (&[], true, true),
            (&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "1")], false, true),
            (&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "t")], false, true),
            (&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false")], true, true),
            (&[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false")], false, false),
            (&[("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false")], true, false),
        ];
        for (vars, translation, node_port) in cases {
            let owned: Vec<_> = vars
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(needs_of(&owned), Needs { translation, node_port }, "{vars:?}");
        }
    }
}
