//! The pods that the kernel shows, and whether they answer: before a move, and after it.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom,
    sendto, socket_with,
};
use serde::{Deserialize, Serialize};
use vpc_ipam_linux::{
    Family, Leads, LinkIndex, Netlink, NetlinkError, Protocol as RouteProtocol, Table,
};

use super::survey::kernel::TO_POD;

/// How long an answer may take: the pod is on this node.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a pod that does not answer is asked.
const TRIES: u16 = 3;

/// A pod as the kernel shows it: a route to its address alone, over a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPod {
    /// Its link.
    pub(crate) link: String,
    /// The index of its link, which a later one of the same name does not have.
    pub(crate) index: u32,
    /// Whether it answered.
    pub(crate) answers: bool,
}

/// The pods of a node, by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPods(pub(crate) BTreeMap<IpAddr, RunningPod>);

/// What became of the pods that ran before a move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Pods that are still there without what leads to them, or that no longer answer, each in words.
    pub(crate) damaged: Vec<String>,
    /// Pods whose links are gone: they were deleted meanwhile.
    pub(crate) gone: Vec<IpAddr>,
}

impl RunningPods {
    /// Lists the pods, and asks each whether it answers.
    pub(crate) fn look(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let mut pods = Self::list(netlink)?;
        let answering = answering(pods.0.keys().copied());
        for (address, pod) in &mut pods.0 {
            pod.answers = answering.contains(address);
        }
        Ok(pods)
    }

    /// Lists the pods without asking them.
    pub(crate) fn list(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let links: BTreeMap<LinkIndex, String> = netlink
            .links()?
            .into_iter()
            .filter(|link| matches!(link.kind.as_deref(), Some("veth" | "vlan")))
            .map(|link| (link.id.index, link.id.name.to_string()))
            .collect();
        let mut pods = BTreeMap::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let entries = netlink.all_routes(family)?;
            let hops: BTreeSet<IpAddr> = entries.iter().filter_map(|it| it.route.gateway).collect();
            for entry in entries {
                let route = entry.route;
                let Leads::Over(index) = entry.leads else { continue };
                let to_pod = route.table != Table::LOCAL
                    && route.protocol != RouteProtocol::KERNEL
                    && route.gateway.is_none()
                    && is_host(route.destination)
                    && !hops.contains(&route.destination.addr())
                    && !is_link_local(route.destination.addr());
                if let (true, Some(link)) = (to_pod, links.get(&index)) {
                    let pod = RunningPod { link: link.clone(), index: index.0, answers: false };
                    pods.insert(route.destination.addr(), pod);
                }
            }
        }
        Ok(Self(pods))
    }

    /// Returns the addresses of pods of either daemon: a route leads there over a link of its own, and a rule to that.
    pub(crate) fn addresses(netlink: &mut dyn Netlink) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let pods = Self::list(netlink)?;
        let mut led_to = BTreeSet::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let rules = netlink.rules(family)?;
            let to_pod = rules.into_iter().filter(|rule| rule.priority == TO_POD);
            let to = to_pod.filter_map(|rule| rule.destination).filter(|net| is_host(*net));
            led_to.extend(to.map(|net| net.addr()).filter(|it| pods.0.contains_key(it)));
        }
        Ok(led_to)
    }

    /// Compares with what there is after a move, given the indexes of the links that there are. A pod that did not answer before need
    /// not answer after it.
    pub(crate) fn compare(&self, after: &Self, links: &BTreeSet<u32>) -> Compared {
        let mut compared = Compared::default();
        for (address, before) in &self.0 {
            match after.0.get(address) {
                _ if !links.contains(&before.index) => compared.gone.push(*address),
                None => compared.damaged.push(format!(
                    "no route leads to the pod {address} any more, whose link {} is there",
                    before.link
                )),
                Some(now) if now.index != before.index => compared.damaged.push(format!(
                    "the route to the pod {address} leads over {}, and its link is {}",
                    now.link, before.link
                )),
                Some(now) if before.answers && !now.answers => compared.damaged.push(format!(
                    "the pod {address} behind {} answered ICMP echo before, and does not any more",
                    before.link
                )),
                Some(_) => {}
            }
        }
        compared
    }
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// Returns which of these addresses answer ICMP echo. Without the right to ask (CAP_NET_RAW) none does.
fn answering(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let mut waiting: BTreeSet<IpAddr> = addresses.collect();
    let mut answered = BTreeSet::new();
    for (family, protocol) in
        [(AddressFamily::INET, ipproto::ICMP), (AddressFamily::INET6, ipproto::ICMPV6)]
    {
        let of_family = |it: &&IpAddr| it.is_ipv4() == (family == AddressFamily::INET);
        let mut left: BTreeSet<IpAddr> = waiting.iter().filter(of_family).copied().collect();
        waiting.retain(|it| !left.contains(it));
        if left.is_empty() {
            continue;
        }
        for number in 0..TRIES {
            // A family that the kernel lacks has no pods.
            answered.extend(ask(family, protocol, &mut left, number).unwrap_or_default());
        }
    }
    answered
}

/// Asks all of these once, and returns those that answered, which are no longer among them.
fn ask(
    family: AddressFamily,
    protocol: Protocol,
    left: &mut BTreeSet<IpAddr>,
    number: u16,
) -> io::Result<BTreeSet<IpAddr>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    let id = (std::process::id() & 0xffff) as u16;
    let deadline = Instant::now() + PATIENCE;
    for address in &*left {
        let request = echo_request(*address, id, number);
        // A pod that cannot be sent to does not answer.
        let _ =
            sendto(&socket, &request, SendFlags::empty(), &core::net::SocketAddr::new(*address, 0));
    }
    let mut answered = BTreeSet::new();
    while !left.is_empty() {
        let Some(rest) = deadline.checked_duration_since(Instant::now()) else { break };
        let timeout =
            Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout))? == 0 {
            break;
        }
        let mut packet = [0; 256];
        let Ok((len, _, from)) = recvfrom(&socket, &mut packet, RecvFlags::empty()) else {
            continue;
        };
        let from = from.and_then(|from| core::net::SocketAddr::try_from(from).ok());
        let is_answer = is_echo_reply(family, packet.get(..len).unwrap_or_default(), id);
        if let (true, Some(from)) = (is_answer, from.map(|it| it.ip()))
            && left.remove(&from)
        {
            answered.insert(from);
        }
    }
    Ok(answered)
}

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// Writes an echo request (RFC 792, RFC 4443). The kernel fills in the checksum of IPv6.
fn echo_request(to: IpAddr, id: u16, number: u16) -> [u8; 16] {
    let mut request = [0; 16];
    request[0] = ECHO_REQUEST[usize::from(to.is_ipv6())];
    request[4..6].copy_from_slice(&id.to_be_bytes());
    request[6..8].copy_from_slice(&number.to_be_bytes());
    request[8..].copy_from_slice(b"vpc-ipam");
    if to.is_ipv4() {
        let sum: u32 =
            request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
        request[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    request
}

/// Returns whether a packet is the answer to a request of this program. IPv4's comes with its header.
fn is_echo_reply(family: AddressFamily, packet: &[u8], id: u16) -> bool {
    let (message, kind) = if family == AddressFamily::INET {
        let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
        (packet.get(header..).unwrap_or_default(), ECHO_REPLY[0])
    } else {
        (packet, ECHO_REPLY[1])
    };
    message.first() == Some(&kind) && message.get(4..6) == Some(&id.to_be_bytes()[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_itself_answers_and_an_address_without_a_host_does_not() {
        let addresses = ["127.0.0.1", "127.0.0.2", "::1", "255.255.255.255"];
        let answered = answering(addresses.iter().map(|it| it.parse().unwrap()));
        for (address, expected) in addresses.iter().zip([true, true, true, false]) {
            assert_eq!(
                answered.contains(&address.parse::<IpAddr>().unwrap()),
                expected,
                "{address}"
            );
        }
    }

    #[test]
    fn pod_without_its_route_is_damaged_and_one_without_its_link_is_gone() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let pod = |index: u32, answers| RunningPod { link: format!("eni{index}"), index, answers };
        let before = RunningPods(
            [
                (address(1), pod(1, true)),
                (address(2), pod(2, true)),
                (address(3), pod(3, true)),
                (address(4), pod(4, true)),
                (address(5), pod(5, false)),
                (address(6), pod(6, true)),
            ]
            .into(),
        );
        let after = RunningPods(
            [
                (address(1), pod(1, true)),
                (address(4), pod(4, false)),
                (address(5), pod(5, false)),
                (address(6), pod(7, true)),
            ]
            .into(),
        );

        let compared = before.compare(&after, &[1, 3, 4, 5, 6, 7].into());

        assert_eq!(compared.gone, [address(2)]);
        let words = ["no route leads to the pod 10.0.0.3", "the pod 10.0.0.4", "leads over eni7"];
        assert_eq!(compared.damaged.len(), words.len(), "{compared:?}");
        for (said, words) in compared.damaged.iter().zip(words) {
            assert!(said.contains(words), "{said}");
        }
    }
}
