//! `vpc-ipam migrate to` and `back` on a node of amazon-vpc-cni-k8s.

pub(crate) mod killed;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use vpc_ipam_protocol::{Answer, Request, ask};
use vpc_ipam_tests::flows::{Flow, Flows, Transport};
use vpc_ipam_tests::old_node::{Mode, OldNode, Pod};
use vpc_ipam_tests::program;

use crate::runtime::wait_until;

/// A node with pods, from which amazon-vpc-cni-k8s is kept off.
pub(crate) struct Moving {
    pub(crate) node: OldNode,
    pub(crate) pods: Vec<Pod>,
}

impl Moving {
    pub(crate) fn start(pods: usize) -> Self {
        Self::start_on("m5.xlarge", 3, pods)
    }

    /// Starts a node of a type with so many ENIs.
    fn start_on(instance_type: &str, enis: u8, pods: usize) -> Self {
        let mut node = OldNode::start(Mode::named("default"), instance_type, enis);
        let runtime = node.runtime();
        let pods = (0..pods).map(|n| runtime.add(&format!("p{n}"), &[])).collect();
        node.stop_old_daemon();
        Self { node, pods }
    }

    /// Returns `vpc-ipam migrate` with where everything is on the node.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.command(&program("vpc-ipam"));
        command.arg("migrate").args(arguments);
        let socket = &self.node.lab.address.socket;
        command.arg("--root").arg(&self.node.root).arg("--socket").arg(socket);
        command.arg("--state").arg(socket.with_file_name("state.redb"));
        command
    }

    pub(crate) fn move_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--start").arg(self.node.start_command());
        command.arg("--stop").arg(self.node.stop_command());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.node.run(&mut self.move_command(arguments))
    }

    pub(crate) fn to(&self) -> Value {
        succeeded(&self.run(&["to", "--json"]))
    }

    /// Goes back, and lets amazon-vpc-cni-k8s run when it is waited for.
    pub(crate) fn back(&mut self) -> Value {
        let child = self.begin(&["back", "--json", "--wait", "60"]);
        self.start_old_daemon_when_waited_for();
        succeeded(&child.wait_with_output().unwrap())
    }

    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.move_command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.node.netns().run(|| command.spawn()).unwrap().unwrap()
    }

    fn start_old_daemon_when_waited_for(&mut self) {
        wait_until("amazon-vpc-cni-k8s to be waited for", || {
            if self.waits_for_old_daemon() { Ok(()) } else { Err(format!("{:#}", self.journal())) }
        });
        self.node.start_old_daemon();
    }

    fn waits_for_old_daemon(&self) -> bool {
        let journal = self.journal();
        let is_it = |step: &Value| step["name"] == "amazon-vpc-cni-k8s" && step["stage"] == "begun";
        let steps = journal["steps"].as_array();
        journal["direction"] == "back" && steps.is_some_and(|steps| steps.iter().any(is_it))
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.node.root.join("var/lib/vpc-ipam/migration")
    }

    fn journal(&self) -> Value {
        let text = fs::read(self.folder().join("journal.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Returns what of the kernel carries our protocol, or is ours by name.
    pub(crate) fn ours(&self) -> Vec<String> {
        let list = "ip -d rule; ip -6 -d rule; ip -d route show table all; ip -6 -d route show table all; ip -d link; \
                    nft list tables; iptables-save; ip6tables-save";
        let listed = self.node.shell(list);
        let is_ours = |line: &&str| {
            ["proto 86", "alias vpc-ipam", " vpc-ipam", "VPC-"].iter().any(|it| line.contains(it))
        };
        listed.lines().filter(is_ours).map(str::to_owned).collect()
    }

    fn conflists(&self) -> Vec<String> {
        let folder = fs::read_dir(self.node.root.join("etc/cni/net.d")).unwrap();
        let mut names: Vec<String> =
            folder.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn addresses(&self) -> BTreeMap<String, IpAddr> {
        self.pods.iter().map(|pod| (pod.container.clone(), pod.address)).collect()
    }

    /// Starts flows between pods, and to the internet as the primary ENI.
    fn flows(&self) -> Flows {
        let (internet, own) = self
            .node
            .lab
            .with_lab(|lab| (lab.internet().clone(), IpAddr::V4(lab.layout().node.primary_ipv4)));
        let mut flows = Vec::new();
        for transport in [Transport::Udp, Transport::Tcp, Transport::New] {
            for pair in self.pods.windows(2) {
                let server = (pair[1].address, 7001).into();
                flows.push(Flow {
                    kind: "pod-pod",
                    transport,
                    from: pair[0].netns.clone(),
                    to: server,
                    server: (pair[1].netns.clone(), server),
                    seen_as: Some(pair[0].address),
                });
            }
            for pod in &self.pods {
                let server = (vpc_ipam_linux::lab::INTERNET, 7002).into();
                flows.push(Flow {
                    kind: "pod-internet",
                    transport,
                    from: pod.netns.clone(),
                    to: server,
                    server: (internet.clone(), server),
                    seen_as: Some(own),
                });
            }
        }
        Flows::start(&flows)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeded(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}\n{}",
        said(output),
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn node_is_moved_over_and_back_and_over_again_and_no_packet_is_lost() {
    let mut moving = Moving::start(5);
    let before = moving.node.checkpoint_addresses();
    let flows = moving.flows();

    let there = moving.to();
    println!("{there:#}");
    assert_eq!(there["outcome"], "done");
    assert_eq!(moving.conflists(), ["10-vpc-ipam.conflist"]);
    let runtime = moving.node.runtime();
    let calls = moving.node.old_calls().len();
    // One that we add, and one of before that we delete.
    let new = runtime.add("new", &[]);
    assert!(!before.values().any(|it| *it == new.address), "{}: {before:?}", new.address);
    moving.pods.push(new);
    assert_eq!(moving.node.old_calls().len(), calls, "the old plugin was called");

    let back = moving.back();
    println!("{back:#}");
    assert_eq!(back["outcome"], "done");
    assert_eq!(moving.ours(), [] as [&str; 0]);
    assert_eq!(moving.conflists(), ["10-aws.conflist"]);
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
    let another = runtime.add("another", &[]);
    assert!(!moving.addresses().values().any(|it| *it == another.address));
    moving.pods.push(another);

    moving.node.stop_old_daemon();
    assert_eq!(moving.to()["outcome"], "done");
    for tally in flows.stop() {
        println!("{tally}");
        assert!(tally.lost == 0 && tally.wrong.is_empty(), "{tally}");
    }
    for pod in core::mem::take(&mut moving.pods) {
        runtime.remove(pod);
    }
}

#[test]
fn way_that_fails_goes_back_by_itself_to_the_node_of_before() {
    let moving = Moving::start(3);
    let state = kernel(&moving);
    let flows = moving.flows();
    // The service manager knows neither.
    let start = "echo no such unit >&2; exit 5";
    let output = moving.node.run(&mut moving.command(&["to", "--start", start, "--stop", start]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("exit status: 5; going back"), "{}", said(&output));
    assert_eq!(moving.conflists(), ["10-aws.conflist"]);
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
    assert_eq!(kernel(&moving), state);

    // The daemon took the node over already, and the service manager says that it failed.
    let taken_over = "until ! iptables-save | grep -q AWS-SNAT; do sleep 0.05; done";
    let start = format!("{}; {taken_over}; exit 6", moving.node.start_command());
    let mut command = moving.command(&["to", "--start", &start]);
    command.arg("--stop").arg(moving.node.stop_command());
    let output = moving.node.run(&mut command);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("exit status: 6; going back"), "{}", said(&output));
    assert_eq!(moving.conflists(), ["10-aws.conflist"]);
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
    assert_eq!(moving.ours(), [] as [&str; 0]);
    assert_eq!(kernel(&moving), state);
    for tally in flows.stop() {
        assert!(tally.lost == 0 && tally.wrong.is_empty(), "{tally}");
    }
}

/// Returns the rules, routes and address translation of a node, in the order of their text.
fn kernel(moving: &Moving) -> BTreeSet<String> {
    let list = "ip -d rule; ip -d route show table all; iptables-save; nft -s list table ip aws-cni 2>&1 || true";
    let text = moving.node.shell(list);
    // Times and counters of iptables-save; and what the kernel adds in its own time, which it does once it knows that an address is unique.
    let noise = |line: &str| {
        ["#", ":", "anycast ", "table "].iter().any(|it| line.starts_with(it))
            || line.contains("fe80::")
    };
    text.lines().filter(|line| !noise(line)).map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn node_that_is_not_to_be_moved_is_refused_and_left_as_it_is() {
    let mut moving = Moving::start(1);
    // Back on a node that was never moved.
    let state = kernel(&moving);
    let output = moving.run(&["back"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("nothing to go back from"), "{text}");
    assert_eq!(moving.conflists(), ["10-aws.conflist"]);

    // While both daemons run.
    moving.node.start_old_daemon();
    let output = moving.run(&["to"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("two daemons would grant"), "{}", said(&output));
    moving.node.stop_old_daemon();
    assert_eq!(kernel(&moving), state);

    // Another program's configuration comes first.
    let foreign = moving.node.root.join("etc/cni/net.d/05-other.conflist");
    fs::write(&foreign, r#"{"cniVersion":"0.4.0","name":"other","plugins":[{"type":"other"}]}"#)
        .unwrap();
    let output = moving.run(&["to"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("05-other.conflist"), "{}", said(&output));
    assert_eq!(moving.conflists(), ["05-other.conflist", "10-aws.conflist"]);
    assert_eq!(kernel(&moving), state);
    fs::remove_file(foreign).unwrap();

    for arguments in [["to", "--dry-run"], ["back", "--dry-run"]] {
        let output = moving.run(&arguments);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&moving.node.start_command()) == (arguments[0] == "to"), "{text}");
    }
    assert_eq!(moving.conflists(), ["10-aws.conflist"]);
    assert_eq!(kernel(&moving), state);

    // amazon-vpc-cni-k8s does not come to serve beside the daemon.
    moving.to();
    assert!(moving.node.try_start_old_daemon().is_err());
    assert!(moving.node.old_log().contains("unknown backing store format"));
    assert_eq!(moving.conflists(), ["10-vpc-ipam.conflist"]);
}

/// Its entry is lost, and so it never gets a lease.
#[test]
fn address_of_a_pod_that_no_record_has_is_not_handed_out_again() {
    let mut moving = Moving::start(3);
    let unknown = moving.pods.remove(0);
    let path = moving.node.root.join("var/run/aws-node/ipam.json");
    let mut checkpoint = moving.node.checkpoint();
    let entries = checkpoint["allocations"].as_array_mut().unwrap();
    entries.retain(|entry| entry["containerID"] != unknown.container.as_str());
    fs::write(&path, checkpoint.to_string()).unwrap();
    assert_eq!(moving.to()["outcome"], "done");

    let expect_refusal = |arguments: &[&str], words: &str| {
        let output = moving.run(arguments);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
        assert_eq!(moving.conflists(), ["10-vpc-ipam.conflist"]);
    };
    let words = format!("{} is the address of a pod that runs", unknown.address);
    expect_refusal(&["back"], &words);
    let output = moving.node.run(&mut moving.command(&["export"]));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0), "{}", said(&output));
    moving.node.runtime().remove(unknown);

    // amazon-vpc-cni-k8s starts, and does not serve yet: a program of its name.
    let starting = moving.node.root.join("run/aws-k8s-agent");
    fs::copy("/bin/sleep", &starting).unwrap();
    let mut command = moving.node.command(&starting);
    let mut child = moving.node.netns().run(|| command.arg("600").spawn()).unwrap().unwrap();
    expect_refusal(&["back"], "runs on this node already (aws-k8s-agent, process");
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(moving.back()["outcome"], "done");
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
}

/// As a node that began with vpc-ipam, of which nothing was ever saved.
#[test]
fn node_without_a_backup_goes_back_with_a_conflist_that_is_named() {
    let mut moving = Moving::start(2);
    let conflist = moving.node.root.join("aws.conflist");
    fs::copy(moving.node.root.join("etc/cni/net.d/10-aws.conflist"), &conflist).unwrap();
    moving.to();
    fs::remove_dir_all(moving.folder()).unwrap();
    moving.pods.push(moving.node.runtime().add("new", &[]));

    let output = moving.run(&["back"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("--conflist FILE"), "{}", said(&output));
    assert_eq!(moving.conflists(), ["10-vpc-ipam.conflist"]);
    let ours = moving.node.root.join("etc/cni/net.d/10-vpc-ipam.conflist");
    let ours = ours.display().to_string();
    let output = moving.run(&["back", "--conflist", &ours]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));

    let conflist = conflist.display().to_string();
    let child = moving.begin(&["back", "--json", "--wait", "60", "--conflist", &conflist]);
    moving.start_old_daemon_when_waited_for();
    assert_eq!(succeeded(&child.wait_with_output().unwrap())["outcome"], "done");
    assert_eq!(moving.ours(), [] as [&str; 0]);
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
}

#[test]
fn way_back_that_waits_in_vain_is_half_way_and_pods_go_on() {
    let mut moving = Moving::start(3);
    moving.to();
    let again = moving.run(&["to"]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(String::from_utf8_lossy(&again.stdout).contains("with vpc-ipam already"));
    let flows = moving.flows();

    let output = moving.run(&["back", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    for words in ["let its DaemonSet run", "`vpc-ipam migrate back` again, which goes on"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    // A pod ends meanwhile.
    let gone = moving.pods.pop().unwrap();
    let address = gone.address;

    // To vpc-ipam again, and back.
    assert_eq!(moving.to()["outcome"], "done");
    for tally in flows.stop() {
        assert!(tally.lost == 0 && tally.wrong.is_empty(), "{tally}");
    }
    let output = moving.run(&["back", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    moving.node.runtime().remove(gone);
    let back = moving.back();
    assert_eq!(back["outcome"], "done");
    assert_eq!(moving.ours(), [] as [&str; 0]);
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses());
    let rules = moving.node.shell("ip rule");
    assert!(!rules.contains(&format!("{address} ")), "{rules}");
}

#[test]
fn node_with_many_pods_is_moved_over_and_back_step_by_step() {
    for pods in [30, 200] {
        let mut moving = Moving::start_on("m5.4xlarge", 8, pods);
        for moved in [moving.to(), moving.back()] {
            assert_eq!(moved["outcome"], "done");
            let steps = moved["steps"].as_array().unwrap();
            let all: u64 = steps.iter().map(|step| step["ms"].as_u64().unwrap()).sum();
            println!("{pods} pods, {} steps, {all} ms", steps.len());
            for step in steps {
                println!("  {:<20} {:>6} ms", step["step"].as_str().unwrap(), step["ms"]);
            }
        }
        assert_eq!(moving.ours(), [] as [&str; 0], "{pods} pods");
        assert_eq!(moving.node.checkpoint_addresses(), moving.addresses(), "{pods} pods");
    }
}

#[test]
fn checkpoint_of_a_node_is_exported_with_a_daemon_and_without() {
    let moving = Moving::start(2);
    // No reader of what it prints ends a move.
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut command = moving.move_command(&["to"]);
    command.stdout(write.try_clone().unwrap()).stderr(write);
    let status = moving.node.netns().run(|| command.status()).unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    let new = moving.node.runtime().add("new", &[]);
    let file = moving.folder().join("exported.json");
    let export = |file: Option<&Path>| {
        let output = moving.node.run(moving.command(&["export"]).args(file));
        assert!(output.status.success(), "{}", said(&output));
        output.stdout
    };
    let printed = export(None);
    export(Some(&file));
    assert_eq!(fs::read(&file).unwrap(), printed);
    let checkpoint: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(checkpoint["version"], "vpc-cni-ipam/1");
    let Ok(Answer::Leases(leases)) =
        ask(&moving.node.lab.address.socket, &Request::Leases { network: None })
    else {
        panic!("no leases");
    };
    let exported: BTreeSet<&str> = checkpoint["allocations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["containerID"].as_str().unwrap())
        .collect();
    let of_leases: BTreeSet<&str> = leases.iter().map(|it| it.key.container()).collect();
    assert_eq!(exported, of_leases);
    let pods = moving.pods.iter().chain([&new]).map(|pod| pod.container.as_str());
    assert_eq!(exported, pods.collect());
    moving.node.kill_our_daemon();
    assert_eq!(export(None), printed, "of the state file");
}
