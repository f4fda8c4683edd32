//! `vpc-ipam release`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::{Lease, PodKey};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{Answer, Request};

use super::daemon::{AskFailed, Daemon};
use super::which_pod::{self, WhichPod};
use super::{Verdict, pods};

/// Release the addresses of a pod that is gone, of which no DEL told.
///
/// What is left of the pod's network on the node is removed, too: a pod that runs all the same loses its network. The question says
/// which pod it is. Without a terminal nothing is asked, and --yes is needed.
///
/// Exits with 0, with 1 if nothing was released, with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = which_pod::HELP)]
pub(in crate::commands) struct ReleaseArgs {
    /// The pod
    pod: WhichPod,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// What was released.
#[derive(Debug, Serialize)]
struct Done {
    released: Vec<Lease>,
}

/// Asks, and releases.
pub(in crate::commands) fn release(args: &ReleaseArgs) -> Result<Verdict, AskFailed> {
    let all = pods::leases(&args.daemon)?;
    let lease = match args.pod.find(&all).as_slice() {
        [] => {
            eprintln!("vpc-ipam: no pod with an address is called {}", OneLine(&args.pod));
            return Ok(Verdict::No);
        }
        [lease] => *lease,
        several => {
            eprintln!(
                "vpc-ipam: {} names several pods, of which one is to be named by its key:",
                OneLine(&args.pod)
            );
            several.iter().for_each(|lease| eprintln!("  {}", in_words(lease)));
            return Ok(Verdict::No);
        }
    };
    if !args.yes && !is_confirmed(lease).map_err(AskFailed::Print)? {
        eprintln!("vpc-ipam: nothing was released");
        return Ok(Verdict::No);
    }
    let Some(released) = ask(&args.daemon, &lease.key)? else {
        eprintln!("vpc-ipam: {} was released meanwhile", OneLine(&lease.key));
        return Ok(Verdict::No);
    };
    let done = Done { released: vec![released] };
    args.daemon.print(&done, |done| {
        done.released.iter().map(|lease| format!("released {}\n", in_words(lease))).collect()
    })?;
    Ok(Verdict::Yes)
}

/// Releases; returns what the pod had, if anything.
fn ask(daemon: &Daemon, key: &PodKey) -> Result<Option<Lease>, AskFailed> {
    daemon.ask(&Request::Release(key.clone()), |answer| match answer {
        Answer::Lease { lease, .. } => Some(Some(lease)),
        Answer::Unknown => Some(None),
        _ => None,
    })
}

/// Asks who sits at the terminal.
fn is_confirmed(lease: &Lease) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        eprintln!("vpc-ipam: would release {}; --yes does it", in_words(lease));
        return Ok(false);
    }
    eprint!("Release {}?\nIf the pod still runs it loses its network. [y/N] ", in_words(lease));
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn in_words(lease: &Lease) -> String {
    let addresses: Vec<String> = lease.addresses().map(|it| it.to_string()).collect();
    let Lease { key, pod, since, .. } = lease;
    let text = format!(
        "{} of pod {}/{} ({key}), assigned since {since}",
        addresses.join(" and "),
        pod.namespace,
        pod.name
    );
    OneLine(text).to_string()
}
