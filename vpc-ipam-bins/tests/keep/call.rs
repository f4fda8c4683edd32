//! A call of the plugin whose every part a test may change.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use vpc_ipam::lab::LabAddress;
use vpc_ipam_linux::Namespace;
use vpc_ipam_tests::program;

use crate::runtime::Pod;

/// A call as a container runtime on the node makes it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The plugin.
    pub(crate) program: PathBuf,
    /// The variables of CNI.
    pub(crate) vars: Vec<(&'static str, String)>,
    /// What stands on standard input.
    pub(crate) config: Value,
}

impl Call {
    /// A call without a container: STATUS, GC.
    pub(crate) fn new(node: &LabAddress, command: &str, version: &str) -> Self {
        Self {
            program: program("vpc-cni"),
            vars: vec![
                ("CNI_COMMAND", command.to_owned()),
                ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ],
            config: json!({
                "cniVersion": version,
                "name": "aws-cni",
                "type": "vpc-cni",
                "socket": node.socket,
            }),
        }
    }

    /// A call about a pod's `eth0`.
    pub(crate) fn of_pod(node: &LabAddress, command: &str, version: &str, pod: &Pod) -> Self {
        let mut call = Self::new(node, command, version);
        call.vars.extend([
            ("CNI_CONTAINERID", pod.name.clone()),
            ("CNI_NETNS", pod.path.display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", pod.called)),
        ]);
        call
    }

    /// Sets a variable; without a value it is not there.
    pub(crate) fn var(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.vars.retain(|var| var.0 != name);
        self.vars.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    /// Sets a key of the configuration.
    pub(crate) fn key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.config[name] = value.into();
        self
    }

    pub(crate) fn spawn(&self, node: &LabAddress) -> Child {
        let spawn = || {
            let mut child = Command::new(&self.program)
                .env_clear()
                .envs(self.vars.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(self.config.to_string().as_bytes()).unwrap();
            child
        };
        Namespace::named(&node.node_netns).unwrap().run(spawn).unwrap()
    }

    pub(crate) fn run(&self, node: &LabAddress) -> Output {
        self.spawn(node).wait_with_output().unwrap()
    }
}
