//! Random nodes and random damage: all of it is found, all of it is repaired, and nothing else is touched.

use core::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vpc_ipam_linux::{
    Difference, Extent, HostConfig, NodeDifferences, NodeNetwork, Object, SnatPorts, eni as enis,
};

use crate::node::key;
use crate::support::{Netns, Vpc, add_to, eni, eni_mac, network};

/// Namespaces take a while to make: as many as fit into some seconds.
const CASES: u32 = 12;

/// Tables of ours.
const TABLES: [&str; 3] = ["ip vpc-ipam", "ip vpc-ipam-sources", "ip6 vpc-ipam-sources"];

/// What a node is to be, and what is done to it.
#[derive(Clone, Debug)]
struct Case {
    config: HostConfig,
    enis: Vec<u8>,
    /// Their devices; 0 is the primary ENI.
    pods: Vec<u8>,
    damages: Vec<Damage>,
}

/// Something that is done to a node; numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
enum Damage {
    RemoveRule(usize),
    MoveRule(usize),
    TwinRule(usize),
    RemoveRoute(usize),
    DivertRoute(usize),
    AddRoute(usize),
    RemoveAddress(usize),
    AddAddress(usize),
    LinkDown(usize),
    LinkMtu(usize),
    LinkFlap(usize),
    Sysctl(usize),
    FlushChain(usize),
    RemoveTable(usize),
    AddTableRule(usize),
}

#[test]
fn any_damage_is_found_and_repaired_and_nothing_else_touched() {
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    runner.run(&cases(), |case| check(&case)).unwrap_or_else(|error| panic!("{error}"));
}

fn cases() -> impl Strategy<Value = Case> {
    let config = (any::<bool>(), any::<bool>(), 0..3_usize, any::<bool>()).prop_map(
        |(node_port, external_snat, ports, excluded)| HostConfig {
            node_port,
            external_snat,
            snat_ports: [SnatPorts::Random, SnatPorts::FullyRandom, SnatPorts::Kept][ports],
            excluded_cidrs: excluded
                .then(|| "203.0.113.0/24".parse().unwrap())
                .into_iter()
                .collect(),
            ..HostConfig::default()
        },
    );
    let enis = prop_oneof![Just(vec![]), Just(vec![1]), Just(vec![1, 2])];
    (config, enis).prop_flat_map(|(config, enis)| {
        let devices: Vec<u8> = [0].into_iter().chain(enis.iter().copied()).collect();
        let pods = prop::collection::vec(prop::sample::select(devices), 0..4);
        let damages = prop::collection::vec(damage(), 1..6);
        (Just(config), Just(enis), pods, damages).prop_map(|(config, enis, pods, damages)| Case {
            config,
            enis,
            pods,
            damages,
        })
    })
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = || 0_usize..64;
    prop_oneof![
        number().prop_map(Damage::RemoveRule),
        number().prop_map(Damage::MoveRule),
        number().prop_map(Damage::TwinRule),
        number().prop_map(Damage::RemoveRoute),
        number().prop_map(Damage::DivertRoute),
        number().prop_map(Damage::AddRoute),
        number().prop_map(Damage::RemoveAddress),
        number().prop_map(Damage::AddAddress),
        number().prop_map(Damage::LinkDown),
        number().prop_map(Damage::LinkMtu),
        number().prop_map(Damage::LinkFlap),
        number().prop_map(Damage::Sysctl),
        number().prop_map(Damage::FlushChain),
        number().prop_map(Damage::RemoveTable),
        number().prop_map(Damage::AddTableRule),
    ]
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let vpc = Vpc::new();
    let (node, _pods) = build(&vpc, case);
    let repair = || {
        NodeNetwork::repair(&|| node.clone(), &mut vpc.node.netlink(), Extent::All)
            .map_err(|error| TestCaseError::fail(crate::support::chain(&error)))
    };
    repair()?;
    foreign(&vpc.node);
    let diff = || node.diff(&mut vpc.node.netlink(), Extent::All).unwrap();
    // A foreign route in the table of an ENI is reported, and left.
    prop_assert!(!differs(&diff()), "before: {:?}", diff().differences);
    let before = state(&vpc.node);

    for damage in &case.damages {
        do_damage(&vpc.node, case, *damage);
    }
    let after = state(&vpc.node);
    let found = diff();
    let changed: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    prop_assert_eq!(after != before, differs(&found), "{:?}: {:?}", changed, found.differences);

    let repaired = repair()?;

    // What the kernel tells by itself comes first in a repair.
    let of_kernel = |it: &Difference| {
        !matches!(it.object(), Object::Nat(_) | Object::SourceCheck(_) | Object::AwsCniNat(_))
    };
    let (mut expected, rest): (Vec<_>, Vec<_>) = found.differences.into_iter().partition(of_kernel);
    expected.extend(rest);
    prop_assert_eq!(&repaired.differences, &expected);
    prop_assert_eq!(state(&vpc.node), before, "after {:?}", repaired.differences);
    prop_assert!(!differs(&diff()), "after: {:?}", diff().differences);
    prop_assert_eq!(repair()?.differences.len(), 0, "again");
    Ok(())
}

fn differs(found: &NodeDifferences) -> bool {
    !found.differences.is_empty() || !found.absent.is_empty()
}

fn build(vpc: &Vpc, case: &Case) -> (NodeNetwork, Vec<Netns>) {
    let mut node = NodeNetwork::new(case.config.clone(), vpc.host_facts());
    for &device in &case.enis {
        let subnet = format!("subnet{device}");
        vpc.plug(&format!("eth{device}"), eni_mac(device), &subnet, &["10.0.0.20"]);
        node.enis.insert(eni(device).eni, eni(device));
        node.tables.insert(eni(device).eni, enis::table(eni(device).card, eni(device).device));
    }
    let pods = (0..).zip(&case.pods).map(|(number, &device)| {
        let name = format!("p{number}");
        let network = network(&name, device, &format!("10.0.{device}.{}", 100 + number));
        let pod = Netns::new();
        add_to(&vpc.node, &pod, &network);
        node.pods.insert(key(&name), network);
        pod
    });
    let pods = pods.collect();
    (node, pods)
}

/// Makes what other programs have on a node: some of it looks like ours.
fn foreign(node: &Netns) {
    for command in [
        "rule add from 10.9.9.9 lookup 30200 pref 30200",
        "rule add to 10.9.9.9 lookup main pref 512 protocol 4",
        "rule add from 10.9.9.8 lookup 77 pref 1536 protocol 99",
        "rule add fwmark 0x4000/0x4000 lookup main pref 1024 protocol 99",
        "route add 192.0.2.0/24 dev eth0 table 2 proto static",
        "route add 192.0.2.7/32 dev eth0 proto static",
        "link add foreign type bridge",
        "addr add 192.0.2.1/24 dev foreign",
    ] {
        node.ip(command);
    }
    node.nft("table ip kube-proxy { chain nat { type nat hook prerouting priority -100; tcp dport 30080 dnat to 10.0.0.7; }; }");
}

/// Does what it says where there is something to do it to.
fn do_damage(node: &Netns, case: &Case, damage: Damage) {
    let rules: Vec<String> = lines(node, "rule show");
    let rules: Vec<String> = rules.into_iter().filter(|it| it.ends_with(" proto 86")).collect();
    let unmoved: Vec<String> =
        rules.iter().filter(|rule| !rule.contains(" lookup 99 ")).cloned().collect();
    let routes: Vec<String> = lines(node, "-4 route show table all proto 86");
    let added = |route: &&String| route.starts_with("198.51.100.0/24 ");
    let diverted: Vec<String> = routes.iter().filter(|route| !added(route)).cloned().collect();
    let choose = |list: &[String], number: usize| -> Option<String> {
        (!list.is_empty()).then(|| list[number % list.len()].clone())
    };
    let command = match damage {
        Damage::RemoveRule(number) => {
            choose(&rules, number).map(|rule| format!("rule del {}", arguments(&rule)))
        }
        Damage::MoveRule(number) => choose(&rules, number).map(|rule| {
            let rule = arguments(&rule);
            node.ip(&format!("rule del {rule}"));
            let (before, _) = rule.split_once(" lookup ").unwrap();
            format!("rule add {before} lookup 99 protocol 86")
        }),
        // Not of one that another damage moved: its twin is another program's rule, which is left.
        Damage::TwinRule(number) => choose(&unmoved, number)
            .map(|rule| format!("rule add {}", arguments(&rule).replace(" protocol 86", ""))),
        Damage::RemoveRoute(number) => {
            choose(&routes, number).map(|route| format!("route del {route}"))
        }
        // Not one that another damage added: diverted, it is another program's route, which is left.
        Damage::DivertRoute(number) => choose(&diverted, number).map(|route| {
            let destination = route.split(' ').next().unwrap();
            let table = route.split(" table ").nth(1).and_then(|it| it.split(' ').next());
            // The same destination by another way, which replaces ours.
            format!(
                "route replace {destination} dev eth0 table {} proto static",
                table.unwrap_or("main")
            )
        }),
        Damage::AddRoute(number) => eni_link(case, number).map(|link| {
            format!("route replace 198.51.100.0/24 dev {link} table {} proto 86", number + 5)
        }),
        Damage::RemoveAddress(number) => {
            eni_link(case, number).map(|link| format!("addr flush dev {link} scope global"))
        }
        Damage::AddAddress(number) => eni_link(case, number).map(|link| {
            let address = Ipv4Addr::from([10, 0, 7, 1 + number as u8]);
            format!("addr replace {address}/24 dev {link}")
        }),
        Damage::LinkDown(number) => {
            pod_or_eni_link(node, case, number).map(|link| format!("link set {link} down"))
        }
        Damage::LinkFlap(number) => pod_or_eni_link(node, case, number).map(|link| {
            node.ip(&format!("link set {link} down"));
            format!("link set {link} up")
        }),
        Damage::LinkMtu(number) => {
            let mtu = 1400 + number;
            Some(match eni_link(case, number) {
                Some(link) => format!("link set {link} mtu {mtu}"),
                None => format!("link set eth0 mtu {mtu}"),
            })
        }
        Damage::Sysctl(number) => {
            node.exec(&format!("sysctl -qw net.ipv4.conf.eth0.rp_filter={}", number % 2));
            None
        }
        Damage::FlushChain(number) => {
            let table = TABLES[number % TABLES.len()];
            let listing = node.try_exec(&format!("nft list table {table}")).unwrap_or_default();
            let chains: Vec<String> = listing
                .lines()
                .filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"))
                .map(str::to_owned)
                .collect();
            if let Some(chain) = choose(&chains, number) {
                node.nft(&format!("flush chain {table} {chain}"));
            }
            None
        }
        Damage::RemoveTable(number) => {
            let table = TABLES[number % TABLES.len()];
            node.nft(&format!("add table {table}; delete table {table}"));
            None
        }
        Damage::AddTableRule(number) => {
            let table = TABLES[number % TABLES.len()];
            node.nft(&format!(
                "add table {table}; add chain {table} stray; add rule {table} stray drop"
            ));
            None
        }
    };
    // What an earlier damage took along is not there to be damaged again.
    let _ = command.map(|command| node.try_ip(&command));
}

fn lines(node: &Netns, list: &str) -> Vec<String> {
    let listed = node.try_ip(list).unwrap_or_default();
    listed.lines().map(|line| line.trim().to_owned()).collect()
}

/// Turns a rule as iproute2 prints it into its arguments.
fn arguments(rule: &str) -> String {
    let (priority, rest) = rule.split_once(":\t").unwrap();
    format!("pref {priority} {}", rest.replace(" proto 86", " protocol 86"))
}

fn eni_link(case: &Case, number: usize) -> Option<String> {
    (!case.enis.is_empty()).then(|| format!("eth{}", case.enis[number % case.enis.len()]))
}

fn pod_or_eni_link(node: &Netns, case: &Case, number: usize) -> Option<String> {
    let links = lines(node, "-o link show type veth");
    let name = |line: &String| line.split(' ').nth(1)?.split('@').next().map(str::to_owned);
    let mut links: Vec<String> =
        links.iter().filter_map(name).filter(|name| name.starts_with("eni")).collect();
    links.extend(eni_link(case, number));
    (!links.is_empty()).then(|| links[number % links.len()].clone())
}

/// Returns all that there is, in the order of its text: rules of one priority stand in the order in which they were made.
fn state(node: &Netns) -> Vec<String> {
    let mut state = node.snapshot();
    // A table that was replaced is the last.
    let tables = node.exec("nft --stateless list ruleset");
    state.extend(tables.split("table ").map(str::to_owned));
    state.push(node.sysctl("net/ipv4/conf/eth0/rp_filter"));
    state.sort();
    state
}
