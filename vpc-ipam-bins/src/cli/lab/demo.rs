//! `vpc-ipam lab run`: the main job from end to end, checked.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use vpc_ipam_core::capacity::{Cap, Claim, Shape, address_claim, max_pods};
use vpc_ipam_core::{Card, Config, EniId, Limits};
use vpc_ipam_linux::lab::{self, INTERNET, Lab, Responder, ask};
use vpc_ipam_linux::{HostConfig, Namespace};

use super::print::{Stopwatch, follow};
use super::{Failure, hurried, supervise};
use crate::cni::chain;
use crate::lab::{LabNode, Plan, PluginCall};
use crate::protocol::{self, Answer, Request};
use crate::settings::Settings;

/// Where the responders in pods and hosts listen.
const PORT: u16 = 8080;
/// How long an answer may take within one machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the pool may take to shrink once the pods are gone.
const SHRINK_PATIENCE: Duration = Duration::from_secs(30);
/// On how many ENIs there are to be pods, where the node takes as many.
const ENIS_WANTED: u32 = 3;
/// How many pods there are at most, so that all pairs of them are tried within seconds.
const PODS_MAX: u32 = 64;

/// What the node should come to, by its type and its variables.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    /// How many pods get an address.
    pods: u32,
    /// On how many ENIs they are.
    enis: u32,
    /// What is held once they are gone.
    at_rest: Claim,
}

impl Expected {
    fn of(limits: &Limits, config: &Config) -> Self {
        let shape = Shape {
            families: config.families,
            enis_max: config.enis_max,
            custom_networking: config.custom_networking,
            trunk: config.trunk,
            enis_reserved: 0,
            host_network_pods: 0,
            cap: config.pods_max.map_or(Cap::None, Cap::Fixed),
        };
        let most = max_pods(limits, &shape).max_pods;
        let one_eni = Shape {
            families: config.families,
            enis_max: Some(1),
            host_network_pods: 0,
            ..Shape::default()
        };
        let per_eni = max_pods(limits, &one_eni).max_pods.max(1);
        // The last ENI needs one to be there. ENIs are filled one after the other.
        let pods = ((ENIS_WANTED - 1) * per_eni + 1).min(most).min(PODS_MAX);
        let at_rest = address_claim(limits, config, 0, most).at_boot;
        Self { pods, enis: pods.div_ceil(per_eni), at_rest }
    }
}

/// Returns why a lab cannot show what the variables ask for.
fn beyond_a_lab(config: &Config) -> Option<&'static str> {
    if config.families.ipv6() {
        Some("ENABLE_IPv6: a lab delivers IPv4 alone")
    } else if config.custom_networking {
        Some("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG: a lab has no ENIConfig")
    } else if !config.provisioning {
        Some("a node that asks for no addresses has none for pods")
    } else {
        None
    }
}

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
    let (settings, _) = Settings::from_vars(plan.vars.iter().cloned());
    if let Some(why) = beyond_a_lab(&settings.config) {
        return Err(format!("this cannot be shown: {why}").into());
    }
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
    let printer = node.notices.take().map(|notices| follow(watch, notices, std::io::stdout()));

    let expected = Expected::of(&limits, &settings.config);
    let (pods, report) = (Vec::new(), Report::default());
    let mut demo = Demo { watch, plan, settings, expected, node, pods, report };
    let result = demo.play();
    let Demo { node, pods, report, .. } = demo;
    drop(pods);
    let stopped = node.stop();
    if let Some(printer) = printer {
        let _ = printer.join();
    }
    result?;
    stopped?;
    report.print(watch.elapsed());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo {
    watch: Stopwatch,
    plan: Plan,
    settings: Settings,
    expected: Expected,
    node: LabNode,
    pods: Vec<DemoPod>,
    report: Report,
}

impl Demo {
    fn play(&mut self) -> Result<(), Failure> {
        let hosts = self.responders_on_hosts()?;
        self.add_pods();
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

    /// Adds as many pods as expected, or until one gets no address.
    fn add_pods(&mut self) {
        for number in 1..=self.expected.pods {
            let name = format!("pod-{number}");
            if let Err(error) = self.add_pod(&name) {
                self.watch.line("FAIL", &format!("{name}: {}", chain(&*error)));
                break;
            }
        }
        let enis: BTreeSet<EniId> = self.pods.iter().map(|pod| pod.eni).collect();
        let (pods, enis) = (self.pods.len(), enis.len());
        self.watch.line("lab", &format!("{pods} pods on {enis} ENIs"));
        self.report.note("pods with an address", pods, self.expected.pods as usize);
        self.report.note("ENIs with pods", enis, self.expected.enis as usize);
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

    fn check_traffic(&mut self) {
        let (node, node_address, host, host_address) = self.node.with_lab(|lab: &Lab| {
            let layout = lab.layout();
            (
                lab.node().clone(),
                layout.node.primary_ipv4,
                lab.other_host().clone(),
                layout.other_host.primary_ipv4,
            )
        });
        let HostConfig { external_snat, excluded_cidrs, .. } = &self.settings.host;
        let keeps_its_own =
            *external_snat || excluded_cidrs.iter().any(|cidr| cidr.contains(&INTERNET));
        let pods = core::mem::take(&mut self.pods);
        for from in &pods {
            for to in pods.iter().filter(|to| to.name != from.name) {
                let what = format!("pod to pod, eth{} to eth{}", from.device, to.device);
                self.check(what, &from.netns, to.address, from.address);
            }
            let seen = if keeps_its_own { from.address } else { node_address };
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
        let Claim { enis: enis_wanted, for_pods: addresses_wanted, .. } = self.expected.at_rest;
        let patience = SHRINK_PATIENCE + self.settings.config.cooldown;
        let begun = Instant::now();
        let mut held = self.held();
        while held != (enis_wanted, addresses_wanted) && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(50));
            held = self.held();
        }
        let (enis, addresses) = held;
        self.watch.line("lab", &format!("{enis} ENIs and {addresses} addresses are left"));
        self.report.note("ENIs left without pods", enis as usize, enis_wanted as usize);
        if held != (enis_wanted, addresses_wanted) {
            self.say_what_keeps_it();
        }
        let what = "addresses left without pods";
        self.report.note(what, addresses as usize, addresses_wanted as usize);
    }

    /// Says what the node would do and waits with.
    fn say_what_keeps_it(&self) {
        match protocol::ask(&self.node.address.socket, &Request::Status) {
            Ok(Answer::Status(status)) => {
                for held in status.held {
                    self.watch.line("FAIL", &format!("held back: {held}"));
                }
            }
            other => self.watch.line("FAIL", &format!("the daemon does not tell why: {other:?}")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_follows_type_and_variables() {
        let prefixes = ("ENABLE_PREFIX_DELEGATION", "true");
        let cases: [(&str, &[(&str, &str)], _); 8] = [
            ("m5.large", &[], (19, 3, (1, 9))),
            ("m5.large", &[("WARM_IP_TARGET", "5")], (19, 3, (1, 5))),
            ("m5.large", &[("MAX_ENI", "2")], (18, 2, (1, 9))),
            ("m5.large", &[prefixes], (64, 1, (1, 16))),
            // A type of the older hypervisor takes no prefixes.
            ("m4.large", &[prefixes], (18, 2, (1, 1))),
            ("t3.nano", &[], (2, 2, (1, 1))),
            ("t3.nano", &[prefixes], (32, 2, (1, 16))),
            ("c5.4xlarge", &[], (59, 3, (1, 29))),
        ];
        for (instance_type, vars, (pods, enis, at_rest)) in cases {
            let limits = Limits::lookup(instance_type.parse().unwrap()).unwrap();
            let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let (config, _) = Config::from_vars(vars);
            let expected = Expected::of(&limits, &config);
            let at_rest_found = (expected.at_rest.enis, expected.at_rest.for_pods);
            assert_eq!(
                (expected.pods, expected.enis, at_rest_found),
                (pods, enis, at_rest),
                "{instance_type}"
            );
        }
    }

    #[test]
    fn verdict_needs_all_that_was_expected() {
        let good = || {
            let mut report = Report { drops: Some(0), ..Report::default() };
            report.connection("pod to node".to_string(), true);
            report.note("pods with an address", 19, 19);
            report
        };
        assert!(good().passed());
        let spoil: [(&str, fn(&mut Report)); 5] = [
            ("a connection", |report| report.connection("pod to node".to_string(), false)),
            ("a count", |report| report.note("ENIs with pods", 2, 3)),
            ("dropped packets", |report| report.drops = Some(1)),
            ("packets nobody counted", |report| report.drops = None),
            ("nothing tried", |report| report.connections.clear()),
        ];
        for (what, spoil) in spoil {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.passed(), "{what}");
        }
    }
}
