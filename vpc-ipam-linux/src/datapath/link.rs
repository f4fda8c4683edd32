//! The links of ENIs, and the link-local addresses of links.

use core::net::Ipv6Addr;

use ipnet::Ipv6Net;
use vpc_ipam_core::Mac;

use crate::kernel::network::{Address, Link, Scope};

/// No link has the MAC address of the ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link has the MAC address {mac}: not attached yet, or in another namespace?")]
pub struct LinkMissingError {
    /// The MAC address.
    pub mac: Mac,
}

/// Finds the link of an ENI among all.
///
/// A link that lies on top of the ENI's may bear its MAC address: hardware comes first, then what lies on nothing, and
/// of several the oldest.
pub fn link_by_mac(links: &[Link], mac: Mac) -> Result<&Link, LinkMissingError> {
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    let order = |link: &&Link| {
        let lies_on_another = link.lower.is_some() && !is_veth(link);
        (link.kind.is_some(), lies_on_another, link.id.index)
    };
    let bearers = links.iter().filter(|link| link.mac == Some(mac));
    bearers.min_by_key(order).ok_or(LinkMissingError { mac })
}

/// Returns the link-local address that follows from a MAC address, as the kernel would make it (EUI-64).
pub(crate) fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Address {
    let [ab, cx, xd, ef] = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, ab, cx, xd, ef);
    Address { net: Ipv6Net::new_assert(address, 64).into(), scope: Scope::Link }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::network::{LinkId, LinkIndex};

    #[test]
    fn link_of_an_eni_is_told_from_links_on_top_of_it() {
        let mac = Mac([2, 0, 10, 0, 0, 20]);
        let link = |index, kind: Option<&str>, lower| Link {
            id: LinkId::new(LinkIndex(index), &format!("l{index}")),
            mac: Some(mac),
            mtu: 9001,
            up: true,
            kind: kind.map(str::to_owned),
            lower: Some(LinkIndex(lower)).filter(|lower| lower.0 > 0),
            alias: None,
        };
        let cases = [
            ("hardware", vec![link(3, Some("vlan"), 9), link(9, None, 0)], Some(9)),
            ("stand-in", vec![link(3, Some("macvlan"), 4), link(4, Some("veth"), 7)], Some(4)),
            ("oldest", vec![link(5, None, 0), link(4, None, 0)], Some(4)),
            ("none", vec![], None),
        ];
        for (case, links, expected) in cases {
            let actual = link_by_mac(&links, mac).map(|link| link.id.index.0);
            assert_eq!(actual.ok(), expected, "{case}");
        }
    }
}
