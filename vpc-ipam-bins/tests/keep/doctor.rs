//! `vpc-ipam doctor` on a node with a live daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use expect_test::expect_file;
use serde_json::Value;
use vpc_ipam::lab::LabNode;
use vpc_ipam_core::{Ec2Action, Ec2Operation, Scope, WarmTarget};
use vpc_ipam_protocol::{Answer, Permitted, Request, Told, ask};
use vpc_ipam_tests::program;

use crate::asked::node_with_pods;
use crate::daemon::{Daemon, api, node};
use crate::faulty::Faulty;
use crate::runtime::{Pod, netns, spec, start, wait_until};

/// Makes the files of a node: its network is the lab's, its programs and settings are planted, and no process of another test is in it.
fn root(node: &LabNode) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let write = |path: &str, text: &str| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), text).unwrap();
    };
    write("proc/1/comm", "systemd\n");
    write("proc/1/cmdline", "/sbin/init\0");
    write("usr/sbin/nft", "");
    write("etc/vpc-ipam/vpc-ipamd.env", "WARM_IP_TARGET=5\n");
    let conflist = fs::read_to_string(node.address.cni_conf_dir.join("10-vpc-ipam.conflist"));
    write("etc/cni/net.d/10-vpc-ipam.conflist", &conflist.unwrap());
    write("opt/cni/bin/.folder", "");
    // By a process of its own: a program that this one has open for writing cannot be run. A link would lead out of the root.
    let copied = Command::new("cp").arg(program("vpc-cni")).arg(at("opt/cni/bin")).status();
    assert!(copied.unwrap().success());
    let links: [(&Path, &str); 3] = [
        (Path::new("/proc/self/net"), "proc/net"),
        (Path::new("/proc/sys"), "proc/sys"),
        (Path::new("/run"), "run"),
    ];
    for (target, link) in links {
        symlink(target, at(link)).unwrap();
    }
    root
}

/// Runs it in the node's network.
fn doctor(node: &LabNode, root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("vpc-ipam"));
    command.arg("doctor").args(arguments).arg("--socket").arg(&node.address.socket);
    command.arg("--root").arg(root);
    netns(node).run(move || command.output()).unwrap().unwrap()
}

/// Returns what was printed, with numbers, ids and the name of the lab masked, and the exit code.
fn masked(node: &LabNode, output: &Output) -> String {
    let folder = node.address.socket.parent().unwrap().to_str().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace(folder, "LAB");
    let word = |word: &str| {
        let id = ["i-", "eni-", "subnet-"].iter().find(|prefix| word.starts_with(**prefix));
        match (id, word.parse::<u64>()) {
            (Some(prefix), _) => format!("{prefix}ID"),
            (None, Ok(_)) => "N".to_owned(),
            (None, Err(_)) => word.to_owned(),
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n";
    let lines: String = text.lines().map(line).collect();
    format!("{lines}exit code {}\n", output.status.code().unwrap())
}

#[test]
fn node_of_a_lab_is_found_well() {
    let (node, pods) = node_with_pods();
    let root = root(&node);

    let output = doctor(&node, root.path(), &[]);

    expect_file!["doctor/well.txt"].assert_eq(&masked(&node, &output));
    let output = doctor(&node, root.path(), &["leases", "permissions", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        document["checks"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["permissions", "leases"]);
    assert_eq!(document["findings"]["failure"], 0, "{document:#}");
    pods.iter().for_each(|pod| pod.del(&node.address));
    node.stop().unwrap();
}

#[test]
fn right_that_is_missing_and_pod_that_is_gone_are_found() {
    // A pod that is gone is released after twice the cooldown.
    let mut spec = spec("m5.large");
    spec.vars = vec![("IP_COOLDOWN_PERIOD".to_owned(), "60".to_owned())];
    let node = start(&spec);
    let pod = Pod::new(&node, "web");
    pod.add(&node.address);
    let root = root(&node);
    node.cloud().deny([Ec2Operation::AttachNetworkInterface, Ec2Operation::DescribeSubnets]);
    pod.die();

    let output = doctor(&node, root.path(), &["permissions", "subnets", "leases"]);

    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in [
        "ec2:AttachNetworkInterface is refused: UnauthorizedOperation",
        "do: add ec2:AttachNetworkInterface to the policy",
        "ec2:DescribeSubnets is refused",
        "no list of them: DescribeSubnets",
        "DEL was lost",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(output.status.code(), Some(1));
    node.stop().unwrap();
}

#[test]
fn without_a_daemon_the_checks_that_need_one_say_so() {
    let node = node();
    let root = root(&node);
    let output = doctor(&node, root.path(), &["daemon", "permissions", "conflist"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("failure      daemon           there is no socket"), "{said}");
    assert!(said.contains("not checked  permissions      there is no socket"), "{said}");
    assert!(said.contains("ok           conflist"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    let output = doctor(&node, root.path(), &["firewal"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    node.stop().unwrap();
}

#[test]
fn probe_asks_no_more_than_the_settings_let_the_daemon_ask() {
    let node = node();
    let probe = |node: &LabNode| match ask(&node.address.socket, &Request::Probe).unwrap() {
        Answer::Probe(probe) => probe,
        other => panic!("{other:?}"),
    };
    // So that there are addresses by which the next ones are ready.
    Daemon::start(&node).crash();

    let daemon = Daemon::start_as(&node, |options| options.config.provisioning = false);
    let asked = probe(&node);
    assert!(asked.permissions.iter().all(|it| it.operation.name().starts_with("Describe")));
    assert!(asked.permissions.iter().all(|it| it.permitted == Permitted::Yes), "{asked:?}");
    assert_eq!(asked.state, node.address.socket.with_file_name("state.redb"));
    daemon.crash();

    let daemon = Daemon::start_as(&node, |options| options.config.ec2_reads = false);
    let asked = probe(&node);
    assert!(
        asked.permissions.is_empty() && matches!(asked.subnets, Told::NotAsked(_)),
        "{asked:?}"
    );
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn probe_tries_the_tags_that_enis_get() {
    let node = node();
    let cloud = Arc::new(Faulty::new((*api(&node)).clone()));
    let daemon = Daemon::begin(&node, cloud.clone(), |options| {
        options.config.cluster = Some("blue".to_owned());
        // More than the primary ENI has.
        options.config.target = WarmTarget::Ips { warm: 12, minimum: 0 };
        options.config.eni_tags = [("team".to_owned(), "net".to_owned())].into();
    });
    wait_until("a new ENI and tags on the primary one", || {
        let made = cloud.creations.lock().unwrap().len();
        let tagged = cloud.taggings.lock().unwrap().len();
        if made > 0 && tagged > 0 { Ok(()) } else { Err(format!("{made} ENIs, {tagged} tagged")) }
    });

    let answer = ask(&node.address.socket, &Request::Probe).unwrap();

    assert!(matches!(answer, Answer::Probe(_)), "{answer:?}");
    // A policy may ask for each of them.
    let mut made = cloud.creations.lock().unwrap()[0].tags.clone();
    let set = cloud.taggings.lock().unwrap()[0].tags.clone();
    let created_at = "node.k8s.amazonaws.com/createdAt";
    assert!(made.remove(created_at).is_some());
    for tag in [Scope::INSTANCE_TAG, "cluster.k8s.amazonaws.com/name", "team"] {
        assert!(made.contains_key(tag), "{tag} is not among {made:?}");
    }
    let (mut creations, mut taggings) = (0, 0);
    for tried in &*cloud.dry_runs.lock().unwrap() {
        match tried {
            Ec2Action::CreateNetworkInterface(call) => {
                let mut tags = call.tags.clone();
                assert!(tags.remove(created_at).is_some(), "{tags:?}");
                assert_eq!(tags, made);
                creations += 1;
            }
            Ec2Action::CreateTags(call) => {
                assert_eq!(call.tags, set);
                taggings += 1;
            }
            _ => {}
        }
    }
    assert_eq!((creations, taggings), (1, 1));
    daemon.crash();
    node.stop().unwrap();
}
