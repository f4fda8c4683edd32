use std::path::Path;
use std::process::Output;

use crate::runtime::{
    Pod, address, kept_of_pods, net, netns, run, settled, spec, start, status, wait_for,
    wait_for_no_pods, wait_until,
};

#[test]
fn what_is_damaged_comes_back() {
    let node = start(&spec("m5.large"));
    // More than the primary ENI carries.
    let pods: Vec<Pod> = (0..12).map(|n| Pod::new(&node, &format!("p{n}"))).collect();
    let addresses: Vec<String> = pods.iter().map(|pod| address(&pod.add(&node.address))).collect();
    let before = settled(&node);
    let repairs = status(&node).repairs;
    let on_second = before.iter().find(|line| line.starts_with("1536:")).expect("a second ENI");
    let second = on_second.split_whitespace().nth(2).unwrap();
    assert!(addresses.iter().any(|address| address == second), "{on_second}");

    let damages = [
        "ip link set eth1 down".to_owned(),
        "ip route flush table 2".to_owned(),
        format!("ip rule del pref 1536 from {second}"),
        format!("ip route del {second}"),
        "ip rule del pref 1024".to_owned(),
        "ip rule del pref 32765".to_owned(),
        "nft flush ruleset".to_owned(),
        "ip link set eth1 mtu 1500".to_owned(),
    ];
    for damage in &damages {
        run(&netns(&node), damage);
        wait_for(&node, damage, &before);
    }

    let after = status(&node);
    assert!(after.repairs > repairs, "{after:?}");
    assert!(after.repaired >= after.repairs, "{after:?}");
    node.stop().unwrap();
}

#[test]
fn pod_that_dies_without_del_leaves_its_address_until_its_time_is_up() {
    let assigned = |node: &_| status(node).enis.iter().map(|eni| eni.assigned).sum::<u32>();
    // How long it cools down; that is what it takes.
    for cooldown in ["30", "1"] {
        let mut spec = spec("m5.large");
        spec.vars = vec![("IP_COOLDOWN_PERIOD".to_owned(), cooldown.to_owned())];
        let node = start(&spec);
        let pod = Pod::new(&node, "a");
        pod.add(&node.address);
        assert_ne!(kept_of_pods(&node), [] as [&str; 0]);
        let name = pod.name.clone();

        pod.die();

        wait_for_no_pods(&node);
        if cooldown == "30" {
            assert_eq!(assigned(&node), 1, "its address");
        } else {
            wait_until("the address to be released", || match assigned(&node) {
                0 => Ok(()),
                count => Err(count.to_string()),
            });
            assert!(net(&node, &["diff"]).status.success());
        }
        // The runtime may call DEL later, for a namespace that is not there.
        let call = vpc_ipam::lab::PluginCall::del(&name, None);
        node.address.call_plugin(&call).unwrap();
        assert_eq!(assigned(&node), 0);
        node.stop().unwrap();
    }
}

/// Its runtime has it still, and an operator finds what is wrong with it.
#[test]
fn pod_whose_link_alone_is_gone_keeps_its_address_while_its_namespace_is_there() {
    let assigned = |node: &_| status(node).enis.iter().map(|eni| eni.assigned).sum::<u32>();
    let node = start(&spec("m5.large"));
    let (broken, gone) = (Pod::new(&node, "broken"), Pod::new(&node, "gone"));
    let given = [&broken, &gone].map(|pod| address(&pod.add(&node.address)));
    for pod in [&broken, &gone] {
        run(&pod.netns, "ip link del eth0");
    }

    gone.die();

    wait_until("the address of the pod that is gone", || match assigned(&node) {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    let output = net(&node, &["diff"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("no link: ") && text.contains("of pod aws-cni/broken/eth0"), "{text}");
    // It is added again, as it was.
    assert_eq!(address(&broken.add(&node.address)), given[0]);
    assert!(net(&node, &["diff"]).status.success());
    broken.del(&node.address);
    node.stop().unwrap();
}

#[test]
fn pods_that_come_and_go_are_no_damage() {
    let node = start(&spec("m5.large"));
    settled(&node);
    let repairs = status(&node).repairs;

    for name in ["a", "b", "c"] {
        let pod = Pod::new(&node, name);
        pod.add(&node.address);
        pod.del(&node.address);
        pod.die();
    }

    wait_for_no_pods(&node);
    assert_eq!(status(&node).repairs, repairs);
    node.stop().unwrap();
}

#[test]
fn command_tells_what_differs_and_puts_it_right() {
    let mut node = start(&spec("m5.large"));
    settled(&node);
    // Of this the kernel sends no event.
    let damage = || run(&netns(&node), "sysctl -qw net.ipv4.tcp_early_demux=0");
    let lines = |output: &Output| -> Vec<String> {
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    };
    let told = "sysctl net.ipv4.tcp_early_demux=1";
    damage();
    let cases: [(&[&str], i32, &[String]); 6] = [
        (&["diff"], 1, &[format!("different: {told}, is 0")]),
        (&["repair", "--dry-run"], 1, &["sysctl -w net.ipv4.tcp_early_demux=1".to_owned()]),
        (&["diff"], 1, &[format!("different: {told}, is 0")]),
        (&["repair"], 0, &[format!("put right: different: {told}, is 0")]),
        (&["repair", "--dry-run"], 0, &[]),
        (&["diff"], 0, &[]),
    ];
    for (arguments, code, expected) in cases {
        let output = net(&node, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert_eq!(lines(&output), expected, "{arguments:?}");
    }

    damage();
    let output = net(&node, &["diff", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["differences"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["commands"][0], "sysctl -w net.ipv4.tcp_early_demux=1", "{json}");

    node.stop_daemon().unwrap();
    let output = net(&node, &["diff"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is vpc-ipamd running?"),
        "{output:?}"
    );
    node.stop().unwrap();
}

#[test]
fn printed_commands_are_those_that_repair() {
    let mut node = start(&spec("m5.large"));
    let before = settled(&node);
    let socket = node.address.socket.clone();
    let netns = netns(&node);
    run(&netns, "sysctl -qw net.ipv4.tcp_early_demux=0");
    let output = net(&node, &["repair", "--dry-run"]);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        run(&netns, line);
    }
    assert_eq!(net(&node, &["diff"]).status.code(), Some(0));
    assert_eq!(settled(&node), before);
    node.stop_daemon().unwrap();
    assert!(!Path::new(&socket).exists());
    node.stop().unwrap();
}

#[test]
fn link_that_is_fought_over_is_put_right_ever_more_seldom() {
    let node = start(&spec("m5.large"));
    settled(&node);
    let netns = netns(&node);
    let mut repaired = Vec::new();
    let begun = std::time::Instant::now();
    // Another program removes the rule whenever it is there.
    wait_until("the daemon to hold back", || {
        if run(&netns, "ip rule show pref 1024").contains("fwmark") {
            run(&netns, "ip rule del pref 1024");
            repaired.push(begun.elapsed());
        }
        if repaired.len() > 6 { Ok(()) } else { Err(format!("{repaired:?}")) }
    });
    // From 100 ms the distance doubles with each repair: the sixth comes 3.2 s after the fifth at the earliest.
    let last = repaired[6] - repaired[5];
    assert!(last > core::time::Duration::from_secs(1), "{repaired:?}");
    node.stop().unwrap();
}
