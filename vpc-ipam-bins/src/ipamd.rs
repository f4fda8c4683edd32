//! The program `vpc-ipamd`: reads options and variables, makes the EC2 client, and runs [`daemon`].

use core::time::Duration;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use vpc_ipam_aws::{ConnectError, Credentials, SdkEc2, SdkOptions};
use vpc_ipam_core::{Budget, Config};
use vpc_ipam_linux::{HostConfig, Namespace, NamespaceError};

use crate::cni::chain;
use crate::daemon::{self, DaemonError, Options};
use crate::protocol::SOCKET;
use crate::store;

/// Manages the ENIs and addresses of this node, and gives addresses to pods.
///
/// Settings are the environment variables of amazon-vpc-cni-k8s; docs/operator.md names them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Where the CNI plugin asks
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// What must survive a restart, on a file system that a reboot clears
    #[arg(long, value_name = "PATH", default_value = "/run/vpc-ipam/state.redb")]
    state: PathBuf,
    /// The node's network namespace, if it is not this program's own
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// URL of EC2 instead of AWS's own [env: AWS_EC2_ENDPOINT]
    #[arg(long, value_name = "URL")]
    ec2_endpoint: Option<String>,
    /// URL of the instance metadata service [env: AWS_EC2_METADATA_SERVICE_ENDPOINT]
    #[arg(long, value_name = "URL")]
    imds_endpoint: Option<String>,
    /// Region, instead of asking the metadata service [env: AWS_REGION]
    #[arg(long)]
    region: Option<String>,
    /// Write log lines as JSON
    #[arg(long)]
    log_json: bool,
}

/// Why the program could not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("open the node's network namespace")]
    Netns(#[from] NamespaceError),
    #[error("read the boot id of the kernel")]
    Boot(#[source] std::io::Error),
    #[error("prepare to call EC2")]
    Connect(#[from] ConnectError),
    #[error("watch for signals")]
    Signal(#[source] std::io::Error),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Runs until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let args = Args::parse();
    start_log(args.log_json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(Failure::Runtime(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{}", chain(&failure));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let (config, mut notes) = Config::from_vars(std::env::vars());
    let (host_config, more) = HostConfig::from_vars(std::env::vars());
    notes.extend(more);
    for note in notes {
        warn!("{note}");
    }
    let netns = match &args.netns {
        Some(path) => Namespace::open(path)?,
        None => Namespace::current()?,
    };
    let options = Options {
        config,
        host_config,
        budget: Budget::default(),
        netns,
        socket: args.socket,
        state: args.state,
        boot: store::boot_id().map_err(Failure::Boot)?,
    };
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    // The peer's default and floor.
    let timeout = var("HTTP_TIMEOUT").and_then(|secs| secs.parse().ok()).unwrap_or(10).max(10);
    let api = SdkEc2::connect(SdkOptions {
        region: args.region.or_else(|| var("AWS_REGION")),
        ec2_endpoint: args.ec2_endpoint.or_else(|| var("AWS_EC2_ENDPOINT")),
        imds_endpoint: args.imds_endpoint.or_else(|| var("AWS_EC2_METADATA_SERVICE_ENDPOINT")),
        credentials: Credentials::Chain,
        timeout: Duration::from_secs(timeout),
    })
    .await?;

    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signal)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
    };
    Ok(daemon::run(options, Arc::new(api), None, shutdown).await?)
}

/// The peer's log level variable decides, in its words; `off` and anything unknown mean debug there.
fn start_log(json: bool) {
    let level = match std::env::var("AWS_VPC_K8S_CNI_LOGLEVEL").unwrap_or_default().to_lowercase() {
        level if ["trace", "debug", "info", "warn", "error"].contains(&level.as_str()) => level,
        level if ["critical", "fatal"].contains(&level.as_str()) => "error".to_string(),
        level if level == "off" => "off".to_string(),
        _ => "info".to_string(),
    };
    let filter = EnvFilter::new(format!("{level},hyper=warn,aws_config=warn,aws_smithy=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json { log.json().init() } else { log.init() }
}
