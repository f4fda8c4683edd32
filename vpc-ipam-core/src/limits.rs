//! How much an instance type can hold.

mod table;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::{Card, InstanceType};

/// What EC2 allows an instance of one type to have.
///
/// [`Limits::lookup`] knows the types of the table that ships with this crate. For a newer type, ask EC2
/// (DescribeInstanceTypes) or the operator, and fill the fields: every combination is usable, zeroes included.
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
pub struct Limits {
    /// The type.
    pub instance_type: InstanceType,
    /// How many ENIs each network card takes; the index is the card's.
    pub enis_per_card: Cow<'static, [u8]>,
    /// The card that carries the primary ENI; 0 for every type known.
    pub default_card: Card,
    /// How many IPv4 addresses an ENI takes, its own included. A /28 prefix takes one place.
    pub ipv4_per_eni: u16,
    /// How many IPv6 addresses an ENI takes, 0 without IPv6. A /80 prefix takes one place.
    pub ipv6_per_eni: u16,
    /// What it runs on.
    pub hypervisor: Hypervisor,
    /// Whether it is a whole machine; such a type has no hypervisor, and every feature of Nitro.
    pub bare_metal: bool,
    /// Virtual CPUs, as launched by default.
    pub vcpus: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How many branch ENIs a trunk carries, 0 if the type takes no trunk, `None` if that is not known: EC2 does not tell.
    pub branch_enis: Option<u16>,
}

/// What an instance runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Hypervisor {
    /// AWS's own, on which ENIs take prefixes.
    Nitro,
    /// The older one, without prefixes.
    Xen,
    /// EC2 does not say, as for bare metal.
    Unknown,
}

/// An instance type that the table does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "instance type {instance_type} is not in the built-in table of {} types: ask EC2 for it (DescribeInstanceTypes), \
     give its limits in an override file, or update vpc-ipam",
    table::TABLE.len()
)]
pub struct UnknownInstanceTypeError {
    /// The type.
    pub instance_type: InstanceType,
}

impl Limits {
    /// Returns the limits of a type in the built-in table.
    pub fn lookup(instance_type: InstanceType) -> Result<Self, UnknownInstanceTypeError> {
        let found = table::TABLE.binary_search_by(|row| row.name.cmp(instance_type.as_str()));
        match found {
            Ok(index) => Ok(table::TABLE[index].limits(instance_type)),
            Err(_) => Err(UnknownInstanceTypeError { instance_type }),
        }
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
}

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
    }
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
}

impl Row {
    /// Returns how many branch ENIs a trunk of the type carries, as far as AWS's documents tell: the guide to security
    /// groups for pods wants Nitro and excludes the t family, and the EKS best practices name 9 for m5.large.
    fn branch_enis(&self) -> Option<u16> {
        let (family, _) = self.name.split_once('.').unwrap_or((self.name, ""));
        let burstable =
            family.starts_with('t') && family[1..].starts_with(|c: char| c.is_ascii_digit());
        match self.name {
            _ if burstable || self.hypervisor == Hypervisor::Xen => Some(0),
            "m5.large" => Some(9),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors V238 to V240.
    #[test]
    fn types_that_take_no_trunk_are_known() {
        let cases = [
            ("m8g.12xlarge", None),
            ("i3.2xlarge", Some(0)),
            ("t3.large", Some(0)),
            ("trn1.32xlarge", None),
            ("m5.large", Some(9)),
        ];
        for (name, expected) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            assert_eq!(limits.branch_enis, expected, "{name}");
        }
    }

    #[test]
    fn every_type_of_the_table_is_found_by_its_name() {
        assert_eq!(Limits::all().len(), 1395);
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
    fn cards_of_one_type_may_differ() {
        let limits = Limits::lookup("i7ie.48xlarge".parse().unwrap()).unwrap();
        assert_eq!(limits.enis_per_card.as_ref(), [8, 7]);
        assert_eq!(limits.enis(Card(2)), 0);
    }

    #[test]
    fn bare_metal_takes_prefixes_like_nitro() {
        let metal: Vec<_> = Limits::all().filter(|limits| limits.bare_metal).collect();
        assert_eq!(metal.len(), 154);
        for limits in metal {
            assert_eq!(limits.hypervisor, Hypervisor::Unknown, "{limits:?}");
            assert!(limits.prefixes(), "{limits:?}");
        }
        let xen = Limits::lookup("m4.4xlarge".parse().unwrap()).unwrap();
        assert!(!xen.prefixes());
    }
}
