use core::net::IpAddr;
use std::collections::BTreeSet;

use serde_json::{Value, json};
use vpc_ipam_core::{EniLink, Families, Ipv4Kind};
use vpc_ipam_linux::host::{self, HostFacts};
use vpc_ipam_linux::{Extent, HandBack, HostConfig, NodeNetwork, eni as enis, pod};

use crate::support::{
    Netns, Vpc, add, add_to, chain, eni, eni_mac, lease_with, network_of, remove, source_seen,
    source_seen_by,
};

const INTERNET: &str = "[2001:db8:f::10]:80";

#[test]
fn pod_is_as_amazon_vpc_cni_k8s_would_leave_it() {
    let node = Netns::new();
    let network = network_of(&lease_with("p", 0, None, Some("2001:db8:a:0:1::2")));

    let pod = add(&node, &network);

    let interface = &network.interfaces[0];
    let name = &interface.host.name;
    let routes = node.json("-6 route show 2001:db8:a:0:1::2");
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!((&routes[0]["dev"], &routes[0]["metric"]), (&json!(name), &json!(1024)));
    assert_eq!(rules(&node, 512), ["all 2001:db8:a:0:1::2 main"]);
    assert_eq!(rules(&node, 1536), [] as [&str; 0]);
    assert_eq!((node.rules(512), node.rules(1536)), (vec![], vec![]), "IPv4");

    let inside = pod.json("-6 route");
    let find = |dst: &str| inside.iter().find(|route| route["dst"] == dst).unwrap();
    assert_eq!(find("fe80::1")["metric"], 1024);
    assert_eq!(find("default")["gateway"], "fe80::1");
    let own = find("2001:db8:a:0:1::2");
    assert_eq!((&own["protocol"], &own["metric"]), (&json!("kernel"), &json!(256)));
    let neighbours = pod.json("neigh show nud permanent");
    assert_eq!(neighbours.len(), 1, "{neighbours:?}");
    assert_eq!(neighbours[0]["dst"], "fe80::1");
    assert_eq!(neighbours[0]["lladdr"], interface.host.mac.to_string());
    assert_eq!(pod.sysctl("net/ipv6/conf/eth0/disable_ipv6"), "0");
    assert_eq!(pod::check(&mut node.netlink(), &mut pod.netlink(), &network).unwrap(), []);
}

/// 1.10.0: the address was still tentative when the pod started.
#[test]
fn no_address_is_tentative_when_the_pod_starts() {
    let node = Netns::new();
    let pod = add(&node, &network_of(&lease_with("p", 0, None, Some("2001:db8:a:0:1::2"))));

    let addresses = pod.json("-6 addr show dev eth0")[0]["addr_info"].as_array().unwrap().clone();
    // Ours, and the link-local one.
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        assert_eq!(address.get("tentative"), None, "{address}");
        assert_eq!(address.get("dadfailed"), None, "{address}");
    }
    let outside = node.json("-6 addr show scope link");
    let tentative = outside.iter().flat_map(|link| link["addr_info"].as_array().unwrap());
    assert_eq!(tentative.filter(|it| it.get("tentative").is_some()).count(), 0, "{outside:?}");
}

#[test]
fn ipv6_that_the_runtime_switched_off_is_switched_on() {
    let (node, pod) = (Netns::new(), Netns::new());
    for link in ["all", "default", "lo"] {
        pod.exec(&format!("sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1"));
    }
    let network = network_of(&lease_with("p", 0, None, Some("2001:db8:a:0:1::2")));

    add_to(&node, &pod, &network);

    assert_eq!(pod.sysctl("net/ipv6/conf/lo/disable_ipv6"), "0");
    assert_eq!(pod::check(&mut node.netlink(), &mut pod.netlink(), &network).unwrap(), []);
}

#[test]
fn nothing_is_left_of_a_pod_and_a_second_add_changes_nothing() {
    for (ipv4, device) in [(None, 0), (Some("10.0.0.101"), 1)] {
        let node = Netns::new();
        let before = node.snapshot();
        let network = network_of(&lease_with("p", device, ipv4, Some("2001:db8:a:0:1::2")));
        let pod = add(&node, &network);
        let once = (node.snapshot(), pod.snapshot());

        add_to(&node, &pod, &network);
        assert_eq!((node.snapshot(), pod.snapshot()), once);
        node.ip("-6 rule del pref 512");
        pod.ip("-6 route del default");
        let differences = pod::check(&mut node.netlink(), &mut pod.netlink(), &network).unwrap();
        assert_eq!(differences.len(), 2, "{differences:?}");
        add_to(&node, &pod, &network);
        assert_eq!((node.snapshot(), pod.snapshot()), once);

        assert_eq!(remove(&node, &network), [] as [IpAddr; 0]);
        node.ip(&format!("link del {}", network.interfaces[0].host.name));
        assert_eq!(node.snapshot(), before);
    }
}

#[test]
fn host_is_as_amazon_vpc_cni_k8s_would_leave_it() {
    let vpc = Vpc::with_ipv6();

    set_up_host(&vpc, Families::Ipv6, &HostConfig::default());

    for (key, value) in [
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv4/conf/eth0/rp_filter", "2"),
    ] {
        assert_eq!(vpc.node.sysctl(key), value, "{key}");
    }
    let marked = vpc.node.json("-6 rule show pref 1024");
    assert_eq!(marked.len(), 1);
    assert_eq!((&marked[0]["fwmark"], &marked[0]["fwmask"]), (&json!("0x80"), &json!("0x80")));
    assert_eq!(vpc.node.rules(1024), [] as [&str; 0], "IPv4");
    let nat = vpc.nat().unwrap();
    assert!(nat.contains("ip daddr 169.254.172.0/22 ct state new reject"), "{nat}");
    assert!(!nat.contains("untranslated"), "{nat}");
    let ipv6 = vpc.node.exec("nft list table ip6 vpc-ipam");
    assert!(!ipv6.contains("snat"), "{ipv6}");
}

#[test]
fn host_set_up_again_changes_nothing_and_takes_all_back() {
    let vpc = Vpc::with_ipv6();
    let families = [Families::Ipv6, Families::Dual(Ipv4Kind::Addresses), ipv4()];
    for families in families {
        set_up_host(&vpc, families, &HostConfig::default());
        // In one order, whichever table was made anew.
        let tables = || {
            let ruleset = vpc.node.exec("nft --stateless list ruleset");
            let tables: BTreeSet<_> = ruleset.split("\n}\n").map(str::to_owned).collect();
            tables
        };
        let before = (vpc.node.snapshot(), tables());
        for _ in 0..2 {
            let again = set_up_host(&vpc, families, &HostConfig::default());
            assert_eq!(again, 0, "{families:?}");
        }
        assert_eq!((vpc.node.snapshot(), tables()), before, "{families:?}");
        for damage in ["flush table ip6 vpc-ipam", "delete table ip6 vpc-ipam"] {
            if families == ipv4() {
                continue;
            }
            vpc.node.nft(damage);
            let repaired = set_up_host(&vpc, families, &HostConfig::default());
            assert_eq!(repaired, 1, "{families:?}: {damage}");
            assert_eq!(tables(), before.1, "{families:?}: {damage}");
        }
    }
    // The last one has no IPv6.
    assert!(vpc.node.try_exec("nft list table ip6 vpc-ipam").is_err());
}

#[test]
fn pods_are_seen_with_their_own_addresses() {
    let vpc = Vpc::with_ipv6();
    set_up_host(&vpc, Families::Ipv6, &HostConfig::default());
    let [a, b] = [("a", "2001:db8:a:0:1::2"), ("b", "2001:db8:a:0:1::3")]
        .map(|(name, ip)| add(&vpc.node, &network_of(&lease_with(name, 0, None, Some(ip)))));
    let (a, b) = (&a.namespace, &b.namespace);
    let (node, fabric) = (&vpc.node.namespace, &vpc.fabric.namespace);
    let own = "2001:db8:a:0:1::2";
    let cases = [
        ("pod to pod", a, b, "[2001:db8:a:0:1::3]:80", own),
        ("pod to node", a, node, "[2001:db8:a::10]:80", own),
        ("node to pod", node, a, "[2001:db8:a:0:1::2]:80", "2001:db8:a::10"),
        ("pod to another host", a, fabric, "[2001:db8:a::30]:80", own),
        ("pod to the internet", a, fabric, INTERNET, own),
        ("another host to pod", fabric, a, "[2001:db8:a:0:1::2]:80", "2001:db8:a::30"),
    ];
    for (case, client, server, to, expected) in cases {
        assert_eq!(source_seen(client, server, to).as_deref(), Some(expected), "{case}");
    }
    assert_eq!(vpc.drops("eth0"), 0);
}

#[test]
fn node_that_is_handed_back_leads_to_its_pods_as_before() {
    let vpc = Vpc::with_ipv6();
    let (_node, pod) = node_with_pod(&vpc);
    let seen = || source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
    let before = seen();
    assert_eq!(before.as_deref(), Some("2001:db8:a:0:1::2"));
    let mut netlink = vpc.node.netlink();

    let found = HandBack::find(&mut netlink).unwrap();
    found.change_routing(&mut netlink).unwrap();
    found.remove_translation(&mut netlink).unwrap();

    assert!(HandBack::find(&mut netlink).unwrap().is_done());
    for list in ["-6 -d rule", "-6 -d route show table all", "-d rule", "-d route show table all"] {
        let listed = vpc.node.ip(list);
        assert!(!listed.contains("proto 86"), "{listed}");
    }
    assert_eq!(rules(&vpc.node, 512).len(), 1);
    assert_eq!(seen(), before);
}

#[test]
fn eni_has_a_table_for_each_family() {
    let vpc = Vpc::with_ipv6();
    let eni = dual_eni();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "2001:db8:a::20"]);
    vpc.node.ip("addr add 2001:db8:a::99/64 dev eth1 nodad");
    vpc.node.ip("link set eth1 up");

    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();

    let global = vpc.node.ip("-6 -o addr show dev eth1 scope global");
    assert_eq!(global.lines().count(), 1, "{global}");
    assert!(global.contains("2001:db8:a::20/64"), "{global}");
    let routes = vpc.node.json("-6 route show table 2");
    assert_eq!(routes.len(), 2, "{routes:?}");
    let find = |dst: &str| routes.iter().find(|route| route["dst"] == dst).unwrap();
    assert_eq!(find("default")["gateway"], "fe80:ec2::1");
    assert_eq!(find("fe80:ec2::1")["dev"], "eth1");
    assert_eq!(rules(&vpc.node, 32765), ["2001:db8:a::20 - 2"]);
    assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 2"]);
    let connected = vpc.node.json("-6 route show 2001:db8:a::/64");
    assert!(connected.iter().all(|route| route["dev"] == "eth0"), "{connected:?}");
    assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni).unwrap(), []);

    vpc.fabric.ip("link del eth1");
    enis::remove(&mut vpc.node.netlink(), &eni).unwrap();
    assert_eq!((rules(&vpc.node, 32765), vpc.node.rules(32765)), (vec![], vec![]));
}

/// Until the kernel trusts the link-local address it asks for no router, and what pods of the ENI send is lost.
#[test]
fn new_eni_serves_its_pods_at_once() {
    let vpc = Vpc::with_ipv6();
    set_up_host(&vpc, Families::Dual(Ipv4Kind::Addresses), &HostConfig::default());
    vpc.node.exec("sysctl -qw net.ipv6.conf.default.accept_dad=1");
    let pod_address = "2001:db8:a:0:2::2";
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101", pod_address]);
    assert_eq!(vpc.node.sysctl("net/ipv6/conf/eth1/accept_dad"), "1");

    enis::set_up(&mut vpc.node.netlink(), &EniLink { primary_ipv6: None, ..dual_eni() }).unwrap();

    assert_eq!(vpc.node.ip("-6 addr show dev eth1 tentative"), "");
    // As network managers do.
    vpc.node.ip("-6 addr flush dev eth1");
    enis::set_up(&mut vpc.node.netlink(), &EniLink { primary_ipv6: None, ..dual_eni() }).unwrap();
    let network = network_of(&lease_with("b", 1, Some("10.0.0.101"), Some(pod_address)));
    let pod = add(&vpc.node, &network);
    let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some(pod_address));
}

#[test]
fn eni_without_an_address_of_its_own_routes_those_of_its_pods() {
    let vpc = Vpc::with_ipv6();
    set_up_host(&vpc, Families::Dual(Ipv4Kind::Addresses), &HostConfig::default());
    let pod_address = "2001:db8:a:0:2::2";
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101", pod_address]);
    let eni = EniLink { primary_ipv6: None, ..dual_eni() };

    enis::set_up(&mut vpc.node.netlink(), &eni).unwrap();

    assert_eq!(vpc.node.json("-6 route show table 2").len(), 2);
    assert_eq!(rules(&vpc.node, 32765), [] as [&str; 0]);
    assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni).unwrap(), []);
    let lease = lease_with("b", 1, Some("10.0.0.101"), Some(pod_address));
    let pod = add(&vpc.node, &network_of(&lease));
    let seen = source_seen(&pod.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some(pod_address));
    assert_eq!(vpc.drops("eth0") + vpc.drops("eth1"), 0);
}

/// 1.19.4: the primary address was looked up wrongly on ENIs with both.
#[test]
fn pod_with_both_families_uses_its_eni_for_both() {
    let vpc = Vpc::with_ipv6();
    set_up_host(&vpc, Families::Dual(Ipv4Kind::Addresses), &HostConfig::default());
    let (ipv4, ipv6) = ("10.0.0.101", "2001:db8:a:0:2::2");
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "2001:db8:a::20", ipv4, ipv6]);
    enis::set_up(&mut vpc.node.netlink(), &dual_eni()).unwrap();
    let network = network_of(&lease_with("b", 1, Some(ipv4), Some(ipv6)));

    let pod = add(&vpc.node, &network);

    assert_eq!(vpc.node.rules(1536), ["10.0.0.101 - 2"]);
    assert_eq!(rules(&vpc.node, 1536), ["2001:db8:a:0:2::2 - 2"]);
    let (pod, fabric) = (&pod.namespace, &vpc.fabric.namespace);
    let cases = [
        ("[2001:db8:a::30]:80", ipv6),
        (INTERNET, ipv6),
        ("10.0.0.30:80", ipv4),
        ("203.0.113.10:80", "10.0.0.10"),
    ];
    for (to, expected) in cases {
        assert_eq!(source_seen(pod, fabric, to).as_deref(), Some(expected), "{to}");
    }
    assert_eq!(vpc.drops("eth0") + vpc.drops("eth1"), 0);

    // amazon-vpc-cni-k8s marks no connections of IPv6, so that the reply would leave by the pod's own ENI.
    vpc.node.nft(
        "table ip6 kube-proxy { chain nat { type nat hook prerouting priority -100; \
         fib daddr type local tcp dport 30080 dnat to [2001:db8:a:0:2::2]:80; }; }",
    );
    let listens = "[2001:db8:a:0:2::2]:80";
    let client = source_seen_by(fabric, pod, "[2001:db8:a::10]:30080", listens);
    assert_eq!(client.as_deref(), Some("2001:db8:a::30"), "NodePort");
    assert_eq!(vpc.drops("eth0") + vpc.drops("eth1"), 0);
}

#[test]
fn interfaces_on_several_cards_have_a_rule_for_each_family() {
    let node = Netns::new();
    let first = lease_with("m", 1, Some("10.0.0.101"), Some("2001:db8:a:0:1::2"));
    let second = lease_with("m", 1, Some("10.0.0.201"), Some("2001:db8:a:0:2::2")).first;
    let second = second.with_card(vpc_ipam_core::Card(1));
    let network = network_of(&first.with_more(vec![second]));

    let pod = add(&node, &network);

    assert_eq!(pod.rules(1), ["10.0.0.201 - 1"]);
    assert_eq!(rules(&pod, 1), ["2001:db8:a:0:2::2 - 1"]);
    let routes = pod.json("-6 route show table 1");
    let default = routes.iter().find(|route| route["dst"] == "default").unwrap();
    assert_eq!((&default["gateway"], &default["dev"]), (&json!("fe80::2"), &json!("mNicIf1")));
    assert_eq!(pod.json("neigh show nud permanent").len(), 4);
    assert_eq!(pod::check(&mut node.netlink(), &mut pod.netlink(), &network).unwrap(), []);
}

#[test]
fn ipv6_can_be_switched_off_for_pods_without_it() {
    let node = Netns::new();
    let lease = lease_with("p", 0, Some("10.0.0.100"), None);
    let settings = pod::PodSettings { ipv6_disabled: true, ..crate::support::settings() };
    let network = pod::desired(&lease, &settings).unwrap();

    let pod = add(&node, &network);

    for link in ["all", "default", "lo"] {
        assert_eq!(pod.sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6")), "1", "{link}");
    }
    assert_eq!(pod.json("-6 addr").iter().filter(|it| it["ifname"] == "eth0").count(), 0);
}

/// Returns a node with an ENI of both families and a pod of IPv6 alone.
pub fn node_with_pod(vpc: &Vpc) -> (NodeNetwork, Netns) {
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "2001:db8:a::20"]);
    let primary_ipv6 = "2001:db8:a::10".parse().ok();
    let families = Families::Dual(Ipv4Kind::Addresses);
    let facts = HostFacts { families, primary_ipv6, ..vpc.host_facts() };
    let mut node = NodeNetwork::new(HostConfig::default(), facts);
    node.enis.insert(eni(1).eni, dual_eni());
    crate::node::repair(&node, vpc, Extent::All);
    let network = network_of(&lease_with("a", 0, None, Some("2001:db8:a:0:1::2")));
    let pod = add(&vpc.node, &network);
    node.pods.insert(crate::node::key("a"), network);
    (node, pod)
}

fn ipv4() -> Families {
    Families::Ipv4(Ipv4Kind::Addresses)
}

fn set_up_host(vpc: &Vpc, families: Families, config: &HostConfig) -> usize {
    let ipv6 = "2001:db8:a::10".parse().unwrap();
    let facts = HostFacts { families, primary_ipv6: Some(ipv6), ..vpc.host_facts() };
    let applied = host::set_up(&mut vpc.node.netlink(), config, &facts);
    applied.unwrap_or_else(|error| panic!("{}", chain(&error))).len()
}

fn dual_eni() -> EniLink {
    EniLink {
        primary_ipv6: Some("2001:db8:a::20".parse().unwrap()),
        subnet_ipv6: Some("2001:db8:a::/64".parse().unwrap()),
        ..eni(1)
    }
}

/// Returns the IPv6 rules of a priority as `from to table`.
fn rules(node: &Netns, priority: u32) -> Vec<String> {
    let rules = node.json("-6 rule").into_iter().filter(|rule| rule["priority"] == priority);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    rules.map(|rule| [&rule["src"], &rule["dst"], &rule["table"]].map(text).join(" ")).collect()
}
