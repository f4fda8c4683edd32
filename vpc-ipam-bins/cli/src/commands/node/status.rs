//! `vpc-ipam status`.

use core::fmt::Write as _;

use clap::Args;
use vpc_ipam_core::{Card, Explanation, Management, RecentFailure};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{AddressStates, Answer, EniInventory, Inventory, Request};

use super::Verdict;
use super::daemon::{AskFailed, Daemon};
use super::table::Table;

/// Show whether the node can take pods and why, its ENIs and addresses, what is blocked, what failed, and how many EC2 calls are left.
///
/// Exits with 0 if the next pod gets an address, with 1 if not, with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
pub(in crate::commands) struct StatusArgs {
    #[command(flatten)]
    daemon: Daemon,
}

/// Prints how the node stands.
pub(in crate::commands) fn status(args: &StatusArgs) -> Result<Verdict, AskFailed> {
    let inventory = args.daemon.ask(&Request::Inventory, |answer| match answer {
        Answer::Inventory(inventory) => Some(inventory),
        _ => None,
    })?;
    args.daemon.print(&inventory, |inventory| words(inventory))?;
    Ok(if inventory.ready { Verdict::Yes } else { Verdict::No })
}

fn words(inventory: &Inventory) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_words(&mut text, inventory);
    text
}

fn write_words(text: &mut String, inventory: &Inventory) -> core::fmt::Result {
    let Explanation { at, instance, instance_type, blocked, failed, waiting, learned, .. } =
        &inventory.explanation;
    let ready = if inventory.ready { "ready" } else { "not ready" };
    writeln!(text, "{instance} ({instance_type}, {}) at {at}: {ready}", inventory.zone)?;
    if inventory.reason != ready {
        writeln!(text, "  because    {}", OneLine(&inventory.reason))?;
    }
    let all = inventory.enis.iter().map(states).fold(AddressStates::default(), sum);
    let AddressStates { assigned, cooling, untracked, withheld, free } = all;
    writeln!(text, "  pods       {assigned} addresses assigned, {} pods wait", waiting.len())?;
    writeln!(
        text,
        "  addresses  {free} free, {cooling} cooling, {untracked} untracked, {withheld} withheld; {} at most",
        inventory.addresses_max
    )?;
    for problem in &inventory.problems {
        writeln!(text, "  problem    {}", OneLine(problem))?;
    }
    for blocked in blocked.iter().filter(|it| !it.is_next_reading()) {
        writeln!(text, "  blocked    {blocked}")?;
    }
    for RecentFailure { scope, last, in_a_row, until, .. } in failed {
        writeln!(
            text,
            "  failed     {scope}, {in_a_row} in a row, until {until}: {}",
            OneLine(last)
        )?;
    }
    for limit in learned {
        writeln!(text, "  learned    {limit}")?;
    }
    if inventory.repairs > 0 {
        let Inventory { repairs, repaired, .. } = inventory;
        writeln!(text, "  repairs    {repairs} of the node's network, {repaired} objects")?;
    }
    let left: Vec<String> =
        inventory.calls_left.iter().map(|(call, left)| format!("{call} {left}")).collect();
    writeln!(text, "  calls left {}", left.join(", "))?;
    writeln!(text)?;
    write!(text, "{}", enis(inventory))
}

fn states(eni: &EniInventory) -> AddressStates {
    eni.blocks.iter().map(|block| block.states()).fold(AddressStates::default(), sum)
}

fn sum(a: AddressStates, b: AddressStates) -> AddressStates {
    AddressStates {
        assigned: a.assigned + b.assigned,
        cooling: a.cooling + b.cooling,
        untracked: a.untracked + b.untracked,
        withheld: a.withheld + b.withheld,
        free: a.free + b.free,
    }
}

/// Returns a row for each ENI.
fn enis(inventory: &Inventory) -> Table {
    let mut table = Table::new(&[
        "eni",
        "card",
        "device",
        "subnet",
        "assigned",
        "cooling",
        "untracked",
        "withheld",
        "free",
        "stage",
    ]);
    for eni in &inventory.enis {
        let AddressStates { assigned, cooling, untracked, withheld, free } = states(eni);
        let Card(card) = eni.card;
        let besides = [
            (eni.primary, "primary".to_string()),
            (eni.management != Management::Managed, eni.management.to_string()),
            (eni.excluded, "its subnet is out of use".to_string()),
        ];
        let besides = besides.into_iter().filter_map(|(is, what)| is.then_some(what));
        let stage: Vec<String> = core::iter::once(eni.stage.to_string()).chain(besides).collect();
        let counts = [assigned, cooling, untracked, withheld, free].map(|it| it.to_string());
        let front = [
            eni.id.to_string(),
            card.to_string(),
            eni.device.0.to_string(),
            eni.subnet.to_string(),
        ];
        table.row(front.into_iter().chain(counts).chain([stage.join(", ")]));
    }
    table
}
