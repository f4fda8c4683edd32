//! amazon-vpc-cni-k8s serves, and its address translation is there; or what it left of that is there again.

use vpc_ipam_linux::{AwsCniNat, Netlink as _};

use super::back_up::{IPTABLES, NFT_TABLE, chains_of, saved_by};
use super::{Context, Options, Step, StepError, output_of, wait_until};
use crate::migrate::progress::warn;
use crate::migrate::{durable, old_daemon};

pub(super) const STEP: Step = Step { name: "amazon-vpc-cni-k8s", commands, run };

fn commands(options: &Options) -> Vec<String> {
    vec![format!(
        "# let the DaemonSet aws-node run on this node again; it is waited for {} s, until it serves and its chains are there",
        options.wait.as_secs()
    )]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let paths = &context.options.paths;
    let is_away = old_daemon::serves(paths).map_err(StepError::Failed)?.is_none();
    if context.run().turned && is_away {
        return restore(context);
    }
    if is_away {
        warn(format!(
            "let amazon-vpc-cni-k8s run on this node again; it is waited for {} s",
            context.options.wait.as_secs()
        ));
    }
    let serves = wait_until(context.options.wait, || {
        old_daemon::serves(paths)?.ok_or_else(|| "it does not serve".to_owned())
    });
    let again = "let its DaemonSet run on this node, and run `vpc-ipam migrate back` again: pods keep their network meanwhile";
    let serves =
        serves.map_err(|why| StepError::Failed(format!("amazon-vpc-cni-k8s: {why}; {again}")))?;
    let needs = super::hand_back::needs(context)?;
    let mut netlink = context.netlink()?;
    let translates = || match netlink.aws_cni_nat() {
        Ok(nat) if nat.has(needs.translation, needs.node_port) => Ok(()),
        Ok(nat) if !nat.unlisted().is_empty() => Err(nat.unlisted().join("; ")),
        Ok(_) => Err("its address translation, or its marks, are not there".to_owned()),
        Err(error) => Err(vpc_ipam_core::error_chain(&error)),
    };
    wait_until(context.options.wait, translates)
        .map_err(|why| StepError::Failed(format!("amazon-vpc-cni-k8s: {why}; {again}")))?;
    Ok(format!("it serves ({serves}), and its chains are there"))
}

/// Brings back what amazon-vpc-cni-k8s left of its address translation: it cannot be waited for, since it did not run before.
fn restore(context: &Context<'_>) -> Result<String, StepError> {
    let Some(backup) = context.backup() else {
        return Ok("nothing was saved, since nothing was changed".to_owned());
    };
    let mut restored = Vec::new();
    for program in IPTABLES {
        let then = durable::read(&backup.join(chains_of(program)))?.unwrap_or_default();
        let then = String::from_utf8_lossy(&then);
        if AwsCniNat::restoration(&then, "").is_empty() {
            continue;
        }
        let now = saved_by(program)?.unwrap_or_default();
        let script = AwsCniNat::restoration(&then, &now);
        // kube-proxy may have the lock.
        output_of(&format!("{program}-restore"), &["--wait=20", "--noflush"], Some(&script))?;
        restored.push(program);
    }
    let table = durable::read(&backup.join(NFT_TABLE))?;
    if let Some(table) = table
        && output_of("nft", &["list", "table", "ip", "aws-cni"], None).is_err()
    {
        output_of("nft", &["-f", "-"], Some(&String::from_utf8_lossy(&table)))?;
        restored.push("nft");
    }
    if restored.is_empty() {
        return Ok("there was nothing of its address translation to bring back".to_owned());
    }
    Ok(format!("its address translation is there again, by {}", restored.join(", ")))
}
