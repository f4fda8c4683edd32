//! Pods whose names give their links the same name.

use core::net::IpAddr;

use vpc_ipam_core::{Pod, PodKey};
use vpc_ipam_linux::pod::{self, BranchEni, PodNetwork, VlanId, desired_on_branch, host_links};
use vpc_ipam_linux::{
    BranchMode, Extent, KernelChange, KernelEffect, KernelNetlink, Netlink, Object, VethPrefix,
};

use crate::support::{
    Altered, Netns, Vpc, add_to, chain, eni_mac, lease, leased, link_names, network, network_of,
    really, settings,
};

/// Two names in the namespace `default` with the same 44 bits of SHA-1, found by `examples/colliding_names.rs`.
const COLLIDING: [&str; 2] = ["web-5952665", "web-14117156"];

#[test]
fn names_that_collide_give_one_name_of_a_link() {
    let [one, other] = COLLIDING.map(pod_named);
    let links = |pod: &Pod, interfaces| -> Vec<_> {
        host_links(pod, interfaces, &VethPrefix::default()).collect()
    };
    assert_eq!(links(&one, 1), ["eni11a57f0f65b"]);
    assert_eq!(links(&one, 1), links(&other, 1));
    assert_eq!(links(&pod_named("web.1"), 1), links(&pod_named("web"), 2)[1..]);
}

/// In either order, whatever either is on, and without the other's hearing of it.
#[test]
fn link_of_a_pod_is_never_anothers() {
    for (one, other) in pairs() {
        for (first, second) in [(&one, &other), (&other, &one)] {
            let vpc = node();
            let case = format!("{} before {}", first.name, second.name);
            let first_netns = add_on(&vpc, first);
            let second_netns = Netns::new();
            let before = (vpc.node.snapshot(), second_netns.snapshot());

            for _ in 0..2 {
                let error = pod::add(
                    &mut trunk(&vpc),
                    &mut second_netns.netlink(),
                    &second_netns.namespace,
                    &second.network,
                )
                .unwrap_err();

                assert!(!error.running, "{case}");
                let words = chain(&error);
                for name in [first.name, second.name] {
                    let name = format!("pod default/{name}");
                    assert!(
                        words.contains(&format!("{name},")) || words.contains(&format!("{name}:")),
                        "{case}: {words}"
                    );
                }
                assert_eq!((vpc.node.snapshot(), second_netns.snapshot()), before, "{case}");
            }
            // As the runtime does with a pod that could not be added; with and without what a daemon knows.
            let (mut netlink, none) = (trunk(&vpc), [] as [IpAddr; 0]);
            assert_eq!(pod::remove(&mut netlink, &second.network).unwrap(), none, "{case}");
            pod::remove_links(&mut netlink, &second.network).unwrap();
            assert_eq!(pod::remove_found(&mut netlink, &second.key).unwrap(), none, "{case}");
            assert_eq!((vpc.node.snapshot(), second_netns.snapshot()), before, "{case}");
            let checked =
                pod::check(&mut trunk(&vpc), &mut first_netns.netlink(), &first.network).unwrap();
            assert_eq!(checked, [], "{case}");

            // What is left of a pod that was deleted is in no pod's way.
            pod::remove(&mut netlink, &first.network).unwrap();
            pod::add(
                &mut trunk(&vpc),
                &mut second_netns.netlink(),
                &second_netns.namespace,
                &second.network,
            )
            .unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
            pod::remove_links(&mut netlink, &first.network).unwrap();
            let checked =
                pod::check(&mut trunk(&vpc), &mut second_netns.netlink(), &second.network);
            assert_eq!(checked.unwrap(), [], "{case}");
        }
    }
}

/// One that was made by amazon-vpc-cni-k8s, or before the state file was lost along with a daemon that did not say whose links are.
#[test]
fn link_of_a_pod_that_is_not_known_by_name_is_not_taken_while_it_is_in_use() {
    let node = Netns::new();
    let old = Netns::new();
    let network = network("web", 1, "10.0.0.101");
    let name = &network.interfaces[0].host.name;
    node.ip(&format!("link add {name} type veth peer name eth0 netns {}", old.name));
    node.ip(&format!("link set {name} up"));
    node.ip(&format!("route add 10.0.0.77 dev {name} scope link"));
    let new = Netns::new();
    let before = (node.snapshot(), new.snapshot());

    let error =
        pod::add(&mut node.netlink(), &mut new.netlink(), &new.namespace, &network).unwrap_err();

    let words = chain(&error);
    assert!(words.contains("default/web") && words.contains("10.0.0.77"), "{words}");
    assert_eq!((node.snapshot(), new.snapshot()), before);
    node.ip("route del 10.0.0.77");
    add_to(&node, &new, &network);
    assert_eq!(link_names(&mut old.netlink()), ["lo"]);
}

#[test]
fn link_that_is_no_pods_is_not_taken() {
    let node = Netns::new();
    let network = network("web", 1, "10.0.0.101");
    let name = &network.interfaces[0].host.name;
    node.ip(&format!("link add {name} type bridge"));
    let new = Netns::new();
    let before = (node.snapshot(), new.snapshot());

    let error =
        pod::add(&mut node.netlink(), &mut new.netlink(), &new.namespace, &network).unwrap_err();

    assert!(chain(&error).contains("another program made it"), "{}", chain(&error));
    assert_eq!((node.snapshot(), new.snapshot()), before);
}

#[test]
fn failed_add_does_not_take_back_what_another_has_by_then() {
    let node = Netns::new();
    let late = network_of(&lease("web", "container-1", 0, 1, "10.0.0.101"));
    let next = network_of(&lease("web", "container-2", 0, 1, "10.0.0.102"));
    let (old, new) = (Netns::new(), Netns::new());
    let mut taken = false;
    let change = |inner: &mut KernelNetlink, change: &KernelChange| {
        if matches!(change, KernelChange::Set(Object::Rule(_))) && !taken {
            taken = true;
            add_to(&node, &new, &next);
        }
        really(inner, change)
    };
    let mut netlink = Altered { inner: node.netlink(), change };

    pod::add(&mut netlink, &mut old.netlink(), &old.namespace, &late).unwrap_err();

    let checked = pod::check(&mut node.netlink(), &mut new.netlink(), &next).unwrap();
    assert_eq!(checked, []);
}

#[test]
fn link_says_whose_it_is_and_is_made_to_again_unless_it_says_something_else() {
    let (vpc, node, _pods) = crate::node::node_with_pods();
    let name = &node.pods.values().next().unwrap().interfaces[0].host.name;
    let alias = || vpc.node.json(&format!("link show {name}"))[0]["ifalias"].clone();
    let made = alias();
    assert!(made.as_str().unwrap().starts_with("vpc-ipam default/"), "{made}");
    vpc.node.run("ip", &["link", "set", name, "alias", ""]);
    assert_eq!(alias(), serde_json::Value::Null);

    let repair = || -> Vec<String> {
        let repaired = crate::node::repair(&node, &vpc, Extent::All);
        repaired.differences.iter().map(ToString::to_string).collect()
    };
    let repaired = repair();

    assert_eq!(repaired, [format!("missing: alias {made} of link {name}")]);
    assert_eq!(alias(), made);
    vpc.node.run("ip", &["link", "set", name, "alias", "of another program"]);
    assert_eq!(repair(), [] as [&str; 0]);
    assert_eq!(alias(), "of another program");
}

#[derive(Clone)]
struct Named {
    name: &'static str,
    key: PodKey,
    network: PodNetwork,
}

/// Returns pairs of pods with links of one name.
fn pairs() -> Vec<(Named, Named)> {
    let [one, other] = COLLIDING;
    let plain = |name, device, address: &str| {
        let lease = lease(name, name, 0, device, address);
        Named { name, key: lease.key.clone(), network: network_of(&lease) }
    };
    let on_cards = |name, address: &str, more: &str| {
        let lease = (lease(name, name, 0, 1, address)).with_more(vec![leased(1, 1, more)]);
        Named { name, key: lease.key.clone(), network: network_of(&lease) }
    };
    let on_branch = |name, vlan, mode| {
        let pod = pod_named(name);
        let key = PodKey::new("aws-cni", name, "eth0").unwrap();
        let branch = BranchEni {
            eni: format!("eni-{vlan}").parse().unwrap(),
            mac: vpc_ipam_core::Mac([2, 0, 10, 0, 1, vlan]),
            vlan: VlanId::try_from(u16::from(vlan)).unwrap(),
            trunk: eni_mac(1),
            ipv4: Some(([10, 0, 1, vlan].into(), "10.0.0.0/19".parse().unwrap())),
            ipv6: None,
        };
        let network = desired_on_branch(&key, &pod, &branch, mode, &settings()).unwrap();
        Named { name, key, network }
    };
    let (strict, standard) = (BranchMode::Strict, BranchMode::Standard);
    vec![
        (plain(one, 0, "10.0.0.101"), plain(other, 0, "10.0.0.102")),
        (plain(one, 0, "10.0.0.101"), plain(other, 1, "10.0.0.102")),
        (on_cards("web", "10.0.0.101", "10.0.0.201"), plain("web.1", 1, "10.0.0.102")),
        (on_cards(one, "10.0.0.101", "10.0.0.201"), on_cards(other, "10.0.0.102", "10.0.0.202")),
        (on_branch(one, 7, strict), on_branch(other, 8, strict)),
        (on_branch(one, 7, standard), on_branch(other, 8, standard)),
        (on_branch(one, 7, standard), plain(other, 0, "10.0.0.101")),
    ]
}

fn pod_named(name: &str) -> Pod {
    Pod::new("default", name.to_owned())
}

fn node() -> Vpc {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);
    vpc.node.ip("link set eth1 up");
    vpc
}

fn add_on(vpc: &Vpc, named: &Named) -> Netns {
    let pod = Netns::new();
    pod::add(&mut trunk(vpc), &mut pod.netlink(), &pod.namespace, &named.network)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    pod
}

/// Returns a kernel in which the link of a VLAN is a cable to the fabric.
fn trunk(vpc: &Vpc) -> impl Netlink {
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::AddVlan(vlan) => {
            let table = vlan.name.replace('.', "_");
            let _ = vpc.fabric.try_exec(&format!("nft delete table netdev check_{table}"));
            vpc.plug(&vlan.name, vlan.mac, "subnet1", &[]);
            Ok(KernelEffect::Done)
        }
        other => really(inner, other),
    };
    Altered { inner: vpc.node.netlink(), change }
}
