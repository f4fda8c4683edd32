//! Daemons of a test's own, within its process.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use vpc_ipam::lab::LabNode;
use vpc_ipam_aws::{Ec2Api, EmulatedEc2};
use vpc_ipam_core::{Budget, Config, KnownLimits};
use vpc_ipam_linux::HostConfig;
use vpc_ipam_protocol::{Answer, Request, Status, ask};
use vpc_ipamd::journal::JournalOptions;
use vpc_ipamd::store;
use vpc_ipamd::{DaemonError, Options, ServiceOptions};

use crate::runtime::{netns, spec, start, status, wait_until};

/// A node whose daemon is one of the test's own.
pub(crate) fn node() -> LabNode {
    let mut spec = spec("m5.large");
    spec.daemon = false;
    start(&spec)
}

pub(crate) fn assigned(node: &LabNode) -> u32 {
    status(node).enis.iter().map(|eni| eni.assigned).sum()
}

/// A daemon within this process that can be made to end at once: nothing is written, answered or removed any more.
pub(crate) struct Daemon {
    crash: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    state: PathBuf,
}

impl Daemon {
    /// Starts a daemon, and waits until it could serve.
    pub(crate) fn start(node: &LabNode) -> Self {
        Self::start_as(node, |_| {})
    }

    /// Starts a daemon with other options, and waits until it could serve.
    pub(crate) fn start_as(node: &LabNode, configure: impl FnOnce(&mut Options)) -> Self {
        let daemon = Self::begin(node, api(node), configure);
        wait_until("the daemon", || {
            // Ready it is before it has seen its ENIs: an ADD would wait for them.
            let status = try_status(node)?;
            if status.ready && !status.enis.is_empty() {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
        daemon
    }

    /// Starts a daemon that asks `api`, and waits until it answers.
    pub(crate) fn start_with(node: &LabNode, api: Arc<dyn Ec2Api>) -> Self {
        let daemon = Self::begin(node, api, |_| {});
        wait_until("the daemon", || try_status(node).map(drop));
        daemon
    }

    /// Starts a daemon that asks `api`, and does not wait for it.
    pub(crate) fn begin(
        node: &LabNode,
        api: Arc<dyn Ec2Api>,
        configure: impl FnOnce(&mut Options),
    ) -> Self {
        let (crash, crashed) = oneshot::channel();
        let run = daemon_as(node, api, core::future::pending(), configure);
        let run = async {
            tokio::select! {
                _ = crashed => {}
                result = run => panic!("the daemon ended: {result:?}"),
            }
        };
        let state = node.address.socket.with_file_name("state.redb");
        let run = move || runtime().block_on(run);
        Self { crash, thread: std::thread::spawn(run), state }
    }

    pub(crate) fn crash(self) {
        self.crash.send(()).unwrap();
        self.thread.join().unwrap();
        // The thread that writes ends after the one that it writes for, and the next daemon wants its file.
        let file = File::open(self.state).unwrap();
        file.lock().unwrap();
        // A program that another test is starting has the file open too until it runs, and its lock with it.
        file.unlock().unwrap();
    }

    /// Returns why a daemon does not start.
    pub(crate) fn fail(node: &LabNode) -> String {
        let never = core::future::pending();
        let error = runtime().block_on(daemon_of(node, api(node), never)).unwrap_err();
        vpc_ipam_core::error_chain(&error)
    }
}

/// Returns what a daemon asks where nothing fails.
pub(crate) fn api(node: &LabNode) -> Arc<EmulatedEc2> {
    Arc::new(EmulatedEc2::new(node.cloud().clone(), node.address.instance_id))
}

/// Returns what the daemon says of itself, if it answers.
pub(crate) fn try_status(node: &LabNode) -> Result<Status, String> {
    match ask(&node.address.socket, &Request::Status) {
        Ok(Answer::Status(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The daemon of a node, which runs until it is dropped or told to stop.
pub(crate) fn daemon_of(
    node: &LabNode,
    api: Arc<dyn Ec2Api>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<(), DaemonError>> + Send + 'static {
    daemon_as(node, api, shutdown, |_| {})
}

pub(crate) fn daemon_as(
    node: &LabNode,
    api: Arc<dyn Ec2Api>,
    shutdown: impl Future<Output = ()> + Send + 'static,
    configure: impl FnOnce(&mut Options),
) -> impl Future<Output = Result<(), DaemonError>> + Send + 'static {
    let vars = [("IP_COOLDOWN_PERIOD", "1")];
    let mut options = Options {
        config: Config::from_vars(vars).0,
        host_config: HostConfig::from_vars(vars).0,
        budget: Budget::default(),
        netns: netns(node),
        socket: node.address.socket.clone(),
        state: node.address.socket.with_file_name("state.redb"),
        boot: store::boot_id().unwrap(),
        adopt: true,
        service: ServiceOptions::default(),
        journal: Some(JournalOptions::new(node.address.socket.with_file_name("journal"))),
        grpc: Vec::new(),
        network_policy: None,
        limits: KnownLimits::default(),
        overrides: Vec::new(),
        labels: BTreeMap::new(),
        metrics: None,
        introspection: None,
    };
    configure(&mut options);
    vpc_ipamd::run(options, api, None, shutdown)
}
