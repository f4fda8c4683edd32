use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;
use vpc_ipam_core::error_chain;

use super::*;

/// As amazon-vpc-cni-k8s left it on nodes, with other names.
const FOUND: &str = include_str!("../../../tests/migrate/ipam.json");

/// A folder with `ipam.json`, and others beside it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(folder.0.path().join(name), text).unwrap();
        }
        folder
    }

    fn base(&self) -> PathBuf {
        self.0.path().join("ipam.json")
    }

    fn read(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::read(&self.base())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn entry(container: &str, address: &str) -> Value {
    json!({
        "networkName": "aws-cni", "containerID": container, "ifName": "eth0", "ipv4": address,
        "allocationTimestamp": 1_752_549_225_000_000_000_u64, "metadata": {"k8sPodNamespace": "apps", "k8sPodName": container}
    })
}

fn file(allocations: &[Value]) -> String {
    json!({"version": VERSION, "allocations": allocations}).to_string()
}

#[test]
fn pods_of_a_node_are_read() {
    let checkpoint = Folder::with(&[("ipam.json", FOUND)]).read().unwrap();

    assert_eq!(checkpoint.problems, []);
    let [old, named, bare] = &checkpoint.entries[..] else { panic!("{checkpoint:?}") };
    assert!(old.is_of_container_alone() && !named.is_of_container_alone());
    assert_eq!(
        [old, named, bare].map(ToString::to_string),
        ["pod kube-system/coredns-0", "pod apps/zk-1", "container 043c7b65bf4c"]
    );
    assert_eq!(
        [old, named, bare].map(|it| it.addresses().map(|it| it.to_string()).collect::<String>()),
        ["10.0.12.15", "10.0.13.106", "10.0.13.107"]
    );
    assert_eq!(old.since, Timestamp::from_nanos(1_647_904_840_550_836_685));
    assert_eq!([old, named, bare].map(|it| it.interfaces), [None, Some(1), None]);
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let folder = Folder::with(&[("ipam.json", FOUND)]);
    let checkpoint = folder.read().unwrap();

    let there = Folder::with(&[("ipam.json", "what was there before")]);
    checkpoint.write(&there.base()).unwrap();

    let text = fs::read_to_string(there.base()).unwrap();
    let as_value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(as_value(&text), as_value(FOUND));
    // The keys stand in the order in which Go writes them, and on one line.
    assert!(text.starts_with(
        r#"{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"_migrated-from-cri","containerID":"#
    ));
    assert!(text.ends_with("\"metadata\":{}}]}\n") && text.lines().count() == 1, "{text}");
    assert_eq!(there.names(), ["ipam.json"]);
    assert_eq!(fs::metadata(there.base()).unwrap().permissions().mode() & 0o777, 0o600);
    let again = there.read().unwrap();
    assert_eq!(again.entries, checkpoint.entries);
}

#[test]
fn only_the_first_card_is_written_and_files_of_further_ones_stay() {
    let nic = file(&[entry("a", "10.1.0.7")]);
    let folder = Folder::with(&[
        ("ipam.json", &file(&[entry("a", "10.0.0.7")])),
        ("ipam-nic-1.json", &nic),
        ("ipam-nic-12.json", &file(&[entry("a", "10.12.0.7")])),
        // Not of a card.
        ("ipam-nic-0.json", "{"),
        ("ipam-nic-300.json", "{"),
        ("ipam-nic-1.json.tmp7", "{"),
        ("other-nic-1.json", "{"),
        ("ipam.json.tmp123", "{"),
    ]);

    let checkpoint = folder.read().unwrap();

    let by_card: Vec<_> = checkpoint.entries.iter().map(|it| (it.card, it.ipv4.unwrap())).collect();
    let address = |text: &str| text.parse().unwrap();
    assert_eq!(
        by_card,
        [(0, address("10.0.0.7")), (1, address("10.1.0.7")), (12, address("10.12.0.7"))]
    );
    assert_eq!((checkpoint.problems.len(), checkpoint.files.len()), (0, 3));
    checkpoint.write(&folder.base()).unwrap();
    assert_eq!(fs::read_to_string(folder.base()).unwrap().matches("10.").count(), 1);
    assert_eq!(fs::read_to_string(folder.0.path().join("ipam-nic-1.json")).unwrap(), nic);
}

#[test]
fn a_file_that_is_not_there_is_an_empty_checkpoint() {
    assert_eq!(Folder::with(&[]).read().unwrap(), Checkpoint::default());
    let missing = Path::new("/nowhere/aws-node/ipam.json");
    assert_eq!(Checkpoint::read(missing).unwrap(), Checkpoint::default());
}

/// As Go reads it: what is `null` or missing is empty, and keys that it does not know are passed over.
#[test]
fn forms_that_amazon_vpc_cni_k8s_reads_are_read() {
    let plain = entry("a", "10.0.0.7");
    let changed = |change: fn(&mut Value)| {
        let mut entry = plain.clone();
        change(&mut entry);
        file(&[entry])
    };
    let cases = [
        ("no allocations", json!({"version": VERSION}).to_string(), 0),
        ("null", json!({"version": VERSION, "allocations": null}).to_string(), 0),
        ("metadata null", changed(|it| it["metadata"] = Value::Null), 1),
        ("no metadata", changed(|it| drop(it.as_object_mut().unwrap().remove("metadata"))), 1),
        ("names null", changed(|it| it["metadata"] = json!({"k8sPodName": null})), 1),
        ("no time", changed(|it| it["allocationTimestamp"] = Value::Null), 1),
        ("time of jq", changed(|it| it["allocationTimestamp"] = json!(1.752_549_225e18)), 1),
        ("time before all", changed(|it| it["allocationTimestamp"] = json!(-7)), 1),
        ("unknown keys", changed(|it| it["ipv4Prefix"] = json!({"a": [1]})), 1),
        ("no ipv6", changed(|it| it["ipv6"] = json!("")), 1),
        ("both", changed(|it| it["ipv6"] = json!("2001:db8::7")), 1),
        ("byte order mark", format!("\u{feff}{}", file(core::slice::from_ref(&plain))), 1),
        ("more behind", format!("{}\n{{\"torn", file(core::slice::from_ref(&plain))), 1),
        (
            "a key twice",
            format!("{{\"version\":1,{}", &file(core::slice::from_ref(&plain))[1..]),
            1,
        ),
    ];
    for (name, text, entries) in cases {
        let checkpoint = Folder::with(&[("ipam.json", &text)]).read().unwrap();
        assert_eq!((checkpoint.entries.len(), checkpoint.problems.len()), (entries, 0), "{name}");
    }
    let of_both = changed(|it| it["ipv6"] = json!("2001:db8::7"));
    let read = Folder::with(&[("ipam.json", &of_both)]).read().unwrap();
    assert_eq!(read.entries[0].addresses().count(), 2);
}

#[test]
fn entries_that_name_no_pod_or_no_address_are_reported_and_others_are_read() {
    let changed = |key: &str, value: Value| {
        let mut entry = entry("a", "10.0.0.7");
        entry[key] = value;
        entry
    };
    let cases = [
        (json!(7), "is none: invalid type"),
        (Value::Null, "is none: invalid type"),
        (json!({}), "is none: it has no networkName"),
        (changed("containerID", json!("")), "it has no containerID"),
        (changed("ifName", Value::Null), "it has no ifName"),
        (changed("networkName", json!(["x"])), "is none: invalid type"),
        (changed("ipv4", Value::Null), "no address of a pod: neither ipv4 nor ipv6"),
        (changed("ipv4", json!("10.0.0.256")), "no address of a pod: \"10.0.0.256\""),
        (changed("ipv4", json!("10.0.0.7/32")), "no address of a pod"),
        (changed("ipv4", json!("2001:db8::7")), "no address of a pod"),
        (changed("ipv6", json!("10.0.0.7")), "no address of a pod"),
        (changed("ipv6", json!("fe80::7")), "no address of a pod"),
        (changed("ipv4", json!("0.0.0.0")), "no address of a pod"),
        (changed("ipv4", json!("127.0.0.1")), "no address of a pod"),
        (changed("ipv4", json!("169.254.1.1")), "no address of a pod"),
        (changed("ipv4", json!("224.0.0.1")), "no address of a pod"),
        (changed("ipv4", json!("255.255.255.255")), "no address of a pod"),
    ];
    for (broken, expected) in cases {
        let text = file(&[entry("b", "10.0.0.8"), broken.clone(), entry("c", "10.0.0.9")]);
        let checkpoint = Folder::with(&[("ipam.json", &text)]).read().unwrap();
        assert_eq!(checkpoint.entries.len(), 2, "{broken}");
        let said: Vec<String> = checkpoint.problems.iter().map(ToString::to_string).collect();
        let [said] = &said[..] else { panic!("{broken}: {said:?}") };
        assert!(said.starts_with("entry 1 of /") && said.contains(expected), "{broken}: {said}");
    }
}

#[test]
fn addresses_and_pods_that_are_there_twice_are_told_apart() {
    let migrated = |container: &str, address: &str| {
        let mut entry = entry(container, address);
        entry["networkName"] = json!(MIGRATED_NETWORK);
        entry["ifName"] = json!(UNKNOWN_IFNAME);
        entry
    };
    let second_interface = |container: &str, address: &str| {
        let mut entry = entry(container, address);
        entry["ifName"] = json!("eth1");
        entry
    };
    // Entries of card 0 and of card 1, how many remain, and what is said.
    let (a7, a8, b7) = (entry("a", "10.0.0.7"), entry("a", "10.0.0.8"), entry("b", "10.0.0.7"));
    let cases: [(&[Value], &[Value], usize, &[&str]); 9] = [
        (&[a7.clone(), a7.clone()], &[], 1, &["the entry of pod apps/a is there twice"]),
        (core::slice::from_ref(&a7), core::slice::from_ref(&a7), 1, &["is there twice"]),
        (&[migrated("a", "10.0.0.7"), a7.clone()], &[], 1, &["is there twice"]),
        (&[a7.clone(), migrated("a", "10.0.0.7")], &[], 1, &["is there twice"]),
        (&[a7.clone(), b7.clone()], &[], 2, &["10.0.0.7 is that of pod apps/a and of pod apps/b"]),
        (core::slice::from_ref(&a7), core::slice::from_ref(&b7), 2, &["10.0.0.7 is that of"]),
        (
            &[a7.clone(), a8.clone()],
            &[],
            2,
            &["has two addresses on one network card, 10.0.0.7 and"],
        ),
        (core::slice::from_ref(&a7), core::slice::from_ref(&a8), 2, &[]),
        (&[a7.clone(), second_interface("a", "10.0.0.8")], &[], 2, &[]),
    ];
    for (first, second, entries, expected) in cases {
        let folder =
            Folder::with(&[("ipam.json", &file(first)), ("ipam-nic-1.json", &file(second))]);
        let checkpoint = folder.read().unwrap();
        let said: Vec<String> = checkpoint.problems.iter().map(ToString::to_string).collect();
        assert_eq!(checkpoint.entries.len(), entries, "{first:?} {second:?}");
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said} without {expected}");
        }
        assert!(entries == 2 || !checkpoint.entries[0].is_of_container_alone());
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_an_error_that_says_what_it_is() {
    let long = "x".repeat(usize::try_from(BYTES_MAX).unwrap() + 1);
    let of = |version: Value| json!({"version": version, "allocations": []}).to_string();
    let cases = [
        ("", "ipam.json: EOF while parsing a value at line 1 column 0"),
        ("\u{feff}", "EOF while parsing"),
        ("not JSON", "expected ident"),
        ("{\"version\":\"vpc-cni-ipam/1\",\"alloc", "EOF while parsing"),
        ("[]", "invalid length 0"),
        ("null", "invalid type: null"),
        ("\0\0\0\0", "expected value"),
        ("{}", "is of version \"\", and this program knows \"vpc-cni-ipam/1\""),
        (&of(json!("vpc-cni-ipam/2")), "is of version \"vpc-cni-ipam/2\""),
        (&of(json!(null)), "is of version \"\""),
        (&of(json!(1)), "invalid type"),
        (&long, "is longer than the 16777216 bytes"),
    ];
    for (text, expected) in cases {
        for name in ["ipam.json", "ipam-nic-1.json"] {
            let error = error_chain(&Folder::with(&[(name, text)]).read().unwrap_err());
            let text = text.get(..40).unwrap_or(text);
            let expected = expected.replace("ipam.json", name);
            assert!(error.contains(&expected), "{name} {text:?}: {error}");
        }
    }
}

#[test]
fn only_a_regular_file_is_read() {
    let folder = Folder::with(&[("elsewhere.json", &file(&[entry("a", "10.0.0.7")]))]);
    symlink(folder.0.path().join("elsewhere.json"), folder.base()).unwrap();
    let error = error_chain(&folder.read().unwrap_err());
    assert!(error.contains("is a symbolic link"), "{error}");

    fs::remove_file(folder.base()).unwrap();
    fs::create_dir(folder.base()).unwrap();
    let error = error_chain(&folder.read().unwrap_err());
    assert!(error.contains("is a folder"), "{error}");
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let folder = Folder::with(&[("ipam.json", "before")]);
    let path = folder.0.path().join("missing/ipam.json");
    let error = error_chain(&Checkpoint::default().write(&path).unwrap_err());
    assert!(
        error.starts_with("write the checkpoint ") && error.contains("No such file"),
        "{error}"
    );

    let folder = Folder::with(&[]);
    fs::create_dir(folder.base()).unwrap();
    Checkpoint::default().write(&folder.base()).unwrap_err();
    assert_eq!(folder.names(), ["ipam.json"], "no temporary file is left");
}
