use serde_json::json;

use super::*;
use crate::migrate::check::tests::{entry, node};
use crate::migrate::{Given, Report, Severity};

fn value<'a>(derived: &'a Derived, name: &str) -> Option<&'a str> {
    derived.settings.iter().find(|it| it.name == name)?.value()
}

fn given(name: &str, value: &str) -> Given {
    let vars = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    Given { file: Some("/tmp/env".into()), vars, ..Given::default() }
}

fn chain(survey: &mut Survey, from: &str, to: &str) {
    let text = &mut survey.nat.iptables[0].1;
    assert!(text.contains(from), "{from}");
    *text = text.replace(from, to);
    read_again(survey);
}

fn read_again(survey: &mut Survey) {
    survey.settings = vpc_ipam_linux::AwsCniSettings::read(&survey.nat, &survey.kernel.rules);
}

#[test]
fn environment_has_what_the_node_shows_and_what_it_is_seen_by() {
    let survey = node();
    let variables = Derived::of(&survey).environment(&Given::default());
    let pairs: Vec<(&str, &str)> =
        variables.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "true"),
            ("AWS_VPC_ENI_MTU", "9001"),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0x80"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false"),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng"),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "eni"),
            ("ENABLE_IPv6", "false"),
            ("ENABLE_V6_EGRESS", "false"),
        ]
    );
    assert!(variables.iter().all(|it| it.evidence.len() > 10));
}

/// A variable, how the node is made to show it, its value, what an operator may say instead, and words of what would come of that.
type Case = (&'static str, fn(&mut Survey), &'static str, &'static str, &'static str);

/// Each of today's silent failures: with the daemon's default in place of the setting, traffic would change.
const CASES: &[Case] = &[
    (
        "AWS_VPC_K8S_CNI_CONNMARK",
        |it| {
            for rule in &mut it.kernel.rules {
                if let Some(mark) = &mut rule.mark {
                    (mark.value, mark.mask) = (0x4000, 0x4000);
                }
            }
            chain(it, "0x80", "0x4000");
        },
        "0x4000",
        "128",
        "running connections carry the mark 0x4000",
    ),
    (
        "AWS_VPC_K8S_CNI_VETHPREFIX",
        |it| {
            chain(it, "eni+", "pod+");
            it.networks[0].plugins[0] =
                json!({"type": "aws-cni", "vethPrefix": "pod", "mtu": "9001"});
        },
        "pod",
        "eni",
        "rules for links eni* do not see running pods behind pod*",
    ),
    (
        "AWS_VPC_K8S_CNI_EXTERNALSNAT",
        |_| {},
        "false",
        "true",
        "would leave with the pods' own addresses",
    ),
    (
        "AWS_VPC_K8S_CNI_EXTERNALSNAT",
        |it| {
            let text = &mut it.nat.iptables[0].1;
            let kept = text.lines().filter(|line| {
                !line.starts_with("-A AWS-")
                    && !line.contains("-j AWS-SNAT")
                    && !line.contains("CONNMARK\" -j")
            });
            *text = kept.fold(String::new(), |text, line| text + line + "\n");
            read_again(it);
        },
        "true",
        "false",
        "would leave with the node's address",
    ),
    (
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT",
        |_| {},
        "prng",
        "hashrandom",
        "chosen by hashrandom instead of prng",
    ),
    (
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
        |it| {
            let (snat, mark) =
                ("-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16", "-A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16");
            let excluded = "-A AWS-SNAT-CHAIN-0 -d 192.168.0.0/16 -m comment --comment \"AWS SNAT CHAIN EXCLUSION\" -j RETURN\n";
            chain(it, snat, &format!("{excluded}{snat}"));
            let unmarked = "-A AWS-CONNMARK-CHAIN-0 -d 192.168.0.0/16 -m comment --comment \"AWS CONNMARK CHAIN\" -j RETURN\n";
            chain(it, mark, &format!("{unmarked}{mark}"));
        },
        "192.168.0.0/16",
        "192.168.0.0/24",
        "to 192.168.0.0/16 would leave with the node's address; connections of pods to 192.168.0.0/24 would",
    ),
    (
        "AWS_EXTERNAL_SERVICE_CIDRS",
        |it| {
            use crate::migrate::check::tests::rule;
            rule(it, 1535, Table::MAIN, |it| {
                it.to("172.20.0.0/16".parse::<ipnet::IpNet>().unwrap())
            });
            rule(it, 1535, Table::MAIN, |it| {
                it.to("172.10.0.0/16".parse::<ipnet::IpNet>().unwrap())
            });
            read_again(it);
        },
        "172.10.0.0/16,172.20.0.0/16",
        "172.20.0.0/16",
        "would reach 172.10.0.0/16 by their own ENI",
    ),
    (
        "AWS_VPC_ENI_MTU",
        |it| it.kernel.links.iter_mut().for_each(|it| it.mtu = 1500),
        "1500",
        "9001",
        "from 1500 to 9001 bytes",
    ),
    (
        "POD_MTU",
        |it| it.networks[0].plugins[0]["mtu"] = json!("1400"),
        "1400",
        "9001",
        "new pods would send packets of up to 9001 bytes",
    ),
    (
        "POD_MTU",
        |it| {
            it.networks.clear();
            it.kernel.links.iter_mut().filter(|it| it.kind.is_some()).for_each(|it| it.mtu = 1300);
        },
        "1300",
        "1500",
        "new pods would send",
    ),
    (
        "AWS_VPC_CNI_NODE_PORT_SUPPORT",
        |_| {},
        "true",
        "false",
        "answers of pods on secondary ENIs to NodePort connections",
    ),
    (
        "AWS_VPC_CNI_NODE_PORT_SUPPORT",
        |it| {
            let text = &mut it.nat.iptables[0].1;
            *text = text
                .lines()
                .filter(|line| !line.contains("--dst-type LOCAL --limit"))
                .fold(String::new(), |text, line| text + line + "\n");
            read_again(it);
        },
        "false",
        "true",
        "would be marked",
    ),
    (
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
        |it| {
            // All pods on the second ENI, in a subnet of its own.
            it.checkpoint.entries.remove(0);
            it.kernel.entries.retain(|it| it.route.destination.to_string() != "10.0.0.100/32");
            for (index, address) in &mut it.kernel.addresses {
                if index.0 == 3 {
                    address.net = "100.64.0.20/19".parse().unwrap();
                }
            }
        },
        "true",
        "false",
        "the primary ENI's subnet",
    ),
    ("ENABLE_IPv6", |_| {}, "false", "true", "IPv6 addresses instead of IPv4"),
    (
        "ENABLE_IPv6",
        |it| {
            it.checkpoint.entries = vec![entry("a", "2001:db8::7")];
            it.nat.iptables.clear();
            it.kernel.rules.clear();
            read_again(it);
        },
        "true",
        "false",
        "IPv4 addresses instead of IPv6",
    ),
    (
        "ENABLE_V6_EGRESS",
        |it| it.networks[0].plugins[1]["enabled"] = json!("true"),
        "true",
        "false",
        "would not reach IPv6",
    ),
    (
        "ENABLE_V4_EGRESS",
        |it| {
            it.checkpoint.entries = vec![entry("a", "2001:db8::7")];
            it.networks[0].plugins[1]["enabled"] = json!("true");
        },
        "true",
        "false",
        "would not reach IPv4",
    ),
    (
        "DISABLE_POD_V6",
        |it| {
            it.networks[0]
                .plugins
                .push(json!({"type": "tuning", "sysctl": {"net.ipv6.conf.all.disable_ipv6": "1"}}))
        },
        "true",
        "false",
        "link-local addresses",
    ),
];

#[test]
fn each_setting_is_derived_and_what_an_operator_says_otherwise_is_refused() {
    for (name, make, expected, otherwise, words) in CASES {
        let mut survey = node();
        make(&mut survey);
        let derived = Derived::of(&survey);
        assert_eq!(value(&derived, name), Some(*expected), "{name}: {derived:#?}");

        survey.given = given(name, otherwise);
        let report = Report::of(&survey);
        let refusal = report.findings.iter().find(|it| it.check == "settings");
        let refusal = refusal.unwrap_or_else(|| panic!("{name}: {:#?}", report.findings));
        assert_eq!(refusal.severity, Severity::Refusal);
        // Both values, and what becomes of traffic.
        assert!(
            refusal.what.contains(&format!("{name} is {otherwise} in /tmp/env, and {expected}")),
            "{refusal:?}"
        );
        assert!(refusal.effect.contains(words), "{refusal:?}");

        // The same in its own words, or nothing, is all right, and the environment has it.
        for said in [given(name, expected), Given::default()] {
            assert_eq!(derived.disagreements(&said), [], "{name}");
            let variables = derived.environment(&said);
            assert!(variables.iter().any(|it| it.name == *name && it.value == *expected), "{name}");
        }
    }
}

#[test]
fn the_same_value_in_other_words_is_the_same() {
    let mut survey = node();
    (CASES[5].1)(&mut survey);
    let derived = Derived::of(&survey);
    for (name, said) in [
        ("AWS_VPC_K8S_CNI_CONNMARK", "128"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0200"),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "F"),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", ""),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", " 192.168.7.7/16,"),
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "TRUE"),
        ("ENABLE_IPv6", "0"),
        // Of these the node shows nothing.
        ("WARM_IP_TARGET", "5"),
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
    ] {
        assert_eq!(derived.disagreements(&given(name, said)), [], "{name}={said}");
    }
    let kept = derived.environment(&given("WARM_IP_TARGET", "5"));
    assert!(kept.iter().any(|it| it.name == "WARM_IP_TARGET" && it.evidence == "/tmp/env"));
}

/// What cannot be used counts as the daemon's default.
#[test]
fn a_value_that_cannot_be_used_is_the_default_to_the_daemon() {
    let derived = Derived::of(&node());
    assert_eq!(derived.disagreements(&given("AWS_VPC_K8S_CNI_EXTERNALSNAT", "yes")), []);
    assert_eq!(derived.disagreements(&given("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "PRNG")).len(), 1);
    assert_eq!(derived.disagreements(&given("AWS_VPC_ENI_MTU", "jumbo")).len(), 1);
}

#[test]
fn a_contradiction_is_settled_by_an_operator_who_says_one_of_the_values() {
    let mut survey = node();
    chain(&mut survey, "--set-xmark 0x80/0x80", "--set-xmark 0x100/0x100");
    let derived = Derived::of(&survey);
    assert_eq!(value(&derived, "AWS_VPC_K8S_CNI_CONNMARK"), None);
    let open = |given: &Given| derived.contradictions(given).len();
    assert_eq!(open(&Given::default()), 1);
    assert_eq!(open(&given("AWS_VPC_K8S_CNI_CONNMARK", "256")), 0);
    assert_eq!(open(&given("AWS_VPC_K8S_CNI_CONNMARK", "0x200")), 1);
    let variables = derived.environment(&given("AWS_VPC_K8S_CNI_CONNMARK", "256"));
    assert!(variables.iter().any(|it| it.name == "AWS_VPC_K8S_CNI_CONNMARK" && it.value == "256"));
}

/// Where the primary ENI's subnet is excluded, pods are on other ENIs in other subnets too.
#[test]
fn operator_who_discovers_subnets_may_say_that_there_is_no_custom_networking() {
    let of_custom_networking = CASES.iter().find(|it| it.0 == CUSTOM_NETWORKING).unwrap();
    let mut survey = node();
    (of_custom_networking.1)(&mut survey);
    let derived = Derived::of(&survey);
    let mut said = given(CUSTOM_NETWORKING, "false");
    assert_eq!(derived.disagreements(&said).len(), 1);
    said.vars.insert(SUBNET_DISCOVERY.to_owned(), "true".to_owned());
    assert_eq!(derived.disagreements(&said), []);
    let variables = derived.environment(&said);
    assert!(variables.iter().any(|it| it.name == CUSTOM_NETWORKING && it.value == "false"));
}

#[test]
fn a_variable_is_named_with_the_file_that_sets_it() {
    let mut survey = node();
    survey.given = given("WARM_IP_TARGET", "5");
    let of_unit = "/etc/systemd/system/vpc-ipamd.service.d/10.conf".to_owned();
    survey.given.vars.insert("AWS_VPC_K8S_CNI_EXTERNALSNAT".to_owned(), "true".to_owned());
    survey.given.elsewhere.insert("AWS_VPC_K8S_CNI_EXTERNALSNAT".to_owned(), of_unit.clone());
    let report = Report::of(&survey);
    let expected =
        format!("AWS_VPC_K8S_CNI_EXTERNALSNAT is true in {of_unit}, and false on the node");
    assert!(report.findings.iter().any(|it| it.what.contains(&expected)), "{:?}", report.findings);
}
