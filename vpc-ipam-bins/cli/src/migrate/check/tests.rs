use core::net::IpAddr;
use std::collections::BTreeSet;

use serde_json::json;
use vpc_ipam_linux::{
    Address, Family, Leads, Link, LinkId, LinkIndex, Mark, Protocol, Route, RouteEntry, Rule,
    Scope, Table,
};

use super::*;
use crate::migrate::survey::kernel::{FROM_POD, OF_BRANCH, TO_POD};
use crate::migrate::{
    CachedResult, CheckpointEntry, CheckpointProblem, Fate, Listener, NodeProcess, TrafficControl,
};
use crate::node_files::networks::{BrokenNetwork, Network};

/// A node as amazon-vpc-cni-k8s leaves it, with two pods, against which nothing speaks.
pub(in crate::migrate) fn node() -> Survey {
    let links = pod_links();
    let mut survey = Survey::default();
    link(&mut survey, 2, "eth0", None);
    link(&mut survey, 3, "eth1", None);
    link(&mut survey, 4, &links[0], Some("veth"));
    link(&mut survey, 5, &links[1], Some("veth"));
    for (index, address) in [(2, "10.0.0.10/19"), (3, "10.0.0.20/19")] {
        let net = address.parse().unwrap();
        survey.kernel.addresses.push((LinkIndex(index), Address { net, scope: Scope::Global }));
    }
    route(&mut survey, 2, Table::MAIN, "0.0.0.0/0", Some("10.0.0.1"));
    route(&mut survey, 3, Table(2), "0.0.0.0/0", Some("10.0.0.1"));
    route(&mut survey, 4, Table::MAIN, "10.0.0.100/32", None);
    route(&mut survey, 5, Table::MAIN, "10.0.0.101/32", None);
    rule(&mut survey, TO_POD, Table::MAIN, |it| it.to(net("10.0.0.100/32")));
    rule(&mut survey, TO_POD, Table::MAIN, |it| it.to(net("10.0.0.101/32")));
    rule(&mut survey, FROM_POD, Table(2), |it| it.from(net("10.0.0.101/32")));
    rule(&mut survey, 32765, Table(2), |it| it.from(net("10.0.0.20/32")));
    let mark = Some(Mark { value: 0x80, mask: 0x80 });
    rule(&mut survey, 1024, Table::MAIN, |it| Rule { mark, ..it });
    survey.nat.iptables = vec![("iptables-nft".to_owned(), iptables())];
    survey.settings = vpc_ipam_linux::AwsCniSettings::read(&survey.nat, &survey.kernel.rules);
    survey.checkpoint.files = vec!["/var/run/aws-node/ipam.json".into()];
    survey.checkpoint.entries = vec![entry("a", "10.0.0.100"), entry("b", "10.0.0.101")];
    survey.networks = vec![Network {
        file: "10-aws.conflist".to_owned(),
        name: "aws-cni".to_owned(),
        version: "0.4.0".to_owned(),
        plugins: vec![
            json!({"type": "aws-cni", "vethPrefix": "eni", "mtu": "9001"}),
            json!({"type": "egress-cni", "enabled": "false"}),
            json!({"type": "portmap", "snat": true}),
        ],
    }];
    survey.plugins = ["aws-cni", "egress-cni", "portmap", "vpc-cni"].map(str::to_owned).into();
    survey
}

pub(in crate::migrate) fn pod_links() -> Vec<String> {
    let of = |name: &str| {
        let pod = vpc_ipam_core::Pod::new("apps", name);
        vpc_ipam_linux::pod::host_links(&pod, 1, &"eni".parse().unwrap()).next().unwrap()
    };
    vec![of("a"), of("b")]
}

fn iptables() -> String {
    let lines = include_str!("../../../../../vpc-ipam-linux/tests/kernel/migrate/peer.txt").lines();
    let of_iptables = lines.skip_while(|line| !line.starts_with("[iptables"));
    of_iptables.skip(1).fold(String::new(), |text, line| text + line + "\n")
}

pub(in crate::migrate) fn entry(pod: &str, address: &str) -> CheckpointEntry {
    let address: IpAddr = address.parse().unwrap();
    let (ipv4, ipv6) = match address {
        IpAddr::V4(address) => (Some(address), None),
        IpAddr::V6(address) => (None, Some(address)),
    };
    CheckpointEntry {
        network: "aws-cni".to_owned(),
        container: format!("container-{pod}"),
        ifname: "eth0".to_owned(),
        ipv4,
        ipv6,
        since: vpc_ipam_core::Timestamp::from_secs(1_700_000_000),
        namespace: Some("apps".to_owned()),
        pod: Some(pod.to_owned()),
        interfaces: Some(1),
        card: 0,
    }
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

pub(in crate::migrate) fn link(survey: &mut Survey, index: u32, name: &str, kind: Option<&str>) {
    survey.kernel.links.push(Link {
        id: LinkId::new(LinkIndex(index), name),
        mac: name.strip_prefix("eth").map(|number| mac_of(number.parse::<u8>().unwrap() + 1)),
        mtu: 9001,
        up: true,
        kind: kind.map(str::to_owned),
        lower: None,
        alias: None,
    });
}

pub(in crate::migrate) fn route(
    survey: &mut Survey,
    link: u32,
    table: Table,
    to: &str,
    via: Option<&str>,
) {
    let route = Route {
        gateway: via.map(|it| it.parse().unwrap()),
        protocol: Protocol::BOOT,
        ..Route::on_link(table, net(to))
    };
    survey.kernel.entries.push(RouteEntry { route, leads: Leads::Over(LinkIndex(link)) });
}

pub(in crate::migrate) fn rule(
    survey: &mut Survey,
    priority: u32,
    table: Table,
    narrow: impl Fn(Rule) -> Rule,
) {
    let rule = Rule { protocol: Protocol::UNSPECIFIED, ..Rule::new(Family::Ipv4, priority, table) };
    survey.kernel.rules.push(narrow(rule));
}

fn process(program: &str) -> NodeProcess {
    NodeProcess { pid: 700, program: program.to_owned() }
}

fn listens(survey: &mut Survey, socket: &str, owner: Option<&str>) {
    survey.listeners.push(Listener { socket: socket.to_owned(), owner: owner.map(process) });
}

fn give(survey: &mut Survey, name: &str, value: &str) {
    survey.given.file = Some("/tmp/env".into());
    survey.given.vars.insert(name.to_owned(), value.to_owned());
}

fn network(file: &str, plugins: &[serde_json::Value]) -> Network {
    Network {
        file: file.to_owned(),
        name: "aws-cni".to_owned(),
        version: "0.4.0".to_owned(),
        plugins: plugins.to_vec(),
    }
}

/// Adds a line to what iptables lists, before the first that begins so.
fn insert(survey: &mut Survey, before: &str, line: &str) {
    let text = &mut survey.nat.iptables[0].1;
    let at = text.find(before).unwrap();
    text.insert_str(at, &format!("{line}\n"));
    read_again(survey);
}

fn replace(survey: &mut Survey, from: &str, to: &str) {
    let text = &mut survey.nat.iptables[0].1;
    assert!(text.contains(from), "{from}");
    *text = text.replacen(from, to, 1);
    read_again(survey);
}

fn read_again(survey: &mut Survey) {
    survey.settings = vpc_ipam_linux::AwsCniSettings::read(&survey.nat, &survey.kernel.rules);
}

use Severity::{Refusal, Warning};

/// A check, a fault, what it comes to, and words of what is said of it.
type Case = (&'static str, fn(&mut Survey), Severity, &'static str);

const RUNNING: &[Case] = &[
    (
        "old-daemon",
        |it| it.processes.push(process("aws-k8s-agent")),
        Refusal,
        "aws-k8s-agent (process 700)",
    ),
    (
        "old-daemon",
        |it| it.processes.push(process("aws-vpc-cni")),
        Refusal,
        "aws-vpc-cni (process 700)",
    ),
    (
        "old-daemon",
        |it| it.processes.push(process("aws-vpc-cni-init")),
        Refusal,
        "aws-vpc-cni-init (process 700)",
    ),
    (
        "old-daemon",
        |it| listens(it, "/var/run/aws-node/ipamd.sock", Some("x")),
        Refusal,
        "x (process 700) listens at /var/run/aws-node/ipamd.sock",
    ),
    (
        "old-daemon",
        |it| listens(it, "TCP port 50051", None),
        Refusal,
        "cannot be seen listens at TCP port 50051",
    ),
    (
        "old-daemon",
        |it| listens(it, "TCP port 61678", Some("exporter")),
        Warning,
        "exporter (process 700) listens at TCP port 61678",
    ),
    ("old-plugin", |it| it.processes.push(process("aws-cni")), Warning, "aws-cni (process 700)"),
    ("old-plugin", |it| it.processes.push(process("egress-cni")), Warning, "egress-cni"),
    (
        "daemon",
        |it| it.processes.push(process("vpc-ipamd")),
        Warning,
        "vpc-ipamd runs already (process 700)",
    ),
    ("daemon", |it| it.lacks_unit = true, Refusal, "no unit vpc-ipamd.service"),
    (
        "traces",
        |it| {
            *it = Survey {
                networks: it.networks.clone(),
                plugins: it.plugins.clone(),
                ..Survey::default()
            }
        },
        Warning,
        "has nothing of amazon-vpc-cni-k8s",
    ),
];

const KERNEL: &[Case] = &[
    (
        "firewall",
        |it| it.nat.unlisted.push("table nat of iptables-nft".to_owned()),
        Refusal,
        "table nat of iptables-nft",
    ),
    (
        "chains",
        |it| it.users_of_chains.push("rule of Antrea".to_owned()),
        Refusal,
        "rule of Antrea",
    ),
    (
        "chains",
        |it| insert(it, "-A AWS-SNAT-CHAIN-0", "-A AWS-SNAT-CHAIN-0 -o tun0 -j RETURN"),
        Warning,
        "-o tun0 -j RETURN",
    ),
    (
        "owners",
        |it| {
            link(it, 6, "eni0000000000f", Some("veth"));
            route(it, 6, Table(7), "10.0.0.100/32", None);
        },
        Refusal,
        "10.0.0.100 leads to two pods",
    ),
    (
        "contradictions",
        |it| it.checkpoint.entries[0].pod = Some("other".to_owned()),
        Refusal,
        "is not the link of a pod of this name",
    ),
    (
        "contradictions",
        |it| rule(it, FROM_POD, Table(3), |it| it.from(net("10.0.0.101/32"))),
        Refusal,
        "led to the tables 2, 3",
    ),
    (
        "contradictions",
        |it| rule(it, FROM_POD, Table(3), |it| it.from(net("10.0.0.100/32"))),
        Warning,
        "table 3, which has no default route",
    ),
    ("branch-enis", |it| link(it, 6, "vlan.eth.7", Some("vlan")), Refusal, "link vlan.eth.7"),
    (
        "branch-enis",
        |it| {
            rule(it, OF_BRANCH, Table(107), |it| Rule {
                input: Some("vlan.eth.7".to_owned()),
                ..it
            })
        },
        Refusal,
        "rule 10: iif vlan.eth.7 lookup 107",
    ),
    (
        "traffic-control",
        |it| {
            it.traffic_control
                .push(TrafficControl { link: pod_links()[0].clone(), what: "clsact".to_owned() })
        },
        Warning,
        "clsact on eni",
    ),
    (
        "traffic-control",
        |it| it.traffic_control_unread = Some("tc is not installed".to_owned()),
        Warning,
        "tc is not installed",
    ),
    (
        "networkd",
        |it| it.networkd.push("ManageForeignRoutes is not set".to_owned()),
        Warning,
        "ManageForeignRoutes is not set",
    ),
    (
        "untracked",
        |it| {
            link(it, 6, "eni0000000000f", Some("veth"));
            route(it, 6, Table::MAIN, "10.0.0.102/32", None);
        },
        Warning,
        "10.0.0.102 on eni0000000000f: the checkpoint does not have it",
    ),
];

const CHECKPOINT: &[Case] = &[
    (
        "checkpoint",
        |it| it.checkpoint_unread = Some("parse the checkpoint".to_owned()),
        Refusal,
        "parse the checkpoint",
    ),
    (
        "checkpoint",
        |it| {
            it.checkpoint.files.clear();
            it.checkpoint.entries.clear();
        },
        Warning,
        "there is no checkpoint, and there are pods",
    ),
    (
        "checkpoint",
        |it| {
            it.checkpoint.problems.push(CheckpointProblem::TwoOwners {
                address: "10.0.0.100".parse().unwrap(),
                owners: [entry("a", "10.0.0.100"), entry("c", "10.0.0.100")],
            })
        },
        Refusal,
        "10.0.0.100 is that of pod apps/a and of pod apps/c",
    ),
    (
        "checkpoint",
        |it| {
            it.checkpoint.problems.push(CheckpointProblem::TwoAddresses {
                entries: [entry("a", "10.0.0.100"), entry("a", "10.0.0.9")],
            })
        },
        Refusal,
        "has two addresses on one network card",
    ),
    (
        "checkpoint",
        |it| {
            it.checkpoint
                .problems
                .push(CheckpointProblem::Repeated { entry: entry("a", "10.0.0.100") })
        },
        Warning,
        "the entry of pod apps/a is there twice",
    ),
    (
        "checkpoint",
        |it| {
            it.checkpoint.problems.push(CheckpointProblem::NoAddress {
                file: "ipam.json".into(),
                index: 3,
                found: "\"x\"".to_owned(),
            })
        },
        Warning,
        "entry 3 of ipam.json",
    ),
    (
        "checkpoint",
        |it| it.kernel.rules.retain(|rule| rule.priority != TO_POD),
        Warning,
        "the rule to 10.0.0.100, the rule to 10.0.0.101",
    ),
    (
        "checkpoint",
        |it| it.kernel.entries.retain(|entry| entry.route.destination != net("10.0.0.100/32")),
        Warning,
        "the route to 10.0.0.100",
    ),
    (
        "stale",
        |it| it.checkpoint.entries.push(entry("c", "10.0.0.103")),
        Warning,
        "apps/c (10.0.0.103)",
    ),
];

const CONFIGURATION: &[Case] = &[
    (
        "second-cni",
        |it| it.networks.push(network("10-calico.conflist", &[json!({"type": "calico"})])),
        Refusal,
        "10-calico.conflist sorts before 10-vpc-ipam.conflist",
    ),
    (
        "conflist",
        |it| it.networks[0].version = "0.2.0".to_owned(),
        Refusal,
        "has the cniVersion \"0.2.0\"",
    ),
    (
        "settings",
        |it| replace(it, "10.0.0.10 --random-fully", "10.0.0.99 --random-fully"),
        Refusal,
        "translated to 10.0.0.99, which is no address of eth0: 10.0.0.10",
    ),
    (
        "settings",
        |it| {
            insert(
                it,
                "-A AWS-SNAT-CHAIN-0 ! -o",
                "-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment \"AWS, SNAT\" -j SNAT --to-source 10.0.0.99 --random-fully",
            )
        },
        Refusal,
        "to several addresses: 10.0.0.99 by ",
    ),
    (
        "second-cni",
        |it| {
            it.broken_networks
                .push(BrokenNetwork { file: "00-x.conf".to_owned(), why: "EOF".to_owned() })
        },
        Refusal,
        "00-x.conf",
    ),
    (
        "second-cni",
        |it| {
            it.broken_networks
                .push(BrokenNetwork { file: "99-x.conf".to_owned(), why: "EOF".to_owned() })
        },
        Warning,
        "99-x.conf",
    ),
    (
        "second-cni",
        |it| it.networks.insert(0, network("05-cilium.conflist", &[json!({"type": "cilium-cni"})])),
        Refusal,
        "takes 05-cilium.conflist, whose plugin is cilium-cni",
    ),
    (
        "second-cni",
        |it| {
            it.networks.insert(
                0,
                network(
                    "00-multus.conf",
                    &[json!({"type": "multus", "delegates": [{"plugins": [{"type": "aws-cni"}]}]})],
                ),
            )
        },
        Refusal,
        "whose plugin is multus",
    ),
    ("conflist", |it| it.plugins.retain(|name| name != "vpc-cni"), Refusal, "vpc-cni is not in"),
    (
        "conflist",
        |it| it.networks.clear(),
        Warning,
        "no configuration in the runtime's folder names amazon-vpc-cni-k8s",
    ),
    (
        "conflist",
        |it| it.plugins.retain(|name| name != "portmap"),
        Warning,
        "names the plugin portmap, which is not in",
    ),
    (
        "conflist",
        |it| it.networks.push(network("10-vpc-ipam.conflist", &[json!({"type": "vpc-cni"})])),
        Warning,
        "10-vpc-ipam.conflist lacks plugins that 10-aws.conflist has: portmap",
    ),
    (
        "conflist",
        |it| {
            let ours = network(
                "10-vpc-ipam.conflist",
                &[json!({"type": "vpc-cni"}), json!({"type": "portmap"})],
            );
            it.networks.push(Network { name: "mine".to_owned(), ..ours });
        },
        Warning,
        "has the name \"mine\"",
    ),
    (
        "settings",
        |it| give(it, "AWS_VPC_K8S_CNI_EXTERNALSNAT", "true"),
        Refusal,
        "AWS_VPC_K8S_CNI_EXTERNALSNAT is true in /tmp/env, and false on the node",
    ),
    (
        "settings",
        |it| replace(it, "0x80/0x80", "0x100/0x100"),
        Refusal,
        "several values of AWS_VPC_K8S_CNI_CONNMARK: 0x80 by rule 1024",
    ),
    (
        "settings",
        |it| {
            replace(
                it,
                "-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n",
                "",
            )
        },
        Refusal,
        "is in a chain that no rule of POSTROUTING leads to",
    ),
    (
        "settings",
        |it| it.given.bad.push("/tmp/env, line 1".to_owned()),
        Warning,
        "/tmp/env, line 1",
    ),
];

const METADATA: &[Case] = &[
    (
        "metadata",
        |it| {
            let mut said = metadata();
            said.vpc_ipv4_cidrs = vec!["10.0.0.0/17".parse().unwrap()];
            it.metadata = Some(said);
        },
        Warning,
        "that are not the VPC's: 10.0.0.0/16",
    ),
    (
        "metadata",
        |it| it.metadata_unread = Some("connect: refused".to_owned()),
        Warning,
        "does not answer: connect: refused",
    ),
    (
        "metadata",
        |it| {
            let mut said = metadata();
            said.observation.enis[1].blocks.clear();
            it.metadata = Some(said);
        },
        Warning,
        "no ENI of this instance has 10.0.0.101",
    ),
    (
        "metadata",
        |it| {
            let mut said = metadata();
            said.vpc_ipv4_cidrs.push("10.7.0.0/16".parse().unwrap());
            it.metadata = Some(said);
        },
        Warning,
        "do not know: 10.7.0.0/16",
    ),
    (
        "metadata",
        |it| {
            let mut said = metadata();
            said.primary_ipv4 = Some("10.0.0.11".parse().unwrap());
            it.metadata = Some(said);
        },
        Refusal,
        "translated to 10.0.0.10, and the primary ENI has 10.0.0.11",
    ),
    (
        "metadata",
        |it| {
            let mut said = metadata();
            said.observation.enis.reverse();
            for (eni, mac) in said.observation.enis.iter_mut().zip([1, 2]) {
                eni.mac = mac_of(mac);
            }
            it.metadata = Some(said);
        },
        Refusal,
        "10.0.0.100 is of eni-0000000000000000a",
    ),
    (
        "settings",
        |it| {
            it.metadata = Some(metadata());
            give(it, "ENABLE_PREFIX_DELEGATION", "true");
        },
        Refusal,
        "ENABLE_PREFIX_DELEGATION is true in /tmp/env, and false on the node: eni-0000000000000000a has 10.0.0.100/32",
    ),
];

fn mac_of(number: u8) -> vpc_ipam_core::Mac {
    vpc_ipam_core::Mac([2, 0, 0, 0, 0, number])
}

/// What the metadata service says of the node.
pub(in crate::migrate) fn metadata() -> vpc_ipam_core::Metadata {
    use vpc_ipam_core::{Metadata, Observation, ObservedEni, Scope, Source, Timestamp};
    let eni = |id: &str, mac: u8, block: &str| {
        let mut eni = ObservedEni::new(
            id.parse().unwrap(),
            mac_of(mac),
            "subnet-00000000000000001".parse().unwrap(),
        );
        eni.blocks.push(net(block));
        eni
    };
    let mut seen = Observation::new(Timestamp::EPOCH, Source::Imds, Scope::Attached);
    seen.enis.push(eni("eni-0000000000000000a", 1, "10.0.0.100/32"));
    seen.enis.push(eni("eni-0000000000000000b", 2, "10.0.0.101/32"));
    let node = vpc_ipam_core::Node::new(
        "i-00000000000000001".parse().unwrap(),
        "m5.large".parse().unwrap(),
        "eu-west-1a".parse().unwrap(),
        "vpc-00000000000000001".parse().unwrap(),
        seen.enis[0].id,
        seen.enis[0].subnet,
    );
    let mut metadata = Metadata::new(node, seen);
    metadata.primary_ipv4 = Some("10.0.0.10".parse().unwrap());
    metadata.vpc_ipv4_cidrs = vec!["10.0.0.0/16".parse().unwrap()];
    metadata
}

#[test]
fn metadata_that_say_the_same_are_no_finding() {
    let mut survey = node();
    survey.metadata = Some(metadata());
    let report = Report::of(&survey);
    assert_eq!(report.findings, []);
    assert_eq!(report.vars(&survey)["ENABLE_PREFIX_DELEGATION"], "false");
    let said = survey.metadata.as_mut().unwrap();
    said.observation.enis[0].blocks = vec![net("10.0.0.96/28")];
    said.observation.enis[1].blocks.clear();
    assert_eq!(Report::of(&survey).vars(&survey)["ENABLE_PREFIX_DELEGATION"], "true");
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [RUNNING, KERNEL, CHECKPOINT, CONFIGURATION, METADATA].into_iter().flatten()
}

#[test]
fn nothing_speaks_against_a_node_as_amazon_vpc_cni_k8s_leaves_it() {
    let survey = node();
    let report = Report::of(&survey);
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict(&survey), Verdict::Ready);
}

#[test]
fn each_planted_fault_is_found_with_its_effect_and_what_to_do() {
    for (name, plant, severity, words) in cases() {
        let mut survey = node();
        plant(&mut survey);
        let report = Report::of(&survey);
        let found = report
            .findings
            .iter()
            .find(|it| it.check == *name && it.severity == *severity && it.what.contains(words));
        let found = found
            .unwrap_or_else(|| panic!("{name}: no {severity} {words:?} in {:#?}", report.findings));
        assert!(found.effect.len() > 10 && found.remedy.len() > 10, "{found:?}");
        let expected = match severity {
            Refusal => Verdict::Refused,
            Warning => Verdict::Warnings,
        };
        assert_eq!(report.verdict(&survey), expected, "{name} {words:?}: {:#?}", report.findings);
    }
}

#[test]
fn each_check_is_driven_to_each_of_its_severities() {
    for check in &CHECKS {
        let driven: BTreeSet<Severity> =
            cases().filter(|case| case.0 == check.name).map(|case| case.2).collect();
        assert_eq!(driven, check.severities.iter().copied().collect(), "{}", check.name);
    }
}

/// What serves at the same places, and is no daemon of amazon-vpc-cni-k8s.
#[test]
fn own_daemon_and_network_policy_agent_are_not_taken_for_the_old_daemon() {
    let mut survey = node();
    for owner in ["vpc-ipamd", "vpc-ipam"] {
        for socket in
            ["/var/run/aws-node/ipamd.sock", "TCP port 61678", "TCP port 61679", "TCP port 50051"]
        {
            listens(&mut survey, socket, Some(owner));
        }
    }
    survey.processes.push(process("aws-network-policy-agent"));
    assert_eq!(Report::of(&survey).findings, []);
}

/// What could not be read does not make a node ready, and what is refused anyhow is refused.
#[test]
fn what_is_not_told_is_no_yes() {
    let mut survey = node();
    survey.untold.push("which programs run: permission denied".to_owned());
    assert_eq!(Report::of(&survey).verdict(&survey), Verdict::NotTold);
    survey.networkd.push("ManageForeignRoutes is not set".to_owned());
    assert_eq!(Report::of(&survey).verdict(&survey), Verdict::NotTold);
    survey.processes.push(process("aws-k8s-agent"));
    assert_eq!(Report::of(&survey).verdict(&survey), Verdict::Refused);
    // Nor does it make anything known to be missing.
    let nothing = Survey { untold: survey.untold.clone(), ..Survey::default() };
    let found: Vec<_> = Report::of(&nothing).findings.iter().map(|it| it.check).collect();
    assert_eq!(found, ["conflist"]);
}

#[test]
fn traffic_control_of_links_that_are_not_pods_is_no_finding() {
    let mut survey = node();
    survey
        .traffic_control
        .push(TrafficControl { link: "eth0".to_owned(), what: "clsact".to_owned() });
    assert_eq!(Report::of(&survey).findings, []);
}

#[test]
fn chained_plugins_of_a_policy_engine_do_not_make_it_a_second_cni() {
    let mut survey = node();
    let chained = [
        json!({"type": "aws-cni", "mtu": "9001"}),
        json!({"type": "portmap"}),
        json!({"type": "cilium-cni"}),
    ];
    survey.networks.insert(0, network("05-cilium.conflist", &chained));
    survey.plugins.push("cilium-cni".to_owned());
    assert_eq!(Report::of(&survey).findings, []);
}

#[test]
fn what_the_runtime_remembers_is_held_against_the_checkpoint() {
    let remember = |survey: &mut Survey, container: &str, address: &str| {
        survey.results.push(CachedResult {
            network: "aws-cni".to_owned(),
            container: container.to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec![address.parse().unwrap()],
        });
    };
    let mut survey = node();
    remember(&mut survey, "container-a", "10.0.0.100");
    remember(&mut survey, "container-of-before", "10.0.0.100");
    assert_eq!(Report::of(&survey).findings, []);

    remember(&mut survey, "container-b", "10.0.0.105");
    let findings = Report::of(&survey).findings;
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!((finding.check, finding.severity), ("contradictions", Refusal));
    assert!(finding.what.contains(
        "pod apps/b has 10.0.0.101 in the checkpoint, and the runtime was given 10.0.0.105"
    ));

    // Of a pod that the checkpoint does not have it tells the container.
    let mut survey = node();
    survey.checkpoint.entries.truncate(1);
    remember(&mut survey, "container-b", "10.0.0.101");
    let report = Report::of(&survey);
    assert_eq!(report.pods[1].container.as_deref(), Some("container-b"));
    assert!(matches!(report.pods[1].fate, Fate::Untracked { .. }));
}
