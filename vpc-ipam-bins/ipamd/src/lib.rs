//! The daemon as a library function: one task owns the address management of a node, and everything else talks to it.
//!
//! ```text
//! plugin ──► server ──► requests ┐           ┌──► executor of EC2 calls (a task each)
//!                       outcomes ┼─► loop ───┼──► host thread (the kernel)
//!                       commits  ┘   (Ipam)  └──► store thread (many grants, one commit)
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs are where clocks and variables are read"
)]

mod clock;
mod conntrack;
pub mod env_file;
pub mod environment;
mod error;
mod event_loop;
mod file_lock;
mod fronts;
#[cfg(feature = "grpc")]
mod grpc;
mod grpc_address;
mod input;
pub mod journal;
mod keeper;
mod link_names;
pub mod log;
mod metrics;
mod network_policy;
pub mod operator_file;
mod options;
mod pending_links;
mod probe;
#[cfg(feature = "aws")]
pub mod program;
pub mod reload;
pub mod service;
pub mod settings;
mod sources;
mod start;
pub mod store;
pub mod support;
mod threads;
pub mod variables;

use core::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::info;
use vpc_ipam_aws::Ec2Api;

use self::reload::Reload;

pub use self::clock::Clock;
pub use self::error::{DaemonError, HostThreadError};
use self::fronts::ask::Asker;
use self::fronts::http::Http;
pub use self::fronts::socket::claim::ClaimError;
pub use self::grpc_address::{GrpcAddress, GrpcAddressError};
use self::metrics::Metrics;
pub use self::network_policy::{AGENT_SOCKET, NetworkPolicy};
pub use self::options::{BindAddress, Notice, Options};
pub use self::service::ServiceOptions;

/// How many inputs may queue up before those who bring them wait.
const INPUTS_MAX: usize = 1024;

/// Manages the addresses of the node until `shutdown` completes, also while it starts.
pub async fn run(
    options: Options,
    api: Arc<dyn Ec2Api>,
    notices: Option<std::sync::mpsc::Sender<Notice>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let (_, never) = mpsc::channel(1);
    run_with_reloads(options, api, notices, never, shutdown).await
}

/// As [`run`], and takes in other settings when they come.
pub async fn run_with_reloads(
    options: Options,
    api: Arc<dyn Ec2Api>,
    notices: Option<std::sync::mpsc::Sender<Notice>>,
    mut reloads: mpsc::Receiver<Reload>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    tokio::pin!(shutdown);
    let (inputs, queue) = mpsc::channel(INPUTS_MAX);
    let reloaded = inputs.clone();
    let metrics = Metrics::new();
    let asker = Asker::new(inputs.clone());
    // From the first moment, so that a node that cannot start says so.
    let http = Http::start(&options, &asker, &metrics).map_err(DaemonError::Http)?;
    let started = tokio::select! {
        biased;
        () = &mut shutdown => {
            info!("stopped while it started");
            return Ok(());
        }
        started = start::start(options, api, notices, inputs, metrics.clone()) => started?,
    };
    let start::Started { mut daemon, server, grpc } = started;
    metrics.serving();
    asker.serving();
    let reloading = tokio::spawn(async move {
        while let Some(reload) = reloads.recv().await {
            if reloaded.send(input::Input::Reload(Box::new(reload))).await.is_err() {
                break;
            }
        }
    });
    let result = daemon.run(queue, shutdown).await;
    reloading.abort();
    drop(http);
    // Who still waits hears that the daemon stops.
    let (writer, recorder) = daemon.end();
    let claim = server.stop().await;
    let grpc_claims = grpc.stop().await;
    writer.stop().await;
    if let Some(recorder) = recorder {
        recorder.stop().await;
    }
    // Another daemon may begin: of this one nothing is left.
    drop((claim, grpc_claims));
    result
}
