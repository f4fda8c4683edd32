//! A daemon that ends without a word, and what happens until there is another.

use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use vpc_ipam::lab::LabNode;
use vpc_ipam_core::{PodKey, Record, Timestamp};
use vpc_ipam_protocol::pending_release;
use vpc_ipam_protocol::{Request, ask};
use vpc_ipamd::store::{self, Found, Store};

use crate::daemon::{Daemon, assigned, node};
use crate::runtime::{
    Pod, address, call, failed, kept_of_pods, netns, settled, succeeded, wait_for,
    wait_for_no_pods, wait_until,
};

#[test]
fn pods_are_deleted_while_there_is_no_daemon_and_nothing_leaks() {
    let node = node();
    let daemon = Daemon::start(&node);
    let (gone, dead, stays) =
        (Pod::new(&node, "gone"), Pod::new(&node, "dead"), Pod::new(&node, "stays"));
    for pod in [&gone, &dead, &stays] {
        pod.add(&node.address);
    }
    daemon.crash();

    for _ in 0..2 {
        succeeded(&call(&node.address, "DEL", &gone, "1.0.0", None));
        succeeded(&call(&node.address, "DEL", &dead, "0.3.1", None));
    }
    assert_eq!(pending_releases(&node), 2);
    let left = kept_of_pods(&node);
    assert!(left.iter().filter(|line| line.starts_with("512:")).count() == 1, "{left:?}");
    // ADD needs the daemon, which knows what address is free.
    let error = failed(&call(&node.address, "ADD", &gone, "1.0.0", None));
    assert_eq!(error["code"], 11, "{error}");
    dead.die();

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1);
    assert_eq!(pending_releases(&node), 0);
    // The next crash finds nothing to do again; not even for a pod that came back.
    gone.add(&node.address);
    daemon.crash();
    let daemon = Daemon::start(&node);
    assert_eq!(assigned(&node), 2);

    gone.del(&node.address);
    stays.del(&node.address);
    gone.die();
    stays.die();
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

/// As by SIGKILL before its first or its second answer, or within it.
#[test]
fn pod_is_deleted_though_the_daemon_ends_before_it_has_answered() {
    let cases: [&[&str]; 3] = [&[""], &["\"unknown\"", ""], &["{\"lease\":{"]];
    for answers in cases {
        let node = node();
        let daemon = Daemon::start(&node);
        let pod = Pod::new(&node, "a");
        pod.add(&node.address);
        daemon.crash();
        let socket = node.address.socket.clone();
        std::fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let answering = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });

        let output = call(&node.address, "DEL", &pod, "1.0.0", None);

        answering.join().unwrap();
        assert!(output.status.success(), "{answers:?}: {output:?}");
        assert_eq!(pending_releases(&node), 1, "{answers:?}");
        let daemon = Daemon::start(&node);
        assert_eq!((assigned(&node), pending_releases(&node)), (0, 0), "{answers:?}");
        pod.die();
        wait_for_no_pods(&node);
        daemon.crash();
        node.stop().unwrap();
    }
}

#[test]
fn pod_whose_namespace_is_gone_is_deleted_without_a_daemon() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    daemon.crash();
    pod.die();
    wait_until("the route of the pod to go with its link", || match kept_of_pods(&node) {
        left if left.len() == 1 => Ok(()),
        left => Err(format!("{left:?}")),
    });
    // There is no link left that would tell which rules were the pod's.
    let call = vpc_ipam::lab::PluginCall::del("a", None);
    node.address.call_plugin(&call).unwrap();

    let daemon = Daemon::start(&node);

    wait_for_no_pods(&node);
    assert_eq!(assigned(&node), 0);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn note_about_an_earlier_pod_does_not_take_the_address_of_a_later_one() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    // As a plugin leaves it that dies before it asks again.
    leave_note(&node, "a");
    let given = address(&pod.add(&node.address));
    assert_eq!(pending_releases(&node), 0);
    daemon.crash();

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1);
    assert_eq!(address(&pod.add(&node.address)), given);
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

/// The wall clock may be set back between an ADD and a DEL without a daemon.
#[test]
fn note_holds_however_young_the_lease_looks() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    daemon.crash();
    set_leases_ahead(&node);

    succeeded(&call(&node.address, "DEL", &pod, "1.0.0", None));
    let daemon = Daemon::start(&node);

    assert_eq!((assigned(&node), pending_releases(&node)), (0, 0));
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

/// DEL takes two steps, and the daemon that hears of the second knows nothing of the first: it takes the pod for damaged.
#[test]
fn nothing_is_left_of_a_pod_that_is_removed_across_a_restart() {
    let node = node();
    let daemon = Daemon::start(&node);
    let (gone, stays) = (Pod::new(&node, "gone"), Pod::new(&node, "stays"));
    stays.add(&node.address);
    let before = settled(&node);
    let first = address(&gone.add(&node.address));
    let key = PodKey::new("aws-cni", "gone", "eth0").unwrap();
    ask(&node.address.socket, &Request::Leave(key.clone())).unwrap();
    // As the plugin does then.
    for removal in [format!("ip rule del pref 512 to {first}"), format!("ip route del {first}")] {
        crate::runtime::run(&netns(&node), &removal);
    }
    daemon.crash();
    let daemon = Daemon::start(&node);
    wait_until("the repair", || match kept_of_pods(&node) {
        kept if kept.iter().any(|line| line.contains(&first)) => Ok(()),
        kept => Err(format!("{kept:?}")),
    });

    ask(&node.address.socket, &Request::Release(key)).unwrap();

    wait_for(&node, "what was brought back", &before);
    assert_eq!(crate::runtime::run(&gone.netns, "ip -o link").lines().count(), 1);
    assert_eq!(assigned(&node), 1);
    gone.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn damage_from_before_is_repaired_at_the_start() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    let before = settled(&node);
    daemon.crash();
    for damage in ["ip rule del pref 512", "ip rule del pref 1024", "nft flush ruleset"] {
        crate::runtime::run(&netns(&node), damage);
    }

    let daemon = Daemon::start(&node);

    wait_for(&node, "what was damaged", &before);
    daemon.crash();
    node.stop().unwrap();
}

/// Whether the state file is damaged or gone, no address of a running pod is given to another.
#[test]
fn addresses_of_pods_that_only_the_kernel_knows_are_kept_for_them() {
    for damage in [true, false] {
        let node = node();
        let daemon = Daemon::start(&node);
        let old: Vec<Pod> = (0..12).map(|n| Pod::new(&node, &format!("old{n}"))).collect();
        let used: Vec<String> = old.iter().map(|pod| address(&pod.add(&node.address))).collect();
        let before = kept_of_pods(&node);
        daemon.crash();
        let state = node.address.socket.with_file_name("state.redb");
        std::fs::remove_file(&state).unwrap();
        if damage {
            std::fs::write(&state, "spoilt").unwrap();
        }

        let daemon = Daemon::start(&node);
        let new: Vec<Pod> = (0..12).map(|n| Pod::new(&node, &format!("new{n}"))).collect();
        let given: Vec<String> = new.iter().map(|pod| address(&pod.add(&node.address))).collect();

        assert!(given.iter().all(|address| !used.contains(address)), "{given:?} of {used:?}");
        let after = kept_of_pods(&node);
        assert!(before.iter().all(|line| after.contains(line)), "{before:#?}\nbecame\n{after:#?}");

        // Once its pod is gone, an address is anybody's.
        for pod in old {
            pod.del(&node.address);
            pod.die();
        }
        let last: Vec<Pod> = (0..8).map(|n| Pod::new(&node, &format!("last{n}"))).collect();
        for pod in &last {
            wait_until("an address that no pod uses any more", || {
                let output = call(&node.address, "ADD", pod, "1.0.0", None);
                if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
            });
        }
        for pod in new.into_iter().chain(last) {
            pod.del(&node.address);
            pod.die();
        }
        wait_for_no_pods(&node);
        daemon.crash();
        node.stop().unwrap();
    }
}

fn pending_releases(node: &LabNode) -> usize {
    pending_release::read(&node.address.socket).releases.len()
}

fn leave_note(node: &LabNode, container: &str) {
    let key = PodKey::new("aws-cni", container, "eth0").unwrap();
    pending_release::leave(&node.address.socket, &pending_release::PendingRelease { key }).unwrap();
}

/// Makes leases as an hour in the future.
fn set_leases_ahead(node: &LabNode) {
    let path = node.address.socket.with_file_name("state.redb");
    let boot = store::boot_id().unwrap();
    // The thread that writes it ends a moment after the daemon.
    let (mut store, found) = wait_until("the state file", || {
        Store::open(&path, &boot, Timestamp::EPOCH).map_err(|error| error.to_string())
    });
    let Found::Records(records) = found else { panic!("{found:?}") };
    let ahead = records.into_iter().map(|record| match record {
        Record::Leased(lease) => {
            let since = lease.since + Duration::from_secs(3600);
            Record::Leased(lease.with_since(since))
        }
        other => other,
    });
    store.write(&ahead.collect::<Vec<_>>()).unwrap();
}
