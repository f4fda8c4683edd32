use super::*;
use crate::Mark;

const MANGLE: &str = r#"*mangle
-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
"#;
const CONNMARK: &str = r#"*nat
:AWS-CONNMARK-CHAIN-0 - [0:0]
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN" -j RETURN
-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
COMMIT
"#;
const SNAT: &str = r#"*nat
:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.0.10 --random-fully
COMMIT
"#;
const NFT: &str = r#"table ip aws-cni {
	chain nat-prerouting {
		type nat hook prerouting priority dstnat + 10; policy accept;
		fib daddr type local return
		iifname "eni*" counter jump snat-mark
		counter meta mark set ct mark & 0x00000080
	}

	chain snat-mark {
		counter packets 7 bytes 420 ip daddr 10.0.0.0/16 return
		counter ct mark set ct mark | 0x00000080
	}
}
"#;
/// Of version 1.6 to 1.16: a chain a range, and a condition on the state.
const CHAINS: &str = r#"*nat
:AWS-CONNMARK-CHAIN-0 - [0:0]
:AWS-CONNMARK-CHAIN-1 - [0:0]
:AWS-CONNMARK-CHAIN-2 - [0:0]
:AWS-SNAT-CHAIN-0 - [0:0]
:AWS-SNAT-CHAIN-1 - [0:0]
:AWS-SNAT-CHAIN-2 - [0:0]
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -m state --state NEW -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-CONNMARK-CHAIN-0 ! -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j AWS-CONNMARK-CHAIN-1
-A AWS-CONNMARK-CHAIN-1 ! -d 10.9.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, EXCLUDED CIDR" -j AWS-CONNMARK-CHAIN-2
-A AWS-CONNMARK-CHAIN-2 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
-A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-1
-A AWS-SNAT-CHAIN-1 ! -d 10.9.0.0/16 -m comment --comment "AWS SNAT CHAIN EXCLUSION" -j AWS-SNAT-CHAIN-2
-A AWS-SNAT-CHAIN-2 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.0.10 --random
COMMIT
"#;
/// Of versions that had no chains.
const NO_CHAINS: &str = r#"*nat
-A POSTROUTING ! -d 10.0.0.0/16 -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.0.10
COMMIT
"#;

fn listing(iptables: &str, nft: Option<&str>) -> AwsCniListing {
    AwsCniListing {
        iptables: vec![("iptables-nft".to_owned(), iptables.to_owned())],
        nft: nft.map(str::to_owned),
        unlisted: Vec::new(),
    }
}

fn marked(family: Family) -> Rule {
    let mark = Some(Mark { value: 0x80, mask: 0x80 });
    Rule { mark, protocol: Protocol::UNSPECIFIED, ..Rule::new(family, PRIORITY_MARK, Table::MAIN) }
}

fn read(iptables: &str, nft: Option<&str>) -> AwsCniSettings {
    AwsCniSettings::read(&listing(iptables, nft), &[marked(Family::Ipv4)])
}

/// Mark, prefix, external SNAT, ports, NodePorts.
type Values = (Option<u32>, Option<&'static str>, Option<bool>, Option<SnatPorts>, Option<bool>);

fn values(settings: &AwsCniSettings) -> Values {
    let prefix = settings.veth_prefix.value().map(|it| if it == "eni" { "eni" } else { "other" });
    (
        settings.mark.value().map(|it| it.get()),
        prefix,
        settings.external_snat.value().copied(),
        settings.snat_ports.value().copied(),
        settings.node_port.value().copied(),
    )
}

#[test]
fn settings_are_read_from_the_layouts_of_all_versions() {
    use SnatPorts::{FullyRandom, Kept, Random};
    let all = |parts: &[&str]| parts.concat();
    let hashed = SNAT.replace("--random-fully", "--random");
    let kept = SNAT.replace(" --random-fully", "");
    let misspelt = SNAT.replacen("AWS SNAT CHAIN\"", "AWS SNAT CHAN\"", 1);
    let other_mark = all(&[MANGLE, SNAT]).replace("0x80", "0x4000");
    let other_nft = NFT.replace("0x00000080", "0x00004000").replace("eni*", "pod_*");
    let old_nft = NFT.replace("& 0x00000080", "and 0x80").replace("| 0x00000080", "or 0x80");
    let xor_nft = NFT.replace("| 0x00000080", "& 0xffffff7f ^ 0x00000080");
    let restore_only = MANGLE.lines().filter(|it| !it.contains("LOCAL") && !it.contains("vlan"));
    let restore_only = restore_only.fold(String::new(), |text, line| text + line + "\n");
    let (mark, eni) = (Some(0x80), Some("eni"));
    let (yes, no) = (Some(true), Some(false));
    let cases: [(&str, String, Option<&str>, Values); 12] = [
        (
            "iptables alone",
            all(&[MANGLE, CONNMARK, SNAT]),
            None,
            (mark, eni, no, Some(FullyRandom), yes),
        ),
        ("nftables", all(&[MANGLE, SNAT]), Some(NFT), (mark, eni, no, Some(FullyRandom), yes)),
        (
            "nftables before 1.0",
            all(&[MANGLE, SNAT]),
            Some(&old_nft),
            (mark, eni, no, Some(FullyRandom), yes),
        ),
        (
            "nftables as the kernel has it",
            all(&[MANGLE, SNAT]),
            Some(&xor_nft),
            (mark, eni, no, Some(FullyRandom), yes),
        ),
        ("a chain a range", all(&[MANGLE, CHAINS]), None, (mark, eni, no, Some(Random), yes)),
        ("no chains", all(&[MANGLE, NO_CHAINS]), None, (mark, eni, no, Some(Kept), yes)),
        ("hashrandom", all(&[MANGLE, CONNMARK, &hashed]), None, (mark, eni, no, Some(Random), yes)),
        ("none", all(&[MANGLE, CONNMARK, &kept]), None, (mark, eni, no, Some(Kept), yes)),
        (
            "a comment of 1.5",
            all(&[MANGLE, CONNMARK, &misspelt]),
            None,
            (mark, eni, no, Some(FullyRandom), yes),
        ),
        (
            "external SNAT",
            all(&[MANGLE, "*nat\n:AWS-SNAT-CHAIN-0 - [0:0]\nCOMMIT\n"]),
            None,
            (mark, eni, yes, None, yes),
        ),
        ("external SNAT from the start", MANGLE.to_owned(), None, (mark, eni, yes, None, yes)),
        (
            "no NodePorts",
            all(&[&restore_only, CONNMARK, SNAT]),
            None,
            (mark, eni, no, Some(FullyRandom), no),
        ),
    ];
    for (name, iptables, nft, expected) in cases {
        let settings = read(&iptables, nft);
        assert_eq!(values(&settings), expected, "{name}: {settings:#?}");
        assert_eq!((settings.odd, settings.contradictions), (vec![], vec![]), "{name}");
    }
    let others =
        AwsCniSettings::read(&listing(&other_mark.replace("eni+", "pod_+"), Some(&other_nft)), &[]);
    assert_eq!(others.mark.value().map(|it| it.get()), Some(0x4000));
    assert_eq!(others.veth_prefix.value().map(String::as_str), Some("pod_"));
}

#[test]
fn ranges_are_told_from_those_that_are_excluded() {
    let dynamic = |comment: &str| {
        let rule = format!(
            "-A AWS-SNAT-CHAIN-0 -d 192.168.0.0/24 -m comment --comment \"{comment}\" -j RETURN\n-A POSTROUTING"
        );
        SNAT.replacen("-A POSTROUTING", &rule, 1)
    };
    let all = SNAT.replacen(
        "-A POSTROUTING",
        "-A AWS-SNAT-CHAIN-0 -m comment --comment \"AWS SNAT CHAIN EXCLUSION\" -j RETURN\n-A POSTROUTING",
        1,
    );
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (SNAT, &["10.0.0.0/16"], &[]),
        (CHAINS, &["10.0.0.0/16"], &["10.9.0.0/16"]),
        (NO_CHAINS, &["10.0.0.0/16"], &[]),
        (&dynamic("AWS SNAT CHAIN EXCLUSION"), &["10.0.0.0/16"], &["192.168.0.0/24"]),
        (&dynamic("AWS SNAT CHAIN EXCLUSION (dynamic)"), &["10.0.0.0/16"], &["192.168.0.0/24"]),
        // The kernel does not keep that the range was named.
        (&all, &["10.0.0.0/16"], &["0.0.0.0/0"]),
    ];
    for (iptables, vpc, excluded) in cases {
        let settings = read(iptables, None);
        let texts = |cidrs: Vec<&Ipv4Net>| -> Vec<String> {
            cidrs.iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(settings.vpc_cidrs.iter().collect()), vpc, "{iptables}");
        let found = settings.excluded_cidrs.iter().map(|(cidr, _)| cidr).collect();
        assert_eq!(texts(found), excluded, "{iptables}");
    }
}

#[test]
fn what_contradicts_itself_is_reported_and_not_guessed() {
    let set = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let node = |iptables: &str| [MANGLE, iptables].concat();
    let ways = |settings: &AwsCniSettings| {
        let counts = [
            settings.mark.values.len(),
            settings.veth_prefix.values.len(),
            settings.external_snat.values.len(),
            settings.snat_ports.values.len(),
            settings.snat_address.values.len(),
        ];
        counts.map(|count| count > 1)
    };
    let second = "-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment \"AWS, SNAT\" -m addrtype ! --dst-type LOCAL -j SNAT \
                  --to-source 10.0.0.99 --random-fully\nCOMMIT\n";
    let kept = second.replace("10.0.0.99 --random-fully", "10.0.0.10");
    let cases = [
        (
            "two marks",
            set(MANGLE, "0x80/0x80", "0x100/0x100") + SNAT,
            [true, false, false, false, false],
        ),
        (
            "two prefixes",
            set(MANGLE, "-A PREROUTING -i vlan+", "-A PREROUTING -i pod_+") + SNAT,
            [false, true, false, false, false],
        ),
        (
            "two addresses",
            set(
                &node(SNAT),
                "-A POSTROUTING",
                &format!("{}-A POSTROUTING", second.trim_end_matches("COMMIT\n")),
            ),
            [false, false, false, false, true],
        ),
        (
            "two ways",
            set(
                &node(SNAT),
                "-A POSTROUTING",
                &format!("{}-A POSTROUTING", kept.trim_end_matches("COMMIT\n")),
            ),
            [false, false, false, true, false],
        ),
    ];
    for (name, iptables, expected) in cases {
        let settings = read(&iptables, None);
        assert_eq!(ways(&settings), expected, "{name}: {settings:#?}");
    }

    let jump = "-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n";
    let last = SNAT.lines().find(|it| it.contains("--to-source")).unwrap();
    let (no_jump, no_snat) = (SNAT.replace(jump, ""), SNAT.replace(last, ""));
    let neither = no_jump.replace(last, "");
    let more = set(&CONNMARK.replace("10.0.0.0/16", "10.0.0.0/24"), "*nat", "*nat");
    for (iptables, expected) in [
        (node(&no_jump), vec!["is in a chain that no rule of POSTROUTING leads to"]),
        (node(&no_snat), vec!["leads to a chain that has no rule \"AWS, SNAT\""]),
        (node(&neither), vec!["has ranges of the VPC and no rule \"AWS, SNAT\""]),
        (
            node(&[SNAT, &more].concat()),
            vec![
                "connections to 10.0.0.0/16 are not translated, and are marked in iptables-nft",
                "connections to 10.0.0.0/24 are translated, and are not marked in iptables-nft",
            ],
        ),
    ] {
        let settings = read(&iptables, None);
        assert_eq!(settings.contradictions.len(), expected.len(), "{:?}", settings.contradictions);
        for (said, expected) in settings.contradictions.iter().zip(expected) {
            assert!(said.contains(expected), "{said}");
        }
    }
}

#[test]
fn rules_of_other_programs_in_its_chains_are_told() {
    for rule in [
        "-A AWS-SNAT-CHAIN-0 -o eth1 -j RETURN",
        "-A AWS-SNAT-CHAIN-0 -d 10.1.0.0/16 -p tcp -j RETURN",
        "-A AWS-SNAT-CHAIN-0 -s 10.0.0.7/32 -d 10.1.0.0/16 -j RETURN",
        "-A AWS-SNAT-CHAIN-0 -j MASQUERADE",
        "-A AWS-SNAT-CHAIN-0 ! -d 10.1.0.0/16 -j RETURN",
        "-A AWS-CONNMARK-CHAIN-0 -i eni0000000000a -j RETURN",
    ] {
        let chain = rule.split(' ').nth(1).unwrap();
        let text = format!("*nat\n:{chain} - [0:0]\n{rule}\nCOMMIT\n");
        let settings = read(&text, None);
        assert_eq!(settings.odd, [format!("iptables-nft table nat: {rule}")]);
        assert!(settings.vpc_cidrs.is_empty(), "{rule}");
    }
    let nft = NFT.replace("fib daddr type local return", "ip saddr 10.0.0.7 return");
    assert_eq!(read("", Some(&nft)).odd, ["nftables table ip aws-cni: ip saddr 10.0.0.7 return"]);
}

#[test]
fn rules_of_the_routing_policy_tell_ranges_of_services_and_the_family() {
    let service = |cidr: &str, protocol| {
        let net: IpNet = cidr.parse().unwrap();
        Rule { protocol, ..Rule::new(Family::Ipv4, PRIORITY_SERVICE, Table::MAIN).to(net) }
    };
    let rules = [
        service("172.20.0.0/16", Protocol::UNSPECIFIED),
        service("172.21.0.0/16", Protocol::OURS),
        service("172.22.0.0/16", Protocol::BOOT),
        marked(Family::Ipv6),
    ];
    let settings = AwsCniSettings::read(&AwsCniListing::default(), &rules);
    let cidrs: Vec<String> =
        settings.service_cidrs.iter().map(|(cidr, _)| cidr.to_string()).collect();
    assert_eq!(cidrs, ["172.20.0.0/16"]);
    assert_eq!(settings.ipv6.value(), Some(&true));
    assert_eq!(settings.external_snat.value(), None, "there is nothing to translate");

    let forward = "*filter\n-A FORWARD -d 169.254.172.0/22 -m conntrack --ctstate NEW -m comment --comment \"Block Node Local Pod access via \
                   IPv4\" -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
    assert_eq!(read(forward, None).ipv6.value(), Some(&true));
}

#[test]
fn a_node_that_it_never_was_on_has_nothing_of_it() {
    let others = "*nat\n:KUBE-SERVICES - [0:0]\n-A POSTROUTING -s 10.0.0.0/16 -j MASQUERADE\nCOMMIT\n*mangle\n-A PREROUTING -i eni+ -j \
                  CONNMARK --restore-mark\nCOMMIT\n";
    let rules = [Rule::new(Family::Ipv4, PRIORITY_MARK, Table::MAIN)];
    assert!(AwsCniSettings::read(&listing(others, None), &rules).is_empty());
}

/// With external SNAT and without NodePorts it has an empty chain alone, and no rule for marks.
#[test]
fn chain_that_is_empty_shows_external_snat_also_without_node_ports() {
    let empty = "*nat\n:AWS-SNAT-CHAIN-0 - [0:0]\nCOMMIT\n";
    let settings = AwsCniSettings::read(&listing(empty, None), &[]);
    assert_eq!(values(&settings), (None, None, Some(true), None, None), "{settings:?}");
    assert_eq!(settings.contradictions, [] as [&str; 0]);
}

/// As `iptables -F` leaves a node, or a firewall that loads its own rules: nothing is concluded from what was there.
#[test]
fn rules_that_were_removed_are_no_setting() {
    let restore = MANGLE.lines().filter(|line| !line.contains("LOCAL"));
    let restore = restore.fold(String::new(), |text, line| text + line + "\n");
    for (left, iptables, nft) in [
        ("the rule for marks", "", None),
        ("the table of nftables", "", Some(NFT)),
        ("connection marks", CONNMARK, None),
        (
            "an empty chain and the rule for marks",
            "*nat\n:AWS-SNAT-CHAIN-0 - [0:0]\nCOMMIT\n",
            None,
        ),
        ("what restores marks", &restore, None),
    ] {
        let settings = read(iptables, nft);
        assert_eq!(settings.contradictions.len(), 1, "{left}: {settings:#?}");
        assert!(settings.contradictions[0].contains("were removed"), "{left}: {settings:#?}");
        assert_eq!(settings.node_port.value(), None, "{left}");
    }
}

/// Of a node whose iptables changed its kind, a packet meets what is left in the other too.
#[test]
fn kinds_of_iptables_are_looked_at_one_by_one() {
    let kinds = |one: &str, other: &str| {
        let listing = AwsCniListing {
            iptables: vec![
                ("iptables-nft".to_owned(), one.to_owned()),
                ("iptables-legacy".to_owned(), other.to_owned()),
            ],
            nft: None,
            unlisted: Vec::new(),
        };
        AwsCniSettings::read(&listing, &[marked(Family::Ipv4)])
    };
    let whole = [MANGLE, CONNMARK, SNAT].concat();
    let same = kinds(&whole, &whole);
    assert_eq!((same.external_snat.value(), &same.contradictions[..]), (Some(&false), &[][..]));
    assert_eq!(same.connmark, ["iptables-nft", "iptables-legacy"]);
    let empty = kinds(&whole, "*nat\n:AWS-SNAT-CHAIN-0 - [0:0]\nCOMMIT\n");
    assert!(empty.external_snat.is_contradictory(), "{empty:?}");
    // A jump in one kind does not lead to a rule in the other.
    let jump = "-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n";
    let apart = kinds(
        &whole.replace(jump, ""),
        &format!("*nat\n:AWS-SNAT-CHAIN-0 - [0:0]\n{jump}COMMIT\n"),
    );
    assert_eq!(apart.contradictions.len(), 2, "{apart:?}");
    let other_port = kinds(&whole, &SNAT.replace("--random-fully", "--random"));
    assert!(other_port.snat_ports.is_contradictory(), "{other_port:?}");
}
