//! What the node has before anything is changed, in a folder for root alone.

use std::fs;
use std::path::Path;

use vpc_ipam_linux::AwsCniNat;
use vpc_ipam_protocol::trusted_file;

use super::{Context, Options, Step, StepError, is_installed, output_of};
use crate::migrate::conflist::Conflists;
use crate::migrate::durable;
use crate::migrate::running::RunningPods;
use crate::migrate::{Checkpoint, Paths};

pub(super) const STEP: Step = Step { name: "back up", commands, run };

pub(in crate::migrate) const PODS: &str = "pods.json";
pub(super) const CONFLISTS: &str = "net.d";
const CHECKPOINTS: &str = "checkpoint";
/// The table of nftables in which amazon-vpc-cni-k8s marks connections.
pub(super) const NFT_TABLE: &str = "nft-aws-cni.txt";

/// What is listed of the kernel: the file, and the command.
const LISTS: [(&str, &str, &[&str]); 7] = [
    ("rule.txt", "ip", &["-d", "rule", "show"]),
    ("rule-6.txt", "ip", &["-6", "-d", "rule", "show"]),
    ("route.txt", "ip", &["-d", "route", "show", "table", "all"]),
    ("route-6.txt", "ip", &["-6", "-d", "route", "show", "table", "all"]),
    ("link.txt", "ip", &["-d", "link", "show"]),
    ("address.txt", "ip", &["-d", "address", "show"]),
    ("nft.txt", "nft", &["list", "ruleset"]),
];

/// The programs that list iptables, of both kinds and families; each prints nothing where the kernel has no such tables.
pub(in crate::migrate) const IPTABLES: [&str; 6] = [
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
    // Where they have no other name.
    "iptables",
    "ip6tables",
];

fn commands(options: &Options) -> Vec<String> {
    let Paths { cni_conf, checkpoint, folder, .. } = &options.paths;
    let folder = folder.join("to-TIME");
    let folder = folder.display();
    let copy = [cni_conf, checkpoint].map(|path| format!("cp -r {} {folder}", path.display()));
    let lists = LISTS.iter().map(|(file, program, arguments)| {
        format!("{program} {} > {folder}/{file}", arguments.join(" "))
    });
    let saved = IPTABLES.iter().map(|it| format!("{it}-save > {folder}/{it}.txt"));
    copy.into_iter().chain(lists).chain(saved).collect()
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let folder = context.run_folder();
    trusted_file::folder(&folder).map_err(|error| StepError::failed("make the backup", &error))?;
    let write = |name: &str, text: &[u8]| durable::write(&folder.join(name), text, 0o600);
    for (file, program, arguments) in LISTS {
        // Without nft there are no tables of its own either.
        if program != "nft" || is_installed(program) {
            write(file, &output_of(program, arguments, None)?)?;
        }
    }
    for program in IPTABLES {
        if let Some(text) = saved_by(program)? {
            write(&format!("{program}.txt"), text.as_bytes())?;
        }
    }
    save_translation(context, &folder)?;
    let conflists = save_conflists(context, &folder)?;
    let checkpoint = context.options.paths.at(&context.options.paths.checkpoint);
    let saved = Checkpoint::read(&checkpoint)?;
    make(&folder.join(CHECKPOINTS))?;
    for file in &saved.files {
        let name = file.file_name().unwrap_or_default();
        if let Some(text) = durable::read(file)? {
            durable::write(&folder.join(CHECKPOINTS).join(name), &text, 0o600)?;
        }
    }
    let pods = RunningPods::look(&mut context.netlink()?)?;
    write(PODS, &serde_json::to_vec_pretty(&pods)?)?;
    context.journal.backup_is(&folder)?;
    Ok(format!(
        "{} network configurations, {} entries of the checkpoint and {} pods in {}",
        conflists,
        saved.entries.len(),
        pods.0.len(),
        folder.display()
    ))
}

/// Saves what there is of the address translation of amazon-vpc-cni-k8s, or what an earlier backup has of it where there is none: on a node
/// that was moved once it may be gone.
fn save_translation(context: &Context<'_>, folder: &Path) -> Result<(), StepError> {
    let mut found = Vec::new();
    for program in IPTABLES {
        let saved = durable::read(&folder.join(format!("{program}.txt")))?.unwrap_or_default();
        if !AwsCniNat::restoration(&String::from_utf8_lossy(&saved), "").is_empty() {
            found.push((chains_of(program), saved));
        }
    }
    if let Ok(table) = output_of("nft", &["list", "table", "ip", "aws-cni"], None) {
        found.push((NFT_TABLE.to_owned(), table));
    }
    if let Some(earlier) = context.backup().filter(|_| found.is_empty()) {
        let names = IPTABLES.map(chains_of).into_iter().chain([NFT_TABLE.to_owned()]);
        for name in names {
            found.extend(durable::read(&earlier.join(&name))?.map(|text| (name, text)));
        }
    }
    for (name, text) in found {
        durable::write(&folder.join(name), &text, 0o600)?;
    }
    Ok(())
}

/// Returns the file with what a program of iptables saved of the chains of amazon-vpc-cni-k8s.
pub(super) fn chains_of(program: &str) -> String {
    format!("chains-{program}.txt")
}

/// Copies the runtime's configurations. That of amazon-vpc-cni-k8s may be in the last backup alone, where an earlier run was stopped.
fn save_conflists(context: &Context<'_>, folder: &Path) -> Result<usize, StepError> {
    let to = folder.join(CONFLISTS);
    make(&to)?;
    let there = Conflists::read(&context.cni_conf())?;
    let earlier = match context.backup().filter(|_| there.old().is_none()) {
        Some(backup) => Conflists::read(&backup.join(CONFLISTS))?,
        None => Conflists::default(),
    };
    let mut count = 0;
    for conflist in there.all_old().chain(there.all_ours()).chain(earlier.all_old()) {
        if let Some(text) = durable::read(&conflist.path)? {
            durable::write(&to.join(conflist.file()), &text, 0o600)?;
            count += 1;
        }
    }
    Ok(count)
}

fn make(folder: &Path) -> Result<(), StepError> {
    trusted_file::folder(folder).map_err(|error| StepError::failed("make the backup", &error))
}

/// Returns what a program of iptables saves; `None` where it is not installed, or the kernel does not have what it lists.
pub(in crate::migrate) fn saved_by(program: &str) -> Result<Option<String>, StepError> {
    let save = format!("{program}-save");
    let Ok(version) = output_of(&save, &["--version"], None) else { return Ok(None) };
    let is_legacy = !String::from_utf8_lossy(&version).contains("nf_tables");
    let ipv6 = program.starts_with("ip6");
    // The legacy kind makes the tables that it lists, so it lists those alone that are there.
    let names = if ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
    let there = || fs::read_to_string(format!("/proc/thread-self/net/{names}"));
    if is_legacy && !there().is_ok_and(|there| !there.trim().is_empty()) {
        return Ok(None);
    }
    match output_of(&save, &[], None) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        // A kernel without IPv6.
        Err(_) if ipv6 => Ok(None),
        Err(error) => Err(error),
    }
}
