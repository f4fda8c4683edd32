//! `vpc-ipam lab run`: the main job from end to end, checked.

mod expected;
mod pod;
mod report;
mod traffic;

use core::time::Duration;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use ipnet::Ipv4Net;
use vpc_ipam_core::{Card, Config, EniId, Families, Ipv4Kind, error_chain};
use vpc_ipam_linux::lab::{self, Echo, Responder};
use vpc_ipam_linux::{HostConfig, Netlink as _, link_by_mac};
use vpc_ipam_protocol::{self as protocol, Answer, Request};

use self::expected::{Expected, Left};
use self::pod::{DemoPod, answer_at};
use self::report::Report;
use self::traffic::{Surroundings, try_all};
use super::print::{Stopwatch, follow};
use super::{Failure, hurried, supervise};
use crate::lab::{LabNode, LabSpec, Mode, PluginCall};

/// Where the responders in pods and hosts listen.
const PORT: u16 = 8080;
/// How long the pool may take to shrink once the pods are gone.
const SHRINK_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(spec: &LabSpec) -> Result<ExitCode, Failure> {
    let _ends_the_process = supervise::stop_requests(Some(&spec.name))?;
    let watch = Stopwatch::start();
    let given = spec.vars.clone();
    let spec = hurried(spec);
    let mode = spec.mode()?;
    let expected = Expected::of(&mode.limits, &mode.config);
    if let Some(why) = beyond_a_lab(&mode, &expected) {
        return Err(format!("this cannot be shown: {why}").into());
    }
    watch.line("lab", &about_node(&mode));
    watch.line("lab", &format!("pods get {}", about_pods(&mode).join("; ")));
    let mut node = LabNode::start(&spec)?;
    let is_given = |name: &str| given.iter().any(|(given, _)| given == name);
    for note in node.notes.iter().filter(|note| is_given(note.variable)) {
        watch.line("note", &note.to_string());
    }
    let printer = node.notices.take().map(|notices| follow(watch, notices, std::io::stdout()));

    let surroundings = node.with_lab(|lab| Surroundings::of(lab, &mode));
    let (pods, report) = (Vec::new(), Report::default());
    let mut demo = Demo { watch, spec, mode, expected, surroundings, node, pods, report };
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

/// Returns why a lab cannot show what the settings ask for.
fn beyond_a_lab(mode: &Mode, expected: &Expected) -> Option<&'static str> {
    // What the daemon refuses to start with, it says itself.
    let is_refused = mode.config.families.ipv6() && !mode.limits.prefixes();
    if !mode.config.provisioning {
        Some("a node that asks for no addresses has none for pods")
    } else if expected.pods == 0 && !is_refused {
        Some("type and settings leave no address for any pod")
    } else {
        None
    }
}

/// Says what the node is.
fn about_node(mode: &Mode) -> String {
    let limits = &mode.limits;
    let cards = match limits.cards().len() {
        1 => String::new(),
        cards => format!(" on each of {cards} network cards"),
    };
    format!(
        "{}: {} ENIs{cards} of {} addresses; cooldown and waiting times are shortened to seconds",
        limits.instance_type,
        limits.enis(Card(0)),
        limits.ipv4_per_eni
    )
}

/// Says what the settings of a node mean for its pods, a line for each matter.
pub(super) fn about_pods(mode: &Mode) -> Vec<String> {
    let Mode { config, host, limits, .. } = mode;
    let mut lines = vec![family_in_words(config, host).to_string()];
    if config.families.ipv4() == Some(Ipv4Kind::Prefixes) {
        lines.push("IPv4 addresses of /28 prefixes".to_string());
    }
    if config.custom_networking {
        lines.push("addresses of a subnet of their own (custom networking)".to_string());
    }
    if config.multi_nic && limits.cards().len() > 1 {
        lines.push("interfaces on several network cards".to_string());
    }
    if config.families.ipv4().is_some() && host.external_snat {
        lines.push("no translation on the way to the internet (external SNAT)".to_string());
    }
    let mtu = host.pod_mtu.unwrap_or(config.eni_mtu);
    if (mtu, config.eni_mtu) != (9001, 9001) {
        lines.push(format!("MTU {mtu} bytes, that of ENIs {}", config.eni_mtu));
    }
    lines
}

fn family_in_words(config: &Config, host: &HostConfig) -> &'static str {
    match config.families {
        Families::Ipv4(_) if host.ipv6_egress => "IPv4 addresses, and reach IPv6 through the node",
        Families::Ipv4(_) => "IPv4 addresses",
        Families::Ipv6 if host.ipv4_egress => "IPv6 addresses, and reach IPv4 through the node",
        Families::Ipv6 => "IPv6 addresses",
        Families::Dual(_) => "an address of each family",
    }
}

struct Demo {
    watch: Stopwatch,
    spec: LabSpec,
    mode: Mode,
    expected: Expected,
    surroundings: Surroundings,
    node: LabNode,
    pods: Vec<DemoPod>,
    report: Report,
}

impl Demo {
    fn play(&mut self) -> Result<(), Failure> {
        let _hosts = self.responders_on_hosts()?;
        self.add_pods();
        self.check_places()?;
        self.check_traffic()?;
        self.report.drops = Some(self.node.drops()?);
        self.remove_pods()?;
        self.wait_for_shrinking();
        Ok(())
    }

    fn responders_on_hosts(&self) -> Result<(Vec<Responder>, Echo), Failure> {
        let hosts = self.surroundings.hosts();
        let responders = hosts.iter().map(|host| Responder::start(host, answer_at()));
        let echo = Echo::start(self.surroundings.other_host(), answer_at())?;
        Ok((responders.collect::<Result<_, _>>()?, echo))
    }

    /// Adds as many pods as expected, or until one gets no address.
    fn add_pods(&mut self) {
        for number in 1..=self.expected.pods {
            let name = format!("pod-{number}");
            let every_card = number <= self.expected.pods_on_every_card;
            match DemoPod::add(&self.node, &self.spec.name, &name, every_card) {
                Ok((pod, took)) => {
                    let millis = took.as_secs_f64() * 1000.0;
                    let what = format!("{name} got {} in {millis:.1} ms", pod.in_words());
                    self.watch.line("pod", &what);
                    self.pods.push(pod);
                }
                Err(error) => {
                    self.watch.line("FAIL", &format!("{name}: {}", error_chain(&*error)));
                    break;
                }
            }
        }
    }

    /// Checks on what the pods are: ENIs, network cards, subnets, links.
    fn check_places(&mut self) -> Result<(), Failure> {
        let interfaces = || self.pods.iter().flat_map(|pod| &pod.interfaces);
        let enis: BTreeSet<EniId> = interfaces().map(|interface| interface.eni).collect();
        let cards: BTreeSet<Card> = interfaces().map(|interface| interface.card).collect();
        let (pods, expected) = (self.pods.len(), &self.expected);
        self.watch.line("lab", &format!("{pods} pods on {} ENIs", enis.len()));
        self.report.count("pods with an address", pods, expected.pods as usize);
        if let Some(expected) = expected.enis {
            self.report.count("ENIs with pods", enis.len(), expected as usize);
        }
        if expected.cards > 1 {
            self.report.count("network cards with pods", cards.len(), expected.cards as usize);
            let every = expected.pods_on_every_card as usize;
            let on_every = |pod: &&DemoPod| pod.interfaces.len() == cards.len();
            let found = self.pods.iter().filter(on_every).count();
            self.report.count("pods on every network card", found, every);
        }
        if let Some(subnet) = self.subnet_of_pods() {
            let within = |address: &core::net::IpAddr| match address {
                core::net::IpAddr::V4(address) => subnet.contains(address),
                core::net::IpAddr::V6(_) => true,
            };
            let all_within =
                |pod: &&DemoPod| pod.interfaces.iter().flat_map(|it| &it.addresses).all(within);
            let found = self.pods.iter().filter(all_within).count();
            self.report.count(format!("pods in {subnet}"), found, pods);
        }
        self.check_mtu(&enis)
    }

    fn check_mtu(&mut self, enis: &BTreeSet<EniId>) -> Result<(), Failure> {
        let Mode { config, host, .. } = &self.mode;
        let of_pods = host.pod_mtu.unwrap_or(config.eni_mtu);
        let found = self.pods.iter().filter(|pod| pod.mtu == u32::from(of_pods)).count();
        self.report.count(format!("pods with MTU {of_pods}"), found, self.pods.len());

        let links = self.node.with_lab(|lab| lab.node().netlink()?.links())?;
        let of_enis = |eni: &&EniId| {
            let mac = self.node.cloud().with(|cloud, _| cloud.interface(eni).map(|eni| eni.mac));
            let link = mac.and_then(|mac| link_by_mac(&links, mac).ok());
            link.is_some_and(|link| link.mtu == u32::from(config.eni_mtu))
        };
        let found = enis.iter().filter(of_enis).count();
        self.report.count(format!("ENIs with MTU {}", config.eni_mtu), found, enis.len());
        Ok(())
    }

    /// Returns the range from which pods get their IPv4 addresses with custom networking.
    fn subnet_of_pods(&self) -> Option<Ipv4Net> {
        let named = self.mode.eni_config.as_ref().filter(|_| self.mode.config.custom_networking)?;
        let subnet = self.node.address.subnets.all().find(|subnet| subnet.id == named.subnet)?;
        Some(subnet.ipv4_cidr)
    }

    fn check_traffic(&mut self) -> Result<(), Failure> {
        for (what, failure) in try_all(&self.surroundings.trials(&self.pods))? {
            if let Some(failure) = &failure {
                self.watch.line("FAIL", &format!("{what}: {failure}"));
            }
            self.report.connection(what, failure.is_none());
        }
        let (passed, done) = self.report.checks();
        self.watch.line("lab", &format!("{passed} of {done} connections as they should be"));
        Ok(())
    }

    fn remove_pods(&mut self) -> Result<(), Failure> {
        let pods = core::mem::take(&mut self.pods);
        let count = pods.len();
        for pod in pods {
            self.node.address.call_plugin(&PluginCall::del(&pod.name, Some(pod.netns.path())))?;
            let name = pod.name.clone();
            drop(pod);
            lab::remove_pod(&self.spec.name, &name)?;
        }
        self.watch.line("lab", &format!("{count} pods removed; the pool may shrink now"));
        Ok(())
    }

    /// Waits until the node holds as much as it should without pods.
    fn wait_for_shrinking(&mut self) {
        let patience = SHRINK_PATIENCE + self.mode.config.cooldown;
        let begun = Instant::now();
        let mut held = self.held();
        while held != self.expected.left && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(50));
            held = self.held();
        }
        let spread = self.enis_that_share_the_target(held);
        if spread > 0 {
            let line = format!("the free addresses are spread over {spread} more ENIs, none empty");
            self.watch.line("lab", &line);
        }
        let wanted = self.expected.left.with_more_enis(spread, self.mode.config.families.ipv6());
        let Left { enis, addresses, ipv6_prefixes } = held;
        let mut left = format!("{enis} ENIs and {addresses} addresses");
        self.report.count("ENIs left without pods", enis as usize, wanted.enis as usize);
        let what = "addresses left without pods";
        self.report.count(what, addresses as usize, wanted.addresses as usize);
        if self.mode.config.families.ipv6() {
            left += &format!(" and {ipv6_prefixes} IPv6 prefixes");
            let what = "IPv6 prefixes left without pods";
            self.report.count(what, ipv6_prefixes as usize, wanted.ipv6_prefixes as usize);
        }
        self.watch.line("lab", &format!("{left} are left"));
        if held != wanted {
            self.say_what_keeps_it();
        }
    }

    /// Returns how many ENIs more than the fewest are left because each carries some of the addresses that the target keeps
    /// free, as pods that go one after another may leave it: a node moves no addresses to save an ENI.
    fn enis_that_share_the_target(&self, held: Left) -> u32 {
        let wanted = self.expected.left;
        let instance = self.node.address.instance_id;
        let empty = self.node.cloud().with(|cloud, _| {
            let primary = cloud.instance(&instance).map(|instance| instance.node.primary);
            cloud.interfaces().any(|eni| {
                eni.attachment.as_ref().is_some_and(|a| a.instance == instance)
                    && Some(eni.id) != primary
                    && eni.ipv4.is_empty()
            })
        });
        let met = held.addresses == wanted.addresses && !empty;
        if met { held.enis.saturating_sub(wanted.enis) } else { 0 }
    }

    /// Says what the node would do and waits with.
    fn say_what_keeps_it(&self) {
        match protocol::ask(&self.node.address.socket, &Request::Status) {
            Ok(Answer::Status(status)) => {
                for blocked in status.blocked {
                    self.watch.line("FAIL", &format!("blocked: {blocked}"));
                }
            }
            other => self.watch.line("FAIL", &format!("the daemon does not say why: {other:?}")),
        }
    }

    /// Returns what EC2 has assigned to the node.
    fn held(&self) -> Left {
        let instance = self.node.address.instance_id;
        self.node.cloud().with(|cloud, _| {
            let mut held = Left { enis: 0, addresses: 0, ipv6_prefixes: 0 };
            for eni in cloud.interfaces() {
                if eni.attachment.as_ref().is_some_and(|a| a.instance == instance) {
                    held.enis += 1;
                    let size = |net: &Ipv4Net| 1u32 << (32 - net.prefix_len());
                    held.addresses += eni.ipv4.iter().map(size).sum::<u32>();
                    let prefixes = eni.ipv6.iter().filter(|net| net.prefix_len() < 128);
                    held.ipv6_prefixes += prefixes.count() as u32;
                }
            }
            held
        })
    }
}
