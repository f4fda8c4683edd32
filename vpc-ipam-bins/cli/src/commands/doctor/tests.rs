//! Each check is driven to each of its verdicts by a planted fault: on a node where nothing is wrong, one thing is made wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

mod node;

use std::collections::BTreeSet;

use serde_json::json;
use vpc_ipam_core::{
    AddressUse, BackoffScope, BlockState, Ec2Operation, FailureKind, FoundLink, LearnedLimit,
    LimitsSource, Mac, Pod, Source, Stage, Timestamp,
};
use vpc_ipam_protocol::{AddressInUse, Permitted, Told};

use self::node::{Node, eni, key, subnet};
use super::CHECKS;
use super::check::Verdict::{self, Failure as Fails, NotChecked, Ok as Fine, Warning as Warns};

/// A fault: the check, what is made wrong, the verdict, and words of the evidence.
type Case = (&'static str, fn(&mut Node), Verdict, &'static str);

const CONFLIST: &str = "/etc/cni/net.d/10-vpc-ipam.conflist";
const ENV: &str = "/etc/vpc-ipam/vpc-ipamd.env";
const KUBELET: &str = "/etc/kubernetes/kubelet/config.json";

const DAEMON: &[Case] = &[
    ("daemon", |_| {}, Fine, "the next pod gets an address"),
    ("daemon", |node| node.status().problems.push("EC2 lists no ENI".into()), Warns, "EC2 lists"),
    ("daemon", |node| node.silent("there is no socket", false), Fails, "there is no socket"),
    ("daemon", |node| node.silent("Permission denied", true), NotChecked, "run this as root"),
    (
        "daemon",
        |node| {
            node.status().ready = false;
            node.inventory().reason = "not ready: the subnet is full".into();
        },
        Fails,
        "not ready: the subnet is full",
    ),
    ("versions", |_| {}, Fine, "vpc-ipamd and vpc-ipam are of version"),
    ("versions", |_| {}, Fine, "/opt/cni/bin/vpc-cni is of version"),
    (
        "versions",
        |node| node.status().version = "0.0.1".into(),
        Warns,
        "vpc-ipamd is of version 0.0.1",
    ),
    ("versions", |node| node.plugin("echo vpc-cni 0.0.1"), Warns, "is of version 0.0.1"),
    ("versions", |node| node.status().protocol = 1, Fails, "speaks version 1 of the protocol"),
    ("versions", |node| node.plugin("echo '{}'; exit 1"), Fails, "tells no version"),
    ("versions", |node| node.remove("/opt/cni/bin/vpc-cni"), NotChecked, "there is no /opt"),
    ("versions", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
];

const EC2: &[Case] = &[
    ("metadata", |_| {}, Fine, "read in 7 ms: i-0123456789abcdef0, m5.large, eu-west-1a"),
    ("metadata", |_| {}, NotChecked, "the hop limit of IMDSv2 cannot be seen"),
    ("metadata", |node| node.metadata().ms = 9_000, Warns, "took 9000 ms"),
    (
        "metadata",
        |node| node.metadata().incomplete.push("02:00:00:00:00:07: subnet-id".into()),
        Warns,
        "only in part: 02:00:00:00:00:07: subnet-id",
    ),
    (
        "metadata",
        |node| node.probe().metadata = Told::Failed("connection refused".into()),
        Fails,
        "no answer: connection refused",
    ),
    ("permissions", |_| {}, Fine, "EC2 allows DescribeSubnets, CreateNetworkInterface"),
    ("permissions", |_| {}, NotChecked, "ec2:AssignPrivateIpAddresses: EC2 has no dry run"),
    (
        "permissions",
        |node| {
            let why = "CreateTags: UnauthorizedOperation: no policy allows it".to_owned();
            node.permit(Ec2Operation::CreateTags, Permitted::No(why));
        },
        Fails,
        "ec2:CreateTags is refused: UnauthorizedOperation: no policy allows it",
    ),
    (
        "permissions",
        |node| {
            let why = "DescribeSubnets: there are no credentials".to_owned();
            node.permit(Ec2Operation::DescribeSubnets, Permitted::No(why));
        },
        Fails,
        "there are no credentials",
    ),
    ("permissions", |node| node.probe().permissions.clear(), NotChecked, "ENABLE_IMDS_ONLY_MODE"),
    ("subnets", |_| {}, Fine, "(10.0.1.0/24) has 200 free addresses"),
    (
        "subnets",
        |node| node.subnets()[0].ipv4_addresses_free = 15,
        Warns,
        "has 15 free addresses left",
    ),
    ("subnets", |node| node.subnets()[0].ipv4_addresses_free = 0, Fails, "has no free address"),
    (
        "subnets",
        |node| node.failed(BackoffScope::SubnetPrefixes(subnet()), FailureKind::NoFreePrefix),
        Warns,
        "no free /28 in subnet-0123456789abcdef0",
    ),
    (
        "subnets",
        |node| node.failed(BackoffScope::SubnetIpv6(subnet()), FailureKind::NoFreePrefix),
        Warns,
        "no free /80 in",
    ),
    ("subnets", |node| node.subnets().clear(), NotChecked, "lists none of the subnets"),
    (
        "subnets",
        |node| node.probe().subnets = Told::Failed("denied".into()),
        NotChecked,
        "no list of them: denied",
    ),
    ("limits", |_| {}, Fine, "m5.large: 3 ENIs with 10 IPv4 addresses, by the built-in table"),
    (
        "limits",
        |node| node.probe().limits.source = LimitsSource::OtherTables,
        Warns,
        "by public tables of other tools",
    ),
    (
        "limits",
        |node| {
            let until = Timestamp::from_secs(9);
            let learned = LearnedLimit::NewEniSlots { most: 4, until };
            node.inventory().explanation.learned.push(learned);
        },
        Warns,
        "EC2 refused what they allow",
    ),
    ("limits", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
    ("max-pods", |_| {}, Fine, "kubelet takes 29 pods (/etc/kubernetes/kubelet/config.json)"),
    ("max-pods", |node| node.write(KUBELET, r#"{"maxPods": 110}"#), Fails, "takes 110 pods"),
    ("max-pods", |node| node.write(KUBELET, "{}"), Fails, "takes 110 pods (kubelet's default)"),
    (
        "max-pods",
        |node| node.process(800, "kubelet", &["kubelet", "--max-pods=58"], ""),
        Fails,
        "takes 58 pods (--max-pods)",
    ),
    (
        "max-pods",
        |node| {
            node.write("/etc/kubernetes/kubelet/config.json.d/40-x.conf", "{\n \"maxPods\" : 234}")
        },
        Fails,
        "takes 234 pods (/etc/kubernetes/kubelet/config.json.d/40-x.conf)",
    ),
    (
        "max-pods",
        |node| {
            node.process(
                800,
                "kubelet",
                &["kubelet", "--config", "/var/lib/kubelet/config.yaml"],
                "",
            );
            node.write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nmaxPods: 70\n");
        },
        Fails,
        "takes 70 pods (/var/lib/kubelet/config.yaml)",
    ),
    ("max-pods", |node| node.probe().pods_max = Some(20), Fails, "for 20 pods (--max-pods)"),
    ("max-pods", |node| node.probe().pods_max = Some(50), Warns, "for 50 pods (--max-pods)"),
    (
        "max-pods",
        |node| {
            node.remove("/proc/800");
            node.remove(KUBELET);
        },
        NotChecked,
        "no kubelet runs",
    ),
];

const SETTINGS: &[Case] = &[
    ("variables", |_| {}, Fine, "1 known variables are set in process 700 and /etc/vpc-ipam"),
    (
        "variables",
        |node| node.write(ENV, "WARM_IP_TARGETS=5\n"),
        Warns,
        "did you mean WARM_IP_TARGET",
    ),
    ("variables", |node| node.write(ENV, "ENABLE_IPV6=true\n"), Warns, "did you mean ENABLE_IPv6"),
    ("variables", |node| node.write(ENV, "ANNOTATE_POD_IP=true\n"), Warns, "without effect"),
    ("variables", |node| node.write(ENV, "WARM_IP_TARGET=five\n"), Warns, "WARM_IP_TARGET"),
    ("variables", |node| node.write(ENV, "export MAX_ENI=3\n"), Warns, "leave \"export\" out"),
    (
        "variables",
        |node| node.process(700, "vpc-ipamd", &["vpc-ipamd"], "WARM_ENI_TARGETS=1\0"),
        Warns,
        "did you mean WARM_ENI_TARGET",
    ),
    (
        "variables",
        |node| {
            node.remove("/proc/700");
            node.remove(ENV);
        },
        NotChecked,
        "no vpc-ipamd runs",
    ),
    ("conflist", |_| {}, Fine, "10-vpc-ipam.conflist is taken: vpc-cni, portmap"),
    (
        "conflist",
        |node| {
            node.write(
                "/etc/cni/net.d/05-cilium.conflist",
                r#"{"plugins":[{"type":"cilium-cni"}]}"#,
            )
        },
        Fails,
        "05-cilium.conflist sorts before 10-vpc-ipam.conflist",
    ),
    (
        "conflist",
        |node| node.write("/etc/cni/net.d/00-old.conf", r#"{"name":"old","type":"bridge"}"#),
        Fails,
        "00-old.conf sorts before",
    ),
    ("conflist", |node| node.remove(CONFLIST), Fails, "no file in /etc/cni/net.d names vpc-cni"),
    (
        "conflist",
        |node| node.remove("/opt/cni/bin/portmap"),
        Fails,
        "there is no /opt/cni/bin/portmap",
    ),
    (
        "conflist",
        |node| node.write(CONFLIST, r#"{"plugins":[{"type":"portmap"},{"type":"vpc-cni"}]}"#),
        Fails,
        "vpc-cni is not the first plugin",
    ),
    (
        "conflist",
        |node| node.write(CONFLIST, r#"{"plugins":[{"type":"vpc-cni","vethPrefix":"ve"}]}"#),
        Fails,
        "vethPrefix \"ve\", the daemon \"eni\"",
    ),
    (
        "conflist",
        |node| {
            node.write(CONFLIST, r#"{"plugins":[{"type":"vpc-cni","socket":"/run/other.sock"}]}"#)
        },
        Warns,
        "has the plugin ask at /run/other.sock",
    ),
    (
        "conflist",
        |node| node.write("/etc/cni/net.d/20-x.conflist", "{"),
        Warns,
        "20-x.conflist is no JSON",
    ),
    (
        "conflist",
        |node| node.write("/etc/cni/net.d/20-x.conf", r#"{"type":"vpc-cni"}"#),
        Warns,
        "20-x.conf names vpc-cni too",
    ),
    (
        "conflist",
        |node| {
            node.write(CONFLIST, r#"{"plugins":[{"type":"ptp","ipam":{"type":"vpc-cni-ipam"}}]}"#);
            node.write("/opt/cni/bin/ptp", "");
        },
        Fails,
        "there is no /opt/cni/bin/vpc-cni-ipam",
    ),
    (
        "conflist",
        |node| {
            node.remove("/etc/cni/net.d");
            node.write("/etc/cni/net.d", "");
        },
        NotChecked,
        "cannot list /etc/cni/net.d",
    ),
];

const FILES: &[Case] = &[
    ("state", |_| {}, Fine, "has room for 1024 MiB"),
    ("state", |_| {}, Fine, "state.redb has 0 KiB, mode 0600, of this boot"),
    ("state", |node| node.boot_at("9999999999"), Fine, "of an earlier boot"),
    ("state", |node| node.room(Some(8), None), Fails, "has room for 8 MiB"),
    ("state", |node| node.room(Some(900), Some(3)), Fails, "3 files"),
    ("state", |node| node.room(Some(40), None), Warns, "has room for 40 MiB"),
    ("state", |node| node.room(None, None), NotChecked, "room for /run/vpc-ipam/state.redb"),
    ("state", |node| node.mode("/run/vpc-ipam/state.redb", 0o644), Warns, "has mode 0644"),
    (
        "state",
        |node| {
            node.remove("/run/vpc-ipam/state.redb");
            node.write("/run/vpc-ipam/state.redb/x", "");
        },
        Fails,
        "is no regular file",
    ),
    (
        "state",
        |node| node.write("/run/vpc-ipam/state.redb.damaged-1700000000", ""),
        Warns,
        "put 1 damaged state files aside",
    ),
    ("state", |node| node.remove("/run/vpc-ipam"), NotChecked, "there is no folder of"),
    ("clock", |_| {}, Fine, "the wall clock goes as the daemon's"),
    ("clock", |node| node.clock(7, true), Warns, "was set forward by 7 s"),
    ("clock", |node| node.clock(60, false), Warns, "was set back by 60 s"),
    ("clock", |node| node.clock(3_000, true), Fails, "EC2 refuses signatures"),
    ("clock", |node| node.clock(3_000, false), Warns, "was written"),
    ("clock", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
];

const SYSTEM: &[Case] = &[
    ("firewall", |_| {}, Fine, "/usr/sbin/nft, and no iptables"),
    ("firewall", |node| node.iptables("legacy"), Fine, "/usr/sbin/iptables of kind legacy"),
    ("firewall", |node| node.iptables("nft"), Fine, "of kind nft"),
    ("firewall", |node| node.remove("/usr/sbin/nft"), Fails, "neither nft nor iptables"),
    (
        "firewall",
        |node| node.write("/proc/net/ip_tables_names", "nat\nfilter\n"),
        Warns,
        "tables in use (nat, filter)",
    ),
    (
        "firewall",
        |node| {
            node.remove("/proc/net/ip_tables_names");
            node.write("/proc/net/ip_tables_names/x", "");
        },
        NotChecked,
        "ip_tables_names",
    ),
    ("rp-filter", |_| {}, Fine, "rp_filter of ens5 is 2, of all links 0"),
    ("rp-filter", |node| node.rp_filter("ens5", "1"), Fails, "rp_filter of ens5 is 1"),
    (
        "rp-filter",
        |node| {
            node.rp_filter("ens5", "0");
            node.rp_filter("all", "1");
        },
        Fails,
        "of all links 1: strict",
    ),
    ("rp-filter", |node| node.rp_filter("all", "1"), Fine, "is 2, of all links 1"),
    ("rp-filter", |node| node.remove("/proc/net/route"), NotChecked, "/proc/net/route"),
    ("rp-filter", |node| node.rp_filter("all", "?"), NotChecked, "is \"?\""),
    ("networkd", |_| {}, Fine, "neither runs nor is enabled"),
    (
        "networkd",
        |node| node.process(300, "systemd-network", &["systemd-networkd"], ""),
        Warns,
        "ManageForeignRoutingPolicyRules is not set, which means yes",
    ),
    (
        "networkd",
        |node| node.networkd("ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"),
        Fine,
        "leaves routes, rules and links of pods alone",
    ),
    (
        "networkd",
        |node| node.networkd("ManageForeignRoutes=no\n"),
        Warns,
        "starts: ManageForeignRoutingPolicyRules",
    ),
    (
        "networkd",
        |node| {
            node.networkd("ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n");
            // A later drop-in counts.
            node.write(
                "/usr/lib/systemd/networkd.conf.d/90-x.conf",
                "[Network]\nManageForeignRoutes=yes\n",
            );
        },
        Warns,
        "ManageForeignRoutes=yes in /usr/lib/systemd/networkd.conf.d/90-x.conf",
    ),
    (
        "networkd",
        |node| {
            node.networkd("ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n");
            node.write(
                "/etc/systemd/network/10-x.network",
                "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
            );
        },
        Warns,
        "10-x.network matches links of pods (eni0a1b2c3d4e5)",
    ),
    (
        "networkd",
        |node| {
            node.networkd("ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n");
            node.write(
                "/etc/systemd/network/10-x.network",
                "[Match]\nDriver=ena\n[Network]\nDHCP=yes\n",
            );
        },
        Fine,
        "leaves routes, rules",
    ),
    ("networkd", |node| node.remove("/proc"), NotChecked, "no processes can be listed"),
    ("network-manager", |_| {}, Fine, "neither runs nor is enabled"),
    (
        "network-manager",
        |node| node.process(301, "NetworkManager", &["NetworkManager"], ""),
        Warns,
        "NetworkManager manages links of pods",
    ),
    (
        "network-manager",
        |node| {
            node.process(301, "NetworkManager", &["NetworkManager"], "");
            let text = "[keyfile]\nunmanaged-devices=interface-name:docker0;interface-name:eni*\n";
            node.write("/etc/NetworkManager/conf.d/x.conf", text);
        },
        Fine,
        "leaves links of pods alone, by /etc/NetworkManager/conf.d/x.conf",
    ),
    ("network-manager", |node| node.remove("/proc"), NotChecked, "no processes can be listed"),
    ("mac-policy", |_| {}, Fine, "no .link file is about links of pods"),
    (
        "mac-policy",
        |node| {
            node.link_file(
                "/usr/lib",
                "99-default",
                "OriginalName=*",
                "MACAddressPolicy=persistent",
            )
        },
        Warns,
        "MACAddressPolicy=persistent",
    ),
    (
        "mac-policy",
        |node| {
            node.link_file(
                "/usr/lib",
                "99-default",
                "OriginalName=*",
                "MACAddressPolicy=persistent",
            );
            node.link_file("/etc", "00-vpc-ipam", "OriginalName=eni*", "MACAddressPolicy=none");
        },
        Fine,
        "00-vpc-ipam.link has MACAddressPolicy=none",
    ),
    (
        "mac-policy",
        |node| {
            node.link_file(
                "/usr/lib",
                "99-default",
                "OriginalName=*",
                "MACAddressPolicy=persistent",
            );
            node.link_file("/etc", "99-default", "OriginalName=*", "NamePolicy=keep");
        },
        Fine,
        "sets no MAC address",
    ),
    (
        "mac-policy",
        |node| node.link_file("/etc", "10-x", "Driver=veth", "MACAddress=02:00:00:00:00:01"),
        Fails,
        "the address 02:00:00:00:00:01: all the same",
    ),
    (
        "mac-policy",
        |node| {
            node.link_file(
                "/etc",
                "10-x",
                "MACAddress=02:00:00:00:00:01",
                "MACAddressPolicy=random",
            )
        },
        Fine,
        "no .link file",
    ),
    (
        "mac-policy",
        |node| node.write("/etc/systemd/network/10-x.link/x", ""),
        NotChecked,
        "10-x.link: is no regular file",
    ),
];

const NETWORK: &[Case] = &[
    ("enis", |_| {}, Fine, "1 ENIs with their links, 1 of them managed"),
    ("enis", |node| node.inventory().enis[0].stage = Stage::Attached, Warns, "not set up yet"),
    (
        "enis",
        |node| {
            node.inventory().enis[0].stage = Stage::Attached;
            node.failed(BackoffScope::SetUp(eni()), FailureKind::LinkMissing);
        },
        Fails,
        "its link is not set up: as planted",
    ),
    ("enis", |node| node.inventory().enis.clear(), Fails, "knows no ENI of the instance"),
    ("enis", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
    ("untracked", |_| {}, Fine, "all 1 addresses are tracked"),
    (
        "untracked",
        |node| {
            let address = "10.0.1.7".parse().unwrap();
            let used = AddressInUse { address, used: AddressUse::Untracked, pod: None };
            node.inventory().enis[0].blocks[0].in_use.push(used);
        },
        Warns,
        "untracked owners use 10.0.1.7",
    ),
    (
        "untracked",
        |node| {
            let since = Timestamp::from_secs(9);
            node.inventory().enis[0].blocks[0].state =
                BlockState::Suspect { since, by: Source::Ec2 };
        },
        Warns,
        "no pod gets addresses of 10.0.1.7/32",
    ),
    ("untracked", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
    ("pods", |_| {}, Fine, "1 pods have their addresses, none waits"),
    (
        "pods",
        |node| {
            let pod = Pod::new("default", "b");
            let waiting = json!({"key": key("b"), "pod": pod, "deadline": 0});
            let waiting = serde_json::from_value(waiting).unwrap();
            node.inventory().explanation.waiting.push(waiting);
        },
        Fails,
        "1 pods wait for an address: aws-cni/b/eth0",
    ),
    ("pods", |node| node.result("aws-cni", "a"), Fine, "none waits"),
    ("pods", |node| node.result("podman", "z"), Fine, "none waits"),
    ("pods", |node| node.result("aws-cni", "z"), Warns, "have no lease: aws-cni/z/eth0"),
    ("pods", |node| node.silent("no daemon", false), NotChecked, "no daemon"),
    ("leases", |_| {}, Fine, "1 leases, each with its links and namespace"),
    (
        "leases",
        |node| node.write("/proc/net/dev", "a\nb\n lo: 0\n"),
        Fails,
        "default/a (aws-cni/a/eth0)",
    ),
    (
        "leases",
        |node| node.remove("/run/netns/a"),
        Warns,
        "no namespace /run/netns/a: DEL was lost",
    ),
    (
        "leases",
        |node| {
            node.remove("/run/netns/a");
            node.write("/proc/net/dev", "a\nb\n lo: 0\n");
        },
        Warns,
        "no namespace /run/netns/a, nor a link eni",
    ),
    (
        "leases",
        |node| {
            node.leases()[0].addresses_only = true;
            node.write("/proc/net/dev", "a\nb\n lo: 0\n");
        },
        Fine,
        "1 leases",
    ),
    (
        "leases",
        |node| {
            node.leases()[0].found = vec![FoundLink::new("eni0123456789a", Mac([2; 6]))];
            node.write("/proc/net/dev", "a\nb\n lo: 0\n eni0123456789a: 0\n");
        },
        Fine,
        "1 leases",
    ),
    (
        "leases",
        |node| node.leases()[0].found = vec![FoundLink::new("eni0123456789a", Mac([2; 6]))],
        Fails,
        "no link eni0123456789a in this network namespace",
    ),
    ("leases", |node| node.remove("/proc/net/dev"), NotChecked, "there is no /proc/net/dev"),
    ("network", |_| {}, Fine, "the node's network is as it should be"),
    ("network", |node| node.net().differences.push("rule 512".into()), Warns, "differs: rule 512"),
    ("network", |node| node.net().spoofed = Some(4), Warns, "4 packets of pods were dropped"),
    ("network", |node| node.net().beyond.push("link enix".into()), Fails, "from here: link enix"),
    ("network", |node| node.net().conflicts.push("conflict: rule 9".into()), Fails, "rule 9"),
    ("network", |node| node.net().not_told.push("iptables is busy".into()), NotChecked, "busy"),
    ("rivals", |_| {}, Fine, "none of 3 processes is another plugin's daemon"),
    (
        "rivals",
        |node| node.process(900, "aws-k8s-agent", &["./aws-k8s-agent"], ""),
        Fails,
        "amazon-vpc-cni-k8s runs (process 900)",
    ),
    (
        "rivals",
        |node| node.process(701, "vpc-ipamd", &["vpc-ipamd"], ""),
        Fails,
        "2 vpc-ipamd run: processes 700, 701",
    ),
    ("rivals", |node| node.process(900, "flanneld", &["flanneld"], ""), Warns, "Flannel runs"),
    ("rivals", |node| node.remove("/proc"), NotChecked, "no processes can be listed"),
];

fn cases() -> impl Iterator<Item = &'static Case> {
    [DAEMON, EC2, SETTINGS, FILES, SYSTEM, NETWORK].into_iter().flatten()
}

#[test]
fn each_planted_fault_is_found_and_has_a_remedy() {
    for (name, plant, verdict, words) in cases() {
        let mut node = Node::healthy();
        plant(&mut node);
        let check = CHECKS.iter().find(|check| check.name == *name).unwrap();
        let findings = (check.run)(&node.facts());
        let found =
            findings.iter().find(|it| it.verdict == *verdict && it.evidence.contains(words));
        let found =
            found.unwrap_or_else(|| panic!("{name}: no {verdict} {words:?} in {findings:#?}"));
        let needs = matches!(verdict, Warns | Fails);
        assert!(!needs || found.remedy.as_deref().is_some_and(|text| text.len() > 10), "{found:?}");
    }
}

#[test]
fn each_check_is_driven_to_each_of_its_verdicts() {
    for check in &CHECKS {
        let reached: BTreeSet<Verdict> =
            cases().filter(|case| case.0 == check.name).map(|case| case.2).collect();
        let declared: BTreeSet<Verdict> = check.verdicts.iter().copied().collect();
        assert_eq!(reached, declared, "{}", check.name);
    }
}

#[test]
fn node_where_nothing_is_wrong_has_neither_warnings_nor_failures() {
    let facts = Node::healthy().facts();
    for check in &CHECKS {
        let findings = (check.run)(&facts);
        assert!(!findings.is_empty(), "{}", check.name);
        for finding in findings {
            assert!(finding.verdict < Warns, "{}: {finding:?}", check.name);
            assert!(check.verdicts.contains(&finding.verdict), "{}: {finding:?}", check.name);
        }
    }
}

#[test]
fn node_of_which_nothing_is_there_is_checked_all_the_same() {
    let mut node = Node::empty();
    node.silent("there is no socket", false);
    let facts = node.facts();
    for check in &CHECKS {
        assert!(!(check.run)(&facts).is_empty(), "{}", check.name);
    }
}

#[test]
fn documentation_has_a_row_for_each_check_in_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/doctor.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(rows, CHECKS.map(|check| check.name));
}

#[test]
fn refusals_for_the_clock_name_the_clock() {
    let mut node = Node::healthy();
    let why = "CreateTags: RequestExpired: Request has expired.".to_owned();
    node.permit(Ec2Operation::CreateTags, Permitted::No(why));
    let findings = (super::permissions::CHECK.run)(&node.facts());
    let refused = findings.iter().find(|it| it.verdict == Fails).unwrap();
    assert!(refused.remedy.as_deref().unwrap().starts_with("set the clock"), "{refused:?}");
}
