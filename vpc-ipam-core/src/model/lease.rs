//! Which pod holds which address.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Card, DeviceIndex, EniId, Mac, PodKey, Timestamp};

/// The pod that an attachment belongs to, for naming its veth and for people; it identifies nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, or the container's id where the runtime passes no `K8S_POD_NAME`.
    pub name: String,
}

impl Pod {
    /// Returns the pod of that namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

setters!(Pod {
    with_namespace namespace: String,
    with_name name: String,
});

/// The addresses that a pod may use: recorded durably, confirmed by EC2, on an ENI that the node has set up.
///
/// The first interface is apart from the others because nearly every pod has just one, and granting it should not
/// allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Lease {
    /// The interface of the pod that holds it.
    pub key: PodKey,
    /// The pod, for people.
    pub pod: Arc<Pod>,
    /// When it was handed out first.
    pub since: Timestamp,
    /// Tells it from every other lease of the node, earlier ones of the same pod included; 0 in records of releases that
    /// had none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub serial: u64,
    /// The interface named by [`PodKey::ifname`].
    pub first: LeasedInterface,
    /// Those of a pod with an interface on several network cards.
    pub more: Vec<LeasedInterface>,
    /// Whether another program makes the pod's links, so that the node keeps nothing in the kernel for it.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "core::ops::Not::not"))]
    pub addresses_only: bool,
    /// The links of a pod that another program set up, in the order of the interfaces; none of a pod whose links follow from the
    /// lease. See [`Ipam::import`](crate::Ipam::import).
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub found: Vec<FoundLink>,
}

impl Lease {
    /// Returns a lease of one interface, as a store reads it back. To make one of an address, see [`Uncommitted`].
    pub fn new(
        key: PodKey,
        pod: impl Into<Arc<Pod>>,
        since: Timestamp,
        first: LeasedInterface,
    ) -> Self {
        let (serial, more, addresses_only, found) = (0, Vec::new(), false, Vec::new());
        Self { key, pod: pod.into(), since, serial, first, more, addresses_only, found }
    }
}

setters!(Lease {
    with_key key: PodKey,
    with_pod pod: Arc<Pod>,
    with_since since: Timestamp,
    with_serial serial: u64,
    with_first first: LeasedInterface,
    with_more more: Vec<LeasedInterface>,
    with_addresses_only addresses_only: bool,
    with_found found: Vec<FoundLink>,
});

impl Lease {
    /// Returns the interfaces, the one named by the key first.
    pub fn interfaces(&self) -> impl Iterator<Item = &LeasedInterface> {
        core::iter::once(&self.first).chain(&self.more)
    }

    /// Returns every address of every interface.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces().flat_map(LeasedInterface::addresses)
    }

    /// Returns whether another program set the pod up, and its links are as they were found.
    pub fn is_imported(&self) -> bool {
        !self.found.is_empty()
    }
}

/// The host's end of a link that another program made for a pod, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FoundLink {
    /// Its name when it was found.
    pub name: String,
    /// Its MAC address, by which the node finds it again under any name.
    pub mac: Mac,
    /// The route table to which a rule led what the pod sends; `None` without such a rule, as on the primary ENI: then it follows from
    /// the ENI.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub table: Option<u32>,
}

impl FoundLink {
    /// Returns a link without a rule.
    pub fn new(name: impl Into<String>, mac: Mac) -> Self {
        Self { name: name.into(), mac, table: None }
    }
}

setters!(FoundLink {
    with_name name: String,
    with_mac mac: Mac,
    with_table table: Option<u32>,
});

/// The addresses of one interface of a pod, and the ENI that carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "StoredInterface"))]
#[non_exhaustive]
pub struct LeasedInterface {
    /// The ENI that carries the addresses.
    pub eni: EniId,
    /// The MAC address of the ENI, by which the node finds its link.
    pub mac: Mac,
    /// The network card of the ENI.
    pub card: Card,
    /// Its index on that card.
    pub device: DeviceIndex,
    /// Whether it is the primary ENI, whose addresses need no route table of their own.
    pub primary: bool,
    /// The IPv4 address, on nodes that give one.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address, on nodes that give one.
    pub ipv6: Option<Ipv6Addr>,
}

impl LeasedInterface {
    /// Returns an interface without addresses, on a secondary ENI.
    pub fn new(eni: EniId, mac: Mac, card: Card, device: DeviceIndex) -> Self {
        Self { eni, mac, card, device, primary: false, ipv4: None, ipv6: None }
    }
}

setters!(LeasedInterface {
    with_eni eni: EniId,
    with_mac mac: Mac,
    with_card card: Card,
    with_device device: DeviceIndex,
    with_primary primary: bool,
    with_ipv4 ipv4: Option<Ipv4Addr>,
    with_ipv6 ipv6: Option<Ipv6Addr>,
});

/// A [`LeasedInterface`] as it may be stored. Records of releases before 0.1 did not say which ENI was the primary one, and
/// took it to be the one at device index 0 of card 0.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct StoredInterface {
    eni: EniId,
    mac: Mac,
    card: Card,
    device: DeviceIndex,
    primary: Option<bool>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

#[cfg(feature = "serde")]
impl From<StoredInterface> for LeasedInterface {
    fn from(stored: StoredInterface) -> Self {
        let StoredInterface { eni, mac, card, device, primary, ipv4, ipv6 } = stored;
        let primary = primary.unwrap_or(card == Card(0) && device == DeviceIndex(0));
        Self { eni, mac, card, device, primary, ipv4, ipv6 }
    }
}

impl LeasedInterface {
    /// Returns whether the primary ENI carries the addresses, so that they need no route table of their own.
    pub fn on_primary(&self) -> bool {
        self.primary
    }

    /// Returns the addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv4 = self.ipv4.map(IpAddr::V4);
        ipv4.into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// What an ADD asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AddressRequest {
    /// The interface of the pod that wants addresses.
    pub key: PodKey,
    /// The pod, for people.
    pub pod: Arc<Pod>,
    /// On which network cards.
    pub cards: CardChoice,
    /// Whether another program makes the pod's links, so that the node keeps nothing in the kernel for it.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "core::ops::Not::not"))]
    pub addresses_only: bool,
}

impl AddressRequest {
    /// Returns a request for an interface on one network card, whichever has an address.
    pub fn new(key: PodKey, pod: impl Into<Arc<Pod>>) -> Self {
        Self { key, pod: pod.into(), cards: CardChoice::Any, addresses_only: false }
    }
}

setters!(AddressRequest {
    with_key key: PodKey,
    with_pod pod: Arc<Pod>,
    with_cards cards: CardChoice,
    with_addresses_only addresses_only: bool,
});

/// On which network cards a pod wants an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CardChoice {
    /// On one, whichever has an address; the lowest first.
    #[default]
    Any,
    /// On each that is in use: amazon-vpc-cni-k8s' annotation `k8s.amazonaws.com/nicConfig: multi-nic-attachment`.
    Every,
    /// On the card of this ENI, with an address of this ENI and no other: the program that makes the pod's links sends by one link.
    On(EniId),
}

/// A lease that is not durable yet, so that a crash would give its address to another pod.
///
/// Write [`Uncommitted::record`] to stable storage, many at once if you like, then hand this to
/// [`Ipam::commit`](crate::Ipam::commit), or to [`Ipam::abandon`](crate::Ipam::abandon) if the write failed or may have
/// failed. There is no other way to a [`Lease`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the address stays taken until the lease is committed or abandoned"]
pub struct Uncommitted {
    pub(crate) lease: Lease,
}

impl Uncommitted {
    /// Returns what to write to stable storage.
    pub fn record(&self) -> Record {
        Record::Leased(self.lease.clone())
    }

    /// Returns whose lease it is.
    pub fn key(&self) -> &PodKey {
        &self.lease.key
    }

    /// Returns whether another program makes the pod's links.
    pub fn is_addresses_only(&self) -> bool {
        self.lease.addresses_only
    }

    /// Returns the addresses that it is to hold.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.lease.addresses()
    }
}

/// What must survive a restart. Write records in the order in which they were produced.
///
/// A store keeps [`Record::Leased`] by key and [`Record::Released`] by address; a later one replaces an earlier one. To
/// write a `Released` is to delete the lease of the same key in the same transaction. Exhaustive on purpose: a store that does not know
/// a kind of record loses it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Record {
    /// A pod holds a lease.
    Leased(Lease),
    /// A pod has no lease any more; its addresses are cooling.
    Released {
        /// The pod that ended.
        key: PodKey,
        /// What it held; nothing if it never was told of its lease.
        addresses: Vec<IpAddr>,
        /// Since when the addresses cool.
        at: Timestamp,
    },
}

impl Record {
    /// Returns what to write when a lease was not made durable, or perhaps was: that there is no such lease. Its addresses need
    /// no cooldown, since no pod had them, unless it was imported.
    pub(crate) fn undone(lease: &Lease, at: Timestamp) -> Self {
        if lease.is_imported() {
            return Self::released(lease, at);
        }
        Self::Released { key: lease.key.clone(), addresses: Vec::new(), at }
    }

    /// Returns what to write when a pod was deleted.
    pub fn released(lease: &Lease, at: Timestamp) -> Self {
        Self::Released { key: lease.key.clone(), addresses: lease.addresses().collect(), at }
    }
}
