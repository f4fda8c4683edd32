//! What a daemon records, replayed.

use std::process::Command;

use vpc_ipam_core::journal::{Input, Replay};
use vpc_ipam_tests::program;
use vpc_ipamd::journal::{self, Begins};

use crate::daemon::{Daemon, assigned, node};
use crate::runtime::{Pod, address, wait_until};

#[test]
fn journal_of_a_daemon_that_ended_without_a_word_leads_to_the_pods_it_had() {
    let node = node();
    let folder = node.address.socket.with_file_name("journal");
    let daemon = Daemon::start(&node);
    let (stays, goes) = (Pod::new(&node, "stays"), Pod::new(&node, "goes"));
    let kept = address(&stays.add(&node.address));
    goes.add(&node.address);
    goes.del(&node.address);
    daemon.crash();

    // The thread that writes ends after the daemon.
    let replayed = || -> Result<Replay, String> {
        let mut segments = journal::read(&folder).map_err(|error| error.to_string())?;
        assert_eq!(segments.len(), 1);
        let segment = segments.remove(0).map_err(|error| error.to_string())?;
        let mut replay = Replay::from_snapshot(&segment.head.snapshot);
        let released = segment.steps.iter().any(|step| matches!(step.input, Input::Release(_)));
        for step in segment.steps {
            let _ = replay.step(step).unwrap();
        }
        let names: Vec<String> =
            replay.ipam().pool().leases().map(|lease| lease.pod.name.clone()).collect();
        if names == ["stays"] && released { Ok(replay) } else { Err(format!("{names:?}")) }
    };
    let replay = wait_until("the journal", replayed);
    let lease = replay.ipam().pool().leases().next().unwrap();
    assert_eq!(lease.pod.name, "stays");
    assert_eq!(lease.addresses().next().unwrap().to_string(), kept);

    // The next daemon begins with what the state file has, in a segment of its own.
    let daemon = Daemon::start(&node);
    assert_eq!(assigned(&node), 1);
    stays.del(&node.address);
    daemon.crash();
    let segments = wait_until("the second segment", || {
        let segments = journal::read(&folder).map_err(|error| error.to_string())?;
        let segments: Result<Vec<_>, _> = segments.into_iter().collect();
        let segments = segments.map_err(|error| error.to_string())?;
        if segments.len() == 2 { Ok(segments) } else { Err(format!("{} segments", segments.len())) }
    });
    let begins: Vec<Begins> = segments.iter().map(|it| it.head.begins).collect();
    assert_eq!(begins, [Begins::Started, Begins::Started]);

    let output = Command::new(program("vpc-ipam")).arg("replay").arg(&folder).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("ADD of default/stays (aws-cni/stays/eth0)"), "{text}");
    assert!(text.contains(&format!("grants aws-cni/stays/eth0 {kept} on eni-")), "{text}");
    assert!(text.contains("restore 2 records"), "{text}");
    stays.die();
    goes.die();
    node.stop().unwrap();
}
