//! Leases as tests need them: what a test says nothing of is filled in.

use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::{Card, DeviceIndex, Lease, LeasedInterface, Mac, Pod, PodKey, Timestamp};

/// Returns the lease of the pod `default/NAME`, whose container has the same name, in the network `aws-cni`.
///
/// It was handed out at the epoch and has no serial number; change what matters with its setters.
///
/// # Panics
///
/// If the name is empty or there is no interface.
///
/// ```
/// use vpc_ipam_core::testkit::{lease, leased};
///
/// let lease = lease("web", [leased(0, 1, ["10.0.0.7"]), leased(1, 0, ["10.0.1.7"])]);
/// assert_eq!(lease.first.ipv4, Some([10, 0, 0, 7].into()));
/// assert_eq!(lease.more[0].card.0, 1);
/// ```
pub fn lease(name: &str, interfaces: impl IntoIterator<Item = LeasedInterface>) -> Lease {
    let mut interfaces = interfaces.into_iter();
    let first = interfaces.next().expect("a lease has an interface");
    Lease {
        key: PodKey::new("aws-cni", name, "eth0").expect("a pod has a name"),
        pod: Pod { namespace: "default".into(), name: name.into() }.into(),
        since: Timestamp::EPOCH,
        serial: 0,
        first,
        more: interfaces.collect(),
        addresses_only: false,
        found: Vec::new(),
    }
}

/// Returns an interface with addresses of the ENI in a slot, the primary one at index 0 of card 0. Its id and its MAC address
/// follow from the slot.
///
/// # Panics
///
/// If a text is no address.
pub fn leased<'a>(
    card: u8,
    device: u8,
    addresses: impl IntoIterator<Item = &'a str>,
) -> LeasedInterface {
    let addresses = addresses.into_iter().map(|text| text.parse().expect("an address"));
    let addresses: Vec<IpAddr> = addresses.collect();
    let number = u16::from(card) * 100 + u16::from(device);
    LeasedInterface {
        eni: format!("eni-{number}").parse().expect("an id that is short enough"),
        mac: Mac([2, 0, 0, 0, card, device]),
        card: Card(card),
        device: DeviceIndex(device),
        primary: (card, device) == (0, 0),
        ipv4: addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }),
        ipv6: addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        }),
    }
}
