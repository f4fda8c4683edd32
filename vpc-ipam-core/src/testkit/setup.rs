use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ipnet::Ipv4Net;

use crate::model::tags;
use crate::sim::{
    Cloud, CreateInterface, CreateSubnet, Ipv4Request, Ipv6Request, RunInstance, World,
};
use crate::{
    AttachNetworkInterface, Budget, Card, Config, Cooling, DeviceIndex, EniConfig, EniId, Families,
    Hypervisor, InstanceId, InterfaceType, Ipv4Amount, Ipv4Kind, Limits, Rate, Scope, SubnetId,
    Timestamp, WarmTarget,
};

/// Where a scenario starts: a node, the cloud around it, and what its operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// What the instance can hold.
    pub limits: Limits,
    /// What the operator wants; always [usable](crate::UnusableConfigError) on `limits`.
    pub config: Config,
    /// How often EC2 may be called.
    pub budget: Budget,
    /// The subnets of the VPC.
    pub terrain: Terrain,
    /// ENIs that are attached at launch besides the primary one, at the indexes after it.
    pub residents: Vec<Resident>,
    /// Decides addresses, ids, jitter.
    pub seed: u64,
}

/// The subnets of a VPC, and what is taken in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terrain {
    /// One subnet of 8,187 addresses.
    Wide,
    /// One subnet of 59 addresses.
    Narrow,
    /// One subnet of 11 addresses, none of its /28 whole.
    Tiny,
    /// One subnet of 251 addresses with one address taken in each /28, so that no prefix can be had.
    Fragmented,
    /// A narrow subnet, and a wide one that is tagged for further ENIs.
    Tagged,
    /// A wide subnet, and another that is tagged as out of use.
    Excluded,
}

/// An ENI that is attached at launch besides the primary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resident {
    /// With the tag `no_manage`, another program's.
    NoManage,
    /// A trunk, which carries branch ENIs and no pods of ours.
    Trunk,
    /// With a fabric adapter, and addresses.
    Efa,
    /// A fabric adapter alone.
    EfaOnly,
    /// Left by an earlier run, with three addresses; in a subnet out of use where the terrain has one.
    Ours,
    /// As `Ours`, with one prefix where the type takes any.
    OursWithPrefix,
    /// As `Ours`, and attached to nothing: left by a crash between two calls.
    Unattached,
}

/// How many bytes [`Setup::decode`] reads.
pub(super) const SETUP_BYTES: usize = 16;

// Where numbers go wrong: at one slot, at the sizes of real types, around one ENI and one prefix.
pub(super) const SLOTS: [u16; 6] = [3, 1, 9, 14, 29, 49];
pub(super) const ENIS: [u8; 5] = [2, 3, 4, 8, 15];

impl Setup {
    /// When scenarios start: far enough from 1970 for clocks to be set back.
    pub const START: Timestamp = Timestamp::from_secs(1_700_000_000);
    /// How far back stale answers may reach.
    pub(super) const REACH: Duration = Duration::from_secs(120);

    /// Makes a setup of any bytes; missing ones count as 0, which is the simplest choice of each.
    pub fn decode(bytes: &[u8]) -> Self {
        let byte = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let limits = limits_of(byte(0), byte(1), byte(2));
        let config = config_of(&limits, &bytes[bytes.len().min(3)..]);
        let terrain = pick(
            &[
                Terrain::Wide,
                Terrain::Narrow,
                Terrain::Tagged,
                Terrain::Excluded,
                Terrain::Fragmented,
                Terrain::Tiny,
            ],
            byte(11),
        );
        let residents: [&[Resident]; 9] = [
            &[],
            &[Resident::Ours],
            &[Resident::NoManage],
            &[Resident::Trunk],
            &[Resident::Efa],
            &[Resident::EfaOnly],
            &[Resident::OursWithPrefix],
            &[Resident::Unattached],
            &[Resident::Ours, Resident::NoManage],
        ];
        let budget = match byte(13) % 4 {
            3 => Budget {
                default: Rate { burst: 2, interval: Duration::from_secs(5) },
                ..Budget::default()
            },
            _ => Budget::default(),
        };
        let room = usize::from(limits.enis(Card(0))) - 1;
        let residents = pick(&residents, byte(12));
        Self {
            config,
            budget,
            terrain,
            residents: residents[..residents.len().min(room)].to_vec(),
            seed: u64::from(byte(14)) + 256 * u64::from(byte(15)),
            limits,
        }
    }

    /// Returns the byte of [`limits_of`] that stands for the cards, the hypervisor and the trunk of the instance.
    pub(super) fn shape(&self) -> u8 {
        u8::from(self.limits.enis_per_card.len() > 1)
            | if self.limits.hypervisor == Hypervisor::Xen { 6 } else { 0 }
            | if self.limits.branch_enis == Some(0) { 8 } else { 0 }
    }

    /// Makes a world of it in which nothing goes wrong.
    pub fn world(&self) -> World {
        let launched = self.launch();
        let eni_config = Self::eni_config(&launched);
        let Launched { cloud, instance, .. } = launched;
        let (limits, config) = (self.limits.clone(), self.config.clone());
        let world = World::new(cloud, instance, limits, config, self.seed, Self::START);
        let mut world = world.expect("a setup's configuration is usable");
        world.ipam.handle_eni_config(eni_config, Self::START);
        world
    }

    /// Makes the cloud, launches the instance in it, and names what is there.
    pub(super) fn launch(&self) -> Launched {
        let mut cloud = Cloud::new(self.seed);
        let ipv6 = "2001:db8::/56".parse().expect("a range");
        let vpc = cloud.create_vpc(vec![net("10.0.0.0/16")], vec![ipv6]);
        let role = |value: &str| BTreeMap::from([(tags::SUBNET_ROLE.to_string(), value.into())]);
        let (first, second) = match self.terrain {
            Terrain::Wide => ("10.0.0.0/19", role("1")),
            Terrain::Narrow => ("10.0.0.0/26", role("1")),
            Terrain::Tiny => ("10.0.0.0/28", role("0")),
            Terrain::Fragmented => ("10.0.0.0/24", role("0")),
            Terrain::Tagged => ("10.0.0.0/26", role("1")),
            Terrain::Excluded => ("10.0.0.0/19", role("0")),
        };
        let zone = "eu-west-1a".parse().expect("a zone");
        let mut subnet = |cidr, ipv6: &str, tags| {
            let ipv6_cidr = Some(ipv6.parse().expect("a range"));
            let request =
                CreateSubnet { ipv6_cidr, tags, ..CreateSubnet::new(vpc, zone, net(cidr)) };
            cloud.create_subnet(request).expect("the range is free")
        };
        let primary = subnet(first, "2001:db8:0:1::/64", BTreeMap::new());
        let two = matches!(self.terrain, Terrain::Tagged | Terrain::Excluded)
            || self.config.custom_networking;
        let other = two.then(|| subnet("10.0.32.0/19", "2001:db8:0:2::/64", second));
        if self.terrain == Terrain::Fragmented {
            let blocks =
                (0..16u8).map(|n| Ipv4Net::from(core::net::Ipv4Addr::from([10, 0, 0, 16 * n + 7])));
            let request = CreateInterface {
                ipv4: Ipv4Request::Blocks(blocks.collect()),
                primary_ipv4: Some([10, 0, 0, 8].into()),
                ..CreateInterface::new(primary)
            };
            cloud.create_network_interface(&request, Self::START).expect("the subnet is empty");
        }
        let run = RunInstance::new(self.limits.clone(), primary);
        let instance = cloud.run_instance(run, Self::START).expect("the subnet has room");
        let mut launched = Launched { cloud, instance, primary, other, foreign: Vec::new() };
        for (index, resident) in (1u8..).zip(&self.residents) {
            launched.settle_in(*resident, DeviceIndex(index), &self.limits);
        }
        launched.cloud.remember(Self::REACH);
        launched
    }

    /// Returns where new ENIs go under custom networking.
    pub(super) fn eni_config(launched: &Launched) -> Option<EniConfig> {
        Some(EniConfig { subnet: launched.other?, security_groups: Vec::new() })
    }
}

/// A cloud with an instance in it.
pub(super) struct Launched {
    pub(super) cloud: Cloud,
    pub(super) instance: InstanceId,
    pub(super) primary: SubnetId,
    pub(super) other: Option<SubnetId>,
    /// ENIs of other programs.
    pub(super) foreign: Vec<EniId>,
}

impl Launched {
    fn settle_in(&mut self, resident: Resident, device: DeviceIndex, limits: &Limits) {
        let ours =
            matches!(resident, Resident::Ours | Resident::OursWithPrefix | Resident::Unattached);
        let mut tags = BTreeMap::new();
        if ours {
            tags.insert(Scope::INSTANCE_TAG.to_string(), self.instance.to_string());
        }
        if resident == Resident::NoManage {
            tags.insert(tags::NO_MANAGE.to_string(), "true".into());
        }
        let addresses = |most: u16| Ipv4Amount::Addresses(most.min(limits.ipv4_slots()));
        let amount = match resident {
            Resident::OursWithPrefix if limits.prefixes() => Ipv4Amount::Prefixes(1),
            Resident::EfaOnly | Resident::Trunk => addresses(0),
            _ => addresses(3),
        };
        let request = CreateInterface {
            tags,
            interface_type: match resident {
                Resident::Trunk => InterfaceType::Trunk,
                Resident::Efa => InterfaceType::Efa,
                Resident::EfaOnly => InterfaceType::EfaOnly,
                _ => InterfaceType::Interface,
            },
            ipv4: Ipv4Request::Count(amount),
            ipv6: Ipv6Request::default(),
            ..CreateInterface::new(self.other.filter(|_| ours).unwrap_or(self.primary))
        };
        // A narrow terrain may have no room: then no ENI is there.
        let Ok(eni) = self.cloud.create_network_interface(&request, Setup::START) else {
            return;
        };
        if matches!(resident, Resident::NoManage | Resident::EfaOnly) {
            self.foreign.push(eni.id);
        }
        if resident != Resident::Unattached {
            let attach = AttachNetworkInterface {
                eni: eni.id,
                instance: self.instance,
                card: Card(0),
                device,
            };
            let attached = self.cloud.attach_network_interface(&attach, Setup::START);
            attached.expect("the setup leaves room for its residents");
        }
    }
}

/// Returns limits: slots, ENIs, cards and hypervisor.
pub(super) fn limits_of(slots: u8, enis: u8, shape: u8) -> Limits {
    let (slots, enis) = (pick(&SLOTS, slots), pick(&ENIS, enis));
    let cards = match shape & 1 {
        0 => vec![enis],
        _ => vec![enis, enis - 1],
    };
    Limits {
        instance_type: "proof.large".parse().expect("a type"),
        enis_per_card: Cow::Owned(cards),
        default_card: Card(0),
        ipv4_per_eni: slots + 1,
        ipv6_per_eni: slots + 1,
        hypervisor: if shape & 6 == 6 { Hypervisor::Xen } else { Hypervisor::Nitro },
        bare_metal: false,
        vcpus: 8,
        memory_mib: 16_384,
        branch_enis: if shape & 8 == 8 { Some(0) } else { None },
    }
}

/// The families that a byte picks from, the simplest first.
const FAMILIES: [Families; 7] = [
    Families::Ipv4(Ipv4Kind::Addresses),
    Families::Ipv4(Ipv4Kind::Addresses),
    Families::Ipv4(Ipv4Kind::Prefixes),
    Families::Ipv4(Ipv4Kind::Prefixes),
    Families::Dual(Ipv4Kind::Addresses),
    Families::Dual(Ipv4Kind::Prefixes),
    Families::Ipv6,
];

/// Returns a configuration that instances with these limits can follow, of eight bytes.
pub(super) fn config_of(limits: &Limits, bytes: &[u8]) -> Config {
    let byte = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let slots = u32::from(limits.ipv4_slots());
    let target = pick(&targets_of(slots), byte(0));
    let families = if limits.prefixes() {
        pick(&FAMILIES, byte(1))
    } else {
        Families::Ipv4(Ipv4Kind::Prefixes)
    };
    let enis = limits.enis(Card(0));
    let enis_max =
        pick(&[None, None, None, Some(1), Some(2), Some(enis - 1), Some(enis + 1)], byte(2));
    let pods_max =
        pick(&[None, None, None, Some(1), Some(slots), Some(slots + 1), Some(110)], byte(3));
    let cooldown = pick(&[30, 30, 30, 0, 120, 300], byte(4));
    let (flags, rare) = (byte(5), byte(6));
    let bit = |bit: u8| flags & (1 << bit) != 0;
    let custom_networking = rare % 8 == 1 && families != Families::Ipv6;
    Config {
        families,
        target,
        enis_max,
        pods_max,
        cooldown: Duration::from_secs(cooldown),
        cooling: if bit(0) { Cooling::All } else { Cooling::ReadyWithin(Duration::from_secs(10)) },
        trunk: bit(1),
        multi_nic: bit(2),
        manage_untagged: !bit(3),
        subnet_discovery: !bit(4),
        manage_unschedulable: bit(5),
        cluster: bit(6).then(|| "proof".to_string()),
        custom_networking,
        provisioning: rare % 8 != 2 && rare % 8 != 3,
        ec2_reads: rare % 8 != 3,
        ..Config::default()
    }
}

/// Returns the targets that a byte picks from, the simplest first, where an ENI has that many slots.
fn targets_of(slots: u32) -> [WarmTarget; 15] {
    let ips = |warm, minimum| WarmTarget::Ips { warm, minimum };
    [
        ips(1, 0),
        WarmTarget::Enis(1),
        WarmTarget::Enis(0),
        WarmTarget::Enis(2),
        ips(2, 5),
        ips(slots - 1, 0),
        ips(slots, slots + 1),
        ips(slots + 1, 0),
        ips(0, slots),
        ips(17, 33),
        WarmTarget::Prefixes(1),
        WarmTarget::Prefixes(0),
        WarmTarget::Prefixes(2),
        WarmTarget::Batch { batch: 16, buffer_percent: 50 },
        WarmTarget::Batch { batch: 5, buffer_percent: 130 },
    ]
}

/// Returns the item that a byte stands for: 0 for the first.
pub(super) fn pick<T: Copy>(items: &[T], byte: u8) -> T {
    items[usize::from(byte) % items.len()]
}

pub(super) fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a range")
}
