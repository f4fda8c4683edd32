//! A lab is kept by a process of its own, so that whatever happens to it, somebody removes what it leaves.
//!
//! The program that the user starts only watches: it starts itself once more, for those who are not root within a user
//! namespace, and cleans up when that ends. The two hold the ends of a pipe, by which each learns of the other's end.

use std::env;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName, Place};

use super::Failure;
use crate::cni::chain;
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
        return Ok(Role::Inner(name.parse()?));
    }
    let name = match name {
        Some(name) => name.clone(),
        None => format!("run{}", std::process::id()).parse()?,
    };
    let in_user_namespace = match lab::requirements() {
        Ok(()) => false,
        Err(unmet) if unmet.is_met_in_a_user_namespace() => true,
        Err(unmet) => return Err(unmet.into()),
    };
    watch(&name, in_user_namespace).map(Role::Done)
}

fn watch(name: &LabName, in_user_namespace: bool) -> Result<ExitCode, Failure> {
    // What is there is not ours to clean up.
    let router = name.namespace(&Place::Router);
    if Namespace::names()?.contains(&router) || pointer(name).exists() {
        return Err(format!(
            "lab {name} is there already; use it, remove it with `vpc-ipam lab down --name {name}`, or take another name"
        )
        .into());
    }
    let mut command = inner(in_user_namespace)?;
    let mut child = command
        .env(INNER, name.to_string())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("start the lab's own process: {error}"))?;
    // The pipe ends when this process ends, however it does.
    let pipe = child.stdin.take();
    let pointer = in_user_namespace.then(|| pointer(name));
    if let Some(pointer) = &pointer {
        fs::write(pointer, child.id().to_string())?;
    }
    // A signal reaches both where it comes from the terminal; otherwise the end of the pipe tells.
    let signals = signals()?;
    thread::spawn(move || {
        let _ = signals.recv();
        drop(pipe);
    });
    let status = child.wait()?;
    match pointer {
        // Its namespaces went with the user namespace.
        Some(pointer) => {
            let _ = fs::remove_file(pointer);
            if !status.success() {
                explain(status);
            }
        }
        None => {
            let left = lab::remove_all(name)?;
            if !left.is_empty() {
                eprintln!("vpc-ipam: removed what was left: {}", left.join(", "));
            }
            let _ = fs::remove_dir_all(folder(name));
        }
    }
    Ok(code(status))
}

fn inner(in_user_namespace: bool) -> Result<Command, Failure> {
    let program = env::current_exe()?;
    // Without root, what configures networks is often not in PATH.
    let path = env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin");
    let mut command = if in_user_namespace {
        eprintln!("vpc-ipam: not root: building the lab in a user namespace");
        let mut command = Command::new("unshare");
        // The lab names its namespaces below /run, which has to be its own for that.
        let script = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
        command.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", script]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(env::args_os().skip(1)).env("PATH", path);
    Ok(command)
}

/// Says what may be the matter when the inner process failed without being able to say it.
fn explain(status: ExitStatus) {
    if status.code() == Some(1)
        && fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|n| n.trim() == "0")
    {
        eprintln!("vpc-ipam: this system allows no user namespaces: run it as root");
    }
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
        eprintln!("vpc-ipam: stopped; removing the lab");
        if let Err(error) = lab::remove_all(&name) {
            eprintln!("vpc-ipam: {}", chain(&error));
        }
        let _ = fs::remove_dir_all(folder(&name));
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

/// Where the outer process of somebody who is not root says which process keeps a lab.
fn pointer(name: &LabName) -> PathBuf {
    let user = env::var("USER").unwrap_or_else(|_| "user".to_string());
    env::temp_dir().join(format!("vpc-ipam-lab-{user}-{name}.pid"))
}

/// Runs this command again within the user namespace of a lab, if the lab is in one. Returns how it ended.
pub(super) fn enter(name: &LabName) -> Option<ExitCode> {
    if folder(name).exists() {
        return None;
    }
    let pid = fs::read_to_string(pointer(name)).ok()?;
    let program = env::current_exe().ok()?;
    let status = Command::new("nsenter")
        .args(["--target", pid.trim(), "--user", "--mount", "--net", "--preserve-credentials"])
        .arg(program)
        .args(env::args_os().skip(1))
        .status();
    match status {
        Ok(status) => Some(code(status)),
        Err(error) => {
            eprintln!("vpc-ipam: run nsenter: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Asks the process that keeps a lab to end, and waits until it has.
pub(super) fn end(pid: u32) {
    let alive = || PathBuf::from(format!("/proc/{pid}")).exists();
    if !alive() {
        return;
    }
    let _ = Command::new("kill").arg(pid.to_string()).status();
    for _ in 0..100 {
        if !alive() {
            return;
        }
        thread::sleep(core::time::Duration::from_millis(100));
    }
}

/// Returns how a command ended, as a shell does.
pub(super) fn code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;

    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
