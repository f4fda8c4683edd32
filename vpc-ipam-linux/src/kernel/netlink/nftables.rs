//! Which tables nftables has, asked of the kernel itself: nft may not be installed, and other programs fill tables without it.

use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::attribute::{self, AF_INET};
use super::exchange::{Framed, frames};

// From linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = NFNL_SUBSYS_NFTABLES | 1;
const NFTA_TABLE_NAME: u16 = 1;

const HEADER_LEN: usize = 16;
const NFGENMSG_LEN: usize = 4;
/// The kernel makes datagrams of at most 32 kB unless a single message needs more.
const DATAGRAM_LEN: usize = 64 * 1024;
/// The kernel answers within the system call that asks.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(10);

/// Returns the names of the tables of IPv4 in the calling thread's namespace; a kernel without nftables has none.
pub(crate) fn nft_tables() -> io::Result<Vec<String>> {
    match list() {
        // Of these the kernel has no netfilter, or not this part of it.
        Err(error) if is(&error, &[Errno::PROTONOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL]) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn list() -> io::Result<Vec<String>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(PATIENCE))?;
    let mut request = [0; HEADER_LEN + NFGENMSG_LEN];
    let mut buffer = NetlinkBuffer::new(&mut request);
    buffer.set_length((HEADER_LEN + NFGENMSG_LEN) as u32);
    buffer.set_message_type(NFT_MSG_GETTABLE);
    buffer.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    request[HEADER_LEN] = AF_INET;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut names = Vec::new();
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
        let (_, from) = socket.recv_from(&mut datagram, 0)?;
        if from.port_number() != 0 {
            continue;
        }
        for frame in frames(&datagram) {
            match frame {
                Framed::Done => return Ok(names),
                Framed::Refused(error) => return Err(error),
                Framed::Message(payload) => names.extend(name(payload)),
            }
        }
    }
}

/// Reads the message about a table.
pub(super) fn name(payload: &[u8]) -> Option<String> {
    let mut attributes = attribute::attributes(payload.get(NFGENMSG_LEN..)?);
    let (_, name) = attributes.find(|(kind, _)| *kind == NFTA_TABLE_NAME)?;
    Some(attribute::text(name))
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
