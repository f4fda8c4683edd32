//! Other programs on the node: what they do to what the daemon keeps, and what they keep.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use vpc_ipam::lab::{LabAddress, PluginCall};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{self, LabName};
use vpc_ipam_tests::program;

use crate::daemon::{self, Daemon};
use crate::runtime::{
    Pod, address, kept_of_pods, net, netns, run, settled, spec, start, status, wait_for,
    wait_for_no_pods, wait_until,
};

/// systemd-sysctl sets what its files say, tuned and kubelet what theirs do: whenever they start.
#[test]
fn kernel_variables_that_another_program_sets_come_back() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    settled(&node);
    let netns = netns(&node);
    let veth = run(&netns, "ip -o link show type veth");
    let veth = veth.lines().filter_map(|line| line.split([' ', '@']).nth(1));
    let veth = veth.into_iter().find(|name| name.starts_with("eni")).unwrap().to_owned();
    for (variable, wrong, right) in [
        ("net.ipv4.conf.eth0.rp_filter", "1", "2"),
        ("net.ipv4.ip_forward", "0", "1"),
        ("net.ipv4.conf.eth1.forwarding", "0", "1"),
        (&format!("net.ipv4.conf.{veth}.forwarding"), "0", "1"),
        (&format!("net.ipv6.conf.{veth}.forwarding"), "1", "0"),
    ] {
        run(&netns, &format!("sysctl -qw {variable}={wrong}"));

        wait_until(variable, || {
            let is = run(&netns, &format!("sysctl -n {variable}"));
            if is.trim() == right { Ok(()) } else { Err(is) }
        });
    }
    // Of this one the kernel sends no event; it is compared along with anything else.
    run(&netns, "sysctl -qw net.ipv4.tcp_early_demux=0");
    run(&netns, "ip rule del pref 1024");
    wait_until("tcp_early_demux", || {
        match run(&netns, "sysctl -n net.ipv4.tcp_early_demux").trim() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    node.stop().unwrap();
}

/// By udev, or by hand.
#[test]
fn primary_link_that_is_renamed_is_followed() {
    let node = start(&spec("m5.large"));
    settled(&node);
    let netns = netns(&node);
    for (from, to) in [("eth0", "ens5"), ("ens5", "eth0")] {
        run(&netns, &format!("ip link set {from} name {to}"));

        wait_until("the rules of address translation", || {
            let rules = run(&netns, "nft list chain ip vpc-ipam restore-marks");
            let follows = rules.contains(&format!("iifname \"{to}\" fib daddr . iif"));
            if follows { Ok(()) } else { Err(rules) }
        });
        wait_until("nothing to differ", || {
            let output = net(&node, &["diff"]);
            if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
        });
    }
    node.stop().unwrap();
}

/// Calico's Felix removes routes over links of pods that do not carry its own protocol, at each of its resyncs.
#[test]
fn routes_of_pods_are_left_to_who_writes_them_under_another_protocol() {
    let node = start(&spec("m5.large"));
    let pods: Vec<Pod> = (0..5).map(|n| Pod::new(&node, &format!("p{n}"))).collect();
    for pod in &pods {
        pod.add(&node.address);
    }
    settled(&node);
    let netns = netns(&node);
    let of_ours = || -> Vec<String> {
        let routes = run(&netns, "ip -o route show proto 86");
        routes.lines().filter(|it| it.contains("dev eni")).map(str::to_owned).collect()
    };
    assert_eq!(of_ours().len(), 5);
    let resync = || {
        for route in of_ours() {
            let words: Vec<&str> = route.split_whitespace().collect();
            let (to, link) = (words[0], words[2]);
            run(&netns, &format!("ip route del {to} dev {link}"));
            // The daemon may be faster: then the kernel refuses, and Felix tries again with the next resync.
            let add = ["ip", "route", "add", to, "dev", link, "scope", "link", "proto", "boot"];
            let _ = netns.run(|| Command::new(add[0]).args(&add[1..]).output()).unwrap().unwrap();
        }
        settled(&node);
    };
    for _ in 0..3 {
        resync();
    }

    assert_eq!(of_ours(), [] as [String; 0], "there is nothing left to fight over");
    let repairs = status(&node).repairs;
    resync();
    assert_eq!(status(&node).repairs, repairs);
    assert!(net(&node, &["diff"]).status.success());
    for pod in &pods {
        pod.del(&node.address);
    }
    wait_until("the pods' routes and rules to go", || match kept_of_pods(&node) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    node.stop().unwrap();
}

/// nm-cloud-setup sends what has a secondary address as its source by its own tables.
#[test]
fn what_another_program_has_that_diverts_packets_is_told_and_left() {
    let node = start(&spec("m5.large"));
    let pods: Vec<Pod> = (0..12).map(|n| Pod::new(&node, &format!("p{n}"))).collect();
    let addresses: Vec<String> = pods.iter().map(|pod| address(&pod.add(&node.address))).collect();
    settled(&node);
    let netns = netns(&node);
    assert!(net(&node, &["diff"]).status.success());
    let by_eni = run(&netns, "ip rule show pref 1536");
    let other = addresses.iter().find(|it| by_eni.contains(&format!("from {it} "))).unwrap();
    let foreign = [
        format!("rule add from {other} lookup 30400 pref 1400 proto static"),
        "route add default via 10.0.0.1 dev eth0 table 30400 proto static".to_owned(),
        format!("rule add blackhole to {} pref 7", addresses[0]),
    ];
    let own = run(&netns, "ip rule");
    for command in &foreign {
        run(&netns, &format!("ip {command}"));
    }
    let told = [
        format!(
            "conflict: rule 1400: from {other} lookup 30400 proto static diverts what {other} sends; likely author: \
             systemd-networkd, NetworkManager, or an administrator"
        ),
        format!(
            "conflict: rule 7: to {0} refuse proto unspec diverts what is sent to {0}; likely author: an administrator's \
             command or script",
            addresses[0]
        ),
    ];

    for action in ["diff", "repair"] {
        let output = net(&node, &[action]);

        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), told, "{action}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&net(&node, &["diff", "--json"]).stdout).unwrap();
    assert_eq!(json["conflicts"], serde_json::json!(told));
    assert_eq!(json["differences"], serde_json::json!([]));
    assert_eq!(run(&netns, "ip rule").lines().count(), own.lines().count() + 2);
    run(&netns, "ip rule del pref 7");
    run(&netns, "ip route flush table 30400");
    run(&netns, "ip rule del pref 1400");
    assert!(net(&node, &["diff"]).status.success());
    assert_eq!(run(&netns, "ip rule"), own);
    for pod in &pods {
        pod.del(&node.address);
    }
    wait_for_no_pods(&node);
    node.stop().unwrap();
}

#[test]
fn routes_that_are_replaced_by_others_come_back() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    let address = address(&pod.add(&node.address));
    let before = settled(&node);
    for damage in [
        format!("ip route replace blackhole {address}"),
        format!("ip route replace {address} dev eth0 proto static"),
        "ip route replace unreachable default table 2".to_owned(),
        "ip route replace default via 10.0.0.1 dev eth0 table 2".to_owned(),
    ] {
        run(&netns(&node), &damage);
        wait_for(&node, &damage, &before);
    }
    node.stop().unwrap();
}

/// The namespace may be another pod's too, or live on: then the interface has to go, since another pod gets the address.
#[test]
fn interface_goes_with_del_while_the_namespace_lives() {
    let node = start(&spec("m5.large"));
    let (gone, stays) = (Pod::new(&node, "gone"), Pod::new(&node, "stays"));
    for pod in [&gone, &stays] {
        pod.add(&node.address);
    }
    let links = |pod: &Pod| run(&pod.netns, "ip -o link").lines().count();
    assert_eq!((links(&gone), links(&stays)), (2, 2));

    gone.del(&node.address);

    wait_until("the interface to go", || match links(&gone) {
        1 => Ok(()),
        _ => Err(run(&gone.netns, "ip addr")),
    });
    assert_eq!(links(&stays), 2);
    // It may come back at once.
    for _ in 0..3 {
        gone.add(&node.address);
        gone.del(&node.address);
    }
    gone.add(&node.address);
    settled(&node);
    assert_eq!(links(&gone), 2);
    node.stop().unwrap();
}

/// nft that does not answer, or iptables that waits for its lock.
#[test]
fn nothing_but_address_translation_waits_for_nft() {
    let hangs = HangingNft::new();
    let node = Process::start(&hangs.folder);
    let netns = Namespace::named(&node.address.node_netns).unwrap();
    let pods: Vec<_> =
        (0..4).map(|n| lab::add_pod(&node.name, &format!("p{n}")).unwrap()).collect();
    let add = |n: usize| {
        let pod = format!("p{n}");
        let call = PluginCall::add(&pod, pods[n].path());
        node.address.call_plugin(&call).unwrap_or_else(|error| panic!("{error:?}"));
    };
    add(0);
    hangs.begin();
    // Its table has to be compared.
    run(&netns, "/usr/sbin/nft add chain ip vpc-ipam stray");
    wait_until("nft to hang", || if hangs.is_run() { Ok(()) } else { Err(String::new()) });

    run(&netns, "ip rule del pref 1024");

    wait_until("the rule", || match run(&netns, "ip rule show pref 1024") {
        rule if rule.contains("fwmark") => Ok(()),
        other => Err(other),
    });
    // More than the primary ENI carries: another has to be set up.
    (1..4).for_each(add);
    assert!(run(&netns, "ip rule show pref 1536").contains("lookup 2"));
    let chains = || run(&netns, "/usr/sbin/nft list table ip vpc-ipam");
    assert!(chains().contains("stray"), "{}", chains());

    hangs.end();
    wait_until("the table", || {
        let chains = chains();
        if chains.contains("stray") { Err(chains) } else { Ok(()) }
    });
}

/// A program in the place of nft that hangs while a file is there.
struct HangingNft {
    folder: tempfile::TempDir,
}

impl HangingNft {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let program = folder.path().join("nft");
        let script = format!(
            "#!/bin/sh\nwhile [ -e {path}/hang ]; do touch {path}/run; sleep 0.1; done\nexec /usr/sbin/nft \"$@\"\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn begin(&self) {
        fs::write(self.folder.path().join("hang"), "").unwrap();
    }

    fn is_run(&self) -> bool {
        self.folder.path().join("run").exists()
    }

    fn end(&self) {
        fs::remove_file(self.folder.path().join("hang")).unwrap();
    }
}

/// A node in a box with a process of its own, so that it finds other programs.
struct Process {
    child: Child,
    name: LabName,
    address: LabAddress,
}

impl Process {
    fn start(programs: &tempfile::TempDir) -> Self {
        let name = spec("t3.small").name;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new(program("vpc-ipam"))
            .args(["lab", "up", "--json", "--instance-type", "t3.small", "--name"])
            .arg(name.to_string())
            .env("PATH", format!("{}:{path}", programs.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, name, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
    }
}

/// As /etc/iproute2/rt_tables suggests, administrators take small numbers.
#[test]
fn pods_are_served_beside_a_program_that_uses_the_table_of_an_eni() {
    let node = daemon::node();
    let netns = netns(&node);
    for command in [
        "ip route add default via 10.0.0.1 dev eth0 table 2 proto static",
        "ip rule add from 192.0.2.7 lookup 2 pref 100 proto static",
    ] {
        run(&netns, command);
    }
    let daemon = Daemon::start(&node);
    // More than the primary ENI carries.
    let pods: Vec<Pod> = (0..12).map(|n| Pod::new(&node, &format!("p{n}"))).collect();
    for pod in &pods {
        pod.add(&node.address);
    }
    let kept = || {
        let lists = ["ip route show table 2", "ip rule show pref 100"];
        lists.map(|list| run(&netns, list).trim().to_owned())
    };
    let foreign = [
        "default via 10.0.0.1 dev eth0 proto static",
        "100:\tfrom 192.0.2.7 lookup 2 proto static",
    ];
    let expect_served = || {
        let from_pods = run(&netns, "ip rule show pref 1536");
        assert!(from_pods.lines().count() > 0, "{from_pods}");
        assert!(from_pods.lines().all(|line| line.contains("lookup 86002")), "{from_pods}");
        assert_eq!(run(&netns, "ip route show table 86002").lines().count(), 2);
        assert_eq!(kept(), foreign);
        assert!(net(&node, &["diff"]).status.success());
    };
    settled(&node);
    expect_served();
    daemon.crash();

    let daemon = Daemon::start(&node);
    settled(&node);
    expect_served();

    for pod in pods {
        pod.del(&node.address);
        pod.die();
    }
    wait_for_no_pods(&node);
    assert_eq!(kept(), foreign);
    daemon.crash();
    node.stop().unwrap();
}
