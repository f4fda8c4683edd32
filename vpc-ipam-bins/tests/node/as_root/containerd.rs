//! Real containers, run by a containerd of the test's own on a node in a box.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use vpc_ipam::lab::LabNode;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::INTERNET;

use crate::support::{
    assigned_by_ec2, kernel_state, printed, signal, spec, start, wait_for_state, wait_until,
};

const CONTAINERS: usize = 20;
/// Where containers serve.
pub(super) const PORT: u16 = 8080;

#[test]
fn containers_of_containerd_reach_everything() {
    let node = start(&spec("m5.large"));
    let before = (kernel_state(&node), assigned_by_ec2(&node));
    let containerd = Containerd::start(&node);
    let places = node.with_lab(|lab| {
        let layout = lab.layout();
        [
            (lab.node().clone(), layout.node.primary_ipv4),
            (lab.other_host().clone(), layout.other_host.primary_ipv4),
            (lab.internet().clone(), INTERNET),
        ]
    });
    let node_address = places[0].1;
    let servers = places.each_ref().map(|(netns, _)| containerd.serve(netns));

    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    let running: Vec<Child> = names.iter().map(|name| containerd.run(name)).collect();
    let addresses: BTreeMap<&str, Ipv4Addr> =
        names.iter().map(|name| (name.as_str(), containerd.address(name))).collect();

    // Every container asks each host and container as whom it is seen.
    let all: Vec<Ipv4Addr> =
        addresses.values().copied().chain(places.iter().map(|(_, address)| *address)).collect();
    for (name, own) in &addresses {
        let expected: Vec<(Ipv4Addr, Ipv4Addr)> =
            all.iter().map(|to| (*to, if *to == INTERNET { node_address } else { *own })).collect();
        let seen = containerd.ask_from_inside(name, &all);
        assert_eq!(seen, expected, "{name} at {own}: (asked, seen by it)");
    }
    // And is reached from the node and from the other host.
    for (netns, from) in &places[..2] {
        for (name, to) in &addresses {
            assert_eq!(containerd.ask(netns, *to), *from, "{name} asked from {from}");
        }
    }
    assert_eq!(carriers(&node, &addresses), 3, "20 addresses take three ENIs of 9");
    assert_eq!(node.drops().unwrap(), 0, "packets that left by the wrong ENI");

    for name in &names {
        containerd.kill(name);
    }
    for (name, child) in names.iter().zip(running) {
        let output = child.wait_with_output().unwrap();
        // 137: ended by SIGKILL, as asked.
        assert_eq!(output.status.code(), Some(137), "{name}: {}", printed(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, "", "{name}: ctr removes its network without a complaint");
    }
    drop(servers);
    wait_for_state(&node, &before.0);
    wait_until("what EC2 has assigned", || {
        let after = assigned_by_ec2(&node);
        if after == before.1 { Ok(()) } else { Err(format!("{:?} became {after:?}", before.1)) }
    });
    drop(containerd);
    node.stop().unwrap();
}

/// Returns on how many ENIs EC2 has these addresses.
fn carriers(node: &LabNode, addresses: &BTreeMap<&str, Ipv4Addr>) -> usize {
    node.cloud().with(|cloud, _| {
        let carries = |eni: &&vpc_ipam_core::sim::NetworkInterface| {
            addresses.values().any(|address| eni.ipv4.iter().any(|net| net.contains(address)))
        };
        cloud.interfaces().filter(carries).count()
    })
}

/// A containerd with folders of its own, whose clients run in the node's network namespace.
pub(super) struct Containerd {
    folder: tempfile::TempDir,
    node_netns: String,
    /// Where clients find the network configuration.
    pub(super) cni_conf_dir: PathBuf,
    /// Where clients find the plugins.
    pub(super) cni_bin_dir: PathBuf,
    process: Child,
    made: Vec<&'static str>,
}

/// Ends a server when the test is done with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Containerd {
    pub(super) fn start(node: &LabNode) -> Self {
        let folder = tempfile::Builder::new().prefix("vil-ctd-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("c.sock"),
            path("t.sock"),
        );
        fs::write(path("config.toml"), config).unwrap();
        root_file_system(&folder.path().join("rootfs"));
        // Where ctr looks for CNI; each client sees folders of its own there.
        let made =
            ["/etc/cni", "/opt/cni"].into_iter().filter(|f| fs::create_dir(f).is_ok()).collect();
        let log = fs::File::create(path("log")).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &path("config.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("containerd, which `make test` installs: {error}"));
        let containerd = Self {
            folder,
            node_netns: node.address.node_netns.clone(),
            cni_conf_dir: node.address.cni_conf_dir.clone(),
            cni_bin_dir: node.address.cni_bin_dir.clone(),
            process,
            made,
        };
        wait_until("containerd", || {
            let output = containerd.ctr().arg("version").output().unwrap();
            if output.status.success() { Ok(()) } else { Err(printed(&output)) }
        });
        containerd
    }

    /// Returns a command of ctr, to be completed. It is killed after 600 seconds, or as many as its variable LIMIT says.
    pub(super) fn ctr(&self) -> Command {
        let script = "
            mount -t tmpfs tmpfs /etc/cni && mount -t tmpfs tmpfs /opt/cni &&
            mkdir /etc/cni/net.d /opt/cni/bin &&
            cp \"$CONF\"/* /etc/cni/net.d/ &&
            for plugin in vpc-cni aws-cni egress-cni portmap; do
                [ ! -e \"$BIN\"/$plugin ] || ln -s \"$BIN\"/$plugin /opt/cni/bin/
            done &&
            exec nsenter --net=/run/netns/\"$NODE\" timeout -s KILL \"${LIMIT:-600}\" ctr --address \"$SOCKET\" \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script, "ctr"])
            .env("CONF", &self.cni_conf_dir)
            .env("BIN", &self.cni_bin_dir)
            .env("NODE", &self.node_netns)
            .env("SOCKET", self.folder.path().join("c.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// Starts a container that serves until it is killed; ctr waits for that and removes its network then.
    pub(super) fn run(&self, name: &str) -> Child {
        let mut command = self.ctr();
        command.args(["run", "--cni", "--rootfs"]).arg(self.rootfs()).arg(name);
        command.args([
            "/bin/busybox",
            "httpd",
            "-f",
            "-p",
            &format!("0.0.0.0:{PORT}"),
            "-h",
            "/www",
        ]);
        command.spawn().unwrap()
    }

    fn exec(&self, name: &str, script: &str) -> Output {
        let mut command = self.ctr();
        command.args(["task", "exec", "--exec-id", "look", name, "/bin/sh", "-c", script]);
        command.output().unwrap()
    }

    /// Returns the address of a container, once it has one: it can be looked into before.
    pub(super) fn address(&self, name: &str) -> Ipv4Addr {
        wait_until(name, || {
            let said = printed(&self.exec(name, "ip -o -4 address show dev eth0"));
            let address = said.split_whitespace().find_map(|word| word.strip_suffix("/32"));
            address.and_then(|address| address.parse().ok()).ok_or(said)
        })
    }

    /// Returns which source address each of the servers sees when a container asks it.
    fn ask_from_inside(&self, name: &str, servers: &[Ipv4Addr]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let list = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let script = format!("for to in {list}; do echo $to $({}); done 2>&1", fetch("$to", PORT));
        let output = self.exec(name, &script);
        let said = printed(&output);
        let pair = |line: &str| {
            let (asked, seen) = line.split_once(' ')?;
            Some((asked.parse().ok()?, seen.trim().parse().ok()?))
        };
        let pairs = said.lines().map(pair).collect::<Option<_>>();
        pairs.unwrap_or_else(|| panic!("{name} hears no address from one of {list}:\n{said}"))
    }

    /// Returns which source address a server sees when it is asked from a namespace.
    fn ask(&self, from: &Namespace, to: Ipv4Addr) -> Ipv4Addr {
        let fetch = fetch(&to.to_string(), PORT);
        let busybox = self.rootfs().join("bin");
        let script = format!("PATH={}:$PATH; {fetch}", busybox.display());
        let output =
            from.run(|| Command::new("sh").args(["-c", &script]).output()).unwrap().unwrap();
        printed(&output).trim().parse().unwrap_or_else(|_| panic!("{to}: {}", printed(&output)))
    }

    /// Serves in a namespace what a container serves.
    fn serve(&self, netns: &Namespace) -> Server {
        let serve = || {
            Command::new(self.rootfs().join("bin/busybox"))
                .args(["httpd", "-f", "-p", &format!("0.0.0.0:{PORT}"), "-h"])
                .arg(self.rootfs().join("www"))
                .spawn()
        };
        Server(netns.run(serve).unwrap().unwrap())
    }

    pub(super) fn kill(&self, name: &str) {
        let output = self.ctr().args(["task", "kill", "--signal", "KILL", name]).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A failed test leaves containers, whose shims would outlive containerd.
        let listed = self.ctr().args(["task", "list", "--quiet"]).output();
        for name in listed.iter().flat_map(|output| output.stdout.split(|byte| *byte == b'\n')) {
            if let Ok(name) = core::str::from_utf8(name)
                && !name.is_empty()
            {
                let _ = self.ctr().args(["task", "kill", "--signal", "KILL", name]).output();
                std::thread::sleep(Duration::from_millis(100));
                let _ = self.ctr().args(["task", "delete", "--force", name]).output();
            }
        }
        signal(self.process.id(), Signal::TERM);
        let _ = self.process.wait();
        for folder in &self.made {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The command by which to learn from a server as whom it sees the client.
///
/// Not by busybox's wget, which ends with a segmentation fault in Debian's static build.
pub(super) fn fetch(to: &str, port: u16) -> String {
    format!(
        "printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {to} {port} | tail -n 1"
    )
}

/// Makes a root file system of one static program, with a page that says who asked.
pub(super) fn root_file_system(folder: &Path) {
    for name in ["bin", "dev", "proc", "run", "sys", "tmp", "www/cgi-bin"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let paths = std::env::var_os("PATH").unwrap();
    let busybox = std::env::split_paths(&paths)
        .map(|folder| folder.join("busybox"))
        .find(|path| path.exists())
        .expect("busybox is there, which `make test` installs");
    fs::copy(busybox, folder.join("bin/busybox")).unwrap();
    for applet in ["cat", "ip", "nc", "ping", "sh", "tail"] {
        symlink("busybox", folder.join("bin").join(applet)).unwrap();
    }
    let page = folder.join("www/cgi-bin/who");
    fs::write(&page, "#!/bin/sh\necho Content-type: text/plain\necho\necho $REMOTE_ADDR\n")
        .unwrap();
    fs::set_permissions(&page, fs::Permissions::from_mode(0o755)).unwrap();
}
