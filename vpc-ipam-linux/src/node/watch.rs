//! What happens in a namespace, as the kernel reports it.

mod pace;

use core::future::{Future as _, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use rtnetlink::proto::Connection;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::runtime::Handle;

use crate::kernel::netlink;
use crate::node::KernelEvent;
use crate::{Namespace, NamespaceError};

pub use pace::Pace;

/// What happens in a namespace: links, addresses, routes and rules that come, change and go, variables of forwarding and of the
/// check of sources that are set, and changes of the nftables that bear on address translation.
///
/// The kernel reports without being asked, so that an idle node costs nothing. What it reports faster than this is read, it
/// drops, and says that it did. Then everything may have happened, and the same holds when a socket fails: both are
/// [`KernelEvent::Lost`], and new sockets are open by the time it is handed out.
pub struct Watch {
    namespace: Namespace,
    /// `None` after they failed and could not be opened anew.
    sources: Option<Sources<TokioSocket>>,
    events: VecDeque<KernelEvent>,
}

/// A failure to watch a namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No socket could be opened, or none by which the kernel reports.
    #[error("open a netlink socket for changes")]
    Open {
        /// The error of the operating system.
        source: io::Error,
    },
}

impl Watch {
    /// Begins to listen inside a namespace.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with IO.
    pub fn open(namespace: &Namespace) -> Result<Self, WatchError> {
        let sources = Some(Sources::open(namespace)?);
        Ok(Self { namespace: namespace.clone(), sources, events: VecDeque::new() })
    }

    /// Waits until something happens, and returns what. After a failure it may be called again, and opens new sockets.
    ///
    /// It may be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<KernelEvent, WatchError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let Some(sources) = &mut self.sources else {
                self.sources = Some(Sources::open(&self.namespace)?);
                return Ok(KernelEvent::Lost);
            };
            let events = &mut self.events;
            let received = poll_fn(|context| sources.poll(context, events)).await;
            if received.is_err() || self.events.contains(&KernelEvent::Lost) {
                // What waits in the old sockets is older than the comparison that follows.
                self.events.clear();
                self.sources = None;
            }
        }
    }

    /// Returns an event that was received already and not handed out yet, without waiting.
    pub fn next_now(&mut self) -> Option<KernelEvent> {
        self.events.pop_front()
    }
}

/// The groups of rtnetlink that are listened to for objects.
const OBJECTS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// Those of kernel variables, which netlink-packet-route has no type for.
const SETTINGS: [MulticastGroup; 2] = [MulticastGroup::Ipv4Netconf, MulticastGroup::Ipv6Netconf];

/// The group of nftables, from linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;

/// How many events may wait to be handed out before no more are received: the kernel's own queue is the next that fills.
const EVENTS_MAX: usize = 4096;

/// How much the kernel queues for each socket, in bytes: what 700 pods cause whose links go down at once.
const KERNEL_QUEUE: usize = 2 << 20;

/// The kernel makes datagrams of at most 32 kB unless a single message needs more.
const DATAGRAM_LEN: usize = 64 * 1024;

/// The sockets by which the kernel reports.
struct Sources<S> {
    objects: Objects<S>,
    settings: TokioSocket,
    /// `None` on a kernel without nftables.
    nftables: Option<TokioSocket>,
    datagram: Vec<u8>,
}

/// The kernel reports no more by a socket.
#[derive(Debug)]
struct Ended;

impl Sources<TokioSocket> {
    fn open(namespace: &Namespace) -> Result<Self, WatchError> {
        let runtime = Handle::current();
        let (objects, settings, nftables) = namespace.run(|| {
            let _entered = runtime.enter();
            let settings = SETTINGS.map(|group| group as u32);
            (
                Objects::open(),
                open(NETLINK_ROUTE, &settings),
                open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]),
            )
        })?;
        let failed = |source| WatchError::Open { source };
        let nftables = match nftables {
            Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {
                None
            }
            other => Some(other.map_err(failed)?),
        };
        Ok(Self {
            objects: objects.map_err(failed)?,
            settings: settings.map_err(failed)?,
            nftables,
            datagram: Vec::with_capacity(DATAGRAM_LEN),
        })
    }
}

impl<S: AsyncSocket> Sources<S> {
    /// Is ready once a message was received that is an event.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        events: &mut VecDeque<KernelEvent>,
    ) -> Poll<Result<(), Ended>> {
        let before = events.len();
        self.objects.poll(context, events)?;
        let decode: Decode = netlink::setting_events;
        let settings = (&self.settings, decode);
        let decode: Decode = netlink::nft_events;
        let nftables = self.nftables.as_ref().map(|socket| (socket, decode));
        for (socket, decode) in core::iter::once(settings).chain(nftables) {
            poll_raw(socket, decode, &mut self.datagram, context, events)?;
        }
        if events.len() > before { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

type Decode = fn(&[u8]) -> Vec<KernelEvent>;

/// Receives until there is nothing more, or enough waits to be handed out.
fn poll_raw(
    socket: &TokioSocket,
    decode: Decode,
    datagram: &mut Vec<u8>,
    context: &mut Context<'_>,
    events: &mut VecDeque<KernelEvent>,
) -> Result<(), Ended> {
    while events.len() < EVENTS_MAX {
        datagram.clear();
        match socket.poll_recv_from(context, datagram) {
            Poll::Pending => break,
            Poll::Ready(Ok(from)) if is_kernel(&from) => events.extend(decode(datagram)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error))
                if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) =>
            {
                events.push_back(KernelEvent::Lost);
            }
            Poll::Ready(Err(_)) => return Err(Ended),
        }
    }
    Ok(())
}

/// The connection by which rtnetlink hears of links, addresses, routes and rules.
///
/// It is polled here and not on a task of its own: its own queue has no bound, so it is asked for more only while ours has room.
/// tokio lets one poll receive 128 datagrams at most.
struct Objects<S> {
    connection: Connection<RouteNetlinkMessage, S>,
    /// Returns what the connection has received.
    take: Box<dyn FnMut() -> Option<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>,
}

impl<S: AsyncSocket> Objects<S> {
    fn open() -> io::Result<Self> {
        let (mut connection, _, mut messages) =
            rtnetlink::new_multicast_connection_with_socket::<S>(&OBJECTS)?;
        enlarge_queue(connection.socket_mut().socket_ref());
        Ok(Self { connection, take: Box::new(move || messages.try_recv().ok()) })
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        events: &mut VecDeque<KernelEvent>,
    ) -> Result<(), Ended> {
        while events.len() < EVENTS_MAX {
            let ended = Pin::new(&mut self.connection).poll(context).is_ready();
            let mut any = false;
            while let Some((message, from)) = (self.take)() {
                any = true;
                events.extend(netlink::routing_event(&message).filter(|_| is_kernel(&from)));
            }
            if ended {
                return Err(Ended);
            }
            if !any {
                break;
            }
        }
        Ok(())
    }
}

/// Any process may send to the port of another; only the kernel's is 0.
fn is_kernel(from: &SocketAddr) -> bool {
    from.port_number() == 0
}

fn open(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    enlarge_queue(socket.socket_ref());
    socket.socket_mut().bind_auto()?;
    for &group in groups {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

fn enlarge_queue(socket: &Socket) {
    // Needs CAP_NET_ADMIN. With the queue that it has, more is lost and compared for.
    let _ = set_socket_recv_buffer_size_force(socket.as_fd(), KERNEL_QUEUE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, KernelChange, KernelNetlink, Netlink as _, Object, Rule, Table};

    #[tokio::test]
    async fn socket_that_fails_is_opened_anew_and_everything_is_to_be_compared() {
        let name = format!("vit-{}-watch", std::process::id());
        let namespace = Namespace::create(&name).unwrap_or_else(|error| {
            panic!("this test makes a network namespace, run it as root: {error}")
        });
        let mut netlink = KernelNetlink::open(&namespace).unwrap();
        let mut watch = Watch::open(&namespace).unwrap();
        let mut received = Vec::new();
        for number in 1..=3_u8 {
            // A connection without a receiver ends, as one does that cannot receive.
            watch.sources.as_mut().unwrap().objects.take = Box::new(|| None);
            received.push(watch.next().await.unwrap());
            let rule = Rule::new(Family::Ipv4, 900, Table(7))
                .from(core::net::IpAddr::from([10, 2, 0, number]));
            netlink.change(&[KernelChange::Set(Object::Rule(rule.clone()))]).unwrap();
            match watch.next().await.unwrap() {
                KernelEvent::Rule { rule: heard, gone: false, .. } => assert_eq!(heard, rule),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(received, [KernelEvent::Lost, KernelEvent::Lost, KernelEvent::Lost]);

        // What cannot be opened now is asked for again.
        watch.sources = None;
        assert_eq!(watch.next().await.unwrap(), KernelEvent::Lost);
        Namespace::remove(&name).unwrap();
    }
}
