//! Containers of podman with its CNI backend, which runs the list that is installed on nodes: the plugin and portmap after it.

use core::net::Ipv4Addr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vpc_ipam::lab::LabNode;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::INTERNET;
use vpc_ipam_protocol::{Answer, Request, ask};

use super::containerd::{PORT, fetch, root_file_system};
use crate::support::{kernel_state, printed, spec, start, wait_until};

/// On the node, for the first container.
const HOST_PORT: u16 = 18080;

#[test]
fn containers_of_podman_talk_and_are_reached_by_a_port_of_the_node() {
    let node = start(&spec("m5.large"));
    let podman = Podman::new(&node);
    let publish = format!("{HOST_PORT}:{PORT}");
    podman.run("web", &["--publish", &publish]);
    podman.run("other", &[]);
    let (web, other) = (podman.address("web"), podman.address("other"));
    assert_eq!(leased(&node), sorted([web, other]));

    let (other_host, at, node_address) = node.with_lab(|lab| {
        let layout = lab.layout();
        (lab.other_host().clone(), layout.other_host.primary_ipv4, layout.node.primary_ipv4)
    });
    for (name, peer) in [("web", other), ("other", web)] {
        for to in [peer, at, INTERNET] {
            podman.ping(name, to);
        }
    }
    // portmap tells the container who asks.
    assert_eq!(podman.ask(&other_host, node_address, HOST_PORT), at);
    assert_eq!(podman.ask(&other_host, other, PORT), at);

    // A DEL and an ADD: another sandbox under the same name.
    podman.succeed(&["restart", "--time", "0", "web"]);
    let again = podman.address("web");
    assert_eq!(leased(&node), sorted([again, other]));
    podman.ping("other", again);
    assert_eq!(podman.ask(&other_host, node_address, HOST_PORT), at);

    podman.succeed(&["rm", "--force", "--time", "0", "web", "other"]);
    assert_eq!(leased(&node), Vec::<Ipv4Addr>::new());
    wait_until("what is left of containers", || {
        let state = kernel_state(&node);
        let of_containers = |line: &&str| {
            [web, other, again].iter().any(|address| line.contains(&format!("{address} ")))
        };
        let left: Vec<&str> = state.lines().filter(of_containers).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
    assert_eq!(node.drops().unwrap(), 0, "packets that left by the wrong ENI");
    drop(podman);
    node.stop().unwrap();
}

fn leased(node: &LabNode) -> Vec<Ipv4Addr> {
    match ask(&node.address.socket, &Request::Leases { network: None }) {
        Ok(Answer::Leases(leases)) => sorted(leases.iter().filter_map(|lease| lease.first.ipv4)),
        other => panic!("{other:?}"),
    }
}

fn sorted(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = addresses.into_iter().collect();
    addresses.sort_unstable();
    addresses
}

/// A podman with folders of its own, which runs in the node's network namespace.
struct Podman {
    folder: tempfile::TempDir,
    netns: Namespace,
}

impl Podman {
    fn new(node: &LabNode) -> Self {
        let folder = tempfile::Builder::new().prefix("vil-podman-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let net = folder.path().join("net.d");
        fs::create_dir(&net).unwrap();
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/10-vpc-ipam.conflist");
        let mut list: Value = serde_json::from_str(&fs::read_to_string(list).unwrap()).unwrap();
        list["plugins"][0]["socket"] = json!(node.address.socket);
        fs::write(net.join("10-vpc-ipam.conflist"), list.to_string()).unwrap();
        // Limits that a container on this machine may have: podman's own are those of a machine's root.
        let containers = format!(
            "[containers]\nlog_driver = \"none\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n\
             tmp_dir = {:?}\n\
             [network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = {net:?}\n\
             cni_plugin_dirs = [{:?}, \"/usr/lib/cni\"]\ndefault_network = \"aws-cni\"\n",
            path("tmp"),
            node.address.cni_bin_dir,
        );
        fs::write(path("containers.conf"), containers).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            path("root"),
            path("runroot")
        );
        fs::write(path("storage.conf"), storage).unwrap();
        for name in ["web", "other"] {
            let root = folder.path().join(name);
            root_file_system(&root);
            fs::create_dir(root.join("etc")).unwrap();
        }
        let netns = Namespace::named(&node.address.node_netns).unwrap();
        Self { folder, netns }
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", "120", "podman"])
            .args(arguments)
            .env("CONTAINERS_CONF", self.folder.path().join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.folder.path().join("storage.conf"))
            .stdin(Stdio::null());
        self.netns.run(|| command.output()).unwrap().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "podman {arguments:?}: {}", printed(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a container that serves a page.
    fn run(&self, name: &str, options: &[&str]) {
        let root = self.folder.path().join(name).display().to_string();
        let listen = format!("0.0.0.0:{PORT}");
        let mut arguments = vec!["run", "--detach", "--name", name, "--network", "aws-cni"];
        arguments.extend(["--cap-add", "NET_RAW"].iter().chain(options));
        arguments.extend(["--rootfs", &root, "/bin/busybox", "httpd", "-f", "-p", &listen]);
        arguments.extend(["-h", "/www"]);
        self.succeed(&arguments);
    }

    /// Returns the address of a container, which podman and the container's kernel agree about.
    fn address(&self, name: &str) -> Ipv4Addr {
        let format = "{{(index .NetworkSettings.Networks \"aws-cni\").IPAddress}}";
        let told = self.succeed(&["inspect", "--format", format, name]);
        let told = told.trim();
        let inside =
            self.succeed(&["exec", name, "/bin/ip", "-o", "-4", "address", "show", "eth0"]);
        assert!(inside.contains(&format!(" {told}/32 ")), "podman says {told:?}: {inside}");
        told.parse().unwrap()
    }

    fn ping(&self, name: &str, to: Ipv4Addr) {
        let to = to.to_string();
        self.succeed(&["exec", name, "/bin/ping", "-c", "1", "-w", "20", &to]);
    }

    /// Returns which source address a container sees when it is asked from a namespace.
    fn ask(&self, from: &Namespace, to: Ipv4Addr, port: u16) -> Ipv4Addr {
        let fetch = fetch(&to.to_string(), port);
        let busybox = self.folder.path().join("web/bin");
        let script = format!("PATH={}:$PATH; {fetch}", busybox.display());
        // The server may begin to listen a moment after its container runs.
        wait_until("an answer", || {
            let output = from.run(|| Command::new("sh").args(["-c", &script]).output());
            let said = printed(&output.unwrap().unwrap());
            said.trim().parse().map_err(|_| format!("{to}:{port}: {said:?}"))
        })
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A failed test leaves containers.
        let _ = self.call(&["rm", "--force", "--all", "--time", "0"]);
    }
}
