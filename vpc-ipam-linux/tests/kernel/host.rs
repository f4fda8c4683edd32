use serde_json::json;
use vpc_ipam_linux::{HostConfig, KernelChange, NatPrograms, SnatPorts, commands, host, remove};

use crate::support::{Netns, PRIMARY_MAC, Vpc, chain};

#[test]
fn host_is_as_amazon_vpc_cni_k8s_would_leave_it() {
    let vpc = Vpc::new();

    assert_ne!(vpc.set_up_host(&HostConfig::default()), 0);

    assert_eq!(vpc.node.sysctl("net/ipv4/conf/eth0/rp_filter"), "2");
    assert_eq!(vpc.node.sysctl("net/ipv4/tcp_early_demux"), "1");
    assert_eq!(vpc.node.json("link show eth0")[0]["mtu"], 9001);
    let rules = vpc.node.json("rule show pref 1024");
    assert_eq!(rules.len(), 1, "{rules:?}");
    assert_eq!(rules[0]["fwmark"], "0x80");
    assert_eq!(rules[0]["fwmask"], "0x80");
    assert_eq!(rules[0]["table"], "main");
    let nat = vpc.nat().unwrap();
    for expected in [
        "type nat hook postrouting priority srcnat + 10; policy accept;",
        "snat to 10.0.0.10 random",
        "type filter hook prerouting priority dstnat + 10; policy accept;",
        "type filter hook prerouting priority mangle; policy accept;",
        "\t\tip daddr 10.0.0.0/16 return\n",
    ] {
        assert!(nat.contains(expected), "{expected:?} not in\n{nat}");
    }
}

#[test]
fn host_set_up_again_changes_nothing() {
    let vpc = Vpc::new();
    vpc.set_up_host(&HostConfig::default());
    let before = (vpc.node.snapshot(), vpc.nat());

    for _ in 0..3 {
        assert_eq!(vpc.set_up_host(&HostConfig::default()), 0);
    }

    assert_eq!((vpc.node.snapshot(), vpc.nat()), before);
}

#[test]
fn host_follows_its_flags() {
    let vpc = Vpc::new();
    // NodePort, external SNAT; then the rule of the mark, and each part of the table. From each to the next.
    let chains = [
        "chain translate {",
        "chain mark-connections {",
        r#"iifname "eth0" fib"#,
        r#"iifname "eni*" ct"#,
    ];
    let cases = [
        (true, false, true, [true, true, true, true]),
        (true, true, true, [false, false, true, true]),
        (false, false, true, [true, true, false, true]),
        (false, true, false, [false, false, false, false]),
        (true, false, true, [true, true, true, true]),
    ];
    for (node_port, external_snat, expected_rule, expected_chains) in cases {
        let config = HostConfig { node_port, external_snat, ..HostConfig::default() };

        vpc.set_up_host(&config);

        let case = format!("NodePort {node_port}, external SNAT {external_snat}");
        let nat = vpc.nat().unwrap_or_default();
        assert_eq!(vpc.node.rules(1024).len() == 1, expected_rule, "{case}");
        assert_eq!(chains.map(|part| nat.contains(part)), expected_chains, "{case}:\n{nat}");
        assert_eq!(vpc.set_up_host(&config), 0, "{case}: again");
    }
}

/// The names that the kernel takes and the languages of nft, iptables and the shell read more into.
const ODD_NAMES: [&str; 6] = ["e;$(id)`id`&", "e*", r"e\", "it's#1", "{e}|<e>", "e\x1b[31m"];

#[test]
fn odd_name_of_the_primary_link_is_one_word_in_rules_and_commands() {
    for name in ODD_NAMES {
        let vpc = Vpc::new();
        vpc.node.run("ip", &["link", "set", "dev", "eth0", "down"]);
        vpc.node.run("ip", &["link", "set", "dev", "eth0", "name", name]);
        vpc.node.run("ip", &["link", "set", "dev", name, "up"]);
        let config = HostConfig::default();
        let rule = match name.strip_suffix('*') {
            Some(beginning) => format!(r#"iifname "{beginning}\*" fib"#),
            None => format!(r#"iifname "{name}" fib"#),
        };

        // As a person would, by what is printed.
        let state = host::desired(&config, &vpc.host_facts()).unwrap();
        let changes: Vec<KernelChange> = state.wanted.into_iter().map(KernelChange::Set).collect();
        vpc.node.run("bash", &["-ec", &commands(&changes).join("\n")]);
        let printed = vpc.nat().unwrap();
        assert!(printed.contains(&rule), "{rule} is not in\n{printed}");
        assert_eq!(
            vpc.set_up_host(&config),
            2,
            "{name:?}: all but the digests of the rules is there"
        );

        assert_eq!(vpc.set_up_host(&config), 0, "{name:?}");
        let nat = vpc.nat().unwrap();
        assert!(nat.contains(&rule), "{rule} is not in\n{nat}");
    }
}

#[test]
fn name_that_rules_cannot_tell_is_refused_and_named() {
    for name in [r#"e"x"#, "eth+"] {
        let vpc = Vpc::new();
        vpc.node.run("ip", &["link", "set", "dev", "eth0", "down"]);
        vpc.node.run("ip", &["link", "set", "dev", "eth0", "name", name]);
        let before = vpc.nat();
        let error =
            host::set_up(&mut vpc.node.netlink(), &HostConfig::default(), &vpc.host_facts());
        let said = chain(&error.unwrap_err());
        assert!(said.contains(&format!("{name:?}")) && said.contains("rename"), "{said}");
        assert_eq!(vpc.nat(), before);
    }
}

#[test]
fn nat_is_replaced_only_where_it_differs() {
    let vpc = Vpc::new();
    let config = HostConfig::default();
    vpc.set_up_host(&config);
    let made = vpc.nat();

    for damage in [
        "flush chain ip vpc-ipam translate",
        "add rule ip vpc-ipam mark-connections return",
        "delete table ip vpc-ipam",
        "insert rule ip vpc-ipam translate ip daddr 203.0.113.0/24 return",
        "add chain ip vpc-ipam stray",
    ] {
        vpc.node.nft(damage);
        assert_eq!(vpc.set_up_host(&config), 1, "{damage}");
        assert_eq!(vpc.nat(), made, "{damage}");
    }

    let excluded_cidrs = vec!["203.0.113.0/24".parse().unwrap()];
    for (config, expected) in [
        (
            HostConfig { excluded_cidrs, ..config.clone() },
            "\t\tip daddr 10.0.0.0/16 return\n\t\tip daddr 203.0.113.0/24 return\n",
        ),
        (HostConfig { snat_ports: SnatPorts::Kept, ..config.clone() }, "snat to 10.0.0.10\n"),
        (
            HostConfig { snat_ports: SnatPorts::FullyRandom, ..config },
            "snat to 10.0.0.10 fully-random\n",
        ),
    ] {
        assert_eq!(vpc.set_up_host(&config), 1, "{config:?}");
        let nat = vpc.nat().unwrap();
        assert!(nat.contains(expected), "{expected:?} not in\n{nat}");
    }
}

#[test]
fn rule_of_the_mark_is_never_missing_while_its_twins_go() {
    let vpc = Vpc::new();
    let config = HostConfig::default();
    // As amazon-vpc-cni-k8s makes it, before and after ours.
    vpc.node.ip("rule add fwmark 0x80/0x80 lookup main pref 1024");
    vpc.set_up_host(&config);
    assert_eq!(vpc.node.rules(1024).len(), 1);
    vpc.node.ip("rule add fwmark 0x80/0x80 lookup main pref 1024");
    assert_eq!(vpc.node.rules(1024).len(), 2);

    let monitor = vpc.node.json("rule show pref 1024");
    assert_eq!(vpc.set_up_host(&config), 1, "{monitor:?}");

    let rules = vpc.node.json("-d rule show pref 1024");
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["protocol"], "86");
    assert_eq!(vpc.set_up_host(&config), 0);
}

#[test]
fn rule_of_an_earlier_mark_goes() {
    let vpc = Vpc::new();
    vpc.set_up_host(&HostConfig::default());
    let foreign = "rule add fwmark 0x4000/0x4000 lookup main pref 1024 protocol 99";
    vpc.node.ip(foreign);

    let config = HostConfig { mark: 0x200.try_into().unwrap(), ..HostConfig::default() };
    vpc.set_up_host(&config);

    let marks: Vec<_> =
        vpc.node.json("rule show pref 1024").iter().map(|r| r["fwmark"].clone()).collect();
    assert_eq!(marks, [json!("0x4000"), json!("0x200")]);
}

#[test]
fn rule_of_ours_that_leads_elsewhere_goes() {
    let vpc = Vpc::new();
    let config = HostConfig {
        service_cidrs: vec!["172.20.0.0/16".parse().unwrap()],
        ..HostConfig::default()
    };
    vpc.set_up_host(&config);
    let before = vpc.node.snapshot();
    for rule in [
        "fwmark 0x80/0x80 lookup 99 pref 1024 protocol 86",
        "to 172.20.0.0/16 lookup 99 pref 1535 protocol 86",
    ] {
        vpc.node.ip(&format!("rule add {rule}"));
        assert_eq!(vpc.set_up_host(&config), 1, "{rule}");
        assert_eq!(vpc.node.snapshot(), before, "{rule}");
    }
}

#[test]
fn removing_leaves_what_is_not_ours() {
    let vpc = Vpc::new();
    let before = vpc.node.snapshot();
    vpc.node.nft("add table ip kube-proxy");
    vpc.set_up_host(&HostConfig::default());
    let state = host::desired(&HostConfig::default(), &vpc.host_facts()).unwrap();

    remove(&mut vpc.node.netlink(), &state).unwrap();

    assert_eq!(vpc.node.snapshot(), before);
    assert_eq!(vpc.node.exec("nft list tables").trim(), "table ip kube-proxy");
    assert_eq!(remove(&mut vpc.node.netlink(), &state).unwrap(), []);
}

#[test]
fn host_without_its_primary_eni_says_so() {
    let netns = Netns::new();
    let error = host::primary(&mut netns.netlink(), PRIMARY_MAC).unwrap_err();
    assert_eq!(
        chain(&error),
        "no link has the MAC address 02:00:0a:00:00:0a: not attached yet, or in another namespace?"
    );
}

#[test]
fn missing_nft_and_iptables_are_named() {
    let vpc = Vpc::new();
    let programs = NatPrograms {
        nft: "/nonexistent/nft".into(),
        iptables: vec!["/nonexistent/iptables".into()],
    };
    let mut netlink = vpc.node.netlink().with_nat_programs(programs);
    let error = host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts()).unwrap_err();
    assert_eq!(
        chain(&error),
        "set up the node: list the rules of address translation: No such file or directory (os error 2)"
    );
}
