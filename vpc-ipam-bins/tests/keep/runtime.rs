//! Nodes in boxes, and calls of the plugin as a container runtime makes them.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::Instant;

use serde_json::Value;
use vpc_ipam::lab::{LabAddress, LabNode, LabSpec, quick};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName};
use vpc_ipam_protocol::{Answer, Request, Status, ask};
use vpc_ipam_tests::program;

use crate::call::Call;

/// Returns a spec for a node that releases addresses at once.
pub(crate) fn spec(instance_type: &str) -> LabSpec {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    lab::requirements().unwrap_or_else(|unmet| {
        panic!("{unmet}\nRun the tests with scripts/test.sh instead of cargo test.")
    });
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("keep{}n{count}", std::process::id());
    // The lab runs the plugin that is beside it.
    program("vpc-cni");
    LabSpec {
        vars: vec![("IP_COOLDOWN_PERIOD".to_owned(), "1".to_owned())],
        timing: Some(quick()),
        ..LabSpec::new(name.parse().unwrap(), instance_type.parse().unwrap())
    }
}

pub(crate) fn start(spec: &LabSpec) -> LabNode {
    LabNode::start(spec).unwrap_or_else(|error| panic!("{}", vpc_ipam_core::error_chain(&error)))
}

/// A pod with a namespace of its own.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Of the container.
    pub(crate) name: String,
    /// Of the pod, which may be made anew under its name.
    pub(crate) called: String,
    pub(crate) netns: Namespace,
    pub(crate) path: PathBuf,
    lab: LabName,
}

impl Pod {
    pub(crate) fn new(node: &LabNode, name: &str) -> Self {
        let lab = node.with_lab(|lab| lab.name().clone());
        let netns = lab::add_pod(&lab, name).unwrap();
        let path = netns.path().to_path_buf();
        Self { name: name.to_owned(), called: name.to_owned(), netns, path, lab }
    }

    /// Another sandbox of a pod of that name.
    pub(crate) fn again(node: &LabNode, name: &str, called: &str) -> Self {
        Self { called: called.to_owned(), ..Self::new(node, name) }
    }

    /// Removes the namespace, as a runtime does after DEL, and a machine that loses the pod's process without.
    pub(crate) fn die(self) {
        lab::remove_pod(&self.lab, &self.name).unwrap();
    }

    pub(crate) fn add(&self, node: &LabAddress) -> Value {
        succeeded(&call(node, "ADD", self, "1.0.0", None))
    }

    pub(crate) fn del(&self, node: &LabAddress) {
        succeeded(&call(node, "DEL", self, "1.0.0", None));
    }
}

/// Returns the address that an ADD told.
pub(crate) fn address(result: &Value) -> String {
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().to_owned()
}

/// Calls the plugin on the node.
pub(crate) fn call(
    node: &LabAddress,
    command: &str,
    pod: &Pod,
    version: &str,
    prev_result: Option<&Value>,
) -> Output {
    let child = spawn_with(node, command, pod, version, prev_result);
    child.wait_with_output().unwrap()
}

/// Starts a call of the plugin on the node.
pub(crate) fn spawn(node: &LabAddress, command: &str, pod: &Pod) -> Child {
    spawn_with(node, command, pod, "1.0.0", None)
}

fn spawn_with(
    node: &LabAddress,
    command: &str,
    pod: &Pod,
    version: &str,
    prev_result: Option<&Value>,
) -> Child {
    let mut call = Call::of_pod(node, command, version, pod);
    if let Some(result) = prev_result {
        call = call.key("prevResult", result.clone());
    }
    call.spawn(node)
}

pub(crate) fn succeeded(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Returns the error object of a call that failed.
pub(crate) fn failed(output: &Output) -> Value {
    assert!(!output.status.success(), "it succeeded: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn netns(node: &LabNode) -> Namespace {
    Namespace::named(&node.address.node_netns).unwrap()
}

/// Runs a program in a namespace, and returns what it printed; panics when it fails.
pub(crate) fn run(netns: &Namespace, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = netns.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns what the daemon keeps: links, addresses, routes, rules, address translation; in the order of their text, since
/// rules of one priority stand in the order in which they were made.
pub(crate) fn kept(node: &LabNode) -> Vec<String> {
    let netns = netns(node);
    let links = run(&netns, "ip -o link");
    let links = links.lines().map(|line| {
        // The kernel sees to the rest in its own time.
        let words: Vec<&str> = line.split(' ').collect();
        let up = words[2].trim_matches(['<', '>']).split(',').any(|flag| flag == "UP");
        format!("{} mtu {} up {up}", words[1], words[4])
    });
    let lists =
        ["ip -o -4 address", "ip -4 route show table all", "ip rule", "nft -s list ruleset"];
    let lists = lists.map(|list| run(&netns, list));
    let lines = lists.iter().flat_map(|list| list.lines()).map(str::to_owned);
    let mut all: Vec<String> = links.chain(lines).collect();
    all.sort();
    all
}

/// Returns what the daemon keeps once nothing about it changes any more.
pub(crate) fn settled(node: &LabNode) -> Vec<String> {
    let mut last = (kept(node), 0);
    wait_until("the node to converge", || {
        std::thread::sleep(Duration::from_millis(50));
        let state = kept(node);
        last = if state == last.0 { (state, last.1 + 1) } else { (state, 0) };
        if last.1 > 5 { Ok(last.0.clone()) } else { Err(format!("{:#?}", last.0)) }
    })
}

/// Returns what the daemon keeps of pods.
pub(crate) fn kept_of_pods(node: &LabNode) -> Vec<String> {
    let of_pod = |line: &String| {
        line.starts_with("512:") || line.starts_with("1536:") || line.contains(" dev eni")
    };
    kept(node).into_iter().filter(of_pod).collect()
}

/// Waits until there is nothing left of any pod.
pub(crate) fn wait_for_no_pods(node: &LabNode) {
    wait_until("the pods to be gone", || match kept_of_pods(node) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    });
}

pub(crate) fn status(node: &LabNode) -> Status {
    match ask(&node.address.socket, &Request::Status) {
        Ok(Answer::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// Waits until something is so; panics with what it was last, when it does not come about in two minutes, which only a hang takes.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) if Instant::now() > deadline => panic!("{what}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Waits until the daemon keeps what it kept.
pub(crate) fn wait_for(node: &LabNode, what: &str, before: &[String]) {
    wait_until(what, || {
        let after = kept(node);
        if after == before {
            return Ok(());
        }
        let missing: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let unwanted: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        Err(format!("missing {missing:#?}, unwanted {unwanted:#?}"))
    });
}

/// Calls `vpc-ipam net` for a node.
pub(crate) fn net(node: &LabNode, arguments: &[&str]) -> Output {
    Command::new(program("vpc-ipam"))
        .arg("net")
        .args(arguments)
        .arg("--socket")
        .arg(&node.address.socket)
        .output()
        .unwrap()
}
