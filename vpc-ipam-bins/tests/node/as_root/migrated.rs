//! A container runtime on a node that is moved over from amazon-vpc-cni-k8s and back.

use core::net::IpAddr;
use std::process::{Child, Stdio};

use vpc_ipam_core::Lease;
use vpc_ipam_tests::old_node::{Mode, OldNode};

use super::containerd::Containerd;
use crate::agreement::leases;
use crate::support::{printed, wait_until};

#[test]
fn containerd_calls_the_plugin_of_the_daemon_that_has_the_node() {
    let mut node = OldNode::start(Mode::named("default"), "m5.xlarge", 3);
    let mut containerd = Containerd::start(&node.lab);
    containerd.cni_conf_dir = node.root.join("etc/cni/net.d");
    containerd.cni_bin_dir = node.root.join("opt/cni/bin");
    let calls_about = |node: &OldNode, name: &str, command: &str| {
        let begin = format!("{command} {name} ");
        node.old_calls().iter().filter(|call| call.starts_with(&begin)).count()
    };

    let before = containerd.run("before");
    let own = IpAddr::V4(containerd.address("before"));
    assert_eq!(node.checkpoint_addresses().get("default-before"), Some(&own));
    let about_before = calls_about(&node, "default-before", "ADD");
    assert_eq!(about_before, 1, "{:?}", node.old_calls());

    node.stop_old_daemon();
    let output = node.run(&mut node.migrate(&["to"]));
    assert!(output.status.success(), "{}", printed(&output));
    let there = containerd.run("there");
    let given = IpAddr::V4(containerd.address("there"));
    assert_ne!(given, own);
    assert_eq!(calls_about(&node, "default-there", "ADD"), 0, "{:?}", node.old_calls());
    let leased = || -> Vec<IpAddr> {
        leases(&node.lab.address).unwrap().iter().flat_map(Lease::addresses).collect()
    };
    assert!(leased().contains(&given), "{:?}", leased());
    end(&containerd, "there", there);
    assert!(!leased().contains(&given), "{:?}", leased());
    assert_eq!(calls_about(&node, "default-there", "DEL"), 0, "{:?}", node.old_calls());
    let stays = containerd.run("stays");
    let of_stays = IpAddr::V4(containerd.address("stays"));

    let mut command = node.migrate(&["back", "--wait", "60"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let back = node.netns().run(|| command.spawn()).unwrap().unwrap();
    wait_until("the way back to wait for amazon-vpc-cni-k8s", || {
        let journal = node.root.join("var/lib/vpc-ipam/migration/journal.json");
        let journal: serde_json::Value =
            serde_json::from_slice(&std::fs::read(journal).unwrap()).unwrap();
        let steps = journal["steps"].as_array().unwrap();
        let waits = steps.iter().any(|step| step["name"] == "amazon-vpc-cni-k8s");
        if journal["direction"] == "back" && waits { Ok(()) } else { Err(format!("{journal:#}")) }
    });
    node.start_old_daemon();
    let output = back.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    let entries = node.checkpoint_addresses();
    let expected = [("default-before", own), ("default-stays", of_stays)];
    let expected = expected.map(|(container, address)| (container.to_owned(), address));
    assert_eq!(entries, expected.into());
    let after = containerd.run("after");
    let of_after = IpAddr::V4(containerd.address("after"));
    assert!(![own, of_stays].contains(&of_after), "{of_after}");
    assert_eq!(calls_about(&node, "default-after", "ADD"), 1, "{:?}", node.old_calls());

    for (name, client) in [("before", before), ("after", after)] {
        end(&containerd, name, client);
        assert_eq!(calls_about(&node, &format!("default-{name}"), "DEL"), 1, "{name}");
    }
    // Its client read the configuration while the node was ours, as a runtime does that is slow to look again.
    end(&containerd, "stays", stays);
    drop(containerd);
}

/// Ends a container. Its client removes its network.
fn end(containerd: &Containerd, name: &str, client: Child) {
    containerd.kill(name);
    let output = client.wait_with_output().unwrap();
    // 137: ended by SIGKILL, as asked.
    assert_eq!(output.status.code(), Some(137), "{name}: {}", printed(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
}
