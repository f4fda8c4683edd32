//! Kernel variables of both ends of pods' links: pods must not steer the node.

use vpc_ipam_linux::{BranchMode, Extent, HostConfig, pod};

use crate::support::{
    Netns, Vpc, add, add_to, lease, lease_with, leased, network, network_of, source_seen_by,
};

/// What either end has, under `net`.
const SAFE: [(&str, &str, &str); 9] = [
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv4", "accept_source_route", "0"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv4", "accept_local", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_source_route", "0"),
    ("ipv6", "proxy_ndp", "0"),
];

/// Whatever the system gives to new links.
#[test]
fn both_ends_have_the_safe_values_after_add_and_after_repair() {
    let on_cards =
        (lease("m", "m", 0, 1, "10.0.0.102")).with_more(vec![leased(1, 1, "10.0.0.201")]);
    let ipv6 = lease_with("v", 1, None, Some("2001:db8:b::7"));
    let both = lease_with("d", 1, Some("10.0.0.103"), Some("2001:db8:b::8"));
    let pods = [network("a", 0, "10.0.0.100")].into_iter();
    let pods: Vec<_> = pods.chain([on_cards, ipv6, both].iter().map(network_of)).collect();
    let (vpc, mut node, _others) = crate::node::node_with_pods();
    spoil(&vpc.node, "default");
    let pods = pods.into_iter().map(|network| {
        let pod = Netns::new();
        spoil(&pod, "default");
        pod.exec("sysctl -qw net.ipv4.conf.all.accept_redirects=1");
        add_to(&vpc.node, &pod, &network);
        (network, pod)
    });
    let pods: Vec<_> = pods.collect();
    for (network, pod) in &pods {
        for interface in &network.interfaces {
            let (outer, inner) = (&interface.host.name, &interface.container.name);
            assert_eq!(hardening_missing(&vpc.node, outer), [] as [String; 0], "{network:?}");
            assert_eq!(vpc.node.sysctl(&format!("net/ipv4/conf/{outer}/rp_filter")), "1");
            assert_eq!(hardening_missing(pod, inner), [] as [String; 0], "{network:?}");
        }
        // They are the pod's.
        assert_eq!(pod.sysctl("net/ipv4/conf/all/accept_redirects"), "1");
        assert_eq!(pod.sysctl("net/ipv4/conf/default/proxy_arp"), "1");
    }

    node.pods = (0..)
        .zip(&pods)
        .map(|(i, (network, _))| (crate::node::key(&format!("p{i}")), network.clone()))
        .collect();
    let links: Vec<_> = pods
        .iter()
        .flat_map(|(network, _)| &network.interfaces)
        .map(|interface| interface.host.name.as_str())
        .collect();
    for link in &links {
        spoil(&vpc.node, link);
        vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter=0"));
    }
    vpc.node.exec("sysctl -qw net.ipv4.conf.all.send_redirects=1");
    let before: Vec<_> = pods.iter().map(|(_, pod)| pod.snapshot()).collect();

    let repaired = crate::node::repair(&node, &vpc, Extent::All);

    assert_eq!(repaired.differences.len(), links.len() * (SAFE.len() + 1) + 1);
    for link in links {
        assert_eq!(hardening_missing(&vpc.node, link), [] as [String; 0]);
        assert_eq!(vpc.node.sysctl(&format!("net/ipv4/conf/{link}/rp_filter")), "1");
    }
    assert_eq!(vpc.node.sysctl("net/ipv4/conf/all/send_redirects"), "0");
    let after: Vec<_> = pods.iter().map(|(_, pod)| pod.snapshot()).collect();
    assert_eq!(after, before);
}

#[test]
fn pods_own_variables_are_left_to_it() {
    let node = Netns::new();
    let network = network("a", 0, "10.0.0.100");
    let pod = add(&node, &network);
    spoil(&pod, "eth0");
    let check = || pod::check(&mut node.netlink(), &mut pod.netlink(), &network);
    assert_eq!(check().unwrap(), []);

    add_to(&node, &pod, &network);

    assert_eq!(check().unwrap(), []);
    assert_eq!(pod.sysctl("net/ipv4/conf/eth0/proxy_arp"), "1");
    assert_eq!(pod.sysctl("net/ipv6/conf/eth0/accept_ra"), "1");
}

#[test]
fn pods_on_branch_enis_have_them_at_the_link_of_the_vlan_too() {
    for mode in [BranchMode::Strict, BranchMode::Standard] {
        let (vpc, network, _pod) = crate::branch::node_with_pod(mode);
        let name = &network.interfaces[0].host.name;
        for (link, filter) in [
            (name.as_str(), if mode == BranchMode::Strict { "2" } else { "1" }),
            ("vlan.eth.7", "2"),
        ] {
            assert_eq!(hardening_missing(&vpc.node, link), [] as [String; 0], "{mode:?}");
            let is = vpc.node.sysctl(&format!("net/ipv4/conf/{link}/rp_filter"));
            assert_eq!(is, filter, "{mode:?} {link}");
        }
    }
}

/// Of these the kernel takes the greater of the link's own and that of `all`.
#[test]
fn what_is_set_for_all_links_is_told_where_it_takes_pods_in() {
    let (vpc, node, _pods) = crate::node::node_with_pods();
    let reported = || -> Vec<String> {
        let found = node.diff(&mut vpc.node.netlink(), Extent::Kernel).unwrap();
        assert_eq!(found.differences, []);
        found.conflicts.iter().map(ToString::to_string).collect()
    };
    assert_eq!(reported(), [] as [&str; 0]);
    for name in ["ipv4.conf.all.proxy_arp", "ipv4.conf.all.accept_local", "ipv6.conf.all.proxy_ndp"]
    {
        vpc.node.exec(&format!("sysctl -qw net.{name}=1"));

        let conflicts = reported();

        let [conflict] = &conflicts[..] else { panic!("{name}: {conflicts:?}") };
        assert!(conflict.contains(&format!("sysctl net.{name}=1 diverts ")), "{conflict}");
        crate::node::repair(&node, &vpc, Extent::All);
        let path = format!("net/{}", name.replace('.', "/"));
        assert_eq!(vpc.node.sysctl(&path), "1", "another program set it");
        vpc.node.exec(&format!("sysctl -qw net.{name}=0"));
    }
}

/// The node neither believes a pod that says where to send, nor tells one.
#[test]
fn redirects_are_not_sent_to_pods() {
    let vpc = Vpc::new();
    let config = HostConfig::default();
    vpc.set_up_host(&config);
    let a = add(&vpc.node, &network("a", 0, "10.0.0.100"));
    // The way of a connection to a Service of its own: it comes back by the link that it came by.
    vpc.node.nft(
        "table ip kube-proxy { chain nat { type nat hook prerouting priority -100; \
         ip daddr 172.20.0.10 dnat to 10.0.0.100; }; \
         chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.100 ip daddr 10.0.0.100 masquerade; }; }",
    );
    let redirects = || {
        let all = vpc.node.exec("cat /proc/net/snmp");
        let [names, values] = [0, 1].map(|line| {
            let of_icmp = all.lines().filter(|line| line.starts_with("Icmp:")).nth(line).unwrap();
            of_icmp.split(' ').collect::<Vec<_>>()
        });
        let index = names.iter().position(|name| *name == "OutRedirects").unwrap();
        values[index].parse::<u64>().unwrap()
    };
    let ask = || {
        let seen = source_seen_by(&a.namespace, &a.namespace, "172.20.0.10:80", "10.0.0.100:80");
        assert!(seen.is_some());
    };

    ask();

    assert_eq!(redirects(), 0);
    vpc.node.exec("sysctl -qw net.ipv4.conf.all.send_redirects=1");
    ask();
    assert_ne!(redirects(), 0, "the link's own value is not enough");
}

/// Gives a link, or new ones, the values that are not safe.
fn spoil(netns: &Netns, link: &str) {
    for (family, name, _) in SAFE {
        netns.exec(&format!("sysctl -qw net.{family}.conf.{link}.{name}=1"));
    }
}

/// Returns the variables of a link that are not as they should be.
fn hardening_missing(netns: &Netns, link: &str) -> Vec<String> {
    let wrong = SAFE.into_iter().filter_map(|(family, name, value)| {
        let is = netns.sysctl(&format!("net/{family}/conf/{link}/{name}"));
        (is != value).then(|| format!("{link}: {family} {name}={is}"))
    });
    wrong.collect()
}
