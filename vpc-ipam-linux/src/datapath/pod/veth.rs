//! The ends of the veth of a pod: how they are named, and how they are found again.

use sha1::{Digest as _, Sha1};
use vpc_ipam_core::{FoundLink, Mac, Pod, PodKey};

use super::name::{self, parts_of_host_name};
use crate::{Link, Netlink, NetlinkError, VethPrefix};

/// The host's end of the veth of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// The name of the link.
    pub name: String,
    /// Its MAC address, which follows from the pod's key unless another program made the link.
    pub mac: Mac,
}

/// The pod's end of its veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEnd {
    /// The name of the link.
    pub name: String,
    /// Its MAC address, which follows from the pod's key; `None` of a link that another program made, until it is looked at.
    pub mac: Option<Mac>,
}

/// Returns the names and MAC addresses of the veth of an interface.
pub(super) fn veth_ends(
    key: &PodKey,
    pod: &Pod,
    number: u8,
    prefix: &VethPrefix,
) -> (VethEnd, PodEnd) {
    let host = name::host_name(prefix, pod, number);
    (
        VethEnd { name: host, mac: derived_mac(key, number, "host") },
        PodEnd { name: name_in_pod(key, number), mac: Some(derived_mac(key, number, "pod")) },
    )
}

/// Returns the names and MAC addresses of the veth of an interface that was found. One with the MAC address that follows from the key
/// is this program's own, of an earlier state file.
pub(super) fn found_ends(key: &PodKey, number: u8, found: &FoundLink) -> (VethEnd, PodEnd) {
    let own = found.mac == derived_mac(key, number, "host");
    (
        VethEnd { name: found.name.clone(), mac: found.mac },
        PodEnd {
            name: name_in_pod(key, number),
            mac: own.then(|| derived_mac(key, number, "pod")),
        },
    )
}

fn name_in_pod(key: &PodKey, number: u8) -> String {
    match number {
        0 => key.ifname().to_owned(),
        number => format!("mNicIf{number}"),
    }
}

/// Returns the pod's end of a veth of which the host's end is known, if both are there.
pub(super) fn other_end(
    pod: &mut dyn Netlink,
    end: &PodEnd,
    outside: &Link,
) -> Result<Option<Link>, NetlinkError> {
    let joined = |inside: &Link| {
        (outside.lower, inside.lower) == (Some(inside.id.index), Some(outside.id.index))
            && end.mac.is_none_or(|mac| inside.mac == Some(mac))
    };
    Ok(pod.link(&end.name)?.filter(joined))
}

/// Derives a locally administered MAC address, which distinguishes an end of the veth from that of another pod with the
/// same name.
pub(super) fn derived_mac(key: &PodKey, number: u8, end: &str) -> Mac {
    let text = format!("{key}/{number}/{end}");
    let digest = Sha1::digest(text.as_bytes());
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| digest[i]);
    Mac([(a | 0x02) & 0xfe, b, c, d, e, f])
}

/// Returns an end of a veth, if it is there. The name alone does not show it: a new pod of the same name has it too.
pub(super) fn with_mac(
    netlink: &mut dyn Netlink,
    end: &VethEnd,
) -> Result<Option<Link>, NetlinkError> {
    Ok(netlink.link(&end.name)?.filter(|link| link.mac == Some(end.mac)))
}

/// Returns the host's end of a veth that was made when names began otherwise.
pub(super) fn with_mac_by_any_name(
    host: &mut dyn Netlink,
    end: &VethEnd,
) -> Result<Option<Link>, NetlinkError> {
    let expected = parts_of_host_name(&end.name).map(|(_, digits)| digits);
    let is_it = |link: &Link| {
        let digits = parts_of_host_name(&link.id.name).map(|(_, digits)| digits);
        link.mac == Some(end.mac) && digits == expected
    };
    Ok(host.links()?.into_iter().find(is_it))
}
