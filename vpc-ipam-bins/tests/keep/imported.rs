//! Pods of amazon-vpc-cni-k8s that get leases of the addresses that they have.

use core::net::IpAddr;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use vpc_ipam::lab::LabNode;
use vpc_ipam_core::{PodKey, Timestamp};
use vpc_ipam_protocol::{Answer, ImportOutcome, PodImport, Request, ask};
use vpc_ipam_tests::flows::Flows;
use vpc_ipam_tests::old_node::OldNode;
use vpc_ipam_tests::program;

use crate::adopted::{OldPod, fill, free_addresses, node_with_old_pods};
use crate::call::Call;
use crate::daemon::{Daemon, assigned, node};
use crate::migration_proof::{LULL, modes, nothing_is_lost, start_ours};
use crate::old_node::pods_with_a_port;
use crate::runtime::{
    Pod, address, call, failed, kept, net, netns, run, succeeded, wait_for_no_pods, wait_until,
};
use crate::start::faulty;

/// Writes a checkpoint of pods, as amazon-vpc-cni-k8s does.
fn checkpoint(entries: &[Value]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipam.json");
    let text = json!({"version": "vpc-cni-ipam/1", "allocations": entries});
    fs::write(&path, text.to_string()).unwrap();
    (folder, path)
}

fn entry(container: &str, address: IpAddr) -> Value {
    json!({
        "networkName": "aws-cni",
        "containerID": container,
        "ifName": "eth0",
        "ipv4": address,
        "allocationTimestamp": 1752549225000000000_u64,
        "metadata": {"k8sPodNamespace": "apps", "k8sPodName": container, "interfacesCount": 1},
    })
}

fn entry_of(old: &OldPod) -> Value {
    entry(&old.pod.name, old.address)
}

/// What the old plugin told the runtime when it made the pod.
fn old_result(old: &OldPod, table: &str, device: &str) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "interfaces": [
            {"name": old.link},
            {"name": "eth0", "sandbox": old.pod.path, "mac": table},
            {"name": "dummy0000000000a", "mac": "0", "sandbox": device},
        ],
        "ips": [{"version": "4", "interface": 1, "address": format!("{}/32", old.address)}],
        "dns": {},
    })
}

fn import_with(node: &LabNode, path: &Path, arguments: &[&str]) -> Output {
    import_command(node, path, arguments).output().unwrap()
}

fn import_command(node: &LabNode, path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("vpc-ipam"));
    command.args(["migrate", "import"]).args(arguments);
    command.arg("--socket").arg(&node.address.socket).arg(path);
    command
}

/// Imports pods, and returns what was printed of each.
fn import(node: &LabNode, entries: &[Value]) -> (Vec<String>, Option<i32>) {
    let (_folder, path) = checkpoint(entries);
    let output = import_with(node, &path, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(str::to_owned).collect(), output.status.code())
}

fn import_all(node: &LabNode, pods: &[OldPod]) {
    let (lines, code) = import(node, &pods.iter().map(entry_of).collect::<Vec<_>>());
    assert_eq!(code, Some(0), "{lines:?}");
}

/// Waits until the node is as the daemon wants it.
fn wait_until_clean(node: &LabNode) {
    wait_until("a clean diff", || {
        let output = net(node, &["diff"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    });
}

fn die_all(pods: impl IntoIterator<Item = (Pod, IpAddr)>, node: &LabNode) {
    for (pod, _) in pods {
        pod.del(&node.address);
        pod.die();
    }
}

/// Returns what the node has of pods. A route that leads the same way serves as well, whichever program made it.
fn of_pods(node: &LabNode, pods: &[OldPod]) -> Vec<String> {
    let of_pod = |line: &String| {
        let has =
            |old: &OldPod| line.contains(&format!("{} ", old.address)) || line.contains(&old.link);
        pods.iter().any(has)
    };
    let lines = kept(node).into_iter().filter(of_pod);
    lines.map(|line| line.replace(" proto 86", "").trim_end().to_owned()).collect()
}

fn wait_for_pods(node: &LabNode, pods: &[OldPod], what: &str, before: &[String]) {
    wait_until(what, || {
        let after = of_pods(node, pods);
        if after == before { Ok(()) } else { Err(format!("{after:#?} instead of {before:#?}")) }
    });
}

#[test]
fn imported_pod_is_as_any_other_until_its_del() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let macs = |node: &LabNode| {
        pods.iter()
            .map(|old| {
                run(&netns(node), &format!("ip -o link show {}", old.link))
                    .split("link/ether ")
                    .nth(1)
                    .unwrap()[..17]
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    let before = macs(&node);

    let (lines, code) = import(&node, &pods.iter().map(entry_of).collect::<Vec<_>>());

    let expected = |word: &str| -> Vec<String> {
        pods.iter().map(|old| format!("{word} apps/{0} {1}", old.pod.name, old.address)).collect()
    };
    assert_eq!((lines, code), (expected("imported"), Some(0)));
    let (lines, code) = import(&node, &pods.iter().map(entry_of).collect::<Vec<_>>());
    assert_eq!((lines, code), (expected("already there"), Some(0)));
    assert_eq!(assigned(&node), 2);
    wait_until_clean(&node);
    let shown = shown(&node, &["pods"]);
    for old in &pods {
        let row = shown.lines().find(|line| line.contains(&old.pod.name)).unwrap();
        assert!(row.contains(&old.address.to_string()) && row.ends_with(&old.link), "{row}");
    }
    // The rules have been relabelled, and each is there once.
    let rules = run(&netns(&node), "ip -d rule show pref 512");
    assert!(
        rules.lines().count() == 2 && rules.lines().all(|it| it.contains("proto 86")),
        "{rules}"
    );

    let before_damage = of_pods(&node, &pods);
    for damage in damages(&pods) {
        run(&netns(&node), &damage);
        wait_for_pods(&node, &pods, &damage, &before_damage);
    }
    daemon.crash();
    let second = &pods[1];
    run(&netns(&node), &format!("ip rule del pref 1536 from {}", second.address));
    run(&netns(&node), &format!("ip link set {} down", second.link));
    let daemon = Daemon::start(&node);
    wait_for_pods(&node, &pods, "a start", &before_damage);
    assert_eq!((assigned(&node), macs(&node)), (2, before.clone()));
    wait_until_clean(&node);

    for (old, (table, device)) in pods.iter().zip([("254", "0"), ("2", "1")]) {
        let result = old_result(old, table, device);
        for version in ["0.4.0", "1.0.0"] {
            succeeded(&call(&node.address, "CHECK", &old.pod, version, Some(&result)));
        }
        // A runtime that asks for it again hears what it has, and the pod runs on.
        let told = succeeded(&call(&node.address, "ADD", &old.pod, "1.0.0", None));
        assert_eq!(address(&told), old.address.to_string());
    }
    assert_eq!(macs(&node), before);
    wait_for_pods(&node, &pods, "ADD again", &before_damage);

    let used: BTreeSet<IpAddr> = pods.iter().map(|old| old.address).collect();
    let new = fill(&node);
    assert!(new.iter().all(|(_, address)| !used.contains(address)), "{used:?}: {new:?}");
    for (old, (table, device)) in pods.iter().zip([("254", "0"), ("2", "1")]) {
        let result = old_result(old, table, device);
        for _ in 0..2 {
            succeeded(&call(&node.address, "DEL", &old.pod, "0.4.0", Some(&result)));
        }
        assert!(!run(&old.pod.netns, "ip -o link").contains("eth0"), "{}", old.pod.name);
        let left = kept(&node);
        let of_pod = |line: &&String| line.contains(&format!("{} ", old.address));
        assert_eq!(left.iter().find(of_pod), None);
        let gone = failed(&call(&node.address, "CHECK", &old.pod, "0.4.0", Some(&result)));
        assert_eq!(gone["code"], 3, "{gone}");
    }
    // The addresses are free again, once they cooled down.
    let mut again = BTreeSet::new();
    let mut last = Vec::new();
    wait_until("the addresses of the deleted pods", || {
        for (pod, address) in fill_more(&node, last.len()) {
            again.insert(address);
            last.push((pod, address));
        }
        if again == used { Ok(()) } else { Err(format!("{again:?}")) }
    });
    die_all(new.into_iter().chain(last), &node);
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

/// Adds pods until the node has no address any more.
fn fill_more(node: &LabNode, from: usize) -> Vec<(Pod, IpAddr)> {
    let pod = Pod::new(node, &format!("more{from}"));
    let output = call(&node.address, "ADD", &pod, "1.0.0", None);
    if !output.status.success() {
        pod.die();
        return Vec::new();
    }
    let given = address(&succeeded(&output)).parse().unwrap();
    vec![(pod, given)]
}

fn damages(pods: &[OldPod]) -> Vec<String> {
    let (first, second) = (&pods[0], &pods[1]);
    vec![
        format!("ip route del {}", second.address),
        format!("ip rule del pref 512 to {}", second.address),
        format!("ip rule del pref 1536 from {}", second.address),
        format!("ip link set {} down", first.link),
        format!("ip link set {} down", second.link),
        format!("ip route replace blackhole {}", first.address),
    ]
}

fn shown(node: &LabNode, arguments: &[&str]) -> String {
    let output = Command::new(program("vpc-ipam"))
        .args(arguments)
        .arg("--socket")
        .arg(&node.address.socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn entry_that_cannot_be_imported_is_skipped_with_the_reason() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let ours = Pod::new(&node, "ours");
    let given: IpAddr = address(&ours.add(&node.address)).parse().unwrap();
    let no_link = free_addresses(&node)[0];
    let elsewhere: IpAddr = "192.0.2.1".parse().unwrap();
    let far = OldPod::add(&node, 5, "10.0.30.77".parse().unwrap(), None);
    let entries = [
        entry_of(&pods[0]),
        entry("same", pods[0].address),
        entry("linkless", no_link),
        entry("elsewhere", elsewhere),
        entry("theirs", given),
        entry("ours", pods[1].address),
        entry(&far.pod.name, far.address),
    ];
    wait_until("the link of the last", || {
        let (lines, code) = import(&node, &entries[6..]);
        assert_eq!(code, Some(1), "{lines:?}");
        if lines[0].contains("no ENI") { Ok(()) } else { Err(lines[0].clone()) }
    });

    let (lines, code) = import(&node, &entries);

    assert_eq!(code, Some(1), "{lines:?}");
    let expected = [
        format!("imported apps/{} {}", pods[0].pod.name, pods[0].address),
        format!(
            "skipped apps/same {0}: {0} is held by aws-cni/{1}/eth0",
            pods[0].address, pods[0].pod.name
        ),
        format!(
            "skipped apps/linkless {no_link}: no link of a pod leads to {no_link}: its pod is gone"
        ),
        format!(
            "skipped apps/elsewhere {elsewhere}: no link of a pod leads to {elsewhere}: its pod is gone"
        ),
        format!("skipped apps/theirs {given}: {given} is held by aws-cni/ours/eth0"),
        format!("skipped apps/ours {}: a pod of the same key holds {given}", pods[1].address),
        format!("skipped apps/{} {1}: no ENI of the node holds {1}", far.pod.name, far.address),
    ];
    assert_eq!(lines, expected);
    let (_folder, path) = checkpoint(&entries[..3]);
    let output = import_with(&node, &path, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows[0]["outcome"], "already_there", "{rows}");
    assert_eq!((&rows[2]["outcome"], &rows[2]["name"]), (&json!("skipped"), &json!("linkless")));
    assert!(rows[2]["why"].as_str().unwrap().contains("its pod is gone"), "{rows}");
    // The second keeps its address all the same.
    let used = [pods[1].address, far.address, given];
    let new = fill(&node);
    assert!(new.iter().all(|(_, address)| !used.contains(address)), "{used:?}: {new:?}");

    let missing = import_with(&node, Path::new("/nonexistent/ipam.json"), &[]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    daemon.crash();
    let output = import_with(&node, &path, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is vpc-ipamd running?"),
        "{output:?}"
    );
    node.stop().unwrap();
}

/// Entries of versions up to 1.7 name the container alone.
#[test]
fn pod_older_than_the_checkpoint_is_deleted_by_its_container() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let old = &pods[0];
    let mut alone = entry_of(old);
    alone["networkName"] = "_migrated-from-cri".into();
    alone["ifName"] = "unknown".into();
    alone["metadata"] = json!({});
    let (lines, code) = import(&node, &[alone]);
    let expected = format!("imported container {} {}", old.pod.name, old.address);
    assert_eq!((lines, code), (vec![expected], Some(0)));

    old.pod.del(&node.address);

    assert_eq!(assigned(&node), 0);
    assert!(!run(&netns(&node), "ip -o link").contains(&old.link));
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn imported_pod_is_deleted_while_there_is_no_daemon() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    import_all(&node, &pods);
    daemon.crash();
    let result = old_result(&pods[1], "2", "1");
    for _ in 0..2 {
        succeeded(&call(&node.address, "DEL", &pods[1].pod, "0.4.0", Some(&result)));
    }

    let daemon = Daemon::start(&node);

    assert_eq!(assigned(&node), 1);
    let (link, gone) = (&pods[1].link, pods[1].address);
    wait_until("what is left of it", || {
        let left = kept(&node);
        let of_pod = |line: &&String| line.contains(&format!("{gone} ")) || line.contains(&**link);
        left.iter().find(of_pod).map_or(Ok(()), |line| Err(line.clone()))
    });
    succeeded(&call(&node.address, "DEL", &pods[1].pod, "0.4.0", Some(&result)));
    wait_until_clean(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn imported_pods_that_the_runtime_does_not_list_are_deleted_by_gc_and_those_without_a_link_given_up()
 {
    let node = node();
    let (mut pods, daemon) = node_with_old_pods(&node);
    import_all(&node, &pods);
    let valid = json!([{"containerID": pods[1].pod.name, "ifname": "eth0"}]);
    let gc = Call::new(&node.address, "GC", "1.1.0").key("cni.dev/valid-attachments", valid);

    succeeded(&gc.run(&node.address));

    assert_eq!(assigned(&node), 1);
    assert!(!run(&pods[0].pod.netns, "ip -o link").contains("eth0"));
    wait_until_clean(&node);
    // And the other dies without a DEL.
    pods.remove(1).pod.die();
    wait_until("the lease of the pod that is gone", || match assigned(&node) {
        0 => Ok(()),
        count => Err(count.to_string()),
    });
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn imported_pod_is_told_of_and_released_as_any_other() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    import_all(&node, &pods);
    let of = |old: &OldPod| format!("aws-cni/{}/eth0", old.pod.name);
    let events = shown(&node, &["events"]);
    for old in &pods {
        let expected = format!("imported {} on eni-", old.address);
        let told = |line: &&str| line.contains(&expected) && line.ends_with(&old.link);
        assert!(events.lines().any(|line| told(&line)), "{expected} is not in {events}");
        let explained = shown(&node, &["explain", &of(old)]);
        assert!(explained.contains(&old.address.to_string()), "{explained}");
    }

    let released = shown(&node, &["release", "--yes", &of(&pods[1])]);

    assert!(released.starts_with(&format!("released {}", pods[1].address)), "{released}");
    assert_eq!(assigned(&node), 1);
    wait_until("what is left of it", || match of_pods(&node, &pods[1..]) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    wait_until_clean(&node);
    daemon.crash();
    node.stop().unwrap();
}

/// Two daemons would have the pod.
#[test]
fn pod_is_not_imported_where_nothing_is_to_be_adopted() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    daemon.crash();
    let daemon = Daemon::start_as(&node, |options| options.adopt = false);

    let (lines, code) = import(&node, &[entry_of(&pods[0])]);

    assert!(code == Some(1) && lines[0].contains("--no-adopt"), "{lines:?}");
    assert_eq!(assigned(&node), 0);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn import_waits_until_the_daemon_knows_what_the_enis_hold() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    daemon.crash();
    let cloud = faulty(&node);
    cloud.ec2_hangs.store(true, Ordering::Relaxed);
    cloud.imds_is_away.store(true, Ordering::Relaxed);
    let daemon = Daemon::start_with(&node, cloud.clone());
    let (_folder, path) = checkpoint(&[entry_of(&pods[0])]);

    let output = import_with(&node, &path, &["--wait", "0"]);

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for expected in ["import pods: no ENI of the node was seen yet", "try again"] {
        assert!(said.contains(expected), "{said}");
    }
    let mut command = import_command(&node, &path, &["--wait", "120"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    cloud.imds_is_away.store(false, Ordering::Relaxed);
    cloud.ec2_hangs.store(false, Ordering::Relaxed);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(assigned(&node), 1);
    daemon.crash();
    node.stop().unwrap();
}

/// A checkpoint from before names a pod that is gone, whose address another pod of amazon-vpc-cni-k8s has by now.
#[test]
fn address_is_imported_for_the_pod_whose_link_leads_there_alone() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let old = &pods[0];

    let (lines, code) = import(&node, &[entry("before", old.address)]);

    let (address, link) = (old.address, &old.link);
    let expected = format!(
        "skipped apps/before {address}: link {link}, which leads to {address}, is not that of pod apps/before: its pod is gone"
    );
    assert_eq!((lines, code), (vec![expected], Some(1)));
    assert_eq!(assigned(&node), 0);
    import_all(&node, &pods);
    assert_eq!(assigned(&node), 2);
    daemon.crash();
    node.stop().unwrap();
}

/// As by SIGKILL at any point of the import: the next daemon has the pod's lease or keeps its address as before, and the import can be
/// repeated.
#[test]
fn daemon_that_ends_during_the_import_loses_no_address() {
    let node = node();
    let (pods, mut daemon) = node_with_old_pods(&node);
    let of = |old: &OldPod| PodImport {
        key: PodKey::new("aws-cni", &old.pod.name, "eth0").unwrap(),
        pod: None,
        since: Timestamp::from_secs(1),
        addresses: vec![old.address],
    };
    let all: Vec<PodImport> = pods.iter().map(of).collect();
    let used: BTreeSet<IpAddr> = pods.iter().map(|old| old.address).collect();
    for delay in [0, 1, 2, 4, 8, 20] {
        let (socket, request) = (node.address.socket.clone(), Request::Import(all.clone()));
        let asking = std::thread::spawn(move || ask(&socket, &request));
        std::thread::sleep(Duration::from_millis(delay));
        daemon.crash();
        let answered = asking.join().unwrap();

        daemon = Daemon::start(&node);

        if let Ok(Answer::Imported(outcomes)) = answered {
            let skipped = |it: &ImportOutcome| matches!(it, ImportOutcome::Skipped { .. });
            assert!(!outcomes.iter().any(skipped), "{outcomes:?}");
            assert_eq!(assigned(&node), 2, "after {delay} ms");
        }
        let pod = Pod::new(&node, "another");
        let given: IpAddr = address(&pod.add(&node.address)).parse().unwrap();
        assert!(!used.contains(&given), "after {delay} ms: {given}");
        pod.del(&node.address);
        pod.die();
    }
    import_all(&node, &pods);
    assert_eq!(assigned(&node), 2);
    wait_until_clean(&node);
    for old in &pods {
        succeeded(&call(&node.address, "CHECK", &old.pod, "1.0.0", None));
    }
    daemon.crash();
    // The journal tells of it, and leads there again.
    let journal = node.address.socket.with_file_name("journal");
    let output = Command::new(program("vpc-ipam")).arg("replay").arg(journal).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    node.stop().unwrap();
}

/// A probe each millisecond, of every kind of traffic, while leases are made, rules relabelled and variables set.
#[test]
fn no_packet_is_lost_while_pods_are_imported() {
    for mode in modes() {
        let mut node = OldNode::start(mode, "m5.4xlarge", 3);
        let pods = pods_with_a_port(&node, 8);
        node.stop_old_daemon();
        start_ours(&node);
        wait_until_clean(&node.lab);
        let flows = Flows::start(&node.traffic(&pods));
        std::thread::sleep(LULL);

        let output = import_with(&node.lab, &node.root.join("var/run/aws-node/ipam.json"), &[]);

        assert!(output.status.success(), "{}: {output:?}", mode.name);
        assert_eq!(assigned(&node.lab), 8, "{}", mode.name);
        wait_until_clean(&node.lab);
        std::thread::sleep(LULL);
        let tallies = flows.stop();
        tallies.iter().for_each(|tally| println!("  {}: {tally}", mode.name));
        nothing_is_lost(mode.name, &tallies);
    }
}
