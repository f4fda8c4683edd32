//! `vpc-ipam max-pods`.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;
use vpc_ipam_core::capacity::compat::{KubeReserved, kube_reserved};
use vpc_ipam_core::capacity::{Cap, Capacity, Shape, max_pods as capacity};
use vpc_ipam_core::{Families, Ipv4Kind, Limits, LimitsSource};

use super::compare::{Settings, Tool, tools};
use super::types::{Found, Known, is_pattern};
use super::{Failure, unless_closed};

#[derive(Debug, Args)]
pub(in crate::commands) struct MaxPodsArgs {
    /// Types, such as m5.large, or patterns, such as 'm5.*'
    #[arg(value_name = "TYPE", required = true)]
    types: Vec<String>,
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
    /// ENIs that are not for pods, besides those that custom networking and a trunk keep; with --compare, Karpenter's RESERVED_ENIS
    /// is their sum
    #[arg(long, value_name = "N", default_value_t = 0)]
    reserved_enis: u8,
    /// Fabric adapters without addresses on the default network card
    #[arg(long, value_name = "N", default_value_t = 0)]
    efa_only: u8,
    /// As the variable MAX_ENI; 0 leaves the type's limit
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
    /// An expression (CEL) as nodeadm's maxPodsExpression and Karpenter's maxPods take it, such as 'max_pods - 2'; what either
    /// makes of it is shown with the other tools
    #[arg(long, value_name = "CEL", requires = "compare")]
    expression: Option<String>,
    /// Show what an EKS node with that many pods keeps for kubelet (kube-reserved)
    #[arg(long)]
    kube_reserved: bool,
    /// Print JSON, one object a line
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

/// What is said of one type.
struct Answer {
    limits: Limits,
    capacity: Capacity,
    notes: Vec<String>,
    tools: Vec<Tool>,
    reserved: KubeReserved,
}

pub(in crate::commands) fn max_pods(args: &MaxPodsArgs) -> Result<(), Failure> {
    let found = args.known.find_all(&args.types)?;
    let shape = args.shape();
    let named =
        |limits: &Limits| args.types.iter().any(|name| name == limits.instance_type.as_str());
    if let Some((limits, _)) =
        found.iter().find(|(limits, _)| args.ipv6 && !limits.prefixes() && named(limits))
    {
        return Err(format!("{} takes no prefixes, which IPv6 needs", limits.instance_type).into());
    }
    let answers: Vec<Answer> = found.into_iter().map(|found| args.answer(found, &shape)).collect();
    let one = answers.len() == 1 && !args.types.iter().any(|name| is_pattern(name));
    let out = io::stdout().lock();
    unless_closed(match answers.as_slice() {
        _ if args.json => args.print_json(out, &answers),
        [answer] if one => args.print_one(out, answer),
        _ => args.print_table(out, &answers),
    })
}

impl MaxPodsArgs {
    fn shape(&self) -> Shape {
        let kind = if self.prefix_delegation { Ipv4Kind::Prefixes } else { Ipv4Kind::Addresses };
        Shape::default()
            .with_families(if self.ipv6 { Families::Ipv6 } else { Families::Ipv4(kind) })
            .with_enis_max(self.max_eni)
            .with_custom_networking(self.custom_networking)
            .with_trunk(self.trunk)
            .with_enis_reserved(self.reserved_enis.saturating_add(self.efa_only))
            .with_host_network_pods(self.host_network_pods)
            .with_cap(self.cap)
    }

    fn answer(&self, (limits, source): Found, shape: &Shape) -> Answer {
        let capacity = capacity(&limits, shape);
        let settings = Settings {
            custom_networking: self.custom_networking,
            prefix_delegation: self.prefix_delegation,
            trunk: self.trunk,
            max_eni: self.max_eni.filter(|most| *most > 0),
            reserved_enis: self.reserved_enis,
            efa_only: self.efa_only,
            expression: self.expression.as_deref(),
        };
        let tools = if self.compare { tools(&limits, &settings) } else { Vec::new() };
        let reserved = kube_reserved(capacity.max_pods, limits.vcpus);
        let notes = self.notes(&limits, source, &capacity);
        Answer { limits, capacity, notes, tools, reserved }
    }

    /// What a reader of the number should know besides.
    fn notes(&self, limits: &Limits, source: LimitsSource, capacity: &Capacity) -> Vec<String> {
        let name = limits.instance_type;
        let mut notes = Vec::new();
        if source == LimitsSource::OtherTables {
            notes.push(format!("{name} is known from public tables of other tools, not from EC2"));
        }
        if self.prefix_delegation && !limits.prefixes() {
            notes.push(format!("{name} takes no prefixes; counting single addresses"));
        }
        if self.trunk && limits.branch_enis == Some(0) {
            notes.push(format!("{name} takes no trunk; no ENI is kept for one"));
        }
        if self.trunk && limits.branch_enis.is_none() {
            notes.push(format!("how many branch ENIs a trunk of {name} carries is not published"));
        }
        if limits.vcpus == 0 && (self.cap == Cap::ByVcpus || self.kube_reserved) {
            notes.push(format!("the vCPUs of {name} are not known; counting as few"));
        }
        let primary_alone = limits.enis(limits.default_card) == 1;
        if self.custom_networking && primary_alone && capacity.by_addresses > 0 {
            notes.push(format!("{name} has one ENI, which custom networking keeps from pods"));
        }
        notes
    }

    fn print_json(&self, mut out: impl Write, answers: &[Answer]) -> io::Result<()> {
        for answer in answers {
            let mut document = json!({
                "instance_type": answer.limits.instance_type,
                "capacity": answer.capacity,
                "notes": answer.notes,
            });
            if self.compare {
                let pods = |tool: &Tool| (tool.name.to_string(), json!(tool.pods));
                document["others"] = answer.tools.iter().map(pods).collect();
            }
            if self.kube_reserved {
                document["kube_reserved"] = json!(answer.reserved);
            }
            writeln!(out, "{document}")?;
        }
        Ok(())
    }

    fn print_one(&self, mut out: impl Write, answer: &Answer) -> io::Result<()> {
        print_notes(&answer.notes);
        let capacity = &answer.capacity;
        writeln!(out, "{} pods, bound by {}", capacity.max_pods, capacity.bound_by)?;
        if capacity.by_addresses != capacity.max_pods {
            writeln!(out, "{} by addresses alone", capacity.by_addresses)?;
        }
        if let Some(branches) = capacity.branch_enis {
            writeln!(out, "{branches} of them with a branch ENI")?;
        }
        self.print_details(out, answer)
    }

    /// Prints what was asked for besides the number.
    fn print_details(&self, mut out: impl Write, answer: &Answer) -> io::Result<()> {
        if self.kube_reserved {
            let KubeReserved { cpu_millis, memory_mib, ephemeral_storage_mib, .. } =
                answer.reserved;
            writeln!(
                out,
                "kube-reserved: cpu={cpu_millis}m,memory={memory_mib}Mi,ephemeral-storage={ephemeral_storage_mib}Mi"
            )?;
        }
        if self.compare {
            writeln!(out)?;
        }
        for Tool { name, pods, why, fails } in &answer.tools {
            let difference = pods.map(|pods| i64::from(pods) - i64::from(answer.capacity.max_pods));
            let pods = pods.map_or("-".to_string(), |pods| pods.to_string());
            match difference {
                Some(0) if !fails => writeln!(out, "{name:<26} {pods:>6}")?,
                Some(0) | None => writeln!(out, "{name:<26} {pods:>6} {:>7}  {why}", "")?,
                Some(by) => writeln!(out, "{name:<26} {pods:>6} {by:>+7}  {why}")?,
            }
        }
        Ok(())
    }

    fn print_table(&self, mut out: impl Write, answers: &[Answer]) -> io::Result<()> {
        let heading = || {
            format!(
                "{:<26} {:>6} {:>13} {:>11}  bound by",
                "type", "pods", "by addresses", "branch enis"
            )
        };
        let in_blocks = self.compare || self.kube_reserved;
        if !in_blocks {
            writeln!(out, "{}", heading())?;
        }
        for (index, answer) in answers.iter().enumerate() {
            print_notes(&answer.notes);
            if in_blocks {
                let gap = if index > 0 { "\n" } else { "" };
                writeln!(out, "{gap}{}", heading())?;
            }
            let Capacity { max_pods, by_addresses, bound_by, branch_enis, .. } = answer.capacity;
            let branches = match branch_enis {
                Some(branches) => branches.to_string(),
                None if self.trunk && answer.limits.branch_enis.is_none() => "?".to_string(),
                None => "-".to_string(),
            };
            let name = answer.limits.instance_type;
            writeln!(
                out,
                "{name:<26} {max_pods:>6} {by_addresses:>13} {branches:>11}  {bound_by}"
            )?;
            self.print_details(&mut out, answer)?;
        }
        Ok(())
    }
}

fn print_notes(notes: &[String]) {
    for note in notes {
        eprintln!("vpc-ipam: {note}");
    }
}
