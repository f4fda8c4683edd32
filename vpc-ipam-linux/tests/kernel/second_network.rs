//! Pods that another plugin gave a network before, as Multus has it.

use serde_json::json;
use vpc_ipam_core::PodKey;
use vpc_ipam_linux::pod::{self, AddFailure, PodNetwork};
use vpc_ipam_linux::{KernelChange, KernelNetlink, Object, Refusal, Table};

use crate::support::{
    Altered, Netns, Vpc, add_to, chain, lease, lease_with, leased, network_of, really, remove,
    source_seen_by,
};

const OTHER: &str = "default via 192.168.7.1 dev eth0";

#[test]
fn default_route_of_another_network_is_left_and_ours_goes_to_a_table_of_its_own() {
    let vpc = Vpc::new();
    vpc.set_up_host(&vpc_ipam_linux::HostConfig::default());
    let (pod, network) = (pod_with_another_network(), net1("10.0.0.100", None));
    let before = pod.snapshot();

    let made = add_network(&vpc.node, &pod, &network);

    assert_eq!(pod.ip("route show default").trim(), OTHER);
    assert_eq!(pod.rules(1), ["10.0.0.100 - 86"]);
    let routes = pod.routes(86);
    assert_eq!(routes.len(), 2, "{routes:?}");
    assert_eq!((&routes[0]["dst"], &routes[0]["dev"]), (&json!("default"), &json!("net1")));
    assert_eq!(pod.json("route show dev net1"), [] as [serde_json::Value; 0], "in main");
    assert_eq!(made.interfaces[0].addresses[0].table, Table(86));
    assert_eq!(check(&vpc.node, &pod, &network), [""; 0]);
    let after = pod.snapshot();
    assert_eq!(add_network(&vpc.node, &pod, &network), made, "again");
    assert_eq!(pod.snapshot(), after);

    // It is reached, and answers by the way that it was reached.
    let (fabric, listens) = (&vpc.fabric.namespace, "10.0.0.100:80");
    for (client, own) in [(&vpc.node.namespace, "10.0.0.10"), (fabric, "10.0.0.1")] {
        let seen = source_seen_by(client, &pod.namespace, listens, listens);
        assert_eq!(seen.as_deref(), Some(own));
    }

    remove(&vpc.node, &network);
    pod::remove_links(&mut vpc.node.netlink(), &network).unwrap();
    assert_eq!(pod.ip("route show default").trim(), OTHER);
    // But for a rule, which leads to an empty table; the next network takes it along.
    pod.ip("rule del pref 1");
    assert_eq!(pod.snapshot(), before);
}

#[test]
fn family_without_another_default_route_has_ours_in_main() {
    let ipv6 = "2001:db8:a:0:1::2";
    for (other, ipv4_in, ipv6_in) in [
        ("route add default via 192.168.7.1 dev eth0 metric 700 proto dhcp", 86, 254),
        ("route add blackhole default", 86, 254),
        ("-6 route add default via fe80::7 dev eth0 proto ra metric 1024", 254, 86),
        ("route add default via 192.168.7.1 dev eth0 table 7", 254, 254),
        ("route add throw default", 86, 254),
        ("route add 0.0.0.0/1 via 192.168.7.1 dev eth0", 254, 254),
    ] {
        let (node, pod) = (Netns::new(), pod_with_links());
        pod.ip(other);
        let before: Vec<_> = [4, 6].map(|family| default(&pod, family)).to_vec();
        let network = net1("10.0.0.100", Some(ipv6));

        let made = add_network(&node, &pod, &network);

        let tables: Vec<_> = made.interfaces[0].addresses.iter().map(|it| it.table.0).collect();
        assert_eq!(tables, [ipv4_in, ipv6_in], "{other}");
        for (family, table, before) in [(4, ipv4_in, &before[0]), (6, ipv6_in, &before[1])] {
            let ours = pod.ip(&format!("-{family} route show default dev net1 table {table}"));
            assert!(ours.starts_with("default via "), "{other}: {ours}");
            let mut after = default(&pod, family);
            after.retain(|line| !line.contains("dev net1"));
            assert_eq!(after, *before, "{other}");
        }
        assert_eq!(check(&node, &pod, &network), [""; 0], "{other}");
        let after = pod.snapshot();
        add_to(&node, &pod, &network);
        assert_eq!(pod.snapshot(), after, "{other}: again");
    }
}

#[test]
fn tables_in_use_inside_a_pod_are_not_taken() {
    let (node, pod) = (Netns::new(), pod_with_another_network());
    pod.ip("route add 192.0.2.0/24 dev eth0 table 86");
    pod.ip("rule add from 192.168.7.2 lookup 87 pref 100");
    pod.ip("route add 192.0.2.0/24 dev eth0 table 1");
    let two = (lease("p", "p", 0, 1, "10.0.0.101"))
        .with_key(PodKey::new("aws-cni", "p", "net1").unwrap())
        .with_more(vec![leased(1, 1, "10.0.0.201")]);
    let network = network_of(&two);
    let before = pod.snapshot();

    let made = add_network(&node, &pod, &network);

    let tables: Vec<_> = made.interfaces.iter().map(|it| it.addresses[0].table.0).collect();
    assert_eq!(tables, [88, 89]);
    let mut rules = pod.rules(1);
    rules.sort();
    assert_eq!(rules, ["10.0.0.101 - 88", "10.0.0.201 - 89"]);
    let after = pod.snapshot();
    assert!(before.iter().all(|line| after.contains(line)), "{before:#?} {after:#?}");
    assert_eq!(check(&node, &pod, &network), [""; 0]);
    add_to(&node, &pod, &network);
    assert_eq!(pod.snapshot(), after);
}

#[test]
fn rules_of_networks_that_are_gone_are_taken_along() {
    let (node, pod) = (Netns::new(), pod_with_another_network());
    for address in ["10.0.0.100", "10.0.0.101", "10.0.0.102", "10.0.0.100"] {
        let network = net1(address, None);
        pod.ip("rule add from 10.0.0.77 lookup 99 pref 1 proto static");

        add_to(&node, &pod, &network);

        assert_eq!(pod.rules(1), ["10.0.0.77 - 99", &format!("{address} - 86")]);
        remove(&node, &network);
        pod::remove_links(&mut node.netlink(), &network).unwrap();
        pod.ip("rule del pref 1 from 10.0.0.77");
    }
    // Without another default route the rule that is left is none to go by.
    pod.ip("route del default");
    let network = net1("10.0.0.100", None);
    add_to(&node, &pod, &network);
    assert!(pod.ip("route show default").contains("dev net1"));
    assert_eq!(check(&node, &pod, &network), [""; 0]);
}

#[test]
fn what_is_lost_of_a_second_network_is_told_and_comes_back() {
    let (node, pod, network) = (Netns::new(), pod_with_another_network(), net1("10.0.0.100", None));
    add_to(&node, &pod, &network);
    let before = pod.snapshot();
    for (damage, expected) in [
        ("rule del pref 1", "missing: rule 1: from 10.0.0.100 lookup 86"),
        ("route del default table 86", "missing: route default via 169.254.1.1 table 86 dev net1"),
    ] {
        pod.ip(damage);

        let words: Vec<_> = check(&node, &pod, &network);

        assert_eq!(words, [expected]);
        add_to(&node, &pod, &network);
        assert_eq!(pod.snapshot(), before, "{damage}");
    }
}

#[test]
fn second_network_that_cannot_have_a_table_is_refused_and_leaves_nothing() {
    const EOPNOTSUPP: i32 = 95;
    let (node, pod, network) = (Netns::new(), pod_with_another_network(), net1("10.0.0.100", None));
    let before = (node.snapshot(), pod.snapshot());
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::Set(Object::Rule(_)) => Err(Refusal { errno: Some(EOPNOTSUPP), says: None }),
        other => really(inner, other),
    };
    let mut inside = Altered { inner: pod.netlink(), change };

    let error = pod::add(&mut node.netlink(), &mut inside, &pod.namespace, &network).unwrap_err();

    assert!(matches!(error.cause, AddFailure::OtherDefault { .. }), "{error:?}");
    let words = chain(&error);
    assert!(
        words.contains(
            "the pod has the default route of another network, default via 192.168.7.1 table main, and the kernel lets none be \
             made beside it by source"
        ),
        "{words}"
    );
    assert!(words.contains("rule 1: from 10.0.0.100 lookup 86"), "{words}");
    assert_eq!((node.snapshot(), pod.snapshot()), before);
}

fn pod_with_links() -> Netns {
    let pod = Netns::new();
    pod.ip("link set lo up");
    pod.ip("link add eth0 type veth peer name other");
    pod.ip("link set other up");
    pod.ip("addr add 192.168.7.2/24 dev eth0");
    pod.ip("link set eth0 up");
    pod
}

fn pod_with_another_network() -> Netns {
    let pod = pod_with_links();
    pod.ip("route add default via 192.168.7.1 dev eth0");
    pod
}

fn net1(ipv4: &str, ipv6: Option<&str>) -> PodNetwork {
    let key = PodKey::new("aws-cni", "p", "net1").unwrap();
    network_of(&(lease_with("p", 0, Some(ipv4), ipv6)).with_key(key))
}

fn add_network(node: &Netns, pod: &Netns, network: &PodNetwork) -> PodNetwork {
    pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, network)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn check(node: &Netns, pod: &Netns, network: &PodNetwork) -> Vec<String> {
    let found = pod::check(&mut node.netlink(), &mut pod.netlink(), network).unwrap();
    found.iter().map(ToString::to_string).collect()
}

fn default(pod: &Netns, family: u8) -> Vec<String> {
    let routes = pod.ip(&format!("-{family} route show default"));
    routes.lines().map(str::to_owned).collect()
}
