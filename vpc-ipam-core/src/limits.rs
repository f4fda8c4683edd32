//! How much an instance type can hold.

mod table;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::{Card, InstanceType};

/// What EC2 allows an instance of one type to have.
///
/// [`Limits::lookup`] knows the types of the table that ships with this crate. For a newer type, ask EC2
/// (DescribeInstanceTypes) or the operator, and make one with [`Limits::new`] and its setters: every combination is usable, zeroes
/// included.
///
/// ```
/// use vpc_ipam_core::{Card, Limits};
///
/// let m5_large = Limits::lookup("m5.large".parse()?)?;
/// assert_eq!((m5_large.enis(Card(0)), m5_large.ipv4_per_eni), (3, 10));
/// assert!(Limits::lookup("m99.large".parse()?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Limits {
    /// The type.
    pub instance_type: InstanceType,
    /// How many ENIs each network card takes; the index is the card's.
    pub enis_per_card: Cow<'static, [u8]>,
    /// The card that carries the primary ENI; 0 for every type known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub default_card: Card,
    /// How many IPv4 addresses an ENI takes, its own included. A /28 prefix takes the slot of one.
    pub ipv4_per_eni: u16,
    /// How many IPv6 addresses an ENI takes, 0 without IPv6. A /80 prefix takes the slot of one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub ipv6_per_eni: u16,
    /// What it runs on.
    #[cfg_attr(feature = "serde", serde(default))]
    pub hypervisor: Hypervisor,
    /// Whether it is a whole machine; such a type has no hypervisor, and every feature of Nitro.
    #[cfg_attr(feature = "serde", serde(default))]
    pub bare_metal: bool,
    /// Virtual CPUs, as launched by default; 0 if that is not known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub vcpus: u16,
    /// Memory in MiB; 0 if that is not known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub memory_mib: u32,
    /// How many branch ENIs a trunk carries, 0 if the type takes no trunk, `None` if that is not known. EC2 does not tell;
    /// the table has the numbers of Karpenter and of the VPC resource controller, which agree, and 0 on Xen and for the t
    /// family, as AWS's guide to security groups for pods says.
    #[cfg_attr(feature = "serde", serde(default))]
    pub branch_enis: Option<u16>,
}

impl Limits {
    /// Returns the limits of a type with one network card per entry, without IPv6. Hypervisor, vCPUs and branch ENIs count as not
    /// known: ENIs take no prefixes, AWS's advised cap is 110 pods, and an ENI is kept for a trunk where one is asked for.
    pub fn new(
        instance_type: InstanceType,
        enis_per_card: Cow<'static, [u8]>,
        ipv4_per_eni: u16,
    ) -> Self {
        Self {
            instance_type,
            enis_per_card,
            default_card: Card(0),
            ipv4_per_eni,
            ipv6_per_eni: 0,
            hypervisor: Hypervisor::Unknown,
            bare_metal: false,
            vcpus: 0,
            memory_mib: 0,
            branch_enis: None,
        }
    }
}

setters!(Limits {
    with_instance_type instance_type: InstanceType,
    with_enis_per_card enis_per_card: Cow<'static, [u8]>,
    with_default_card default_card: Card,
    with_ipv4_per_eni ipv4_per_eni: u16,
    with_ipv6_per_eni ipv6_per_eni: u16,
    with_hypervisor hypervisor: Hypervisor,
    with_bare_metal bare_metal: bool,
    with_vcpus vcpus: u16,
    with_memory_mib memory_mib: u32,
    with_branch_enis branch_enis: Option<u16>,
});

/// What an instance runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Hypervisor {
    /// AWS's own, on which ENIs take prefixes.
    Nitro,
    /// The older one, without prefixes.
    Xen,
    /// EC2 does not say, as for bare metal.
    #[default]
    Unknown,
}

/// What is known of instance types besides the built-in table, and whom to believe first.
///
/// ```
/// use vpc_ipam_core::{KnownLimits, Limits, LimitsSource};
///
/// let m5_large = "m5.large".parse()?;
/// let fewer = Limits::lookup(m5_large)?.with_ipv4_per_eni(6);
/// let known = KnownLimits::default().with_overrides(vec![fewer]);
/// let (limits, source) = known.find(m5_large)?;
/// assert_eq!((limits.ipv4_per_eni, source), (6, LimitsSource::Override));
///
/// // The table knows m4.large, so EC2 need not be asked; no source knows m99.large.
/// assert!(!known.needs_ec2("m4.large".parse()?));
/// assert!(known.needs_ec2("m99.large".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownLimits {
    /// Sources in order of trust; one that is not listed is ignored. By default the operator, then EC2's answer as the table has
    /// it, then EC2, then other tools' tables: EC2 is asked only about types that the table does not have from EC2 itself, and
    /// where it does not answer the other tools' tables count.
    pub trust: Vec<LimitsSource>,
    /// What the operator says: of two entries for one type the later counts.
    pub overrides: Vec<Limits>,
    /// What EC2 answered to DescribeInstanceTypes.
    pub ec2: Vec<Limits>,
}

setters!(KnownLimits {
    with_trust trust: Vec<LimitsSource>,
    with_overrides overrides: Vec<Limits>,
    with_ec2 ec2: Vec<Limits>,
});

/// Who says what an instance type can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LimitsSource {
    /// The operator, in an override file.
    Override,
    /// EC2, in the answer from which the table of this crate was made.
    Table,
    /// EC2, in its answer to DescribeInstanceTypes.
    Ec2,
    /// Public tables of other tools: for types that the answer in the table lacks, such as dl1.24xlarge.
    OtherTables,
}

impl Default for KnownLimits {
    fn default() -> Self {
        use LimitsSource::{Ec2, OtherTables, Override, Table};
        let trust = alloc::vec![Override, Table, Ec2, OtherTables];
        Self { trust, overrides: Vec::new(), ec2: Vec::new() }
    }
}

impl KnownLimits {
    /// Returns the limits of a type and who says so: the first who is believed and knows it.
    pub fn find(
        &self,
        instance_type: InstanceType,
    ) -> Result<(Limits, LimitsSource), UnknownInstanceTypeError> {
        let known = |source| Some((self.of(source, instance_type)?, source));
        let found = self.trust.iter().copied().find_map(known);
        found.ok_or(UnknownInstanceTypeError { instance_type })
    }

    /// Returns whether EC2's word on a type would count and is missing: ask for it, add the answer to `ec2`, then
    /// [find](Self::find).
    pub fn needs_ec2(&self, instance_type: InstanceType) -> bool {
        let before =
            self.trust.iter().copied().take_while(|source| *source != LimitsSource::Ec2).count();
        let ec2 = LimitsSource::Ec2;
        before < self.trust.len()
            && self.of(ec2, instance_type).is_none()
            && self.trust[..before].iter().all(|source| self.of(*source, instance_type).is_none())
    }

    fn of(&self, source: LimitsSource, instance_type: InstanceType) -> Option<Limits> {
        let among = |list: &[Limits]| {
            list.iter().rev().find(|limits| limits.instance_type == instance_type).cloned()
        };
        match source {
            LimitsSource::Override => among(&self.overrides),
            LimitsSource::Table | LimitsSource::OtherTables => {
                let row = row_of(instance_type).filter(|row| row.source() == source)?;
                Some(row.limits(instance_type))
            }
            LimitsSource::Ec2 => {
                let limits = among(&self.ec2)?;
                let in_table = row_of(instance_type).and_then(Row::branch_enis);
                Some(Limits { branch_enis: limits.branch_enis.or(in_table), ..limits })
            }
        }
    }
}

/// An instance type that the table does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "instance type {instance_type} is not in the built-in table of {} types: ask EC2 for it (DescribeInstanceTypes), \
     give its limits in an override file, or update vpc-ipam",
    table::TABLE.len()
)]
#[non_exhaustive]
pub struct UnknownInstanceTypeError {
    /// The type.
    pub instance_type: InstanceType,
}

impl Limits {
    /// Returns the limits of a type in the built-in table.
    pub fn lookup(instance_type: InstanceType) -> Result<Self, UnknownInstanceTypeError> {
        match row_of(instance_type) {
            Some(row) => Ok(row.limits(instance_type)),
            None => Err(UnknownInstanceTypeError { instance_type }),
        }
    }

    /// Returns where the built-in table has a type from, [`LimitsSource::Table`] or [`LimitsSource::OtherTables`]; `None`
    /// if it does not have it.
    pub fn source_in_table(instance_type: InstanceType) -> Option<LimitsSource> {
        row_of(instance_type).map(Row::source)
    }

    /// Returns the limits of every type in the built-in table, sorted by name.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        table::TABLE.iter().map(|row| {
            let instance_type = row.name.parse().expect("the table holds valid type names");
            row.limits(instance_type)
        })
    }

    /// Returns how many ENIs a network card takes: 0 if the type has no such card.
    pub fn enis(&self, card: Card) -> u8 {
        self.enis_per_card.get(usize::from(card.0)).copied().unwrap_or(0)
    }

    /// Returns the network cards.
    pub fn cards(&self) -> Vec<Card> {
        (0u8..).take(self.enis_per_card.len()).map(Card).collect()
    }

    /// Returns how many ENIs the network cards take together.
    pub fn enis_in_all(&self) -> u32 {
        self.enis_per_card.iter().map(|enis| u32::from(*enis)).sum()
    }

    /// Returns how many blocks of IPv4 besides its own address an ENI takes; a block is an address or a /28 prefix.
    pub fn ipv4_slots(&self) -> u16 {
        self.ipv4_per_eni.saturating_sub(1)
    }

    /// Returns whether ENIs of this type take prefixes: on Nitro, and on bare metal, which EC2 lists without hypervisor.
    pub fn prefixes(&self) -> bool {
        self.bare_metal || self.hypervisor == Hypervisor::Nitro
    }
}

/// A row of the generated table.
struct Row {
    name: &'static str,
    enis_per_card: &'static [u8],
    default_card: u8,
    ipv4_per_eni: u8,
    ipv6_per_eni: u8,
    hypervisor: Hypervisor,
    bare_metal: bool,
    vcpus: u16,
    memory_mib: u32,
    branch_enis: u8,
    listed_by: u8,
}

/// No public table says how many branch ENIs the type takes.
const UNKNOWN: u8 = u8::MAX;

/// EC2's answer has the type.
const EC2: u8 = 1;
/// amazon-vpc-cni-k8s lists it, in eni-max-pods.txt too.
const VPC_CNI: u8 = 2;
/// nodeadm lists it.
const NODEADM: u8 = 4;
/// pluto lists it.
const PLUTO: u8 = 8;

#[expect(clippy::too_many_arguments, reason = "one per column of the generated table")]
const fn row(
    name: &'static str,
    enis_per_card: &'static [u8],
    default_card: u8,
    ipv4_per_eni: u8,
    ipv6_per_eni: u8,
    hypervisor: Hypervisor,
    bare_metal: bool,
    vcpus: u16,
    memory_mib: u32,
    branch_enis: u8,
    listed_by: u8,
) -> Row {
    Row {
        name,
        enis_per_card,
        default_card,
        ipv4_per_eni,
        ipv6_per_eni,
        hypervisor,
        bare_metal,
        vcpus,
        memory_mib,
        branch_enis,
        listed_by,
    }
}

fn row_of(instance_type: InstanceType) -> Option<&'static Row> {
    let found = table::TABLE.binary_search_by(|row| row.name.cmp(instance_type.as_str()));
    found.ok().map(|index| &table::TABLE[index])
}

impl Row {
    fn limits(&self, instance_type: InstanceType) -> Limits {
        Limits {
            instance_type,
            enis_per_card: Cow::Borrowed(self.enis_per_card),
            default_card: Card(self.default_card),
            ipv4_per_eni: u16::from(self.ipv4_per_eni),
            ipv6_per_eni: u16::from(self.ipv6_per_eni),
            hypervisor: self.hypervisor,
            bare_metal: self.bare_metal,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            branch_enis: self.branch_enis(),
        }
    }

    fn source(&self) -> LimitsSource {
        if self.listed_by & EC2 == EC2 { LimitsSource::Table } else { LimitsSource::OtherTables }
    }

    fn branch_enis(&self) -> Option<u16> {
        (self.branch_enis != UNKNOWN).then_some(u16::from(self.branch_enis))
    }
}

/// A tool that carries a list of types of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// eni-max-pods.txt of amazon-vpc-cni-k8s.
    EniMaxPods,
    /// instance-info.jsonl of nodeadm.
    Nodeadm,
    /// eni-max-pods of Bottlerocket.
    Pluto,
}

/// Returns the pods that a tool's own list has for a type, if it has the type: ENIs of the default card x (addresses - 1) + 2,
/// but for four types of which the lists count the ENIs of both cards.
pub(crate) fn listed_pods(list: List, instance_type: InstanceType) -> Option<u32> {
    let flag = match list {
        List::EniMaxPods => VPC_CNI,
        List::Nodeadm => NODEADM,
        List::Pluto => PLUTO,
    };
    let row = row_of(instance_type).filter(|row| row.listed_by & flag == flag)?;
    let differs = |(name, pods): &(&str, u32)| (*name == row.name).then_some(*pods);
    let differing = table::ENI_MAX_PODS_DIFFERS.iter().find_map(differs);
    let enis = row.enis_per_card[usize::from(row.default_card)];
    Some(differing.unwrap_or(u32::from(enis) * (u32::from(row.ipv4_per_eni) - 1) + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors V238 to V240.
    #[test]
    fn types_that_take_no_trunk_are_known() {
        let cases = [
            ("m8g.12xlarge", Some(54)),
            ("i3.2xlarge", Some(0)),
            ("t3.large", Some(0)),
            ("t8i.nano", Some(0)),
            ("u-6tb1.56xlarge", Some(0)),
            ("u-6tb1.112xlarge", Some(0)),
            ("trn1.32xlarge", Some(82)),
            ("m5.large", Some(9)),
            ("m5.xlarge", Some(18)),
            ("a1.metal", Some(54)),
            ("c5.metal", Some(107)),
            ("g4ad.16xlarge", Some(6)),
            ("r9g.large", None),
            ("hpc6a.48xlarge", None),
        ];
        for (name, expected) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            assert_eq!(limits.branch_enis, expected, "{name}");
        }
    }

    #[test]
    fn limits_come_from_who_is_trusted_first() {
        use LimitsSource::{Ec2, OtherTables, Override, Table};
        let m5_large = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let says = |enis: u8, name: &str| Limits {
            instance_type: name.parse().unwrap(),
            enis_per_card: alloc::vec![enis].into(),
            ..m5_large.clone()
        };
        // Trust, type, ENIs and source; the operator says 5 or 6, EC2 7, the table 3 of m5.large and, from other tables, 15
        // of dl1.24xlarge.
        let overrides = alloc::vec![says(4, "m5.large"), says(5, "m5.large"), says(6, "m98.large")];
        let ec2 = alloc::vec![says(7, "m5.large"), says(7, "m99.large")];
        let default = KnownLimits::default().trust;
        let cases: [(&[LimitsSource], &str, Option<(u8, LimitsSource)>); 12] = [
            (&default, "dl1.24xlarge", Some((15, OtherTables))),
            (&[OtherTables], "m5.large", None),
            (&[Table, Ec2], "dl1.24xlarge", None),
            (&default, "m5.large", Some((5, Override))),
            (&default, "m98.large", Some((6, Override))),
            (&default, "m99.large", Some((7, Ec2))),
            (&default, "m97.large", None),
            (&default, "m4.4xlarge", Some((8, Table))),
            (&[Ec2, Table, Override], "m5.large", Some((7, Ec2))),
            (&[Table, Ec2], "m5.large", Some((3, Table))),
            (&[Table, Ec2], "m98.large", None),
            (&[], "m5.large", None),
        ];
        for (trust, name, expected) in cases {
            let known = KnownLimits {
                trust: trust.to_vec(),
                overrides: overrides.clone(),
                ec2: ec2.clone(),
            };
            let found = known.find(name.parse().unwrap()).ok();
            let actual = found.map(|(limits, source)| (limits.enis(Card(0)), source));
            assert_eq!(actual, expected, "{trust:?} {name}");
        }
        let asks = |trust: &[LimitsSource], name: &str| {
            let known = KnownLimits { trust: trust.to_vec(), ..KnownLimits::default() };
            known.needs_ec2(name.parse().unwrap())
        };
        assert!(!asks(&default, "m5.large"));
        assert!(asks(&default, "m99.large"));
        assert!(asks(&default, "dl1.24xlarge"));
        assert!(asks(&[Ec2, Table], "m5.large"));
        assert!(!asks(&[Table], "m99.large"));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn an_override_needs_only_what_decides_and_knows_no_other_words() {
        let small = r#"{"instance_type": "m99.large", "enis_per_card": [3], "ipv4_per_eni": 10}"#;
        let limits: Limits = serde_json::from_str(small).unwrap();
        assert_eq!((limits.enis(Card(0)), limits.ipv4_slots(), limits.prefixes()), (3, 9, false));
        for bad in [r#"{"instance_type": "m99.large"}"#, &small.replace("ipv4_per_eni", "ipv4")] {
            assert!(serde_json::from_str::<Limits>(bad).is_err(), "{bad}");
        }
        let m5_large = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let text = serde_json::to_string(&m5_large).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), m5_large);
    }

    #[test]
    fn every_type_of_the_table_is_found_by_its_name() {
        assert_eq!(Limits::all().len(), 1458);
        for limits in Limits::all() {
            assert_eq!(Limits::lookup(limits.instance_type).as_ref(), Ok(&limits));
            assert!(limits.enis(Card(0)) >= 1, "{limits:?}");
            assert!(limits.ipv4_per_eni >= 2, "{limits:?}");
        }
    }

    #[test]
    fn samples_are_as_aws_documents_them() {
        let cases = [
            ("m4.4xlarge", 8, 30, Hypervisor::Xen, 1),
            ("m5.large", 3, 10, Hypervisor::Nitro, 1),
            ("t3.small", 3, 4, Hypervisor::Nitro, 1),
            ("p4d.24xlarge", 15, 50, Hypervisor::Nitro, 4),
            ("p5.48xlarge", 2, 50, Hypervisor::Nitro, 32),
        ];
        for (name, enis, ipv4, hypervisor, cards) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            assert_eq!(limits.enis(Card(0)), enis, "{name}");
            assert_eq!(limits.ipv4_per_eni, ipv4, "{name}");
            assert_eq!(limits.hypervisor, hypervisor, "{name}");
            assert_eq!(limits.cards().len(), cards, "{name}");
        }
    }

    #[test]
    fn types_that_ec2_s_answer_lacks_come_from_other_tables() {
        let from = |source| {
            let of =
                |limits: &Limits| Limits::source_in_table(limits.instance_type) == Some(source);
            Limits::all().filter(of).count()
        };
        assert_eq!((from(LimitsSource::Table), from(LimitsSource::OtherTables)), (1395, 63));
        // Type, ENIs and addresses, prefixes, vCPUs.
        let cases = [
            ("dl1.24xlarge", 15, 50, true, 96),
            ("p3.2xlarge", 4, 15, false, 8),
            ("g3.16xlarge", 15, 50, false, 64),
            ("i3.metal", 15, 50, true, 72),
            ("c7g-flex.medium", 2, 4, true, 1),
        ];
        for (name, enis, ipv4, prefixes, vcpus) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            let actual =
                (limits.enis(Card(0)), limits.ipv4_per_eni, limits.prefixes(), limits.vcpus);
            assert_eq!(actual, (enis, ipv4, prefixes, vcpus), "{name}");
        }
        assert_eq!(Limits::source_in_table("m99.large".parse().unwrap()), None);
    }

    #[test]
    fn branch_enis_of_the_table_complete_what_ec2_says() {
        let m5_large = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let ec2 = alloc::vec![Limits { branch_enis: None, ..m5_large.clone() }];
        let known =
            KnownLimits { trust: alloc::vec![LimitsSource::Ec2], ec2, ..KnownLimits::default() };
        assert_eq!(known.find(m5_large.instance_type).unwrap(), (m5_large, LimitsSource::Ec2));
    }

    #[test]
    fn cards_of_one_type_may_differ() {
        let limits = Limits::lookup("i7ie.48xlarge".parse().unwrap()).unwrap();
        assert_eq!(limits.enis_per_card.as_ref(), [8, 7]);
        assert_eq!(limits.enis(Card(2)), 0);
    }

    #[test]
    fn bare_metal_takes_prefixes_like_nitro() {
        let metal: Vec<_> = Limits::all().filter(|limits| limits.bare_metal).collect();
        assert_eq!(metal.len(), 163);
        for limits in metal {
            assert_eq!(limits.hypervisor, Hypervisor::Unknown, "{limits:?}");
            assert!(limits.prefixes(), "{limits:?}");
        }
        let xen = Limits::lookup("m4.4xlarge".parse().unwrap()).unwrap();
        assert!(!xen.prefixes());
    }
}
