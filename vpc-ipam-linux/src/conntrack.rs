//! Connections that the kernel remembers.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::netlink::{Framed, frames};
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
        /// Why not.
        source: io::Error,
    },
}

/// Makes the kernel forget the connections of addresses, and returns how many that were.
///
/// What arrives late for the pod that had an address would otherwise be translated for the one that has it next, and a
/// connection of the next one with the same ports would be taken for the old. A kernel that tracks no connections has
/// none to forget.
///
/// The kernel walks all of its table for it, which takes milliseconds: flush many addresses at once.
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
    let families: BTreeSet<u8> = addresses
        .iter()
        .map(|address| if address.is_ipv4() { AF_INET } else { AF_INET6 })
        .collect();
    let mut entries = Vec::new();
    for family in families {
        entries.extend(list(&socket, family, addresses)?);
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

fn list(socket: &Socket, family: u8, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Entry>> {
    send(socket, IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, &[])?;
    let mut entries = Vec::new();
    loop {
        let datagram = receive(socket)?;
        for frame in frames(&datagram) {
            match frame {
                Framed::Done => return Ok(entries),
                Framed::Refused(errno) => return Err(errno),
                Framed::Message(payload) => entries.extend(entry(payload, addresses)),
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
