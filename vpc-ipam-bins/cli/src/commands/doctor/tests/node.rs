//! A node of files under a folder and of answers, in which a test plants a fault.

use core::cell::RefCell;
use core::time::Duration;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tempfile::TempDir;
use vpc_ipam_core::{
    BackoffScope, BlockState, Budget, Card, Config, DeviceIndex, Ec2Operation, EniId, Explanation,
    Failure, FailureKind, InterfaceType, Ipam, Lease, LeasedInterface, Limits, LimitsSource,
    Management, Node as Instance, ObservedSubnet, Pod, PodKey, Stage, SubnetId, Timestamp,
};
use vpc_ipam_linux::pod::host_links;
use vpc_ipam_protocol::{
    Answer, BlockInventory, EniInventory, Inventory, LimitsTold, MetadataTold, NetReport, PROTOCOL,
    Permission, Permitted, PodSandbox, Probe, Request, SOCKET, Status, Told,
};

use super::super::facts::{Facts, Room, Unanswered};

const SECOND: Timestamp = Timestamp::from_secs(1_700_000_000);

pub(super) fn subnet() -> SubnetId {
    "subnet-0123456789abcdef0".parse().unwrap()
}

pub(super) fn eni() -> EniId {
    "eni-0123456789abcdef0".parse().unwrap()
}

pub(super) fn key(container: &str) -> PodKey {
    PodKey::new("aws-cni", container, "eth0").unwrap()
}

thread_local! {
    /// What a file system has room for; each test has a thread of its own.
    static ROOM: RefCell<Option<Room>> = const { RefCell::new(None) };
}

fn room(_: &Path) -> io::Result<Room> {
    ROOM.with_borrow(|room| room.ok_or_else(|| io::Error::other("planted")))
}

/// The node.
pub(super) struct Node {
    root: TempDir,
    status: Status,
    inventory: Inventory,
    leases: Vec<Lease>,
    net: NetReport,
    probe: Probe,
    silent: Option<Unanswered>,
    now: SystemTime,
}

impl Node {
    /// A node without a file.
    pub(super) fn empty() -> Self {
        let now = SystemTime::now();
        let mut node = Self {
            root: tempfile::tempdir().unwrap(),
            status: status(),
            inventory: inventory(),
            leases: vec![lease()],
            net: NetReport::default(),
            probe: probe(Timestamp::EPOCH + now.duration_since(UNIX_EPOCH).unwrap()),
            silent: None,
            now,
        };
        node.room(Some(1024), None);
        node
    }

    /// A node where nothing is wrong.
    pub(super) fn healthy() -> Self {
        let mut node = Self::empty();
        node.process(1, "systemd", &["/sbin/init"], "");
        let daemon = ["vpc-ipamd", "--env-file", "/etc/vpc-ipam/vpc-ipamd.env"];
        node.process(700, "vpc-ipamd", &daemon, "PATH=/bin\0");
        let config = "/etc/kubernetes/kubelet/config.json";
        node.process(800, "kubelet", &["kubelet", "--config", config], "");
        node.write(config, "{\n  \"kind\": \"KubeletConfiguration\",\n  \"maxPods\": 29\n}\n");
        node.write("/etc/vpc-ipam/vpc-ipamd.env", "WARM_IP_TARGET=5\n");
        let plugins = json!([{"type": "vpc-cni"}, {"type": "portmap"}]);
        let conflist = json!({"cniVersion": "1.0.0", "name": "aws-cni", "plugins": plugins});
        node.write("/etc/cni/net.d/10-vpc-ipam.conflist", &conflist.to_string());
        node.plugin(concat!("echo vpc-cni ", env!("CARGO_PKG_VERSION")));
        node.write("/opt/cni/bin/portmap", "");
        node.write("/usr/sbin/nft", "");
        node.write("/proc/net/ip_tables_names", "");
        let route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     ens5\t00000000\t0101000A\t0003\t0\t0\t512\t00000000\n\
                     ens6\t00000000\t0101000A\t0003\t0\t0\t1024\t00000000\n";
        node.write("/proc/net/route", route);
        node.rp_filter("all", "0");
        node.rp_filter("ens5", "2");
        let link = host_links(&lease().pod, 1, &"eni".parse().unwrap()).next().unwrap();
        node.write("/proc/net/dev", &format!("Inter-|\n face |\n    lo: 0 0\n{link}: 0 0\n"));
        node.boot_at("1000");
        node.write("/run/netns/a", "");
        node.write("/run/vpc-ipam/state.redb", "state");
        node.mode("/run/vpc-ipam/state.redb", 0o600);
        node
    }

    /// Returns what checks see of it.
    pub(super) fn facts(self) -> Facts {
        let Self { root, status, inventory, leases, net, probe, silent, now } = self;
        let path = root.path().to_owned();
        let ask = move |request: &Request| {
            // As long as it is asked its files are there.
            let _root = &root;
            if let Some(silent) = &silent {
                return Err(silent.clone());
            }
            Ok(match request {
                Request::Status => Answer::Status(status.clone()),
                Request::Inventory => Answer::Inventory(Box::new(inventory.clone())),
                Request::Leases { .. } => Answer::Leases(leases.clone()),
                Request::NetDiff => Answer::Net(net.clone()),
                Request::Probe => Answer::Probe(Box::new(probe.clone())),
                other => panic!("a check asks {other:?}"),
            })
        };
        let mut facts = Facts::with(&path, Path::new(SOCKET), Box::new(ask));
        (facts.now, facts.room) = (now, room);
        facts
    }

    pub(super) fn status(&mut self) -> &mut Status {
        &mut self.status
    }

    pub(super) fn inventory(&mut self) -> &mut Inventory {
        &mut self.inventory
    }

    pub(super) fn leases(&mut self) -> &mut Vec<Lease> {
        &mut self.leases
    }

    pub(super) fn net(&mut self) -> &mut NetReport {
        &mut self.net
    }

    pub(super) fn probe(&mut self) -> &mut Probe {
        &mut self.probe
    }

    pub(super) fn metadata(&mut self) -> &mut MetadataTold {
        match &mut self.probe.metadata {
            Told::Told(metadata) => metadata,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn subnets(&mut self) -> &mut Vec<ObservedSubnet> {
        match &mut self.probe.subnets {
            Told::Told(subnets) => subnets,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing answers any more.
    pub(super) fn silent(&mut self, why: &str, denied: bool) {
        self.silent = Some(Unanswered { why: why.to_owned(), denied });
    }

    pub(super) fn permit(&mut self, operation: Ec2Operation, permitted: Permitted) {
        self.probe.permissions.push(Permission { operation, permitted });
    }

    /// Something fails for a while.
    pub(super) fn failed(&mut self, scope: BackoffScope, kind: FailureKind) {
        let last = Failure::new(kind, "as planted");
        let failed = json!({"culprit": scope, "last": last, "in_a_row": 1, "since": 0, "until": 9});
        let failed = serde_json::from_value(failed).unwrap();
        self.inventory.explanation.failed.push(failed);
    }

    /// The wall clock was set since the daemon started.
    pub(super) fn clock(&mut self, seconds: u64, forward: bool) {
        let step = Duration::from_secs(seconds);
        self.now = if forward { self.now + step } else { self.now - step };
    }

    pub(super) fn room(&mut self, mib: Option<u64>, files: Option<u64>) {
        let room = mib.map(|mib| Room { bytes: mib << 20, files });
        ROOM.with_borrow_mut(|planted| *planted = room);
    }

    pub(super) fn write(&mut self, path: &str, text: &str) {
        let at = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    pub(super) fn remove(&mut self, path: &str) {
        let at = self.root.path().join(path.trim_start_matches('/'));
        if at.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }.unwrap();
    }

    pub(super) fn mode(&mut self, path: &str, mode: u32) {
        let at = self.root.path().join(path.trim_start_matches('/'));
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(super) fn process(&mut self, pid: u32, name: &str, arguments: &[&str], environ: &str) {
        self.write(&format!("/proc/{pid}/comm"), &format!("{name}\n"));
        let arguments: String = arguments.iter().map(|it| format!("{it}\0")).collect();
        self.write(&format!("/proc/{pid}/cmdline"), &arguments);
        self.write(&format!("/proc/{pid}/environ"), environ);
    }

    /// Plants a plugin that runs this. A process of its own writes it: the system starts no file that this one has open.
    pub(super) fn plugin(&mut self, script: &str) {
        let path = "/opt/cni/bin/vpc-cni";
        self.write("/opt/cni/bin/.folder", "");
        let at = self.root.path().join(path.trim_start_matches('/'));
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 0755 \"$0\"";
        let status = Command::new("sh").arg("-c").arg(write).arg(at).arg(script).status().unwrap();
        assert!(status.success());
    }

    pub(super) fn boot_at(&mut self, seconds: &str) {
        self.write("/proc/stat", &format!("cpu 1 2\nbtime {seconds}\n"));
    }

    pub(super) fn rp_filter(&mut self, link: &str, value: &str) {
        self.write(&format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), &format!("{value}\n"));
    }

    /// systemd-networkd runs with these settings.
    pub(super) fn networkd(&mut self, settings: &str) {
        self.process(300, "systemd-network", &["systemd-networkd"], "");
        let text = format!("# ManageForeignRoutes=yes\n[Network]\n{settings}");
        self.write("/etc/systemd/networkd.conf.d/10-x.conf", &text);
    }

    pub(super) fn link_file(&mut self, base: &str, name: &str, matches: &str, link: &str) {
        let text = format!("[Match]\n{matches}\n\n[Link]\n{link}\n");
        self.write(&format!("{base}/systemd/network/{name}.link"), &text);
    }

    /// iptables of a kind, as update-alternatives of Debian links it.
    pub(super) fn iptables(&mut self, kind: &str) {
        self.write("/etc/alternatives/.folder", "");
        let at = |path: &str| self.root.path().join(path);
        symlink("/etc/alternatives/iptables", at("usr/sbin/iptables")).unwrap();
        symlink(format!("/usr/sbin/iptables-{kind}"), at("etc/alternatives/iptables")).unwrap();
    }

    /// The runtime keeps the result of an ADD.
    pub(super) fn result(&mut self, network: &str, container: &str) {
        let result = json!({
            "kind": "cniCacheV1", "networkName": network, "containerId": container, "ifName": "eth0",
        });
        let path = format!("/var/lib/cni/results/{network}-{container}-eth0");
        self.write(&path, &result.to_string());
    }
}

fn status() -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        ready: true,
        instance: "i-0123456789abcdef0".to_owned(),
        instance_type: "m5.large".to_owned(),
        enis: Vec::new(),
        waiting: 0,
        blocked: Vec::new(),
        repairs: 0,
        repaired: 0,
        problems: Vec::new(),
    }
}

fn instance() -> Instance {
    Instance::new(
        "i-0123456789abcdef0".parse().unwrap(),
        "m5.large".parse().unwrap(),
        "eu-west-1a".parse().unwrap(),
        "vpc-0123456789abcdef0".parse().unwrap(),
        eni(),
        subnet(),
    )
}

fn explanation() -> Explanation {
    let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
    let ipam = Ipam::new(instance(), limits, Config::default(), Budget::default(), 1, SECOND);
    ipam.unwrap().explain(SECOND)
}

fn inventory() -> Inventory {
    let block = BlockInventory {
        net: "10.0.1.7/32".parse().unwrap(),
        state: BlockState::Confirmed,
        capacity: 1,
        in_use: Vec::new(),
    };
    let primary = EniInventory {
        id: eni(),
        card: Card(0),
        device: DeviceIndex(0),
        primary: true,
        interface_type: InterfaceType::Interface,
        stage: Stage::Ready,
        management: Management::Managed,
        excluded: false,
        subnet: subnet(),
        route_table: 254,
        blocks: vec![block],
    };
    Inventory {
        ready: true,
        reason: "ready".to_owned(),
        problems: Vec::new(),
        zone: "eu-west-1a".parse().unwrap(),
        explanation: explanation(),
        enis: vec![primary],
        enis_max: 3,
        addresses_max: 27,
        calls_left: Default::default(),
        repairs: 0,
        repaired: 0,
        settings: [
            ("AWS_VPC_K8S_CNI_VETHPREFIX".to_owned(), json!("eni")),
            ("ENABLE_IPv4".to_owned(), json!(true)),
        ]
        .into(),
    }
}

fn lease() -> Lease {
    let mac = "02:00:00:00:00:01".parse().unwrap();
    let first = LeasedInterface::new(eni(), mac, Card(0), DeviceIndex(0));
    Lease::new(key("a"), Pod::new("default", "a"), SECOND, first)
}

fn probe(now: Timestamp) -> Probe {
    let node = instance();
    let cidr = "10.0.1.0/24".parse().unwrap();
    let mut shown = ObservedSubnet::new(subnet(), node.vpc, node.zone, cidr);
    shown.ipv4_addresses_free = 200;
    let permission = |operation, permitted| Permission { operation, permitted };
    Probe {
        now,
        metadata: Told::Told(MetadataTold {
            instance: node.instance,
            instance_type: node.instance_type,
            zone: node.zone,
            subnet: subnet(),
            incomplete: Vec::new(),
            ms: 7,
        }),
        permissions: vec![
            permission(Ec2Operation::DescribeSubnets, Permitted::Yes),
            permission(Ec2Operation::CreateNetworkInterface, Permitted::Yes),
            permission(
                Ec2Operation::AssignPrivateIpAddresses,
                Permitted::Unknown("EC2 has no dry run of it".to_owned()),
            ),
        ],
        subnets: Told::Told(vec![shown]),
        limits: LimitsTold {
            instance_type: node.instance_type,
            source: LimitsSource::Table,
            enis: 3,
            ipv4_per_eni: 10,
        },
        pods_max: None,
        state: "/run/vpc-ipam/state.redb".into(),
        sandboxes: vec![PodSandbox {
            key: key("a"),
            pod: Pod::new("default", "a"),
            path: Some("/run/netns/a".into()),
        }],
    }
}
