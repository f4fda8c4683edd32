//! Pods on branch ENIs. Where the kernel has no VLANs, the link of one is played by a cable to the fabric; all else is real.

use core::net::IpAddr;

use serde_json::{Value, json};
use vpc_ipam_core::{Config, Families, Ipv4Kind, Mac, Pod, PodKey};
use vpc_ipam_linux::host;
use vpc_ipam_linux::pod::{self, AddFailure, BranchEni, PodError, PodNetwork, VlanId};
use vpc_ipam_linux::{
    BranchMode, HostConfig, KernelChange, KernelEffect, KernelNetlink, Netlink, Vlan,
};

use crate::support::{
    Altered, INTERNET, Netns, Vpc, add, chain, eni_mac, metadata, network, note_links, really,
    settings, source_seen,
};

const MAC: Mac = Mac([2, 0, 10, 0, 0, 0x6b]);
const ADDRESS: &str = "10.0.0.107";
const ADDRESS_IPV6: &str = "2001:db8:a:0:7::2";
const DUAL: Families = Families::Dual(Ipv4Kind::Addresses);
const MODES: [BranchMode; 2] = [BranchMode::Strict, BranchMode::Standard];

#[test]
fn table_that_another_program_uses_is_not_taken() {
    for mode in MODES {
        for (command, expected) in [
            (
                "route add default via 10.0.0.1 dev eth0 table 107 proto static",
                "route default via 10.0.0.1 table 107 dev eth0 proto static",
            ),
            (
                "rule add from 192.0.2.7 lookup 107 pref 100",
                "rule 100: from 192.0.2.7 lookup 107 proto unspec",
            ),
        ] {
            let vpc = node(mode);
            vpc.node.ip(command);
            let pod = Netns::new();
            let before = (vpc.node.snapshot(), pod.snapshot());
            let network = branch_network("sgp", mode);

            let error = pod::add(&mut trunk(&vpc), &mut pod.netlink(), &pod.namespace, &network);

            let error = error.unwrap_err();
            assert_eq!(
                chain(&error),
                format!(
                    "set up the network of the pod: route table 107 of the pod's branch ENI is in use by another \
                     program: {expected}"
                ),
                "{mode:?}"
            );
            assert_eq!((vpc.node.snapshot(), pod.snapshot()), before, "{mode:?}: {command}");
        }
    }
}

#[test]
fn strict_pod_is_as_amazon_vpc_cni_k8s_would_leave_it() {
    let vpc = node(BranchMode::Strict);
    let network = branch_network("sgp", BranchMode::Strict);

    let _pod = add_branch(&vpc, &network);

    let name = &network.interfaces[0].host.name;
    assert!(name.starts_with("vlan"), "{name}");
    assert_eq!(by_link(&vpc.node), [("vlan.eth.7", "107"), (name, "107")].map(owned));
    assert_eq!(vpc.node.rules(0), [] as [&str; 0], "the rule of local addresses is first no more");
    assert_eq!(vpc.node.rules(20), ["all - local"]);
    assert_eq!(vpc.node.rules(512), [] as [&str; 0]);
    assert_eq!(vpc.node.rules(1536), [] as [&str; 0]);
    let routes = vpc.node.routes(107);
    assert_eq!(routes.len(), 3, "{routes:?}");
    let find = |dst: &str| routes.iter().find(|route| route["dst"] == dst).unwrap();
    assert_eq!(find("default")["gateway"], "10.0.0.1");
    assert_eq!(find("10.0.0.1")["dev"], "vlan.eth.7");
    assert_eq!(find(ADDRESS)["dev"], json!(name));
    assert_eq!(vpc.node.json(&format!("route show {ADDRESS}")), [] as [Value; 0]);
    for (key, value) in [("accept_ra", "0"), ("accept_redirects", "0"), ("forwarding", "0")] {
        let actual = vpc.node.sysctl(&format!("net/ipv6/conf/vlan.eth.7/{key}"));
        assert_eq!(actual, value, "{key}");
    }
}

#[test]
fn standard_pod_is_as_amazon_vpc_cni_k8s_would_leave_it() {
    let vpc = node(BranchMode::Standard);
    let network = branch_network("sgp", BranchMode::Standard);

    let _pod = add_branch(&vpc, &network);

    let name = &network.interfaces[0].host.name;
    assert!(name.starts_with("eni"), "{name}");
    assert_eq!(by_link(&vpc.node), []);
    assert_eq!(vpc.node.rules(0), ["all - local"]);
    assert_eq!(vpc.node.rules(512), [format!("all {ADDRESS} main")]);
    assert_eq!(vpc.node.rules(1536), [format!("{ADDRESS} - 107")]);
    assert_eq!(vpc.node.routes(107).len(), 2);
    assert_eq!(vpc.node.json(&format!("route show {ADDRESS}"))[0]["dev"], json!(name));
}

#[test]
fn traffic_goes_as_each_mode_wants() {
    for mode in MODES {
        // Whether the system checks sources strictly by default.
        for checks in [0, 1] {
            let vpc = Vpc::new();
            vpc.node.exec(&format!("sysctl -qw net.ipv4.conf.default.rp_filter={checks}"));
            set_up_node(&vpc, mode);
            let plain = add(&vpc.node, &network("a", 0, "10.0.0.100"));
            let pod = add_branch(&vpc, &branch_network("sgp", mode));
            let case = format!("{mode:?}, rp_filter {checks}");
            let (pod, plain) = (&pod.namespace, &plain.namespace);
            let (fabric, node) = (&vpc.fabric.namespace, &vpc.node.namespace);
            let seen = |from, by, to| source_seen(from, by, to);

            let host = seen(pod, fabric, "10.0.0.30:80");
            assert_eq!(host.as_deref(), Some(ADDRESS), "{case}: to another host");
            let back = seen(fabric, pod, "10.0.0.107:80");
            assert_eq!(back.as_deref(), Some("10.0.0.1"), "{case}: from another host");
            let internet = seen(pod, fabric, INTERNET);
            let expected = if mode == BranchMode::Strict { ADDRESS } else { "10.0.0.10" };
            assert_eq!(internet.as_deref(), Some(expected), "{case}: to the internet");
            count_crossing(&vpc);
            let same_node = seen(pod, plain, "10.0.0.100:80");
            assert_eq!(same_node.as_deref(), Some(ADDRESS), "{case}: to a pod of the node");
            assert_eq!(crossed(&vpc), mode == BranchMode::Strict, "{case}: crosses the VPC");

            // Kubelet's probe.
            for (demux, reaches) in [(1, mode == BranchMode::Standard), (0, true)] {
                vpc.node.exec(&format!("sysctl -qw net.ipv4.tcp_early_demux={demux}"));
                let probe = seen(node, pod, "10.0.0.107:80");
                let expected = reaches.then_some("10.0.0.10");
                assert_eq!(probe.as_deref(), expected, "{case}: probe, early demux {demux}");
            }
            assert_eq!(vpc.drops("vlan.eth.7") + vpc.drops("eth0"), 0, "{case}");
        }
    }
}

#[test]
fn pod_added_again_stays_and_is_put_right() {
    for mode in MODES {
        let vpc = node(mode);
        let network = branch_network("sgp", mode);
        let pod = add_branch(&vpc, &network);
        let before = (vpc.node.snapshot(), pod.snapshot());
        for damage in ["route flush table 107", "link set vlan.eth.7 down", "-4 rule flush pref 10"]
        {
            if damage.contains("rule") && mode == BranchMode::Standard {
                continue;
            }
            // iproute2 flushes rules by nothing but protocol.
            match damage.contains("flush pref") {
                true => while vpc.node.try_ip("rule del pref 10").is_ok() {},
                false => drop(vpc.node.ip(damage)),
            }
            let checked = pod::check(&mut trunk(&vpc), &mut pod.netlink(), &network).unwrap();
            assert_ne!(checked, [], "{mode:?}: {damage}");

            pod::add(&mut trunk(&vpc), &mut pod.netlink(), &pod.namespace, &network).unwrap();

            assert_eq!((vpc.node.snapshot(), pod.snapshot()), before, "{mode:?}: {damage}");
            let checked = pod::check(&mut trunk(&vpc), &mut pod.netlink(), &network).unwrap();
            assert_eq!(checked, [], "{mode:?}: {damage}");
        }
    }
}

/// 1.11.0: the mode may have changed between ADD and DEL.
#[test]
fn removal_leaves_nothing_whatever_the_mode_was() {
    for (added, removed) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (added, removed) = (MODES[added], MODES[removed]);
        let vpc = node(added);
        let before = vpc.node.snapshot();
        let pod = add_branch(&vpc, &branch_network("sgp", added));

        for _ in 0..2 {
            let spared = pod::remove(&mut trunk(&vpc), &branch_network("sgp", removed)).unwrap();
            assert_eq!(spared, [] as [IpAddr; 0], "{added:?}, then {removed:?}");
        }

        assert_eq!(by_link(&vpc.node), [], "{added:?}, then {removed:?}");
        assert_eq!(vpc.node.routes(107).len(), usize::from(added != removed && added == MODES[0]));
        drop(pod);
        wait_for_links(&vpc.node, &["lo", "eth0", "eth1"]);
        assert_eq!(vpc.node.snapshot(), before, "{added:?}, then {removed:?}");
    }
}

/// 1.10.3: a late DEL tore down the next pod of the name.
#[test]
fn late_removal_spares_the_next_owner_of_the_vlan() {
    for mode in MODES {
        let vpc = node(mode);
        let first = branch_network("sgp", mode);
        let _old = add_branch(&vpc, &first);
        // EC2 gives the VLAN to another branch ENI once the first is gone.
        let mut second = branch_network("other", mode);
        let branch = second.interfaces[0].branch.as_mut().unwrap();
        branch.mac = Mac([2, 0, 10, 0, 0, 0x6c]);
        let new = add_branch(&vpc, &second);
        let before = vpc.node.snapshot();

        let spared = pod::remove(&mut trunk(&vpc), &first).unwrap();

        assert_eq!(spared, [ADDRESS.parse::<IpAddr>().unwrap()], "{mode:?}");
        assert_eq!(vpc.node.snapshot(), before, "{mode:?}");
        assert_eq!(pod::check(&mut trunk(&vpc), &mut new.netlink(), &second).unwrap(), []);
    }
}

/// 1.7.9: the rule of the previous pod with the same name of its link on the host.
#[test]
fn stale_rule_of_a_link_does_not_divert_its_next_owner() {
    for mode in MODES {
        let vpc = node(mode);
        let network = branch_network("sgp", mode);
        let name = &network.interfaces[0].host.name;
        vpc.node.ip(&format!("rule add iif {name} lookup 199 pref 10"));
        vpc.node.ip("rule add iif vlan.eth.7 lookup 199 pref 10");

        let _pod = add_branch(&vpc, &network);

        let stale = by_link(&vpc.node).into_iter().filter(|(_, table)| table == "199").count();
        assert_eq!(stale, 0, "{mode:?}");
    }
}

#[test]
fn failed_add_leaves_nothing() {
    for mode in MODES {
        let vpc = node(mode);
        let before = vpc.node.snapshot();
        let pod = Netns::new();
        // The pod cannot get its address: there is no such link any more.
        let mut network = branch_network("sgp", mode);
        network.interfaces[0].mtu = 1;

        let error = pod::add(&mut trunk(&vpc), &mut pod.netlink(), &pod.namespace, &network);

        assert!(error.unwrap_err().left_behind.is_empty());
        assert_eq!(vpc.node.snapshot(), before, "{mode:?}");
    }
}

#[test]
fn missing_trunk_is_named() {
    let node = Netns::new();
    let pod = Netns::new();
    let network = branch_network("sgp", BranchMode::Standard);

    let added = pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, &network);

    let error = added.unwrap_err();
    assert!(matches!(error.cause, AddFailure::Trunk(_)), "{error:?}");
    assert_eq!(
        chain(&error),
        "set up the network of the pod: find the trunk ENI of the pod's branch ENI: \
         no link has the MAC address 02:00:0a:00:00:15: not attached yet, or in another namespace?"
    );
}

/// 1.10.2: a VLAN id of 0 means that the pod is on no branch ENI.
#[test]
fn vlans_are_numbered_from_1_to_4094() {
    for (number, usable) in [(0, false), (1, true), (4094, true), (4095, false)] {
        assert_eq!(VlanId::try_from(number).is_ok(), usable, "{number}");
    }
    let eni = BranchEni { ipv4: None, ..branch() };
    let pod = Pod::new("default", "sgp".to_owned());
    let key = PodKey::new("aws-cni", "sgp", "eth0").unwrap();
    let laid_out = pod::desired_on_branch(&key, &pod, &eni, BranchMode::Strict, &settings());
    assert_eq!(laid_out, Err(PodError::NoAddress { eni: eni.eni }));
}

#[test]
fn strict_mode_is_taken_back_once_no_pod_needs_it() {
    let vpc = node(BranchMode::Strict);
    let network = branch_network("sgp", BranchMode::Strict);
    let pod = add_branch(&vpc, &network);
    assert_eq!((vpc.node.rules(0).len(), vpc.node.rules(20).len()), (0, 1));

    // The pod is there still.
    set_up_host(&vpc, BranchMode::Standard);
    assert_eq!((vpc.node.rules(0).len(), vpc.node.rules(20).len()), (0, 1));

    pod::remove(&mut trunk(&vpc), &network).unwrap();
    drop(pod);
    set_up_host(&vpc, BranchMode::Standard);
    assert_eq!(vpc.node.rules(0), ["all - local"]);
    assert_eq!(vpc.node.rules(20), [] as [&str; 0]);
    assert_eq!(set_up_host(&vpc, BranchMode::Standard), 0);
}

/// 1.16.0: with IPv6 too, whose gateway is the same everywhere and answers by ICMP.
#[test]
fn ipv6_goes_the_same_way() {
    for mode in MODES {
        let (vpc, network, pod) = dual_node_with_pod(mode);
        assert_eq!(set_up_host_for(&vpc, mode, DUAL), 0, "{mode:?}: again");
        let local = vpc.node.ip("-6 rule show table local");
        match mode {
            BranchMode::Strict => {
                let lines: Vec<_> = local.lines().map(str::trim).collect();
                let answers = "from fe80:ec2::1 ipproto ipv6-icmp lookup local";
                assert_eq!(lines.len(), 2, "{local}");
                assert!(lines[0].starts_with("0:") && lines[0].contains(answers), "{local}");
                assert!(lines[1].starts_with("20:"), "{local}");
            }
            BranchMode::Standard => assert!(local.starts_with("0:"), "{local}"),
        }
        let routes = vpc.node.json("-6 route show table 107");
        let default = routes.iter().find(|route| route["dst"] == "default").unwrap();
        assert_eq!(default["gateway"], "fe80:ec2::1", "{mode:?}");
        let seen = |to| source_seen(&pod.namespace, &vpc.fabric.namespace, to);
        for to in ["[2001:db8:a::30]:80", "[2001:db8:f::10]:80"] {
            assert_eq!(seen(to).as_deref(), Some(ADDRESS_IPV6), "{mode:?}: {to}");
        }
        assert_eq!(seen("10.0.0.30:80").as_deref(), Some(ADDRESS), "{mode:?}");
        assert_eq!(vpc.drops("vlan.eth.7") + vpc.drops("eth0"), 0, "{mode:?}");
        let checked = pod::check(&mut trunk(&vpc), &mut pod.netlink(), &network).unwrap();
        assert_eq!(checked, [], "{mode:?}");

        pod::remove(&mut trunk(&vpc), &network).unwrap();
        drop(pod);
        set_up_host_for(&vpc, BranchMode::Standard, DUAL);
        assert!(vpc.node.ip("-6 rule show table local").starts_with("0:\tfrom all"), "{mode:?}");
        for priority in [10, 20, 512, 1536] {
            let left = vpc.node.json(&format!("-6 rule show pref {priority}"));
            assert_eq!(left, [] as [Value; 0], "{mode:?}: {priority}");
        }
    }
}

#[test]
fn kernel_makes_vlans_or_says_that_it_has_none() {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &[]);
    let mut netlink = vpc.node.netlink();
    let link = netlink.link("eth1").unwrap().unwrap();
    let change = KernelChange::AddVlan(Vlan {
        name: "vlan.eth.7".to_owned(),
        mac: MAC,
        mtu: 9001,
        id: 7,
        trunk: link.id,
    });

    let result = netlink.change(core::slice::from_ref(&change)).unwrap().remove(0);

    match result {
        Ok(_) => {
            let vlan = netlink.link("vlan.eth.7").unwrap().unwrap();
            assert_eq!((vlan.mac, vlan.mtu, vlan.up), (Some(MAC), 9001, false));
            assert_eq!(vlan.kind.as_deref(), Some("vlan"));
        }
        Err(refusal) => assert_eq!(refusal.errno, Some(95), "{refusal}"),
    }
    assert_eq!(change.to_string(), "add vlan vlan.eth.7 with id 7 on eth1");
}

/// A node with a trunk ENI.
fn node(mode: BranchMode) -> Vpc {
    let vpc = Vpc::new();
    set_up_node(&vpc, mode);
    vpc
}

/// A node with a pod on a branch ENI.
pub fn node_with_pod(mode: BranchMode) -> (Vpc, PodNetwork, Netns) {
    let vpc = node(mode);
    let network = branch_network("sgp", mode);
    let pod = add_branch(&vpc, &network);
    (vpc, network, pod)
}

/// The same with both families.
pub fn dual_node_with_pod(mode: BranchMode) -> (Vpc, PodNetwork, Netns) {
    let vpc = Vpc::with_ipv6();
    set_up_node(&vpc, mode);
    assert_ne!(set_up_host_for(&vpc, mode, DUAL), 0);
    let subnet = "2001:db8:a::/64".parse().unwrap();
    let eni = BranchEni { ipv6: Some((ADDRESS_IPV6.parse().unwrap(), subnet)), ..branch() };
    let network = network_of(mode, &eni);
    let pod = add_branch(&vpc, &network);
    vpc.deliver("vlan.eth.7", MAC, "subnet1", &[ADDRESS_IPV6]);
    (vpc, network, pod)
}

fn set_up_node(vpc: &Vpc, mode: BranchMode) {
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);
    vpc.node.ip("link set eth1 up");
    set_up_host(vpc, mode);
}

fn set_up_host(vpc: &Vpc, branch_mode: BranchMode) -> usize {
    set_up_host_for(vpc, branch_mode, Families::Ipv4(Ipv4Kind::Addresses))
}

/// Sets the host up as the daemon does, which finds out what there is.
fn set_up_host_for(vpc: &Vpc, branch_mode: BranchMode, families: Families) -> usize {
    let config = HostConfig { branch_mode, ..HostConfig::default() };
    let pool = Config::default().with_trunk(true).with_families(families);
    let mut netlink = vpc.node.netlink();
    let facts = host::facts(&mut netlink, &metadata(), &config, &pool).unwrap();
    let applied = host::set_up(&mut netlink, &config, &facts);
    applied.unwrap_or_else(|error| panic!("{}", chain(&error))).len()
}

fn branch() -> BranchEni {
    BranchEni {
        eni: "eni-7".parse().unwrap(),
        mac: MAC,
        vlan: VlanId::try_from(7).unwrap(),
        trunk: eni_mac(1),
        ipv4: Some((ADDRESS.parse().unwrap(), "10.0.0.0/19".parse().unwrap())),
        ipv6: None,
    }
}

fn network_of(mode: BranchMode, eni: &BranchEni) -> PodNetwork {
    let pod = Pod::new("default", "sgp".to_owned());
    let key = PodKey::new("aws-cni", "sgp", "eth0").unwrap();
    pod::desired_on_branch(&key, &pod, eni, mode, &settings()).unwrap()
}

fn branch_network(name: &str, mode: BranchMode) -> PodNetwork {
    let pod = Pod::new("default", name.to_owned());
    let key = PodKey::new("aws-cni", name, "eth0").unwrap();
    pod::desired_on_branch(&key, &pod, &branch(), mode, &settings()).unwrap()
}

fn add_branch(vpc: &Vpc, network: &PodNetwork) -> Netns {
    let pod = Netns::new();
    pod::add(&mut trunk(vpc), &mut pod.netlink(), &pod.namespace, network)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    note_links(&vpc.fabric.namespace);
    pod
}

/// Returns the rules that look at where a packet came in, as link and table.
fn by_link(node: &Netns) -> Vec<(String, String)> {
    let rules = node.json("rule show pref 10");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rules.iter().map(|rule| (text(&rule["iif"]), text(&rule["table"]))).collect()
}

fn owned((link, table): (&str, &str)) -> (String, String) {
    (link.to_owned(), table.to_owned())
}

/// Counts the packets for the other pod that come out of the node by the branch ENI.
fn count_crossing(vpc: &Vpc) {
    vpc.fabric.nft(
        "table netdev crossing { chain c { type filter hook ingress device \"vlan.eth.7\" priority -10; \
         ip daddr 10.0.0.100 counter; }; }",
    );
}

fn crossed(vpc: &Vpc) -> bool {
    !vpc.fabric.exec("nft list table netdev crossing").contains("packets 0 ")
}

fn wait_for_links(node: &Netns, expected: &[&str]) {
    for _ in 0..5000 {
        if crate::support::link_names(&mut node.netlink()) == expected {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the kernel took too long");
}

/// Returns a kernel in which the link of a VLAN is a cable to the fabric.
fn trunk(vpc: &Vpc) -> impl Netlink {
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::AddVlan(vlan) if vlan.mtu > 1 => {
            assert_eq!(&*vlan.trunk.name, "eth1");
            let table = vlan.name.replace('.', "_");
            let _ = vpc.fabric.try_exec(&format!("nft delete table netdev check_{table}"));
            vpc.plug(&vlan.name, vlan.mac, "subnet1", &[ADDRESS]);
            Ok(KernelEffect::Done)
        }
        other => really(inner, other),
    };
    Altered { inner: vpc.node.netlink(), change }
}
