//! A daemon that starts where another program, or another user, left what should not be there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use vpc_ipam_core::PodKey;
use vpc_ipam_protocol::pending_release::{self, PendingRelease};

use crate::daemon::{Daemon, assigned, node};
use crate::runtime::{Pod, call, succeeded, wait_for_no_pods};

/// An ordinary user of most systems; any but root would do.
const ANOTHER_USER: u32 = 65534;

#[test]
fn what_is_no_note_of_ours_keeps_no_daemon_from_serving() {
    let node = node();
    let daemon = Daemon::start(&node);
    let (gone, stays) = (Pod::new(&node, "gone"), Pod::new(&node, "stays"));
    for pod in [&gone, &stays] {
        pod.add(&node.address);
    }
    daemon.crash();
    succeeded(&call(&node.address, "DEL", &gone, "1.0.0", None));

    // A pending release of the pod that stays, as another user would leave it, and by a link.
    let socket = &node.address.socket;
    let path = |name: &str| socket.with_file_name("deleted").join(name);
    let key = PodKey::new("aws-cni", "stays", "eth0").unwrap();
    let forged = serde_json::to_vec(&PendingRelease { key }).unwrap();
    fs::write(path("another-users"), &forged).unwrap();
    chown(path("another-users"), Some(ANOTHER_USER), None).unwrap();
    let elsewhere = socket.with_file_name("elsewhere");
    fs::write(&elsewhere, &forged).unwrap();
    symlink(&elsewhere, path("link")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    fifo(&path("fifo"));
    fs::write(path("long"), vec![b'['; 10 << 20]).unwrap();

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1, "the pod that was deleted is released, and no other");
    let found = pending_release::read(socket);
    assert_eq!((found.releases.len(), found.ignored.len()), (0, 5), "{found:?}");
    stays.del(&node.address);
    gone.die();
    stays.die();
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn state_file_that_is_none_of_ours_is_put_aside_and_pods_keep_their_addresses() {
    for kind in ["link", "fifo", "folder", "another user's"] {
        let node = node();
        let daemon = Daemon::start(&node);
        let old = Pod::new(&node, "old");
        let used = crate::runtime::address(&old.add(&node.address));
        daemon.crash();
        let state = node.address.socket.with_file_name("state.redb");
        let elsewhere = node.address.socket.with_file_name("elsewhere");
        fs::rename(&state, &elsewhere).unwrap();
        let before = fs::read(&elsewhere).unwrap();
        match kind {
            "link" => symlink(&elsewhere, &state).unwrap(),
            "fifo" => fifo(&state),
            "folder" => fs::create_dir(&state).unwrap(),
            _ => {
                fs::copy(&elsewhere, &state).unwrap();
                chown(&state, Some(ANOTHER_USER), None).unwrap();
            }
        }

        let daemon = Daemon::start(&node);

        let new = Pod::new(&node, "new");
        let given = crate::runtime::address(&new.add(&node.address));
        assert_ne!(given, used, "{kind}");
        assert_eq!(fs::read(&elsewhere).unwrap(), before, "{kind}: it was written to");
        let made = fs::symlink_metadata(&state).unwrap();
        assert!(made.is_file() && made.uid() == 0 && made.mode() & 0o777 == 0o600, "{kind}");
        for pod in [old, new] {
            pod.del(&node.address);
            pod.die();
        }
        wait_for_no_pods(&node);
        daemon.crash();
        node.stop().unwrap();
    }
}

#[test]
fn socket_in_a_folder_of_another_user_is_neither_listened_at_nor_asked() {
    let mut node = node();
    let folder = node.address.socket.with_file_name("another-users");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(ANOTHER_USER), None).unwrap();
    node.address.socket = folder.join("ipamd.sock");

    let said = Daemon::fail(&node);

    assert!(said.contains(&format!("belongs to user {ANOTHER_USER}")), "{said}");
    assert!(said.contains(folder.to_str().unwrap()), "{said}");
    node.stop().unwrap();
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}
