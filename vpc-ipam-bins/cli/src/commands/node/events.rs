//! `vpc-ipam events` and `vpc-ipam watch`.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use clap::Args;
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipam_protocol::{Answer, EVENTS_WAIT_MAX, NodeEvent, NodeEvents, Request};

use super::Verdict;
use super::daemon::{AskFailed, Daemon, write};

/// Show what the daemon did and learned lately, and why: addresses of pods, actions on EC2 and the kernel, failures, repairs.
///
/// The daemon keeps the last 1,024. Exits with 0, or with 2 if the daemon cannot be asked.
#[derive(Debug, Args)]
pub(in crate::commands) struct EventsArgs {
    /// Only those after the one with this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    daemon: Daemon,
}

/// Show what the daemon does while it does it, until Ctrl-C.
///
/// A daemon that ends is waited for. With --json each line is a document. Exits with 0, or with 2 if the daemon cannot be asked at
/// the start.
#[derive(Debug, Args)]
pub(in crate::commands) struct WatchArgs {
    /// End after so many have been shown
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    daemon: Daemon,
}

/// Prints what happened.
pub(in crate::commands) fn events(args: &EventsArgs) -> Result<Verdict, AskFailed> {
    let events = ask(&args.daemon, args.after, 0)?;
    args.daemon.print(&events, |events| {
        let missed = missed(events.missed);
        events.events.iter().map(line).fold(missed, |text, line| text + &line)
    })?;
    Ok(Verdict::Yes)
}

/// Prints what happens.
pub(in crate::commands) fn watch(args: &WatchArgs) -> Result<Verdict, AskFailed> {
    /// After which a daemon that is away is asked again.
    const PAUSE: Duration = Duration::from_secs(1);

    // What was before is not watched.
    let NodeEvents { last: mut after, mut counted_since, .. } = ask(&args.daemon, u64::MAX, 0)?;
    let mut shown = 0;
    let mut is_away = false;
    loop {
        let asked = Instant::now();
        let events = match ask(&args.daemon, after, EVENTS_WAIT_MAX) {
            Ok(events) => events,
            Err(AskFailed::Print(error)) => return Err(AskFailed::Print(error)),
            Err(failed) => {
                if !is_away {
                    eprintln!("vpc-ipam: {}; asked again every second", OneLine(failed));
                }
                is_away = true;
                thread::sleep(PAUSE);
                continue;
            }
        };
        if is_away {
            eprintln!("vpc-ipam: the daemon answers again");
            is_away = false;
        }
        if events.counted_since != counted_since {
            // Another daemon, which counts from 1.
            (after, counted_since) = (0, events.counted_since);
            continue;
        }
        if events.events.is_empty() && asked.elapsed() < PAUSE {
            // It has no room for who waits.
            thread::sleep(PAUSE);
        }
        if events.missed > 0 {
            eprint!("vpc-ipam: {}", missed(events.missed));
        }
        for event in &events.events {
            if args.daemon.json {
                let json = serde_json::to_string(event);
                write(&json.map_err(|error| AskFailed::Print(error.into()))?, true)?;
            } else {
                write(&line(event), false)?;
            }
            shown += 1;
            if args.count.is_some_and(|count| shown >= count) {
                return Ok(Verdict::Yes);
            }
        }
        after = events.last;
    }
}

/// Asks for what happened.
pub(super) fn ask(daemon: &Daemon, after: u64, wait: u64) -> Result<NodeEvents, AskFailed> {
    daemon.ask(&Request::Events { after, wait }, |answer| match answer {
        Answer::Events(events) => Some(events),
        _ => None,
    })
}

/// Returns a line.
pub(super) fn line(NodeEvent { number, at, what }: &NodeEvent) -> String {
    format!("{number:>5}  {at}  {}\n", OneLine(what))
}

fn missed(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => "1 earlier event is no longer known\n".to_string(),
        more => format!("{more} earlier events are no longer known\n"),
    }
}
