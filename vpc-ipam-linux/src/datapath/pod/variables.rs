//! Kernel variables of the links between pods and the host: a pod may neither steer the node nor use it to pose as another host.
//!
//! The kernel combines what a link has with what `all` has, each in its own way:
//!
//! | variable | of both counts | so |
//! |---|---|---|
//! | IPv4 `accept_redirects` of a link that forwards, `accept_source_route` | the lesser | the link's own 0 decides |
//! | `send_redirects` | the greater | `all` has to be 0 too, and is 1 unless it was set: [`host`](crate::host) sets it |
//! | `proxy_arp`, `proxy_ndp`, `accept_local` | the greater | where another program set `all`, that holds, and [`NodeNetwork::diff`](crate::NodeNetwork::diff) tells |
//! | `rp_filter` | the greater | 2 makes 1 loose, but for links without an address, as these; nft or iptables check besides |
//! | IPv6 `accept_ra`, `accept_redirects`, `forwarding` | the link's own | |
//!
//! In a pod none of `all` and `default` is touched: they are the pod's, and the runtime may have set them for it.

use crate::{Sysctl, SysctlKey};

/// What is safe for either end, of IPv6.
const IPV6: [(&str, &str); 4] = [
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("proxy_ndp", "0"),
];

/// The same of IPv4.
const IPV4: [(&str, &str); 5] = [
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("proxy_arp", "0"),
    ("accept_local", "0"),
];

/// How the kernel checks the sources of what comes in by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceFilter {
    /// The way back has to lead by the same link.
    Strict,
    /// There has to be some way back. Rules that look at where a packet came in are not asked for it unless it is passed on, so
    /// where only those lead to the pod, a strict check would refuse what is for the node itself.
    Loose,
    /// None. On a link without an address of its own, as the host's end of a veth, the kernel takes a loose check for a strict one.
    Off,
}

impl SourceFilter {
    /// Returns the value of `rp_filter`.
    pub(crate) fn value(self) -> u8 {
        match self {
            Self::Strict => 1,
            Self::Loose => 2,
            Self::Off => 0,
        }
    }
}

/// Returns the variables of a link on the host at whose other end is a pod, or the network of a pod's own ENI.
pub(super) fn of_host_end(link: &str, filter: SourceFilter) -> Vec<Sysctl> {
    let filter = filter.value().to_string();
    let ipv6 = IPV6.into_iter().chain([("forwarding", "0")]).map(|it| ipv6(link, it));
    let ipv4 = IPV4.into_iter().chain([("rp_filter", &*filter)]).map(|it| ipv4(link, it));
    ipv6.chain(ipv4).collect()
}

/// Returns the variables that a pod's end of a link is born with, by family. What the pod makes of them later is its own business.
pub(super) fn of_new_pod_end(link: &str) -> (Vec<Sysctl>, Vec<Sysctl>) {
    (
        IPV4.into_iter().map(|it| ipv4(link, it)).collect(),
        IPV6.into_iter().map(|it| ipv6(link, it)).collect(),
    )
}

fn ipv4(link: &str, (name, value): (&str, &str)) -> Sysctl {
    // A link that is gone by now takes its variables along.
    let key = SysctlKey::ipv4_of_link(link, name);
    Sysctl { key, value: value.to_owned(), optional: true }
}

fn ipv6(link: &str, (name, value): (&str, &str)) -> Sysctl {
    // And a kernel without IPv6 has none.
    let key = SysctlKey::ipv6_of_link(link, name);
    Sysctl { key, value: value.to_owned(), optional: true }
}
