//! How a daemon starts while EC2 or the metadata service does not answer, and how it stops while it starts.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use vpc_ipam::lab::LabNode;
use vpc_ipam_core::{Mac, Timestamp};
use vpc_ipamd::DaemonError;
use vpc_ipamd::store::{self, Known, Store};

use crate::daemon::{Daemon, api, assigned, daemon_of, node, runtime};
use crate::faulty::Faulty;
use crate::runtime::{Pod, address, call, spawn, status, succeeded, wait_for_no_pods, wait_until};

#[test]
fn pods_of_before_are_served_at_once_and_new_ones_wait_while_no_source_answers() {
    let node = node();
    let daemon = Daemon::start(&node);
    let [stays, goes, new] = ["stays", "goes", "new"].map(|name| Pod::new(&node, name));
    let (told, gone) = (stays.add(&node.address), goes.add(&node.address));
    daemon.crash();
    let cloud = faulty(&node);
    cloud.ec2_hangs.store(true, Ordering::Relaxed);
    cloud.imds_is_away.store(true, Ordering::Relaxed);

    let daemon = Daemon::start_with(&node, cloud.clone());

    let mut waiting = spawn(&node.address, "ADD", &new);
    succeeded(&call(&node.address, "CHECK", &stays, "1.0.0", Some(&told)));
    assert_eq!(stays.add(&node.address), told, "ADD is repeated");
    goes.del(&node.address);
    let said = status(&node);
    assert!(!said.ready, "{said:?}");
    for expected in
        ["metadata cannot be read: metadata instance-id: connection refused", "new ones wait"]
    {
        let told = || said.problems.iter().any(|problem| problem.contains(expected));
        assert!(told(), "{expected:?} is not in {:?}", said.problems);
    }
    assert_eq!(waiting.try_wait().unwrap(), None, "a new pod waits");

    cloud.imds_is_away.store(false, Ordering::Relaxed);
    cloud.ec2_hangs.store(false, Ordering::Relaxed);
    let given = address(&succeeded(&waiting.wait_with_output().unwrap()));
    assert_ne!(given, address(&told));
    assert_ne!(given, address(&gone), "it is cooling");
    wait_until("the daemon to be ready without problems", || {
        let status = status(&node);
        let well = status.ready && status.problems.is_empty();
        if well { Ok(()) } else { Err(format!("{status:?}")) }
    });
    for pod in [stays, goes, new] {
        pod.del(&node.address);
        pod.die();
    }
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn ec2_alone_is_enough_to_serve_and_the_metadata_are_asked_for_until_they_are_read() {
    let node = node();
    Daemon::start(&node).crash();
    let cloud = faulty(&node);
    cloud.imds_is_away.store(true, Ordering::Relaxed);

    let daemon = Daemon::start_with(&node, cloud.clone());

    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    let said = status(&node);
    assert!(said.ready && said.problems.len() == 1, "{said:?}");
    assert!(said.problems[0].contains("metadata cannot be read"), "{said:?}");
    let asked = cloud.imds_asked.load(Ordering::Relaxed);
    wait_until("another question", || match cloud.imds_asked.load(Ordering::Relaxed) {
        now if now > asked => Ok(()),
        now => Err(format!("{now} after {asked}")),
    });
    cloud.imds_is_away.store(false, Ordering::Relaxed);
    wait_until("the metadata", || match status(&node).problems {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn ec2_without_the_primary_eni_is_named_in_the_status_until_it_lists_it() {
    let node = node();
    let cloud = faulty(&node);
    cloud.ec2_is_anothers.store(true, Ordering::Relaxed);

    let daemon = Daemon::start_with(&node, cloud.clone());

    let said = wait_until("the problem", || match status(&node).problems {
        problems if problems.len() == 1 => Ok(problems),
        problems => Err(format!("{problems:?}")),
    });
    let primary = node
        .cloud()
        .with(|cloud, now| cloud.metadata(node.address.instance_id, now).unwrap().node.primary);
    for expected in [primary.as_str(), "another account", "region or endpoint"] {
        assert!(said[0].contains(expected), "{expected} is not in {said:?}");
    }
    cloud.ec2_is_anothers.store(false, Ordering::Relaxed);
    // Its link changes, so that the node asks again at once.
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    wait_until("the problem to go", || match status(&node).problems {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn eni_that_the_metadata_do_not_tell_whole_is_named_in_the_status_and_serves() {
    let node = node();
    let daemon = Daemon::start(&node);
    // With a pod on the first, another is kept warm.
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    let second = wait_until("a second ENI", || {
        let status = status(&node);
        let second = status.enis.iter().find(|eni| eni.device != 0 && eni.addresses > 0);
        second.map(|eni| eni.id.clone()).ok_or_else(|| format!("{status:?}"))
    });
    daemon.crash();
    let second = second.parse().unwrap();
    let withhold = |name| node.cloud().with(|cloud, _| cloud.withhold_metadata(second, name));
    withhold(Some("device-number"));

    let daemon = Daemon::start(&node);

    let said = wait_until("the problem", || match status(&node).problems {
        problems if problems.len() == 1 => Ok(problems),
        problems => Err(format!("{problems:?}")),
    });
    let mac = node.cloud().with(|cloud, _| cloud.interface(&second).unwrap().mac);
    let expected = format!("lists the ENI {mac} without device-number");
    assert!(said[0].contains(&expected), "{expected} is not in {said:?}");
    let there = status(&node).enis.iter().any(|eni| eni.id == second.to_string());
    assert!(there, "{:?}", status(&node));
    daemon.crash();
    withhold(None);
    let daemon = Daemon::start(&node);
    wait_until("no problem", || match status(&node).problems {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn start_ends_when_it_is_told_to_stop_whatever_it_waits_for() {
    for hangs in [true, false] {
        let node = node();
        let cloud = faulty(&node);
        cloud.imds_hangs.store(hangs, Ordering::Relaxed);
        cloud.imds_is_away.store(!hangs, Ordering::Relaxed);
        let (asked, api) = (cloud.clone(), cloud.clone());
        let stop = async move {
            while asked.imds_asked.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };

        // Without the stop it ends with an error after its tries, or not at all.
        let ended = runtime().block_on(daemon_of(&node, api, stop));

        assert!(matches!(ended, Ok(())), "hangs {hangs}: {ended:?}");
        assert_eq!(cloud.imds_asked.load(Ordering::Relaxed), 1, "hangs {hangs}");
        assert!(!node.address.socket.exists());
        node.stop().unwrap();
    }
}

#[test]
fn what_was_told_of_another_node_is_not_gone_by_for_long() {
    let node = node();
    Daemon::start(&node).crash();
    remember(&node, |known| known.metadata.node.instance = "i-0123456789abcdef0".parse().unwrap());

    let never = core::future::pending();
    let ended = runtime().block_on(daemon_of(&node, api(&node), never));

    let Err(DaemonError::OtherNode { before, now }) = ended else { panic!("{ended:?}") };
    assert!(before.contains("i-0123456789abcdef0"), "{before}");
    assert!(now.contains(node.address.instance_id.as_str()), "{now}");
    let daemon = Daemon::start(&node);
    assert_eq!(status(&node).instance, node.address.instance_id.to_string());
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn what_was_told_of_the_node_and_does_not_fit_it_is_asked_for_again() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    daemon.crash();
    // No link has this address.
    remember(&node, |known| known.metadata.observation.enis[0].mac = Mac([2, 9, 9, 9, 9, 9]));

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1);
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

pub(crate) fn faulty(node: &LabNode) -> Arc<Faulty> {
    Arc::new(Faulty::new((*api(node)).clone()))
}

/// Changes what the state file keeps of the node.
fn remember(node: &LabNode, change: impl FnOnce(&mut Known)) {
    let path = node.address.socket.with_file_name("state.redb");
    let boot = store::boot_id().unwrap();
    let (mut store, _) = Store::open(&path, &boot, Timestamp::EPOCH).unwrap();
    let mut known = store.known().unwrap().expect("a daemon has been told of its node");
    change(&mut known);
    store.remember(&known).unwrap();
}

#[test]
fn add_that_comes_while_no_daemon_runs_is_served_by_the_next() {
    let node = node();
    let socket = &node.address.socket;
    Daemon::start(&node).crash();
    // Left by the daemon that was killed, and then none at all.
    for name in ["left", "none"] {
        let pod = Pod::new(&node, name);
        if name == "none" {
            std::fs::remove_file(socket).unwrap();
        }
        let mut adding = spawn(&node.address, "ADD", &pod);
        std::thread::sleep(core::time::Duration::from_millis(300));
        assert_eq!(adding.try_wait().unwrap(), None, "{name}");

        let daemon = Daemon::start(&node);

        succeeded(&adding.wait_with_output().unwrap());
        assert_eq!(assigned(&node), 1, "{name}");
        pod.del(&node.address);
        pod.die();
        daemon.crash();
    }
    node.stop().unwrap();
}

#[test]
fn add_that_waits_while_its_daemon_stops_is_served_by_the_next() {
    let node = node();
    Daemon::start(&node).crash();
    let cloud = faulty(&node);
    cloud.ec2_hangs.store(true, Ordering::Relaxed);
    cloud.imds_is_away.store(true, Ordering::Relaxed);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let first = daemon_of(&node, cloud, async { drop(stopped.await) });
    let first = std::thread::spawn(move || runtime().block_on(first));
    wait_until("the daemon", || crate::daemon::try_status(&node).map(drop));
    let pod = Pod::new(&node, "a");
    let mut adding = spawn(&node.address, "ADD", &pod);
    wait_until("the ADD", || match status(&node).waiting {
        1 => Ok(()),
        other => Err(format!("{other} wait")),
    });

    stop.send(()).unwrap();
    first.join().unwrap().unwrap();
    assert_eq!(adding.try_wait().unwrap(), None);
    let daemon = Daemon::start(&node);

    succeeded(&adding.wait_with_output().unwrap());
    assert_eq!(assigned(&node), 1);
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

/// Each address of the primary ENI was released an hour from now, as it looks after the clock was set back. None but these can be
/// had.
#[test]
fn clock_that_was_set_back_over_restarts_does_not_prolong_cooldowns() {
    let node = node();
    Daemon::start(&node).crash();
    let cloud = node.cloud().with(|cloud, now| cloud.metadata(node.address.instance_id, now));
    let shown = cloud.unwrap().observation.enis;
    let addresses: Vec<_> =
        shown.iter().flat_map(|eni| &eni.blocks).map(|block| block.addr()).collect();
    assert!(!addresses.is_empty());
    let ahead = vpc_ipamd::Clock::start().now() + core::time::Duration::from_secs(3600);
    let path = node.address.socket.with_file_name("state.redb");
    let (mut store, _) = Store::open(&path, &store::boot_id().unwrap(), ahead).unwrap();
    let key = vpc_ipam_core::PodKey::new("aws-cni", "gone", "eth0").unwrap();
    store.write(&[vpc_ipam_core::Record::Released { key, addresses, at: ahead }]).unwrap();
    drop(store);

    // Several starts: none begins the cooldown anew.
    for _ in 0..3 {
        Daemon::start_as(&node, no_growth).crash();
    }
    let cooled = vpc_ipamd::Clock::start().now();
    let (_, found) = Store::open(&path, &store::boot_id().unwrap(), cooled).unwrap();
    let store::Found::Records(records) = found else { panic!("{found:?}") };
    for record in &records {
        let vpc_ipam_core::Record::Released { at, .. } = record else { panic!("{record:?}") };
        assert!(*at <= cooled, "{record:?}");
    }
    let daemon = Daemon::start_as(&node, no_growth);
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

fn no_growth(options: &mut vpc_ipamd::Options) {
    options.config = options.config.clone().with_provisioning(false);
}
