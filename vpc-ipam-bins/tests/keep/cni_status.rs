//! STATUS, as a runtime asks for it.

use core::sync::atomic::Ordering;
use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use crate::call::Call;
use crate::daemon::{Daemon, api, node};
use crate::faulty::Faulty;
use crate::runtime::{failed, spec, start, succeeded, wait_until};

#[test]
fn status_is_fine_while_the_next_pod_would_get_an_address() {
    let node = start(&spec("m5.large"));
    let status = Call::new(&node.address, "STATUS", "1.1.0");
    wait_until("the node to be ready", || {
        let output = status.run(&node.address);
        if output.status.success() { Ok(output) } else { Err(format!("{output:?}")) }
    });

    let output = status.run(&node.address);

    succeeded(&output);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    let old = Call::new(&node.address, "STATUS", "1.0.0");
    assert_eq!(failed(&old.run(&node.address))["code"], 1);
    node.stop().unwrap();
}

#[test]
fn status_of_a_node_without_a_daemon_or_with_one_that_hangs_says_so() {
    let node = node();
    let status = Call::new(&node.address, "STATUS", "1.1.0");
    let says = |expected: &str| {
        // A program that another test is starting has a listener open too until it runs.
        wait_until("STATUS", || {
            let error = failed(&status.run(&node.address));
            assert_eq!(error["code"], 50, "{error}");
            let details = error["details"].as_str().unwrap();
            assert!(details.contains(node.address.socket.to_str().unwrap()), "{error}");
            if details.contains(expected) { Ok(()) } else { Err(error.to_string()) }
        });
    };
    says("there is no socket");

    let listener = UnixListener::bind(&node.address.socket).unwrap();
    says("no answer in 75 ms");
    drop(listener);
    says("nothing listens");
    fs::remove_file(&node.address.socket).unwrap();
    node.stop().unwrap();
}

#[test]
fn status_of_a_daemon_that_no_source_answers_says_why() {
    let node = node();
    Daemon::start(&node).crash();
    let cloud = Arc::new(Faulty::new((*api(&node)).clone()));
    cloud.ec2_hangs.store(true, Ordering::Relaxed);
    cloud.imds_is_away.store(true, Ordering::Relaxed);
    let daemon = Daemon::start_with(&node, cloud.clone());
    let status = Call::new(&node.address, "STATUS", "1.1.0");
    let says = |expected: &str| {
        wait_until("STATUS", || {
            let output = status.run(&node.address);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if said.contains(expected) { Ok(failed(&output)) } else { Err(format!("{output:?}")) }
        })
    };

    let error = says("since the daemon started");

    assert_eq!(error["code"], 50, "{error}");
    cloud.ec2_hangs.store(false, Ordering::Relaxed);
    cloud.imds_is_away.store(false, Ordering::Relaxed);
    wait_until("the node to be ready", || {
        let output = status.run(&node.address);
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
    daemon.crash();
    node.stop().unwrap();
}
