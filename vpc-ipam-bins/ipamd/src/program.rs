//! The program `vpc-ipamd`: reads options and variables, makes the EC2 client, and runs the daemon.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};
use vpc_ipam_aws::{
    ConnectError, Credentials, Ec2Request, RequestObserver, SdkEc2, SdkOptions, is_usable_proxy,
};
use vpc_ipam_core::{Budget, KnownLimits, error_chain};
use vpc_ipam_linux::{Namespace, NamespaceError};
use vpc_ipam_protocol::SOCKET;
use vpc_ipam_protocol::log_file::LogBounds;

use crate::environment::{self, AdoptError};
use crate::journal::JournalOptions;
use crate::log::{Log, LogOptions};
use crate::operator_file::{self, OperatorFileError};
use crate::reload::{self, Read, Sources};
use crate::settings::Settings;
use crate::support::{self, SupportOptions};
use crate::{DaemonError, Options, ServiceOptions};
use crate::{service, store};

/// Manages the ENIs and addresses of this node, and assigns addresses to pods.
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
    /// URL of EC2 instead of AWS's own [env: AWS_EC2_ENDPOINT, AWS_ENDPOINT_URL_EC2, AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    ec2_endpoint: Option<String>,
    /// URL of the instance metadata service [env: AWS_EC2_METADATA_SERVICE_ENDPOINT]
    #[arg(long, value_name = "URL")]
    imds_endpoint: Option<String>,
    /// Region, instead of asking the metadata service [env: AWS_REGION, AWS_DEFAULT_REGION]
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
    #[arg(long = "label", value_name = "K=V", value_parser = crate::settings::parse_var)]
    labels: Vec<(String, String)>,
    /// A file of further variables, NAME=VALUE a line as in systemd's EnvironmentFile; those of the process come first.
    /// SIGHUP has it read again, and --limits and --overrides with it
    #[arg(long, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// A file that is there exactly while the node is ready for pods, for a taint or a probe that waits for it
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// The folder of the journal, which `vpc-ipam replay` reads [default: journal/ beside the state file]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// MiB that the journal may have; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = JournalOptions::SIZE_MAX >> 20, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    journal_size: u64,
    /// Hours for which the journal is kept
    #[arg(long, value_name = "HOURS", default_value_t = JournalOptions::AGE_MAX.as_secs() / 3600, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    journal_age: u64,
    /// MiB that a log file gets before another one follows, where AWS_VPC_K8S_CNI_LOG_FILE names one
    #[arg(long, value_name = "MIB", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    log_size: u64,
    /// How many log files of before are kept, as FILE.1 and so on
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=100))]
    log_files: u32,
    /// Days for which they are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    log_age: u32,
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
    EnvFile(#[from] AdoptError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Runs until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let (process, not_text) = environment::of_process(std::env::vars_os());
    let sources = Sources {
        process,
        env_file: args.env_file.clone(),
        overrides: args.overrides.clone(),
        limits: args.limits.clone(),
        labels: args.labels.iter().cloned().collect(),
        pods_max: args.max_pods,
    };
    let read = args.env_file.as_deref().map_or(Ok(()), environment::adopt_file);
    let read = read.map_err(Failure::from).and_then(|()| sources.read().map_err(Failure::from));
    let vars = read.as_ref().map_or(&sources.process, |read| &read.vars);
    let (settings, _) = Settings::from_vars(vars.clone());
    let bounds = LogBounds::default().with(
        args.log_size << 20,
        args.log_files,
        Duration::from_secs(u64::from(args.log_age) * 86_400),
    );
    let log = LogOptions::new(settings.log_level, settings.log_to.clone());
    let log = Log::start(&log.with_json(args.log_json).with_bounds(bounds));
    let read = match read {
        Ok(read) => read,
        Err(failure) => {
            error!("{}", error_chain(&failure));
            return ExitCode::FAILURE;
        }
    };
    for warning in not_text.iter().chain(&read.warnings) {
        warn!("{warning}");
    }
    allow_many_callers();
    for name in unusable_proxies() {
        warn!("{name} names no proxy that could be used (http://HOST:PORT); it is passed over");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args, settings, sources, read, log));
            // A name that is still being looked up must not delay the end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::Runtime(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{}", error_chain(&failure));
            ExitCode::FAILURE
        }
    }
}

async fn run(
    args: Args,
    settings: Settings,
    sources: Sources,
    read: Read,
    log: Log,
) -> Result<(), Failure> {
    // Before all else: what ends a process by default is ignored by one that is the first of its container.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signal)?;
    let hangup = signal(SignalKind::hangup()).map_err(Failure::Signal)?;
    let support_asked = signal(SignalKind::user_defined1()).map_err(Failure::Signal)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
    };

    let netns = match &args.netns {
        Some(path) => Namespace::open(path)?,
        None => Namespace::current()?,
    };
    for path in shared_files() {
        operator_file::expect_readable(&path)?;
    }
    let mut limits = KnownLimits::default();
    limits.overrides.clone_from(&read.limits);
    let journal = (args.journal_size > 0).then(|| {
        let folder = args.journal.unwrap_or_else(|| args.state.with_file_name("journal"));
        JournalOptions::new(folder)
            .with_size_max(args.journal_size << 20)
            .with_age_max(Duration::from_secs(args.journal_age * 3600))
    });
    let options = Options {
        overrides: read.overrides.clone(),
        labels: sources.labels.clone(),
        limits,
        config: settings.config.with_pods_max(args.max_pods),
        host_config: settings.host,
        budget: Budget::default(),
        netns,
        socket: args.socket,
        state: args.state,
        boot: store::boot_id().map_err(Failure::Boot)?,
        adopt: !args.no_adopt,
        service: ServiceOptions::of_process(args.ready_file),
        metrics: settings.metrics,
        introspection: settings.introspection,
        journal,
        grpc: settings.grpc,
        network_policy: settings.network_policy.map_err(DaemonError::from)?,
    };
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    tokio::spawn(write_support(support_asked, support_options(&options, &read, &log)));
    let api = SdkEc2::connect(SdkOptions {
        // Here and not left to the SDK, for which an empty variable is set.
        region: args.region.or_else(|| var("AWS_REGION")).or_else(|| var("AWS_DEFAULT_REGION")),
        ec2_endpoint: args.ec2_endpoint.or_else(|| var("AWS_EC2_ENDPOINT")),
        imds_endpoint: args.imds_endpoint.or_else(|| var("AWS_EC2_METADATA_SERVICE_ENDPOINT")),
        credentials: Credentials::Chain,
        timeout: settings.http_timeout,
        observer: Some(RequestObserver::new(log_request)),
    })
    .await?;

    let (reload, reloads) = mpsc::channel(1);
    let (ask, asked) = mpsc::channel(1);
    tokio::spawn(reload::serve(sources, read, asked, reload));
    tokio::spawn(on_hangup(hangup, ask, log));
    Ok(crate::run_with_reloads(options, Arc::new(api), None, reloads, shutdown).await?)
}

/// Opens the log again and has the settings read again whenever SIGHUP comes.
async fn on_hangup(mut hangup: Signal, ask: mpsc::Sender<oneshot::Sender<()>>, log: Log) {
    while hangup.recv().await.is_some() {
        if let Err(error) = log.reopen() {
            warn!(%error, path = ?log.path(), "SIGHUP: cannot open the log file again");
        }
        info!("SIGHUP: reading the settings again");
        service::reloading();
        let (done, answer) = oneshot::channel();
        if ask.send(done).await.is_ok() {
            // An error means that the daemon ends.
            let _ = answer.await;
        }
        service::reloaded();
    }
}

/// Logs a request to EC2: the id is what AWS's support asks for.
fn log_request(request: Ec2Request) {
    let Ec2Request { operation, took, status, request_id, .. } = request;
    let ms = took.as_millis();
    debug!(operation, ?status, request_id, ms, "asked EC2");
}

/// Lets the process have as many files open as the system allows: each caller of the socket is one.
fn allow_many_callers() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        info!(%error, "cannot raise how many files may be open");
    }
}

/// Returns what a support archive of this daemon is made of.
fn support_options(options: &Options, read: &Read, log: &Log) -> SupportOptions {
    let mut support = SupportOptions::new(options.socket.clone(), options.state.clone());
    if let Some(journal) = &options.journal {
        support.journal.clone_from(&journal.folder);
    }
    support.log = log.path().map(Path::to_path_buf);
    support.netns = Some(options.netns.clone());
    support.vars = Ok(read.vars.clone().into_iter().collect());
    support
}

/// Writes a support archive for each SIGUSR1, one after the other.
async fn write_support(mut asked: Signal, options: SupportOptions) {
    while asked.recv().await.is_some() {
        let options = options.clone();
        let written = tokio::task::spawn_blocking(move || support::write_beside_state(&options));
        match written.await {
            Ok(Ok((path, missing))) => {
                info!(path = %path.display(), missing = missing.len(), "SIGUSR1: wrote a support archive");
            }
            Ok(Err(error)) => {
                warn!(error = error_chain(&error), "SIGUSR1: cannot write a support archive");
            }
            Err(error) => warn!(%error, "SIGUSR1: cannot write a support archive"),
        }
    }
}

/// Returns the files that the AWS SDK reads, as far as variables name them. It waits for what is a FIFO.
fn shared_files() -> impl Iterator<Item = PathBuf> {
    let names = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];
    let named = names.into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".aws"));
    named.chain(
        home.into_iter().flat_map(|home| ["config", "credentials"].map(|file| home.join(file))),
    )
}

/// Returns the variables that are to name a proxy and name none that could be used. Their values may hold a password.
fn unusable_proxies() -> impl Iterator<Item = &'static str> {
    let names =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    names.into_iter().filter(|name| {
        std::env::var(name).is_ok_and(|value| !value.is_empty() && !is_usable_proxy(&value))
    })
}
