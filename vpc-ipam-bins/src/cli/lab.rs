//! `vpc-ipam lab`.

mod demo;
mod print;
mod supervise;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};
use vpc_ipam_core::InstanceType;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName, Place};

use super::Failure;
use super::capacity::parse_var;
use crate::cni::chain;
use crate::lab::{LabAddress, LabNode, Plan, PluginCall, folder, quick};

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
    /// Make a pod's namespace and let the CNI plugin wire it
    Add {
        #[command(flatten)]
        which: Which,
        /// The pod's name
        pod: String,
        /// Print the CNI result
        #[arg(long)]
        json: bool,
    },
    /// Let the CNI plugin unwire a pod and remove its namespace
    Del {
        #[command(flatten)]
        which: Which,
        /// The pod's name
        pod: String,
    },
}

impl LabCommand {
    fn lab(&self) -> Option<&LabName> {
        match self {
            Self::Run(_) => None,
            Self::Up(args) => Some(&args.which.name),
            Self::Down { which } | Self::Exec { which, .. } => Some(&which.name),
            Self::Pod(PodCommand::Add { which, .. } | PodCommand::Del { which, .. }) => {
                Some(&which.name)
            }
        }
    }
}

pub(super) fn main(args: LabArgs) -> ExitCode {
    match dispatch(&args.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("vpc-ipam: {}", chain(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &LabCommand) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Run(args) => match supervise::role(None)? {
            supervise::Role::Done(code) => Ok(code),
            supervise::Role::Inner(name) => demo::run(&plan(name, args)),
        },
        LabCommand::Up(args) => match supervise::role(Some(&args.which.name))? {
            supervise::Role::Done(code) => Ok(code),
            supervise::Role::Inner(name) => up(args, name),
        },
        other => {
            // The lab of somebody who is not root is in a namespace of its own, and so must the command be.
            if let Some(code) = other.lab().and_then(supervise::enter) {
                return Ok(code);
            }
            within(other)
        }
    }
}

fn within(command: &LabCommand) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Down { which } => down(&which.name)?,
        LabCommand::Pod(PodCommand::Add { which, pod, json }) => {
            add_pod(&which.name, pod, *json)?;
        }
        LabCommand::Pod(PodCommand::Del { which, pod }) => del_pod(&which.name, pod)?,
        LabCommand::Exec { which, place, command } => return exec(&which.name, place, command),
        LabCommand::Run(_) | LabCommand::Up(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(name: LabName, args: &NodeArgs) -> Plan {
    Plan {
        name,
        instance_type: args.instance_type,
        vars: args.vars.clone(),
        timing: None,
        wire: args.wire,
        daemon: true,
    }
}

fn up(args: &UpArgs, name: LabName) -> Result<ExitCode, Failure> {
    let stop = supervise::stop_requests(None)?;
    let plan = Plan { daemon: !args.no_daemon, ..plan(name, &args.node) };
    let mut node = LabNode::start(&plan)?;
    for note in &node.notes {
        eprintln!("vpc-ipam: {note}");
    }
    let address = node.address.clone();
    let file = address_file(&args.which.name);
    fs::write(&file, serde_json::to_vec(&address)?)
        .map_err(|error| format!("write {}: {error}", file.display()))?;
    if args.json {
        println!("{}", serde_json::to_string(&address)?);
    } else {
        print::address(&args.which.name, &address);
    }
    let notices = core::mem::replace(&mut node.notices, std::sync::mpsc::channel().1);
    let printer = print::follow(print::Stopwatch::start(), notices, std::io::stderr());
    // Whoever asks drops the sender at last.
    let _ = stop.recv();
    eprintln!("vpc-ipam: removing the lab");
    node.stop()?;
    let _ = printer.join();
    Ok(ExitCode::SUCCESS)
}

fn down(name: &LabName) -> Result<(), Failure> {
    if let Ok(address) = address(name) {
        supervise::end(address.pid);
    }
    let removed = lab::remove_all(name)?;
    let folder = folder(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("remove {}: {error}", folder.display()).into());
        }
        _ => {}
    }
    match removed.len() {
        0 => println!("lab {name} is gone"),
        count => println!("lab {name} is gone; {count} namespaces that it had left were removed"),
    }
    Ok(())
}

fn add_pod(name: &LabName, pod: &str, json: bool) -> Result<(), Failure> {
    let address = address(name)?;
    let netns = lab::add_pod(name, pod)?;
    let call = PluginCall { command: "ADD", pod, netns: Some(netns.path()) };
    let result = match address.call_plugin(&call) {
        Ok(result) => result,
        Err(error) => {
            drop(netns);
            if let Err(also) = lab::remove_pod(name, pod) {
                eprintln!("vpc-ipam: {}", chain(&also));
            }
            return Err(error.into());
        }
    };
    if json {
        println!("{result}");
    } else {
        let got = result["ips"][0]["address"].as_str().unwrap_or("no address");
        println!("{pod} has {got}; namespace {}", netns.path().display());
    }
    Ok(())
}

fn del_pod(name: &LabName, pod: &str) -> Result<(), Failure> {
    let netns = PathBuf::from("/run/netns").join(name.namespace(&Place::Pod(pod.to_string())));
    let netns = netns.exists().then_some(netns);
    address(name)?.call_plugin(&PluginCall { command: "DEL", pod, netns: netns.as_deref() })?;
    match netns {
        Some(_) => lab::remove_pod(name, pod)?,
        None => eprintln!("vpc-ipam: lab {name} has no pod {pod}"),
    }
    Ok(())
}

fn exec(name: &LabName, place: &str, command: &[String]) -> Result<ExitCode, Failure> {
    let place = match place {
        "node" => Place::Node,
        "host2" => Place::OtherHost,
        "internet" => Place::Internet,
        "router" => Place::Router,
        pod => Place::Pod(pod.to_string()),
    };
    let netns = Namespace::named(&name.namespace(&place)).map_err(|error| {
        format!("{}; is lab {name} up, and has it such a place?", chain(&error))
    })?;
    let [program, arguments @ ..] = command else { return Ok(ExitCode::SUCCESS) };
    let status = netns
        .run(|| Command::new(program).args(arguments).status())?
        .map_err(|error| format!("run {program}: {error}"))?;
    Ok(supervise::code(status))
}

fn address_file(name: &LabName) -> PathBuf {
    folder(name).join("lab.json")
}

fn address(name: &LabName) -> Result<LabAddress, Failure> {
    let file = address_file(name);
    let text = fs::read(&file).map_err(|error| not_up(name, &file, &error))?;
    Ok(serde_json::from_slice(&text)
        .map_err(|error| format!("read {}: {error}", file.display()))?)
}

fn not_up(name: &LabName, file: &Path, error: &std::io::Error) -> String {
    format!("lab {name} is not up: read {}: {error}; `vpc-ipam lab up` starts one", file.display())
}

/// Times for the demonstration, and the cool-down that goes with them unless the caller has another.
fn hurried(plan: &Plan) -> Plan {
    let mut plan = Plan { timing: Some(quick()), ..plan.clone() };
    let cooldown = "IP_COOLDOWN_PERIOD";
    if !plan.vars.iter().any(|(name, _)| name == cooldown) {
        plan.vars.push((cooldown.to_string(), "1".to_string()));
    }
    plan
}
