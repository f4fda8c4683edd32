//! `vpc-ipam replay`: what the address management of a node decided, once more.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vpc_ipam_core::journal::{Divergence, Input, Replay, ReplayError, Replayed, Reply, Step};
use vpc_ipam_core::{Event, Explanation, Timestamp, error_chain};
use vpc_ipam_protocol::one_line::OneLine;
use vpc_ipamd::journal::{self, Begins, Cut, RELEASE, Segment, SegmentError};

/// Show again each decision that a node's journal has: when, upon what, which actions, and why.
///
/// The journal is /run/vpc-ipam/journal on a node, and is in the archive of `vpc-ipam support`. Every input is taken in once more, and
/// what follows from it is compared with what followed then. No daemon is asked, so this works on any machine. Times are in UTC.
///
/// Steps in which nothing but time passed and nothing followed are left out, except with --json.
///
/// Exits with 0 if the same decisions follow, 1 if others do, 2 if that cannot be told, wholly or in part.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A segment of a journal, a folder of segments, or a support archive
    #[arg(value_name = "FILE|FOLDER|ARCHIVE")]
    journal: PathBuf,
    /// After each decision, show what was held, wanted, done and blocked
    #[arg(long)]
    explain: bool,
    /// Show what was held, wanted, done and blocked at this time alone, as in 2026-11-25T22:53:30Z
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "explain")]
    at: Option<Timestamp>,
    /// Print a JSON document a line: `segment`, then `step`s, `diverged`, and with --at an `explanation`
    #[arg(long)]
    json: bool,
}

const DIFFERS: u8 = 1;
const NOT_TOLD: u8 = 2;

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let at: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let nanos = u64::try_from(at.as_nanosecond()).map_err(|_| "it is before 1970".to_string())?;
    Ok(Timestamp::from_nanos(nanos))
}

pub(super) fn main(args: &ReplayArgs) -> ExitCode {
    let segments = match journal::read(&args.journal) {
        Ok(segments) => segments,
        Err(error) => {
            eprintln!("vpc-ipam: {}", OneLine(error_chain(&error)));
            return ExitCode::from(NOT_TOLD);
        }
    };
    let mut found = Found::default();
    let mut readable = Vec::new();
    for segment in segments {
        match segment {
            Ok(segment) => readable.push(segment),
            // Nothing was recorded in it.
            Err(error @ SegmentError::NoHead { .. }) => {
                eprintln!("vpc-ipam: {}", OneLine(error.to_string()));
            }
            Err(error) => found.not_told(&error_chain(&error)),
        }
    }
    found.not_told |= readable.is_empty();
    let out = &mut BufWriter::new(io::stdout().lock());
    let written = match args.at {
        Some(at) => show_at(at, args.json, readable, &mut found, out),
        None => readable.into_iter().try_for_each(|it| show(it, args, &mut found, out)),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("vpc-ipam: write: {error}");
            ExitCode::from(NOT_TOLD)
        }
        _ if found.differs => ExitCode::from(DIFFERS),
        _ if found.not_told => ExitCode::from(NOT_TOLD),
        _ => ExitCode::SUCCESS,
    }
}

/// What the exit code says.
#[derive(Debug, Default)]
struct Found {
    differs: bool,
    not_told: bool,
}

impl Found {
    fn not_told(&mut self, why: &str) {
        self.not_told = true;
        eprintln!("vpc-ipam: {}", OneLine(why));
    }

    fn cut(&mut self, segment: &Segment) {
        match &segment.cut {
            None => {}
            // A daemon that was killed lost nothing that a pod was promised: no reason to fail.
            Some(cut @ Cut::Torn { .. }) => {
                eprintln!("vpc-ipam: {}: {cut}", OneLine(&segment.name));
            }
            Some(cut) => self.not_told(&format!("{}: {cut}", segment.name)),
        }
    }

    fn failed(&mut self, segment: &str, error: &ReplayError) {
        match error {
            ReplayError::Diverged(_) => {
                self.differs = true;
                eprintln!("vpc-ipam: {}: {}", OneLine(segment), OneLine(error.to_string()));
            }
            error => self.not_told(&format!("{segment}: {}", error_chain(error))),
        }
    }
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Segment {
        name: &'a str,
        release: &'a str,
        at: Timestamp,
        begins: Begins,
        instance: &'a str,
        instance_type: &'a str,
    },
    Step {
        #[serde(flatten)]
        replayed: &'a Replayed,
        #[serde(skip_serializing_if = "Option::is_none")]
        explanation: Option<Explanation>,
    },
    Diverged {
        recorded: &'a Step,
        difference: String,
    },
    Explanation(&'a Explanation),
}

fn write_json(line: &Line<'_>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

/// Prepares the replay of a segment.
fn begin(segment: &mut Segment, found: &mut Found) -> Replay {
    found.cut(segment);
    let head = &segment.head;
    let replay = Replay::from_snapshot(&head.snapshot);
    if replay.ipam().state() != head.state {
        // Their hashes are of another build, of this release or of another one.
        eprintln!(
            "vpc-ipam: {}: another build of release {} wrote it, and this is release {RELEASE}: actions are compared, and hashes of the state are not",
            OneLine(&segment.name),
            OneLine(&head.release),
        );
        segment.steps.iter_mut().for_each(|step| step.state = None);
    }
    replay
}

fn show(
    mut segment: Segment,
    args: &ReplayArgs,
    found: &mut Found,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut replay = begin(&mut segment, found);
    write_head(&segment, args.json, out)?;
    let Segment { name, steps, .. } = segment;
    for step in steps {
        let at = step.at;
        let replayed = match replay.step(step) {
            Ok(replayed) => replayed,
            Err(error) => {
                out.flush()?;
                found.failed(&name, &error);
                if let ReplayError::Diverged(divergence) = &error {
                    write_divergence(divergence, args.json, out)?;
                }
                // What follows another decision says nothing of those that were made.
                return Ok(());
            }
        };
        let decided = is_decision(&replayed);
        let explanation = (args.explain && decided).then(|| replay.ipam().explain(at));
        if args.json {
            write_json(&Line::Step { replayed: &replayed, explanation }, out)?;
        } else if decided || !matches!(replayed.step.input, Input::Timeout) {
            write_step(&replayed, explanation.as_ref(), out)?;
        }
    }
    Ok(())
}

fn is_decision(replayed: &Replayed) -> bool {
    !(replayed.step.issued.is_empty() && replayed.replies.is_empty() && replayed.events.is_empty())
}

fn write_head(segment: &Segment, json: bool, out: &mut impl Write) -> io::Result<()> {
    let Segment { name, head, .. } = segment;
    let node = head.snapshot.node();
    if json {
        let line = Line::Segment {
            name,
            release: &head.release,
            at: head.at,
            begins: head.begins,
            instance: node.instance.as_str(),
            instance_type: node.instance_type.as_str(),
        };
        return write_json(&line, out);
    }
    let begins = match head.begins {
        Begins::Started => "vpc-ipamd starts",
        Begins::GoesOn => "goes on",
        Begins::Gap => "goes on after a gap: steps before this are missing",
        _ => "begins",
    };
    let (instance, instance_type) = (node.instance, node.instance_type);
    writeln!(out, "{} {} {instance} ({instance_type}): {begins}", head.at, OneLine(name))
}

fn write_step(
    replayed: &Replayed,
    explanation: Option<&Explanation>,
    out: &mut impl Write,
) -> io::Result<()> {
    let Replayed { step, replies, events, .. } = replayed;
    writeln!(out, "{} {}", step.at, OneLine(step.input.to_string()))?;
    for issued in &step.issued {
        let (id, action, because) = (issued.id, &issued.action, &issued.because);
        writeln!(out, "  does     {id} {}", OneLine(format!("{action}: {because}")))?;
    }
    for reply in replies {
        // That a lease is durable is what the input says.
        if !matches!(reply, Reply::Committed(_)) {
            writeln!(out, "  answers  {}", OneLine(reply.to_string()))?;
        }
    }
    for event in events {
        // That an action failed is what the input says.
        if !matches!(event, Event::ActionFailed { .. }) {
            writeln!(out, "  event    {}", OneLine(event.to_string()))?;
        }
    }
    if let Some(explanation) = explanation {
        for line in explanation.to_string().lines() {
            writeln!(out, "    | {}", OneLine(line))?;
        }
    }
    Ok(())
}

fn write_divergence(divergence: &Divergence, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let (recorded, difference) = (&divergence.recorded, divergence.to_string());
        return write_json(&Line::Diverged { recorded, difference }, out);
    }
    writeln!(out, "{} differs  {}", divergence.recorded.at, OneLine(divergence.to_string()))
}

/// Shows the node at one time: after the last step until then.
fn show_at(
    at: Timestamp,
    json: bool,
    segments: Vec<Segment>,
    found: &mut Found,
    out: &mut impl Write,
) -> io::Result<()> {
    let begun = segments.iter().rposition(|segment| segment.head.at <= at);
    let Some(mut segment) = begun.and_then(|index| segments.into_iter().nth(index)) else {
        found.not_told(&format!("the journal begins later than {at}"));
        return Ok(());
    };
    let mut replay = begin(&mut segment, found);
    let Segment { name, steps, .. } = segment;
    for step in steps.into_iter().take_while(|step| step.at <= at) {
        if let Err(error) = replay.step(step) {
            out.flush()?;
            found.failed(&name, &error);
            return Ok(());
        }
    }
    let explanation = replay.ipam().explain(at);
    if json {
        return write_json(&Line::Explanation(&explanation), out);
    }
    explanation.to_string().lines().try_for_each(|line| writeln!(out, "{}", OneLine(line)))
}
