//! The decision vectors: what amazon-vpc-cni-k8s, its documents and its tests say should happen, held against what we do.
//!
//! Every `*.csv` in the folder named by `VPC_IPAM_VECTORS` is read (default: `tests/vectors`); the comment lines in the
//! file explain the columns. Where we do otherwise on purpose, [`Deviation`] says so, by a rule that looks at what the
//! row is about, never at its id.
#![allow(clippy::unwrap_used, reason = "a malformed row should stop the test where it is read")]
#![allow(clippy::disallowed_methods, reason = "the folder of the vectors is named by a variable")]

use core::fmt;
use core::time::Duration;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use vpc_ipam_core::sim::{
    Cloud, CreateInterface, CreateSubnet, Ipv4Request, NetworkInterface, RunInstance, World,
};
use vpc_ipam_core::testkit::{lease, leased};
use vpc_ipam_core::{
    Action, AttachNetworkInterface, Card, CardChoice, Config, Cooling, Demand, DeviceIndex,
    Ec2Action, EniConfig, EniId, Failure, FailureKind, HostAction, Hypervisor, InterfaceType,
    Ipv4Amount, Ipv4Kind, Issued, Limits, Observation, Outcome, PodKey, Record, Scope, Source,
    Stage, SubnetId, Timestamp, WarmTarget,
};

#[test]
fn machine_shaped_rows_hold_or_deviate_by_rule() {
    let rows = rows();
    let mut failed = Vec::new();
    let mut used = BTreeSet::new();
    let mut checked = 0;
    for row in &rows {
        let result = match row.kind.as_str() {
            "converge" => converge(row),
            "step" => step(row),
            "free_eni" => free_eni(row),
            "target_state" => target_state(row),
            _ => continue,
        };
        checked += 1;
        match result {
            Ok(None) => {}
            Ok(Some(deviation)) => {
                used.insert(deviation);
            }
            Err(difference) => failed.push(format!("{} ({}): {difference}", row.id, row.r#ref)),
        }
    }
    assert!(checked > 0, "no machine-shaped row among {} rows", rows.len());
    assert!(failed.is_empty(), "{} of {checked} rows:\n{}", failed.len(), failed.join("\n"));
    // Rows from elsewhere need not be about everything.
    let own = std::env::var_os("VPC_IPAM_VECTORS").is_none();
    for deviation in Deviation::ALL.into_iter().filter(|_| own) {
        assert!(used.contains(&deviation), "no row needs {deviation:?} any more: remove it");
    }
    println!("{checked} rows checked, deviations used: {used:?}");
}

/// The rows that are no situations of a pool are held by tables in other tests, which name them.
#[test]
fn every_other_row_is_named_by_the_test_that_holds_it() {
    // What there is no part of this crate for.
    let elsewhere = [
        ("V241 to V245", "the sweep of other nodes' leftovers is not a decision about one node"),
        ("V267", "a release that cannot be written is the daemon's to repeat"),
        ("V478 to V481", "nothing is polled every few seconds: a timeout names what is due"),
        ("V498", "what amazon-vpc-cni-k8s of 2020 did not consider yet"),
    ];
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for folder in ["src", "tests"] {
        for file in sources(&crate_folder.join(folder)) {
            if !file.ends_with("tests/vectors.rs") {
                named.extend(ids(&std::fs::read_to_string(file).unwrap()));
            }
        }
    }
    named.extend(elsewhere.iter().flat_map(|(rows, _)| ids(rows)));
    let machine = ["converge", "step", "free_eni", "target_state"];
    let own = crate_folder.join("tests/vectors");
    let rows = rows_of(&own).into_iter().filter(|row| !machine.contains(&row.kind.as_str()));
    let unnamed: Vec<String> = rows.map(|row| row.id).filter(|id| !named.contains(id)).collect();
    assert_eq!(unnamed, [""; 0], "no test names these rows");
}

/// Returns the Rust files of a folder and of those in it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the ids of rows that a text names, as `V017` or `V017 to V023`.
fn ids(text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut range_from = None;
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    for word in words {
        let number = word.strip_prefix('V').filter(|digits| digits.len() == 3);
        match (number.and_then(|digits| digits.parse::<u32>().ok()), range_from) {
            (Some(last), Some((first, true))) => {
                ids.extend((first..=last).map(|n| format!("V{n:03}")));
                range_from = None;
            }
            (Some(number), _) => {
                ids.insert(format!("V{number:03}"));
                range_from = Some((number, false));
            }
            (None, Some((first, false))) if word == "to" => range_from = Some((first, true)),
            (None, _) => range_from = None,
        }
    }
    ids
}

/// What we do otherwise than amazon-vpc-cni-k8s, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deviation {
    /// A cooling address is never released; amazon-vpc-cni-k8s releases it, and another node may get it at once.
    CoolingIsKept,
    /// Where amazon-vpc-cni-k8s asks for a unit and releases it for ever, we keep it: what would have to be asked for again is
    /// not released.
    Settles,
    /// The whole shortage, and the whole surplus, is planned at once; amazon-vpc-cni-k8s does one thing a tick.
    WholeShortage,
    /// No more addresses are held than the node may run pods, rounded up to whole prefixes; amazon-vpc-cni-k8s overshoots by up to
    /// one allocation.
    MaxPods,
    /// A pod that waits is demand, also beyond MINIMUM_IP_TARGET; in amazon-vpc-cni-k8s it waits for ever.
    WaitingIsDemand,
    /// After EC2 refused, that subnet or operation is left alone for a while; amazon-vpc-cni-k8s calls again at once for one address.
    BacksOff,
    /// WARM_PREFIX_TARGET has no effect beside WARM_IP_TARGET; in amazon-vpc-cni-k8s it goes on blocking the freeing of ENIs.
    OverriddenTarget,
    /// Prefixes of ENIs that are out of use are no surplus; in amazon-vpc-cni-k8s they are (its bug 4).
    ExcludedIsNoSurplus,
    /// An idle ENI that is out of use goes, whatever the target says.
    ExcludedIsFreed,
}

impl Deviation {
    const ALL: [Self; 9] = [
        Self::CoolingIsKept,
        Self::Settles,
        Self::WholeShortage,
        Self::MaxPods,
        Self::WaitingIsDemand,
        Self::BacksOff,
        Self::OverriddenTarget,
        Self::ExcludedIsNoSurplus,
        Self::ExcludedIsFreed,
    ];
}

/// A row, with text where a cell may be empty.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    id: String,
    r#ref: String,
    kind: String,
    instance_type: String,
    eni_limit: String,
    slots_per_eni: String,
    mode: String,
    warm_eni: String,
    warm_ip: String,
    min_ip: String,
    warm_prefix: String,
    max_eni: String,
    max_pods: String,
    options: String,
    pods: String,
    enis_in: String,
    exp_low: String,
    exp_high: String,
    exp_short: String,
    exp_over: String,
    exp_action: String,
    exp_enis: String,
    exp_cidrs: String,
    exp_ips: String,
    exp_free_ips: String,
    exp_dist: String,
    peer_ec2_calls: String,
    note: String,
}

impl Row {
    fn slots(&self) -> u16 {
        self.slots_per_eni.parse().unwrap()
    }

    fn prefixes(&self) -> bool {
        self.mode == "pd"
    }

    fn options(&self) -> impl Iterator<Item = &str> {
        self.options.split(';').filter(|option| !option.is_empty())
    }

    fn has(&self, option: &str) -> bool {
        self.options().any(|o| o == option)
    }

    fn number_of(&self, option: &str) -> Option<u64> {
        let value = self.options().find_map(|o| o.strip_prefix(option)?.strip_prefix('='))?;
        Some(value.parse().unwrap())
    }

    /// Returns what EC2 answers to calls about one ENI, or to creations.
    fn fails(&self, what: &str) -> Option<FailureKind> {
        let prefix = format!("ec2fail({what})=");
        let code = self.options().find_map(|option| option.strip_prefix(&prefix))?;
        Some(FailureKind::of_ec2_error(code, ""))
    }

    fn enis(&self) -> Vec<EniIn> {
        if self.enis_in.starts_with('(') {
            return Vec::new();
        }
        let mut enis: Vec<EniIn> = self.enis_in.split_whitespace().map(EniIn::parse).collect();
        // Some rows, from amazon-vpc-cni-k8s' tests, call every ENI a primary one; a node has one.
        for eni in enis.iter_mut().filter(|eni| eni.primary).skip(1) {
            eni.primary = false;
        }
        enis
    }

    fn has_enis(&self) -> bool {
        !self.enis_in.starts_with('(')
    }

    /// The card that the row is about.
    fn card(&self) -> Card {
        Card(u8::try_from(self.number_of("network_card").unwrap_or(0)).unwrap())
    }

    fn config(&self) -> Config {
        let mut vars = vec![("ENABLE_SUBNET_DISCOVERY", "false".to_string())];
        let targets = [
            ("WARM_ENI_TARGET", &self.warm_eni),
            ("WARM_IP_TARGET", &self.warm_ip),
            ("MINIMUM_IP_TARGET", &self.min_ip),
            ("WARM_PREFIX_TARGET", &self.warm_prefix),
            ("MAX_ENI", &self.max_eni),
        ];
        for (name, value) in targets {
            if value != "-" {
                vars.push((name, value.clone()));
            }
        }
        let mut on = |name, on: bool| {
            if on {
                vars.push((name, "true".to_string()));
            }
        };
        let excluded_primary = self.enis().iter().any(|eni| eni.primary && eni.excluded);
        on("ENABLE_PREFIX_DELEGATION", self.prefixes());
        on("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", self.has("custom_net") || !self.has_enis());
        on("ENABLE_POD_ENI", self.has("pod_eni"));
        on("ENABLE_MULTI_NIC", self.card() != Card(0));
        on("AWS_MANAGE_ENIS_NON_SCHEDULABLE", self.has("manage_nonsched"));
        on("ENABLE_SUBNET_DISCOVERY", self.has("subnet_discovery") || excluded_primary);
        let (mut config, _) = Config::from_vars(vars);
        config.cooling = Cooling::All;
        config.pods_max = self.max_pods.parse().ok();
        config
    }

    fn limits(&self) -> Limits {
        let enis: u8 = self.eni_limit.parse().unwrap();
        let name = if self.instance_type == "-" { "test.type" } else { &self.instance_type };
        Limits::new(
            name.parse().unwrap(),
            vec![enis; usize::from(self.card().0) + 1].into(),
            self.slots() + 1,
        )
        .with_default_card(Card(0))
        .with_ipv6_per_eni(self.slots() + 1)
        .with_hypervisor(Hypervisor::Nitro)
        .with_bare_metal(false)
        .with_vcpus(2)
        .with_memory_mib(4096)
        .with_branch_enis(self.has("no_trunk_support").then_some(0))
    }
}

/// An ENI of the column `enis_in`.
#[derive(Clone, Debug, Default)]
struct EniIn {
    name: String,
    primary: bool,
    trunk: bool,
    efa: bool,
    excluded: bool,
    age: Option<u64>,
    /// Addresses in all, assigned, cooling; in the mode of single addresses, or left over in the other.
    addresses: (u16, u16, u16),
    /// How many addresses of each prefix are assigned.
    prefixes: Vec<u16>,
}

impl EniIn {
    /// Reads `<name>:<P|S>[:flags][@age]=<body>`.
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once('=').unwrap();
        let (head, age) = match head.split_once('@') {
            Some((head, age)) => (head, Some(age.parse().unwrap())),
            None => (head, None),
        };
        let mut parts = head.split(':');
        let name = parts.next().unwrap().to_string();
        let primary = parts.next().unwrap() == "P";
        let flags = parts.next().unwrap_or_default();
        let mut eni = Self {
            name,
            primary,
            trunk: flags.contains('T'),
            efa: flags.contains('F'),
            excluded: flags.contains('X'),
            age,
            ..Self::default()
        };
        for kind in body.split('|') {
            if kind.contains('/') {
                let mut numbers = kind.split('/').map(|n| n.parse::<u16>().unwrap());
                let mut next = || numbers.next().unwrap_or(0);
                eni.addresses = (next(), next(), next());
            } else if kind != "-" {
                eni.prefixes = kind.split('+').map(|n| n.parse().unwrap()).collect();
            }
        }
        eni
    }

    fn assigned(&self) -> u16 {
        self.addresses.1 + self.prefixes.iter().sum::<u16>()
    }
}

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const OLD: u64 = 3600;
const NOW: Timestamp = Timestamp::from_secs(1_700_000_000 + OLD);

/// The situation of a row: a node that has just been told the row's configuration.
struct Situation {
    world: World,
    names: Vec<(EniId, String)>,
    config: Config,
}

impl Situation {
    /// Builds what the row starts from at the row's own moment, with provisioning off, so that nothing happens before.
    fn new(row: &Row) -> Self {
        let mut situation = Self::at_start(row, false);
        let Self { world, .. } = &mut situation;
        world.run();
        world.now = NOW;
        world.ipam.handle_timeout(NOW);
        world.run();
        // No ENI was left unattached from before; without provisioning that was not asked.
        let scope = Scope::Unattached;
        let (enis, incomplete) = (Vec::new(), Vec::new());
        let none =
            Observation::new(NOW, Source::Ec2, scope).with_enis(enis).with_incomplete(incomplete);
        world.ipam.observe(&none, NOW);
        world.ipam.handle_schedulable(!row.has("nonsched"), NOW);
        if row.has("terminating") {
            world.ipam.handle_terminating(NOW);
        }
        world.run();
        situation
    }

    /// Builds what the row starts from; nothing was asked yet.
    fn at_start(row: &Row, provisioning: bool) -> Self {
        let now = NOW;
        let mut cloud = Cloud::new(1);
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![]);
        let mut subnet = |cidr: &str, role: Option<&str>| -> SubnetId {
            let tags = role.map(|role| ("kubernetes.io/role/cni".to_string(), role.to_string()));
            let request = CreateSubnet {
                tags: tags.into_iter().collect(),
                ..CreateSubnet::new(vpc, "a".parse().unwrap(), cidr.parse().unwrap())
            };
            cloud.create_subnet(request).unwrap()
        };
        let excluded_primary = row.enis().iter().any(|eni| eni.primary && eni.excluded);
        let primary = subnet("10.0.0.0/17", excluded_primary.then_some("0"));
        let other = subnet("10.0.128.0/18", Some("1"));
        let excluded = subnet("10.0.192.0/18", Some("0"));
        let limits = row.limits();
        let instance = RunInstance::new(limits.clone(), primary);
        let instance = cloud.run_instance(instance, START).unwrap();
        let node = cloud.instance(&instance).unwrap().node.clone();

        let real = row.config();
        let config = real.clone().with_provisioning(provisioning);
        let mut world = World::new(cloud, instance, limits, config, 1, START).unwrap();
        if real.custom_networking {
            let config = EniConfig::new(other);
            world.ipam.handle_eni_config(Some(config), START);
        }
        let mut names = vec![(node.primary, "e0".to_string())];
        let mut records = Vec::new();
        let mut device = 1;
        let mut enis = row.enis();
        let unmanaged = row.number_of("unmanaged").unwrap_or(0);
        enis.extend((0..unmanaged).map(|n| EniIn { name: format!("u{n}"), ..EniIn::default() }));
        enis.sort_by_key(|eni| core::cmp::Reverse(eni.age.unwrap_or(OLD)));

        // The oldest first, each seen when it was made.
        let mut seen = START;
        for eni in enis {
            let made = now.minus_secs(eni.age.unwrap_or(OLD));
            if made > seen {
                world.ipam.restore(core::mem::take(&mut records), now);
                world.now = made;
                world.run();
                seen = made;
            }
            let id = if eni.primary {
                node.primary
            } else {
                let mut tags = std::collections::BTreeMap::new();
                if eni.name.starts_with('u') {
                    let key = "node.k8s.amazonaws.com/no_manage".to_string();
                    tags.insert(key, "true".to_string());
                } else {
                    // Only what was made for the instance is ever freed.
                    tags.insert(Scope::INSTANCE_TAG.to_string(), instance.to_string());
                }
                let interface_type = match (eni.trunk, eni.efa) {
                    (true, _) => InterfaceType::Trunk,
                    (_, true) => InterfaceType::Efa,
                    _ => InterfaceType::Interface,
                };
                let subnet = match (eni.excluded, excluded_primary) {
                    (true, _) => excluded,
                    (false, true) => other,
                    (false, false) => primary,
                };
                let create =
                    CreateInterface { tags, interface_type, ..CreateInterface::new(subnet) };
                let id = world.cloud.create_network_interface(&create, made).unwrap().id;
                let card = row.card();
                let attach =
                    AttachNetworkInterface { eni: id, instance, card, device: DeviceIndex(device) };
                device += 1;
                world.cloud.attach_network_interface(&attach, made).unwrap();
                id
            };
            names.retain(|(known, _)| *known != id);
            names.push((id, eni.name.clone()));
            give_blocks(&mut world.cloud, id, &eni, made);
            let carried = world.cloud.interface(&id).unwrap().clone();
            records.extend(leases(&carried, &eni, now));
            if seen > START {
                let (scope, source) = (Scope::Attached, Source::Ec2);
                let observation = world.cloud.observe(instance, source, &scope, made).unwrap();
                world.ipam.restore(core::mem::take(&mut records), now);
                world.ipam.observe(&observation, made);
            }
        }
        world.ipam.restore(records, now);
        Self { world, names, config: real }
    }

    /// Tells the row's configuration and returns what is issued at once.
    fn begin(&mut self) -> Vec<Issued> {
        self.world.ipam.handle_config(self.config.clone(), self.world.now).unwrap();
        self.issued()
    }

    fn issued(&mut self) -> Vec<Issued> {
        core::iter::from_fn(|| self.world.ipam.poll_action()).collect()
    }

    fn name(&self, id: EniId) -> &str {
        self.names.iter().find(|(known, _)| *known == id).map_or("new", |(_, name)| name)
    }
}

trait Minus {
    fn minus_secs(self, secs: u64) -> Timestamp;
}

impl Minus for Timestamp {
    fn minus_secs(self, secs: u64) -> Timestamp {
        Self::from_nanos(self.as_nanos() - secs * 1_000_000_000)
    }
}

fn give_blocks(cloud: &mut Cloud, id: EniId, eni: &EniIn, now: Timestamp) {
    let amounts =
        [Ipv4Amount::Addresses(eni.addresses.0), Ipv4Amount::Prefixes(eni.prefixes.len() as u16)];
    for amount in amounts {
        if !matches!(amount, Ipv4Amount::Addresses(0) | Ipv4Amount::Prefixes(0)) {
            cloud.assign_private_ip_addresses(id, &Ipv4Request::Count(amount), now).unwrap();
        }
    }
}

/// Returns the leases and the addresses in cooldown of an ENI.
fn leases(carried: &NetworkInterface, eni: &EniIn, now: Timestamp) -> Vec<Record> {
    let mut singles =
        carried.ipv4.iter().filter(|net| net.prefix_len() == 32).map(|net| net.addr());
    let (_, assigned, cooling) = eni.addresses;
    let mut held: Vec<_> = singles.by_ref().take(assigned.into()).collect();
    let cooling: Vec<_> = singles.take(cooling.into()).map(core::net::IpAddr::V4).collect();
    let prefixes = carried.ipv4.iter().filter(|net| net.prefix_len() == 28);
    for (prefix, used) in prefixes.zip(&eni.prefixes) {
        let first = u32::from(prefix.network());
        held.extend((0..u32::from(*used)).map(|n| core::net::Ipv4Addr::from(first + n)));
    }
    let attachment = carried.attachment.as_ref().unwrap();
    let mut records: Vec<Record> = held
        .into_iter()
        .map(|address| {
            let name = format!("old-{address}");
            let interface = (leased(attachment.card.0, attachment.device.0, []))
                .with_eni(carried.id)
                .with_mac(carried.mac)
                .with_primary(attachment.device == DeviceIndex(0))
                .with_ipv4(Some(address));
            let key = World::key(&name);
            Record::Leased((lease(&name, [interface])).with_key(key).with_since(START))
        })
        .collect();
    if !cooling.is_empty() {
        let at = now.minus_secs(1);
        let key = PodKey::new("aws-cni", "gone", "eth0").unwrap();
        records.push(Record::Released { key, addresses: cooling, at });
    }
    records
}

/// An operation as the column `exp_action` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Assign { blocks: u32, eni: String },
    Create { blocks: u32 },
    Release { blocks: u32, prefixes: bool },
    Free { eni: String },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assign { blocks, eni } => write!(f, "assign:{blocks}@{eni}"),
            Self::Create { blocks } => write!(f, "create_eni:{blocks}"),
            Self::Release { blocks, prefixes: false } => write!(f, "release:{blocks}"),
            Self::Release { blocks, prefixes: true } => write!(f, "release_prefix:{blocks}"),
            Self::Free { eni } => write!(f, "free_eni:{eni}"),
        }
    }
}

impl Op {
    fn parse(text: &str) -> Self {
        let (verb, rest) = text.split_once(':').unwrap();
        match verb {
            "assign" => {
                let (blocks, eni) = rest.split_once('@').unwrap();
                Self::Assign { blocks: blocks.parse().unwrap(), eni: eni.to_string() }
            }
            "create_eni" => Self::Create { blocks: rest.parse().unwrap() },
            "release" => Self::Release { blocks: rest.parse().unwrap(), prefixes: false },
            "release_prefix" => Self::Release { blocks: rest.parse().unwrap(), prefixes: true },
            "free_eni" => Self::Free { eni: rest.to_string() },
            _ => panic!("unknown operation {text}"),
        }
    }

    fn parse_all(text: &str) -> Vec<Self> {
        if text == "none" { Vec::new() } else { text.split_whitespace().map(Self::parse).collect() }
    }

    fn grows(&self) -> bool {
        matches!(self, Self::Assign { .. } | Self::Create { .. })
    }

    fn matches(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Assign { blocks, .. }, Self::Assign { blocks: wanted, eni }) if eni == "any" => {
                blocks == wanted
            }
            (Self::Free { .. }, Self::Free { eni }) if eni == "any" => true,
            _ => self == expected,
        }
    }
}

fn ops(situation: &Situation, issued: &[Issued]) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut released = (0, 0);
    for Issued { action, .. } in issued {
        match action {
            Action::Ec2(Ec2Action::AssignPrivateIpAddresses(assign)) => ops.push(Op::Assign {
                blocks: blocks(assign.amount),
                eni: situation.name(assign.eni).to_string(),
            }),
            Action::Ec2(Ec2Action::CreateNetworkInterface(create)) => {
                ops.push(Op::Create { blocks: blocks(create.ipv4) });
            }
            Action::Ec2(Ec2Action::UnassignPrivateIpAddresses(unassign)) => {
                let prefixes = unassign.blocks.iter().filter(|net| net.prefix_len() == 28).count();
                released.0 += (unassign.blocks.len() - prefixes) as u32;
                released.1 += prefixes as u32;
            }
            Action::Host(HostAction::RemoveEni(link)) => {
                ops.push(Op::Free { eni: situation.name(link.eni).to_string() });
            }
            _ => {}
        }
    }
    for (blocks, prefixes) in [(released.0, false), (released.1, true)] {
        if blocks > 0 {
            ops.push(Op::Release { blocks, prefixes });
        }
    }
    ops
}

fn blocks(amount: Ipv4Amount) -> u32 {
    match amount {
        Ipv4Amount::Addresses(n) | Ipv4Amount::Prefixes(n) => n.into(),
    }
}

fn list(ops: &[Op]) -> String {
    if ops.is_empty() {
        return "none".to_string();
    }
    ops.iter().map(Op::to_string).collect::<Vec<_>>().join(" ")
}

type Checked = Result<Option<Deviation>, String>;

/// One pass over the pool: too low leads to an increase, too high to a decrease.
fn step(row: &Row) -> Checked {
    let mut situation = Situation::new(row);
    let mut issued = situation.begin();
    let mut actual = ops(&situation, &issued);

    if row.has("insufficient_cooldown") {
        fail(&mut situation, &issued, FailureKind::SubnetFull);
        situation.world.now = situation.world.now + Duration::from_secs(30);
        situation.world.ipam.handle_timeout(situation.world.now);
        issued = situation.issued();
        actual = ops(&situation, &issued);
    }
    if let Some(secs) = row.number_of("seconds_since_last_decrease") {
        // The decrease fails, so that the pool is as before; only its time counts.
        fail(&mut situation, &issued, FailureKind::Throttled);
        situation.world.now = situation.world.now + Duration::from_secs(secs);
        situation.world.ipam.handle_timeout(situation.world.now);
        issued = situation.issued();
        actual = ops(&situation, &issued);
    }
    for (_, name) in situation.names.clone() {
        if let Some(kind) = row.fails(&name) {
            // What asks for less is refused as well.
            let mut refused = issued.clone();
            for _ in 0..2 {
                fail(&mut situation, &refused, kind);
                refused = situation.issued();
                let further = ops(&situation, &refused);
                let again = further.iter().any(|op| matches!(op, Op::Assign { .. }));
                actual.extend(further);
                if !again {
                    break;
                }
            }
        }
    }
    if let Some(kind) = row.fails("create") {
        fail(&mut situation, &issued, kind);
        let further = situation.issued();
        actual.extend(ops(&situation, &further));
    }

    // Freeing an ENI is not part of this pass.
    actual.retain(|op| !matches!(op, Op::Free { .. }));
    let expected = Op::parse_all(&row.exp_action);
    compare_step(row, &expected, &actual)
}

fn fail(situation: &mut Situation, issued: &[Issued], kind: FailureKind) {
    for Issued { id, action, .. } in issued {
        let changes = matches!(
            action,
            Action::Ec2(
                Ec2Action::AssignPrivateIpAddresses(_)
                    | Ec2Action::CreateNetworkInterface(_)
                    | Ec2Action::UnassignPrivateIpAddresses(_)
            )
        );
        if changes {
            let failure = Failure::new(kind, String::new());
            situation.world.ipam.handle_outcome(*id, Outcome::Failed(failure), situation.world.now);
        }
    }
}

fn compare_step(row: &Row, expected: &[Op], actual: &[Op]) -> Checked {
    let same = actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(actual, expected)| actual.matches(expected));
    if same {
        return Ok(None);
    }
    let differs = || Err(format!("expected {}, got {}", list(expected), list(actual)));
    let cooling = row.enis().iter().any(|eni| eni.addresses.2 > 0);
    if cooling && expected.iter().any(|op| matches!(op, Op::Release { .. })) {
        return if actual.is_empty() { Ok(Some(Deviation::CoolingIsKept)) } else { differs() };
    }
    if !row.max_pods.starts_with('-') && expected.len() == 1 && actual.len() == 1 {
        let left = row.max_pods.parse::<u32>().unwrap() - held(row);
        if expected[0].grows() && *actual == [Op::Create { blocks: left }] {
            return Ok(Some(Deviation::MaxPods));
        }
    }
    if row.options.contains("ec2fail") {
        // Of two calls for one ENI only the first is made; what follows elsewhere is the same.
        let mut expected = expected.to_vec();
        if expected.len() > 1 {
            expected.remove(1);
        }
        return if actual == expected { Ok(Some(Deviation::BacksOff)) } else { differs() };
    }
    let out_of_use = row.enis().iter().any(|eni| eni.excluded);
    if out_of_use && actual.is_empty() && expected.iter().all(|op| !op.grows()) {
        return Ok(Some(Deviation::ExcludedIsNoSurplus));
    }
    let keeps_none = row.prefixes() && row.warm_prefix == "0" && row.warm_ip == "-";
    if keeps_none && actual.is_empty() && matches!(expected, [Op::Release { .. }]) {
        return Ok(Some(Deviation::Settles));
    }
    let begins = actual.len() > expected.len()
        && !expected.is_empty()
        && actual.iter().zip(expected).all(|(actual, expected)| actual.matches(expected));
    if begins && actual.iter().all(Op::grows) {
        return Ok(Some(Deviation::WholeShortage));
    }
    differs()
}

/// Addresses that the row starts with.
fn held(row: &Row) -> u32 {
    let of = |eni: EniIn| u32::from(eni.addresses.0) + 16 * eni.prefixes.len() as u32;
    row.enis().into_iter().map(of).sum()
}

/// One pass of trying to free an ENI.
fn free_eni(row: &Row) -> Checked {
    let mut situation = Situation::new(row);
    let issued = situation.begin();
    let mut actual = ops(&situation, &issued);
    actual.retain(|op| matches!(op, Op::Free { .. }));
    let expected = Op::parse_all(&row.exp_action);
    let same = actual.len() == expected.len()
        && actual.iter().zip(&expected).all(|(actual, expected)| actual.matches(expected));
    if same {
        return Ok(None);
    }
    if actual.len() > 1 && expected.len() == 1 && actual[0].matches(&expected[0]) {
        return Ok(Some(Deviation::WholeShortage));
    }
    if expected.is_empty() && row.prefixes() && row.warm_ip != "-" && row.warm_prefix != "-" {
        return Ok(Some(Deviation::OverriddenTarget));
    }
    let out_of_use = |op: &Op| {
        row.enis().iter().any(|eni| eni.excluded && *op == Op::Free { eni: eni.name.clone() })
    };
    if expected.is_empty() && actual.iter().all(out_of_use) {
        return Ok(Some(Deviation::ExcludedIsFreed));
    }
    Err(format!("expected {}, got {}", list(&expected), list(&actual)))
}

/// How far the pool is from its target.
fn target_state(row: &Row) -> Checked {
    let Situation { world, config, .. } = Situation::new(row);
    let plan = world.ipam.plan(world.now);
    let demand = plan.demand.iter().find(|on| on.card == row.card()).unwrap().demand;
    let (low, high) = (row.exp_low == "1", row.exp_high == "1");
    let by_addresses = config.families.ipv4() == Some(Ipv4Kind::Addresses);
    let in_enis = matches!(config.target, WarmTarget::Enis(_)) && by_addresses;
    // amazon-vpc-cni-k8s also tells how many whole prefixes are missing where the free addresses suffice; that leads to nothing.
    let same = match demand {
        // Where it keeps no prefix, nothing is missing by its count, and it asks for one all the same.
        Demand::Short(1) if row.prefixes() && row.exp_short == "0" => low,
        Demand::Short(by) => low && (in_enis || row.exp_short == by.to_string()),
        Demand::Met => !low && !high,
        Demand::Over(by) => high && row.exp_over == by.to_string(),
    };
    if same { Ok(None) } else { Err(format!("low {low} high {high}, got {demand:?}")) }
}

/// From the start to where nothing changes any more.
fn converge(row: &Row) -> Checked {
    let Situation { mut world, .. } = Situation::at_start(row, true);
    let pods: u16 = row.pods.parse().unwrap();
    let held: u16 = row.enis().iter().map(EniIn::assigned).sum();
    let cards = if row.card() == Card(0) { CardChoice::Any } else { CardChoice::Every };
    for pod in 0..pods - held {
        world.add_pod_on(&format!("pod-{pod}"), cards);
    }
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.ipam.check(), [], "{}", row.id);
    if world.now.since(world.changed_at()) < Duration::from_secs(1800) {
        return Err(format!("does not settle:\n{}", world.transcript()));
    }

    let on_card = |eni: EniId| {
        world.cloud.interface(&eni).and_then(|e| Some(e.attachment.as_ref()?.card))
            == Some(row.card())
    };
    let calls = world.issued().iter().filter(|(_, Issued { action, .. })| match action {
        Action::Ec2(
            Ec2Action::CreateNetworkInterface(_) | Ec2Action::DetachNetworkInterface(_),
        ) => true,
        Action::Ec2(Ec2Action::AssignPrivateIpAddresses(assign)) => on_card(assign.eni),
        Action::Ec2(Ec2Action::UnassignPrivateIpAddresses(unassign)) => on_card(unassign.eni),
        _ => false,
    });
    let calls = calls.count();
    let actual = Fixpoint::of(&world, row);
    let allowed = row.peer_ec2_calls.split('-').next_back().unwrap();
    if allowed.parse::<usize>().is_ok_and(|allowed| calls > allowed) {
        return Err(format!(
            "{calls} EC2 calls, amazon-vpc-cni-k8s needs {allowed}:\n{}",
            world.transcript()
        ));
    }

    if row.exp_action == "FLAP" {
        let numbers = row.note.rsplit_once("recommended: ").unwrap().1;
        let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        let first: usize = numbers.next().unwrap().parse().unwrap();
        let free: u32 = numbers.next_back().unwrap().parse().unwrap();
        let counted = if row.prefixes() { actual.cidrs } else { actual.enis };
        return if (counted, actual.free) == (first, free) {
            Ok(Some(Deviation::Settles))
        } else {
            Err(format!("recommended {first}, {free} free, got {actual:?}"))
        };
    }
    let expected = Fixpoint {
        enis: row.exp_enis.parse().unwrap(),
        cidrs: row.exp_cidrs.parse().unwrap(),
        ips: row.exp_ips.parse().unwrap(),
        free: row.exp_free_ips.parse().unwrap(),
        dist: row.exp_dist.split('+').map(|n| n.parse().unwrap()).collect(),
    };
    if actual == expected {
        return Ok(None);
    }
    if let Ok(pods_max) = row.max_pods.parse::<u32>() {
        let capped = if row.prefixes() { pods_max.next_multiple_of(16) } else { pods_max };
        if expected.ips > capped && actual.ips == capped && actual.enis == expected.enis {
            return Ok(Some(Deviation::MaxPods));
        }
    }
    let beyond = row.warm_ip == "-" && row.min_ip.parse::<u16>().is_ok_and(|min| min < pods);
    if beyond && actual.ips == u32::from(pods) && actual.free == 0 {
        return Ok(Some(Deviation::WaitingIsDemand));
    }
    Err(format!("expected {expected:?}, got {actual:?}"))
}

/// Where a pool has settled.
#[derive(Debug, PartialEq, Eq)]
struct Fixpoint {
    enis: usize,
    cidrs: usize,
    ips: u32,
    free: u32,
    dist: Vec<usize>,
}

impl Fixpoint {
    fn of(world: &World, row: &Row) -> Self {
        let on_card = |eni: &&vpc_ipam_core::Eni| eni.card == row.card();
        let enis: Vec<_> = world.ipam.pool().enis().iter().filter(on_card).collect();
        assert!(enis.iter().all(|eni| eni.stage == Stage::Ready), "{}: {enis:?}", row.id);
        let ipv4 = |eni: &vpc_ipam_core::Eni| {
            eni.blocks().iter().filter(|b| matches!(b.net(), IpNet::V4(_))).count()
        };
        let mut dist: Vec<usize> = enis.iter().map(|eni| ipv4(eni)).collect();
        dist.sort_unstable_by(|a, b| b.cmp(a));
        let blocks = || enis.iter().flat_map(|eni| eni.blocks());
        let ips: u32 = blocks().map(|block| block.capacity()).sum();
        let assigned: u32 = blocks().map(|block| block.assigned()).sum();
        Self { enis: enis.len(), cidrs: dist.iter().sum(), ips, free: ips - assigned, dist }
    }
}

fn rows() -> Vec<Row> {
    let folder = std::env::var_os("VPC_IPAM_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors")),
        PathBuf::from,
    );
    rows_of(&folder)
}

fn rows_of(folder: &Path) -> Vec<Row> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("read {}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_path(&file).unwrap();
        rows.extend(reader.deserialize::<Row>().map(|row| row.unwrap()));
    }
    rows
}
