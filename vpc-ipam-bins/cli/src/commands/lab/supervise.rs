//! A lab is kept by a process of its own, so that another one removes what it leaves, however it ends.
//!
//! The program that the user starts only watches: it starts itself once more, for those who are not root within a user
//! namespace, and cleans up when that ends. The two hold the ends of a pipe, by which each learns of the other's end.

use std::env;
use std::fs;
use std::io::{self, Read as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::process::geteuid;
use tokio::signal::unix::{SignalKind, signal};
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName, LabNode};

use super::keeper::{Folder, Keeper};
use super::print::tell;
use super::user_namespace::{restart_in_own, restart_in_that_of};
use super::{ADDRESS, Failure, path};
use crate::lab::folder;

/// Names the lab that the inner process keeps.
const INNER: &str = "VPC_IPAM_LAB_INNER";

/// What this process is to do.
pub(super) enum Role {
    /// Keep the lab of this name.
    Inner(LabName),
    /// Nothing more: the inner process has ended.
    Done(ExitCode),
}

/// Returns what this process is to do. The outer process waits here until the inner one has ended.
pub(super) fn role(name: Option<&LabName>) -> Result<Role, Failure> {
    if let Ok(name) = env::var(INNER) {
        if !geteuid().is_root() {
            return Err(restart_in_own().into());
        }
        lab::requirements()?;
        return Ok(Role::Inner(name.parse()?));
    }
    let name = match name {
        Some(name) => name.clone(),
        None => format!("run{}", std::process::id()).parse()?,
    };
    let code = if geteuid().is_root() { watch_as_root(&name) } else { watch_as_user(&name) };
    code.map(Role::Done)
}

/// Root's labs are found by everyone: by the names of their namespaces.
fn watch_as_root(name: &LabName) -> Result<ExitCode, Failure> {
    // What is there is not ours to clean up.
    if Namespace::names()?.contains(&name.namespace(&LabNode::Router)) {
        return Err(there_already(name));
    }
    let status = watch(name, |_| Ok(()))?;
    let left = lab::remove_all(name)?;
    if !left.is_empty() {
        tell(None, format!("removed what was left: {}", left.join(", ")));
    }
    let _ = fs::remove_dir_all(folder(name));
    Ok(code(status))
}

/// Those of others are in a user namespace, and all of it goes with the last process there.
fn watch_as_user(name: &LabName) -> Result<ExitCode, Failure> {
    let folder = Folder::of_user()?;
    folder.sweep()?;
    let Some(mut held) = folder.hold(&name.to_string())? else { return Err(there_already(name)) };
    tell(None, "not root: building the lab in a user namespace".to_string());
    Ok(code(watch(name, |pid| held.name_keeper(pid))?))
}

fn there_already(name: &LabName) -> Failure {
    format!(
        "lab {name} is there already; use it, remove it with `vpc-ipam lab down --name {name}`, or take another name"
    )
    .into()
}

/// Starts the inner process and waits until it has ended.
fn watch(
    name: &LabName,
    started: impl FnOnce(u32) -> Result<(), Failure>,
) -> Result<ExitStatus, Failure> {
    let signals = signals()?;
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env("PATH", path())
        .env(INNER, name.to_string())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("start the lab's own process: {error}"))?;
    // The pipe ends when this process ends, however it does.
    let pipe = child.stdin.take();
    let started = started(child.id());
    let pipe = started.is_ok().then_some(pipe);
    // A signal reaches both where it comes from the terminal; otherwise the end of the pipe tells.
    thread::spawn(move || {
        let _ = signals.recv();
        drop(pipe);
    });
    let status = child.wait()?;
    started.map(|()| status)
}

/// Returns a channel on which a word comes, or which closes, when the lab is to be removed: a signal came, or the outer
/// process ended. With a name, the lab of that name is removed on the spot instead and the process ends.
pub(super) fn stop_requests(remove: Option<&LabName>) -> io::Result<Receiver<()>> {
    let (asked, requests) = channel();
    let by_signal = signals()?;
    let sender: Sender<()> = asked.clone();
    thread::spawn(move || {
        let _ = by_signal.recv();
        let _ = sender.send(());
    });
    thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = io::stdin().lock().read_to_end(&mut rest);
        let _ = asked.send(());
    });
    let Some(name) = remove.cloned() else { return Ok(requests) };
    let (never, forever) = channel();
    thread::spawn(move || {
        let _ = requests.recv();
        let removed = lab::remove_all(&name);
        let _ = fs::remove_dir_all(folder(&name));
        // Only then: who reads what we say may have stopped to.
        let said = match removed {
            Ok(_) => "stopped; the lab is removed".to_string(),
            Err(error) => format!("stopped; {}", error_chain(&error)),
        };
        tell(None, said);
        // As a shell reports a program that Ctrl-C ended.
        drop(never);
        std::process::exit(130);
    });
    Ok(forever)
}

/// Returns a channel on which a word comes when a signal asks this process to end.
fn signals() -> io::Result<Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut streams = {
        let _inside = runtime.enter();
        kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?
    };
    let (sender, receiver) = channel();
    thread::spawn(move || {
        runtime.block_on(async {
            let [a, b, c] = &mut streams[..] else { return };
            tokio::select! {
                _ = a.recv() => {}
                _ = b.recv() => {}
                _ = c.recv() => {}
            }
        });
        let _ = sender.send(());
    });
    Ok(receiver)
}

/// Goes on within the user namespace of the lab, if the lab is in one: then this returns only if that failed.
///
/// Root's labs never are, and root follows no file into a namespace.
pub(super) fn enter(name: &LabName) -> Result<(), Failure> {
    if geteuid().is_root() {
        return Ok(());
    }
    match Folder::of_user()?.keeper(&name.to_string())? {
        Some(keeper) => Err(restart_in_that_of(&keeper).into()),
        None if folder(name).exists() => {
            Err(format!("lab {name} is root's: run this as root").into())
        }
        None => Err(not_up(name)),
    }
}

/// Says that there is no such lab.
pub(super) fn not_up(name: &LabName) -> Failure {
    let named = match name.to_string().as_str() {
        "lab" => String::new(),
        other => format!(" --name {other}"),
    };
    format!("lab {name} is not up; `vpc-ipam lab up{named}` starts one").into()
}

/// Returns the process that keeps a lab.
pub(super) fn keeper(name: &LabName) -> Result<Option<Keeper>, Failure> {
    if !geteuid().is_root() {
        return Folder::of_user()?.keeper(&name.to_string());
    }
    let folder = folder(name);
    if folder.exists() { Folder::open(&folder)?.keeper(ADDRESS) } else { Ok(None) }
}

/// Returns how a command ended, as a shell does.
pub(super) fn code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;

    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
