//! `vpc-ipam lab`.

mod demo;
mod keeper;
mod print;
mod supervise;
mod user_namespace;

use core::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};
use rustix::process::geteuid;
use vpc_ipam_core::{InstanceType, error_chain};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, EnterError, LabName};
use vpc_ipamd::operator_file::{self, OperatorFileError};
use vpc_ipamd::settings::parse_var;

use self::keeper::Folder;
use super::Failure;
use crate::lab::{LabAddress, LabNode, LabSpec, PerNode, PluginCall, folder, quick};

#[derive(Debug, Args)]
pub(super) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Bring a node up, add pods until a third ENI is there, check that all of them talk, remove them
    Run(NodeArgs),
    /// Keep a node up until Ctrl-C, for any container runtime to be pointed at
    Up(UpArgs),
    /// Remove a lab, one included whose process was killed
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Add or remove a pod of a lab that is up
    #[command(subcommand)]
    Pod(PodCommand),
    /// Run a command in a lab that is up
    Exec {
        #[command(flatten)]
        which: Which,
        /// node, host2 (another host of the VPC), internet, router, or a pod's name
        place: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The lab's name
    #[arg(long, value_name = "NAME", default_value = "lab")]
    name: LabName,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's instance type
    #[arg(long, value_name = "TYPE", default_value = "m5.large")]
    instance_type: InstanceType,
    /// A variable of the node, such as WARM_IP_TARGET=5; may be repeated
    #[arg(long = "env", value_name = "K=V", value_parser = parse_var)]
    vars: Vec<(String, String)>,
    /// A file with settings for some nodes only, as vpc-ipamd takes it
    #[arg(long, value_name = "PATH")]
    overrides: Option<PathBuf>,
    /// A file with limits of instance types, as vpc-ipamd takes it; a type that only the file knows is played by it
    #[arg(long, value_name = "PATH")]
    limits: Option<PathBuf>,
    /// A label of the node, by which settings may name it; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = parse_var)]
    labels: Vec<(String, String)>,
    /// The most pods that the node runs
    #[arg(long, value_name = "N")]
    max_pods: Option<u32>,
    /// Call EC2 through the AWS SDK and HTTP instead of in process
    #[arg(long)]
    wire: bool,
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    node: NodeArgs,
    /// Leave the daemon out: start your own vpc-ipamd at the lab's socket, EC2 and metadata service
    #[arg(long, requires = "wire")]
    no_daemon: bool,
    /// Print one line of JSON when the lab is ready, and nothing else on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Make a pod's namespace and let the CNI plugin set it up
    Add {
        #[command(flatten)]
        which: Which,
        /// The pod's name
        pod: String,
        /// Ask for an interface on every network card of the node (ENABLE_MULTI_NIC), as a pod's annotation does
        #[arg(long)]
        every_card: bool,
        /// Print the CNI result
        #[arg(long)]
        json: bool,
    },
    /// Let the CNI plugin take a pod down and remove its namespace
    Del {
        #[command(flatten)]
        which: Which,
        /// The pod's name
        pod: String,
    },
}

pub(super) fn main(args: LabArgs) -> ExitCode {
    match dispatch(&args.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("vpc-ipam: {}", error_chain(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &LabCommand) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Run(args) => match supervise::role(None)? {
            supervise::Role::Done(code) => Ok(code),
            supervise::Role::Inner(name) => demo::run(&spec(name, args)?),
        },
        LabCommand::Up(args) => match supervise::role(Some(&args.which.name))? {
            supervise::Role::Done(code) => Ok(code),
            supervise::Role::Inner(name) => up(args, name),
        },
        LabCommand::Down { which } => down(&which.name).map(|()| ExitCode::SUCCESS),
        LabCommand::Pod(PodCommand::Add { which, pod, every_card, json }) => {
            supervise::enter(&which.name)?;
            add_pod(&which.name, pod, *every_card, *json).map(|()| ExitCode::SUCCESS)
        }
        LabCommand::Pod(PodCommand::Del { which, pod }) => {
            supervise::enter(&which.name)?;
            del_pod(&which.name, pod).map(|()| ExitCode::SUCCESS)
        }
        LabCommand::Exec { which, place, command } => {
            supervise::enter(&which.name)?;
            match exec(&which.name, place, command)? {}
        }
    }
}

fn spec(name: LabName, args: &NodeArgs) -> Result<LabSpec, Failure> {
    let NodeArgs { instance_type, vars, overrides, limits, labels, max_pods, wire } = args;
    let mut per_node = PerNode {
        labels: labels.iter().cloned().collect(),
        pods_max: *max_pods,
        ..PerNode::default()
    };
    if let Some(path) = overrides {
        per_node.overrides = operator_file::overrides(path).map_err(|error| unseen(path, error))?;
    }
    if let Some(path) = limits {
        per_node.limits = operator_file::limits(path).map_err(|error| unseen(path, error))?;
    }
    let spec = LabSpec::new(name, *instance_type);
    Ok(LabSpec { vars: vars.clone(), per_node, http: *wire, ..spec })
}

/// Says why a file is not there that the user may see elsewhere.
fn unseen(path: &Path, error: OperatorFileError) -> Failure {
    if user_namespace::is_inside() && path.starts_with("/run") {
        let what = error_chain(&error);
        return format!("{what}; a lab without root has a /run of its own: put the file elsewhere")
            .into();
    }
    error.into()
}

fn up(args: &UpArgs, name: LabName) -> Result<ExitCode, Failure> {
    let stop = supervise::stop_requests(None)?;
    let spec = LabSpec { daemon: !args.no_daemon, ..spec(name, &args.node)? };
    let mut node = LabNode::start(&spec)?;
    if !node.notes.is_empty() {
        let notes: Vec<_> = node.notes.iter().map(ToString::to_string).collect();
        print::tell(None, notes.join("\nvpc-ipam: "));
    }
    let folder = Folder::open(&folder(&spec.name))?;
    let Some(mut held) = folder.hold(ADDRESS)? else {
        return Err(format!("another process keeps lab {}", spec.name).into());
    };
    let address = node.address.clone();
    held.write(&serde_json::to_vec(&address)?)?;
    if args.json {
        print::say(&serde_json::to_string(&address)?);
    } else {
        print::address(&spec, &node.mode, &address);
    }
    let watch = print::Stopwatch::start();
    let notices = node.notices.take();
    let printer = notices.map(|notices| print::follow(watch, notices, std::io::stderr()));
    // The caller drops the sender at last.
    let _ = stop.recv();
    // Before a word about it: who reads what we say may have stopped to.
    let stopped = node.stop();
    drop(held);
    stopped?;
    print::tell(printer, format!("lab {} is removed", spec.name));
    Ok(ExitCode::SUCCESS)
}

fn down(name: &LabName) -> Result<(), Failure> {
    let kept = match supervise::keeper(name)? {
        Some(keeper) => {
            keeper.end()?;
            true
        }
        None => false,
    };
    // What a killed process left. The kernel removes what those who are not root had.
    let removed = if geteuid().is_root() { lab::remove_all(name)? } else { Vec::new() };
    let folder = folder(name);
    let folder_removed = match geteuid().is_root().then(|| fs::remove_dir_all(&folder)) {
        Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("remove {}: {error}", folder.display()).into());
        }
        Some(Ok(())) => true,
        Some(Err(_)) | None => false,
    };
    print::say(&match removed.len() {
        0 if kept || folder_removed => format!("lab {name} is gone"),
        0 => format!("there is no lab {name}"),
        count => format!("lab {name} is gone; {count} namespaces that it had left were removed"),
    });
    Ok(())
}

fn add_pod(name: &LabName, pod: &str, every_card: bool, json: bool) -> Result<(), Failure> {
    let address = address(name)?;
    let netns = lab::add_pod(name, pod)?;
    let call = PluginCall::add(pod, netns.path());
    let call = if every_card { call.on_every_card() } else { call };
    let result = match address.call_plugin(&call) {
        Ok(result) => result,
        Err(error) => {
            drop(netns);
            if let Err(also) = lab::remove_pod(name, pod) {
                eprintln!("vpc-ipam: {}", error_chain(&also));
            }
            return Err(error.into());
        }
    };
    if json {
        print::say(&result.to_string());
    } else {
        let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        let got: Vec<_> = ips.iter().filter_map(|ip| ip["address"].as_str()).collect();
        let got = if got.is_empty() { "no address".to_string() } else { got.join(" and ") };
        print::say(&format!("{pod} has {got}; namespace {}", netns.path().display()));
    }
    Ok(())
}

fn del_pod(name: &LabName, pod: &str) -> Result<(), Failure> {
    let netns =
        PathBuf::from("/run/netns").join(name.namespace(&lab::LabNode::Pod(pod.to_string())));
    let netns = netns.exists().then_some(netns);
    address(name)?.call_plugin(&PluginCall::del(pod, netns.as_deref()))?;
    match netns {
        Some(_) => lab::remove_pod(name, pod)?,
        None => eprintln!("vpc-ipam: lab {name} has no pod {pod}"),
    }
    Ok(())
}

/// Becomes a command on a host or in a pod. Returns only if that failed.
fn exec(name: &LabName, place: &str, command: &[String]) -> Result<Infallible, Failure> {
    let where_to = match place {
        "node" => lab::LabNode::Node,
        "host2" => lab::LabNode::OtherHost,
        "internet" => lab::LabNode::Internet,
        "router" => lab::LabNode::Router,
        pod => lab::LabNode::Pod(pod.to_string()),
    };
    let names = Namespace::names()?;
    if !names.contains(&name.namespace(&lab::LabNode::Router)) {
        return Err(supervise::not_up(name));
    }
    if !names.contains(&name.namespace(&where_to)) {
        return Err(format!(
            "lab {name} has no {place}: there are node, host2, internet, router, and its pods: {}",
            lab::pods(name)?.join(", ")
        )
        .into());
    }
    let netns = Namespace::named(&name.namespace(&where_to))?;
    match lab::enter(&netns) {
        // A container may not let its users mount one. All but what is read there is as it should be.
        Err(error @ EnterError::Sys { .. }) => {
            eprintln!("vpc-ipam: /sys shows the links of this machine: {}", error_chain(&error));
        }
        other => other?,
    }
    let [program, arguments @ ..] = command else { return Err("no command is given".into()) };
    // In place of this process, so that its signals and its end are the command's own.
    let error = Command::new(program).args(arguments).exec();
    Err(format!("run {program}: {error}").into())
}

/// The file in a lab's folder that says where everything is; the process that keeps the lab holds it.
const ADDRESS: &str = "lab.json";

fn address(name: &LabName) -> Result<LabAddress, Failure> {
    let file = folder(name).join(ADDRESS);
    let text = fs::read(&file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => supervise::not_up(name),
        _ => format!("read {}: {error}", file.display()).into(),
    })?;
    Ok(serde_json::from_slice(&text)
        .map_err(|error| format!("read {}: {error}", file.display()))?)
}

/// Returns where to look for programs: what configures networks is often not in the `PATH` of who is not root.
fn path() -> OsString {
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let given = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&given).filter(|folder| !folder.as_os_str().is_empty());
    // None that came out of a list has a colon.
    env::join_paths(folders.chain(more)).unwrap_or(given)
}

/// Times for the demonstration, and the cool-down that goes with them unless the caller has another.
fn hurried(spec: &LabSpec) -> LabSpec {
    let mut spec = LabSpec { timing: Some(quick()), ..spec.clone() };
    let cooldown = "IP_COOLDOWN_PERIOD";
    if !spec.vars.iter().any(|(name, _)| name == cooldown) {
        spec.vars.push((cooldown.to_string(), "1".to_string()));
    }
    spec
}
