//! `vpc-ipam limits`.

use std::io;

use clap::Args;
use vpc_ipam_core::{Hypervisor, LimitsSource};

use super::types::{Found, Known};
use super::{Failure, unless_closed};

#[derive(Debug, Args)]
pub(in crate::commands) struct LimitsArgs {
    /// Types, such as m5.large, or patterns, such as 'm5.*'; none shows all
    types: Vec<String>,
    #[command(flatten)]
    known: Known,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(in crate::commands) fn limits(args: &LimitsArgs) -> Result<(), Failure> {
    let found = args.known.find_all(&args.types)?;
    let out = io::stdout().lock();
    unless_closed(if args.json { print_json(out, &found) } else { print_text(out, &found) })
}

fn print_json(mut out: impl io::Write, found: &[Found]) -> io::Result<()> {
    for (limits, _) in found {
        serde_json::to_writer(&mut out, limits)?;
        writeln!(out)?;
    }
    Ok(())
}

fn print_text(mut out: impl io::Write, found: &[Found]) -> io::Result<()> {
    writeln!(
        out,
        "{:<26} {:>5} {:>13} {:>13} {:>6} {:>10} {:>6} {:>11} {:>11}  source",
        "type",
        "enis",
        "ipv4 per eni",
        "ipv6 per eni",
        "cards",
        "hypervisor",
        "vcpus",
        "memory MiB",
        "branch enis",
    )?;
    for (limits, source) in found {
        let hypervisor =
            if limits.bare_metal { "bare metal" } else { hypervisor(limits.hypervisor) };
        let or_unknown = |known: bool, text: String| if known { text } else { "?".to_string() };
        writeln!(
            out,
            "{:<26} {:>5} {:>13} {:>13} {:>6} {:>10} {:>6} {:>11} {:>11}  {}",
            limits.instance_type,
            limits.enis(limits.default_card),
            limits.ipv4_per_eni,
            limits.ipv6_per_eni,
            limits.enis_per_card.len(),
            hypervisor,
            or_unknown(limits.vcpus > 0, limits.vcpus.to_string()),
            or_unknown(limits.memory_mib > 0, limits.memory_mib.to_string()),
            limits.branch_enis.map_or("?".to_string(), |branches| branches.to_string()),
            name_of(*source),
        )?;
    }
    Ok(())
}

fn hypervisor(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Nitro => "nitro",
        Hypervisor::Xen => "xen",
        Hypervisor::Unknown => "unknown",
    }
}

/// Returns who says so, in the words of the help text.
pub(super) fn name_of(source: LimitsSource) -> &'static str {
    match source {
        LimitsSource::Override => "file",
        LimitsSource::Table | LimitsSource::Ec2 => "ec2",
        _ => "other tables",
    }
}
