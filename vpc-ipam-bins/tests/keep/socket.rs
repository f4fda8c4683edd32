//! The daemon's socket: whose it is, what becomes of it, and callers that hang about.

use core::time::Duration;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use vpc_ipam::lab::LabNode;
use vpc_ipam_core::error_chain;
use vpc_ipamd::DaemonError;

use crate::daemon::{Daemon, api, daemon_as, node, runtime, try_status};
use crate::runtime::{Pod, spawn, succeeded, wait_until};

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|found| found.ino())
}

/// Returns why a second daemon of a node does not start.
fn second(node: &LabNode, state: &str) -> DaemonError {
    let never = core::future::pending();
    let state = node.address.socket.with_file_name(state);
    let second = daemon_as(node, api(node), never, |options| options.state = state);
    runtime().block_on(second).unwrap_err()
}

#[test]
fn second_daemon_names_the_first_and_touches_nothing() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    let socket = inode(&node.address.socket);

    // With the first one's state file, and with its own.
    for state in ["state.redb", "other.redb"] {
        let why = error_chain(&second(&node, state));
        let owner = format!("process {} (", std::process::id());
        assert!(why.contains("another daemon") && why.contains(&owner), "{state}: {why}");
        assert_eq!(inode(&node.address.socket), socket, "{state}");
    }
    assert!(!node.address.socket.with_file_name("other.redb").exists());
    try_status(&node).unwrap();

    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn socket_that_is_removed_or_replaced_is_made_again() {
    let node = node();
    let daemon = Daemon::start(&node);
    let socket = &node.address.socket;
    let folder = socket.parent().unwrap();
    let elsewhere = folder.with_extension("elsewhere");
    let remove = || fs::remove_file(socket).unwrap();
    // In one step: the daemon may make its own again between two.
    let beside = folder.join("beside");
    let by_socket = || {
        drop(UnixListener::bind(&beside).unwrap());
        fs::rename(&beside, socket).unwrap();
    };
    let by_file = || {
        fs::write(&beside, "mine").unwrap();
        fs::rename(&beside, socket).unwrap();
    };
    let by_rename = || fs::rename(socket, folder.join("ipamd.sock.old")).unwrap();
    let folder_moved = || fs::rename(folder, &elsewhere).unwrap();
    let cases: [(&str, &dyn Fn()); 5] = [
        ("removed", &remove),
        ("replaced by a socket", &by_socket),
        ("replaced by a file", &by_file),
        ("renamed", &by_rename),
        ("with its folder", &folder_moved),
    ];
    for (case, disturb) in cases {
        disturb();
        wait_until(case, || try_status(&node).map(drop));
    }
    let aside = fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> =
        aside.filter(|path| path.display().to_string().contains(".aside-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), "mine");
    // The right to it went along.
    assert!(matches!(second(&node, "other.redb"), DaemonError::Claim(_)));

    fs::rename(elsewhere.join("state.redb"), folder.join("state.redb")).unwrap();
    fs::remove_dir_all(&elsewhere).unwrap();
    daemon.crash();
    node.stop().unwrap();
}

/// More than the daemon keeps of those that ask nothing.
const IDLE: usize = 900;

#[test]
fn callers_that_ask_nothing_do_not_delay_an_add() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    let began = Instant::now();
    let mut idle: Vec<UnixStream> =
        (0..IDLE).map(|_| UnixStream::connect(&node.address.socket).unwrap()).collect();
    let mut adding = spawn(&node.address, "ADD", &pod);
    let ended = adding.wait().unwrap();
    assert!(ended.success(), "{ended}");
    // The first that came were dropped, and the last are still there: no ADD waited for their time to end.
    let mut byte = [0];
    assert_eq!(idle[0].read(&mut byte).unwrap(), 0, "the oldest made room");
    let last = idle.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let waits = last.read(&mut byte).is_err();
    assert!(waits || began.elapsed() > Duration::from_secs(5), "the newest stays");
    drop(idle);
    succeeded(&spawn(&node.address, "DEL", &pod).wait_with_output().unwrap());
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}
