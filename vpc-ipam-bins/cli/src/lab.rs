//! A node in a box: a VPC of network namespaces, the EC2 that goes with it, and the daemon of the node.
//!
//! ```text
//! plugin ─► daemon ─► EmulatedEc2, or SdkEc2 over HTTP ─► core's model of EC2 ─► namespaces
//! ```

#[cfg(feature = "aws")]
mod http;
mod notices;
mod plugin;
mod vpc;

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use vpc_ipam_aws::{Ec2Api, EmulatedEc2, SharedCloud};
use vpc_ipam_core::sim::CloudError;
use vpc_ipam_core::{
    Budget, ConfigWarning, InstanceId, InstanceType, KnownLimits, Limits, Override, Timestamp,
    Timing, UnknownInstanceTypeError, error_chain,
};
use vpc_ipam_linux::lab::{
    self, BuildError, ChangeError, LabName, LayoutError, RemoveLabError, SourceCheckError,
};
use vpc_ipam_linux::{Namespace, NamespaceError};
use vpc_ipamd::journal::JournalOptions;
use vpc_ipamd::settings::Settings;
use vpc_ipamd::store;
use vpc_ipamd::{Clock, DaemonError, Options, ServiceOptions};

use self::notices::relay;
use self::vpc::Vpc;

pub use self::notices::Notices;
pub use self::plugin::{PluginCall, PluginError};
pub use self::vpc::{LabSubnet, Mode, Subnets};

/// What a node in a box is to be.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// The lab's name, which all its namespaces carry.
    pub name: LabName,
    /// The node's type.
    pub instance_type: InstanceType,
    /// The node's variables.
    pub vars: Vec<(String, String)>,
    /// What holds for some nodes only, and which of them this is.
    pub per_node: PerNode,
    /// Times other than those of a real node, for a lab that is watched.
    pub timing: Option<Timing>,
    /// Whether EC2 and the metadata service are on HTTP, and the daemon calls them through the AWS SDK.
    pub http: bool,
    /// Whether the node's daemon is started. Without it, one's own can take its place at the socket.
    pub daemon: bool,
}

/// What the command line of `vpc-ipamd` says of one node: docs/per-node.md.
#[derive(Clone, Debug, Default)]
pub struct PerNode {
    /// Settings for some nodes.
    pub overrides: Vec<Override>,
    /// Limits of instance types. EC2 plays a type by them if the built-in table does not know it.
    pub limits: Vec<Limits>,
    /// The node's labels, by which overrides may name it.
    pub labels: BTreeMap<String, String>,
    /// The most pods that the node runs.
    pub pods_max: Option<u32>,
}

impl LabSpec {
    /// Describes a node of a type with nothing set, whose daemon calls EC2 in process.
    pub fn new(name: LabName, instance_type: InstanceType) -> Self {
        Self {
            name,
            instance_type,
            vars: Vec::new(),
            per_node: PerNode::default(),
            timing: None,
            http: false,
            daemon: true,
        }
    }
}

impl LabSpec {
    /// Returns what the variables and files come to on the node, without making anything.
    pub fn mode(&self) -> Result<Mode, StartError> {
        Ok(Vpc::make(self, Timestamp::EPOCH)?.1)
    }
}

impl PerNode {
    fn known_limits(&self) -> KnownLimits {
        KnownLimits::default().with_overrides(self.limits.clone())
    }
}

/// A node in a box. It is gone when this is dropped.
pub struct LabNode {
    /// Where everything is.
    pub address: LabAddress,
    /// What the variables and files come to on this node.
    pub mode: Mode,
    /// What there was to remark about the variables.
    pub notes: Vec<ConfigWarning>,
    /// What the daemon does, for the caller that takes and follows it.
    pub notices: Option<Notices>,
    cloud: SharedCloud,
    lab: Arc<Mutex<Option<lab::Lab>>>,
    follow_failed: Arc<Mutex<Option<ChangeError>>>,
    daemon: Option<Running>,
    #[cfg(feature = "aws")]
    fronts: Option<http::Fronts>,
    _folder: Folder,
}

/// The folder of a lab. What is left in it is of no use without the lab, and goes with this value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("vpc-ipam: remove {}: {error}", self.0.display());
        }
    }
}

impl fmt::Debug for LabNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabNode").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Where everything of a node in a box is, for other processes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LabAddress {
    /// The name of the node's namespace under /run/netns.
    pub node_netns: String,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The folder with the CNI plugin.
    pub cni_bin_dir: PathBuf,
    /// The folder with the network configuration.
    pub cni_conf_dir: PathBuf,
    /// The instance.
    pub instance_id: InstanceId,
    /// The subnets.
    pub subnets: Subnets,
    /// The settings for some nodes that a daemon of this one is to be started with, if there are any.
    pub overrides: Option<PathBuf>,
    /// The limits of instance types that a daemon of this node is to be started with, if there are any.
    pub limits: Option<PathBuf>,
    /// The URL of EC2, for who is in the node's namespace; without HTTP there is none.
    pub ec2_endpoint: Option<String>,
    /// The URL of the metadata service, for who is in the node's namespace; without HTTP there is none.
    pub imds_endpoint: Option<String>,
    /// The process that keeps the lab up.
    pub pid: u32,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), DaemonError>>,
}

/// Why a node in a box could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The instance type is not known.
    #[error(transparent)]
    InstanceType(#[from] UnknownInstanceTypeError),
    /// The model of EC2 refused its own set-up.
    #[error("set up the VPC")]
    Cloud(#[from] CloudError),
    /// The VPC has another shape than a lab can have.
    #[error("lay out the lab")]
    Layout(#[from] LayoutError),
    /// The namespaces could not be made.
    #[error("build the lab")]
    Build(#[from] BuildError),
    /// The first ENIs could not be plugged in.
    #[error("plug in the primary ENI")]
    Plug(#[from] ChangeError),
    /// The plugin is not there.
    #[error(
        "find the CNI plugin at {path}: build it with `make build`, or `cargo build --bin vpc-cni`"
    )]
    Plugin {
        /// Where it should be.
        path: PathBuf,
    },
    /// A folder or file could not be made.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The node's namespace could not be opened.
    #[error("open the node's namespace")]
    Netns(#[from] NamespaceError),
    /// A thread could not be started, or the system not be asked.
    #[error("start the lab's threads")]
    Threads(#[source] io::Error),
    /// EC2 could not be put on HTTP.
    #[cfg(feature = "aws")]
    #[error("put EC2 on HTTP")]
    Http(#[source] io::Error),
    /// This program was built without the AWS SDK.
    #[error("this vpc-ipam was built without the AWS SDK, so it cannot call EC2 over HTTP")]
    NoSdk,
    /// The daemon did not start.
    #[error("start the daemon")]
    Daemon(#[from] DaemonError),
}

/// Why a lab did not go, or not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The daemon ended with an error.
    #[error("the daemon ended")]
    Daemon(#[from] DaemonError),
    /// A link did not follow EC2.
    #[error("the lab did not follow EC2")]
    Follow(#[from] ChangeError),
    /// A namespace could not be removed.
    #[error("remove the lab")]
    Remove(#[from] RemoveLabError),
}

/// Returns the folder in which a lab keeps its socket, state and configuration.
pub fn folder(name: &LabName) -> PathBuf {
    Path::new("/run/vpc-ipam-lab").join(name.to_string())
}

impl LabNode {
    /// Makes a VPC with a node and another host, starts the node's daemon, and returns once it serves.
    pub fn start(spec: &LabSpec) -> Result<Self, StartError> {
        let cni_bin_dir = plugin_folder()?;
        let clock = Clock::start();
        let (vpc, mode) = Vpc::make(spec, clock.now())?;
        let lab = lab::Lab::build(spec.name.clone(), vpc.layout()?)?;
        let node_netns = lab.node().clone();
        // Only now: the process that has the lab's namespaces has its folder too.
        let folder = Folder(folder(&spec.name));
        let overrides = vpc.overrides(spec);
        let (subnets, instance) = (vpc.subnets.clone(), vpc.node.instance);
        let address = write_files(spec, &overrides, subnets, instance, &folder.0, cni_bin_dir)?;
        let lab = Arc::new(Mutex::new(Some(lab)));
        let cloud = SharedCloud::new(vpc.cloud, move || clock.now());
        let follow_failed = follow(&cloud, &lab);
        if let Some(error) = lock(&follow_failed).take() {
            return Err(error.into());
        }

        let mut lab_node = Self {
            address,
            mode,
            notes: Vec::new(),
            notices: None,
            cloud,
            lab,
            follow_failed,
            daemon: None,
            #[cfg(feature = "aws")]
            fronts: None,
            _folder: folder,
        };
        let api = lab_node.api(spec.http, &node_netns)?;
        if spec.daemon {
            lab_node.start_daemon(spec, overrides, node_netns, api)?;
        }
        Ok(lab_node)
    }

    #[cfg(feature = "aws")]
    fn api(&mut self, http: bool, node: &Namespace) -> Result<Api, StartError> {
        if !http {
            return Ok(Api::InProcess(EmulatedEc2::new(
                self.cloud.clone(),
                self.address.instance_id,
            )));
        }
        let (cloud, instance) = (self.cloud.clone(), self.address.instance_id);
        let fronts = http::Fronts::serve(cloud, instance, node)?.map_err(StartError::Http)?;
        self.address.ec2_endpoint = Some(fronts.ec2.clone());
        self.address.imds_endpoint = Some(fronts.imds.clone());
        let options = fronts.options();
        self.fronts = Some(fronts);
        Ok(Api::Http(options))
    }

    #[cfg(not(feature = "aws"))]
    fn api(&mut self, http: bool, _node: &Namespace) -> Result<Api, StartError> {
        if http {
            return Err(StartError::NoSdk);
        }
        Ok(Api::InProcess(EmulatedEc2::new(self.cloud.clone(), self.address.instance_id)))
    }

    fn start_daemon(
        &mut self,
        spec: &LabSpec,
        overrides: Vec<Override>,
        netns: Namespace,
        api: Api,
    ) -> Result<(), StartError> {
        let (settings, notes) = Settings::from_vars(spec.vars.iter().cloned());
        let Settings {
            mut config,
            host: host_config,
            metrics,
            introspection,
            grpc,
            network_policy,
            ..
        } = settings;
        if let Some(timing) = spec.timing {
            config.timing = timing;
        }
        config.pods_max = spec.per_node.pods_max;
        self.notes = notes;
        let options = Options {
            config,
            overrides,
            labels: spec.per_node.labels.clone(),
            limits: spec.per_node.known_limits(),
            host_config,
            budget: Budget::default(),
            netns: netns.clone(),
            socket: self.address.socket.clone(),
            state: self.address.socket.with_file_name("state.redb"),
            boot: store::boot_id().map_err(StartError::Threads)?,
            adopt: true,
            service: ServiceOptions::default(),
            metrics,
            introspection,
            journal: Some(JournalOptions::new(self.address.socket.with_file_name("journal"))),
            grpc,
            network_policy: network_policy.map_err(DaemonError::from)?,
        };
        let (ready, is_ready) = channel();
        let (notices, to_follow) = relay(ready).map_err(StartError::Threads)?;
        let (stop, stopped) = oneshot::channel::<()>();
        // All of the daemon's threads are in the node's namespace, as a service of the node is: a thread is where the one was
        // that started it. EC2 is played on a worker thread, so that the loop goes on while links are plugged in.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all();
        let runtime = netns.run(move || builder.build())?.map_err(StartError::Threads)?;
        let serve = move || {
            runtime.block_on(async move {
                let api = api.connect().await?;
                let shutdown = async {
                    // The sender dropped is as good as the word sent.
                    let _ = stopped.await;
                };
                vpc_ipamd::run(options, api, Some(notices), shutdown).await
            })
        };
        let thread = thread::Builder::new()
            .name("daemon".to_string())
            .spawn(move || netns.run(serve).unwrap_or(Err(DaemonError::Ended("namespace"))))
            .map_err(StartError::Threads)?;
        self.notices = Some(to_follow);
        let daemon = Running { stop, thread };
        // The channel closes when the daemon ends without having served.
        if is_ready.recv().is_err() {
            joined(daemon.thread)?;
            return Err(DaemonError::Ended("daemon").into());
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Does something with the lab's namespaces.
    ///
    /// # Panics
    /// Panics once the lab was stopped.
    pub fn with_lab<T>(&self, use_it: impl FnOnce(&lab::Lab) -> T) -> T {
        use_it(lock(&self.lab).as_ref().expect("the lab is there until it is stopped"))
    }

    /// Does something with the model of EC2.
    pub fn cloud(&self) -> &SharedCloud {
        &self.cloud
    }

    /// Returns how many packets the source/destination checks dropped, over all ENIs.
    pub fn drops(&self) -> Result<u64, SourceCheckError> {
        Ok(self.with_lab(lab::Lab::source_check_drops)?.values().sum())
    }

    /// Stops the daemon and removes everything.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.take_down()
    }

    /// Stops the daemon alone, as SIGTERM does; another may take its place at the same socket.
    pub fn stop_daemon(&mut self) -> Result<(), StopError> {
        let Some(Running { stop, thread }) = self.daemon.take() else { return Ok(()) };
        let _ = stop.send(());
        Ok(joined(thread)?)
    }

    fn take_down(&mut self) -> Result<(), StopError> {
        let mut result = self.stop_daemon();
        #[cfg(feature = "aws")]
        drop(self.fronts.take());
        if let Some(error) = lock(&self.follow_failed).take() {
            result = result.and(Err(error.into()));
        }
        if let Some(lab) = lock(&self.lab).take() {
            result = result.and(lab.remove().map_err(StopError::from));
        }
        result
    }
}

impl Drop for LabNode {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("vpc-ipam: {}", error_chain(&error));
        }
    }
}

/// How the daemon reaches EC2; made on the daemon's own runtime.
enum Api {
    InProcess(EmulatedEc2),
    #[cfg(feature = "aws")]
    Http(vpc_ipam_aws::SdkOptions),
}

impl Api {
    async fn connect(self) -> Result<Arc<dyn Ec2Api>, DaemonError> {
        Ok(match self {
            Self::InProcess(emulated) => Arc::new(emulated),
            #[cfg(feature = "aws")]
            Self::Http(options) => http::connect(options).await,
        })
    }
}

/// Returns how the daemon ended. One that panicked, which was printed then, ended as none should.
fn joined(thread: JoinHandle<Result<(), DaemonError>>) -> Result<(), DaemonError> {
    thread.join().unwrap_or(Err(DaemonError::Ended("daemon")))
}

/// Lets the namespaces follow the cloud. The first error is kept until the lab ends, since no caller waits for it here.
fn follow(
    cloud: &SharedCloud,
    lab: &Arc<Mutex<Option<lab::Lab>>>,
) -> Arc<Mutex<Option<ChangeError>>> {
    let failed = Arc::new(Mutex::new(None));
    let (lab, keep) = (Arc::clone(lab), Arc::clone(&failed));
    cloud.on_change(move |change| {
        if let Some(lab) = lock(&lab).as_mut()
            && let Err(error) = lab.apply(&change)
        {
            lock(&keep).get_or_insert(error);
        }
    });
    failed
}

/// Writes the files of a lab, and returns where everything is.
fn write_files(
    spec: &LabSpec,
    overrides: &[Override],
    subnets: Subnets,
    instance: InstanceId,
    folder: &Path,
    cni_bin_dir: PathBuf,
) -> Result<LabAddress, StartError> {
    let cni_conf_dir = folder.join("net.d");
    fs::create_dir_all(&cni_conf_dir)
        .map_err(|source| StartError::Write { path: cni_conf_dir.clone(), source })?;
    let socket = folder.join("ipamd.sock");
    let conflist = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "aws-cni",
        "plugins": [{
            "type": "vpc-cni",
            "socket": socket,
            // So that the runtime tells on how many network cards a pod wants an interface.
            "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        }],
    });
    write(cni_conf_dir.join("10-vpc-ipam.conflist"), &[conflist])?;
    let PerNode { limits, .. } = &spec.per_node;
    let overrides = (!overrides.is_empty())
        .then(|| write(folder.join("overrides.json"), &[serde_json::json!(overrides)]))
        .transpose()?;
    let limits =
        (!limits.is_empty()).then(|| write(folder.join("limits.json"), limits)).transpose()?;
    Ok(LabAddress {
        node_netns: spec.name.namespace(&lab::LabNode::Node),
        socket,
        cni_bin_dir,
        cni_conf_dir,
        instance_id: instance,
        subnets,
        overrides,
        limits,
        ec2_endpoint: None,
        imds_endpoint: None,
        pid: std::process::id(),
    })
}

/// Writes JSON documents one after the other into a file, and returns its path.
fn write(path: PathBuf, documents: &[impl serde::Serialize]) -> Result<PathBuf, StartError> {
    let mut text = String::new();
    for document in documents {
        let document = serde_json::to_string_pretty(document).map_err(io::Error::from);
        text += &document.map_err(|source| StartError::Write { path: path.clone(), source })?;
        text.push('\n');
    }
    match fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(source) => Err(StartError::Write { path, source }),
    }
}

/// Returns the folder with the plugin of this build; the programs of a test are one folder further down.
fn plugin_folder() -> Result<PathBuf, StartError> {
    let program = std::env::current_exe().map_err(StartError::Threads)?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let folder = match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let plugin = folder.join("vpc-cni");
    if plugin.exists() {
        Ok(folder.to_path_buf())
    } else {
        Err(StartError::Plugin { path: plugin })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a panic left behind is removed all the same.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times for a lab that is watched: pods and ENIs that are no longer needed go within seconds.
pub fn quick() -> Timing {
    Timing::default()
        .with_shrink_spacing(Duration::from_secs(1))
        .with_eni_life_min(Duration::from_secs(2))
        .with_detach_wait(Duration::from_millis(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_that_panicked_did_not_end_well() {
        let end = joined(thread::spawn(|| panic!("as a test wants it")));
        assert!(matches!(end, Err(DaemonError::Ended("daemon"))), "{end:?}");
    }
}
