//! The plugin at the head of a chain, as a runtime runs it, with the plugins of containernetworking that Debian ships.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use vpc_ipam::lab::LabNode;
use vpc_ipam_linux::lab;
use vpc_ipam_tests::program;

use crate::call::Call;
use crate::daemon::assigned;
use crate::runtime::{Pod, address, failed, netns, run, spec, start, succeeded};

/// Returns where a plugin of containernetworking is.
pub(crate) fn plugin(name: &str) -> PathBuf {
    let path = Path::new("/usr/lib/cni").join(name);
    assert!(
        path.exists(),
        "{} is missing: install Debian's containernetworking-plugins (scripts/deps.sh test)",
        path.display()
    );
    path
}

/// A network configuration list, and what a runtime knows of a pod besides.
pub(crate) struct Chain {
    list: Value,
    /// By capability.
    pub(crate) runtime: Value,
    /// Where a plugin finds this one under the name by which it provides addresses.
    ipam_folder: TempDir,
}

/// Returns a folder with the plugin under its other name.
fn ipam_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    symlink(program("vpc-cni"), folder.path().join("vpc-cni-ipam")).unwrap();
    folder
}

impl Chain {
    /// Of the file that is installed on nodes, at the socket of this one.
    fn deployed(node: &LabNode) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/10-vpc-ipam.conflist");
        let text = fs::read_to_string(&path).unwrap();
        let mut list: Value = serde_json::from_str(&text).unwrap();
        list["plugins"][0]["socket"] = json!(node.address.socket);
        Self { list, runtime: json!({}), ipam_folder: ipam_folder() }
    }

    pub(crate) fn new(version: &str, name: &str, plugins: Value) -> Self {
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        Self { list, runtime: json!({}), ipam_folder: ipam_folder() }
    }

    fn with(mut self, plugin: Value) -> Self {
        self.list["plugins"].as_array_mut().unwrap().push(plugin);
        self
    }

    /// Calls one plugin of the list.
    fn call(
        &self,
        node: &LabNode,
        command: &str,
        pod: &Pod,
        conf: &Value,
        prev: Option<&Value>,
    ) -> Output {
        let kind = conf["type"].as_str().unwrap();
        let mut call = Call::of_pod(&node.address, command, "1.0.0", pod);
        call.program = if kind.starts_with("vpc-cni") { program(kind) } else { plugin(kind) };
        call.config = conf.clone();
        call = call
            .key("name", self.list["name"].clone())
            .key("cniVersion", self.list["cniVersion"].clone())
            // What a plugin runs itself: iptables, and another plugin for addresses.
            .var("CNI_PATH", Some(&format!("/usr/lib/cni:{}", self.ipam_folder.path().display())))
            .var("PATH", Some("/usr/sbin:/usr/bin:/sbin:/bin"))
            .var(
                "CNI_ARGS",
                Some(&format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}",
                    pod.called
                )),
            );
        if let Some(capabilities) = conf["capabilities"].as_object() {
            for name in capabilities.keys() {
                if let Some(value) = self.runtime.get(name) {
                    call.config["runtimeConfig"][name] = value.clone();
                }
            }
        }
        if let Some(prev) = prev {
            call = call.key("prevResult", prev.clone());
        }
        call.run(&node.address)
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().unwrap()
    }

    /// Returns what each plugin printed.
    pub(crate) fn add(&self, node: &LabNode, pod: &Pod) -> Vec<Value> {
        let mut results: Vec<Value> = Vec::new();
        for conf in self.plugins() {
            let output = self.call(node, "ADD", pod, conf, results.last());
            results.push(succeeded(&output));
        }
        results
    }

    /// CHECK or DEL, with what ADD came to.
    pub(crate) fn again(&self, node: &LabNode, command: &str, pod: &Pod, result: &Value) {
        let mut plugins: Vec<&Value> = self.plugins().iter().collect();
        match command {
            "DEL" => plugins.reverse(),
            _ => plugins.retain(|conf| !UNABLE_TO_CHECK.contains(&conf["type"].as_str().unwrap())),
        }
        for conf in plugins {
            succeeded(&self.call(node, command, pod, conf, Some(result)));
        }
    }
}

/// Plugins whose CHECK fails in version 1.1.1 whatever there is: portmap looks for rules of IPv6 that an IPv4 pod does not have, bandwidth
/// reads what a pod without limits does not have. So the deployed configuration has CHECK off, as amazon-vpc-cni-k8s' has.
const UNABLE_TO_CHECK: [&str; 2] = ["portmap", "bandwidth"];

const PATIENCE: Duration = Duration::from_secs(5);

/// Asserts that a pod answers at a port of the node, from another host.
fn reached_at_host_port(node: &LabNode, pod: &Pod, port: u16, own: &str) {
    let at = format!("{own}:80").parse().unwrap();
    let responder = lab::Responder::start(&pod.netns, at).unwrap();
    let (other_host, node_ip) =
        node.with_lab(|lab| (lab.other_host().clone(), lab.layout().node.primary_ipv4));
    lab::ask(&other_host, (node_ip, port).into(), PATIENCE).unwrap();
    drop(responder);
}

#[test]
fn host_port_of_the_deployed_configuration_reaches_the_pod() {
    let node = start(&spec("m5.large"));
    let rules = || run(&netns(&node), "iptables-save -t nat");
    let mut chain = Chain::deployed(&node);
    chain.runtime = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    ]});
    let on_primary = Pod::new(&node, "first");
    let result = chain.add(&node, &on_primary).pop().unwrap();
    let own = address(&result);

    reached_at_host_port(&node, &on_primary, 8080, &own);
    chain.again(&node, "DEL", &on_primary, &result);
    assert!(!rules().contains(&own), "{}", rules());
    assert_eq!(assigned(&node), 0);

    // The answers of a pod on a secondary ENI take another way.
    let plain = Chain::deployed(&node);
    let mut pods: Vec<Pod> = Vec::new();
    let (pod, result) = loop {
        let pod = Pod::new(&node, &format!("p{}", pods.len()));
        let result = plain.add(&node, &pod).pop().unwrap();
        let at = format!("from {} ", address(&result));
        if run(&netns(&node), "ip rule").contains(&at) {
            break (pod, result);
        }
        pods.push(pod);
        assert!(pods.len() < 20, "no pod on a secondary ENI");
    };
    plain.again(&node, "DEL", &pod, &result);
    let result = chain.add(&node, &pod).pop().unwrap();
    reached_at_host_port(&node, &pod, 8080, &address(&result));
    chain.again(&node, "DEL", &pod, &result);
    node.stop().unwrap();
}

#[test]
fn result_passes_through_a_chain_and_its_check_and_del_are_clean() {
    let node = start(&spec("m5.large"));
    let folder = tempfile::tempdir().unwrap();
    let somaxconn = || json!({"net.core.somaxconn": "77"});
    let chain = Chain::deployed(&node)
        .with(json!({"type": "tuning", "sysctl": somaxconn(), "dataDir": folder.path()}))
        .with(json!({"type": "firewall", "backend": "iptables"}))
        .with(json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}));
    let pod = Pod::new(&node, "p");

    let results = chain.add(&node, &pod);

    let own = address(&results[0]);
    for result in &results[1..] {
        assert_eq!(result["ips"], results[0]["ips"]);
        assert_eq!(result["interfaces"], results[0]["interfaces"]);
        assert_eq!(result["routes"], results[0]["routes"]);
    }
    let read = run(&pod.netns, "cat /proc/sys/net/core/somaxconn");
    assert_eq!(read.trim(), "77", "tuning");
    let forward = || run(&netns(&node), "iptables-save -t filter");
    assert!(forward().contains(&format!("-s {own}/32 -j ACCEPT")), "{}", forward());
    let last = results.last().unwrap();
    chain.again(&node, "CHECK", &pod, last);
    assert!(!run(&netns(&node), "tc qdisc").contains("tbf"), "no bandwidth was asked for");
    let mut damaged = last.clone();
    damaged["ips"][0]["address"] = json!("10.0.99.99/32");
    let ours = &chain.plugins()[0];
    let error = failed(&chain.call(&node, "CHECK", &pod, ours, Some(&damaged)));
    assert!(error["details"].as_str().unwrap().contains(&own), "{error}");

    for _ in 0..2 {
        chain.again(&node, "DEL", &pod, last);
    }

    assert!(!forward().contains(&own), "{}", forward());
    assert_eq!(assigned(&node), 0);
    node.stop().unwrap();
}

#[test]
fn bandwidth_of_a_pod_is_limited_on_its_host_link_while_it_lives() {
    let node = start(&spec("m5.large"));
    let mut chain = Chain::deployed(&node)
        .with(json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}));
    chain.runtime = json!({"bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": 800_000,
        "egressRate": 8_000_000, "egressBurst": 800_000,
    }});
    let pod = Pod::new(&node, "p");

    let result = chain.add(&node, &pod).pop().unwrap();

    let host = result["interfaces"][0]["name"].as_str().unwrap();
    let limits = || run(&netns(&node), "tc qdisc");
    let lines = limits();
    let of_kind = |kind: &str| lines.lines().filter(|line| line.contains(kind)).count();
    assert_eq!(of_kind("qdisc tbf"), 2, "{lines}");
    assert!(lines.contains(&format!("dev {host}")), "{lines}");
    chain.again(&node, "CHECK", &pod, &result);
    let own = address(&result);
    let responder =
        lab::Responder::start(&pod.netns, format!("{own}:80").parse().unwrap()).unwrap();
    let other_host = node.with_lab(|lab| lab.other_host().clone());
    let seen = lab::ask(&other_host, responder.address(), PATIENCE);
    assert!(seen.is_ok(), "{seen:?}");
    drop(responder);

    chain.again(&node, "DEL", &pod, &result);

    assert!(!limits().contains("tbf"), "{}", limits());
    let links = run(&netns(&node), "ip -o link");
    assert!(!links.contains("bwp"), "{links}");
    node.stop().unwrap();
}
