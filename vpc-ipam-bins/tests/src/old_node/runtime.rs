//! A container runtime, as far as networks go: what libcni does.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName};

/// Calls the plugins of the network configuration that comes first in a node's folder, and keeps their results as libcni does.
#[derive(Debug)]
pub struct Runtime {
    lab: LabName,
    root: PathBuf,
    node: Namespace,
    path: String,
}

/// A pod with a namespace and a network.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, in the namespace `default`.
    pub name: String,
    /// The id of its sandbox.
    pub container: String,
    /// Its network namespace.
    pub netns: Namespace,
    /// Its address.
    pub address: IpAddr,
    /// The end of its veth on the node.
    pub link: String,
    /// What ADD came to.
    pub result: Value,
    /// The ports of the node that lead to it.
    pub ports: Vec<PortMapping>,
}

impl Pod {
    /// Returns the number of the routing table by which it leaves, as the old plugin told it; 254 is the main table.
    ///
    /// # Panics
    /// Panics if another plugin made the pod.
    pub fn table(&self) -> u32 {
        self.result["interfaces"][1]["mac"].as_str().unwrap().parse().unwrap()
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug)]
pub struct PortMapping {
    /// That of the node.
    pub host: u16,
    /// That of the pod.
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// What a plugin was asked and said.
#[derive(Clone, Debug)]
pub struct Called {
    /// The plugin's type.
    pub plugin: String,
    /// Whether it succeeded.
    pub success: bool,
    /// What it printed.
    pub said: Value,
}

impl Runtime {
    pub(super) fn new(lab: LabName, root: PathBuf, node: Namespace, path: String) -> Self {
        Self { lab, root, node, path }
    }

    /// Returns the network configuration that comes first, as runtimes choose it: by the name of its file.
    pub fn network(&self) -> Option<Value> {
        let folder = fs::read_dir(self.root.join("etc/cni/net.d")).ok()?;
        let mut files: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
        let of_cni = |path: &PathBuf| {
            path.extension()
                .is_some_and(|kind| kind == "conflist" || kind == "conf" || kind == "json")
        };
        files.retain(of_cni);
        files.sort();
        let first = files.into_iter().next()?;
        serde_json::from_slice(&fs::read(first).ok()?).ok()
    }

    /// Makes a pod's sandbox and adds it to the network.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn add(&self, name: &str, ports: &[PortMapping]) -> Pod {
        self.try_add(name, ports).unwrap_or_else(|said| panic!("ADD of {name}: {said:#?}"))
    }

    /// Makes a pod's sandbox and adds it to the network. Where that fails, it is deleted again as a runtime does, and what plugins said is
    /// returned.
    pub fn try_add(&self, name: &str, ports: &[PortMapping]) -> Result<Pod, Vec<Called>> {
        let netns = lab::add_pod(&self.lab, name).unwrap();
        let container: String =
            core::iter::repeat_with(|| fastrand::char('a'..='f')).take(64).collect();
        let network = self.network().expect("a runtime without a network waits for one");
        let mut pod = Pod {
            name: name.to_owned(),
            container,
            netns,
            address: IpAddr::from([0, 0, 0, 0]),
            link: String::new(),
            result: Value::Null,
            ports: ports.to_vec(),
        };
        let mut said = Vec::new();
        for conf in network["plugins"].as_array().unwrap() {
            let output = self.call("ADD", &pod, &network, conf, Some(&pod.result));
            let success = output.success;
            if success {
                pod.result = output.said.clone();
            }
            said.push(output);
            if !success {
                self.del(&pod);
                self.remove_sandbox(pod);
                return Err(said);
            }
        }
        let address = pod.result["ips"][0]["address"].as_str().unwrap();
        pod.address = address.split('/').next().unwrap().parse().unwrap();
        pod.link = pod.result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        self.keep(&pod, &network);
        Ok(pod)
    }

    /// Deletes a pod from the network as it is configured by now, with the result that was kept. Returns what the plugins said; the
    /// sandbox stays.
    pub fn del(&self, pod: &Pod) -> Vec<Called> {
        let network = self.network().expect("a runtime without a network waits for one");
        let file = self.kept(pod, &network);
        let kept: Value = fs::read(&file).map_or(Value::Null, |text| {
            serde_json::from_slice(&text).expect("the runtime wrote it")
        });
        let plugins = network["plugins"].as_array().unwrap();
        let said: Vec<Called> = plugins
            .iter()
            .rev()
            .map(|conf| self.call("DEL", pod, &network, conf, Some(&kept["result"])))
            .collect();
        if said.iter().all(|called| called.success) {
            let _ = fs::remove_file(file);
        }
        said
    }

    /// Deletes a pod from the network, and its sandbox after that.
    ///
    /// # Panics
    /// Panics if a plugin fails.
    pub fn remove(&self, pod: Pod) {
        let said = self.del(&pod);
        assert!(said.iter().all(|called| called.success), "DEL of {}: {said:#?}", pod.name);
        self.remove_sandbox(pod);
    }

    /// Removes a pod's sandbox. Its veth goes once nothing keeps the namespace, sockets of flows among that.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn remove_sandbox(&self, pod: Pod) {
        let Pod { name, netns, .. } = pod;
        drop(netns);
        lab::remove_pod(&self.lab, &name).unwrap();
    }

    /// CHECK, where the configuration has it on.
    pub fn check(&self, pod: &Pod) -> Vec<Called> {
        let network = self.network().expect("a runtime without a network waits for one");
        if network["disableCheck"] == true {
            return Vec::new();
        }
        let plugins = network["plugins"].as_array().unwrap();
        plugins
            .iter()
            .map(|conf| self.call("CHECK", pod, &network, conf, Some(&pod.result)))
            .collect()
    }

    fn call(
        &self,
        command: &str,
        pod: &Pod,
        network: &Value,
        conf: &Value,
        prev: Option<&Value>,
    ) -> Called {
        let bin = self.root.join("opt/cni/bin");
        let plugin = conf["type"].as_str().unwrap().to_owned();
        let mut config = conf.clone();
        config["name"] = network["name"].clone();
        config["cniVersion"] = network["cniVersion"].clone();
        let runtime = self.capabilities(pod, conf);
        if !runtime.is_empty() {
            config["runtimeConfig"] = json!(runtime);
        }
        if let Some(prev) = prev.filter(|prev| !prev.is_null()) {
            config["prevResult"] = prev.clone();
        }
        let mut process = Command::new(bin.join(&plugin));
        process
            .env_clear()
            .env("PATH", &self.path)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.container)
            .env("CNI_NETNS", pod.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &bin)
            .env("CNI_ARGS", arguments(pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let Output { status, stdout, stderr } = self
            .node
            .run(|| {
                let mut child = process.spawn().unwrap();
                child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
                child.wait_with_output().unwrap()
            })
            .unwrap();
        let said = serde_json::from_slice(&stdout).unwrap_or_else(|_| {
            json!(String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr))
        });
        Called { plugin, success: status.success(), said }
    }

    /// Returns what the runtime says to a plugin by the capabilities that it has.
    fn capabilities(&self, pod: &Pod, conf: &Value) -> BTreeMap<&'static str, Value> {
        let mut told = BTreeMap::new();
        if conf["capabilities"]["portMappings"] == true && !pod.ports.is_empty() {
            let ports = pod.ports.iter().map(|port| {
                json!({
                    "hostPort": port.host,
                    "containerPort": port.container,
                    "protocol": port.protocol,
                })
            });
            told.insert("portMappings", ports.collect());
        }
        if conf["capabilities"]["io.kubernetes.cri.pod-annotations"] == true {
            told.insert("io.kubernetes.cri.pod-annotations", json!({}));
        }
        told
    }

    fn kept(&self, pod: &Pod, network: &Value) -> PathBuf {
        let name = network["name"].as_str().unwrap();
        self.root.join("var/lib/cni/results").join(format!("{name}-{}-eth0", pod.container))
    }

    /// Keeps a result in libcni's form.
    fn keep(&self, pod: &Pod, network: &Value) {
        let arguments: Vec<(String, String)> = arguments(pod)
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let kept = json!({
            "kind": "cniCacheV1",
            "containerId": pod.container,
            "config": base64::engine::general_purpose::STANDARD.encode(network.to_string()),
            "ifName": "eth0",
            "networkName": network["name"],
            "cniArgs": arguments,
            "result": pod.result,
        });
        fs::write(self.kept(pod, network), kept.to_string()).unwrap();
    }
}

fn arguments(pod: &Pod) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};\
         K8S_POD_UID=00000000-0000-0000-0000-000000000000",
        pod.name, pod.container
    )
}
