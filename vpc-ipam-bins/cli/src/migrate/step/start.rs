//! vpc-ipamd runs, and has taken the node over.

use core::time::Duration;

use vpc_ipam_linux::Guard;
use vpc_ipam_protocol::{Answer, NetReport, Request, ask};

use super::env_file::SETTINGS_BEFORE;
use super::{Context, Options, Step, StepError, shell, wait_until};
use crate::migrate::old_daemon;

pub(super) const STEP: Step = Step { name: "start", commands, run };
/// What amazon-vpc-cni-k8s made is ours by then.
pub(super) const ADOPT: Step = Step { name: "adopt", commands: commands_of_adopt, run: adopt };

/// How long a daemon may take until it answers: its start waits for the metadata service and EC2.
const PATIENCE: Duration = Duration::from_secs(120);

const UNFITTING: &str =
    "its answer does not fit the question: is it of the same version as vpc-ipam?";

fn commands(options: &Options) -> Vec<String> {
    vec![options.start.clone()]
}

fn commands_of_adopt(_: &Options) -> Vec<String> {
    vec!["vpc-ipam net diff    # until nothing differs".to_owned()]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    if let Err(which) = old_daemon::expect_none(&context.options.paths) {
        return Err(StepError::Failed(format!(
            "amazon-vpc-cni-k8s runs on this node ({which}), and two daemons would hand out the same addresses: keep its DaemonSet off the node"
        )));
    }
    let socket = &context.options.paths.socket;
    let runs = vpc_ipam_protocol::listener(socket).is_ok();
    let has_new_settings = context.run_folder().join(SETTINGS_BEFORE).exists();
    if runs && has_new_settings {
        shell(&context.options.stop)?;
    }
    // An earlier run may have started it.
    if !runs || has_new_settings {
        shell(&context.options.start)?;
    }
    let answers = || match ask(socket, &Request::Status) {
        Ok(Answer::Status(status)) => Ok(status),
        Ok(_) => Err(UNFITTING.to_owned()),
        Err(error) => Err(vpc_ipam_core::error_chain(&error)),
    };
    let status = wait_until(PATIENCE, answers)
        .map_err(|why| StepError::Failed(format!("vpc-ipamd does not answer: {why}")))?;
    Ok(format!("vpc-ipamd {} answers", status.version))
}

fn adopt(context: &mut Context<'_>) -> Result<String, StepError> {
    let socket = &context.options.paths.socket;
    let is_clean = || match ask(socket, &Request::NetDiff) {
        Ok(Answer::Net(report)) => match differing(&report) {
            differing if differing.is_empty() => Ok(()),
            differing => Err(differing.join("; ")),
        },
        Ok(_) => Err(UNFITTING.to_owned()),
        Err(error) => Err(vpc_ipam_core::error_chain(&error)),
    };
    wait_until(PATIENCE, is_clean)
        .map_err(|why| StepError::Failed(format!("the node is not as it should be: {why}")))?;
    // Of a way back that is turned round: what it stands in for is there.
    Guard::lower(&mut context.netlink()?)?;
    Ok("nothing differs from what should be there".to_owned())
}

/// Returns what of a report is not as it should be.
fn differing(report: &NetReport) -> Vec<String> {
    let NetReport { differences, beyond, conflicts, not_told, .. } = report;
    [differences, beyond, conflicts, not_told].into_iter().flatten().cloned().collect()
}
