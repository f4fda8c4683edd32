//! A node that amazon-vpc-cni-k8s looked after until now, or goes on looking after.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::UdpSocket;

use vpc_ipam::lab::LabNode;
use vpc_ipam_linux::pod::host_links;
use vpc_ipam_linux::{Namespace, VethPrefix};
use vpc_ipamd::Options;

use crate::daemon::{Daemon, node};
use crate::runtime::{
    Pod, address, call, kept, net, netns, run, settled, status, succeeded, wait_for,
    wait_for_no_pods, wait_until,
};

/// A pod that its plugin made.
pub(crate) struct OldPod {
    pub(crate) pod: Pod,
    pub(crate) link: String,
    pub(crate) address: IpAddr,
}

impl OldPod {
    /// Makes a pod in the order in which the plugin does.
    pub(crate) fn add(node: &LabNode, number: usize, address: IpAddr, table: Option<u32>) -> Self {
        let old = Self::begin(node, number, address);
        old.end(node, table);
        old
    }

    /// Makes its end, and gives it the address; the node knows nothing of it but the link.
    fn begin(node: &LabNode, number: usize, address: IpAddr) -> Self {
        let pod = Pod::new(node, &format!("old{number}"));
        let names = vpc_ipam_core::Pod::new("apps", &pod.name);
        let link = host_links(&names, 1, &VethPrefix::default()).next().unwrap();
        let sandbox = pod.path.file_name().unwrap().to_str().unwrap().to_owned();
        let netns = netns(node);
        run(&netns, &format!("ip link add {link} type veth peer name eth0 netns {sandbox}"));
        run(&netns, &format!("ip link set {link} up"));
        run(&pod.netns, "ip link set eth0 up");
        run(&pod.netns, "ip route add 169.254.1.1 dev eth0");
        run(&pod.netns, "ip route add default via 169.254.1.1 dev eth0");
        run(&pod.netns, &format!("ip addr add {address} dev eth0"));
        let shown = run(&netns, &format!("ip -o link show {link}"));
        let mac =
            shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let neighbour = format!("ip neigh add 169.254.1.1 lladdr {mac} dev eth0 nud permanent");
        run(&pod.netns, &neighbour);
        Self { pod, link, address }
    }

    fn end(&self, node: &LabNode, table: Option<u32>) {
        let Self { link, address, .. } = self;
        let netns = netns(node);
        run(&netns, &format!("ip route replace {address} dev {link} scope link"));
        run(&netns, &format!("ip rule add to {address} lookup main pref 512"));
        if let Some(table) = table {
            run(&netns, &format!("ip rule add from {address} lookup {table} pref 1536"));
        }
    }
}

#[test]
fn pod_is_kept_with_its_address_while_its_link_is_there() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let before = settled(&node);
    let (first, second) = (&pods[0], &pods[1]);
    let damages = [
        format!("ip route del {}", second.address),
        format!("ip rule del pref 512 to {}", second.address),
        format!("ip rule del pref 1536 from {}", second.address),
        format!("ip link set {} down", first.link),
        format!("ip link set {} down", second.link),
        format!("ip route replace blackhole {}", first.address),
        // As networkd does with ManageForeignRoutes=yes.
        "ip route flush table main scope link proto boot".to_owned(),
    ];
    for damage in &damages {
        run(&netns(&node), damage);
        wait_for(&node, damage, &before);
    }
    for link in [&first.link, &second.link] {
        for state in ["down", "up"] {
            run(&netns(&node), &format!("ip link set {link} {state}"));
        }
        wait_for(&node, link, &before);
    }
    assert!(net(&node, &["diff"]).status.success());
    // What happens while no daemon runs is found by what the last one knew.
    daemon.crash();
    for link in [&first.link, &second.link] {
        for state in ["down", "up"] {
            run(&netns(&node), &format!("ip link set {link} {state}"));
        }
    }
    run(&netns(&node), &format!("ip rule del pref 1536 from {}", second.address));
    let daemon = Daemon::start(&node);
    wait_for(&node, "a start", &before);

    // No other pod gets the addresses, however many want one.
    let used: BTreeSet<IpAddr> = pods.iter().map(|pod| pod.address).collect();
    let new = fill(&node);
    assert!(new.iter().all(|(_, address)| !used.contains(address)), "{used:?}: {new:?}");
    let all: BTreeSet<IpAddr> = new.iter().map(|(_, address)| *address).collect();
    assert_eq!(all.len(), new.len());

    // Until the pods are gone.
    for pod in pods {
        pod.pod.die();
    }
    let mut last = Vec::new();
    wait_until("the addresses of the pods that are gone", || {
        let pod = Pod::new(&node, &format!("last{}", last.len()));
        let output = call(&node.address, "ADD", &pod, "1.0.0", None);
        if output.status.success() {
            last.push((pod, address(&succeeded(&output)).parse::<IpAddr>().unwrap()));
        } else {
            pod.die();
        }
        let given: BTreeSet<IpAddr> = last.iter().map(|(_, address)| *address).collect();
        if given == used { Ok(()) } else { Err(format!("{given:?} of {used:?}")) }
    });
    for (pod, _) in new.into_iter().chain(last) {
        pod.del(&node.address);
        pod.die();
    }
    wait_for_no_pods(&node);
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn pod_that_another_plugin_finishes_after_the_start_is_adopted() {
    let node = node();
    let (pods, daemon) = node_with_old_pods(&node);
    let address_free = free_addresses(&node)[0];
    let late = OldPod::begin(&node, 90, address_free);
    // Whether its link or its route is heard of first.
    let last = free_addresses(&node)[1];
    for old in [&late, &OldPod::begin(&node, 91, last)] {
        old.end(&node, None);
    }
    let before = settled(&node);

    let new = fill(&node);

    let used = [address_free, last];
    assert!(new.iter().all(|(_, address)| !used.contains(address)), "{used:?}: {new:?}");
    for address in used {
        run(&netns(&node), &format!("ip route del {address}"));
        run(&netns(&node), &format!("ip rule del pref 512 to {address}"));
    }
    wait_until("what leads to the pods", || {
        let kept = kept(&node);
        let missing: Vec<_> = before
            .iter()
            .filter(|line| {
                used.iter().any(|it| line.contains(&it.to_string())) && !kept.contains(line)
            })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
    assert!(net(&node, &["diff"]).status.success());
    drop(pods);
    daemon.crash();
    node.stop().unwrap();
}

/// Two pods of two daemons have one address: the one that was granted it first keeps its route, and the operator hears of it.
#[test]
fn address_of_a_running_pod_stays_its_own() {
    let node = node();
    let daemon = Daemon::start(&node);
    let ours = Pod::new(&node, "ours");
    let given: IpAddr = address(&ours.add(&node.address)).parse().unwrap();
    let before = settled(&node);
    let route = || run(&netns(&node), &format!("ip route show {given}"));
    let own = route();

    let other = OldPod::begin(&node, 90, given);
    run(&netns(&node), &format!("ip route replace {given} dev {} scope link", other.link));

    wait_until("the route", || if route() == own { Ok(()) } else { Err(route()) });
    other.pod.die();
    wait_for(&node, "the other pod is gone", &before);
    ours.del(&node.address);
    daemon.crash();
    node.stop().unwrap();
}

/// It starts with its rule for marked packets, and goes on with chains; of those of iptables-legacy the kernel sends no event.
#[test]
fn daemon_of_before_that_starts_again_is_told_and_what_it_makes_is_undone() {
    for iptables in ["iptables-nft", "iptables-legacy"] {
        let node = node();
        let (_pods, daemon) = node_with_old_pods(&node);
        let before = settled(&node);
        assert_eq!(status(&node).problems, [] as [&str; 0]);

        start_of_the_old_daemon(&netns(&node), iptables);

        let problem = wait_until("the status", || match &status(&node).problems[..] {
            [problem] => Ok(problem.clone()),
            other => Err(format!("{other:?}")),
        });
        for expected in
            ["amazon-vpc-cni-k8s works on this node beside vpc-ipamd", "two daemons", "stop one"]
        {
            assert!(problem.contains(expected), "{iptables}: {expected:?} is not in {problem:?}");
        }
        wait_until("its chains to go", || {
            let saved = run(&netns(&node), &format!("{iptables}-save"));
            if saved.contains("AWS") { Err(saved) } else { Ok(()) }
        });
        if iptables == "iptables-legacy" {
            wait_for(&node, "its rules to go", &before);
        }
        assert!(net(&node, &["diff"]).status.success(), "{iptables}");
        daemon.crash();
        node.stop().unwrap();
    }
}

#[test]
fn daemon_of_before_that_starts_again_is_told_and_left_where_nothing_is_to_be_adopted() {
    let node = node();
    make_enis(&node);
    let daemon = Daemon::start_as(&node, |options| options.adopt = false);
    let settled_before = settled(&node);

    start_of_the_old_daemon(&netns(&node), "iptables-nft");

    wait_until("the status", || match &status(&node).problems[..] {
        [problem] if problem.contains("two daemons") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let after = settled(&node);
    let added = after.iter().filter(|line| !settled_before.contains(line)).count();
    assert!(added > 0);
    assert!(run(&netns(&node), "iptables-nft-save").contains("AWS-SNAT-CHAIN-0"));
    assert!(run(&netns(&node), "ip rule show pref 1024").lines().count() == 2);
    daemon.crash();
    node.stop().unwrap();
}

/// Of its table only nft can list what is there, without the comments of iptables; iptables-save says no more than that.
#[test]
fn node_of_which_it_cannot_be_told_what_is_there_is_not_taken_over() {
    let node = node();
    make_enis(&node);
    let netns = netns(&node);
    // In one step: a chain that iptables can list would be removed before it has the rule.
    let table =
        "nft table ip nat { chain AWS-SNAT-CHAIN-0 { meta l4proto tcp ct mark 7 return; }; }";
    let make_chain = || drop(run(&netns, table));
    make_chain();
    let before = kept(&node);
    let fail = || {
        let error = Daemon::fail(&node);
        for expected in [
            "take the node over from amazon-vpc-cni-k8s: cannot tell what it left",
            "table nat of iptables-nft: has the chains AWS-SNAT-CHAIN-0",
            "--no-adopt",
        ] {
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    };

    fail();

    assert_eq!(kept(&node), before);
    // Beside the other daemon nothing is looked for, and the next start knows as little.
    Daemon::start_as(&node, |options| options.adopt = false).crash();
    fail();

    run(&netns, "nft delete table ip nat");
    let daemon = Daemon::start(&node);
    make_chain();
    let is_told = || {
        wait_until("the status", || {
            let problems = status(&node).problems;
            let told = problems.iter().any(|it| it.contains("cannot tell what amazon-vpc-cni"));
            if told { Ok(()) } else { Err(format!("{problems:?}")) }
        });
        let output = net(&node, &["diff"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("not told: cannot tell what amazon-vpc-cni-k8s left: "), "{text}");
        assert_eq!(output.status.code(), Some(2), "{text}");
    };
    is_told();
    // A node that works does not stop working.
    daemon.crash();
    let daemon = Daemon::start(&node);
    is_told();
    daemon.crash();
    node.stop().unwrap();
}

/// Which of them the old daemon released a moment ago nothing tells.
#[test]
fn addresses_without_a_pod_cool_down_when_the_node_is_taken_over() {
    let hours = |options: &mut Options| options.config.cooldown = Duration::from_secs(7200);
    // Whether something of the old daemon is there: its rule, or a pod.
    for (rule, pod) in [(true, false), (false, true), (false, false)] {
        let node = node();
        make_enis(&node);
        let there = addresses(&node);
        let free = free_addresses(&node)[0];
        if rule {
            run(&netns(&node), "ip rule add fwmark 0x80/0x80 lookup main pref 1024");
        }
        let old = pod.then(|| OldPod::add(&node, 0, there[0], None));
        let daemon = Daemon::start_as(&node, hours);
        let new = Pod::new(&node, "new");

        let given: IpAddr = address(&new.add(&node.address)).parse().unwrap();

        let case = format!("rule {rule}, pod {pod}");
        assert_eq!(there.contains(&given), !rule && !pod, "{case}: {given} of {there:?}");
        let cooling = |node: &LabNode| status(node).enis.iter().map(|eni| eni.cooling).sum::<u32>();
        let expected = if rule || pod { there.len() - usize::from(pod) } else { 0 };
        assert_eq!(cooling(&node), u32::try_from(expected).unwrap(), "{case}");
        // A start in between changes nothing about that.
        daemon.crash();
        let daemon = Daemon::start_as(&node, hours);
        assert_eq!(cooling(&node), u32::try_from(expected).unwrap(), "{case}: again");
        let next = Pod::new(&node, "next");
        let given: IpAddr = address(&next.add(&node.address)).parse().unwrap();
        assert_eq!(there.contains(&given), !rule && !pod, "{case}: {given} of {there:?}");
        let _ = (free, old);
        daemon.crash();
        node.stop().unwrap();
    }
}

#[test]
fn connections_of_addresses_without_a_pod_are_forgotten_when_the_node_is_taken_over() {
    let node = node();
    make_enis(&node);
    let [used, free] = [0, 1].map(|place| addresses(&node)[place]);
    let old = OldPod::add(&node, 0, used, None);
    let gone = OldPod::add(&node, 1, free, None);
    let netns = netns(&node);
    for pod in [&old, &gone] {
        let address = pod.address.to_string();
        let socket = pod.pod.netns.run(|| UdpSocket::bind((address.as_str(), 1000)));
        socket.unwrap().unwrap().send_to(b"x", "203.0.113.10:53").unwrap();
    }
    let listed = || run(&netns, "conntrack -L");
    for address in [used, free] {
        assert!(listed().contains(&format!("src={address} ")), "{}", listed());
    }
    gone.pod.die();
    for rule in ["pref 512 to", "pref 1536 from"] {
        let _ = netns.run(|| {
            std::process::Command::new("sh")
                .args(["-c", &format!("ip rule del {rule} {free}")])
                .output()
        });
    }

    let daemon = Daemon::start(&node);

    wait_until("the connections of the pod that is gone", || {
        let listed = listed();
        if listed.contains(&format!("src={free} ")) { Err(listed) } else { Ok(()) }
    });
    assert!(listed().contains(&format!("src={used} ")), "{}", listed());
    daemon.crash();
    node.stop().unwrap();
}

/// To this daemon, back to the old one, which deletes its pods and gives their addresses to others, and to this one again.
#[test]
fn pods_that_another_daemon_deleted_meanwhile_are_given_up() {
    let node = node();
    let daemon = Daemon::start(&node);
    let (stays, goes, taken) =
        (Pod::new(&node, "stays"), Pod::new(&node, "goes"), Pod::new(&node, "taken"));
    let given = [&stays, &goes, &taken].map(|pod| address(&pod.add(&node.address)));
    daemon.crash();
    for pod in [goes, taken] {
        pod.die();
    }
    wait_until("the links", || {
        let routes = run(&netns(&node), "ip route");
        if routes.contains(&format!("{} dev eni", given[2])) { Err(routes) } else { Ok(()) }
    });
    for rule in ["ip rule del pref 512 to", "ip rule del pref 1536 from"] {
        for address in &given[1..] {
            let _ = netns(&node).run(|| {
                std::process::Command::new("sh").args(["-c", &format!("{rule} {address}")]).output()
            });
        }
    }
    let other = OldPod::add(&node, 0, given[2].parse().unwrap(), None);

    let daemon = Daemon::start(&node);

    wait_until("the leases of the pods that are gone", || match crate::daemon::assigned(&node) {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    assert!(net(&node, &["diff"]).status.success());
    // One address is another pod's, and the other is free.
    let new = fill(&node);
    let all: BTreeSet<String> = new.iter().map(|(_, address)| address.to_string()).collect();
    assert!(all.contains(&given[1]), "{given:?}: {all:?}");
    assert!(!all.contains(&given[0]) && !all.contains(&given[2]), "{given:?}: {all:?}");
    assert_eq!(address(&stays.add(&node.address)), given[0]);
    drop(other);
    daemon.crash();
    node.stop().unwrap();
}

/// Has a node get its ENIs and addresses, with nothing that would tell of a daemon.
fn make_enis(node: &LabNode) {
    let daemon = Daemon::start(node);
    settled(node);
    daemon.crash();
    std::fs::remove_file(node.address.socket.with_file_name("state.redb")).unwrap();
}

/// Starts a daemon on a node that has pods of another: one on each of two ENIs.
pub(crate) fn node_with_old_pods(node: &LabNode) -> (Vec<OldPod>, Daemon) {
    let daemon = Daemon::start(node);
    // More than the primary ENI carries.
    let first: Vec<Pod> = (0..12).map(|n| Pod::new(node, &format!("first{n}"))).collect();
    let given: Vec<String> = first.iter().map(|pod| address(&pod.add(&node.address))).collect();
    let rules = run(&netns(node), "ip rule show pref 1536");
    let on_second = |address: &&String| rules.contains(&format!("from {address} "));
    let (second, primary): (Vec<&String>, Vec<&String>) = given.iter().partition(on_second);
    for pod in first {
        pod.del(&node.address);
        pod.die();
    }
    wait_for_no_pods(node);
    daemon.crash();
    std::fs::remove_file(node.address.socket.with_file_name("state.redb")).unwrap();
    let pods = vec![
        OldPod::add(node, 0, primary[0].parse().unwrap(), None),
        OldPod::add(node, 1, second[0].parse().unwrap(), Some(2)),
    ];
    let daemon = Daemon::start(node);
    settled(node);
    (pods, daemon)
}

/// Does what the old daemon does when it starts, as far as it concerns another.
fn start_of_the_old_daemon(netns: &Namespace, iptables: &str) {
    let shell = |line: &str| {
        let run = || std::process::Command::new("sh").args(["-ec", line]).output();
        let output = netns.run(run).unwrap().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    };
    shell(
        "ip rule del pref 1024 fwmark 0x80/0x80; ip rule add fwmark 0x80/0x80 lookup main pref 1024",
    );
    for line in [
        "-t nat -N AWS-SNAT-CHAIN-0",
        "-t nat -A POSTROUTING -m comment --comment 'AWS SNAT CHAIN' -j AWS-SNAT-CHAIN-0",
        "-t nat -A AWS-SNAT-CHAIN-0 -m comment --comment 'AWS, SNAT' -j SNAT --to-source 192.0.2.1",
        "-t mangle -A PREROUTING -i eni+ -m comment --comment 'AWS, primary ENI' -j CONNMARK --restore-mark --mask 0x80",
    ] {
        shell(&format!("{iptables} -w {line}"));
    }
}

/// Returns the addresses for pods that the node's ENIs have.
fn addresses(node: &LabNode) -> Vec<IpAddr> {
    let shown = node
        .cloud()
        .with(|cloud, now| cloud.metadata(node.address.instance_id, now).unwrap().observation.enis);
    shown.iter().flat_map(|eni| &eni.blocks).map(|net| net.addr()).collect()
}

/// Returns those of them to which nothing leads.
pub(crate) fn free_addresses(node: &LabNode) -> Vec<IpAddr> {
    let routes = run(&netns(node), "ip route");
    let led_to = |address: &IpAddr| routes.contains(&format!("{address} dev "));
    addresses(node).into_iter().filter(|address| !led_to(address)).collect()
}

/// Adds pods until the node has no address any more.
pub(crate) fn fill(node: &LabNode) -> Vec<(Pod, IpAddr)> {
    let mut pods = Vec::new();
    loop {
        let pod = Pod::new(node, &format!("new{}", pods.len()));
        let output = call(&node.address, "ADD", &pod, "1.0.0", None);
        if !output.status.success() {
            pod.die();
            return pods;
        }
        let given = address(&succeeded(&output)).parse().unwrap();
        pods.push((pod, given));
        assert!(pods.len() < 100, "it has more addresses than its type");
    }
}
