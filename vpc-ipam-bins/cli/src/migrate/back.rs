//! The way back to amazon-vpc-cni-k8s.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_linux::{HandBack, Namespace};
use vpc_ipam_protocol::{Answer, Request, ask, trusted_file};
use vpc_ipamd::store;

use super::conflist::Conflists;
use super::journal::{Direction, Ended, Journal};
use super::moved::{Moved, Outcome};
use super::progress::{say, warn};
use super::running::RunningPods;
use super::step::{self, Fared, Options, StepError};
use super::{Checkpoint, durable, export, now, old_daemon, swept};

/// Moves the node back.
pub(crate) fn back(options: &Options, quiet: bool) -> Result<Moved, StepError> {
    let mut journal = Journal::open(&options.paths.at(&options.paths.folder))?;
    let boot = store::boot_id()?;
    let unended = journal.unended();
    if unended.is_none() && is_of_old(options)? {
        if !quiet {
            say("nothing on this node is of vpc-ipam: there is nothing to go back from");
        }
        return Ok(Moved { outcome: Outcome::Done, ..Moved::default() });
    }
    if unended != Some(Direction::Back)
        && let Err(error) = check(options)
    {
        return Ok(Moved::left(&error, unended));
    }
    if unended == Some(Direction::To) {
        warn("the way to vpc-ipam that had not ended is turned round");
    }
    let begun = begin(options, &mut journal, &boot);
    finish(options, &mut journal, Moved::default(), quiet, begun, Outcome::Done)
}

/// Goes back from a way to vpc-ipam that failed.
pub(super) fn go_back(
    options: &Options,
    mut journal: Journal,
    moved: Moved,
    quiet: bool,
) -> Result<Moved, StepError> {
    let begun = begin(options, &mut journal, &store::boot_id()?);
    finish(options, &mut journal, moved, quiet, begun, Outcome::Failed)
}

/// Begins or goes on with a run, and keeps what the kernel and the daemon tell that is changed or gone later.
fn begin(options: &Options, journal: &mut Journal, boot: &str) -> Result<(), StepError> {
    journal.begin(Direction::Back, boot, now())?;
    let mut netlink = Namespace::current()?.netlink()?;
    swept::sweep(journal.folder(), &mut netlink)?;
    let folder = step::Context { options, journal }.run_folder();
    trusted_file::folder(&folder)
        .map_err(|error| StepError::failed("make the folder of this run", &error))?;
    let settings = folder.join(step::SETTINGS);
    if durable::read(&settings)?.is_none()
        && let Ok(Answer::Inventory(inventory)) = ask(&options.paths.socket, &Request::Inventory)
    {
        durable::write(&settings, &serde_json::to_vec(&inventory.settings)?, 0o600)?;
    }
    let pods = folder.join(step::PODS);
    if durable::read(&pods)?.is_none() {
        let running = RunningPods::look(&mut netlink)?;
        durable::write(&pods, &serde_json::to_vec_pretty(&running)?, 0o600)?;
    }
    Ok(())
}

fn finish(
    options: &Options,
    journal: &mut Journal,
    mut moved: Moved,
    quiet: bool,
    begun: Result<(), StepError>,
    outcome: Outcome,
) -> Result<Moved, StepError> {
    let fared = match begun {
        Ok(()) => step::run(&step::BACK, options, journal, &mut moved.steps, quiet),
        Err(error) => Fared::Stopped { step: "begin", error },
    };
    match fared {
        Fared::Done => {
            let ended = if outcome == Outcome::Done { Ended::Done } else { Ended::WentBack };
            Ok(moved.ended(journal, ended, outcome))
        }
        Fared::Stopped { step, error } => {
            // Until that of amazon-vpc-cni-k8s is back the runtime has no configuration.
            let [_, before_it @ .., _, _, _, _, _, _] = &step::BACK;
            if before_it.iter().any(|it| it.name == step)
                && let Err(error) = step::put_ours_back(&mut step::Context { options, journal })
            {
                warn(format!("the runtime has no network configuration: {error}"));
            }
            let why = format!("{step}: {error}");
            moved.why = Some(match moved.why.take() {
                Some(first) => format!("{first}; and on the way back, {why}"),
                None => why,
            });
            // Nothing was done of the first step where that refuses.
            let is_refusal = matches!(error, StepError::Refused(_)) && step == step::BACK[0].name;
            if is_refusal && outcome == Outcome::Done && !journal.is_turned() {
                return Ok(moved.ended(journal, Ended::WentBack, Outcome::Refused));
            }
            Ok(moved.half_way(Direction::Back))
        }
    }
}

/// Returns whether nothing on the node is ours, and the runtime calls the plugin of amazon-vpc-cni-k8s.
fn is_of_old(options: &Options) -> Result<bool, StepError> {
    let paths = &options.paths;
    let conflists = Conflists::read(&paths.at(&paths.cni_conf))?;
    let is_called = conflists.old().is_some() && conflists.all_ours().next().is_none();
    let runs = vpc_ipam_protocol::listener(&paths.socket).is_ok();
    if !is_called || runs || std::fs::symlink_metadata(&paths.state).is_ok() {
        return Ok(false);
    }
    // With that amazon-vpc-cni-k8s does not start.
    if Checkpoint::read(&paths.at(&paths.checkpoint))?.fenced {
        return Ok(false);
    }
    Ok(HandBack::find(&mut Namespace::current()?.netlink()?)?.is_done())
}

/// Refuses a node whose pods would lose their addresses or their way out.
fn check(options: &Options) -> Result<(), StepError> {
    let paths = &options.paths;
    if let Err(which) = old_daemon::expect_none(paths) {
        return Err(StepError::Refused(format!(
            "amazon-vpc-cni-k8s runs on this node already ({which}): keep its DaemonSet off the node until it is asked for, since it starts by the \
             checkpoint that is yet to be written"
        )));
    }
    let mut refused = export::find(paths)?.0.refused;
    let found = HandBack::find(&mut Namespace::current()?.netlink()?)?;
    for address in egress_of_ours(&found.egress)? {
        refused.push(format!(
            "a pod reaches the other family through the node with the address {address}, which vpc-ipamd translates and amazon-vpc-cni-k8s will not: delete \
             the pod first (ip route show {address} names its link)"
        ));
    }
    if refused.is_empty() { Ok(()) } else { Err(StepError::Refused(refused.join("; "))) }
}

/// Returns those of the addresses that no chain of amazon-vpc-cni-k8s translates, which it makes for each pod of its own.
fn egress_of_ours(found: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, StepError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut saved = String::new();
    for program in step::IPTABLES {
        saved += &step::saved_by(program)?.unwrap_or_default();
    }
    Ok(found.iter().filter(|address| !has_chain(&saved, **address)).copied().collect())
}

/// Returns whether a rule of `iptables-save` leads what an address sends to a chain of egress-cni.
fn has_chain(saved: &str, address: IpAddr) -> bool {
    let source = format!(" -s {address}/");
    saved.lines().any(|line| line.contains(&source) && line.contains("-j CNI-E"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_egress_is_that_of_the_daemon_whose_chain_it_has() {
        let saved = "-A POSTROUTING -s 169.254.172.5/32 -m comment --comment \"name: \\\"aws-cni\\\"\" -j CNI-E4-0f1e\n\
                     -A POSTROUTING -s fd00::ac:5/128 -j CNI-E6-0f1e\n-A POSTROUTING -s 169.254.172.7/32 -j ACCEPT\n";
        for (address, expected) in [
            ("169.254.172.5", true),
            ("169.254.172.50", false),
            ("169.254.172.7", false),
            ("fd00::ac:5", true),
        ] {
            assert_eq!(has_chain(saved, address.parse().unwrap()), expected, "{address}");
        }
    }
}
