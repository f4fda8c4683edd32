//! The kernel holds what amazon-vpc-cni-k8s makes, and nothing of ours.

use serde_json::Value;
use vpc_ipam_linux::{Guard, HandBack, Netlink as _};
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
    let mut netlink = context.netlink()?;
    if HandBack::find(&mut netlink)?.is_done() {
        return Ok("nothing of ours is in the kernel".to_owned());
    }
    let theirs = netlink.aws_cni_nat()?;
    if needs_translation(context)? && !theirs.translates() {
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
        return Err(StepError::Failed(format!("this came again meanwhile, or is left: {left}")));
    }
    Ok(format!(
        "{} changes of rules, routes and links, {} of address translation; {} pods",
        found.routing.len(),
        found.translation.len(),
        found.pods.len()
    ))
}

/// Returns whether packets of pods to elsewhere than the VPC take the address of the primary ENI, by the settings of the daemon that ran.
pub(super) fn needs_translation(context: &Context<'_>) -> Result<bool, StepError> {
    let setting = |name: &str| -> Result<Option<String>, StepError> {
        if let Some(text) = durable::read(&context.run_folder().join(SETTINGS))? {
            let settings: Value = serde_json::from_slice(&text)?;
            return Ok(match &settings[name] {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            });
        }
        let path = context.options.paths.at(&context.options.paths.env_file);
        let vars = durable::read(&path)?.map(|text| env_file::parse(&text).0);
        Ok(vars.into_iter().flatten().find(|(var, _)| var == name).map(|(_, value)| value))
    };
    let is = |value: Option<String>, what: &str| {
        value.is_some_and(|value| value.eq_ignore_ascii_case(what))
    };
    let external = is(setting("AWS_VPC_K8S_CNI_EXTERNALSNAT")?, "true");
    let no_ipv4 = is(setting("ENABLE_IPv4")?, "false");
    Ok(!external && !no_ipv4)
}
