use serde_json::json;
use vpc_ipam_core::{Card, DeviceIndex, Effect, EniLink, FailureKind, HostAction, Outcome};
use vpc_ipam_linux::{EniTable, Table, TableReason, eni as enis, execute};

use crate::support::{Vpc, eni, eni_mac};

#[test]
fn eni_has_a_table_of_its_own() {
    let vpc = Vpc::new();
    plug(&vpc);

    for device in [1, 2] {
        set_up(&vpc, &eni(device));
    }

    let address = &vpc.node.json("addr show eth1")[0];
    assert_eq!(address["mtu"], 9001);
    assert!(address["flags"].as_array().unwrap().contains(&json!("UP")), "{address}");
    let inet = address["addr_info"].as_array().unwrap().iter().filter(|it| it["family"] == "inet");
    let inet: Vec<_> = inet.collect();
    assert_eq!(inet.len(), 1);
    assert_eq!(inet[0]["local"], "10.0.0.20");
    assert_eq!(inet[0]["prefixlen"], 19);
    assert_eq!(inet[0]["broadcast"], "10.0.31.255");
    for (table, link, gateway, rule) in
        [(2, "eth1", "10.0.0.1", "10.0.0.20 - 2"), (3, "eth2", "10.0.32.1", "10.0.32.20 - 3")]
    {
        let routes = vpc.node.routes(table);
        assert_eq!(routes.len(), 2, "{routes:?}");
        let default = routes.iter().find(|route| route["dst"] == "default").unwrap();
        assert_eq!((&default["gateway"], &default["dev"]), (&json!(gateway), &json!(link)));
        let direct = routes.iter().find(|route| route["dst"] == gateway).unwrap();
        assert_eq!((&direct["scope"], &direct["dev"]), (&json!("link"), &json!(link)));
        assert!(vpc.node.rules(32765).contains(&rule.to_owned()), "{:?}", vpc.node.rules(32765));
    }
    let connected = vpc.node.json("route show 10.0.0.0/19");
    assert_eq!(connected.len(), 1, "{connected:?}");
    assert_eq!(connected[0]["dev"], "eth0");
    assert_eq!(vpc.node.json("route show 10.0.32.0/19"), [] as [serde_json::Value; 0]);
}

#[test]
fn eni_set_up_again_changes_nothing() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &eni(1));
    let before = vpc.node.snapshot();

    let applied = enis::set_up(&mut vpc.node.netlink(), &eni(1)).unwrap();

    assert_eq!(applied, []);
    assert_eq!(vpc.node.snapshot(), before);
}

#[test]
fn eni_is_repaired_whatever_was_done_to_it() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &eni(1));
    let before = vpc.node.snapshot();
    for (damage, count) in [
        ("route del default table 2", 1),
        ("route flush table 2", 2),
        ("route replace default via 10.0.0.7 dev eth1 table 2 onlink", 1),
        ("route add 10.9.0.0/16 dev eth1 table 2 proto 86", 1),
        ("rule del pref 32765", 1),
        ("rule add from 10.0.0.20 lookup 7 pref 32765", 1),
        ("link set eth1 mtu 1500", 1),
        // The routes of a link go with its last address.
        ("addr del 10.0.0.20/19 dev eth1", 3),
        // Our own address becomes the second of its subnet.
        ("addr add 10.0.0.99/19 dev eth1", 2),
    ] {
        vpc.node.ip(damage);

        let applied = enis::set_up(&mut vpc.node.netlink(), &eni(1)).unwrap();

        assert_eq!(applied.len(), count, "{damage}: {applied:?}");
        assert_eq!(vpc.node.snapshot(), before, "{damage}");
    }
}

#[test]
fn eni_survives_a_flap_of_its_link() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &eni(1));
    vpc.node.ip("link set eth1 down");
    vpc.node.ip("link set eth1 up");
    assert_eq!(vpc.node.routes(2).len(), 0);

    set_up(&vpc, &eni(1));

    assert_eq!(vpc.node.routes(2).len(), 2);
    assert_eq!(vpc.node.json("route show 10.0.0.0/19").len(), 1);
}

#[test]
fn address_that_somebody_else_gave_is_replaced() {
    // As a kernel with DHCP on every link leaves it: another address, or ours with its route in main.
    for given in ["10.0.0.99/19", "10.0.0.20/24", "10.0.0.20/19"] {
        let vpc = Vpc::new();
        plug(&vpc);
        vpc.node.ip(&format!("addr add {given} dev eth1"));
        vpc.node.ip("link set eth1 up");

        set_up(&vpc, &eni(1));

        let nets = vpc.node.ip("-4 -o addr show eth1");
        assert_eq!(nets.lines().count(), 1, "{given}: {nets}");
        assert!(nets.contains("10.0.0.20/19"), "{given}: {nets}");
        let main = vpc.node.ip("route show dev eth1");
        assert_eq!(main, "", "{given}");
        assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni(1)).unwrap(), [], "{given}");
    }
}

#[test]
fn routes_and_rules_of_others_stay() {
    let vpc = Vpc::new();
    plug(&vpc);
    vpc.node.ip("link set eth1 up");
    vpc.node.ip("route add 192.0.2.0/24 dev eth1 table 2 proto static");
    vpc.node.ip("rule add from 10.0.0.20 lookup 30200 pref 30200");

    set_up(&vpc, &eni(1));
    enis::remove(&mut vpc.node.netlink(), &eni(1)).unwrap();

    assert_eq!(vpc.node.routes(2).len(), 3);
    assert_eq!(vpc.node.rules(30200), ["10.0.0.20 - 30200"]);
    assert_eq!(vpc.node.rules(32765), [] as [&str; 0]);
}

/// A default route of ours would take that program's packets along, or replace its own.
#[test]
fn table_that_another_program_uses_is_not_taken() {
    let use_of_table = [
        (
            "route add default via 10.0.0.1 dev eth0 table 2 proto static",
            "route default via 10.0.0.1 table 2 dev eth0 proto static",
        ),
        (
            "route add blackhole 192.0.2.0/24 table 2 proto static",
            "route blackhole 192.0.2.0/24 table 2 proto static",
        ),
        (
            "rule add from 192.0.2.7 lookup 2 pref 100 proto static",
            "rule 100: from 192.0.2.7 lookup 2 proto static",
        ),
        (
            "rule add fwmark 0x5 lookup 2 pref 9",
            "rule 9: fwmark 0x5/0xffffffff lookup 2 proto unspec",
        ),
        (
            "-6 rule add from 2001:db8::/32 lookup 2 pref 9",
            "rule 9: from 2001:db8::/32 lookup 2 proto unspec",
        ),
    ];
    for (command, expected) in use_of_table {
        let vpc = Vpc::new();
        plug(&vpc);
        vpc.node.ip(command);
        let foreign = |vpc: &Vpc| {
            let mut lines = vpc.node.snapshot();
            lines.extend(vpc.node.routes(2).iter().map(ToString::to_string));
            lines.retain(|line| !line.contains("eth1") && !line.contains("86002"));
            lines
        };
        let before = foreign(&vpc);

        set_up(&vpc, &eni(1));

        assert_eq!(foreign(&vpc), before, "{command}");
        assert_eq!(vpc.node.routes(86002).len(), 2, "{command}");
        assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 86002"], "{command}");
        let here = || enis::table_here(&mut vpc.node.netlink(), &eni(1)).unwrap();
        let taken = |by: Option<&str>| EniTable {
            table: Table(86002),
            because: TableReason::Taken { by: by.map(str::to_owned) },
        };
        assert_eq!(here(), taken(Some(expected)), "{command}");

        // It stays there, also when the other is free again, and when its link flapped.
        vpc.node.ip(&command.replacen(" add ", " del ", 1));
        for damage in ["route flush table 86002", "rule del pref 32765"] {
            vpc.node.ip(damage);
            set_up(&vpc, &eni(1));
            assert_eq!(here(), taken(None), "{command}: {damage}");
            assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 86002"], "{command}: {damage}");
        }
        assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni(1)).unwrap(), [], "{command}");
    }
}

#[test]
fn table_that_the_next_taken_one_leads_to_is_not_taken_either() {
    let vpc = Vpc::new();
    plug(&vpc);
    for table in [2, 86002] {
        vpc.node.ip(&format!("route add default via 10.0.0.1 dev eth0 table {table}"));
    }
    set_up(&vpc, &eni(1));
    assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 172002"]);
}

#[test]
fn table_of_ours_stays_ours_whatever_others_add_to_it() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &eni(1));
    for command in [
        "route add 192.0.2.0/24 dev eth0 table 2 proto static",
        "rule add from 192.0.2.7 lookup 2 pref 100 proto static",
    ] {
        vpc.node.ip(command);
    }
    let before = vpc.node.snapshot();

    assert_eq!(enis::set_up(&mut vpc.node.netlink(), &eni(1)).unwrap(), []);

    assert_eq!(vpc.node.snapshot(), before);
    let table = enis::table_here(&mut vpc.node.netlink(), &eni(1)).unwrap();
    assert_eq!(table, EniTable { table: Table(2), because: TableReason::Attachment });
}

/// By way of amazon-vpc-cni-k8s, or of anything that leads by the ENI's own link.
#[test]
fn table_whose_routes_lead_by_the_eni_itself_is_taken_over() {
    let vpc = Vpc::new();
    plug(&vpc);
    for command in [
        "link set eth1 up",
        "route add 10.0.0.1/32 dev eth1 scope link table 2",
        "route add default via 10.0.0.1 dev eth1 table 2",
        "rule add from 10.0.0.20/32 lookup 2 pref 32765",
        "rule add from 10.0.0.101/32 lookup 2 pref 1536",
    ] {
        vpc.node.ip(command);
    }
    set_up(&vpc, &eni(1));
    assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 2"]);
    assert_eq!(vpc.node.routes(2).len(), 2);
}

#[test]
fn trunk_gets_no_rule() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &EniLink { trunk: true, ..eni(1) });
    assert_eq!(vpc.node.rules(32765), [] as [&str; 0]);
    assert_eq!(vpc.node.routes(2).len(), 2);
}

#[test]
fn eni_of_another_card_uses_a_high_table() {
    let vpc = Vpc::new();
    plug(&vpc);
    set_up(&vpc, &EniLink { card: Card(1), device: DeviceIndex(1), ..eni(1) });
    assert_eq!(vpc.node.routes(10101).len(), 2);
    assert_eq!(vpc.node.rules(32765), ["10.0.0.20 - 10101"]);
}

/// Where an ENI is attached does not make it the primary one.
#[test]
fn secondary_eni_at_device_0_has_a_table_of_its_own() {
    let vpc = Vpc::new();
    plug(&vpc);
    let main = vpc.node.routes(254);

    set_up(&vpc, &EniLink { device: DeviceIndex(0), ..eni(1) });

    let routes = vpc.node.routes(1);
    let found: Vec<_> = routes.iter().map(|it| (&it["dst"], &it["dev"])).collect();
    assert_eq!(found, [(&"default".into(), &"eth1".into()), (&"10.0.0.1".into(), &"eth1".into())]);
    assert_eq!(vpc.node.routes(254), main);
}

#[test]
fn nothing_is_left_of_a_detached_eni() {
    let vpc = Vpc::new();
    let before = vpc.node.snapshot();
    plug(&vpc);
    set_up(&vpc, &eni(1));
    for name in ["eth1", "eth2"] {
        vpc.fabric.ip(&format!("link del {name}"));
    }

    for _ in 0..2 {
        let outcome = execute(&mut vpc.node.netlink(), &HostAction::RemoveEni(eni(1)));
        assert_eq!(outcome, Outcome::Done(Effect::Done));
    }

    assert_eq!(vpc.node.snapshot(), before);
    assert_eq!(vpc.node.routes(2).len(), 0);
}

#[test]
fn eni_without_a_link_is_a_failure_of_its_own_kind() {
    let vpc = Vpc::new();
    let outcome = execute(&mut vpc.node.netlink(), &HostAction::SetUpEni(eni(1)));
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.kind, FailureKind::LinkMissing);
    assert!(failure.message.contains("02:00:0a:00:00:15"), "{}", failure.message);
}

fn plug(vpc: &Vpc) {
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101"]);
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
}

fn set_up(vpc: &Vpc, eni: &EniLink) {
    let outcome = execute(&mut vpc.node.netlink(), &HostAction::SetUpEni(eni.clone()));
    assert_eq!(outcome, Outcome::Done(Effect::Done));
}
