//! A daemon that ends without a word, and what happens until there is another.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use vpc_ipam_aws::EmulatedEc2;
use vpc_ipam_bins::daemon::{self, DaemonError, Options};
use vpc_ipam_bins::lab::LabNode;
use vpc_ipam_bins::spool;
use vpc_ipam_bins::store::{self, Found, Store};
use vpc_ipam_core::{Budget, Config, KnownLimits, Lease, PodKey, Record, Timestamp};
use vpc_ipam_linux::HostConfig;

use crate::runtime::{
    Pod, address, call, failed, kept_of_pods, netns, plan, settled, start, status, succeeded,
    wait_for, wait_for_no_pods, wait_until,
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
    assert_eq!(notes(&node), 2);
    let left = kept_of_pods(&node);
    assert!(left.iter().filter(|line| line.starts_with("512:")).count() == 1, "{left:?}");
    // ADD needs somebody who knows which address is free.
    let error = failed(&call(&node.address, "ADD", &gone, "1.0.0", None));
    assert_eq!(error["code"], 11, "{error}");
    dead.die();

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1);
    assert_eq!(notes(&node), 0);
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
    let call = vpc_ipam_bins::lab::PluginCall { command: "DEL", pod: "a", netns: None };
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
    assert_eq!(notes(&node), 0);
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

    assert_eq!((assigned(&node), notes(&node)), (0, 0));
    pod.die();
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
            wait_until("an address that nobody uses any more", || {
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

/// A node whose daemon is one of the test's own.
pub(crate) fn node() -> LabNode {
    let mut plan = plan("m5.large");
    plan.daemon = false;
    start(&plan)
}

pub(crate) fn assigned(node: &LabNode) -> u32 {
    status(node).enis.iter().map(|eni| eni.assigned).sum()
}

fn notes(node: &LabNode) -> usize {
    spool::read(&node.address.socket).notes.len()
}

fn leave_note(node: &LabNode, container: &str) {
    let key = PodKey::new("aws-cni", container, "eth0").unwrap();
    spool::leave(&node.address.socket, &spool::Note { key }).unwrap();
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
            Record::Leased(Lease { since, ..lease })
        }
        other => other,
    });
    store.write(&ahead.collect::<Vec<_>>()).unwrap();
}

/// A daemon within this process that can be made to end at once: nothing is written, answered or removed any more.
pub(crate) struct Daemon {
    crash: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    state: PathBuf,
}

impl Daemon {
    pub(crate) fn start(node: &LabNode) -> Self {
        let (crash, crashed) = oneshot::channel();
        let run = daemon_of(node);
        let run = async {
            tokio::select! {
                _ = crashed => {}
                result = run => panic!("the daemon ended: {result:?}"),
            }
        };
        let state = node.address.socket.with_file_name("state.redb");
        let run = move || runtime().block_on(run);
        let daemon = Self { crash, thread: std::thread::spawn(run), state };
        let socket = &node.address.socket;
        wait_until("the daemon", || {
            use vpc_ipam_bins::protocol::{Answer, Request, ask};
            match ask(socket, &Request::Status) {
                // Ready it is before it has seen its ENIs: an ADD would wait for them.
                Ok(Answer::Status(status)) if status.ready && !status.enis.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        daemon
    }

    pub(crate) fn crash(self) {
        self.crash.send(()).unwrap();
        self.thread.join().unwrap();
        // The thread that writes ends after the one that it writes for, and the next daemon wants its file.
        File::open(self.state).unwrap().lock().unwrap();
    }

    /// Returns why a daemon does not start.
    pub(crate) fn fail(node: &LabNode) -> String {
        let error = runtime().block_on(daemon_of(node)).unwrap_err();
        vpc_ipam_bins::cni::chain(&error)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The daemon of a node, which runs until it is dropped.
fn daemon_of(node: &LabNode) -> impl Future<Output = Result<(), DaemonError>> + Send + 'static {
    let api = Arc::new(EmulatedEc2::new(node.cloud().clone(), node.address.instance_id));
    let vars = [("IP_COOLDOWN_PERIOD", "1")];
    let options = Options {
        config: Config::from_vars(vars).0,
        host_config: HostConfig::from_vars(vars).0,
        budget: Budget::default(),
        netns: netns(node),
        socket: node.address.socket.clone(),
        state: node.address.socket.with_file_name("state.redb"),
        boot: store::boot_id().unwrap(),
        adopt: true,
        limits: KnownLimits::default(),
        overrides: Vec::new(),
        labels: BTreeMap::new(),
    };
    daemon::run(options, api, None, core::future::pending())
}
