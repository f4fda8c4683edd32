//! The ends of the veth of a pod: how they are named, and how they are found again.

use sha1::{Digest as _, Sha1};
use vpc_ipam_core::{Mac, Pod, PodKey};

use super::name::{self, parts_of_host_name};
use crate::{Link, Netlink, NetlinkError, VethPrefix};

/// One end of the veth of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// The name of the link.
    pub name: String,
    /// Its MAC address, which follows from the pod's key.
    pub mac: Mac,
}

/// Returns the names and MAC addresses of the veth of an interface.
pub(super) fn veth_ends(
    key: &PodKey,
    pod: &Pod,
    number: u8,
    prefix: &VethPrefix,
) -> (VethEnd, VethEnd) {
    let name = match number {
        0 => key.ifname().to_owned(),
        number => format!("mNicIf{number}"),
    };
    let host = name::host_name(prefix, pod, number);
    (
        VethEnd { name: host, mac: derived_mac(key, number, "host") },
        VethEnd { name, mac: derived_mac(key, number, "pod") },
    )
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
