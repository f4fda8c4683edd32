//! `vpc-ipam lab run`: the main job from end to end, checked.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use vpc_ipam_core::capacity::{Shape, address_claim, max_pods};
use vpc_ipam_core::{Card, Config, EniId, Limits};
use vpc_ipam_linux::lab::{self, INTERNET, Lab, Responder, ask};
use vpc_ipam_linux::{HostConfig, Namespace};

use super::print::{Stopwatch, follow};
use super::{Failure, hurried, supervise};
use crate::lab::{LabNode, Plan, PluginCall};

/// Where the responders in pods and hosts listen.
const PORT: u16 = 8080;
/// How long an answer may take within one machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the pool may take to shrink once the pods are gone.
const SHRINK_PATIENCE: Duration = Duration::from_secs(30);
/// On how many ENIs there are to be pods, where the instance type takes as many.
const ENIS_WANTED: usize = 3;

/// A pod that has an address.
struct DemoPod {
    name: String,
    netns: Namespace,
    address: Ipv4Addr,
    eni: EniId,
    device: u8,
    _responder: Responder,
}

pub(super) fn run(plan: &Plan) -> Result<ExitCode, Failure> {
    let _ends_the_process = supervise::stop_requests(Some(&plan.name))?;
    let watch = Stopwatch::start();
    let given = plan.vars.clone();
    let plan = hurried(plan);
    let limits = Limits::lookup(plan.instance_type)?;
    watch.line(
        "lab",
        &format!(
            "{}: {} ENIs of {} addresses; resting and waiting times are shortened to seconds",
            plan.instance_type,
            limits.enis(Card(0)),
            limits.ipv4_per_eni
        ),
    );
    let mut node = LabNode::start(&plan)?;
    let by_us = |name: &str| !given.iter().any(|(given, _)| given == name);
    for note in node.notes.iter().filter(|note| !by_us(note.variable)) {
        watch.line("note", &note.to_string());
    }
    let notices = core::mem::replace(&mut node.notices, std::sync::mpsc::channel().1);
    let printer = follow(watch, notices, std::io::stdout());

    let mut demo = Demo { watch, plan, limits, node, pods: Vec::new(), report: Report::default() };
    let result = demo.play();
    let Demo { node, pods, report, .. } = demo;
    drop(pods);
    let stopped = node.stop();
    let _ = printer.join();
    result?;
    stopped?;
    report.print(watch.elapsed());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo {
    watch: Stopwatch,
    plan: Plan,
    limits: Limits,
    node: LabNode,
    pods: Vec<DemoPod>,
    report: Report,
}

impl Demo {
    fn play(&mut self) -> Result<(), Failure> {
        let hosts = self.responders_on_hosts()?;
        self.add_pods()?;
        self.check_traffic();
        let drops = self.node.drops()?;
        self.report.drops = Some(drops);
        drop(hosts);
        self.remove_pods()?;
        self.wait_for_shrinking();
        Ok(())
    }

    fn responders_on_hosts(&self) -> Result<Vec<Responder>, Failure> {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let places = self
            .node
            .with_lab(|lab| [lab.node().clone(), lab.other_host().clone(), lab.internet().clone()]);
        Ok(places.iter().map(|place| Responder::start(place, at)).collect::<Result<_, _>>()?)
    }

    /// Adds pods until there are some on as many ENIs as wanted.
    fn add_pods(&mut self) -> Result<(), Failure> {
        let shape = Shape { host_network_pods: 0, ..Shape::default() };
        let most = max_pods(&self.limits, &shape).max_pods;
        let wanted = ENIS_WANTED.min(self.limits.enis(Card(0)).into());
        for number in 1..=most {
            self.add_pod(&format!("pod-{number}"))?;
            if self.enis_with_pods().len() >= wanted {
                break;
            }
        }
        let (pods, enis) = (self.pods.len(), self.enis_with_pods().len());
        self.watch.line("lab", &format!("{pods} pods on {enis} ENIs"));
        self.report.note("pods with an address", pods, pods);
        self.report.note("ENIs with pods", enis, wanted);
        Ok(())
    }

    fn add_pod(&mut self, name: &str) -> Result<(), Failure> {
        let netns = lab::add_pod(&self.plan.name, name)?;
        let call = PluginCall { command: "ADD", pod: name, netns: Some(netns.path()) };
        let before = Instant::now();
        let result = self.node.address.call_plugin(&call)?;
        let took = before.elapsed();
        let text = result["ips"][0]["address"].as_str().unwrap_or_default();
        let address: ipnet::Ipv4Net =
            text.parse().map_err(|error| format!("ADD of {name} gave {text:?}: {error}"))?;
        let address = address.addr();
        let (eni, device) = self.carrier(address).ok_or_else(|| {
            format!("{name} got {address}, which EC2 has assigned to no ENI of this node")
        })?;
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let responder = Responder::start(&netns, at)?;
        let millis = took.as_secs_f64() * 1000.0;
        self.watch.line("pod", &format!("{name} got {address} on eth{device} in {millis:.1} ms"));
        let name = name.to_string();
        self.pods.push(DemoPod { name, netns, address, eni, device, _responder: responder });
        Ok(())
    }

    /// Returns which ENI of the node EC2 has assigned an address to.
    fn carrier(&self, address: Ipv4Addr) -> Option<(EniId, u8)> {
        let instance = self.node.address.instance_id;
        self.node.cloud().with(|cloud, _| {
            cloud.interfaces().find_map(|eni| {
                let attachment = eni.attachment.as_ref().filter(|a| a.instance == instance)?;
                let carries = eni.ipv4.iter().any(|net| net.contains(&address));
                carries.then_some((eni.id, attachment.device.0))
            })
        })
    }

    fn enis_with_pods(&self) -> BTreeSet<EniId> {
        self.pods.iter().map(|pod| pod.eni).collect()
    }

    fn check_traffic(&mut self) {
        let (node, node_address, host, host_address, internet) = self.node.with_lab(|lab: &Lab| {
            let layout = lab.layout();
            (
                lab.node().clone(),
                layout.node.primary_ipv4,
                lab.other_host().clone(),
                layout.other_host.primary_ipv4,
                lab.internet().clone(),
            )
        });
        let (host_config, _) = HostConfig::from_vars(self.plan.vars.iter().cloned());
        drop(internet);
        let pods = core::mem::take(&mut self.pods);
        for from in &pods {
            for to in pods.iter().filter(|to| to.name != from.name) {
                let what = format!("pod to pod, eth{} to eth{}", from.device, to.device);
                self.check(what, &from.netns, to.address, from.address);
            }
            let seen = if host_config.external_snat { from.address } else { node_address };
            self.check("pod to node".into(), &from.netns, node_address, from.address);
            self.check("node to pod".into(), &node, from.address, node_address);
            self.check("pod to other host".into(), &from.netns, host_address, from.address);
            self.check("other host to pod".into(), &host, from.address, host_address);
            self.check("pod to internet".into(), &from.netns, INTERNET, seen);
        }
        self.pods = pods;
        let (passed, done) = self.report.checks();
        self.watch.line("lab", &format!("{passed} of {done} connections as they should be"));
    }

    fn check(&mut self, what: String, from: &Namespace, to: Ipv4Addr, expected: Ipv4Addr) {
        let seen = ask(from, SocketAddr::from((to, PORT)), PATIENCE);
        let wrong = match &seen {
            Ok(seen) if *seen == IpAddr::V4(expected) => None,
            Ok(seen) => Some(format!("{to} saw {seen} instead of {expected}")),
            Err(error) => Some(format!("{to} did not answer {expected}: {error}")),
        };
        if let Some(wrong) = &wrong {
            self.watch.line("FAIL", &format!("{what}: {wrong}"));
        }
        self.report.connection(what, wrong.is_none());
    }

    fn remove_pods(&mut self) -> Result<(), Failure> {
        let pods = core::mem::take(&mut self.pods);
        let count = pods.len();
        for pod in pods {
            let call = PluginCall { command: "DEL", pod: &pod.name, netns: Some(pod.netns.path()) };
            self.node.address.call_plugin(&call)?;
            let name = pod.name.clone();
            drop(pod);
            lab::remove_pod(&self.plan.name, &name)?;
        }
        self.watch.line("lab", &format!("{count} pods removed; the pool may shrink now"));
        Ok(())
    }

    /// Waits until the node holds as much as it should without pods.
    fn wait_for_shrinking(&mut self) {
        let (config, _) = Config::from_vars(self.plan.vars.iter().cloned());
        let wanted = address_claim(&self.limits, &config, 0, 0).at_boot;
        let begun = Instant::now();
        let mut held = self.held();
        while (held.0 > wanted.enis || held.1 > wanted.for_pods)
            && begun.elapsed() < SHRINK_PATIENCE
        {
            std::thread::sleep(Duration::from_millis(50));
            held = self.held();
        }
        let (enis, addresses) = held;
        self.watch.line("lab", &format!("{enis} ENIs and {addresses} addresses are left"));
        self.report.note("ENIs left without pods", enis as usize, wanted.enis as usize);
    }

    /// Returns how many ENIs and how many addresses for pods EC2 has assigned to the node.
    fn held(&self) -> (u32, u32) {
        let instance = self.node.address.instance_id;
        self.node.cloud().with(|cloud, _| {
            let mut held = (0, 0);
            for eni in cloud.interfaces() {
                if eni.attachment.as_ref().is_some_and(|a| a.instance == instance) {
                    held.0 += 1;
                    let size = |net: &ipnet::Ipv4Net| 1u32 << (32 - net.prefix_len());
                    held.1 += eni.ipv4.iter().map(size).sum::<u32>();
                }
            }
            held
        })
    }
}

/// What was checked, and with what result.
#[derive(Default)]
struct Report {
    /// Passed and tried, by what was checked.
    connections: BTreeMap<String, (u32, u32)>,
    /// What was found and what was expected, by what was counted.
    counts: Vec<(&'static str, usize, usize)>,
    drops: Option<u64>,
}

impl Report {
    fn connection(&mut self, what: String, passed: bool) {
        let (good, all) = self.connections.entry(what).or_default();
        *good += u32::from(passed);
        *all += 1;
    }

    fn note(&mut self, what: &'static str, found: usize, expected: usize) {
        self.counts.push((what, found, expected));
    }

    fn checks(&self) -> (u32, u32) {
        let sum = |(a, b): (u32, u32), (c, d): &(u32, u32)| (a + c, b + d);
        self.connections.values().fold((0, 0), sum)
    }

    fn passed(&self) -> bool {
        let (passed, done) = self.checks();
        passed == done
            && done > 0
            && self.counts.iter().all(|(_, found, expected)| found == expected)
            && self.drops == Some(0)
    }

    fn print(&self, took: Duration) {
        // A reader that closed early has seen what it wanted; the exit code tells the rest.
        let _ = self.write(&mut std::io::stdout().lock(), took);
    }

    fn write(&self, out: &mut dyn Write, took: Duration) -> io::Result<()> {
        writeln!(out, "\n{:<28} {:>9} {:>9}", "check", "result", "expected")?;
        let mut row = |what: &str, found: String, expected: String| {
            let verdict = if found == expected { "ok" } else { "FAILED" };
            writeln!(out, "{what:<28} {found:>9} {expected:>9}  {verdict}")
        };
        for (what, (passed, tried)) in &self.connections {
            row(what, passed.to_string(), tried.to_string())?;
        }
        for (what, found, expected) in &self.counts {
            row(what, found.to_string(), expected.to_string())?;
        }
        let drops = self.drops.map_or("unknown".to_string(), |drops| drops.to_string());
        row("source/dest. check drops", drops, "0".to_string())?;
        let verdict = if self.passed() { "all passed" } else { "FAILED" };
        writeln!(out, "\n{verdict} in {:.1} s", took.as_secs_f64())
    }
}
