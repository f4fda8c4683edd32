//! A daemon that is killed at each step of what it does, and started again: the node ends as one whose daemon was not.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;
use vpc_ipam::lab::{LabAddress, LabNode, PluginCall};
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::{Namespace, lab};

use crate::agreement::{agreed, leases};
use crate::support::{printed, signal, spec, start, wait_until};
use vpc_ipam_tests::ec2::{Cut, Ec2OnSocket, Process, logged};

/// After how many steps of a kind the rest is taken to be like the ones before.
const STEPS_MAX: u32 = 24;
/// How long a state lasts that nothing changes any more.
const SETTLED: Duration = Duration::from_secs(3);
const PODS: [&str; 2] = ["a", "b"];

/// Where the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// As it begins to make a write to its state durable.
    DurableWrite,
    /// As a change reaches EC2, which does not make it.
    BeforeChange,
    /// As EC2 has made a change, before the answer.
    AfterChange,
    /// As a thread of it begins to send: to the kernel, or an answer.
    Send,
}

impl Step {
    const ALL: [Self; 4] = [Self::DurableWrite, Self::BeforeChange, Self::AfterChange, Self::Send];

    /// Returns the number of the step to try after this one: of the many messages, fewer the later they are.
    fn next(self, number: u32) -> u32 {
        if self == Self::Send { number + number.div_ceil(2) } else { number + 1 }
    }
}

#[test]
fn node_ends_alike_wherever_the_daemon_is_killed_while_a_pod_is_added_and_the_pool_grows() {
    Bench::start().try_every_step("ADD", &[], &["a"], |place| place.add("a"));
}

#[test]
fn node_ends_alike_wherever_the_daemon_is_killed_while_a_pod_is_deleted_and_the_pool_shrinks() {
    Bench::start().try_every_step("DEL", &["a"], &[], |place| place.del("a"));
}

#[test]
fn node_ends_alike_wherever_the_daemon_is_killed_while_pods_are_collected() {
    Bench::start().try_every_step("GC", &["a", "b"], &["a"], |place| place.gc("a"));
}

struct Bench {
    node: LabNode,
    place: Arc<Place>,
    ec2: Ec2OnSocket,
    daemon: Option<Process>,
}

/// What is compared: the pods that have addresses, and how many ENIs and blocks the node has. Which ones EC2 chooses.
#[derive(Clone, PartialEq, Eq)]
struct End {
    pods: BTreeSet<String>,
    enis: usize,
    blocks: usize,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {} ENIs with {} blocks", self.pods, self.enis, self.blocks)
    }
}

impl Bench {
    fn start() -> Self {
        let mut spec = spec("m5.large");
        spec.daemon = false;
        let node = start(&spec);
        let netns =
            PODS.map(|pod| (pod, lab::add_pod(&spec.name, pod).unwrap().path().to_path_buf()));
        let place = Arc::new(Place { address: node.address.clone(), netns: BTreeMap::from(netns) });
        let ec2 = Ec2OnSocket::serve(&node, 0);
        let daemon = Some(Process::start(&node.address, &ec2));
        Self { node, place, ec2, daemon }
    }

    fn try_every_step(
        mut self,
        what: &str,
        before: &[&str],
        after: &[&str],
        operation: impl Fn(&Place) -> Result<(), String> + Sync,
    ) {
        let empty = self.settled(&[]);
        self.add_all(before);
        let prepared = self.settled(before);
        self.repeat(&operation);
        let expected = self.settled(after);
        for step in Step::ALL {
            let (mut number, mut kills) = (1, 0);
            while number <= STEPS_MAX {
                self.reset(&empty);
                self.add_all(before);
                self.expect(&prepared, what);
                let case = format!("{what}: killed at {step:?} {number}");
                let killer = Killer::arm(&self, step, number);
                self.repeat(&operation);
                self.expect(&expected, &case);
                if !killer.disarm(&self) {
                    break;
                }
                kills += 1;
                number = step.next(number);
            }
            println!("{what}: the daemon was killed at {kills} steps of {step:?}");
            assert!(
                kills > 0 || !matches!(step, Step::DurableWrite | Step::Send),
                "{what} {step:?}"
            );
        }
        self.reset(&empty);
        self.daemon.take().unwrap().kill();
        self.node.stop().unwrap();
    }

    /// Does something as a runtime does: again where it failed.
    fn repeat(&mut self, operation: &(impl Fn(&Place) -> Result<(), String> + Sync)) {
        let place = Arc::clone(&self.place);
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                // A GC does not wait for a daemon that is restarted: its runtime comes again.
                wait_until("the plugin", || operation(&place));
            });
            while !running.is_finished() {
                self.restart_if_killed();
                thread::sleep(Duration::from_millis(20));
            }
        });
    }

    fn restart_if_killed(&mut self) -> bool {
        let killed = self.daemon.as_mut().is_none_or(|daemon| !daemon.is_alive());
        if killed {
            self.daemon = Some(Process::start(&self.node.address, &self.ec2));
        }
        killed
    }

    fn add_all(&mut self, pods: &[&str]) {
        for pod in pods {
            self.repeat(&|place: &Place| place.add(pod));
        }
    }

    fn reset(&mut self, empty: &End) {
        for pod in PODS {
            self.repeat(&|place: &Place| place.del(pod));
        }
        self.expect(empty, "without pods");
    }

    fn look(&mut self) -> Result<End, String> {
        self.restart_if_killed();
        let address = &self.node.address;
        let pods = leases(address)?.iter().map(|lease| lease.key.container().to_string()).collect();
        let assigned = agreed(address, self.node.cloud())?;
        Ok(End { pods, enis: assigned.enis, blocks: assigned.blocks.len() })
    }

    fn expect(&mut self, expected: &End, case: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let seen = self.look();
            if seen.as_ref() == Ok(expected) {
                return;
            }
            let log = || logged(&self.node.address);
            assert!(Instant::now() < deadline, "{case}: {seen:?}, not {expected:?}\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns how the node ends once it no longer changes.
    fn settled(&mut self, pods: &[&str]) -> End {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut since = Instant::now();
        let mut last = Err("not looked".to_owned());
        loop {
            let seen = self.look();
            if seen != last {
                (last, since) = (seen, Instant::now());
            }
            if let Ok(end) = &last
                && since.elapsed() > SETTLED
                && end.pods.iter().eq(pods)
            {
                return end.clone();
            }
            assert!(Instant::now() < deadline, "{last:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What kills the daemon at a step.
enum Killer {
    Ec2,
    /// It ends a process at its n-th call of a kind, and itself with it.
    Strace(Child),
}

impl Killer {
    fn arm(bench: &Bench, step: Step, number: u32) -> Self {
        let pid = bench.daemon.as_ref().unwrap().id();
        let calls = match step {
            Step::BeforeChange | Step::AfterChange => {
                bench.ec2.cut(Some(Cut { pid, number, after: step == Step::AfterChange }));
                return Self::Ec2;
            }
            Step::DurableWrite => "fsync,fdatasync",
            Step::Send => "sendto,sendmsg",
        };
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"])
            .args([&format!("inject={calls}:signal=KILL:when={number}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace, which `make test` installs: {error}"));
        wait_until("strace to follow every thread", || {
            // A daemon that is killed already has done a step of its own accord.
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(()) };
            let untraced = threads.filter_map(Result::ok).find(|thread| {
                let status = fs::read_to_string(thread.path().join("status"));
                // One that has ended is a zombie until the test waits for it.
                status.is_ok_and(|status| {
                    status.contains("TracerPid:\t0\n") && !status.contains("State:\tZ")
                })
            });
            untraced.map_or(Ok(()), |thread| Err(format!("{}", thread.path().display())))
        });
        Self::Strace(strace)
    }

    /// Returns whether it has killed.
    fn disarm(self, bench: &Bench) -> bool {
        match self {
            Self::Ec2 => bench.ec2.cut(None).is_none(),
            Self::Strace(mut strace) => {
                let killed = strace.try_wait().unwrap().is_some();
                if !killed {
                    signal(strace.id(), Signal::TERM);
                    strace.wait().unwrap();
                }
                killed
            }
        }
    }
}

/// Where the plugin is called.
struct Place {
    address: LabAddress,
    /// The namespaces of pods.
    netns: BTreeMap<&'static str, PathBuf>,
}

impl Place {
    fn add(&self, pod: &str) -> Result<(), String> {
        self.call(&PluginCall::add(pod, &self.netns[pod]))
    }

    fn del(&self, pod: &str) -> Result<(), String> {
        self.call(&PluginCall::del(pod, Some(&self.netns[pod])))
    }

    fn call(&self, call: &PluginCall<'_>) -> Result<(), String> {
        self.address.call_plugin(call).map(drop).map_err(|error| error_chain(&error))
    }

    /// Deletes every pod but one.
    fn gc(&self, pod: &str) -> Result<(), String> {
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "aws-cni",
            "type": "vpc-cni",
            "socket": self.address.socket,
            "cni.dev/valid-attachments": [{"containerID": pod, "ifname": "eth0"}],
        });
        let mut command = Command::new(self.address.cni_bin_dir.join("vpc-cni"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CNI_COMMAND", "GC")
            .env("CNI_PATH", &self.address.cni_bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let node = Namespace::named(&self.address.node_netns).unwrap();
        let mut child = node.run(|| command.spawn()).unwrap().unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(printed(&output)) }
    }
}
