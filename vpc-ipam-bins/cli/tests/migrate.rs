//! `vpc-ipam migrate check` on nodes as amazon-vpc-cni-k8s and other programs leave them, each in a network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "these tests write files and run programs")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A node as it was found: the file of vpc-ipam-linux that makes it, and what is to be said of it.
struct Found {
    name: &'static str,
    code: i32,
    /// The checks that find something.
    checks: &'static [&'static str],
    /// What becomes of its pods.
    fates: &'static [&'static str],
}

const FOUND: [Found; 9] = [
    Found { name: "peer", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found { name: "kube-proxy", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found { name: "bottlerocket", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found { name: "amazon-linux-2023", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found {
        name: "antrea",
        code: 4,
        checks: &["chains", "untracked"],
        fates: &["imported", "imported", "untracked", "untracked"],
    },
    Found { name: "calico", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found { name: "nodelocaldns", code: 0, checks: &[], fates: &["imported", "imported"] },
    Found {
        name: "security-groups",
        code: 4,
        checks: &["branch-enis"],
        fates: &["imported", "imported", "refused"],
    },
    Found { name: "multus", code: 0, checks: &[], fates: &["imported", "imported"] },
];

/// The node beneath: two ENIs and one that is not managed, and pods at 10.0.0.100 and, on the second ENI, 10.0.0.101.
const NODE: &str = "\
ip link set lo up
for n in 0 1 2; do
    ip link add eth$n type veth peer name wire$n
    ip link set wire$n up
    ip link set eth$n mtu 9001 up
done
ip addr add 10.0.0.10/19 dev eth0
ip route add default via 10.0.0.1 dev eth0
for pod in a b; do
    ip link add eni0000000000$pod mtu 9001 type veth peer name pod$pod
    ip link set pod$pod up
    ip link set eni0000000000$pod up
done
ip route add 10.0.0.100 dev eni0000000000a scope link
ip rule add to 10.0.0.100 lookup main pref 512
ip route add 10.0.0.101 dev eni0000000000b scope link
ip rule add to 10.0.0.101 lookup main pref 512
ip rule add from 10.0.0.101 lookup 2 pref 1536
";

const KINDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

#[test]
fn every_node_that_was_found_is_refused_or_ready_as_is_right() {
    for Found { name, code, checks, fates } in FOUND {
        for iptables in KINDS {
            let (output, said) = check(&script(name, iptables), &files());
            let case = format!("{name}, {iptables}: {said:#}");
            assert_eq!(output.status.code(), Some(code), "{case}");
            let findings = said["findings"].as_array().unwrap();
            let found: BTreeSet<&str> =
                findings.iter().map(|it| it["check"].as_str().unwrap()).collect();
            assert_eq!(found, checks.iter().copied().collect(), "{case}");
            let pods = said["pods"].as_array().unwrap();
            let told: Vec<&str> = pods.iter().map(|it| it["fate"].as_str().unwrap()).collect();
            assert_eq!(told, fates, "{case}");
            for (variable, value) in [
                ("AWS_VPC_K8S_CNI_CONNMARK", "0x80"),
                ("AWS_VPC_K8S_CNI_VETHPREFIX", "eni"),
                ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false"),
                ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng"),
                ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "true"),
                ("AWS_VPC_ENI_MTU", "9001"),
            ] {
                let is_it = |it: &&Value| it["name"] == variable;
                let row = said["environment"].as_array().unwrap().iter().find(is_it);
                assert_eq!(row.map(|it| &it["value"]), Some(&json!(value)), "{variable}: {case}");
            }
        }
    }
}

/// The kernel is as it was: nothing is written, and no table is made by looking.
#[test]
fn a_check_changes_nothing() {
    for iptables in KINDS {
        let list = "(ip -d rule; ip -d route show table all; ip -d addr; iptables-nft-save; cat /proc/net/ip_tables_names; nft list ruleset)";
        // Counters count on, and the first line of each listing has the time.
        let list = format!("{list} 2>&1 | sed -E 's/\\[[0-9]+:[0-9]+\\]//; /^#/d'");
        let node = files();
        let before = node.path().join("before");
        let script = format!("{}{list} > {}\n", script("peer", iptables), before.display());
        let after = node.path().join("after");
        let output = run(&script, &node, &["check"], &format!("{list} > {}", after.display()));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let (before, after) =
            (fs::read_to_string(before).unwrap(), fs::read_to_string(after).unwrap());
        assert!(before.contains("10.0.0.101") && before == after, "{iptables}: {before}\n{after}");
        assert!(!node.path().join("var/lib/vpc-ipam").exists());
    }
}

/// What is in words, for people: what speaks against it, the variables with what shows them, each pod, and what would be run.
#[test]
fn report_names_findings_variables_pods_and_commands() {
    let node = files();
    fs::write(node.path().join("env"), "AWS_VPC_K8S_CNI_EXTERNALSNAT=true\nWARM_IP_TARGET=5\n")
        .unwrap();
    let env = node.path().join("env");
    let arguments = ["check", "--env", env.to_str().unwrap()];

    let output = run(&script("peer", "iptables-nft"), &node, &arguments, "");

    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "refused  settings        AWS_VPC_K8S_CNI_EXTERNALSNAT is true in ",
        "and false on the node: iptables-nft table nat: -A POSTROUTING",
        "so: connections of pods to outside of the VPC would leave with the pods' own addresses",
        "do: take AWS_VPC_K8S_CNI_EXTERNALSNAT=false",
        "\nWARM_IP_TARGET=5\n",
        "\nAWS_VPC_K8S_CNI_RANDOMIZESNAT=prng\n",
        "10.0.0.101      container bbbbbbbbbbbb                   becomes a lease with eni0000000000b, table 2\n",
        "# start\nsystemctl enable --now vpc-ipamd\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(text.ends_with("\nrefused\n"), "{text}");
}

/// What a drop-in of the unit sets comes before the file of variables, and would win in silence.
#[test]
fn variables_of_the_unit_count_too() {
    let node = files();
    let folder = node.path().join("etc/systemd/system/vpc-ipamd.service.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("10.conf"), "[Service]\nEnvironment=AWS_VPC_K8S_CNI_CONNMARK=0x40\n")
        .unwrap();
    let (output, said) = check(&script("peer", "iptables-nft"), &node);
    assert_eq!(output.status.code(), Some(4), "{said:#}");
    let what = said["findings"][0]["what"].as_str().unwrap();
    let expected = "AWS_VPC_K8S_CNI_CONNMARK is 0x40 in /etc/systemd/system/vpc-ipamd.service.d/10.conf, and 0x80 on the node";
    assert!(what.starts_with(expected), "{what}");
}

#[test]
fn what_cannot_be_read_is_told_and_makes_no_node_ready() {
    let node = files();
    // A file of variables that was named has to be there.
    let output =
        run(&script("peer", "iptables-nft"), &node, &["check", "--env", "/nowhere/env"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("not told which variables are set")
            || text.contains("which variables are set: "),
        "{text}"
    );
    assert!(text.contains("/nowhere/env"), "{text}");

    // What cannot be told does not hide what is refused.
    fs::write(node.path().join("var/run/aws-node/ipam.json"), "").unwrap();
    let output =
        run(&script("peer", "iptables-nft"), &node, &["check", "--env", "/nowhere/env"], "");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn rules_that_cannot_be_listed_are_refused() {
    // What only nft can make, in a table of iptables-nft.
    let rule = "nft add rule ip nat POSTROUTING meta l4proto tcp ct mark 7 jump AWS-SNAT-CHAIN-0";
    let script = format!("{}{rule}\n", script("peer", "iptables-nft"));
    let (output, said) = check(&script, &files());
    assert_eq!(output.status.code(), Some(4), "{said:#}");
    assert_eq!(said["findings"][0]["check"], "firewall", "{said:#}");
}

/// The node's files: two pods in the checkpoint, the configuration of the runtime, and plugins.
fn files() -> tempfile::TempDir {
    let node = tempfile::tempdir().unwrap();
    let write = |path: &str, text: String| {
        let at = node.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    };
    let entry = |letter: &str, address: &str| {
        json!({"networkName": "aws-cni", "containerID": letter.repeat(64), "ifName": "eth0", "ipv4": address,
            "allocationTimestamp": 1_752_549_225_000_000_000_u64, "metadata": {}})
    };
    let allocations = [entry("a", "10.0.0.100"), entry("b", "10.0.0.101")];
    let checkpoint = json!({"version": "vpc-cni-ipam/1", "allocations": allocations});
    write("var/run/aws-node/ipam.json", checkpoint.to_string());
    let plugins = json!([
        {"type": "aws-cni", "vethPrefix": "eni", "mtu": "9001"},
        {"type": "egress-cni", "enabled": "false"},
        {"type": "portmap", "snat": true},
    ]);
    let conflist = json!({"cniVersion": "0.4.0", "name": "aws-cni", "plugins": plugins});
    write("etc/cni/net.d/10-aws.conflist", conflist.to_string());
    for plugin in ["aws-cni", "egress-cni", "portmap", "vpc-cni"] {
        write(&format!("opt/cni/bin/{plugin}"), String::new());
    }
    symlink("/proc", node.path().join("proc")).unwrap();
    node
}

/// Returns the commands that make a node.
fn script(name: &str, iptables: &str) -> String {
    let mut script = NODE.to_owned();
    let mut section = String::new();
    let mut saved = String::new();
    let lines =
        if name == "kube-proxy" { [lines("peer"), lines(name)].concat() } else { lines(name) };
    for line in lines {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(next) => section = next.to_owned(),
            None if section.starts_with("ip ") => script += &format!("ip {line}\n"),
            None => {
                saved += &format!("{line}\n");
                if line == "COMMIT" {
                    script += &format!("{iptables}-restore --noflush <<'END'\n{saved}END\n");
                    saved.clear();
                }
            }
        }
    }
    assert_eq!(saved, "", "{name}: no COMMIT");
    script
}

/// Returns the lines of a file, and of those that it includes.
fn lines(name: &str) -> Vec<String> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vpc-ipam-linux/tests/kernel/migrate");
    let text = fs::read_to_string(folder.join(name).with_extension("txt")).unwrap();
    let facts = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let included = |line: &str| match line.strip_prefix("include ") {
        Some(other) => lines(other),
        None => vec![line.to_owned()],
    };
    facts.flat_map(included).collect()
}

fn check(script: &str, files: &tempfile::TempDir) -> (Output, Value) {
    let output = run(script, files, &["check", "--json"], "");
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|error| panic!("{error}: {output:?}\n{script}"));
    (output, said)
}

/// Runs `vpc-ipam migrate` in a network namespace that a script makes, and something afterwards.
fn run(script: &str, files: &tempfile::TempDir, arguments: &[&str], after: &str) -> Output {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_vpc-ipam"));
    let units = files.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("vpc-ipamd.service"), "[Service]\nExecStart=/usr/bin/vpc-ipamd\n")
        .unwrap();
    let arguments: Vec<String> = arguments.iter().map(|it| format!("'{it}'")).collect();
    let script = format!(
        "set -e\n{script}set +e\n{} migrate {} --root {} --env-file /etc/vpc-ipam.env\ncode=$?\n{after}\nexit $code\n",
        program.display(),
        arguments.join(" "),
        files.path().display()
    );
    let output = Command::new("unshare")
        .args(["--net", "/bin/sh", "-c", &script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(
        !says.contains("unshare: unshare failed"),
        "{says}\nRun the tests with scripts/test.sh instead of cargo test."
    );
    output
}
