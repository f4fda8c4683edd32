//! The program `vpc-ipamd`: reads options and variables, makes the EC2 client, and runs [`daemon`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use vpc_ipam_aws::{ConnectError, Credentials, SdkEc2, SdkOptions};
use vpc_ipam_core::{Budget, Config, KnownLimits};
use vpc_ipam_linux::{Namespace, NamespaceError};

use crate::cni::chain;
use crate::daemon::{self, DaemonError, Options};
use crate::operator_file::{self, OperatorFileError};
use crate::protocol::SOCKET;
use crate::settings::Settings;
use crate::{log, store};

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
    /// Leave the rules and chains that amazon-vpc-cni-k8s made on the node, instead of taking them over
    #[arg(long)]
    no_adopt: bool,
    /// URL of EC2 instead of AWS's own [env: AWS_EC2_ENDPOINT]
    #[arg(long, value_name = "URL")]
    ec2_endpoint: Option<String>,
    /// URL of the instance metadata service [env: AWS_EC2_METADATA_SERVICE_ENDPOINT]
    #[arg(long, value_name = "URL")]
    imds_endpoint: Option<String>,
    /// Region, instead of asking the metadata service [env: AWS_REGION]
    #[arg(long)]
    region: Option<String>,
    /// The most pods that this node runs, as kubelet reports it; no more addresses than that are held
    #[arg(long, value_name = "N")]
    max_pods: Option<u32>,
    /// A file with limits of instance types that come before the built-in table's, as `vpc-ipam limits --json` prints
    /// them
    #[arg(long, value_name = "PATH")]
    limits: Option<PathBuf>,
    /// A file with settings for some nodes only: a JSON array of {"when": …, "set": …}
    #[arg(long, value_name = "PATH")]
    overrides: Option<PathBuf>,
    /// A label of this node, by which overrides may name it; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = crate::cli::parse_var)]
    labels: Vec<(String, String)>,
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
    File(#[from] OperatorFileError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Runs until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let (settings, notes) = Settings::from_vars(std::env::vars());
    log::start(settings.log_level, args.log_json);
    for note in notes {
        warn!("{note}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(args, settings)),
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

async fn run(args: Args, settings: Settings) -> Result<(), Failure> {
    let netns = match &args.netns {
        Some(path) => Namespace::open(path)?,
        None => Namespace::current()?,
    };
    let mut limits = KnownLimits::default();
    if let Some(path) = &args.limits {
        limits.overrides = operator_file::limits(path)?;
    }
    let overrides = match &args.overrides {
        Some(path) => operator_file::overrides(path)?,
        None => Vec::new(),
    };
    let options = Options {
        overrides,
        labels: args.labels.into_iter().collect(),
        limits,
        config: Config { pods_max: args.max_pods, ..settings.config },
        host_config: settings.host,
        budget: Budget::default(),
        netns,
        socket: args.socket,
        state: args.state,
        boot: store::boot_id().map_err(Failure::Boot)?,
        adopt: !args.no_adopt,
    };
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let api = SdkEc2::connect(SdkOptions {
        region: args.region.or_else(|| var("AWS_REGION")),
        ec2_endpoint: args.ec2_endpoint.or_else(|| var("AWS_EC2_ENDPOINT")),
        imds_endpoint: args.imds_endpoint.or_else(|| var("AWS_EC2_METADATA_SERVICE_ENDPOINT")),
        credentials: Credentials::Chain,
        timeout: settings.http_timeout,
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
