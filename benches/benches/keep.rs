//! What it costs to keep a node's network right: how soon damage is repaired, and what watching takes while nothing happens.
//!
//! The daemon runs in this process, on a node in a box; each repair is on a node of its own, since a daemon repairs ever more
//! seldom what is damaged again and again.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock, and prints what it found"
)]

use core::error::Error;
use core::time::Duration;
use std::fs;
use std::thread;
use std::time::Instant;

use vpc_ipam::lab::{LabNode, LabSpec, PluginCall};
use vpc_ipam_benches::{Samples, Table, isolate};
use vpc_ipam_linux::lab::{LabName, add_pod, requirements};
use vpc_ipam_linux::{
    KernelChange, KernelNetlink, LinkId, Namespace, Netlink as _, Object, Table as RouteTable,
};
use vpc_ipam_protocol::{self as protocol, Answer, Request};

const ROUNDS: usize = 8;
/// More than the primary ENI of an m5.large carries.
const PODS: usize = 12;
const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    isolate()?;
    if let Err(unmet) = requirements() {
        println!("keep: not measured: {unmet}");
        return Err(unmet.into());
    }
    let (mut flaps, mut rules, mut all) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..ROUNDS {
        let node = Node::start(round)?;
        node.link_flap(&mut flaps)?;
        node.lab.stop()?;
        let node = Node::start(ROUNDS + round)?;
        node.rule(&mut rules)?;
        node.compare(&mut all)?;
        node.lab.stop()?;
    }
    let table = Table::of_times(&format!("Repair, on a node with {PODS} pods"));
    table.times("link of an ENI down, until its table is whole", &flaps, None);
    table.times("rule of a pod removed, until it is back", &rules, None);
    table.times("comparing the whole node when asked", &all, None);

    let node = Node::start(2 * ROUNDS)?;
    node.idle()?;
    node.lab.stop()?;
    Ok(())
}

struct Node {
    lab: LabNode,
    netlink: KernelNetlink,
    _pods: Vec<Namespace>,
}

impl Node {
    fn start(number: usize) -> Result<Self, Failure> {
        let name: LabName = format!("keep{}n{number}", std::process::id()).parse()?;
        let spec = LabSpec::new(name.clone(), "m5.large".parse()?);
        let lab = LabNode::start(&spec)?;
        let mut pods = Vec::new();
        for number in 0..PODS {
            let pod = format!("p{number}");
            let netns = add_pod(&name, &pod)?;
            let call = PluginCall::add(&pod, netns.path());
            lab.address.call_plugin(&call)?;
            pods.push(netns);
        }
        let netlink = Namespace::named(&lab.address.node_netns)?.netlink()?;
        let mut node = Self { lab, netlink, _pods: pods };
        node.settle()?;
        Ok(node)
    }

    /// Waits until the daemon has nothing more to do.
    fn settle(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut since = Instant::now();
        let mut last = self.netlink.links()?.len();
        while since.elapsed() < Duration::from_millis(500) {
            if begun.elapsed() > PATIENCE {
                return Err("the node does not converge".into());
            }
            thread::sleep(Duration::from_millis(20));
            let links = self.netlink.links()?.len();
            if links != last {
                (last, since) = (links, Instant::now());
            }
        }
        Ok(())
    }

    fn link_flap(&self, samples: &mut Samples) -> Result<(), Failure> {
        let mut netlink = self.netlink.namespace().netlink()?;
        let link = netlink.link("eth1")?.ok_or("no second ENI")?;
        let whole = routes(&mut netlink, &link.id)?;
        let down = Object::Link { link: link.id.clone(), mtu: link.mtu, up: false };
        samples.measure(|| -> Result<(), Failure> {
            change(&mut netlink, KernelChange::Set(down))?;
            wait(|| Ok(routes(&mut netlink, &link.id)? == whole))
        })
    }

    fn rule(&self, samples: &mut Samples) -> Result<(), Failure> {
        let mut netlink = self.netlink.namespace().netlink()?;
        let rules = netlink.rules(vpc_ipam_linux::Family::Ipv4)?;
        let rule = rules.into_iter().find(|rule| rule.priority == 512).ok_or("no pod")?;
        samples.measure(|| -> Result<(), Failure> {
            change(&mut netlink, KernelChange::Remove(Object::Rule(rule.clone())))?;
            wait(|| Ok(netlink.rules(vpc_ipam_linux::Family::Ipv4)?.contains(&rule)))
        })
    }

    fn compare(&self, samples: &mut Samples) -> Result<(), Failure> {
        let answer =
            samples.measure(|| protocol::ask(&self.lab.address.socket, &Request::NetDiff))?;
        match answer {
            Answer::Net(report) if report.differences.is_empty() => Ok(()),
            other => Err(format!("the node differs: {other:?}").into()),
        }
    }

    fn idle(&self) -> Result<(), Failure> {
        let before = Threads::read()?;
        thread::sleep(IDLE);
        let after = Threads::read()?;
        let table = Table::of_figures("The daemon while nothing happens, watching included");
        let per_second = |count: u64| format!("{:.1} /s", count as f64 / IDLE.as_secs_f64());
        table.figure(
            "wake-ups",
            &per_second(after.wakes - before.wakes),
            "timers of the pool and of EC2's model",
        );
        let ticks = after.ticks - before.ticks;
        table.figure("CPU ticks of 10 ms", &ticks.to_string(), &format!("in {} s", IDLE.as_secs()));
        Ok(())
    }
}

/// What the threads of the daemon took so far.
struct Threads {
    wakes: u64,
    ticks: u64,
}

impl Threads {
    fn read() -> Result<Self, Failure> {
        let mut sum = Self { wakes: 0, ticks: 0 };
        let own = rustix::thread::gettid().as_raw_nonzero().to_string();
        for entry in fs::read_dir("/proc/self/task")? {
            let entry = entry?;
            if entry.file_name().to_string_lossy() == own {
                continue;
            }
            let status = fs::read_to_string(entry.path().join("status"))?;
            let wakes = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
            sum.wakes += wakes.map_or(Ok(0), |text| text.trim().parse())?;
            let stat = fs::read_to_string(entry.path().join("stat"))?;
            // The name, in parentheses, may hold anything; utime and stime are the 14th and 15th fields.
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let fields: Vec<&str> = fields.split_whitespace().collect();
            for place in [11, 12] {
                sum.ticks += fields.get(place).map_or(Ok(0), |text| text.parse())?;
            }
        }
        Ok(sum)
    }
}

fn routes(netlink: &mut KernelNetlink, link: &LinkId) -> Result<usize, Failure> {
    let routes = netlink.routes(link.index)?;
    Ok(routes.iter().filter(|route| route.table == RouteTable(2)).count())
}

fn change(netlink: &mut KernelNetlink, change: KernelChange) -> Result<(), Failure> {
    netlink.change(&[change])?.into_iter().try_for_each(|result| result.map(drop))?;
    Ok(())
}

fn wait(mut is_so: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > PATIENCE {
            return Err("nothing was repaired".into());
        }
        thread::yield_now();
    }
    Ok(())
}
