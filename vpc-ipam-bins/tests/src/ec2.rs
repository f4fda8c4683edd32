//! A daemon that is a process of its own and can be killed, and an EC2 that fails as told: neither needs the AWS SDK.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::Signal;
use vpc_ipam::lab::{LabAddress, LabNode};
use vpc_ipam_aws::SharedCloud;
use vpc_ipam_core::Ec2Action;
use vpc_ipam_core::Node;
use vpc_ipam_core::sim::Fault;
use vpc_ipam_linux::Namespace;

use crate::{program, signal};

/// How many calls in a thousand suffer what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Are refused for being too many.
    pub throttled: u32,
    /// Do not reach EC2.
    pub call_lost: u32,
    /// Are carried out, and the answer is lost.
    pub answer_lost: u32,
}

/// At which change of EC2 a process is killed.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The process.
    pub pid: u32,
    /// Counted from 1.
    pub number: u32,
    /// Whether the change is made before.
    pub after: bool,
}

/// EC2 and the metadata service of a node at a unix socket, for `lab-daemon`.
pub struct Ec2OnSocket {
    path: PathBuf,
    listener: UnixListener,
    played: Arc<Played>,
    thread: Option<JoinHandle<()>>,
}

struct Played {
    cloud: SharedCloud,
    node: Node,
    chance: Mutex<(Rates, fastrand::Rng)>,
    cut: Mutex<Option<Cut>>,
    calls: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl core::fmt::Debug for Ec2OnSocket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ec2OnSocket").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Ec2OnSocket {
    /// Serves beside the daemon's socket until dropped. The seed decides which calls fail.
    pub fn serve(node: &LabNode, seed: u64) -> Self {
        let path = node.address.socket.with_file_name("ec2.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let instance = node.address.instance_id;
        let described =
            node.cloud().with(|cloud, _| cloud.instance(&instance).unwrap().node.clone());
        let played = Arc::new(Played {
            cloud: node.cloud().clone(),
            node: described,
            chance: Mutex::new((Rates::default(), fastrand::Rng::with_seed(seed))),
            cut: Mutex::new(None),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&played);
        let accepting = listener.try_clone().unwrap();
        let accept = move || {
            for stream in accepting.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A caller that is killed takes no answer; what it asked for is done all the same.
                std::thread::spawn(move || stream.and_then(|stream| shared.answer(stream)));
            }
        };
        Self { path, listener, played, thread: Some(std::thread::spawn(accept)) }
    }

    /// Sets how often calls fail from here on.
    pub fn fail(&self, rates: Rates) {
        self.played.chance.lock().unwrap().0 = rates;
    }

    /// Has a process killed at a change. Returns the one before, if it was not come to.
    pub fn cut(&self, cut: Option<Cut>) -> Option<Cut> {
        core::mem::replace(&mut self.played.cut.lock().unwrap(), cut)
    }

    /// Returns where it is served.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many calls there were, and how many of them failed as told.
    pub fn calls(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.played.calls), count(&self.played.failed))
    }
}

impl Played {
    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let action: Ec2Action = serde_json::from_str(&line)?;
        let fault = self.draw().filter(|fault| fault.fits(&action));
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        let cut = self.due_cut(&action);
        if let Some(Cut { pid, after: false, .. }) = cut {
            signal(pid, Signal::KILL);
            return Ok(());
        }
        let outcome =
            self.cloud.with(|cloud, now| cloud.execute_with(&self.node, &action, fault, now));
        if let Some(Cut { pid, .. }) = cut {
            signal(pid, Signal::KILL);
            return Ok(());
        }
        stream.write_all((serde_json::to_string(&outcome)? + "\n").as_bytes())
    }

    /// Returns the cut that this action is, if it is one.
    fn due_cut(&self, action: &Ec2Action) -> Option<Cut> {
        let asks = matches!(
            action,
            Ec2Action::DescribeNetworkInterfaces(_)
                | Ec2Action::DescribeSubnets
                | Ec2Action::ReadMetadata
        );
        let mut cut = self.cut.lock().unwrap();
        let next = cut.as_mut().filter(|_| !asks)?;
        next.number -= 1;
        if next.number == 0 { cut.take() } else { None }
    }

    fn draw(&self) -> Option<Fault> {
        let mut chance = self.chance.lock().unwrap();
        let (rates, mut left) = (chance.0, chance.1.u32(..1000));
        let kinds = [
            (rates.throttled, Fault::Throttled),
            (rates.call_lost, Fault::CallLost),
            (rates.answer_lost, Fault::AnswerLost),
        ];
        for (of_thousand, fault) in kinds {
            match left.checked_sub(of_thousand) {
                Some(rest) => left = rest,
                None => return Some(fault),
            }
        }
        None
    }
}

impl Drop for Ec2OnSocket {
    fn drop(&mut self) {
        self.played.stop.store(true, Ordering::Relaxed);
        // So that it looks. By its path it may no longer be found.
        let ended = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// A process of `lab-daemon`; killed when the test is done with it.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it on a node whose own daemon was not started, without waiting for it.
    pub fn start(address: &LabAddress, ec2: &Ec2OnSocket) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(log_of(address)).unwrap();
        let mut command = Command::new(program("examples/lab-daemon"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("IP_COOLDOWN_PERIOD", "1")
            .arg(&ec2.path)
            .arg(&address.socket)
            .arg(address.instance_id.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let netns = Namespace::named(&address.node_netns).unwrap();
        Self(netns.run(|| command.spawn()).unwrap().unwrap())
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Returns whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Ends it as SIGKILL does. Returns whether it was still there.
    pub fn kill(mut self) -> bool {
        let alive = self.is_alive();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        alive
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_of(address: &LabAddress) -> PathBuf {
    address.socket.with_file_name("ipamd.log")
}

/// Returns the last lines that the processes of a node logged.
pub fn logged(address: &LabAddress) -> String {
    let text = fs::read_to_string(log_of(address)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
