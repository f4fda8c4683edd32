//! The program `vpc-ipam`.

mod capacity;
mod doctor;
mod lab;
mod migrate;
mod net;
mod node;
mod replay;
mod shell;
mod support;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::one_line::OneLine;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; nothing differs
  1  failed, and standard error says why; `status`: not ready; `pods`, `explain`, `release`: no such pod; `net`, `replay`:
     something differs; `doctor`: there is a failure; `lab run`: a check failed;
     `migrate check`: that could not be told
  2  the arguments are wrong; the daemon cannot be asked; `net`, `replay`: what differs cannot be told
  3  `doctor`, `migrate check`: there are warnings, and no failure
  4  `migrate`: refused, and nothing was changed
  5  `migrate`: the node is half-way, and standard error says what to do
  `lab exec` exits as the command does that it ran";

/// Address management of AWS nodes: what this node has and does, what types hold, how many pods fit, and a VPC in a box to try it in.
#[derive(Debug, Parser)]
#[command(name = "vpc-ipam", version, about, max_term_width = 100, after_help = EXIT_CODES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// A comment on a variant would take the place of the longer one on its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    Status(node::StatusArgs),
    Pods(node::PodsArgs),
    Explain(node::ExplainArgs),
    Plan(node::PlanArgs),
    Events(node::EventsArgs),
    Watch(node::WatchArgs),
    Release(node::ReleaseArgs),
    /// Show what instance types hold: ENIs, addresses, network cards
    Limits(capacity::LimitsArgs),
    /// Show how many pods an instance type takes, and what keeps it from taking more
    MaxPods(capacity::MaxPodsArgs),
    /// Show how many addresses a node takes out of its subnets: at boot, with pods, at worst
    // The name of before, for one release.
    #[command(alias = "claim")]
    Footprint(capacity::FootprintArgs),
    /// Write what limits and max-pods say of every type as JSON and CSV, for tools in other languages
    CapacityData(capacity::DataArgs),
    Net(net::NetArgs),
    Doctor(doctor::DoctorArgs),
    Migrate(migrate::MigrateArgs),
    Replay(replay::ReplayArgs),
    Support(support::SupportArgs),
    /// Run a VPC, a node and pods on this machine, without AWS and Kubernetes
    Lab(lab::LabArgs),
    /// Print what makes a shell complete commands, options and their values
    Completions(shell::CompletionsArgs),
    /// Write the manual, a page a command
    Man(shell::ManArgs),
}

/// What a command can end with, besides success.
type Failure = Box<dyn core::error::Error>;

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Status(args) => return node::exit_code(node::status(&args)),
        Command::Pods(args) => return node::exit_code(node::pods(&args)),
        Command::Explain(args) => return node::exit_code(node::explain(&args)),
        Command::Plan(args) => return node::exit_code(node::plan(&args)),
        Command::Events(args) => return node::exit_code(node::events(&args)),
        Command::Watch(args) => return node::exit_code(node::watch(&args)),
        Command::Release(args) => return node::exit_code(node::release(&args)),
        Command::Limits(args) => capacity::limits(&args),
        Command::MaxPods(args) => capacity::max_pods(&args),
        Command::Footprint(args) => capacity::footprint(&args),
        Command::CapacityData(args) => capacity::data(&args),
        Command::Net(args) => return net::main(&args),
        Command::Doctor(args) => return doctor::main(&args),
        Command::Migrate(args) => return migrate::main(&args),
        Command::Replay(args) => return replay::main(&args),
        Command::Support(args) => return support::main(args),
        Command::Lab(args) => return lab::main(args),
        Command::Completions(args) => shell::completions(&args, Args::command()),
        Command::Man(args) => shell::man(&args, Args::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vpc-ipam: {}", OneLine(error_chain(&*failure)));
            ExitCode::FAILURE
        }
    }
}

/// A reader that closes early, as `head` does, has what it wants.
fn unless_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_of_each_command_that_looks_at_a_node_says_how_it_exits() {
        let mut all = Args::command();
        all.build();
        let migrate = all.find_subcommand("migrate").unwrap().get_subcommands();
        let own = [
            "limits",
            "max-pods",
            "footprint",
            "capacity-data",
            "migrate",
            "lab",
            "completions",
            "man",
            "help",
        ];
        let of_nodes = all.get_subcommands().filter(|it| !own.contains(&it.get_name()));
        for command in of_nodes.chain(migrate.filter(|it| it.get_name() != "help")) {
            let text = command.clone().render_long_help().to_string();
            let says = text.contains("Exits with") || text.contains("Exit codes:");
            assert!(says, "{}: {text}", command.get_name());
        }
    }
}
