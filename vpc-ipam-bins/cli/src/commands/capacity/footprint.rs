//! `vpc-ipam footprint`.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;
use vpc_ipam_core::capacity::{
    Footprint, Footprints, Shape, address_footprint, max_pods as capacity,
};
use vpc_ipam_core::{Config, Limits};

use super::types::{Known, is_pattern};
use super::{Failure, unless_closed};
use vpc_ipamd::settings::parse_var;

#[derive(Debug, Args)]
pub(in crate::commands) struct FootprintArgs {
    /// Types, such as m5.large, or patterns, such as 'm5.*'
    #[arg(value_name = "TYPE", required = true)]
    types: Vec<String>,
    /// Pods that need an address
    #[arg(long, value_name = "N", default_value_t = 0)]
    pods: u32,
    /// The most pods with an address of their own that the node runs, those on the host's network not counted; without it, as many as
    /// there are addresses
    #[arg(long, value_name = "N")]
    max_pods: Option<u32>,
    /// A variable of the node, such as WARM_IP_TARGET=5; may be repeated
    #[arg(long = "env", value_name = "K=V", value_parser = parse_var)]
    vars: Vec<(String, String)>,
    #[command(flatten)]
    known: Known,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// What is said of one type.
struct Answer {
    limits: Limits,
    footprints: Footprints,
    notes: Vec<String>,
}

pub(in crate::commands) fn footprint(args: &FootprintArgs) -> Result<(), Failure> {
    let found = args.known.find_all(&args.types)?;
    let (mut config, warnings) = Config::from_vars(args.vars.iter().cloned());
    config.pods_max = args.max_pods;
    let mut answers = Vec::new();
    for (limits, _) in found {
        let named = args.types.iter().any(|name| name == limits.instance_type.as_str());
        let mut notes: Vec<String> =
            config.warnings_on(&limits).iter().map(ToString::to_string).collect();
        if config.families.ipv6() && !limits.prefixes() {
            let refusal = format!("{} takes no prefixes, which IPv6 needs", limits.instance_type);
            if named {
                return Err(refusal.into());
            }
            notes.push(refusal);
        }
        let shape = Shape::from(&config).with_host_network_pods(0);
        let by_addresses = capacity(&limits, &shape).max_pods;
        let most = args.max_pods.unwrap_or(by_addresses);
        let fit = most.min(by_addresses);
        if args.pods > fit {
            let name = limits.instance_type;
            notes.push(format!("{name} takes {fit} pods that need an address, not {}", args.pods));
        }
        let footprints = address_footprint(&limits, &config, args.pods, most);
        answers.push(Answer { limits, footprints, notes });
    }
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let one = answers.len() == 1 && !args.types.iter().any(|name| is_pattern(name));
    let out = io::stdout().lock();
    unless_closed(if args.json {
        print_json(out, &warnings, &answers)
    } else {
        args.print_text(out, &warnings, &answers, one)
    })
}

fn print_json(mut out: impl Write, warnings: &[String], answers: &[Answer]) -> io::Result<()> {
    for Answer { limits, footprints, notes } in answers {
        let notes: Vec<&String> = warnings.iter().chain(notes).collect();
        let document = json!({
            "instance_type": limits.instance_type,
            "claims": footprints,
            "notes": notes,
        });
        writeln!(out, "{document}")?;
    }
    Ok(())
}

impl FootprintArgs {
    fn print_text(
        &self,
        mut out: impl Write,
        warnings: &[String],
        answers: &[Answer],
        one: bool,
    ) -> io::Result<()> {
        for warning in warnings {
            eprintln!("vpc-ipam: {warning}");
        }
        for (index, Answer { limits, footprints, notes }) in answers.iter().enumerate() {
            for note in notes {
                eprintln!("vpc-ipam: {note}");
            }
            if !one {
                writeln!(out, "{}{}", if index > 0 { "\n" } else { "" }, limits.instance_type)?;
            }
            self.print_rows(&mut out, footprints)?;
        }
        Ok(())
    }

    fn print_rows(&self, mut out: impl Write, footprints: &Footprints) -> io::Result<()> {
        let at_pods = format!("with {} pods", self.pods);
        let rows = [
            ("at boot", footprints.at_boot),
            (at_pods.as_str(), footprints.at_pods),
            ("at worst", footprints.worst),
        ];
        let ipv6 = rows.iter().any(|(_, footprint)| footprint.ipv6_prefixes > 0);
        let heading = if ipv6 { format!(" {:>13}", "ipv6 prefixes") } else { String::new() };
        writeln!(
            out,
            "{:<16} {:>5} {:>10} {:>22}{heading}",
            "", "enis", "for pods", "out of subnets in all"
        )?;
        for (when, Footprint { enis, for_pods, in_all, ipv6_prefixes, .. }) in rows {
            let prefixes = if ipv6 { format!(" {ipv6_prefixes:>13}") } else { String::new() };
            writeln!(out, "{when:<16} {enis:>5} {for_pods:>10} {in_all:>22}{prefixes}")?;
        }
        Ok(())
    }
}
