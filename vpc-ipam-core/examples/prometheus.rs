//! For operators and embedders who watch nodes: what a node holds, wants and waits for, in the text format of Prometheus.
//!
//! `cargo run -p vpc-ipam-core --features sim --example prometheus`. Everything comes from [`Ipam::plan`] and [`Ipam::recent_failures`], which
//! change nothing; serve the text at `/metrics`. Alert on `vpc_ipam_blocked` of the reasons that only an operator can mend.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance, World};
use vpc_ipam_core::{
    Action, Config, Demand, HostAction, Ipam, Limits, Timestamp, WaitingOn, Wanted,
};

fn main() -> Result<(), Box<dyn Error>> {
    let world = node_in_a_full_subnet()?;
    let text = metrics(&world.ipam, world.now);
    print!("{text}");
    for line in [
        "vpc_ipam_addresses{card=\"0\",state=\"held\"} 10",
        "vpc_ipam_addresses{card=\"0\",state=\"assigned\"} 10",
        "vpc_ipam_blocks_short{card=\"0\"} 7",
        "vpc_ipam_blocked{wanted=\"eni\",waiting_on=\"subnet_full\"} 1",
        "vpc_ipam_pods_waiting 2",
    ] {
        assert!(text.lines().any(|actual| actual == line), "{line} is missing");
    }
    Ok(())
}

/// Returns the metrics of a node.
fn metrics(ipam: &Ipam, now: Timestamp) -> String {
    let plan = ipam.plan(now);
    let mut text = Text::default();

    text.family("vpc_ipam_addresses", "IPv4 addresses for pods on a network card.");
    for card in &plan.demand {
        let stock = card.stock;
        for (state, count) in
            [("held", stock.total), ("assigned", stock.assigned), ("cooling", stock.cooling)]
        {
            text.sample(&[("card", &card.card.0.to_string()), ("state", state)], count.into());
        }
    }
    text.family(
        "vpc_ipam_blocks_short",
        "Addresses or prefixes below the target; negative above it.",
    );
    for card in &plan.demand {
        let short = match card.demand {
            Demand::Met => 0,
            Demand::Short(blocks) => i64::from(blocks),
            Demand::Over(blocks) => -i64::from(blocks),
        };
        text.sample(&[("card", &card.card.0.to_string())], short);
    }
    text.family("vpc_ipam_actions", "Actions that are under way or due, by operation.");
    let under_way = ipam.in_flight().map(|(_, planned)| planned);
    for (operation, count) in counted(under_way.chain(&plan.actions).map(|it| name(&it.action))) {
        text.sample(&[("operation", operation)], count);
    }
    text.family("vpc_ipam_blocked", "What is wanted and waits, and for what.");
    let blocked = plan.blocked.iter().map(|it| (wanted(&it.wanted), waiting_on(&it.waiting_on)));
    for ((wanted, waiting_on), count) in counted(blocked) {
        text.sample(&[("wanted", wanted), ("waiting_on", waiting_on)], count);
    }
    text.family("vpc_ipam_failing", "What failed lately and is left alone for a while.");
    text.sample(&[], ipam.recent_failures(now).count() as i64);
    text.family("vpc_ipam_pods_waiting", "Pods that wait for an address.");
    text.sample(&[], ipam.waiting().len() as i64);
    text.0
}

/// The exposition format, as <https://prometheus.io/docs/instrumenting/exposition_formats> has it: gauges alone.
#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn family(&mut self, name: &'static str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        self.1 = name;
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: i64) {
        // The values of labels here are words of ours, of which none has to be escaped.
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{}{labels} {value}", self.1);
    }
}

fn counted<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, i64> {
    items.fold(BTreeMap::new(), |mut counts, item| {
        *counts.entry(item).or_default() += 1;
        counts
    })
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Ec2(action) => action.operation().map_or("ReadMetadata", |it| it.name()),
        Action::Host(HostAction::SetUpEni(_)) => "SetUpEni",
        Action::Host(HostAction::RemoveEni(_)) => "RemoveEni",
    }
}

// Reasons are types: a label of few values each, and the ids that they carry stay out of the metrics. They may become more.

fn wanted(wanted: &Wanted) -> &'static str {
    match wanted {
        Wanted::Addresses { .. } => "addresses",
        Wanted::Eni { .. } => "eni",
        Wanted::FewerAddresses { .. } | Wanted::FreeEni(_) => "fewer",
        Wanted::Answer(_) | Wanted::Subnets => "answer",
        _ => "other",
    }
}

fn waiting_on(waiting_on: &WaitingOn) -> &'static str {
    match waiting_on {
        // The operator's: a larger subnet, a larger type, a setting.
        WaitingOn::SubnetSpace { .. } => "subnet_full",
        WaitingOn::EniLimit(_) => "eni_limit",
        WaitingOn::MaxPods(_) => "max_pods",
        WaitingOn::NoSubnet | WaitingOn::NoEniConfig => "no_subnet",
        WaitingOn::ProvisioningOff => "provisioning_off",
        // Those that pass by themselves.
        WaitingOn::Backoff { .. } => "backoff",
        WaitingOn::Budget { .. } => "budget",
        WaitingOn::Time { .. } | WaitingOn::Cooling { .. } => "time",
        _ => "other",
    }
}

/// A node that wants a second ENI, in a subnet that has no address left for it.
fn node_in_a_full_subnet() -> Result<World, Box<dyn Error>> {
    let now = Timestamp::from_secs(1_700_000_000);
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    // Eleven addresses besides the five of EC2: the primary ENI's own, and ten.
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/28".parse()?);
    let subnet = cloud.create_subnet(subnet)?;
    let limits = Limits::lookup("m5.xlarge".parse()?)?;
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), now)?;
    let (config, _) = Config::from_vars([("WARM_IP_TARGET", "5")]);
    let mut world = World::new(cloud, instance, limits, config, 1, now)?;
    for pod in 0..12 {
        world.add_pod(&format!("pod-{pod}"));
    }
    world.run_for(Duration::from_secs(20));
    Ok(world)
}
