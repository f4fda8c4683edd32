//! `vpc-ipam limits`, `max-pods` and `footprint`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vpc_ipam_core::capacity::compat::{
    CalculatorOptions, KarpenterOptions, calculator_sh, cluster_autoscaler, eni_max_pods_file,
    karpenter, nodeadm,
};
use vpc_ipam_core::capacity::{Cap, Footprint, Shape, address_footprint, max_pods as capacity};
use vpc_ipam_core::{Config, Families, Ipv4Kind, KnownLimits, Limits, LimitsSource};
use vpc_ipamd::operator_file;
use vpc_ipamd::settings::parse_var;

use super::Failure;

/// What limits are taken from besides the built-in table.
#[derive(Debug, Args)]
struct Known {
    /// A file with limits that come before the table's: JSON objects as `vpc-ipam limits --json` prints them, of which
    /// instance_type, enis_per_card and ipv4_per_eni are needed
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
}

impl Known {
    fn find(&self, name: &str) -> Result<Limits, Failure> {
        let trust = vec![LimitsSource::Override, LimitsSource::Table];
        let known = KnownLimits { trust, overrides: self.overrides()?, ec2: Vec::new() };
        Ok(known.find(name.parse()?)?.0)
    }

    fn overrides(&self) -> Result<Vec<Limits>, Failure> {
        let Some(path) = &self.limits else { return Ok(Vec::new()) };
        Ok(operator_file::limits(path)?)
    }
}

#[derive(Debug, Args)]
pub(super) struct LimitsArgs {
    /// Types, such as m5.large; none shows all
    types: Vec<String>,
    #[command(flatten)]
    known: Known,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn limits(args: &LimitsArgs) -> Result<(), Failure> {
    let all: Vec<Limits> = if args.types.is_empty() {
        let overrides = args.known.overrides()?;
        let stays = |limits: &Limits| {
            !overrides.iter().any(|other| other.instance_type == limits.instance_type)
        };
        let mut all: Vec<Limits> = Limits::all().filter(stays).collect();
        all.extend(overrides);
        all.sort_by_key(|limits| limits.instance_type);
        all
    } else {
        args.types.iter().map(|name| args.known.find(name)).collect::<Result<_, _>>()?
    };
    let mut out = io::stdout().lock();
    let written = (|| {
        if !args.json {
            writeln!(
                out,
                "{:<26} {:>5} {:>13} {:>13} {:>6} {:>10} {:>6} {:>10}",
                "type",
                "enis",
                "ipv4 per eni",
                "ipv6 per eni",
                "cards",
                "hypervisor",
                "vcpus",
                "memory MiB"
            )?;
        }
        for limits in &all {
            if args.json {
                serde_json::to_writer(&mut out, limits)?;
                writeln!(out)?;
                continue;
            }
            let hypervisor =
                if limits.bare_metal { "bare metal" } else { hypervisor(limits.hypervisor) };
            writeln!(
                out,
                "{:<26} {:>5} {:>13} {:>13} {:>6} {:>10} {:>6} {:>10}",
                limits.instance_type,
                limits.enis(limits.default_card),
                limits.ipv4_per_eni,
                limits.ipv6_per_eni,
                limits.enis_per_card.len(),
                hypervisor,
                limits.vcpus,
                limits.memory_mib,
            )?;
        }
        Ok(())
    })();
    unless_closed(written)
}

fn hypervisor(hypervisor: vpc_ipam_core::Hypervisor) -> &'static str {
    match hypervisor {
        vpc_ipam_core::Hypervisor::Nitro => "nitro",
        vpc_ipam_core::Hypervisor::Xen => "xen",
        vpc_ipam_core::Hypervisor::Unknown => "unknown",
    }
}

/// A reader that closes early, as `head` does, has what it wants.
fn unless_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[derive(Debug, Args)]
pub(super) struct MaxPodsArgs {
    /// The instance type, such as m5.large
    #[arg(value_name = "TYPE")]
    instance_type: String,
    /// Pods get addresses out of /28 prefixes
    #[arg(long, conflicts_with = "ipv6")]
    prefix_delegation: bool,
    /// Pods get IPv6 addresses
    #[arg(long)]
    ipv6: bool,
    /// Pods get no address of the primary ENI
    #[arg(long)]
    custom_networking: bool,
    /// One ENI is kept for a trunk, for security groups of pods
    #[arg(long)]
    trunk: bool,
    /// ENIs that are not for pods
    #[arg(long, value_name = "N", default_value_t = 0)]
    reserved_enis: u8,
    /// Fabric adapters without addresses on the default network card
    #[arg(long, value_name = "N", default_value_t = 0)]
    efa_only: u8,
    /// As the variable MAX_ENI
    #[arg(long, value_name = "N")]
    max_eni: Option<u8>,
    /// Pods on the host's network
    #[arg(long, value_name = "N", default_value_t = 2)]
    host_network_pods: u32,
    /// A bound besides addresses: none, aws (110 up to 30 vCPUs, 250 above) or a number
    #[arg(long, value_name = "CAP", default_value = "none", value_parser = parse_cap)]
    cap: Cap,
    #[command(flatten)]
    known: Known,
    /// Show what other tools say for the same node
    #[arg(long)]
    compare: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_cap(text: &str) -> Result<Cap, String> {
    match text {
        "none" => Ok(Cap::None),
        "aws" => Ok(Cap::ByVcpus),
        number => match number.parse() {
            Ok(pods) => Ok(Cap::Fixed(pods)),
            Err(_) => Err("expected none, aws or a number".to_string()),
        },
    }
}

pub(super) fn max_pods(args: &MaxPodsArgs) -> Result<(), Failure> {
    let limits = args.known.find(&args.instance_type)?;
    let kind = if args.prefix_delegation { Ipv4Kind::Prefixes } else { Ipv4Kind::Addresses };
    if args.ipv6 && !limits.prefixes() {
        return Err(format!("{} takes no prefixes, which IPv6 needs", limits.instance_type).into());
    }
    let shape = Shape {
        families: if args.ipv6 { Families::Ipv6 } else { Families::Ipv4(kind) },
        enis_max: args.max_eni,
        custom_networking: args.custom_networking,
        trunk: args.trunk,
        enis_reserved: args.reserved_enis.saturating_add(args.efa_only),
        host_network_pods: args.host_network_pods,
        cap: args.cap,
    };
    let ours = capacity(&limits, &shape);
    let others = others(args, &limits);
    let mut out = io::stdout().lock();
    let written = (|| {
        if args.json {
            let mut document = json!({ "instance_type": limits.instance_type, "capacity": ours });
            if args.compare {
                let pods = |other: &Other| (other.tool.to_string(), json!(other.pods));
                document["others"] = others.iter().map(pods).collect();
            }
            return writeln!(out, "{document}");
        }
        if args.prefix_delegation && !limits.prefixes() {
            let name = limits.instance_type;
            eprintln!("vpc-ipam: {name} takes no prefixes; counting single addresses");
        }
        writeln!(out, "{} pods, bound by {}", ours.max_pods, ours.bound_by)?;
        if ours.by_addresses != ours.max_pods {
            writeln!(out, "{} by addresses alone", ours.by_addresses)?;
        }
        if let Some(branches) = ours.branch_enis {
            writeln!(out, "{branches} of them with a branch ENI")?;
        }
        if args.compare {
            writeln!(out)?;
            for Other { tool, pods, why } in &others {
                let difference = i64::from(*pods) - i64::from(ours.max_pods);
                match difference {
                    0 => writeln!(out, "{tool:<26} {pods:>6}")?,
                    _ => writeln!(out, "{tool:<26} {pods:>6} {difference:>+7}  {why}")?,
                }
            }
        }
        Ok(())
    })();
    unless_closed(written)
}

/// What another tool says, and why that may differ.
struct Other {
    tool: &'static str,
    pods: u32,
    why: &'static str,
}

/// What other tools say, given the options that they have.
fn others(args: &MaxPodsArgs, limits: &Limits) -> Vec<Other> {
    let calculator = CalculatorOptions {
        custom_networking: args.custom_networking,
        prefix_delegation: args.prefix_delegation,
        max_eni: args.max_eni,
        show_max_allowed: false,
    };
    let reserved = u8::from(args.custom_networking) + u8::from(args.trunk);
    let karpenter_options = KarpenterOptions {
        reserved_enis: args.reserved_enis.saturating_add(reserved),
        efa_only: args.efa_only,
        ..KarpenterOptions::default()
    };
    let other = |tool, pods, why| Other { tool, pods, why };
    vec![
        other("eni-max-pods.txt, pluto", eni_max_pods_file(limits), "knows the type alone"),
        other(
            "max-pods-calculator.sh",
            calculator_sh(limits, &calculator),
            "caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes",
        ),
        other("nodeadm", nodeadm(Some(limits)), "knows the type alone"),
        other(
            "Karpenter",
            karpenter(limits, &karpenter_options),
            "knows RESERVED_ENIS, but no prefixes, IPv6, MAX_ENI or cap",
        ),
        other("cluster-autoscaler from 0", cluster_autoscaler(None), "takes 110 for every type"),
    ]
}

#[derive(Debug, Args)]
pub(super) struct FootprintArgs {
    /// The instance type, such as m5.large
    #[arg(value_name = "TYPE")]
    instance_type: String,
    /// Pods that need an address
    #[arg(long, value_name = "N", default_value_t = 0)]
    pods: u32,
    /// The most pods that the node runs; without it, as many as there are addresses
    #[arg(long, value_name = "N")]
    max_pods: Option<u32>,
    /// A variable of the node, such as WARM_IP_TARGET=5; may be repeated
    #[arg(long = "env", value_name = "K=V", value_parser = parse_var)]
    vars: Vec<(String, String)>,
    #[command(flatten)]
    known: Known,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn footprint(args: &FootprintArgs) -> Result<(), Failure> {
    let limits = args.known.find(&args.instance_type)?;
    let (mut config, notes) = Config::from_vars(args.vars.iter().cloned());
    for note in notes.into_iter().chain(config.warnings_on(&limits)) {
        eprintln!("vpc-ipam: {note}");
    }
    config.pods_max = args.max_pods;
    let shape = Shape {
        families: config.families,
        enis_max: config.enis_max,
        custom_networking: config.custom_networking,
        trunk: config.trunk,
        host_network_pods: 0,
        ..Shape::default()
    };
    let most = args.max_pods.unwrap_or_else(|| capacity(&limits, &shape).max_pods);
    let claims = address_footprint(&limits, &config, args.pods, most);
    let mut out = io::stdout().lock();
    let written = (|| {
        if args.json {
            let document = json!({ "instance_type": limits.instance_type, "claims": claims });
            return writeln!(out, "{document}");
        }
        writeln!(
            out,
            "{:<16} {:>5} {:>10} {:>22}",
            "", "enis", "for pods", "out of subnets in all"
        )?;
        let at_pods = format!("with {} pods", args.pods);
        let rows = [
            ("at boot", claims.at_boot),
            (at_pods.as_str(), claims.at_pods),
            ("at worst", claims.worst),
        ];
        for (when, Footprint { enis, for_pods, in_all }) in rows {
            writeln!(out, "{when:<16} {enis:>5} {for_pods:>10} {in_all:>22}")?;
        }
        Ok(())
    })();
    unless_closed(written)
}
