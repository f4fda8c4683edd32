//! Containers that come and go for as long as one likes, while the daemon is killed and EC2 throttles calls and loses answers.

use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

use vpc_ipam::lab::{LabAddress, LabNode};
use vpc_ipam_aws::SharedCloud;
use vpc_ipam_core::Lease;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::INTERNET;

use super::containerd::Containerd;
use crate::agreement::{agreed, leases};
use crate::support::{kernel_state, spec, start};
use vpc_ipam_tests::ec2::{Ec2OnSocket, Process, Rates, logged};

/// How many containers are started and stopped at least.
const CONTAINERS: usize = 200;
/// How many callers of the runtime there are at a time, as kubelet has several.
const CALLERS: u64 = 10;
/// How many containers run from the beginning to the end.
const THROUGHOUT: u16 = 3;
/// Where those of them listen that are called from outside.
const PORT: u16 = 9000;
/// How long the node may take to agree with itself once nothing fails any more.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn nothing_is_lost_or_given_twice_while_the_daemon_is_killed_and_ec2_fails() {
    let (seconds, seed) = (variable("SOAK_SECONDS").unwrap_or(60), seed());
    println!("soak: {seconds} s, seed {seed} (VPC_IPAM_SOAK_SECONDS, VPC_IPAM_SOAK_SEED)");
    let mut spec = spec("m5.large");
    spec.daemon = false;
    let node = start(&spec);
    let ec2 = Ec2OnSocket::serve(&node, seed);
    let first = Process::start(&node.address, &ec2);
    let soak = Soak::start(&node, Duration::from_secs(seconds));
    let (throughout, conversations) = soak.start_throughout();

    ec2.fail(Rates { throttled: 100, call_lost: 50, answer_lost: 50 });
    let began = Instant::now();
    let (daemon, kills, survivors, told) = thread::scope(|scope| {
        let (soak, end) = (&soak, End(&soak));
        let killer = scope.spawn(|| soak.kill_at_random(first, &ec2, seed));
        let talks: Vec<_> =
            conversations.into_iter().map(|stream| scope.spawn(|| soak.talk(stream))).collect();
        let callers: Vec<_> =
            (0..CALLERS).map(|n| scope.spawn(move || soak.call_runtime(seed + 1 + n))).collect();
        let survivors: Vec<Running> =
            callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        soak.calm.store(true, Ordering::Relaxed);
        let (daemon, kills) = killer.join().unwrap();
        ec2.fail(Rates::default());
        // Containers that still run, and the daemon that was started last.
        soak.expect_agreement(throughout.iter().chain(&survivors));
        drop(end);
        let told: Vec<Talk> = talks.into_iter().map(|talk| talk.join().unwrap()).collect();
        (daemon, kills, survivors, told)
    });
    let elapsed = began.elapsed();

    for running in throughout.into_iter().chain(survivors) {
        soak.stop(running);
    }
    soak.expect_agreement([]);
    expect_nothing_of_pods(&node);
    soak.report(elapsed, kills, &ec2, &told);
    assert_eq!(soak.wrong.into_inner().unwrap(), [""; 0], "{}", logged(&node.address));
    for Talk { stopped, bytes, .. } in &told {
        assert_eq!(*stopped, None, "a conversation ended after {bytes} bytes");
        assert!(*bytes > 0);
    }
    assert_eq!(node.drops().unwrap(), 0, "packets that left by the wrong ENI");
    assert!(kills > 0 && ec2.calls().1 > 0, "nothing went wrong, so nothing was shown");
    assert!(daemon.kill(), "the last daemon ended by itself: {}", logged(&node.address));
    drop(soak.containerd);
    node.stop().unwrap();
}

fn variable(name: &str) -> Option<u64> {
    let name = format!("VPC_IPAM_{name}");
    let text = std::env::var(&name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    let by_clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    variable("SOAK_SEED").unwrap_or_else(by_clock)
}

/// What all threads share.
struct Soak {
    address: LabAddress,
    cloud: SharedCloud,
    containerd: Containerd,
    other_host: (Namespace, Ipv4Addr),
    internet: Namespace,
    /// A line for each call of the plugin: command, exit code, milliseconds.
    calls: PathBuf,
    until: Instant,
    /// After which a container that still runs is killed, so that a test that hangs ends.
    limit: Duration,
    started: AtomicUsize,
    stopped: AtomicUsize,
    longest_start: AtomicU64,
    /// What the runtime said of starts that failed and were tried again.
    retried: Mutex<Vec<String>>,
    running: Mutex<BTreeMap<Ipv4Addr, String>>,
    /// What must not be.
    wrong: Mutex<Vec<String>>,
    calm: AtomicBool,
    over: AtomicBool,
}

/// A container, and the client of the runtime that waits for it.
struct Running {
    name: String,
    address: Ipv4Addr,
    client: Child,
    /// A line ends the container.
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What became of a conversation.
struct Talk {
    bytes: u64,
    longest: Duration,
    stopped: Option<String>,
}

/// Ends what goes on in threads, also when a test fails.
struct End<'a>(&'a Soak);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.calm.store(true, Ordering::Relaxed);
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Soak {
    fn start(node: &LabNode, duration: Duration) -> Self {
        let mut containerd = Containerd::start(node);
        let folder = node.address.socket.with_file_name("timed");
        let calls = node.address.socket.with_file_name("calls");
        time_the_plugin(&folder, &containerd.cni_bin_dir, &calls);
        containerd.cni_bin_dir = folder;
        let (other_host, internet) = node.with_lab(|lab| {
            let address = lab.layout().other_host.primary_ipv4;
            ((lab.other_host().clone(), address), lab.internet().clone())
        });
        Self {
            address: node.address.clone(),
            cloud: node.cloud().clone(),
            containerd,
            other_host,
            internet,
            calls,
            until: Instant::now() + duration,
            limit: duration + Duration::from_secs(900),
            started: AtomicUsize::new(0),
            stopped: AtomicUsize::new(0),
            longest_start: AtomicU64::new(0),
            retried: Mutex::default(),
            running: Mutex::default(),
            wrong: Mutex::default(),
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Runs a container that tells its address and runs a script until it is sent a line. Fails as the runtime does.
    fn run(&self, name: &str, script: &str) -> Result<Running, String> {
        let mut command = self.containerd.ctr();
        command.env("LIMIT", self.limit.as_secs().to_string());
        let script = format!("ip -o -4 address show dev eth0; {script} read stop");
        command.args(["run", "--rm", "--cni", "--rootfs"]).arg(self.containerd.rootfs());
        command.args([name, "/bin/sh", "-c", &script]).stdin(Stdio::piped());
        let began = Instant::now();
        let mut client = command.spawn().unwrap();
        let stdin = client.stdin.take().unwrap();
        let mut stdout = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_suffix("/32"));
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            drop(stdin);
            let mut said = String::new();
            client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            client.wait().unwrap();
            // What was made before the network failed stays, as the runtime's client leaves it.
            for delete in [&["task", "delete", "--force"][..], &["container", "delete"]] {
                let _ = self.containerd.ctr().args(delete).arg(name).output().unwrap();
            }
            return Err(format!("{name}: {line}{said}"));
        };
        self.longest_start.fetch_max(millis(began.elapsed()), Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
        if let Some(other) = lock(&self.running).insert(address, name.to_owned()) {
            self.note(format!("{address} is {name}'s while it is {other}'s"));
        }
        Ok(Running { name: name.to_owned(), address, client, stdin, stdout })
    }

    /// Ends a container. Its client removes its network, and has nothing to complain of.
    fn stop(&self, running: Running) {
        let Running { name, address, mut client, mut stdin, mut stdout } = running;
        // From here on its address may be given again.
        lock(&self.running).remove(&address);
        stdin.write_all(b"\n").unwrap();
        drop(stdin);
        let (mut rest, mut said) = (String::new(), String::new());
        stdout.read_to_string(&mut rest).unwrap();
        client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = client.wait().unwrap();
        self.stopped.fetch_add(1, Ordering::Relaxed);
        if !status.success() || !said.is_empty() {
            self.note(format!("{name} at {address} ended with {status}: {said}"));
        }
    }

    fn note(&self, what: String) {
        println!("soak: {what}");
        lock(&self.wrong).push(what);
    }

    /// Starts and stops containers until the time is over and there were enough. Returns those that it left running.
    fn call_runtime(&self, seed: u64) -> Vec<Running> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut running: Vec<Running> = Vec::new();
        let enough = |soak: &Self| {
            soak.stopped.load(Ordering::Relaxed) >= CONTAINERS && Instant::now() > soak.until
        };
        let mut number = 0;
        while !enough(self) && lock(&self.wrong).is_empty() {
            if running.len() < 2 && (running.is_empty() || rng.bool()) {
                number += 1;
                let name = format!("s{seed}-{number}");
                let to = self.other_host.1;
                let ping = format!("ping -c 5 -w 30 {to} > /dev/null && echo reached;");
                match self.run(&name, &ping) {
                    Ok(one) => running.push(one),
                    Err(said) => {
                        lock(&self.retried).push(said);
                        thread::sleep(Duration::from_millis(rng.u64(100..1000)));
                    }
                }
            } else {
                let mut one = running.swap_remove(rng.usize(..running.len()));
                let mut line = String::new();
                one.stdout.read_line(&mut line).unwrap();
                if line != "reached\n" {
                    self.note(format!("{} at {} reached nothing: {line:?}", one.name, one.address));
                }
                self.stop(one);
            }
            thread::sleep(Duration::from_millis(rng.u64(0..500)));
        }
        running
    }

    /// Kills the daemon about every second and starts it again, until there is to be calm. Returns the last one.
    fn kill_at_random(&self, first: Process, ec2: &Ec2OnSocket, seed: u64) -> (Process, usize) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut daemon, mut kills) = (first, 0);
        while !self.calm.load(Ordering::Relaxed) {
            // Now and then it lives longer, so that it comes to work that is not urgent.
            let most = if rng.u8(..10) == 0 { 5000 } else { 2000 };
            thread::sleep(Duration::from_millis(rng.u64(0..most)));
            if !daemon.kill() {
                self.note(format!("the daemon ended by itself: {}", logged(&self.address)));
            }
            kills += 1;
            daemon = Process::start(&self.address, ec2);
        }
        (daemon, kills)
    }

    /// Starts the containers that run throughout, each with a connection into it and one out of it.
    fn start_throughout(&self) -> (Vec<Running>, Vec<TcpStream>) {
        let mut streams = Vec::new();
        let running = (0..THROUGHOUT).map(|number| {
            let port = PORT + 1 + number;
            let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
            let listener = self.internet.run(bind).unwrap().unwrap();
            listener.set_nonblocking(true).unwrap();
            // Its side of each conversation: sends back what it hears.
            let script =
                format!("nc -ll -p {PORT} -e /bin/cat & nc {INTERNET} {port} -e /bin/cat &");
            let running = self.run(&format!("throughout{number}"), &script);
            let running = running.unwrap_or_else(|said| panic!("{said}"));
            streams.push(wait_until("a connection from a container", || {
                listener.accept().map(|(stream, _)| stream).map_err(|error| error.to_string())
            }));
            streams.push(wait_until("a connection to a container", || {
                let connect = || TcpStream::connect((running.address, PORT));
                self.other_host.0.run(connect).unwrap().map_err(|error| error.to_string())
            }));
            running
        });
        (running.collect(), streams)
    }

    /// Sends bytes through a connection and hears them again, until all is over.
    fn talk(&self, mut stream: TcpStream) -> Talk {
        let mut talk = Talk { bytes: 0, longest: Duration::ZERO, stopped: None };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rng = fastrand::Rng::with_seed(talk.bytes);
        while !self.over.load(Ordering::Relaxed) {
            let (began, mut sent) = (Instant::now(), [0; 512]);
            rng.fill(&mut sent);
            let mut heard = [0; 512];
            let said = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut heard));
            let said = said.and_then(|()| {
                if heard == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
            });
            if let Err(error) = said {
                talk.stopped = Some(error.to_string());
                return talk;
            }
            talk.bytes += 2 * 512;
            talk.longest = talk.longest.max(began.elapsed());
            thread::sleep(Duration::from_millis(50));
        }
        talk
    }

    /// Waits until containers, the daemon's leases, the kernel and EC2 agree.
    fn expect_agreement<'r>(&self, running: impl IntoIterator<Item = &'r Running>) {
        let addresses: BTreeSet<IpAddr> =
            running.into_iter().map(|running| running.address.into()).collect();
        wait_until("containers, leases, kernel and EC2 to agree", || {
            let leases = leases(&self.address)?;
            let leased: BTreeSet<IpAddr> = leases.iter().flat_map(Lease::addresses).collect();
            if addresses != leased {
                return Err(format!("running {addresses:?}, leased {leased:?}"));
            }
            agreed(&self.address, &self.cloud).map(drop)
        });
    }

    fn report(&self, elapsed: Duration, kills: usize, ec2: &Ec2OnSocket, talks: &[Talk]) {
        let calls = fs::read_to_string(&self.calls).unwrap();
        let of = |command: &str| {
            let (mut millis, mut failed) = (Vec::new(), 0);
            for line in calls.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                if words[0] == command {
                    millis.push(words[2].parse::<u64>().unwrap());
                    failed += usize::from(words[1] != "0");
                }
            }
            millis.sort_unstable();
            let part =
                |percent: usize| millis.get(millis.len() * percent / 100).copied().unwrap_or(0);
            format!(
                "{} {command} ({failed} failed, p50 {} ms, p99 {} ms, longest {} ms)",
                millis.len(),
                part(50),
                part(99),
                millis.last().unwrap_or(&0),
            )
        };
        let (asked, failed) = ec2.calls();
        println!(
            "soak: {} containers started and {} stopped in {:.0} s, the slowest in {} ms",
            self.started.load(Ordering::Relaxed),
            self.stopped.load(Ordering::Relaxed),
            elapsed.as_secs_f32(),
            self.longest_start.load(Ordering::Relaxed),
        );
        println!("soak: {}, {}", of("ADD"), of("DEL"));
        println!(
            "soak: daemon killed {kills} times; {failed} of {asked} calls of EC2 failed as told"
        );
        let retried = lock(&self.retried);
        println!("soak: starts that failed and were tried again: {}", retried.len());
        for said in retried.iter().take(5) {
            println!("soak:   {}", said.trim().replace('\n', " "));
        }
        let bytes: u64 = talks.iter().map(|talk| talk.bytes).sum();
        let longest = talks.iter().map(|talk| talk.longest).max().unwrap_or_default();
        println!(
            "soak: {} conversations of {bytes} bytes, the slowest answer after {} ms",
            talks.len(),
            millis(longest)
        );
    }
}

fn expect_nothing_of_pods(node: &LabNode) {
    wait_until("what is left of pods", || {
        let of_pods = |line: &&str| {
            line.contains(" eni") && !line.contains("iifname")
                || line.starts_with("512:")
                || line.starts_with("1536:")
        };
        let state = kernel_state(node);
        let left: Vec<&str> = state.lines().filter(of_pods).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

/// Puts a program in place of the plugin that calls it and writes how long that took.
fn time_the_plugin(folder: &Path, plugin_folder: &Path, calls: &Path) {
    fs::create_dir(folder).unwrap();
    let script = format!(
        "#!/bin/sh\nbegan=$(date +%s%N)\n{}/vpc-cni\ncode=$?\n\
         echo \"$CNI_COMMAND $code $((($(date +%s%N) - began) / 1000000))\" >> {}\nexit $code\n",
        plugin_folder.display(),
        calls.display()
    );
    let path = folder.join("vpc-cni");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits longer than other tests do: a cooldown, a back-off and an ENI that is deleted may come one after the other.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) if Instant::now() > deadline => panic!("{what}: {seen}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
