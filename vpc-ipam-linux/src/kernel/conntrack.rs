//! Connections that the kernel remembers.

#[cfg(feature = "testkit")]
pub(crate) mod testkit;

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{
    NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer,
    NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::kernel::netlink::{Framed, frames};
use crate::{Namespace, NamespaceError};

/// A failure to make the kernel forget connections.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConntrackError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel could not be talked to.
    #[error("forget the connections of released addresses")]
    Netlink {
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Makes the kernel forget the connections of addresses, and returns how many that were.
///
/// What arrives late for the pod that had an address would otherwise be translated for the one that has it next, and a
/// connection of the next one with the same ports would be taken for the old. A kernel that tracks no connections has
/// none to forget.
///
/// The kernel walks all of its table twice for each of a few IPv4 addresses, and otherwise hands all of it out (as it always does
/// before Linux 5.8): flush many at once.
pub fn flush_conntrack(
    namespace: &Namespace,
    addresses: &BTreeSet<IpAddr>,
) -> Result<usize, ConntrackError> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let flushed = namespace.run(|| flush(addresses))?;
    match flushed {
        Err(error) if is(&error, &[Errno::PROTONOSUPPORT]) => Ok(0),
        other => other.map_err(|source| ConntrackError::Netlink { source }),
    }
}

// From linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = NFNL_SUBSYS_CTNETLINK | 1;
const IPCTNL_MSG_CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_FLAG_IP_SRC: u32 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;

const NFGENMSG_LEN: usize = 4;
const HEADER_LEN: usize = 16;
/// The kernel makes datagrams of at most 32 kB unless a single message needs more.
const DATAGRAM_LEN: usize = 64 * 1024;

fn flush(addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
    const PATIENCE: core::time::Duration = core::time::Duration::from_secs(10);
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(PATIENCE))?;
    let mut entries = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let of_family: BTreeSet<IpAddr> =
            addresses.iter().filter(|it| it.is_ipv4() == (family == AF_INET)).copied().collect();
        if !of_family.is_empty() {
            entries.extend(list(&socket, family, &of_family)?);
        }
    }
    let mut forgotten = 0;
    for entry in &entries {
        forgotten += usize::from(delete(&socket, entry)?);
    }
    Ok(forgotten)
}

/// What tells one connection from another: its family, and attributes as the kernel wrote them.
struct Entry {
    family: u8,
    attributes: Vec<u8>,
}

/// Up to so many addresses the kernel picks their connections out. To hand out all that are of none takes it as long as to walk
/// past them six times (measured with 150,000, Linux 6.18).
const PICKED_MAX: usize = 3;

fn list(socket: &Socket, family: u8, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Entry>> {
    let ipv4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    // Of IPv6 the kernel picks out those that have any other address (seen with Linux 6.18).
    if family != AF_INET || addresses.len() > PICKED_MAX {
        return Ok(list_with(socket, family, addresses, &[])?.0);
    }
    let mut entries = Vec::new();
    for address in ipv4 {
        for end in [ORIGIN, REPLY] {
            let (picked, more) = list_with(socket, family, addresses, &sent_by(address, end))?;
            if more > 0 {
                // A kernel that does not know of filters handed out all.
                return Ok(picked);
            }
            entries.extend(picked);
        }
    }
    Ok(entries)
}

/// The end of a connection that a filter looks at.
type End = (u16, u16);
const ORIGIN: End = (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS);
const REPLY: End = (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS);

/// Returns the attributes by which the kernel picks out the connections of which an address is the source at one end.
fn sent_by(address: Ipv4Addr, (tuple, flags): End) -> Vec<u8> {
    let source = attribute(CTA_IP_V4_SRC, &address.octets());
    let tuple = nested(tuple, &nested(CTA_TUPLE_IP, &source));
    let filter = attribute(flags, &CTA_FILTER_FLAG_IP_SRC.to_ne_bytes());
    [tuple, nested(CTA_FILTER, &filter)].concat()
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, value)
}

/// Returns an attribute whose value is a multiple of 4 bytes long, as all of these are.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // None of these is as long as that.
    let len = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap_or(u16::MAX);
    [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// Returns what identifies the connections of addresses among those that the kernel picks out by some attributes, and how many
/// other connections it handed out.
fn list_with(
    socket: &Socket,
    family: u8,
    addresses: &BTreeSet<IpAddr>,
    attributes: &[u8],
) -> io::Result<(Vec<Entry>, usize)> {
    send(socket, IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, attributes)?;
    let (mut entries, mut more) = (Vec::new(), 0);
    loop {
        let datagram = receive(socket)?;
        for frame in frames(&datagram) {
            match frame {
                Framed::Done => return Ok((entries, more)),
                Framed::Refused(errno) => return Err(errno),
                Framed::Message(payload) => match entry(payload, addresses) {
                    Some(entry) => entries.push(entry),
                    None => more += 1,
                },
            }
        }
    }
}

/// Returns what identifies a connection if one of the addresses is an end of it that is no translation: its origin, or who
/// answers.
fn entry(payload: &[u8], addresses: &BTreeSet<IpAddr>) -> Option<Entry> {
    let family = *payload.first()?;
    let mut attributes = Vec::new();
    let mut concerned = false;
    for attribute in NlasIterator::new(payload.get(NFGENMSG_LEN..)?).map_while(Result::ok) {
        let kind = attribute.kind();
        if matches!(kind, CTA_TUPLE_ORIG | CTA_TUPLE_REPLY) {
            concerned |= source(attribute.value()).is_some_and(|it| addresses.contains(&it));
        }
        if matches!(kind, CTA_TUPLE_ORIG | CTA_ID | CTA_ZONE) {
            let len = usize::from(attribute.length());
            let whole = attribute.into_inner();
            attributes.extend(whole.get(..len)?);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
    }
    concerned.then_some(Entry { family, attributes })
}

fn source(tuple: &[u8]) -> Option<IpAddr> {
    let mut parts = NlasIterator::new(tuple).map_while(Result::ok);
    let ip = parts.find(|part| part.kind() == CTA_TUPLE_IP)?;
    NlasIterator::new(ip.value()).map_while(Result::ok).find_map(|part| {
        let value = part.value();
        match part.kind() {
            CTA_IP_V4_SRC => value.try_into().ok().map(|bytes: [u8; 4]| IpAddr::from(bytes)),
            CTA_IP_V6_SRC => value.try_into().ok().map(|bytes: [u8; 16]| IpAddr::from(bytes)),
            _ => None,
        }
    })
}

/// Returns whether the connection was there; it may have ended meanwhile.
fn delete(socket: &Socket, entry: &Entry) -> io::Result<bool> {
    send(socket, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, entry.family, &entry.attributes)?;
    let datagram = receive(socket)?;
    match frames(&datagram).next() {
        Some(Framed::Refused(error)) if is(&error, &[Errno::NOENT]) => Ok(false),
        Some(Framed::Refused(error)) => Err(error),
        Some(Framed::Done | Framed::Message(_)) | None => Ok(true),
    }
}

fn send(socket: &Socket, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
    let len = HEADER_LEN + NFGENMSG_LEN + attributes.len();
    let mut message = vec![0; len];
    let mut buffer = NetlinkBuffer::new(&mut message);
    // No message of this kind comes near 4 GiB.
    buffer.set_length(u32::try_from(len).unwrap_or(u32::MAX));
    buffer.set_message_type(kind);
    buffer.set_flags(NLM_F_REQUEST | flags);
    message[HEADER_LEN] = family;
    message[HEADER_LEN + NFGENMSG_LEN..].copy_from_slice(attributes);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0).map(drop)
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
        match socket.recv_from(&mut datagram, 0) {
            Ok((_, from)) if from.port_number() == 0 => return Ok(datagram),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use super::*;

    #[test]
    fn kernel_hands_out_the_connections_of_the_address_that_is_asked_for_alone() {
        let name = format!("vit-{}-conntrack", std::process::id());
        let namespace = Namespace::create(&name).unwrap_or_else(|error| {
            panic!("this test makes a network namespace, run it as root: {error}")
        });
        let _removed = Removed(name);
        let run = |program: &str, arguments: &str| {
            let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "{program} {arguments}: {output:?}");
        };
        let in_namespace = || {
            run("ip", "link set lo up");
            run("ip", "addr add 10.0.0.7/32 dev lo");
            // Connections are tracked where a rule looks at them.
            run("nft", "add table inet any");
            run("nft", "add chain inet any out { type filter hook output priority 0 ; }");
            run("nft", "add rule inet any out ct state new counter");
            for (from, to) in [("10.0.0.7", "127.0.0.1:9"), ("127.0.0.1", "10.0.0.7:9")] {
                UdpSocket::bind((from, 0)).unwrap().send_to(b"x", to).unwrap();
            }
            let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
            socket.bind_auto().unwrap();
            let addresses = ["10.0.0.7".parse().unwrap()].into();
            ["10.0.0.7", "10.0.0.8"].map(|address| {
                [ORIGIN, REPLY].map(|end| {
                    let attributes = sent_by(address.parse().unwrap(), end);
                    let (entries, more) =
                        list_with(&socket, AF_INET, &addresses, &attributes).unwrap();
                    (entries.len(), more)
                })
            })
        };

        let handed_out = namespace.run(in_namespace).unwrap();

        assert_eq!(
            handed_out,
            [[(1, 0), (1, 0)], [(0, 0), (0, 0)]],
            "connections of the address and of other addresses, by origin and by reply"
        );
    }
    /// Removes a namespace, also after a panic.
    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = Namespace::remove(&self.0);
        }
    }
}
