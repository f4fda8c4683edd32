//! Names of things in EC2 and in CNI.

use alloc::string::String;
use alloc::sync::Arc;
use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

/// The text of an EC2 resource id, held in place so that ids are `Copy` and cost no allocation.
///
/// The longest id EC2 hands out today is an attachment's, `eni-attach-` and 17 digits: 28 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct IdText {
    bytes: [u8; ID_LEN_MAX],
    len: u8,
}

const ID_LEN_MAX: usize = 31;

impl IdText {
    fn parse(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; ID_LEN_MAX];
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if text.is_empty() || text.len() > ID_LEN_MAX || !printable {
            return Err(ParseIdError { text: text.into() });
        }
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        // The length was compared with ID_LEN_MAX above.
        Ok(Self { bytes, len: text.len() as u8 })
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// A text that is not the id of an EC2 resource: empty, longer than 31 bytes, or not printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an EC2 id: expected 1 to 31 printable ASCII characters")]
#[non_exhaustive]
pub struct ParseIdError {
    text: String,
}

macro_rules! ec2_ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(IdText);

        impl $name {
            /// Returns the id as EC2 writes it.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                IdText::parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <alloc::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ec2_ids! {
    /// An elastic network interface, `eni-…`.
    EniId
    /// The attachment of an ENI to an instance, `eni-attach-…`.
    AttachmentId
    /// A subnet of a VPC, `subnet-…`.
    SubnetId
    /// A VPC, `vpc-…`.
    VpcId
    /// An instance, `i-…`.
    InstanceId
    /// A security group, `sg-…`.
    SecurityGroupId
    /// An instance type, such as `m5.large`.
    InstanceType
    /// An availability zone, such as `eu-west-1a`.
    Zone
}

impl InstanceType {
    /// Returns the family: `m5` of `m5.large`.
    ///
    /// ```
    /// use vpc_ipam_core::InstanceType;
    ///
    /// assert_eq!("u-6tb1.metal".parse::<InstanceType>()?.family(), "u-6tb1");
    /// # Ok::<(), vpc_ipam_core::ParseIdError>(())
    /// ```
    pub fn family(&self) -> &str {
        self.as_str().split_once('.').map_or(self.as_str(), |(family, _)| family)
    }
}

/// The MAC address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text that is not a MAC address of six colon-separated hexadecimal bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a MAC address: expected six hexadecimal bytes separated by colons")]
#[non_exhaustive]
pub struct ParseMacError {
    text: String,
}

impl FromStr for Mac {
    type Err = ParseMacError;

    /// Reads either case, as IMDS, EC2 and the kernel write it.
    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let error = || ParseMacError { text: text.into() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <alloc::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The index of a network card of an instance; all but the largest types have card 0 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Card(pub u8);

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "card {}", self.0)
    }
}

/// The index of an ENI on its network card; the primary ENI is device 0 of card 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct DeviceIndex(pub u8);

impl fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// What names an attachment of a container to a network, as the CNI specification has it: network name, container id and
/// interface name together.
///
/// ADD, CHECK and DEL of one attachment carry the same key. Cloning costs no allocation.
///
/// ```
/// use vpc_ipam_core::PodKey;
///
/// let key = PodKey::new("aws-cni", "4fb1…", "eth0")?;
/// assert_eq!(key.to_string(), "aws-cni/4fb1…/eth0");
/// assert!(PodKey::new("aws-cni", "", "eth0").is_err());
/// # Ok::<(), vpc_ipam_core::EmptyKeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// How the container's id begins, the first byte highest: that alone tells most keys apart, without a look at the rest.
    head: u64,
    parts: Arc<KeyParts>,
}

/// The container comes first because it tells keys apart soonest.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct KeyParts {
    container: String,
    ifname: String,
    network: String,
}

/// A key with an empty part: it would be shared by pods that have nothing in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {part} is empty: network name, container id and interface name are all needed to tell pods apart"
)]
#[non_exhaustive]
pub struct EmptyKeyError {
    part: &'static str,
}

impl PodKey {
    /// Makes a key from the network's name, the container's id and the interface's name inside the container.
    pub fn new(network: &str, container: &str, ifname: &str) -> Result<Self, EmptyKeyError> {
        let parts =
            [("network name", network), ("container id", container), ("interface name", ifname)];
        if let Some((part, _)) = parts.into_iter().find(|(_, text)| text.is_empty()) {
            return Err(EmptyKeyError { part });
        }
        // Filled up with zeros, which come before all else: heads are in the order of the ids that they begin.
        let mut head = [0; 8];
        head.iter_mut().zip(container.bytes()).for_each(|(to, from)| *to = from);
        let head = u64::from_be_bytes(head);
        let parts = KeyParts {
            container: container.into(),
            ifname: ifname.into(),
            network: network.into(),
        };
        Ok(Self { head, parts: Arc::new(parts) })
    }

    /// Returns the name of the network: `name` in the network configuration.
    pub fn network(&self) -> &str {
        &self.parts.network
    }

    /// Returns the id of the container: `CNI_CONTAINERID`.
    pub fn container(&self) -> &str {
        &self.parts.container
    }

    /// Returns the name of the interface inside the container: `CNI_IFNAME`.
    pub fn ifname(&self) -> &str {
        &self.parts.ifname
    }
}

impl Ord for PodKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.head.cmp(&other.head) {
            // Who looks a key up often has a clone of it.
            Ordering::Equal if Arc::ptr_eq(&self.parts, &other.parts) => Ordering::Equal,
            Ordering::Equal => self.parts.cmp(&other.parts),
            unequal => unequal,
        }
    }
}

impl PartialOrd for PodKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network(), self.container(), self.ifname())
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
mod key_serde {
    use super::{PodKey, String};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Fields {
        network: String,
        container: String,
        ifname: String,
    }

    impl serde::Serialize for PodKey {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Fields {
                network: self.network().into(),
                container: self.container().into(),
                ifname: self.ifname().into(),
            }
            .serialize(serializer)
        }
    }

    impl<'de> serde::Deserialize<'de> for PodKey {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let Fields { network, container, ifname } = Fields::deserialize(deserializer)?;
            Self::new(&network, &container, &ifname).map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn ids_keep_their_text() {
        let longest = "x".repeat(ID_LEN_MAX);
        for text in ["eni-0123456789abcdef0", "e0", longest.as_str()] {
            assert_eq!(text.parse::<EniId>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
        let too_long = "x".repeat(ID_LEN_MAX + 1);
        for text in ["", " eni-1", "eni\u{e9}", too_long.as_str()] {
            assert!(text.parse::<EniId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_sort_as_their_text() {
        let sorted = ["eni-1", "eni-10", "eni-2"].map(|t| t.parse::<EniId>().unwrap());
        assert!(sorted.is_sorted());
    }

    #[test]
    fn macs_are_read_in_either_case_and_written_in_lower() {
        let cases = [
            ("02:00:0A:00:00:0a", Some("02:00:0a:00:00:0a")),
            ("02:00:0a:00:00", None),
            ("02:00:0a:00:00:0a:0b", None),
            ("2:0:a:0:0:a", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let actual = text.parse::<Mac>().ok().map(|mac| mac.to_string());
            assert_eq!(actual.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn keys_sort_by_container_interface_and_network() {
        let sorted = [
            ("n", "a", "i"),
            ("n", "a\0", "i"),
            ("n", "aaaaaaaa", "i"),
            ("n", "aaaaaaaa1", "i"),
            ("n", "aaaaaaaa2", "h"),
            ("m", "aaaaaaaa2", "i"),
            ("n", "aaaaaaaa2", "i"),
            ("a", "b", "a"),
            ("a", "\u{e9}", "a"),
        ];
        let sorted = sorted
            .map(|(network, container, ifname)| PodKey::new(network, container, ifname).unwrap());
        for pair in sorted.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        let again = PodKey::new("n", "aaaaaaaa2", "i").unwrap();
        assert_eq!(sorted[6].cmp(&again), Ordering::Equal);
    }

    #[test]
    fn key_with_an_empty_part_is_refused() {
        for parts in [["", "c", "i"], ["n", "", "i"], ["n", "c", ""]] {
            assert!(PodKey::new(parts[0], parts[1], parts[2]).is_err(), "{parts:?}");
        }
    }
}
