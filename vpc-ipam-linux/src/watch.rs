//! What happens in a namespace, as the kernel tells it.

mod pace;

use core::future::poll_fn;
use core::task::Poll;
use std::collections::VecDeque;
use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket as _, TokioSocket};
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::node::Event;
use crate::{Namespace, NamespaceError, netlink};

pub use pace::Pace;

/// What happens in a namespace: links, addresses, routes and rules that come, change and go, and changes of the nftables
/// that bear on address translation.
///
/// The kernel tells without being asked, so that an idle node costs nothing. What it has to tell faster than it is read,
/// it drops, and says that it did: then everything may have happened.
pub struct Watch {
    routing: TokioSocket,
    /// `None` on a kernel without nftables.
    nftables: Option<TokioSocket>,
    datagram: Vec<u8>,
    events: VecDeque<Event>,
}

/// A failure to watch a namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No socket could be opened, or none that the kernel tells.
    #[error("open a netlink socket that hears of changes")]
    Open {
        /// Why not.
        source: io::Error,
    },
    /// What the kernel tells could not be received.
    #[error("hear of changes of the network")]
    Receive {
        /// Why not.
        source: io::Error,
    },
}

/// The groups of rtnetlink that are listened to, from linux/rtnetlink.h: links; addresses, routes and rules of IPv4 and of
/// IPv6.
const RTNLGRPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// The group of nftables, from linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;

/// The kernel makes datagrams of at most 32 kB unless a single message needs more.
const DATAGRAM_LEN: usize = 64 * 1024;

impl Watch {
    /// Begins to listen inside a namespace.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with IO.
    pub fn open(namespace: &Namespace) -> Result<Self, WatchError> {
        let runtime = Handle::current();
        let (routing, nftables) = namespace.run(|| {
            let _entered = runtime.enter();
            (open(NETLINK_ROUTE, &RTNLGRPS), open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]))
        })?;
        let failed = |source| WatchError::Open { source };
        let nftables = match nftables {
            Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {
                None
            }
            other => Some(other.map_err(failed)?),
        };
        Ok(Self {
            routing: routing.map_err(failed)?,
            nftables,
            datagram: Vec::with_capacity(DATAGRAM_LEN),
            events: VecDeque::new(),
        })
    }

    /// Waits until something happens, and returns what.
    ///
    /// It may be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.receive().await.map_err(|source| WatchError::Receive { source })?;
        }
    }

    /// Returns what was told already and not handed out yet, without waiting.
    pub fn next_now(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    async fn receive(&mut self) -> io::Result<()> {
        let Self { routing, nftables, datagram, events } = self;
        poll_fn(|context| {
            let mut told = false;
            let decode_routing: Decode = netlink::routing_events;
            let decode_nftables: Decode = netlink::nft_events;
            let nftables = nftables.as_ref().map(|socket| (socket, decode_nftables));
            for (socket, decode) in core::iter::once((&*routing, decode_routing)).chain(nftables) {
                while events.len() < EVENTS_MAX {
                    datagram.clear();
                    match socket.poll_recv_from(context, datagram) {
                        Poll::Pending => break,
                        // Only the kernel has port 0; any process may send to the port of another.
                        Poll::Ready(Ok(from)) if from.port_number() == 0 => {
                            events.extend(decode(datagram));
                        }
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) if is_overrun(&error) => {
                            events.push_back(Event::Lost);
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    }
                    told = true;
                }
            }
            if told { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

type Decode = fn(&[u8]) -> Vec<Event>;

/// How many events may wait to be handed out before no more are received.
const EVENTS_MAX: usize = 4096;

fn open(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for &group in groups {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}
