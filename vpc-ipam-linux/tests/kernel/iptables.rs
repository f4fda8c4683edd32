//! Address translation on nodes without nft.

use core::time::Duration;
use std::net::{TcpListener, TcpStream};

use vpc_ipam_linux::{HandBack, HostConfig, KernelNetlink, NatPrograms, SnatPorts, host, remove};

use crate::services::without_counters;
use crate::support::{
    INTERNET, NODE_PORT, PODS, Vpc, accept, add_pods, chain, source_seen, source_seen_by,
};

const KINDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

#[test]
fn pods_are_translated_and_reached_as_with_nft() {
    for kind in KINDS {
        let vpc = Vpc::new();
        set_up(&vpc, kind, &HostConfig::default());
        let pods = add_pods(&vpc, &mut vpc.node.netlink());
        let (fabric, node) = (&vpc.fabric.namespace, &vpc.node.namespace);
        for ((name, _, address), pod) in PODS.iter().zip(&pods) {
            let pod = &pod.namespace;
            let seen = |to| source_seen(pod, fabric, to);
            assert_eq!(seen(INTERNET).as_deref(), Some("10.0.0.10"), "{kind}: {name}");
            assert_eq!(seen("10.0.0.30:80").as_deref(), Some(*address), "{kind}: {name}");
            let to_node = source_seen(pod, node, "10.0.0.10:80");
            assert_eq!(to_node.as_deref(), Some(*address), "{kind}: {name} to the node");

            let service = format!(
                "{kind} -w -t nat -I PREROUTING -p tcp --dport 30080 -m addrtype --dst-type LOCAL -j DNAT --to-destination {address}:80"
            );
            vpc.node.exec(&service);
            let listens = format!("{address}:80");
            let client = source_seen_by(fabric, pod, NODE_PORT, &listens);
            assert_eq!(client.as_deref(), Some("10.0.0.1"), "{kind}: NodePort to {name}");
            vpc.node.exec(&service.replace("-I ", "-D "));
        }
        let drops = ["eth0", "eth1", "eth2"].map(|link| vpc.drops(link));
        assert_eq!(drops, [0, 0, 0], "{kind}");
        crate::traffic::sends_from_its_enis(&vpc, kind);
    }
}

#[test]
fn rules_are_there_once_and_replaced_only_where_they_differ() {
    for kind in KINDS {
        let vpc = Vpc::new();
        let config = HostConfig::default();
        assert_ne!(set_up(&vpc, kind, &config), 0, "{kind}");
        let made = saved(&vpc, kind);
        for expected in [
            "-A VPC-IPAM-TRANSLATE -o vlan+ -j RETURN",
            "-A VPC-IPAM-TRANSLATE -d 10.0.0.0/16 -j RETURN",
            "-A VPC-IPAM-TRANSLATE ! -o eth0 -m addrtype --src-type LOCAL --limit-iface-out -j RETURN",
            "-A VPC-IPAM-TRANSLATE -j SNAT --to-source 10.0.0.10 --random",
            "-A POSTROUTING -j VPC-IPAM-TRANSLATE",
            "-A PREROUTING -i eni+ -j VPC-IPAM-MARK",
            "-A PREROUTING -j VPC-IPAM-RESTORE",
            "-A VPC-IPAM-RESTORE -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80",
            "-A VPC-IPAM-RESTORE -i vlan+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
        ] {
            let count = made.lines().filter(|line| *line == expected).count();
            assert_eq!(count, 1, "{kind}: {expected} in\n{made}");
        }
        assert_eq!(vpc.nat(), None, "{kind}: nft has no table of ours");
        for _ in 0..2 {
            assert_eq!(set_up(&vpc, kind, &config), 0, "{kind}");
        }
        assert_eq!(saved(&vpc, kind), made, "{kind}");

        for damage in [
            "-t nat -F VPC-IPAM-TRANSLATE",
            "-t nat -D POSTROUTING -j VPC-IPAM-TRANSLATE",
            "-t mangle -I VPC-IPAM-RESTORE -j RETURN",
            "-t mangle -A PREROUTING -j VPC-IPAM-RESTORE",
            "-t nat -N VPC-IPAM-STRAY",
        ] {
            vpc.node.exec(&format!("{kind} -w {damage}"));
            assert_eq!(set_up(&vpc, kind, &config), 1, "{kind}: {damage}");
            assert_eq!(saved(&vpc, kind), made, "{kind}: {damage}");
        }
    }
}

#[test]
fn odd_name_of_the_primary_link_is_one_word_in_rules() {
    for kind in KINDS {
        for name in ["e;$(id)`id`&", "e*", r"e\", "it's#1", "{e}|<e>", "!e"] {
            let vpc = Vpc::new();
            vpc.node.run("ip", &["link", "set", "dev", "eth0", "down"]);
            vpc.node.run("ip", &["link", "set", "dev", "eth0", "name", name]);
            vpc.node.run("ip", &["link", "set", "dev", name, "up"]);
            let config = HostConfig::default();

            assert_ne!(set_up(&vpc, kind, &config), 0, "{kind}: {name}");
            assert_eq!(set_up(&vpc, kind, &config), 0, "{kind}: {name}: again");

            let made = saved(&vpc, kind);
            let of_link = made.lines().filter(|line| line.contains("--limit-iface-in"));
            let plain = of_link.map(|line| line.replace(['"', '\\'], "")).collect::<Vec<_>>();
            let expected = format!("-i {} -m addrtype", name.replace('\\', ""));
            assert!(plain.len() == 1 && plain[0].contains(&expected), "{kind}: {name}: {plain:?}");
        }
    }
}

#[test]
fn rules_follow_the_configuration_and_foreign_ones_stay() {
    for kind in KINDS {
        let vpc = Vpc::new();
        vpc.node.exec(&format!("{kind} -w -t nat -A POSTROUTING -s 192.0.2.1 -j ACCEPT"));
        let foreign = saved(&vpc, kind);
        let default = HostConfig::default;
        let excluded =
            |cidr: &str| HostConfig { excluded_cidrs: vec![cidr.parse().unwrap()], ..default() };
        let cases = [
            (excluded("203.0.113.0/24"), "-d 203.0.113.0/24 -j RETURN", 2),
            (default(), "-d 203.0.113.0/24 -j RETURN", 0),
            (excluded("0.0.0.0/0"), "SNAT", 0),
            (HostConfig { snat_ports: SnatPorts::FullyRandom, ..default() }, "--random-fully", 1),
            (HostConfig { snat_ports: SnatPorts::Kept, ..default() }, "--random", 0),
            (HostConfig { node_port: false, ..default() }, "--limit-iface-in", 0),
            (HostConfig { veth_prefix: "pod".parse().unwrap(), ..default() }, "-i pod+", 4),
            (HostConfig { veth_prefix: "pod".parse().unwrap(), ..default() }, "-i eni+", 0),
            (HostConfig { mark: 0x200.try_into().unwrap(), ..default() }, "0x200/0x200", 3),
            (HostConfig { external_snat: true, ..default() }, "VPC-IPAM-TRANSLATE", 0),
            (HostConfig { external_snat: true, ..default() }, "-i eni+", 2),
            (default(), "-A VPC-SOURCE-CHECK -i eni+ -m rpfilter --invert -j DROP", 1),
            (default(), "-A PREROUTING -j VPC-SOURCE-CHECK", 1),
            (HostConfig { source_check: false, ..default() }, "VPC-SOURCE", 0),
        ];
        for (config, part, expected) in cases {
            set_up(&vpc, kind, &config);
            let saved = saved(&vpc, kind);
            let count = saved.lines().filter(|line| line.contains(part)).count();
            assert_eq!(count, expected, "{kind}: {part:?} with {config:?} in\n{saved}");
            assert_eq!(set_up(&vpc, kind, &config), 0, "{kind}: {config:?}: again");
        }
        let nothing =
            HostConfig { external_snat: true, node_port: false, source_check: false, ..default() };
        set_up(&vpc, kind, &nothing);
        let is_ours = |line: &&str| line.contains("VPC-IPAM") || line.contains("VPC-SOURCE");
        let ours = |saved: &str| saved.lines().filter(is_ours).count();
        assert_eq!(ours(&saved(&vpc, kind)), 0, "{kind}");

        set_up(&vpc, kind, &default());
        let state = host::desired(&default(), &vpc.host_facts()).unwrap();
        remove(&mut netlink(&vpc, kind), &state).unwrap();
        let left = saved(&vpc, kind);
        let rules = |saved: &str| -> Vec<String> {
            saved.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
        };
        assert_eq!(rules(&left), rules(&foreign), "{kind}");
        assert_eq!(ours(&left), 0, "{kind}");
    }
}

#[test]
fn node_that_is_handed_back_has_none_of_our_chains() {
    for kind in KINDS {
        let vpc = Vpc::new();
        vpc.node.shell(&format!("{kind} -w -t nat -A POSTROUTING -d 192.0.2.0/24 -j RETURN"));
        set_up(&vpc, kind, &HostConfig::default());
        assert!(saved(&vpc, kind).contains("VPC-"), "{kind}");
        let mut netlink = netlink(&vpc, kind);

        HandBack::find(&mut netlink).unwrap().remove_translation(&mut netlink).unwrap();

        let left = saved(&vpc, kind);
        assert!(!left.contains("VPC-") && left.contains("-d 192.0.2.0/24 -j RETURN"), "{left}");
        assert_eq!(HandBack::find(&mut netlink).unwrap().translation, [], "{kind}");
    }
}

#[test]
fn kind_is_that_of_the_nodes_own_rules() {
    for (own, other) in [(KINDS[0], KINDS[1]), (KINDS[1], KINDS[0])] {
        let vpc = Vpc::new();
        vpc.node.exec(&format!("{own} -w -t mangle -N KUBE-KUBELET-CANARY"));
        let iptables = ["iptables-nft", "iptables-legacy", "iptables"].map(Into::into).into();
        let programs = NatPrograms { nft: "/nonexistent/nft".into(), iptables };
        let mut netlink = vpc.node.netlink().with_nat_programs(programs);

        host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts()).unwrap();

        assert!(saved(&vpc, own).contains("VPC-IPAM"), "{own}");
        assert!(!saved(&vpc, other).contains("VPC-IPAM"), "{own}");
    }
}

#[test]
fn nft_takes_over_what_iptables_held() {
    for kind in KINDS {
        let vpc = Vpc::new();
        set_up(&vpc, kind, &HostConfig::default());

        assert_eq!(vpc.set_up_host(&HostConfig::default()), 2, "{kind}");

        assert!(vpc.nat().unwrap().contains("snat to 10.0.0.10"), "{kind}");
        for chains in ["VPC-IPAM", "VPC-SOURCE"] {
            assert!(!saved(&vpc, kind).contains(chains), "{kind}");
        }
        assert_eq!(vpc.set_up_host(&HostConfig::default()), 0, "{kind}");
    }
}

/// The first packet leaves by the pod's own ENI and is lost, because iptables cannot tell in time; with nft none is.
#[test]
fn service_with_an_endpoint_outside_of_the_vpc_is_reached_at_the_second_try() {
    for kind in KINDS {
        let vpc = Vpc::new();
        set_up(&vpc, kind, &HostConfig::default());
        let [_a, b, _c] = add_pods(&vpc, &mut vpc.node.netlink());
        vpc.node.exec(&format!(
            "{kind} -w -t nat -I PREROUTING -d 172.20.0.10 -p tcp --dport 80 -j DNAT --to-destination {INTERNET}"
        ));
        let server = vpc.fabric.namespace.run(|| TcpListener::bind(INTERNET)).unwrap().unwrap();
        let service = "172.20.0.10:80".parse().unwrap();
        let connect = || TcpStream::connect_timeout(&service, Duration::from_secs(10));

        let stream = b.namespace.run(connect).unwrap();

        stream.unwrap_or_else(|error| panic!("{kind}: {error}"));
        let seen = accept(&server).unwrap();
        assert_eq!(seen.ip().to_string(), "10.0.0.10", "{kind}");
        assert_eq!(vpc.drops("eth1"), 1, "{kind}");

        // In the VPC it is the pod itself.
        vpc.node.exec(&format!(
            "{kind} -w -t nat -I PREROUTING -d 172.20.0.11 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.30:80"
        ));
        let fabric = &vpc.fabric.namespace;
        let seen = source_seen_by(&b.namespace, fabric, "172.20.0.11:80", "10.0.0.30:80");
        assert_eq!(seen.as_deref(), Some("10.0.0.101"), "{kind}");
    }
}

fn netlink(vpc: &Vpc, kind: &str) -> KernelNetlink {
    let programs = NatPrograms { nft: "/nonexistent/nft".into(), iptables: vec![kind.into()] };
    vpc.node.netlink().with_nat_programs(programs)
}

fn set_up(vpc: &Vpc, kind: &str, config: &HostConfig) -> usize {
    let applied = host::set_up(&mut netlink(vpc, kind), config, &vpc.host_facts());
    applied.unwrap_or_else(|error| panic!("{kind}: {}", chain(&error))).len()
}

fn saved(vpc: &Vpc, kind: &str) -> String {
    without_counters(&vpc.node.exec(&format!("{kind}-save")))
}
