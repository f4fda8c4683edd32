//! What once broke in amazon-vpc-cni-k8s, by the version that mended it. More of them stand beside what they are about.

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{HostConfig, KernelNetlink, NatPrograms, Netlink as _, SnatPorts, host};

use crate::support::{
    INTERNET, NODE_PORT, Vpc, add, add_pods, chain, lease, metadata, network, node_with_pods,
    remove, settings, source_seen, source_seen_by,
};

/// 1.2.1 and 1.4.0: the primary interface is not always eth0.
#[test]
fn v1_2_1_primary_interface_has_any_name() {
    let vpc = Vpc::new();
    for step in [
        "link set eth0 down",
        "link set eth0 name ens5",
        "link set ens5 up",
        "route add default via 10.0.0.1 dev ens5",
    ] {
        vpc.node.ip(step);
    }
    vpc.set_up_host(&HostConfig::default());
    let [_a, b, _c] = add_pods(&vpc, &mut vpc.node.netlink());

    assert_eq!(vpc.node.sysctl("net/ipv4/conf/ens5/rp_filter"), "2");
    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    lead_node_port_to(&vpc, "10.0.0.101");
    let (fabric, listens) = (&vpc.fabric.namespace, "10.0.0.101:80");
    let client = source_seen_by(fabric, &b.namespace, NODE_PORT, listens);
    assert_eq!(client.as_deref(), Some("10.0.0.1"));
}

/// 1.3.0, 1.7.0 and 1.8.0: a VPC has several ranges, and they change while the node runs.
#[test]
fn v1_7_0_ranges_of_the_vpc_come_and_go() {
    let (vpc, pods) = node_with_pods(&HostConfig::default());
    let set = |cidrs: &[&str]| {
        let vpc_ipv4_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let facts = HostFacts { vpc_ipv4_cidrs, ..vpc.host_facts() };
        let config = HostConfig::default();
        host::set_up(&mut vpc.node.netlink(), &config, &facts).unwrap();
    };
    let own = ["10.0.0.100", "10.0.0.101", "10.0.32.102"];
    for (cidrs, translated) in [
        (&["10.0.0.0/16", "203.0.113.0/24"][..], false),
        (&["10.0.0.0/16"], true),
        (&["203.0.113.0/24", "10.0.0.0/16", "100.64.0.0/16"], false),
    ] {
        set(cidrs);
        for (pod, own) in pods.iter().zip(own) {
            let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
            let expected = if translated { "10.0.0.10" } else { own };
            assert_eq!(seen.as_deref(), Some(expected), "{cidrs:?}");
        }
    }
}

/// 1.4.0: the rule did not match when other bits of the mark were set.
#[test]
fn v1_4_0_other_bits_of_the_mark_do_not_matter_and_stay() {
    let (vpc, [_a, b, _c]) = node_with_pods(&HostConfig::default());
    vpc.node.nft(
        "table ip other { chain c { type filter hook prerouting priority -300; meta mark set 0x4001; }; \
         chain d { type filter hook postrouting priority 200; oifname eth0 meta mark & 0x4001 == 0x4001 counter; }; }",
    );
    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    let other = vpc.node.exec("nft list chain ip other d");
    assert!(!other.contains("packets 0 "), "{other}");
}

/// 1.4.0: the route of the previous pod with the address was left, and the new one not added beside it.
#[test]
fn v1_4_0_leftover_route_of_an_address_is_replaced() {
    let vpc = Vpc::new();
    vpc.node.ip("route add 10.0.0.100 dev lo");
    let network = network("a", 0, "10.0.0.100");
    let pod = add(&vpc.node, &network);
    let routes = vpc.node.json("route show 10.0.0.100");
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!(routes[0]["dev"], json!(network.interfaces[0].host.name));
    assert_eq!(pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), &network).unwrap(), []);
}

/// 1.5.0: iptables was run without waiting for its lock.
#[test]
fn v1_5_0_lock_of_iptables_is_waited_for() {
    let vpc = Vpc::new();
    let programs =
        NatPrograms { nft: "/nonexistent/nft".into(), iptables: vec!["iptables-legacy".into()] };
    let mut netlink = vpc.node.netlink().with_nat_programs(programs);
    let lock = fs::File::create("/run/xtables.lock").unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&lock.metadata().unwrap());
    let waited_for = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let of_file = |line: &&str| line.contains(&format!(":{inode} "));
        locks.lines().filter(of_file).any(|line| line.contains("->"))
    };

    std::thread::scope(|scope| {
        let applied = scope.spawn(|| {
            host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts()).map(drop)
        });
        while !waited_for() && !applied.is_finished() {
            std::thread::yield_now();
        }
        assert!(!applied.is_finished(), "{:?}", applied.join());
        flock(&lock, FlockOperation::Unlock).unwrap();
        applied.join().unwrap().unwrap_or_else(|error| panic!("{}", chain(&error)));
    });
}

/// 1.5.7 and 1.6.1: a pod that advertises itself as a router steered the node.
#[test]
fn v1_6_1_pod_does_not_steer_the_node() {
    let vpc = Vpc::with_ipv6();
    let network = network("a", 0, "10.0.0.100");
    let _pod = add(&vpc.node, &network);
    let name = &network.interfaces[0].host.name;
    assert_eq!(vpc.node.sysctl(&format!("net/ipv6/conf/{name}/accept_ra")), "0");
    // Also where forwarding is on and switched on again.
    vpc.node.exec("sysctl -qw net.ipv6.conf.all.forwarding=0");
    vpc.node.exec("sysctl -qw net.ipv6.conf.all.forwarding=1");
    assert_eq!(vpc.node.sysctl(&format!("net/ipv6/conf/{name}/accept_ra")), "0");
}

/// 1.7.3 and 1.7.4.
#[test]
fn v1_7_3_early_demultiplexing_follows_its_flag() {
    let vpc = Vpc::new();
    for tcp_early_demux in [false, true, false] {
        vpc.set_up_host(&HostConfig { tcp_early_demux, ..HostConfig::default() });
        let expected = if tcp_early_demux { "1" } else { "0" };
        assert_eq!(vpc.node.sysctl("net/ipv4/tcp_early_demux"), expected);
    }
}

/// 1.4.0, 1.7.0 and 1.11.4: ports collide unless they are random; and where `fully-random` is not known, `random` serves.
#[test]
fn v1_7_0_ports_are_random_even_where_fully_random_is_not_known() {
    let folder = Folder::new("old");
    let fully_random = HostConfig { snat_ports: SnatPorts::FullyRandom, ..HostConfig::default() };
    let says = "syntax error: snat to 10.0.0.10 fully-random";
    let old_nft = folder.program("nft", "nft", "fully-random", says);
    let says = r#"unknown option "--random-fully""#;
    let restore = "iptables-nft-restore";
    let old_iptables = folder.program(restore, restore, "random-fully", says);
    for other in ["iptables-nft-save", "ip6tables-nft-save", "ip6tables-nft-restore"] {
        fs::copy(format!("/usr/sbin/{other}"), folder.0.join(other)).unwrap();
    }
    let nft = NatPrograms { nft: old_nft, iptables: Vec::new() };
    let stem = old_iptables.to_str().unwrap().strip_suffix("-restore").unwrap().into();
    let iptables = NatPrograms { nft: "/nonexistent/nft".into(), iptables: vec![stem] };
    let cases = [
        (nft, "nft list table ip vpc-ipam", "snat to 10.0.0.10 random\n"),
        (iptables, "iptables-nft-save", "--to-source 10.0.0.10 --random\n"),
    ];
    for (programs, list, expected) in cases {
        let vpc = Vpc::new();
        let set_up = || {
            let mut netlink = vpc.node.netlink().with_nat_programs(programs.clone());
            let applied = host::set_up(&mut netlink, &fully_random, &vpc.host_facts());
            applied.unwrap_or_else(|error| panic!("{}", chain(&error))).len()
        };
        assert_ne!(set_up(), 0);
        let listed = vpc.node.exec(list);
        assert!(listed.contains(expected), "{listed}");
        assert_eq!(set_up(), 0, "again");
    }
}

/// A program that fails for another reason knows the keyword as well as before.
#[test]
fn ports_stay_fully_random_after_a_failure_that_is_not_about_them() {
    let folder = Folder::new("busy");
    let config = HostConfig { snat_ports: SnatPorts::FullyRandom, ..HostConfig::default() };
    let restore = "iptables-nft-restore";
    fs::copy("/usr/sbin/iptables-nft-save", folder.0.join("iptables-nft-save")).unwrap();
    let busy = "Device or resource busy";
    let nft = folder.program("nft", "nft", "fully-random", busy);
    folder.program(restore, restore, "random-fully", busy);
    let cases = [
        NatPrograms { nft, iptables: Vec::new() },
        NatPrograms {
            nft: "/nonexistent/nft".into(),
            iptables: vec![folder.0.join("iptables-nft")],
        },
    ];
    for programs in cases {
        let vpc = Vpc::new();
        let mut netlink = vpc.node.netlink().with_nat_programs(programs.clone());
        let error = host::set_up(&mut netlink, &config, &vpc.host_facts()).unwrap_err();
        assert!(chain(&error).contains(busy), "{programs:?}: {}", chain(&error));
        let saved = vpc.node.exec("iptables-nft-save");
        assert!(!saved.contains("SNAT"), "{programs:?}: {saved}");
        assert_eq!(vpc.nat(), None, "{programs:?}");
    }
}

/// 1.8.0: traffic to elsewhere than the VPC left by another ENI than its answers came in by.
#[test]
fn v1_8_0_all_of_a_connection_uses_the_primary_eni() {
    let (vpc, [_a, b, _c]) = node_with_pods(&HostConfig::default());
    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    assert_eq!(vpc.drops("eth1"), 0);
}

/// 1.12.6: Services outside of the VPC that only the primary ENI reaches.
#[test]
fn v1_12_6_external_service_ranges_use_the_main_table() {
    let vpc = Vpc::new();
    let config = |cidrs: &[&str]| HostConfig {
        service_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..HostConfig::default()
    };
    // One of amazon-vpc-cni-k8s, of an earlier configuration, and one of another program.
    vpc.node.ip("rule add to 192.0.2.0/24 lookup main pref 1535");
    vpc.node.ip("rule add to 198.51.100.0/24 lookup 77 pref 1535 protocol 99");
    for cidrs in [&["172.20.0.0/16", "172.21.0.0/16"][..], &["172.21.0.0/16"], &[]] {
        vpc.set_up_host(&config(cidrs));
        let mut expected: Vec<_> = cidrs.iter().map(|cidr| net(cidr, "main")).collect();
        let mut rules: Vec<_> = vpc
            .node
            .json("rule show pref 1535")
            .iter()
            .map(|rule| {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                format!("{}/{} {}", text("dst"), rule["dstlen"], text("table"))
            })
            .collect();
        expected.push(net("198.51.100.0/24", "77"));
        expected.sort();
        rules.sort();
        assert_eq!(rules, expected, "{cidrs:?}");
        assert_eq!(vpc.set_up_host(&config(cidrs)), 0, "{cidrs:?}: again");
    }
}

/// 1.23.0: virtual addresses of IPVS are on a link of the node, and what is behind them is chosen later.
#[test]
fn v1_23_0_connections_to_local_addresses_are_not_marked() {
    let (vpc, [_a, b, _c]) = node_with_pods(&HostConfig::default());
    vpc.node.ip("addr add 172.20.0.99/32 dev lo");
    let seen = source_seen(&b.namespace, &vpc.node.namespace, "172.20.0.99:80");
    assert_eq!(seen.as_deref(), Some("10.0.0.101"));
    let connections = vpc.node.exec("conntrack -L -p tcp --dst 172.20.0.99");
    assert!(connections.contains("mark=0"), "{connections}");
}

/// Not in any version of amazon-vpc-cni-k8s: pods that were added under another prefix lost the internet, and their DEL left rules.
#[test]
fn pods_of_an_earlier_veth_prefix_stay_connected_and_are_removed() {
    let (vpc, [_a, b, _c]) = node_with_pods(&HostConfig::default());
    let config = HostConfig { veth_prefix: "pod".parse().unwrap(), ..HostConfig::default() };
    let facts = || {
        let metadata = metadata();
        host::facts(&mut vpc.node.netlink(), &metadata, &config, &Default::default()).unwrap()
    };
    assert_eq!(facts().other_prefixes, ["eni".parse().unwrap()]);

    host::set_up(&mut vpc.node.netlink(), &config, &facts()).unwrap();

    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    let lease = lease("b", "b", 0, 1, "10.0.0.101");
    let settings = PodSettings { veth_prefix: config.veth_prefix.clone(), ..settings() };
    let network = pod::desired(&lease, &settings).unwrap();
    let checked = pod::check(&mut vpc.node.netlink(), &mut b.netlink(), &network).unwrap();
    assert_eq!(checked, []);
    assert_eq!(remove(&vpc.node, &network), [] as [core::net::IpAddr; 0]);
    assert_eq!(vpc.node.rules(1536).len(), 1, "of the other pod");
    // Once the last one is gone, so is the old prefix.
    for name in vpc.node.netlink().links().unwrap() {
        if name.id.name.starts_with("eni") {
            vpc.node.ip(&format!("link del {}", name.id.name));
        }
    }
    host::set_up(&mut vpc.node.netlink(), &config, &facts()).unwrap();
    assert!(!vpc.nat().unwrap().contains("eni"), "{:?}", vpc.nat());
}

/// amazon-vpc-cni-k8s takes its SNAT rule away and adds it again on every pass.
#[test]
fn connections_are_translated_at_every_moment_of_a_change() {
    for iptables in [None, Some("iptables-nft"), Some("iptables-legacy")] {
        let vpc = Vpc::new();
        let netlink = || match iptables {
            None => vpc.node.netlink(),
            Some(kind) => {
                let iptables = vec![kind.into()];
                let programs = NatPrograms { nft: "/nonexistent/nft".into(), iptables };
                vpc.node.netlink().with_nat_programs(programs)
            }
        };
        let set_up = |netlink: &mut KernelNetlink, config: &HostConfig| {
            host::set_up(netlink, config, &vpc.host_facts()).unwrap();
        };
        set_up(&mut netlink(), &HostConfig::default());
        let [_a, b, _c] = add_pods(&vpc, &mut vpc.node.netlink());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut netlink = netlink();
                for i in 0..20 {
                    let excluded_cidrs = vec![format!("192.0.{i}.0/24").parse().unwrap()];
                    let config = HostConfig { excluded_cidrs, ..HostConfig::default() };
                    set_up(&mut netlink, &config);
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut connections = 0;
            while !done.load(Ordering::Relaxed) {
                let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
                assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{iptables:?}");
                connections += 1;
            }
            assert!(connections > 10, "{iptables:?}: only {connections}");
        });
        assert_eq!(vpc.drops("eth0") + vpc.drops("eth1"), 0, "{iptables:?}");
    }
}

/// A folder that goes with this value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vit-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Makes a program that passes everything on to another, unless its input has a word at which it fails.
    pub fn program(&self, name: &str, behind: &str, fails_at: &str, says: &str) -> PathBuf {
        let path = self.0.join(name);
        let script = format!(
            "#!/bin/sh\ninput=$(cat)\ncase \"$input\" in *{fails_at}*) echo '{says}' >&2; exit 1;; esac\n\
             printf '%s\\n' \"$input\" | exec {behind} \"$@\"\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn net(cidr: &str, table: &str) -> String {
    format!("{cidr} {table}")
}

fn lead_node_port_to(vpc: &Vpc, address: &str) {
    vpc.node.nft(&format!(
        "table ip kube-proxy {{ chain nat {{ type nat hook prerouting priority -100; \
         fib daddr type local tcp dport 30080 dnat to {address}:80; }}; }}"
    ));
}
