//! Pods that amazon-vpc-cni-k8s made and that have a lease of ours since.

use core::net::IpAddr;
use std::collections::BTreeSet;

use vpc_ipam_core::{FoundLink, Lease, LeasedInterface, Mac, testkit};
use vpc_ipam_linux::pod::{AddFailure, PodNetwork};
use vpc_ipam_linux::{Extent, Netlink as _, NodeNetwork, pod};

use crate::adopt::sources_seen_during;
use crate::adopted::{damages, state, vpc};
use crate::node::{key, repair};
use crate::old;
use crate::support::{Netns, Vpc, add_to, chain, leased, network_of, source_seen};

const V4: &str = "10.0.0.100";
const V4_ON_ENI: &str = "10.0.0.101";
const V6: &str = "2001:db8:a:0:1::2";

/// The name of the link of pod `default/a`.
const LINK: &str = "eni7cd5e0e0a0d";

struct Case {
    name: &'static str,
    make: fn(&Vpc) -> Netns,
    first: fn() -> LeasedInterface,
    more: fn() -> Vec<LeasedInterface>,
    /// The links and the tables that rules lead to.
    links: &'static [(&'static str, Option<u32>)],
    addresses: &'static [&'static str],
    reaches: Option<(&'static str, &'static str)>,
}

const CASES: [Case; 5] = [
    Case {
        name: "on the primary ENI",
        make: |vpc| old::pod(&vpc.node, LINK, &[V4], None),
        first: || leased(0, 0, V4),
        more: Vec::new,
        links: &[(LINK, None)],
        addresses: &[V4],
        reaches: Some(("203.0.113.10:80", "10.0.0.10")),
    },
    Case {
        name: "on a second ENI, of unknown name, under another prefix",
        make: |vpc| old::pod(&vpc.node, "pod_0000000000a", &[V4_ON_ENI], Some(2)),
        first: || leased(0, 1, V4_ON_ENI),
        more: Vec::new,
        links: &[("pod_0000000000a", Some(2))],
        addresses: &[V4_ON_ENI],
        reaches: Some(("10.0.0.30:80", V4_ON_ENI)),
    },
    Case {
        name: "on a second ENI, with the table of an early version",
        make: |vpc| {
            vpc.node.ip("route add 10.0.0.1 dev eth1 scope link table 12");
            vpc.node.ip("route add default via 10.0.0.1 dev eth1 table 12");
            old::pod(&vpc.node, LINK, &[V4_ON_ENI], Some(12))
        },
        first: || leased(0, 1, V4_ON_ENI),
        more: Vec::new,
        links: &[(LINK, Some(12))],
        addresses: &[V4_ON_ENI],
        reaches: Some(("10.0.0.30:80", V4_ON_ENI)),
    },
    Case {
        name: "on two network cards",
        make: |vpc| {
            let pod = old::pod(&vpc.node, LINK, &[V4], None);
            second_interface(&vpc.node, &pod);
            pod
        },
        first: || leased(0, 0, V4),
        more: || vec![testkit::leased(1, 1, ["10.0.32.102"])],
        links: &[(LINK, None), ("eni09a57617d5a", Some(10101))],
        addresses: &[V4, "10.0.32.102"],
        reaches: None,
    },
    Case {
        name: "of IPv6",
        make: |vpc| old::pod(&vpc.node, LINK, &[V6], None),
        first: || leased(0, 0, V4).with_ipv4(None).with_ipv6(Some(V6.parse().unwrap())),
        more: Vec::new,
        links: &[(LINK, None)],
        addresses: &[V6],
        reaches: Some(("[2001:db8:a::30]:80", V6)),
    },
];

fn second_interface(node: &Netns, pod: &Netns) {
    let link = "eni09a57617d5a";
    node.ip(&format!("link add {link} type veth peer name mNicIf1 netns {}", pod.name));
    node.ip(&format!("link set {link} up"));
    let mac = node.json(&format!("link show {link}"))[0]["address"].as_str().unwrap().to_owned();
    for command in [
        "link set mNicIf1 up",
        "route add 169.254.1.2 dev mNicIf1 scope link table 1",
        "rule add from 10.0.32.102 lookup 1 pref 1",
        "route add default via 169.254.1.2 dev mNicIf1 table 1",
        "addr add 10.0.32.102 dev mNicIf1",
        &format!("neigh add 169.254.1.2 lladdr {mac} dev mNicIf1 nud permanent"),
    ] {
        pod.ip(command);
    }
    node.ip("link set lo up");
    for command in [
        format!("route add 10.0.32.102 dev {link} scope link"),
        "rule add to 10.0.32.102 lookup main pref 512".to_owned(),
        "rule add from 10.0.32.102 lookup 10101 pref 1536".to_owned(),
    ] {
        node.ip(&command);
    }
}

impl Case {
    fn lease(&self, vpc: &Vpc) -> Lease {
        let found = self.links.iter().map(|(name, table)| {
            let mac = vpc.node.netlink().link(name).unwrap().unwrap().mac.unwrap();
            FoundLink::new(*name, mac).with_table(*table)
        });
        let interfaces = core::iter::once((self.first)()).chain((self.more)());
        testkit::lease("a", interfaces).with_found(found.collect())
    }

    /// Makes a node that is as it should be, and the pod beside it.
    fn begin(&self) -> (Vpc, Netns, PodNetwork, NodeNetwork) {
        let vpc = vpc();
        let mut node = crate::adopted::node(&vpc);
        let pod = (self.make)(&vpc);
        let network = network_of(&self.lease(&vpc));
        node.pods.insert(key("a"), network.clone());
        (vpc, pod, network, node)
    }

    fn ends(&self, vpc: &Vpc, pod: &Netns) -> Vec<(String, String, String)> {
        let links = self.links.iter().map(|(name, _)| (&vpc.node, *name));
        let inside = ["eth0", "mNicIf1"].into_iter().map(|name| (pod, name));
        let ends = links.chain(inside.take(self.links.len()));
        ends.map(|(netns, name)| {
            let link = &netns.json(&format!("link show {name}"))[0];
            (name.to_owned(), link["address"].to_string(), link["ifindex"].to_string())
        })
        .collect()
    }
}

#[test]
fn imported_pod_is_kept_as_one_of_ours_with_its_link_as_found() {
    for case in CASES {
        let name = case.name;
        let (vpc, pod, network, node) = case.begin();
        let ends = case.ends(&vpc, &pod);
        let in_pod = pod.snapshot();

        assert_ne!(repair(&node, &vpc, Extent::All).differences, [], "{name}");

        let diff = node.diff(&mut vpc.node.netlink(), Extent::All).unwrap();
        assert!(diff.is_empty(), "{name}: {diff:?}");
        for priority in [512, 1536] {
            for rule in vpc.node.json(&format!("-d rule show pref {priority}")) {
                assert_eq!(rule["protocol"], "86", "{name}: {rule}");
            }
            let tables = case.links.iter().filter(|(_, table)| table.is_some()).count();
            let expected = if priority == 512 { case.links.len() } else { tables };
            let rules = |family| vpc.node.ip(&format!("{family} rule show pref {priority}"));
            let count = rules("-4").lines().count() + rules("-6").lines().count();
            assert_eq!(count, expected, "{name}");
        }
        check(&vpc, &pod, &network, name);
        // A route that leads the same way serves as well, whichever program made it.
        let state = || state(&vpc).into_iter().map(|line| line.replace(" proto 86", ""));
        let state = || state().collect::<BTreeSet<String>>();
        let before = state();
        let links: Vec<String> = case.links.iter().map(|(link, _)| (*link).to_owned()).collect();
        let mut damages = damages(&vpc, &links, case.addresses);
        damages.push("ip link set eth1 down; ip link set eth1 up".to_owned());
        for damage in damages {
            vpc.node.shell(&damage);
            assert_ne!(state(), before, "{name}: {damage}");
            repair(&node, &vpc, Extent::All);
            assert_eq!(state(), before, "{name}: {damage}");
        }
        if let Some((server, as_whom)) = case.reaches {
            let seen = || source_seen(&pod.namespace, &vpc.fabric.namespace, server);
            let seen = (0..10).find_map(|_| seen());
            assert_eq!(seen.as_deref(), Some(as_whom), "{name}");
        }
        // Asked for again, as by a runtime that did not hear the first answer.
        add_to(&vpc.node, &pod, &network);
        assert_eq!(case.ends(&vpc, &pod), ends, "{name}");
        assert_eq!(pod.snapshot(), in_pod, "{name}");
        check(&vpc, &pod, &network, name);
    }
}

#[test]
fn imported_pod_is_removed_as_one_of_ours() {
    for repaired in [true, false] {
        for case in CASES {
            let name = format!("{}, repaired {repaired}", case.name);
            let (vpc, _pod, network, node) = case.begin();
            if repaired {
                repair(&node, &vpc, Extent::All);
            }

            for _ in 0..2 {
                let spared = pod::remove(&mut vpc.node.netlink(), &network).unwrap();
                assert_eq!(spared, [] as [IpAddr; 0], "{name}");
                pod::remove_links(&mut vpc.node.netlink(), &network).unwrap();
            }

            let left = vpc.node.snapshot();
            let of_pod = |line: &&String| {
                let mut words = line.split_whitespace();
                words.any(|word| case.addresses.contains(&word) || word == case.links[0].0)
            };
            assert_eq!(left.iter().find(of_pod), None, "{name}");
        }
    }
}

#[test]
fn rules_are_relabelled_without_a_gap() {
    let (vpc, pod, _, node) = CASES[2].begin();

    let seen = sources_seen_during(&vpc, &pod, || {
        assert_ne!(repair(&node, &vpc, Extent::All).differences, []);
    });

    assert_eq!(seen, ["10.0.0.10".parse().unwrap()].into());
}

#[test]
fn what_is_damaged_in_an_imported_pod_is_told_by_check() {
    let damages = [
        "addr flush dev eth0",
        "route del default",
        "neigh del 169.254.1.1 dev eth0",
        "link set eth0 down",
        "link set eth0 name eth9",
    ];
    for damage in damages {
        let (vpc, pod, network, node) = CASES[1].begin();
        repair(&node, &vpc, Extent::All);
        check(&vpc, &pod, &network, damage);

        if damage.contains("name") {
            pod.ip("link set eth0 down");
        }
        pod.ip(damage);

        let told = pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), &network).unwrap();
        assert_ne!(told, [], "{damage}");
    }
}

/// Only its own runtime can have the pod made anew.
#[test]
fn link_that_is_gone_is_not_made_anew() {
    let (vpc, pod, network, _) = CASES[0].begin();
    vpc.node.ip(&format!("link del {LINK}"));
    let before = vpc.node.snapshot();

    let (mut host, mut inside) = (vpc.node.netlink(), pod.netlink());
    let error = pod::add(&mut host, &mut inside, &pod.namespace, &network).unwrap_err();

    assert!(
        matches!(&error.cause, AddFailure::FoundLinkGone { link } if link == LINK),
        "{error:?}"
    );
    assert!(chain(&error).contains("imported with the link"), "{}", chain(&error));
    assert_eq!(vpc.node.snapshot(), before);
}

/// A link with the MAC address that follows from the pod's key is this program's own, of an earlier state file.
#[test]
fn link_of_ours_is_as_any_other_after_an_import() {
    let plain = testkit::lease("a", [leased(0, 1, V4_ON_ENI)]);
    let own = network_of(&plain);
    let host = &own.interfaces[0].host;

    let found = FoundLink::new(&host.name, host.mac).with_table(Some(2));
    let network = network_of(&plain.with_found(vec![found]));

    assert_eq!(network, own);
    let other = FoundLink::new(&host.name, Mac([2, 0, 0, 0, 0, 9]));
    let plain = testkit::lease("a", [leased(0, 1, V4_ON_ENI)]).with_found(vec![other]);
    assert_ne!(network_of(&plain), own);
}

fn check(vpc: &Vpc, pod: &Netns, network: &PodNetwork, case: &str) {
    let told = pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), network).unwrap();
    assert_eq!(told, [], "{case}");
}
