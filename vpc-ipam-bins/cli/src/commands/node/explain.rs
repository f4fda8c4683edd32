//! `vpc-ipam explain`.

use core::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::{Explanation, Lease, WaitingPod};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{Answer, NodeEvent, NodeEventKind, Request};

use super::Verdict;
use super::daemon::{AskFailed, Daemon};
use super::which_pod::{self, WhichPod};
use super::{events, pods};

/// Show what the node has, wants and does, what is blocked by what and until when; or what became of a pod.
///
/// Exits with 0, with 1 if the daemon knows nothing of POD, with 2 if it cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = which_pod::HELP)]
pub(in crate::commands) struct ExplainArgs {
    /// A pod: what it has and on which ENI, what it waits for, what was done for it lately
    pod: Option<WhichPod>,
    #[command(flatten)]
    daemon: Daemon,
}

/// Prints the explanation.
pub(in crate::commands) fn explain(args: &ExplainArgs) -> Result<Verdict, AskFailed> {
    let Some(pod) = &args.pod else {
        args.daemon.print(&explanation(&args.daemon)?, ToString::to_string)?;
        return Ok(Verdict::Yes);
    };
    let known = OfPod::ask(&args.daemon, pod)?;
    if known.leases.is_empty() && known.waiting.is_empty() && known.events.is_empty() {
        eprintln!(
            "vpc-ipam: the daemon knows nothing of {}: no address, no ADD that waits, none lately; did the runtime call the plugin?",
            OneLine(pod)
        );
        return Ok(Verdict::No);
    }
    args.daemon.print(&known, ToString::to_string)?;
    Ok(Verdict::Yes)
}

fn explanation(daemon: &Daemon) -> Result<Box<Explanation>, AskFailed> {
    daemon.ask(&Request::Explain, |answer| match answer {
        Answer::Explanation(explanation) => Some(explanation),
        _ => None,
    })
}

/// All that the daemon knows of a pod.
#[derive(Debug, Serialize)]
struct OfPod {
    /// What it has.
    leases: Vec<Lease>,
    /// What it waits for.
    waiting: Vec<WaitingPod>,
    /// Why it waits, and what carries its addresses.
    explanation: Box<Explanation>,
    /// What was done for it lately.
    events: Vec<NodeEvent>,
}

impl OfPod {
    fn ask(daemon: &Daemon, pod: &WhichPod) -> Result<Self, AskFailed> {
        let all = pods::leases(daemon)?;
        let leases: Vec<Lease> = pod.find(&all).into_iter().cloned().collect();
        let explanation = explanation(daemon)?;
        let events = events::ask(daemon, 0, 0)?.events;
        let is_meant = |event: &NodeEvent| match &event.what {
            NodeEventKind::Assigned { lease, .. }
            | NodeEventKind::Imported { lease }
            | NodeEventKind::Released { lease } => {
                !pod.find(core::slice::from_ref(lease)).is_empty()
            }
            NodeEventKind::Refused { key, pod: of, .. } => {
                pod.is(key, of.as_deref()) || leases.iter().any(|lease| lease.key == *key)
            }
            _ => false,
        };
        let events = events.into_iter().filter(is_meant).collect();
        let waiting = explanation
            .waiting
            .iter()
            .filter(|it| pod.is(&it.key, Some(&it.pod)))
            .cloned()
            .collect();
        Ok(Self { leases, waiting, explanation, events })
    }
}

impl core::fmt::Display for OfPod {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { leases, waiting, explanation, events } = self;
        for lease in leases {
            let pod = format!("{}/{}", lease.pod.namespace, lease.pod.name);
            writeln!(f, "{} ({}) since {}", OneLine(pod), OneLine(&lease.key), lease.since)?;
            for interface in lease.interfaces() {
                let mut addresses = String::new();
                for address in interface.addresses() {
                    write!(addresses, " {address}")?;
                }
                writeln!(f, "  has     {addresses}")?;
                match explanation.enis.iter().find(|eni| eni.eni == interface.eni) {
                    Some(eni) => writeln!(f, "  on       {eni}")?,
                    None => writeln!(f, "  on       {}, which is gone", interface.eni)?,
                }
            }
        }
        for WaitingPod { key, pod, deadline, .. } in waiting {
            let pod = format!("{}/{} ({key})", pod.namespace, pod.name);
            writeln!(f, "{} waits for an address until {deadline}", OneLine(pod))?;
            for issued in &explanation.doing {
                writeln!(f, "  does     {} {}: {}", issued.id, issued.action, issued.because)?;
            }
            for blocked in &explanation.blocked {
                writeln!(f, "  blocked  {blocked}")?;
            }
        }
        for event in events {
            f.write_str(&events::line(event))?;
        }
        Ok(())
    }
}
