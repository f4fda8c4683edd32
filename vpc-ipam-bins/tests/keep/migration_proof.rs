//! Nodes that are moved over from amazon-vpc-cni-k8s and back, while traffic of every kind goes on.
//!
//! `VPC_IPAM_PROOF_MODES=all` tries each way in which amazon-vpc-cni-k8s may be set up, and `VPC_IPAM_PROOF_PODS=200` has so many pods on the
//! node. With `--nocapture`, `make migration-proof` prints what it took and what became of each kind of traffic.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use vpc_ipam_core::Lease;
use vpc_ipam_linux::Guard;
use vpc_ipam_protocol::{Answer, Request, ask};
use vpc_ipam_tests::flows::{Flows, Tally};
use vpc_ipam_tests::old_node::{MODES, Mode, OldNode, Pod, Runtime};

use crate::daemon::try_status;
use crate::migrate::Moving;
use crate::migrate::killed::{FAULTS, finish_back};
use crate::old_node::pods_with_a_port;
use crate::runtime::{net, status, wait_until};

/// How long traffic goes on before and after what is tried.
pub(crate) const LULL: Duration = Duration::from_millis(300);

/// Returns the modes to try: the one without any variable, or those that a variable names.
pub(crate) fn modes() -> Vec<&'static Mode> {
    match std::env::var("VPC_IPAM_PROOF_MODES") {
        Ok(all) if all == "all" => MODES.iter().collect(),
        Ok(names) => names.split(',').map(Mode::named).collect(),
        Err(_) => vec![&MODES[0]],
    }
}

/// Returns how many pods a node has.
fn pods() -> usize {
    std::env::var("VPC_IPAM_PROOF_PODS").map_or(10, |pods| pods.parse().unwrap())
}

/// Prints what a move took in all, and each of its steps.
fn print_times(mode: &Mode, pods: usize, way: &str, moved: &Value) {
    let steps = moved["steps"].as_array().unwrap();
    let ms = |step: &Value| step["ms"].as_u64().unwrap_or_default();
    println!("{}, {pods} pods: {way} in {} ms", mode.name, steps.iter().map(ms).sum::<u64>());
    for step in steps {
        println!("  {:<22} {:>6} ms", step["step"].as_str().unwrap(), ms(step));
    }
}

/// Asserts that nothing was lost on the way.
pub(crate) fn nothing_is_lost(case: &str, tallies: &[Tally]) {
    let lost: Vec<String> = tallies
        .iter()
        .filter(|tally| tally.lost > 0 || !tally.wrong.is_empty() || tally.sent == 0)
        .map(ToString::to_string)
        .collect();
    assert!(lost.is_empty(), "{case}: {lost:#?}");
}

/// Gives our daemon those settings of the one before that `of` picks.
fn set_settings(node: &OldNode, of: impl Fn(&str) -> bool) {
    let vars = node.mode.vars.iter().filter(|(name, _)| of(name));
    let settings: String = vars.map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(node.env_file(), settings).unwrap();
}

/// Variables that leave no trace on a node: the operator has to carry them over.
const WITHOUT_TRACE: [&str; 3] =
    ["ENABLE_PREFIX_DELEGATION", "ENABLE_BANDWIDTH_PLUGIN", "ENABLE_IPv4"];

/// Starts our daemon as a service manager does, and waits until it serves.
pub(crate) fn start_ours(node: &OldNode) {
    set_settings(node, |_| true);
    let output = node.run(&mut node.command(Path::new(&node.start_command())));
    assert!(output.status.success(), "{output:?}");
    wait_until("our daemon", || match try_status(&node.lab)? {
        status if status.ready && !status.enis.is_empty() => Ok(()),
        status => Err(format!("{status:?}: {}", node.our_log())),
    });
}

/// A node whose pods come and go while it is moved. No address is one of two pods.
struct Proof {
    moving: Moving,
    runtime: Runtime,
    /// Pods with traffic are the first of them.
    live: Vec<Pod>,
}

impl Proof {
    /// Makes a node with traffic of every kind, from which amazon-vpc-cni-k8s is kept off.
    fn start(mode: &'static Mode, pods: usize) -> (Self, Flows) {
        // 29 addresses for pods on each ENI, of which some are still to be free.
        let enis = u8::try_from((pods + 20).div_ceil(29)).unwrap();
        let mut node = OldNode::start(mode, "m5.4xlarge", enis.max(3));
        let live = pods_with_a_port(&node, pods);
        node.stop_old_daemon();
        set_settings(&node, |name| WITHOUT_TRACE.contains(&name));
        let flows = Flows::start(&node.traffic(&live));
        let runtime = node.runtime();
        (Self { moving: Moving { node, pods: Vec::new() }, runtime, live }, flows)
    }

    /// Adds a pod, whose address is to be no other pod's.
    fn add(&mut self, name: &str) {
        let pod = self.runtime.add(name, &[]);
        let same = self.live.iter().find(|other| other.address == pod.address);
        assert!(same.is_none(), "{} of {name} is {same:?}'s", pod.address);
        self.live.push(pod);
    }

    /// Deletes a pod that has no traffic, by the plugin that the configuration names by now.
    fn remove(&mut self, name: &str) {
        let at = self.live.iter().position(|pod| pod.name == name).unwrap();
        self.runtime.remove(self.live.remove(at));
    }

    /// Asserts that the node is ours, and that all live pods are.
    fn expect_ours(&self, case: &str) {
        self.expect_clean(case);
        let socket = &self.moving.node.lab.address.socket;
        let Ok(Answer::Leases(leased)) = ask(socket, &Request::Leases { network: None }) else {
            panic!("{case}: no leases");
        };
        let leased: BTreeSet<IpAddr> = leased.iter().flat_map(Lease::addresses).collect();
        assert_eq!(leased, self.addresses(), "{case}");
    }

    /// Waits until the node is as it should be.
    fn expect_clean(&self, case: &str) {
        wait_until(case, || {
            let diff = net(&self.moving.node.lab, &["diff"]);
            if diff.status.success() { Ok(()) } else { Err(format!("{diff:?}")) }
        });
    }

    /// Waits until the node is as it should be, and asserts that traffic arrives then.
    fn expect_recovered(&self, case: &str) {
        self.expect_clean(case);
        let flows = Flows::start(&self.moving.node.traffic(&self.live));
        std::thread::sleep(LULL);
        nothing_is_lost(&format!("{}, {case}", self.moving.node.mode.name), &flows.stop());
    }

    /// Asserts that the node is of amazon-vpc-cni-k8s, and that its checkpoint has all live pods.
    fn expect_theirs(&self, case: &str) {
        assert_eq!(self.moving.ours(), [] as [&str; 0], "{case}");
        let entries = self.moving.node.checkpoint_addresses();
        let pods = self.live.iter().map(|pod| (pod.address, &*pod.container));
        let live: BTreeMap<IpAddr, &str> = pods.collect();
        let entries: BTreeMap<IpAddr, &str> =
            entries.iter().map(|(container, address)| (*address, &**container)).collect();
        let only = |one: &BTreeMap<IpAddr, &str>, other: &BTreeMap<IpAddr, &str>| {
            let of_one = one.iter().filter(|(at, pod)| other.get(at) != Some(pod));
            of_one.map(|(at, _)| format!("{at} of {:?}", self.name_of(*at))).collect::<Vec<_>>()
        };
        assert_eq!(only(&entries, &live), [] as [&str; 0], "{case}: entries without a pod");
        assert_eq!(only(&live, &entries), [] as [&str; 0], "{case}: pods without an entry");
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.live.iter().map(|pod| pod.address).collect()
    }

    fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.live.iter().find(|pod| pod.address == address).map(|pod| &*pod.name)
    }

    /// Returns how many calls of the old plugin there were.
    fn old_calls(&self) -> usize {
        self.moving.node.old_calls().len()
    }
}

/// To, back and to again in one boot, with pods of before deleted and new ones added on either side.
#[test]
fn node_goes_there_and_back_and_there_again_and_nothing_is_lost_or_given_twice() {
    for mode in modes() {
        let case = |what: &str| format!("{}: {what}", mode.name);
        let (mut proof, flows) = Proof::start(mode, pods());
        let calls = proof.old_calls();

        print_times(mode, pods(), "to", &proof.moving.to());
        proof.expect_ours(&case("to"));
        // With the result of the old plugin.
        proof.remove(&format!("p{}", pods() - 1));
        proof.add("ours0");
        proof.add("ours1");
        proof.remove("ours0");
        proof.expect_ours(&case("pods of ours"));
        assert_eq!(proof.old_calls(), calls, "{}", case("the old plugin was called"));

        print_times(mode, pods(), "back", &proof.moving.back());
        proof.expect_theirs(&case("back"));
        proof.add("theirs0");
        proof.add("theirs1");
        proof.remove("theirs0");
        // With the result of ours.
        proof.remove("ours1");
        proof.remove(&format!("p{}", pods() - 2));
        proof.expect_theirs(&case("pods of theirs"));
        assert_eq!(proof.old_calls(), calls + 5, "{}", case("calls of the old plugin"));

        proof.moving.node.stop_old_daemon();
        proof.moving.to();
        proof.expect_ours(&case("to again"));
        proof.remove("theirs1");
        proof.add("ours2");
        proof.expect_ours(&case("pods of ours again"));
        let tallies = flows.stop();
        tallies.iter().for_each(|tally| println!("  {tally}"));
        println!("  the clients paused for {} ms at most", tallies[0].pause.as_millis());
        nothing_is_lost(mode.name, &tallies);
    }
}

/// What amazon-vpc-cni-k8s removes at its start and makes anew is led on by the guard.
#[test]
fn start_of_the_daemon_before_loses_nothing_behind_a_guard() {
    for mode in modes() {
        let mut node = OldNode::start(mode, "m5.xlarge", 3);
        let pods = pods_with_a_port(&node, 8);
        node.stop_old_daemon();
        start_ours(&node);
        let flows = Flows::start(&node.traffic(&pods));
        std::thread::sleep(LULL);
        node.kill_our_daemon();
        for _ in 0..5 {
            let mut netlink = node.netns().netlink().unwrap();
            Guard::find(&mut netlink).unwrap().raise(&mut netlink).unwrap();
            node.start_old_daemon();
            Guard::lower(&mut netlink).unwrap();
            node.stop_old_daemon();
        }
        std::thread::sleep(LULL);
        nothing_is_lost(mode.name, &flows.stop());
    }
}

/// Each step of a move makes files durable, so that a kill at each such call is one in each step. With a variable that names modes, more
/// of them are tried.
#[test]
fn moves_that_are_killed_and_go_on_lose_nothing() {
    let stride = if std::env::var("VPC_IPAM_PROOF_MODES").is_ok() { 3 } else { 16 };
    for mode in modes() {
        let (mut proof, flows) = Proof::start(mode, 8);
        let [kill, ..] = FAULTS;
        let mut kills = [0, 0];
        for number in (1..).step_by(stride) {
            let case = format!("{}: killed at durable write {number}", mode.name);
            let before = kills;
            let command = proof.moving.move_command(&["to"]);
            let output = proof.moving.node.run(&mut kill.of(&command, number));
            if !output.status.success() {
                kills[0] += 1;
                proof.moving.to();
            }
            proof.expect_ours(&case);
            let command = proof.moving.move_command(&["back", "--wait", "60"]);
            let output = finish_back(&mut proof.moving, kill.of(&command, number));
            if !output.status.success() {
                kills[1] += 1;
                let output = finish_back(&mut proof.moving, command);
                assert!(output.status.success(), "{case}: {output:?}");
            }
            proof.expect_theirs(&case);
            proof.moving.node.stop_old_daemon();
            if kills == before {
                break;
            }
        }
        println!(
            "{}: killed {} times on the way there, {} on the way back",
            mode.name, kills[0], kills[1]
        );
        assert!(kills.into_iter().all(|kills| kills > 1), "{}: {kills:?}", mode.name);
        nothing_is_lost(mode.name, &flows.stop());
    }
}

/// What happens on a node that was moved over: other programs remove what is there, links go down, and amazon-vpc-cni-k8s comes back.
#[test]
fn moved_node_recovers_from_what_other_programs_do() {
    for mode in modes() {
        let (mut proof, flows) = Proof::start(mode, 8);
        proof.moving.to();
        nothing_is_lost(mode.name, &flows.stop());
        let [first, last] = [&proof.live[0], &proof.live[7]].map(|pod| pod.link.clone());
        let damages = [
            // As networkd does at a restart, with ManageForeignRoutes=yes and ManageForeignRoutingPolicyRules=yes.
            "ip route flush table main scope link proto 86; ip -6 route flush table main proto 86; \
             ip rule show | grep -v -e 'lookup local' -e 'lookup main$' -e 'lookup default' | cut -d: -f1 | while read pref; do ip rule del pref $pref; done"
                .to_owned(),
            format!("ip link set {first} down; ip link set {first} up"),
            format!("ip link set {last} down; ip link set {last} up"),
            "for eni in eth1 eth2; do [ ! -e /sys/class/net/$eni ] || { ip link set $eni down; ip link set $eni up; }; done"
                .to_owned(),
        ];
        for damage in &damages {
            proof.moving.node.shell(damage);
            proof.expect_recovered(damage);
        }
        // Its DaemonSet comes to the node again, though the node is ours: it does its worst to the rules, and does not come to serve.
        assert!(proof.moving.node.try_start_old_daemon().is_err(), "{}: it serves", mode.name);
        wait_until("the status", || match status(&proof.moving.node.lab).problems {
            problems if problems.iter().any(|it| it.contains("two daemons")) => Ok(()),
            problems => Err(format!("{problems:?}")),
        });
        assert!(!proof.moving.node.root.join("etc/cni/net.d/10-aws.conflist").exists());
        proof.expect_recovered("amazon-vpc-cni-k8s beside ours");
        proof.add("new");
        proof.remove("p7");
        proof.expect_ours(mode.name);
    }
}

/// The old plugin has an address for a pod and has made nothing of it yet when the node is moved.
#[test]
fn pod_that_the_old_plugin_adds_during_the_move_is_moved_too() {
    let mut node = OldNode::start(&MODES[0], "m5.xlarge", 3);
    let live = pods_with_a_port(&node, 6);
    let runtime = node.runtime();
    node.hold_old_adds(true);
    let late = std::thread::spawn(move || runtime.add("late", &[]));
    wait_until("the old plugin to have an address", || {
        if node.held_add().is_some() { Ok(()) } else { Err(format!("{:?}", node.old_calls())) }
    });
    node.stop_old_daemon();
    let (_, said) = check(&node);
    assert_eq!(said["findings"][0]["check"], "old-plugin", "{said:#}");
    let mut command = node.migrate(&["to"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let to = node.netns().run(|| command.spawn()).unwrap().unwrap();
    let (runtime, moving) = (node.runtime(), Moving { node, pods: Vec::new() });
    let last_step = || {
        let text = fs::read(moving.folder().join("journal.json")).unwrap_or_default();
        let journal: Value = serde_json::from_slice(&text).unwrap_or_default();
        let last = journal["steps"].as_array().and_then(|steps| steps.last()?["name"].as_str());
        last.unwrap_or_default().to_owned()
    };
    wait_until("the move to wait for the old plugin", || match last_step() {
        step if step == "no aws-cni runs" => Ok(()),
        step => Err(step),
    });
    // It waits for as long as that takes.
    std::thread::sleep(5 * LULL);
    assert_eq!(last_step(), "no aws-cni runs");
    moving.node.hold_old_adds(false);
    let late = late.join().unwrap();
    let output = to.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut proof = Proof { moving, runtime, live };
    proof.live.push(late);
    proof.expect_ours("late");
    proof.expect_recovered("late");
    for n in 0..10 {
        proof.add(&format!("new{n}"));
    }
    proof.remove("late");
    proof.expect_ours("late is deleted");
}

/// Returns what `vpc-ipam migrate check` says of a node, with its exit code.
fn check(node: &OldNode) -> (Option<i32>, Value) {
    let output = node.run(&mut node.migrate(&["check", "--json"]));
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// What the node shows of the variables of the daemon before, which its pods would miss.
#[test]
fn settings_are_read_off_the_node_in_every_mode() {
    for mode in &MODES {
        let mut node = OldNode::start(mode, "m5.xlarge", 3);
        let pods = pods_with_a_port(&node, 4);
        node.stop_old_daemon();

        let (code, said) = check(&node);

        assert_eq!((code, &said["findings"]), (Some(0), &json!([])), "{}: {said:#}", mode.name);
        let found: BTreeMap<&str, &str> = said["environment"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["name"].as_str().unwrap(), row["value"].as_str().unwrap()))
            .collect();
        let mut expected = BTreeMap::from([
            ("AWS_VPC_ENI_MTU", "9001"),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0x80"),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "eni"),
            ("ENABLE_IPv6", "false"),
        ]);
        if !mode.ipv6() {
            expected.insert("AWS_VPC_CNI_NODE_PORT_SUPPORT", "true");
            expected.insert("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false");
            expected.insert("ENABLE_V6_EGRESS", "false");
        }
        if !mode.ipv6() && !mode.external_snat() {
            expected.insert("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng");
        }
        expected.extend(mode.vars.iter().copied());
        for name in WITHOUT_TRACE {
            expected.remove(name);
        }
        assert_eq!(in_order(found), in_order(expected), "{}", mode.name);
        let fates: Vec<&str> = said["pods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["fate"].as_str().unwrap())
            .collect();
        assert_eq!(fates, vec!["imported"; pods.len()], "{}", mode.name);
    }
}

/// Lists of ranges mean the same in any order.
fn in_order(vars: BTreeMap<&str, &str>) -> BTreeMap<String, Vec<String>> {
    let parts = |value: &str| {
        let mut parts: Vec<String> = value.split(',').map(str::to_owned).collect();
        parts.sort();
        parts
    };
    vars.into_iter().map(|(name, value)| (name.to_owned(), parts(value))).collect()
}

/// With each of these, traffic would go on otherwise than before, and nothing would say so.
#[test]
fn settings_that_would_change_traffic_are_refused() {
    // What the operator says, and what the node shows.
    let of_default = [
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false", "true"),
        ("AWS_VPC_ENI_MTU", "1500", "9001"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x40", "0x80"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "198.51.100.0/24", ""),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true", "false"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "none", "prng"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "cali", "eni"),
        ("AWS_EXTERNAL_SERVICE_CIDRS", "198.18.0.0/16", ""),
        ("ENABLE_IPv6", "true", "false"),
    ];
    let cases: [(&str, &[(&str, &str, &str)]); 5] = [
        ("default", &of_default),
        ("external-snat", &[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false", "true")]),
        ("excluded", &[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "192.0.2.0/25", "198.51.100.0/24")]),
        ("custom-networking", &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "false", "true")]),
        ("services", &[("AWS_EXTERNAL_SERVICE_CIDRS", "198.18.0.0/16", "198.19.0.0/24")]),
    ];
    let mut passed = Vec::new();
    for (mode, wrong) in cases {
        let mut node = OldNode::start(Mode::named(mode), "m5.xlarge", 3);
        let _pods = pods_with_a_port(&node, 4);
        node.stop_old_daemon();
        for (name, given, derived) in wrong {
            fs::write(node.env_file(), format!("{name}={given}\n")).unwrap();
            let (code, said) = check(&node);
            let text = said["findings"].to_string();
            let is_said = [name, given, derived].iter().all(|part| text.contains(*part));
            if code != Some(4) || !is_said {
                passed.push(format!("{mode} {name}={given}: {code:?} {text}"));
            }
        }
    }
    assert_eq!(passed, [] as [&str; 0]);
}
