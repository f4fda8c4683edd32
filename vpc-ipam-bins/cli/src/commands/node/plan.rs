//! `vpc-ipam plan`.

use core::fmt::Write as _;

use clap::Args;
use vpc_ipam_core::{CardDemand, Plan, Planned};
use vpc_ipam_protocol::{Answer, Request};

use super::Verdict;
use super::daemon::{AskFailed, Daemon};

/// Show what the daemon would do next, and why; nothing once the node has what it wants.
///
/// What it is doing already is shown by `explain`. Exits with 0, or with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
pub(in crate::commands) struct PlanArgs {
    #[command(flatten)]
    daemon: Daemon,
}

/// Prints the plan.
pub(in crate::commands) fn plan(args: &PlanArgs) -> Result<Verdict, AskFailed> {
    let plan = args.daemon.ask(&Request::Plan, |answer| match answer {
        Answer::Plan(plan) => Some(plan),
        _ => None,
    })?;
    args.daemon.print(&plan, words)?;
    Ok(Verdict::Yes)
}

fn words(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for CardDemand { card, target, stock, demand, .. } in &plan.demand {
        let _ = writeln!(text, "wants    {card}: {stock}, {target}: {demand}");
    }
    for Planned { action, because, .. } in &plan.actions {
        let _ = writeln!(text, "next     {action}: {because}");
    }
    for blocked in plan.blocked.iter().filter(|it| !it.is_next_reading()) {
        let _ = writeln!(text, "blocked  {blocked}");
    }
    if plan.actions.is_empty() {
        text.push_str("nothing is to be done now\n");
    }
    text
}
