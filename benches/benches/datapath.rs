//! `vpc-cni` ADD and DEL beside a program that sends the same messages and does nothing else.
//!
//! The node is an m5.24xlarge in a box with all its 735 addresses at hand; its daemon runs in this process, on one thread as
//! `vpc-ipamd` does, and the plugin is the release build, started as a runtime starts it. Plugin and reference take turns, so that both see the same
//! machine.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock, and prints what it found"
)]

use core::error::Error;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ipnet::Ipv4Net;
use tokio::sync::oneshot;
use vpc_ipam::lab::{LabAddress, LabNode, LabSpec, PluginCall};
use vpc_ipam_aws::EmulatedEc2;
use vpc_ipam_benches::bare::{self, BarePod};
use vpc_ipam_benches::{Samples, Table, isolate};
use vpc_ipam_core::{
    AddressRequest, Budget, Card, DeviceIndex, KnownLimits, Lease, LeasedInterface, Mac, Pod,
    PodKey, Record, Timestamp,
};
use vpc_ipam_linux::host::{self, HostFacts};
use vpc_ipam_linux::lab::{LabName, add_pod, requirements};
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{
    HostConfig, KernelChange, KernelNetlink, Namespace, Nat, Netlink as _, Table as RouteTable,
    Veth, VethPeer, VethPrefix, eni,
};
use vpc_ipam_protocol::{self as protocol, Answer, Request};
use vpc_ipamd::settings::Settings;
use vpc_ipamd::store::{self, Store};
use vpc_ipamd::{self as ipamd, Options};

/// Of amazon-vpc-cni-k8s' release 1.5.5, as docs/design.md has it.
const PEER_PLUGIN: &str = "peer 1.5.5: 12.6 MB";
const ADDRESSES: u32 = 735;
const MANY: usize = 700;
const AT_ONCE: usize = 16;
const SERIAL_ROUNDS: usize = 100;
const PARALLEL_ROUNDS: usize = 8;
const HOST_ROUNDS: usize = 20;
const GRANT_ROUNDS: usize = 500;
const SEEING_ROUNDS: usize = 200;
/// Outside of the VPC, whose addresses the plugin's pods get.
const BARE_ADDRESSES: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);

type Failure = Box<dyn Error + Send + Sync>;

/// Asks for a path at a port of loopback, and returns how many bytes were answered.
fn get(port: u16, path: &str) -> io::Result<usize> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        Ok(answer.len())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
    }
}

fn main() -> Result<(), Failure> {
    isolate()?;
    if let Err(unmet) = requirements() {
        println!("datapath: not measured: {unmet}");
        return Err(unmet.into());
    }
    let begun = Instant::now();
    let bench = Bench::start()?;
    bench.size()?;
    host_set_up(&bench.name)?;
    bench.durable_grant()?;
    bench.pods(0)?;
    bench.system_calls()?;
    bench.fill()?;
    bench.pods(MANY)?;
    bench.seeing()?;
    bench.daemon.stop()?;
    bench.node.stop()?;
    println!("\ndatapath: measured in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

struct Bench {
    name: LabName,
    // Before the node, which it must not outlive.
    daemon: Daemon,
    node: LabNode,
    netns: Namespace,
    programs: Programs,
    /// Namespaces of pods that come and go.
    sandboxes: Vec<Sandbox>,
}

/// The node's daemon.
struct Daemon {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Failure>>,
}

/// What is compared.
struct Programs {
    plugin: PathBuf,
    bare: PathBuf,
    address: LabAddress,
}

/// The namespace of a pod, to be joined to the node and cut off from it again and again.
struct Sandbox {
    pod: String,
    netns: Namespace,
    file: File,
    bare: Ipv4Addr,
}

impl Bench {
    fn start() -> Result<Self, Failure> {
        let name: LabName = format!("bench{}", std::process::id()).parse()?;
        let spec = LabSpec { daemon: false, ..LabSpec::new(name.clone(), "m5.24xlarge".parse()?) };
        let node = LabNode::start(&spec)?;
        let netns = Namespace::named(&node.address.node_netns)?;
        let daemon = Daemon::start(&node, netns.clone())?;
        let sandboxes = (0..AT_ONCE).map(|number| Sandbox::new(&name, number));
        let sandboxes = sandboxes.collect::<Result<_, Failure>>()?;
        let programs = Programs {
            plugin: node.address.cni_bin_dir.join("vpc-cni"),
            bare: PathBuf::from(env!("CARGO_BIN_EXE_bare-pod")),
            address: node.address.clone(),
        };
        let bench = Self { name, daemon, node, netns, programs, sandboxes };
        bench.wait_for_addresses()?;
        Ok(bench)
    }

    fn wait_for_addresses(&self) -> Result<(), Failure> {
        let patience = Duration::from_secs(60);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            // It may not listen yet.
            if let Ok(Answer::Status(status)) =
                protocol::ask(&self.node.address.socket, &Request::Status)
                && status.enis.iter().map(|eni| eni.addresses).sum::<u32>() >= ADDRESSES
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the node does not have its {ADDRESSES} addresses after {patience:?}").into())
    }

    fn size(&self) -> Result<(), Failure> {
        let table = Table::of_figures("Size");
        let plugin = &self.programs.plugin;
        let megabytes = fs::metadata(plugin)?.len() as f64 / 1e6;
        let linked = Command::new("ldd").arg(plugin).output();
        let linked = linked.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("=>"));
        let kind = if linked { "not static: build it with `make bench`" } else { "static" };
        table.figure(&format!("vpc-cni ({kind})"), &format!("{megabytes:.2} MB"), PEER_PLUGIN);
        Ok(())
    }

    /// Measures how long it takes until a grant is durable, on a memory file system as `/run` is on a node.
    fn durable_grant(&self) -> Result<(), Failure> {
        let table = Table::of_times("Durable grant");
        let lease = lease_of(&self.sandboxes[0], 2)?;
        let bytes = serde_json::to_vec(&lease)?;
        let record = Record::Leased(lease);
        let mut file = File::create("/run/bare")?;
        let (mut store, _) = Store::open(Path::new("/run/store.redb"), "bench", Timestamp::EPOCH)?;
        let (mut bare, mut stored, mut asked) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..GRANT_ROUNDS {
            bare.measure(|| file.write_all(&bytes).and_then(|()| file.sync_all()))?;
            stored.measure(|| store.write(core::slice::from_ref(&record)))?;
            asked.push(self.assign_and_release()?.1);
        }
        table.times("write and fsync of the same bytes", &bare, None);
        table.times("state file: one transaction", &stored, Some(&bare));
        table.times("daemon: asked, granted, durable, told", &asked, Some(&bare));
        Ok(())
    }

    /// Adds pods, until there are many.
    fn fill(&self) -> Result<(), Failure> {
        for number in 0..MANY {
            let pod = format!("filler-{number}");
            let netns = add_pod(&self.name, &pod)?;
            let call = PluginCall::add(&pod, netns.path());
            self.node.address.call_plugin(&call)?;
        }
        Ok(())
    }

    /// Measures what an operator's programs ask for over HTTP, on the node with many pods.
    fn seeing(&self) -> Result<(), Failure> {
        let table = Table::of_times(&format!("Over HTTP, on a node with {MANY} pods"));
        let asked = [
            ("readiness", 61678, "/readyz"),
            ("metrics", 61678, "/metrics"),
            ("ENIs as amazon-vpc-cni-k8s tells them", 61679, "/v1/enis"),
            ("inventory", 61679, "/v2/inventory"),
            ("what the page shows", 61679, "/page/node"),
        ];
        for (what, port, path) in asked {
            let mut times = Samples::default();
            for _ in 0..SEEING_ROUNDS {
                let length = times.measure(|| self.netns.run(|| get(port, path)))??;
                if length < 100 && path != "/readyz" {
                    return Err(format!("{path} answered {length} bytes").into());
                }
            }
            table.times(&format!("{what}: GET {path}"), &times, None);
        }
        Ok(())
    }

    /// Measures pods that are added to a node and removed from it, while it has so many others.
    fn pods(&self, others: usize) -> Result<(), Failure> {
        let route_table = self.route_table()?;
        let plugin = Contender::Plugin(&self.programs);
        let bare = Contender::Bare(&self.programs, route_table);
        let title = |what: &str| format!("{what}, on a node with {others} pods");

        let sandboxes = &self.sandboxes[..];
        let mut serial = [Times::default(), Times::default()];
        self.netns.run(|| -> Result<(), Failure> {
            for round in 0..SERIAL_ROUNDS {
                let sandbox = &sandboxes[round % AT_ONCE];
                for (contender, times) in [bare, plugin].iter().zip(&mut serial) {
                    contender.round(sandbox, times)?;
                }
            }
            Ok(())
        })??;
        let table = Table::of_times(&title("Programs, one after another"));
        let [reference, measured] = &serial;
        table.times("bare-pod add", &reference.add, None);
        table.times("vpc-cni ADD", &measured.add, Some(&reference.add));
        table.times("bare-pod del", &reference.del, None);
        table.times("vpc-cni DEL", &measured.del, Some(&reference.del));
        self.parts(&table, &reference.add)?;

        let mut parallel = [Times::default(), Times::default()];
        self.netns.run(|| -> Result<(), Failure> {
            for _ in 0..PARALLEL_ROUNDS {
                for (contender, times) in [bare, plugin].iter().zip(&mut parallel) {
                    at_once(contender, sandboxes, times)?;
                }
            }
            Ok(())
        })??;
        let table = Table::of_times(&title(&format!("Programs, {AT_ONCE} at once")));
        let [reference, measured] = &parallel;
        table.times("bare-pod add", &reference.add, None);
        table.times("vpc-cni ADD", &measured.add, Some(&reference.add));
        table.times("bare-pod del", &reference.del, None);
        table.times("vpc-cni DEL", &measured.del, Some(&reference.del));

        let [reference, measured] = self.in_process(route_table)?;
        let table = Table::of_times(&title("In process, sockets open"));
        table.times("bare add", &reference.add, None);
        table.times("pod::add", &measured.add, Some(&reference.add));
        table.times("bare del", &reference.del, None);
        table.times("pod::remove", &measured.del, Some(&reference.del));
        Ok(())
    }

    /// Returns the table of the ENI whose address the next pod gets.
    fn route_table(&self) -> Result<u8, Failure> {
        let (lease, _) = self.assign_and_release()?;
        let table = eni::table(lease.first.card, lease.first.device);
        Ok(u8::try_from(table.0)?)
    }

    /// Asks the daemon for an address as the plugin does, and releases it.
    fn assign_and_release(&self) -> Result<(Lease, Duration), Failure> {
        let key = PodKey::new("bench", "probe", "eth0")?;
        let pod = Pod::new("default", "probe");
        let request = AddressRequest::new(key.clone(), pod);
        let socket = &self.node.address.socket;
        let begun = Instant::now();
        let answer = protocol::ask(socket, &Request::Assign(request.into()))?;
        let took = begun.elapsed();
        protocol::ask(socket, &Request::Release(key))?;
        match answer {
            Answer::Lease { lease, .. } => Ok((lease, took)),
            other => Err(format!("the daemon gave no address: {other:?}").into()),
        }
    }

    /// Measures what an ADD is made of.
    fn parts(&self, table: &Table, reference: &Samples) -> Result<(), Failure> {
        let mut version = Samples::default();
        let mut assign = Samples::default();
        for _ in 0..SERIAL_ROUNDS {
            let mut command = Command::new(&self.programs.plugin);
            command.env_clear().env("CNI_COMMAND", "VERSION");
            version.push(spawn(&mut command, r#"{"cniVersion":"1.0.0"}"#)?.0);
            assign.push(self.assign_and_release()?.1);
        }
        table.times("  of which vpc-cni VERSION: start and end", &version, Some(reference));
        table.times("  of which the daemon's durable grant, asked and told", &assign, None);
        Ok(())
    }

    /// Measures the calls without programs and daemon around them.
    fn in_process(&self, route_table: u8) -> Result<[Times; 2], Failure> {
        let sandbox = &self.sandboxes[0];
        let lease = lease_of(sandbox, route_table)?;
        let settings = PodSettings::new(VethPrefix::default(), 9001);
        let bare_pod = BarePod { address: sandbox.bare, table: route_table };
        let mut inside = sandbox.netns.netlink()?;
        let mut bare_inside = sandbox.netns.run(bare::Netlink::open)??;
        self.netns.run(|| -> Result<_, Failure> {
            let mut host = KernelNetlink::current()?;
            let mut bare_host = bare::Netlink::open()?;
            let (mut reference, mut measured) = (Times::default(), Times::default());
            for _ in 0..SERIAL_ROUNDS {
                reference
                    .add
                    .measure(|| bare_pod.add(&mut bare_host, &mut bare_inside, &sandbox.file))?;
                reference.del.measure(|| bare_pod.del(&mut bare_host))?;
                remove_link(&bare_pod.host_link())?;

                let network = measured.add.measure(|| -> Result<_, Failure> {
                    let network = pod::desired(&lease, &settings)?;
                    pod::add(&mut host, &mut inside, &sandbox.netns, &network)?;
                    Ok(network)
                })?;
                measured.del.measure(|| pod::remove(&mut host, &network))?;
                remove_link(&network.interfaces[0].host.name)?;
            }
            Ok([reference, measured])
        })?
    }

    fn system_calls(&self) -> Result<(), Failure> {
        let table = Table::of_figures("System calls, and what is sent to netlink");
        let route_table = self.route_table()?;
        let sandbox = &self.sandboxes[0];
        for (name, contender) in [
            ("bare-pod", Contender::Bare(&self.programs, route_table)),
            ("vpc-cni", Contender::Plugin(&self.programs)),
        ] {
            let trace = Path::new("/run").join(name);
            let mut link = String::new();
            for verb in ["add", "del"] {
                let (command, stdin) = contender.command(verb, sandbox);
                let mut traced = Command::new("strace");
                traced.args(["-f", "-qq", "-e", "signal=none", "-e", "abbrev=none", "-o"]);
                traced.arg(&trace).arg(command.get_program()).args(command.get_args());
                traced
                    .env_clear()
                    .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                if let Some(path) = std::env::var_os("PATH") {
                    traced.env("PATH", path);
                }
                let said = match self.netns.run(|| spawn(&mut traced, &stdin))? {
                    Ok((_, said)) => said,
                    Err(error) => {
                        table.figure(name, "not counted", &format!("strace: {error}"));
                        return Ok(());
                    }
                };
                if verb == "add" {
                    link = contender.link_of(&said, sandbox)?;
                }
                let Calls { all, sends, messages } = Calls::of(&fs::read_to_string(&trace)?);
                let netlink = format!("{messages} messages in {sends} sends");
                table.figure(&format!("{name} {verb}"), &format!("{all} calls"), &netlink);
            }
            self.netns.run(|| remove_link(&link))??;
        }
        Ok(())
    }
}

impl Daemon {
    fn start(node: &LabNode, netns: Namespace) -> Result<Self, Failure> {
        let vars = [
            ("MINIMUM_IP_TARGET", ADDRESSES.to_string()),
            ("WARM_IP_TARGET", "0".into()),
            // What is released is free again: the rounds need more addresses than the node has.
            ("IP_COOLDOWN_PERIOD", "0".into()),
        ];
        let (Settings { config, host: host_config, metrics, introspection, .. }, _) =
            Settings::from_vars(vars.map(|(name, value)| (name.to_string(), value)));
        let options = Options {
            config,
            overrides: Vec::new(),
            labels: BTreeMap::new(),
            limits: KnownLimits::default(),
            host_config,
            budget: Budget::default(),
            netns,
            socket: node.address.socket.clone(),
            state: node.address.socket.with_file_name("state.redb"),
            boot: store::boot_id()?,
            adopt: true,
            service: Default::default(),
            metrics,
            introspection,
            journal: None,
            grpc: Vec::new(),
            network_policy: None,
        };
        let api = Arc::new(EmulatedEc2::new(node.cloud().clone(), node.address.instance_id));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let shutdown = async {
                // The sender dropped is as good as the word sent.
                let _ = stopped.await;
            };
            Ok(runtime.block_on(ipamd::run(options, api, None, shutdown))?)
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<(), Failure> {
        drop(self.stop);
        self.thread.join().map_err(|_| "the daemon panicked")?
    }
}

/// Lets all sandboxes be joined at the same time, and cut off.
fn at_once(
    contender: &Contender<'_>,
    sandboxes: &[Sandbox],
    times: &mut Times,
) -> Result<(), Failure> {
    let start = Barrier::new(AT_ONCE);
    let all = thread::scope(|scope| {
        let one = |sandbox| {
            let start = &start;
            scope.spawn(move || -> Result<Times, Failure> {
                let mut times = Times::default();
                start.wait();
                let link = contender.add(sandbox, &mut times.add);
                start.wait();
                let gone = contender.del(sandbox, &mut times.del);
                remove_link(&link?)?;
                gone.map(|()| times)
            })
        };
        let threads: Vec<_> = sandboxes.iter().map(one).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    for one in all {
        let Times { add, del } = one.map_err(|_| "a thread panicked")??;
        times.add.append(add);
        times.del.append(del);
    }
    Ok(())
}

/// What a program asked of the kernel.
struct Calls {
    all: usize,
    sends: usize,
    messages: usize,
}

impl Calls {
    fn of(trace: &str) -> Self {
        let begun = || trace.lines().filter(|line| !line.contains(" resumed>"));
        let sends = || begun().filter(|it| it.contains("sendto(") && it.contains("nlmsg_type="));
        Self {
            all: begun().count(),
            sends: sends().count(),
            messages: sends().map(|line| line.matches("nlmsg_type=").count()).sum(),
        }
    }
}

impl Sandbox {
    fn new(lab: &LabName, number: usize) -> Result<Self, Failure> {
        let pod = format!("pod-{number}");
        let netns = add_pod(lab, &pod)?;
        let file = File::open(netns.path())?;
        let [a, b, c, _] = BARE_ADDRESSES.octets();
        let bare = Ipv4Addr::from([a, b, c, u8::try_from(number)? + 1]);
        Ok(Self { pod, netns, file, bare })
    }
}

/// How long ADDs and DELs took.
#[derive(Default)]
struct Times {
    add: Samples,
    del: Samples,
}

/// A program that joins pods to the node. Called in the node's namespace.
#[derive(Clone, Copy)]
enum Contender<'a> {
    Plugin(&'a Programs),
    Bare(&'a Programs, u8),
}

impl Contender<'_> {
    fn round(&self, sandbox: &Sandbox, times: &mut Times) -> Result<(), Failure> {
        let link = self.add(sandbox, &mut times.add)?;
        self.del(sandbox, &mut times.del)?;
        remove_link(&link)
    }

    /// Joins a pod to the node, and returns the name of its link on the host.
    fn add(&self, sandbox: &Sandbox, samples: &mut Samples) -> Result<String, Failure> {
        let (mut command, stdin) = self.command("add", sandbox);
        let (took, said) = spawn(&mut command, &stdin)?;
        samples.push(took);
        self.link_of(&said, sandbox)
    }

    fn del(&self, sandbox: &Sandbox, samples: &mut Samples) -> Result<(), Failure> {
        let (mut command, stdin) = self.command("del", sandbox);
        samples.push(spawn(&mut command, &stdin)?.0);
        Ok(())
    }

    fn link_of(&self, said: &[u8], sandbox: &Sandbox) -> Result<String, Failure> {
        match self {
            Self::Plugin(_) => {
                let result: serde_json::Value = serde_json::from_slice(said)?;
                let name = result["interfaces"][0]["name"].as_str();
                Ok(name.ok_or("the plugin's result has no interface")?.to_string())
            }
            Self::Bare(_, table) => {
                Ok(BarePod { address: sandbox.bare, table: *table }.host_link())
            }
        }
    }

    fn command(&self, verb: &str, sandbox: &Sandbox) -> (Command, String) {
        match self {
            Self::Plugin(programs) => {
                let config = serde_json::json!({
                    "cniVersion": "1.0.0",
                    "name": "aws-cni",
                    "type": "vpc-cni",
                    "socket": programs.address.socket,
                });
                let mut command = Command::new(&programs.plugin);
                let pod = &sandbox.pod;
                command
                    .env_clear()
                    .env("CNI_COMMAND", verb.to_uppercase())
                    .env("CNI_CONTAINERID", pod)
                    .env("CNI_NETNS", sandbox.netns.path())
                    .env("CNI_IFNAME", "eth0")
                    .env("CNI_PATH", &programs.address.cni_bin_dir)
                    .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"));
                (command, config.to_string())
            }
            Self::Bare(programs, table) => {
                let mut command = Command::new(&programs.bare);
                command.args([verb, &sandbox.bare.to_string(), &table.to_string()]);
                command.arg(sandbox.netns.path()).env_clear();
                (command, String::new())
            }
        }
    }
}

/// Runs a program to its end, and returns how long that took and what it printed.
fn spawn(command: &mut Command, stdin: &str) -> io::Result<(Duration, Vec<u8>)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that ended without reading says why by its status.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    let took = begun.elapsed();
    if !output.status.success() {
        let words = [output.stdout, output.stderr].concat();
        return Err(io::Error::other(String::from_utf8_lossy(&words).into_owned()));
    }
    Ok((took, output.stdout))
}

/// Removes a link, unless the daemon did after a DEL.
fn remove_link(name: &str) -> Result<(), Failure> {
    let change = KernelChange::RemoveLink { name: name.to_string() };
    let mut netlink = KernelNetlink::current()?;
    for result in netlink.change(&[change])? {
        if netlink.link(name)?.is_some() {
            result?;
        }
    }
    Ok(())
}

fn lease_of(sandbox: &Sandbox, route_table: u8) -> Result<Lease, Failure> {
    let device = match RouteTable(route_table.into()) {
        RouteTable::MAIN => 0,
        RouteTable(table) => u8::try_from(table - 1)?,
    };
    Ok(Lease::new(
        PodKey::new("bench", &sandbox.pod, "eth0")?,
        Pod::new("bench", sandbox.pod.clone()),
        Timestamp::EPOCH,
        LeasedInterface::new(
            "eni-0123456789abcdef0".parse()?,
            Mac([2, 0, 10, 0, 0, 20]),
            Card(0),
            DeviceIndex(device),
        )
        .with_primary(device == 0)
        .with_ipv4(Some(sandbox.bare)),
    ))
}

/// Measures how a host is set up that has nothing yet but its links, and how it is found set up.
fn host_set_up(lab: &LabName) -> Result<(), Failure> {
    let table = Table::of_times("Host set-up: mark, variables, address translation");
    let host = Namespace::create(&format!("vil-{lab}-bench-host"))?;
    let beyond = Namespace::create(&format!("vil-{lab}-bench-beyond"))?;
    let mut netlink = host.netlink()?;
    let veth = Veth {
        name: "eth0".into(),
        mac: Mac([2, 0, 0, 0, 9, 1]),
        mtu: 9001,
        peer: VethPeer { name: "eth0".into(), mac: Mac([2, 0, 0, 0, 9, 2]), namespace: beyond },
    };
    for result in netlink.change(&[KernelChange::AddVeth(veth)])? {
        result?;
    }
    let primary = netlink.link("eth0")?.ok_or("the link that was made is not there")?;
    let config = HostConfig::default();
    for count in [5, 500_u32] {
        let cidrs = |offset: u32| -> Vec<Ipv4Net> {
            // Every second one, so that none can be merged with its neighbour.
            let nth = |i| Ipv4Addr::from(0x0a00_0000 + offset + (i << 9));
            (0..count).filter_map(|i| Ipv4Net::new(nth(i), 24).ok()).collect()
        };
        let [one, other] = [cidrs(0), cidrs(1 << 18)].map(|cidrs| {
            HostFacts::ipv4(primary.clone(), Ipv4Addr::new(10, 0, 0, 10), cidrs, 9001)
        });
        let nat = Nat::render(&config, &one);
        let text = nat.script();
        let (mut bare, mut changed, mut at_rest) = Default::default();
        for _ in 0..HOST_ROUNDS {
            let bare: &mut Samples = &mut bare;
            bare.push(host.run(|| spawn(Command::new("nft").args(["-f", "-"]), &text))??.0);
            for facts in [&other, &one] {
                let changed: &mut Samples = &mut changed;
                changed.measure(|| host::set_up(&mut netlink, &config, facts))?;
            }
            let at_rest: &mut Samples = &mut at_rest;
            at_rest.measure(|| host::set_up(&mut netlink, &config, &one))?;
        }
        table.times(&format!("nft -f of the same text, {count} CIDRs"), &bare, None);
        table.times(&format!("host::set_up, other {count} CIDRs"), &changed, Some(&bare));
        table.times(&format!("host::set_up again, {count} CIDRs"), &at_rest, Some(&bare));
    }
    Ok(())
}
