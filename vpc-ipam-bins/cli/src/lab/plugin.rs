//! The CNI plugin, called as a container runtime on the node calls it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vpc_ipam_linux::lab::LabNodeError;
use vpc_ipam_linux::{Namespace, NamespaceError};

use super::LabAddress;

/// A call of the plugin, as a container runtime on the node makes it.
#[derive(Clone, Debug)]
pub struct PluginCall<'a> {
    /// `ADD` or `DEL`.
    pub command: &'a str,
    /// The pod's name, which stands for the container's id too.
    pub pod: &'a str,
    /// The pod's namespace; DEL may come without.
    pub netns: Option<&'a Path>,
    /// The pod's annotations.
    pub annotations: BTreeMap<&'a str, &'a str>,
}

impl<'a> PluginCall<'a> {
    /// Describes the call by which a pod is given its network.
    pub fn add(pod: &'a str, netns: &'a Path) -> Self {
        Self { command: "ADD", pod, netns: Some(netns), annotations: BTreeMap::new() }
    }

    /// Describes the call by which a pod's network is taken apart.
    pub fn del(pod: &'a str, netns: Option<&'a Path>) -> Self {
        Self { command: "DEL", pod, netns, annotations: BTreeMap::new() }
    }

    /// Asks for an interface on every network card of the node instead of one on any.
    #[must_use]
    pub fn on_every_card(mut self) -> Self {
        self.annotations.insert("k8s.amazonaws.com/nicConfig", "multi-nic-attachment");
        self
    }
}

/// Why the plugin could not be called, or what it said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The node's namespace is not there.
    #[error(transparent)]
    Netns(#[from] NamespaceError),
    /// The pod's namespace could not be made.
    #[error(transparent)]
    Pod(#[from] LabNodeError),
    /// The plugin could not be run.
    #[error("run {path}")]
    Run {
        /// Where it is.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The plugin failed.
    #[error("{command} of {pod}: {said}")]
    Failed {
        /// `ADD` or `DEL`.
        command: String,
        /// The pod.
        pod: String,
        /// What it printed.
        said: String,
    },
}

impl LabAddress {
    /// Calls the plugin on the node, and returns what it printed.
    pub fn call_plugin(&self, call: &PluginCall<'_>) -> Result<serde_json::Value, PluginError> {
        let Output { status, stdout, .. } = self.run_plugin(call)?;
        let said = String::from_utf8_lossy(&stdout).trim().to_string();
        if !status.success() {
            let (command, pod) = (call.command.to_string(), call.pod.to_string());
            return Err(PluginError::Failed { command, pod, said });
        }
        Ok(serde_json::from_str(&said).unwrap_or_default())
    }

    fn run_plugin(&self, call: &PluginCall<'_>) -> Result<Output, PluginError> {
        let path = self.cni_bin_dir.join("vpc-cni");
        let config = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "aws-cni",
            "type": "vpc-cni",
            "socket": self.socket,
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": call.annotations },
        });
        let mut command = Command::new(&path);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", call.pod)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.cni_bin_dir)
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", call.pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(netns) = call.netns {
            command.env("CNI_NETNS", netns);
        }
        let run = || -> io::Result<Output> {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                io::Write::write_all(&mut stdin, config.to_string().as_bytes())?;
            }
            child.wait_with_output()
        };
        let node = Namespace::named(&self.node_netns)?;
        node.run(run)?.map_err(|source| PluginError::Run { path, source })
    }
}
