//! What an earlier version stored or said is read by this one.
//!
//! `stored/` has files of earlier commits: the state file of a daemon that was killed, and what a plugin and a daemon said to
//! each other. Add one when the form changes; never change one that is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use vpc_ipam_core::{CardChoice, Record, Timestamp};
use vpc_ipam_protocol::{Answer, Assign, Refusal, Request};
use vpc_ipamd::store::{Found, OpenError, Store};

/// The boot of the kernel under which the state file was written.
const BOOT: &str = "1f088f4f-f3ca-48df-a1b4-c798066b5d48";
/// A moment after the last pod in it was added.
const THEN: Timestamp = Timestamp::from_secs(1_795_610_865);

#[test]
fn state_file_of_e405b97_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy_of(folder.path(), "state-e405b97.redb");
    let (mut store, found) = Store::open(&path, BOOT, THEN).unwrap();
    let Found::Records(records) = found else { panic!("{found:?}") };
    let mut pods = Vec::new();
    let mut released = Vec::new();
    for record in &records {
        match record {
            Record::Leased(lease) => {
                assert_eq!(lease.key.network(), "aws-cni");
                let address = lease.first.ipv4.unwrap().to_string();
                pods.push((lease.pod.name.as_str(), address));
                assert!(lease.since <= THEN && THEN.since(lease.since) < Duration::from_secs(60));
            }
            Record::Released { addresses, at, .. } => {
                assert!(*at <= THEN);
                released.extend(addresses.iter().map(ToString::to_string));
            }
        }
    }
    pods.sort_unstable();
    let expected =
        [("a", "10.0.2.31"), ("c", "10.0.5.91"), ("d", "10.0.13.244"), ("e", "10.0.15.223")];
    assert_eq!(pods, expected.map(|(pod, address)| (pod, address.to_string())));
    released.sort_unstable();
    assert_eq!(released, ["10.0.2.158", "10.0.20.167"]);

    // What is written to it is read again beside what was there.
    let gone = records.iter().find_map(|record| match record {
        Record::Leased(lease) => Some(Record::released(lease, THEN)),
        Record::Released { .. } => None,
    });
    store.write(&[gone.unwrap()]).unwrap();
    drop(store);
    let (_, found) = Store::open(&path, BOOT, THEN).unwrap();
    let Found::Records(records) = found else { panic!("{found:?}") };
    assert_eq!(records.iter().filter(|it| matches!(it, Record::Leased(_))).count(), 3);
}

#[test]
fn state_file_of_another_version_is_refused_by_its_version_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    {
        let meta = redb::TableDefinition::<&str, &str>::new("meta");
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("format", "vpc-ipam/7").unwrap();
        transaction.commit().unwrap();
    }
    let before = fs::read(&path).unwrap();
    match Store::open(&path, BOOT, THEN) {
        Err(error @ OpenError::UnknownVersion { .. }) => {
            let message = error.to_string();
            assert!(message.contains("vpc-ipam/7") && message.contains("vpc-ipam/1"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap().len(), before.len());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was put aside");
}

#[derive(Deserialize)]
struct Exchange {
    request: Request,
    answer: Answer,
}

#[test]
fn exchange_of_e405b97_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored");
    let lines = fs::read_to_string(folder.join("exchange-e405b97.jsonl")).unwrap();
    let exchanges: Vec<Exchange> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exchanges.len(), 10);
    let Request::Assign(Assign { request, sandbox: None, of: None }) = &exchanges[0].request else {
        panic!("the first is an ADD, of a plugin that does not say where the namespace is")
    };
    assert_eq!((request.key.container(), request.cards), ("c0ffee", CardChoice::Any));
    let Answer::Lease { lease, links, .. } = &exchanges[0].answer else {
        panic!("it got an address")
    };
    assert_eq!(lease.first.ipv4, Some([10, 0, 20, 167].into()));
    assert_eq!((links.veth_prefix.as_str(), links.mtu), ("eni", 9001));
    let Answer::Refused(Refusal { details, .. }) = &exchanges[1].answer else {
        panic!("it was refused")
    };
    assert!(details.contains("ENABLE_MULTI_NIC"), "{details}");
    let Answer::Status(status) = &exchanges[4].answer else { panic!("the fifth is a status") };
    assert_eq!((status.ready, status.enis.len()), (true, 2));
    assert_eq!(exchanges[9].answer, Answer::Unknown);
}

fn copy_of(folder: &Path, name: &str) -> std::path::PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored").join(name);
    let to = folder.join("state.redb");
    fs::copy(from, &to).unwrap();
    to
}
