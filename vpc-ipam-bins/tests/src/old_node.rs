//! A node in a box that amazon-vpc-cni-k8s looks after, as it is found before it is migrated.
//!
//! The stand-in for amazon-vpc-cni-k8s (`examples/old-daemon`) makes all of its state, from the facts about that program: the kernel's,
//! its checkpoint and its network configuration. A [`Runtime`] calls whichever plugin the configuration names first, so that after a
//! migration it calls ours. Nothing of ours runs or was ever there.

mod mode;
mod runtime;
mod traffic;

use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use vpc_ipam::lab::{LabNode, LabSpec, quick};
use vpc_ipam_core::sim::{CreateInterface, Ipv4Request, Ipv6Request};
use vpc_ipam_core::{
    AttachNetworkInterface, Card, DeviceIndex, InstanceType, Ipv4Amount, Limits, error_chain,
};
use vpc_ipam_linux::{Namespace, lab};

use crate::ec2::Ec2OnSocket;
use crate::program;

pub use self::mode::{Iptables, MODES, Mode};
pub use self::runtime::{Called, Pod, PortMapping, Runtime};

/// How long the stand-in may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node of amazon-vpc-cni-k8s. All that it consists of goes with it, its daemons too.
#[derive(Debug)]
pub struct OldNode {
    // Before the lab, with which its folder goes.
    _proc: MountedProc,
    /// Its VPC, and where things are. No daemon of ours runs.
    pub lab: LabNode,
    /// Its file system: `etc/cni/net.d`, `opt/cni/bin`, `var/run/aws-node`, `var/lib/cni/results`.
    pub root: PathBuf,
    /// How amazon-vpc-cni-k8s is set up on it.
    pub mode: &'static Mode,
    ec2: Ec2OnSocket,
    old_daemon: Option<Child>,
}

impl OldNode {
    /// Makes a node of a type with so many ENIs, each with as many addresses as it can have, and starts the stand-in on it.
    ///
    /// # Panics
    /// Panics if a part of it cannot be made.
    pub fn start(mode: &'static Mode, instance_type: &str, enis: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        lab::requirements().unwrap_or_else(|unmet| {
            panic!("{unmet}\nRun the tests with scripts/test.sh instead of cargo test.")
        });
        let name = format!("old{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let instance_type: InstanceType = instance_type.parse().unwrap();
        let spec = LabSpec {
            vars: mode.vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            timing: Some(quick()),
            daemon: false,
            ..LabSpec::new(name.parse().unwrap(), instance_type)
        };
        let lab = LabNode::start(&spec).unwrap_or_else(|error| panic!("{}", error_chain(&error)));
        plug_in(&lab, mode, &Limits::lookup(instance_type).unwrap(), enis);
        let root = lab.address.socket.with_file_name("root");
        make_folders(&root);
        let proc = MountedProc::below(&root);
        install_programs(&root, mode.iptables);
        let ec2 = Ec2OnSocket::serve(&lab, 0);
        let mut node = Self { _proc: proc, lab, root, mode, ec2, old_daemon: None };
        node.write_service_commands();
        node.start_old_daemon();
        node
    }

    /// Starts the stand-in, and waits until it serves and has written its network configuration.
    ///
    /// # Panics
    /// Panics if it ends, or does not serve.
    pub fn start_old_daemon(&mut self) {
        if let Err(ended) = self.try_start_old_daemon() {
            panic!("the stand-in ended with {ended:?}: {}", self.old_log());
        }
    }

    /// Starts the stand-in, and waits until it serves and has written its network configuration, or has ended, as it does where another
    /// program changes what it works on.
    ///
    /// # Panics
    /// Panics if it neither serves nor ends.
    pub fn try_start_old_daemon(&mut self) -> Result<(), ExitStatus> {
        self.spawn_old_daemon();
        let (root, began) = (self.root.clone(), Instant::now());
        let serves = || {
            std::os::unix::net::UnixStream::connect(root.join("var/run/aws-node/ipamd.sock"))
                .is_ok()
                && root.join("etc/cni/net.d/10-aws.conflist").exists()
        };
        while !serves() {
            if let Some(ended) = self.old_daemon.as_mut().unwrap().try_wait().unwrap() {
                self.old_daemon = None;
                return Err(ended);
            }
            assert!(began.elapsed() < PATIENCE, "the stand-in does not serve: {}", self.old_log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts the stand-in, and does not wait for it.
    ///
    /// # Panics
    /// Panics if it cannot be started, or runs already.
    pub fn spawn_old_daemon(&mut self) {
        assert!(self.old_daemon.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command(&self.root.join("app/aws-k8s-agent"));
        command
            .arg(&self.root)
            .arg(self.ec2.path())
            .envs(self.mode.vars.iter().copied())
            .envs(self.mode.stand_in.iter().copied())
            .env("IP_COOLDOWN_PERIOD", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.old_daemon = Some(self.netns().run(|| command.spawn()).unwrap().unwrap());
    }

    /// Ends the stand-in, as the removal of its DaemonSet from the node does. Its socket's file stays, as there.
    ///
    /// # Panics
    /// Panics if it does not run.
    pub fn stop_old_daemon(&mut self) {
        let mut daemon = self.old_daemon.take().expect("it runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Returns whether the stand-in runs.
    pub fn old_daemon_runs(&self) -> bool {
        self.old_daemon.is_some()
    }

    /// Ends the stand-in if it runs.
    pub fn stop_old_daemon_if_it_runs(&mut self) {
        if self.old_daemon_runs() {
            self.stop_old_daemon();
        }
    }

    /// Returns what the stand-in complained of.
    pub fn old_log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Returns the calls of the old plugin so far: command, container, interface, and what came of it.
    pub fn old_calls(&self) -> Vec<String> {
        let log = self.root.join("var/log/aws-routed-eni/plugin.log");
        fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Holds each ADD of the old plugin that has an address and has made nothing yet, until let go; a minute at most.
    ///
    /// # Panics
    /// Panics if the file that says so cannot be written.
    pub fn hold_old_adds(&self, hold: bool) {
        let file = self.root.join("hold-add");
        if hold {
            File::create(file).unwrap();
        } else {
            fs::remove_file(file).unwrap();
        }
    }

    /// Returns the container of the last ADD that was held, once it has its address.
    pub fn held_add(&self) -> Option<String> {
        fs::read_to_string(self.root.join("held-add")).ok().filter(|text| !text.is_empty())
    }

    /// Returns the checkpoint of amazon-vpc-cni-k8s.
    ///
    /// # Panics
    /// Panics if it cannot be read.
    pub fn checkpoint(&self) -> serde_json::Value {
        let text = fs::read(self.root.join("var/run/aws-node/ipam.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Returns the addresses that the checkpoint gives to containers.
    ///
    /// # Panics
    /// Panics if one of them is none.
    pub fn checkpoint_addresses(&self) -> BTreeMap<String, IpAddr> {
        let checkpoint = self.checkpoint();
        let rows = checkpoint["allocations"].as_array().unwrap();
        let row = |row: &serde_json::Value| {
            let address = row["ipv4"].as_str().or(row["ipv6"].as_str()).unwrap();
            (row["containerID"].as_str().unwrap().to_owned(), address.parse().unwrap())
        };
        rows.iter().map(row).collect()
    }

    /// Returns the network namespace of the node.
    ///
    /// # Panics
    /// Panics if it is gone.
    pub fn netns(&self) -> Namespace {
        Namespace::named(&self.lab.address.node_netns).unwrap()
    }

    /// Returns a container runtime on the node.
    pub fn runtime(&self) -> Runtime {
        let name = self.lab.with_lab(|lab| lab.name().clone());
        Runtime::new(name, self.root.clone(), self.netns(), self.path())
    }

    /// Returns what PATH is on the node: its iptables is of the mode's kind.
    pub fn path(&self) -> String {
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.root.join("usr/sbin").display())
    }

    /// Returns a command to be run on the node with nothing but its PATH; [`OldNode::run`] puts it there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", self.path());
        command
    }

    /// Runs a command on the node.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    pub fn run(&self, command: &mut Command) -> Output {
        self.netns().run(|| command.output()).unwrap().unwrap()
    }

    /// Runs a line of shell on the node, and returns what it printed.
    ///
    /// # Panics
    /// Panics if it fails.
    pub fn shell(&self, line: &str) -> String {
        let output = self.run(self.command(Path::new("/bin/sh")).args(["-ec", line]));
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns `vpc-ipam migrate`, with where everything is on the node; `to` and `back` start and stop our daemon.
    pub fn migrate(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&program("vpc-ipam"));
        let socket = &self.lab.address.socket;
        command.arg("migrate").args(arguments).arg("--root").arg(&self.root);
        command.arg("--socket").arg(socket);
        command.arg("--state").arg(socket.with_file_name("state.redb"));
        if ["check", "to", "back"].contains(&arguments[0]) {
            command.arg("--start").arg(self.start_command()).arg("--stop").arg(self.stop_command());
        }
        command
    }

    /// Returns the file of the settings of our daemon.
    pub fn env_file(&self) -> PathBuf {
        self.root.join("etc/vpc-ipam/vpc-ipamd.env")
    }

    /// Returns the command that starts our daemon as a service manager does: unless it runs, with the settings of [`OldNode::env_file`], and without an
    /// end to wait for. Of those settings the kernel knows nothing of how long addresses cool down, so the unit sets it.
    pub fn start_command(&self) -> String {
        self.root.join("usr/sbin/start-vpc-ipamd").display().to_string()
    }

    /// Returns the command that stops our daemon as a service manager does: with SIGTERM, and it waits for the end.
    pub fn stop_command(&self) -> String {
        self.root.join("usr/sbin/stop-vpc-ipamd").display().to_string()
    }

    /// Returns what our daemon logged.
    pub fn our_log(&self) -> String {
        fs::read_to_string(self.root.join("var/log/vpc-ipamd.log")).unwrap_or_default()
    }

    /// Returns the process of our daemon, if one was started and still runs.
    pub fn our_daemon(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.root.join("run/vpc-ipamd.pid")).ok()?;
        let pid: u32 = pid.trim().parse().ok()?;
        let name = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        name.ends_with("lab-daemon").then_some(pid)
    }

    /// Ends our daemon as SIGKILL does, if one runs.
    pub fn kill_our_daemon(&self) {
        if let Some(pid) = self.our_daemon() {
            crate::signal(pid, Signal::KILL);
            let began = Instant::now();
            // It is no child of this process.
            while self.our_daemon() == Some(pid) && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("var/log/aws-routed-eni/ipamd.log")
    }

    /// Writes the programs by which a service manager is played.
    fn write_service_commands(&self) {
        let address = &self.lab.address;
        let overrides = address.overrides.as_ref().map(|path| path.display().to_string());
        let root = self.root.display();
        let start = format!(
            "#!/bin/sh\npid=$(cat {root}/run/vpc-ipamd.pid 2>/dev/null) && kill -0 $pid 2>/dev/null && exit 0\n\
             set -a\nIP_COOLDOWN_PERIOD=2\n[ ! -e {env} ] || . {env}\nset +a\n\
             {daemon} {ec2} {socket} {instance} {overrides} >>{root}/var/log/vpc-ipamd.log 2>&1 </dev/null &\n\
             echo $! >{root}/run/vpc-ipamd.pid\n",
            env = self.env_file().display(),
            daemon = program("examples/lab-daemon").display(),
            ec2 = self.ec2.path().display(),
            socket = address.socket.display(),
            instance = address.instance_id,
            overrides = overrides.unwrap_or_default(),
        );
        let stop = format!(
            "#!/bin/sh\n[ -e {root}/run/vpc-ipamd.pid ] || exit 0\npid=$(cat {root}/run/vpc-ipamd.pid)\n\
             kill -TERM $pid || exit 0\n\
             while kill -0 $pid 2>/dev/null; do sleep 0.01; done\nrm {root}/run/vpc-ipamd.pid\n"
        );
        for (name, script) in [("start-vpc-ipamd", start), ("stop-vpc-ipamd", stop)] {
            let path = self.root.join("usr/sbin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

impl Drop for OldNode {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.old_daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.kill_our_daemon();
    }
}

/// The processes of this machine below the root of a node, as the root of a host is seen from a container, until dropped.
#[derive(Debug)]
struct MountedProc(PathBuf);

impl MountedProc {
    fn below(root: &Path) -> Self {
        let place = Self(root.join("proc"));
        fs::create_dir(&place.0).unwrap();
        let mounted = Command::new("mount").args(["--rbind", "/proc"]).arg(&place.0).status();
        assert!(mounted.unwrap().success(), "mount {}", place.0.display());
        place
    }
}

impl Drop for MountedProc {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(&self.0).status();
    }
}

/// Attaches ENIs as amazon-vpc-cni-k8s makes them, and gives each what pods may use.
fn plug_in(node: &LabNode, mode: &Mode, limits: &Limits, enis: u8) {
    let instance = node.address.instance_id;
    let subnet = node.address.subnets.pods.unwrap_or(node.address.subnets.node).id;
    let addresses = limits.ipv4_per_eni - 1;
    node.cloud().with(|cloud, now| {
        let primary = cloud.instance(&instance).unwrap().node.primary;
        let mut carriers = vec![primary];
        // In IPv6 clusters all pods are on the primary ENI.
        for device in 1..if mode.ipv6() { 1 } else { enis } {
            let tags = BTreeMap::from([(
                "node.k8s.amazonaws.com/instance_id".to_owned(),
                instance.to_string(),
            )]);
            let description = format!("aws-K8S-{instance}");
            let request = CreateInterface { tags, description, ..CreateInterface::new(subnet) };
            let eni = cloud.create_network_interface(&request, now).unwrap().id;
            let (card, device) = (Card(0), DeviceIndex(device));
            let request = AttachNetworkInterface { eni, instance, card, device };
            cloud.attach_network_interface(&request, now).unwrap();
            carriers.push(eni);
        }
        for eni in carriers {
            if mode.ipv6() {
                if eni == primary {
                    let prefix = Ipv6Request::PrefixCount(1);
                    cloud.assign_ipv6_addresses(eni, &prefix, now).unwrap();
                }
            } else if !(mode.custom_networking() && eni == primary) {
                let amount = if mode.prefixes() {
                    Ipv4Amount::Prefixes(2)
                } else {
                    Ipv4Amount::Addresses(addresses)
                };
                cloud.assign_private_ip_addresses(eni, &Ipv4Request::Count(amount), now).unwrap();
            }
        }
    });
}

fn make_folders(root: &Path) {
    for folder in [
        "app",
        "etc/cni/net.d",
        "etc/vpc-ipam",
        "opt/cni/bin",
        "run",
        "usr/sbin",
        "var/lib/cni/results",
        "var/log/aws-routed-eni",
        "var/run/aws-node",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
}

/// Installs the stand-in under the names of what it stands for, the plugins of containernetworking, our plugin, and iptables of a kind.
fn install_programs(root: &Path, iptables: Iptables) {
    let agent = root.join("app/aws-k8s-agent");
    // By a process of its own: while this one has a program open for writing, whatever another thread starts has it open, too, and the
    // kernel runs no such program.
    let copied = Command::new("cp").arg(program("examples/old-daemon")).arg(&agent).status();
    assert!(copied.unwrap().success());
    let bin = root.join("opt/cni/bin");
    for name in ["aws-cni", "egress-cni"] {
        fs::hard_link(&agent, bin.join(name)).unwrap();
    }
    symlink(program("vpc-cni"), bin.join("vpc-cni")).unwrap();
    for name in ["portmap", "bandwidth", "tuning", "loopback"] {
        symlink(Path::new("/usr/lib/cni").join(name), bin.join(name)).unwrap();
    }
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let target = format!("/usr/sbin/{family}-{}{suffix}", iptables.suffix());
            symlink(target, root.join("usr/sbin").join(format!("{family}{suffix}"))).unwrap();
        }
    }
}
