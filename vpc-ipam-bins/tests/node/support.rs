//! A node in a box for a test, and what can be seen of it from outside.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::process::{Command, Output};
use std::time::Instant;

use vpc_ipam::lab::{LabNode, LabSpec, quick};
use vpc_ipam_core::error_chain;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName};
use vpc_ipam_tests::program;

pub(crate) use vpc_ipam_tests::signal;

/// Returns a name that no other lab has.
pub(crate) fn unused_name() -> LabName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("bins{}n{count}", std::process::id()).parse().unwrap()
}

/// Returns a spec for a node that releases quickly what it no longer needs.
pub(crate) fn spec(instance_type: &str) -> LabSpec {
    lab::requirements().unwrap_or_else(|unmet| {
        panic!("{unmet}\nRun the tests with scripts/test.sh instead of cargo test.")
    });
    // The lab runs the plugin that is beside it.
    program("vpc-cni");
    LabSpec {
        vars: vec![("IP_COOLDOWN_PERIOD".to_owned(), "1".to_owned())],
        timing: Some(quick()),
        ..LabSpec::new(unused_name(), instance_type.parse().unwrap())
    }
}

pub(crate) fn start(spec: &LabSpec) -> LabNode {
    LabNode::start(spec).unwrap_or_else(|error| panic!("{}", error_chain(&error)))
}

/// Returns everything that the kernel holds for the node: links, addresses, routes, rules, neighbours that stay, NAT.
pub(crate) fn kernel_state(node: &LabNode) -> String {
    let netns = Namespace::named(&node.address.node_netns).unwrap();
    let commands: [&[&str]; 6] = [
        &["ip", "-o", "link"],
        &["ip", "-o", "-4", "address"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "rule"],
        &["ip", "neighbour", "show", "nud", "permanent"],
        &["nft", "--stateless", "list", "ruleset"],
    ];
    let printed =
        commands.map(|command| format!("$ {}\n{}", command.join(" "), run(&netns, command)));
    let variables = ["conf/all/rp_filter", "ip_forward"].map(|name| {
        let file = format!("/proc/sys/net/ipv4/{name}");
        let value = netns.run(|| std::fs::read_to_string(&file)).unwrap().unwrap();
        format!("{file}: {value}")
    });
    printed.concat() + &variables.concat()
}

/// Returns what the kernel holds once nothing about it changes any more.
pub(crate) fn settled_state(node: &LabNode) -> String {
    let mut seen = vec![kernel_state(node)];
    wait_until("the node to converge", || {
        std::thread::sleep(Duration::from_millis(50));
        let state = kernel_state(node);
        if seen[0] != state {
            seen.clear();
        }
        seen.push(state);
        if seen.len() > 5 { Ok(()) } else { Err(seen[0].clone()) }
    });
    seen.remove(0)
}

/// Runs a program in a namespace, and returns what it printed; panics when it fails.
pub(crate) fn run(netns: &Namespace, command: &[&str]) -> String {
    let output = netns.run(|| Command::new(command[0]).args(&command[1..]).output()).unwrap();
    let output = output.unwrap_or_else(|error| panic!("run {}: {error}", command[0]));
    assert!(output.status.success(), "{command:?}: {}", printed(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns what a program printed, on both ways.
pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until something is so; panics with what it was last, when it does not come about in half a minute.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) if Instant::now() > deadline => panic!("{what}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Waits until what the kernel holds is as it was.
pub(crate) fn wait_for_state(node: &LabNode, before: &str) {
    wait_until("the kernel's state", || {
        let after = kernel_state(node);
        if after == before { Ok(()) } else { Err(format!("\nbefore\n{before}\nafter\n{after}")) }
    });
}

/// Returns the addresses that EC2 has assigned to the node, by ENI, as text.
pub(crate) fn assigned_by_ec2(node: &LabNode) -> Vec<String> {
    let instance = node.address.instance_id;
    node.cloud().with(|cloud, _| {
        let ours = cloud.interfaces().filter(|eni| {
            eni.attachment.as_ref().is_some_and(|attachment| attachment.instance == instance)
        });
        ours.map(|eni| format!("{} {:?}", eni.id, eni.ipv4)).collect()
    })
}

/// Returns what is left of a lab: namespaces, folders.
pub(crate) fn left_of(name: &LabName) -> Vec<String> {
    let mut left = Namespace::names().unwrap();
    left.retain(|netns| netns.starts_with(&format!("vil-{name}-")));
    let folder = vpc_ipam::lab::folder(name);
    if folder.exists() {
        left.push(folder.display().to_string());
    }
    left
}
