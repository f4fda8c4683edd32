//! The program vpc-ipamd, against EC2 and the metadata service on HTTP.
#![cfg(feature = "aws")]

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use vpc_ipam::lab::{LabNode, PluginCall};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab;
use vpc_ipam_protocol::{Answer, Request, Status, ask};
use vpc_ipam_tests::program;

use crate::support::{kernel_state, settled_state, signal, spec, start, wait_until};

/// A process of vpc-ipamd; killed when the test is done with it.
struct Ipamd {
    process: Child,
    log: std::path::PathBuf,
}

impl Ipamd {
    /// Starts the program on a node whose own daemon was stopped.
    fn start(node: &LabNode) -> Self {
        let address = &node.address;
        let log = address.socket.with_file_name("ipamd.log");
        let mut command = Command::new(program("vpc-ipamd"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_REGION", "lab-1")
            .env("IP_COOLDOWN_PERIOD", "1")
            .arg("--ec2-endpoint")
            .arg(address.ec2_endpoint.as_ref().unwrap())
            .arg("--imds-endpoint")
            .arg(address.imds_endpoint.as_ref().unwrap())
            .arg("--socket")
            .arg(&address.socket)
            .arg("--state")
            .arg(address.socket.with_file_name("state.redb"))
            .stdout(Stdio::null())
            .stderr(fs::OpenOptions::new().create(true).append(true).open(&log).unwrap());
        // A service of the node, where EC2 and the metadata service are.
        let netns = Namespace::named(&address.node_netns).unwrap();
        let process = netns.run(|| command.spawn()).unwrap().unwrap();
        let ipamd = Self { process, log };
        wait_until("vpc-ipamd", || match status(node) {
            // Ready it is before it has seen its ENIs: an ADD would wait for them.
            Ok(status) if status.ready && !status.enis.is_empty() => Ok(()),
            other => Err(format!("{other:?}\n{}", ipamd.said())),
        });
        ipamd
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn terminate(mut self) {
        signal(self.process.id(), Signal::TERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Ipamd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn status(node: &LabNode) -> Result<Status, String> {
    match ask(&node.address.socket, &Request::Status) {
        Ok(Answer::Status(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    }
}

fn assigned(node: &LabNode) -> u32 {
    status(node).unwrap().enis.iter().map(|eni| eni.assigned).sum()
}

/// A node whose daemon is to be the program.
fn node() -> LabNode {
    let mut spec = spec("m5.large");
    spec.http = true;
    spec.daemon = false;
    start(&spec)
}

fn add(node: &LabNode, pod: &str) -> (Namespace, String) {
    let name = node.with_lab(|lab| lab.name().clone());
    let netns = lab::add_pod(&name, pod).unwrap();
    let address = add_to(node, pod, &netns);
    (netns, address)
}

fn add_to(node: &LabNode, pod: &str, netns: &Namespace) -> String {
    let call = PluginCall::add(pod, netns.path());
    let result = node.address.call_plugin(&call).unwrap();
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn killed_daemon_knows_its_pods_when_it_is_started_again() {
    let node = node();
    let ipamd = Ipamd::start(&node);
    // Until a second ENI carries pods.
    let mut pods: Vec<(Namespace, String)> =
        (0..12).map(|n| add(&node, &format!("pod{n}"))).collect();
    let full = settled_state(&node);

    ipamd.kill();
    let ipamd = Ipamd::start(&node);

    assert_eq!(assigned(&node), 12);
    assert_eq!(kernel_state(&node), full, "a restart changes nothing in the kernel");
    for (number, (netns, address)) in pods.iter().enumerate() {
        assert_eq!(add_to(&node, &format!("pod{number}"), netns), *address, "ADD is repeated");
    }
    let another = add(&node, "another");
    assert!(pods.iter().all(|(_, address)| *address != another.1), "given out twice: {another:?}");
    pods.push(another);

    // No other process keeps the namespaces.
    let addresses: Vec<String> =
        pods.into_iter().map(|(_, address)| address.replace("/32", " ")).collect();
    for pod in (0..12).map(|n| format!("pod{n}")).chain(["another".to_owned()]) {
        let call = PluginCall::del(&pod, None);
        node.address.call_plugin(&call).unwrap();
        lab::remove_pod(&node.with_lab(|lab| lab.name().clone()), &pod).unwrap();
    }
    assert_eq!(assigned(&node), 0);
    ipamd.terminate();

    // An ENI is deleted no sooner than a minute after it was made; of pods nothing is left.
    wait_until("what is left of pods", || {
        let state = kernel_state(&node);
        let of_pods = |line: &&str| {
            line.contains("eni") && !line.contains("iifname")
                || addresses.iter().any(|address| line.contains(address.as_str()))
        };
        let left: Vec<&str> = state.lines().filter(of_pods).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
    node.stop().unwrap();
}

#[test]
fn endpoints_of_a_lab_are_in_the_nodes_namespace_alone() {
    let node = node();
    let port = |url: &Option<String>| -> u16 {
        url.as_ref().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    };
    let ports = [port(&node.address.ec2_endpoint), port(&node.address.imds_endpoint)];
    let reached =
        |port| std::net::TcpStream::connect((core::net::Ipv4Addr::LOCALHOST, port)).is_ok();
    let (inside, pod) =
        node.with_lab(|lab| (lab.node().clone(), lab::add_pod(lab.name(), "p").unwrap()));
    for port in ports {
        assert!(inside.run(|| reached(port)).unwrap(), "{port}");
        assert!(!reached(port), "{port} of this machine");
        assert!(!pod.run(|| reached(port)).unwrap(), "{port} of a pod");
    }
    node.stop().unwrap();
}

#[test]
fn program_says_what_it_cannot_do() {
    let cases: [(&[&str], &str); 3] = [
        (&["--netns", "/run/netns/vil-there-never-was"], "vil-there-never-was"),
        (&["--imds-endpoint", "no url"], "endpoint of the metadata service"),
        (
            &[
                "--ec2-endpoint",
                "no url",
                "--imds-endpoint",
                "http://127.0.0.1:9",
                "--region",
                "lab-1",
            ],
            "no url",
        ),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(program("vpc-ipamd"))
            .env_clear()
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = crate::support::printed(&output);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
